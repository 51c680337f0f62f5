"""Which files of a folder are images of which class and patient, and that whatever is left out is told."""

from pathlib import Path

import pytest

from tests.train.made import sources, write
from train.data import DataError, Source, build_manifest, labelled_folder, sources_from
from train.data.folders import parse_labels, scan_folder


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
        ("No Finding/00001299_003.jpg", "NORMAL", "00001299"),
        ("Bacterial/anything.dcm", "BACTERIAL", "bacterial/anything"),
        ("VIRUS/Patient7/study1/some image.tif", "VIRAL", "patient7"),
        ("NORMAL/images/some image.tif", "NORMAL", "normal/images/some image"),
        ("PNEUMONIA/antivirus.webp", "PNEUMONIA", "pneumonia/antivirus"),
        ("opacity/person7_bacteria_1.jpeg", "BACTERIAL", "person7"),
        ("Lung_Opacity/a.png", "PNEUMONIA", "pneumonia/a"),
        ("Viral Pneumonia/images/a.png", "VIRAL", "viral/images/a"),
        ("Bacterial-Pneumonia/a.png", "BACTERIAL", "bacterial/a"),
        ("pneumonia_bacterial/a.png", "BACTERIAL", "bacterial/a"),
        ("No_Finding/a.png", "NORMAL", "normal/a"),
        ("NoPneumonia/a.dicom", "NORMAL", "normal/a"),
        ("ViralPneumonia/a.jp2", "VIRAL", "viral/a"),
        ("Lung Opacities/a.avif", "PNEUMONIA", "pneumonia/a"),
    ],
)
@pytest.mark.parametrize(
    ("folder", "split"),
    [
        *(("", ""), ("train", "train"), ("val", "val"), ("test", "test")),
        *(("valid", "val"), ("Validation", "val"), ("Val", "val"), ("Test", "test"), ("TRAINING", "train")),
        *(("Validation Set", "val"), ("train_images", "train"), ("TestSet", "test")),
    ],
)
def test_label_patient_and_split_are_read_from_folder_and_name(
    tmp_path: Path, folder: str, split: str, name: str, label: str, patient: str
) -> None:
    (found,) = labelled_folder(sources(write(tmp_path, f"{folder}/{name}" if folder else name))).images
    if "/" in patient and split:  # no patient is known, so the image stands for itself
        patient = f"{split}/{patient}"
    assert (found.label, found.patient, found.folder, found.split) == (label, patient, split, split)
    assert found.path == (f"{folder}/{name}" if folder else name)


def test_what_is_left_out_is_told_with_place_count_and_reason(tmp_path: Path) -> None:
    write(tmp_path, "train/NORMAL/a.jpeg", "train/NORMAL/._a.jpeg", "train/NORMAL/notes.txt", "train/OTHER/b.jpeg")
    write(tmp_path, "test/PNEUMONIA/c.png", "chest_xray/train/NORMAL/a.jpeg", "__MACOSX/train/NORMAL/a.jpeg", "d.jpeg")
    write(tmp_path, "train/COVID-19/1.png", "train/COVID-19/2.png", "train/COVID/3.png", "train/NORMAL/masks/a.png")
    (tmp_path / "train/NORMAL/folder.png").mkdir()
    manifest = labelled_folder(sources(tmp_path))
    assert [image.path for image in manifest.images] == ["train/NORMAL/a.jpeg", "test/PNEUMONIA/c.png"]
    assert sum(int(line.split()[0]) for line in manifest.left_out) == 10
    for place, n, reason in (
        ("train/COVID-19", 2, "COVID-19"),
        ("train/COVID", 1, "COVID-19"),
        ("train/OTHER", 1, "no class folder of a known name"),
        ("chest_xray", 1, "beside the split folders"),
        ("the top folder", 1, "beside the split folders"),
    ):
        told_here = [line for line in manifest.left_out if f"/{place}: " in line and reason in line]
        assert [int(line.split()[0]) for line in told_here] == [n], place
    for reason in ("hidden files", "masks", "no images (.txt)"):
        assert any(reason in line for line in manifest.left_out)


def test_masks_beside_images_are_no_images(tmp_path: Path) -> None:
    names = [
        f"{c}/{kind}/{c}-{i}.png"
        for c in ("Normal", "Viral Pneumonia")
        for kind in ("images", "masks", "LungMasks", "manual mask/left")
        for i in range(3)
    ]
    names += ["Normal/images/Normal-0_mask.png", "Normal/images/Normal-1 mask.png"]
    manifest = labelled_folder(sources(write(tmp_path, *names)))
    assert len(manifest.images) == len({image.key for image in manifest.images}) == 6
    assert all("/images/" in image.path for image in manifest.images)


def test_a_folder_a_patient_keeps_every_image_and_every_patient(tmp_path: Path) -> None:
    names = [
        f"train/{c}/patient{10 * k + p}/view{i}.jpg"
        for k, c in enumerate(("NORMAL", "PNEUMONIA"))
        for p in range(10)
        for i in range(4)
    ]
    manifest = build_manifest(sources(write(tmp_path, *names)), val_fraction=0.2)
    assert len({image.key for image in manifest.images}) == 80
    assert len({image.group for image in manifest.images}) == 20
    for group in {image.group for image in manifest.images}:
        members = [image for image in manifest.images if image.group == group]
        assert len(members) == 4
        assert len({(image.patient, image.split) for image in members}) == 1


def test_split_folders_may_stand_in_class_folders(tmp_path: Path) -> None:
    names = [f"{c}/{split}/{i}.png" for c in ("NORMAL", "PNEUMONIA") for split in ("train", "Test") for i in range(2)]
    images = labelled_folder(sources(write(tmp_path, *names))).images
    assert len({image.key for image in images}) == len({image.patient for image in images}) == 8
    assert {(image.path.split("/")[1], image.split) for image in images} == {("Test", "test"), ("train", "train")}


def test_a_name_that_each_patients_folder_has_tells_no_patient(tmp_path: Path) -> None:
    write(tmp_path, *(f"NORMAL/P{p}/IM-0001-000{i}.dcm" for p in range(3) for i in range(2)))
    images = labelled_folder(sources(tmp_path)).images
    assert [image.patient for image in images] == ["p0", "p0", "p1", "p1", "p2", "p2"]


def test_links_are_followed_once_and_broken_ones_are_told(tmp_path: Path) -> None:
    write(tmp_path, "NORMAL/P0/a.png", "pool/P1/b.png")
    (tmp_path / "NORMAL/P1").symlink_to(tmp_path / "pool/P1")
    (tmp_path / "NORMAL/again").symlink_to(tmp_path / "NORMAL")
    (tmp_path / "NORMAL/gone.png").symlink_to(tmp_path / "nowhere.png")
    manifest = labelled_folder(sources(tmp_path))
    assert [image.path for image in manifest.images] == ["NORMAL/P0/a.png", "NORMAL/P1/b.png"]
    assert [line for line in manifest.left_out if "NORMAL: links to files that do not exist" in line]


def test_the_same_name_in_two_classes_is_two_images(tmp_path: Path) -> None:
    write(tmp_path, *(f"{c}/{i}.png" for c in ("NORMAL", "PNEUMONIA") for i in range(10)))
    manifest = build_manifest(sources(tmp_path), val_fraction=0.5)
    assert len({image.group for image in manifest.images}) == 20


def test_a_label_map_takes_in_and_leaves_out(tmp_path: Path) -> None:
    write(tmp_path, "Normal/a.png", "COVID-19/b.png", "Lung_Opacity/c.png", "ill/d.png")
    maps = parse_labels(["made:covid 19=VIRAL", "made:Lung_Opacity=-", "made:ill=bacterial"])
    manifest = labelled_folder([Source("made", (tmp_path,), maps["made"])])
    assert {image.path: image.label for image in manifest.images} == {
        "Normal/a.png": "NORMAL",
        "COVID-19/b.png": "VIRAL",
        "ill/d.png": "BACTERIAL",
    }
    assert [line for line in manifest.left_out if "label map" in line]


@pytest.mark.parametrize(
    ("labels", "said"),
    [
        (["a:x=FOO"], r"'a:x=FOO' names no class; expected one of NORMAL, BACTERIAL, VIRAL, PNEUMONIA, or -"),
        (["a:x="], r"names no class"),
        (["x=NORMAL"], r"'x=NORMAL' is not understood; expected SOURCE:FOLDER=LABEL"),
        (["other:NORMAL=NORMAL"], r"name the source other; --data has a"),
        (["a:absent=VIRAL"], r"names 'absent', and .* has no such folder. It has normal"),
    ],
)
def test_a_label_map_that_maps_nothing_is_refused(tmp_path: Path, labels: list[str], said: str) -> None:
    write(tmp_path, "NORMAL/a.png")
    with pytest.raises(DataError, match=said):
        labelled_folder(sources_from([f"a={tmp_path}"], labels))


def test_what_is_no_data_is_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="is not a folder"):
        scan_folder(tmp_path / "absent")
    with pytest.raises(
        DataError, match=r"(?s)No images below .*expected class folders.*1 in train/CATS: no class folder"
    ):
        scan_folder(write(tmp_path, "train/CATS/a.jpeg"))


def test_places_of_one_name_are_one_source(tmp_path: Path) -> None:
    for name in ("a", "b", "c"):
        (tmp_path / name).mkdir()
    made = sources_from([str(tmp_path / "a"), f"adults={tmp_path / 'c'}", str(tmp_path / "b")], masks=[f"a={tmp_path}"])
    assert [(source.name, [folder.name for folder in source.folders]) for source in made] == [
        ("a", ["a", "b"]),
        ("adults", ["c"]),
    ]
    assert [source.masks for source in made] == [tmp_path, None]
    with pytest.raises(DataError, match=r"--masks 'a=nowhere' is not understood; expected SOURCE=FOLDER"):
        sources_from([str(tmp_path)], masks=["a=nowhere"])
