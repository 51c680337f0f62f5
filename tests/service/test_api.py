"""The API of the running app, by gradio_client, curl, its OpenAPI document and a real MCP client."""

import asyncio
import base64
import io
import json
import re
import subprocess
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor, wait
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import httpx
import jsonschema
import numpy as np
import pytest
from gradio.routes import App as GradioApp
from gradio_client import Client, handle_file
from gradio_client.exceptions import AppError
from mcp import ClientSession
from mcp.client.streamable_http import streamable_http_client
from mcp.types import CallToolRequest, CallToolRequestParams, CallToolResult, ImageContent, TextContent
from PIL import Image
from starlette.testclient import TestClient

from api import ANSWERED, MAX_FILMS, Endpoints, Service, add_endpoints, openapi
from api.endpoints import ERRORS
from api.tools import Tools, call
from pneumocam import Classifier, RadiographError, load_radiograph, predict, predict_many, targets
from pneumocam.batching import Batcher
from pneumocam.predict import describe
from tests.conftest import EXAMPLES, ROOT, App
from tests.service.test_handler import dicom
from tests.unit.test_batching import Gated

NORMAL = next(film for film in EXAMPLES if "NORMAL" in film.name)
BACTERIAL = next(film for film in EXAMPLES if "bacteria" in film.name)
NAMES = ["predict", "predict_many", "info", "health"]
TOOLS = ["classify_radiograph", "classify_radiographs", "describe_model", "check_health"]
SCHEMA = jsonschema.Draft202012Validator(json.loads((ROOT / "docs" / "prediction.schema.json").read_text()))
META = {"_type": "gradio.FileData"}


@pytest.fixture(scope="module")
def client(app: App) -> Client:
    return Client(app.url, verbose=False)


def encoded(picture: Image.Image, kind: str = "PNG", **options: Any) -> bytes:
    buffer = io.BytesIO()
    picture.save(buffer, kind, **options)
    return buffer.getvalue()


def pixels(picture: Path | str | bytes) -> np.ndarray:
    with Image.open(io.BytesIO(picture) if isinstance(picture, bytes) else picture) as image:
        return np.asarray(image)


def upload(app: App, film: Path | bytes) -> str:
    files = {"files": ("film", film if isinstance(film, bytes) else film.read_bytes())}
    (path,) = httpx.post(f"{app.url}/gradio_api/upload", files=files).raise_for_status().json()
    return str(path)


def ask(app: App, name: str, body: dict[str, Any], version: str = "v2/") -> tuple[str, Any]:
    """The last event of a call, and its data."""
    call = httpx.post(f"{app.url}/gradio_api/call/{version}{name}", json=body, timeout=60).raise_for_status().json()
    with httpx.stream("GET", f"{app.url}/gradio_api/call/{name}/{call['event_id']}", timeout=60) as stream:
        text = stream.read().decode()
    return last_event(text)


def last_event(stream: str) -> tuple[str, Any]:
    event, data = re.findall(r"^event: (complete|error)\ndata: (.*)$", stream, re.MULTILINE)[-1]
    return event, json.loads(data)


async def _with_session(url: str, work: Callable[[ClientSession], Any]) -> Any:
    async with (
        streamable_http_client(f"{url}/gradio_api/mcp/") as (read, write, _),
        ClientSession(read, write) as session,
    ):
        await session.initialize()
        return await work(session)


def use_tool(app: App, name: str, **arguments: Any) -> CallToolResult:
    """What a real client gets, which checks it against the tool's output schema."""
    result: CallToolResult = asyncio.run(_with_session(app.url, lambda session: session.call_tool(name, arguments)))
    return result


def words(result: CallToolResult) -> str:
    (content,) = (x for x in result.content if isinstance(x, TextContent))
    return content.text


def data_url(film: Path | bytes) -> str:
    return f"data:;base64,{base64.b64encode(film if isinstance(film, bytes) else film.read_bytes()).decode()}"


# One film


@pytest.mark.parametrize(
    ("film", "target", "point"),
    [(NORMAL, None, None), (BACTERIAL, "PNEUMONIA", "screening"), (EXAMPLES[1], "VIRAL", "rule_in")],
)
def test_every_client_gets_the_numbers_and_the_picture_that_python_gets(
    app: App, client: Client, bundled: Classifier, film: Path, target: str | None, point: str | None
) -> None:
    prediction = predict(bundled.at(point) if point else bundled, film)
    drawn = np.asarray(prediction.overlay(target))
    options = {key: value for key, value in {"target": target, "operating_point": point}.items() if value}

    overlay, probabilities, answer = client.predict(image=handle_file(film), **options, api_name="/predict")
    assert answer == prediction.to_dict()
    assert {row["label"]: row["confidence"] for row in probabilities["confidences"]} == prediction.probabilities
    np.testing.assert_array_equal(pixels(overlay), drawn)

    event, (picture, shares, answer) = ask(
        app, "predict", {"image": {"path": upload(app, film), "meta": META}, **options}
    )
    assert event == "complete"
    assert answer == prediction.to_dict()
    assert shares["confidences"] == probabilities["confidences"]
    np.testing.assert_array_equal(pixels(httpx.get(picture["url"]).content), drawn)

    result = use_tool(app, "classify_radiograph", image=data_url(film), **options)
    assert not result.isError
    assert result.structuredContent == json.loads(words(result)) == prediction.to_dict()
    (image,) = (x for x in result.content if isinstance(x, ImageContent))
    assert image.mimeType == "image/png"
    np.testing.assert_array_equal(pixels(base64.b64decode(image.data)), drawn)
    SCHEMA.validate(answer)


def test_without_an_overlay_there_is_none(app: App, client: Client, bundled: Classifier) -> None:
    expected = predict(bundled, BACTERIAL).to_dict()
    overlay, _, answer = client.predict(image=handle_file(BACTERIAL), overlay=False, api_name="/predict")
    assert (overlay, answer) == (None, expected)
    result = use_tool(app, "classify_radiograph", image=data_url(BACTERIAL), overlay=False)
    assert [content.type for content in result.content] == ["text"]
    assert result.structuredContent == expected


def test_sixteen_bit_png_and_dicom_come_whole(client: Client, bundled: Classifier, tmp_path: Path) -> None:
    eight = pixels(NORMAL)
    Image.fromarray(eight.astype(np.uint16) * 257).save(tmp_path / "sixteen.png")
    (tmp_path / "film.dcm").write_bytes(dicom())
    for name, film in (("sixteen.png", eight), ("film.dcm", dicom())):
        answer = client.predict(image=handle_file(tmp_path / name), overlay=False, api_name="/predict")[2]
        assert answer == predict(bundled, film).to_dict()


def curl(*arguments: str) -> str:
    return subprocess.run(["curl", "-sSf", *arguments], capture_output=True, text=True, check=True).stdout


@pytest.mark.parametrize("version", ["", "v2/"])
def test_curl_gets_the_same_answer(app: App, bundled: Classifier, version: str) -> None:
    (path,) = json.loads(curl("-F", f"files=@{BACTERIAL}", f"{app.url}/gradio_api/upload"))
    film = {"path": path, "meta": META}
    body = {"image": film, "overlay": False} if version else {"data": [film, ANSWERED, "balanced", False]}
    address = f"{app.url}/gradio_api/call/{version}predict"
    call = curl(address, "-H", "Content-Type: application/json", "-d", json.dumps(body))
    stream = curl("-N", f"{address}/{json.loads(call)['event_id']}")
    data = json.loads(stream.split("event: complete\ndata: ")[1].splitlines()[0])
    assert data[0] is None
    assert data[2] == predict(bundled, BACTERIAL).to_dict()


# Many films


def test_many_films_get_the_answers_of_each_and_a_bad_one_spoils_none(
    app: App, client: Client, bundled: Classifier, tmp_path: Path
) -> None:
    (tmp_path / "letter.jpeg").write_text("Dear radiologist")
    (tmp_path / "empty.png").write_bytes(b"")
    films = [*EXAMPLES[:5], tmp_path / "letter.jpeg", *EXAMPLES[5:], tmp_path / "empty.png"]
    expected = [prediction.to_dict() for prediction in predict_many(bundled, films)]
    assert [expected[i]["status"] for i in (5, -1)] == ["rejected", "rejected"]
    answers = client.predict(images=[handle_file(film) for film in films], api_name="/predict_many")
    assert answers == expected

    result = use_tool(app, "classify_radiographs", images=[data_url(film) for film in films[3:7]])
    assert result.structuredContent == json.loads(words(result)) == {"predictions": expected[3:7]}
    for answer in answers:
        SCHEMA.validate(answer)


def test_what_is_no_film_at_all_spoils_no_other_and_says_why(app: App, bundled: Classifier) -> None:
    bad = {
        "": "No film came; expected one file.",
        5: "A number came; expected one file.",
        True: "True or false came; expected one file.",
        None: "No film came; expected one file.",
        "====": "A text came that is no base64.",
        "data:image/png;base64,R\u00f6ntgen": "A text came that is no base64.",
    }
    others: list[Any] = [[], {}, {"path": 5}]
    images = [data_url(NORMAL), *bad, *others, data_url(BACTERIAL)]
    result = use_tool(app, "classify_radiographs", images=images)
    assert not result.isError, words(result)
    assert result.structuredContent
    first, *rejected, last = result.structuredContent["predictions"]
    assert [first, last] == [predict(bundled, film).to_dict() for film in (NORMAL, BACTERIAL)]
    assert {(answer["status"], answer["reason"]["code"]) for answer in rejected} == {("rejected", "not_an_image")}
    said = [*bad.values(), "A list came; expected", "An object came; expected", "An object came; expected"]
    assert len(rejected) == len(said)
    for answer, start in zip(rejected, said, strict=True):
        assert answer["reason"]["message"].startswith(start)
        SCHEMA.validate(answer)
    number = use_tool(app, "classify_radiographs", images=5)
    assert words(number).startswith(f"bad_request: images is a number; expected a list of 1 to {MAX_FILMS}.")


def test_null_is_the_default(app: App, bundled: Classifier) -> None:
    for arguments in ({"target": None}, {"operating_point": None}, {"target": None, "operating_point": None}):
        result = use_tool(app, "classify_radiograph", image=data_url(BACTERIAL), **arguments)
        assert result.structuredContent == predict(bundled, BACTERIAL).to_dict()
        (picture,) = (x for x in result.content if isinstance(x, ImageContent))
        drawn = np.asarray(predict(bundled, BACTERIAL).overlay())
        np.testing.assert_array_equal(pixels(base64.b64decode(picture.data)), drawn)
        event, answer = ask(app, "predict", {"image": {"path": upload(app, BACTERIAL), "meta": META}, **arguments})
        assert (event, answer[2]) == ("complete", predict(bundled, BACTERIAL).to_dict())


def test_an_operating_point_is_for_all_films_the_rejected_too(app: App, bundled: Classifier) -> None:
    uploads = [upload(app, film) for film in (NORMAL, b"words")] + [upload(app, BACTERIAL) + "x"]
    body = {"images": [{"path": path, "meta": META} for path in uploads], "operating_point": "rule_in"}
    event, ((film, letter, gone),) = ask(app, "predict_many", body)
    assert event == "complete"
    assert film == predict(bundled.at("rule_in"), NORMAL).to_dict()
    assert [x["reason"]["code"] for x in (letter, gone)] == ["not_an_image", "upload_gone"]
    assert {x["operating_point"]["name"] for x in (film, letter, gone)} == {"rule_in"}
    for answer in (film, letter, gone):
        SCHEMA.validate(answer)


def test_of_many_calls_at_once_each_gets_its_own_answer(client: Client, bundled: Classifier) -> None:
    points, explained = list(bundled.operating_points), list(targets(bundled))
    calls = [(film, explained[i % 4], points[i % 3], i % 4 == i // 8) for i, film in enumerate(EXAMPLES * 2)]
    assert len(set(calls)) == 32

    def one(call: tuple[Path, str, str, bool]) -> Any:
        film, target, point, overlay = call
        return client.predict(handle_file(film), target, point, overlay, api_name="/predict")

    with ThreadPoolExecutor(8) as pool:
        answers = list(pool.map(one, calls))
    drawn = 0
    for (film, target, point, overlay), (picture, _, answer) in zip(calls, answers, strict=True):
        prediction = predict(bundled.at(point), film)
        assert answer == prediction.to_dict()
        if overlay:
            np.testing.assert_array_equal(pixels(picture), np.asarray(prediction.overlay(target)))
            drawn += 1
    assert drawn == 8


# The model and its health


def test_facts_and_health_are_the_model_s(app: App, client: Client, bundled: Classifier) -> None:
    facts = json.loads(json.dumps(describe(bundled)))
    health = {"status": "ok", "model": {"id": "bundled", "revision": bundled.revision}}
    assert client.predict(api_name="/info") == facts
    assert client.predict(api_name="/health") == health
    assert ask(app, "info", {}) == ("complete", [facts])
    assert ask(app, "health", {"data": []}, "") == ("complete", [health])
    for name, expected in (("describe_model", facts), ("check_health", health)):
        result = use_tool(app, name)
        assert result.structuredContent == json.loads(words(result)) == expected


def test_a_film_of_full_size_comes_through(app: App, client: Client, bundled: Classifier, tmp_path: Path) -> None:
    with Image.open(NORMAL) as film:
        film.convert("L").resize((4468, 4468)).save(tmp_path / "large.bmp")
    assert 19e6 < (tmp_path / "large.bmp").stat().st_size <= 20_000_000
    expected = predict(bundled, tmp_path / "large.bmp").to_dict()
    assert client.predict(handle_file(tmp_path / "large.bmp"), overlay=False, api_name="/predict")[2] == expected
    result = use_tool(app, "classify_radiograph", image=data_url(tmp_path / "large.bmp"), overlay=False)
    assert result.structuredContent == expected


# Errors


def bad_films() -> dict[str, bytes]:
    """By the code of what is wrong with them."""
    slide = Image.fromarray(pixels(NORMAL)).resize((80, 80))
    return {
        "not_an_image": b"Dear radiologist, " * 40,
        "damaged_image": NORMAL.read_bytes()[:20_000],
        "too_large": encoded(Image.new("1", (9000, 8000))),
        "too_small": encoded(slide.resize((10, 90))),
        "multi_frame": encoded(slide, "TIFF", save_all=True, append_images=[slide]),
        "not_a_radiograph": dicom().replace(b"CS\x02\x00DX", b"CS\x02\x00CT"),
        "blank": encoded(Image.new("L", (90, 90), 7)),
    }


@pytest.mark.parametrize("code", bad_films())
def test_a_film_that_cannot_be_used_is_said_to_every_client(
    app: App, client: Client, tmp_path: Path, code: str
) -> None:
    content = bad_films()[code]
    with pytest.raises(RadiographError) as told:
        load_radiograph(content)
    assert told.value.code == code
    (tmp_path / "film").write_bytes(content)
    with pytest.raises(AppError) as refusal:
        client.predict(image=handle_file(tmp_path / "film"), api_name="/predict")
    assert (refusal.value.title, refusal.value.message) == (code, told.value.message)
    event, error = ask(app, "predict", {"image": {"path": upload(app, content), "meta": META}})
    assert (event, error["title"], error["error"]) == ("error", code, told.value.message)
    result = use_tool(app, "classify_radiograph", image=data_url(content))
    assert result.isError
    assert words(result) == f"{code}: {told.value.message}"


@pytest.mark.parametrize(
    ("name", "arguments", "message"),
    [
        ("predict", {"target": "LUNG"}, "^target is 'LUNG'; expected one of the answered class, NORMAL, BACT"),
        ("predict", {"target": ["VIRAL"]}, r"^target is \['VIRAL'\]; expected one of"),
        ("predict", {"operating_point": "strict"}, "^operating_point is 'strict'; expected one of balanced, screening"),
        ("predict", {"operating_point": ""}, "^operating_point is ''; expected one of"),
        ("predict", {"overlay": "no"}, "^overlay is 'no'; expected true or false"),
        ("predict", {"image": None}, "^No film came; expected one file. Send"),
        ("predict_many", {"images": []}, f"^images has 0 films; expected a list of 1 to {MAX_FILMS}. Send more in sev"),
        ("predict_many", {"operating_point": 5}, "^operating_point is 5; expected one of"),
    ],
)
def test_a_call_that_is_not_understood_is_said_to_every_client(
    app: App, client: Client, name: str, arguments: dict[str, Any], message: str
) -> None:
    film = {"path": upload(app, NORMAL), "meta": META}
    event, error = ask(app, name, {"image": film} | arguments if name == "predict" else {"images": [film]} | arguments)
    assert (event, error["title"]) == ("error", "bad_request")
    assert re.search(message, error["error"])
    mine = {"image": handle_file(NORMAL)} if name == "predict" else {"images": [handle_file(NORMAL)]}
    with pytest.raises(AppError, match=message) as refusal:
        client.predict(**{**mine, **arguments}, api_name=f"/{name}")
    assert refusal.value.title == "bad_request"
    text = {"image": data_url(NORMAL)} if name == "predict" else {"images": [data_url(NORMAL)]}
    result = use_tool(app, TOOLS[NAMES.index(name)], **{**text, **arguments})
    assert result.isError
    assert re.search(message, words(result).removeprefix("bad_request: "))


PATHS = [  # of files that are no uploads; {} is the folder of uploads
    ({"path": "{}/nothing/film.png", "meta": META}, "upload_gone", "kept for an hour. Upload the film again"),
    ({"path": "{}", "meta": META}, "upload_gone", "There is no such upload"),
    ({"path": "{}/../../../../../../etc/passwd", "meta": META}, "upload_gone", "There is no such upload"),
    ({"path": "/etc/passwd", "meta": META}, "upload_gone", "There is no such upload"),
    ({"path": str(EXAMPLES[0]), "meta": META}, "upload_gone", "There is no such upload"),
    ({"path": "https://example.com/film.png", "meta": META}, "bad_request", "none is fetched. Upload the film"),
    ({"path": "{}/film.png"}, "bad_request", "Expected are, in this order: image, target, operating_point, overlay."),
    ({"path": "{}/film.png", "meta": "film"}, "bad_request", "Expected are, in this order: image, target"),
    ({"path": "a\0b", "meta": META}, "bad_request", "Expected are, in this order: image, target"),
    ("film.png", "bad_request", 'A film is the object {"path": what /gradio_api/upload answered, "meta"'),
]


@pytest.mark.parametrize("file", [file for file, *_ in PATHS], ids=str)
def test_a_path_that_is_no_upload_opens_nothing(app: App, file: Any) -> None:
    if isinstance(file, dict):
        file = {**file, "path": file["path"].replace("{}", str(Path(upload(app, NORMAL)).parents[1]))}
    response = httpx.post(f"{app.url}/gradio_api/call/v2/predict", json={"image": file}, timeout=60)
    if response.is_client_error:  # the guard was first
        assert response.json()["error"].keys() == {"code", "message"}
    else:
        event, error = ask(app, "predict", {"image": file})
        assert event == "error"
        assert error["title"] in ERRORS
        assert error["error"]


@pytest.mark.parametrize(
    ("path", "body"),
    [("v2/predict", {"picture": None}), ("v2/predict", {}), ("v2/diagnose", {}), ("predict", {"data": []}), ("x", {})],
)
def test_a_request_that_is_none_gets_a_status_a_code_and_a_sentence(app: App, path: str, body: dict[str, Any]) -> None:
    response = httpx.post(f"{app.url}/gradio_api/call/{path}", json=body)
    assert response.is_client_error
    error = response.json()["error"]
    assert re.fullmatch(r"[a-z_]+", error["code"])
    assert len(error["message"]) > 20


@pytest.mark.parametrize(
    ("image", "code"),
    [
        ("Röntgen", "not_an_image"),
        ("/etc/passwd", "not_an_image"),
        (str(EXAMPLES[0]), "not_an_image"),
        ("data:image/png;base64,====", "not_an_image"),
        ("", "bad_request"),
        (5, "bad_request"),
        ({"path": "/etc/passwd"}, "upload_gone"),
    ],
)
def test_a_text_that_is_no_film_opens_nothing(app: App, image: Any, code: str) -> None:
    result = use_tool(app, "classify_radiograph", image=image)
    assert result.isError
    assert words(result).startswith(f"{code}: ")
    assert len(words(result)) < 400


def test_a_web_address_is_not_fetched_for_a_tool(app: App) -> None:
    for arguments in ({"image": f"{app.url}/static/img/logo.svg"}, {"image": "https://example.com/film.png"}):
        result = use_tool(app, "classify_radiograph", **arguments)
        assert result.isError
        assert re.search("address came", words(result))


def test_a_tool_s_wrong_arguments_are_said(app: App) -> None:
    more = use_tool(app, "classify_radiographs", images=["aGk="] * (MAX_FILMS + 1))
    assert words(more).startswith(f"bad_request: images has 33 films; expected a list of 1 to {MAX_FILMS}. Send more")
    missing = use_tool(app, "classify_radiograph")
    assert words(missing).startswith("bad_request: The arguments do not fit: missing a required argument: 'image'.")
    unknown = use_tool(app, "classify_radiograph", image=data_url(NORMAL), zoom=2)
    assert words(unknown).startswith(
        "bad_request: The arguments do not fit: got an unexpected keyword argument 'zoom'."
    )
    nothing = use_tool(app, "diagnose")
    assert words(nothing) == f"bad_request: There is no tool 'diagnose'; expected one of {', '.join(TOOLS)}."
    assert missing.isError
    assert unknown.isError
    assert nothing.isError


def test_there_is_no_way_around_the_queue(app: App) -> None:
    for path in ("run/predict", "api/predict", "run/health"):
        response = httpx.post(f"{app.url}/gradio_api/{path}", json={"data": []})
        assert 400 <= response.status_code < 500
        assert "data" not in response.json()


# What clients are told


def test_four_endpoints_are_offered_and_documented(app: App) -> None:
    facts = httpx.get(f"{app.url}/gradio_api/info").json()
    assert list(facts["named_endpoints"]) == [f"/{name}" for name in NAMES]
    assert facts["unnamed_endpoints"] == {}
    parameters = {
        name: [
            (x["parameter_name"], x["parameter_has_default"], x["parameter_default"]) for x in endpoint["parameters"]
        ]
        for name, endpoint in facts["named_endpoints"].items()
    }
    point = ("operating_point", True, "balanced")
    assert parameters == {
        "/predict": [("image", False, None), ("target", True, ANSWERED), point, ("overlay", True, True)],
        "/predict_many": [("images", False, None), point],
        "/info": [],
        "/health": [],
    }
    for endpoint in facts["named_endpoints"].values():
        assert len(endpoint["description"]) > 40
    assert "not a diagnosis" in facts["named_endpoints"]["/predict"]["description"]
    assert "github.com" not in json.dumps(facts)


@pytest.mark.parametrize("name", ["predict", "predict_many"])
def test_the_documented_example_runs(app: App, monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    facts = httpx.get(f"{app.url}/gradio_api/info").json()["named_endpoints"][f"/{name}"]
    monkeypatch.chdir(ROOT)
    names: dict[str, Any] = {}
    exec(facts["code_snippets"]["python"], names)
    answer = names["result"][-1]
    SCHEMA.validate(answer)
    assert answer["status"] != "rejected"


def test_four_tools_are_offered_and_documented(app: App, bundled: Classifier) -> None:
    async def look(session: ClientSession) -> Any:
        return await session.list_tools()

    tools = {tool.name: tool for tool in asyncio.run(_with_session(app.url, look)).tools}
    assert list(tools) == TOOLS
    for tool in tools.values():
        assert tool.title
        assert tool.annotations
        assert (tool.annotations.readOnlyHint, tool.annotations.openWorldHint) == (True, False)
        jsonschema.Draft202012Validator.check_schema(tool.inputSchema)
        assert not re.search("https?://|upload_file_to_gradio", tool.model_dump_json())
    one, many = tools["classify_radiograph"], tools["classify_radiographs"]
    assert "not a diagnosis" in str(one.description)
    assert one.inputSchema["required"] == ["image"]
    assert one.inputSchema["properties"]["target"]["enum"] == [ANSWERED, *targets(bundled)]
    for property_ in (*one.inputSchema["properties"].values(), *many.inputSchema["properties"].values()):
        assert len(property_["description"]) > 20
    assert "data: URL or base64" in one.inputSchema["properties"]["image"]["description"]
    assert many.inputSchema["properties"]["images"]["maxItems"] == MAX_FILMS
    expected = predict(bundled, NORMAL).to_dict()
    jsonschema.validate(expected, one.outputSchema)
    jsonschema.validate({"predictions": [expected]}, many.outputSchema)
    for wrong in ({**expected, "more": 1}, {**expected, "status": "rejected"}):
        with pytest.raises(jsonschema.ValidationError):
            jsonschema.validate(wrong, one.outputSchema)
        with pytest.raises(jsonschema.ValidationError):
            jsonschema.validate({"predictions": [wrong]}, many.outputSchema)
    schema = httpx.get(f"{app.url}/gradio_api/mcp/schema").json()
    assert [(x["name"], x["inputSchema"]) for x in schema] == [(x.name, x.inputSchema) for x in tools.values()]


def schemas(document: Any) -> Iterator[dict[str, Any]]:
    """Of everything that a document of OpenAPI says."""
    yield from document["components"]["schemas"].values()
    for path in document["paths"].values():
        for operation in path.values():
            bodies = [operation.get("requestBody", {}), *operation["responses"].values()]
            yield from (x["schema"] for body in bodies for x in body.get("content", {}).values())
            yield from (x["schema"] for x in operation.get("parameters", ()))


def test_the_openapi_document_is_one(app: App, bundled: Classifier) -> None:
    document = httpx.get(f"{app.url}/gradio_api/openapi.json").json()
    assert document == json.loads(json.dumps(openapi(Endpoints(Batcher(bundled)))))
    assert document["openapi"] == "3.1.0"
    assert document["info"].keys() >= {"title", "version"}
    assert list(document["paths"]) == [
        "/gradio_api/upload",
        *(x for name in NAMES for x in (f"/gradio_api/call/v2/{name}", f"/gradio_api/call/{name}/{{event_id}}")),
    ]
    operations = [operation for path in document["paths"].values() for operation in path.values()]
    assert len({operation["operationId"] for operation in operations}) == len(operations) == 9
    for path, methods in document["paths"].items():
        for operation in methods.values():
            assert operation["responses"]["200"]["description"]
            named = {x["name"] for x in operation.get("parameters", ()) if x["in"] == "path"}
            assert named == set(re.findall(r"{(\w+)}", path))
    for schema in schemas(document):
        jsonschema.Draft202012Validator.check_schema(schema)
    for reference in re.findall(r'"\$ref": "#/components/(\w+)/(\w+)"', json.dumps(document)):
        assert reference[1] in document["components"][reference[0]]
    assert set(document["components"]["schemas"]["Error"]["properties"]["title"]["enum"]) == set(ERRORS)


def test_a_program_that_knows_the_openapi_document_alone_gets_an_answer(app: App, bundled: Classifier) -> None:
    document = httpx.get(f"{app.url}/gradio_api/openapi.json").json()
    server = httpx.URL(app.url).join(document["servers"][0]["url"])
    operations = {
        operation["operationId"]: (method, str(server).rstrip("/") + path, operation)
        for path, methods in document["paths"].items()
        for method, operation in methods.items()
    }

    def request(name: str, parameters: dict[str, str] | None = None, **body: Any) -> httpx.Response:
        method, url, _ = operations[name]
        return httpx.request(method, url.format(**parameters or {}), timeout=60, **body).raise_for_status()

    def answer(name: str, body: dict[str, Any], schema: str | None = None) -> Any:
        taken = operations[name][2]["requestBody"]["content"]["application/json"]["schema"]
        jsonschema.validate(body, {**taken, "components": document["components"]})
        _, data = last_event(request(f"{name}_answer", request(name, json=body).json()).text)
        place = f"#/components/schemas/{schema or name}"
        jsonschema.validate(data, {"$ref": place, "components": document["components"]})
        return data

    form = operations["upload"][2]["requestBody"]["content"]["multipart/form-data"]["schema"]
    (path,) = request("upload", files={form["required"][0]: BACTERIAL.read_bytes()}).json()
    film = {"path": path, "meta": document["components"]["schemas"]["Upload"]["properties"]["meta"]["const"]}
    expected = predict(bundled, BACTERIAL).to_dict()
    assert answer("predict", {"image": film})[2] == expected
    assert answer("predict_many", {"images": [film, film]}) == [[expected, expected]]
    assert answer("health", {})[0]["status"] == "ok"
    answer("info", {})
    assert answer("predict", {"image": {**film, "path": f"{path}.png"}}, "Error")["title"] == "upload_gone"


# The network behind it


@dataclass
class Held:
    """A service in this process, the network of which can be held up."""

    web: TestClient
    network: Gated
    batcher: Batcher
    service: Service

    def ask(self, name: str, **inputs: Any) -> tuple[str, Any]:
        """The last event of a call, and its data."""
        call = self.web.post(f"/gradio_api/call/v2/{name}", json=inputs).raise_for_status().json()
        return last_event(self.web.get(f"/gradio_api/call/{name}/{call['event_id']}").text)

    def upload(self, film: Path) -> dict[str, Any]:
        (path,) = self.web.post("/gradio_api/upload", files={"files": film.read_bytes()}).raise_for_status().json()
        return {"path": path, "meta": META}


@pytest.fixture
def held(bundled: Classifier, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Held]:
    monkeypatch.setenv("GRADIO_TEMP_DIR", str(tmp_path))
    batcher = Batcher(replace(bundled, network=Gated(bundled.network)))

    async def made() -> tuple[Service, GradioApp]:
        with Service(batcher, analytics_enabled=False) as service:
            add_endpoints(service)
        service.max_file_size, service.has_launched = None, True
        service.allowed_paths, service.blocked_paths = [], []
        return service, GradioApp.create_app(service.queue())

    service, app = asyncio.run(made())  # or Gradio would open event loops and close none
    with TestClient(app) as web:
        web.get("/gradio_api/startup-events")
        yield Held(web, batcher.classifier.network, batcher, service)
        batcher.classifier.network.open.set()


def test_calls_that_wait_in_the_queue_share_a_pass(held: Held, bundled: Classifier) -> None:
    held.network.open.clear()

    def one(film: Path) -> Any:
        return held.ask("predict", image=held.upload(film), overlay=False)[1][2]

    def tool(film: Path) -> Any:
        arguments = {"image": data_url(film), "overlay": False}
        return call(held.service.endpoints.classify_radiograph, arguments).structuredContent

    with ThreadPoolExecutor(9) as pool:
        first = pool.submit(one, EXAMPLES[0])
        assert held.network.entered.acquire(timeout=60)
        others = [pool.submit(tool if i % 4 == 0 else one, film) for i, film in enumerate(EXAMPLES[1:9])]
        while held.batcher._waiting.qsize() < 8:
            done, _ = wait(others, 0.01)
            assert not done
        assert held.ask("health")[1][0]["status"] == "ok"  # which waits for no film
        held.network.open.set()
        answers = [first.result(60), *(other.result(60) for other in others)]
    assert held.network.passes == [1, 8]
    assert answers == [predict(bundled, film).to_dict() for film in EXAMPLES[:9]]
    assert not held.service.state_holder.session_data


def test_a_tool_that_too_many_wait_for_says_so(held: Held, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("api.tools.CONCURRENCY", 1)
    monkeypatch.setattr("api.tools.MAX_WAITING", 2)
    held.network.open.clear()
    arguments = {"image": data_url(NORMAL), "overlay": False}
    request = CallToolRequest(params=CallToolRequestParams(name="classify_radiograph", arguments=arguments))

    async def use() -> list[Any]:
        handle = Tools(held.service).mcp_server.request_handlers[CallToolRequest]
        calls: list[asyncio.Future[Any]] = [asyncio.ensure_future(handle(request)) for _ in range(4)]
        (refused,), _ = await asyncio.wait(calls, return_when=asyncio.FIRST_COMPLETED)
        held.network.open.set()
        return [refused.result().root, *(x.root for x in await asyncio.gather(*(set(calls) - {refused})))]

    refused, *answered = asyncio.run(use())
    assert (refused.isError, words(refused)[:26]) == (True, "busy: 2 calls wait already")
    assert [answer.isError for answer in answered] == [False] * 3
    assert held.network.passes == [1, 1, 1]


def test_without_a_guard_too_a_path_that_is_no_upload_opens_nothing(held: Held) -> None:
    folder = str(Path(held.upload(NORMAL)["path"]).parents[1])
    for file, code, message in PATHS:
        if isinstance(file, dict):
            file = {**file, "path": str(file["path"]).replace("{}", folder)}
        event, error = held.ask("predict", image=file)
        assert (event, error["title"]) == ("error", code), file
        assert message in error["error"]
    event, error = held.ask("predict_many", images=[held.upload(NORMAL)] * (MAX_FILMS + 1))
    assert (event, error["title"]) == ("error", "bad_request")
    assert error["error"].startswith(f"images has 33 films; expected a list of 1 to {MAX_FILMS}.")
    assert held.network.passes == []


def test_a_failure_of_the_service_is_no_fault_of_the_film(held: Held, caplog: pytest.LogCaptureFixture) -> None:
    held.network.failures = [RuntimeError("no memory for /secret/film.png") for _ in range(3)]
    sentence = "The service failed, not your film. Try again; if it happens again, report it."
    film = held.upload(NORMAL)
    for name, inputs in (("predict", {"image": film}), ("predict_many", {"images": [film]})):
        event, error = held.ask(name, **inputs)
        assert (event, error["title"], error["error"]) == ("error", "internal_error", sentence)
    told = call(held.service.endpoints.classify_radiograph, {"image": data_url(NORMAL)})
    assert (told.isError, words(told)) == (True, f"internal_error: {sentence}")
    assert caplog.text.count("RuntimeError in") == 3
    assert "forward_features" in caplog.text
    assert "secret" not in caplog.text
    assert held.ask("predict", image=film, overlay=False)[0] == "complete"
