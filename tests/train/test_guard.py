"""Fitting and measuring a guard: small ones on made data, and the bundled one on the example radiographs."""

import gzip
import io
import json
import plistlib
import struct
import tarfile
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from pneumocam import Classifier
from pneumocam.bundle import write_guard
from pneumocam.guard import SIDE, load_guard
from tests.conftest import EXAMPLES
from train.data import DataError
from train.guard.__main__ import Config, run
from train.guard.batches import draw_batch
from train.guard.drawn import KINDS, noise, page
from train.guard.fit import Radiographs, draw_others, make_pool
from train.guard.gallery import Gallery
from train.guard.measure import LEFT, Case, cut, measure_others, measure_radiographs, with_auroc
from train.guard.volumes import ct_projections, ct_slices, nifti_slices


def lungs(size: tuple[int, int]) -> Image.Image:
    """A mask with two lung fields."""
    mask = np.zeros((size[1], size[0]), np.uint8)
    mask[size[1] // 5 : -size[1] // 5, size[0] // 6 : size[0] // 2 - 5] = 255
    mask[size[1] // 5 : -size[1] // 5, size[0] // 2 + 5 : -size[0] // 6] = 255
    return Image.fromarray(mask)


@pytest.fixture
def held_out(tmp_path: Path) -> Path:
    """Four pictures of each of two kinds."""
    rng = np.random.default_rng(1)
    for kind, draw in (("noise", noise), ("document", page)):
        (tmp_path / "held_out" / kind).mkdir(parents=True)
        for i in range(4):
            Image.fromarray(draw(rng)).save(tmp_path / "held_out" / kind / f"drawn-{i:04}.png")
    return tmp_path / "held_out"


def test_a_batch_says_what_is_in_its_images() -> None:
    torch.manual_seed(0)
    masks = torch.from_numpy(np.array(lungs((128, 128))))[None, None].repeat(4, 1, 1, 1)
    others, kinds = draw_others(1, 0)
    images = torch.randint(0, 256, (4, 1, 128, 128), dtype=torch.uint8)
    pool = make_pool([Radiographs(images, masks, torch.tensor([True, True, True, False]))], others, kinds)
    batch = draw_batch(pool, (40,), 20)
    assert batch.images.shape == (60, 1, SIDE, SIDE)
    assert float(batch.images.abs().max()) <= 2
    assert not batch.chest[40:].any()
    assert not batch.lungs[40:].any()
    whole = (batch.chest[:40] == 1) & (batch.lungs_weight[:40] == 1)
    assert bool((batch.lungs[:40][whole].mean((1, 2, 3)) > 0).all())
    assert set(batch.turns.tolist()) == {0, 1, 2, 3}


def test_every_kind_of_drawing_is_a_picture_and_no_two_are_alike() -> None:
    for draw in KINDS.values():
        first, second = (draw(np.random.default_rng(seed)) for seed in (0, 1))
        assert first.dtype == np.uint8
        assert first.std() > 0
        assert not np.array_equal(first, second)


@pytest.mark.parametrize("turns", range(4))
def test_a_cut_leaves_the_share_of_the_lungs_that_it_says(turns: int) -> None:
    mask = lungs((400, 300))
    left = cut(mask, mask, turns)
    assert np.asarray(left).sum() / np.asarray(mask).sum() == pytest.approx(LEFT, abs=0.02)
    assert (left.width < 400, left.height < 300) == (turns in (0, 2), turns in (1, 3))


def test_the_bundled_guard_is_measured_on_the_examples(bundled: Classifier, tmp_path: Path, held_out: Path) -> None:
    assert bundled.guard
    gallery = Gallery()
    cases = [Case(path, None, i) for i, path in enumerate(EXAMPLES[:2])]
    radiographs = {"examples": measure_radiographs(bundled.guard, cases, gallery)}
    found = with_auroc(radiographs, measure_others(bundled.guard, held_out, gallery))
    row = found["radiographs"]["examples"]
    assert (row["n"], row["refused"]["as it is"]["value"], row["refused"]["as it is"]["low"]) == (2, 0, 0)
    assert row["refused"]["as it is"]["high"] > 0.3  # two images prove little
    assert {pose["value"] for pose in row["poses_recognised"].values()} == {1}
    assert len(row["poses_recognised"]) == 7
    assert found["others"]["noise"]["refused"]["value"] == 1
    assert found["all_others_refused"]["n"] == 8
    assert found["auroc"]["examples"]["value"] == 1
    json.dumps(found)
    gallery.add("made", Image.new("L", (300, 200)))
    gallery.save(tmp_path / "gallery.png")
    with Image.open(tmp_path / "gallery.png") as sheet:
        assert sheet.width == 12 * 128


@pytest.fixture
def source(tmp_path: Path) -> Path:
    """A class folder of made images of twenty patients, with masks."""
    rng = np.random.default_rng(0)
    for i in range(20):
        for name in (f"NORMAL/IM-{i:04d}-0001", f"PNEUMONIA/person{i}_bacteria_{i}"):
            for root, image in (
                ("data", Image.fromarray(rng.integers(0, 256, (96, 96), np.uint8))),
                ("masks", lungs((96, 96))),
            ):
                path = tmp_path / root / "train" / f"{name}.png"
                path.parent.mkdir(parents=True, exist_ok=True)
                image.save(path)
    return tmp_path / "data"


def test_a_guard_is_fitted_written_and_measured_again(tmp_path: Path, source: Path, held_out: Path) -> None:
    bundle = tmp_path / "bundle"
    bundle.mkdir()
    config = Config(
        bundle,
        (f"made={source}",),
        masks=(f"made={tmp_path / 'masks'}",),
        others=held_out,
        held_out=held_out,
        gallery=tmp_path / "gallery.png",
        steps=2,
        batch=7,
        pictures=4,
        drawn=1,
        changed=2,
    )
    description = run(config)
    assert description.training["radiographs"] == description.training["with_lung_mask"]
    assert description.training["other_pictures"] == {"document": 4, "noise": 4, "random drawings": len(KINDS)}
    assert description.measured["split"] == "patients and collections held out"
    assert description.measured["radiographs"]["made"]["cuts_told"]["top cut off"]["n"] == 2
    weights = (bundle / "guard.safetensors").read_bytes()
    again = run(Config(bundle, config.data, held_out=held_out, measure_only=True, changed=2))
    assert again.measured["others"] == description.measured["others"]
    least, most = description.thresholds.detail
    assert 0 < least < most < 10
    write_guard(
        bundle,
        description.model_copy(
            update={"thresholds": again.thresholds.model_copy(update={"detail": (0, 9), "edges": (0, 0, 1, 1)})}
        ),
    )
    detailed = run(Config(bundle, config.data, held_out=held_out, limits_only=True, changed=2))
    assert detailed.thresholds == description.thresholds
    assert (bundle / "guard.safetensors").read_bytes() == weights
    assert load_guard(bundle)


def test_fitting_needs_other_pictures_and_measuring_a_guard(tmp_path: Path, source: Path) -> None:
    with pytest.raises(DataError, match="--others"):
        run(Config(tmp_path, (f"made={source}",)))
    with pytest.raises(DataError, match="no guard"):
        run(Config(tmp_path, (f"made={source}",), measure_only=True))


def test_slices_of_a_volume_are_upright_and_keep_its_proportions(tmp_path: Path) -> None:
    volume = np.zeros((12, 18, 24), "<i2")  # x, y, z; the head is bright
    volume[:, :, 16:] = 100
    header = bytearray(352)
    header[40:56] = struct.pack("<8h", 3, *volume.shape, 1, 1, 1, 1)
    header[70:72] = struct.pack("<h", 4)
    header[76:108] = struct.pack("<8f", 1, 2, 1, 1, 1, 1, 1, 1)
    header[108:112] = struct.pack("<f", 352)
    (tmp_path / "volume.nii.gz").write_bytes(gzip.compress(bytes(header) + volume.tobytes(order="F")))
    slices = list(nifti_slices([tmp_path / "volume.nii.gz"]))
    assert len(slices) == 16 + 12 + 8
    coronal = slices[20]
    assert coronal.size == (400, 400)  # 12 x 2 mm wide, 24 mm high
    pixels = np.asarray(coronal)
    assert pixels[:100].min() > 200
    assert pixels[-100:].max() < 50


def test_bone_is_bright_in_slices_and_projections_of_a_ct_volume(tmp_path: Path) -> None:
    volume = np.full((20, 64, 64), -1000, "<i2")
    volume[:, 16:48, 16:48] = 0
    volume[:, 28:36, 28:36] = 1200
    facts = {"matrix": {"filename": "m.dat", "dtype": "int16", "shape": volume.shape}, "spacing": (1.0, 1.0, 2.0)}
    with tarfile.open(tmp_path / "head.inv3", "w:gz") as archive:
        for name, data in (("main.plist", plistlib.dumps(facts)), ("m.dat", volume.tobytes())):
            member = tarfile.TarInfo(f"x/{name}")
            member.size = len(data)
            archive.addfile(member, io.BytesIO(data))
    for pictures in (ct_slices([tmp_path / "head.inv3"]), ct_projections([tmp_path / "head.inv3"])):
        pixels = np.asarray(next(pictures))
        middle = pixels.shape[0] // 2
        assert pixels[middle, pixels.shape[1] // 2] > pixels[middle, 2] + 100
