"""Folders, names and duplicates; a split that cannot leak; where data comes from; what an epoch looks like."""

import hashlib
import math
import pickle
import random
import shutil
import tempfile
from collections import Counter, defaultdict
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from itertools import combinations
from pathlib import Path
from typing import Any

import datasets
import huggingface_hub
import numpy as np
import pytest
import torch
from hypothesis import given, reject, settings
from hypothesis import strategies as st
from PIL import Image
from torch.utils.data import DataLoader

import train.data
from pneumocam.image import Radiograph
from tests.conftest import SUBTYPES, write_kaggle_folder
from train.data import (
    Augmentation,
    DataError,
    Film,
    FilmDataset,
    Manifest,
    build_manifest,
    fetch,
    labelled_folder,
    train_transform,
)

SIDES = ("train", "val", "test")
# scikit-learn's remark on a class smaller than the number of folds; made-up folders have such classes.
small_classes = pytest.mark.filterwarnings("ignore:The least populated class in y has only")


def write(root: Path, *names: str) -> Path:
    """Files whose content is their own name."""
    for name in names:
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(name.encode())
    return root


def write_patients(root: Path, n: int = 20, place: str = "train") -> Path:
    normal = [f"{place}/NORMAL/IM-{i:04d}-0001.jpeg" for i in range(n)]
    return write(root, *normal, *(f"{place}/PNEUMONIA/person{i}_bacteria_{i}.jpeg" for i in range(n)))


def film(manifest: Manifest, stem: str) -> Film:
    (found,) = (f for f in manifest.films if Path(f.path).stem == stem)
    return found


def assert_no_leak(films: Sequence[Film], patient: Callable[[Film], object] = lambda film: film.patient) -> None:
    for one, other in combinations(SIDES, 2):
        for trait in (patient, lambda film: film.sha256, lambda film: film.key):
            assert not {trait(f) for f in films if f.split == one} & {trait(f) for f in films if f.split == other}


# --- layouts and names


@pytest.mark.parametrize(
    ("name", "label", "patient"),
    [
        ("NORMAL/IM-0115-0001.jpeg", "NORMAL", "im-0115"),
        ("NORMAL/IM-0115-0001-0002.jpeg", "NORMAL", "im-0115"),
        ("NORMAL/NORMAL2-IM-0383-0001.jpeg", "NORMAL", "normal2-im-0383"),
        ("PNEUMONIA/person1_bacteria_2.jpeg", "BACTERIAL", "person1"),
        ("PNEUMONIA/person1_virus_6.jpeg", "VIRAL", "person1"),
        ("PNEUMONIA/person12_virus_6.jpeg", "VIRAL", "person12"),
        ("NORMAL/NORMAL-1003233-0001.jpeg", "NORMAL", "normal-1003233"),
        ("PNEUMONIA/BACTERIA-123-0001.jpeg", "BACTERIAL", "bacteria-123"),
        ("PNEUMONIA/VIRUS-1000468-0001.jpeg", "VIRAL", "virus-1000468"),
        ("pneumonia/Person3_Virus_1.PNG", "VIRAL", "person3"),
        ("Bacterial/anything.dcm", "BACTERIAL", "anything"),
        ("VIRUS/deep/er/some film.tif", "VIRAL", "some film"),
        ("PNEUMONIA/antivirus.webp", "PNEUMONIA", "antivirus"),
    ],
)
@pytest.mark.parametrize("folder", ["", "train", "val", "test"])
def test_label_and_patient_are_read_from_folder_and_name(
    tmp_path: Path, folder: str, name: str, label: str, patient: str
) -> None:
    (found,) = labelled_folder(write(tmp_path, f"{folder}/{name}" if folder else name)).films
    assert (found.label, found.patient, found.folder, found.split) == (label, patient, folder, folder)
    assert found.path == (f"{folder}/{name}" if folder else name)


def test_only_films_in_class_folders_are_found(tmp_path: Path) -> None:
    write(tmp_path, "train/NORMAL/a.jpeg", "train/NORMAL/._a.jpeg", "train/NORMAL/notes.txt", "train/OTHER/b.jpeg")
    write(tmp_path, "test/PNEUMONIA/c.png", "chest_xray/train/NORMAL/a.jpeg", "__MACOSX/train/NORMAL/a.jpeg", "d.jpeg")
    (tmp_path / "train/NORMAL/folder.png").mkdir()
    assert [f.path for f in labelled_folder(tmp_path).films] == ["train/NORMAL/a.jpeg", "test/PNEUMONIA/c.png"]


def test_what_is_no_data_is_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="is not a folder"):
        build_manifest([tmp_path / "absent"])
    with pytest.raises(DataError, match=r"No films below .*expected class folders"):
        build_manifest([write(tmp_path, "train/CATS/a.jpeg")])
    with pytest.raises(DataError, match=r"val_fraction is 0.6; expected a share above 0 and at most 0.5"):
        build_manifest([write_patients(tmp_path)], val_fraction=0.6)


def test_too_few_patients_are_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"6 patients, at most 3 films a class, are too few for val_fraction=0.15; at"):
        build_manifest([write(tmp_path, *(f"{c}/{c}{i}.png" for c in ("NORMAL", "PNEUMONIA") for i in range(3)))])
    with pytest.raises(DataError, match="0 patients"):
        build_manifest([write_patients(tmp_path / "official", place="test")])


@pytest.mark.parametrize("roots", [("a", "a"), ("a", "b")])
def test_subtypes_in_only_some_names_are_refused(tmp_path: Path, roots: tuple[str, str]) -> None:
    named, bare = (tmp_path / root for root in roots)
    write_patients(named)
    write(bare, "train/PNEUMONIA/film1.jpeg", "train/PNEUMONIA/film2.jpeg")
    with pytest.raises(DataError, match=r"2 pneumonia films carry no subtype .*film1.jpeg first\) and 20 do"):
        build_manifest([tmp_path / root for root in sorted(set(roots))])


def test_names_without_subtypes_give_the_binary_labels(tmp_path: Path) -> None:
    bare = write_kaggle_folder(tmp_path / "bare", subtypes=False)
    assert build_manifest([bare]).label_names == ("NORMAL", "PNEUMONIA")
    named = write_kaggle_folder(tmp_path / "named")
    assert build_manifest([named]).label_names == ("NORMAL", "BACTERIAL", "VIRAL")


# --- groups and splits


@small_classes
def test_duplicates_and_patients_are_chained_into_one_group(tmp_path: Path) -> None:
    write_patients(tmp_path)
    shutil.copy(tmp_path / "train/NORMAL/IM-0000-0001.jpeg", tmp_path / "train/NORMAL/IM-0001-0002.jpeg")
    shutil.copy(tmp_path / "train/NORMAL/IM-0001-0001.jpeg", tmp_path / "train/NORMAL/IM-0002-0002.jpeg")
    write(tmp_path, "train/PNEUMONIA/person3_virus_9.jpeg")
    manifest = build_manifest([tmp_path])
    chain = {film(manifest, f"IM-000{i}-0001").group for i in range(3)}
    assert len(chain) == 1
    assert film(manifest, "person3_virus_9").group == film(manifest, "person3_bacteria_3").group
    assert len({f.group for f in manifest.films}) == 40 - 2


def test_official_folders_are_kept_and_what_they_share_with_training_is_not_trained_on(tmp_path: Path) -> None:
    write_patients(tmp_path)
    write(tmp_path, "test/PNEUMONIA/person3_virus_7.jpeg", "val/PNEUMONIA/person4_bacteria_70.jpeg")
    write(tmp_path, "val/NORMAL/IM-0005-0009.jpeg", "test/NORMAL/IM-0005-0010.jpeg")
    shutil.copy(tmp_path / "train/NORMAL/IM-0006-0001.jpeg", tmp_path / "test/NORMAL/IM-9999-0001.jpeg")
    manifest = build_manifest([tmp_path])
    split = {stem: film(manifest, stem).split for stem in (Path(f.path).stem for f in manifest.films)}
    assert {split[s] for s in ("person3_virus_7", "IM-0005-0010", "IM-9999-0001")} == {"test"}
    assert {split[s] for s in ("person4_bacteria_70", "person4_bacteria_4")} == {"val"}
    excluded = {stem for stem, side in split.items() if side == "excluded"}
    assert excluded == {"person3_bacteria_3", "IM-0005-0001", "IM-0005-0009", "IM-0006-0001"}
    assert_no_leak(manifest.films)


def test_copies_under_several_roots_stand_on_one_side(tmp_path: Path) -> None:
    large = write_kaggle_folder(tmp_path / "large", 12, size=40)
    small = write_kaggle_folder(tmp_path / "small", 12, size=20)
    (small / "train/NORMAL/IM-0001-0001.jpeg").rename(small / "train/NORMAL/IM-0001-0001.png")
    manifest = build_manifest([large, small])
    sides, roots = defaultdict(set), defaultdict(set)
    for f in manifest.films:
        sides[f.key].add(f.split)
        roots[f.key].add(f.root)
    assert set(map(len, sides.values())) == {1}
    assert len(roots) == 36
    assert all(found == {0, 1} for found in roots.values())


@dataclass(frozen=True)
class Made:
    """A film to be: what its patient and content truly are."""

    root: int
    folder: str
    kind: str
    patient: int
    number: int
    content: int

    @property
    def name(self) -> str:
        return {
            "normal": f"NORMAL/IM-{self.patient:04d}-{self.number:04d}.jpeg",
            "normal2": f"NORMAL/NORMAL2-IM-{self.patient:04d}-{self.number:04d}.jpeg",
            "bacteria": f"PNEUMONIA/person{self.patient}_bacteria_{self.number}.jpeg",
            "virus": f"PNEUMONIA/person{self.patient}_virus_{self.number}.jpeg",
            "mendeley": f"PNEUMONIA/VIRUS-{self.patient}-{self.number:04d}.jpeg",
        }[self.kind]

    @property
    def who(self) -> tuple[str, int]:
        return "person" if self.kind in ("bacteria", "virus") else self.kind, self.patient


made_films = st.lists(
    st.builds(
        Made,
        root=st.integers(0, 1),
        folder=st.sampled_from(("train", "train", "train", "val", "test")),
        kind=st.sampled_from(("normal", "normal2", "bacteria", "virus", "mendeley")),
        patient=st.integers(0, 15),
        number=st.integers(0, 2),
        content=st.integers(0, 60),
    ),
    min_size=4,
    max_size=40,
    unique_by=lambda made: (made.root, made.folder, made.name),
)


@small_classes
@settings(deadline=None, max_examples=40)
@given(films=made_films, fraction=st.sampled_from((0.15, 0.34, 0.5)), seed=st.integers(0, 3))
def test_no_patient_no_content_and_no_film_is_on_two_sides(films: list[Made], fraction: float, seed: int) -> None:
    with tempfile.TemporaryDirectory() as folder:
        roots = [Path(folder, str(root)) for root in sorted({made.root for made in films})]
        for made in films:
            path = Path(folder, str(made.root), made.folder, made.name)
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(bytes([made.content]))
        try:
            manifest = build_manifest(roots, val_fraction=fraction, seed=seed)
        except DataError:
            reject()  # too few patients to divide
        truth = {(Path(folder, str(m.root)), f"{m.folder}/{m.name}"): m for m in films}
        made_of = {f: truth[roots[f.root], f.path] for f in manifest.films}
    assert len(made_of) == len(films)
    assert_no_leak(manifest.films)
    assert_no_leak(manifest.films, lambda f: made_of[f].who)
    assert_no_leak(manifest.films, lambda f: made_of[f].content)
    for f, made in made_of.items():
        assert f.split in (*SIDES, "excluded")
        assert (f.split == "test") == (made.folder == "test")
        assert made.folder != "val" or f.split in ("val", "excluded")
    tested = {f.group for f in manifest.films if f.split == "test"}
    assert {f.group for f in manifest.films if f.split == "excluded"} <= tested


def test_every_class_has_its_share_in_validation(tmp_path: Path) -> None:
    write_patients(tmp_path, 140)
    write(tmp_path, *(f"train/PNEUMONIA/person{1000 + i}_virus_{j}.jpeg" for i in range(70) for j in range(2)))
    for fraction, n in ((0.15, 20), (0.25, 35), (0.5, 70)):
        counts = Counter(f.label for f in build_manifest([tmp_path], val_fraction=fraction).split("val"))
        assert counts == {label: pytest.approx(n, abs=2) for label in SUBTYPES}


def test_real_films_do_not_leak(real_data: Path) -> None:
    manifest = build_manifest([real_data / "chest_xray", real_data / "chest_xray_512"])
    assert_no_leak(manifest.films)
    first = [f for f in manifest.films if f.root == 0]
    assert Counter(f.label for f in first) == {"NORMAL": 1341, "BACTERIAL": 2530, "VIRAL": 1345}
    assert len({f.key for f in manifest.films}) == 5216
    held_out = Counter(f.label for f in first if f.split == "val")
    for label, n in Counter(f.label for f in first).items():
        assert held_out[label] / n == pytest.approx(1 / 7, abs=0.005)
    times = Counter(f.sha256 for f in manifest.films)
    assert sum(n > 1 for n in times.values()) == 26


# --- the manifest


@small_classes
def test_the_hash_is_of_films_labels_and_splits_alone(tmp_path: Path) -> None:
    data = write_patients(tmp_path / "data")
    manifest = build_manifest([data])
    assert build_manifest([data]) == manifest
    moved = Path(shutil.copytree(data, tmp_path / "elsewhere"))
    assert build_manifest([moved]).sha256 == manifest.sha256
    seen = {manifest.sha256, build_manifest([data], seed=1).sha256, build_manifest([data], val_fraction=0.25).sha256}
    (moved / "train/NORMAL/IM-0003-0001.jpeg").write_bytes(b"other content")
    seen.add(build_manifest([moved]).sha256)
    (moved / "train/NORMAL/IM-0003-0001.jpeg").rename(moved / "train/PNEUMONIA/IM-0003-0001_virus_.jpeg")
    seen.add(build_manifest([moved]).sha256)
    (moved / "train/PNEUMONIA/IM-0003-0001_virus_.jpeg").unlink()
    seen.add(build_manifest([moved]).sha256)
    assert len(seen) == 6
    first, *others = manifest.films
    for other in (replace(first, label="VIRAL"), replace(first, split="test"), replace(first, sha256="0" * 64)):
        assert Manifest((other, *others)).sha256 != manifest.sha256


def test_a_manifest_is_read_as_it_was_written(tmp_path: Path) -> None:
    data = write(write_patients(tmp_path / "data"), 'train/NORMAL/a, "b"\n ü.jpeg')
    manifest = build_manifest([data])
    path = tmp_path / "new/manifest.csv"
    manifest.write(path)
    assert Manifest.read(path, [data]) == manifest
    assert hashlib.sha256(path.read_bytes()).hexdigest() == manifest.sha256
    assert [p.name for p in path.parent.iterdir()] == ["manifest.csv"]


def test_missing_and_changed_films_are_refused(tmp_path: Path) -> None:
    data, path = write_patients(tmp_path / "data"), tmp_path / "manifest.csv"
    build_manifest([data]).write(path)
    first = data / "train/NORMAL/IM-0000-0001.jpeg"
    first.write_bytes(b"retouched")
    with pytest.raises(DataError, match=r"1 films changed since .*, train/NORMAL/IM-0000-0001.jpeg first"):
        Manifest.read(path, [data])
    first.unlink()
    with pytest.raises(DataError, match=r"1 films of .* are missing, train/NORMAL/IM-0000-0001.jpeg first"):
        Manifest.read(path, [data])
    with pytest.raises(DataError, match=r"films of 1 roots; 0 were given"):
        Manifest.read(path, [])


def test_what_is_no_manifest_is_refused(tmp_path: Path) -> None:
    data, path = write_patients(tmp_path / "data"), tmp_path / "manifest.csv"
    build_manifest([data]).write(path)
    good = path.read_bytes()
    foreign = (
        b"",
        good.splitlines()[0],
        b"\xff\xd8\xff\xe0 a JPEG",
        b"a,b\n1,2\n",
        b"x" * 200_000,
        good[: good.rindex(b",")],
        good.replace(b",train\n", b",training\n"),
        good.replace(b"train/NORMAL", b"surplus,train/NORMAL"),
    )
    for content in foreign:
        path.write_bytes(content)
        with pytest.raises(DataError, match=r"is not a manifest written by train.data"):
            Manifest.read(path, [data])
    path.unlink()
    with pytest.raises(DataError, match=r"is not a manifest written by train.data.*No such file"):
        Manifest.read(path, [data])


def test_the_command_writes_and_counts(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    data, out = write_patients(tmp_path / "data", 14), tmp_path / "m.csv"
    monkeypatch.setattr("sys.argv", ["train.data", str(data), "--out", str(out), "--val-fraction", "0.5"])
    train.data.main()
    printed = capsys.readouterr().out
    assert "val       NORMAL          7\n" in printed
    assert "train     BACTERIAL       7\n" in printed
    assert f"28 groups; sha256 {Manifest.read(out, [data]).sha256}" in printed
    monkeypatch.setattr("sys.argv", ["train.data", str(tmp_path / "absent")])
    with pytest.raises(SystemExit, match=r"^train.data: .*absent is not a folder"):
        train.data.main()


# --- where data comes from


@pytest.fixture
def offline(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """No network, no credentials and empty caches, for Kaggle's and the Hub's clients alike."""
    for name in ("HTTP_PROXY", "HTTPS_PROXY", "http_proxy", "https_proxy"):
        monkeypatch.setenv(name, "http://127.0.0.1:9")
    for name in ("NO_PROXY", "no_proxy", "KAGGLE_USERNAME", "KAGGLE_KEY", "KAGGLE_API_TOKEN"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("KAGGLE_CONFIG_DIR", str(tmp_path))
    monkeypatch.setenv("KAGGLEHUB_CACHE", str(tmp_path / "kagglehub"))
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "datasets")
    monkeypatch.setattr(datasets.config, "HF_HUB_OFFLINE", True)
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(tmp_path / "hub"))


def test_a_folder_is_itself() -> None:
    assert fetch("some/folder") == Path("some/folder")


@pytest.mark.usefixtures("offline")
@pytest.mark.parametrize("name", ["paultimothymooney/chest-xray-pneumonia", "nonsense"])
def test_kaggle_without_a_network_is_refused_with_what_to_do(name: str) -> None:
    with pytest.raises(DataError, match=rf"^Kaggle's '{name}' could not be downloaded .*KAGGLE_USERNAME"):
        fetch(f"kaggle:{name}")


@pytest.mark.usefixtures("offline")
def test_an_unknown_hub_dataset_is_refused_with_what_to_do(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"^The Hub dataset 'nobody/nothing' could not be loaded .*HF_TOKEN"):
        fetch("hf-dataset:nobody/nothing", cache=tmp_path / "cache")
    assert not (tmp_path / "cache").exists()


@pytest.mark.usefixtures("offline")
def test_a_folder_of_images_from_the_hub_is_laid_out_as_kaggles(tmp_path: Path) -> None:
    source = write_kaggle_folder(tmp_path / "source", 3, folders=("train", "test"))
    folder = fetch(f"hf-dataset:{source}", cache=tmp_path / "cache")
    files = {p.relative_to(source): p.read_bytes() for p in source.rglob("*.jpeg")}
    assert len(files) == 18
    assert {p.relative_to(folder): p.read_bytes() for p in folder.rglob("*") if p.is_file()} == files
    assert labelled_folder(folder) == labelled_folder(source)
    (folder / "marker").touch()
    assert fetch(f"hf-dataset:{source}", cache=tmp_path / "cache") == folder
    assert (folder / "marker").exists()
    assert [p.name for p in (tmp_path / "cache").iterdir()] == [folder.name]


def write_parquet(folder: Path, rows: list[dict[str, Any]], split: str = "train") -> Path:
    features = datasets.Features(
        {"picture": datasets.Image(), "label": datasets.ClassLabel(names=["NORMAL", "PNEUMONIA"])}
    )
    folder.mkdir(parents=True, exist_ok=True)
    columns = {name: [row[name] for row in rows] for name in ("picture", "label")}
    datasets.Dataset.from_dict(columns, features=features).to_parquet(folder / f"{split}-00000-of-00001.parquet")
    return folder


@pytest.mark.usefixtures("offline")
def test_a_parquet_dataset_is_laid_out_whatever_its_pictures_are_called(tmp_path: Path) -> None:
    def row(content: bytes, path: str | None, label: int) -> dict[str, Any]:
        return {"picture": {"bytes": content, "path": path}, "label": label}

    write_parquet(tmp_path / "set", [row(b"a", "x/person1_virus_1.png", 1), row(b"b", "y/person1_virus_1.png", 1)])
    write_parquet(tmp_path / "set", [row(b"c", None, 0), row(b"d", None, 0)], "validation")
    folder = fetch(f"hf-dataset:{tmp_path / 'set'}", cache=tmp_path)
    assert {p.relative_to(folder).as_posix(): p.read_bytes() for p in folder.rglob("*") if p.is_file()} == {
        "train/PNEUMONIA/person1_virus_1.png": b"a",
        "train/PNEUMONIA/person1_virus_1-train-000001.png": b"b",
        "val/NORMAL/validation-000000.jpeg": b"c",
        "val/NORMAL/validation-000001.jpeg": b"d",
    }
    assert {f.label for f in labelled_folder(folder).films} == {"NORMAL", "VIRAL"}


@pytest.mark.usefixtures("offline")
def test_a_hub_dataset_without_labels_is_refused(tmp_path: Path) -> None:
    rows: list[dict[str, Any]] = [{"picture": {"bytes": b"a", "path": None}, "label": label} for label in (0, -1, None)]
    with pytest.raises(DataError, match=r"2 rows of .* \(train\) have no label"):
        fetch(f"hf-dataset:{write_parquet(tmp_path / 'set', rows)}", cache=tmp_path)
    (tmp_path / "texts").mkdir()
    datasets.Dataset.from_dict({"text": ["no picture"]}).to_parquet(tmp_path / "texts/train.parquet")
    with pytest.raises(DataError, match=r"has the columns .*text.*; expected an Image and a ClassLabel"):
        fetch(f"hf-dataset:{tmp_path / 'texts'}", cache=tmp_path)


@pytest.mark.usefixtures("offline")
def test_an_interrupted_layout_leaves_no_folder_and_is_made_good(tmp_path: Path) -> None:
    good, bad = ({"picture": {"bytes": b"a", "path": None}, "label": label} for label in (1, -1))
    write_parquet(tmp_path / "set", [good])
    source, cache = f"hf-dataset:{write_parquet(tmp_path / 'set', [bad], 'test')}", tmp_path / "cache"
    with pytest.raises(DataError, match="1 rows"):
        fetch(source, cache=cache)
    (partial,) = cache.iterdir()
    assert partial.suffix == ".partial"
    assert len(list(partial.rglob("*.jpeg"))) == 1
    write_parquet(tmp_path / "set", [good], "test")
    folder = fetch(source, cache=cache)
    assert list(cache.iterdir()) == [folder]
    assert Counter(f.folder for f in labelled_folder(folder).films) == {"train": 1, "test": 1}


# --- what is trained on


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("shape", [(300, 200), (20, 90), (64, 64), (9, 7), (1, 40)])
def test_augmentation_gives_one_size_and_type_for_any_image(channels: int, shape: tuple[int, int]) -> None:
    transform = train_transform(48, [0.5] * channels, [0.25] * channels)
    image = torch.arange(shape[0] * shape[1]).reshape(1, *shape).mul(3).to(torch.uint8).expand(channels, -1, -1)
    torch.manual_seed(0)
    for _ in range(20):
        augmented = transform(image)
        assert augmented.dtype == torch.float32
        assert augmented.shape == (channels, 48, 48)
        assert augmented.min() >= -2
        assert augmented.max() <= 2


def test_what_is_beyond_the_middle_is_not_seen() -> None:
    image = torch.full((1, 90, 60), 255, dtype=torch.uint8)
    image[:, 18:72, 12:48] = 0
    plain = Augmentation(1, 1, 1, 0, 0, 0, 0, 0)
    torch.manual_seed(0)
    assert (train_transform(32, [0.5], [0.25], plain, crop_pct=0.6)(image) == -2).all()
    assert (train_transform(32, [0.5], [0.25], plain, crop_pct=0.7)(image) > -2).any()


def test_jpeg_is_that_of_the_quality_drawn() -> None:
    image = torch.randint(0, 256, (1, 40, 30), dtype=torch.uint8).expand(3, -1, -1)
    torch.manual_seed(5)
    saved = train.data._random_jpeg(image)
    torch.manual_seed(5)
    quality = int(torch.randint(25, 96, ()))
    with tempfile.TemporaryFile() as file:
        Image.fromarray(image[0].numpy()).save(file, "JPEG", quality=quality)
        expected = np.array(Image.open(file))
    assert saved.shape == image.shape
    assert all(np.array_equal(channel.numpy(), expected) for channel in saved)
    assert not torch.equal(saved, image)


def test_a_tone_curve_rises_from_black_to_white_through_the_points_drawn() -> None:
    ramp = torch.arange(256, dtype=torch.uint8).reshape(1, 16, 16).expand(3, -1, -1)
    for seed in range(20):
        torch.manual_seed(seed)
        toned = train.data._random_tone(ramp)
        torch.manual_seed(seed)
        x1, y1, x2, y2 = torch.rand(4).tolist()
        curve = toned[0].flatten().int()
        assert toned.dtype == torch.uint8
        assert all(torch.equal(channel, toned[0]) for channel in toned)
        assert curve[[0, -1]].tolist() == [0, 255]
        assert (curve.diff() >= 0).all()
        halfway_x, halfway_y = (255 * (3 * a + 3 * b + 1) / 8 for a, b in ((x1, x2), (y1, y2)))
        around = curve[math.floor(halfway_x) : math.floor(halfway_x) + 2]
        assert around.min() - 1 <= halfway_y <= around.max() + 1


@pytest.fixture
def films(tmp_path: Path) -> tuple[list[Film], Path]:
    root = write_kaggle_folder(tmp_path / "films", 3, size=70)
    return list(labelled_folder(root).films), root


def augmented(films: Sequence[Film], root: Path, seed: int = 0) -> FilmDataset:
    transform = train_transform(32, [0.5], [0.25])
    return FilmDataset(
        films, [root], SUBTYPES, lambda radiograph: transform(torch.tensor(radiograph.pixels)[None]), seed=seed
    )


def epoch(dataset: FilmDataset, number: int, workers: int = 0) -> torch.Tensor:
    dataset.set_epoch(number)
    return torch.cat([images for images, _ in DataLoader(dataset, batch_size=2, num_workers=workers)])


def test_an_epoch_depends_on_seed_and_number_and_not_on_workers(films: tuple[list[Film], Path]) -> None:
    dataset = augmented(*films)
    first, second = epoch(dataset, 0), epoch(dataset, 1)
    assert first.shape == (9, 1, 32, 32)
    assert torch.equal(epoch(dataset, 0, workers=2), first)
    assert torch.equal(epoch(augmented(*films), 1), second)
    other = epoch(augmented(*films, seed=1), 0)
    assert all(not torch.equal(a, b) and not torch.equal(a, c) for a, b, c in zip(first, second, other, strict=True))


def test_every_film_of_an_epoch_is_drawn_for_itself(films: tuple[list[Film], Path]) -> None:
    one, root = films[0][0], films[1]
    images = epoch(augmented([replace(one, path=one.path), replace(one, folder="val")], root), 0)
    assert not torch.equal(images[0], images[1])


def test_global_random_numbers_are_left_alone(films: tuple[list[Film], Path]) -> None:
    dataset = augmented(*films)
    before = torch.get_rng_state(), random.getstate(), pickle.dumps(np.random.get_state())
    for i in range(len(dataset)):
        dataset[i]
    assert torch.equal(torch.get_rng_state(), before[0])
    assert (random.getstate(), pickle.dumps(np.random.get_state())) == before[1:]


def test_one_item_a_film_whichever_of_its_copies(tmp_path: Path) -> None:
    roots = [write_kaggle_folder(tmp_path / str(size), 4, size=size) for size in (70, 90)]
    manifest = build_manifest(roots, val_fraction=0.5)

    def side(radiograph: Radiograph) -> torch.Tensor:
        return torch.tensor(radiograph.pixels.shape[0])

    dataset = FilmDataset(manifest.films, roots, SUBTYPES, side, seed=0)
    assert (len(dataset), Counter(dataset.labels)) == (12, {0: 4, 1: 4, 2: 4})
    sizes = torch.stack([epoch_sizes(dataset, number) for number in range(12)])  # (epochs, films)
    assert set(sizes.flatten().tolist()) == {70, 90}
    assert bool(((sizes == 70).any(0) & (sizes == 90).any(0)).all())
    plain = FilmDataset(manifest.films, roots, SUBTYPES, side)
    assert [int(plain[i][0]) for i in range(len(plain))] == [70] * 12 + [90] * 12


def epoch_sizes(dataset: FilmDataset, number: int) -> torch.Tensor:
    dataset.set_epoch(number)
    return torch.stack([dataset[i][0] for i in range(len(dataset))])


def test_a_film_that_cannot_be_read_is_named(films: tuple[list[Film], Path]) -> None:
    path = films[1] / films[0][0].path
    path.write_bytes(b"no picture")
    with pytest.raises(DataError, match=rf"{path.name} cannot be trained on; remove it or mend it: "):
        augmented(*films)[0]
    with pytest.raises(DataError, match=rf"{path.name} cannot be trained on"):
        epoch(augmented(*films), 0, workers=1)
