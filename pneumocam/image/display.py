"""A DICOM's stored values -> grey levels, by its modality and VOI transformations.

Each part is read by itself: one that is missing or unusable is left out with a step, and the others still count.
"""

from collections.abc import Callable, Iterator
from contextlib import suppress
from functools import partial
from itertools import zip_longest
from typing import Any

import numpy as np
from numpy.typing import NDArray
from pydicom import Dataset, FileDataset
from pydicom.pixels.processing import apply_windowing

from pneumocam.image.elements import UnusableError, lut, numbers, text
from pneumocam.image.grayscale import grey_table, percent
from pneumocam.image.levels import Levels

_LEAST_LEVELS = 64  # of 256, between the darkest and the brightest percent
_MOST_WHITE, _MOST_CLIPPED = 0.7, 0.9  # of the pixels
_MOST_WINDOWS = 100
_FUNCTIONS = ("LINEAR", "LINEAR_EXACT", "SIGMOID")

Values = NDArray[np.float64]
Shown = tuple[Values, list[str]]  # 0..255 for each value, and the steps to it


def display_table(levels: Levels, dataset: FileDataset, *, negative: bool) -> tuple[NDArray[np.uint8], list[str], bool]:
    """The grey level (N,) of each stored value, the steps to it, and whether the file's own VOI transformation made it.

    The first VOI LUT or window that is usable is taken, and the range of the tissue if there is none. A transformation
    that shows next to nothing of the tissue is not usable: it was left behind when the values were rescaled.

    Args:
        levels: of the stored values.
        dataset: with the transformations.
        negative: whether the result is inverted afterwards.
    """
    values, steps = _rescaled(levels, dataset)
    plain, plain_steps = grey_table(levels, None if values is levels.values else values)
    for name, show in _transformations(dataset, values, levels):
        try:
            grey, remarks = show()
            loss = _loss(grey, plain, levels, negative=negative)
        except Exception as error:
            grey, remarks, loss = values, [], str(error) if isinstance(error, UnusableError) else "it cannot be read"
        if not loss:
            applied = "VOI LUT applied" if name == "VOI LUT" else "VOI window applied"
            return np.rint(grey).astype(np.uint8), [*steps, *remarks, applied], True
        steps.append(f"{name} ignored: {loss}")
    return plain, steps + plain_steps, False


def _loss(grey: Values, plain: NDArray[np.uint8], levels: Levels, *, negative: bool) -> str:
    """What makes a transformation unusable, empty if nothing does: in the tissue and in the whole image."""
    if not np.isfinite(grey).all():
        return "its result is not finite"
    found = ""
    for weights in (levels.weights(*levels.tissue()), levels.weights()):
        low, high = _middle(grey, weights)
        plain_low, plain_high = _middle(plain, weights)
        white, black = (float(weights[grey == level].sum()) for level in ((0, 255) if negative else (255, 0)))
        if high - low < _LEAST_LEVELS and plain_high - plain_low > 2 * (high - low):
            found = f"it leaves {high - low:.0f} of 256 grey levels"
        elif white > _MOST_WHITE:
            found = f"it makes {percent(white)} of the pixels white"
        elif white + black > _MOST_CLIPPED:
            found = f"it makes {percent(white + black)} of the pixels black or white"
        else:
            return ""
    return found


def _middle(grey: NDArray[Any], weights: Values) -> tuple[float, float]:
    """The grey levels between which all but the darkest and the brightest percent lie."""
    order = np.argsort(grey, kind="stable")
    low, high = np.searchsorted(np.cumsum(weights[order]), (0.01, 0.99))
    return float(grey[order[low]]), float(grey[order[min(high, grey.size - 1)]])


def _rescaled(levels: Levels, dataset: FileDataset) -> Shown:
    """The values after the modality transformation, the same object if there is none."""
    steps = []
    for item in (dataset.get("ModalityLUTSequence") or [])[:1]:
        if len(item):
            with suppress(Exception):
                return lut(item, dataset, _least(levels.values, levels))(levels.values), []
            steps = ["modality LUT ignored: it cannot be read"]
    slope, intercept = (numbers(dataset, keyword)[:1] for keyword in ("RescaleSlope", "RescaleIntercept"))
    if not slope and not intercept:
        return levels.values, steps
    if not slope or not intercept or not slope[0] or intercept[0] is None:
        return levels.values, [*steps, "rescaling ignored: its slope or intercept is missing or unusable"]
    if (slope[0], intercept[0]) == (1, 0):
        return levels.values, steps
    return levels.values * slope[0] + intercept[0], steps


def _transformations(dataset: FileDataset, values: Values, levels: Levels) -> Iterator[tuple[str, Callable[[], Shown]]]:
    """The name of each VOI transformation, and what makes grey levels of the rescaled values."""
    for item in dataset.get("VOILUTSequence") or []:
        if len(item):
            yield "VOI LUT", partial(_by_lut, values, item, dataset, levels)
    centers, widths = (numbers(dataset, keyword)[:_MOST_WINDOWS] for keyword in ("WindowCenter", "WindowWidth"))
    for center, width in zip_longest(centers, widths):
        name = "/".join("?" if end is None else f"{end:g}" for end in (center, width))
        yield f"window {name}", partial(_by_window, values, center, width, text(dataset, "VOILUTFunction"))


def _by_lut(values: Values, item: Dataset, dataset: FileDataset, levels: Levels) -> Shown:
    table = lut(item, dataset, _least(values, levels))
    return table(values) * (255 / (2**table.bits - 1)), []


def _by_window(values: Values, center: float | None, width: float | None, function: str) -> Shown:
    if center is None or width is None:
        raise UnusableError("its center or width is missing or no number")
    if width <= 0:
        raise UnusableError("its width is not positive")
    function, remarks = function.split("\\")[0].strip().upper() or "LINEAR", []
    if function not in _FUNCTIONS:
        function, remarks = "LINEAR", ["unknown VOI LUT Function read as LINEAR"]
    if function == "LINEAR" and width < 1:
        function, remarks = "LINEAR_EXACT", [*remarks, "window of a width under 1 read as LINEAR_EXACT"]
    # The output of a window spans the range that the dataset declares.
    window = Dataset()
    window.BitsStored, window.PixelRepresentation, window.PhotometricInterpretation = 8, 0, "MONOCHROME2"
    window.WindowCenter, window.WindowWidth, window.VOILUTFunction = center, width, function
    return apply_windowing(np.nan_to_num(values), window), remarks


def _least(values: Values, levels: Levels) -> float:
    return float(values[levels.counts > 0].min(initial=0))
