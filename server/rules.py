"""What may be asked, of whatever address: routes, JSON bodies, and the names of films in them."""

import json
import math
import os
import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NoReturn

from server.folder import uploads

MAX_ELEMENTS = 20_000  # commas, brackets and braces in one JSON body; films in base64 have none
MAX_DEPTH = 32


class RequestError(Exception):
    """A request that is answered with an error.

    Attributes:
        status: of HTTP.
        code: snake_case name of the cause.
        message: what came, what was expected, what to do; free of names, paths and contents.
    """

    def __init__(self, status: int, code: str, message: str) -> None:
        super().__init__(message)
        self.status, self.code, self.message = status, code, message


SESSION = r"[\w-]{1,64}"
ADDRESS = re.compile(r"(\[[0-9a-fA-F:.]+\]|[\w.-]{1,253})(:\d{1,5})?", re.ASCII)


@dataclass(frozen=True)
class Route:
    """What may be asked: all else is answered 404."""

    name: str
    methods: tuple[str, ...]
    path: re.Pattern[str]
    query: dict[str, str] = field(default_factory=dict)  # patterns of parameters


def _route(name: str, methods: str, path: str, **query: str) -> Route:
    return Route(name, tuple(methods.split()), re.compile(path, re.ASCII), query)


ROUTES = (
    _route("page", "GET HEAD", "/"),
    _route("asset", "GET HEAD", r"/assets/[\w-]+(\.[\w-]+)*(/[\w-]+(\.[\w-]+)*)*"),
    _route("asset", "GET HEAD", r"/static/(img|js|fonts)(/[\w-]+(\.[\w-]+)*)+"),
    _route("asset", "GET HEAD", r"/(theme\.css|favicon\.ico|robots\.txt|manifest\.json|pwa_icon(/(192|512))?)"),
    _route("config", "GET", r"/config/?"),
    _route("info", "GET", r"/gradio_api/(info/?|openapi\.json|app_id/?|startup-events)"),
    _route("healthz", "GET HEAD", "/healthz"),
    _route("upload", "POST", "/gradio_api/upload", upload_id=SESSION),
    _route("progress", "GET", "/gradio_api/upload_progress", upload_id=SESSION),
    _route("join", "POST", "/gradio_api/queue/join"),
    _route("events", "GET", "/gradio_api/queue/data", session_hash=SESSION),
    _route("call", "POST", r"/gradio_api/call/(?P<name>\w{1,64})/?"),
    _route("call_v2", "POST", r"/gradio_api/call/v2/(?P<name>\w{1,64})/?"),
    _route("events", "GET", r"/gradio_api/call/(v2/)?\w{1,64}/[0-9a-f]{32}"),
    _route("cancel", "POST", "/gradio_api/cancel"),
    _route("reset", "POST", "/gradio_api/reset/?"),
    _route("heartbeat", "GET", rf"/gradio_api/heartbeat/{SESSION}"),
    _route("file", "GET HEAD", r"/gradio_api/file=/.+"),
    _route("mcp", "GET POST DELETE", "/gradio_api/mcp(/http)?/?"),
    _route("info", "GET", "/gradio_api/mcp/schema"),
)
BODIES = {"join", "call", "call_v2", "cancel", "reset", "mcp"}  # routes whose POST has JSON
QUIET = {"asset", "healthz"}  # logged only when they fail

# What Gradio's clients send, and of what type; None where it may be left out.
JOIN: dict[str, type | None] = {
    "data": list,
    "fn_index": int,
    "session_hash": str,
    "event_data": None,
    "trigger_id": None,
}
CALL: dict[str, type | None] = {"data": list, "session_hash": None}
CANCEL: dict[str, type | None] = {"session_hash": str, "fn_index": int, "event_id": str}
MCP_IDS = (str, int, type(None))
RESET: dict[str, type | None] = {"event_id": str}


def parse(body: bytes) -> dict[str, Any]:
    """A JSON object without anything that no client of this service sends.

    Raises:
        RequestError: it is no JSON, no object, or holds NaN, huge numbers, half characters, or too much or too deep.
    """
    expected = "expected a JSON object in UTF-8, with finite numbers of at most 64 bit"
    if sum(map(body.count, (b",", b"[", b"{"))) > MAX_ELEMENTS:
        raise RequestError(413, "too_large", f"The body has more than {MAX_ELEMENTS} elements; {expected}.")
    try:
        value = json.loads(body, parse_constant=_refuse_constant)
        for item, depth in _walk(value):
            if depth > MAX_DEPTH:
                raise RecursionError
            if isinstance(item, str):
                item.encode()
            elif (isinstance(item, float) and not math.isfinite(item)) or (
                isinstance(item, int) and abs(item) >= 2**63
            ):
                raise ValueError
    except RecursionError:
        raise RequestError(400, "bad_json", f"The body is nested deeper than {MAX_DEPTH} levels; {expected}.") from None
    except ValueError:
        raise RequestError(400, "bad_json", f"The body could not be read; {expected}.") from None
    if not isinstance(value, dict):
        raise RequestError(400, "bad_json", f"The body is a JSON {_kind(value)}; {expected}.")
    return value


def _refuse_constant(_name: str) -> NoReturn:
    raise ValueError


def _walk(value: Any) -> Iterator[tuple[Any, int]]:
    """All values in a parsed JSON document, keys too, each with its depth."""
    stack = [(value, 1)]
    while stack:
        item, depth = stack.pop()
        yield item, depth
        if isinstance(item, dict):
            stack += [(part, depth + 1) for pair in item.items() for part in pair]
        elif isinstance(item, list):
            stack += [(part, depth + 1) for part in item]


def _kind(value: Any) -> str:
    names = {bool: "boolean", int: "number", float: "number", str: "string", list: "array", dict: "object"}
    return names.get(type(value), "null")


def check_fields(value: dict[str, Any], fields: dict[str, type | None]) -> dict[str, Any]:
    """The fields of a request that this service knows.

    Args:
        value: the request.
        fields: their types; None for one that may be left out.

    Raises:
        RequestError: one is missing or of another type.
    """
    for name, kind in fields.items():
        if kind and type(value.get(name)) is not kind:
            came = _kind(value[name]) if name in value else "missing"
            raise invalid(f"{name} is {came}; expected a JSON {_kind(kind())}.")
    session, trigger = value.get("session_hash"), value.get("trigger_id")
    if session is not None and not (isinstance(session, str) and re.fullmatch(SESSION, session, re.ASCII)):
        raise invalid("session_hash is malformed; expected up to 64 letters, digits and dashes.")
    if trigger is not None and type(trigger) is not int:
        raise invalid(f"trigger_id is {_kind(trigger)}; expected a JSON number.")
    return {name: value[name] for name in fields if name in value}


def invalid(message: str) -> RequestError:
    return RequestError(422, "bad_request", message)


def check_values(function: Any, data: list[Any]) -> None:
    """Check each value of an endpoint by the model of its component, as Gradio does later, without saying why.

    Args:
        function: Gradio's, of the endpoint.
        data: a value for each of its inputs.

    Raises:
        RequestError: one does not fit.
    """
    for block, value in zip(function.inputs, data, strict=True):
        model = getattr(block, "data_model", None)
        if model and value is not None:
            try:
                model.model_validate(value, context={"validate_meta": True})
            except ValueError:
                came = f"{block.label} is not what a {type(block).__name__} takes"
                raise invalid(f"{came}; expected {FILE} if it is a film, a list of such if several.") from None


FILE = '{"path": what /gradio_api/upload answered, "meta": {"_type": "gradio.FileData"}}'


def check_files(value: Any) -> list[Path]:
    """The uploads that a request names.

    Args:
        value: parsed JSON.

    Raises:
        RequestError: a file is named by an address, which Gradio would fetch, is no upload, or is of before a restart.
    """
    paths = []
    for item, _ in _walk(value):
        if not isinstance(item, dict):
            continue
        meta, path = item.get("meta"), item.get("path")
        if isinstance(path, str) and _is_url(path):
            raise RequestError(422, "no_url", NO_URL)
        if isinstance(path, str) and "meta" in item and not isinstance(meta, dict):
            raise invalid(f"meta is {_kind(meta)}; expected {FILE}.")
        if isinstance(meta, dict) and meta.get("_type") == "gradio.FileData":
            if isinstance(path, str) and _is_of_another_run(path):
                raise RequestError(410, "upload_gone", GONE)
            if not isinstance(path, str) or not _is_upload(path):
                raise RequestError(
                    422, "not_an_upload", "A film is named that was not uploaded here. Upload it first, then name it."
                )
            paths.append(Path(path))
    return paths


NO_URL = (
    "A film's address came, but this service fetches nothing. Send the film itself: upload it first, or over MCP send "
    "it as a data: URL."
)
GONE = "This upload is not here any more: films are deleted within the hour. Upload it again."


def _is_url(text: str) -> bool:
    return text.lstrip().lower().startswith(("http:", "https:", "ftp:", "file:", "//"))


def _is_upload(path: str) -> bool:
    plain = os.path.normpath(path) == path and "\0" not in path
    return plain and Path(path).is_relative_to(uploads.path) and path != str(uploads.path)


def _is_of_another_run(path: str) -> bool:
    """Whether a path is of an upload from before a restart, of which all are gone."""
    base, own = uploads.path.parent, uploads.path.name
    return path.startswith(f"{base}/run-") and Path(path).relative_to(base).parts[0] != own and ".." not in path


def find_route(method: str, path: str) -> tuple[Route, re.Match[str] | None]:
    known = [(route, match) for route in ROUTES if (match := route.path.fullmatch(path))]
    if not known:
        raise RequestError(404, "not_found", "There is nothing at this address. README.md tells what there is.")
    for route, match in known:
        if method in route.methods:
            return route, match
    allowed = ", ".join(known[0][0].methods)
    raise RequestError(405, "method_not_allowed", f"This address takes {allowed} only.")
