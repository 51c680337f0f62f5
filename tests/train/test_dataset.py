"""What an epoch looks like: balanced draws, random numbers of their own, every copy, and images that cannot be read."""

import pickle
import random
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch.utils.data import DataLoader

from pneumocam.image import Radiograph
from tests.conftest import SUBTYPES, write_kaggle_folder
from tests.train.made import sources
from train.data import (
    Augmentation,
    DataError,
    LabelledImage,
    TrainingImages,
    ValidationImages,
    balanced_weights,
    build_manifest,
    class_index,
    labelled_folder,
    read_mask,
)


@pytest.fixture
def images(tmp_path: Path) -> tuple[list[LabelledImage], Path]:
    root = write_kaggle_folder(tmp_path / "images", 3, size=70)
    return list(labelled_folder(sources(root)).images), root


def training(images: Sequence[LabelledImage], roots: list[Path], seed: int = 0, size: int = 32) -> TrainingImages:
    return TrainingImages(images, roots, SUBTYPES, size=size, mean=[0.5], std=[0.25], augment=Augmentation(), seed=seed)


def epoch(dataset: TrainingImages, number: int, workers: int = 0) -> torch.Tensor:
    dataset.draw(number)
    return torch.cat([batch for batch, _ in DataLoader(dataset, batch_size=2, num_workers=workers)])


def test_an_epoch_depends_on_seed_and_number_and_not_on_workers(images: tuple[list[LabelledImage], Path]) -> None:
    found, root = images
    dataset = training(found, [root])
    first, second = epoch(dataset, 0), epoch(dataset, 1)
    assert first.shape == (9, 1, 32, 32)
    assert torch.equal(epoch(dataset, 0, workers=2), first)
    assert torch.equal(epoch(training(found, [root]), 1), second)
    other = epoch(training(found, [root], seed=1), 0)
    assert all(not torch.equal(a, b) and not torch.equal(a, c) for a, b, c in zip(first, second, other, strict=True))


def test_global_random_numbers_are_left_alone(images: tuple[list[LabelledImage], Path]) -> None:
    dataset = training(images[0], [images[1]])
    before = torch.get_rng_state(), random.getstate(), pickle.dumps(np.random.get_state())
    for i in range(len(dataset)):
        dataset[i]
    dataset.draw(3)
    assert torch.equal(torch.get_rng_state(), before[0])
    assert (random.getstate(), pickle.dumps(np.random.get_state())) == before[1:]


def test_one_image_has_all_its_copies(tmp_path: Path) -> None:
    roots = [write_kaggle_folder(tmp_path / str(size), 4, size=size) for size in (70, 90)]
    manifest = build_manifest(sources(*roots), val_fraction=0.5)
    dataset = training(manifest.images, roots)
    assert (len(dataset), Counter(dataset.labels)) == (12, {0: 4, 1: 4, 2: 4})
    assert [[copy.pixels.shape for copy in copies] for copies in dataset.pictures] == 12 * [[(70, 70), (90, 90)]]

    def side(radiograph: Radiograph) -> torch.Tensor:
        return torch.tensor(radiograph.pixels.shape[0])

    plain = ValidationImages(manifest.images, roots, SUBTYPES, side)
    assert [int(plain[i][0]) for i in range(len(plain))] == [70] * 12 + [90] * 12
    assert [plain[i][1] for i in range(12)] == dataset.labels


def test_a_label_without_subtype_has_an_index_of_its_own() -> None:
    assert [class_index(label, SUBTYPES) for label in (*SUBTYPES, "PNEUMONIA")] == [0, 1, 2, 3]
    assert [class_index(label, ("NORMAL", "PNEUMONIA")) for label in ("NORMAL", "PNEUMONIA")] == [0, 1]


# --- balance


def shares(weights: np.ndarray, *columns: Sequence[object]) -> dict[tuple[object, ...], Any]:
    found: Counter[tuple[object, ...]] = Counter()
    for weight, key in zip(weights, zip(*columns, strict=True), strict=True):
        found[key] += weight
    return {key: pytest.approx(value) for key, value in found.items()}


def test_neither_source_nor_text_tells_the_class() -> None:
    cells = {
        ("children", "NORMAL", False): 90,
        ("children", "NORMAL", True): 10,
        ("children", "BACTERIAL", False): 100,
        ("children", "BACTERIAL", True): 100,
        ("children", "VIRAL", False): 60,
        ("children", "VIRAL", True): 40,
        ("adults", "NORMAL", False): 30,
        ("adults", "NORMAL", True): 10,
        ("adults", "PNEUMONIA", False): 60,
    }
    rows = [cell for cell, n in cells.items() for _ in range(n)]
    names, labels, texts = (list(column) for column in zip(*rows, strict=True))
    weights = balanced_weights(names, labels, texts)
    children, adults = 400**0.5 / 30, 100**0.5 / 30
    assert shares(weights, names) == {("children",): children, ("adults",): adults}
    assert shares(weights, names, labels) == {
        ("children", "NORMAL"): children / 2,
        ("children", "BACTERIAL"): children / 4,
        ("children", "VIRAL"): children / 4,
        ("adults", "NORMAL"): adults / 2,
        ("adults", "PNEUMONIA"): adults / 2,
    }
    with_text = shares(weights, names, labels, texts)
    for label, share in (("NORMAL", 1 / 2), ("BACTERIAL", 1 / 4), ("VIRAL", 1 / 4)):
        assert with_text["children", label, True] == children * share * 0.375
    assert with_text["adults", "NORMAL", True] == adults / 2 * 0.2


def test_draws_follow_the_weights(images: tuple[list[LabelledImage], Path]) -> None:
    few = [image for image in images[0] if image.label != "VIRAL"] + images[0][-1:]
    assert Counter(image.label for image in few) == {"NORMAL": 3, "BACTERIAL": 3, "VIRAL": 1}
    dataset, drawn = training(few, [images[1]]), Counter[int]()
    for number in range(200):
        dataset.draw(number)
        drawn.update(dataset.labels[i] for i in dataset.drawn)
    assert [drawn[k] / drawn.total() for k in range(3)] == pytest.approx([0.5, 0.25, 0.25], abs=0.05)


# --- files


def test_a_mask_lies_at_the_images_path(tmp_path: Path) -> None:
    (tmp_path / "train/NORMAL").mkdir(parents=True)
    Image.fromarray(np.array([[0, 255], [255, 0]], np.uint8)).save(tmp_path / "train/NORMAL/a.png")
    mask = read_mask(tmp_path, "train/NORMAL/a.jpeg")
    assert mask is not None
    assert mask.tolist() == [[False, True], [True, False]]
    assert read_mask(tmp_path, "train/NORMAL/b.jpeg") is None
    assert read_mask(None, "train/NORMAL/a.jpeg") is None


def test_a_border_is_cut_off_an_image_and_off_its_mask(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    pixels = np.zeros((200, 160), np.uint8)
    pixels[40:, :120] = rng.integers(60, 250, (160, 120))
    mask = np.zeros((100, 80), np.uint8)
    mask[20:, :60] = 255
    for label in ("NORMAL", "PNEUMONIA"):
        for folder, array in (("images", pixels), ("masks", mask)):
            path = tmp_path / folder / "train" / label / "person1_bacteria_1.png"
            path.parent.mkdir(parents=True)
            Image.fromarray(array).save(path)
    found = labelled_folder(sources(tmp_path / "images")).images
    options: dict[str, Any] = {"size": 32, "mean": [0.5], "std": [0.25], "augment": Augmentation(), "seed": 0}
    dataset = TrainingImages(found, [tmp_path / "images"], SUBTYPES, masks={"made": tmp_path / "masks"}, **options)
    for (picture,) in dataset.pictures:
        assert picture.pixels.shape == (160, 120)
        assert picture.lungs is not None
        assert picture.lungs.shape == (80, 60)
        assert picture.lungs.all()
    validation = ValidationImages(
        found, [tmp_path / "images"], SUBTYPES, lambda radiograph: torch.tensor(radiograph.pixels)
    )
    assert validation[0][0].shape == (160, 120)


def test_an_image_that_cannot_be_read_is_named(images: tuple[list[LabelledImage], Path]) -> None:
    path = images[1] / images[0][0].path
    path.write_bytes(b"no picture")
    with pytest.raises(DataError, match=rf"{path.name} cannot be trained on; remove it or mend it: "):
        training(images[0], [images[1]])
