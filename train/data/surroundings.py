"""What surrounds the lungs in an image and can tell the console: burned-in text, and all that is outside of the lungs.

`burned_in` finds text, `erased` and `with_text` take it away and put it in, `replaced` changes the outside. Images are
`(H, W)` uint8 arrays; lung masks are bool arrays of any size that cover the same picture.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from scipy import ndimage

Pixels = NDArray[np.uint8]
Mask = NDArray[np.bool_]

SIDE = 224  # px that an image is squashed to, for the search for text
STROKE = 13  # px, wider than a letter's stroke
TOP, BOTTOM, EDGE = 34, 25, 45  # px of the corners that text stands in
BRIGHT, FAINT = 120, 60  # grey levels above the surroundings: surely text, and its rims
TEXT_PIXELS = 32  # that many bright ones make an image one with text

CORNERS = np.zeros((SIDE, SIDE), bool)
CORNERS[:TOP, :EDGE] = CORNERS[:TOP, -EDGE:] = CORNERS[-BOTTOM:, :EDGE] = CORNERS[-BOTTOM:, -EDGE:] = True


@dataclass(frozen=True, eq=False)
class Text:
    """Burned-in text of one image: (SIDE, SIDE) arrays of where it may be and how far it stands out, in grey levels."""

    where: Mask
    height: Pixels
    found: bool

    @property
    def layer(self) -> Pixels:
        """The letters alone, on black."""
        return np.where(ndimage.binary_dilation(self.where), self.height, 0).astype(np.uint8)


def burned_in(pixels: Pixels, lungs: Mask | None = None) -> Text:
    """Find text in an image's corners: bright strokes by a white top-hat, outside of the lungs if these are known."""
    small = resized(pixels, SIDE, SIDE)
    height = ndimage.white_tophat(small, size=(STROKE, STROKE))
    allowed = CORNERS if lungs is None else CORNERS & ~_mask(lungs, SIDE, SIDE)
    where = allowed & (height > FAINT)
    return Text(where, height, int((allowed & (height > BRIGHT)).sum()) >= TEXT_PIXELS)


def erased(pixels: Pixels, text: Text) -> Pixels:
    """The image without its text, which is replaced by what lies around the strokes."""
    if not text.where.any():
        return pixels
    height, width = pixels.shape
    around = ndimage.uniform_filter(ndimage.binary_dilation(text.where, iterations=3).astype(np.float32), 3)
    weight = resized((255 * around).astype(np.uint8), width, height) / 255
    small = resized(pixels, SIDE, SIDE)
    opened = ndimage.uniform_filter(small - np.minimum(text.height, small), 5)
    background = np.minimum(pixels, resized(opened, width, height))
    return _pixels(pixels * (1 - weight) + background * weight)


def with_text(pixels: Pixels, layer: Pixels, strength: float = 1.0) -> Pixels:
    """The image with a layer of letters (see `Text.layer`) burned in."""
    height, width = pixels.shape
    return _pixels(pixels + strength * resized(layer, width, height).astype(np.float32))


def replaced(pixels: Pixels, lungs: Mask, outside: NDArray[np.float32], *, grow: int = 0, soft: float = 1.0) -> Pixels:
    """The lungs of an image on another outside.

    Args:
        pixels: (H, W).
        lungs: of any size.
        outside: (H, W), 0 to 255.
        grow: pixels of the mask by which it is widened.
        soft: width of the seam, in pixels of the mask.
    """
    height, width = pixels.shape
    mask = ndimage.binary_dilation(lungs, iterations=grow) if grow else lungs
    blurred = ndimage.gaussian_filter(mask.astype(np.float32), soft)
    weight = (resized((255 * blurred).astype(np.uint8), width, height) / 255 * 1.5).clip(0, 1)
    return _pixels(pixels * weight + outside * (1 - weight))


def outside_of(pixels: Pixels, lungs: Mask, width: int, height: int) -> NDArray[np.float32]:
    """(height, width): what surrounds the lungs in an image, with its own lungs filled from their surroundings."""
    coarse, inside = resized(pixels, 32, 32).astype(np.float32), _mask(lungs, 32, 32)
    outer = 1.0 - inside
    filled = ndimage.gaussian_filter(coarse * outer, 3) / ndimage.gaussian_filter(outer, 3).clip(1e-3)
    fill = resized(_pixels(filled), width, height)
    weight = resized((255 * lungs).astype(np.uint8), width, height) / 255
    return (resized(pixels, width, height) * (1 - weight) + fill * weight).astype(np.float32)


def stretched(pixels: Pixels, lowest: float = 2, highest: float = 98) -> Pixels:
    """Grey levels such that one percentile is black and another white, and what lies beyond is flat."""
    low, high = np.percentile(pixels[::2, ::2], [lowest, highest])
    return pixels if high - low < 8 else _pixels((pixels.astype(np.float32) - low) * (255 / (high - low)))


def resized(pixels: NDArray[np.uint8], width: int, height: int) -> Pixels:
    """By bilinear interpolation."""
    if pixels.shape == (height, width):
        return pixels
    return np.array(Image.fromarray(pixels).resize((width, height), Image.Resampling.BILINEAR))


def _mask(lungs: Mask, width: int, height: int) -> Mask:
    return np.asarray(resized((255 * lungs).astype(np.uint8), width, height) > 127)


def _pixels(values: NDArray[np.floating]) -> Pixels:
    return values.clip(0, 255).astype(np.uint8)
