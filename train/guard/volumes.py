"""Slices and projections of CT and MR volumes, and DICOM images, as pictures."""

import gzip
import io
import plistlib
import struct
import tarfile
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pydicom
from numpy.typing import NDArray
from PIL import Image
from scipy.ndimage import rotate

NIFTI_TYPES = {2: "u1", 4: "<i2", 8: "<i4", 16: "<f4", 512: "<u2"}
SIDE = 400  # px, of the longer side of a slice
WATER = 0.02  # attenuation of a millimetre of water at about 60 keV

Floats = NDArray[np.floating]


def picture_from(data: bytes) -> Image.Image:
    """An encoded picture in RGB."""
    return Image.open(io.BytesIO(data)).convert("RGB")


def dicom_images(files: list[Path]) -> Iterator[Image.Image]:
    """The pixels of DICOM files from their smallest to their largest value, at twice their size."""
    for file in files:
        pixels = pydicom.dcmread(file).pixel_array
        yield _grey(pixels, (pixels.shape[1] * 2, pixels.shape[0] * 2))


def nifti_slices(files: list[Path]) -> Iterator[Image.Image]:
    """Slices through the middle two thirds of NIfTI volumes, in three directions, the head up."""
    for file in files:
        data = gzip.decompress(file.read_bytes())
        shape = struct.unpack("<8h", data[40:56])[1:4]
        code, offset = struct.unpack("<h", data[70:72])[0], int(struct.unpack("<f", data[108:112])[0])
        spacing = struct.unpack("<8f", data[76:108])[1:4]
        count = int(np.prod(shape))
        flat = np.frombuffer(data, NIFTI_TYPES[code], count, offset)
        yield from _slices(flat.reshape(shape, order="F").transpose(2, 1, 0)[::-1], spacing[::-1])


def ct_slices(files: list[Path]) -> Iterator[Image.Image]:
    """Slices of CT volumes of InVesalius in three directions, in windows for soft tissue, bone and air in turn."""
    windows = ((-160, 240), (-400, 1400), (-1350, 150))
    for file in files:
        volume, spacing = _invesalius(file)
        for number, (low, high) in enumerate(windows):
            yield from list(_slices(np.clip(volume, low, high), spacing))[number::3]


def ct_projections(files: list[Path]) -> Iterator[Image.Image]:
    """Radiographs computed from CT volumes of InVesalius: sums along rays from every side, tilted a little."""
    rng = np.random.default_rng(0)
    for file in files:
        volume, spacing = _invesalius(file)
        attenuation = WATER * (1 + np.clip(volume[:, ::2, ::2], -1000, 3000) / 1000)
        for turn in range(150):
            turned = rotate(attenuation, turn * 2.4, axes=(1, 2), reshape=False, order=1)
            tilted = rotate(turned, rng.uniform(-15, 15), axes=(0, 1), reshape=False, order=1)
            depth = tilted.sum(1) * 2 * spacing[1]
            size = round(depth.shape[1] * 2 * spacing[2]), round(depth.shape[0] * spacing[0])
            scale = SIDE / max(size)
            yield _grey(1 - np.exp(-depth * rng.uniform(0.3, 1)), (round(size[0] * scale), round(size[1] * scale)))


def _invesalius(file: Path) -> tuple[Floats, tuple[float, ...]]:
    """Volume `(D, H, W)` in Hounsfield units, the head up, and its spacing in mm, from a project of InVesalius 3."""
    with tarfile.open(file) as archive:
        members = {Path(member.name).name: member for member in archive.getmembers()}

        def read(name: str) -> bytes:
            part = archive.extractfile(members[name])
            return part.read() if part else b""

        facts = plistlib.loads(read("main.plist"))
        matrix = facts["matrix"]
        volume = np.frombuffer(read(matrix["filename"]), matrix["dtype"]).reshape(matrix["shape"])
    x, y, z = facts["spacing"]
    return volume[::-1].astype(np.float32), (z, y, x)


def _slices(volume: Floats, spacing: tuple[float, ...]) -> Iterator[Image.Image]:
    for axis in range(3):
        count = volume.shape[axis]
        height, width = (volume.shape[i] * spacing[i] for i in range(3) if i != axis)
        scale = SIDE / max(height, width)
        for place in range(count // 6, count - count // 6):
            yield _grey(volume.take([place], axis).squeeze(axis), (round(width * scale), round(height * scale)))


def _grey(values: Floats, size: tuple[int, int]) -> Image.Image:
    low, high = np.quantile(values, (0.002, 0.998))
    pixels = np.clip((values - low) / (high - low + 1e-6) * 255, 0, 255).astype(np.uint8)
    return Image.fromarray(pixels).resize(size, Image.Resampling.BICUBIC)
