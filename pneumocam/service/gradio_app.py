"""Gradio's interface: endpoints for `gradio_client` and `@gradio/client`, with Gradio's own queue and uploads."""

import inspect
from collections.abc import Awaitable, Callable
from functools import partial
from typing import Any

from pydantic import BaseModel

from pneumocam import targets
from pneumocam.service.api import Options, SharedOptions, parse
from pneumocam.service.endpoints import Endpoints
from pneumocam.service.errors import RequestError, explain
from pneumocam.service.light_gradio import gradio as gr
from pneumocam.service.light_gradio import save_bytes_to_cache
from pneumocam.service.limits import MB

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
        values = {"operating_point": operating_point, "prevalence": prevalence, "force": force, "overlay": overlay}
        options = parse(Options, values | {"target": None if target == PREDICTED else target}, classifier)
        answer, drawn = await endpoints.classify_radiograph(_read(image), options)
        path = save_bytes_to_cache(drawn, f"overlay.{options.kind}", cache_dir=folder) if drawn else None
        return path, answer["probabilities"], answer

    async def predict_many(images: Any, operating_point: Any, prevalence: Any = None, force: Any = False) -> Any:
        if not isinstance(images, list):
            raise RequestError("bad_request", f"images is not a list; expected 1 to {limits.images} files. {UPLOAD}")
        values = {"operating_point": operating_point, "prevalence": prevalence, "force": force}
        options = parse(SharedOptions, values, classifier)
        return await endpoints.classify_radiographs([partial(_read, file) for file in images], options)

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
        formats = "JPEG, PNG, TIFF, BMP, WebP, AVIF, JPEG 2000 or DICOM, 8 or 16 bit"
        kinds = f"{formats}, at most {limits.image_bytes / MB:g} MB"
        one = _description(endpoints.classify_radiograph, f"image: {kinds}.", Options)
        many = _description(
            endpoints.classify_radiographs, f"images: at most {limits.images}; {kinds} each.", SharedOptions
        )
        shown = [picture, shares, gr.JSON(label="prediction")]
        events: list[tuple[str, Endpoint, str, list[Any], list[Any]]] = [
            ("predict", predict, one, [image, target, point, overlay, share, force], shown),
            ("predict_many", predict_many, many, [images, point, share, force], [gr.JSON(label="predictions")]),
            ("info", endpoints.describe_model, _description(endpoints.describe_model), [], [gr.JSON(label="model")]),
            ("health", endpoints.check_health, _description(endpoints.check_health), [], [gr.JSON(label="health")]),
        ]
        for name, function, description, inputs, outputs in events:
            gr.Button().click(
                _explained(function),
                inputs,
                outputs,
                api_name=name,
                api_description=description,
                preprocess=False,  # Gradio's own conversion of files and choices has errors without a code
                concurrency_limit=limits.at_work,
            )
    queued: gr.Blocks = demo.queue(max_size=limits.waiting, api_open=False)
    # By default Gradio looks for calls a thousand times a second, which takes a tenth of a core while there are none.
    queued._queue.sleep_when_free, queued._queue.progress_update_sleep_when_free = 0.01, 0.1
    return queued


def _description(endpoint: Endpoint, images: str = "", options: type[BaseModel] = BaseModel) -> str:
    """The docstring and what the arguments are, as one text: clients see nothing else of an endpoint."""
    arguments = [f"{name}: {field.description}" for name, field in options.model_fields.items()]
    return " ".join(" ".join([endpoint.__doc__ or "", images, *arguments]).split())


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
