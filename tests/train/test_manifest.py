"""Duplicates and patients, splits that cannot leak, sources, and the manifest's file."""

import hashlib
import shutil
import tempfile
from collections import Counter, defaultdict
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from itertools import combinations
from pathlib import Path

import pytest
from hypothesis import given, reject, settings
from hypothesis import strategies as st

from tests.conftest import SUBTYPES, write_kaggle_folder
from tests.train.made import sources, write, write_patients
from train.data import DataError, LabelledImage, Manifest, Source, build_manifest, roots_of
from train.data.__main__ import main

SIDES = ("train", "val", "test")
# scikit-learn's remark on a class smaller than the number of folds; made-up folders have such classes.
small_classes = pytest.mark.filterwarnings("ignore:The least populated class in y has only")


def image_of(manifest: Manifest, stem: str) -> LabelledImage:
    (found,) = (f for f in manifest.images if Path(f.path).stem == stem)
    return found


def assert_no_leak(
    images: Sequence[LabelledImage], patient: Callable[[LabelledImage], object] = lambda image: image.patient
) -> None:
    for one, other in combinations(SIDES, 2):
        for trait in (patient, lambda image: image.sha256, lambda image: image.key):
            assert not {trait(f) for f in images if f.split == one} & {trait(f) for f in images if f.split == other}


# --- what is refused


def test_too_few_patients_are_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"6 patients, at most 3 images a class, of source 'made' are too few for"):
        build_manifest(
            sources(write(tmp_path, *(f"{c}/{c}{i}.png" for c in ("NORMAL", "PNEUMONIA") for i in range(3))))
        )
    with pytest.raises(DataError, match="0 patients"):
        build_manifest(sources(write_patients(tmp_path / "official", place="test")))


@pytest.mark.parametrize("roots", [("a", "a"), ("a", "b")])
def test_subtypes_in_only_some_names_are_refused(tmp_path: Path, roots: tuple[str, str]) -> None:
    named, bare = (tmp_path / root for root in roots)
    write_patients(named)
    write(bare, "train/PNEUMONIA/image1.jpeg", "train/PNEUMONIA/image2.jpeg")
    with pytest.raises(DataError, match=r"2 pneumonia images carry no subtype .*image1.jpeg first\) and 20 do"):
        build_manifest(sources(*(tmp_path / root for root in sorted(set(roots)))))


def test_names_without_subtypes_give_the_binary_labels(tmp_path: Path) -> None:
    bare = write_kaggle_folder(tmp_path / "bare", subtypes=False)
    assert build_manifest(sources(bare)).label_names == ("NORMAL", "PNEUMONIA")
    named = write_kaggle_folder(tmp_path / "named")
    assert build_manifest(sources(named)).label_names == ("NORMAL", "BACTERIAL", "VIRAL")


# --- groups and splits


@small_classes
def test_duplicates_and_patients_are_chained_into_one_group(tmp_path: Path) -> None:
    write_patients(tmp_path)
    shutil.copy(tmp_path / "train/NORMAL/IM-0000-0001.jpeg", tmp_path / "train/NORMAL/IM-0001-0002.jpeg")
    shutil.copy(tmp_path / "train/NORMAL/IM-0001-0001.jpeg", tmp_path / "train/NORMAL/IM-0002-0002.jpeg")
    write(tmp_path, "train/PNEUMONIA/person3_virus_9.jpeg")
    manifest = build_manifest(sources(tmp_path))
    chain = {image_of(manifest, f"IM-000{i}-0001").group for i in range(3)}
    assert len(chain) == 1
    assert image_of(manifest, "person3_virus_9").group == image_of(manifest, "person3_bacteria_3").group
    assert len({f.group for f in manifest.images}) == 40 - 2


def test_official_folders_are_kept_and_what_they_share_with_training_is_not_trained_on(tmp_path: Path) -> None:
    write_patients(tmp_path)
    write(tmp_path, "test/PNEUMONIA/person3_virus_7.jpeg", "val/PNEUMONIA/person4_bacteria_70.jpeg")
    write(tmp_path, "val/NORMAL/IM-0005-0009.jpeg", "test/NORMAL/IM-0005-0010.jpeg")
    shutil.copy(tmp_path / "train/NORMAL/IM-0006-0001.jpeg", tmp_path / "test/NORMAL/IM-9999-0001.jpeg")
    manifest = build_manifest(sources(tmp_path))
    split = {stem: image_of(manifest, stem).split for stem in (Path(f.path).stem for f in manifest.images)}
    assert {split[s] for s in ("person3_virus_7", "IM-0005-0010", "IM-9999-0001")} == {"test"}
    assert {split[s] for s in ("person4_bacteria_70", "person4_bacteria_4")} == {"val"}
    excluded = {stem for stem, side in split.items() if side == "excluded"}
    assert excluded == {"person3_bacteria_3", "IM-0005-0001", "IM-0005-0009", "IM-0006-0001"}
    assert_no_leak(manifest.images)


def test_copies_under_several_roots_stand_on_one_side(tmp_path: Path) -> None:
    large = write_kaggle_folder(tmp_path / "large", 12, size=40)
    small = write_kaggle_folder(tmp_path / "small", 12, size=20)
    (small / "train/NORMAL/IM-0001-0001.jpeg").rename(small / "train/NORMAL/IM-0001-0001.png")
    manifest = build_manifest(sources(large, small))
    sides, roots = defaultdict(set), defaultdict(set)
    for f in manifest.images:
        sides[f.key].add(f.split)
        roots[f.key].add(f.root)
    assert set(map(len, sides.values())) == {1}
    assert len(roots) == 36
    assert all(found == {0, 1} for found in roots.values())


@dataclass(frozen=True)
class Made:
    """A image to be: what its patient and content truly are."""

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


made_images = st.lists(
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
@given(images=made_images, fraction=st.sampled_from((0.15, 0.34, 0.5)), seed=st.integers(0, 3))
def test_no_patient_no_content_and_no_image_is_on_two_sides(images: list[Made], fraction: float, seed: int) -> None:
    with tempfile.TemporaryDirectory() as folder:
        roots = [Path(folder, str(root)) for root in sorted({made.root for made in images})]
        for made in images:
            path = Path(folder, str(made.root), made.folder, made.name)
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(bytes([made.content]))
        try:
            manifest = build_manifest(sources(*roots), val_fraction=fraction, seed=seed)
        except DataError:
            reject()  # too few patients to divide
        truth = {(Path(folder, str(m.root)), f"{m.folder}/{m.name}"): m for m in images}
        made_of = {f: truth[roots[f.root], f.path] for f in manifest.images}
    assert len(made_of) == len(images)
    assert_no_leak(manifest.images)
    assert_no_leak(manifest.images, lambda f: made_of[f].who)
    assert_no_leak(manifest.images, lambda f: made_of[f].content)
    for f, made in made_of.items():
        assert f.split in (*SIDES, "excluded")
        assert (f.split == "test") == (made.folder == "test")
        assert made.folder != "val" or f.split in ("val", "excluded")
    tested = {f.group for f in manifest.images if f.split == "test"}
    assert {f.group for f in manifest.images if f.split == "excluded"} <= tested


def test_every_class_has_its_share_in_validation(tmp_path: Path) -> None:
    write_patients(tmp_path, 140)
    write(tmp_path, *(f"train/PNEUMONIA/person{1000 + i}_virus_{j}.jpeg" for i in range(70) for j in range(2)))
    for fraction, n in ((0.15, 20), (0.25, 35), (0.5, 70)):
        counts = Counter(f.label for f in build_manifest(sources(tmp_path), val_fraction=fraction).split("val"))
        assert counts == {label: pytest.approx(n, abs=2) for label in SUBTYPES}


def test_real_images_do_not_leak(real_data: Path) -> None:
    manifest = build_manifest(sources(real_data / "chest_xray", real_data / "chest_xray_512"))
    assert_no_leak(manifest.images)
    first = [f for f in manifest.images if f.root == 0]
    assert Counter(f.label for f in first) == {"NORMAL": 1341, "BACTERIAL": 2530, "VIRAL": 1345}
    assert len({f.key for f in manifest.images}) == 5216
    held_out = Counter(f.label for f in first if f.split == "val")
    for label, n in Counter(f.label for f in first).items():
        assert held_out[label] / n == pytest.approx(1 / 7, abs=0.005)
    times = Counter(f.sha256 for f in manifest.images)
    assert sum(n > 1 for n in times.values()) == 26


# --- the manifest


@small_classes
def test_the_hash_is_of_images_labels_and_splits_alone(tmp_path: Path) -> None:
    data = write_patients(tmp_path / "data")
    manifest = build_manifest(sources(data))
    assert build_manifest(sources(data)) == manifest
    moved = Path(shutil.copytree(data, tmp_path / "elsewhere"))
    assert build_manifest(sources(moved)).sha256 == manifest.sha256
    seen = {
        manifest.sha256,
        build_manifest(sources(data), seed=1).sha256,
        build_manifest(sources(data), val_fraction=0.25).sha256,
    }
    (moved / "train/NORMAL/IM-0003-0001.jpeg").write_bytes(b"other content")
    seen.add(build_manifest(sources(moved)).sha256)
    (moved / "train/NORMAL/IM-0003-0001.jpeg").rename(moved / "train/PNEUMONIA/IM-0003-0001_virus_.jpeg")
    seen.add(build_manifest(sources(moved)).sha256)
    (moved / "train/PNEUMONIA/IM-0003-0001_virus_.jpeg").unlink()
    seen.add(build_manifest(sources(moved)).sha256)
    assert len(seen) == 6
    first, *others = manifest.images
    for other in (replace(first, label="VIRAL"), replace(first, split="test"), replace(first, sha256="0" * 64)):
        assert Manifest((other, *others)).sha256 != manifest.sha256


def test_a_manifest_is_read_as_it_was_written(tmp_path: Path) -> None:
    data = write(write_patients(tmp_path / "data"), 'train/NORMAL/a, "b"\n ü.jpeg')
    manifest = build_manifest(sources(data))
    path = tmp_path / "new/manifest.csv"
    manifest.write(path)
    assert Manifest.read(path, [data]) == manifest
    assert hashlib.sha256(path.read_bytes()).hexdigest() == manifest.sha256
    assert [p.name for p in path.parent.iterdir()] == ["manifest.csv"]


def test_missing_and_changed_images_are_refused(tmp_path: Path) -> None:
    data, path = write_patients(tmp_path / "data"), tmp_path / "manifest.csv"
    build_manifest(sources(data)).write(path)
    first = data / "train/NORMAL/IM-0000-0001.jpeg"
    first.write_bytes(b"retouched")
    with pytest.raises(DataError, match=r"1 images changed since .*, train/NORMAL/IM-0000-0001.jpeg first"):
        Manifest.read(path, [data])
    first.unlink()
    with pytest.raises(DataError, match=r"1 images of .* are missing, train/NORMAL/IM-0000-0001.jpeg first"):
        Manifest.read(path, [data])
    with pytest.raises(DataError, match=r"images of 1 folders; 0 were given"):
        Manifest.read(path, [])


def test_what_is_no_manifest_is_refused(tmp_path: Path) -> None:
    data, path = write_patients(tmp_path / "data"), tmp_path / "manifest.csv"
    build_manifest(sources(data)).write(path)
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
    main()
    printed = capsys.readouterr().out
    assert "val       NORMAL          7\n" in printed
    assert "train     BACTERIAL       7\n" in printed
    assert f"28 groups; sha256 {Manifest.read(out, [data]).sha256}" in printed
    monkeypatch.setattr("sys.argv", ["train.data", str(tmp_path / "absent")])
    with pytest.raises(SystemExit, match=r"^train.data: .*absent is not a folder"):
        main()


# --- several sources


def write_adults(root: Path, n: int = 20) -> Path:
    """Two images a patient, named as ChestX-ray8 does."""
    return write(
        root,
        *(
            f"{c}/{10 * k:07d}{i}_00{j}.jpg"
            for k, c in enumerate(("NORMAL", "PNEUMONIA"))
            for i in range(n // 2)
            for j in range(2)
        ),
    )


@small_classes
def test_sources_are_divided_each_for_itself_and_keep_their_labels(tmp_path: Path) -> None:
    made = [
        Source("children", (write_patients(tmp_path / "a", 40),)),
        Source("adults", (write_adults(tmp_path / "b"),)),
    ]
    manifest = build_manifest(made, val_fraction=0.2)
    assert manifest.sources == ("children", "adults")
    assert manifest.label_names == SUBTYPES
    alone = build_manifest(made[:1], val_fraction=0.2)
    split = {image.path: image.split for image in manifest.images if image.source == "children"}
    assert split == {image.path: image.split for image in alone.images}
    counts = Counter((image.label, image.split) for image in manifest.images if image.source == "adults")
    assert counts == {(c, s): n for c in ("NORMAL", "PNEUMONIA") for s, n in (("train", 16), ("val", 4))}
    assert_no_leak(manifest.images)
    manifest.write(tmp_path / "m.csv")
    assert Manifest.read(tmp_path / "m.csv", roots_of(made)) == manifest


@small_classes
def test_an_image_that_two_sources_hold_is_on_one_side(tmp_path: Path) -> None:
    made = [Source(name, (write_patients(tmp_path / name),)) for name in ("a", "b")]
    manifest = build_manifest(made, val_fraction=0.5)
    assert len(manifest.images) == 80
    assert_no_leak(manifest.images, lambda image: image.sha256)


def test_sources_that_cannot_be_learned_from_are_refused(tmp_path: Path) -> None:
    good = Source("good", (write_patients(tmp_path / "good"),))
    write(tmp_path / "good", *(f"train/PNEUMONIA/person{100 + i}_virus_1.jpeg" for i in range(20)))
    build_manifest([good]).check_training()
    ill = Source("ill", (write(tmp_path / "ill", *(f"PNEUMONIA/{i}.png" for i in range(20))),))
    with pytest.raises(DataError, match=r"Source 'ill' has 20 images and none is NORMAL.*Add normal images"):
        build_manifest([good, ill]).check_training()
    tested = Source("tested", (write_patients(tmp_path / "tested", place="test"),))
    with pytest.raises(DataError, match=r"0 patients, .* of source 'tested' are too few"):
        build_manifest([good, tested])
    images = build_manifest([good, Source("adults", (write_adults(tmp_path / "adults"),))]).images
    one_sided = Manifest(tuple(replace(i, split="train") if i.source == "adults" else i for i in images))
    with pytest.raises(DataError, match=r"images of source 'adults' must be in train and in val; found .*'val': 0"):
        one_sided.check_training()


def test_a_source_of_normal_images_only_is_taken(tmp_path: Path) -> None:
    children = write_kaggle_folder(tmp_path / "children", 12, size=20)
    healthy = write(tmp_path / "healthy", *(f"NORMAL/{i}.png" for i in range(20)))
    build_manifest([Source("children", (children,)), Source("healthy", (healthy,))]).check_training()
