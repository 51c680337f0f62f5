"""The MCP tools of the running app, as a real MCP client sees them."""

import asyncio
import base64
import io
import json
from collections.abc import Callable
from typing import Any

import httpx
import jsonschema
import numpy as np
import pytest
from mcp import ClientSession
from mcp.client.streamable_http import streamable_http_client
from mcp.types import CallToolResult, ImageContent, TextContent
from PIL import Image

from pneumocam import Classifier, predict, predict_many, targets
from pneumocam.predict import describe
from pneumocam.service.limits import LIMITS
from tests.conftest import EXAMPLES, App
from tests.service.test_gradio import upload

IMAGE = next(path for path in EXAMPLES if "bacteria" in path.name)
TOOLS = ["classify_radiograph", "classify_radiographs", "describe_model", "check_health"]


async def _session(url: str, work: Callable[[ClientSession], Any]) -> Any:
    async with (
        streamable_http_client(f"{url}/gradio_api/mcp/") as (read, write, _),
        ClientSession(read, write) as session,
    ):
        await session.initialize()
        return await work(session)


def use(app: App, name: str, **arguments: Any) -> CallToolResult:
    """The result of a tool; the client checks it against the tool's output schema."""
    result: CallToolResult = asyncio.run(_session(app.url, lambda session: session.call_tool(name, arguments)))
    return result


def words(result: CallToolResult) -> str:
    (content,) = (part for part in result.content if isinstance(part, TextContent))
    return content.text


def data_url(data: bytes) -> str:
    return f"data:;base64,{base64.b64encode(data).decode()}"


def test_the_tools_have_schemas_that_name_the_models_choices(app: App, bundled: Classifier) -> None:
    listed = asyncio.run(_session(app.url, lambda session: session.list_tools()))
    tools = {tool.name: tool for tool in listed.tools}
    assert list(tools) == TOOLS
    for tool in tools.values():
        jsonschema.Draft202012Validator.check_schema(tool.inputSchema)
    one = tools["classify_radiograph"].inputSchema
    assert one["required"] == ["image"]
    assert one["properties"]["target"]["enum"] == [*targets(bundled), None]
    assert one["properties"]["operating_point"]["enum"] == [*bundled.operating_points, None]
    many = tools["classify_radiographs"].inputSchema["properties"]["images"]
    assert (many["minItems"], many["maxItems"]) == (1, LIMITS.images)
    shown = httpx.get(f"{app.url}/gradio_api/mcp/schema").json()
    assert [tool["name"] for tool in shown] == TOOLS


@pytest.mark.parametrize(("target", "point"), [(None, None), ("VIRAL", "rule_in")])
def test_a_tool_gets_the_prediction_and_overlay_of_python(
    app: App, bundled: Classifier, target: str | None, point: str | None
) -> None:
    prediction = predict(bundled.at(point) if point else bundled, IMAGE)
    options = {"target": target, "operating_point": point}
    result = use(app, "classify_radiograph", image=data_url(IMAGE.read_bytes()), **options)
    assert result.structuredContent == json.loads(words(result)) == prediction.to_dict(prediction.explain(target))
    (image,) = (part for part in result.content if isinstance(part, ImageContent))
    assert image.mimeType == "image/png"
    with Image.open(io.BytesIO(base64.b64decode(image.data))) as drawn:
        np.testing.assert_array_equal(np.asarray(drawn), np.asarray(prediction.overlay(target)))
    without = use(app, "classify_radiograph", image=data_url(IMAGE.read_bytes()), overlay=False, **options)
    assert [part.type for part in without.content] == ["text"]


def test_many_images_get_their_own_predictions(app: App, bundled: Classifier) -> None:
    images = [*(path.read_bytes() for path in EXAMPLES[:3]), b"Dear radiologist"]
    result = use(app, "classify_radiographs", images=[*map(data_url, images), "====", "https://example.com/x.png"])
    assert result.structuredContent
    *answers, no_text, no_image = result.structuredContent["predictions"]
    assert answers == [prediction.to_dict() for prediction in predict_many(bundled, images)]
    assert [one["reason"]["code"] for one in (no_text, no_image)] == ["not_an_image", "no_url"]


def test_an_upload_can_be_named_instead(app: App, bundled: Classifier) -> None:
    path = upload(app, IMAGE.read_bytes())
    for image in (path, f"{app.url}/gradio_api/file={path}"):
        result = use(app, "classify_radiograph", image=image, overlay=False)
        assert result.structuredContent == predict(bundled, IMAGE).to_dict()
    gone = use(app, "classify_radiograph", image=path + "x")
    assert words(gone).startswith("upload_gone: ")


def test_an_image_of_full_size_comes_through(app: App, bundled: Classifier) -> None:
    buffer = io.BytesIO()
    with Image.open(IMAGE) as image:
        image.convert("L").resize((4468, 4468)).save(buffer, "BMP")
    assert 19e6 < len(buffer.getvalue()) <= LIMITS.image_bytes
    result = use(app, "classify_radiograph", image=data_url(buffer.getvalue()), overlay=False)
    assert result.structuredContent == predict(bundled, buffer.getvalue()).to_dict()


def test_model_and_health_are_told(app: App, bundled: Classifier) -> None:
    assert use(app, "describe_model").structuredContent == json.loads(json.dumps(describe(bundled)))
    health = use(app, "check_health").structuredContent
    assert health
    assert health["model"] == {"id": "bundled", "revision": bundled.revision}


@pytest.mark.parametrize(
    ("name", "arguments", "start"),
    [
        ("classify_radiograph", {}, "bad_request: image"),
        ("classify_radiograph", {"image": ""}, "bad_request: image"),
        ("classify_radiograph", {"image": 5}, "bad_request: image"),
        ("classify_radiograph", {"image": "aGk=", "zoom": 2}, "bad_request: zoom"),
        ("classify_radiograph", {"image": "aGk=", "target": "LUNG"}, "bad_request: target"),
        ("classify_radiograph", {"image": "aGk="}, "not_an_image: "),
        ("classify_radiograph", {"image": "Röntgen"}, "not_an_image: "),
        ("classify_radiograph", {"image": "/etc/passwd"}, "not_an_image: "),
        ("classify_radiograph", {"image": str(EXAMPLES[0])}, "not_an_image: "),
        ("classify_radiograph", {"image": "http://127.0.0.1/x"}, "no_url: "),
        ("classify_radiographs", {"images": ["aGk="] * 33}, "bad_request: images"),
        ("classify_radiographs", {"images": 5}, "bad_request: images"),
        ("diagnose", {}, "bad_request: There is no tool 'diagnose'"),
    ],
)
def test_what_is_wrong_is_told_with_a_code(app: App, name: str, arguments: dict[str, Any], start: str) -> None:
    result = use(app, name, **arguments)
    assert result.isError
    assert words(result).startswith(start)
    assert len(words(result)) < 500
