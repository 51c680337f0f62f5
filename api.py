"""The endpoints for programs: /predict, /predict_many, /info and /health, over HTTP and as MCP tools.

Errors reach clients as a code (`title`) and a message that says what came, what was expected and what to do.
"""

import io
import logging
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import wraps
from pathlib import Path
from typing import Any

import gradio as gr
from gradio.processing_utils import save_bytes_to_cache
from gradio.utils import get_upload_folder

from pneumocam import Prediction, RadiographError, targets
from pneumocam.batching import Batcher
from pneumocam.predict import Reason, describe, rejected

ANSWERED = "the answered class"
MAX_FILMS = 32
CONCURRENCY = 16  # requests in work at once: their threads read and draw while the network's own thread computes

Film = dict[str, Any]  # gradio's FileData; Gradio has checked that the path is that of an upload


def add_endpoints(answer: Batcher) -> None:
    """Add the endpoints to the Blocks that are being made."""
    classifier = answer.classifier

    def classify_radiograph(
        image: Film, target: str = ANSWERED, operating_point: str | None = None, overlay: bool = True
    ) -> tuple[str | None, dict[str, float], dict[str, Any]]:
        """Classify a chest radiograph as normal, bacterial or viral pneumonia, and show what the network looked at.

        For research and teaching only: not a diagnosis. Made for frontal films of children of one to five years.

        Args:
            image: one film: JPEG, PNG, TIFF, BMP, WebP or DICOM, 8 or 16 bit, at most 20 MB.
            target: the class that the overlay explains; PNEUMONIA is all its kinds together.
            operating_point: where the line between normal and pneumonia is drawn.
            overlay: whether to draw the film with its Grad-CAM map; without it the answer comes sooner.

        Returns:
            The film with its labelled map, the calibrated probability of each class, and the whole prediction as JSON.
        """
        prediction = answer(_film(image), operating_point=_point(answer, operating_point))
        target = _choice("target", target, (ANSWERED, *targets(classifier)))
        picture = _png(prediction, None if target == ANSWERED else target) if overlay else None
        return picture, dict(prediction.probabilities), prediction.to_dict()

    def classify_radiographs(images: list[Film], operating_point: str | None = None) -> list[dict[str, Any]]:
        """Classify up to 32 chest radiographs: a prediction each, in their order; `rejected` where there is none.

        For research and teaching only: not a diagnosis. Made for frontal films of children of one to five years.

        Args:
            images: the films, each as in the endpoint for one.
            operating_point: where the line between normal and pneumonia is drawn.

        Returns:
            A list of predictions as JSON.
        """
        if not 1 <= len(images or ()) <= MAX_FILMS:
            raise _error(
                "bad_request", f"{len(images or ())} films came; expected 1 to {MAX_FILMS}. Send several calls."
            )

        point = _point(answer, operating_point)

        def one(image: Film) -> Prediction:
            try:
                return answer(_film(image), operating_point=point)
            except (RadiographError, gr.Error) as error:
                code = error.code if isinstance(error, RadiographError) else error.title
                return rejected(classifier.at(point), Reason(code, error.message))

        with ThreadPoolExecutor(answer.max_batch) as pool:
            return [prediction.to_dict() for prediction in pool.map(one, images)]

    def describe_model() -> dict[str, Any]:
        """Which model answers: id, revision, labels, preprocessing, operating points and measured figures.

        Returns:
            The facts as JSON, as `pneumocam info --json` prints them.
        """
        return describe(classifier)

    def check_health() -> dict[str, Any]:
        """Whether the service answers, through its queue.

        Returns:
            {"status": "ok", "model": {"id", "revision"}}.
        """
        return {"status": "ok", "model": {"id": classifier.id, "revision": classifier.revision}}

    points = list(classifier.operating_points)
    with gr.Row(visible=False):
        image = gr.File(label="image")
        images = gr.File(label="images", file_count="multiple")
        target = gr.Dropdown([ANSWERED, *targets(classifier)], value=ANSWERED, label="target")
        point = gr.Dropdown(points, value=classifier.operating_point.name, label="operating_point")
        overlay = gr.Checkbox(value=True, label="overlay")
        results = [
            gr.Image(label="overlay", format="png"),
            gr.Label(label="probabilities"),
            gr.JSON(label="prediction"),
        ]
        predictions, model, health = (gr.JSON(label=label) for label in ("predictions", "model", "health"))
        trigger = gr.Button()
    endpoints: list[tuple[str, Callable[..., Any], list[Any], list[Any], int]] = [
        ("predict", classify_radiograph, [image, target, point, overlay], results, CONCURRENCY),
        ("predict_many", classify_radiographs, [images, point], [predictions], 2),
        ("info", describe_model, [], [model], 4),
        ("health", check_health, [], [health], 4),
    ]
    for name, function, inputs, outputs, limit in endpoints:
        # Gradio's own conversion of inputs is left out: its errors have no code, and it would copy every film.
        trigger.click(
            _with_codes(function),
            inputs,
            outputs,
            api_name=name,
            preprocess=False,
            concurrency_limit=limit,
            concurrency_id=name,
        )


def _point(answer: Batcher, name: str | None) -> str:
    classifier = answer.classifier
    return _choice("operating_point", name or classifier.operating_point.name, tuple(classifier.operating_points))


def _choice(name: str, value: Any, known: tuple[str, ...]) -> str:
    if value not in known:
        raise _error("bad_request", f"{name} is {value!r:.200}; expected one of {', '.join(known)}.")
    return str(value)


def _film(image: Film | None) -> bytes:
    """The upload's bytes."""
    if not image:
        raise _error("bad_request", "No image came. Send one file: JPEG, PNG, TIFF, BMP, WebP or DICOM.")
    try:
        return Path(image["path"]).read_bytes()
    except FileNotFoundError:
        raise _error(
            "upload_gone", "The upload is not here any more: it was kept for an hour. Upload it again."
        ) from None


def _png(prediction: Prediction, target: str | None) -> str:
    """Path of the overlay in Gradio's cache; compressed as lightly as takes a fifth of the usual time."""
    buffer = io.BytesIO()
    prediction.overlay(target).save(buffer, "PNG", compress_level=1)
    return str(save_bytes_to_cache(buffer.getvalue(), "overlay.png", cache_dir=get_upload_folder()))


def _with_codes(function: Callable[..., Any]) -> Callable[..., Any]:
    """Whatever goes wrong becomes an error with a code and a sentence."""

    @wraps(function)
    def endpoint(*args: Any) -> Any:
        try:
            return function(*args)
        except gr.Error:
            raise
        except RadiographError as error:
            raise _error(error.code, error.message) from None
        except Exception as error:
            logging.getLogger(__name__).error("%s failed: %s", function.__name__, type(error).__name__)
            message = "The service failed, not your film. Try again; if it happens again, please report it."
            raise _error("internal_error", message) from None

    return endpoint


def _error(code: str, message: str) -> gr.Error:
    return gr.Error(message, title=code, print_exception=False)
