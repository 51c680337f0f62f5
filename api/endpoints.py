"""What the endpoints do, whoever asks: film and arguments in, prediction out, or an error with a code."""

import base64
import inspect
import io
import json
import logging
import traceback
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, NoReturn
from urllib.parse import unquote

import gradio as gr
from gradio.utils import get_function_description, get_upload_folder
from gradio_client.utils import is_http_url_like

from pneumocam import NotAnImage, Prediction, RadiographError, targets
from pneumocam.batching import Batcher
from pneumocam.predict import Reason, describe, rejected

ANSWERED = "the answered class"
MAX_FILMS = 32
ROOT = Path(__file__).parents[1]
SCHEMA: dict[str, Any] = json.loads((ROOT / "docs" / "prediction.schema.json").read_text())
ERRORS = (
    *("bad_request", "busy", "internal_error"),  # of the request; all others are of the film
    *(x for x in SCHEMA["$defs"]["code"]["enum"] if x not in ("near_threshold", "unreadable_file")),
)
SENDING = (
    "Send the file's own bytes as a data: URL or base64, or upload it to /gradio_api/upload and send the path that is "
    "answered. No web address is fetched."
)
_FILE_ROUTE = "/gradio_api/file="

Film = dict[str, Any] | str  # over HTTP Gradio's FileData of an upload; from a tool a text, see SENDING
logger = logging.getLogger(__name__)


class UploadGone(RadiographError):  # noqa: N818 - as its siblings
    """There is no such upload."""

    code = "upload_gone"

    def __init__(self) -> None:
        super().__init__(
            "There is no such upload here, or not any more: it is kept for an hour. Upload the film again."
        )


class Endpoints:
    """The four of them. Clients are told what their docstrings say.

    Attributes:
        answer: what answers.
        classifier: its model.
    """

    def __init__(self, answer: Batcher) -> None:
        """Serve one model."""
        self.answer = answer
        self.classifier = answer.classifier

    def named(self) -> dict[str, Callable[..., Any]]:
        """By their names in the API; those of the methods are the tools'."""
        return {
            "predict": self.classify_radiograph,
            "predict_many": self.classify_radiographs,
            "info": self.describe_model,
            "health": self.check_health,
        }

    def classify_radiograph(
        self, image: Film, target: str | None = ANSWERED, operating_point: str | None = None, overlay: bool = True
    ) -> tuple[Prediction, bytes | None]:
        """Classify a chest radiograph as normal, bacterial or viral pneumonia, and show what the network looked at.

        For research and teaching only: not a diagnosis. Made for frontal films of children of one to five years.

        Args:
            image: The film: JPEG, PNG, TIFF, BMP, WebP or DICOM, 8 or 16 bit, at most 20 MB.
            target: The class that the overlay explains; PNEUMONIA is all its kinds together.
            operating_point: Where the line to pneumonia is drawn; the model's facts tell what each one costs.
            overlay: Whether to draw the film with its Grad-CAM map; without it the answer comes sooner.

        Returns:
            The film with its labelled map, the calibrated probability of each class, and the whole prediction as JSON.
        """
        point = self._point(operating_point)
        target = _choice("target", ANSWERED if target is None else target, (ANSWERED, *targets(self.classifier)))
        if not isinstance(overlay, bool):
            refuse(f"overlay is {overlay!r:.80}; expected true or false.")
        prediction = self.answer(_bytes(image), operating_point=point)
        return prediction, _png(prediction, None if target == ANSWERED else target) if overlay else None

    def classify_radiographs(self, images: list[Film], operating_point: str | None = None) -> list[Prediction]:
        """Classify up to 32 chest radiographs: a prediction for each, in their order, without overlays.

        A film that cannot be used is rejected with its reason and spoils no other.
        For research and teaching only: not a diagnosis. Made for frontal films of children of one to five years.

        Args:
            images: The films: JPEG, PNG, TIFF, BMP, WebP or DICOM, 8 or 16 bit, at most 20 MB each.
            operating_point: Where the line to pneumonia is drawn; the model's facts tell what each one costs.

        Returns:
            The predictions as JSON.
        """
        point = self._point(operating_point)
        if not isinstance(images, list) or not 1 <= len(images) <= MAX_FILMS:
            came = f"has {len(images)} films" if isinstance(images, list) else f"is {_kind(images)}"
            refuse(f"images {came}; expected a list of 1 to {MAX_FILMS}. Send more in several calls.")

        def one(image: Film) -> Prediction:
            try:
                return self.answer(_bytes(image), operating_point=point)
            except RadiographError as error:
                return rejected(self.classifier.at(point), Reason(error.code, error.message))
            except gr.Error as error:  # it is none at all
                return rejected(self.classifier.at(point), Reason(NotAnImage.code, error.message))

        with ThreadPoolExecutor(self.answer.max_batch) as pool:
            return list(pool.map(one, images))

    def describe_model(self) -> dict[str, Any]:
        """Tell which model answers: id, revision, labels, preprocessing, operating points and measured figures.

        Returns:
            The facts as JSON, as `pneumocam info --json` prints them.
        """
        return describe(self.classifier)

    def check_health(self) -> dict[str, Any]:
        """Tell whether the service answers, and as which model.

        Returns:
            {"status": "ok", "model": {"id": ..., "revision": ...}}
        """
        return {"status": "ok", "model": {"id": self.classifier.id, "revision": self.classifier.revision}}

    def inputs(self, method: Callable[..., Any], film: dict[str, Any], sending: str) -> dict[str, Any]:
        """JSON Schema of the arguments of one of the endpoints.

        Args:
            method: of this class.
            film: the schema of one film.
            sending: how a film is sent, in words.
        """
        _, texts, _ = get_function_description(method)
        point, points = self.classifier.operating_point.name, list(self.classifier.operating_points)
        types: dict[str, dict[str, Any]] = {
            "image": film,
            "images": {"type": "array", "minItems": 1, "maxItems": MAX_FILMS, "items": film},
            "target": {"type": "string", "enum": [ANSWERED, *targets(self.classifier)], "default": ANSWERED},
            "operating_point": {"type": "string", "enum": points, "default": point},
            "overlay": {"type": "boolean", "default": True},
        }
        for name in {"image", "images"} & texts.keys():
            texts[name] += f" {sending}"
        names = list(inspect.signature(method).parameters)
        return {
            "type": "object",
            "properties": {name: types[name] | {"description": texts[name]} for name in names},
            "required": names[:1],
            "additionalProperties": False,
        }

    def _point(self, name: str | None) -> str:
        default = self.classifier.operating_point.name
        return _choice("operating_point", default if name is None else name, tuple(self.classifier.operating_points))


def schema_at(place: str) -> dict[str, Any]:
    """The schema of a prediction, its references made for a place in another document, such as "#/properties/x"."""
    body = {key: value for key, value in SCHEMA.items() if key not in ("$id", "$schema")}
    schema: dict[str, Any] = json.loads(json.dumps(body).replace('"#/', f'"{place}/'))
    return schema


def _choice(name: str, value: Any, known: tuple[str, ...]) -> str:
    if value not in known:
        refuse(f"{name} is {value!r:.80}; expected one of {', '.join(known)}.")
    return str(value)


def _bytes(image: Any) -> bytes:
    if isinstance(image, str) and image:
        return _bytes_of_text(image)
    if not isinstance(image, dict) or not isinstance(image.get("path"), str):
        refuse(f"{'No film' if image in (None, '') else _kind(image).capitalize()} came; expected one file. {SENDING}")
    return _upload(image["path"])


def _kind(value: Any) -> str:
    names = {
        bool: "true or false",
        int: "a number",
        float: "a number",
        str: "a text",
        list: "a list",
        dict: "an object",
    }
    return names.get(type(value), "null")


def _bytes_of_text(text: str) -> bytes:
    if _FILE_ROUTE in text[:500]:  # as `gradio upload-mcp` names what it uploads
        return _upload(unquote(text.partition(_FILE_ROUTE)[2]))
    folder = get_upload_folder()
    if text.startswith((folder, str(Path(folder).parent / "run-"))):  # of before a restart: see server/folder.py
        return _upload(text)
    if is_http_url_like(text):
        raise NotAnImage(f"A web address came. {SENDING}")
    if text.startswith("data:"):
        text = text.partition(",")[2]
    try:
        return base64.b64decode("".join(text.split()).encode(), validate=True)
    except ValueError:
        raise NotAnImage(f"A text came that is no base64. {SENDING}") from None


def _upload(path: str) -> bytes:
    try:
        file = Path(path).resolve()
        if file.is_relative_to(Path(get_upload_folder()).resolve()):
            return file.read_bytes()
    except (OSError, ValueError, RuntimeError):  # not there; no path at all; links in a circle
        pass
    raise UploadGone()


def _png(prediction: Prediction, target: str | None) -> bytes:
    """The overlay, compressed as lightly as takes a fifth of the usual time."""
    buffer = io.BytesIO()
    prediction.overlay(target).save(buffer, "PNG", compress_level=1)
    return buffer.getvalue()


# Errors


def refuse(message: str) -> NoReturn:
    """Raise what says that the request itself is wrong."""
    raise error_of("bad_request", message)


def error_of(code: str, message: str) -> gr.Error:
    """An error as Gradio hands it on."""
    return gr.Error(message, title=code, print_exception=False)


def coded(error: Exception) -> gr.Error:
    """What a client is told of an exception, whichever it is."""
    if isinstance(error, gr.Error):
        return error
    if isinstance(error, RadiographError):
        return error_of(error.code, error.message)
    # Where, but not its message, which may name files.
    logger.error("%s in\n%s", type(error).__name__, "".join(traceback.format_tb(error.__traceback__)))
    return error_of("internal_error", "The service failed, not your film. Try again; if it happens again, report it.")
