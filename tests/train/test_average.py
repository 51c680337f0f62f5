"""Runs of several seeds become one network: the mean of their weights."""

import csv
import json
from dataclasses import replace
from pathlib import Path

import pytest
import timm
import torch
from safetensors.torch import load_file
from torch import nn

from pneumocam import Classifier, predict
from tests.train.made import sources
from train.average import Config, average, main
from train.data import DataError, Manifest
from train.fit import Config as RunConfig
from train.fit import fit, read_config, training_images


@pytest.fixture(scope="module")
def runs(trained: RunConfig, tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    folder = tmp_path_factory.mktemp("runs")
    for seed in (0, 1):
        fit(replace(trained, out=folder / f"seed-{seed}", seed=seed, epochs=1, calibrate=False))
    return [folder / "seed-0", folder / "seed-1"]


def test_the_weights_are_the_mean_of_the_best(runs: list[Path], tmp_path: Path) -> None:
    bundle = average(Config(tuple(runs), tmp_path / "mine"))
    states = [torch.load(run / "last.pt", weights_only=True)["best"] for run in runs]
    shipped = load_file(bundle / "model.safetensors")
    assert shipped.keys() == states[0].keys()
    moved = 0
    for name, value in shipped.items():
        expected = (states[0][name] + states[1][name]) / 2 if value.is_floating_point() else states[0][name]
        if name == "fc.bias":  # calibration moves NORMAL against the others
            value, expected = value[1:] - value[1], expected[1:] - expected[1]
        if "running_" not in name and "num_batches" not in name:
            rounding = 1e-3 if name == "fc.bias" else 1e-6  # in half precision, after a larger number was added
            torch.testing.assert_close(value.float(), expected.float(), rtol=1e-3, atol=rounding)
        moved += not torch.equal(states[0][name], states[1][name])
    assert moved > 10


def test_batch_statistics_are_those_of_the_averaged_network(runs: list[Path], tmp_path: Path) -> None:
    bundle = average(Config(tuple(runs), tmp_path / "mine", workers=0))
    config = read_config(runs[0])
    root = Path(config.data[0])
    manifest = Manifest.read(runs[0] / "manifest.csv", [root])
    network = timm.create_model(f"local-dir:{bundle}", pretrained=True)
    preprocessing = timm.data.resolve_model_data_config(network)
    images = training_images(config, manifest, sources(root), preprocessing)
    first = next(module for module in network.modules() if isinstance(module, nn.BatchNorm2d))
    seen: list[torch.Tensor] = []
    first.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0].mean((0, 2, 3))))
    with torch.no_grad():
        network.eval()(torch.stack([images[i][0] for i in range(len(images))]))
    torch.testing.assert_close(first.running_mean, seen[0], rtol=0.02, atol=0.02)


def test_the_bundle_answers_and_says_where_it_comes_from(runs: list[Path], tmp_path: Path) -> None:
    bundle = average(Config(tuple(runs), tmp_path / "mine"))
    classifier = Classifier.from_pretrained(f"local-dir:{bundle}")
    assert set(classifier.operating_points) == {"screening", "balanced", "rule_in"}
    assert [(run["seed"], run["epochs"]) for run in classifier.training["runs"]] == [(0, 1), (1, 1)]
    image = next((Path(json.loads((runs[0] / "config.json").read_text())["data"][0])).rglob("*.jpeg"))
    assert sum(predict(classifier, image).probabilities.values()) == pytest.approx(1)
    with (bundle / "log.csv").open(newline="") as file:
        assert [(row["seed"], row["epoch"]) for row in csv.DictReader(file)] == [("0", "1"), ("1", "1")]


def test_one_run_alone_keeps_its_weights(runs: list[Path], tmp_path: Path) -> None:
    bundle = average(Config((runs[0],), tmp_path / "mine"))
    alone, own = load_file(bundle / "model.safetensors"), load_file(runs[0] / "bundle/model.safetensors")
    assert all(torch.equal(alone[name], own[name]) for name in own if name != "fc.bias")  # which calibration moves


def test_what_cannot_be_averaged_is_refused(
    runs: list[Path], trained: RunConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    other = tmp_path / "other"
    fit(replace(trained, out=other, seed=2, epochs=1, lr=1e-3, calibrate=False))
    with pytest.raises(DataError, match=r"other differs from .*seed-0 in more than its seed"):
        average(Config((*runs, other), tmp_path / "mine"))
    with pytest.raises(DataError, match=r"absent is no finished run of train.fit"):
        average(Config((*runs, tmp_path / "absent"), tmp_path / "mine"))
    assert not (tmp_path / "mine").exists()
    monkeypatch.setattr("sys.argv", ["average.py", str(tmp_path / "absent"), "--out", str(tmp_path / "mine")])
    with pytest.raises(SystemExit, match=r"^train.average: .*absent is no finished run"):
        main()
