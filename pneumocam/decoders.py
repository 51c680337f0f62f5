"""pydicom, Pillow and GDCM, kept quiet, and apart where they can bring the process down.

Run as a script, this file decodes the DICOM on standard input by GDCM: so it imports nothing of this package, which
would load PyTorch.
"""

import io
import logging
import subprocess
import sys
import threading
import warnings
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

import numpy as np
from numpy.typing import NDArray
from pydicom import FileDataset, config, dcmread, uid
from pydicom.pixels.utils import pixel_array

GDCM_SYNTAXES = (uid.JPEGLossless, uid.JPEGLosslessSV1, uid.JPEGLSLossless, uid.JPEGLSNearLossless)
_DICOM_TAGS = [  # all of a DICOM that is ever parsed
    *("Modality", "NumberOfFrames", "SamplesPerPixel", "PhotometricInterpretation", "PlanarConfiguration", "Rows"),
    *("Columns", "BitsAllocated", "BitsStored", "HighBit", "PixelRepresentation", "WindowCenter", "WindowWidth"),
    *("VOILUTFunction", "VOILUTSequence", "RescaleIntercept", "RescaleSlope", "ModalityLUTSequence"),
    *("ExtendedOffsetTable", "ExtendedOffsetTableLengths", "PixelData"),
]
# Warning filters, log levels and pydicom's settings belong to the process, not to the thread.
_PROCESS_SETTINGS = threading.Lock()

Array = NDArray[Any]


@contextmanager
def quiet() -> Iterator[None]:
    """Hold back what the decoders would warn or log."""
    with ExitStack() as stack:
        stack.enter_context(_PROCESS_SETTINGS)
        stack.enter_context(warnings.catch_warnings())
        stack.enter_context(config.disable_value_validation())
        warnings.simplefilter("ignore")
        for logger in (logging.getLogger("pydicom"), logging.getLogger("PIL")):
            stack.callback(logger.setLevel, logger.level)
            logger.setLevel(logging.CRITICAL + 1)
        yield


def parse_dicom(data: bytes) -> FileDataset:
    dataset = dcmread(io.BytesIO(data), force=True, specific_tags=_DICOM_TAGS)
    if not dataset.file_meta.get("TransferSyntaxUID"):
        implicit, little_endian = dataset.original_encoding
        explicit = uid.ExplicitVRLittleEndian if little_endian else uid.ExplicitVRBigEndian
        dataset.file_meta.TransferSyntaxUID = uid.ImplicitVRLittleEndian if implicit else explicit
    # Pillow reads no 12-bit JPEG. GDCM does, going by the codestream's own header, but pydicom lets it only thus named.
    if dataset.file_meta.TransferSyntaxUID == uid.JPEGExtended12Bit and dataset.get("BitsStored") != 8:
        dataset.file_meta.TransferSyntaxUID = uid.JPEGLossless
    return dataset


def stored_values(data: bytes, dataset: FileDataset) -> Array:
    """The stored values; where that takes GDCM, by this file run as a script, since damaged data can make it abort."""
    syntax = dataset.file_meta.TransferSyntaxUID
    values: Array
    if syntax in GDCM_SYNTAXES:
        command = [sys.executable, "-P", "-W", "ignore", __file__]
        child = subprocess.run(command, input=data, capture_output=True, timeout=60, check=True)  # noqa: S603 - no shell
        values = np.load(io.BytesIO(child.stdout), allow_pickle=False)
        return values
    with quiet():
        plugin = "pillow" if syntax.is_encapsulated and syntax != uid.RLELossless else ""
        values = pixel_array(dataset, index=0, decoding_plugin=plugin)
        return values


if __name__ == "__main__":
    npy = io.BytesIO()
    np.save(npy, pixel_array(parse_dicom(sys.stdin.buffer.read()), index=0, decoding_plugin="gdcm"))
    sys.stdout.buffer.write(npy.getvalue())
