"""The guard before the page: what may be asked, by whom and how much; what is kept, and what is logged."""

import base64
import io
import json
import os
import re
import resource
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest
from gradio_client import Client
from gradio_client.exceptions import AppError
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from playwright.sync_api import Browser, expect
from pydicom import dcmread

import server
from pneumocam import Classifier, predict
from server import folder
from server.guard import clear_event
from server.rules import RequestError, find_route, parse
from tests.conftest import EXAMPLES, ROOT, App
from tests.service.test_handler import dicom

FILM = EXAMPLES[-1]
FAR = "http://films.example.org/film.png"  # no test may look this name up
MARKER = "Mrs-Marker-1947"


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


def until(happens: Callable[[], Any], seconds: float = 30) -> None:
    end = time.monotonic() + seconds
    while not happens():
        assert time.monotonic() < end, "it did not happen in time"
        time.sleep(0.01)


class Service:
    """What a client of the small service, or of the page, can do."""

    def __init__(self, url: str, folder: Path, log: list[str]) -> None:
        self.url, self.folder, self.log = url, folder, log
        self.http = httpx.Client(base_url=url, timeout=30)

    def upload(self, content: bytes = b"film", name: str = "film.png") -> str:
        answer = self.http.post("/gradio_api/upload", files={"files": (name, content)})
        assert answer.status_code == 200, answer.text
        path: str = answer.json()[0]
        return path

    def connection(self) -> socket.socket:
        return socket.create_connection(("127.0.0.1", httpx.URL(self.url).port or 80))

    def call(self, name: str, data: list[Any], **more: Any) -> httpx.Response:
        return self.http.post(f"/gradio_api/call/{name}", json={"data": data, **more})

    def answer(self, name: str, call: httpx.Response) -> str:
        """The whole event stream that a call leads to."""
        assert call.status_code == 200, call.text
        return self.http.get(f"/gradio_api/call/{name}/{call.json()['event_id']}").text

    def join(self, function: str, data: list[Any], session: str) -> httpx.Response:
        config = self.http.get("/config").json()
        number = next(one["id"] for one in config["dependencies"] if one["api_name"] == function)
        return self.http.post(
            "/gradio_api/queue/join", json={"data": data, "fn_index": number, "session_hash": session}
        )

    def inside(self) -> dict[str, Any]:
        """What the small service's process knows."""
        text = self.answer("inside", self.call("inside", []))
        known: dict[str, Any] = json.loads(text.split("data: ", 1)[1])[0]
        return known

    def waiting(self) -> int:
        count: int = self.http.get("/healthz").json()["queue"]["waiting"]
        return count

    def uploads(self) -> Path:
        """The folder that this process has for itself."""
        [folder] = (self.folder / "uploads").iterdir()
        return folder

    def pid(self) -> int:
        return int(self.uploads().name.split("-")[1])

    def events(self, session: str) -> list[dict[str, Any]]:
        text = self.http.get("/gradio_api/queue/data", params={"session_hash": session}).text
        return [json.loads(line.removeprefix("data: ")) for line in text.split("\n\n") if line]


def film(path: str, **more: Any) -> dict[str, Any]:
    return {"path": path, "meta": {"_type": "gradio.FileData"}, **more}


def code(answer: httpx.Response) -> tuple[int, str]:
    """Status and code of an error, which is told in a sentence wherever a client may look for it."""
    error = answer.json()["error"]
    detail = answer.json()["detail"]
    assert error["message"].endswith(".")
    assert detail == error["message"] or detail[0]["message"] == error["message"]
    return answer.status_code, error["code"]


@contextmanager
def running_small(
    folder: Path,
    prefix: tuple[str, ...] = (),
    *,
    port: int = 0,
    constants: dict[str, float] | None = None,
    **environment: str,
) -> Iterator[Service]:
    """The small service, from the moment that it serves."""
    (folder / "gate").touch()
    settings = {"port": port or free_port(), "gate": str(folder / "gate"), "constants": constants or {}}
    environment = {"GRADIO_TEMP_DIR": str(folder / "uploads"), "PYTHONUNBUFFERED": "1", **environment}
    with subprocess.Popen(
        [*prefix, sys.executable, "-m", "tests.small"],
        cwd=ROOT,
        env=os.environ | {"SMALL": json.dumps(settings)} | environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    ) as process:
        assert process.stdout
        log: list[str] = []
        for line in process.stdout:
            log.append(line)
            if "Running on local URL" in line:
                break
        else:
            pytest.fail(f"it ended before it served: {''.join(log)}")
        reader = threading.Thread(target=log.extend, args=[process.stdout])
        reader.start()
        service = Service(f"http://127.0.0.1:{settings['port']}", folder, log)
        try:
            yield service
        finally:
            service.http.close()
            process.terminate()
            reader.join(30)


@pytest.fixture(scope="module")
def small(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Service]:
    """The small service, with a quota that four films of full size are too much for, and swept at short intervals."""
    constants = {"folder.SWEEP": 0.1, "guard.MAX_OPEN": 24, "guard.MAX_HEARTBEATS": 48}
    folder = tmp_path_factory.mktemp("small")
    with running_small(folder, constants=constants, PNEUMOCAM_UPLOAD_QUOTA="64mb") as service:
        yield service


@pytest.fixture
def service(small: Service) -> Iterator[Service]:
    service = Service(small.url, small.folder, small.log)
    yield service
    service.http.close()


@pytest.fixture
def closed_gate(small: Service) -> Iterator[Path]:
    """While there is no such file, the small service's endpoints wait."""
    gate = small.folder / "gate"
    gate.unlink()
    yield gate
    gate.touch()


# What is served

OPEN = {
    *(("GET", path) for path in ("/", "/config", "/config/", "/theme.css", "/favicon.ico", "/robots.txt")),
    *(("GET", path) for path in ("/manifest.json", "/pwa_icon", "/assets/x", "/gradio_api/startup-events")),
    *(
        ("GET", f"/gradio_api/{path}")
        for path in ("info", "info/", "openapi.json", "app_id", "app_id/", "upload_progress")
    ),
    *(("GET", f"/gradio_api/{path}") for path in ("file=/x", "heartbeat/x", "queue/data", "call/v2/x/ID", "call/x/ID")),
    *(("POST", f"/gradio_api/{path}") for path in ("upload", "queue/join", "cancel", "reset", "reset/")),
    *(("POST", f"/gradio_api/{path}") for path in ("call/x", "call/x/", "call/v2/x", "call/v2/x/")),
    *(("HEAD", path) for path in ("/", "/gradio_api/file=/x")),
}


def test_of_gradios_routes_those_are_open_that_the_page_and_clients_need(service: Service) -> None:
    found = set()
    for pattern, methods in service.inside()["routes"]:
        path = re.sub(r"\{(\w+)(:path)?\}", lambda name: {"event_id": "0" * 32}.get(name[1], "x"), pattern)
        path = path.replace("file=x", "file=/x")
        for method in methods:
            with suppress(RequestError):
                find_route(method, path)
                found.add((method, path.replace("0" * 32, "ID")))
    assert found == OPEN


@pytest.mark.parametrize(
    ("method", "path"),
    [
        ("POST", "/gradio_api/run/size"),
        ("POST", "/gradio_api/api/size"),
        ("GET", "/gradio_api/proxy=https://x.hf.space/"),
        ("GET", f"/gradio_api/file={FAR}"),
        ("GET", "/gradio_api/file=x"),
        ("GET", "/gradio_api/queue/status"),
        ("GET", "/gradio_api/runs"),
        ("GET", "/gradio_api/dev/reload"),
        ("GET", "/gradio_api/deep_link?session_hash=x"),
        ("POST", "/gradio_api/component_server"),
        ("POST", "/gradio_api/process_recording"),
        ("GET", "/gradio_api/mcp/sse"),
        ("GET", "/monitoring/summary"),
        ("GET", "/docs"),
        ("GET", "/openapi.json"),
        ("POST", "/login"),
        ("GET", "/static/ffmpeg/ffmpeg-core.js"),
        ("GET", "/assets/%2e%2e/index.html"),
    ],
)
def test_everything_else_is_not_there(service: Service, method: str, path: str) -> None:
    assert code(service.http.request(method, path)) == (404, "not_found")
    assert service.inside()["asked"] == []


def test_a_known_address_says_which_methods_it_takes(service: Service) -> None:
    answer = service.http.put("/")
    assert code(answer) == (405, "method_not_allowed")
    assert "GET, HEAD" in answer.json()["detail"]


def test_healthz_tells_model_and_queue(service: Service) -> None:
    answer = service.http.get("/healthz")
    assert answer.status_code == 200
    assert answer.json() == {
        "status": "ok",
        "model": {"id": "small", "revision": "1"},
        "queue": {"waiting": 0, "limit": 8},
    }


@pytest.mark.parametrize(
    "path",
    ["file=/etc/passwd", "file=//etc/passwd", "file=/tmp/../etc/passwd", "file=/%00", "file=/proc/self/environ"],
)
def test_no_file_is_served_but_uploads_and_results(service: Service, path: str) -> None:
    assert code(service.http.get(f"/gradio_api/{path}")) == (404, "not_found")


@pytest.mark.parametrize(
    "request_",
    [
        ("GET", "/", {}),
        ("GET", "/theme.css", {}),
        ("GET", "/healthz", {}),
        ("GET", "/nothing", {}),
        ("GET", "/gradio_api/queue/data?session_hash=x", {}),
        ("POST", "/gradio_api/queue/join", {"json": []}),
        ("POST", "/gradio_api/upload", {"files": {"files": ("x.png", b"x")}}),
        ("OPTIONS", "/", {"headers": {"Origin": "https://example.org", "Access-Control-Request-Method": "GET"}}),
    ],
    ids=lambda request: " ".join(request[:2]),
)
def test_every_answer_has_the_security_headers(service: Service, request_: tuple[str, str, Any]) -> None:
    method, path, options = request_
    headers = service.http.request(method, path, **options).headers
    assert headers["x-content-type-options"] == "nosniff"
    assert headers["referrer-policy"] == "no-referrer"
    assert headers["cross-origin-opener-policy"] == "same-origin"
    assert "camera=()" in headers["permissions-policy"]
    policy = dict(part.split(" ", 1) for part in headers["content-security-policy"].split("; "))
    assert policy["default-src"] == "'none'"
    assert "'unsafe-inline'" not in policy["script-src"]
    assert policy["frame-ancestors"] == "'self' https://huggingface.co https://*.hf.space"


@pytest.mark.parametrize("name", ["page.html", "picture.svg", "script.js", "film.png"])
def test_no_browser_runs_what_was_uploaded(service: Service, name: str) -> None:
    path = service.upload(b"<script>alert(1)</script>", name)
    answer = service.http.get(f"/gradio_api/file={path}", headers={"Range": "bytes=0-1"})
    assert answer.content == b"<script>alert(1)</script>"
    assert answer.headers["content-security-policy"].startswith("default-src 'none'; sandbox")
    assert answer.headers["x-content-type-options"] == "nosniff"
    assert answer.headers["cache-control"] == "no-store"
    kind, disposition = answer.headers["content-type"], answer.headers["content-disposition"]
    assert (kind, disposition.split(";")[0]) == (
        ("image/png", "inline") if name == "film.png" else ("application/octet-stream", "attachment")
    )


# JSON

JSON = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**63) + 1, 2**63 - 1)
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(),
    lambda parts: st.lists(parts, max_size=4) | st.dictionaries(st.text(), parts, max_size=4),
    max_leaves=20,
)


@settings(max_examples=50, deadline=None)
@given(value=st.dictionaries(st.text(), JSON, max_size=4))
def test_parsing_keeps_what_is_json(value: dict[str, Any]) -> None:
    assert parse(json.dumps(value).encode()) == value


@settings(max_examples=300, deadline=None)
@given(body=st.binary(max_size=60) | st.text(alphabet='{}[]",:0e9.-\\un ', max_size=60).map(str.encode))
def test_parsing_refuses_what_is_not(body: bytes) -> None:
    with suppress(RequestError):
        assert isinstance(parse(body), dict)


BAD_BODIES = {
    "nothing": b"",
    "cut": b'{"data": [',
    "array": b"[]",
    "null": b"null",
    "number": b"5",
    "not UTF-8": b"\xff\xfe{}",
    "half a character": b'{"data": ["\\ud800"]}',
    "NaN": b'{"data": [NaN]}',
    "infinite": b'{"data": [1e999]}',
    "more than 64 bit": b'{"data": [%d]}' % 2**63,
    "thousands of digits": b'{"data": [%s]}' % (b"9" * 5000),
    "deep": b'{"data": %s%s}' % (b"[" * 40, b"]" * 40),
    "deeper than Python": b'{"data": %s%s}' % (b"[" * 9000, b"]" * 9000),
    "many": b'{"data": [%s]}' % b",".join([b"0"] * 30_000),
    "large": b'{"data": ["%s"]}' % (b"x" * 300_000),
    "empty": b"{}",
    "data is an object": b'{"data": {}}',
    "data is null": b'{"data": null}',
    "too many": b'{"data": [1, 2, 3, 4, 5, 6, 7, 8, 9], "fn_index": 0, "session_hash": "x"}',
    "no such function": b'{"data": [], "fn_index": 99, "session_hash": "x"}',
    "true is no number": b'{"data": [], "fn_index": true, "session_hash": "x"}',
    "session is a number": b'{"data": [], "fn_index": 0, "session_hash": 5}',
    "session is a path": b'{"data": [], "fn_index": 0, "session_hash": "../x"}',
    "no film": b'{"data": ["film"], "fn_index": 0, "session_hash": "x"}',
    "film without meta": b'{"data": [{"path": "/etc/passwd"}, 1], "fn_index": 0, "session_hash": "x"}',
    "meta is a number": b'{"data": [{"path": "/etc/passwd", "meta": 5}, 1], "fn_index": 0, "session_hash": "x"}',
    "film that is none": json.dumps({"data": [film("/etc/passwd"), 1], "fn_index": 0, "session_hash": "x"}).encode(),
    "film outside": json.dumps({"data": [film("../../x"), 1], "fn_index": 0, "session_hash": "x"}).encode(),
    "film with NUL": json.dumps({"data": [film("/x\0"), 1], "fn_index": 0, "session_hash": "x"}).encode(),
    "path is a number": json.dumps({"data": [film(5), 1], "fn_index": 0, "session_hash": "x"}).encode(),  # type: ignore[arg-type]
}
JSON_PATHS = [
    f"/gradio_api/{path}" for path in ("call/size", "call/v2/size", "call/nope", "queue/join", "cancel", "reset")
]


@pytest.mark.parametrize("path", JSON_PATHS)
def test_bad_json_is_refused_in_words_everywhere(service: Service, path: str) -> None:
    for name, body in BAD_BODIES.items():
        answer = service.http.post(path, content=body, headers={"Content-Type": "application/json"})
        status, error = code(answer)
        assert status in (400, 404, 413, 422), name
        assert error in ("bad_json", "too_large", "bad_request", "not_an_upload", "unknown_endpoint"), name
        assert not re.search(r"Traceback|pydantic|File \"|/tmp|passwd", answer.text), name
    assert service.waiting() == 0


def test_json_has_to_be_called_json(service: Service) -> None:
    answer = service.http.post("/gradio_api/call/size", content=b'{"data": []}', headers={"Content-Type": "text/plain"})
    assert code(answer) == (415, "bad_request")


def test_values_may_be_left_out_that_have_a_default(service: Service) -> None:
    path = service.upload(b"x" * 7)
    both: list[tuple[list[Any], int]] = [([film(path)], 7), ([film(path), 3], 21)]
    for data, expected in both:
        assert f'"bytes": {expected}' in service.answer("size", service.call("size", data))
    answer = service.http.post("/gradio_api/call/v2/size", json={"film": film(path), "factor": 2})
    assert '"bytes": 14' in service.answer("size", answer)
    assert code(service.call("size", [])) == (422, "bad_request")


@pytest.mark.parametrize(
    ("body", "said"),
    [
        ({"factor": 2}, "film is missing; expected film, factor."),
        ({"films": None, "factor": 2}, "film is missing; expected film, factor."),
        ({"film": None, MARKER: 2}, "1 of the names in the body is unknown here; expected film, factor."),
        ({"film": None, "a": 2, "b": 3}, "2 of the names in the body are unknown here; expected film, factor."),
    ],
    ids=["missing", "misspelt", "one more", "two more"],
)
def test_names_that_do_not_fit_are_told_apart(service: Service, body: dict[str, Any], said: str) -> None:
    answer = service.http.post("/gradio_api/call/v2/size", json=body)
    assert code(answer) == (422, "bad_request")
    assert answer.json()["error"]["message"] == said


@pytest.mark.parametrize("host", ["[", "a b", "x/y", "http://x", ""])
def test_a_host_that_is_none_does_not_keep_its_client_waiting(service: Service, host: str) -> None:
    headers = {"X-Forwarded-Host": host}
    assert code(service.http.get("/", headers=headers)) == (400, "bad_request")
    body = {"data": [None]}
    assert code(service.http.post("/gradio_api/call/size", json=body, headers=headers)) == (400, "bad_request")


def test_what_fails_inside_is_told_without_internals(service: Service) -> None:
    text = service.answer("fail", service.call("fail", ["x"]))
    assert text.startswith('event: error\ndata: {"error": "The service failed')
    assert service.join("fail", ["x"], "failing").status_code == 200
    last = next(event for event in service.events("failing") if event["msg"] == "process_completed")
    assert last["success"] is False
    assert last["output"]["error"].startswith("The service failed, not your film.")
    assert "arker" not in text + json.dumps(last)
    with pytest.raises(AppError, match=r"The service failed, not your film\."):
        Client(service.url, verbose=False).predict("x", api_name="/fail")


def test_a_session_that_is_not_known_is_told_so(service: Service) -> None:
    assert "This session is not known here" in service.http.get(f"/gradio_api/call/size/{'0' * 32}").text
    [event] = service.events("nobody")
    assert event["message"].startswith("This session is not known here")


@given(body=st.binary(max_size=50))
def test_events_that_are_no_errors_are_passed_on(body: bytes) -> None:
    for event in (body, b"event: complete\ndata: " + body, b'data: {"success":true,"x":"' + body + b'"}\n\n'):
        if not event.startswith(b"event: error"):
            assert clear_event(event) == event


# Nothing is fetched


@pytest.mark.parametrize("url", [FAR, FAR.upper(), "https://films.example.org", "//films.example.org/x", "ftp://x/y"])
def test_a_films_address_is_refused_and_not_looked_up(service: Service, url: str) -> None:
    for answer in (
        service.call("size", [film(url)]),
        service.call("size", [{"path": url}]),
        service.call("size", [[{"deep": film(url)}]]),
        service.http.post("/gradio_api/call/v2/size", json={"film": film(url)}),
        service.join("size", [film(url), 1], "x"),
        service.join("private", [film(url), 1], "x"),
    ):
        assert code(answer) == (422, "no_url")
    assert service.inside()["asked"] == []


def test_a_film_on_this_machine_is_not_fetched_either(service: Service) -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        listener.settimeout(0)
        url = f"http://127.0.0.1:{listener.getsockname()[1]}/film.png"
        assert code(service.call("size", [film(url)])) == (422, "no_url")
        with pytest.raises(BlockingIOError):
            listener.accept()


def test_an_uploads_own_address_is_no_hindrance(service: Service) -> None:
    path = service.upload(b"x" * 9)
    for url in (f"{service.url}/gradio_api/file={path}", FAR):
        assert '"bytes": 9' in service.answer("size", service.call("size", [film(path, url=url)]))
    assert service.inside()["asked"] == []


# Queue


def test_one_client_has_a_quarter_of_the_queue_and_all_together_the_whole(service: Service, closed_gate: Path) -> None:
    """Of eight places, with one function at work."""
    assert service.join("size", [None, 1], "at-work").status_code == 200
    until(lambda: service.waiting() == 0)
    for client in "abcd":
        for _ in range(2):
            assert service.join("size", [None, 1], client).status_code == 200
        if client != "d":
            refused = service.join("size", [None, 1], client)
            assert code(refused) == (429, "busy")
            assert int(refused.headers["retry-after"]) > 0
    assert service.http.get("/healthz").json()["queue"] == {"waiting": 8, "limit": 8}
    full = service.join("size", [None, 1], "e")
    assert code(full) == (503, "queue_full")
    assert int(full.headers["retry-after"]) > 0
    assert "come back" in full.json()["detail"]
    with pytest.raises(Exception, match="Queue is full! Please try again"):
        Client(service.url, verbose=False).predict(None, api_name="/size")

    closed_gate.touch()
    for client in ("at-work", *"abcd"):
        assert [event["success"] for event in service.events(client) if event["msg"] == "process_completed"] == [
            True
        ] * (1 if client == "at-work" else 2)
    assert service.join("size", [None, 1], "a").status_code == 200
    service.events("a")


def test_who_goes_away_gives_its_places_back(service: Service, closed_gate: Path) -> None:
    service.join("size", [None, 1], "at-work")
    until(lambda: service.waiting() == 0)
    for _ in range(2):
        service.join("size", [None, 1], "leaving")
    with service.http.stream("GET", "/gradio_api/queue/data", params={"session_hash": "leaving"}) as stream:
        lines = stream.iter_lines()
        assert next(lines)
        assert service.join("size", [None, 1], "leaving").status_code == 429
    until(lambda: service.waiting() == 0)
    assert service.join("size", [None, 1], "leaving").status_code == 200
    closed_gate.touch()
    service.events("leaving")
    service.events("at-work")


def test_clients_without_a_session_are_told_apart_by_address(service: Service, closed_gate: Path) -> None:
    calls = [service.call("size", [None])]
    until(lambda: service.waiting() == 0)
    calls += [service.call("size", [None]) for _ in range(2)]
    assert code(service.call("size", [None])) == (429, "busy")
    calls.append(service.call("size", [None], session_hash="named"))
    elsewhere = {"X-Forwarded-For": "203.0.113.7"}  # uvicorn trusts a proxy on this machine
    far = service.http.post("/gradio_api/call/size", json={"data": [None]}, headers=elsewhere)
    calls.append(far)
    closed_gate.touch()
    for call in calls:
        assert '"bytes": 0' in service.answer("size", call)


def test_a_public_address_has_no_more_than_half_whatever_it_calls_itself(service: Service, closed_gate: Path) -> None:
    service.http.headers["X-Forwarded-For"] = "9.9.9.9"
    sessions = [f"s{number}" for number in range(6)]
    service.join("size", [None, 1], sessions[0])
    until(lambda: service.waiting() == 0)
    statuses = [service.join("size", [None, 1], session).status_code for session in sessions[1:]]
    assert statuses == [200] * 4 + [429]
    closed_gate.touch()
    for session in sessions[:5]:
        service.events(session)


def test_requests_at_once_are_bounded_and_healthz_answers_all_the_same(service: Service) -> None:
    with ExitStack() as clients:
        for _ in range(24):
            start_to_call(clients.enter_context(service.connection()))
        until(lambda: service.http.get("/config").status_code == 503)
        assert code(service.http.get("/config")) == (503, "busy")
        assert service.http.get("/healthz").status_code == 200
    until(lambda: service.http.get("/config").status_code == 200)


def start_to_call(client: socket.socket, host: str = "127.0.0.1") -> None:
    """Leave a request open: of its body, nothing comes."""
    head = f"POST /gradio_api/call/size HTTP/1.1\r\nHost: x\r\nX-Forwarded-For: {host}\r\n"
    client.sendall(f"{head}Content-Type: application/json\r\nContent-Length: 9\r\n\r\n".encode())


def test_a_public_address_has_a_quarter_of_the_open_requests(service: Service) -> None:
    far = {"X-Forwarded-For": "9.9.9.9"}
    with ExitStack() as clients:
        for _ in range(6):
            start_to_call(clients.enter_context(service.connection()), "9.9.9.9")
        until(lambda: service.http.get("/config", headers=far).status_code == 429)
        assert code(service.http.get("/config", headers=far)) == (429, "busy")
        assert service.http.get("/healthz", headers=far).status_code == 200
        for other in ("9.9.9.8", "10.0.0.1"):
            assert service.http.get("/config", headers={"X-Forwarded-For": other}).status_code == 200
    until(lambda: service.http.get("/config", headers=far).status_code == 200)


def test_idle_pages_keep_nobody_out(service: Service) -> None:
    with ExitStack() as streams:

        def heartbeat(host: str) -> httpx.Response:
            stream = service.http.stream("GET", "/gradio_api/heartbeat/x", headers={"X-Forwarded-For": host})
            return streams.enter_context(stream)

        assert [heartbeat("9.9.9.9").status_code for _ in range(4)] == [200] * 3 + [429]
        assert [heartbeat("127.0.0.1").status_code for _ in range(46)] == [200] * 45 + [503]
        for path in ("/", "/healthz"):
            for host in ("127.0.0.1", "9.9.9.9"):
                assert service.http.get(path, headers={"X-Forwarded-For": host}).status_code == 200


# Uploads


def test_hostile_names_stay_in_the_folder(service: Service) -> None:
    names = [
        "../../../etc/x",
        "..\\..\\x",
        "/etc/passwd",
        "a\nb",
        "CON",
        "n" * 200,
        "%2e%2e%2fx",
        "фильм.png",
        " ",
        "-rf",
    ]
    for name in names:
        path = Path(service.upload(b"x", name))
        assert path.parent.parent == service.uploads()
        assert path.read_bytes() == b"x"


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ({}, (400, "bad_upload")),
        ({"json": {}}, (400, "bad_upload")),
        ({"data": {"files": "text"}}, (400, "bad_upload")),
        ({"files": {"files": (None, b"no name")}}, (400, "bad_upload")),
        ({"files": {"files": ("..", b"x")}}, (400, "bad_upload")),
        ({"files": {"files": ("n" * 9000, b"x")}}, (413, "too_large")),
        ({"files": {"files": ("large", bytes(20 * 2**20 + 1))}}, (413, "too_large")),
        ({"files": [("files", (f"{number}", b"x")) for number in range(33)]}, (413, "too_many_films")),
        ({"params": {"upload_id": "../x"}, "files": {"files": ("x", b"x")}}, (400, "bad_request")),
        (
            {
                "content": b'--cut\r\nContent-Disposition: form-data; name="files"; filename="x"\r\n\r\nfil',
                "headers": {"Content-Type": "multipart/form-data; boundary=cut"},
            },
            (400, "bad_upload"),
        ),
        ({"content": b"x", "headers": {"Content-Type": "multipart/form-data"}}, (400, "bad_upload")),
    ],
    ids=["none", "JSON", "text", "nameless", "dots", "long name", "large", "33", "progress", "cut", "boundary"],
)
def test_bad_uploads_are_refused_and_leave_nothing(
    service: Service, options: dict[str, Any], expected: tuple[int, str]
) -> None:
    assert code(service.http.post("/gradio_api/upload", **options)) == expected
    assert [path for path in service.uploads().iterdir() if path.is_file()] == []


def test_thirty_two_films_of_full_size_are_taken(service: Service) -> None:
    size = 20 * 2**20
    files = [("files", (f"{number}.png", bytes(size if number == 0 else 1))) for number in range(32)]
    answer = service.http.post("/gradio_api/upload", files=files)
    assert [Path(path).stat().st_size for path in answer.json()] == [size] + [1] * 31


def test_an_upload_that_its_client_gives_up_leaves_nothing(service: Service) -> None:
    with service.connection() as client:
        head = "POST /gradio_api/upload HTTP/1.1\r\nHost: x\r\nContent-Type: multipart/form-data; boundary=abc\r\n"
        part = '--abc\r\nContent-Disposition: form-data; name="files"; filename="x"\r\n\r\nfilm'
        client.sendall(f"{head}Content-Length: 100000\r\n\r\n{part}".encode())
        until(lambda: any(path.is_file() for path in service.uploads().iterdir()))
    until(lambda: not any(path.is_file() for path in service.uploads().iterdir()))


def test_the_quota_refuses_and_loses_nothing(service: Service) -> None:
    make_old(service)
    paths = [service.upload(bytes([number]) * (20 * 2**20)) for number in range(3)]
    refused = service.http.post("/gradio_api/upload", files={"files": ("x", b"x" * (20 * 2**20))})
    assert code(refused) == (507, "no_space")
    assert "come back later" in refused.json()["detail"]
    assert int(refused.headers["retry-after"]) > 0
    for path in paths:
        assert '"bytes": 20971520' in service.answer("size", service.call("size", [film(path)]))
    make_old(service)
    assert Path(service.upload(bytes(20 * 2**20))).exists()


def test_what_is_refused_takes_no_room_and_harms_no_upload_beside_it(tmp_path: Path) -> None:
    part = '--abc\r\nContent-Disposition: form-data; name="files"; filename="x"\r\n\r\nfilm'
    form = "Content-Type: multipart/form-data; boundary=abc\r\n"
    with running_small(tmp_path, PNEUMOCAM_UPLOAD_QUOTA="1mb") as service:
        for _ in range(3):
            refused = service.http.post("/gradio_api/upload", files={"files": ("x", bytes(2**21))})
            assert code(refused) == (507, "no_space")
            assert Path(service.upload(bytes(1000))).exists()
        for _ in range(3):
            assert code(service.http.post("/gradio_api/upload", files={"x": (None, bytes(900_000))}))[0] == 400
        with service.connection() as slow:
            head = f"POST /gradio_api/upload HTTP/1.1\r\nHost: x\r\n{form}Content-Length: {len(part) + 11}\r\n\r\n"
            slow.sendall((head + part).encode())
            until(lambda: any(path.is_file() for path in service.uploads().iterdir()))
            refused = service.http.post("/gradio_api/upload", files={"files": ("x", bytes(2**21))})
            assert code(refused) == (507, "no_space")
            slow.sendall(b"\r\n--abc--\r\n")
            answer = slow.recv(65536)
            assert b" 200 " in answer.splitlines()[0]
        assert not any(path.is_file() for path in service.uploads().iterdir())


def make_old(service: Service) -> None:
    """Let all uploads be of an hour ago, and wait until they are gone for that."""
    files = [path for path in service.uploads().rglob("*") if path.is_file()]
    for path in files:
        os.utime(path, (time.time() - 3601,) * 2)
    until(lambda: not any(path.exists() for path in files))


@pytest.mark.parametrize("under_way", [0, 1])
def test_an_upload_that_starts_while_others_are_cleared_away_keeps_its_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, under_way: int
) -> None:
    """It starts while the folder is listed, and is still under way when that is done, or not."""
    (tmp_path / "old").touch()
    uploads = folder.Uploads(tmp_path)
    listed = Path.glob

    def glob(path: Path, pattern: str) -> Iterator[Path]:
        (tmp_path / "new").touch()
        yield from listed(path, pattern)
        uploads.receiving = under_way
        (tmp_path / "newest").touch()

    monkeypatch.setattr(Path, "glob", glob)
    uploads.clear_orphans()
    left = {path.name for path in tmp_path.iterdir()}
    assert left == ({"old", "new", "newest"} if under_way else {"newest"})


# What is kept


def test_the_folder_is_private(service: Service) -> None:
    assert service.uploads().stat().st_mode & 0o777 == 0o700
    assert service.uploads().name.startswith("run-")


def test_uploads_go_within_the_hour_and_a_page_that_is_still_open_is_told_so(service: Service) -> None:
    old, young = service.upload(b"old", "old.png"), service.upload(b"young", "young.png")
    os.utime(old, (time.time() - folder.MAX_AGE - 1,) * 2)
    os.utime(young, (time.time() - folder.MAX_AGE + 60,) * 2)
    until(lambda: not Path(old).exists())
    assert Path(young).exists()
    assert folder.MAX_AGE + 2 * folder.SWEEP < 3600
    gone = service.join("private", [film(old), 1], "open")
    assert code(gone) == (410, "upload_gone")
    assert "deleted within the hour. Upload it again" in gone.json()["detail"]
    assert service.join("private", [film(young), 1], "open").status_code == 200
    assert service.events("open")[-2]["success"] is True
    assert code(service.http.get(f"/gradio_api/file={old}")) == (404, "not_found")


def test_an_upload_from_before_a_restart_is_gone_and_nothing_else_is_told(service: Service, real: "Page") -> None:
    base = service.uploads().parent
    (base.parent / "secret").touch()
    for path in (base / "run-1-abc/0123/film.png", base / "run-1-abc", base / "run-1-abc/a b/x"):
        for answer in (
            service.call("size", [film(str(path))]),
            service.http.post("/gradio_api/call/v2/size", json={"film": film(str(path))}),
            service.join("size", [film(str(path)), 1], "x"),
            service.join("private", [film(str(path)), 1], "x"),
        ):
            assert code(answer) == (410, "upload_gone")
            assert "deleted within the hour. Upload it again" in answer.text
    for path in (base / "run-1-abc/../secret", base / "secret", base, base.parent / "secret", Path(f"{base}-run-1/x")):
        assert code(service.call("size", [film(str(path))])) == (422, "not_an_upload")
    gone = str(real.uploads().parent / "run-1-abc" / "film.png")
    for image in (gone, film(gone), {"path": gone}, f"{real.url}/gradio_api/file={gone}"):
        answer = real.tool(image=image, overlay=False)
        assert answer.status_code == 200
        assert '"text":"upload_gone: ' in answer.text.replace('": ', '":')
    assert "not_an_image: " in real.tool(image=str(real.uploads().parent / "secret")).text


@pytest.fixture(scope="module")
def blocked(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Service]:
    """Keeps nothing for a second, and waits for nobody; a file lies where its folder of uploads would be."""
    folder = tmp_path_factory.mktemp("hasty")
    (folder / "uploads").write_text("in the way")
    constants = {"folder.MAX_AGE": 0.5, "folder.ORPHAN_AGE": 0.5, "folder.SWEEP": 0.05, "guard.IDLE": 0.5}
    with running_small(folder, constants=constants) as service:
        yield service
    assert list((folder / "uploads").iterdir()) == []  # it was ended, not killed


@pytest.fixture
def hasty(blocked: Service) -> Service:
    """The same with nothing in the way."""
    if (blocked.folder / "uploads").is_file():
        (blocked.folder / "uploads").unlink()
    return blocked


def test_a_folder_that_cannot_be_made_is_said_on_the_page_and_tried_again(blocked: Service) -> None:
    trouble = "The server's disk cannot be written, so films cannot be taken in at the moment."
    assert trouble in blocked.http.get("/config").text
    assert any(trouble in line for line in blocked.log)
    answer = blocked.http.post("/gradio_api/upload", files={"files": ("x", b"x")})
    assert code(answer) == (507, "no_space")
    assert answer.json()["detail"].startswith(trouble)
    (blocked.folder / "uploads").unlink()
    assert Path(blocked.upload()).parent.parent == blocked.uploads()


def test_nothing_is_remembered_of_clients_that_went(hasty: Service) -> None:
    path = hasty.upload(b"x", "marker.png")
    hasty.http.post("/gradio_api/upload?upload_id=abandoned", files={"files": ("marker-2.png", b"x")})
    hasty.call("size", [film(path)], session_hash="abandoned")
    until(lambda: not any(file.is_file() for file in hasty.uploads().rglob("*")))

    def remembered() -> str:
        known = hasty.inside()
        return json.dumps([known[name] for name in ("sessions", "messages", "progress", "names")])

    until(lambda: not re.search("abandoned|marker", remembered()))


@pytest.mark.parametrize(
    ("path", "kind"), [("upload", "multipart/form-data; boundary=abc"), ("call/size", "application/json")]
)
def test_a_client_that_stops_in_the_middle_is_not_waited_for(hasty: Service, path: str, kind: str) -> None:
    head = f"POST /gradio_api/{path} HTTP/1.1\r\nHost: x\r\nContent-Type: {kind}\r\nContent-Length: 9\r\n\r\n"
    with hasty.connection() as client:
        client.sendall(head.encode())
        assert client.recv(65536).startswith(b"HTTP/1.1 408 ")


CLAIM = "import server, sys; print(server.uploads.claim(), flush=True); sys.stdin.read()"


def test_what_killed_processes_left_goes_at_the_next_start_and_what_others_hold_stays(tmp_path: Path) -> None:
    @contextmanager
    def process() -> Iterator[tuple[subprocess.Popen[str], Path]]:
        environment = os.environ | {"GRADIO_TEMP_DIR": str(tmp_path)}
        command = [sys.executable, "-c", CLAIM]
        with subprocess.Popen(
            command, cwd=ROOT, env=environment, text=True, stdin=subprocess.PIPE, stdout=subprocess.PIPE
        ) as claiming:
            assert claiming.stdout
            folder = Path(claiming.stdout.readline().strip())
            (folder / "film").write_text("film")
            yield claiming, folder

    with process() as (_, living):
        with process() as (killed, dead):
            killed.kill()
        assert (dead / "film").exists()
        with process() as (_, new):
            assert sorted(tmp_path.iterdir()) == sorted([living, new])
        assert (living / "film").exists()
    assert list(tmp_path.iterdir()) == []


# Disks


def mounting(*commands: str) -> tuple[str, ...]:
    """What starts a command that sees the disks otherwise than we do; skips the test where that is not allowed."""
    for unshare in (["unshare", "--mount"], ["unshare", "--mount", "--map-root-user"]):
        prefix = [*unshare, "sh", "-ec", "\n".join(["mount --make-rprivate /", *commands, 'exec "$@"']), "sh"]
        with suppress(FileNotFoundError):
            if not subprocess.run([*prefix, "true"], capture_output=True, check=False).returncode:
                return tuple(prefix)
    pytest.skip(
        "this machine lets nobody mount a disk, not even in a namespace; the test needs a full or read-only one"
    )


def test_a_read_only_disk_is_survived_and_so_is_a_full_one(tmp_path: Path) -> None:
    """Where nothing but a little shared memory can be written, uploads lie there, as long as there is room."""
    prefix = mounting(
        "mount -o remount,bind,ro /",
        "mount -t tmpfs -o size=1m tmpfs /dev/shm",
        f"! touch {tmp_path}/written 2>/dev/null",
    )
    with running_small(tmp_path, prefix, GRADIO_TEMP_DIR="") as service:
        assert any("uploads lie in /dev/shm" in line for line in service.log)
        path = service.upload(bytes(1000))
        assert path.startswith("/dev/shm/")
        for _ in range(3):
            answer = service.http.post("/gradio_api/upload", files={"files": ("x.png", bytes(2**21))})
            assert code(answer) == (507, "no_space")
            assert answer.json()["detail"].startswith("The server's disk is full")
            assert "/dev/shm" not in answer.text
        assert '"bytes": 1000' in service.answer("size", service.call("size", [film(path)]))
        assert service.upload(bytes(500_000))  # what was refused takes no room


# Settings and the log


@pytest.mark.parametrize("value", ["abc", "0", "-1", "nan", "inf", "30 s"])
def test_a_setting_that_is_no_number_is_told(monkeypatch: pytest.MonkeyPatch, value: str) -> None:
    monkeypatch.setenv("PNEUMOCAM_START_TIMEOUT", value)
    expected = f"PNEUMOCAM_START_TIMEOUT is '{value}'; expected a number of seconds above 0, such as 30"
    with pytest.raises(SystemExit, match=re.escape(expected)):
        server.seconds("PNEUMOCAM_START_TIMEOUT", 30)


def test_a_setting_has_its_default(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PNEUMOCAM_START_TIMEOUT", "")
    assert server.seconds("PNEUMOCAM_START_TIMEOUT", 30) == 30
    monkeypatch.setenv("PNEUMOCAM_START_TIMEOUT", "1.5")
    assert server.seconds("PNEUMOCAM_START_TIMEOUT", 30) == 1.5


@pytest.mark.parametrize(("value", "size"), [("", 2**31), ("500mb", 500 * 2**20), (" 3 GB ", 3 * 2**30)])
def test_the_quota_is_a_size(monkeypatch: pytest.MonkeyPatch, value: str, size: int) -> None:
    monkeypatch.setenv("PNEUMOCAM_UPLOAD_QUOTA", value)
    assert folder.quota() == size


def test_a_quota_that_is_none_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PNEUMOCAM_UPLOAD_QUOTA", "much")
    with pytest.raises(SystemExit, match="PNEUMOCAM_UPLOAD_QUOTA is 'much'; expected a size such as 500mb or 2gb"):
        folder.quota()


def test_the_log_takes_plain_words_only(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level("INFO"):
        server.log_outcome("predict", "ok", size=1234, format="JPEG", ms=12.6)
        server.log_outcome("predict\nforged", "/etc/{}; <b>", format="x" * 99)
    assert [record.message for record in caplog.records] == [
        "predict ok bytes=1234 format=JPEG ms=13",
        f"predict_forged /etc/___ _b_ format={'x' * 33}",
    ]


def test_requests_are_logged_without_names_paths_and_addresses(service: Service) -> None:
    path = service.upload(b"x" * 100, f"{MARKER}.png")
    service.http.get(f"/{MARKER}", headers={"X-Forwarded-For": "9.8.7.6"})
    service.answer("fail", service.call("fail", [MARKER]))
    until(lambda: any("GET other 404" in line for line in service.log))
    until(lambda: any(re.search(r"POST upload 200 bytes=\d+ ms=\d+$", line) for line in service.log))
    until(lambda: any(re.search(r"failure ValueError at small.py:\d+$", line) for line in service.log))
    log = "".join(service.log)
    assert not re.search(rf"{MARKER}|arker|9\.8\.7\.6|Traceback", log)
    assert path not in log


# The page itself


class Page(Service):
    """The real service."""

    def __init__(self, app: App) -> None:
        super().__init__(app.url, app.log.parent, [])
        self.log_file = app.log

    def predict(self, path: str) -> dict[str, Any]:
        text = self.answer("predict", self.call("predict", [film(path), "NORMAL", None, False]))
        answer: dict[str, Any] = json.loads(text.split("event: complete\ndata: ")[1].splitlines()[0])[2]
        return answer

    def tool(self, **arguments: Any) -> httpx.Response:
        params = {"name": "classify_radiograph", "arguments": arguments}
        return self.http.post(
            "/gradio_api/mcp/",
            json={"jsonrpc": "2.0", "id": 1, "method": "tools/call", "params": params},
            headers={"Accept": "application/json, text/event-stream"},
        )


@pytest.fixture
def real(app: App) -> Iterator[Page]:
    page = Page(app)
    yield page
    page.http.close()


def hostile_films() -> dict[str, bytes]:
    """Of each kind one, with a name in it where there is room for one."""
    jpeg = FILM.read_bytes()
    named = dcmread(io.BytesIO(dicom()))
    named.PatientName, named.PatientID = MARKER, MARKER
    whole = io.BytesIO()
    named.save_as(whole, enforce_file_format=True)
    named.BitsAllocated = 99
    broken = io.BytesIO()
    named.save_as(broken, enforce_file_format=True)
    bomb = io.BytesIO()
    Image.fromarray(np.zeros((9000, 9000), np.uint8)).save(bomb, "PNG")
    return {
        "empty.png": b"",
        f"{MARKER}.txt": MARKER.encode() * 100,
        f"{MARKER}-cut.jpeg": jpeg[: len(jpeg) // 3],
        f"{MARKER}-bomb.png": bomb.getvalue(),
        f"{MARKER}.svg": f"<svg><script>{MARKER}</script></svg>".encode(),
        f"{MARKER}-broken.dcm": broken.getvalue(),
        f"{MARKER}-cut.dcm": whole.getvalue()[: len(whole.getvalue()) // 2],
        f"../../{MARKER}.dcm": whole.getvalue(),
        f"{MARKER}.zip.jpeg": jpeg + b"PK\x03\x04" + MARKER.encode(),
    }


def test_hostile_films_disturb_nobody_and_leave_no_trace(real: Page, bundled: Classifier) -> None:
    good = real.upload(FILM.read_bytes(), f"{MARKER}.jpeg")
    expected = predict(bundled, FILM).label
    answers = []
    for name, content in hostile_films().items():
        path = real.upload(content, name)
        beside = real.call("predict", [film(good), "NORMAL", None, False])
        answers.append(real.answer("predict", real.call("predict", [film(path)])))
        data = base64.b64encode(content).decode()
        answers.append(real.tool(image=f"data:application/octet-stream;base64,{data}", overlay=False).text)
        assert f'"label": "{expected}"' in real.answer("predict", beside)
    answers += [real.tool(image=url).text for url in (FAR, "/etc/passwd", f"data:image/png;base64,{MARKER}!")]
    answers.append(real.tool(image=film(FAR)).text)
    answers.append(real.call("predict", [film(f"{real.uploads()}/{MARKER}.png")]).text)
    for answer in answers:
        assert MARKER not in answer.replace(f'"{MARKER}!"', "")
        assert "Traceback" not in answer
        assert "No space" not in answer
        assert "[Errno" not in answer
        if '"isError":true' in answer or "event: error" in answer:
            assert str(real.uploads()) not in answer
    log = real.log_file.read_text()
    assert MARKER not in log
    assert str(real.uploads()) not in log
    assert "Traceback" not in log
    assert "POST call 200" in log


@pytest.mark.parametrize(
    ("message", "said"),
    [
        ({"id": 1, "method": 5}, "method is no text; expected"),
        ({"id": 1}, "method is no text; expected"),
        ({"method": None, "params": {}}, "method is no text; expected"),
        ({"id": 1, "method": ["tools/list"], MARKER: MARKER}, "method is no text; expected"),
        ({"id": 1, "result": MARKER}, "The body is no message of MCP; expected"),
        ({"id": 1, "error": {"code": MARKER}}, "The body is no message of MCP; expected"),
        ({"id": True, "method": "tools/list"}, "The body is no message of MCP; expected"),
    ],
    ids=["number", "none", "null", "list", "result", "error", "id"],
)
def test_a_message_that_is_none_of_mcp_is_told_without_internals(
    real: Page, message: dict[str, Any], said: str
) -> None:
    headers = {"Accept": "application/json, text/event-stream"}
    answer = real.http.post("/gradio_api/mcp/", json={"jsonrpc": "2.0", **message}, headers=headers)
    assert code(answer) == (400, "bad_request")
    assert answer.json()["detail"].startswith(said)
    assert not re.search(f"pydantic|input_value|{MARKER}", answer.text)


def test_other_refusals_of_mcp_are_its_own(real: Page) -> None:
    message = {"jsonrpc": "2.0", "id": 1, "method": "tools/list"}
    answer = real.http.post("/gradio_api/mcp/", json=message, headers={"Accept": "text/html"})
    assert answer.status_code == 406
    assert answer.json()["error"]["message"].startswith("Not Acceptable")
    notification = {"jsonrpc": "2.0", "method": "notifications/initialized"}
    headers = {"Accept": "application/json, text/event-stream"}
    assert real.http.post("/gradio_api/mcp/", json=notification, headers=headers).status_code == 202
    ping = real.http.post("/gradio_api/mcp/", json={**message, "method": "ping"}, headers=headers)
    assert ping.status_code == 200
    page = real.http.get("/gradio_api/mcp/", headers={"Accept": "text/html"})
    assert page.headers["content-type"].startswith("text/html")
    nonce = page.text.partition('<script nonce="')[2].partition('"')[0]
    assert nonce
    assert f"'nonce-{nonce}'" in page.headers["content-security-policy"]


def test_a_disk_that_fills_up_under_the_page_is_survived(real: Page) -> None:
    """As far as a limit on the size of files can tell: what is over it fails as on a full disk."""
    before = real.upload(FILM.read_bytes())
    _, hard = resource.prlimit(real.pid(), resource.RLIMIT_FSIZE)
    resource.prlimit(real.pid(), resource.RLIMIT_FSIZE, (1000, hard))
    try:
        answer = real.http.post("/gradio_api/upload", files={"files": ("x.jpeg", FILM.read_bytes())})
        assert code(answer) == (507, "no_space")
        text = real.answer("predict", real.call("predict", [film(before)]))  # its overlay has no room
        assert "event: error" in text
        assert "Errno" not in text
    finally:
        resource.prlimit(real.pid(), resource.RLIMIT_FSIZE, (hard, hard))
    assert real.predict(before)["status"] in ("ok", "uncertain")


def test_the_page_keeps_its_content_security_policy(real: Page, browser: Browser) -> None:
    page = browser.new_page()
    said: list[str] = []
    page.on("console", lambda message: said.append(message.text))
    page.on("pageerror", lambda error: said.append(str(error)))
    page.goto(real.url)
    page.set_input_files("#upload input[type=file]", FILM)
    expect(page.locator("#viewer canvas, #viewer img").first).to_be_visible(timeout=60_000)
    page.get_by_role("button", name="Use via API").click()
    expect(page.get_by_role("dialog", name="Use via API")).to_be_visible()
    assert [text for text in said if "Content Security Policy" in text or "CSP" in text] == []
    page.evaluate("""() => {
        document.body.insertAdjacentHTML("beforeend", "<img src='x' onerror='window.broken = 1'>");
        const script = document.createElement("script");
        script.textContent = "window.broken = 2";
        document.body.append(script);
    }""")
    expect(page.locator("body > script").last).to_be_attached()
    assert page.evaluate("window.broken") is None
    until(lambda: page.evaluate("1") and sum("Content Security Policy" in text for text in said) >= 2)
    page.close()


def test_what_is_killed_at_work_starts_again_without_what_it_held(tmp_path: Path) -> None:
    port = free_port()
    with running_small(tmp_path, port=port) as service:
        path = service.upload(b"film", f"{MARKER}.jpeg")
        (tmp_path / "gate").unlink()
        assert service.call("size", [film(path)]).status_code == 200
        until(lambda: not service.waiting())
        os.kill(service.pid(), signal.SIGKILL)
        old = service.uploads()
    assert Path(path).exists()
    with running_small(tmp_path, port=port) as service:
        assert service.uploads() != old
        assert not old.exists()
        assert '"bytes": 3' in service.answer("size", service.call("size", [film(service.upload(b"new"))]))


def test_the_page_tells_a_setting_that_is_none_and_needs_no_home_that_can_be_written() -> None:
    done = subprocess.run(
        [sys.executable, "app.py"],
        cwd=ROOT,
        env=os.environ | {"HOME": "/proc/nowhere", "PNEUMOCAM_START_TIMEOUT": "abc"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 1
    assert done.stderr.splitlines()[-1].startswith("PNEUMOCAM_START_TIMEOUT is 'abc'; expected a number of seconds")
    assert "Traceback" not in done.stderr


# Known vulnerabilities


@pytest.mark.parametrize(
    ("known", "status", "said"),
    [
        (True, 1, "requests 2.31.0 has GHSA-9wx4-h78v-vm56; mended in 2.32.0."),
        (False, 0, "0 known vulnerabilities in 2 packages, 0 not audited."),
        (None, 0, "NOT AUDITED. The data on vulnerabilities could not be reached from here."),
    ],
    ids=["a flaw", "none", "unreachable"],
)
def test_the_audit_fails_for_what_is_known_and_says_what_it_cannot_know(
    tmp_path: Path, known: bool | None, status: int, said: str
) -> None:
    (tmp_path / "pins.txt").write_text("requests==2.31.0\nidna==3.20\n")
    flaw = {
        "id": "GHSA-9wx4-h78v-vm56",
        "modified": "2024-06-10T18:37:00Z",
        "summary": "A session that was made with verify=False goes on so.",
        "affected": [
            {
                "package": {"name": "requests", "ecosystem": "PyPI"},
                "ranges": [{"type": "ECOSYSTEM", "events": [{"introduced": "0"}, {"fixed": "2.32.0"}]}],
            }
        ],
    }

    class Answers(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            asked = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
            found = {"vulns": [flaw]} if known and asked["package"]["name"] == "requests" else {}
            body = json.dumps(found).encode()
            self.send_response(200)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, format: str, *args: Any) -> None:
            """Say nothing."""

    with HTTPServer(("127.0.0.1", 0), Answers) as service:
        threading.Thread(target=service.serve_forever, kwargs={"poll_interval": 0.01}).start()
        port = service.server_port if known is not None else free_port()
        done = subprocess.run(
            [sys.executable, ".ci/audit.py", tmp_path / "pins.txt", "--osv-url", f"http://127.0.0.1:{port}/v1/query"],
            cwd=ROOT,
            capture_output=True,
            text=True,
            check=False,
        )
        service.shutdown()
    assert done.returncode == status, done.stdout + done.stderr
    assert said in done.stdout
