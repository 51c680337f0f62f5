"""Gradio's interface: endpoints for `gradio_client` and `@gradio/client`, with Gradio's own queue and uploads."""

import inspect
from collections.abc import Awaitable, Callable
from functools import partial
from typing import Any

import gradio as gr
from gradio.processing_utils import save_bytes_to_cache

from pneumocam import targets
from pneumocam.service.api import Options, SharedOptions, parse
from pneumocam.service.endpoints import Endpoints
from pneumocam.service.errors import RequestError, explain

PREDICTED = "the predicted class"
UPLOAD = 'Upload it to /gradio_api/upload and send {"path": ..., "meta": {"_type": "gradio.FileData"}}.'
Endpoint = Callable[..., Awaitable[Any]]


def blocks(endpoints: Endpoints) -> gr.Blocks:
    """A Gradio app of the endpoints alone; its components tell clients the types of arguments and results."""
    classifier, limits = endpoints.classifier, endpoints.limits
    deletion = min(60, limits.kept_seconds), limits.kept_seconds  # looked for how often, at what age
    folder = str(endpoints.uploads.folder) if endpoints.uploads else ""

    async def predict(
        image: Any, target: Any, operating_point: Any, overlay: Any, prevalence: Any = None, force: Any = False
    ) -> Any:
        """Classify a chest radiograph as normal, bacterial or viral pneumonia, and show what the network looked at.

        For research and teaching only: not a diagnosis. Made for frontal radiographs of children of one to five years.

        Args:
            image: The radiograph: JPEG, PNG, TIFF, BMP, WebP or DICOM, 8 or 16 bit, at most 20 MB.
            target: The class that the overlay explains; PNEUMONIA is all its kinds together.
            operating_point: The threshold between NORMAL and pneumonia, by name; /info tells what each one costs.
            overlay: Whether to draw the image with its Grad-CAM map; without it the answer comes sooner.
            prevalence: The share of pneumonia among the images, between 0 and 1; by default the model's.
            force: Whether to classify a border case that the guard refuses; a photograph stays refused.
        """
        values = {"operating_point": operating_point, "prevalence": prevalence, "force": force, "overlay": overlay}
        options = parse(Options, values | {"target": None if target == PREDICTED else target}, classifier)
        answer, drawn = await endpoints.classify_radiograph(_read(image), options)
        path = save_bytes_to_cache(drawn, f"overlay.{options.kind}", cache_dir=folder) if drawn else None
        return path, answer["probabilities"], answer

    async def predict_many(images: Any, operating_point: Any, prevalence: Any = None, force: Any = False) -> Any:
        """Classify up to 32 chest radiographs: a prediction for each, in their order, without overlays.

        An image that cannot be used is rejected with its reason and affects no other.
        For research and teaching only: not a diagnosis. Made for frontal radiographs of children of one to five years.

        Args:
            images: The radiographs: JPEG, PNG, TIFF, BMP, WebP or DICOM, 8 or 16 bit, at most 20 MB each.
            operating_point: The threshold between NORMAL and pneumonia, by name; /info tells what each one costs.
            prevalence: The share of pneumonia among the images, between 0 and 1; by default the model's.
            force: Whether to classify a border case that the guard refuses; a photograph stays refused.
        """
        if not isinstance(images, list):
            raise RequestError("bad_request", f"images is not a list; expected 1 to {limits.images} files. {UPLOAD}")
        values = {"operating_point": operating_point, "prevalence": prevalence, "force": force}
        options = parse(SharedOptions, values, classifier)
        return await endpoints.classify_radiographs([partial(_read, file) for file in images], options)

    async def info() -> Any:
        """Tell which model answers: id, revision, labels, preprocessing, operating points and measured figures."""
        return await endpoints.describe_model()

    async def health() -> Any:
        """Tell whether the service answers, and with which model."""
        return await endpoints.check_health()

    def _read(file: Any) -> bytes:
        path = file.get("path") if isinstance(file, dict) else None
        if not isinstance(path, str) or not endpoints.uploads:
            raise RequestError("bad_request", f"No image came; expected one file. {UPLOAD}")
        return endpoints.uploads.read(path)

    with gr.Blocks(title="PneumoCAM", analytics_enabled=False, delete_cache=deletion) as demo:
        image, images = gr.File(label="image"), gr.File(label="images", file_count="multiple")
        target = gr.Dropdown([PREDICTED, *targets(classifier)], value=PREDICTED, label="target")
        point = gr.Dropdown(
            list(classifier.operating_points), value=classifier.operating_point.name, label="operating_point"
        )
        overlay = gr.Checkbox(value=True, label="overlay")
        share, force = gr.Number(value=classifier.prevalence, label="prevalence"), gr.Checkbox(label="force")
        picture, shares = gr.Image(label="overlay", format="png"), gr.Label(label="probabilities")
        events: list[tuple[Endpoint, list[Any], list[Any]]] = [
            (predict, [image, target, point, overlay, share, force], [picture, shares, gr.JSON(label="prediction")]),
            (predict_many, [images, point, share, force], [gr.JSON(label="predictions")]),
            (info, [], [gr.JSON(label="model")]),
            (health, [], [gr.JSON(label="health")]),
        ]
        for function, inputs, outputs in events:
            gr.Button().click(
                _explained(function),
                inputs,
                outputs,
                api_name=function.__name__,
                api_description=_description(function),
                preprocess=False,  # Gradio's own conversion of files and choices has errors without a code
                concurrency_limit=limits.at_work,
            )
    queued: gr.Blocks = demo.queue(max_size=limits.waiting, api_open=False)
    return queued


def _description(function: Endpoint) -> str:
    """The docstring with its arguments, as one text: clients see nothing else of it."""
    return " ".join((function.__doc__ or "").split())


def _explained(function: Endpoint) -> Endpoint:
    """The same function, whose every error has a code as its title."""

    async def endpoint(*arguments):  # type: ignore[no-untyped-def] # Gradio would evaluate annotations in every call
        try:
            return await function(*arguments)
        except Exception as error:
            _, code, message = explain(error)
            raise gr.Error(message, title=code, print_exception=False) from None

    endpoint.__name__, endpoint.__doc__ = function.__name__, function.__doc__
    endpoint.__signature__ = inspect.signature(function)  # type: ignore[attr-defined]
    return endpoint
