"""The bundle format: a folder with config.json, model.safetensors and pneumocam.json, read and written here.

config.json and model.safetensors are timm's own Hub format, so the weights also load with timm alone:
`timm.create_model("hf-hub:owner/name", pretrained=True)`. pneumocam.json adds calibration, operating points and
provenance; `Description.model_json_schema()` is its JSON Schema. metrics.json is optional.
"""

import json
import math
from pathlib import Path
from typing import Annotated, Any, Literal, NamedTuple, Self, TypeVar

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, ValidationError, model_validator
from pydantic_core import PydanticCustomError

SCHEMA_VERSION = 1
LABELS = (("NORMAL", "BACTERIAL", "VIRAL"), ("NORMAL", "PNEUMONIA"))
FILES = ("config.json", "model.safetensors", "pneumocam.json")
OPTIONAL_FILES = ("metrics.json", "guard.json", "guard.safetensors")

_Model = TypeVar("_Model", bound=BaseModel)
_Json = TypeVar("_Json")


class BundleError(ValueError):
    """A model cannot be loaded; the message names the file, what was expected, what was found, what to do."""


def _known_version(version: int) -> int:
    if version != SCHEMA_VERSION:
        raise PydanticCustomError(
            "version",
            "this version of pneumocam reads {known}. Update whichever of the two is older.",
            {"known": SCHEMA_VERSION},
        )
    return version


def _known_labels(labels: tuple[str, ...]) -> tuple[str, ...]:
    if labels not in LABELS:
        known = " or ".join(str(list(x)) for x in LABELS)
        raise PydanticCustomError("labels", "expected {known}.", {"known": known})
    return labels


def _shares(prior: dict[str, float]) -> dict[str, float]:
    if not math.isclose(sum(prior.values()), 1, abs_tol=1e-3):
        raise PydanticCustomError("prior", "expected shares with a sum of 1.")
    return prior


Positive = Annotated[float, Field(ge=1e-6, le=1e6, allow_inf_nan=False)]
Probability = Annotated[float, Field(ge=1e-6, le=1 - 1e-6, allow_inf_nan=False)]
Share = Annotated[float, Field(gt=0, lt=1, allow_inf_nan=False)]
Side = Annotated[int, Field(ge=1, le=2048)]
Number = Annotated[float, Field(ge=-1000, le=1000, allow_inf_nan=False)]
Labels = Annotated[tuple[str, ...], AfterValidator(_known_labels)]


class _Part(BaseModel):
    """A JSON object. Keys that this version does not know are kept, so that a rewritten file does not lose them."""

    model_config = ConfigDict(strict=True, extra="allow", frozen=True, protected_namespaces=())


class Preprocessing(_Part):
    """How an image becomes the network's input: timm's `pretrained_cfg`.

    Attributes:
        input_size: channels (1 or 3), height, width.
        interpolation: of the resize.
        mean, std: one number a channel, for pixel values in [0, 1].
        crop_pct: share of the resized image's side that is kept, in [0.1, 1].
        crop_mode: `squash` ignores the aspect ratio, `center` crops, `border` pads.
    """

    input_size: tuple[Literal[1, 3], Side, Side]
    interpolation: Literal["nearest", "bilinear", "bicubic", "box", "hamming", "lanczos"]
    mean: tuple[Number, ...]
    std: tuple[Annotated[float, Field(ge=1e-6, le=1000, allow_inf_nan=False)], ...]
    crop_pct: Annotated[float, Field(ge=0.1, le=1, allow_inf_nan=False)]
    crop_mode: Literal["squash", "center", "border"]

    @model_validator(mode="after")
    def _one_a_channel(self) -> Self:
        for name in ("mean", "std"):
            if len(getattr(self, name)) != self.input_size[0]:
                raise PydanticCustomError(
                    "channels",
                    "expected {channels} number(s) for {name}, one a channel.",
                    {"channels": self.input_size[0], "name": name},
                )
        return self


class NetworkConfig(_Part):
    """config.json, as timm reads and writes it.

    Attributes:
        architecture: the name of a model of timm.
        label_names: in the order of the logits.
        num_classes: as many as labels.
        model_args: further arguments of `timm.create_model`.
        pretrained_cfg: the preprocessing.
    """

    architecture: str
    label_names: Labels
    num_classes: int
    model_args: dict[str, Any] | None = None
    pretrained_cfg: Preprocessing

    @model_validator(mode="after")
    def _one_a_label(self) -> Self:
        if self.num_classes != len(self.label_names):
            raise PydanticCustomError(
                "classes",
                "num_classes is {found}; expected {labels}, one a label.",
                {"found": self.num_classes, "labels": len(self.label_names)},
            )
        return self


class Band(_Part):
    """The uncertain predictions of held-out images.

    Attributes:
        share: of all predictions, in [0, 1].
        error: share of wrong ones among the uncertain ones, in [0, 1]; None if there were none.
    """

    share: Annotated[float, Field(ge=0, le=1)]
    error: Annotated[float, Field(ge=0, le=1)] | None = None


class Point(_Part):
    """An operating point: the threshold between NORMAL and pneumonia.

    Attributes:
        threshold: pneumonia from this P(pneumonia) on.
        uncertain_log_odds: a prediction nearer to the threshold than this, in log-odds, is uncertain.
        band: what was measured on the uncertain predictions, if it was.
    """

    threshold: Probability
    uncertain_log_odds: Annotated[float, Field(ge=0, le=100, allow_inf_nan=False)]
    band: Band | None = None


class Description(_Part):
    """pneumocam.json: what a bundle holds beside timm's files.

    Attributes:
        schema_version: of this format.
        temperature: the logits are divided by it before the softmax (Guo et al. 2017).
        prior: share of each label for which the calibrated probabilities hold; without it, a prediction cannot be
            stated for another prevalence.
        operating_points: by name.
        default_operating_point: one of these names.
        training: provenance: recipe, manifest, counts, versions.
    """

    schema_version: Annotated[int, AfterValidator(_known_version)] = Field(json_schema_extra={"const": SCHEMA_VERSION})
    temperature: Positive
    prior: Annotated[dict[str, Share], AfterValidator(_shares)] | None = None
    operating_points: dict[str, Point]
    default_operating_point: str
    training: dict[str, Any] = Field(default_factory=dict)

    @model_validator(mode="after")
    def _default_exists(self) -> Self:
        if self.default_operating_point not in self.operating_points:
            raise PydanticCustomError(
                "default",
                "default_operating_point is {found}; expected one of operating_points ({known}).",
                {"found": self.default_operating_point, "known": ", ".join(self.operating_points)},
            )
        return self


class GuardThresholds(_Part):
    """The limits of the guard: logits of its heads, unless said otherwise.

    Attributes:
        chest: an image below it is refused.
        forced: an image below it is refused even if a prediction is forced.
        pose: by how much, in log-probability, another pose has to be likelier before an image is corrected.
        lung_area: smallest and largest share of a radiograph that its lung fields cover.
        edges: share of the top, bottom, left and right edge of the image from which lung fields lying on it count as
            cut off.
        distance: Mahalanobis distance from the training radiographs, from which a radiograph is unlike them.
        far: distance from which an image is refused.
        lateral, cut_off, poor_quality: above it, the warning is given.
        detail: least and most detail, as of `pneumocam.guard.detail`; beyond them the warning `poor_quality` is given.
    """

    chest: Number
    forced: Number
    pose: Number
    lung_area: tuple[Probability, Probability]
    edges: tuple[Number, Number, Number, Number] = (1.0, 1.0, 1.0, 1.0)
    distance: Positive
    far: Positive
    lateral: Number
    cut_off: Number
    poor_quality: Number
    detail: tuple[Number, Number] = (0.0, 1000.0)


class GuardDescription(_Part):
    """guard.json: what belongs to the weights in guard.safetensors.

    Attributes:
        schema_version: of this format.
        thresholds: the guard's limits.
        training: provenance: recipe, manifest, counts, versions.
        measured: figures written by `train.guard`, with the number of images and 95% intervals.
    """

    schema_version: Annotated[int, AfterValidator(_known_version)] = Field(json_schema_extra={"const": SCHEMA_VERSION})
    thresholds: GuardThresholds
    training: dict[str, Any] = Field(default_factory=dict)
    measured: dict[str, Any] = Field(default_factory=dict)


class Bundle(NamedTuple):
    """The JSON files of a bundle, checked."""

    config: NetworkConfig
    description: Description
    metrics: dict[str, Any] | None


def read_bundle(folder: Path) -> Bundle:
    """Read and check the JSON files of a bundle; the weights only have to be there.

    Raises:
        BundleError: a file is missing, damaged, or not of this format.
    """
    for name in FILES:
        if not (folder / name).is_file():
            raise BundleError(f"{folder / name} is missing: expected a bundle with {', '.join(FILES)}.")
    config = _read(NetworkConfig, folder / "config.json")
    description = read_description(folder)
    if description.prior and description.prior.keys() != set(config.label_names):
        raise BundleError(
            f"{folder / 'pneumocam.json'}: prior names {', '.join(description.prior)}; expected "
            f"{', '.join(config.label_names)}, the labels of config.json. Fetch or write the bundle again."
        )
    return Bundle(config, description, _read_metrics(folder / "metrics.json"))


def read_description(folder: Path) -> Description:
    """Read and check pneumocam.json.

    Raises:
        BundleError: it is damaged or not of this format.
    """
    return _read(Description, folder / "pneumocam.json")


def read_guard(folder: Path) -> GuardDescription | None:
    """Read and check guard.json; None if the bundle has no guard.

    Raises:
        BundleError: it is damaged or not of this format.
    """
    path = folder / "guard.json"
    return _read(GuardDescription, path) if path.is_file() else None


def write_description(folder: Path, description: Description) -> None:
    """Write pneumocam.json; a reader sees the old file or the new one, never a part."""
    _write(folder / "pneumocam.json", description)


def write_guard(folder: Path, description: GuardDescription) -> None:
    """Write guard.json in the same way."""
    _write(folder / "guard.json", description)


def _write(path: Path, description: Description | GuardDescription) -> None:
    temporary = path.with_name(path.name + ".tmp")
    text = json.dumps(description.model_dump(exclude_none=True), indent=2)
    temporary.write_text(text + "\n", encoding="utf-8")
    temporary.replace(path)


def write_bundle(
    folder: Path, network: Any, label_names: tuple[str, ...], preprocessing: dict[str, Any], description: Description
) -> None:
    """Write config.json, model.safetensors (half precision) and pneumocam.json.

    Args:
        folder: is made if it does not exist.
        network: a timm model; it is converted to half precision in place.
        label_names: in the order of the logits.
        preprocessing: timm's data config, the fields of `Preprocessing`.
        description: the content of pneumocam.json.
    """
    import timm
    import torch

    timm.models.save_for_hf(
        network.half().cpu().to(memory_format=torch.contiguous_format),
        str(folder),
        model_config={"label_names": list(label_names)},
        data_config=preprocessing,
        safe_serialization=True,
    )
    write_description(folder, description)


def _read(model: type[_Model], path: Path) -> _Model:
    try:
        return model.model_validate_json(path.read_bytes())
    except (ValidationError, OSError) as error:
        raise BundleError(f"{path}{_problem(error)}") from None


def _read_metrics(path: Path) -> dict[str, Any] | None:
    if not path.is_file():
        return None
    try:
        metrics = json.loads(path.read_bytes())
    except (ValueError, OSError, RecursionError) as error:
        raise BundleError(f"{path} is damaged: expected JSON, found {error}. Fetch the bundle again.") from None
    if not isinstance(metrics, dict):
        raise BundleError(f"{path}: expected a JSON object, found a {type(metrics).__name__}. Measure the model again.")
    return metrics


def _problem(error: ValidationError | OSError) -> str:
    """The first problem as the rest of a sentence that starts with the file's name."""
    if isinstance(error, OSError):
        return f" cannot be read: {error.strerror}. Fetch or write the bundle again."
    first = error.errors(include_url=False)[0]
    place = ".".join(map(str, first["loc"]))
    found, message = first["input"], first["msg"]
    match first["type"]:
        case "json_invalid":
            return (
                f" is damaged: expected JSON, found {message.removeprefix('Invalid JSON: ')}. Fetch the bundle again."
            )
        case "missing":
            return f": {place} is missing; this field is required. Fetch or write the bundle again."
        case "version" | "labels" | "prior":
            return f": {place} is {found!r:.200}; {message}"
        case "channels" | "classes" | "default":
            return f": {place + ': ' if place else ''}{message}"
    expected = message.replace("Input should be", "expected").replace("Input should", "expected to")
    subject = f"{place} is {found!r:.200}" if place else f"found a {type(found).__name__}"
    return f": {subject}; {expected}. Fetch or write the bundle again."
