"""A folder for any static host: the page with the model, which runs in the visitor's browser.

The folder holds the page (`web/`), the networks of classifier and guard as ONNX with onnxruntime-web to run them, and
the bundle's preprocessing, calibration, operating points, head and the guard's limits as JSON. Nothing in it asks
another host for anything.
"""

import base64
import gzip
import hashlib
import json
import re
import shutil
import subprocess
import tarfile
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import torch
from torch import Tensor, nn

from pneumocam import DISCLAIMER, BundleError, Classifier, predict
from pneumocam.guard import Guard
from pneumocam.predict import SCHEMA_VERSION
from pneumocam.service import page

RUNTIME = "1.30.0"  # of onnxruntime-web; the next line is npm's own checksum of it
INTEGRITY = "q0y+JrrtukXSzsBWEMccVfqX25LRmosXHF+CaRJmg8pZClzcV7svNc4rKY3jL02Vb7QmRMDs1SigqR4CXAfKYQ=="
MODULE, WASM = "ort.wasm.bundle.min.mjs", "ort-wasm-simd-threaded.wasm"
MOST_IMAGES, MOST_BYTES = 32, 100_000_000  # at once, and of one file
# No origin but the page's own. Compiling WebAssembly and starting the worker need an exception each.
POLICY = (
    "default-src 'none'; script-src 'self' 'wasm-unsafe-eval'; worker-src 'self' blob:; connect-src 'self'; "
    "style-src 'self'; img-src 'self' data: blob:; manifest-src 'self'; base-uri 'none'; form-action 'none'"
)


class StaticError(ValueError):
    """The folder cannot be written; the message says what came, what was expected and what to do."""


def write_static(classifier: Classifier, folder: Path, *, runtime: Path | None = None) -> None:
    """Write the page without a server.

    Args:
        classifier: a model with global average pooling and one linear layer as its head.
        folder: a new or empty one.
        runtime: the unpacked npm package onnxruntime-web; by default npm downloads it.

    Raises:
        BundleError: the model cannot run in a browser; the message says why.
        StaticError: there is something in the folder, or onnxruntime-web or the ONNX exporter is missing.
    """
    weights = head_weights(classifier)
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise StaticError(f"{folder} is not empty; expected a new or empty folder.")
    with TemporaryDirectory() as temporary:
        work, out = Path(temporary), Path(temporary) / "out"
        dist = _runtime(runtime, work)
        networks = _export(classifier, work)
        _write_page(out)
        shutil.copyfile(dist / MODULE, out / "model" / "onnxruntime-web.js")
        parts = [_pack(out, file.stem, file) for file in (dist / WASM, *networks)]
        _write_json(out / "model" / "model.json", _description(classifier, weights, parts))
        _write_examples(classifier, out, sum(part["bytes"] for part in parts))
        _write_files(out, parts)
        shutil.copytree(out, folder, dirs_exist_ok=True)


# The model


def head_weights(classifier: Classifier) -> Tensor:
    """The head's weights (K, D) float32: all that Grad-CAM needs beside the features.

    Raises:
        BundleError: the head is another than global average pooling and one linear layer, or the preprocessing is
            another than a bicubic resize to the whole of the input.
    """
    linear = classifier.network.get_classifier()
    for key, expected in (("crop_mode", "squash"), ("interpolation", "bicubic")):
        if (found := classifier.preprocessing[key]) != expected:
            raise _refusal(classifier, f"its {key} is {found!r}; the page supports {expected!r} only")
    if not isinstance(linear, nn.Linear):
        raise _refusal(classifier, f"its head ends with a {type(linear).__name__}; expected one linear layer")
    generator = torch.Generator().manual_seed(0)
    features = torch.randn(4, linear.in_features, 3, 3, generator=generator)  # (B, D, h, w)
    with torch.no_grad():
        try:
            same = torch.allclose(classifier.head(features), linear(features.mean((2, 3))), rtol=1e-4, atol=1e-4)
        except RuntimeError:  # the head takes no such features
            same = False
    if not same:
        raise _refusal(classifier, "its head is more than global average pooling and one linear layer")
    return linear.weight.detach().float()


def _refusal(classifier: Classifier, reason: str) -> BundleError:
    return BundleError(
        f"{classifier.id} cannot run in a browser: {reason}. Serve it with `pneumocam serve`, or train one with the "
        "default recipe."
    )


def _description(classifier: Classifier, weights: Tensor, parts: list[dict[str, Any]]) -> dict[str, Any]:
    points = classifier.operating_points.values()
    return {
        "schema_version": SCHEMA_VERSION,
        "disclaimer": DISCLAIMER,
        "model": {"id": classifier.id, "revision": classifier.revision},
        "labels": classifier.label_names,
        "temperature": classifier.temperature,
        "prevalence": classifier.prevalence,
        "shift": classifier.log_odds_shift(),
        "points": {point.name: vars(point) for point in points},
        "point": classifier.operating_point.name,
        "preprocessing": {key: classifier.preprocessing[key] for key in ("input_size", "mean", "std", "crop_pct")},
        "weights": _base64(weights),
        "guard": _limits(classifier.guard),
        "parts": parts,
    }


def _limits(guard: Guard | None) -> dict[str, Any] | None:
    """What the page needs of the guard beside its network."""
    if guard is None:
        return None
    return {
        "thresholds": guard.thresholds.model_dump(),
        "centre": _base64(guard.centre),
        "whitening": _base64(guard.whitening),
    }


def _base64(values: Tensor) -> str:
    """Single precision, the lowest byte first."""
    return base64.b64encode(values.numpy().astype("<f4").tobytes()).decode()


def _pack(folder: Path, name: str, file: Path) -> dict[str, Any]:
    """Compress a file, since not every host does, and name it by its content, since browsers keep it for ever."""
    data = gzip.compress(file.read_bytes(), 9, mtime=0)
    digest = hashlib.sha256(data).hexdigest()
    target = folder / "model" / f"{name}-{digest[:12]}.bin"
    target.write_bytes(data)
    return {"file": target.name, "bytes": len(data), "sha256": digest}


def _export(classifier: Classifier, folder: Path) -> list[Path]:
    """The networks of the classifier and, if there is one, of its guard as ONNX."""
    try:
        from pneumocam.export import export_guard, export_onnx
    except ImportError as error:
        raise StaticError(
            f"The module {error.name} is missing, which writes the networks as ONNX: pip install 'pneumocam[onnx]'."
        ) from None
    files = [folder / "network.onnx"]
    export_onnx(classifier, files[0])
    if classifier.guard:
        files.append(folder / "guard.onnx")
        export_guard(classifier.guard, files[1])
    return files


def _runtime(given: Path | None, temporary: Path) -> Path:
    """The folder with onnxruntime-web's compiled files."""
    package = given or _download(temporary)
    try:
        version = json.loads((package / "package.json").read_text())["version"]
    except (OSError, ValueError, KeyError, TypeError):
        version = None
    missing = [name for name in (MODULE, WASM) if not (package / "dist" / name).is_file()]
    if version != RUNTIME or missing:
        found = f"version {version}" if version else "no onnxruntime-web"
        without = f" without {', '.join(missing)}" if missing else ""
        raise StaticError(f"{package} holds {found}{without}; expected the npm package onnxruntime-web {RUNTIME}.")
    return package / "dist"


def _download(temporary: Path) -> Path:
    npm = shutil.which("npm")
    remedy = f"Install Node.js, or unpack the npm package onnxruntime-web {RUNTIME} and give --onnxruntime-web DIR."
    if npm is None:
        raise StaticError(f"npm is not installed, which downloads onnxruntime-web. {remedy}")
    command = [npm, "pack", f"onnxruntime-web@{RUNTIME}", "--silent", "--pack-destination", str(temporary)]
    done = subprocess.run(command, cwd=temporary, capture_output=True, text=True, check=False)  # noqa: S603
    archive = temporary / f"onnxruntime-web-{RUNTIME}.tgz"
    if done.returncode or not archive.is_file():
        raise StaticError(f"npm could not download onnxruntime-web {RUNTIME}: {done.stderr.strip()[-300:]} {remedy}")
    if base64.b64encode(hashlib.sha512(archive.read_bytes()).digest()).decode() != INTEGRITY:
        raise StaticError(f"npm gave another onnxruntime-web {RUNTIME} than was published. {remedy}")
    with tarfile.open(archive) as tar:
        tar.extractall(temporary, filter="data")
    return temporary / "package"


# The page


def _write_page(folder: Path) -> None:
    """Copy web/, with the texts, the worker and the document of the page without a server."""
    shutil.copytree(page.WEB, folder, dirs_exist_ok=True, ignore=shutil.ignore_patterns("__pycache__", "*.server.js"))
    shutil.copyfile(
        page.WEB / "engine.server.js", folder / "engine.server.js"
    )  # declares the engine's types and errors
    static = folder / "static"
    (folder / "model").mkdir()
    (static / "onnxruntime-web.LICENSE").rename(folder / "model" / "onnxruntime-web.LICENSE")
    (static / "sw.js").rename(folder / "sw.js")
    for own in (static / "i18n").iterdir():
        texts = folder / "i18n" / own.name
        _write_json(texts, json.loads(texts.read_bytes()) | json.loads(own.read_bytes()))
    shutil.rmtree(static / "i18n")
    document = folder / "index.html"
    document.write_text(_document(document.read_text(encoding="utf-8")), encoding="utf-8")


def _document(html: str) -> str:
    """index.html of the served page -> index.html of the page without a server."""
    changes = {
        r"(?=<meta name=\"viewport\")": f'<meta http-equiv="Content-Security-Policy" content="{POLICY}">\n    ',
        r"main\.server\.js": "static/main.js",
        r" *<link rel=\"preload\"[^>]*page/info[^>]*>\n": "",
        r"accept=\"[^\"]*\"": 'accept="image/jpeg,image/png,image/webp"',
    }
    for pattern, replacement in changes.items():
        html, count = re.subn(pattern, replacement, html)
        if count != 1:
            raise StaticError(
                f"web/index.html has {count} places like {pattern}; expected one. Install pneumocam anew."
            )
    return html


def _write_examples(classifier: Classifier, folder: Path, download: int) -> None:
    """Copy the examples, and write what the page knows of them and of the model.

    The prediction of the example that the page opens with is made here, so that the page shows it before the model has
    been downloaded.
    """
    facts = page.facts(classifier, None, MOST_IMAGES, MOST_BYTES) | {"download": download, "examples": []}
    (folder / "examples" / "thumbs").mkdir(parents=True)
    for example, thumbnail in page.examples(classifier):
        file = example["file"]
        (folder / "examples" / file).write_bytes(page.example(file))
        (folder / "examples" / "thumbs" / file).write_bytes(thumbnail)
        facts["examples"].append(example | {"thumbnail": f"./examples/thumbs/{file}"})
    shutil.copyfile(page.EXAMPLES / "README.md", folder / "examples" / "README.md")
    shown = next(example for example in facts["examples"] if example["first"])
    shown["row"] = "./model/example.json"
    prediction = predict(classifier, page.example(shown["file"]))
    _write_json(folder / "model" / "example.json", page.row_of(prediction, shown["file"]))
    _write_json(folder / "model" / "info.json", facts)


def _write_files(folder: Path, parts: list[dict[str, Any]]) -> None:
    """Tell the service worker what to keep for offline use; its text changes when a file does."""
    names = [path.relative_to(folder).as_posix() for path in sorted(folder.rglob("*")) if path.is_file()]
    later = re.compile(r"sw\.js|model/.*\.(bin|LICENSE)|examples/[^/]*")
    page_files = [name for name in names if not later.fullmatch(name)]
    digest = hashlib.sha256(b"".join((folder / name).read_bytes() for name in page_files)).hexdigest()
    files = {
        "version": digest[:12],
        "page": ["./", *page_files],
        "parts": [f"model/{part['file']}" for part in parts],
    }
    (folder / "files.js").write_text(f"self.FILES = {json.dumps(files)};\n", encoding="utf-8")


def _write_json(path: Path, value: Any) -> None:
    path.write_text(json.dumps(value, ensure_ascii=False), encoding="utf-8")
