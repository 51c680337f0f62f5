"""The pixel data of a DICOM as it is stored, bounded in memory and time."""

import struct
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from pydicom import FileDataset, uid
from pydicom.encaps import get_frame
from pydicom.pixels.utils import pixel_array

from pneumocam.image.decoder import SUBPROCESS_SYNTAXES, Bounded
from pneumocam.image.sandbox import arrays_of_subprocess

Array = NDArray[Any]


def only_frame(dataset: FileDataset) -> bytes:
    """The codestream of an encapsulated image."""
    frame: bytes = get_frame(Bounded(dataset.PixelData, steps=50_000), 0, number_of_frames=1)
    return frame


def stored_values(data: bytes, dataset: FileDataset) -> Array:
    """The image of a DICOM as it is stored, (H, W) or (H, W, 3); bounded in memory and time whatever the data."""
    syntax = dataset.file_meta.TransferSyntaxUID
    if syntax in SUBPROCESS_SYNTAXES:
        return arrays_of_subprocess(data, "DICOM")[0]
    if syntax == uid.RLELossless:
        _unpack_rle(dataset)
    plugin = "pillow" if syntax in (uid.JPEGBaseline8Bit, uid.JPEGExtended12Bit) else ""
    values: Array = pixel_array(dataset, index=0, decoding_plugin=plugin)
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
