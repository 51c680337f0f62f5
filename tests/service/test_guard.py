"""Limits, privacy and deletion: an app of its own with small limits, and its uploads folder alone."""

import os
import re
import signal
import socket
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, suppress
from pathlib import Path
from typing import Any

import httpx
import pytest

from pneumocam.service.errors import RequestError
from pneumocam.service.limits import LIMITS, Limits
from pneumocam.service.log import log_failure, log_outcome
from pneumocam.service.uploads import Uploads, private_folder
from tests.conftest import EXAMPLES, App, running_app
from tests.service.test_gradio import META, call, upload

MARKER = "Mrs-Marker-1947"
IMAGE = EXAMPLES[0].read_bytes()
SMALL = {
    "AT_WORK": "1",
    "WAITING": "2",
    "KEPT_SECONDS": "8",
    "IDLE_SECONDS": "1",
    "OPEN": "24",
    "UPLOAD_BYTES": "3000000",
    "IMAGE_BYTES": "1000000",
}


def until(happens: Callable[[], Any], seconds: float = 60) -> None:
    end = time.monotonic() + seconds
    while not happens():
        assert time.monotonic() < end, "it did not happen in time"
        time.sleep(0.02)


@pytest.fixture(scope="module")
def small(tmp_path_factory: pytest.TempPathFactory) -> Iterator[App]:
    folder = tmp_path_factory.mktemp("small")
    with running_app(folder, **{f"PNEUMOCAM_{name}": value for name, value in SMALL.items()}) as app:
        yield app
    assert list((folder / "uploads").iterdir()) == []  # all is deleted with the process


def folder_of(app: App) -> Path:
    [folder] = (app.log.parent / "uploads").iterdir()
    return folder


def connection(app: App) -> socket.socket:
    return socket.create_connection(("127.0.0.1", httpx.URL(app.url).port or 80))


def code(answer: httpx.Response) -> tuple[int, str]:
    error = answer.json()["error"]
    assert error["message"].endswith(".")
    assert answer.json()["detail"] == error["message"]
    return answer.status_code, error["code"]


# Time


@pytest.mark.parametrize("path", ["/gradio_api/upload", "/gradio_api/call/v2/predict", "/api/predict", "/page/archive"])
def test_a_client_that_stops_in_the_middle_is_not_waited_for(small: App, path: str) -> None:
    kind = "application/json" if "call" in path else "multipart/form-data; boundary=abc"
    head = f"POST {path} HTTP/1.1\r\nHost: x\r\nContent-Type: {kind}\r\nContent-Length: 9\r\n\r\n"
    with connection(small) as client:
        client.sendall(head.encode())
        assert client.recv(65536).startswith(b"HTTP/1.1 408 ")


def test_uploads_are_deleted_and_later_use_is_an_error(small: App) -> None:
    path = upload(small, IMAGE)
    assert Path(path).exists()
    until(lambda: not Path(path).exists())
    assert code(call(small, "predict", {"image": {"path": path, "meta": META}})) == (410, "upload_gone")
    assert code(httpx.get(f"{small.url}/gradio_api/file={path}")) == (404, "not_found")


def test_overlays_are_deleted_too(small: App) -> None:
    path = upload(small, IMAGE)
    started = call(small, "predict", {"image": {"path": path, "meta": META}}).json()
    stream = httpx.get(f"{small.url}/gradio_api/call/predict/{started['event_id']}", timeout=60).text
    overlay = Path(re.findall(r'"path": "([^"]+overlay\.png)"', stream)[0])
    assert overlay.is_relative_to(folder_of(small))
    until(lambda: not overlay.exists())


# Room


def test_an_upload_that_its_client_gives_up_leaves_nothing(small: App) -> None:
    with connection(small) as client:
        head = "POST /gradio_api/upload HTTP/1.1\r\nHost: x\r\nContent-Type: multipart/form-data; boundary=abc\r\n"
        part = '--abc\r\nContent-Disposition: form-data; name="files"; filename="x"\r\n\r\nimage'
        client.sendall(f"{head}Content-Length: 100000\r\n\r\n{part}".encode())
        until(lambda: any(path.is_file() for path in folder_of(small).iterdir()))
    until(lambda: not any(path.is_file() for path in folder_of(small).iterdir()))


def test_when_the_space_is_full_uploads_wait_and_other_doors_do_not(small: App) -> None:
    def send(byte: bytes) -> httpx.Response:
        return httpx.post(f"{small.url}/gradio_api/upload", files={"files": ("x", byte * 900_000)})

    answers = [send(bytes([number])) for number in range(4)]
    assert [answer.status_code for answer in answers] == [200, 200, 200, 507]
    assert code(answers[3]) == (507, "no_space")
    assert int(answers[3].headers["retry-after"]) > 0
    assert httpx.post(f"{small.url}/api/predict", content=IMAGE, timeout=60).status_code == 200
    until(lambda: send(b"x").status_code == 200)


@pytest.mark.parametrize("name", ["..", "large"])
def test_an_upload_that_is_refused_leaves_nothing(small: App, name: str) -> None:
    size = 1_010_000 if name == "large" else 1
    assert httpx.post(f"{small.url}/gradio_api/upload", files={"files": (name, bytes(size))}).is_client_error
    until(lambda: not any(path.is_file() for path in folder_of(small).iterdir()))


def test_too_large_a_body_is_refused_at_every_door(small: App) -> None:
    for path, body in {"/api/predict": bytes(1_200_000), "/gradio_api/call/v2/predict": b" " * 300_000}.items():
        headers = {"Content-Type": "application/json"}
        assert code(httpx.post(small.url + path, content=body, headers=headers)) == (413, "too_large")
    files = {"files": ("x", bytes(1_100_000))}
    assert code(httpx.post(f"{small.url}/gradio_api/upload", files=files)) == (413, "too_large")


def test_a_folder_that_is_full_takes_no_more(tmp_path: Path) -> None:
    uploads = Uploads(tmp_path, Limits(upload_bytes=10_000))
    uploads.reserve(9_000)
    with pytest.raises(RequestError) as refused:
        uploads.reserve(2_000)
    assert refused.value.status == 507


def test_nothing_outside_the_folder_is_an_upload(tmp_path: Path) -> None:
    (tmp_path / "secret").write_text("secret")
    folder = tmp_path / "run-1"
    folder.mkdir()
    (folder / "link").symlink_to(tmp_path / "secret")
    (folder / "loop").symlink_to(folder / "loop")
    (folder / "image").write_bytes(b"image")
    uploads = Uploads(folder.resolve())
    assert uploads.read(str(folder / "image")) == b"image"
    for path in ("link", "loop", "../secret", "", "nothing", "\0", "n" * 5000, "/etc/passwd"):
        with pytest.raises(RequestError):
            uploads.read(str(folder / path) if path else "")


def test_what_killed_processes_left_is_deleted_and_what_others_use_stays(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("GRADIO_TEMP_DIR", str(tmp_path))
    (tmp_path / "run-dead").mkdir()
    (tmp_path / "run-dead" / "image").touch()
    with private_folder() as living:
        (living / "image").touch()
        with private_folder() as new:
            assert sorted(tmp_path.iterdir()) == sorted([living, new])
            assert living.stat().st_mode & 0o777 == 0o700
        assert list(tmp_path.iterdir()) == [living]
    assert list(tmp_path.iterdir()) == []


# Numbers of requests


def test_requests_that_are_open_are_bounded_and_healthz_answers_all_the_same(small: App) -> None:
    with ExitStack() as stack, httpx.Client(base_url=small.url, limits=httpx.Limits(max_connections=None)) as client:
        for number in range(24):
            stack.enter_context(client.stream("GET", f"/gradio_api/heartbeat/{number}"))
        assert code(client.get("/api/info")) == (503, "busy")
        assert client.get("/healthz").status_code == 200
    until(lambda: httpx.get(f"{small.url}/api/info").status_code == 200)


def test_gradios_queue_is_bounded(small: App) -> None:
    path = upload(small, IMAGE)

    def ask(_: int) -> httpx.Response:
        return call(small, "predict", {"image": {"path": path, "meta": META}})

    with ThreadPoolExecutor(20) as pool:
        answers = list(pool.map(ask, range(40)))
    refused = [answer for answer in answers if answer.status_code != 200]
    assert {code(answer) for answer in refused} == {(503, "busy")}
    assert len(refused) < len(answers)


def test_a_public_address_has_a_quarter_of_the_open_requests(small: App) -> None:
    far = {"X-Forwarded-For": "9.9.9.9"}  # uvicorn trusts a proxy on this machine
    with ExitStack() as stack, httpx.Client(base_url=small.url, limits=httpx.Limits(max_connections=None)) as client:
        for number in range(6):
            stack.enter_context(client.stream("GET", f"/gradio_api/heartbeat/{number}", headers=far))
        assert code(client.get("/api/info", headers=far)) == (429, "rate")
        for other in ("8.8.8.8", "10.0.0.1"):
            assert client.get("/api/info", headers={"X-Forwarded-For": other}).status_code == 200


# Answers and the log


@pytest.mark.parametrize("host", ["a b", "[::1", "x/y", "é"])
def test_a_host_that_is_none_is_refused(small: App, host: str) -> None:
    answer = httpx.get(f"{small.url}/config", headers={b"X-Forwarded-Host": host.encode()})
    assert code(answer) == (400, "bad_request")


@pytest.mark.parametrize("path", ["/", "/config", "/gradio_api/info", "/page/info", "/nothing", "/gradio_api/file=/x"])
def test_every_answer_has_the_security_headers(small: App, path: str) -> None:
    headers = httpx.get(small.url + path).headers
    assert headers["x-content-type-options"] == "nosniff"
    assert "geolocation=()" in headers["permissions-policy"]
    assert "default-src 'none'" in headers["content-security-policy"]
    assert "unsafe" not in headers["content-security-policy"]


def test_the_log_has_no_names_paths_or_addresses(small: App) -> None:
    path = upload(small, b"x" * 100, f"{MARKER}.png")
    httpx.get(f"{small.url}/{MARKER}", headers={"X-Forwarded-For": "9.8.7.6"})
    call(small, "predict", {"image": {"path": path, "meta": META}, "target": MARKER})
    call(small, "predict", {"image": {"path": f"{path}x", "meta": {"_type": MARKER}}})
    call(small, MARKER, {"image": MARKER})
    httpx.post(f"{small.url}/page/predict", content=b"x", headers={"X-File-Name": MARKER})
    for unknown in ("page/example", "api", "web", "examples", "gradio_api/file=", "gradio_api/call", "gradio_api/mcp"):
        httpx.get(f"{small.url}/{unknown}/{MARKER}")
    httpx.post(f"{small.url}/gradio_api/mcp/", json={"method": MARKER})
    until(lambda: re.search(r"POST /gradio_api 4\d\d bytes=\d+ ms=\d+$", small.log.read_text(), re.MULTILINE))
    log = small.log.read_text()
    assert re.search(r"POST upload 200 bytes=\d+ ms=\d+$", log, re.MULTILINE)
    assert not re.search(rf"{MARKER}|arker|9\.8\.7\.6|Traceback", log)
    assert path not in log


def test_the_log_takes_plain_words_only(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level("INFO", logger="pneumocam.service"):
        log_outcome("predict\nforged", "/etc/{}; <b>", size=1, seconds=0.0126)
        log_failure(ValueError(MARKER))
    assert [record.getMessage() for record in caplog.records] == [
        "predict_forged /etc/___ _b_ bytes=1 ms=13",
        "failure ValueError at unknown place",
    ]


# Settings


def test_limits_come_from_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PNEUMOCAM_UPLOAD_BYTES", "500000000")
    monkeypatch.setenv("PNEUMOCAM_WAITING", "")
    assert Limits.from_environment().upload_bytes == 500_000_000
    assert Limits.from_environment().waiting == LIMITS.waiting


@pytest.mark.parametrize("value", ["much", "-1", "0", "1.5"])
def test_a_limit_that_is_no_number_is_told(monkeypatch: pytest.MonkeyPatch, value: str) -> None:
    monkeypatch.setenv("PNEUMOCAM_IMAGES", value)
    with pytest.raises(SystemExit, match=f"PNEUMOCAM_IMAGES is '{re.escape(value)}'; expected"):
        Limits.from_environment()


def test_a_killed_app_leaves_no_worker_processes(make_bundle: Callable[..., Path], tmp_path: Path) -> None:
    model = f"local-dir:{make_bundle('test_resnet')}"
    settings = {"PNEUMOCAM_MODEL": model, "PNEUMOCAM_WORKERS": "2", "PNEUMOCAM_RUNTIME": "onnx"}
    with running_app(tmp_path, **settings) as app:
        assert httpx.post(f"{app.url}/api/predict", content=IMAGE, timeout=120).status_code == 200
        workers = [int(pid) for pid in re.findall(r"\d+", children(app.pid))]
        assert len(workers) >= 2
        os.kill(app.pid, signal.SIGKILL)
        until(lambda: not any(alive(pid) for pid in workers))


def children(pid: int) -> str:
    return " ".join(path.read_text() for path in Path(f"/proc/{pid}/task").glob("*/children"))


def alive(pid: int) -> bool:
    with suppress(OSError):
        return "\nState:\tZ" not in Path(f"/proc/{pid}/status").read_text()
    return False
