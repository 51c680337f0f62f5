"""The endpoints as MCP tools, in Gradio's MCP server.

Gradio makes a tool of every endpoint by itself, but such a tool takes a film as a web address, cannot take several,
answers in Python's repr, has no output schema, loses the code of an error and is named anew on every Space.
"""

import base64
import inspect
import json
from collections.abc import Callable
from functools import partial
from typing import Any

from anyio import CapacityLimiter
from anyio.to_thread import run_sync
from gradio.mcp import GradioMCPServer
from gradio.utils import get_function_description
from mcp.server import Server
from mcp.server.streamable_http_manager import StreamableHTTPSessionManager
from mcp.types import CallToolResult, ContentBlock, ImageContent, TextContent, Tool, ToolAnnotations
from starlette.requests import Request
from starlette.responses import JSONResponse

from api.endpoints import SENDING, Endpoints, coded, refuse, schema_at

MAX_BODY = 20 * 2**20 // 3 * 4 + 2**16  # bytes of a call: a film of full size in base64, where the package allows 4 MiB
CONCURRENCY = 16  # calls in work at once
MAX_WAITING = 64  # calls, as in the queue of the endpoints
INSTRUCTIONS = (
    "Classifies chest radiographs of children and shows where the network looked. For research and teaching only: "
    f"nothing of it is a diagnosis, and that is to be said with every answer. {SENDING}"
)


class Tools(GradioMCPServer):
    """Transports, sessions and the landing page are Gradio's; its Blocks are a `Service`."""

    StreamableHTTPSessionManager = partial(StreamableHTTPSessionManager, max_request_body_size=MAX_BODY)  # type: ignore[assignment]

    def create_mcp_server(self) -> Server[Any, Any]:
        """The server with its two handlers; Gradio's constructor asks for it."""
        endpoints = self._endpoints
        methods = {method.__name__: method for method in endpoints.named().values()}
        definitions = [definition(endpoints, name) for name in endpoints.named()]
        limiter, calls = CapacityLimiter(CONCURRENCY), 0
        server: Server[Any, Any] = Server("PneumoCAM", instructions=INSTRUCTIONS)

        async def list_tools() -> list[Tool]:
            return definitions

        async def call_tool(name: str, arguments: dict[str, Any]) -> CallToolResult:
            nonlocal calls
            if name not in methods:
                return _failure("bad_request", f"There is no tool {name!r:.80}; expected one of {', '.join(methods)}.")
            if calls >= CONCURRENCY + MAX_WAITING:
                return _failure("busy", f"{MAX_WAITING} calls wait already, and no more can. Try again in a minute.")
            calls += 1
            try:
                return await run_sync(call, methods[name], arguments, limiter=limiter)
            finally:
                calls -= 1

        server.list_tools()(list_tools)  # type: ignore[no-untyped-call]
        server.call_tool(validate_input=False)(call_tool)  # the package's own refusals quote the argument: a whole film
        return server

    async def get_complete_schema(self, request: Request) -> JSONResponse:  # noqa: ARG002
        """The tools as JSON, at /gradio_api/mcp/schema: for the page's footer and for the Hub."""
        endpoints = self._endpoints
        return JSONResponse(
            [
                {
                    **definition(endpoints, name).model_dump(include={"name", "description", "inputSchema"}),
                    "meta": {"file_data_present": True, "mcp_type": "tool", "endpoint_name": name},
                }
                for name in endpoints.named()
            ]
        )

    @property
    def _endpoints(self) -> Endpoints:
        endpoints: Endpoints = self.blocks.endpoints  # type: ignore[attr-defined]
        return endpoints


def definition(endpoints: Endpoints, name: str) -> Tool:
    """What clients are told of the tool for the endpoint of that name."""
    method = endpoints.named()[name]
    description, _, returns = get_function_description(method)
    return Tool(
        name=method.__name__,
        title=method.__name__.replace("_", " ").capitalize(),
        description=f"{description} Returns: {' '.join(returns)}",
        inputSchema=endpoints.inputs(method, {"type": "string", "minLength": 1}, SENDING),
        outputSchema=_output(name),
        annotations=ToolAnnotations(readOnlyHint=True, idempotentHint=True, openWorldHint=False),
    )


def call(method: Callable[..., Any], arguments: dict[str, Any]) -> CallToolResult:
    """The answer of one of the endpoints, or why there is none."""
    try:
        try:
            inspect.signature(method).bind(**arguments)
        except TypeError as error:
            refuse(f"The arguments do not fit: {error}. Expected are those of the tool's inputSchema.")
        return _result(method(**arguments))
    except Exception as error:
        told = coded(error)
        return _failure(told.title, told.message)


def _failure(code: str, message: str) -> CallToolResult:
    return CallToolResult(content=[TextContent(type="text", text=f"{code}: {message}")], isError=True)


def _result(answer: Any) -> CallToolResult:
    content: list[ContentBlock] = []
    facts = answer
    if isinstance(answer, tuple):
        prediction, picture = answer
        facts = prediction.to_dict()
        if picture:
            data = base64.b64encode(picture).decode()
            content.append(ImageContent(type="image", data=data, mimeType="image/png"))
    elif isinstance(answer, list):
        facts = {"predictions": [prediction.to_dict() for prediction in answer]}
    content.append(TextContent(type="text", text=json.dumps(facts)))
    return CallToolResult(content=content, structuredContent=facts)


def _output(name: str) -> dict[str, Any] | None:
    """JSON Schema of an answer."""
    if name == "predict":
        return schema_at("#")
    if name != "predict_many":
        return None
    each = schema_at("#/properties/predictions/items")
    return {
        "type": "object",
        "required": ["predictions"],
        "additionalProperties": False,
        "properties": {"predictions": {"type": "array", "items": each}},
    }
