"""From sources to a manifest: every image with its source, label, patient group and split.

A source is one hospital's data set: one or several folders with the same images (at other resolutions, say), with
labels of their own. `sources_from` makes sources of what a command line says.
"""

import csv
import hashlib
import io
from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass, field, fields, replace
from pathlib import Path
from typing import Any

import numpy as np
from scipy.sparse import coo_matrix
from scipy.sparse.csgraph import connected_components
from sklearn.model_selection import StratifiedGroupKFold
from tqdm import tqdm

from train.data.download import fetch
from train.data.folders import BINARY, SPLITS, SUBTYPES, DataError, parse_labels, scan_folder

USES = (*SPLITS, "excluded")


@dataclass(frozen=True)
class Source:
    """One hospital's data set.

    Attributes:
        name: as it is shown in figures and on the card.
        folders: its folders; several hold the same images.
        labels: label by class folder, beyond the usual names; see `train.data.folders`.
        masks: a folder with a lung mask (white inside, any size) for images of the same path, as PNG; or None.
    """

    name: str
    folders: tuple[Path, ...]
    labels: Mapping[str, str] = field(default_factory=dict)
    masks: Path | None = None


@dataclass(frozen=True)
class LabelledImage:
    """One file. `split` is the use made of it here; `folder` is the official split that it came in, or empty."""

    source: str
    path: str  # relative to its root, with forward slashes
    root: int  # index into the folders of all sources, one after the other
    folder: str
    label: str
    below: str  # the path below the class folder, without suffix
    patient: str
    sha256: str
    group: int = -1
    split: str = ""

    @property
    def key(self) -> tuple[str, str, str, str]:
        """The same for every copy of this image, whatever folder, resolution or format it is in."""
        return self.source, self.folder, self.label, self.below


@dataclass(frozen=True)
class Manifest:
    """Images with their sources, labels, groups and splits, in a fixed order; and what was left out, in words."""

    images: tuple[LabelledImage, ...]
    left_out: tuple[str, ...] = field(default=(), compare=False)

    @property
    def label_names(self) -> tuple[str, ...]:
        """What a network tells apart: three classes if any source has subtypes, else two."""
        return SUBTYPES if any(image.label in SUBTYPES[1:] for image in self.images) else BINARY

    @property
    def sources(self) -> tuple[str, ...]:
        return tuple(dict.fromkeys(image.source for image in self.images))

    @property
    def sha256(self) -> str:
        """Of the file that `write` makes: the same images, labels and splits give the same 64 hexadecimal digits."""
        return hashlib.sha256(self._csv().encode()).hexdigest()

    def split(self, name: str) -> list[LabelledImage]:
        return [image for image in self.images if image.split == name]

    def write(self, path: Path) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        temporary = path.with_suffix(".tmp")
        temporary.write_text(self._csv(), newline="")
        temporary.replace(path)

    def _csv(self) -> str:
        text = io.StringIO(newline="")
        writer = csv.DictWriter(text, [field.name for field in fields(LabelledImage)], lineterminator="\n")
        writer.writeheader()
        writer.writerows(asdict(image) for image in self.images)
        return text.getvalue()

    @classmethod
    def read(cls, path: Path, roots: Sequence[Path]) -> "Manifest":
        """Read a manifest again and check that every file under `roots` still has the content that it had.

        Raises:
            DataError: the file is no manifest, an image is missing, or its content has changed.
        """
        try:
            with path.open(newline="") as file:
                rows: list[dict[str, Any]] = list(csv.DictReader(file))
            images = tuple(LabelledImage(**r | {"root": int(r["root"]), "group": int(r["group"])}) for r in rows)
            if not images or any(image.split not in USES for image in images):
                raise ValueError("no images, or images of no known split")
        except (KeyError, TypeError, ValueError, OSError, csv.Error) as error:
            raise DataError(f"{path} is not a manifest written by train.data: {error!r}") from None
        if (needed := 1 + max(image.root for image in images)) > len(roots):
            raise DataError(f"{path} has images of {needed} folders; {len(roots)} were given.")
        missing = [image.path for image in images if not (roots[image.root] / image.path).is_file()]
        if missing:
            raise DataError(f"{len(missing)} images of {path} are missing, {missing[0]} first. Give the same --data.")
        hashes = _hashes([roots[image.root] / image.path for image in images])
        changed = [image.path for image, found in zip(images, hashes, strict=True) if image.sha256 != found]
        if changed:
            raise DataError(f"{len(changed)} images changed since {path} was written, {changed[0]} first.")
        return cls(images)

    def check_training(self) -> None:
        """Refuse what cannot be learned from.

        Raises:
            DataError: a class is missing in a split; a source has pneumonia and no normal images, so that the source
                would tell the class; or a source is in one of the two splits only.
        """
        for split in ("train", "val"):
            counts = Counter(image.label for image in self.split(split))
            if absent := [label for label in self.label_names if not counts[label]]:
                raise DataError(
                    f"No {', '.join(absent)} images in the {split} split; found {dict(counts)}.{self._left_out_told()}"
                )
        for source in self.sources:
            cells = Counter((image.split, image.label == "NORMAL") for image in self.images if image.source == source)
            kinds = {normal for _, normal in cells}
            if True not in kinds:
                raise DataError(
                    f"Source {source!r} has {cells.total()} images and none is NORMAL, so that the source alone "
                    "would tell the class. Add normal images of the same hospital, or leave the source out."
                )
            for kind in kinds:
                if not (cells["train", kind] and cells["val", kind]):
                    found = {split: cells[split, kind] for split in USES}
                    raise DataError(
                        f"The {'NORMAL' if kind else 'pneumonia'} images of source {source!r} must be in train and in "
                        f"val; found {found}. Give it images of more patients, or a larger --val-fraction."
                    )

    def _left_out_told(self) -> str:
        return "".join(f"\nLeft out: {line}" for line in self.left_out)


def sources_from(data: Sequence[str], labels: Sequence[str] = (), masks: Sequence[str] = ()) -> list[Source]:
    """Sources from a command line, downloaded where they are no folders.

    Args:
        data: `NAME=PLACE` or `PLACE`, a place as in `train.data.download.fetch`. Places of one name are one source;
            so are all places without a name, which have that of the first folder.
        labels: `NAME:FOLDER=LABEL`, see `train.data.folders.parse_labels`.
        masks: `NAME=FOLDER`, the lung masks of a source; see `Source`.

    Raises:
        DataError: one of them is not of its form, or names no source.
    """
    places: dict[str, list[Path]] = {}
    unnamed = ""
    for one in data:
        name, _, place = one.partition("=") if "=" in one and not Path(one).exists() else ("", "", one)
        folder = fetch(place)
        unnamed = unnamed or ("" if name else folder.resolve().name)
        places.setdefault(name or unnamed, []).append(folder)
    maps = parse_labels(labels)
    mask_folders: dict[str, Path] = {}
    for one in masks:
        name, equals, place = one.partition("=")
        if not equals or not Path(place).is_dir():
            raise DataError(f"--masks {one!r} is not understood; expected SOURCE=FOLDER, a folder that exists.")
        mask_folders[name] = Path(place)
    if strangers := (maps.keys() | mask_folders.keys()) - places.keys():
        raise DataError(
            f"--labels or --masks name the source {', '.join(sorted(strangers))}; --data has {', '.join(places)}."
        )
    return [Source(name, tuple(p), maps.get(name, {}), mask_folders.get(name)) for name, p in places.items()]


def roots_of(sources: Sequence[Source]) -> list[Path]:
    """The folders of all sources, in the order that `LabelledImage.root` counts them."""
    return [folder for source in sources for folder in source.folders]


def masks_of(sources: Sequence[Source]) -> dict[str, Path]:
    """The folder of lung masks by source, of the sources that have one."""
    return {source.name: source.masks for source in sources if source.masks}


def build_manifest(sources: Sequence[Source], *, val_fraction: float = 0.15, seed: int = 0) -> Manifest:
    """Scan sources and split their images so that no patient and no duplicate stands on two sides.

    Images are of one group if they share a patient of one source (bare `personN`: that number restarts for each
    aetiology, and the stricter reading is used), or have identical content, or are copies of one image in several
    folders. A group with an image from an official `test` folder is never trained on: its other images are `excluded`.
    One with an image from `val` is validated on. The rest is divided source by source by scikit-learn's
    StratifiedGroupKFold.

    Args:
        sources: where the images are.
        val_fraction: share of each source's images to validate on, in (0, 0.5], taken as the nearest 1/n.
        seed: of the shuffle.

    Raises:
        DataError: nothing usable is found, or only some pneumonia images of a source carry their subtype.
    """
    if not 0 < val_fraction <= 0.5:
        raise DataError(f"val_fraction is {val_fraction}; expected a share above 0 and at most 0.5.")
    images, left_out = _scan(sources)
    groups = _groups(images)
    folders = defaultdict(set)
    for image, group in zip(images, groups, strict=True):
        folders[group].add(image.folder)
    held_out: set[int] = set()
    for source in sources:
        free = [i for i, group in enumerate(groups) if not folders[group] & {"test", "val"}]
        own = [i for i in free if images[i].source == source.name]
        fold = _validation_fold(source.name, [images[i] for i in own], [groups[i] for i in own], val_fraction, seed)
        held_out |= {groups[own[i]] for i in fold}

    def split_of(index: int) -> str:
        official = folders[groups[index]]
        if "test" in official:
            return "test" if images[index].folder == "test" else "excluded"
        return "val" if "val" in official or groups[index] in held_out else "train"

    placed = tuple(replace(image, group=groups[i], split=split_of(i)) for i, image in enumerate(images))
    excluded = sum(image.split == "excluded" for image in placed)
    if excluded:
        left_out = (*left_out, f"{excluded} images that share a patient or their content with a test folder")
    return Manifest(placed, left_out)


def labelled_folder(sources: Sequence[Source]) -> Manifest:
    """Every image of some sources, grouped by patient and duplicate, with the official folder's name as its split."""
    images, left_out = _scan(sources)
    groups = _groups(images)
    return Manifest(
        tuple(replace(image, group=g, split=image.folder) for image, g in zip(images, groups, strict=True)), left_out
    )


def largest_copies(images: Sequence[LabelledImage], roots: Sequence[Path]) -> list[LabelledImage]:
    """Each image once: where several folders hold it, the copy with the most bytes."""
    best: dict[tuple[str, str, str, str], LabelledImage] = {}
    for image in images:
        held = best.setdefault(image.key, image)
        if (roots[image.root] / image.path).stat().st_size > (roots[held.root] / held.path).stat().st_size:
            best[image.key] = image
    return list(best.values())


def _scan(sources: Sequence[Source]) -> tuple[list[LabelledImage], tuple[str, ...]]:
    roots = roots_of(sources)
    found, left_out, names = [], [], [source.name for source in sources for _ in source.folders]
    maps = [source.labels for source in sources for _ in source.folders]
    for index, root in enumerate(roots):
        folder = scan_folder(root, maps[index])
        found += [(index, image) for image in folder.images]
        left_out += [f"{n} files in {root.name}/{reason}" for reason, n in sorted(folder.left_out.items())]
    for name in dict.fromkeys(names):
        own = [image for index, image in found if names[index] == name]
        bare = [image for image in own if image.label == "PNEUMONIA"]
        kinds = sum(image.label in SUBTYPES[1:] for image in own)
        if bare and kinds:
            raise DataError(
                f"Source {name!r}: {len(bare)} pneumonia images carry no subtype in their name ({bare[0].path} first) "
                f"and {kinds} do. Name all of them, as in person1_virus_6.jpeg, or none, or make two sources of them."
            )
    hashes = _hashes([image.path for _, image in found])
    images = [
        LabelledImage(
            source=names[index],
            path=image.path.relative_to(roots[index]).as_posix(),
            root=index,
            folder=image.folder,
            label=image.label,
            below=image.below,
            patient=image.patient,
            sha256=sha256,
        )
        for (index, image), sha256 in zip(found, hashes, strict=True)
    ]
    return images, tuple(left_out)


def _hashes(paths: Sequence[Path]) -> list[str]:
    def digest(path: Path) -> str:
        with path.open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()

    with ThreadPoolExecutor() as pool:
        return list(tqdm(pool.map(digest, paths), "Hashing images", len(paths), unit="image", leave=False))


def _groups(images: Sequence[LabelledImage]) -> list[int]:
    """Connected components of images that share a patient, their content, or a name in several folders."""
    ids: dict[object, int] = {}
    edges = [
        (i, len(images) + ids.setdefault(key, len(ids)))
        for i, image in enumerate(images)
        for key in (("patient", image.source, image.patient), ("content", image.sha256), image.key)
    ]
    rows, columns = np.array(edges).T
    size = len(images) + len(ids)
    graph = coo_matrix((np.ones(len(edges)), (rows, columns)), shape=(size, size))
    return [int(group) for group in connected_components(graph, directed=False)[1][: len(images)]]


def _validation_fold(
    source: str, images: Sequence[LabelledImage], groups: Sequence[int], fraction: float, seed: int
) -> list[int]:
    folds = round(1 / fraction)
    labels = [image.label for image in images]
    largest_class = max(Counter(labels).values(), default=0)
    if min(len(set(groups)), largest_class) < folds:
        raise DataError(
            f"{len(set(groups))} patients, at most {largest_class} images a class, of source {source!r} are too few "
            f"for val_fraction={fraction}; at least {folds} are needed outside of the val and test folders."
        )
    splitter = StratifiedGroupKFold(folds, shuffle=True, random_state=seed)
    return [int(i) for i in next(splitter.split(np.zeros(len(images)), labels, groups))[1]]
