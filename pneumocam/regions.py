"""Where a saliency map lies: its share inside the lung fields, its regions as boxes, and one word for it."""

from typing import Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float32]
Quality = Literal["steady", "unsteady", "outside_lungs", "empty"]

EMPTY = 0.1  # of the peak of the image's strongest map: a map whose peak is lower shows next to nothing
SPLITS = 8  # of the channels into halves
STEADY = 0.8  # agreement of halves of the network's channels


class Region(NamedTuple):
    """A part of a map above half of its peak.

    Attributes:
        box: left, top, right, bottom in pixels of the image.
        score: the greatest value in the region, in (0, 1], on the scale of the image's maps.
        share: of the energy of the whole map, in (0, 1].
    """

    box: tuple[int, int, int, int]
    score: float
    share: float


def share_inside(heat: Floats, inside: NDArray[np.bool_]) -> float:
    """The share of a map's energy, the sum of its values (h, w) >= 0, in the cells (h, w) of a mask; 0 if it is empty.

    The energy-based pointing game of Wang et al., *Score-CAM*, CVPR Workshops 2020.
    """
    total = float(heat.sum(dtype=np.float64))
    return float(heat[inside].sum(dtype=np.float64)) / total if total > 0 else 0.0


def correlation(one: Floats, other: Floats) -> float:
    """Pearson's correlation of two maps of one shape; 0 if one of them is constant, as an empty map is."""
    if one.min() == one.max() or other.min() == other.max():
        return 0.0
    a, b = (values.ravel() - values.mean(dtype=np.float64) for values in (one, other))
    return float(a @ b / np.sqrt((a @ a) * (b @ b)))


def agreement(channels: Floats) -> float | None:
    """How far a map depends on which channels of the network it is made of: 1 if not at all.

    The channels are split into halves, by each of the lowest `SPLITS` bits of their number in turn. The result is the
    mean correlation of the two halves' maps, as in the split-half reliability of a test.

    Args:
        channels: (D, h, w), what each channel adds to the map, before its ReLU.

    Returns:
        In [-1, 1]; None if there is one channel only.
    """
    bits = np.arange(min(SPLITS, (len(channels) - 1).bit_length()))
    if not len(bits):
        return None
    chosen = (np.arange(len(channels)) >> bits[:, None] & 1).astype(channels.dtype)  # (bits, D)
    flat = channels.reshape(len(channels), -1)  # (D, cells)
    one = chosen @ flat  # (bits, cells)
    other = flat.sum(0) - one
    return float(np.mean([correlation(*pair) for pair in zip(one.clip(0), other.clip(0), strict=True)]))


def regions(heat: Floats, width: int, height: int) -> tuple[Region, ...]:
    """The connected parts of a map above half of its peak, that with the most energy first.

    Args:
        heat: (h, w) in [0, 1], covering the whole image.
        width: of the image in pixels.
        height: of the image in pixels.
    """
    from scipy import ndimage  # slow to import, and many predictions need no regions

    peak = float(heat.max())
    labels, _ = ndimage.label(heat > peak / 2)
    rows, columns = heat.shape
    found = []
    for index, (ys, xs) in enumerate(ndimage.find_objects(labels), 1):
        left, right = (round(x * width / columns) for x in (xs.start, xs.stop))
        top, bottom = (round(y * height / rows) for y in (ys.start, ys.stop))
        inside = labels == index
        found.append(Region((left, top, right, bottom), float(heat[inside].max()), share_inside(heat, inside)))
    return tuple(sorted(found, key=lambda region: -region.share))


def quality(*, empty: bool, inside: float | None, expected: float | None, steadiness: float | None) -> Quality | None:
    """One word for a map; None if its steadiness is not known.

    Args:
        empty: whether the map shows next to nothing.
        inside: the share of its energy inside the lung fields; None if these are not known.
        expected: the share that a map of equal values would have there.
        steadiness: see `agreement`.
    """
    if empty:
        return "empty"
    if inside is not None and expected is not None and inside <= expected:
        return "outside_lungs"
    if steadiness is None:
        return None
    return "steady" if steadiness >= STEADY else "unsteady"


def sentences(target: str, word: Quality | None, inside: float | None, expected: float | None) -> tuple[str, ...]:
    """What a map's word and its share inside the lung fields mean, for people."""
    if word == "empty":
        return (f"Empty map: next to nothing in the image speaks for {target}.",)
    words = {
        "outside_lungs": "Outside the lungs: no more of the map lies inside them than by chance.",
        "steady": "Steady: two halves of the network agree on this map.",
        "unsteady": "Unsteady: two halves of the network disagree on this map.",
    }
    place = "" if inside is None else f"{inside:.0%} of it lies inside the lung fields ({expected:.0%} of the image)."
    return tuple(filter(None, (words.get(str(word)), place)))
