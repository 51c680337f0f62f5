"""The values that occur in a grayscale image, and which of them are tissue."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pneumocam.image.errors import DamagedImage

_BINS = 64
_GAP = 8  # bins: an eighth of the range
_SPARSE = 0.0005  # of the pixels: a bin with fewer counts as empty
_FLAT = 0.001  # of the pixels: an area of one value counts as no more, however large it is
_SINGLE = 0.0001  # of the pixels
_FAR = 0.02  # of the range
_FEWEST = 8  # values that tissue has at least
_TAIL = 0.02  # of the middle's pixels
_TOO_WIDE, _USUAL = 3.0, 1.5  # widths of the middle's range: in 2,046 radiographs a few reach the first on one side
_SAMPLE = 1 << 18
_LARGEST = 1e150

Array = NDArray[Any]


@dataclass(frozen=True)
class Levels:
    """An image as indices into the increasing values that its pixels can have.

    Attributes:
        index: (H, W) uint8 or uint16.
        values: (N,) float64, the value of each index.
        counts: (N,) int64, how many pixels have it; 0 where they are no part of the picture.
        central: (N,) int64, how many pixels of the image's middle have it, the half of its height and width.
        whole: whether the image came as integers.
    """

    index: Array
    values: NDArray[np.float64]
    counts: NDArray[np.int64]
    central: NDArray[np.int64]
    whole: bool

    @property
    def is_8_bit(self) -> bool:
        return self.index.dtype == np.uint8 and self.values[0] == 0

    def tissue(self) -> tuple[float, float]:
        """Lowest and highest value of the picture proper, as `tissue_range` finds it."""
        occurs = self.counts > 0
        if not occurs.any():
            return 0.0, 0.0
        return tissue_range(self.values[occurs], self.counts[occurs], self.central[occurs])

    def weights(self, low: float = -np.inf, high: float = np.inf) -> NDArray[np.float64]:
        """(N,) share of each value among those from `low` to `high`; a flat area counts little, however large."""
        counts = np.where((self.values >= low) & (self.values <= high), self.counts, 0)
        weights = np.minimum(counts, counts.sum() * _FLAT)
        shares: NDArray[np.float64] = weights / (weights.sum() or 1)
        return shares

    def mapped(self, table: Array) -> Array:
        """(H, W), of each pixel the entry of its value in `table` (N,)."""
        pixels = np.empty(self.index.size, table.dtype)
        flat = self.index.reshape(-1)
        for part in bands(flat.size, 1):
            pixels[part] = table[flat[part]]
        return pixels.reshape(self.index.shape)


def levels_of(values: Array) -> Levels:
    """The levels of an image (H, W) of any integers or floats.

    Integers are kept exactly if their range fits 16 bits. Others become 65,533 steps from the lowest to the highest
    value of the tissue, and what lies below and above of it becomes the lowest and the highest value of all. Values
    that are not finite are counted nowhere, and their level is NaN.

    Raises:
        DamagedImage: if most of the values are not finite.
    """
    if values.dtype.kind in "iu" and values.dtype.itemsize <= 2:
        native = values.astype(values.dtype.newbyteorder("="), copy=False)
        bits = 8 * native.dtype.itemsize
        index, first = native.view(f"u{native.dtype.itemsize}"), 0
        if native.dtype.kind == "i":
            first = 1 << bits - 1
            index = index ^ index.dtype.type(first)  # which puts the negative values below the others
        table = np.arange(1 << bits, dtype=np.float64) - first
        return Levels(index, table, count(index, 1 << bits), count(middle(index), 1 << bits), whole=True)
    flat, whole = values.reshape(-1), values.dtype.kind in "iu"
    least, low, high, most = _ranges(values)
    if whole and most - least <= 65535:
        start, step, last = least, 1.0, 65535
    else:
        step = 1.0 if whole and high - low <= 65532 else (high - low) / 65532 or 1.0
        start, last = low - step, 65534
    table = start + step * np.arange(65536, dtype=np.float64)
    index = np.empty(flat.size, np.uint16)
    for part in bands(flat.size, 1):
        position = np.nan_to_num(flat[part].astype(np.float64), posinf=most, neginf=least)
        index[part] = np.rint(np.clip((position - start) / step, 0, last))
        if not whole:
            index[part][~np.isfinite(flat[part])] = 65535
    index = index.reshape(values.shape)
    counts, central = count(index, 65536), count(middle(index), 65536)
    if last == 65534:
        table[0], table[65534], table[65535] = min(least, table[0]), max(most, table[65534]), np.nan
        counts[65535] = central[65535] = 0
    return Levels(index, table, counts, central, whole)


def middle(image: Array) -> Array:
    """The middle half of an image's height and width."""
    height, width = image.shape
    return image[height // 4 : height - height // 4, width // 4 : width - width // 4]


def count(index: Array, size: int) -> NDArray[np.int64]:
    """(size,) how often each index occurs."""
    flat, counts = index.reshape(-1), np.zeros(size, np.int64)
    for part in bands(flat.size, 1):
        counts += np.bincount(flat[part], minlength=size)
    return counts


def _ranges(image: Array) -> tuple[float, float, float, float]:
    """The least value of all, the lowest and highest of the tissue, and the most, among the finite ones.

    What is tissue is found on a sample, and then extended to the exact values.
    """
    flat, stride = image.reshape(-1), max(1, image.size // _SAMPLE)
    sample, central = _finite(flat[::stride]), _finite(middle(image).reshape(-1)[::stride])
    if 2 * sample.size * stride < flat.size:
        raise DamagedImage("Most values of the picture are not finite numbers. Replace them, or save it as PNG.")
    found, counts = np.unique(np.concatenate([sample, central]), return_counts=True)
    low, high = tissue_range(found, counts, np.bincount(np.searchsorted(found, central), minlength=found.size))
    least, most, margin = low, high, (high - low) / 4
    for part in (flat[rows] for rows in bands(flat.size, 1)):
        finite = _finite(part)
        least, most = float(finite.min(initial=least)), float(finite.max(initial=most))
        inside = finite[(finite >= low - margin) & (finite <= high + margin)]
        low, high = float(inside.min(initial=low)), float(inside.max(initial=high))
    return least, low, high, most


def _finite(values: Array) -> NDArray[np.float64]:
    return np.clip(values[np.isfinite(values)].astype(np.float64), -_LARGEST, _LARGEST)


def tissue_range(values: Array, counts: Array, central: Array) -> tuple[float, float]:
    """Lowest and highest value of the picture proper.

    Hot and dead pixels, markers, padding, collimators and overflow are no tissue. Most are far from the tissue: at
    least an eighth of the range between them is empty. So the range is cut at such gaps, and the part with most pixels
    in the middle of the image is kept, until there is no gap. The edge of a collimator can be blurred, and fills the
    gap: so the range is also cut where it is far wider than that of the image's middle. Then single pixels that lie
    outside of all others are left out.

    Args:
        values: (N,) increasing; every one occurs.
        counts: (N,) how many pixels have it.
        central: (N,) how many pixels in the middle of the image.
    """
    values = values.astype(np.float64)
    weights, inside = (np.minimum(number, number.sum() * _FLAT) for number in (counts, central))
    while values[-1] > values[0]:
        position = (values - values[0]) / (values[-1] - values[0])
        bins = np.minimum((position * _BINS).astype(np.int64), _BINS - 1)
        mass = np.bincount(bins, weights, _BINS)
        filled = np.flatnonzero(mass > _SPARSE * mass.sum())
        parts = np.split(filled, 1 + np.flatnonzero(np.diff(filled) > _GAP))
        central_mass = np.bincount(bins, inside, _BINS)
        best = max(parts, key=lambda part: (float(central_mass[part].sum()), float(mass[part].sum())))
        # The tissue's own ends may be thin, so they are kept where there is no gap.
        first = best[0] - _GAP // 4 if best[0] >= _GAP else 0
        last = best[-1] + _GAP // 4 if best[-1] < _BINS - _GAP else _BINS
        keep = (bins >= first) & (bins <= last)
        if keep.all():
            keep = _near_middle(values, inside)
        if keep.all() or np.count_nonzero(keep) < _FEWEST:
            break
        values, counts, weights, inside = values[keep], counts[keep], weights[keep], inside[keep]
    below = np.cumsum(counts)
    first, last = np.searchsorted(below, (_SINGLE * below[-1], (1 - _SINGLE) * below[-1]))
    far = _FAR * (values[-1] - values[0])
    low = values[first] if values[first] - values[0] > far else values[0]
    high = values[last] if values[-1] - values[last] > far else values[-1]
    return float(low), float(high)


def _near_middle(values: NDArray[np.float64], inside: Array) -> NDArray[np.bool_]:
    """(N,) whether a value is no farther than usual from those in the image's middle, whose counts are `inside`."""
    below = np.cumsum(inside)
    low, high = values[np.searchsorted(below, (_TAIL * below[-1], (1 - _TAIL) * below[-1]))]
    width = high - low
    keep = np.ones(values.shape, bool)
    if low - values[0] > _TOO_WIDE * width:
        keep &= values >= low - _USUAL * width
    if values[-1] - high > _TOO_WIDE * width:
        keep &= values <= high + _USUAL * width
    return keep


def bands(height: int, width: int) -> Iterator[slice]:
    """Rows of about a million pixels at a time: what is made in between takes several times an image's memory."""
    rows = max(1, (1 << 20) // width)
    return (slice(top, min(top + rows, height)) for top in range(0, height, rows))
