"""Features of the forward pass -> Grad-CAM maps by Captum's LayerGradCam, in the geometry of the upload."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor, nn

from pneumocam.classifier import Classifier
from pneumocam.image import Radiograph
from pneumocam.regions import EMPTY, Floats, Quality, Region, agreement, quality, regions, sentences, share_inside

REGION_GRID = 128  # cells of the longer side, of the grid that regions are found on


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
        scale: the value of `cam` that is drawn as 1, the same for all labels of an image: the peak of the strongest
            map of a label, or this map's own peak if that is higher. By default its own peak.
        lungs: `(h, w)` in [0, 1], covering the upload: the probability that a cell lies in a lung field; None if
            nothing has looked for them.
        steadiness: correlation of the maps of halves of the network's channels, see `pneumocam.regions.agreement`; None
            if it was not measured.
    """

    cam: np.ndarray
    target: str
    box: tuple[float, float, float, float]
    size: tuple[int, int]
    radiograph: Radiograph | None = field(default=None, repr=False)
    scale: float | None = None
    lungs: Floats | None = field(default=None, repr=False)
    steadiness: float | None = None

    def __repr__(self) -> str:
        return f"Saliency({self.target}, {self.cam.shape[0]} x {self.cam.shape[1]} cells, {self.quality or 'unknown'})"

    def _repr_html_(self) -> str:
        from pneumocam.notebook import saliency_html

        return saliency_html(self)

    @property
    def peak(self) -> float:
        """The map's greatest value on the scale of the image's maps, in [0, 1]."""
        peak = float(self.cam.max())
        return peak / (self.scale or peak) if peak > 0 else 0.0

    @property
    def is_empty(self) -> bool:
        """Whether next to nothing in the image speaks for the target, compared with the strongest map of the image."""
        return self.peak < EMPTY

    @cached_property
    def inside(self) -> float | None:
        """The share of the map's energy (the sum of its values) inside the lung fields, in [0, 1]; None without these.

        0 if the map is empty.
        """
        return self._share(self.cam)

    @cached_property
    def expected_inside(self) -> float | None:
        """What `inside` would be if all values of the map were equal: the lung fields' share of what the map covers."""
        return self._share(np.ones_like(self.cam))

    @property
    def quality(self) -> Quality | None:
        """One word for the map; None if its steadiness was not measured.

        `empty`: see `is_empty`. `outside_lungs`: no more of its energy lies inside the lung fields than if all its
        values were equal. Else `steady` if `steadiness` is at least `pneumocam.regions.STEADY`, or `unsteady`.
        """
        return quality(
            empty=self.is_empty, inside=self.inside, expected=self.expected_inside, steadiness=self.steadiness
        )

    @property
    def sentences(self) -> tuple[str, ...]:
        """What `quality` and `inside` say, for people; none if nothing is known."""
        return sentences(self.target, self.quality, self.inside, self.expected_inside)

    @cached_property
    def regions(self) -> tuple[Region, ...]:
        """The parts of the map above half of its peak, that with the most energy first; none if it is empty."""
        if self.is_empty:
            return ()
        shrink = min(1.0, REGION_GRID / max(self.size))
        width, height = (max(1, round(side * shrink)) for side in self.size)
        return regions(self.resized(width, height).heatmap(), *self.size)

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON values, shares rounded to four decimals: all but the map itself."""
        shares = {
            "peak": self.peak,
            "inside_lungs": self.inside,
            "expected_inside_lungs": self.expected_inside,
            "steadiness": self.steadiness,
        }
        return {
            "target": self.target,
            "quality": self.quality,
            **{name: None if value is None else round(value, 4) for name, value in shares.items()},
            "regions": [
                {"box": list(one.box), "score": round(one.score, 4), "share": round(one.share, 4)}
                for one in self.regions
            ],
        }

    def relative(self) -> list[list[float]]:
        """The map's cells (h, w) on the scale of the image's maps, in [0, 1]."""
        values: list[list[float]] = np.round(self.cam.astype(np.float64) / (self.scale or self.cam.max()), 5).tolist()
        return values

    def resized(self, width: int, height: int) -> "Saliency":
        """The same map over the upload at another size in pixels."""
        x, y = width / self.size[0], height / self.size[1]
        left, top, right, bottom = self.box
        return replace(self, size=(width, height), box=(left * x, top * y, right * x, bottom * y))

    def heatmap(self) -> np.ndarray:
        """`(H, W)` float32 in [0, 1] in the geometry of the upload: 1 where the map reaches its scale, 0 outside of it.

        The brightness of two maps of one image can be compared; see `scale`.
        """
        return np.asarray(self._drawn(Image.fromarray(self._relative())))

    def grey(self) -> Image.Image:
        """`heatmap` times 255 as an image of mode "L", within two levels, in less time."""
        return self._drawn(Image.fromarray((255 * self._relative()).round().astype(np.uint8)))

    def _relative(self) -> Floats:
        """The cells (h, w) on the scale of the image's maps, in [0, 1]."""
        scale = self.scale or float(self.cam.max()) or 1.0
        return (self.cam / np.float32(scale)).astype(np.float32)

    def _drawn(self, cells: Image.Image) -> Image.Image:
        """One pixel for each cell -> the upload's pixels, interpolated; 0 where the map covers nothing."""
        canvas = Image.new(cells.mode, self.size)
        left, top, right, bottom = self.box
        # Only the part of the box on the upload is resized; the whole box can be far larger.
        x0, y0 = max(0, round(left)), max(0, round(top))
        x1, y1 = min(self.size[0], round(right)), min(self.size[1], round(bottom))
        if x0 >= x1 or y0 >= y1:  # the box is thinner than a pixel
            return canvas
        columns, rows = cells.size
        xs = ((np.array([x0, x1]) - left) * columns / (right - left)).clip(0, columns)
        ys = ((np.array([y0, y1]) - top) * rows / (bottom - top)).clip(0, rows)
        region = (xs[0], ys[0], xs[1], ys[1])
        canvas.paste(cells.resize((x1 - x0, y1 - y0), Image.Resampling.BILINEAR, box=region), (x0, y0))
        return canvas

    def _share(self, cam: np.ndarray) -> float | None:
        if self.lungs is None:
            return None
        height, width = self.lungs.shape
        return share_inside(replace(self, cam=cam).resized(width, height).heatmap(), self.lungs > 0.5)


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
    cams: np.ndarray = _channels(classifier, features, target_names).sum(1).clamp(min=0).numpy()  # (B, h, w)
    return cams


def _channels(classifier: Classifier, features: Tensor, target_names: Sequence[str]) -> Tensor:
    """What each channel adds to the maps of `grad_cam`, before their ReLU: `(B, D, h, w)`."""
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
        channels: Tensor = LayerGradCam(head, head.features).attribute(inputs, indices, attr_dim_summation=False)
    return channels.detach()


def explain(
    classifier: Classifier, radiograph: Radiograph, features: Tensor, lungs: Floats | None = None
) -> dict[str, Saliency]:
    """The maps of one image by class, all of `targets(classifier)`, on one scale.

    Args:
        classifier: whose features these are.
        radiograph: the image.
        features: `(D, h, w)` float32, of the network's input.
        lungs: as in `Saliency`.
    """
    names = targets(classifier)
    channels = _channels(classifier, features.expand(len(names), *features.shape), names)  # (targets, D, h, w)
    cams = dict(zip(names, channels.sum(1).clamp(min=0).numpy(), strict=True))
    strongest = max(float(cams[label].max()) for label in classifier.label_names)
    size = radiograph.width, radiograph.height
    box = input_box(classifier.preprocessing, *size)
    return {
        name: Saliency(cam, name, box, size, radiograph, max(strongest, float(cam.max())), lungs, agreement(parts))
        for (name, cam), parts in zip(cams.items(), channels.numpy(), strict=True)
    }


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
