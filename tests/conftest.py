"""What several test files share: tiny bundles, a made-up folder in Kaggle's layout, and where real radiographs are."""

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import timm
import torch
from PIL import Image

from pneumocam import Classifier
from train.fit import Config, fit, save_bundle

# No test may reach beyond loopback: a library that tries is told so at once instead of hanging.
os.environ.setdefault("HF_HUB_DISABLE_TELEMETRY", "1")
os.environ.setdefault("GRADIO_ANALYTICS_ENABLED", "False")

# On cores that are busy, PyTorch's threads spend far longer waiting for each other than one takes for such small work.
os.environ.setdefault("OMP_NUM_THREADS", "1")  # for the processes that tests start
torch.set_num_threads(1)

EXAMPLES = sorted((Path(__file__).parents[1] / "examples").glob("*.jpeg"))
SUBTYPES = ("NORMAL", "BACTERIAL", "VIRAL")


@pytest.fixture(scope="session")
def bundled() -> Classifier:
    return Classifier.from_pretrained()


@pytest.fixture
def make_bundle(tmp_path: Path) -> Callable[..., Path]:
    """Write a bundle with random weights: any architecture, 1 or 3 channels, any crop mode."""

    def make(
        arch: str = "tf_efficientnet_lite0",
        *,
        in_chans: int = 1,
        size: tuple[int, int] = (64, 64),
        labels: tuple[str, ...] = SUBTYPES,
        crop_mode: str = "squash",
        crop_pct: float = 1.0,
        temperature: float = 1.5,
        operating_point: dict[str, float] | None = None,
        name: str = "bundle",
    ) -> Path:
        torch.manual_seed(0)
        network = timm.create_model(arch, num_classes=len(labels), in_chans=in_chans)
        preprocessing: dict[str, Any] = {
            "input_size": (in_chans, *size),
            "interpolation": "bicubic",
            "crop_pct": crop_pct,
            "crop_mode": crop_mode,
            "mean": (0.5,) * in_chans,
            "std": (0.25,) * in_chans,
        }
        save_bundle(
            network,
            tmp_path / name,
            labels,
            preprocessing,
            {},
            temperature=temperature,
            operating_point=operating_point,
        )
        return tmp_path / name

    return make


def write_kaggle_folder(
    target: Path, patients: int = 8, *, folders: tuple[str, ...] = ("train",), subtypes: bool = True, size: int = 80
) -> Path:
    """Write films in Kaggle's layout: normal is smooth, bacterial striped across, viral striped down."""
    rng = np.random.default_rng(0)
    wave = (60 * np.sin(np.arange(size) / 2)).astype(np.float32)
    for folder in folders:
        first = 1000 * ("train", "val", "test", "").index(folder)
        for i in range(patients):
            for kind in ("normal", "bacteria", "virus"):
                pixels = 110 + rng.normal(0, 12, (size, size)).astype(np.float32)
                pixels += {"normal": wave[:, None] * 0, "bacteria": wave[:, None], "virus": wave[None, :]}[kind]
                if kind == "normal":
                    film = f"NORMAL/IM-{first + i:04d}-0001.jpeg"
                elif subtypes:
                    film = f"PNEUMONIA/person{first + i + (500 if kind == 'virus' else 0)}_{kind}_{i}.jpeg"
                else:
                    film = f"PNEUMONIA/film-{first + i}-{kind[0]}.jpeg"
                path = target / folder / film
                path.parent.mkdir(parents=True, exist_ok=True)
                Image.fromarray(pixels.clip(0, 255).astype(np.uint8)).save(path, quality=90)
    return target


@pytest.fixture
def make_kaggle_folder(tmp_path: Path) -> Callable[..., Path]:
    """`write_kaggle_folder` below the test's own folder."""

    def make(patients: int = 8, *, name: str = "data", **options: Any) -> Path:
        return write_kaggle_folder(tmp_path / name, patients, **options)

    return make


@pytest.fixture(scope="session")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Config:
    """A tiny network that has learnt to tell `write_kaggle_folder`'s classes apart: the config of its finished run."""
    folder = tmp_path_factory.mktemp("trained")
    config = Config(
        data=(str(write_kaggle_folder(folder / "data", 24)),),
        out=folder / "run",
        arch="test_resnet",
        init="scratch",
        train_size=64,
        image_size=64,
        epochs=5,
        batch_size=4,
        lr=3e-3,
        ema_decay=0.7,
        workers=0,
    )
    fit(config)
    return config


@pytest.fixture(scope="session")
def real_data() -> Path:
    """A folder with chest_xray/ in Kaggle's layout, from the environment variable PNEUMOCAM_TEST_DATA."""
    folder = os.environ.get("PNEUMOCAM_TEST_DATA")
    if not folder:
        pytest.skip("PNEUMOCAM_TEST_DATA names no folder with the Kaggle chest X-rays; this test needs real films")
    return Path(folder)
