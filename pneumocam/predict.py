"""Radiographs -> Predictions: one pass through the backbone gives the prediction and, on demand, its Grad-CAM."""

import math
from collections.abc import Callable, Iterable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from functools import cached_property, partial
from itertools import islice
from typing import Any, Literal

import torch
from PIL import Image
from torch import Tensor

from pneumocam import DISCLAIMER
from pneumocam.classifier import Classifier, OperatingPoint
from pneumocam.gradcam import Saliency, explain, targets
from pneumocam.guard import Doubt, Floats, Inspection, NotAChestRadiograph
from pneumocam.image import InternalError, Radiograph, RadiographError, Source, load_radiograph, without_border
from pneumocam.network import one_thread
from pneumocam.overlay import COLOUR_MAP, draw_overlay

SCHEMA_VERSION = 1
MAX_BATCH = 8  # images in one pass: up to this number, PyTorch computes each image as it would alone
Status = Literal["ok", "uncertain", "rejected"]


@dataclass(frozen=True)
class Reason:
    """Why a status is not `ok`: a code for programs and a sentence for people."""

    code: str
    message: str
    can_be_forced: bool = False  # whether `force=True` gets a prediction where this is why an image is rejected


@dataclass(frozen=True, eq=False)
class Prediction:
    """The classification of one radiograph.

    Attributes:
        status: `ok`; `uncertain`, close to the operating point's threshold; or `rejected`, no prediction.
        label: NORMAL below the operating point's threshold, else the most probable subtype of pneumonia; None if
            rejected.
        probabilities: calibrated, for the classifier's prevalence, in label order, summing to 1; empty if rejected.
        reason: given unless the status is `ok`.
        classifier: the model, with the operating point and the prevalence in use.
        radiograph: the classified image; None if rejected.
    """

    status: Status
    label: str | None
    probabilities: Mapping[str, float]
    reason: Reason | None
    classifier: Classifier = field(repr=False)
    radiograph: Radiograph | None = field(default=None, repr=False)
    _features: Tensor | None = field(default=None, repr=False)
    _inspection: Inspection | None = field(default=None, repr=False)

    def __repr__(self) -> str:
        shares = ", ".join(f"{name} {p:.1%}" for name, p in self.probabilities.items())
        reason = self.reason.code if self.reason else ""
        return f"Prediction({', '.join(filter(None, [self.status, self.label, shares, reason]))})"

    def _repr_html_(self) -> str:
        from pneumocam.notebook import prediction_html

        return prediction_html(self)

    @property
    def operating_point(self) -> OperatingPoint:
        """The threshold in use."""
        return self.classifier.operating_point

    @property
    def prevalence(self) -> float | None:
        """The share of pneumonia for which the probabilities are stated; None if the model does not state it."""
        return self.classifier.prevalence

    @property
    def warnings(self) -> tuple[Reason, ...]:
        """What the guard found doubtful in the image; each warning makes the prediction uncertain."""
        return tuple(Reason(*doubt) for doubt in self._inspection.warnings) if self._inspection else ()

    @property
    def lungs(self) -> Floats | None:
        """`(32, 32)` float32: the probability that a cell of the radiograph lies in a lung field.

        None if rejected, or if the model has no guard. `pneumocam.guard.outline` makes polygons of it.
        """
        return self._inspection.lungs if self._inspection else None

    @property
    def p_pneumonia(self) -> float | None:
        """P(any subtype of pneumonia) in [0, 1]; None if rejected."""
        if not self.probabilities:
            return None
        return min(1.0, sum(p for name, p in self.probabilities.items() if name != "NORMAL"))  # rounding exceeds 1

    def at(self, operating_point: str | None = None, *, prevalence: float | None = None) -> "Prediction":
        """The prediction at another operating point or prevalence; the backbone does not run again.

        Raises:
            ValueError: as in `Classifier.at`.
        """
        classifier = self.classifier.at(operating_point, prevalence=prevalence)
        if self.radiograph is None or self._features is None:
            return Prediction(self.status, self.label, self.probabilities, self.reason, classifier, self.radiograph)
        return classify(classifier, self.radiograph, self._features, self._inspection)

    def probability(self, target: str) -> float:
        """Of one label, or of `PNEUMONIA`, the sum over its subtypes."""
        if target == "PNEUMONIA" and self.p_pneumonia is not None:
            return self.p_pneumonia
        return self.probabilities[target]

    @cached_property
    def maps(self) -> Mapping[str, Saliency]:
        """Grad-CAM for each of `targets(classifier)`, all on one scale; the backbone does not run again.

        Raises:
            ValueError: the image was rejected.
        """
        if self._features is None or self.radiograph is None:
            raise ValueError("A rejected image has no prediction to explain.")
        return explain(self.classifier, self.radiograph, self._features, self.lungs)

    def explain(self, target: str | None = None) -> Saliency:
        """Grad-CAM for the predicted class or another one, see `maps`.

        Args:
            target: one of the labels, or `PNEUMONIA` for any subtype against NORMAL.

        Raises:
            ValueError: the target is unknown, or the image was rejected.
        """
        known = targets(self.classifier)
        if target not in (None, *known):
            raise ValueError(f"Class to explain is {target!r}; this model explains {', '.join(known)}.")
        return self.maps[target or str(self.label)]

    def overlay(self, target: str | None = None, *, opacity: float = 0.6, colour_map: str = COLOUR_MAP) -> Image.Image:
        """The upload with the map of `explain(target)` over it, labelled; see `overlay.draw_overlay`."""
        saliency = self.explain(target)
        if self.radiograph is None:
            raise ValueError("A rejected image has no picture to draw on.")
        caption = f"{saliency.target} {self.probability(saliency.target):.0%}"
        if self.status == "uncertain":
            caption += " (uncertain)"
        return draw_overlay(self.radiograph, saliency, caption, opacity=opacity, colour_map=colour_map)

    def to_dict(self, saliency: Saliency | None = None) -> dict[str, Any]:
        """Plain JSON values, the same in Python, CLI and API.

        Args:
            saliency: the map whose facts are told as `map`, one of `maps`; by default none, since a map takes time.
        """
        radiograph, point = self.radiograph, self.operating_point
        return {
            "schema_version": SCHEMA_VERSION,
            "status": self.status,
            "label": self.label,
            "probabilities": dict(self.probabilities),
            "p_pneumonia": self.p_pneumonia,
            "prevalence": self.prevalence,
            "reason": self.reason and {"code": self.reason.code, "message": self.reason.message},
            "warnings": [{"code": one.code, "message": one.message} for one in self.warnings],
            "image": radiograph
            and {
                "format": radiograph.source_format,
                "width": radiograph.width,
                "height": radiograph.height,
                "steps": list(radiograph.steps),
            },
            "map": saliency and saliency.to_dict(),
            "operating_point": {"name": point.name, "threshold": point.threshold},
            "model": {"id": self.classifier.id, "revision": self.classifier.revision},
            "disclaimer": DISCLAIMER,
        }


def predict(
    classifier: Classifier, source: Source | Radiograph, *, prevalence: float | None = None, force: bool = False
) -> Prediction:
    """Classify one radiograph. Several threads may share a classifier.

    Args:
        classifier: from `Classifier.from_pretrained`.
        source: what `load_radiograph` takes, or a radiograph.
        prevalence: share of pneumonia for which the probabilities are stated, in (0, 1); by default the classifier's.
        force: predict also where the guard refuses a border case, with the refusal as a warning; a clear case such as
            a photograph stays refused.

    Raises:
        RadiographError: the source is no usable radiograph; NotAChestRadiograph if the guard refuses it.
        InternalError: the image could not be decoded for want of memory, time or a process.
        OSError: the file cannot be read.
        ValueError: as in `Classifier.at`.
    """
    radiograph = source if isinstance(source, Radiograph) else load_radiograph(source)
    found = inspect(classifier, radiograph, force=force)
    return _predictions(classifier.at(prevalence=prevalence), [found], map)[0]


def inspect(classifier: Classifier, radiograph: Radiograph, *, force: bool = False) -> Inspection:
    """Cut off a flat border, and let the classifier's guard correct and check the image; without a guard it passes.

    Raises:
        NotAChestRadiograph: the guard refuses it, and it is no border case or `force` is not given.
    """
    radiograph = without_border(radiograph)
    if classifier.guard is None:
        return Inspection(radiograph)
    with one_thread:
        found = classifier.guard(radiograph)
    if found.refusal is None:
        return found
    if not (force and found.refusal.can_be_forced):
        raise found.refusal
    return replace(found, warnings=(Doubt(found.refusal.code, found.refusal.message), *found.warnings))


def try_predict(
    classifier: Classifier,
    source: Source | Radiograph,
    classify: Callable[[Source | Radiograph], Prediction] | None = None,
) -> Prediction:
    """Classify one image; an image that cannot be read is `rejected` with its reason instead of an exception.

    Args:
        classifier: the model, at the operating point and prevalence of the prediction.
        source: what `load_radiograph` takes, or a radiograph.
        classify: another way to call the same model, such as a `Batcher`.
    """
    try:
        return (classify or partial(predict, classifier))(source)
    except _UNREADABLE as error:
        return rejected(classifier, reason_of(error))


def predict_many(
    classifier: Classifier,
    sources: Iterable[Source | Radiograph],
    *,
    batch_size: int = 16,
    load: Callable[[Any], Radiograph] = load_radiograph,
    force: bool = False,
) -> Iterator[Prediction]:
    """Classify a stream of images in order, a batch at a time; an unreadable image is `rejected`.

    Args:
        classifier: the model.
        sources: what `load` takes, or radiographs.
        batch_size: images that are read and classified together, at least 1.
        load: reads a source, such as `load_radiograph` with other limits.
        force: as in `predict`.

    Raises:
        ValueError: batch_size is less than 1.
    """
    if batch_size < 1:
        raise ValueError(f"batch_size is {batch_size}; expected at least 1.")
    pending = iter(sources)
    with ThreadPoolExecutor() as pool:
        while batch := list(islice(pending, batch_size)):
            loaded = list(pool.map(partial(_load, classifier, load, force), batch))
            predictions = iter(_predictions(classifier, [x for x in loaded if isinstance(x, Inspection)], pool.map))
            for item in loaded:
                yield next(predictions) if isinstance(item, Inspection) else rejected(classifier, item)


def describe(classifier: Classifier) -> dict[str, Any]:
    """Facts of a model as plain JSON values."""
    return {
        "model": {"id": classifier.id, "revision": classifier.revision},
        "labels": list(classifier.label_names),
        "explains": list(targets(classifier)),
        "preprocessing": {key: list(x) if isinstance(x, tuple) else x for key, x in classifier.preprocessing.items()},
        "temperature": classifier.temperature,
        "prior": classifier.prior and dict(classifier.prior),
        "prevalence": classifier.prevalence,
        "operating_point": vars(classifier.operating_point),
        "operating_points": {name: vars(point) for name, point in classifier.operating_points.items()},
        "metrics": classifier.metrics,
    }


_UNREADABLE = (RadiographError, InternalError, MemoryError, OSError)


def reason_of(error: BaseException) -> Reason:
    """Why an image could not be read: the image's fault, the file's, or, as `internal_error`, the service's."""
    if isinstance(error, RadiographError | InternalError):
        return Reason(error.code, error.message, isinstance(error, NotAChestRadiograph) and error.can_be_forced)
    if isinstance(error, OSError):
        return Reason("unreadable_file", f"The file cannot be read: {error.strerror or type(error).__name__}.")
    return Reason(InternalError.code, "There was not enough memory to read the image. Try again later.")


def rejected(classifier: Classifier, reason: Reason) -> Prediction:
    """No prediction, and why."""
    return Prediction("rejected", None, {}, reason, classifier)


def _load(
    classifier: Classifier, load: Callable[[Any], Radiograph], force: bool, source: Source | Radiograph
) -> Inspection | Reason:
    try:
        return inspect(classifier, source if isinstance(source, Radiograph) else load(source), force=force)
    except _UNREADABLE as error:
        return reason_of(error)


def _predictions(classifier: Classifier, found: list[Inspection], each: Callable[..., Any]) -> list[Prediction]:
    if not found:
        return []
    batch = torch.stack([classifier.transform(one.radiograph) for one in found])  # (B, C, H, W)
    parts = each(partial(features_of, classifier), torch.split(batch, MAX_BATCH))
    features = [one for part in parts for one in part]  # (D, h, w) each
    pairs = zip(found, features, strict=True)
    return [classify(classifier, inspection.radiograph, one, inspection) for inspection, one in pairs]


def features_of(classifier: Classifier, batch: Tensor) -> list[Tensor]:
    """`(B, C, H, W)`, B up to `MAX_BATCH`, -> the `(D, h, w)` features of each image.

    They do not depend on the rest of the batch: bit for bit in the bundled architecture, within rounding in others.
    """
    with one_thread:
        features = classifier.features(batch)  # (B, D, h, w)
    # Copies, because a view would keep the features of the whole batch in memory.
    with torch.inference_mode(False):
        return [one.clone() for one in features]


def classify(
    classifier: Classifier, radiograph: Radiograph, features: Tensor, inspection: Inspection | None = None
) -> Prediction:
    """Classify one image from its features, independent of the batch.

    Args:
        classifier: whose features these are.
        radiograph: the image.
        features: `(D, h, w)` float32, a row of `classifier.features`.
        inspection: what the guard found, if there is one.
    """
    with torch.no_grad(), one_thread:
        logits = classifier.head(features[None]).double() / classifier.temperature  # (1, K)
        ill = torch.tensor([name != "NORMAL" for name in classifier.label_names])  # (K,)
        logits = logits + classifier.log_odds_shift() * ill
    row = logits.softmax(1)[0].numpy()  # (K,)
    probabilities = dict(zip(classifier.label_names, row.tolist(), strict=True))
    point = classifier.operating_point
    subtypes = [name for name in classifier.label_names if name != "NORMAL"]
    pneumonia = sum(probabilities[name] for name in subtypes)
    positive = pneumonia >= point.threshold
    distance = abs(_log_odds(pneumonia, probabilities["NORMAL"]) - _log_odds(point.threshold, 1 - point.threshold))
    reason = None
    if distance < point.uncertain_log_odds:
        reason = _near_threshold(pneumonia, point)
    elif inspection and inspection.warnings:
        reason = Reason(*inspection.warnings[0])
    return Prediction(
        status="uncertain" if reason else "ok",
        label=max(subtypes, key=probabilities.__getitem__) if positive else "NORMAL",
        probabilities=probabilities,
        reason=reason,
        classifier=classifier,
        radiograph=radiograph,
        _features=features,
        _inspection=inspection,
    )


def _log_odds(p: float, q: float) -> float:
    return math.log(p / q) if p > 0 and q > 0 else math.inf if q <= 0 else -math.inf


def _near_threshold(pneumonia: float, point: OperatingPoint) -> Reason:
    positive = pneumonia >= point.threshold
    leaning = f"pneumonia ({pneumonia:.0%})" if positive else f"normal ({1 - pneumonia:.0%})"
    message = f"Uncertain, leaning {leaning}."
    if point.uncertain_error is not None:
        message += f" In testing, {point.uncertain_error:.0%} of such predictions were wrong."
    return Reason("near_threshold", message)
