"""Checks of a file's header before Pillow reads it.

A few kilobytes can claim gigabytes and minutes: each check raises ValueError for what no camera or program writes.
"""

import re
import struct
from collections.abc import Iterator

_SCANS = 100  # as libtiff allows; a progressive JPEG has about ten
_PARTS = 5000
_BETWEEN = 100_000
_VALUES = 200_000
_SIZES = {1: 1, 2: 1, 3: 2, 4: 4, 5: 8, 6: 1, 7: 1, 8: 2, 9: 4, 10: 8, 11: 4, 12: 8, 13: 4, 16: 8}  # of TIFF's types
_TEXTS = (1, 2, 7)  # read as bytes; all others become a Python number each
_WHOLE = {3: "H", 4: "I", 6: "b", 8: "h", 9: "i", 13: "I", 16: "Q"}
_DIRECTORIES = (0x8769, 0x8825, 0xA005)  # EXIF, GPS, Interoperability
_PAGES = 20
_NEW_SUBFILE_TYPE, _SUBFILE_TYPE, _REDUCED, _MASK = 254, 255, 1, 4
_JPEG_MARKER = re.compile(rb"\xff[\xc0-\xc7\xc9-\xcf\xd9-\xef\xfe]")  # but for those that Pillow steps over


def check_jpeg(data: bytes) -> None:
    """Bound the number of scans, since each decodes the whole picture, and the EXIF and MPO directories."""
    exif, index, scans, position, between = b"", b"", 0, 2, 0
    for _ in range(_PARTS):
        marker = _JPEG_MARKER.search(data, position)
        between += 0 if scans else (marker.start() if marker else len(data)) - position
        if not marker or (scans and marker[0] == b"\xff\xd9"):
            break
        position = marker.end()
        if marker[0] == b"\xff\xd9":
            continue
        length = int.from_bytes(data[position : position + 2])
        segment = data[position + 2 : position + length]
        if marker[0] == b"\xff\xe1" and segment.startswith(b"Exif\0\0"):
            exif += segment[6:]
        elif marker[0] == b"\xff\xe2" and segment.startswith(b"MPF\0"):
            index = segment[4:]
        scans += marker[0] == b"\xff\xda"
        position += max(length, 2)
    else:
        raise ValueError("The JPEG has far too many segments.")
    if scans > _SCANS or between > _BETWEEN:
        raise ValueError("The JPEG has far too many scans, or bytes between its segments.")
    check_exif(exif)
    check_exif(index)


def check_exif(data: bytes) -> None:
    """Bound the directory of an EXIF block or of an MPO's index, if there is one."""
    while data.startswith(b"Exif\0\0"):
        data = data[6:]
    if data:
        check_tiff(data)


def tiff_pages(data: bytes) -> list[str]:
    """What each page of a TIFF is, "image" or "part" (a thumbnail or mask); empty if there are too many pages."""
    order = ">" if data.startswith(b"MM") else "<"
    large = data[2:3] == b"+"
    word, entry_size, head = order + "IQ"[large], 20 if large else 12, 8 if large else 2
    kinds: list[str] = []
    seen: set[int] = set()
    start = _number(word, data, 8 if large else 4)
    while start > 0 and start not in seen:
        if len(kinds) == _PAGES:
            return []
        seen.add(start)
        check_tiff(data, start)
        kind = 0
        for tag, value_type, count, value in _entries(data, start, order, large):
            if tag in (_NEW_SUBFILE_TYPE, _SUBFILE_TYPE) and count == 1 and value_type in _WHOLE:
                number = _number(order + _WHOLE[value_type], value)
                kind |= number if tag == _NEW_SUBFILE_TYPE else int(number == 2)
        kinds.append("part" if kind & (_REDUCED | _MASK) else "image")
        count = _number(order + "HQ"[large], data, start)
        start = _number(word, data, start + head + count * entry_size) if count >= 0 else 0
    return kinds


def check_tiff(data: bytes, start: int | None = None) -> None:
    """Bound what the tags of a TIFF, or of what is built like one, hold: each value is copied out, shared ones too."""
    order = ">" if data.startswith(b"MM") else "<"
    large = data[2:3] == b"+"
    word = order + "IQ"[large]
    room, values = len(data) + 1_000_000, _VALUES
    starts = {0: _number(word, data, 8 if large else 4) if start is None else start}
    for directory in (0, *_DIRECTORIES):
        for tag, kind, count, value in _entries(data, starts.get(directory, -1), order, large):
            size = count * _SIZES.get(kind, 0)
            if size > len(data):  # so it is never read
                continue
            room -= size
            values -= 0 if kind in _TEXTS else count
            if not directory and tag in _DIRECTORIES and kind in _WHOLE:
                held = (value, 0) if size <= len(value) else (data, _number(word, value))
                starts[tag] = _number(order + _WHOLE[kind], *held)
    if room < 0 or values < 0:
        raise ValueError("The tags claim far more than there is.")


def _entries(data: bytes, start: int, order: str, large: bool) -> Iterator[tuple[int, int, int, bytes]]:
    """Tag, type, count, and the value or where it is, of each entry of a directory."""
    entry, first = struct.Struct(order + ("HHQ8s" if large else "HHI4s")), start + (8 if large else 2)
    count = min(_number(order + "HQ"[large], data, start), 65535)
    for at in range(first, min(first + count * entry.size, len(data) - entry.size + 1), entry.size):
        yield entry.unpack_from(data, at)


def _number(layout: str, data: bytes, at: int = 0) -> int:
    """-1 where there is none: that is for Pillow to find out."""
    there = 0 <= at <= len(data) - struct.calcsize(layout)
    return int(struct.unpack_from(layout, data, at)[0]) if there else -1
