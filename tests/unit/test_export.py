"""ONNX Runtime answers what PyTorch answers; the bundled model's turn is in test_publish.py."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnxruntime
import pytest
import torch

from pneumocam import Classifier, load_radiograph
from pneumocam.export import export_onnx
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
        batch = torch.stack([classifier.transform(load_radiograph(film)) for film in EXAMPLES[:count]])  # (B, C, H, W)
        features = classifier.features(batch)
        found = session.run(["features", "logits"], {"image": batch.numpy()})
        np.testing.assert_allclose(found[0], features, rtol=1e-3, atol=1e-4)
        np.testing.assert_allclose(found[1], classifier.head(features), rtol=1e-3, atol=1e-5)

    written = (tmp_path / "model.onnx").read_bytes()
    assert b"site-packages" not in written  # nothing about the computer that it was made on
    assert __file__.rpartition("/tests/")[0].encode() not in written
