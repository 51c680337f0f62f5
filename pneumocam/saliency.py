"""The features of the one forward pass -> Captum's LayerGradCam -> an overlay in the geometry of the upload."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import matplotlib
import numpy as np
import torch
from captum.attr import LayerGradCam
from PIL import Image, ImageDraw, ImageFont
from torch import Tensor, nn

from pneumocam.image import Radiograph
from pneumocam.model import Classifier

DISCLAIMER = "Research and teaching only: not a diagnosis."
COLOUR_MAP = "inferno"


@dataclass(frozen=True, eq=False)
class Saliency:
    """A Grad-CAM map (Selvaraju et al. 2017) of one radiograph.

    Attributes:
        cam: `(h, w)` float32 >= 0, in units of the class's logit: Captum's LayerGradCam with its ReLU.
        target: the class explained.
        box: left, top, right, bottom of what the map covers, in pixels of the upload; it may reach beyond its edges
            where the preprocessing pads, or stay inside them where it crops.
        size: width and height of the upload in pixels.
    """

    cam: np.ndarray
    target: str
    box: tuple[float, float, float, float]
    size: tuple[int, int]

    @property
    def is_empty(self) -> bool:
        """No part of the picture speaks for the target: there is nothing to show."""
        return not bool((self.cam > 0).any())

    def heatmap(self) -> np.ndarray:
        """`(H, W)` float32 in [0, 1] in the geometry of the upload: 1 at the map's peak, 0 where the map is blind."""
        left, top, right, bottom = self.box
        # The part of the box that lies on the upload; the whole of it can be far larger than both.
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


class _Head(nn.Module):
    """The network from its features on, with one more output: the log-odds of pneumonia against NORMAL.

    A fresh one each call, so that Captum's hooks never sit on anything that two threads share.
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
    known = targets(classifier)
    for name in target_names:
        if name not in known:
            raise ValueError(f"Class to explain is {name!r}; this model explains {', '.join(known)}.")
    outputs = (*classifier.label_names, "PNEUMONIA")
    # PNEUMONIA comes last: in a binary model the log-odds stand for that label too, being the better-posed question.
    indices = [len(outputs) - 1 if name == "PNEUMONIA" else outputs.index(name) for name in target_names]
    head = _Head(classifier)
    cam: Tensor = LayerGradCam(head, head.features).attribute(
        features.detach().requires_grad_(), indices, relu_attributions=True
    )  # (B, 1, h, w)
    return cam.detach().squeeze(1).numpy()  # (B, h, w)


def input_box(preprocessing: Mapping[str, Any], width: int, height: int) -> tuple[float, float, float, float]:
    """What the network sees of a picture of this size, as left, top, right, bottom in its pixels.

    Follows `timm.data.create_transform` in its three crop modes; `border` reaches beyond the picture, where it pads.
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


def draw_overlay(
    radiograph: Radiograph, saliency: Saliency, caption: str, *, opacity: float = 0.6, colour_map: str = COLOUR_MAP
) -> Image.Image:
    """The radiograph with the map laid over it, and below it a strip with caption, colour bar and disclaimer.

    The upper `(H, W)` pixels are those of the upload; colour is as opaque as the map is strong, so what the network
    did not look at stays as it was.

    Args:
        radiograph: the upload.
        saliency: its map.
        caption: class and probability.
        opacity: of the map's peak, in [0, 1].
        colour_map: any of Matplotlib's.

    Returns:
        An RGB picture, as wide as the upload and a strip taller.
    """
    strip = _strip(radiograph.width, caption, saliency, colour_map)
    picture = Image.new("RGB", (radiograph.width, radiograph.height + strip.height))
    picture.paste(blend(radiograph.to_pil(), saliency, opacity=opacity, colour_map=colour_map))
    picture.paste(strip, (0, radiograph.height))
    return picture


def blend(film: Image.Image, saliency: Saliency, *, opacity: float = 0.6, colour_map: str = COLOUR_MAP) -> Image.Image:
    """A film of mode "L" -> mode "RGB" with the map laid over it, as `draw_overlay` does."""
    heat = saliency.heatmap()  # (H, W)
    palette = matplotlib.colormaps[colour_map](np.arange(256))[:, :3] * 255  # (256, 3)
    colours = Image.fromarray((255 * heat).round().astype(np.uint8))
    colours.putpalette(palette.round().astype(np.uint8).tobytes())
    opaque = Image.fromarray((255 * opacity * heat).round().astype(np.uint8))
    return Image.composite(colours.convert("RGB"), film.convert("RGB"), opaque)


def _strip(width: int, caption: str, saliency: Saliency, colour_map: str) -> Image.Image:
    size = max(9, round(width / 32))
    margin, grey = size // 2, "#c8c8c8"
    strip = Image.new("RGB", (width, round(4.9 * size)), "black")
    draw = ImageDraw.Draw(strip)

    def write(text: str, left: int, line: float, scale: float, colour: str) -> None:
        points = size * scale
        # A narrow film still has to carry its whole caption; small letters do not shrink in proportion.
        while draw.textlength(text, font := ImageFont.load_default(points)) > width - left - margin and points > 1:
            points *= 0.95
        draw.text((left, margin + line * size), text, colour, font, anchor="lm")

    write(caption, margin, 0.6, 1.2, "white")
    write(DISCLAIMER, margin, 3.6, 0.8, grey)
    if saliency.is_empty:
        write(f"Empty map: no region speaks for {saliency.target}.", margin, 2.1, 0.8, "#ffd27f")
        return strip
    bar_width, bar_height = width // 4, round(0.7 * size)
    ramp = matplotlib.colormaps[colour_map](np.linspace(0, 1, bar_width))[None, :, :3] * 255  # (1, bar_width, 3)
    bar = Image.fromarray(np.repeat(ramp, bar_height, 0).round().astype(np.uint8))
    strip.paste(bar, (margin, margin + round(2.1 * size) - bar_height // 2))
    write(f"from none to most weight for {saliency.target}", 2 * margin + bar_width, 2.1, 0.8, grey)
    return strip
