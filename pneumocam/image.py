"""Any upload -> a checked 8-bit grayscale radiograph.

    RadiographError (ValueError)     code
      NotAnImage                     not_an_image         nothing that is read here
      DamagedImage                   damaged_image        truncated or corrupt
      TooLarge                       too_large            bytes or pixels
      TooSmall                       too_small            a side under 64 pixels
      MultiFrame                     multi_frame          animated, multi-page or multi-frame
      NotARadiograph                 not_a_radiograph     DICOM without pixels, or of another modality
      UnsupportedDicom               unsupported_dicom    DICOM in an encoding that is not read here
      Blank                          blank                nearly one grey level everywhere

A DICOM's patient, dates and identifiers are never parsed, and nothing of it is logged, warned or quoted.
"""

# ruff: noqa: N818 - an exception here is named by what is wrong, and its base says Error.

import io
import logging
import os
import re
import struct
import subprocess
import sys
import threading
import warnings
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, BinaryIO, ClassVar

import numpy as np
from numpy.typing import NDArray
from PIL import ExifTags, Image, ImageOps
from pydicom import FileDataset, config, dcmread, uid
from pydicom.encaps import get_frame
from pydicom.pixels.processing import apply_modality_lut, apply_voi, apply_windowing
from pydicom.pixels.utils import pixel_array

MIN_SIDE = 64
MODALITIES = ("CR", "DX", "RG", "OT")

_ACCEPTED = "Accepted are JPEG, PNG, TIFF, BMP, WebP, single-frame GIF and DICOM"
_SIGNATURE = re.compile(
    rb"(?P<JPEG>\xff\xd8\xff)|(?P<PNG>\x89PNG)|(?P<TIFF>II[*+]\x00|MM\x00[*+])|(?P<BMP>BM)|(?P<WEBP>RIFF....WEBP)|"
    rb"(?P<GIF>GIF8)",
    re.DOTALL,
)
_DICOM_WITHOUT_PREAMBLE = re.compile(
    rb"[\x02\x08]\x00[\x00-\x18]\x00(?:[A-Z]{2}|..\x00\x00)|\x00\x08\x00[\x00-\x18][A-Z]{2}", re.DOTALL
)
# Only these may be named to the reader: any other value of the tag could be anything, a name included.
_OTHER_MODALITIES = ("CT", "DOC", "ECG", "ES", "IO", "MG", "MR", "NM", "PT", "PX", "RF", "SEG", "SR", "US", "XA", "XC")
_DICOM_TAGS = [  # all of a DICOM that is ever parsed
    *("Modality", "NumberOfFrames", "SamplesPerPixel", "PhotometricInterpretation", "PlanarConfiguration", "Rows"),
    *("Columns", "BitsAllocated", "BitsStored", "HighBit", "PixelRepresentation", "WindowCenter", "WindowWidth"),
    *("VOILUTFunction", "VOILUTSequence", "RescaleIntercept", "RescaleSlope", "ModalityLUTSequence"),
    *("ExtendedOffsetTable", "ExtendedOffsetTableLengths", "PixelData"),
]
_GDCM_SYNTAXES = (uid.JPEGLossless, uid.JPEGLosslessSV1, uid.JPEGLSLossless, uid.JPEGLSNearLossless)
_DICOM_SYNTAXES = (
    *(uid.ImplicitVRLittleEndian, uid.ExplicitVRLittleEndian, uid.ExplicitVRBigEndian, uid.RLELossless),
    *(uid.JPEGBaseline8Bit, uid.JPEGExtended12Bit, uid.JPEG2000Lossless, uid.JPEG2000, *_GDCM_SYNTAXES),
)
_JPEG_FRAME_MARKERS = {*range(0xC0, 0xD0), 0xF7} - {0xC4, 0xC8, 0xCC}
_FULL_SCALES = (255, 1023, 4095, 16383, 65535)
# Warning filters, log levels and pydicom's settings belong to the process, not to the thread.
_PROCESS_SETTINGS = threading.Lock()

Array = NDArray[Any]
Source = str | os.PathLike[str] | bytes | BinaryIO | Image.Image | Array
Decoded = tuple[NDArray[np.uint8], str, list[str]]  # pixels (H, W), source format, steps


class RadiographError(ValueError):
    """An upload that cannot be used as a radiograph.

    Attributes:
        code: snake_case name of the cause, the same in Python, CLI and API.
        message: what came, what is accepted, and the remedy; free of file names and DICOM values.
    """

    code: ClassVar[str] = "radiograph_error"

    def __init__(self, message: str) -> None:
        super().__init__(message)
        self.message = message


class NotAnImage(RadiographError):
    code = "not_an_image"


class DamagedImage(RadiographError):
    code = "damaged_image"


class TooLarge(RadiographError):
    code = "too_large"


class TooSmall(RadiographError):
    code = "too_small"


class MultiFrame(RadiographError):
    code = "multi_frame"


class NotARadiograph(RadiographError):
    code = "not_a_radiograph"


class UnsupportedDicom(RadiographError):
    code = "unsupported_dicom"


class Blank(RadiographError):
    code = "blank"


@dataclass(frozen=True, eq=False)
class Radiograph:
    """A checked grayscale film, without anything about the patient.

    Attributes:
        pixels: (H, W) uint8 in 0..255, read-only, upright; brighter is denser ("bone white").
        source_format: what it was read from: "JPEG", "MPO", "PNG", "TIFF", "BMP", "WEBP", "GIF", "DICOM", "PIL",
            "array".
        steps: what was done to get there, in order and in words; empty when the pixels are as they came.
    """

    pixels: NDArray[np.uint8] = field(repr=False)
    source_format: str
    steps: tuple[str, ...]

    @property
    def width(self) -> int:
        return int(self.pixels.shape[1])

    @property
    def height(self) -> int:
        return int(self.pixels.shape[0])

    def to_pil(self) -> Image.Image:
        """A copy of the film as a Pillow image of mode "L"."""
        return Image.fromarray(self.pixels)


def load_radiograph(source: Source, *, max_bytes: int = 20_000_000, max_pixels: int = 64_000_000) -> Radiograph:
    """Read one film from a path, encoded bytes, a binary stream, a Pillow image or an array.

    Bytes and pixels are bounded before anything is decoded. Safe to call from several threads.

    Args:
        source: JPEG, PNG, TIFF, BMP, WebP, GIF or DICOM as path, bytes or stream (read from where it stands, and not
            closed); a Pillow image; or an array, (H, W) uint8, uint16 or float, or (H, W, 3 or 4) uint8 RGB(A).
        max_bytes: most encoded bytes that are read.
        max_pixels: most pixels, width times height, that are decoded.

    Returns:
        The film as 8-bit grayscale, upright, brighter where denser.

    Raises:
        RadiographError: one of its subclasses, if this is not one whole, readable, large enough film.
        OSError: if a path cannot be opened (FileNotFoundError, IsADirectoryError, PermissionError).
    """
    if isinstance(source, np.ndarray):
        decoded = _from_array(source, max_pixels)
    elif isinstance(source, Image.Image):
        decoded = _guarded(_from_picture, source, max_pixels, what=source.format or "PIL")
    else:
        data = _read(source, max_bytes)
        if data[128:132] == b"DICM" or _DICOM_WITHOUT_PREAMBLE.match(data):
            decoded = _guarded(_from_dicom, data, max_pixels, what="DICOM")
        elif signature := _SIGNATURE.match(data):
            decoded = _guarded(_from_encoded, data, str(signature.lastgroup), max_pixels, what=signature.lastgroup)
        else:
            raise NotAnImage(f"The upload is no picture that is known here. {_ACCEPTED}; save it as PNG.")
    pixels, source_format, steps = decoded
    _check_contrast(pixels)
    pixels.setflags(write=False)
    return Radiograph(pixels, source_format, tuple(steps))


def _read(source: str | os.PathLike[str] | bytes | BinaryIO, max_bytes: int) -> bytes:
    if isinstance(source, str | os.PathLike):
        path = Path(source)
        if path.stat().st_size > max_bytes:
            raise _too_many_bytes(max_bytes)
        with path.open("rb") as stream:
            return _read(stream, max_bytes)
    data = source if isinstance(source, bytes) else _read_stream(source, max_bytes)
    if not data:
        raise NotAnImage(f"The upload is empty. {_ACCEPTED}; choose the file again.")
    if len(data) > max_bytes:
        raise _too_many_bytes(max_bytes)
    return data


def _read_stream(stream: BinaryIO, max_bytes: int) -> bytes:
    """At most `max_bytes` + 1 bytes, however few a raw stream hands over at a time."""
    data = bytearray()
    while len(data) <= max_bytes:
        chunk = stream.read(max_bytes + 1 - len(data)) if hasattr(stream, "read") else None
        if not isinstance(chunk, bytes):
            kind = type(stream).__name__
            raise NotAnImage(f"A {kind} came, and no bytes can be read from it. {_ACCEPTED}, opened in binary mode.")
        if not chunk:
            break
        data += chunk
    return bytes(data)


def _too_many_bytes(max_bytes: int) -> TooLarge:
    return TooLarge(
        f"The file has more than the {max_bytes:,} bytes that are accepted. Export it at a lower resolution or "
        "compress it as JPEG."
    )


def _check_size(width: int, height: int, max_pixels: int) -> None:
    if width * height > max_pixels:
        raise TooLarge(
            f"The picture claims {width} x {height} pixels; at most {max_pixels:,} pixels in all are accepted. "
            "Export it at a lower resolution."
        )
    if min(width, height) < MIN_SIDE:
        raise TooSmall(
            f"The picture is {width} x {height} pixels; each side needs at least {MIN_SIDE}. Upload the original "
            "film, not a thumbnail."
        )


def _check_contrast(pixels: NDArray[np.uint8]) -> None:
    counts = np.cumsum(Image.fromarray(pixels).histogram())
    low, high = np.searchsorted(counts, (0.01 * pixels.size, 0.99 * pixels.size))
    if high - low < 4:
        raise Blank(
            f"The picture is blank: nearly every pixel is at grey level {low} of 255, and a film needs contrast. "
            "Check the export, or the display window of the file."
        )


def _guarded(decode: Callable[..., Decoded], *args: object, what: str | None) -> Decoded:
    """Let no decoder's own exception out: what it says can quote the file."""
    failure: RadiographError
    try:
        return decode(*args)
    except (RadiographError, MemoryError):
        raise
    except Image.DecompressionBombError:
        failure = TooLarge(f"The {what} claims far more pixels than are accepted. Export it at a lower resolution.")
    except Exception:
        failure = DamagedImage(
            f"The {what} is truncated or damaged, or of a rare variant, and cannot be decoded. Export it again, or "
            "save the picture as PNG."
        )
    # Raised out here so that __context__ keeps nothing of the decoder's words either.
    raise failure


@contextmanager
def _quiet() -> Iterator[None]:
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


def _from_array(array: Array, max_pixels: int) -> Decoded:
    plane = array.ndim == 2 and (array.dtype.kind == "f" or array.dtype.newbyteorder("=") in (np.uint8, np.uint16))
    if not plane and not (array.ndim == 3 and array.shape[2] in (3, 4) and array.dtype == np.uint8):
        raise NotAnImage(
            f"An array of shape {array.shape} and dtype {array.dtype} came. Accepted are (H, W) uint8, uint16 or "
            "float, and (H, W, 3 or 4) uint8; convert it."
        )
    _check_size(array.shape[1], array.shape[0], max_pixels)
    pixels, steps = _to_uint8(array) if plane else _flatten(Image.fromarray(array))
    return pixels, "array", steps


def _from_encoded(data: bytes, file_format: str, max_pixels: int) -> Decoded:
    with _quiet():
        picture = Image.open(io.BytesIO(data), formats=[file_format])
    return _from_picture(picture, max_pixels, data)


def _from_picture(picture: Image.Image, max_pixels: int, data: bytes = b"") -> Decoded:
    with _quiet():
        # The further pictures of a phone's MPO are previews and depth maps of the first.
        if getattr(picture, "is_animated", False) and picture.format != "MPO":
            raise MultiFrame(
                f"The {picture.format} holds several pictures; one film is accepted at a time. Save the one you mean "
                "as a file of its own."
            )
        _check_size(*picture.size, max_pixels)
        came_turned = _orientation(picture) > 1
        deep = _read_deep(data, picture.format) if data and picture.format in ("PNG", "TIFF") else None
    picture.load()
    pixels, steps = _grey(picture, deep)
    # Pillow has turned a TIFF by now, and then no longer says that it needs turning.
    if (orientation := _orientation(picture)) > 1:
        film = Image.fromarray(pixels)
        film.getexif()[ExifTags.Base.Orientation] = orientation
        pixels = np.array(ImageOps.exif_transpose(film))
    if came_turned:
        steps.append("rotated by EXIF orientation")
    return pixels, picture.format or "PIL", steps


def _orientation(picture: Image.Image) -> int:
    value = picture.getexif().get(ExifTags.Base.Orientation)
    return value if isinstance(value, int) and 1 <= value <= 8 else 1


def _grey(picture: Image.Image, deep: Array | None) -> tuple[NDArray[np.uint8], list[str]]:
    if deep is not None:
        return _flatten_deep(deep)
    if picture.mode not in ("I", "F") and not picture.mode.startswith("I;16"):
        return _flatten(picture)
    pixels, steps = _to_uint8(np.asarray(picture))
    # Pillow turns WhiteIsZero over for up to 8 bits only.
    if getattr(picture, "tag_v2", {}).get(ExifTags.Base.PhotometricInterpretation) == 0:
        return 255 - pixels, [*steps, "inverted (WhiteIsZero)"]
    return pixels, steps


def _read_deep(data: bytes, file_format: str) -> Array | None:
    """(H, W, C) uint16 of a picture with 16 bits in each of several channels, else None.

    Pillow keeps the upper byte of these alone, so a second reading, told the other byte order, fetches the lower.
    """
    upper, lower = (Image.open(io.BytesIO(data), formats=[file_format]) for _ in range(2))
    args = upper.tile[0].args or ("",)
    match = re.fullmatch("(RGB|RGBA|RGBX|LA);16([BLN])", str(args if isinstance(args, str) else args[0]))
    if not match:
        return None
    # The four bytes of grey and alpha come as they are when taken for RGBA.
    other = "RGBA" if match[1] == "LA" else f"{match[1]};16{'L' if match[2] == 'B' else 'B'}"
    lower.tile = [tile._replace(args=other if isinstance(args, str) else (other, *args[1:])) for tile in lower.tile]
    if match[1] == "LA":
        return np.array(lower).view(">u2")
    deep: Array = np.array(upper, np.uint16) * 256 + np.array(lower)
    return deep


def _flatten(picture: Image.Image) -> tuple[NDArray[np.uint8], list[str]]:
    """(H, W) uint8 and the steps to it, from any mode of 8 bits or fewer."""
    steps = []
    coloured = picture.mode not in ("1", "L", "LA", "La")
    if picture.has_transparency_data:
        picture = picture.convert("RGBA")
        if picture.getchannel("A").getextrema() != (255, 255):
            picture = Image.alpha_composite(Image.new("RGBA", picture.size, "black"), picture)
            steps.append("transparency laid on black")
    if coloured:
        steps.append("colour converted to grey")
    grey = picture if picture.mode in ("1", "L") else picture.convert("RGB")
    return np.array(grey.convert("L")), steps


def _flatten_deep(channels: Array) -> tuple[NDArray[np.uint8], list[str]]:
    """(H, W, C) uint16 as grey and alpha, RGB or RGBA -> (H, W) uint8 and the steps to it."""
    steps = []
    count = channels.shape[2]
    grey, alpha = channels[..., 0], channels[..., -1]
    if count > 2:
        # ITU-R BT.601, as Pillow has it for 8 bits
        grey = np.rint(channels[..., :3] @ np.array((0.299, 0.587, 0.114)))
        steps.append("colour converted to grey")
    if count in (2, 4) and alpha.min() < 65535:
        grey = np.rint(grey * (alpha / 65535))
        steps.append("transparency laid on black")
    pixels, scaled = _to_uint8(grey.astype(np.uint16))
    return pixels, steps + scaled


def _to_uint8(values: Array) -> tuple[NDArray[np.uint8], list[str]]:
    """(H, W) numbers -> (H, W) uint8 with their contrast kept, and the steps to it.

    A film of 8 bits comes out exactly as it is, whether it is stored as v, as v in 16 bits, or as 257 v. Others are
    divided by the full scale of the smallest usual depth that holds the maximum; if that uses less than half of
    0..255, or fits no depth, minimum..maximum is stretched instead.
    """
    if values.dtype == np.uint8:
        return values.copy(), []
    low, high = float(values.min()), float(values.max())
    if not np.isfinite(high - low):
        raise DamagedImage("The picture holds values that are not finite numbers. Replace them, or save it as PNG.")
    whole = values.dtype.kind in "iu"
    if whole and low >= 0 and high <= 65535 and not np.any(values % 257):
        return (values // 257).astype(np.uint8), ["16 bit scaled to 8 bit"]
    if whole and low >= 0 and high <= 255:
        return values.astype(np.uint8), ["8 bit values taken out of 16 bit"]
    scales = _FULL_SCALES if whole else (1, *_FULL_SCALES)
    full = next((full for full in scales if low >= 0 and high <= full), 0)
    if high - low < full / 2 or not full:
        return _scale(values, low, high), [f"stretched from {low:g}..{high:g} to 8 bit"]
    return _scale(values, 0, full), [
        "0..1 scaled to 8 bit" if full == 1 else f"{full.bit_length()} bit scaled to 8 bit"
    ]


def _scale(values: Array, low: float, high: float) -> NDArray[np.uint8]:
    scaled = np.subtract(values, low, dtype=np.float64)
    scaled *= 255 / ((high - low) or 1)
    return np.rint(scaled, out=scaled).astype(np.uint8)


def _from_dicom(data: bytes, max_pixels: int) -> Decoded:
    # Looked for in the bytes, as pydicom inflates without bound while it reads.
    if uid.DeflatedExplicitVRLittleEndian.encode() in data:
        raise _unsupported("is deflated as a whole")
    with _quiet():
        dataset = _parse_dicom(data)
        _check_dicom(dataset, max_pixels)
    values = _decode(data, dataset)  # (H, W) or (H, W, 3)
    if values.ndim == 2:
        pixels, steps = _display(values, dataset)
    elif values.dtype == np.uint8:
        pixels, steps = _flatten(Image.fromarray(values))
    else:
        pixels, steps = _flatten_deep(values)
    return pixels, "DICOM", steps


def _parse_dicom(data: bytes) -> FileDataset:
    dataset = dcmread(io.BytesIO(data), force=True, specific_tags=_DICOM_TAGS)
    if not dataset.file_meta.get("TransferSyntaxUID"):
        implicit, little_endian = dataset.original_encoding
        explicit = uid.ExplicitVRLittleEndian if little_endian else uid.ExplicitVRBigEndian
        dataset.file_meta.TransferSyntaxUID = uid.ImplicitVRLittleEndian if implicit else explicit
    # Pillow reads no 12-bit JPEG. GDCM does, going by the codestream's own header, but pydicom lets it only thus named.
    if dataset.file_meta.TransferSyntaxUID == uid.JPEGExtended12Bit and dataset.get("BitsStored") != 8:
        dataset.file_meta.TransferSyntaxUID = uid.JPEGLossless
    return dataset


def _decode(data: bytes, dataset: FileDataset) -> Array:
    """The stored values; where that takes GDCM, by this file run as a script, since damaged data can make it abort."""
    syntax = dataset.file_meta.TransferSyntaxUID
    values: Array
    if syntax in _GDCM_SYNTAXES:
        command = [sys.executable, "-P", "-W", "ignore", __file__]
        child = subprocess.run(command, input=data, capture_output=True, timeout=60, check=True)  # noqa: S603 - no shell
        values = np.load(io.BytesIO(child.stdout), allow_pickle=False)
        return values
    with _quiet():
        plugin = "pillow" if syntax.is_encapsulated and syntax != uid.RLELossless else ""
        values = pixel_array(dataset, index=0, decoding_plugin=plugin)
        return values


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
    _check_size(int(dataset.Columns), int(dataset.Rows), max_pixels)
    if not re.match("MONOCHROME[12]$|RGB$|YBR_", dataset.PhotometricInterpretation):
        raise _unsupported("has a colour palette or a rare colour space")
    syntax = dataset.file_meta.TransferSyntaxUID
    if syntax not in _DICOM_SYNTAXES:
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
    frame = get_frame(dataset.PixelData, 0, number_of_frames=1)
    start = frame.find(b"\xff\x4f\xff\x51")
    if "JPEG 2000" in dataset.file_meta.TransferSyntaxUID.name:
        right, bottom, left, top = struct.unpack_from(">4I", frame, start + 8)
        found = (bottom - top, right - left, *struct.unpack_from(">H", frame, start + 40))
    else:
        position = 2
        while frame[position + 1] not in _JPEG_FRAME_MARKERS:
            position += 2 + int.from_bytes(frame[position + 2 : position + 4])
        found = struct.unpack_from(">HHB", frame, position + 5)
    if found != (dataset.Rows, dataset.Columns, dataset.SamplesPerPixel):
        raise DamagedImage("This DICOM's header and its compressed picture differ in size. Export it again.")


def _display(values: Array, dataset: FileDataset) -> tuple[NDArray[np.uint8], list[str]]:
    """Stored values (H, W) -> (H, W) uint8 as the file wants them shown, turned so that brighter is denser."""
    with _quiet():
        rescaled = apply_modality_lut(values, dataset)
        if not np.array_equal(rescaled, values):
            values = rescaled
        try:
            pixels, steps = _windowed(values, dataset)
        except Exception:
            pixels, steps = _to_uint8(values)
            steps.append("unusable VOI window ignored")
    # A Presentation LUT Shape of INVERSE says the same once more, so it is not read.
    if dataset.PhotometricInterpretation == "MONOCHROME1":
        return 255 - pixels, [*steps, "inverted (MONOCHROME1)"]
    return pixels, steps


def _windowed(values: Array, dataset: FileDataset) -> tuple[NDArray[np.uint8], list[str]]:
    if dataset.get("VOILUTSequence"):
        # pydicom indexes in the table's own depth, where 8 bits cannot count past 256 entries.
        table = dataset.VOILUTSequence[0]
        table.LUTDescriptor = [*table.LUTDescriptor[:2], 16]
        pixels, steps = _to_uint8(apply_voi(values, dataset))
        return pixels, ["VOI LUT applied", *steps]
    if dataset.get("WindowCenter") is None or dataset.get("WindowWidth") is None:
        return _to_uint8(values)
    # A window's output spans the range that these declare, so let it be 0..255.
    dataset.BitsStored, dataset.PixelRepresentation = 8, 0
    for keyword in ("ModalityLUTSequence", "RescaleSlope", "RescaleIntercept"):
        dataset.pop(keyword, None)
    shown = apply_windowing(values, dataset)
    if not np.isfinite(shown).all():
        raise ValueError("The window is not finite.")
    return np.rint(shown).astype(np.uint8), ["VOI window applied"]


if __name__ == "__main__":
    npy = io.BytesIO()
    np.save(npy, pixel_array(_parse_dicom(sys.stdin.buffer.read()), index=0, decoding_plugin="gdcm"))
    sys.stdout.buffer.write(npy.getvalue())
