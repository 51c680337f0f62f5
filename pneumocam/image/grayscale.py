"""Samples of any depth, colour and transparency -> 8-bit grey, and the steps to it in words."""

from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from pneumocam.image.levels import Levels, bands, levels_of, tissue_range

_FULL_SCALES = (255, 1023, 4095, 16383, 65535)
_BORDER = 0.1  # of the edge
_STRONG = 24  # of the 128 levels that Cb and Cr can be away from grey

Array = NDArray[Any]


def flatten(picture: Image.Image) -> tuple[NDArray[np.uint8], list[str], float]:
    """(H, W) uint8, the steps to it, and the share of strong colours, from any mode of 8 bits or fewer."""
    width, height = picture.size
    pixels = np.empty((height, width), np.uint8)
    coloured, transparent = picture.mode not in ("1", "L", "LA", "La"), False
    for rows in bands(height, width):
        band = picture.crop((0, rows.start, width, rows.stop))
        if band.has_transparency_data:
            band = band.convert("RGBA")
            if band.getchannel("A").getextrema() != (255, 255):
                band = Image.alpha_composite(Image.new("RGBA", band.size, "black"), band)
                transparent = True
        pixels[rows] = np.asarray((band if band.mode in ("1", "L") else band.convert("RGB")).convert("L"))
    steps = ["transparency laid on black"] * transparent + ["colour converted to grey"] * coloured
    return pixels, steps, strong_colours(picture) if coloured else 0.0


def strong_colours(picture: Image.Image) -> float:
    """The share of a picture in [0, 1] whose colour is no tint: it does not follow from the brightness, as in sepia."""
    small = picture.resize((64, 64), Image.Resampling.BOX, reducing_gap=2.0).convert("RGB").convert("YCbCr")
    luminance, *chroma = np.asarray(small, np.float64).reshape(-1, 3).T
    known = np.stack([np.ones_like(luminance), luminance], 1)
    tints = [known @ np.linalg.lstsq(known, channel, rcond=None)[0] for channel in chroma]
    return float(np.mean(np.hypot(chroma[0] - tints[0], chroma[1] - tints[1]) > _STRONG))


def flatten_deep(channels: Array) -> tuple[NDArray[np.uint8], list[str]]:
    """(H, W, C) uint16 as grey and alpha, RGB or RGBA -> (H, W) uint8 and the steps to it."""
    height, width, count = channels.shape
    coloured, transparent = count > 2, count in (2, 4) and channels[..., -1].min() < 65535
    grey = np.empty((height, width), np.uint16)
    for rows in bands(height, width):
        band = channels[rows, :, 0]
        if coloured:  # ITU-R BT.601, as Pillow has it for 8 bits
            band = np.rint(channels[rows, :, :3] @ np.array((0.299, 0.587, 0.114)))
        grey[rows] = np.rint(band * (channels[rows, :, -1] / 65535)) if transparent else band
    pixels, scaled = to_uint8(grey)
    steps = ["colour converted to grey"] * coloured + ["transparency laid on black"] * bool(transparent)
    return pixels, steps + scaled


def to_uint8(values: Array, *, negative: bool = False) -> tuple[NDArray[np.uint8], list[str]]:
    """An image (H, W) of numbers -> uint8 of the same shape with its contrast kept, and the steps to it.

    `grey_table` says how. Values that are not finite, and a bright border far outside of the tissue, become background.

    Args:
        values: any integers or floats.
        negative: whether low values are bright. The result is inverted then.

    Raises:
        DamagedImage: if most of the values are not finite.
    """
    if values.dtype == np.uint8:
        return 255 - values if negative else values.copy(), []
    levels = levels_of(values)
    table, steps = grey_table(levels)
    table = 255 - table if negative else table
    pixels = levels.mapped(table)
    missing = np.isnan(levels.values)
    if missing.any() and (lost := levels.mapped(missing)).any():
        pixels[lost] = 0
        steps.append(f"values that are not finite ({share(lost)} of the pixels) painted as background")
    return pixels, steps + paint_border(pixels, levels, table)


def grey_table(levels: Levels, values: NDArray[np.float64] | None = None) -> tuple[NDArray[np.uint8], list[str]]:
    """The grey level (N,) of each of an image's values, and the steps to it.

    An image of 8 bits comes out exactly as it is, whether it is stored as v, as v in 16 bits, or as 257 v. Others are
    divided by the full scale of the smallest usual depth that holds the tissue's maximum. If the tissue uses less than
    half of 0..255 then, or fits no depth, its minimum..maximum is stretched instead. What lies outside of the tissue
    does not matter for the scale.

    Args:
        levels: of the image.
        values: (N,) in place of the levels' own values, in any order.
    """
    occurs = levels.counts > 0
    if not occurs.any() or (values is None and levels.is_8_bit):
        return np.arange(levels.values.size).clip(0, 255).astype(np.uint8), []
    whole = levels.whole and values is None
    values = levels.values if values is None else values
    shown, where = np.unique(values[occurs], return_inverse=True)
    low, high = tissue_range(shown, *(np.bincount(where, counts[occurs]) for counts in (levels.counts, levels.central)))
    start, end, step = _scale(shown[(shown >= low) & (shown <= high)], whole=whole)
    steps = [step]
    if (start, end) != _scale(shown, whole=whole)[:2]:
        outside = occurs & ((values < low) | (values > high))
        part = percent(levels.counts[outside].sum() / levels.counts.sum())
        steps.insert(0, f"values outside {low:g}..{high:g} ({part} of the pixels) left out of the scale")
    scaled = (np.nan_to_num(values) - start) * (255 / ((end - start) or 1))
    return np.clip(np.rint(scaled), 0, 255).astype(np.uint8), steps


def _scale(values: NDArray[np.float64], *, whole: bool) -> tuple[float, float, str]:
    """The values that become 0 and 255, and the step in words."""
    low, high = float(values[0]), float(values[-1])
    if whole and low >= 0 and high <= 65535 and not np.any(values % 257):
        return 0, 65535, "16 bit scaled to 8 bit"
    if whole and low >= 0 and high <= 255:
        return 0, 255, "8 bit values taken out of 16 bit"
    scales = _FULL_SCALES if whole else (1, *_FULL_SCALES)
    full = next((full for full in scales if low >= 0 and high <= full), 0)
    if high - low < full / 2 or not full:
        return low, high, f"stretched from {low:g}..{high:g} to 8 bit"
    return 0, full, "0..1 scaled to 8 bit" if full == 1 else f"{full.bit_length()} bit scaled to 8 bit"


def paint_border(pixels: NDArray[np.uint8], levels: Levels, table: NDArray[np.uint8]) -> list[str]:
    """Make a white border that is far outside of the tissue background, in place, and say so.

    A collimator, or padding that is not declared, is such a border: it takes at least a tenth of the image's edge.

    Args:
        pixels: (H, W), what is painted.
        levels: of the image.
        table: (N,) the grey level that each of them has got.
    """
    if levels.is_8_bit:
        return []
    low, high = levels.tissue()
    outside = ((levels.values < low) | (levels.values > high)) & (table == 255)
    index = levels.index
    if np.mean(outside[np.concatenate([index[0], index[-1], index[:, 0], index[:, -1]])]) < _BORDER:
        return []
    border = levels.mapped(outside)
    pixels[border] = 0
    return [f"white border ({share(border)} of the pixels) painted as background"]


def share(mask: NDArray[np.bool_]) -> str:
    return percent(float(np.mean(mask)))


def percent(part: float) -> str:
    return f"{part:.1%}" if part >= 0.001 else "less than 0.1%"
