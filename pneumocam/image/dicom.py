"""A DICOM -> 8-bit grey as the file wants it shown.

Its patient, dates and identifiers are never parsed, and nothing of it is logged, warned or quoted.
"""

import re
import struct
import zlib
from dataclasses import replace
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from pydicom import FileDataset, config, uid
from pydicom.datadict import keyword_for_tag
from pydicom.dataset import FileMetaDataset
from pydicom.filebase import DicomBytesIO
from pydicom.filereader import read_dataset
from pydicom.filewriter import write_file_meta_info

from pneumocam.image.decoder import SUBPROCESS_SYNTAXES, Bounded, parse_dicom
from pneumocam.image.display import display_table
from pneumocam.image.elements import patterns
from pneumocam.image.errors import EXPENSIVE, DamagedImage, MultiFrame, NotARadiograph, UnsupportedDicom, check_size
from pneumocam.image.grayscale import flatten, flatten_deep, paint_border, share
from pneumocam.image.headers import check_jpeg
from pneumocam.image.levels import count, levels_of, middle
from pneumocam.image.modality import check_modality
from pneumocam.image.sandbox import Shared
from pneumocam.image.stored import only_frame, stored_values

_NATIVE_SYNTAXES = (uid.ImplicitVRLittleEndian, uid.ExplicitVRLittleEndian, uid.ExplicitVRBigEndian, uid.RLELossless)
_SYNTAXES = (*_NATIVE_SYNTAXES, uid.JPEGBaseline8Bit, uid.JPEGExtended12Bit, *SUBPROCESS_SYNTAXES)
_JPEG_FRAME_MARKERS = {*range(0xC0, 0xD0), 0xF7} - {0xC4, 0xC8, 0xCC}
_OPTIONAL = {  # elements that are left out when they are too large to be true
    *("PixelPaddingValue", "PixelPaddingRangeLimit", "RescaleIntercept", "RescaleSlope", "ModalityLUTSequence"),
    *("WindowCenter", "WindowWidth", "VOILUTFunction", "VOILUTSequence"),
}
_TABLES = ("ModalityLUTSequence", "VOILUTSequence")
_MOST_BYTES = 1_000_000  # of an element other than the pixel data and the tables
_MOST_ITEMS = 100
_MOST_PADDING = 0.95  # of the pixels
_unvalidated = Shared(config.disable_value_validation)  # values that break a rule of DICOM are handled here

Array = NDArray[Any]
Shown = tuple[NDArray[np.uint8], list[str]]


def from_dicom(data: bytes, max_pixels: int) -> Shown:
    """The image (H, W) of the one frame that a DICOM holds, and the steps to it."""
    with _unvalidated:
        return _from_dicom(data, max_pixels)


def _from_dicom(data: bytes, max_pixels: int) -> Shown:
    data = _inflated(data, 1_000_000 + 2 * max_pixels)
    dataset, steps = parse_dicom(data)
    steps += _drop_oversized(dataset)
    check_modality(dataset)
    _check_dicom(dataset, max_pixels)
    steps += _check_bits(dataset)
    if dataset.SamplesPerPixel > 1:
        pixels, more = _from_colour(stored_values(data, dataset), dataset)
    else:
        pixels, more = _from_grey(data, dataset)
    return pixels, steps + more


def _inflated(data: bytes, most: int) -> bytes:
    """The same DICOM, uncompressed if it is deflated as a whole; pydicom would inflate it without a bound."""
    start = 132 if data[128:132] == b"DICM" else 0
    if data[start : start + 2] != b"\x02\x00":
        return data
    stream = Bounded(data[start:], steps=50_000)
    meta = FileMetaDataset(read_dataset(stream, False, True, stop_when=lambda tag, _vr, _length: tag.group != 2))
    if meta.get("TransferSyntaxUID") != uid.DeflatedExplicitVRLittleEndian:
        return data
    inflater = zlib.decompressobj(-zlib.MAX_WBITS)
    body = inflater.decompress(data[start + stream.tell() :], most)
    if not inflater.eof:
        raise ValueError("The deflated dataset is cut short, or far larger than an image.")
    meta.TransferSyntaxUID = uid.ExplicitVRLittleEndian
    header = DicomBytesIO()
    write_file_meta_info(header, meta, enforce_standard=False)
    return data[:start] + header.getvalue() + body


def _drop_oversized(dataset: FileDataset) -> list[str]:
    """Bound what pydicom makes of an element when it is asked for it: an object for each of its values and items."""
    steps = []
    for tag in list(dataset.keys()):
        element = dataset.get_item(tag)
        if tag == 0x7FE00010 or not isinstance(element.value, bytes):
            continue
        items = element.value.count(b"\xfe\xff\x00\xe0") + element.value.count(b"\xff\xfe\xe0\x00")
        keyword = keyword_for_tag(tag)
        if items > _MOST_ITEMS or (len(element.value) > _MOST_BYTES and keyword not in _TABLES):
            if keyword not in _OPTIONAL:
                raise ValueError("An element is far larger than any radiograph's.")
            del dataset[tag]
            steps.append(f"{keyword} ignored: it is far too large")
    return steps


def _check_dicom(dataset: FileDataset, max_pixels: int) -> None:
    """Refuse what is not a single image, or cannot or should not be decoded."""
    if "PixelData" not in dataset:
        raise NotARadiograph("This DICOM has no pixel data: a report, or a file cut short. Upload the image itself.")
    if int(dataset.get("NumberOfFrames") or 1) > 1:
        raise MultiFrame("This DICOM holds several frames; one image is accepted at a time. Export a single frame.")
    expensive = int(dataset.SamplesPerPixel) * int(dataset.BitsAllocated) > 16
    check_size(int(dataset.Columns), int(dataset.Rows), max_pixels // (EXPENSIVE if expensive else 1))
    space = re.sub(r"[\s\0]", "", str(dataset.PhotometricInterpretation)).upper()
    if not re.match("MONOCHROME[12]$|RGB$|YBR_", space):
        raise _unsupported("has a colour palette or a rare colour space")
    dataset.PhotometricInterpretation = space
    syntax = dataset.file_meta.TransferSyntaxUID
    if syntax not in _SYNTAXES:
        raise _unsupported("is compressed in a way that is not read here")
    if syntax not in _NATIVE_SYNTAXES:
        _check_codestream(dataset)


def _unsupported(why: str) -> UnsupportedDicom:
    return UnsupportedDicom(
        f"This DICOM {why}. Accepted are uncompressed, RLE, JPEG, JPEG-LS and JPEG 2000, in grey or RGB; export it as "
        "uncompressed DICOM or as PNG."
    )


def _check_codestream(dataset: FileDataset) -> None:
    """Hold the codestream, which decides how much is decoded, to the size in the dataset."""
    frame = only_frame(dataset)
    start = frame.find(b"\xff\x4f\xff\x51")
    if "JPEG 2000" in dataset.file_meta.TransferSyntaxUID.name:
        right, bottom, left, top = struct.unpack_from(">4I", frame, start + 8)
        found = (bottom - top, right - left, *struct.unpack_from(">H", frame, start + 40))
    else:
        check_jpeg(frame)
        position = 2
        while frame[position + 1] not in _JPEG_FRAME_MARKERS:
            position += 2 + int.from_bytes(frame[position + 2 : position + 4])
        found = struct.unpack_from(">HHB", frame, position + 5)
    if found != (dataset.Rows, dataset.Columns, dataset.SamplesPerPixel):
        raise DamagedImage("This DICOM's header and its compressed picture differ in size. Export it again.")


def _check_bits(dataset: FileDataset) -> list[str]:
    """Hold Bits Stored to Bits Allocated, and correct a High Bit that cannot be."""
    allocated, stored, high = int(dataset.BitsAllocated), int(dataset.BitsStored), int(dataset.HighBit)
    if not 1 <= stored <= allocated:
        raise ValueError("More bits are stored than allocated.")
    native = dataset.file_meta.TransferSyntaxUID in _NATIVE_SYNTAXES and dataset.SamplesPerPixel == 1
    if stored - 1 < high < allocated and not native:
        raise _unsupported("keeps its values in the upper bits of a compressed image")
    if stored - 1 <= high < allocated:
        return []
    dataset.HighBit = stored - 1
    return [f"HighBit {high} ignored: it does not fit {stored} stored bits"]


def _from_colour(values: Array, dataset: FileDataset) -> Shown:
    if values.dtype == np.uint8:
        return flatten(Image.fromarray(values))[:2]
    if values.dtype.kind != "u":
        raise _unsupported("has signed colour")
    if values.dtype.itemsize > 2:
        values = (values >> max(0, int(dataset.BitsStored) - 16)).astype(np.uint16)
    return flatten_deep(values)


def _from_grey(data: bytes, dataset: FileDataset) -> Shown:
    """(H, W) as the file wants its stored values shown, brighter where denser, padding and border black."""
    stored, allocated, high = int(dataset.BitsStored), int(dataset.BitsAllocated), int(dataset.HighBit)
    words = dataset.file_meta.TransferSyntaxUID in _NATIVE_SYNTAXES and allocated in (8, 16, 32) and stored < allocated
    if words:
        dataset.BitsStored, dataset.HighBit = allocated, allocated - 1
    values = stored_values(data, dataset)
    steps: list[str] = []
    padding = _padding_range(dataset, stored)
    padded = _between(values, padding) if padding and words and not _fits(padding, stored, dataset) else None
    if words:
        values, steps = _unpacked(values, stored, high)
    if padding and padded is None:
        padded = _between(values, padding)
    if padded is not None and np.mean(padded) > _MOST_PADDING:
        steps.append(f"padding ignored: it would cover {share(padded)} of the pixels")
        padded = None
    levels = levels_of(values)
    if padded is not None:
        size = levels.counts.size
        counts = levels.counts - count(levels.index[padded], size)
        central = levels.central - count(middle(levels.index)[middle(padded)], size)
        levels = replace(levels, counts=counts, central=central)
    negative = dataset.PhotometricInterpretation == "MONOCHROME1"
    table, more, shown = display_table(levels, dataset, negative=negative)
    # A Presentation LUT Shape of INVERSE says the same once more, so it is not read.
    if negative:
        table, more = 255 - table, [*more, "inverted (MONOCHROME1)"]
    pixels = levels.mapped(table)
    if not shown:
        more += paint_border(pixels, levels, table)
    if padded is not None and padded.any():
        pixels[padded] = 0
        more.append(f"padding ({share(padded)} of the pixels) painted as background")
    return pixels, steps + more


def _padding_range(dataset: FileDataset, stored: int) -> tuple[int, int] | None:
    """Lowest and highest declared padding value; both elements hold a bit pattern whatever their VR says."""
    ends = []
    for pattern, bits in (*patterns(dataset, "PixelPaddingValue"), *patterns(dataset, "PixelPaddingRangeLimit")):
        value = pattern
        if dataset.PixelRepresentation:
            value -= (pattern >> bits - 1) << bits
            value -= (1 << stored) * (1 << stored - 1 <= value < 1 << stored)  # without a sign above the stored bits
        ends.append(value)
    return (min(ends), max(ends)) if ends else None


def _fits(ends: tuple[int, int], stored: int, dataset: FileDataset) -> bool:
    low = -(1 << stored - 1) if dataset.PixelRepresentation else 0
    return low <= ends[0] and ends[1] < low + (1 << stored)


def _between(values: Array, ends: tuple[int, int]) -> NDArray[np.bool_]:
    return np.asarray((values >= ends[0]) & (values <= ends[1]))


def _unpacked(words: Array, stored: int, high: int) -> tuple[Array, list[str]]:
    """The stored bits of whole words, which may hold an overlay or nothing in the others."""
    allocated, shift = 8 * words.dtype.itemsize, high + 1 - stored
    steps: list[str] = []
    if shift and words.view(f"u{words.dtype.itemsize}").max() < 1 << stored:
        steps, shift = [f"HighBit {high} ignored: the values are in the lower {stored} bits"], 0
    elif shift:
        steps = [f"values read from bits {shift} to {high}"]
    return np.right_shift(np.left_shift(words, allocated - stored - shift), allocated - stored), steps
