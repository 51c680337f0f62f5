"""A DICOM -> 8-bit grey as the file wants it shown.

Its patient, dates and identifiers are never parsed, and nothing of it is logged, warned or quoted.
"""

import re
import struct
from functools import partial
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from pydicom import FileDataset, uid
from pydicom.pixels.processing import apply_modality_lut, apply_voi, apply_windowing

from pneumocam.image.decoder import SUBPROCESS_SYNTAXES, parse_dicom
from pneumocam.image.errors import EXPENSIVE, DamagedImage, MultiFrame, NotARadiograph, UnsupportedDicom, check_size
from pneumocam.image.grayscale import by_level, flatten, flatten_deep, to_uint8
from pneumocam.image.headers import check_jpeg
from pneumocam.image.sandbox import only_frame, stored_values

MODALITIES = ("CR", "DX", "RG", "OT")

# Only these may be named to the reader: any other value of the tag could be anything, a name included.
_OTHER_MODALITIES = ("CT", "DOC", "ECG", "ES", "IO", "MG", "MR", "NM", "PT", "PX", "RF", "SEG", "SR", "US", "XA", "XC")
_SYNTAXES = (
    *(uid.ImplicitVRLittleEndian, uid.ExplicitVRLittleEndian, uid.ExplicitVRBigEndian, uid.RLELossless),
    *(uid.JPEGBaseline8Bit, uid.JPEGExtended12Bit, *SUBPROCESS_SYNTAXES),
)
_JPEG_FRAME_MARKERS = {*range(0xC0, 0xD0), 0xF7} - {0xC4, 0xC8, 0xCC}

Array = NDArray[Any]


def from_dicom(data: bytes, max_pixels: int) -> tuple[NDArray[np.uint8], list[str]]:
    """The film of the one frame that a DICOM holds, (H, W), and the steps to it."""
    # Looked for in the bytes, as pydicom inflates without bound while it reads.
    if uid.DeflatedExplicitVRLittleEndian.encode() in data:
        raise _unsupported("is deflated as a whole")
    dataset = parse_dicom(data)
    _check_elements(dataset)
    _check_dicom(dataset, max_pixels)
    values = stored_values(data, dataset)  # (H, W) or (H, W, 3)
    if values.ndim == 2:
        return _display(values, dataset)
    return flatten(Image.fromarray(values)) if values.dtype == np.uint8 else flatten_deep(values)


def _check_elements(dataset: FileDataset) -> None:
    """Bound what pydicom makes of an element when it is asked for it: an object for each of its values and items."""
    for tag in dataset.keys():  # noqa: SIM118 - iterating over the dataset itself would make them
        value = dataset.get_item(tag).value
        if tag != 0x7FE00010 and isinstance(value, bytes):
            items = value.count(b"\xfe\xff\x00\xe0") + value.count(b"\xff\xfe\xe0\x00")
            if len(value) > 1_000_000 or items > 100:
                raise ValueError("An element is far larger than any film's.")


def _check_dicom(dataset: FileDataset, max_pixels: int) -> None:
    """Refuse what is no single film, or cannot or should not be decoded."""
    modality = str(dataset.get("Modality") or "").strip().upper()
    if modality not in MODALITIES:
        came = "no modality" if not modality else modality if modality in _OTHER_MODALITIES else "an unknown modality"
        raise NotARadiograph(
            f"This DICOM has {came}. Accepted are the radiographs among them: {', '.join(MODALITIES)}; upload the "
            "frontal chest film of the study."
        )
    if "PixelData" not in dataset:
        raise NotARadiograph("This DICOM has no pixel data: a report, or a file cut short. Upload the film itself.")
    if int(dataset.get("NumberOfFrames") or 1) > 1:
        raise MultiFrame("This DICOM holds several frames; one film is accepted at a time. Export a single frame.")
    expensive = int(dataset.SamplesPerPixel) * int(dataset.BitsAllocated) > 16
    check_size(int(dataset.Columns), int(dataset.Rows), max_pixels // (EXPENSIVE if expensive else 1))
    if not re.match("MONOCHROME[12]$|RGB$|YBR_", dataset.PhotometricInterpretation):
        raise _unsupported("has a colour palette or a rare colour space")
    syntax = dataset.file_meta.TransferSyntaxUID
    if syntax not in _SYNTAXES:
        raise _unsupported("is compressed in a way that is not read here")
    if syntax.is_encapsulated and syntax != uid.RLELossless:
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


def _display(values: Array, dataset: FileDataset) -> tuple[NDArray[np.uint8], list[str]]:
    """Stored values (H, W) -> (H, W) uint8 as the file wants them shown, turned so that brighter is denser."""
    pixels, steps = by_level(values, partial(_shown, dataset=dataset))
    # A Presentation LUT Shape of INVERSE says the same once more, so it is not read.
    if dataset.PhotometricInterpretation == "MONOCHROME1":
        return 255 - pixels, [*steps, "inverted (MONOCHROME1)"]
    return pixels, steps


def _shown(values: Array, dataset: FileDataset) -> tuple[NDArray[np.uint8], list[str]]:
    rescaled = apply_modality_lut(values, dataset)
    if not np.array_equal(rescaled, values):
        values = rescaled
    try:
        return _windowed(values, dataset)
    except Exception:
        pixels, steps = to_uint8(values)
        return pixels, [*steps, "unusable VOI window ignored"]


def _windowed(values: Array, dataset: FileDataset) -> tuple[NDArray[np.uint8], list[str]]:
    if dataset.get("VOILUTSequence"):
        # pydicom indexes in the table's own depth, where 8 bits cannot count past 256 entries.
        table = dataset.VOILUTSequence[0]
        table.LUTDescriptor = [*table.LUTDescriptor[:2], 16]
        pixels, steps = to_uint8(apply_voi(values, dataset))
        return pixels, ["VOI LUT applied", *steps]
    if dataset.get("WindowCenter") is None or dataset.get("WindowWidth") is None:
        return to_uint8(values)
    # A window's output spans the range that these declare, so let it be 0..255.
    dataset.BitsStored, dataset.PixelRepresentation = 8, 0
    for keyword in ("ModalityLUTSequence", "RescaleSlope", "RescaleIntercept"):
        dataset.pop(keyword, None)
    shown = apply_windowing(values, dataset)
    if not np.isfinite(shown).all():
        raise ValueError("The window is not finite.")
    return np.rint(shown).astype(np.uint8), ["VOI window applied"]
