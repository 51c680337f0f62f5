"""A model's source -> a Classifier: network, preprocessing, calibration and operating points."""

import hashlib
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from functools import partial
from typing import Any, NamedTuple

import torch
from PIL import Image
from torch import Tensor

from pneumocam.bundle import BundleError, Preprocessing, read_bundle
from pneumocam.guard import Guard, load_guard
from pneumocam.hub import Snapshot, load_with_fallback, locate
from pneumocam.image import Radiograph
from pneumocam.light_timm import timm
from pneumocam.network import build_network


@dataclass(frozen=True)
class OperatingPoint:
    """The threshold between NORMAL and pneumonia.

    Attributes:
        name: as in the bundle.
        threshold: the label is pneumonia from this P(pneumonia) on, in (0, 1).
        uncertain_log_odds: a prediction nearer to the threshold than this, in log-odds, is uncertain.
        uncertain_error: share of wrong predictions among the uncertain ones of held-out images; None if not measured.
    """

    name: str
    threshold: float
    uncertain_log_odds: float
    uncertain_error: float | None = None


@dataclass(frozen=True, eq=False)
class Classifier:
    """A timm CNN in eval mode with its preprocessing, labels, calibration and operating points.

    Attributes:
        network: `(B, C, H, W)` float32 -> `(B, K)` logits; has `forward_features` and `forward_head`.
        transform: `Radiograph` -> `(C, H, W)` float32, timm's evaluation transform for this bundle.
        preprocessing: input_size, interpolation, mean, std, crop_pct, crop_mode; see `pneumocam.bundle.Preprocessing`.
        label_names: in the order of the logits.
        temperature: logits are divided by it before the softmax (Guo et al. 2017).
        operating_points: by name.
        operating_point: the one in use.
        id: where the model came from: `bundled`, `local-dir:NAME` or `owner/name`.
        revision: the Hub's commit, or `sha256:` and the first twelve digits of the weights' hash.
        training: provenance written by `train.fit`.
        metrics: figures written by `train.evaluate`, or None.
        prior: share of each label for which the calibrated probabilities hold; None if the bundle does not state it.
        prevalence: share of pneumonia, in (0, 1), for which predictions are stated; by default 0.5. None without a
            prior, and predictions are then stated as calibrated.
        guard: checks and corrects an image before the network sees it; None if the bundle has none.
    """

    network: Any  # a timm model; nn.Module would hide forward_features and forward_head from the type checker
    transform: Callable[[Radiograph], Tensor]
    preprocessing: Mapping[str, Any]
    label_names: tuple[str, ...]
    temperature: float
    operating_points: Mapping[str, OperatingPoint]
    operating_point: OperatingPoint
    id: str
    revision: str
    training: Mapping[str, Any]
    metrics: Mapping[str, Any] | None
    prior: Mapping[str, float] | None = None
    prevalence: float | None = None
    guard: Guard | None = None

    def __repr__(self) -> str:
        labels = ", ".join(self.label_names)
        return f"Classifier({self.id}, {self.revision}, {labels}, operating point {self.operating_point.name})"

    def _repr_html_(self) -> str:
        from pneumocam.notebook import classifier_html

        return classifier_html(self)

    @classmethod
    def from_pretrained(cls, source: str | None = None, *, operating_point: str | None = None) -> "Classifier":
        """Load a model.

        Args:
            source: `hf-hub:owner/name` or `hf-hub:owner/name@revision` (downloaded once, then cached),
                `local-dir:PATH`, or None for the model that comes with this package.
            operating_point: the name of one of the model's; by default its own choice.

        Raises:
            BundleError: the source has another form, cannot be reached, or is no usable bundle.
            ValueError: the model has no operating point of that name.
        """
        classifier = _load(locate(source))
        return classifier if operating_point is None else classifier.at(operating_point)

    def at(self, operating_point: str | None = None, *, prevalence: float | None = None) -> "Classifier":
        """The same model at another of its operating points, or for another prevalence of pneumonia.

        Args:
            operating_point: by name; None keeps the one in use.
            prevalence: share of pneumonia among the images, in (0, 1); None keeps the one in use.

        Raises:
            ValueError: the model has no such operating point, or cannot be stated for this prevalence.
        """
        classifier = self
        if operating_point is not None:
            if operating_point not in self.operating_points:
                raise ValueError(
                    f"operating_point is {operating_point!r}; this model has {', '.join(self.operating_points)}."
                )
            classifier = replace(classifier, operating_point=self.operating_points[operating_point])
        if prevalence is not None:
            if not 0 < prevalence < 1:
                raise ValueError(f"prevalence is {prevalence!r}; expected a share between 0 and 1, such as 0.3.")
            if self.prior is None:
                raise ValueError("prevalence cannot be set: the bundle of this model does not state its prior.")
            classifier = replace(classifier, prevalence=prevalence)
        return classifier

    def log_odds_shift(self) -> float:
        """What `prevalence` adds to the calibrated log-odds of pneumonia.

        Saerens, Latinne, Decaestecker, *Adjusting the outputs of a classifier to new a priori probabilities*, Neural
        Computation 14 (2002), equation 4, for two classes.
        """
        if self.prior is None or self.prevalence is None:
            return 0.0
        normal = self.prior["NORMAL"]
        return math.log(self.prevalence / (1 - self.prevalence)) - math.log((1 - normal) / normal)

    def features(self, batch: Tensor) -> Tensor:
        """`(B, C, H, W)` float32 -> `(B, D, h, w)` float32: the only pass through the backbone."""
        # Outside of the caller's inference mode, whose tensors autograd refuses in Grad-CAM.
        with torch.inference_mode(False), torch.no_grad():
            features: Tensor = self.network.forward_features(batch.float())  # (B, D, h, w)
        return features

    def head(self, features: Tensor) -> Tensor:
        """`(B, D, h, w)` -> `(B, K)` logits, not yet divided by the temperature; differentiable."""
        logits: Tensor = self.network.forward_head(features)  # (B, K)
        return logits


class Loaded(NamedTuple):
    """A classifier for a service.

    Attributes:
        classifier: the requested model or its replacement.
        notice: why a replacement was loaded, and which; without paths. None if the model is the requested one.
    """

    classifier: Classifier
    notice: str | None = None


def load_or_fall_back(source: str | None = None, *, timeout: float = 30.0) -> Loaded:
    """Load a model for a service that has to start even if the Hub fails; see `pneumocam.hub.load_with_fallback`.

    Args:
        source: as in `Classifier.from_pretrained`.
        timeout: seconds to wait for the Hub.

    Raises:
        BundleError: the source has another form, or is a folder without a usable bundle.
    """
    return Loaded(*load_with_fallback(_load, source, timeout))


def eval_transform(preprocessing: Mapping[str, Any]) -> Callable[[Radiograph], Tensor]:
    """`Radiograph` -> `(C, H, W)` float32 by timm's own evaluation transform; C is 1, or 3 for repeated grey."""
    transform = timm.data.create_transform(**{key: preprocessing[key] for key in Preprocessing.model_fields})
    # A partial can be pickled for data loading processes; a closure cannot.
    return partial(_transformed, transform, "L" if preprocessing["input_size"][0] == 1 else "RGB")


def _transformed(transform: Callable[[Image.Image], Tensor], mode: str, radiograph: Radiograph) -> Tensor:
    return transform(radiograph.to_pil().convert(mode))


def _load(snapshot: Snapshot) -> Classifier:
    folder = snapshot.folder
    try:
        config, description, metrics = read_bundle(folder)
        network = build_network(config, folder)
        guard = load_guard(folder)
    except BundleError as error:
        raise BundleError(snapshot.without_path(str(error))) from None
    preprocessing = {key: getattr(config.pretrained_cfg, key) for key in Preprocessing.model_fields}
    points = {
        name: OperatingPoint(name, point.threshold, point.uncertain_log_odds, point.band.error if point.band else None)
        for name, point in description.operating_points.items()
    }
    weights = folder / "model.safetensors"
    return Classifier(
        network=network,
        transform=eval_transform(preprocessing),
        preprocessing=preprocessing,
        label_names=config.label_names,
        temperature=description.temperature,
        operating_points=points,
        operating_point=points[description.default_operating_point],
        id=snapshot.id,
        revision=snapshot.commit or "sha256:" + hashlib.sha256(weights.read_bytes()).hexdigest()[:12],
        training=description.training,
        metrics=metrics,
        prior=description.prior,
        prevalence=0.5 if description.prior else None,
        guard=guard,
    )
