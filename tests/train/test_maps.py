"""Figures of saliency maps: of made-up maps and a made-up network, with values that are known."""

import json
import shutil
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor, nn

from pneumocam import Classifier, Saliency, predict
from tests.conftest import EXAMPLES
from train.data import DataError, Source
from train.data.manifest import LabelledImage
from train.evaluate import Config as EvaluationConfig
from train.evaluate import run as evaluate
from train.faithfulness import (
    CHANGES,
    GRID,
    blur,
    cascade,
    centre_map,
    faithfulness,
    heat_of,
    moved,
    random_map,
    rank_correlation,
)
from train.fit import Config as TrainingConfig
from train.maps import Config, MaskedImage, masked, measure_maps, randomised, run

LABELS = ("NORMAL", "BACTERIAL", "VIRAL")
PLACE = slice(96, 144)  # rows and columns that the network below looks at, of 192


class Spot(nn.Module):
    """The log-odds of pneumonia are the contrast between one place and its blurred surroundings, and nothing else."""

    def forward_features(self, batch: Tensor) -> Tensor:
        """`(B, 1, H, W)` -> `(B, 1, 1, 1)`."""
        return batch[:, :, PLACE, PLACE].std((2, 3), keepdim=True)

    def forward_head(self, features: Tensor) -> Tensor:
        """`(B, 3)`: 0 without contrast, and pneumonia with it."""
        contrast = features[:, 0, 0, 0]
        return torch.stack([4 - 20 * contrast, torch.zeros_like(contrast), torch.zeros_like(contrast)], 1)


@pytest.fixture
def spot(bundled: Classifier) -> Classifier:
    return replace(bundled, network=Spot(), guard=None, prior=None, prevalence=None, temperature=1.0)


def noise() -> Tensor:
    return torch.rand(1, 1, 192, 192, generator=torch.Generator().manual_seed(0)) * 2 - 1


def perfect() -> np.ndarray:
    heat = np.zeros((192, 192), np.float32)
    heat[PLACE, PLACE] = 1
    return heat


def test_the_map_of_what_matters_beats_random_ones_and_the_opposite_is_worse(spot: Classifier) -> None:
    batch = noise()
    deletion, insertion = faithfulness(spot, batch, "BACTERIAL", perfect())
    others = [
        faithfulness(spot, batch, "BACTERIAL", random_map((6, 6), np.random.default_rng(seed))) for seed in range(5)
    ]
    assert all(deletion < one and insertion > other for one, other in others)
    worst = faithfulness(spot, batch, "BACTERIAL", 1 - perfect())
    assert worst[0] > max(one for one, _ in others)
    assert worst[1] < min(other for _, other in others)


def test_areas_are_those_of_curves_that_are_known(spot: Classifier) -> None:
    # The place is a sixteenth of the image, so the first fifth takes all of it: both curves are flat from there on.
    batch = noise()
    with torch.no_grad():
        ill, well = (
            float(1 - spot.network.forward_head(spot.features(x)).softmax(1)[0, 0]) for x in (batch, blur(batch))
        )
    deletion, insertion = faithfulness(spot, batch, "VIRAL", perfect())
    assert deletion == pytest.approx(0.1 * ill + 0.9 * well, abs=0.01)
    assert insertion == pytest.approx(0.1 * well + 0.9 * ill, abs=0.01)
    # For NORMAL the curve is that of its own probability.
    assert faithfulness(spot, batch, "NORMAL", perfect()) == pytest.approx((1 - deletion, 1 - insertion), abs=1e-5)


def test_a_map_that_follows_its_image_has_not_moved() -> None:
    cam = np.zeros((50, 50), np.float32)
    cam[10:20, 10:30] = np.random.default_rng(0).random((10, 20))
    one = Saliency(cam, "VIRAL", (0, 0, 100, 100), (100, 100))
    followed = replace(one, cam=np.roll(cam, (1, 1), (0, 1)))  # by 2% of the image
    found = moved(one, {"jpeg_50": one, "half_size": followed, "shift_2_percent": followed})
    assert found["jpeg_50"] == found["shift_2_percent"] == pytest.approx(1)
    assert found["half_size"] < 0.9


def test_changes_keep_what_the_image_shows() -> None:
    rows, columns = np.mgrid[:120, :160]
    pixels = ((rows + columns) // 2).astype(np.uint8)
    assert CHANGES["half_size"](pixels).shape == (60, 80)
    assert np.abs(CHANGES["jpeg_50"](pixels).astype(int) - pixels).max() < 8
    shifted = CHANGES["shift_2_percent"](pixels).astype(float)  # by 2.4 rows and 3.2 columns
    np.testing.assert_allclose(shifted[10:-10, 10:-10], pixels[10:-10, 10:-10] - 2.8, atol=1)


def test_baselines_cover_the_image() -> None:
    centre = centre_map()
    assert centre.shape == (GRID, GRID)
    assert centre[49:51, 49:51].min() == pytest.approx(centre.max())
    assert centre[49, 74] / centre.max() == pytest.approx(np.exp(-0.5), abs=0.02)  # one standard deviation away
    assert random_map((6, 6), np.random.default_rng(0)).shape == (GRID, GRID)


def test_each_step_of_the_cascade_has_one_more_random_layer(bundled: Classifier) -> None:
    before = {name: value.clone() for name, value in bundled.network.state_dict().items()}
    changed = []
    for layer, randomly in cascade(bundled, 0):
        after = randomly.network.state_dict()
        changed.append({name for name in before if not torch.equal(before[name], after[name])})
        assert any(name.startswith(layer) for name in changed[-1])
    assert all(one < other for one, other in pairwise(changed))
    assert any(name.startswith("conv_stem") for name in changed[-1] - changed[0])
    assert all(torch.equal(before[name], value) for name, value in bundled.network.state_dict().items())


def test_random_weights_leave_little_of_the_maps(bundled: Classifier) -> None:
    images = [MaskedImage(path, "children", i) for i, path in enumerate(EXAMPLES)]
    rows = randomised(bundled, images, resamples=20)
    assert [row["n"] for row in rows] == [len(EXAMPLES)] * len(rows)
    assert abs(rows[-1]["correlation"]["value"]) < 0.3
    assert rank_correlation(*2 * [predict(bundled, EXAMPLES[0]).explain().cam]) == pytest.approx(1)


def test_shares_inside_the_whole_image_and_inside_nothing(bundled: Classifier) -> None:
    whole, nothing = np.ones((9, 7), bool), np.zeros((9, 7), bool)
    images = [MaskedImage(EXAMPLES[0], "a", 0, whole), MaskedImage(EXAMPLES[1], "b", 1, nothing)]
    found = measure_maps(bundled, images, resamples=20)
    assert (found["n"], found["lungs"]) == (2, {"by hand": 2})
    assert found["by_source"]["a"]["inside"] == {"value": 1.0, "low": None, "high": None}
    assert found["by_source"]["b"]["inside"]["value"] == found["by_source"]["b"]["expected"]["value"] == 0
    assert found["by_class"]["all"]["inside"]["value"] == pytest.approx(0.5)
    assert found["by_class"]["all"]["n"] == sum(found["by_class"]["all"]["words"].values()) == 2
    assert sum(word["n"] for word in found["by_word"].values()) == 2 * 4
    json.dumps(found, allow_nan=False)


def test_the_figures_of_an_image_are_those_of_its_map(bundled: Classifier) -> None:
    image = MaskedImage(EXAMPLES[0], "a", 0)
    found = measure_maps(bundled, [image], resamples=5)["by_class"]["all"]
    prediction = predict(bundled, EXAMPLES[0])
    saliency = prediction.explain()
    assert found["words"] == {saliency.quality: 1}
    assert found["inside"]["value"] == pytest.approx(saliency.inside, abs=1e-6)
    heat = heat_of(saliency)
    assert found["border"]["value"] == pytest.approx(1 - heat[10:90, 10:90].sum() / heat.sum(), abs=1e-5)
    assert prediction.radiograph
    encoded = replace(prediction.radiograph, pixels=CHANGES["jpeg_50"](prediction.radiograph.pixels))
    after = predict(replace(bundled, guard=None), encoded).explain(saliency.target)
    assert found["moved"]["jpeg_50"]["value"] == pytest.approx(np.corrcoef(heat.ravel(), heat_of(after).ravel())[0, 1])


def test_without_masks_and_guard_nothing_can_be_measured(bundled: Classifier) -> None:
    with pytest.raises(DataError, match="no lung mask"):
        measure_maps(replace(bundled, guard=None), [MaskedImage(EXAMPLES[0], "a", 0)], resamples=5)


def test_images_are_drawn_from_each_source_and_have_masks_if_the_source_has_some(tmp_path: Path) -> None:
    paths = [f"{i}.png" for i in range(6)]
    for path in paths[:3]:
        Image.new("L", (4, 4), 255).save(tmp_path / path)
    sources = [Source("a", (tmp_path,), masks=tmp_path), Source("b", (tmp_path,))]
    images = [
        LabelledImage(source.name, path, root, "train", "NORMAL", path, path, "", group)
        for root, source in enumerate(sources)
        for group, path in enumerate(paths)
    ]
    found = masked(images, sources, 4)
    assert [image.source for image in found] == ["a"] * 3 + ["b"] * 4
    assert {image.path.name for image in found[:3]} == set(paths[:3])
    assert all(image.lungs is not None and image.lungs.all() for image in found[:3])
    assert all(image.lungs is None for image in found[3:])
    assert [image.path for image in masked(images, sources, 2)] != [
        image.path for image in masked(images, sources, 2, seed=1)
    ]
    with pytest.raises(DataError, match="No image of a has a lung mask"):
        masked(images[3:6], sources, 4)


def test_the_command_measures_what_the_evaluation_measures(trained: TrainingConfig, tmp_path: Path) -> None:
    bundle = Path(shutil.copytree(trained.out / "bundle", tmp_path / "bundle"))
    data = Path(trained.data[0])
    for path in data.rglob("*.jpeg"):
        mask = (tmp_path / "masks" / path.relative_to(data)).with_suffix(".png")
        mask.parent.mkdir(parents=True, exist_ok=True)
        Image.linear_gradient("L").save(mask)
    options: dict[str, Any] = {"data": (f"made={data}",), "masks": (f"made={tmp_path / 'masks'}",), "resamples": 5}
    found = evaluate(EvaluationConfig(str(bundle), audit=False, map_images=3, **options))
    assert "--map-images 3" in found["command"]
    measured = run(Config(bundle, images=3, **options))
    assert measured["n"] == 3
    assert json.loads(json.dumps(measured)) == json.loads(json.dumps(found["maps"]))
    written = json.loads((bundle / "metrics.json").read_text())
    assert written == json.loads(json.dumps(found))
