"""Pillow, pydicom and GDCM, silenced and within bounds; a subprocess for decoders that can end or fill a process."""

import ctypes
import io
import logging
import os
import re
import struct
import subprocess
import sys
import threading
import warnings
from contextlib import ExitStack, suppress
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image, _imaging
from pydicom import FileDataset, config, uid
from pydicom.encaps import get_frame
from pydicom.pixels.utils import pixel_array

from pneumocam.image import decoder
from pneumocam.image.decoder import READY, SUBPROCESS_SECONDS, SUBPROCESS_SYNTAXES, Bounded
from pneumocam.image.errors import InternalError

_SIGKILL = 9

Array = NDArray[Any]

# libtiff writes to standard error what is wrong with a file, past all logging. Pillow has no word to stop it.
with suppress(AttributeError, OSError):
    _libtiff = ctypes.CDLL(_imaging.__file__)
    _libtiff.TIFFSetErrorHandler(None)
    _libtiff.TIFFSetWarningHandler(None)


class _Silenced:
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


silenced = _Silenced()


def only_frame(dataset: FileDataset) -> bytes:
    """The codestream of an encapsulated image."""
    frame: bytes = get_frame(Bounded(dataset.PixelData, steps=50_000), 0, number_of_frames=1)
    return frame


def stored_values(data: bytes, dataset: FileDataset) -> Array:
    """The image of a DICOM as it is stored, (H, W) or (H, W, 3); bounded in memory and time whatever the data."""
    syntax = dataset.file_meta.TransferSyntaxUID
    if syntax in SUBPROCESS_SYNTAXES:
        return _arrays_of_subprocess(data, "DICOM")[0]
    if syntax == uid.RLELossless:
        _unpack_rle(dataset)
    plugin = "pillow" if syntax in (uid.JPEGBaseline8Bit, uid.JPEGExtended12Bit) else ""
    values: Array = pixel_array(dataset, index=0, decoding_plugin=plugin)
    return values


def picture_values(data: bytes, file_format: str, max_pixels: int) -> tuple[list[int], Array]:
    """What `decoder` finds in a JPEG 2000, AVIF or HEIF, bounded in memory and time whatever the data.

    Returns:
        Width, height, number of pictures, whether it was turned, whether a pixel counts as `EXPENSIVE`; and the pixels,
        which are empty if there are too many or several pictures.
    """
    facts, values = _arrays_of_subprocess(data, file_format, str(max_pixels))
    return [int(fact) for fact in facts], values


def _arrays_of_subprocess(data: bytes, *arguments: str) -> list[Array]:
    """The arrays that `decoder`, run as a subprocess, makes of a file.

    Only what happens after the subprocess has said that it is ready is the image's doing.
    """
    environment = os.environ | {"OPENBLAS_NUM_THREADS": "1"}  # each thread's stack counts as address space
    try:
        child = subprocess.run(  # noqa: S603 - no shell
            [_interpreter(), "-P", "-W", "ignore", decoder.__file__, *arguments],
            input=data,
            capture_output=True,
            timeout=3 * SUBPROCESS_SECONDS,
            env=environment,
            check=False,
        )
    except (OSError, subprocess.SubprocessError):
        raise InternalError("The decoder of this image could not be run to its end. Try again later.") from None
    # The system kills with SIGKILL when memory is short; a decoder that aborts or meets its limits ends otherwise.
    if not child.stdout.startswith(READY) or child.returncode == -_SIGKILL:
        raise InternalError("The decoder of this image did not start, or the system ended it. Try again later.")
    if child.returncode:
        raise ValueError("The decoder failed.")
    output = io.BytesIO(child.stdout)
    output.seek(len(READY))
    arrays: list[Array] = []
    while output.tell() < len(child.stdout):
        arrays.append(np.load(output, allow_pickle=False))
    return arrays


def _interpreter() -> str:
    """The running Python, but in a frozen or embedding program, which would start itself again."""
    executable = sys.executable or ""
    if getattr(sys, "frozen", False) or not re.match("(python|pypy)", Path(executable).name, re.IGNORECASE):
        raise InternalError(
            "JPEG 2000, JPEG-LS, lossless JPEG, AVIF and HEIC are decoded by a Python interpreter, and this program "
            "has none at sys.executable. Run it with Python, or export the image as PNG."
        )
    return executable


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
