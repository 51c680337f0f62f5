"""ONNX Runtime answers what PyTorch answers; the bundled model's turn is in test_publish.py."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnxruntime
import pytest
import torch

from pneumocam import Classifier, load_radiograph
from pneumocam.export import export_guard, export_onnx
from pneumocam.guard import normalised, thumbnail
from tests.conftest import EXAMPLES


@pytest.mark.slow
@pytest.mark.parametrize(("architecture", "channels"), [("test_resnet", 1), ("convnext_atto", 3)])
def test_features_and_logits_are_those_of_pytorch(
    make_bundle: Callable[..., Path], tmp_path: Path, architecture: str, channels: int
) -> None:
    bundle = make_bundle(architecture, in_chans=channels, size=(64, 96))
    classifier = Classifier.from_pretrained(f"local-dir:{bundle}")
    export_onnx(classifier, tmp_path / "model.onnx")
    session = onnxruntime.InferenceSession(tmp_path / "model.onnx", providers=["CPUExecutionProvider"])
    for count in (1, 2, 5):
        batch = torch.stack(
            [classifier.transform(load_radiograph(image)) for image in EXAMPLES[:count]]
        )  # (B, C, H, W)
        features = classifier.features(batch)
        found = session.run(["features", "logits"], {"image": batch.numpy()})
        np.testing.assert_allclose(found[0], features, rtol=1e-3, atol=1e-4)
        np.testing.assert_allclose(found[1], classifier.head(features), rtol=1e-3, atol=1e-5)

    written = (tmp_path / "model.onnx").read_bytes()
    assert b"site-packages" not in written  # nothing about the computer that it was made on
    assert __file__.rpartition("/tests/")[0].encode() not in written


@pytest.mark.slow
def test_the_guards_outputs_are_those_of_pytorch(bundled: Classifier, tmp_path: Path) -> None:
    guard = bundled.guard
    assert guard
    export_guard(guard, tmp_path / "guard.onnx")
    session = onnxruntime.InferenceSession(tmp_path / "guard.onnx", providers=["CPUExecutionProvider"])
    thumbnails = torch.stack([thumbnail(load_radiograph(path).pixels) for path in EXAMPLES[:8]])  # (B, 1, SIDE, SIDE)
    for batch in (normalised(thumbnails[:1]), normalised(thumbnails)):
        found = session.run(["lungs", "heads", "features"], {"thumbnails": batch.numpy()})
        with torch.no_grad():
            for one, expected in zip(found, guard.network(batch), strict=True):
                np.testing.assert_allclose(one, expected, rtol=1e-3, atol=1e-4)
