"""What the service answers, whichever interface a request comes through: typed options in, typed answers out.

HTTP, Gradio's endpoints, the MCP tools and the Inference Endpoint's handler all use these functions and models.
"""

import io
from collections.abc import Callable, Mapping
from functools import partial
from typing import Annotated, Any, Literal, NamedTuple

from PIL import Image
from pydantic import BaseModel, ConfigDict, Field

from pneumocam import DISCLAIMER, Classifier, Prediction, targets
from pneumocam.predict import try_predict
from pneumocam.regions import Quality
from pneumocam.service.errors import RequestError

Kind = Literal["png", "jpeg", "webp"]
# PNG is exact, and slow to write; the settings of the others keep the map and its labels free of visible artefacts.
WRITING: dict[Kind, dict[str, Any]] = {
    "png": {"compress_level": 1},
    "jpeg": {"quality": 92},
    "webp": {"quality": 90, "method": 0},
}
Probability = Annotated[float, Field(ge=0, le=1)]
Classify = Callable[..., Prediction]  # (source, operating_point=, prevalence=, force=) -> Prediction: a `Batcher`


class SharedOptions(BaseModel):
    """The options of every endpoint that classifies."""

    model_config = ConfigDict(extra="forbid")

    operating_point: str | None = Field(
        default=None,
        description="Threshold between NORMAL and pneumonia, by name; the model's facts tell what each one costs.",
    )
    prevalence: float | None = Field(
        default=None,
        gt=0,
        lt=1,
        description="Share of pneumonia among the images, for which probabilities are stated; by default the model's.",
    )

    force: bool = Field(
        default=False,
        description="Classify a border case that the guard refuses, and warn of it; a photograph stays refused.",
    )

    def of(self, classifier: Classifier) -> Classifier:
        """The model at these options."""
        return classifier.at(self.operating_point, prevalence=self.prevalence)

    @property
    def arguments(self) -> dict[str, Any]:
        """Keyword arguments of a `Batcher`."""
        return {"operating_point": self.operating_point, "prevalence": self.prevalence, "force": self.force}


class Options(SharedOptions):
    """Options of an endpoint that classifies one image."""

    target: str | None = Field(
        default=None,
        description="Class that the overlay explains; by default the predicted one. PNEUMONIA is all its kinds.",
    )
    overlay: Literal["none", "png", "jpeg", "webp"] | bool = Field(
        False, description="Whether to draw the image with its Grad-CAM map, and as which kind of file; true is png."
    )

    @property
    def kind(self) -> Kind | None:
        """The kind of overlay that is asked for."""
        if isinstance(self.overlay, bool):
            return "png" if self.overlay else None
        return None if self.overlay == "none" else self.overlay


class ReasonAnswer(BaseModel):
    """Why the status is not `ok`."""

    code: str = Field(description="The cause, for programs.")
    message: str = Field(description="What came, what was expected, what to do. Its words may change.")


class PointAnswer(BaseModel):
    """The threshold in use."""

    name: str
    threshold: float = Field(gt=0, lt=1, description="Pneumonia is predicted from this p_pneumonia on.")


class ModelAnswer(BaseModel):
    """The model that answered."""

    id: str = Field(description="bundled, owner/name on the Hub, or local-dir:NAME.")
    revision: str = Field(description="The commit on the Hub, or sha256: and the beginning of the weights' hash.")


class ImageAnswer(BaseModel):
    """The image as it was read."""

    format: str
    width: int = Field(description="In pixels.")
    height: int = Field(description="In pixels.")
    steps: list[str] = Field(description="Corrections and conversions that were applied, in order.")


class RegionAnswer(BaseModel):
    """A part of a map above half of its peak."""

    box: tuple[int, int, int, int] = Field(description="Left, top, right, bottom in pixels of the image.")
    score: Probability = Field(description="The greatest value in it; 1 is the most for any class of the image.")
    share: Probability = Field(description="Of the energy of the whole map.")


class MapAnswer(BaseModel):
    """What the Grad-CAM map of one class says."""

    target: str = Field(description="The class explained.")
    quality: Quality | None = Field(description="One word: whether the map can be relied on.")
    peak: Probability = Field(description="Its greatest value; 1 is the most for any class of the image.")
    inside_lungs: Probability | None = Field(description="Share of its energy inside the lung fields, if known.")
    expected_inside_lungs: Probability | None = Field(description="The same of a map with equal values.")
    steadiness: float | None = Field(ge=-1, le=1, description="Agreement of halves of the network.")
    regions: list[RegionAnswer] = Field(description="Where it lies, the part with the most energy first.")


class PredictionAnswer(BaseModel):
    """`Prediction.to_dict()`: the same from Python, command line and every interface of the service."""

    schema_version: int
    status: Literal["ok", "uncertain", "rejected"]
    label: str | None = Field(description="NORMAL, or the most probable kind of pneumonia; null if rejected.")
    probabilities: dict[str, Probability] = Field(description="Calibrated, of each class; empty if rejected.")
    p_pneumonia: Probability | None = Field(description="Of any kind of pneumonia; null if rejected.")
    prevalence: float | None = Field(
        gt=0, lt=1, description="Share of pneumonia for which the probabilities hold; null if the model has no prior."
    )
    reason: ReasonAnswer | None = Field(description="Given unless the status is ok.")
    warnings: list[ReasonAnswer] = Field(description="Doubts about the image; each makes the prediction uncertain.")
    image: ImageAnswer | None = Field(description="The image as it was read; null if rejected.")
    map: MapAnswer | None = Field(description="Facts of the map that the overlay shows; null without an overlay.")
    operating_point: PointAnswer
    model: ModelAnswer
    disclaimer: str = Field(description=DISCLAIMER)


class PredictAnswer(PredictionAnswer):
    """A prediction, with its overlay if one was asked for."""

    overlay: str | None = Field(default=None, description="Base64 of an image file.")


class ManyAnswer(BaseModel):
    """A prediction for each image, in order."""

    predictions: list[PredictionAnswer]


class Answer(NamedTuple):
    """A prediction as JSON values, and its overlay as an encoded image."""

    prediction: dict[str, Any]
    overlay: bytes | None


def parse(model: type[SharedOptions], values: Mapping[str, Any], classifier: Classifier) -> Any:
    """Options out of untyped values, checked against the model's operating points and classes.

    Raises:
        ValidationError: a value is of another type, or unknown.
        RequestError: `bad_request`; the model has no such operating point or class.
    """
    given = {name: value for name, value in values.items() if value is not None}
    return check(model.model_validate(given), classifier)


def check(options: Any, classifier: Classifier) -> Any:
    """The same options, if the model has their operating point and class; raises RequestError `bad_request` if not."""
    for name, known in choices(classifier).items():
        value = getattr(options, name, None)
        if value is not None and value not in known:
            raise RequestError("bad_request", f"{name} is {value!r:.80}; expected one of {', '.join(known)}.")
    if options.prevalence is not None and classifier.prior is None:
        raise RequestError("bad_request", "prevalence cannot be set: this model does not state its prior.")
    return options


def choices(classifier: Classifier) -> dict[str, tuple[str, ...]]:
    """The values of the options that depend on the model."""
    return {"operating_point": tuple(classifier.operating_points), "target": targets(classifier)}


def list_choices(schemas: Mapping[str, dict[str, Any]], classifier: Classifier) -> None:
    """List in the JSON schemas of options, by name, the values that depend on the model."""
    for name, known in choices(classifier).items():
        if name in schemas:
            schemas[name].pop("anyOf", None)
            schemas[name].update(type=["string", "null"], enum=[*known, None])


def classify_one(classify: Classify, data: bytes, options: Options) -> Answer:
    """Classify one image.

    Args:
        classify: as `pneumocam.predict` with a classifier.
        data: the image file.
        options: checked ones.

    Raises:
        RadiographError: the image is no usable radiograph.
    """
    prediction = classify(data, **options.arguments)
    kind = options.kind
    if kind is None:
        return Answer(prediction.to_dict(), None)
    saliency = prediction.explain(options.target)
    return Answer(prediction.to_dict(saliency), encode(prediction.overlay(options.target), kind))


def classify_or_reject(classify: Any, data: bytes, options: SharedOptions) -> Prediction:
    """Classify one image of several; an image that cannot be used is `rejected` with its reason.

    Args:
        classify: as there; has a `classifier`.
        data: the image file.
        options: checked ones.
    """
    return try_predict(options.of(classify.classifier), data, partial(classify, **options.arguments))


def classify_each(classify: Any, data: bytes, options: SharedOptions) -> dict[str, Any]:
    """`classify_or_reject` as JSON values."""
    return classify_or_reject(classify, data, options).to_dict()


def encode(image: Image.Image, kind: Kind) -> bytes:
    """An image as the bytes of a file."""
    buffer = io.BytesIO()
    image.save(buffer, kind.upper(), **WRITING[kind])
    return buffer.getvalue()
