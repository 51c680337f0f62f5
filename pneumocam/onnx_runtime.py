"""A classifier whose backbone runs in ONNX Runtime: about 60% of the processor time of the traced network on a CPU."""

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from pneumocam.bundle import BundleError
from pneumocam.classifier import Classifier

TOLERANCE = 1e-3  # of the greatest feature; a map moves by no more, a probability by far less


@dataclass(frozen=True)
class _Exported:
    """A timm model whose backbone is an ONNX Runtime session; Grad-CAM and the logits start from its features."""

    session: Any  # onnxruntime has no annotations
    forward_head: Any  # PyTorch's: (B, D, h, w) -> (B, K)

    def forward_features(self, batch: Tensor) -> Tensor:
        (features,) = self.session.run(["features"], {"image": batch.contiguous().numpy()})
        return torch.from_numpy(features)  # (B, D, h, w)


def export_for_onnx_runtime(classifier: Classifier, path: Path) -> Path:
    """Write the network as ONNX, for `on_onnx_runtime`; takes some seconds.

    Raises:
        BundleError: the packages for it are missing, or the network cannot be exported.
    """
    try:
        from pneumocam.export import export_onnx

        export_onnx(classifier, path)
    except ImportError as error:
        raise BundleError(
            f"The runtime onnx needs the package {error.name}: pip install 'pneumocam[onnx]', or use the runtime torch."
        ) from error
    except Exception as error:  # whatever the exporter raises for a network that it cannot express
        raise BundleError(
            f"This network cannot be exported to ONNX ({type(error).__name__}). Use the runtime torch."
        ) from error
    return path


def on_onnx_runtime(classifier: Classifier, path: Path) -> Classifier:
    """The classifier with its backbone in ONNX Runtime, on one thread for each call, on the CPU.

    Args:
        classifier: a model in PyTorch.
        path: what `export_for_onnx_runtime` wrote of it.

    Raises:
        BundleError: ONNX Runtime is missing, or its features are not those of PyTorch within `TOLERANCE`.
    """
    try:
        import onnxruntime
    except ImportError as error:
        raise BundleError(
            "The runtime onnx needs the package onnxruntime: pip install 'pneumocam[onnx]', or use the runtime torch."
        ) from error
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    session = onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])
    result = replace(classifier, network=_Exported(session, classifier.network.forward_head))
    shape = classifier.preprocessing["input_size"]
    batch = torch.randn(3, *shape, generator=torch.Generator().manual_seed(0)).float()  # (3, C, H, W)
    expected, found = (one.features(batch).numpy() for one in (classifier, result))
    if not np.allclose(found, expected, rtol=0, atol=TOLERANCE * np.abs(expected).max()):
        raise BundleError("ONNX Runtime gives other features than PyTorch for this network. Use the runtime torch.")
    return result
