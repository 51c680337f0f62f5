"""Export the networks of a classifier and of its guard to ONNX, for engines other than PyTorch."""

import copy
from pathlib import Path
from typing import Any

import torch
from onnx_ir.passes.common import ClearMetadataAndDocStringPass
from torch import Tensor, nn

from pneumocam import Classifier
from pneumocam.guard import SIDE, Guard


def export_onnx(classifier: Classifier, path: Path) -> None:
    """Write the network in single precision as one ONNX file.

    The input is `image`, `(B, C, H, W)` float32 from `classifier.transform`, for any B. The outputs are `features`,
    `(B, D, h, w)`, for Grad-CAM, and `logits`, `(B, K)`, not divided by the temperature.
    """
    batch = torch.zeros(2, *classifier.preprocessing["input_size"])  # (2, C, H, W)
    _write(_FeaturesAndLogits(classifier.network).eval(), batch, "image", ["features", "logits"], path)


def export_guard(guard: Guard, path: Path) -> None:
    """Write the guard's network in single precision as one ONNX file.

    The input is `thumbnails`, `(B, 1, SIDE, SIDE)` float32 from `pneumocam.guard.normalised`, for any B. The outputs
    are `lungs`, `heads` and `features` of `LungLocator`.
    """
    _write(guard.network, torch.zeros(2, 1, SIDE, SIDE), "thumbnails", ["lungs", "heads", "features"], path)


def _write(network: nn.Module, batch: Tensor, inputs: str, outputs: list[str], path: Path) -> None:
    """Export with a batch of any size; `batch` has two images, since the exporter takes a length of one as fixed."""
    network = copy.deepcopy(network)
    for module in network.modules():
        if hasattr(module, "inplace"):
            vars(module)["inplace"] = False  # the exporter takes twice as long to trace operations in place
    program = torch.onnx.export(
        network,
        (batch,),
        input_names=[inputs],
        output_names=outputs,
        dynamic_shapes=({0: torch.export.Dim("batch")},),
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
