"""What test files share: the running app, tiny bundles, Hubs on loopback, made-up Kaggle folders, real images."""

import hashlib
import json
import os
import shutil
import socket
import subprocess
import sys
import threading
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import unquote

import huggingface_hub
import numpy as np
import pytest
import timm
import torch
from PIL import Image
from playwright.sync_api import Browser, sync_playwright

import pneumocam.hub
from pneumocam import Classifier
from pneumocam.export import export_onnx
from publish.model import stage
from tests import hub as tests_hub
from train import evaluate
from train.fit import Config, fit
from train.record import save_bundle

# No test may reach beyond loopback: a library that tries is told so at once instead of hanging.
os.environ.setdefault("HF_HUB_DISABLE_TELEMETRY", "1")
os.environ.setdefault("GRADIO_ANALYTICS_ENABLED", "False")

# On cores that are busy, PyTorch's threads spend far longer waiting for each other than one takes for such small work.
os.environ.setdefault("OMP_NUM_THREADS", "1")  # for the processes that tests start
torch.set_num_threads(1)

ROOT = Path(__file__).parents[1]
EXAMPLES = sorted((ROOT / "examples").glob("*.jpeg"))
SUBTYPES = ("NORMAL", "BACTERIAL", "VIRAL")


@pytest.fixture(scope="session")
def bundled() -> Classifier:
    return Classifier.from_pretrained()


@pytest.fixture(scope="session", autouse=True)
def one_export_for_each_network() -> Iterator[None]:
    """Publishing takes a network's ONNX file from an earlier test: an export takes seconds."""
    done: dict[str, bytes] = {}

    def export(classifier: Classifier, path: Path) -> None:
        if classifier.revision in done:
            path.write_bytes(done[classifier.revision])
        else:
            export_onnx(classifier, path)
            done[classifier.revision] = path.read_bytes()

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("publish.model.export_onnx", export)
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


Answer = tuple[int, dict[str, str], bytes]  # status, headers, body


@dataclass
class Hub:
    """The Hub's read API: what `GET /api/models/...` and `HEAD`, `GET /{repo}/resolve/...` answer there."""

    repos: dict[str, dict[str, dict[str, bytes]]] = field(default_factory=dict)  # repo -> commit -> file -> content
    refs: dict[str, str] = field(default_factory=dict)  # branch or tag -> commit
    requests: list[str] = field(default_factory=list)
    released: threading.Event = field(default_factory=threading.Event)  # while unset, what `hangs` says is not answered
    hangs: str = ""  # part of a request's line
    faults: dict[str, Callable[[str], Answer]] = field(default_factory=dict)  # part of a path -> answer in its place
    cut: int = 0  # bytes of a file that are announced and never sent
    server: ThreadingHTTPServer | None = None

    @property
    def url(self) -> str:
        assert self.server
        return f"http://127.0.0.1:{self.server.server_port}"

    def add(self, repo: str, folder: Path, *refs: str) -> str:
        """Commit a folder; returns the commit."""
        files = {path.name: path.read_bytes() for path in folder.iterdir()}
        commit = hashlib.sha1(b"".join(files.values())).hexdigest()
        self.repos.setdefault(repo, {})[commit] = files
        self.refs.update(dict.fromkeys(refs, commit))
        return commit

    def hang(self, line: str = "") -> None:
        self.hangs = line
        self.released.clear()

    def fail(self, path: str, status: int) -> None:
        codes = {404: {"X-Error-Code": "RevisionNotFound"}}
        self.faults[path] = lambda _path: (status, codes.get(status, {}), b"")

    def garble(self, name: str) -> None:
        """Send zeros instead of a file's content, under its own size and hash."""

        def answer(path: str) -> Answer:
            status, headers, body = self._right_answer(path)
            return status, headers, bytes(len(body))

        self.faults[name] = answer

    def cut_short(self) -> None:
        self.cut = 1000

    def heal(self) -> None:
        """End all trouble, and let the downloads that it has held up come to their end."""
        self.faults.clear()
        self.cut = 0
        self.released.set()
        for thread in threading.enumerate():
            if thread.name == "pneumocam-download":
                thread.join(60)

    def stop(self) -> None:
        assert self.server
        self.heal()
        self.server.shutdown()
        huggingface_hub.close_session()
        self.server.server_close()

    def answer(self, path: str) -> Answer:
        return next((fault for part, fault in self.faults.items() if part in path), self._right_answer)(path)

    def _right_answer(self, path: str) -> Answer:
        api = path.startswith("/api/models/")
        owner, name, *rest = path.removeprefix("/api/models/").strip("/").split("/")
        commits = self.repos.get(f"{owner}/{name}")
        if commits is None:
            return 404, {"X-Error-Code": "RepoNotFound"}, b""
        revision = unquote(rest[1]) if rest else "main"
        commit = self.refs.get(revision, revision)
        if commit not in commits:
            return 404, {"X-Error-Code": "RevisionNotFound"}, b""
        files = commits[commit]
        if api:
            siblings = [{"rfilename": file} for file in files]
            facts = {"id": f"{owner}/{name}", "sha": commit, "siblings": siblings, "private": False, "tags": []}
            return 200, {"Content-Type": "application/json"}, json.dumps(facts).encode()
        body = files.get(rest[2])
        if body is None:
            return 404, {"X-Error-Code": "EntryNotFound", "X-Repo-Commit": commit}, b""
        # As on the Hub, where weights lie in LFS.
        digest = hashlib.sha256(body) if rest[2].endswith(".safetensors") else hashlib.sha1(body)
        return 200, {"ETag": f'"{digest.hexdigest()}"', "X-Repo-Commit": commit}, body


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
    hub = Hub()
    hub.released.set()

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_GET(self) -> None:
            line = f"{self.command} {self.path}"
            hub.requests.append(line)
            if hub.hangs in line:
                hub.released.wait()
            status, headers, body = hub.answer(self.path.partition("?")[0])
            self.send_response(status)
            for key, value in {**headers, "Content-Length": str(len(body))}.items():
                self.send_header(key, value)
            self.end_headers()
            if self.command == "GET" and "/resolve/" in self.path:
                self.wfile.write(body[: len(body) - hub.cut])
                self.close_connection = hub.cut > 0
            elif self.command == "GET":
                self.wfile.write(body)

        do_HEAD = do_GET  # noqa: N815

        def log_message(self, format: str, *args: Any) -> None:
            """Say nothing."""

        def handle(self) -> None:
            try:
                super().handle()
            except ConnectionError:  # the client gave up
                self.close_connection = True

    hub.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=hub.server.serve_forever, kwargs={"poll_interval": 0.01}).start()
    use_hub(hub.url, tmp_path, monkeypatch)
    monkeypatch.setattr(pneumocam.hub, "HUB_TIMEOUT", 5.0)
    yield hub
    hub.stop()


@pytest.fixture
def writable_hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[tests_hub.Hub]:
    """An empty Hub to publish on, and a client that knows no other, with an empty cache and a token that can write."""
    with tests_hub.serve() as hub:
        use_hub(hub.url, tmp_path, monkeypatch)
        monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_DISABLE_XET", True)
        monkeypatch.setenv("HF_TOKEN", "hf_writer")
        yield hub
        huggingface_hub.close_session()


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
def measured(trained: Config, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The tiny trained bundle with its metrics.json, figures and card."""
    bundle = tmp_path_factory.mktemp("measured") / "bundle"
    shutil.copytree(trained.out / "bundle", bundle)
    evaluate.run(evaluate.Config(str(bundle), trained.data, audit_images=4, resamples=20))
    return bundle


@pytest.fixture(scope="session")
def staged(measured: Path) -> Path:
    """The folder that is uploaded of it."""
    stage(measured, measured.parent / "staged", repo="lung/xray")
    return measured.parent / "staged"


@pytest.fixture(scope="session")
def staged_bundled(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder that is uploaded of the bundled model."""
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
