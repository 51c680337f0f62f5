"""Bundles: equal to what timm makes of the same files; damaged, incomplete and foreign ones are refused in words."""

import hashlib
import json
import pickle
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any, cast

import jsonschema
import numpy as np
import pytest
import timm
import torch
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st
from PIL import Image
from safetensors.torch import load_file, save_file
from torch import Tensor

from pneumocam import (
    BundleError,
    Classifier,
    OperatingPoint,
    Radiograph,
    load_radiograph,
    predict,
)
from pneumocam.bundle import Description, read_description, write_description
from pneumocam.hub import BUNDLED
from tests.conftest import EXAMPLES, SUBTYPES

TINY = "test_resnet"  # timm's own network for tests
ARCHITECTURES = ("tf_efficientnet_lite0", "resnet10t", "convnext_atto", "densenet121", "regnetx_002")
MakeBundle = Callable[..., Path]


def timm_logits(source: str, image: Path) -> Tensor:
    """`(K,)`, with nothing but timm and Pillow."""
    network = timm.create_model(source, pretrained=True).eval()
    config = timm.data.resolve_data_config({}, model=network)
    with Image.open(image) as picture:
        tensor = timm.data.create_transform(**config)(picture.convert("L" if config["input_size"][0] == 1 else "RGB"))
    with torch.no_grad():
        return cast(Tensor, network(tensor[None])[0])


def logits(classifier: Classifier, image: Path) -> Tensor:
    """`(K,)`, by the classifier."""
    return classifier.head(classifier.features(classifier.transform(load_radiograph(image))[None]))[0]


# From a folder


@pytest.mark.slow
@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_logits_are_those_of_timm_alone(make_bundle: MakeBundle, architecture: str, channels: int) -> None:
    bundle = make_bundle(architecture, in_chans=channels, size=(64, 96), crop_mode="center", crop_pct=0.9)
    classifier = Classifier.from_pretrained(f"local-dir:{bundle}")
    expected = timm_logits(f"local-dir:{bundle}", EXAMPLES[0])
    assert float(expected.std()) > 1e-4  # the image does reach the logits
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
    folder = BUNDLED
    expected = timm_logits(f"local-dir:{folder}", EXAMPLES[0])
    torch.testing.assert_close(logits(bundled, EXAMPLES[0]), expected, rtol=1e-4, atol=1e-5)
    assert not list(folder.glob("*.bin")) + list(folder.glob("*.pt*"))  # no pickle


@pytest.mark.parametrize("source", ["", "model", "hf-hub:", "local-dir:", "http://x/y", "timm:resnet18"])
def test_a_source_of_another_form_is_refused(source: str) -> None:
    with pytest.raises(BundleError, match="expected hf-hub:owner/name, hf-hub:owner/name@revision or local-dir:PATH"):
        Classifier.from_pretrained(source)


@pytest.mark.slow
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
    "a list": (lambda b: (b / "config.json").write_text("[]"), "config.json: found a list; expected an object"),
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
    "no pretrained_cfg": (
        lambda b: edit(b / "config.json", pretrained_cfg=None),
        "pretrained_cfg is None; expected an object",
    ),
    "two channels": (lambda b: edit_cfg(b, input_size=[2, 64, 64]), "input_size.0 is 2; expected 1 or 3"),
    "a giant": (
        lambda b: edit_cfg(b, input_size=[1, 10**6, 10**6]),
        "input_size.1 is 1000000; expected less than or equal to 2048",
    ),
    "three means": (lambda b: edit_cfg(b, mean=[0.5] * 3), r"pretrained_cfg: expected 1 number\(s\) for mean"),
    "no spread": (lambda b: edit_cfg(b, std=[0.0]), "std.0 is 0.0; expected greater than"),
    "no crop": (lambda b: edit_cfg(b, crop_pct=-1), "crop_pct is -1; expected greater than or equal to 0.1"),
    "other crop": (lambda b: edit_cfg(b, crop_mode="round"), "crop_mode is 'round'; expected 'squash', 'center' or"),
    "by chance": (lambda b: edit_cfg(b, interpolation="random"), "interpolation is 'random'; expected 'nearest'"),
    "schema": (lambda b: edit(b / "pneumocam.json", schema_version=2), "schema_version is 2; this version .* reads 1"),
    "no temperature": (lambda b: edit(b / "pneumocam.json", temperature=None), "temperature is None; expected"),
    "temperature 0": (lambda b: edit(b / "pneumocam.json", temperature=0), "temperature is 0; expected greater than"),
    "temperature NaN": (lambda b: edit(b / "pneumocam.json", temperature=float("nan")), "temperature is nan"),
    "huge temperature": (
        lambda b: edit(b / "pneumocam.json", temperature=10**400),
        "temperature is 1.*; expected a finite number",
    ),
    "no default": (
        lambda b: edit(b / "pneumocam.json", default_operating_point="x"),
        "default_operating_point is x; expected one of operating_points",
    ),
    "threshold 1": (
        lambda b: edit(b / "pneumocam.json", operating_points={"balanced": {**POINT["balanced"], "threshold": 1}}),
        "operating_points.balanced.threshold is 1; expected less than",
    ),
    "half a point": (
        lambda b: edit(b / "pneumocam.json", operating_points={"balanced": {"threshold": 0.5}}),
        "operating_points.balanced.uncertain_log_odds is missing",
    ),
    "training": (lambda b: edit(b / "pneumocam.json", training=[1]), r"training is \[1\]; expected an object"),
    "prior of other labels": (
        lambda b: edit(b / "pneumocam.json", prior={"NORMAL": 0.5, "PNEUMONIA": 0.5}),
        "prior names NORMAL, PNEUMONIA; expected NORMAL, BACTERIAL, VIRAL",
    ),
    "prior of counts": (
        lambda b: edit(b / "pneumocam.json", prior={"NORMAL": 250, "BACTERIAL": 468, "VIRAL": 248}),
        "prior.NORMAL is 250; expected less than 1",
    ),
    "prior without a sum of 1": (
        lambda b: edit(b / "pneumocam.json", prior={"NORMAL": 0.5, "BACTERIAL": 0.5, "VIRAL": 0.5}),
        "prior is .*; expected shares with a sum of 1",
    ),
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
        *(
            ("schema_version",),
            ("temperature",),
            ("training",),
            ("prior",),
            ("prior", "NORMAL"),
            ("default_operating_point",),
            ("operating_points",),
        ),
        *(("operating_points", name) for name in ("balanced", "other")),
        *(("operating_points", "balanced", name) for name in ("threshold", "uncertain_log_odds", "name")),
    ],
}
CHANGES = st.sampled_from([(name, path) for name, paths in KEYS.items() for path in paths])


@pytest.mark.slow
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


# Writing


def test_a_rewritten_description_keeps_what_this_version_does_not_know(make_bundle: MakeBundle) -> None:
    bundle = make_bundle(TINY)
    edit(bundle / "pneumocam.json", guard={"threshold": 3.5})
    description = read_description(bundle)
    prior = {"NORMAL": 0.25, "BACTERIAL": 0.5, "VIRAL": 0.25}
    write_description(bundle, description.model_copy(update={"prior": prior}))
    content = json.loads((bundle / "pneumocam.json").read_text())
    assert content["guard"] == {"threshold": 3.5}
    assert Classifier.from_pretrained(f"local-dir:{bundle}").prior == content["prior"] == prior


def test_the_schema_of_the_description_is_a_json_schema() -> None:
    schema = Description.model_json_schema()
    jsonschema.Draft202012Validator.check_schema(schema)
    content = json.loads((BUNDLED / "pneumocam.json").read_text())
    validator = jsonschema.Draft202012Validator(schema)
    validator.validate(content)
    changes: list[dict[str, Any]] = [{"schema_version": 2}, {"temperature": 0}, {"operating_points": {"x": {}}}]
    for change in changes:
        assert not validator.is_valid(content | change)
