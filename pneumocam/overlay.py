"""The saliency map over the radiograph, with a strip for caption, colour bar and disclaimer."""

from functools import lru_cache

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from pneumocam import DISCLAIMER
from pneumocam.gradcam import Saliency
from pneumocam.guard import outline
from pneumocam.image import Radiograph

COLOUR_MAP = "inferno"
OUTLINE = "#7fe0d3"  # of the lung fields, as on the page


def draw_overlay(
    radiograph: Radiograph, saliency: Saliency, caption: str, *, opacity: float = 0.6, colour_map: str = COLOUR_MAP
) -> Image.Image:
    """The radiograph with the map over it, and below it a strip: caption, colour bar, what the map says, disclaimer.

    The upper `(H, W)` pixels are those of the upload. The opacity of the colour follows the map, so regions without
    weight keep their grey levels, but for the outline of the lung fields.

    Args:
        radiograph: the upload, `(H, W)`.
        saliency: its map.
        caption: class and probability.
        opacity: of the map's peak, in [0, 1].
        colour_map: the name of one of Matplotlib's.

    Returns:
        An RGB image of width W, taller than H by the strip.
    """
    strip = _strip(radiograph.width, caption, saliency, colour_map)
    overlay = Image.new("RGB", (radiograph.width, radiograph.height + strip.height))
    overlay.paste(radiograph.to_pil())
    overlay.paste(strip, (0, radiograph.height))
    _lay_over(overlay, saliency, opacity, colour_map)
    return overlay


def blend(image: Image.Image, saliency: Saliency, *, opacity: float = 0.6, colour_map: str = COLOUR_MAP) -> Image.Image:
    """An image of mode "L" -> mode "RGB" with the map over it, as in `draw_overlay`."""
    blended = image.convert("RGB")
    _lay_over(blended, saliency, opacity, colour_map)
    return blended


def _lay_over(canvas: Image.Image, saliency: Saliency, opacity: float, colour_map: str) -> None:
    """Draw the map and the outline of the lung fields on the upper left of an RGB image."""
    heat = saliency.grey()  # (H, W)
    opaque = heat.point([round(opacity * level) for level in range(256)])
    palette = colours_of(colour_map, np.arange(256)) * 255  # (256, 3)
    heat.putpalette(palette.round().astype(np.uint8).tobytes())
    canvas.paste(heat.convert("RGB"), mask=opaque)
    if saliency.lungs is not None:
        width, height = saliency.size
        draw = ImageDraw.Draw(canvas)
        for polygon in outline(saliency.lungs, width, height):
            draw.line(polygon, OUTLINE, max(1, round(width / 400)), joint="curve")


def _strip(width: int, caption: str, saliency: Saliency, colour_map: str) -> Image.Image:
    size = max(9, round(width / 32))
    margin, grey = size // 2, "#c8c8c8"
    said = saliency.sentences
    strip = Image.new("RGB", (width, round((4.9 + 1.5 * len(said)) * size)), "black")

    def write(text: str, left: int, line: float, scale: float, colour: str) -> None:
        points = size * scale
        # Small letters do not become narrower in proportion, so try until the whole caption fits.
        while (letters := _line(text, points)).width > width - left - margin and points > 1:
            points *= 0.95
        strip.paste(colour, (left, margin + round(line * size) - letters.height // 2), letters)

    write(caption, margin, 0.6, 1.2, "white")
    doubtful = saliency.quality not in (None, "steady")
    for i, text in enumerate(said):
        write(text, margin, 3.6 + 1.5 * i, 0.8, "#ffd27f" if doubtful and i == 0 else grey)
    write(DISCLAIMER, margin, 3.6 + 1.5 * len(said), 0.8, grey)
    if saliency.is_empty:
        return strip
    bar_width, bar_height = width // 4, round(0.7 * size)
    ramp = colours_of(colour_map, np.linspace(0, 1, bar_width))[None] * 255  # (1, bar_width, 3)
    bar = Image.fromarray(np.repeat(ramp, bar_height, 0).round().astype(np.uint8))
    strip.paste(bar, (margin, margin + round(2.1 * size) - bar_height // 2))
    write("from no weight to the most for any class", 2 * margin + bar_width, 2.1, 0.8, grey)
    return strip


def _line(text: str, points: float) -> Image.Image:
    """A line of text as a mask of mode "L"; kept if it is small, since most lines are the same from image to image."""
    return (_kept_letters if points <= 80 else _letters)(text, points)


def _letters(text: str, points: float) -> Image.Image:
    font = ImageFont.load_default(points)
    mask = Image.new("L", (round(font.getlength(text)), round(1.5 * points)))
    ImageDraw.Draw(mask).text((0, mask.height / 2), text, 255, font, anchor="lm")
    return mask


_kept_letters = lru_cache(128)(_letters)


def colours_of(colour_map: str, values: np.ndarray) -> np.ndarray:
    """`(N,)` integers in 0..255 or floats in [0, 1] -> `(N, 3)` RGB in [0, 1] of a colour map of Matplotlib."""
    import matplotlib  # slow to import, and many predictions need no picture

    colours: np.ndarray = matplotlib.colormaps[colour_map](values)[:, :3]
    return colours
