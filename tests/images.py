"""Synthetic images, and files of every format that hold them, for the tests."""

import io
import struct
import zlib
from pathlib import Path
from typing import Any

import gdcm
import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image
from pydicom import uid
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.encaps import encapsulate

from pneumocam.image import (
    RadiographError,
    load_radiograph,
)

Array = NDArray[Any]
SECRET = "Roentgen^Anna"


def greys(bits: int = 8, height: int = 96, width: int = 80) -> Array:
    """A gradient with a brighter disc in it, over the full range of `bits`; no two orientations look alike."""
    y, x = np.mgrid[0:height, 0:width]
    levels = 0.5 * x / width + 0.3 * y / height + 0.2 * ((x - 50) ** 2 + (y - 30) ** 2 < 400)
    levels = (levels - levels.min()) / np.ptp(levels)
    grey: Array = np.rint(levels * (2**bits - 1))
    return grey.astype(np.uint8 if bits <= 8 else np.uint16)


GREYS = greys()
GREYS_8_OF_12 = np.rint(greys(12) * (255 / 4095)).astype(np.uint8)


def encode(picture: Array | Image.Image, file_format: str, **options: Any) -> bytes:
    buffer = io.BytesIO()
    (picture if isinstance(picture, Image.Image) else Image.fromarray(picture)).save(buffer, file_format, **options)
    return buffer.getvalue()


def chunk(name: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))


def png(samples: Array, colour_type: int, size: tuple[int, int] | None = None) -> bytes:
    """A PNG of any depth and colour type, (H, W, C) samples, which Pillow itself cannot write."""
    height, width = samples.shape[:2]
    depth = 8 * samples.dtype.itemsize
    rows = samples.astype(samples.dtype.newbyteorder(">")).reshape(height, -1)
    header = struct.pack(">IIBBBBB", *(size or (width, height)), depth, colour_type, 0, 0, 0)
    body = zlib.compress(b"".join(b"\0" + row.tobytes() for row in rows))
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", body) + chunk(b"IEND", b"")


def tiff16_big_endian(pixels: Array, size: tuple[int, int] | None = None) -> bytes:
    width, height = size or pixels.shape[::-1]
    tags = [
        (256, width),
        (257, height),
        (258, 16),
        (259, 1),
        (262, 1),
        (273, 8 + 2 + 8 * 12 + 4),
        (277, 1),
        (278, height),
    ]
    entries = b"".join(struct.pack(">HHII", tag, 4, 1, value) for tag, value in tags)
    return b"MM\0*" + struct.pack(">IH", 8, len(tags)) + entries + bytes(4) + pixels.astype(">u2").tobytes()


def dicom(pixels: Array, bits: int = 0, **tags: Any) -> Dataset:
    """An uncompressed radiograph, with more tags on top; PatientName is `SECRET`."""
    dataset = Dataset()
    dataset.file_meta = FileMetaDataset()
    dataset.file_meta.TransferSyntaxUID = uid.ExplicitVRLittleEndian
    dataset.file_meta.MediaStorageSOPClassUID = dataset.SOPClassUID = uid.DigitalXRayImageStorageForPresentation
    dataset.file_meta.MediaStorageSOPInstanceUID = dataset.SOPInstanceUID = uid.UID("1.2.826.0.1.3680043.2")
    dataset.Modality, dataset.PatientName, dataset.PatientID = "DX", SECRET, SECRET
    dataset.Rows, dataset.Columns = pixels.shape[:2]
    dataset.SamplesPerPixel = 1 if pixels.ndim == 2 else 3
    dataset.PhotometricInterpretation = "MONOCHROME2" if pixels.ndim == 2 else "RGB"
    if pixels.ndim == 3:
        dataset.PlanarConfiguration = 0
    dataset.BitsAllocated = 8 * pixels.dtype.itemsize
    dataset.BitsStored = bits or dataset.BitsAllocated
    dataset.HighBit = dataset.BitsStored - 1
    dataset.PixelRepresentation = int(pixels.dtype.kind == "i")
    dataset.PixelData = pixels.tobytes()
    dataset["PixelData"].VR = "OB" if pixels.dtype.itemsize == 1 else "OW"
    for keyword, value in tags.items():
        setattr(dataset, keyword, value)
    return dataset


def saved(dataset: Dataset) -> bytes:
    buffer = io.BytesIO()
    dataset.save_as(buffer, enforce_file_format=True)
    return buffer.getvalue()


def by_gdcm(pixels: Array, bits: int, syntax: int, folder: Path) -> bytes:
    (folder / "plain.dcm").write_bytes(saved(dicom(pixels, bits)))
    reader, change, writer = gdcm.ImageReader(), gdcm.ImageChangeTransferSyntax(), gdcm.ImageWriter()
    reader.SetFileName(str(folder / "plain.dcm"))
    assert reader.Read()
    change.SetTransferSyntax(gdcm.TransferSyntax(syntax))
    change.SetInput(reader.GetImage())
    assert change.Change()
    writer.SetFileName(str(folder / "packed.dcm"))
    writer.SetFile(reader.GetFile())
    writer.SetImage(change.GetOutput())
    assert writer.Write()
    return (folder / "packed.dcm").read_bytes()


def encapsulated(codestream: bytes, syntax: str, pixels: Array, bits: int = 0, **tags: Any) -> bytes:
    dataset = dicom(pixels, bits, **tags)
    dataset.PixelData = encapsulate([codestream])
    dataset["PixelData"].VR = "OB"
    dataset.file_meta.TransferSyntaxUID = uid.UID(syntax)
    return saved(dataset)


def compressed(pixels: Array, syntax: str, bits: int = 0, **options: Any) -> bytes:
    dataset = dicom(pixels, bits)
    dataset.compress(syntax, generate_instance_uid=False, **options)
    return saved(dataset)


def refused(source: Any, kind: type[RadiographError], code: str, *said: str, **limits: int) -> RadiographError:
    with pytest.raises(RadiographError) as caught:
        load_radiograph(source, **limits)
    error = caught.value
    assert type(error) is kind
    assert (error.code, str(error)) == (code, error.message)
    assert error.__cause__ is None
    assert error.__context__ is None
    for words in said:
        assert words in error.message
    return error
