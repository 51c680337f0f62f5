"""A picture in any format but DICOM -> 8-bit grey, upright."""

import importlib.util
import re
from contextlib import suppress
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import ExifTags, Image, ImageFile, ImageOps

from pneumocam.image.decoder import Bounded
from pneumocam.image.errors import EXPENSIVE, MultiFrame, NotAnImage, check_size
from pneumocam.image.grayscale import flatten, flatten_deep, to_uint8
from pneumocam.image.headers import check_exif, check_jpeg, tiff_pages
from pneumocam.image.sandbox import picture_values

_PROFILES = ("Raw profile type exif", "Raw profile type APP1")  # of a PNG by ImageMagick
_LONGEST_PROFILE = 400_000  # characters

Array = NDArray[Any]
Decoded = tuple[NDArray[np.uint8], str, list[str], float]  # pixels (H, W), format, steps, share of strong colours


def from_encoded(data: bytes, file_format: str, max_pixels: int) -> Decoded:
    """The one picture in a file, whose format is named as by Pillow; HEIC is HEIF."""
    if file_format in ("JPEG2000", "AVIF", "HEIF"):
        return _from_subprocess(data, file_format, max_pixels)
    if file_format == "JPEG":
        check_jpeg(data)
    page, pages = _main_page(data) if file_format == "TIFF" else (0, 1)
    picture = _open(data, file_format, page)
    if file_format == "GIF":
        picture = _open(_cut_behind(data, picture.tile[0].offset), file_format)
    if pages == 1:
        return from_picture(picture, max_pixels, data)
    pixels, source_format, steps, colour = from_picture(picture, max_pixels, data, page=page, single=True)
    return pixels, source_format, [f"main page of {pages} in the TIFF, without its thumbnail", *steps], colour


def _main_page(data: bytes) -> tuple[int, int]:
    """The page of a TIFF that is no thumbnail and no mask, and the number of all; they are checked."""
    kinds = tiff_pages(data)
    main = [page for page, kind in enumerate(kinds) if kind == "image"]
    if len(main) > 1 or not kinds:
        raise _several("TIFF")
    return (main[0], len(kinds)) if main else (0, 1)


def _several(file_format: str | None) -> MultiFrame:
    return MultiFrame(
        f"The {file_format} holds several pictures; one image is accepted at a time. Save the one you mean as a file "
        "of its own."
    )


def _from_subprocess(data: bytes, file_format: str, max_pixels: int) -> Decoded:
    if file_format == "HEIF" and not importlib.util.find_spec("pillow_heif"):
        raise NotAnImage("The upload is HEIC, which is read only with the package pillow-heif. Save it as JPEG or PNG.")
    (width, height, frames, turned, expensive), values = picture_values(data, file_format, max_pixels)
    check_size(width, height, max_pixels // (EXPENSIVE if expensive else 1))
    if frames > 1:
        raise _several(file_format)
    steps = ["rotated by EXIF orientation"] * bool(turned)
    if values.dtype == np.uint16:
        pixels, more = to_uint8(values)
        return pixels, file_format, more + steps, 0.0
    pixels, more, colour = flatten(Image.fromarray(values))
    return pixels, file_format, more + steps, colour


def _open(data: bytes, file_format: str, page: int = 0) -> ImageFile.ImageFile:
    stream = Bounded(data, steps=5000)
    picture = Image.open(stream, formats=[file_format])
    # A run-length encoded BMP is read pixel by pixel.
    stream.steps = 2_000_000 if file_format == "BMP" else 10_000 + len(data) // 64
    if page:
        picture.seek(page)
    return picture


def _cut_behind(data: bytes, offset: int) -> bytes:
    """A GIF until a little behind its first picture, which begins there.

    Pillow looks for a second through all that follows, and copies a comment anew with each 255 bytes that it grows by.
    """
    while offset < len(data) and data[offset]:
        offset += 1 + data[offset]
    return data[: offset + 100_000]


def from_picture(
    picture: Image.Image, max_pixels: int, data: bytes = b"", *, page: int = 0, single: bool = False
) -> Decoded:
    """The pixels of a Pillow image.

    Args:
        picture: also one that is not loaded yet.
        max_pixels: as of `load_radiograph`.
        data: the file that it comes from.
        page: of the file that it is.
        single: whether the file's other pages do not matter.
    """
    # The further pictures of a phone's MPO are previews and depth maps of the first.
    if not single and getattr(picture, "is_animated", False) and picture.format != "MPO":
        raise _several(picture.format)
    check_size(*picture.size, max_pixels // (EXPENSIVE if _is_expensive(picture) else 1))
    deep = _read_deep(data, picture.format, page) if data and picture.format in ("PNG", "TIFF") else None
    if picture.format == "PNG":
        picture.load()  # which reads the texts behind the pixels
    came_turned = _orientation(picture) > 1
    picture.load()
    pixels, steps, colour = _grey(picture, deep)
    # Pillow has turned a TIFF by now, and then no longer says that it needs turning.
    if (orientation := _orientation(picture)) > 1:
        upright = Image.fromarray(pixels)
        upright.getexif()[ExifTags.Base.Orientation] = orientation
        pixels = np.array(ImageOps.exif_transpose(upright))
    if came_turned:
        steps.append("rotated by EXIF orientation")
    return pixels, picture.format or "PIL", steps, colour


def _is_expensive(picture: Image.Image) -> bool:
    """Whether a pixel takes several times the usual memory, or time, on its way."""
    deep = len(picture.getbands()) > 1 and ";16" in _raw_mode(picture)
    run_lengths = picture.format == "BMP" and picture.info.get("compression") in (1, 2)  # undone in Python
    return deep or run_lengths or picture.format == "WEBP" or picture.mode in ("I", "F", "CMYK", "LAB")


def _raw_mode(picture: Image.Image) -> str:
    """How the file's samples lie, in Pillow's terms; empty when all are loaded."""
    tiles = getattr(picture, "tile", None)
    args = (tiles[0].args if tiles else None) or ("",)
    return str(args if isinstance(args, str) else args[0])


def _orientation(picture: Image.Image) -> int:
    exif = picture.info.get("exif")
    if isinstance(exif, bytes):
        check_exif(exif)
        found = picture.getexif()
    elif profiles := [picture.info[name] for name in _PROFILES if name in picture.info]:
        found = _profile_exif(str(profiles[0]))
    else:
        found = picture.getexif()
    value = found.get(ExifTags.Base.Orientation)
    return value if isinstance(value, int) and 1 <= value <= 8 else 1


def _profile_exif(profile: str) -> Image.Exif:
    """The EXIF in ImageMagick's hexadecimal text, empty if it is none."""
    if len(profile) > _LONGEST_PROFILE:
        raise ValueError("The profile is far larger than a picture's.")
    found, data = Image.Exif(), b""
    with suppress(ValueError):
        data = bytes.fromhex("".join(profile.split("\n")[3:]))
    check_exif(data)
    with suppress(SyntaxError, ValueError):
        found.load(data)
    return found


def _grey(picture: Image.Image, deep: Array | None) -> tuple[NDArray[np.uint8], list[str], float]:
    if deep is not None:
        return *flatten_deep(deep), 0.0
    if picture.mode not in ("I", "F") and not picture.mode.startswith("I;16"):
        return flatten(picture)
    # Pillow inverts WhiteIsZero for up to 8 bits only.
    negative = getattr(picture, "tag_v2", {}).get(ExifTags.Base.PhotometricInterpretation) == 0
    pixels, steps = to_uint8(np.asarray(picture), negative=negative)
    return pixels, steps + ["inverted (WhiteIsZero)"] * negative, 0.0


def _read_deep(data: bytes, file_format: str, page: int) -> Array | None:
    """(H, W, C) uint16 of a picture with 16 bits in each of several channels, else None.

    Pillow keeps the upper byte of these alone, so a second reading, told the other byte order, fetches the lower.
    """
    upper, lower = (_open(data, file_format, page) for _ in range(2))
    match = re.fullmatch("(RGB|RGBA|RGBX|LA);16([BLN])", _raw_mode(upper))
    if not match:
        return None
    args: Any = upper.tile[0].args
    # The four bytes of grey and alpha come as they are when taken for RGBA.
    other = "RGBA" if match[1] == "LA" else f"{match[1]};16{'L' if match[2] == 'B' else 'B'}"
    lower.tile = [tile._replace(args=other if isinstance(args, str) else (other, *args[1:])) for tile in lower.tile]
    if match[1] == "LA":
        return np.array(lower).view(">u2")
    deep: Array = np.array(upper, np.uint16) * 256 + np.array(lower)
    return deep
