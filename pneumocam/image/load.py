"""Any upload -> a checked 8-bit grayscale radiograph, or one of the errors of `pneumocam.image.errors`.

A DICOM's patient, dates and identifiers are never parsed, and nothing of an upload is logged, warned or quoted.
"""

import os
import re
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from pneumocam.image.errors import (
    DamagedImage,
    InternalError,
    NotAnImage,
    RadiographError,
    TooLarge,
    check_contrast,
    check_size,
)
from pneumocam.image.grayscale import flatten, to_uint8
from pneumocam.image.pictures import Decoded, from_encoded, from_picture
from pneumocam.image.sandbox import silenced

_ACCEPTED = "Accepted are JPEG, PNG, TIFF, BMP, WebP, AVIF, HEIC, JPEG 2000, single-frame GIF and DICOM"
_SIGNATURE = re.compile(
    rb"(?P<JPEG>\xff\xd8\xff)|(?P<PNG>\x89PNG)|(?P<TIFF>II[*+]\x00|MM\x00[*+])|(?P<BMP>BM)|(?P<WEBP>RIFF....WEBP)|"
    rb"(?P<GIF>GIF8)|(?P<JPEG2000>\0\0\0\x0cjP  \r\n\x87\n|\xff\x4f\xff\x51)|(?P<AVIF>....ftypavi[fs])|"
    rb"(?P<HEIF>....ftyp(?:hei[cxms]|hev[cx]|mif1|msf1))",
    re.DOTALL,
)
_DICOM_WITHOUT_PREAMBLE = re.compile(
    rb"[\x02\x08]\x00[\x00-\x18]\x00(?:[A-Z]{2}|..\x00\x00)|\x00\x08\x00[\x00-\x18][A-Z]{2}", re.DOTALL
)

Array = NDArray[Any]
Source = str | os.PathLike[str] | bytes | BinaryIO | Image.Image | Array


@dataclass(frozen=True, eq=False)
class Radiograph:
    """A checked grayscale radiograph, without anything about the patient.

    Attributes:
        pixels: (H, W) uint8 in 0..255, read-only, upright; brighter is denser ("bone white").
        source_format: what it was read from: "JPEG", "MPO", "PNG", "TIFF", "BMP", "WEBP", "GIF", "JPEG2000", "AVIF",
            "HEIF", "DICOM", "PIL", "array".
        steps: what was done to get there, in order and in words; empty when the pixels are as they came.
        colour: share of the picture in [0, 1] that had strong colours, which no radiograph has; a tint is none.
    """

    pixels: NDArray[np.uint8] = field(repr=False)
    source_format: str
    steps: tuple[str, ...]
    colour: float = 0.0

    def __repr__(self) -> str:
        steps = f", {len(self.steps)} steps" if self.steps else ""
        return f"Radiograph({self.source_format}, {self.width} x {self.height} pixels{steps})"

    def _repr_html_(self) -> str:
        from pneumocam.notebook import radiograph_html

        return radiograph_html(self)

    @property
    def width(self) -> int:
        return int(self.pixels.shape[1])

    @property
    def height(self) -> int:
        return int(self.pixels.shape[0])

    def to_pil(self) -> Image.Image:
        """A copy of the radiograph as a Pillow image of mode "L"."""
        return Image.fromarray(self.pixels)


def load_radiograph(source: Source, *, max_bytes: int = 20_000_000, max_pixels: int = 64_000_000) -> Radiograph:
    """Read one radiograph from a path, encoded bytes, a binary stream, a Pillow image or an array.

    Bytes and pixels are bounded before anything is decoded. Safe to call from several threads.

    Args:
        source: JPEG, PNG, TIFF, BMP, WebP, GIF, JPEG 2000, AVIF, HEIC (with the package pillow-heif) or DICOM as path,
            bytes or stream (read from where it stands, and not closed); a Pillow image; or an array, (H, W) uint8,
            uint16 or float, or (H, W, 3 or 4) uint8 RGB(A).
        max_bytes: most encoded bytes that are read.
        max_pixels: most pixels, width times height, that are decoded; a quarter of them in WebP, run-length encoded
            BMP, AVIF, HEIC, JPEG 2000 in colour, CMYK, Lab, more than 8 bits a channel of colour and more than 16 of
            grey, where each takes several times the memory or time; and in a DICOM of more than 16 bits a pixel.

    Returns:
        The radiograph as 8-bit grayscale, upright, brighter where denser.

    Raises:
        RadiographError: one of its subclasses, if this is not one whole, readable, large enough radiograph.
        InternalError: if the service failed, not the image; the same image may be read later.
        OSError: if a path cannot be opened (FileNotFoundError, IsADirectoryError, PermissionError).
    """
    if isinstance(source, np.ndarray):
        decoded = _from_array(source, max_pixels)
    elif isinstance(source, Image.Image):
        decoded = _guarded(from_picture, source, max_pixels, what=source.format or "PIL")
    else:
        data = _read(source, max_bytes)
        if data[128:132] == b"DICM" or _DICOM_WITHOUT_PREAMBLE.match(data):
            decoded = _guarded(_from_dicom, data, max_pixels, what="DICOM")
        elif signature := _SIGNATURE.match(data):
            decoded = _guarded(from_encoded, data, str(signature.lastgroup), max_pixels, what=signature.lastgroup)
        else:
            raise NotAnImage(f"The upload is no picture that is known here. {_ACCEPTED}; save it as PNG.")
    pixels, source_format, steps, colour = decoded
    steps += check_contrast(pixels)
    pixels.setflags(write=False)
    return Radiograph(pixels, source_format, tuple(steps), colour)


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


def _guarded(decode: Callable[..., Decoded], *args: object, what: str | None) -> Decoded:
    """Let no decoder's own exception out: what it says can quote the file."""
    failure: RadiographError
    try:
        with silenced:
            return decode(*args)
    except (RadiographError, InternalError):
        raise
    except MemoryError:
        raise InternalError("There is not enough memory to read this image now. Try again later.") from None
    except Image.DecompressionBombError:
        failure = TooLarge(f"The {what} claims far more pixels than are accepted. Export it at a lower resolution.")
    except Exception:
        failure = DamagedImage(
            f"The {what} is truncated or damaged, or of a rare variant, and cannot be decoded. Export it again, or "
            "save the picture as PNG."
        )
    # Raised out here so that __context__ keeps nothing of the decoder's words either.
    raise failure


def _from_array(array: Array, max_pixels: int) -> Decoded:
    plane = array.ndim == 2 and (array.dtype.kind == "f" or array.dtype.newbyteorder("=") in (np.uint8, np.uint16))
    if not plane and not (array.ndim == 3 and array.shape[2] in (3, 4) and array.dtype == np.uint8):
        raise NotAnImage(
            f"An array of shape {array.shape} and dtype {array.dtype} came. Accepted are (H, W) uint8, uint16 or "
            "float, and (H, W, 3 or 4) uint8; convert it."
        )
    check_size(array.shape[1], array.shape[0], max_pixels)
    pixels, steps, colour = (*to_uint8(array), 0.0) if plane else flatten(Image.fromarray(array))
    return pixels, "array", steps, colour


def _from_dicom(data: bytes, max_pixels: int) -> Decoded:
    from pneumocam.image.dicom import from_dicom  # pydicom, which most images do not need

    pixels, steps = from_dicom(data, max_pixels)
    return pixels, "DICOM", steps, 0.0
