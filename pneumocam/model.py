"""A bundle (config.json, model.safetensors, pneumocam.json) -> a Classifier ready to use.

The bundle is timm's own Hub format with one file beside it, so the weights also load with timm alone:
`timm.create_model("hf-hub:owner/name", pretrained=True)`.
"""

import copy
import hashlib
import json
import logging
import os
import re
import threading
from collections.abc import Callable, Mapping
from concurrent.futures import Future
from contextlib import suppress
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import timm
import torch
from huggingface_hub import HfApi, hf_hub_download
from huggingface_hub.errors import HFValidationError, LocalEntryNotFoundError
from huggingface_hub.utils import validate_repo_id  # type: ignore[attr-defined]  # documented, yet not in __all__
from PIL import Image
from safetensors import SafetensorError
from safetensors.torch import load_file
from timm.data import create_transform
from torch import Tensor, nn
from torch.nn.utils.fusion import fuse_conv_bn_eval

from pneumocam.image import Radiograph

SCHEMA_VERSION = 1
LABELS = (("NORMAL", "BACTERIAL", "VIRAL"), ("NORMAL", "PNEUMONIA"))
FILES = ("config.json", "model.safetensors", "pneumocam.json")
INTERPOLATIONS = ("nearest", "bilinear", "bicubic", "box", "hamming", "lanczos")
CROP_MODES = ("squash", "center", "border")
HUB_TIMEOUT = 10.0  # seconds until a Hub that does not answer counts as out of reach
# A wheel carries the bundled model inside the package, a checkout in model/, a model repository beside the package.
_HERE = Path(__file__).parent
BUNDLED = next((p for p in (_HERE / "bundled", _HERE.parent / "model") if p.exists()), _HERE.parent)


class BundleError(ValueError):
    """A model cannot be had or used; the message names the file, what was expected, what was found, what to do."""


class Snapshot(NamedTuple):
    """One commit of a Hub repository in the local cache."""

    folder: Path
    repo: str
    commit: str


@dataclass(frozen=True)
class OperatingPoint:
    """Where the line between NORMAL and pneumonia is drawn.

    Attributes:
        name: as in the bundle.
        threshold: pneumonia is answered from this P(pneumonia) on, in (0, 1).
        uncertain_log_odds: an answer nearer to the threshold than this, in log-odds, is called uncertain.
    """

    name: str
    threshold: float
    uncertain_log_odds: float


@dataclass(frozen=True, eq=False)
class Classifier:
    """A timm CNN in eval mode with its preprocessing, labels, calibration and operating points.

    Attributes:
        network: takes `(B, C, H, W)` float32, gives `(B, K)` logits; has `forward_features` and `forward_head`.
        transform: `Radiograph` -> `(C, H, W)` float32, the very preprocessing that timm builds from the bundle.
        preprocessing: input_size, interpolation, mean, std, crop_pct, crop_mode.
        label_names: in the order of the logits.
        temperature: logits are divided by it before the softmax (Guo et al. 2017).
        operating_points: by name; `operating_point` is the one in use.
        id: where the model came from: `bundled`, `local-dir:NAME` or `owner/name`.
        revision: the Hub's commit, or `sha256:` and the first twelve digits of the weights' hash.
        training: provenance written by `train.fit`.
        metrics: what `train.evaluate` measured, or None.
    """

    network: Any  # a timm model; nn.Module would hide forward_features and forward_head from the type checker
    transform: Callable[[Radiograph], Tensor]
    preprocessing: Mapping[str, Any]
    label_names: tuple[str, ...]
    temperature: float
    operating_points: Mapping[str, OperatingPoint]
    operating_point: OperatingPoint
    id: str
    revision: str
    training: Mapping[str, Any]
    metrics: Mapping[str, Any] | None

    @classmethod
    def from_pretrained(cls, source: str | None = None, *, operating_point: str | None = None) -> "Classifier":
        """Load a model.

        Args:
            source: `hf-hub:owner/name` or `hf-hub:owner/name@revision` (downloaded once, then cached),
                `local-dir:PATH`, or None for the model that comes with this package.
            operating_point: the name of one of the model's; by default its own choice.

        Raises:
            BundleError: the source is not of these forms, cannot be reached, or is damaged, incomplete or foreign.
            ValueError: the model has no operating point of that name.
        """
        classifier = cls._from_source(source)
        return classifier if operating_point is None else classifier.at(operating_point)

    @classmethod
    def _from_source(cls, source: str | None) -> "Classifier":
        if source is None:
            return _load(BUNDLED, "bundled", None)
        if hub := _hub_source(source):
            try:
                snapshot = _download(*hub)
            except BundleError:
                if not (cached := _cached(*hub)):
                    raise
                snapshot = cached
            return _load_snapshot(snapshot)
        scheme, _, rest = source.partition(":")
        if scheme == "local-dir" and rest:
            return _load(Path(rest), f"local-dir:{Path(rest).resolve().name}", None)
        raise BundleError(
            f"Model source {source!r} is not understood: expected hf-hub:owner/name, hf-hub:owner/name@revision or "
            "local-dir:PATH."
        )

    def at(self, operating_point: str) -> "Classifier":
        """The same model, drawing the line at another of its operating points.

        Raises:
            ValueError: it has none of that name.
        """
        if operating_point not in self.operating_points:
            raise ValueError(
                f"operating_point is {operating_point!r}; this model has {', '.join(self.operating_points)}."
            )
        return replace(self, operating_point=self.operating_points[operating_point])

    def features(self, batch: Tensor) -> Tensor:
        """`(B, C, H, W)` float32 -> `(B, D, h, w)` float32: the only pass through the backbone."""
        with torch.no_grad():
            features: Tensor = self.network.forward_features(batch)  # (B, D, h, w)
        return features

    def head(self, features: Tensor) -> Tensor:
        """`(B, D, h, w)` -> `(B, K)` logits, not yet divided by the temperature; differentiable."""
        logits: Tensor = self.network.forward_head(features)  # (B, K)
        return logits


def eval_transform(preprocessing: Mapping[str, Any]) -> Callable[[Radiograph], Tensor]:
    """`Radiograph` -> `(C, H, W)` float32 by timm's own evaluation transform; C is 1, or 3 for grey repeated."""
    keys = ("input_size", "interpolation", "mean", "std", "crop_pct", "crop_mode")
    transform = create_transform(**{key: preprocessing[key] for key in keys})
    # No closure, so that it can be sent to data loading processes where these are not forked.
    return partial(_transformed, transform, "L" if preprocessing["input_size"][0] == 1 else "RGB")


def _transformed(transform: Callable[[Image.Image], Tensor], mode: str, radiograph: Radiograph) -> Tensor:
    return transform(radiograph.to_pil().convert(mode))


@dataclass(frozen=True, eq=False)
class Loaded:
    """A classifier that is ready, be it the one asked for or the one in its place.

    Attributes:
        classifier: what answers from now on; nothing that arrives later takes its place.
        notice: why another model than the one asked for answers, and which; without paths. None if it is the one.
    """

    classifier: Classifier
    notice: str | None = None


def load_or_fall_back(source: str | None = None, *, timeout: float = 30.0) -> Loaded:
    """Load a model for a service that has to start, whatever the Hub does.

    A model of the Hub that does not come in time, or comes damaged, is replaced by the copy of it that was in the
    cache, or else by the bundled model; a notice says so, also in the log.

    Args:
        source: as in `Classifier.from_pretrained`.
        timeout: seconds to wait for the Hub. The download itself may go on after them, for the next start.

    Raises:
        BundleError: the source is not understood, or is a folder that is no bundle. Waiting mends neither.
    """
    hub = _hub_source(source) if source else None
    if not hub:
        return Loaded(Classifier.from_pretrained(source))
    cached = _cached(*hub)  # now, since the download may change what the revision's name stands for
    try:
        return Loaded(_load_snapshot(_download_within(timeout, *hub)))
    except TimeoutError:
        reason = f"{source} did not come within {timeout:g} s."
    except BundleError as error:
        reason = str(error)
    loaded = _second_choice(cached, reason)
    logging.getLogger(__name__).warning(loaded.notice)
    return loaded


def _second_choice(cached: Snapshot | None, reason: str) -> Loaded:
    with suppress(BundleError):
        if cached:
            classifier = _load_snapshot(cached)
            return Loaded(classifier, f"{reason} An earlier download answers: commit {classifier.revision}.")
    return Loaded(Classifier.from_pretrained(), f"{reason} The bundled model answers.")


def _download_within(timeout: float, repo: str, revision: str | None) -> Snapshot:
    """As `_download`; raises TimeoutError when the time is over."""
    outcome = Future[Snapshot]()

    def run() -> None:
        try:
            outcome.set_result(_download(repo, revision))
        except Exception as error:
            outcome.set_exception(error)

    # The Hub's client tries again for minutes and cannot be told to stop; a daemon thread does not keep anyone waiting.
    threading.Thread(target=run, name="pneumocam-download", daemon=True).start()
    return outcome.result(timeout)


def _hub_source(source: str) -> tuple[str, str | None] | None:
    """Repository and revision of an `hf-hub:` source; None for any other."""
    scheme, _, rest = source.partition(":")
    if scheme != "hf-hub" or not rest:
        return None
    repo, _, revision = rest.partition("@")
    try:
        validate_repo_id(repo)
    except HFValidationError:
        raise BundleError(f"{repo!r} is no Hub repository id: expected hf-hub:owner/name.") from None
    return repo, revision or None


def _download(repo: str, revision: str | None) -> Snapshot:
    """Fetch a snapshot into the Hub's cache, however long the Hub's client tries. Errors name no paths."""
    if re.fullmatch(r"[0-9a-f]{40}", revision or "") and (cached := _cached(repo, revision)):
        return cached
    asked = f"hf-hub:{repo}@{revision or 'main'}"
    try:
        # Asked first because a download from a Hub that hangs is not bounded by any timeout of its own.
        info = HfApi().model_info(repo, revision=revision, timeout=HUB_TIMEOUT)
    except Exception as error:  # the Hub's client lets out whatever its HTTP library raises
        raise BundleError(
            f"{asked} could not be had ({_status(error)}) from the Hub. "
            "Check the name, the revision and the network; a private model needs HF_TOKEN or `hf auth login`."
        ) from error
    there = {x.rfilename for x in info.siblings or ()}
    if missing := [name for name in FILES if name not in there]:
        raise BundleError(f"{asked} has no {missing[0]}: expected a PneumoCAM bundle ({', '.join(FILES)}).")
    for name in (*FILES, *({"metrics.json"} & there)):
        try:
            path = Path(hf_hub_download(repo, name, revision=info.sha))
        except Exception as error:
            raise BundleError(
                f"{name} of {asked} could not be downloaded ({_status(error)}); try again later."
            ) from error
        if not _intact(path):
            raise BundleError(f"{name} of {asked} came damaged: its SHA-256 is not the Hub's. Try again later.")
    with suppress(Exception):
        # Teaches the cache the revision's own name, for when the Hub is out of reach; last, so that a download that
        # breaks off leaves that name to the snapshot before.
        hf_hub_download(repo, FILES[0], revision=revision)
    return Snapshot(path.parent, repo, path.parent.name)


def _cached(repo: str, revision: str | None) -> Snapshot | None:
    try:
        paths = [Path(hf_hub_download(repo, name, revision=revision, local_files_only=True)) for name in FILES]
    except LocalEntryNotFoundError:
        return None
    if not all(_intact(path) for path in paths):
        return None
    return Snapshot(paths[0].parent, repo, paths[0].parent.name)


def _status(error: Exception) -> str:
    response = getattr(error, "response", None)
    return f"HTTP {response.status_code}" if response is not None else type(error).__name__


def _intact(path: Path) -> bool:
    """Whether a file in the Hub's cache has the SHA-256 that names it there; if not, it is removed to be fetched anew.

    The Hub's client compares sizes alone. Only large files are named so.
    """
    blob = path.parent / path.readlink() if path.is_symlink() else path
    if not re.fullmatch(r"[0-9a-f]{64}", blob.name) or hashlib.sha256(blob.read_bytes()).hexdigest() == blob.name:
        return True
    blob.unlink()
    return False


def _load_snapshot(snapshot: Snapshot) -> Classifier:
    """As `_load`, but errors name no paths."""
    try:
        return _load(*snapshot)
    except BundleError as error:
        place = f"hf-hub:{snapshot.repo}@{snapshot.commit}: "
        raise BundleError(str(error).replace(f"{snapshot.folder}{os.sep}", place)) from None


def _load(folder: Path, model_id: str, commit: str | None) -> Classifier:
    for name in FILES:
        if not (folder / name).is_file():
            raise BundleError(f"{folder / name} is missing: expected a bundle with {', '.join(FILES)}.")
    config, own = _json(folder / "config.json"), _json(folder / "pneumocam.json")
    label_names, preprocessing = _checked_config(config, folder / "config.json")
    points, default = _checked_description(own, folder / "pneumocam.json")
    weights = folder / "model.safetensors"
    network = _network(config, preprocessing, folder)
    metrics = folder / "metrics.json"
    return Classifier(
        network=network,
        transform=eval_transform(preprocessing),
        preprocessing=preprocessing,
        label_names=label_names,
        temperature=float(own["temperature"]),
        operating_points=points,
        operating_point=points[default],
        id=model_id,
        revision=commit or "sha256:" + hashlib.sha256(weights.read_bytes()).hexdigest()[:12],
        training=own.get("training", {}),
        metrics=_json(metrics) if metrics.is_file() else None,
    )


def _json(path: Path) -> dict[str, Any]:
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except (ValueError, OSError, RecursionError) as error:
        raise BundleError(
            f"{path} is damaged: expected JSON, found {error}. Fetch or write the bundle again."
        ) from None
    if not isinstance(value, dict):
        raise BundleError(f"{path} is foreign: expected a JSON object, found a {type(value).__name__}.")
    return value


def _checked_config(config: dict[str, Any], path: Path) -> tuple[tuple[str, ...], dict[str, Any]]:
    architecture = config.get("architecture")
    # Only names in timm's registry: a source prefix in this place would make timm fetch something else.
    if not isinstance(architecture, str) or not timm.is_model(architecture):
        raise BundleError(
            f"{path}: architecture is {architecture!r}; expected the name of a model of timm {timm.__version__}."
        )
    found = config.get("label_names")
    label_names = next((x for x in LABELS if list(x) == found), None)
    if label_names is None:
        raise BundleError(f"{path}: label_names is {found!r}; expected {' or '.join(str(list(x)) for x in LABELS)}.")
    if config.get("num_classes") != len(label_names):
        raise BundleError(
            f"{path}: num_classes is {config.get('num_classes')}; expected {len(label_names)}, one a label."
        )
    cfg: Any = config.get("pretrained_cfg")
    size: Any = cfg.get("input_size") if isinstance(cfg, dict) else None
    whole = _numbers(size, 3, 1, 2048) and all(isinstance(x, int) for x in size)
    if not whole or size[0] not in (1, 3):
        raise BundleError(f"{path}: pretrained_cfg.input_size is {size!r}; expected [1 or 3, height, width].")
    preprocessing = dict(timm.data.resolve_data_config(pretrained_cfg=cfg))
    checks = {
        "mean": (_numbers(preprocessing["mean"], size[0], -1000, 1000), f"{size[0]} numbers"),
        "std": (_numbers(preprocessing["std"], size[0], 1e-6, 1000), f"{size[0]} positive numbers"),
        "crop_pct": (_numbers([preprocessing["crop_pct"]], 1, 0.1, 1), "a number from 0.1 to 1"),
        "crop_mode": (preprocessing["crop_mode"] in CROP_MODES, f"one of {', '.join(CROP_MODES)}"),
        "interpolation": (preprocessing["interpolation"] in INTERPOLATIONS, f"one of {', '.join(INTERPOLATIONS)}"),
    }
    for key, (valid, expected) in checks.items():
        if not valid:
            raise BundleError(f"{path}: pretrained_cfg.{key} is {preprocessing[key]!r}; expected {expected}.")
    return label_names, {key: tuple(x) if isinstance(x, list) else x for key, x in preprocessing.items()}


def _numbers(values: Any, count: int, low: float, high: float) -> bool:
    """Whether this is a list of so many numbers, each from low to high."""
    return (
        isinstance(values, list | tuple)
        and len(values) == count
        and all(isinstance(x, int | float) and not isinstance(x, bool) and low <= x <= high for x in values)
    )


def _checked_description(own: dict[str, Any], path: Path) -> tuple[dict[str, OperatingPoint], str]:
    if not _numbers([own.get("schema_version")], 1, SCHEMA_VERSION, SCHEMA_VERSION):  # not true, which equals 1
        raise BundleError(
            f"{path}: schema_version is {own.get('schema_version')!r}; this version of pneumocam reads "
            f"{SCHEMA_VERSION}. Update whichever of the two is older."
        )
    temperature = own.get("temperature")
    if not _numbers([temperature], 1, 1e-6, 1e6):
        raise BundleError(f"{path}: temperature is {temperature!r}; expected a positive number.")
    if not isinstance(own.get("training", {}), dict):
        raise BundleError(f"{path}: training is {own['training']!r}; expected an object.")
    try:
        points = {name: OperatingPoint(name, **values) for name, values in own["operating_points"].items()}
        default = own["default_operating_point"]
        valid = default in points and all(
            _numbers([p.threshold], 1, 1e-6, 1 - 1e-6) and _numbers([p.uncertain_log_odds], 1, 0, 100)
            for p in points.values()
        )
    except (KeyError, TypeError, AttributeError):
        valid = False
    if not valid:
        raise BundleError(
            f"{path}: operating_points and default_operating_point are {own.get('operating_points')!r} and "
            f"{own.get('default_operating_point')!r}; expected {{name: {{threshold, uncertain_log_odds}}}} and a name."
        )
    return points, default


def _network(config: dict[str, Any], preprocessing: Mapping[str, Any], folder: Path) -> Any:
    channels, height, width = preprocessing["input_size"]
    arguments = config.get("model_args") or {}
    try:
        # Named here, what would make timm fetch or unpickle something cannot come from the bundle.
        network = timm.create_model(
            config["architecture"],
            pretrained=False,
            pretrained_cfg=None,
            checkpoint_path=None,
            **{**arguments, "num_classes": config["num_classes"], "in_chans": channels},
        )
    except Exception as error:  # each architecture refuses what it cannot be built from in its own way
        raise BundleError(
            f"{folder / 'config.json'}: timm cannot build {config['architecture']} with model_args {arguments!r}: "
            f"{error}"
        ) from error
    weights = folder / "model.safetensors"
    try:
        state = load_file(weights)
    except (SafetensorError, OSError) as error:
        raise BundleError(
            f"{weights} is damaged: expected safetensors, found {error}. Fetch the bundle again."
        ) from None
    expected = network.state_dict()
    if odd := sorted(expected.keys() ^ state.keys()):
        raise BundleError(
            f"{weights} does not belong to {config['architecture']}: expected {len(expected)} tensors, found "
            f"{len(state)}; the first that only one of them has is {odd[0]}."
        )
    for name, tensor in state.items():
        if tensor.shape != expected[name].shape:
            raise BundleError(f"{weights}: {name} is {tuple(tensor.shape)}; expected {tuple(expected[name].shape)}.")
        if not bool(torch.isfinite(tensor).all()):
            raise BundleError(f"{weights}: {name} has values that are not finite. Fetch or train the bundle again.")
    network.load_state_dict(state)
    network = network.float().eval().requires_grad_(False).to(memory_format=torch.channels_last)
    try:
        with torch.no_grad():
            features = network.forward_features(torch.zeros(1, channels, height, width))
            logits = network.forward_head(features)
    except Exception as error:
        raise BundleError(
            f"{folder / 'config.json'}: {config['architecture']} takes no input of {channels}x{height}x{width}: {error}"
        ) from error
    if not isinstance(features, Tensor) or features.ndim != 4 or features.shape[1] != network.num_features:
        raise BundleError(
            f"{folder / 'config.json'}: {config['architecture']} gives features that are no "
            f"(B, {network.num_features}, h, w) map: expected a CNN, since Grad-CAM needs one."
        )
    if logits.shape != (1, config["num_classes"]):
        raise BundleError(
            f"{folder / 'config.json'}: {config['architecture']} gives logits of shape {tuple(logits.shape)}; expected "
            f"(1, {config['num_classes']})."
        )
    return _folded(network, torch.rand(2, channels, height, width, generator=torch.Generator().manual_seed(0)))


@torch.no_grad()
def _folded(network: Any, images: Tensor) -> Any:
    """The same function in fewer steps: each batch norm becomes part of the convolution before it.

    On these images `(B, C, H, W)` it is seen which convolution that is, and that nothing changes but the last digits; a
    network that does not take it is given back as it was.
    """
    folded = copy.deepcopy(network)
    made: list[tuple[Tensor, nn.Conv2d]] = []  # what each convolution gave
    pairs: dict[str, tuple[nn.Conv2d, nn.BatchNorm2d]] = {}

    def note_convolution(module: nn.Conv2d, _: Any, output: Tensor) -> None:
        made.append((output, module))

    def note_batch_norm(name: str, module: nn.BatchNorm2d, inputs: tuple[Tensor]) -> None:
        for output, convolution in made:
            if output is inputs[0]:
                pairs[name] = convolution, module

    hooks = []
    for name, module in folded.named_modules():
        if isinstance(module, nn.Conv2d):
            hooks.append(module.register_forward_hook(note_convolution))
        elif isinstance(module, nn.BatchNorm2d):
            hooks.append(module.register_forward_pre_hook(partial(note_batch_norm, name)))
    folded(images)
    for hook in hooks:
        hook.remove()
    for name, (convolution, norm) in pairs.items():
        fused = fuse_conv_bn_eval(convolution, norm)
        convolution.weight, convolution.bias = fused.weight, fused.bias
        # timm's batch norms have their activation with them.
        folded.set_submodule(
            name, nn.Sequential(*(part for part in norm.children() if not isinstance(part, nn.Identity)))
        )
    folded = folded.requires_grad_(False).to(memory_format=torch.channels_last)
    before, after = network(images), folded(images)
    return folded if torch.allclose(before, after, rtol=1e-3, atol=1e-3 * float(before.abs().max())) else network
