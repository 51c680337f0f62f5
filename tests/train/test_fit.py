"""What a training writes, that it learns, that a killed one goes on exactly, and what it refuses."""

import csv
import json
import math
import os
import pickle
import shutil
import signal
import subprocess
import sys
from collections import Counter
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import huggingface_hub
import numpy as np
import pytest
import timm
import torch
from PIL import Image
from safetensors.torch import load_file, save_file
from sklearn.metrics import roc_auc_score

from pneumocam import Classifier, load_radiograph
from pneumocam.classifier import eval_transform
from tests.conftest import SUBTYPES, write_kaggle_folder
from tests.train.made import sources
from train.data import DataError, LabelledImage, Manifest, ValidationImages
from train.fit import Config, fit, main, read_config, training_images, validation_groups
from train.network import create_network
from train.objective import allowed_classes, label_loss, validation_figures

COLUMNS = [
    *("seed", "epoch", "lr", "train_loss", "train_accuracy"),
    *("val_loss", "val_accuracy", "val_worst_group", "val_auroc", "seconds"),
]
ROOT = Path(__file__).parents[2]


def log(folder: Path) -> list[dict[str, str]]:
    """The rows of log.csv, less the time that they took."""
    with (folder / "log.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert all(list(row) == COLUMNS and float(row.pop("seconds")) > 0 for row in rows)
    return rows


def bundle_json(config: Config) -> dict[str, Any]:
    description: dict[str, Any] = json.loads((config.out / "bundle/pneumocam.json").read_text())
    return description


def validation(config: Config) -> tuple[list[LabelledImage], np.ndarray]:
    """The images that were held out, and the shipped network's logits (N, K) for them, one by one."""
    root = Path(config.data[0])
    images = Manifest.read(config.out / "manifest.csv", [root]).split("val")
    classifier = Classifier.from_pretrained(f"local-dir:{config.out / 'bundle'}")
    batches = (classifier.transform(load_radiograph(root / image.path))[None] for image in images)
    logits = [classifier.head(classifier.features(batch)).detach().double().numpy()[0] for batch in batches]
    return images, np.array(logits)


def shipped_val_loss(config: Config, labels: tuple[str, ...] = SUBTYPES) -> float:
    images, logits = validation(config)
    manifest = Manifest.read(config.out / "manifest.csv", [Path(config.data[0])])
    groups = validation_groups(manifest, sources(Path(config.data[0])))
    return validation_figures(logits, np.array([labels.index(image.label) for image in images]), groups)["val_loss"]


def small(config: Config, out: Path, **changes: Any) -> Config:
    small: dict[str, Any] = {"out": out, "epochs": 1, "train_size": 32, "image_size": 64, "batch_size": 8}
    small["calibrate"] = False
    return replace(config, **small | changes)


def command(config: Config) -> list[str]:
    """The flags that give this config."""
    flags = ["--data", *config.data]
    for name in ("out", "arch", "init", "train_size", "image_size", "epochs", "batch_size", "lr", "ema_decay"):
        flags += [f"--{name.replace('_', '-')}", str(getattr(config, name))]
    return [*flags, "--workers", str(config.workers), *["--no-calibrate"] * (not config.calibrate)]


def environment(threads: int) -> dict[str, str]:
    # The order of a sum, and so its last bit, depends on the number of threads.
    return os.environ | {"OMP_NUM_THREADS": str(threads), "MKL_NUM_THREADS": str(threads)}


# --- a whole run


def test_it_learns(trained: Config) -> None:
    rows = log(trained.out)
    assert [row["epoch"] for row in rows] == ["1", "2", "3", "4", "5"]
    best = min(rows, key=lambda row: float(row["val_loss"]))
    assert float(best["val_loss"]) < math.log(3) / 2
    assert float(best["val_auroc"]) > 0.95
    assert float(best["val_accuracy"]) > 0.7
    assert float(rows[-1]["train_accuracy"]) > 0.6 > float(rows[0]["train_accuracy"])


def test_the_learning_rate_warms_up_and_falls_to_zero(trained: Config) -> None:
    steps = len(Manifest.read(trained.out / "manifest.csv", [Path(trained.data[0])]).split("train")) // 4
    rates = [float(row["lr"]) for row in log(trained.out)]
    assert rates[0] == pytest.approx(trained.lr)
    progress = [((epoch - 1) * steps - 1) / (4 * steps) for epoch in (2, 3, 4, 5)]
    assert rates[1:] == pytest.approx([trained.lr * (1 + math.cos(math.pi * p)) / 2 for p in progress])


def test_a_run_writes_what_it_says(trained: Config) -> None:
    assert {p.name for p in trained.out.iterdir()} == {
        *("config.json", "manifest.csv", "log.csv", "curves.png", "last.pt", "bundle")
    }
    assert {p.name for p in (trained.out / "bundle").iterdir()} == {
        *("config.json", "model.safetensors", "pneumocam.json", "log.csv", "curves.png")
    }
    stored = json.loads((trained.out / "config.json").read_text())
    assert stored == json.loads(json.dumps(asdict(trained), default=str))
    for folder in (trained.out, trained.out / "bundle"):
        with Image.open(folder / "curves.png") as picture:
            assert (picture.format, picture.size) == ("PNG", (990, 396))
    assert (trained.out / "bundle/log.csv").read_bytes() == (trained.out / "log.csv").read_bytes()


def test_provenance_tells_what_it_was_trained_on(trained: Config) -> None:
    manifest = Manifest.read(trained.out / "manifest.csv", [Path(trained.data[0])])
    training = bundle_json(trained)["training"]
    assert training["manifest_sha256"] == manifest.sha256
    assert training["images"] == {
        side: dict(Counter(f.label for f in manifest.split(side))) for side in ("train", "val")
    }
    assert training["patient_groups"] == {"train": len(manifest.split("train")), "val": len(manifest.split("val"))}
    assert sum(training["patient_groups"].values()) == 72
    (run,) = training["runs"]
    assert (run["seed"], run["epochs"]) == (0, 5)
    assert 0.1 < run["peak_memory_gib"] < 30
    rows = log(trained.out)
    best = min(rows, key=lambda row: float(row["val_loss"]))
    assert {"seed": "0"} | {name: str(value) for name, value in run["best"].items() if name != "seconds"} == best
    assert training["recipe"].items() >= {"arch": "test_resnet", "init": "scratch", "split_seed": 0, "lr": 3e-3}.items()
    assert str(trained.out.parent) not in (trained.out / "bundle/pneumocam.json").read_text()
    assert training["versions"]["timm"] == timm.__version__


def test_the_bundle_loads_here_and_with_timm_alone(trained: Config) -> None:
    folder = trained.out / "bundle"
    classifier = Classifier.from_pretrained(f"local-dir:{folder}")
    assert classifier.label_names == SUBTYPES
    plain = timm.create_model(f"local-dir:{folder}", pretrained=True).eval()
    batch = torch.rand(2, 1, 64, 64, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        torch.testing.assert_close(classifier.head(classifier.features(batch)), plain(batch), rtol=1e-5, atol=1e-5)
    data = timm.data.resolve_model_data_config(plain)
    assert (data["input_size"], data["crop_mode"], data["crop_pct"]) == ((1, 64, 64), "squash", 1.0)
    assert {tensor.dtype for tensor in load_file(folder / "model.safetensors").values()} == {torch.half, torch.int64}


def test_what_is_shipped_is_what_validated_best(trained: Config) -> None:
    images, logits = validation(trained)
    truth = np.array([SUBTYPES.index(image.label) for image in images])
    best = min(log(trained.out), key=lambda row: float(row["val_loss"]))
    # Calibration has added to the bias of the shipped network.
    pneumonia = 1 - torch.from_numpy(logits).softmax(1).numpy()[:, 0]
    assert roc_auc_score(truth > 0, pneumonia) == pytest.approx(float(best["val_auroc"]), abs=0.02)


def test_calibration_can_be_left_out(trained: Config, tmp_path: Path) -> None:
    config = small(trained, tmp_path / "run")
    fit(config)
    description = bundle_json(config)
    assert description["temperature"] == 1
    assert description["operating_points"] == {"balanced": {"threshold": 0.5, "uncertain_log_odds": 0.0}}
    assert bundle_json(trained)["temperature"] != 1
    assert set(bundle_json(trained)["operating_points"]) == {"balanced", "screening", "rule_in"}


# --- what is trained on


def test_another_seed_divides_the_patients_alike(trained: Config, tmp_path: Path) -> None:
    configs = [small(trained, tmp_path / str(seed), seed=seed) for seed in (0, 1)]
    first, second = (fit(config) for config in configs)
    assert (configs[0].out / "manifest.csv").read_bytes() == (configs[1].out / "manifest.csv").read_bytes()
    assert (first / "model.safetensors").read_bytes() != (second / "model.safetensors").read_bytes()
    fit(small(trained, tmp_path / "split", split_seed=1))
    assert (tmp_path / "split/manifest.csv").read_bytes() != (configs[0].out / "manifest.csv").read_bytes()


def test_a_label_allows_its_classes_and_its_loss_is_theirs_together() -> None:
    allowed = allowed_classes(SUBTYPES)
    assert allowed.tolist() == [[True, False, False], [False, True, False], [False, False, True], [False, True, True]]
    logits = torch.randn(5, 3, generator=torch.Generator().manual_seed(0))
    p = logits.softmax(1)
    known = torch.tensor([0, 1, 2, 2, 1])
    cross_entropy = torch.nn.functional.cross_entropy
    for smoothing in (0.0, 0.1):
        expected = cross_entropy(logits, known, reduction="none", label_smoothing=smoothing)
        torch.testing.assert_close(label_loss(logits, allowed[known], smoothing), expected)
    unknown = label_loss(logits, allowed[torch.full((5,), 3)])
    torch.testing.assert_close(unknown, -(p[:, 1] + p[:, 2]).log())


def test_every_group_counts_the_same_in_validation() -> None:
    logits = np.log([[0.9, 0.05, 0.05], [0.2, 0.4, 0.4], [0.2, 0.4, 0.4], [0.6, 0.2, 0.2]])
    figures = validation_figures(logits, np.array([0, 1, 1, 3]), np.array(["a", "b", "b", "c"]))
    losses = [-math.log(0.9), -math.log(0.4), -math.log(0.4)]
    assert figures["val_loss"] == pytest.approx((losses[0] + losses[1] + losses[2]) / 3)
    assert figures["val_accuracy"] == pytest.approx(2 / 3)
    assert figures["val_worst_group"] == 0
    assert figures["val_auroc"] == 1


def test_a_second_source_without_subtypes_is_learned_from(trained: Config, tmp_path: Path) -> None:
    adults = write_kaggle_folder(tmp_path / "adults", 12, folders=("",), subtypes=False)
    config = small(trained, tmp_path / "run", data=(f"children={trained.data[0]}", f"adults={adults}"), calibrate=True)
    fit(config)
    training = bundle_json(config)["training"]
    assert set(training["sources"]) == {"children", "adults"}
    assert set(training["sources"]["adults"]["train"]) == {"NORMAL", "PNEUMONIA"}
    assert bundle_json(config)["prior"] == {"NORMAL": 0.5, "BACTERIAL": 0.25, "VIRAL": 0.25}
    assert read_config(config.out) == config


def test_what_is_left_out_is_told_before_training(
    trained: Config, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    data = write_kaggle_folder(tmp_path / "data")
    for folder in ("train/COVID-19", "train/NORMAL/masks"):
        (data / folder).mkdir()
        shutil.copy(data / "train/NORMAL/IM-0001-0001.jpeg", data / folder / "a.jpeg")
    fit(small(trained, tmp_path / "run", data=(str(data),)))
    printed = capsys.readouterr().out
    assert printed.index("left out: 1 files in data/train/COVID-19: ") < printed.index("epoch 1 ")
    assert "left out: 1 files in data/train/NORMAL: masks" in printed


def test_images_can_be_sent_to_processes_that_are_not_forked(trained: Config) -> None:
    root = Path(trained.data[0])
    manifest = Manifest.read(trained.out / "manifest.csv", [root])
    _, preprocessing = create_network(trained.arch, "scratch", len(SUBTYPES), image_size=trained.image_size)
    validation = ValidationImages(manifest.split("val"), [root], SUBTYPES, eval_transform(preprocessing))
    for images in (training_images(trained, manifest, sources(root), preprocessing), validation):
        sent = pickle.loads(pickle.dumps(images))
        assert torch.equal(sent[0][0], images[0][0])


# --- going on


def test_a_killed_run_goes_on_exactly(trained: Config, tmp_path: Path) -> None:
    killed = replace(trained, out=tmp_path / "run")
    arguments = [sys.executable, "-m", "train.fit", *command(killed)]
    with subprocess.Popen(
        arguments, cwd=ROOT, env=environment(torch.get_num_threads()), stdout=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout is not None
        assert any(line.startswith("epoch 2 ") for line in process.stdout)
        process.kill()
    assert process.returncode == -signal.SIGKILL
    assert 2 <= len(log(killed.out)) < 5
    assert not (killed.out / "bundle").exists()
    for name in ("last.pt", "log.csv"):  # as if it had been killed while it wrote these
        (killed.out / f"{name}.tmp").write_bytes(b"half a file")

    # Another number of workers; all other flags are the stored ones, whatever is given here.
    bundle = fit(Config(out=killed.out, resume=True, workers=2, arch="resnet18", epochs=99, seed=7))
    assert log(killed.out) == log(trained.out)
    for name in ("model.safetensors", "config.json"):
        assert (bundle / name).read_bytes() == (trained.out / "bundle" / name).read_bytes()
    assert bundle_json(killed)["temperature"] == bundle_json(trained)["temperature"]
    assert not list(killed.out.rglob("*.tmp"))


def test_a_finished_run_goes_on_to_the_same_bundle(trained: Config, tmp_path: Path) -> None:
    config = small(trained, tmp_path / "run")
    weights = fit(config) / "model.safetensors"
    before = weights.read_bytes()
    weights.unlink()
    fit(Config(out=config.out, resume=True, workers=0))
    assert weights.read_bytes() == before
    assert len(log(config.out)) == 1


def test_a_checkpoint_needs_no_starting_weights(trained: Config, tmp_path: Path) -> None:
    weights = tmp_path / "weights.safetensors"
    save_file(timm.create_model("test_resnet").state_dict(), weights)
    config = small(trained, tmp_path / "run", init=str(weights))
    fit(config)
    assert bundle_json(config)["training"]["recipe"]["init"] == "weights.safetensors"
    weights.unlink()
    fit(Config(out=config.out, resume=True, workers=0))


def test_it_stops_when_validation_no_longer_gains(trained: Config, tmp_path: Path) -> None:
    # Without batch statistics and at a learning rate of 0, nothing ever changes.
    config = small(trained, tmp_path / "run", arch="test_convnext", lr=0.0, epochs=9, patience=2)
    bundle = fit(config)
    rows = log(config.out)
    assert len(rows) == 3
    assert len({row["val_loss"] for row in rows}) == 1
    assert bundle_json(config)["training"]["runs"][0]["best"]["epoch"] == 1
    assert fit(Config(out=config.out, resume=True, workers=0)) == bundle
    assert log(config.out) == rows


def test_a_given_manifest_is_followed(trained: Config, tmp_path: Path) -> None:
    manifest = Manifest.read(trained.out / "manifest.csv", [Path(trained.data[0])])
    swap = {"train": "val", "val": "train"}
    swapped = Manifest(tuple(replace(image, split=swap[image.split]) for image in manifest.images))
    swapped.write(tmp_path / "given.csv")
    config = small(trained, tmp_path / "run", manifest=tmp_path / "given.csv", batch_size=4)
    fit(config)
    assert bundle_json(config)["training"]["manifest_sha256"] == swapped.sha256
    assert bundle_json(config)["training"]["patient_groups"] == {"train": 11, "val": 61}


def test_several_processes_are_the_same_command(trained: Config, tmp_path: Path) -> None:
    config = small(trained, tmp_path / "run", epochs=2, batch_size=4, lr=1e-2)
    launch = ["torch.distributed.run", "--standalone", "--nproc-per-node", "2", "-m", "train.fit"]
    done = subprocess.run(
        [sys.executable, "-m", *launch, *command(config)],
        cwd=ROOT,
        env=environment(1) | {"ACCELERATE_USE_CPU": "1"},
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("The bundle is in") == 1
    rows = log(config.out)
    assert len(rows) == 2
    # 61 images, 4 in each of 2 processes: 7 steps an epoch; the first is the warm-up.
    assert float(rows[1]["lr"]) == pytest.approx(1e-2 * (1 + math.cos(math.pi * 6 / 7)) / 2)
    assert float(rows[0]["train_accuracy"]) * 56 == pytest.approx(round(float(rows[0]["train_accuracy"]) * 56))
    manifest = (trained.out / "manifest.csv").read_bytes()
    assert (config.out / "manifest.csv").read_bytes() == manifest
    # All processes validate the weights and batch statistics that are shipped, not each its own.
    best = min(float(row["val_loss"]) for row in rows)
    assert shipped_val_loss(config) == pytest.approx(best, rel=3e-4)


# --- labels, channels, starting weights


def test_a_folder_without_subtypes_trains_the_binary_model(trained: Config, tmp_path: Path) -> None:
    data = write_kaggle_folder(tmp_path / "data", subtypes=False)
    config = small(trained, tmp_path / "run", data=(str(data),), in_chans=3)
    classifier = Classifier.from_pretrained(f"local-dir:{fit(config)}")
    assert classifier.label_names == ("NORMAL", "PNEUMONIA")
    assert classifier.preprocessing["input_size"] == (3, 64, 64)
    batch = classifier.transform(load_radiograph(data / "train/NORMAL/IM-0000-0001.jpeg"))[None]
    assert classifier.head(classifier.features(batch)).shape == (1, 2)
    assert shipped_val_loss(config, ("NORMAL", "PNEUMONIA")) == pytest.approx(
        float(log(config.out)[0]["val_loss"]), rel=2e-3
    )


def test_weights_are_taken_from_a_file_and_the_head_starts_small(tmp_path: Path) -> None:
    torch.manual_seed(0)
    source = timm.create_model("test_resnet", in_chans=3).state_dict()
    save_file(source, tmp_path / "weights.safetensors")
    model, preprocessing = create_network("test_resnet", str(tmp_path / "weights.safetensors"), 3, image_size=96)
    state = model.state_dict()
    first = next(name for name, value in source.items() if value.ndim == 4 and value.shape[1] == 3)
    torch.testing.assert_close(state[first], source[first].sum(1, keepdim=True))
    assert all(torch.equal(state[name], source[name]) for name in source if name != first and "fc" not in name)
    assert state["fc.weight"].std() == pytest.approx(0.01, rel=0.2)
    assert not state["fc.bias"].any()
    assert preprocessing == {
        "input_size": (1, 96, 96),
        "interpolation": "bicubic",
        "crop_pct": 1.0,
        "crop_mode": "squash",
        "mean": (pytest.approx(np.mean(model.pretrained_cfg["mean"])),),
        "std": (pytest.approx(np.mean(model.pretrained_cfg["std"])),),
    }


# --- what is refused


def test_starting_weights_that_cannot_be_had_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(tmp_path))
    with pytest.raises(
        DataError, match=r"test_resnet could not be made from --init imagenet: .*Without a network, give"
    ):
        create_network("test_resnet", "imagenet", 3)
    with pytest.raises(DataError, match=r"--init absent.pth is no file; expected `imagenet`, `scratch` or a file"):
        create_network("test_resnet", "absent.pth", 3)
    damaged, foreign = tmp_path / "damaged.safetensors", tmp_path / "foreign.safetensors"
    damaged.write_bytes(b"damaged" * 9)
    save_file(timm.create_model("test_efficientnet").state_dict(), foreign)
    for path in (damaged, foreign):
        with pytest.raises(DataError, match=f"test_resnet could not be made from --init .*{path.name}"):
            create_network("test_resnet", str(path), 3)


def test_a_run_is_neither_overwritten_nor_made_up(trained: Config, tmp_path: Path) -> None:
    before = (trained.out / "last.pt").read_bytes()
    with pytest.raises(DataError, match=r"holds a run already. Add --resume to continue it or choose another --out"):
        fit(trained)
    assert (trained.out / "last.pt").read_bytes() == before
    with pytest.raises(DataError, match=r"--resume: .* holds no run \(no config.json\)"):
        fit(Config(out=tmp_path / "absent", resume=True))
    with pytest.raises(DataError, match=r"^No data: give --data DIR"):
        fit(Config(out=tmp_path / "absent"))
    assert not (tmp_path / "absent").exists()


def test_images_that_changed_since_are_refused(trained: Config, tmp_path: Path) -> None:
    data = write_kaggle_folder(tmp_path / "data")
    config = small(trained, tmp_path / "run", data=(str(data),))
    fit(config)
    (data / "train/NORMAL/IM-0000-0001.jpeg").write_bytes(b"changed")
    with pytest.raises(DataError, match=r"1 images changed since .*IM-0000-0001.jpeg first"):
        fit(Config(out=config.out, resume=True))


def test_a_class_without_images_is_refused(trained: Config, tmp_path: Path) -> None:
    data = write_kaggle_folder(tmp_path / "data")
    for path in data.glob("train/PNEUMONIA/*virus*"):
        path.unlink()
    with pytest.raises(DataError, match=r"^No VIRAL images in the train split"):
        fit(small(trained, tmp_path / "run", data=(str(data),)))


def test_the_command_says_what_is_wrong_in_one_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    absent = str(tmp_path / "absent")
    monkeypatch.setattr("sys.argv", ["train.fit", "--data", absent, "--out", str(tmp_path / "run")])
    with pytest.raises(SystemExit, match=f"^train.fit: {absent} is not a folder"):
        main()
    assert not (tmp_path / "run").exists()
