"""Features of the forward pass -> Grad-CAM maps by Captum's LayerGradCam, in the geometry of the upload."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor, nn

from pneumocam.classifier import Classifier
from pneumocam.image import Radiograph


@dataclass(frozen=True, eq=False)
class Saliency:
    """A Grad-CAM map (Selvaraju et al. 2017) of one radiograph.

    Attributes:
        cam: `(h, w)` float32 >= 0, in units of the class's logit: Captum's LayerGradCam with its ReLU.
        target: the class explained.
        box: left, top, right, bottom of what the map covers, in pixels of the upload; it may reach beyond its edges
            where the preprocessing pads, or stay inside them where it crops.
        size: width and height of the upload in pixels.
        radiograph: the upload, if it is known.
    """

    cam: np.ndarray
    target: str
    box: tuple[float, float, float, float]
    size: tuple[int, int]
    radiograph: Radiograph | None = field(default=None, repr=False)

    def __repr__(self) -> str:
        return f"Saliency({self.target}, {self.cam.shape[0]} x {self.cam.shape[1]} cells, peak {self.cam.max():.3g})"

    def _repr_html_(self) -> str:
        from pneumocam.notebook import saliency_html

        return saliency_html(self)

    @property
    def is_empty(self) -> bool:
        """Whether no region of the image speaks for the target."""
        return not bool((self.cam > 0).any())

    def heatmap(self) -> np.ndarray:
        """`(H, W)` float32 in [0, 1] in the geometry of the upload: 1 at the map's peak, 0 outside of the map."""
        left, top, right, bottom = self.box
        # Only the part of the box on the upload is resized; the whole box can be far larger.
        x0, y0 = max(0, round(left)), max(0, round(top))
        x1, y1 = min(self.size[0], round(right)), min(self.size[1], round(bottom))
        if x0 >= x1 or y0 >= y1:  # the box is thinner than a pixel
            return np.zeros(self.size[::-1], np.float32)
        rows, columns = self.cam.shape
        xs = ((np.array([x0, x1]) - left) * columns / (right - left)).clip(0, columns)
        ys = ((np.array([y0, y1]) - top) * rows / (bottom - top)).clip(0, rows)
        peak = float(self.cam.max())
        covered = Image.fromarray(self.cam / peak if peak > 0 else self.cam)
        region = (xs[0], ys[0], xs[1], ys[1])
        canvas = Image.new("F", self.size)
        canvas.paste(covered.resize((x1 - x0, y1 - y0), Image.Resampling.BILINEAR, box=region), (x0, y0))
        return np.asarray(canvas)


class _HeadWithPneumonia(nn.Module):
    """The network's head with one more output: the log-odds of pneumonia against NORMAL.

    Each call makes a new one, because Captum's hooks must not be on a module that two threads share.
    """

    def __init__(self, classifier: Classifier) -> None:
        super().__init__()
        self.features = nn.Identity()
        self.classifier = classifier

    def forward(self, features: Tensor) -> Tensor:
        logits = self.classifier.head(self.features(features))  # (B, K)
        normal = self.classifier.label_names.index("NORMAL")
        others = [i for i in range(logits.shape[1]) if i != normal]
        pneumonia = logits[:, others].logsumexp(1) - logits[:, normal]  # (B,)
        return torch.cat([logits, pneumonia[:, None]], 1)  # (B, K + 1)


def targets(classifier: Classifier) -> tuple[str, ...]:
    """The classes that can be explained: the model's labels, and `PNEUMONIA` (any subtype against NORMAL)."""
    return tuple(dict.fromkeys((*classifier.label_names, "PNEUMONIA")))


def grad_cam(classifier: Classifier, features: Tensor, target_names: Sequence[str]) -> np.ndarray:
    """`(B, D, h, w)` features and B class names -> `(B, h, w)` float32 maps >= 0.

    Equal to `LayerGradCam` on the whole network at the layer that gives these features.

    Raises:
        ValueError: a name is not one of `targets(classifier)`.
    """
    from captum.attr import LayerGradCam  # slow to import, and many predictions need no map

    known = targets(classifier)
    for name in target_names:
        if name not in known:
            raise ValueError(f"Class to explain is {name!r}; this model explains {', '.join(known)}.")
    outputs = (*classifier.label_names, "PNEUMONIA")
    # PNEUMONIA is the last output. In a binary model the log-odds replace the logit of that label as well.
    indices = [len(outputs) - 1 if name == "PNEUMONIA" else outputs.index(name) for name in target_names]
    head = _HeadWithPneumonia(classifier)
    with torch.inference_mode(False), torch.enable_grad():
        inputs = (features.clone() if features.is_inference() else features.detach()).requires_grad_()
        cam: Tensor = LayerGradCam(head, head.features).attribute(
            inputs, indices, relu_attributions=True
        )  # (B, 1, h, w)
    return cam.detach().squeeze(1).numpy()  # (B, h, w)


def input_box(preprocessing: Mapping[str, Any], width: int, height: int) -> tuple[float, float, float, float]:
    """The region of an image that the network sees: left, top, right, bottom in pixels of the image.

    Follows the three crop modes of `timm.data.create_transform`; with `border` the region reaches beyond the image.

    Args:
        preprocessing: as in `Classifier`.
        width: of the image in pixels.
        height: of the image in pixels.
    """
    _, input_height, input_width = preprocessing["input_size"]
    scaled_height, scaled_width = (math.floor(x / preprocessing["crop_pct"]) for x in (input_height, input_width))
    ratios = height / scaled_height, width / scaled_width
    match preprocessing["crop_mode"]:
        case "squash":
            vertical, horizontal = ratios
        case "border":
            vertical = horizontal = max(ratios)
        case _:
            vertical = horizontal = min(ratios)
    half_width, half_height = input_width * horizontal / 2, input_height * vertical / 2
    return width / 2 - half_width, height / 2 - half_height, width / 2 + half_width, height / 2 + half_height
