"""What test files share: the running app, tiny bundles, Hubs on loopback, made-up Kaggle folders, real images.

What takes long to be imported is imported in the fixtures: the process that hands out tests to others needs none of it.
"""

import hashlib
import os
import shutil
import socket
import subprocess
import sys
import threading
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import huggingface_hub
import numpy as np
import pytest
import torch
from PIL import Image
from playwright.sync_api import Browser, sync_playwright

import pneumocam.hub
from pneumocam import Classifier
from pneumocam.light_timm import timm
from tests.hub import Hub, serve

if TYPE_CHECKING:
    from train.fit import Config

# No test may reach beyond loopback: a library that tries is told so at once instead of hanging.
os.environ.setdefault("HF_HUB_DISABLE_TELEMETRY", "1")
os.environ.setdefault("GRADIO_ANALYTICS_ENABLED", "False")

# On cores that are busy, PyTorch's threads spend far longer waiting for each other than one takes for such small work.
os.environ.setdefault("OMP_NUM_THREADS", "1")  # for the processes that tests start
torch.set_num_threads(1)

ROOT = Path(__file__).parents[1]
EXAMPLES = sorted((ROOT / "examples").glob("*.jpeg"))
SUBTYPES = ("NORMAL", "BACTERIAL", "VIRAL")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Quick files last, so that no process is left with a slow one when the others are done."""
    slow = {item.path for item in items if item.get_closest_marker("slow")}
    items.sort(key=lambda item: item.path.parent.name == "unit" and item.path not in slow)


@pytest.fixture(scope="session")
def bundled() -> Classifier:
    return Classifier.from_pretrained()


@pytest.fixture(scope="session", autouse=True)
def one_export_for_each_network(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """A network's ONNX file comes from an earlier test, also one of another process: an export takes seconds."""
    from pneumocam import export

    base = tmp_path_factory.getbasetemp()
    folder = base.parent if "PYTEST_XDIST_WORKER" in os.environ else base
    write = export._write

    def written(network: torch.nn.Module, batch: torch.Tensor, inputs: str, outputs: list[str], path: Path) -> None:
        digest = hashlib.sha256(repr((network, batch.shape, inputs, outputs)).encode())
        for name, tensor in network.state_dict().items():
            digest.update(name.encode() + tensor.contiguous().numpy().tobytes())
        done = folder / f"{digest.hexdigest()}.onnx"
        if not done.exists():
            write(network, batch, inputs, outputs, base / done.name)
            (base / done.name).replace(done)
        shutil.copy(done, path)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(export, "_write", written)
        yield


class _Blind(torch.nn.Module):
    def __init__(self, network: Any) -> None:
        super().__init__()
        self.forward_features = lambda batch: torch.zeros_like(network.forward_features(batch))
        self.forward_head = network.forward_head


def blind(classifier: Classifier) -> Classifier:
    """The classifier without a guard and with features of 0, so that all its maps are empty."""
    return replace(classifier, network=_Blind(classifier.network), guard=None)


@dataclass
class App:
    url: str
    log: Path
    pid: int


@contextmanager
def running_app(folder: Path, *prefix: str, **settings: str) -> Iterator[App]:
    """`python app.py` as a process of its own, from the moment that it serves."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    environment = os.environ | {
        "GRADIO_SERVER_NAME": "127.0.0.1",
        "GRADIO_SERVER_PORT": str(port),
        "GRADIO_TEMP_DIR": str(folder / "uploads"),
        "PYTHONUNBUFFERED": "1",
    }
    environment.pop("PNEUMOCAM_MODEL", None)
    environment |= settings
    with (folder / "log").open("w+") as log:
        process = subprocess.Popen(
            [*prefix, sys.executable, "app.py"],
            cwd=ROOT,
            env=environment,
            stdout=subprocess.PIPE,
            stderr=log,
            text=True,
        )
        assert process.stdout
        for line in process.stdout:
            log.write(line)
            if line.startswith("PneumoCAM: "):
                break
        else:
            pytest.fail(f"app.py ended before it served: {(folder / 'log').read_text()}")

        def copy(lines: Iterable[str]) -> None:
            for line in lines:
                log.write(line)
                log.flush()

        # At once: an app that logs to a pipe that nobody reads comes to a stop.
        reader = threading.Thread(target=copy, args=[process.stdout])
        reader.start()
        try:
            yield App(f"http://127.0.0.1:{port}", folder / "log", process.pid)
        finally:
            process.terminate()
            reader.join(30)
            process.communicate(timeout=30)


@pytest.fixture(scope="session")
def app(tmp_path_factory: pytest.TempPathFactory) -> Iterator[App]:
    """The page and the API over the bundled model."""
    with running_app(tmp_path_factory.mktemp("app")) as app:
        yield app


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    path = next(
        (found for name in ("chromium", "chromium-browser", "google-chrome") if (found := shutil.which(name))), None
    )
    arguments = ["--no-sandbox", "--disable-gpu", "--disable-background-networking", "--disable-component-update"]
    with sync_playwright() as playwright:
        chromium = playwright.chromium.launch(executable_path=path, args=arguments)
        yield chromium
        chromium.close()


@pytest.fixture
def make_bundle(tmp_path: Path) -> Callable[..., Path]:
    """Write a bundle with random weights: any architecture, 1 or 3 channels, any crop mode."""
    from train.record import save_bundle

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


def use_hub(url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Let the Hub's client know this one alone, and nothing of it yet."""
    constants = huggingface_hub.constants
    monkeypatch.setattr(constants, "ENDPOINT", url)
    monkeypatch.setattr(constants, "HUGGINGFACE_CO_URL_TEMPLATE", url + "/{repo_id}/resolve/{revision}/{filename}")
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "hub-cache"))
    monkeypatch.setattr(constants, "HF_TOKEN_PATH", str(tmp_path / "no-token"))
    monkeypatch.setattr(constants, "HF_HUB_DISABLE_PROGRESS_BARS", True)
    huggingface_hub.close_session()


@pytest.fixture
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Hub]:
    """An empty Hub on loopback and a client that knows no other, with an empty cache."""
    with serve() as hub:
        use_hub(hub.url, tmp_path, monkeypatch)
        monkeypatch.setattr(pneumocam.hub, "HUB_TIMEOUT", 5.0)
        yield hub


@pytest.fixture
def writable_hub(hub: Hub, monkeypatch: pytest.MonkeyPatch) -> Hub:
    """The same, and a token that can write."""
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_DISABLE_XET", True)
    monkeypatch.setenv("HF_TOKEN", "hf_writer")
    return hub


def write_kaggle_folder(
    target: Path, patients: int = 8, *, folders: tuple[str, ...] = ("train",), subtypes: bool = True, size: int = 80
) -> Path:
    """Write images in Kaggle's layout: normal is smooth, bacterial striped across, viral striped down."""
    rng = np.random.default_rng(0)
    wave = (60 * np.sin(np.arange(size) / 2)).astype(np.float32)
    for folder in folders:
        first = 1000 * ("train", "val", "test", "").index(folder)
        for i in range(patients):
            for kind in ("normal", "bacteria", "virus"):
                pixels = 110 + rng.normal(0, 12, (size, size)).astype(np.float32)
                pixels += {"normal": wave[:, None] * 0, "bacteria": wave[:, None], "virus": wave[None, :]}[kind]
                if kind == "normal":
                    image = f"NORMAL/IM-{first + i:04d}-0001.jpeg"
                elif subtypes:
                    image = f"PNEUMONIA/person{first + i + (500 if kind == 'virus' else 0)}_{kind}_{i}.jpeg"
                else:
                    image = f"PNEUMONIA/image-{first + i}-{kind[0]}.jpeg"
                path = target / folder / image
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
def trained(tmp_path_factory: pytest.TempPathFactory) -> "Config":
    """A tiny network that has learnt to tell `write_kaggle_folder`'s classes apart: the config of its finished run."""
    from train.fit import Config, fit

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
def measured(trained: "Config", tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The tiny trained bundle with its metrics.json, figures and card."""
    from train import evaluate

    bundle = tmp_path_factory.mktemp("measured") / "bundle"
    shutil.copytree(trained.out / "bundle", bundle)
    evaluate.run(evaluate.Config(str(bundle), trained.data, audit_images=4, resamples=20))
    return bundle


@pytest.fixture(scope="session")
def staged(measured: Path) -> Path:
    """The folder that is uploaded of it."""
    from publish.model import stage

    stage(measured, measured.parent / "staged", repo="lung/xray")
    return measured.parent / "staged"


@pytest.fixture(scope="session")
def staged_bundled(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder that is uploaded of the bundled model."""
    from publish.model import stage

    folder = tmp_path_factory.mktemp("staged") / "xray"
    stage(ROOT / "model", folder)
    return folder


@pytest.fixture(scope="session")
def real_data() -> Path:
    """A folder with chest_xray/ in Kaggle's layout, from the environment variable PNEUMOCAM_TEST_DATA."""
    folder = os.environ.get("PNEUMOCAM_TEST_DATA")
    if not folder:
        pytest.skip("PNEUMOCAM_TEST_DATA names no folder with the Kaggle chest X-rays; this test needs real images")
    return Path(folder)
