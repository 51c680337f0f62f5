"""The part of image reading that also runs as a subprocess, which decodes what can end or fill a process.

As a script it reads a file from standard input, and writes `READY` and NumPy arrays to standard output: of a DICOM the
pixel values, of other formats what `_picture` gives. It imports nothing of this package, which would load PyTorch.

    python decoder.py DICOM
    python decoder.py JPEG2000|AVIF|HEIF MAX_PIXELS
"""

import io
import sys
from contextlib import suppress
from typing import TYPE_CHECKING

import numpy as np
from PIL import AvifImagePlugin, ExifTags, Image, ImageOps

if TYPE_CHECKING:
    from pydicom import FileDataset  # its import takes a third of a second, and most images are no DICOM

READY = b"ready\n"  # on standard output as soon as all is there that decoding needs

# GDCM aborts on damaged data, and OpenJPEG takes gigabytes and minutes for a header of 200 bytes.
JPEG_2000_SYNTAXES = ("1.2.840.10008.1.2.4.90", "1.2.840.10008.1.2.4.91")
JPEG_LS_SYNTAXES = ("1.2.840.10008.1.2.4.80", "1.2.840.10008.1.2.4.81")
LOSSLESS_JPEG_SYNTAXES = ("1.2.840.10008.1.2.4.57", "1.2.840.10008.1.2.4.70")
SUBPROCESS_SYNTAXES = (*LOSSLESS_JPEG_SYNTAXES, *JPEG_LS_SYNTAXES, *JPEG_2000_SYNTAXES)
SUBPROCESS_BYTES = 1 << 30  # of address space; 64 megapixels of 16 bits take 0.6 GB
SUBPROCESS_SECONDS = 20  # of CPU; those take about 3

DICOM_TAGS = [  # all of a DICOM that is ever parsed
    *("SOPClassUID", "Modality", "NumberOfFrames", "SamplesPerPixel", "PhotometricInterpretation"),
    *("PlanarConfiguration", "Rows", "Columns", "BitsAllocated", "BitsStored", "HighBit", "PixelRepresentation"),
    *("PixelPaddingValue", "PixelPaddingRangeLimit", "RescaleIntercept", "RescaleSlope", "ModalityLUTSequence"),
    *("WindowCenter", "WindowWidth", "VOILUTFunction", "VOILUTSequence"),
    *("ExtendedOffsetTable", "ExtendedOffsetTableLengths", "PixelData"),
]


class Bounded(io.BytesIO):
    """An upload that can be read in a limited number of steps.

    Decoders iterate over all parts of a file in Python: a million empty parts take minutes.
    """

    def __init__(self, data: bytes, steps: int) -> None:
        super().__init__(data)
        self.steps = steps

    def read(self, size: int | None = -1, /) -> bytes:
        self.steps -= 1
        if self.steps < 0:
            raise ValueError("The upload consists of far more parts than a picture.")
        return super().read(size)


def parse_dicom(data: bytes) -> "tuple[FileDataset, list[str]]":
    """The dataset of a DICOM, of `DICOM_TAGS` alone, and the steps in words that filled in what was missing."""
    from pydicom import dcmread, uid

    dataset = dcmread(Bounded(data, steps=50_000), force=True, specific_tags=DICOM_TAGS)
    if not dataset.file_meta.get("TransferSyntaxUID"):
        implicit, little_endian = dataset.original_encoding
        explicit = uid.ExplicitVRLittleEndian if little_endian else uid.ExplicitVRBigEndian
        dataset.file_meta.TransferSyntaxUID = uid.ImplicitVRLittleEndian if implicit else explicit
    steps = _fill_in(dataset)
    # Pillow reads no 12-bit JPEG. GDCM does, going by the codestream's own header, but pydicom lets it only thus named.
    if dataset.file_meta.TransferSyntaxUID == uid.JPEGExtended12Bit and dataset.get("BitsStored") != 8:
        dataset.file_meta.TransferSyntaxUID = uid.JPEGLossless
    return dataset, steps


def _fill_in(dataset: "FileDataset") -> list[str]:
    """Give the required elements that are missing or empty their one sane value."""
    steps: list[str] = []

    def fill_in(keyword: str, value: int | str) -> None:
        if dataset.get(keyword) in (None, "", b""):
            setattr(dataset, keyword, value)
            steps.append(f"{keyword} is missing, read as {value}")

    space = str(dataset.get("PhotometricInterpretation") or "").strip().upper()
    coloured = space.startswith(("RGB", "YBR")) or (not space and "PlanarConfiguration" in dataset)
    fill_in("SamplesPerPixel", 3 if coloured else 1)
    fill_in("PhotometricInterpretation", "RGB" if dataset.SamplesPerPixel == 3 else "MONOCHROME2")
    fill_in("PixelRepresentation", 0)
    if dataset.SamplesPerPixel == 3:
        fill_in("PlanarConfiguration", 0)
    high, allocated = dataset.get("HighBit"), dataset.get("BitsAllocated")
    if isinstance(allocated, int):
        fill_in("BitsStored", high + 1 if isinstance(high, int) and 0 < high < allocated else allocated)
        fill_in("HighBit", dataset.BitsStored - 1)
    return steps


def _decoded(dataset: "FileDataset") -> np.ndarray:
    """The pixel values, by the first of the decoders that reads them."""
    from pydicom.pixels.utils import pixel_array

    syntax = dataset.file_meta.TransferSyntaxUID
    plugins = ["gdcm"]
    if syntax in JPEG_2000_SYNTAXES:
        plugins = ["pillow", "gdcm"]
    elif syntax in JPEG_LS_SYNTAXES:
        plugins = ["gdcm", "pyjpegls"]  # GDCM does not read 6 and 7 bits
    for plugin in plugins:
        with suppress(Exception):
            return pixel_array(dataset, index=0, decoding_plugin=plugin)
    raise ValueError("No decoder reads the pixel data.")


def _picture(data: bytes, file_format: str, max_pixels: int) -> tuple[np.ndarray, np.ndarray]:
    """Width, height, number of pictures, whether it is turned, and whether a pixel counts as several; and the pixels.

    The pixels, (H, W) uint8 or uint16 or (H, W, C) uint8, are empty if there are too many or several pictures.
    """
    picture = Image.open(io.BytesIO(data), formats=[file_format])
    expensive = file_format != "JPEG2000" or len(picture.getbands()) > 1
    frames, (width, height) = getattr(picture, "n_frames", 1), picture.size
    turned = picture.getexif().get(ExifTags.Base.Orientation, 1) in range(2, 9)
    facts = np.array([width, height, frames, turned, expensive])
    if frames > 1 or width * height > max_pixels // (4 if expensive else 1):
        return facts, np.empty(0, np.uint8)
    upright = ImageOps.exif_transpose(picture)
    if upright.mode not in ("L", "LA", "RGB", "RGBA", "I;16"):
        upright = upright.convert("RGBA" if upright.has_transparency_data else "RGB")
    return facts, np.asarray(upright)


def _prepare(file_format: str) -> None:
    """Load the decoder: one that is missing is not the image's fault, so this comes before `READY`."""
    if file_format == "DICOM":
        sys.modules["requests"] = None  # type: ignore[assignment] # pydicom would import it, for files it never gets
        import gdcm  # noqa: F401
        import pydicom.pixels.utils  # noqa: F401
    elif file_format == "HEIF":
        import pillow_heif

        pillow_heif.register_heif_opener(thumbnails=False)
        pillow_heif.options.DECODE_THREADS = 1
    AvifImagePlugin.DEFAULT_MAX_THREADS = 1


def _main(file_format: str = "DICOM", max_pixels: str = "0") -> None:
    with suppress(ImportError):  # on Windows, where only the time is bounded, by the parent
        import resource

        for kind, limit in ((resource.RLIMIT_AS, SUBPROCESS_BYTES), (resource.RLIMIT_CPU, SUBPROCESS_SECONDS)):
            allowed = resource.getrlimit(kind)[1]
            soft = limit if allowed == resource.RLIM_INFINITY else min(limit, allowed)
            resource.setrlimit(kind, (soft, allowed))
    _prepare(file_format)
    data = sys.stdin.buffer.read()
    sys.stdout.buffer.write(READY)
    sys.stdout.buffer.flush()
    dicom = file_format == "DICOM"
    for values in [_decoded(parse_dicom(data)[0])] if dicom else _picture(data, file_format, int(max_pixels)):
        np.save(sys.stdout.buffer, values)


if __name__ == "__main__":
    _main(*sys.argv[1:])
