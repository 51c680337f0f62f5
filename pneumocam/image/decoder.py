"""The part of image reading that also runs as a subprocess, which decodes what can end or fill a process.

As a script it reads a DICOM from standard input and writes `READY` and the pixel values to standard output. It imports
nothing of this package, which would load PyTorch.
"""

import io
import sys
from contextlib import suppress

import numpy as np
from pydicom import FileDataset, dcmread, uid
from pydicom.pixels.utils import pixel_array

READY = b"ready\n"  # on standard output as soon as all is there that decoding needs

# GDCM aborts on damaged data, and OpenJPEG takes gigabytes and minutes for a header of 200 bytes.
GDCM_SYNTAXES = (uid.JPEGLossless, uid.JPEGLosslessSV1, uid.JPEGLSLossless, uid.JPEGLSNearLossless)
SUBPROCESS_SYNTAXES = (*GDCM_SYNTAXES, uid.JPEG2000Lossless, uid.JPEG2000)
SUBPROCESS_BYTES = 1 << 30  # of address space; 64 megapixels of 16 bits take 0.6 GB
SUBPROCESS_SECONDS = 20  # of CPU; those take about 3

DICOM_TAGS = [  # all of a DICOM that is ever parsed
    *("Modality", "NumberOfFrames", "SamplesPerPixel", "PhotometricInterpretation", "PlanarConfiguration", "Rows"),
    *("Columns", "BitsAllocated", "BitsStored", "HighBit", "PixelRepresentation", "WindowCenter", "WindowWidth"),
    *("VOILUTFunction", "VOILUTSequence", "RescaleIntercept", "RescaleSlope", "ModalityLUTSequence"),
    *("ExtendedOffsetTable", "ExtendedOffsetTableLengths", "PixelData"),
]


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


def parse_dicom(data: bytes) -> FileDataset:
    """The dataset of a DICOM, of `DICOM_TAGS` alone, its transfer syntax filled in."""
    dataset = dcmread(Bounded(data, steps=50_000), force=True, specific_tags=DICOM_TAGS)
    if not dataset.file_meta.get("TransferSyntaxUID"):
        implicit, little_endian = dataset.original_encoding
        explicit = uid.ExplicitVRLittleEndian if little_endian else uid.ExplicitVRBigEndian
        dataset.file_meta.TransferSyntaxUID = uid.ImplicitVRLittleEndian if implicit else explicit
    # Pillow reads no 12-bit JPEG. GDCM does, going by the codestream's own header, but pydicom lets it only thus named.
    if dataset.file_meta.TransferSyntaxUID == uid.JPEGExtended12Bit and dataset.get("BitsStored") != 8:
        dataset.file_meta.TransferSyntaxUID = uid.JPEGLossless
    return dataset


def _main() -> None:
    with suppress(ImportError):  # on Windows, where only the time is bounded, by the parent
        import resource

        for kind, limit in ((resource.RLIMIT_AS, SUBPROCESS_BYTES), (resource.RLIMIT_CPU, SUBPROCESS_SECONDS)):
            allowed = resource.getrlimit(kind)[1]
            soft = limit if allowed == resource.RLIM_INFINITY else min(limit, allowed)
            resource.setrlimit(kind, (soft, allowed))
    import gdcm  # noqa: F401 - a decoder that is missing is not the image's fault, so it is found out first

    data = sys.stdin.buffer.read()
    sys.stdout.buffer.write(READY)
    sys.stdout.buffer.flush()
    dataset = parse_dicom(data)
    plugin = "gdcm" if dataset.file_meta.TransferSyntaxUID in GDCM_SYNTAXES else "pillow"
    np.save(sys.stdout.buffer, pixel_array(dataset, index=0, decoding_plugin=plugin))


if __name__ == "__main__":
    _main()
