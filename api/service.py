"""The endpoints in Gradio, which brings the queue, the uploads and the clients."""

from collections.abc import Callable
from functools import partial, wraps
from pathlib import Path
from typing import Any, Literal

import gradio as gr
import gradio.mcp
from gradio.exceptions import InvalidPathError
from gradio.processing_utils import save_bytes_to_cache
from gradio.utils import get_function_params, get_upload_folder
from gradio_client.utils import is_file_obj_with_meta, is_http_url_like, traverse
from starlette.requests import Request
from starlette.responses import JSONResponse
from starlette.routing import Route

from api.endpoints import ANSWERED, Endpoints, UploadGone, coded, refuse
from api.openapi import openapi
from api.tools import Tools
from pneumocam import targets
from pneumocam.batching import Batcher

CONCURRENCY = 16  # calls in work at once: their threads read and draw while the network's own thread computes
EXAMPLE = "examples/person1946_bacteria_4874.jpeg"


class Service(gr.Blocks):
    """Blocks of which every failure has a code, with MCP tools and an OpenAPI document of their own.

    Attributes:
        endpoints: what the API does.
    """

    def __init__(self, answer: Batcher, **options: Any) -> None:
        """Blocks over one model.

        Args:
            answer: what answers.
            options: of `gr.Blocks`.
        """
        super().__init__(**options)
        self.endpoints = Endpoints(answer)
        self._names = frozenset(self.endpoints.named())

    async def preprocess_data(self, block_fn: Any, inputs: list[Any], *arguments: Any, **options: Any) -> list[Any]:
        """As Gradio's, but that nothing is fetched from elsewhere, and what cannot be taken is said."""
        try:
            traverse(inputs, _refuse_address, is_file_obj_with_meta)
            checked: list[Any] = await super().preprocess_data(block_fn, inputs, *arguments, **options)
        except gr.Error:
            raise
        except InvalidPathError:
            raise coded(UploadGone()) from None
        except Exception:
            names = ", ".join(name for name, *_ in get_function_params(block_fn.fn)) or "none"
            refuse(
                f"The inputs are not understood. Expected are, in this order: {names}. A film is the object "
                '{"path": what /gradio_api/upload answered, "meta": {"_type": "gradio.FileData"}}.'
            )
        return checked

    async def process_api(self, block_fn: Any, *arguments: Any, **options: Any) -> dict[str, Any]:
        """As Gradio's, but that every failure has a code and a message, and that no session is kept of the API's."""
        try:
            answer: dict[str, Any] = await super().process_api(block_fn, *arguments, **options)
        except Exception as error:
            raise coded(error) from None
        finally:
            if block_fn.api_name in self._names:  # who keep nothing, but Gradio would keep 64 KB for each caller
                self.state_holder.session_data.pop(options.get("session_hash", ""), None)
                self.state_holder.time_last_used.pop(options.get("session_hash", ""), None)
        return answer

    def launch(self, *arguments: Any, app_kwargs: dict[str, Any] | None = None, **options: Any) -> Any:
        """As Gradio's, with the tools and the OpenAPI document in the place of Gradio's own."""
        # Gradio makes its server by this name, and there is no other way in.
        gradio.mcp.GradioMCPServer = Tools  # type: ignore[misc]
        for block in self.blocks.values():
            # Gradio asks every part of the page anew for each caller, which took a quarter of the server's time.
            block.get_config = partial(dict, block.get_config())  # type: ignore[method-assign]
        given = app_kwargs or {}
        routes = [Route("/gradio_api/openapi.json", self._openapi), *given.get("routes", ())]
        return super().launch(*arguments, app_kwargs={**given, "routes": routes}, **options)

    def _openapi(self, request: Request) -> JSONResponse:
        return JSONResponse(openapi(self.endpoints, request.scope.get("root_path") or "/"))


def _refuse_address(file: dict[str, Any]) -> dict[str, Any]:
    if is_http_url_like(file["path"]):
        refuse("A web address came, and none is fetched. Upload the film to /gradio_api/upload and send its path.")
    return file


def _file(label: str, file_count: Literal["single", "multiple"] = "single") -> gr.File:
    """gr.File of which the example, in the documents that Gradio makes, is a film."""
    file = gr.File(label=label, file_count=file_count)
    example = {"path": EXAMPLE, "url": EXAMPLE, "orig_name": Path(EXAMPLE).name, "meta": {"_type": "gradio.FileData"}}
    payload, value = (example, EXAMPLE) if file_count == "single" else ([example], [EXAMPLE])
    # Not by a subclass: Gradio writes a file beside the source of every one.
    file.example_payload, file.example_value = lambda: payload, lambda: value  # type: ignore[method-assign]
    return file


def add_endpoints(service: Service) -> None:
    """Add the endpoints to a Service that is being made."""
    methods, classifier = service.endpoints.named(), service.endpoints.classifier
    default = classifier.operating_point.name
    with gr.Row(visible=False):
        image, images = _file("image"), _file("images", "multiple")
        target = gr.Dropdown([ANSWERED, *targets(classifier)], value=ANSWERED, label="target")
        point = gr.Dropdown(list(classifier.operating_points), value=default, label="operating_point")
        overlay = gr.Checkbox(value=True, label="overlay")
        picture, shares = gr.Image(label="overlay", format="png"), gr.Label(label="probabilities")
        prediction, predictions, model, health = (
            gr.JSON(label=label) for label in ("prediction", "predictions", "model", "health")
        )
        trigger = gr.Button()
    ports: dict[str, tuple[list[Any], list[Any], int]] = {
        "predict": ([image, target, point, overlay], [picture, shares, prediction], CONCURRENCY),
        "predict_many": ([images, point], [predictions], 2),
        "info": ([], [model], 4),
        "health": ([], [health], 4),
    }
    for name, (inputs, outputs, limit) in ports.items():
        trigger.click(
            _over_http(methods[name]),
            inputs,
            outputs,
            api_name=name,
            preprocess=False,  # Gradio's own conversion has errors without a code
            concurrency_limit=limit,
            concurrency_id=name,
        )


def _over_http(method: Callable[..., Any]) -> Callable[..., Any]:
    """One of the endpoints, with answers that Gradio's components take."""

    # Without annotations, which Gradio would evaluate anew in every call.
    @wraps(method, assigned=("__name__", "__doc__"))
    def endpoint(*arguments):  # type: ignore[no-untyped-def]
        answer = method(*arguments)
        if isinstance(answer, tuple):
            prediction, picture = answer
            folder = get_upload_folder()
            path = save_bytes_to_cache(picture, "overlay.png", cache_dir=folder) if picture else None
            return path, dict(prediction.probabilities), prediction.to_dict()
        if isinstance(answer, list):
            return [prediction.to_dict() for prediction in answer]
        return answer

    return endpoint
