"""Cut off a flat border: padding, collimation, or a frame that a program drew around the image."""

from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from pneumocam.image.load import Radiograph

FLAT = 6  # grey levels that a border row or column may span, without its 5% darkest and brightest pixels
NARROW = 0.004  # share of a side; a narrower border stays, since training images have it too
EDGE = 0.02  # share of a side that the edge of a border may take, when it is blurred or a JPEG's
STEEP = 3.0  # times the usual difference of two rows: in an edge it is more
LONG = 0.2  # share of two rows' pixels that differ somewhere in an edge; a marker beside the border takes less
SMALLEST = 0.4  # share of a side that must be left


def without_border(radiograph: Radiograph) -> Radiograph:
    """The radiograph without a flat border of more than 0.4% of a side and its blurred edge, and a step; else itself.

    A border makes the chest smaller and moves it, and the network then gives another prediction for the same chest.
    Even a border of 1% of a side, or the few grey rows of its edge, can turn a prediction.
    """
    pixels = radiograph.pixels
    top, bottom, left, right = border(pixels)
    if not any((top, bottom, left, right)):
        return radiograph
    step = f"cut off a flat border: {top} px above, {bottom} below, {left} left, {right} right"
    inside = np.ascontiguousarray(pixels[top : len(pixels) - bottom, left : pixels.shape[1] - right])
    inside.flags.writeable = False
    return replace(radiograph, pixels=inside, steps=(*radiograph.steps, step))


def border(pixels: NDArray[np.uint8]) -> tuple[int, int, int, int]:
    """How many pixels of `(H, W)` `without_border` cuts off: above, below, left, right."""
    top, bottom = _flat_rows(pixels), _flat_rows(pixels[::-1])
    rows = pixels[top : len(pixels) - bottom]
    left, right = (_flat_rows(rows.T), _flat_rows(rows.T[::-1])) if len(rows) else (0, 0)
    shares = 1 - np.divide((top + bottom, left + right), pixels.shape)
    return (top, bottom, left, right) if shares.min() >= SMALLEST else (0, 0, 0, 0)


def _flat_rows(pixels: NDArray[np.uint8]) -> int:
    """How many rows from the top on are flat or the edge of these; 0 if no more than NARROW of all rows are flat."""
    some = pixels[:, :: max(1, pixels.shape[1] // 256)]
    first = int(NARROW * len(some))
    if not _flat(some[first : first + 1]).all():  # saves the search in an ordinary image
        return 0
    flat = 0
    while flat < len(some):
        block = _flat(some[flat : flat + 64])
        flat += int(np.argmin(np.append(block, False)))
        if not block.all():
            break
    return flat + _edge_rows(some[flat:]) if flat > first else 0


def _edge_rows(rows: NDArray[np.uint8]) -> int:
    """How many rows from the top on belong to the edge of a border above, where one row differs much from the next."""
    differences = np.abs(np.diff(rows.astype(np.int16), axis=0))  # (n - 1, W)
    if not differences.size:
        return 0
    changes = differences.mean(1)
    steep = np.flatnonzero(changes[: round(EDGE * len(rows))] > STEEP * np.median(changes))
    if not steep.size or (differences[steep] > FLAT).mean(1).max() < LONG:
        return 0
    return int(steep[-1]) + 1


def _flat(rows: NDArray[np.uint8]) -> NDArray[np.bool_]:
    ordered = np.sort(rows, axis=1, kind="stable")  # by radix, several times faster than np.percentile
    last = ordered.shape[1] - 1
    cut = 0.05 * last
    below, part = int(cut), cut - int(cut)

    def between(one: int, next_one: int) -> NDArray[np.float64]:
        here = ordered[:, one].astype(np.float64)
        step: NDArray[np.float64] = (ordered[:, next_one] - here) * part
        return here + step

    low = between(below, min(below + 1, last))
    high = between(last - below, max(last - below - 1, 0))
    return np.asarray(high - low <= FLAT)
