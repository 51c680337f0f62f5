"""Radiographs -> Predictions: one pass through the backbone gives the answer, and on demand its Grad-CAM."""

import threading
from collections.abc import Callable, Iterable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from functools import partial
from itertools import islice
from typing import Any, Literal

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from pneumocam import DISCLAIMER
from pneumocam.classifier import Classifier, OperatingPoint
from pneumocam.gradcam import Saliency, grad_cam, input_box, targets
from pneumocam.image import Radiograph, RadiographError, Source, load_radiograph
from pneumocam.overlay import COLOUR_MAP, draw_overlay

SCHEMA_VERSION = 1
MAX_BATCH = 8  # films in one pass through the backbone: few enough that PyTorch computes each as it would alone


@dataclass(frozen=True)
class Reason:
    """Why an answer is not simply `ok`: a code for programs and a sentence for people."""

    code: str
    message: str


@dataclass(frozen=True, eq=False)
class Prediction:
    """What the model answers for one radiograph.

    Attributes:
        status: `ok`; `uncertain`, an answer too near to the operating point's threshold; or `rejected`, no answer.
        label: NORMAL below the operating point's threshold, else the most probable kind of pneumonia; None if rejected.
        probabilities: calibrated, in label order, summing to 1; empty if rejected.
        reason: given unless the status is `ok`.
        operating_point: the threshold in use.
        model_id, revision: as in `Classifier`.
    """

    status: Literal["ok", "uncertain", "rejected"]
    label: str | None
    probabilities: Mapping[str, float]
    reason: Reason | None
    operating_point: OperatingPoint
    model_id: str
    revision: str
    _classifier: Classifier = field(repr=False)
    _radiograph: Radiograph | None = field(default=None, repr=False)
    _features: Tensor | None = field(default=None, repr=False)

    def __repr__(self) -> str:
        shares = ", ".join(f"{name} {p:.1%}" for name, p in self.probabilities.items())
        reason = self.reason.code if self.reason else ""
        return f"Prediction({', '.join(filter(None, [self.status, self.label, shares, reason]))})"

    def _repr_html_(self) -> str:
        from pneumocam.notebook import prediction_html

        return prediction_html(self)

    @property
    def classifier(self) -> Classifier:
        """What gave this answer."""
        return self._classifier

    @property
    def radiograph(self) -> Radiograph | None:
        """The film that was answered; None if rejected."""
        return self._radiograph

    @property
    def p_pneumonia(self) -> float | None:
        """P(any kind of pneumonia) in [0, 1]; None if rejected."""
        if not self.probabilities:
            return None
        return min(1.0, sum(p for name, p in self.probabilities.items() if name != "NORMAL"))  # rounding exceeds 1

    def at(self, operating_point: str) -> "Prediction":
        """The same film's answer at another of the model's operating points; the backbone does not run again.

        Raises:
            ValueError: the model has none of that name.
        """
        classifier = self._classifier.at(operating_point)
        if self.status == "rejected" or self._radiograph is None or self._features is None:
            return replace(self, operating_point=classifier.operating_point, _classifier=classifier)
        return judge(classifier, self._radiograph, self._features)

    def probability(self, target: str) -> float:
        """Of one label, or of `PNEUMONIA` for all its kinds together."""
        if target == "PNEUMONIA" and self.p_pneumonia is not None:
            return self.p_pneumonia
        return self.probabilities[target]

    def explain(self, target: str | None = None) -> Saliency:
        """Grad-CAM for the class that was answered, or for another one; the backbone does not run again.

        Args:
            target: one of the labels, or `PNEUMONIA` for its kinds together against NORMAL.

        Raises:
            ValueError: the target is unknown, or the prediction was rejected and there is nothing to explain.
        """
        if self._features is None or self._radiograph is None or self.label is None:
            raise ValueError("A rejected radiograph has no answer to explain.")
        name = self.label if target is None else target
        cam = grad_cam(self._classifier, self._features[None], [name])[0]  # (h, w)
        size = self._radiograph.width, self._radiograph.height
        return Saliency(cam, name, input_box(self._classifier.preprocessing, *size), size, self._radiograph)

    def overlay(self, target: str | None = None, *, opacity: float = 0.6, colour_map: str = COLOUR_MAP) -> Image.Image:
        """The upload with the map of `explain(target)` over it, labelled; see `saliency.draw_overlay`."""
        saliency = self.explain(target)
        if self._radiograph is None:
            raise ValueError("A rejected radiograph has no picture to draw on.")
        caption = f"{saliency.target} {self.probability(saliency.target):.0%}"
        if self.status == "uncertain":
            caption += " (uncertain)"
        return draw_overlay(self._radiograph, saliency, caption, opacity=opacity, colour_map=colour_map)

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON values, the same from Python, CLI and API."""
        return {
            "schema_version": SCHEMA_VERSION,
            "status": self.status,
            "label": self.label,
            "probabilities": dict(self.probabilities),
            "p_pneumonia": self.p_pneumonia,
            "reason": self.reason and {"code": self.reason.code, "message": self.reason.message},
            "operating_point": {"name": self.operating_point.name, "threshold": self.operating_point.threshold},
            "model": {"id": self.model_id, "revision": self.revision},
            "disclaimer": DISCLAIMER,
        }


def predict(classifier: Classifier, source: Source | Radiograph) -> Prediction:
    """Answer for one radiograph; safe to call from several threads on one classifier.

    Args:
        classifier: from `Classifier.from_pretrained`.
        source: whatever `load_radiograph` takes, or what it gave.

    Raises:
        RadiographError: the source is no usable radiograph.
        OSError: the file cannot be read.
    """
    radiograph = source if isinstance(source, Radiograph) else load_radiograph(source)
    return _answer(classifier, [radiograph], map)[0]


def predict_many(
    classifier: Classifier, sources: Iterable[Source | Radiograph], *, batch_size: int = 16
) -> Iterator[Prediction]:
    """Answer for a stream of radiographs in its order, a batch at a time; what cannot be read is `rejected`."""
    if batch_size < 1:
        raise ValueError(f"batch_size is {batch_size}; expected at least 1.")
    pending = iter(sources)
    with ThreadPoolExecutor() as pool:
        while batch := list(islice(pending, batch_size)):
            loaded = list(pool.map(_load, batch))
            answers = iter(_answer(classifier, [x for x in loaded if isinstance(x, Radiograph)], pool.map))
            for item in loaded:
                yield next(answers) if isinstance(item, Radiograph) else rejected(classifier, item)


def describe(classifier: Classifier) -> dict[str, Any]:
    """What a program may want to know of the model that answers, as plain JSON values."""
    return {
        "model": {"id": classifier.id, "revision": classifier.revision},
        "labels": list(classifier.label_names),
        "explains": list(targets(classifier)),
        "preprocessing": {key: list(x) if isinstance(x, tuple) else x for key, x in classifier.preprocessing.items()},
        "temperature": classifier.temperature,
        "operating_point": vars(classifier.operating_point),
        "operating_points": {name: vars(point) for name, point in classifier.operating_points.items()},
        "metrics": classifier.metrics,
    }


def _load(source: Source | Radiograph) -> Radiograph | Reason:
    try:
        return source if isinstance(source, Radiograph) else load_radiograph(source)
    except RadiographError as error:
        return Reason(error.code, str(error))
    except OSError as error:
        return Reason("unreadable_file", f"The file cannot be read: {error.strerror or type(error).__name__}.")


def rejected(classifier: Classifier, reason: Reason) -> Prediction:
    """No answer, and why."""
    point = classifier.operating_point
    return Prediction("rejected", None, {}, reason, point, classifier.id, classifier.revision, classifier)


def _answer(classifier: Classifier, radiographs: list[Radiograph], each: Callable[..., Any]) -> list[Prediction]:
    if not radiographs:
        return []
    batch = torch.stack([classifier.transform(radiograph) for radiograph in radiographs])  # (B, C, H, W)
    parts = each(partial(features_of, classifier), torch.split(batch, MAX_BATCH))
    features = [one for part in parts for one in part]  # (D, h, w) each
    return [judge(classifier, radiograph, one) for radiograph, one in zip(radiographs, features, strict=True)]


def features_of(classifier: Classifier, batch: Tensor) -> list[Tensor]:
    """`(B, C, H, W)`, B up to `MAX_BATCH`, -> the `(D, h, w)` features of each film.

    They are the same whatever its company: to the last bit for the bundled architecture, within rounding for others.
    """
    with _one_thread:
        features = classifier.features(batch)  # (B, D, h, w)
    # Copies, or a prediction that is kept would keep the features of its whole batch.
    return [one.clone() for one in features]


class _OneThread:
    """Let PyTorch compute on the calling thread alone: on several, last digits depend on their number and on the batch.

    Its setting is for a thread and for all those that are new to PyTorch, so what it was is known outside of any pass.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._inside = 0
        self._threads = 0

    def __enter__(self) -> None:
        with self._lock:
            if not self._inside:
                self._threads = torch.get_num_threads()
            self._inside += 1
            torch.set_num_threads(1)

    def __exit__(self, *_: object) -> None:
        with self._lock:
            self._inside -= 1
            torch.set_num_threads(self._threads)


_one_thread = _OneThread()


def judge(classifier: Classifier, radiograph: Radiograph, features: Tensor) -> Prediction:
    """The answer from one film's features, at the classifier's operating point; a film's own, whatever its batch.

    Args:
        classifier: whose features these are.
        radiograph: the film.
        features: `(D, h, w)` float32, a row of `classifier.features`.
    """
    with torch.no_grad(), _one_thread:
        logits = classifier.head(features[None]).double()  # (1, K)
    row = (logits / classifier.temperature).softmax(1)[0].numpy()  # (K,)
    probabilities = dict(zip(classifier.label_names, row.tolist(), strict=True))
    point = classifier.operating_point
    kinds = [name for name in classifier.label_names if name != "NORMAL"]
    pneumonia = sum(probabilities[name] for name in kinds)
    positive = pneumonia >= point.threshold
    with np.errstate(divide="ignore"):
        odds = np.log([pneumonia, probabilities["NORMAL"], point.threshold, 1 - point.threshold])
    reason = None
    if abs((odds[0] - odds[1]) - (odds[2] - odds[3])) < point.uncertain_log_odds:
        reason = Reason(
            "near_threshold",
            f"P(pneumonia) is {pneumonia:.2f}, too near to the threshold of {point.threshold:.2f} to lean either way.",
        )
    return Prediction(
        status="uncertain" if reason else "ok",
        label=max(kinds, key=probabilities.__getitem__) if positive else "NORMAL",
        probabilities=probabilities,
        reason=reason,
        operating_point=point,
        model_id=classifier.id,
        revision=classifier.revision,
        _classifier=classifier,
        _radiograph=radiograph,
        _features=features,
    )
