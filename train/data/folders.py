"""Which files of a folder are images of which class, and which are left out, and why.

A folder has class folders (`NORMAL`, `PNEUMONIA`, `Viral Pneumonia`, ...), or split folders (`train`, `valid`, ...)
with class folders in them, or class folders with split folders in them. Case, spaces, hyphens and underscores in these
names make no difference, and `ViralPneumonia` is read as `Viral Pneumonia`. Links are followed.
"""

import glob
import os
import re
from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

SUBTYPES = ("NORMAL", "BACTERIAL", "VIRAL")
BINARY = ("NORMAL", "PNEUMONIA")
LABELS = (*SUBTYPES, "PNEUMONIA")
LEFT_OUT = "-"
SPLITS = {
    "train": ("train", "training"),
    "val": ("val", "valid", "validation", "dev"),
    "test": ("test", "testing"),
}
SPLIT_ENDING = re.compile(r" (set|data|images|split)$|(?<=[nt])(set|data)$")  # as in "Training Set" and "testset"
CLASS_FOLDERS = {
    "NORMAL": (
        *("normal", "normals", "normal cases", "no finding", "no findings", "healthy"),
        *("no pneumonia", "non pneumonia", "not pneumonia"),
    ),
    "PNEUMONIA": ("pneumonia", "pneumonia cases", "opacity", "opacities", "lung opacity", "lung opacities"),
    "BACTERIAL": (
        *("bacteria", "bacterial", "bacterial pneumonia", "bacteria pneumonia"),
        *("pneumonia bacterial", "pneumonia bacteria"),
    ),
    "VIRAL": ("virus", "viral", "viral pneumonia", "virus pneumonia", "pneumonia viral", "pneumonia virus"),
}
SUFFIXES = {
    *(".jpeg", ".jpg", ".jpe", ".jfif", ".png", ".bmp", ".tif", ".tiff", ".webp", ".gif", ".avif", ".heic"),
    *(".jp2", ".j2k", ".dcm", ".dicom"),
}
MASK_FOLDER = re.compile(r"(.* )?(masks?|segmentations?|annotations?|ground truths?)")
MASK_FILE = re.compile(r"(.*[-_. ])masks?", re.IGNORECASE)
# Folders that hold a class's images all together; any other folder inside a class folder is a patient's.
COMMON_FOLDERS = {"images", "image", "imgs", "img", "jpg", "jpeg", "png", "dicom", "frontal", "ap", "pa"}
COVID = re.compile(r"(pneumonia )?(covid ?(19)?|sars cov ?2?)( pneumonia)?")
# IM-0115-0001, NORMAL2-IM-0383-0001, person1_bacteria_2, Mendeley's v3 VIRUS-1000468-0001, ChestX-ray8's 00001299_000.
PATIENT = re.compile(
    r"^((?:NORMAL2-)?IM-\d+|person\d+|(?:NORMAL|BACTERIA|VIRUS)2?-\d+|\d{8}(?=_\d{3}$))", re.IGNORECASE
)
SUBTYPE = re.compile(r"(?:^|_)(bacteria|virus)(?:_|-)", re.IGNORECASE)


class DataError(ValueError):
    """The data given cannot be used; the message says what was found, what was expected and what to do."""


@dataclass(frozen=True)
class Found:
    """One image of a folder: its path, official split or empty, label, path below the class folder, and patient."""

    path: Path
    folder: str
    label: str
    below: str
    patient: str


@dataclass(frozen=True)
class Folder:
    """What a folder holds: its images in order, and the counts of the files left out by place and reason."""

    images: tuple[Found, ...]
    left_out: Mapping[str, int] = field(default_factory=dict)


def scan_folder(root: Path, labels: Mapping[str, str] | None = None) -> Folder:
    """Find the images of a folder.

    Args:
        root: the folder.
        labels: by a class folder's name, one of LABELS or LEFT_OUT; in addition to and before CLASS_FOLDERS.

    Raises:
        DataError: the folder does not exist, has no images in class folders, or `labels` names no folder of it.
    """
    if not root.is_dir():
        raise DataError(f"{root} is not a folder. Give a folder that holds train/NORMAL, train/PNEUMONIA and so on.")
    own = {plain(name): label for name, label in (labels or {}).items()}
    children = [(_split_of(child.name), child) for child in _folders(root)]
    splits = [(split, child) for name in SPLITS for split, child in children if split == name]
    found: list[Found] = []
    left_out: Counter[str] = Counter()
    for split, place in splits or [("", root)]:
        for child in _folders(place):
            label = own.get(plain(child.name)) or _label_of(child.name)
            if label in LABELS:
                found += _images(child, split, label)
    taken = {image.path for image in found}
    for path in _files(root):
        if path not in taken:
            left_out[_reason(root, path.relative_to(root), own, bool(splits))] += 1
    names = {plain(path.name) for path in root.rglob("*") if path.is_dir()}
    if absent := sorted(set(own) - names):
        raise DataError(
            f"The label map names {', '.join(map(repr, absent))}, and {root} has no such folder. It has "
            f"{', '.join(sorted(names)) or 'none'}."
        )
    if not found:
        known = ", ".join(name for names in CLASS_FOLDERS.values() for name in names)
        raise DataError(
            f"No images below {root}: expected class folders ({known}) with images. Left out were {told(left_out)}. "
            "Give folders of other names a label by --labels SOURCE:FOLDER=LABEL."
        )
    return Folder(tuple(found), dict(left_out))


def told(left_out: Mapping[str, int]) -> str:
    """What was left out in one sentence's words: counts, places and reasons."""
    return "; ".join(f"{n} in {reason}" for reason, n in sorted(left_out.items())) or "no files"


def plain(name: str) -> str:
    """A folder's name without case, spaces at its ends, hyphens and underscores; `LungOpacity` becomes two words."""
    words = re.sub(r"(?<=[a-z])(?=[A-Z])|[-_\s]+", " ", name)
    return " ".join(words.lower().split())


def _folders(place: Path) -> list[Path]:
    return sorted(child for child in place.iterdir() if child.is_dir() and child.name[0] != ".")


def _files(place: Path) -> list[Path]:
    """All files below a folder in order, each folder once, however many links lead to it."""
    found: list[Path] = []
    seen = {place.resolve()}
    for folder, folders, names in os.walk(place, followlinks=True):
        targets = {name: (Path(folder) / name).resolve() for name in folders}
        folders[:] = [name for name, target in sorted(targets.items()) if target not in seen]
        seen |= set(targets.values())
        found += [Path(folder) / name for name in names]
    return sorted(found)


def _split_of(name: str) -> str:
    words = SPLIT_ENDING.sub("", plain(name))
    return next((split for split, names in SPLITS.items() if words in names), "")


def _label_of(name: str) -> str:
    return next((label for label, names in CLASS_FOLDERS.items() if plain(name) in names), "")


def _images(place: Path, split: str, label: str) -> Iterator[Found]:
    """The images of one class folder, however deep."""
    inner = [path.relative_to(place) for path in _files(place) if _is_image(path, path.relative_to(place))]
    folders: dict[str, set[str]] = defaultdict(set)
    for one in inner:
        folders[one.stem] |= {_patients_folder(one)}
    for one in inner:
        inner_split = _split_of(one.parts[0]) if len(one.parts) > 1 and not split else ""
        below = one.relative_to(one.parts[0]) if inner_split else one
        subtype = SUBTYPE.search(one.stem)
        told_by_name = {"bacteria": "BACTERIAL", "virus": "VIRAL"}
        own = told_by_name[subtype[1].lower()] if subtype and label == "PNEUMONIA" else label
        # A name that each patient's folder has, as in exports of IM-0001-0001.dcm, tells no patient.
        by_name = PATIENT.match(one.stem) if len(folders[one.stem]) == 1 else None
        own_split, name = split or inner_split, below.with_suffix("").as_posix()
        itself = f"{own_split}/{label}/{name}".lstrip("/")
        patient = by_name[1] if by_name else _patients_folder(one) or itself
        yield Found(place / one, own_split, own, name, patient.lower())


def _is_image(path: Path, inner: Path) -> bool:
    return path.suffix.lower() in SUFFIXES and path.name[0] != "." and not _is_mask(path, inner) and path.is_file()


def _is_mask(path: Path, inner: Path) -> bool:
    """By its folder, or by its name where the image of that name is beside it."""
    if any(MASK_FOLDER.fullmatch(plain(part)) for part in inner.parts[:-1]):
        return True
    match = MASK_FILE.fullmatch(path.stem)
    return match is not None and any(path.parent.glob(glob.escape(match[1][:-1]) + ".*"))


def _patients_folder(inner: Path) -> str:
    """The first folder of an image's path in its class folder that is a patient's; empty if none is."""
    folders = [part for part in inner.parts[:-1] if plain(part) not in COMMON_FOLDERS and not _split_of(part)]
    return folders[0] if folders else ""


def _reason(root: Path, path: Path, own: Mapping[str, str], has_splits: bool) -> str:
    """Place and reason, as in 'train/COVID-19: no normal image comes from its hospitals'."""
    folders = path.parts[:-1]
    in_split = bool(has_splits and folders and _split_of(folders[0]))
    place = "/".join(folders[: 1 + in_split]) or "the top folder"
    if path.name[0] == "." or "__MACOSX" in folders or any(part[0] == "." for part in folders):
        return f"{place}: hidden files"
    if path.suffix.lower() not in SUFFIXES:
        return f"{place}: files that are no images ({path.suffix.lower() or 'no suffix'})"
    if not (root / path).exists():
        return f"{place}: links to files that do not exist"
    if _is_mask(root / path, path):
        return f"{place}: masks, which are no radiographs"
    if any(own.get(plain(part)) == LEFT_OUT for part in folders):
        return f"{place}: left out by the label map"
    if any(COVID.fullmatch(plain(part)) for part in folders):
        return (
            f"{place}: COVID-19, which many sets took from other hospitals than their normal images; "
            "to take it in, give it the label VIRAL"
        )
    if has_splits and not in_split:
        return f"{place}: beside the split folders"
    return f"{place}: no class folder of a known name"


def parse_labels(given: Sequence[str]) -> dict[str, dict[str, str]]:
    """`SOURCE:FOLDER=LABEL` strings -> label by folder by source.

    Raises:
        DataError: a string is not of this form, or names no label.
    """
    maps: dict[str, dict[str, str]] = {}
    for one in given:
        match = re.fullmatch(r"([^:=]+):([^=]+)=(.*)", one)
        if not match:
            raise DataError(f"--labels {one!r} is not understood; expected SOURCE:FOLDER=LABEL.")
        source, folder, label = match.groups()
        label = label.strip().upper()
        if label not in (*LABELS, LEFT_OUT):
            raise DataError(
                f"--labels {one!r} names no class; expected one of {', '.join(LABELS)}, or {LEFT_OUT} to leave it out."
            )
        maps.setdefault(source, {})[folder] = label
    return maps
