"""Bundles: what timm makes of the same files, what is refused and how, and the Hub's side on a loopback server."""

import hashlib
import json
import pickle
import re
import shutil
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, cast

import numpy as np
import pytest
import timm
import torch
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st
from PIL import Image
from safetensors.torch import load_file, save_file
from torch import Tensor

import pneumocam.model
from pneumocam import (
    BundleError,
    Classifier,
    OperatingPoint,
    Radiograph,
    load_or_fall_back,
    load_radiograph,
    predict,
)
from tests.conftest import EXAMPLES, SUBTYPES, Hub

TINY = "test_resnet"  # timm's own network for tests
ARCHITECTURES = ("tf_efficientnet_lite0", "resnet10t", "convnext_atto", "densenet121", "regnetx_002")
MakeBundle = Callable[..., Path]


def timm_logits(source: str, film: Path) -> Tensor:
    """`(K,)`, with nothing but timm and Pillow."""
    network = timm.create_model(source, pretrained=True).eval()
    config = timm.data.resolve_data_config({}, model=network)
    with Image.open(film) as picture:
        tensor = timm.data.create_transform(**config)(picture.convert("L" if config["input_size"][0] == 1 else "RGB"))
    with torch.no_grad():
        return cast(Tensor, network(tensor[None])[0])


def logits(classifier: Classifier, film: Path) -> Tensor:
    """`(K,)`, by the classifier."""
    return classifier.head(classifier.features(classifier.transform(load_radiograph(film))[None]))[0]


# From a folder


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_logits_are_those_of_timm_alone(make_bundle: MakeBundle, architecture: str, channels: int) -> None:
    bundle = make_bundle(architecture, in_chans=channels, size=(64, 96), crop_mode="center", crop_pct=0.9)
    classifier = Classifier.from_pretrained(f"local-dir:{bundle}")
    expected = timm_logits(f"local-dir:{bundle}", EXAMPLES[0])
    assert float(expected.std()) > 1e-4  # the film does reach the logits
    torch.testing.assert_close(logits(classifier, EXAMPLES[0]), expected, rtol=1e-4, atol=1e-5)


def test_everything_in_the_bundle_is_in_the_classifier(make_bundle: MakeBundle) -> None:
    bundle = make_bundle(TINY, size=(64, 96), crop_pct=0.875, crop_mode="border", temperature=2.5)
    points = {
        "balanced": {"threshold": 0.25, "uncertain_log_odds": 0.5},
        "screening": {"threshold": 0.0625, "uncertain_log_odds": 0.0},
    }
    edit(
        bundle / "pneumocam.json",
        operating_points=points,
        default_operating_point="screening",
        training={"epochs_run": 7},
    )
    (bundle / "metrics.json").write_text('{"n": 3}')
    classifier = Classifier.from_pretrained(f"local-dir:{bundle}")
    assert classifier.label_names == SUBTYPES
    assert classifier.temperature == 2.5
    assert classifier.operating_points["balanced"] == OperatingPoint("balanced", 0.25, 0.5)
    assert classifier.operating_point == OperatingPoint("screening", 0.0625, 0.0)
    assert classifier.training == {"epochs_run": 7}
    assert classifier.metrics == {"n": 3}
    assert classifier.id == "local-dir:bundle"
    weights = (bundle / "model.safetensors").read_bytes()
    assert classifier.revision == "sha256:" + hashlib.sha256(weights).hexdigest()[:12]
    assert classifier.preprocessing == {
        "input_size": (1, 64, 96),
        "interpolation": "bicubic",
        "mean": (0.5,),
        "std": (0.25,),
        "crop_pct": 0.875,
        "crop_mode": "border",
    }
    assert not classifier.network.training
    assert not any(parameter.requires_grad for parameter in classifier.network.parameters())


def test_without_a_source_the_bundled_model_comes(bundled: Classifier) -> None:
    assert bundled.id == "bundled"
    assert bundled.label_names == SUBTYPES
    folder = pneumocam.model.BUNDLED
    expected = timm_logits(f"local-dir:{folder}", EXAMPLES[0])
    torch.testing.assert_close(logits(bundled, EXAMPLES[0]), expected, rtol=1e-4, atol=1e-5)
    assert not list(folder.glob("*.bin")) + list(folder.glob("*.pt*"))  # no pickle


@pytest.mark.parametrize("source", ["", "model", "hf-hub:", "local-dir:", "http://x/y", "timm:resnet18"])
def test_a_source_of_another_form_is_refused(source: str) -> None:
    with pytest.raises(BundleError, match="expected hf-hub:owner/name, hf-hub:owner/name@revision or local-dir:PATH"):
        Classifier.from_pretrained(source)


@pytest.mark.parametrize("architecture", ["vit_tiny_patch16_224", "swin_tiny_patch4_window7_224"])
def test_a_network_without_a_feature_map_is_refused(make_bundle: MakeBundle, architecture: str) -> None:
    bundle = make_bundle(architecture, size=(224, 224))
    with pytest.raises(BundleError, match=rf"config.json: {architecture} .* expected a CNN"):
        Classifier.from_pretrained(f"local-dir:{bundle}")


# Damaged, incomplete, foreign


def edit(path: Path, **values: Any) -> None:
    path.write_text(json.dumps({**json.loads(path.read_text()), **values}))


def edit_cfg(bundle: Path, **values: Any) -> None:
    config = json.loads((bundle / "config.json").read_text())
    edit(bundle / "config.json", pretrained_cfg={**config["pretrained_cfg"], **values})


def edit_weights(bundle: Path, change: Callable[[dict[str, Tensor]], object]) -> None:
    state = load_file(bundle / "model.safetensors")
    change(state)
    save_file(state, bundle / "model.safetensors")


def truncate(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-100])


IMAGENET = {"num_classes": 1000, "label_names": [f"class {i}" for i in range(1000)]}
POINT = {"balanced": {"threshold": 0.5, "uncertain_log_odds": 0.1}}
DAMAGES: dict[str, tuple[Callable[[Path], object], str]] = {
    "no config": (lambda b: (b / "config.json").unlink(), "config.json is missing: expected .* model.safetensors"),
    "no weights": (lambda b: (b / "model.safetensors").unlink(), "model.safetensors is missing: expected"),
    "no description": (lambda b: (b / "pneumocam.json").unlink(), "pneumocam.json is missing: expected"),
    "no folder": (shutil.rmtree, "config.json is missing"),
    "cut weights": (lambda b: truncate(b / "model.safetensors"), "model.safetensors is damaged: expected safetensors"),
    "empty weights": (lambda b: (b / "model.safetensors").write_bytes(b""), "model.safetensors is damaged"),
    "cut config": (lambda b: truncate(b / "config.json"), "config.json is damaged: expected JSON, found"),
    "cut description": (lambda b: truncate(b / "pneumocam.json"), "pneumocam.json is damaged: expected JSON, found"),
    "binary config": (lambda b: (b / "config.json").write_bytes(b"\xff\xfe\x00"), "config.json is damaged"),
    "deep config": (lambda b: (b / "config.json").write_text("[" * 100_000), "config.json is damaged"),
    "a list": (lambda b: (b / "config.json").write_text("[]"), "expected a JSON object, found a list"),
    "NaN weights": (
        lambda b: edit_weights(b, lambda s: s["fc.weight"].fill_(torch.nan)),
        r"model.safetensors: fc.weight has values that are not finite",
    ),
    "infinite weights": (
        lambda b: edit_weights(b, lambda s: s["conv1.0.weight"][0, 0, 0].fill_(-torch.inf)),
        r"model.safetensors: conv1.0.weight has values that are not finite",
    ),
    "other shape": (
        lambda b: edit_weights(b, lambda s: s.update({"fc.bias": torch.zeros(4)})),
        r"model.safetensors: fc.bias is \(4,\); expected \(3,\)",
    ),
    "a tensor less": (
        lambda b: edit_weights(b, lambda s: s.pop("fc.bias")),
        r"does not belong to test_resnet: expected \d+ tensors, found \d+; the first .* is fc.bias",
    ),
    "a tensor more": (
        lambda b: edit_weights(b, lambda s: s.update({"extra": torch.zeros(1)})),
        "does not belong to test_resnet: .* is extra",
    ),
    "other architecture": (
        lambda b: edit(b / "config.json", architecture="resnet10t", model_args={}),
        "model.safetensors does not belong to resnet10t: expected",
    ),
    "three channels": (
        lambda b: edit_cfg(b, input_size=[3, 64, 64], mean=[0.5] * 3, std=[0.5] * 3),
        r"conv1.0.weight is \(.*, 1, 3, 3\); expected \(.*, 3, 3, 3\)",
    ),
    "ImageNet": (lambda b: edit(b / "config.json", **IMAGENET), r"label_names is .*; expected \['NORMAL', 'BACT"),
    "no labels": (lambda b: edit(b / "config.json", label_names=None), "label_names is None; expected"),
    "labels in another order": (lambda b: edit(b / "config.json", label_names=SUBTYPES[::-1]), "label_names is"),
    "four classes": (lambda b: edit(b / "config.json", num_classes=4), "num_classes is 4; expected 3"),
    "a source": (
        lambda b: edit(b / "config.json", architecture="hf-hub:evil/x"),
        "architecture is 'hf-hub:evil/x'; expected the name of a model of timm",
    ),
    "unknown architecture": (lambda b: edit(b / "config.json", architecture="lungnet"), "architecture is 'lungnet'"),
    "unknown tag": (lambda b: edit(b / "config.json", architecture="test_resnet.x"), "cannot build test_resnet.x"),
    "pretrained": (lambda b: edit(b / "config.json", model_args={"pretrained": True}), "timm cannot build"),
    "unknown argument": (lambda b: edit(b / "config.json", model_args={"lungs": 2}), "with model_args .*lungs"),
    "no pool": (
        lambda b: edit(b / "config.json", model_args={"global_pool": ""}),
        "test_resnet takes no input of 1x64x64",
    ),
    "no pretrained_cfg": (lambda b: edit(b / "config.json", pretrained_cfg=None), "input_size is None; expected"),
    "two channels": (lambda b: edit_cfg(b, input_size=[2, 64, 64]), r"input_size is \[2, 64, 64\]; expected \[1 or 3"),
    "a giant": (lambda b: edit_cfg(b, input_size=[1, 10**6, 10**6]), "input_size is"),
    "three means": (lambda b: edit_cfg(b, mean=[0.5] * 3), r"mean is \[0.5, 0.5, 0.5\]; expected 1 number"),
    "no spread": (lambda b: edit_cfg(b, std=[0.0]), r"std is \[0.0\]; expected 1 positive number"),
    "no crop": (lambda b: edit_cfg(b, crop_pct=-1), "crop_pct is -1; expected a number from 0.1 to 1"),
    "other crop": (lambda b: edit_cfg(b, crop_mode="round"), "crop_mode is 'round'; expected one of squash, center"),
    "by chance": (lambda b: edit_cfg(b, interpolation="random"), "interpolation is 'random'; expected one of nearest"),
    "schema": (lambda b: edit(b / "pneumocam.json", schema_version=2), "schema_version is 2; this version .* reads 1"),
    "no temperature": (lambda b: edit(b / "pneumocam.json", temperature=None), "temperature is None; expected"),
    "temperature 0": (lambda b: edit(b / "pneumocam.json", temperature=0), "temperature is 0; expected a positive"),
    "temperature NaN": (lambda b: edit(b / "pneumocam.json", temperature=float("nan")), "temperature is nan"),
    "huge temperature": (lambda b: edit(b / "pneumocam.json", temperature=10**400), "expected a positive"),
    "no default": (lambda b: edit(b / "pneumocam.json", default_operating_point="x"), "default_operating_point are"),
    "threshold 1": (
        lambda b: edit(b / "pneumocam.json", operating_points={"balanced": {**POINT["balanced"], "threshold": 1}}),
        "operating_points .* are .*; expected",
    ),
    "half a point": (
        lambda b: edit(b / "pneumocam.json", operating_points={"balanced": {"threshold": 0.5}}),
        "operating_points .* are .*; expected",
    ),
    "training": (lambda b: edit(b / "pneumocam.json", training=[1]), r"training is \[1\]; expected an object"),
    "metrics": (lambda b: (b / "metrics.json").write_text("{"), "metrics.json is damaged: expected JSON"),
}


@pytest.mark.parametrize("damage", DAMAGES)
def test_what_is_no_whole_bundle_of_ours_is_refused(make_bundle: MakeBundle, damage: str) -> None:
    break_it, message = DAMAGES[damage]
    bundle = make_bundle(TINY)
    break_it(bundle)
    with pytest.raises(BundleError, match=message) as refusal:
        Classifier.from_pretrained(f"local-dir:{bundle}")
    assert str(bundle) in str(refusal.value)  # which file it is


def test_an_input_that_the_network_cannot_take_is_refused(make_bundle: MakeBundle) -> None:
    bundle = make_bundle("densenet121")
    edit_cfg(bundle, input_size=[1, 8, 8])
    with pytest.raises(BundleError, match="densenet121 takes no input of 1x8x8"):
        Classifier.from_pretrained(f"local-dir:{bundle}")


class Trap:
    """Unpickled, it leaves a file behind."""

    def __init__(self, mark: Path) -> None:
        self.mark = mark

    def __reduce__(self) -> tuple[Any, ...]:
        return Path.touch, (self.mark,)


@pytest.mark.parametrize(
    ("name", "model_args", "message"),
    [
        ("pytorch_model.bin", {}, "model.safetensors is missing"),
        ("model.safetensors", {}, "model.safetensors is damaged"),
        ("model.ckpt", {"checkpoint_path": "model.ckpt"}, "cannot build test_resnet with model_args .*checkpoint_path"),
    ],
)
def test_a_pickle_is_never_opened(
    make_bundle: MakeBundle,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    name: str,
    model_args: dict[str, str],
    message: str,
) -> None:
    bundle = make_bundle(TINY)
    if not model_args:
        (bundle / "model.safetensors").unlink()
    (bundle / name).write_bytes(pickle.dumps(Trap(tmp_path / "sprung")))
    monkeypatch.chdir(bundle)
    edit(bundle / "config.json", model_args=model_args)
    with pytest.raises(BundleError, match=message):
        Classifier.from_pretrained(f"local-dir:{bundle}")
    assert not (tmp_path / "sprung").exists()
    pickle.loads((bundle / name).read_bytes())
    assert (tmp_path / "sprung").exists()  # it would have sprung


SCALARS = (
    st.none()
    | st.booleans()
    | st.integers(-3, 300)
    | st.sampled_from([10**400, -(10**30), 0.5, 3.0])
    | st.floats()
    | st.text(max_size=8)
    | st.sampled_from(["test_resnet", "resnet18.x", "hf-hub:evil/x", "squash", "bicubic", "balanced", "NORMAL"])
)
JUNK = st.recursive(
    SCALARS,
    lambda inner: (
        st.lists(inner, max_size=4)
        | st.dictionaries(
            st.sampled_from(["name", "threshold", "uncertain_log_odds", "pretrained", ""]), inner, max_size=3
        )
    ),
    max_leaves=6,
)
KEYS = {
    "config.json": [
        *(("architecture",), ("num_classes",), ("label_names",), ("model_args",), ("pretrained_cfg",)),
        *(("model_args", key) for key in ("num_classes", "in_chans", "global_pool", "drop_rate", "layers")),
        *(("pretrained_cfg", key) for key in ("input_size", "mean", "std", "crop_pct", "crop_mode", "interpolation")),
    ],
    "pneumocam.json": [
        *(("schema_version",), ("temperature",), ("training",), ("default_operating_point",), ("operating_points",)),
        *(("operating_points", name) for name in ("balanced", "other")),
        *(("operating_points", "balanced", name) for name in ("threshold", "uncertain_log_odds", "name")),
    ],
}
CHANGES = st.sampled_from([(name, path) for name, paths in KEYS.items() for path in paths])


@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(changes=st.lists(st.tuples(CHANGES, JUNK), min_size=1, max_size=2))
@example(changes=[(("config.json", ("label_names",)), 5)])
@example(changes=[(("config.json", ("model_args",)), [1])])
@example(changes=[(("config.json", ("model_args", "layers")), [-1, 0, 2, 2])])
@example(changes=[(("config.json", ("pretrained_cfg", "mean")), 5)])
@example(changes=[(("config.json", ("pretrained_cfg", "mean")), "a")])
@example(changes=[(("pneumocam.json", ("default_operating_point",)), [])])
def test_junk_in_the_json_either_loads_and_answers_or_is_refused(
    junk_bundle: Path, changes: list[tuple[tuple[str, tuple[str, ...]], Any]]
) -> None:
    originals = {name: (junk_bundle / name).read_text() for name in KEYS}
    try:
        for (name, path), value in changes:
            content = json.loads((junk_bundle / name).read_text())
            parent = content
            for key in path[:-1]:
                parent = parent.get(key) if isinstance(parent, dict) else None
            if isinstance(parent, dict):
                parent[path[-1]] = value
            (junk_bundle / name).write_text(json.dumps(content))
        try:
            classifier = Classifier.from_pretrained(f"local-dir:{junk_bundle}")
        except BundleError:
            return
        ramp = np.arange(64 * 64).reshape(64, 64) // 16
        answer = predict(classifier, Radiograph(ramp.astype(np.uint8), "array", ()))
        assert sum(answer.probabilities.values()) == pytest.approx(1)
        json.dumps(answer.to_dict(), allow_nan=False)
    finally:
        for name, text in originals.items():
            (junk_bundle / name).write_text(text)


@pytest.fixture
def junk_bundle(make_bundle: MakeBundle) -> Path:
    return make_bundle(TINY)


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(name=st.sampled_from(sorted(KEYS)), text=JUNK.map(json.dumps) | st.text(max_size=30))
def test_a_file_of_junk_is_refused(junk_bundle: Path, name: str, text: str) -> None:
    original = (junk_bundle / name).read_text()
    (junk_bundle / name).write_text(text, encoding="utf-8")
    try:
        with pytest.raises(BundleError, match=name):
            Classifier.from_pretrained(f"local-dir:{junk_bundle}")
    finally:
        (junk_bundle / name).write_text(original)


# From the Hub


@pytest.fixture
def film_hub(hub: Hub, make_bundle: MakeBundle) -> Hub:
    """A model repository of two commits: the older one is tagged v1, the newer one is main and has metrics."""
    older = make_bundle(TINY, temperature=1.0, name="older")
    newer = make_bundle(TINY, temperature=2.0, name="newer")
    edit_weights(newer, lambda state: state["fc.bias"].add_(1))
    (newer / "metrics.json").write_text('{"n": 3}')
    hub.add("lung/film", older, "v1", "refs/pr/1")
    hub.add("lung/film", newer, "main")
    return hub


@pytest.mark.parametrize("revision", ["", "@", "@main", "@v1", "@refs/pr/1", "@sha"])
def test_a_revision_of_a_hub_repository(film_hub: Hub, revision: str) -> None:
    old, new = film_hub.repos["lung/film"]
    newest = revision in ("", "@", "@main")
    source = f"hf-hub:lung/film{revision.replace('sha', old)}"
    classifier = Classifier.from_pretrained(source)
    assert classifier.id == "lung/film"
    assert classifier.revision == (new if newest else old)
    assert classifier.temperature == (2 if newest else 1)
    assert classifier.metrics == ({"n": 3} if newest else None)

    film_hub.stop()
    again = Classifier.from_pretrained(source)
    assert (again.id, again.revision, again.metrics) == (classifier.id, classifier.revision, classifier.metrics)
    torch.testing.assert_close(logits(again, EXAMPLES[0]), logits(classifier, EXAMPLES[0]), rtol=0, atol=0)


def test_a_commit_that_is_in_the_cache_takes_no_request(film_hub: Hub) -> None:
    first = Classifier.from_pretrained("hf-hub:lung/film@v1")
    film_hub.requests.clear()
    Classifier.from_pretrained(f"hf-hub:lung/film@{first.revision}")
    assert film_hub.requests == []


def test_weights_are_downloaded_once(film_hub: Hub) -> None:
    for _ in range(2):
        Classifier.from_pretrained("hf-hub:lung/film@v1")
    downloads = [x for x in film_hub.requests if x.startswith("GET") and x.endswith("model.safetensors")]
    assert len(downloads) == 1


def test_a_branch_that_moves_is_followed_and_a_tag_stays(film_hub: Hub) -> None:
    old, new = film_hub.repos["lung/film"]
    assert Classifier.from_pretrained("hf-hub:lung/film@main").revision == new
    film_hub.refs["main"] = old
    assert Classifier.from_pretrained("hf-hub:lung/film@main").revision == old
    film_hub.stop()
    assert Classifier.from_pretrained("hf-hub:lung/film@main").revision == old
    assert Classifier.from_pretrained(f"hf-hub:lung/film@{new}").revision == new


@pytest.mark.usefixtures("film_hub")
def test_timm_alone_reads_the_same_repository() -> None:
    classifier = Classifier.from_pretrained("hf-hub:lung/film@v1")
    expected = timm_logits("hf-hub:lung/film@v1", EXAMPLES[0])
    torch.testing.assert_close(logits(classifier, EXAMPLES[0]), expected, rtol=1e-4, atol=1e-5)
    assert not torch.equal(timm_logits("hf-hub:lung/film", EXAMPLES[0]), expected)


REMEDY = "Check the name, the revision and the network; a private model needs HF_TOKEN"


@pytest.mark.parametrize(
    ("source", "message"),
    [
        ("nobody/film", rf"hf-hub:nobody/film@main could not be had \(HTTP 404\) .*{REMEDY}"),
        ("lung/film@v9", rf"hf-hub:lung/film@v9 could not be had \(HTTP 404\) .*{REMEDY}"),
        (f"lung/film@{'0' * 40}", rf"lung/film@0{{40}} could not be had \(HTTP 404\) .*{REMEDY}"),
        ("lung/film/x", "'lung/film/x' is no Hub repository id: expected hf-hub:owner/name"),
        ("../film", "'../film' is no Hub repository id: expected hf-hub:owner/name"),
    ],
)
@pytest.mark.usefixtures("film_hub")
def test_what_the_hub_does_not_have_is_said(source: str, message: str) -> None:
    with pytest.raises(BundleError, match=message):
        Classifier.from_pretrained(f"hf-hub:{source}")


@pytest.mark.parametrize("name", ["config.json", "model.safetensors", "pneumocam.json"])
def test_a_repository_that_is_no_bundle_is_said(hub: Hub, make_bundle: MakeBundle, name: str) -> None:
    bundle = make_bundle(TINY)
    (bundle / name).unlink()
    hub.add("timm/resnet", bundle, "main")
    with pytest.raises(BundleError, match=rf"hf-hub:timm/resnet@.* has no {name}: expected a PneumoCAM bundle"):
        Classifier.from_pretrained("hf-hub:timm/resnet")


def test_a_hub_that_answers_something_else_is_said(film_hub: Hub) -> None:
    portal = 200, {"Content-Type": "text/html"}, b"<html>Please log in to this network.</html>"
    film_hub.faults[""] = lambda _path: portal
    with pytest.raises(BundleError, match=REMEDY):
        Classifier.from_pretrained("hf-hub:lung/film")


@pytest.mark.parametrize("revision", ["v1", "0" * 40])
@pytest.mark.parametrize("trouble", ["down", "hanging"])
def test_without_a_hub_or_a_cache_the_end_comes_soon(
    film_hub: Hub, monkeypatch: pytest.MonkeyPatch, trouble: str, revision: str
) -> None:
    monkeypatch.setattr(pneumocam.model, "HUB_TIMEOUT", 0.3)
    film_hub.stop() if trouble == "down" else film_hub.released.clear()
    start = time.monotonic()
    with pytest.raises(BundleError, match=rf"lung/film@{revision} could not be had .*{REMEDY}"):
        Classifier.from_pretrained(f"hf-hub:lung/film@{revision}")
    assert time.monotonic() - start < 10  # the client's own retries take 23 s and more


def test_a_hub_that_hangs_leaves_the_cache_to_answer(film_hub: Hub, monkeypatch: pytest.MonkeyPatch) -> None:
    known = Classifier.from_pretrained("hf-hub:lung/film@v1").revision
    monkeypatch.setattr(pneumocam.model, "HUB_TIMEOUT", 0.3)
    film_hub.released.clear()
    assert Classifier.from_pretrained("hf-hub:lung/film@v1").revision == known


def test_the_timeout_in_use_is_short() -> None:
    assert pneumocam.model.HUB_TIMEOUT <= 15  # to connect and to read, one after the other: 30 s


# A start that has to succeed

TROUBLES: dict[str, tuple[Callable[[Hub], object], str]] = {
    "down": (Hub.stop, r"could not be had \(ConnectError\)"),
    "API hangs": (lambda hub: hub.hang("/api/"), "did not come within 1 s"),
    "file hangs": (lambda hub: hub.hang("GET /lung/film/resolve"), "did not come within 1 s"),
    "API at its rate limit": (lambda hub: hub.fail("/api/", 429), r"could not be had \(HTTP 429\)"),
    "files at their rate limit": (lambda hub: hub.fail("/resolve/", 429), "did not come within 1 s"),
    "revision gone": (lambda hub: hub.fail("", 404), r"could not be had \(HTTP 404\)"),
    "file cut short": (Hub.cut_short, "did not come within 1 s"),
    "file garbled": (lambda hub: hub.garble("model.safetensors"), "model.safetensors of .* came damaged"),
}


@pytest.mark.parametrize("cached", [False, True], ids=["cold", "warm"])
@pytest.mark.parametrize("trouble", TROUBLES)
def test_a_start_is_bounded_whatever_the_hub_does(
    film_hub: Hub,
    bundled: Classifier,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
    trouble: str,
    cached: bool,
) -> None:
    old, new = film_hub.repos["lung/film"]
    if cached:
        film_hub.refs["main"] = old
        Classifier.from_pretrained("hf-hub:lung/film@main")
        film_hub.refs["main"] = new
    make_trouble, reason = TROUBLES[trouble]
    make_trouble(film_hub)
    monkeypatch.setenv("HF_TOKEN", "hf_secret")
    start = time.monotonic()
    loaded = load_or_fall_back("hf-hub:lung/film@main", timeout=1)
    assert time.monotonic() - start < 10  # the client's own retries take 23 s, or never end
    assert loaded.notice
    assert "hf-hub:lung/film@main" in loaded.notice
    assert re.search(reason, loaded.notice)
    if cached:
        assert (loaded.classifier.id, loaded.classifier.revision) == ("lung/film", old)
        assert f"An earlier download answers: commit {old}" in loaded.notice
    else:
        assert (loaded.classifier.id, loaded.classifier.revision) == ("bundled", bundled.revision)
        assert "The bundled model answers" in loaded.notice
    said = [record.getMessage() for record in caplog.records if record.name.startswith("pneumocam")]
    assert said == [loaded.notice]
    assert "hf_secret" not in caplog.text
    assert str(tmp_path) not in caplog.text


def test_a_start_takes_the_model_that_was_asked_for(film_hub: Hub, caplog: pytest.LogCaptureFixture) -> None:
    old, _ = film_hub.repos["lung/film"]
    loaded = load_or_fall_back("hf-hub:lung/film@v1")
    assert (loaded.classifier.id, loaded.classifier.revision, loaded.notice) == ("lung/film", old, None)
    assert load_or_fall_back().classifier.id == "bundled"
    assert caplog.records == []


def test_what_comes_too_late_serves_the_next_start(film_hub: Hub) -> None:
    film_hub.hang("GET /lung/film/resolve")
    loaded = load_or_fall_back("hf-hub:lung/film@v1", timeout=0.5)
    film_hub.heal()
    assert loaded.classifier.id == "bundled"
    film_hub.requests.clear()
    again = load_or_fall_back("hf-hub:lung/film@v1")
    assert (again.classifier.id, again.notice) == ("lung/film", None)
    assert not any(request.startswith("GET /lung/film/resolve") for request in film_hub.requests)


def test_an_update_that_breaks_off_leaves_the_older_commit_in_place(film_hub: Hub) -> None:
    old, new = film_hub.repos["lung/film"]
    film_hub.refs["main"] = old
    Classifier.from_pretrained("hf-hub:lung/film")
    film_hub.refs["main"] = new
    film_hub.garble("model.safetensors")
    for _ in range(2):
        assert load_or_fall_back("hf-hub:lung/film").classifier.revision == old
    film_hub.heal()
    assert load_or_fall_back("hf-hub:lung/film").classifier.revision == new


def test_weights_that_are_damaged_in_the_cache_are_fetched_anew(film_hub: Hub, tmp_path: Path) -> None:
    source = f"hf-hub:lung/film@{Classifier.from_pretrained('hf-hub:lung/film@v1').revision}"
    (weights,) = tmp_path.glob("hub-cache/**/snapshots/*/model.safetensors")

    def damage() -> None:
        content = weights.read_bytes()
        weights.write_bytes(content[:-1] + bytes([content[-1] ^ 1]))

    damage()
    assert load_or_fall_back(source).notice is None
    damage()
    film_hub.stop()
    assert load_or_fall_back(source).classifier.id == "bundled"


def test_a_start_opens_no_pickle(hub: Hub, make_bundle: MakeBundle, tmp_path: Path) -> None:
    bundle = make_bundle(TINY)
    (bundle / "model.safetensors").unlink()
    (bundle / "pytorch_model.bin").write_bytes(pickle.dumps(Trap(tmp_path / "sprung")))
    hub.add("lung/film", bundle, "main")
    loaded = load_or_fall_back("hf-hub:lung/film")
    assert loaded.classifier.id == "bundled"
    assert "has no model.safetensors" in str(loaded.notice)
    assert not any("pytorch_model.bin" in request for request in hub.requests)


def test_a_bundle_of_the_hub_that_cannot_be_read_is_said_without_paths(
    hub: Hub, make_bundle: MakeBundle, tmp_path: Path
) -> None:
    bundle = make_bundle(TINY)
    edit(bundle / "pneumocam.json", schema_version=99)
    commit = hub.add("lung/film", bundle, "main")
    loaded = load_or_fall_back("hf-hub:lung/film")
    assert loaded.classifier.id == "bundled"
    assert str(loaded.notice).startswith(f"hf-hub:lung/film@{commit}: pneumocam.json: schema_version is 99")
    assert str(tmp_path) not in str(loaded.notice)


@pytest.mark.parametrize("source", ["film", "hf-hub:film/x/y", "local-dir:nowhere"])
def test_a_start_does_not_cover_up_a_source_that_is_wrong(source: str) -> None:
    with pytest.raises(BundleError):
        load_or_fall_back(source)
