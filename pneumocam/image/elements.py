"""Values of a DICOM's optional elements, read from their bytes: an unusable one is left out instead of raising."""

import math
import struct
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from pydicom import Dataset, FileDataset

_LONGEST = 2000  # bytes of text
_BINARY = {"FL": "f", "FD": "d", "US": "H", "SS": "h", "UL": "I", "SL": "i"}


class UnusableError(ValueError):
    """Says what makes an element unusable, in words that quote nothing of it."""


@dataclass(frozen=True)
class Lut:
    """A modality or VOI LUT.

    Attributes:
        first: the value that is mapped to the first entry.
        entries: (N,) float64; values beyond its ends get the nearest of them.
        bits: of the entries.
    """

    first: int
    entries: NDArray[np.float64]
    bits: int

    def __call__(self, values: NDArray[np.float64]) -> NDArray[np.float64]:
        position = np.clip(np.rint(np.nan_to_num(values)) - self.first, 0, self.entries.size - 1)
        found: NDArray[np.float64] = self.entries[position.astype(np.int64)]
        return found


def text(dataset: Dataset, keyword: str) -> str:
    """The text of an element; empty if there is none, or no text of a usual length."""
    raw = _raw(dataset, keyword)
    return raw.decode("ascii", "replace").strip(" \0") if len(raw) <= _LONGEST else ""


def numbers(dataset: FileDataset, keyword: str) -> list[float | None]:
    """The numbers of an element, as text (also with a decimal comma) or binary; None for one that is unusable."""
    element = dataset.get_item(keyword) if keyword in dataset else None
    layout = _BINARY.get(str(element.VR)) if element is not None else None
    if layout:
        raw = _raw(dataset, keyword)[:_LONGEST]
        found = struct.unpack(f"{_order(dataset)}{len(raw) // struct.calcsize(layout)}{layout}", raw)
        return [value if math.isfinite(value) else None for value in found]
    written = text(dataset, keyword)
    return [_number(part) for part in written.split("\\")] if written else []


def _number(written: str) -> float | None:
    try:
        value = float(written.strip(" \0").replace(",", "."))
    except ValueError:
        return None
    return value if math.isfinite(value) and "_" not in written else None


def patterns(dataset: FileDataset, keyword: str) -> list[tuple[int, int]]:
    """The bit pattern of an element of one integer, and its number of bits; empty if there is none."""
    raw = _raw(dataset, keyword)
    if len(raw) not in (2, 4):
        return []
    return [(int.from_bytes(raw, "little" if _order(dataset) == "<" else "big"), 8 * len(raw))]


def lut(item: Dataset, dataset: FileDataset, least: float) -> Lut:
    """The LUT of a sequence's item, its entries 16 or 8 bits wide, also two of 8 bits in a word.

    Args:
        item: of a Modality or VOI LUT Sequence.
        dataset: that it belongs to.
        least: the lowest value that is looked up; if it is negative, the first mapped value is signed.

    Raises:
        UnusableError: if it has no such table.
    """
    order = _order(dataset)
    descriptor, raw = _raw(item, "LUTDescriptor"), _raw(item, "LUTData")
    if len(descriptor) != 6:
        raise UnusableError("its descriptor does not have three values")
    count, first, bits = struct.unpack(f"{order}3H", descriptor)
    count = count or 65536
    if least < 0 and first >= 32768:
        first -= 65536
    words = np.frombuffer(raw[: len(raw) // 2 * 2], f"{order}u2")
    if bits <= 8 and count <= len(raw) <= count + 1 and count > 1:
        words = words.astype("<u2").view(np.uint8)
    entries = words[:count].astype(np.float64)
    if entries.size < count:
        raise UnusableError("its table is shorter than its descriptor says")
    highest = int(entries.max())
    if not 8 <= bits <= 16 or not 2 ** (bits - 3) <= highest < 2**bits:  # so it says too much or too little
        bits = max(8, highest.bit_length())
    return Lut(first, entries, bits)


def _raw(dataset: Dataset, keyword: str) -> bytes:
    value = dataset.get_item(keyword).value if keyword in dataset else b""
    return value if isinstance(value, bytes) else b""


def _order(dataset: FileDataset) -> str:
    return "<" if dataset.original_encoding[1] else ">"
