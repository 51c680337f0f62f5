"""From folders of chest radiographs to a grouped, hashed manifest and the datasets made from it.

    python -m train.data DIR [DIR ...] --out manifest.csv

A folder is in Kaggle's layout: `train/`, `val/`, `test/` (any of them, or none), below them one folder a class.
Several roots may hold the same films, at other resolutions say; a film is known by its folder, class and file name.
"""

import csv
import hashlib
import io
import math
import os
import re
import shutil
from collections import Counter, defaultdict
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass, fields, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
import tyro
from PIL import Image
from scipy.sparse import coo_matrix
from scipy.sparse.csgraph import connected_components
from sklearn.model_selection import StratifiedGroupKFold
from torch.utils.data import Dataset
from torchvision.transforms import v2
from tqdm import tqdm

from pneumocam.image import Radiograph, RadiographError, load_radiograph

SUBTYPES = ("NORMAL", "BACTERIAL", "VIRAL")
BINARY = ("NORMAL", "PNEUMONIA")
FOLDERS = ("train", "val", "test")
SPLITS = (*FOLDERS, "excluded")
SUFFIXES = {".jpeg", ".jpg", ".png", ".bmp", ".tif", ".tiff", ".webp", ".dcm"}
CLASS_FOLDERS = {
    "NORMAL": "NORMAL",
    "PNEUMONIA": "PNEUMONIA",
    "BACTERIA": "BACTERIAL",
    "BACTERIAL": "BACTERIAL",
    "VIRUS": "VIRAL",
    "VIRAL": "VIRAL",
}
# IM-0115-0001, NORMAL2-IM-0383-0001, person1_bacteria_2, and Mendeley's v3: VIRUS-1000468-0001.
PATIENT = re.compile(r"^((?:NORMAL2-)?IM-\d+|person\d+|(?:NORMAL|BACTERIA|VIRUS)2?-\d+)", re.IGNORECASE)
SUBTYPE = re.compile(r"(?:^|_)(bacteria|virus)(?:_|-)", re.IGNORECASE)


class DataError(ValueError):
    """The data given cannot be used; the message says what was found, what was expected and what to do."""


@dataclass(frozen=True)
class Film:
    """One file. `split` is the use made of it here; `folder` is the official split that it came in, or empty."""

    path: str  # relative to its root, with forward slashes
    root: int
    folder: str
    label: str
    patient: str
    sha256: str
    group: int = -1
    split: str = ""

    @property
    def key(self) -> tuple[str, str, str]:
        """The same for every copy of this film, whatever root, resolution or format it is in."""
        return self.folder, self.label, Path(self.path).stem


@dataclass(frozen=True)
class Manifest:
    """Films, their labels, groups and splits, in a fixed order."""

    films: tuple[Film, ...]

    @property
    def label_names(self) -> tuple[str, ...]:
        return BINARY if any(film.label == "PNEUMONIA" for film in self.films) else SUBTYPES

    @property
    def sha256(self) -> str:
        """Of the file that `write` makes: the same films, labels and splits give the same 64 hexadecimal digits."""
        return hashlib.sha256(self._csv().encode()).hexdigest()

    def split(self, name: str) -> list[Film]:
        return [film for film in self.films if film.split == name]

    def write(self, path: Path) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        temporary = path.with_suffix(".tmp")
        temporary.write_text(self._csv(), newline="")
        temporary.replace(path)

    def _csv(self) -> str:
        text = io.StringIO(newline="")
        writer = csv.DictWriter(text, [field.name for field in fields(Film)], lineterminator="\n")
        writer.writeheader()
        writer.writerows(asdict(film) for film in self.films)
        return text.getvalue()

    @classmethod
    def read(cls, path: Path, roots: Sequence[Path]) -> "Manifest":
        """Read a manifest again and check that every file under `roots` still has the content that it had.

        Raises:
            DataError: the file is no manifest, a film is missing, or its content has changed.
        """
        try:
            with path.open(newline="") as file:
                rows: list[dict[str, Any]] = list(csv.DictReader(file))
            films = tuple(Film(**row | {"root": int(row["root"]), "group": int(row["group"])}) for row in rows)
            if not films or any(film.split not in SPLITS for film in films):
                raise ValueError("no films, or films of no known split")
        except (KeyError, TypeError, ValueError, OSError, csv.Error) as error:
            raise DataError(f"{path} is not a manifest written by train.data: {error!r}") from None
        if max(film.root for film in films) >= len(roots):
            raise DataError(f"{path} has films of {max(f.root for f in films) + 1} roots; {len(roots)} were given.")
        missing = [film.path for film in films if not (roots[film.root] / film.path).is_file()]
        if missing:
            raise DataError(f"{len(missing)} films of {path} are missing, {missing[0]} first. Give the same --data.")
        hashes = _hashes([roots[film.root] / film.path for film in films])
        changed = [film.path for film, found in zip(films, hashes, strict=True) if film.sha256 != found]
        if changed:
            raise DataError(f"{len(changed)} films changed since {path} was written, {changed[0]} first.")
        return cls(films)


def build_manifest(roots: Sequence[Path], *, val_fraction: float = 0.15, seed: int = 0) -> Manifest:
    """Scan folders and split their films so that no patient and no duplicate stands on two sides.

    Films are of one group if they share a patient (bare `personN`: that number restarts for each aetiology, and the
    stricter reading is used), or have identical content, or are copies of one film under several roots.
    A group with a film from an official `test/` folder is never trained on: its other films are `excluded`. One with
    a film from `val/` is validated on. The rest is divided by scikit-learn's StratifiedGroupKFold.

    Args:
        roots: folders, each in Kaggle's layout or with class folders only.
        val_fraction: share of the films to validate on, in (0, 0.5], taken as the nearest 1/n.
        seed: of the shuffle.

    Raises:
        DataError: nothing usable is found, or only some pneumonia films carry their subtype.
    """
    if not 0 < val_fraction <= 0.5:
        raise DataError(f"val_fraction is {val_fraction}; expected a share above 0 and at most 0.5.")
    films = _scan(roots)
    groups = _groups(films)
    folders = defaultdict(set)
    for film, group in zip(films, groups, strict=True):
        folders[group].add(film.folder)
    free = [i for i, group in enumerate(groups) if not folders[group] & {"test", "val"}]
    validation = _validation_fold([films[i] for i in free], [groups[i] for i in free], val_fraction, seed)
    held_out = {free[i] for i in validation}

    def split_of(index: int) -> str:
        official = folders[groups[index]]
        if "test" in official:
            return "test" if films[index].folder == "test" else "excluded"
        return "val" if "val" in official or index in held_out else "train"

    return Manifest(tuple(replace(film, group=groups[i], split=split_of(i)) for i, film in enumerate(films)))


def labelled_folder(root: Path) -> Manifest:
    """Every film of a folder, grouped by patient and duplicate, with the official folder's name as its split."""
    films = _scan([root])
    groups = _groups(films)
    return Manifest(tuple(replace(film, group=g, split=film.folder) for film, g in zip(films, groups, strict=True)))


def largest_copies(films: Sequence[Film], roots: Sequence[Path]) -> list[Film]:
    """Each film once: where several roots hold it, the copy with the most bytes."""
    best: dict[tuple[str, str, str], Film] = {}
    for film in films:
        held = best.setdefault(film.key, film)
        if (roots[film.root] / film.path).stat().st_size > (roots[held.root] / held.path).stat().st_size:
            best[film.key] = film
    return list(best.values())


def _scan(roots: Sequence[Path]) -> list[Film]:
    found = [(index, *film) for index, root in enumerate(roots) for film in _labelled_files(root)]
    counts = Counter(label for _, _, label, _ in found)
    if counts["PNEUMONIA"] and counts["BACTERIAL"] + counts["VIRAL"]:
        bare = next(path for _, _, label, path in found if label == "PNEUMONIA")
        raise DataError(
            f"{counts['PNEUMONIA']} pneumonia films carry no subtype in their name ({bare} first) and "
            f"{counts['BACTERIAL'] + counts['VIRAL']} do. Name all of them, as in person1_virus_6.jpeg, or none."
        )
    hashes = _hashes([path for *_, path in found])
    return [
        Film(
            path=path.relative_to(roots[index]).as_posix(),
            root=index,
            folder=folder,
            label=label,
            patient=_patient(path.stem),
            sha256=sha256,
        )
        for (index, folder, label, path), sha256 in zip(found, hashes, strict=True)
    ]


def _labelled_files(root: Path) -> list[tuple[str, str, Path]]:
    """Official folder or empty, label, and path of every film below a root."""
    if not root.is_dir():
        raise DataError(f"{root} is not a folder. Give a folder that holds train/NORMAL, train/PNEUMONIA and so on.")
    places = [(name, root / name) for name in FOLDERS if (root / name).is_dir()] or [("", root)]
    found: list[tuple[str, str, Path]] = []
    for folder, place in places:
        for child in sorted(place.iterdir()):
            if child.is_dir() and child.name.upper() in CLASS_FOLDERS:
                label = CLASS_FOLDERS[child.name.upper()]
                files = (p for p in child.rglob("*") if p.suffix.lower() in SUFFIXES and p.name[0] != ".")
                found += [(folder, _subtype(label, path.stem), path) for path in sorted(files) if path.is_file()]
    if not found:
        raise DataError(
            f"No films below {root}: expected class folders ({', '.join(sorted(CLASS_FOLDERS))}) with images."
        )
    return found


def _patient(stem: str) -> str:
    match = PATIENT.match(stem)
    return (match.group(1) if match else stem).lower()


def _subtype(label: str, stem: str) -> str:
    match = SUBTYPE.search(stem)
    return label if label != "PNEUMONIA" or match is None else CLASS_FOLDERS[match.group(1).upper()]


def _hashes(paths: Sequence[Path]) -> list[str]:
    def digest(path: Path) -> str:
        with path.open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()

    with ThreadPoolExecutor() as pool:
        return list(tqdm(pool.map(digest, paths), "Hashing films", len(paths), unit="film", leave=False))


def _groups(films: Sequence[Film]) -> list[int]:
    """Connected components of films that share a patient, their content, or a name under several roots."""
    ids: dict[object, int] = {}
    edges = [
        (i, len(films) + ids.setdefault(key, len(ids)))
        for i, film in enumerate(films)
        for key in (("patient", film.patient), ("content", film.sha256), film.key)
    ]
    rows, columns = np.array(edges).T
    size = len(films) + len(ids)
    graph = coo_matrix((np.ones(len(edges)), (rows, columns)), shape=(size, size))
    return [int(group) for group in connected_components(graph, directed=False)[1][: len(films)]]


def _validation_fold(films: Sequence[Film], groups: Sequence[int], fraction: float, seed: int) -> list[int]:
    folds = round(1 / fraction)
    labels = [film.label for film in films]
    largest_class = max(Counter(labels).values(), default=0)
    if min(len(set(groups)), largest_class) < folds:
        raise DataError(
            f"{len(set(groups))} patients, at most {largest_class} films a class, are too few for "
            f"val_fraction={fraction}; at least {folds} are needed outside of the val and test folders."
        )
    splitter = StratifiedGroupKFold(folds, shuffle=True, random_state=seed)
    return [int(i) for i in next(splitter.split(np.zeros(len(films)), labels, groups))[1]]


def fetch(source: str, *, cache: Path = Path("data")) -> Path:
    """Turn what was given as data into a folder, by a download if it names one.

    Args:
        source: a folder; `kaggle:owner/name` (kagglehub; the original is
            `kaggle:paultimothymooney/chest-xray-pneumonia`); or `hf-dataset:owner/name`, a Hub dataset with an image
            and a class-label column.
        cache: where a Hub dataset is laid out as a folder.

    Raises:
        DataError: the folder does not exist, or the download failed; the message says what to set up.
    """
    scheme, _, name = source.partition(":")
    if scheme == "kaggle":
        return _from_kaggle(name)
    if scheme == "hf-dataset":
        return _from_hub(name, cache / name.replace("/", "--"))
    return Path(source)


def _from_kaggle(name: str) -> Path:
    try:
        import kagglehub
    except ImportError:
        raise DataError("kaggle: needs the train extra: pip install 'pneumocam[train]'.") from None
    try:
        root = Path(kagglehub.dataset_download(name))
    except Exception as error:
        raise DataError(
            f"Kaggle's {name!r} could not be downloaded ({type(error).__name__}). Check the name and the network, put "
            "an API token in ~/.kaggle/kaggle.json or KAGGLE_USERNAME and KAGGLE_KEY, or unpack the dataset yourself "
            "and give its folder."
        ) from error
    # The archive holds chest_xray/ and, inside it, a second copy of the whole: the outermost is taken.
    return next((p for p in (root, root / "chest_xray") if any((p / f).is_dir() for f in FOLDERS)), root)


def _from_hub(name: str, folder: Path) -> Path:
    if folder.is_dir():
        return folder
    try:
        import datasets
    except ImportError:
        raise DataError("hf-dataset: needs the train extra: pip install 'pneumocam[train]'.") from None
    try:
        loaded = datasets.load_dataset(name)
    except Exception as error:
        raise DataError(
            f"The Hub dataset {name!r} could not be loaded ({type(error).__name__}). Check the id and the network; a "
            "gated or private one needs HF_TOKEN or `hf auth login`. A folder in Kaggle's layout works without it."
        ) from error
    partial = folder.with_name(folder.name + ".partial")
    shutil.rmtree(partial, ignore_errors=True)
    for split, rows in loaded.items():
        columns = {type(feature).__name__: column for column, feature in rows.features.items()}
        if not {"Image", "ClassLabel"} <= columns.keys():
            raise DataError(f"{name!r} has the columns {rows.features}; expected an Image and a ClassLabel.")
        names = rows.features[columns["ClassLabel"]].names
        if unlabelled := sum(label is None or label < 0 for label in rows[columns["ClassLabel"]]):
            raise DataError(f"{unlabelled} rows of {name!r} ({split}) have no label; every film needs one.")
        for i, row in enumerate(
            tqdm(rows.cast_column(columns["Image"], datasets.Image(decode=False)), f"Laying out {split}")
        ):
            image = row[columns["Image"]]
            target = partial / {"validation": "val"}.get(split, split) / names[row[columns["ClassLabel"]]]
            target.mkdir(parents=True, exist_ok=True)
            file = target / (Path(image["path"]).name if image["path"] else f"{split}-{i:06d}.jpeg")
            if file.exists():
                file = file.with_stem(f"{file.stem}-{split}-{i:06d}")
            file.write_bytes(image["bytes"] or Path(image["path"]).read_bytes())
    partial.rename(folder)
    return folder


@dataclass(frozen=True)
class Augmentation:
    """What may happen to a training film; the defaults are the shipped recipe's, see `train_transform`."""

    crop_scale: float = 0.2
    """Smallest share of the film that a crop keeps, of its area."""
    crop_aspect: float = 1.5
    """Widest crop, and the inverse of the narrowest; 1 keeps the film's own aspect ratio."""
    zoom_out: float = 0.7
    """How small the film may be drawn on black, as a factor of its side; 1 is never."""
    resample: float = 0.4
    """How often a film is first shrunk, at most to a third of the crop's side."""
    reencode: float = 0.5
    """How often a film is saved as JPEG (quality 25 to 95) before the crop; half as often after it."""
    sharpness: float = 0.8
    """How often detail is taken away or doubled."""
    noise: float = 0.4
    """How often Gaussian noise is added."""
    photometric: float = 1.0
    """Strength of the changes of brightness, contrast and gamma, from 0."""
    tone: float = 0.9
    """How often a random tone curve is laid over the film."""


def train_transform(
    size: int,
    mean: Sequence[float],
    std: Sequence[float],
    augment: Augmentation | None = None,
    *,
    crop_pct: float = 1.0,
) -> v2.Transform:
    """Augmentations for a `(C, H, W)` uint8 tensor of any size; gives `(C, size, size)` float32, normalised.

    Zoom, shear, rotation and flip as in the notebook that this project set out to surpass. The others take away what
    tells this dataset's classes apart without a look at the lungs: JPEG quality, noise, sharpness, pixel size, aspect
    ratio, exposure and tone. Of each side, `crop_pct` around the middle is used, as timm's evaluation does.
    """
    a = augment or Augmentation()
    scale = None if a.zoom_out == 1 else (a.zoom_out, 1.0)
    return v2.Compose(
        [
            v2.Lambda(partial(_middle, crop_pct)),
            v2.RandomApply([v2.RandomResize(size // 3, size + 1, antialias=True)], p=a.resample),
            v2.RandomApply([v2.Lambda(_random_jpeg)], p=a.reencode),
            v2.RandomAffine(degrees=12, scale=scale, shear=(-8, 8, -8, 8), interpolation=v2.InterpolationMode.BILINEAR),
            v2.RandomResizedCrop(
                size, scale=(a.crop_scale, 1.0), ratio=(1 / a.crop_aspect, a.crop_aspect), antialias=True
            ),
            v2.RandomHorizontalFlip(),
            v2.RandomApply([v2.Lambda(_random_sharpness)], p=a.sharpness),
            v2.RandomApply([v2.Lambda(_random_tone)], p=a.tone),
            v2.RandomAutocontrast(p=0.2 * min(a.photometric, 1)),
            v2.ColorJitter(brightness=0.25 * a.photometric, contrast=0.4 * a.photometric),
            v2.RandomApply([v2.Lambda(_random_gamma)], p=0.5 * min(a.photometric, 1)),
            v2.RandomApply([v2.Lambda(_random_jpeg)], p=a.reencode / 2),
            v2.ToDtype(torch.float32, scale=True),
            v2.RandomApply([v2.GaussianNoise(sigma=0.04)], p=a.noise),
            v2.Normalize(list(mean), list(std)),
        ]
    )


def _middle(share: float, image: torch.Tensor) -> torch.Tensor:
    height, width = (round(share * side) for side in image.shape[-2:])
    middle: torch.Tensor = v2.functional.center_crop(image, [height, width])
    return middle


def _random_jpeg(image: torch.Tensor) -> torch.Tensor:
    """The grey `(C, H, W)` image saved as JPEG at a quality of 25 to 95; torchvision is giving up its own codec."""
    file = io.BytesIO()
    Image.fromarray(image[0].numpy()).save(file, "JPEG", quality=int(torch.randint(25, 96, ())))
    return torch.from_numpy(np.array(Image.open(file))).expand_as(image)  # (C, H, W)


def _random_sharpness(image: torch.Tensor) -> torch.Tensor:
    """Detail below a random width of 1 to 4 pixels taken away, or up to doubled: an unsharp mask of either sign.

    The training set's normal films are the sharper ones, and a network can go by that instead of the lungs.
    """
    sigma = float(torch.empty(()).uniform_(0.5, 2.0))
    gain = float(torch.empty(()).uniform_(-1.0, 1.0))
    width = 2 * math.ceil(2 * sigma) + 1
    smooth: torch.Tensor = v2.functional.gaussian_blur(image, [width, width], [sigma, sigma]).float()
    return (smooth + (1 + gain) * (image - smooth)).round().clamp(0, 255).to(torch.uint8)


def _random_tone(image: torch.Tensor) -> torch.Tensor:
    """Grey values along a rising cubic Bezier curve from (0, 0) to (1, 1) with random control points.

    The nonlinear transformation of Models Genesis (Zhou et al. 2019), as detectors, developers and whoever exported a
    film differ in how much of the bright and of the dark they tell apart.
    """
    x1, y1, x2, y2 = torch.rand(4)
    t = torch.linspace(0, 1, 1024)

    def bezier(first: torch.Tensor, second: torch.Tensor) -> np.ndarray:
        return (3 * (1 - t) ** 2 * t * first + 3 * (1 - t) * t**2 * second + t**3).numpy()

    curve = np.interp(np.linspace(0, 1, 256), bezier(x1, x2), bezier(y1, y2))
    return torch.from_numpy((curve * 255).round().astype(np.uint8))[image.long()]


def _random_gamma(image: torch.Tensor) -> torch.Tensor:
    adjusted: torch.Tensor = v2.functional.adjust_gamma(image, float(torch.empty(()).uniform_(0.6, 1.6)))
    return adjusted


class FilmDataset(Dataset[tuple[torch.Tensor, int]]):
    """`(C, H, W)` float32 images and class indices; one item a film, whichever of its copies.

    With `views` above 1, that many images, each of a copy and an augmentation of its own, as `(views * C, H, W)`.
    With a seed, every item draws its own random numbers from (seed, epoch, index): neither the number of workers nor
    that of machines, nor a resumed run, changes what an epoch looks like.
    """

    def __init__(
        self,
        films: Sequence[Film],
        roots: Sequence[Path],
        label_names: Sequence[str],
        transform: Callable[[Radiograph], torch.Tensor],
        *,
        seed: int | None = None,
        views: int = 1,
    ) -> None:
        self.views = views
        self.copies: list[list[Film]] = [[film] for film in films]
        if seed is not None:
            by_key: dict[tuple[str, str, str], list[Film]] = defaultdict(list)
            for film in films:
                by_key[film.key].append(film)
            self.copies = list(by_key.values())
        self.labels = [label_names.index(copies[0].label) for copies in self.copies]
        self.roots, self.transform, self.seed, self.epoch = list(roots), transform, seed, 0

    def set_epoch(self, epoch: int) -> None:
        self.epoch = epoch

    def __len__(self) -> int:
        return len(self.copies)

    def __getitem__(self, index: int) -> tuple[torch.Tensor, int]:
        if self.seed is None:
            return self._load(self.copies[index][0]), self.labels[index]
        with torch.random.fork_rng(devices=[]):
            key = f"{self.seed} {self.epoch} {index}".encode()
            torch.default_generator.manual_seed(int.from_bytes(hashlib.blake2b(key, digest_size=8).digest(), "big"))
            copies = self.copies[index]
            views = [self._load(copies[int(torch.randint(len(copies), ()))]) for _ in range(self.views)]
            return torch.cat(views) if self.views > 1 else views[0], self.labels[index]

    def _load(self, film: Film) -> torch.Tensor:
        path = self.roots[film.root] / film.path
        try:
            return self.transform(load_radiograph(path))
        except RadiographError as error:
            raise DataError(f"{path} cannot be trained on; remove it or mend it: {error}") from error


def write_manifest(
    data: tyro.conf.Positional[tuple[str, ...]],
    /,
    out: Path = Path("manifest.csv"),
    val_fraction: float = 0.15,
    seed: int = 0,
) -> None:
    """Write the manifest of some folders and print how their films are divided."""
    roots = [fetch(source) for source in data]
    manifest = build_manifest(roots, val_fraction=val_fraction, seed=seed)
    manifest.write(out)
    for (split, label), n in sorted(Counter((film.split, film.label) for film in manifest.films).items()):
        print(f"{split:9} {label:10} {n:6}")
    print(f"{len({f.group for f in manifest.films})} groups; sha256 {manifest.sha256}; written to {os.fspath(out)}")


def main() -> None:
    try:
        tyro.cli(write_manifest)
    except DataError as error:
        raise SystemExit(f"train.data: {error}") from None


if __name__ == "__main__":
    main()
