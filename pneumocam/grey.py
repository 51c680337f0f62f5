"""Samples of any depth, colour and transparency -> 8-bit grey, and the steps to it in words."""

from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from pneumocam.checks import DamagedImage

_FULL_SCALES = (255, 1023, 4095, 16383, 65535)

Array = NDArray[Any]


def flatten(picture: Image.Image) -> tuple[NDArray[np.uint8], list[str]]:
    """(H, W) uint8 and the steps to it, from any mode of 8 bits or fewer."""
    steps = []
    coloured = picture.mode not in ("1", "L", "LA", "La")
    if picture.has_transparency_data:
        picture = picture.convert("RGBA")
        if picture.getchannel("A").getextrema() != (255, 255):
            picture = Image.alpha_composite(Image.new("RGBA", picture.size, "black"), picture)
            steps.append("transparency laid on black")
    if coloured:
        steps.append("colour converted to grey")
    grey = picture if picture.mode in ("1", "L") else picture.convert("RGB")
    return np.array(grey.convert("L")), steps


def flatten_deep(channels: Array) -> tuple[NDArray[np.uint8], list[str]]:
    """(H, W, C) uint16 as grey and alpha, RGB or RGBA -> (H, W) uint8 and the steps to it."""
    steps = []
    count = channels.shape[2]
    grey, alpha = channels[..., 0], channels[..., -1]
    if count > 2:
        # ITU-R BT.601, as Pillow has it for 8 bits
        grey = np.rint(channels[..., :3] @ np.array((0.299, 0.587, 0.114)))
        steps.append("colour converted to grey")
    if count in (2, 4) and alpha.min() < 65535:
        grey = np.rint(grey * (alpha / 65535))
        steps.append("transparency laid on black")
    pixels, scaled = to_uint8(grey.astype(np.uint16))
    return pixels, steps + scaled


def to_uint8(values: Array) -> tuple[NDArray[np.uint8], list[str]]:
    """(H, W) numbers -> (H, W) uint8 with their contrast kept, and the steps to it.

    A film of 8 bits comes out exactly as it is, whether it is stored as v, as v in 16 bits, or as 257 v. Others are
    divided by the full scale of the smallest usual depth that holds the maximum; if that uses less than half of
    0..255, or fits no depth, minimum..maximum is stretched instead.
    """
    if values.dtype == np.uint8:
        return values.copy(), []
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
