"""Export a classifier's network to ONNX, for engines other than PyTorch."""

from pathlib import Path
from typing import Any

import torch
from onnx_ir.passes.common import ClearMetadataAndDocStringPass
from torch import Tensor, nn

from pneumocam import Classifier


def export_onnx(classifier: Classifier, path: Path) -> None:
    """Write the network in single precision as one ONNX file.

    The input is `image`, `(B, C, H, W)` float32 from `classifier.transform`, for any B. The outputs are `features`,
    `(B, D, h, w)`, for Grad-CAM, and `logits`, `(B, K)`, not divided by the temperature.
    """
    # A batch of two: the exporter takes an axis of length one for a constant.
    batch = torch.zeros(2, *classifier.preprocessing["input_size"])  # (2, C, H, W)
    program = torch.onnx.export(
        _FeaturesAndLogits(classifier.network).eval(),
        (batch,),
        input_names=["image"],
        output_names=["features", "logits"],
        dynamic_shapes={"image": {0: torch.export.Dim("batch")}},
        dynamo=True,
        verbose=False,
    )
    if program is None:
        raise RuntimeError("torch.onnx.export gave no program.")
    # The exporter writes a stack trace with this computer's paths into every operation.
    ClearMetadataAndDocStringPass()(program.model)
    program.save(path)


class _FeaturesAndLogits(nn.Module):
    def __init__(self, network: Any) -> None:
        super().__init__()
        self.network: Any = network

    def forward(self, image: Tensor) -> tuple[Tensor, Tensor]:
        features = self.network.forward_features(image)  # (B, D, h, w)
        return features, self.network.forward_head(features)  # (B, K)
