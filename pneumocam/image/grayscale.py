"""Samples of any depth, colour and transparency -> 8-bit grey, and the steps to it in words."""

from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from pneumocam.image.errors import DamagedImage

_FULL_SCALES = (255, 1023, 4095, 16383, 65535)

Array = NDArray[Any]


def flatten(picture: Image.Image) -> tuple[NDArray[np.uint8], list[str]]:
    """(H, W) uint8 and the steps to it, from any mode of 8 bits or fewer."""
    width, height = picture.size
    pixels = np.empty((height, width), np.uint8)
    coloured, transparent = picture.mode not in ("1", "L", "LA", "La"), False
    for rows in _bands(height, width):
        band = picture.crop((0, rows.start, width, rows.stop))
        if band.has_transparency_data:
            band = band.convert("RGBA")
            if band.getchannel("A").getextrema() != (255, 255):
                band = Image.alpha_composite(Image.new("RGBA", band.size, "black"), band)
                transparent = True
        pixels[rows] = np.asarray((band if band.mode in ("1", "L") else band.convert("RGB")).convert("L"))
    return pixels, ["transparency laid on black"] * transparent + ["colour converted to grey"] * coloured


def flatten_deep(channels: Array) -> tuple[NDArray[np.uint8], list[str]]:
    """(H, W, C) uint16 as grey and alpha, RGB or RGBA -> (H, W) uint8 and the steps to it."""
    height, width, count = channels.shape
    coloured, transparent = count > 2, count in (2, 4) and channels[..., -1].min() < 65535
    grey = np.empty((height, width), np.uint16)
    for rows in _bands(height, width):
        band = channels[rows, :, 0]
        if coloured:  # ITU-R BT.601, as Pillow has it for 8 bits
            band = np.rint(channels[rows, :, :3] @ np.array((0.299, 0.587, 0.114)))
        grey[rows] = np.rint(band * (channels[rows, :, -1] / 65535)) if transparent else band
    pixels, scaled = to_uint8(grey)
    steps = ["colour converted to grey"] * coloured + ["transparency laid on black"] * bool(transparent)
    return pixels, steps + scaled


def _bands(height: int, width: int) -> Iterator[slice]:
    """Rows of about a million pixels at a time: what is made in between takes several times a picture's memory."""
    rows = max(1, (1 << 20) // width)
    return (slice(top, min(top + rows, height)) for top in range(0, height, rows))


def to_uint8(values: Array) -> tuple[NDArray[np.uint8], list[str]]:
    """Numbers -> uint8 of the same shape with their contrast kept, and the steps to it.

    A film of 8 bits comes out exactly as it is, whether it is stored as v, as v in 16 bits, or as 257 v. Others are
    divided by the full scale of the smallest usual depth that holds the maximum; if that uses less than half of
    0..255, or fits no depth, minimum..maximum is stretched instead.
    """
    if values.dtype == np.uint8:
        return values.copy(), []
    return by_level(values, _scaled)


def by_level(
    values: Array, shown: Callable[[Array], tuple[NDArray[np.uint8], list[str]]]
) -> tuple[NDArray[np.uint8], list[str]]:
    """`shown` of the values, worked out once for every level that occurs where these are integers of up to 16 bits.

    Args:
        values: numbers of any shape.
        shown: what makes uint8 of numbers, each by itself or by the set of all, and says the steps to it.
    """
    if values.dtype.kind not in "iu" or values.dtype.itemsize > 2:
        return shown(values)
    native = values.astype(values.dtype.newbyteorder("="), copy=False)
    stored = native.view(f"u{native.itemsize}").reshape(-1)
    occurs = np.zeros(1 << 8 * native.itemsize, bool)
    for part in _bands(stored.size, 1):
        occurs[stored[part]] = True
    grey, steps = shown(np.flatnonzero(occurs).astype(stored.dtype).view(native.dtype))
    table = np.zeros(occurs.size, np.uint8)
    table[occurs] = grey
    pixels = np.empty(stored.size, np.uint8)
    for part in _bands(stored.size, 1):
        pixels[part] = table[stored[part]]
    return pixels.reshape(values.shape), steps


def _scaled(values: Array) -> tuple[NDArray[np.uint8], list[str]]:
    low, high = float(values.min()), float(values.max())
    if not np.isfinite(high - low):
        raise DamagedImage("The picture holds values that are not finite numbers. Replace them, or save it as PNG.")
    whole = values.dtype.kind in "iu"
    if whole and low >= 0 and high <= 65535 and not np.any(values % 257):
        return (values // 257).astype(np.uint8), ["16 bit scaled to 8 bit"]
    if whole and low >= 0 and high <= 255:
        return values.astype(np.uint8), ["8 bit values taken out of 16 bit"]
    scales = _FULL_SCALES if whole else (1, *_FULL_SCALES)
    full = next((full for full in scales if low >= 0 and high <= full), 0)
    if high - low < full / 2 or not full:
        return _scale(values, low, high), [f"stretched from {low:g}..{high:g} to 8 bit"]
    return _scale(values, 0, full), [
        "0..1 scaled to 8 bit" if full == 1 else f"{full.bit_length()} bit scaled to 8 bit"
    ]


def _scale(values: Array, low: float, high: float) -> NDArray[np.uint8]:
    scaled = np.subtract(values, low, dtype=np.float64)
    scaled *= 255 / ((high - low) or 1)
    return np.rint(scaled, out=scaled).astype(np.uint8)
