"""Pillow, pydicom and GDCM, kept quiet, within bounds, and apart where they can bring the process down.

Run as a script, this file decodes the DICOM on standard input: so it imports nothing of this package, which would load
PyTorch.
"""

import ctypes
import io
import logging
import os
import struct
import subprocess
import sys
import threading
import warnings
from contextlib import ExitStack, suppress
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image, _imaging
from pydicom import FileDataset, config, dcmread, uid
from pydicom.encaps import get_frame
from pydicom.pixels.utils import pixel_array

# GDCM aborts on damaged data, and OpenJPEG takes gigabytes and minutes for a header of 200 bytes.
GDCM_SYNTAXES = (uid.JPEGLossless, uid.JPEGLosslessSV1, uid.JPEGLSLossless, uid.JPEGLSNearLossless)
APART_SYNTAXES = (*GDCM_SYNTAXES, uid.JPEG2000Lossless, uid.JPEG2000)
APART_BYTES = 1 << 30  # of address space; 64 megapixels of 16 bits take 0.6 GB
APART_SECONDS = 20  # of CPU; those take about 3

_DICOM_TAGS = [  # all of a DICOM that is ever parsed
    *("Modality", "NumberOfFrames", "SamplesPerPixel", "PhotometricInterpretation", "PlanarConfiguration", "Rows"),
    *("Columns", "BitsAllocated", "BitsStored", "HighBit", "PixelRepresentation", "WindowCenter", "WindowWidth"),
    *("VOILUTFunction", "VOILUTSequence", "RescaleIntercept", "RescaleSlope", "ModalityLUTSequence"),
    *("ExtendedOffsetTable", "ExtendedOffsetTableLengths", "PixelData"),
]

Array = NDArray[Any]

# libtiff writes to standard error what is wrong with a file, past all logging. Pillow has no word to stop it.
with suppress(AttributeError, OSError):
    _libtiff = ctypes.CDLL(_imaging.__file__)
    _libtiff.TIFFSetErrorHandler(None)
    _libtiff.TIFFSetWarningHandler(None)


class Bounded(io.BytesIO):
    """An upload that can be read in so many steps and no more.

    Decoders go over a file's parts in Python, as many as it has: a million empty ones keep them busy for minutes.
    """

    def __init__(self, data: bytes, steps: int) -> None:
        super().__init__(data)
        self.steps = steps

    def read(self, size: int | None = -1, /) -> bytes:
        self.steps -= 1
        if self.steps < 0:
            raise ValueError("The upload consists of far more parts than a picture.")
        return super().read(size)


class _Quiet:
    """Hold back what the decoders would warn or log.

    Warning filters, log levels and pydicom's settings belong to the process, not to the thread: so the first who comes
    changes them, and the last who goes puts them back.
    """

    def __init__(self) -> None:
        self._lock, self._inside, self._before = threading.Lock(), 0, ExitStack()

    def __enter__(self) -> None:
        with self._lock:
            self._inside += 1
            if self._inside == 1:
                self._silence()

    def __exit__(self, *_error: object) -> None:
        with self._lock:
            self._inside -= 1
            if self._inside == 0:
                self._before.close()

    def _silence(self) -> None:
        self._before.enter_context(warnings.catch_warnings())
        self._before.enter_context(config.disable_value_validation())
        warnings.simplefilter("ignore")
        for logger in (logging.getLogger("pydicom"), logging.getLogger("PIL")):
            self._before.callback(logger.setLevel, logger.level)
            logger.setLevel(logging.CRITICAL + 1)


quiet = _Quiet()


def parse_dicom(data: bytes) -> FileDataset:
    dataset = dcmread(Bounded(data, steps=50_000), force=True, specific_tags=_DICOM_TAGS)
    if not dataset.file_meta.get("TransferSyntaxUID"):
        implicit, little_endian = dataset.original_encoding
        explicit = uid.ExplicitVRLittleEndian if little_endian else uid.ExplicitVRBigEndian
        dataset.file_meta.TransferSyntaxUID = uid.ImplicitVRLittleEndian if implicit else explicit
    # Pillow reads no 12-bit JPEG. GDCM does, going by the codestream's own header, but pydicom lets it only thus named.
    if dataset.file_meta.TransferSyntaxUID == uid.JPEGExtended12Bit and dataset.get("BitsStored") != 8:
        dataset.file_meta.TransferSyntaxUID = uid.JPEGLossless
    return dataset


def only_frame(dataset: FileDataset) -> bytes:
    """The codestream of an encapsulated film."""
    frame: bytes = get_frame(Bounded(dataset.PixelData, steps=50_000), 0, number_of_frames=1)
    return frame


def stored_values(data: bytes, dataset: FileDataset) -> Array:
    """The film of a DICOM as it is stored, (H, W) or (H, W, 3); bounded in memory and time whatever the data."""
    syntax = dataset.file_meta.TransferSyntaxUID
    if syntax in APART_SYNTAXES:
        return _decoded_apart(data)
    if syntax == uid.RLELossless:
        _unpack_rle(dataset)
    plugin = "pillow" if syntax in (uid.JPEGBaseline8Bit, uid.JPEGExtended12Bit) else ""
    values: Array = pixel_array(dataset, index=0, decoding_plugin=plugin)
    return values


def _decoded_apart(data: bytes) -> Array:
    """The values as this file, run as a script, decodes them."""
    command = [sys.executable, "-P", "-W", "ignore", __file__]
    environment = os.environ | {"OPENBLAS_NUM_THREADS": "1"}  # each thread's stack counts as address space
    child = subprocess.run(  # noqa: S603 - no shell
        command, input=data, capture_output=True, timeout=3 * APART_SECONDS, check=True, env=environment
    )
    values: Array = np.load(io.BytesIO(child.stdout), allow_pickle=False)
    return values


def _unpack_rle(dataset: FileDataset) -> None:
    """Put uncompressed pixel data in place of RLE.

    Pillow unpacks as much as there are pixels; pydicom as much as comes, which 19 MB can make 1.2 GB.
    """
    frame = only_frame(dataset)
    area, samples, size = dataset.Rows * dataset.Columns, dataset.SamplesPerPixel, dataset.BitsAllocated // 8
    count, *starts = struct.unpack_from("<16I", frame)
    if count != samples * size:
        raise ValueError("The header of the RLE does not fit the dataset.")
    ends = [*starts[1:count], len(frame)]
    unpacked = np.empty((samples, area, size), np.uint8)
    for i, (start, end) in enumerate(zip(starts, ends, strict=False)):  # of each sample the highest byte first
        plane = Image.frombytes("L", (area, 1), frame[start:end], "packbits", "L")
        unpacked[i // size, :, size - 1 - i % size] = np.asarray(plane)[0]
    dataset.PixelData = unpacked.tobytes()
    dataset.PlanarConfiguration = 1
    dataset.file_meta.TransferSyntaxUID = uid.ExplicitVRLittleEndian


def _main() -> None:
    with suppress(ImportError):  # on Windows, where only the time is bounded, by the parent
        import resource

        resource.setrlimit(resource.RLIMIT_AS, (APART_BYTES, APART_BYTES))
        resource.setrlimit(resource.RLIMIT_CPU, (APART_SECONDS, APART_SECONDS))
    dataset = parse_dicom(sys.stdin.buffer.read())
    plugin = "gdcm" if dataset.file_meta.TransferSyntaxUID in GDCM_SYNTAXES else "pillow"
    np.save(sys.stdout.buffer, pixel_array(dataset, index=0, decoding_plugin=plugin))


if __name__ == "__main__":
    _main()
