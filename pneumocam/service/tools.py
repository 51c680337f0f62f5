"""The endpoints as tools of the Model Context Protocol (MCP), over streamable HTTP."""

import base64
import json
from functools import partial
from typing import Any
from urllib.parse import unquote

from mcp.server.lowlevel import Server
from mcp.server.streamable_http_manager import StreamableHTTPSessionManager
from mcp.types import CallToolResult, ContentBlock, ImageContent, TextContent, Tool, ToolAnnotations
from pydantic import BaseModel, ConfigDict, Field

from pneumocam import NotAnImage
from pneumocam.service.api import ManyAnswer, Options, PredictionAnswer, SharedOptions, list_choices
from pneumocam.service.endpoints import Endpoints
from pneumocam.service.errors import RequestError, explain
from pneumocam.service.limits import LIMITS

SENDING = (
    "Send the file's own bytes as a data: URL or base64, or upload the file to /gradio_api/upload and send the path "
    "that is answered. No web address is fetched."
)
INSTRUCTIONS = (
    "Classifies chest radiographs and shows where the network looked. For research and teaching only: "
    f"no result is a diagnosis; say so with every result. {SENDING}"
)


class OneImage(Options):
    """Arguments of `classify_radiograph`."""

    image: str = Field(min_length=1, description=f"The radiograph. {SENDING}")
    overlay: bool = Field(True, description="Whether to draw the image with its Grad-CAM map.")


class ManyImages(SharedOptions):
    """Arguments of `classify_radiographs`."""

    images: list[str] = Field(min_length=1, max_length=LIMITS.images, description=f"The radiographs. {SENDING}")


class Nothing(BaseModel):
    """No arguments."""

    model_config = ConfigDict(extra="forbid")


class Tools:
    """The MCP server.

    Attributes:
        manager: its sessions; `manager.run()` has to be entered while requests are handled by `manager.handle_request`.
    """

    def __init__(self, endpoints: Endpoints) -> None:
        """Offer the functions of `endpoints`."""
        self._endpoints = endpoints
        self._definitions = [self._definition(name) for name in TOOLS]
        server: Server[Any, Any] = Server("PneumoCAM", instructions=INSTRUCTIONS)
        server.list_tools()(self._list)  # type: ignore[no-untyped-call]
        server.call_tool(validate_input=False)(self.call)  # the package's own messages quote a whole image
        self.manager = StreamableHTTPSessionManager(
            server, json_response=True, stateless=True, max_request_body_size=endpoints.limits.tool_bytes
        )

    async def _list(self) -> list[Tool]:
        return self._definitions

    def schema(self) -> list[dict[str, Any]]:
        """The tools as JSON, for the Hub's list of MCP servers."""
        return [tool.model_dump(include={"name", "description", "inputSchema"}) for tool in self._definitions]

    def _definition(self, name: str) -> Tool:
        arguments, answer = TOOLS[name]
        schema = arguments.model_json_schema()
        list_choices(schema["properties"], self._endpoints.classifier)
        return Tool(
            name=name,
            title=name.replace("_", " ").capitalize(),
            description=getattr(self._endpoints, name).__doc__,
            inputSchema=schema,
            outputSchema=answer and answer.model_json_schema(),
            annotations=ToolAnnotations(readOnlyHint=True, idempotentHint=True, openWorldHint=False),
        )

    async def call(self, name: str, arguments: dict[str, Any]) -> CallToolResult:
        """The result of a tool; an error as `code: message`."""
        try:
            if name not in TOOLS:
                raise RequestError("bad_request", f"There is no tool {name!r:.80}; expected one of {', '.join(TOOLS)}.")
            return await self._call(name, TOOLS[name][0].model_validate(arguments))
        except Exception as error:
            _, code, message = explain(error)
            return CallToolResult(content=[TextContent(type="text", text=f"{code}: {message}")], isError=True)

    async def _call(self, name: str, arguments: Any) -> CallToolResult:
        content: list[ContentBlock] = []
        if name == "classify_radiograph":
            options = Options(**arguments.model_dump(exclude={"image"}))
            answer, overlay = await self._endpoints.classify_radiograph(self._bytes(arguments.image), options)
            if overlay:
                data = base64.b64encode(overlay).decode()
                content.append(ImageContent(type="image", data=data, mimeType="image/png"))
        elif name == "classify_radiographs":
            images = [partial(self._bytes, text) for text in arguments.images]
            answer = {"predictions": await self._endpoints.classify_radiographs(images, arguments)}
        else:
            answer = await getattr(self._endpoints, name)()
        content.append(TextContent(type="text", text=json.dumps(answer)))
        return CallToolResult(content=content, structuredContent=answer)

    def _bytes(self, text: str) -> bytes:
        """An image that came as text."""
        _, mark, path = text.partition("/gradio_api/file=")  # so `gradio upload-mcp` names what it uploads
        uploads = self._endpoints.uploads
        if uploads and len(text) < 4096 and (mark or text.startswith(f"{uploads.folder.parent}/")):
            return uploads.read(unquote(path) if mark else text)
        if text.lstrip()[:8].lower().startswith(("http:", "https:", "ftp:", "file:", "//")):
            raise RequestError("no_url", f"A web address came. {SENDING}")
        encoded = text.partition(",")[2] if text.startswith("data:") else text
        try:
            return base64.b64decode("".join(encoded.split()).encode(), validate=True)
        except ValueError:
            raise NotAnImage(f"A text came that is not base64. {SENDING}") from None


TOOLS: dict[str, tuple[type[BaseModel], Any]] = {
    "classify_radiograph": (OneImage, PredictionAnswer),
    "classify_radiographs": (ManyImages, ManyAnswer),
    "describe_model": (Nothing, None),
    "check_health": (Nothing, None),
}
