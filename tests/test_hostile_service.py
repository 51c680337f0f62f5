"""The hostile corpus, sent to the running app: every upload gets an answer, and no other request feels it."""

import json
import re
import threading
from collections.abc import Iterator
from typing import Any

import httpx
import pytest

from api import MAX_FILMS
from api.endpoints import ERRORS
from pneumocam import Classifier, predict
from tests.conftest import EXAMPLES, App, running_app
from tests.hostile import SECRET, Hostile, corpus

FILM = EXAMPLES[0]
CODES = {*ERRORS, "readable"}


@pytest.fixture(scope="module")
def service(tmp_path_factory: pytest.TempPathFactory) -> Iterator[App]:
    """An app of its own: its log and its memory are looked at."""
    with running_app(tmp_path_factory.mktemp("hostile")) as app:
        yield app


def send(client: httpx.Client, uploads: list[tuple[str, bytes]]) -> tuple[int, Any]:
    """Status and answer of `/predict_many` to these file names and contents; of the upload if that is refused."""
    parts = [
        b'--film\r\nContent-Disposition: form-data; name="files"; filename="%b"\r\n\r\n%b\r\n' % (_escaped(name), data)
        for name, data in uploads
    ]
    headers = {"Content-Type": "multipart/form-data; boundary=film"}
    uploaded = client.post("/gradio_api/upload", content=b"".join([*parts, b"--film--\r\n"]), headers=headers)
    if uploaded.status_code != 200:
        return uploaded.status_code, uploaded.json()
    films = [{"path": path, "meta": {"_type": "gradio.FileData"}} for path in uploaded.json()]
    call = client.post("/gradio_api/call/v2/predict_many", json={"images": films})
    assert call.status_code == 200, call.text
    stream = client.get(f"/gradio_api/call/predict_many/{call.json()['event_id']}").text
    [(event, data)] = re.findall(r"event: (complete|error)\ndata: (.*)", stream)
    assert event == "complete", data
    return 200, json.loads(data)[0]


def _escaped(name: str) -> bytes:
    """As browsers do; httpx would refuse half of a surrogate pair."""
    raw = name.encode(errors="surrogateescape")
    return raw.replace(b"\r", b"%0D").replace(b"\n", b"%0A").replace(b'"', b"%22")


def test_every_hostile_upload_is_answered_and_no_other_request_feels_it(service: App, bundled: Classifier) -> None:
    right = json.loads(json.dumps(predict(bundled, FILM).to_dict()))
    over, disturbed, undisturbed = threading.Event(), [], 0

    def ask_on() -> None:
        nonlocal undisturbed
        with httpx.Client(base_url=service.url, timeout=120) as client:
            while not over.is_set():
                answer = send(client, [("film.jpeg", FILM.read_bytes())])
                if answer == (200, [right]):
                    undisturbed += 1
                else:
                    disturbed.append(answer)

    other = threading.Thread(target=ask_on)
    other.start()
    texts: list[str] = []
    refused: dict[str, Any] = {}
    wrong: list[str] = []
    try:
        with httpx.Client(base_url=service.url, timeout=300) as client:
            for uploads in _batches(corpus()):
                status, answers = send(client, [(item.filename, data) for item, data in uploads])
                texts.append(json.dumps(answers))
                if status != 200:
                    refused |= {item.name: (status, answers["error"]["code"]) for item, _ in uploads}
                    continue
                wrong += [
                    f"{item.name}: {told}"
                    for (item, _), answer in zip(uploads, answers, strict=True)
                    if (told := outcome(answer)) not in (item.expect or CODES)
                ]
    finally:
        over.set()
        other.join()
    assert wrong == []
    names = {"70,000 characters": (413, "too_large"), "two dots": (400, "bad_upload")}
    assert refused == {f"name/{name}{what}": x for name, x in names.items() for what in ("", ", of no picture")}
    assert disturbed == []
    assert undisturbed > 3
    everything = "\n".join([*texts, service.log.read_text()])
    for secret in (str(service.log.parent), SECRET.decode().strip(), "Traceback", "site-packages", "/etc/passwd"):
        assert secret not in everything


def outcome(answer: dict[str, Any]) -> str:
    return str(answer["reason"]["code"]) if answer["status"] == "rejected" else "readable"


def _batches(items: list[Hostile], most: int = 40_000_000) -> Iterator[list[tuple[Hostile, bytes]]]:
    """As many as a call takes, and not too many bytes at a time: some are nearly 20 MB. A hostile name comes alone."""
    held: list[tuple[Hostile, bytes]] = []
    for item in items:
        data = item.data
        full = len(held) == MAX_FILMS or sum(len(other) for _, other in held) + len(data) > most
        if held and (full or item.kind == "name"):
            yield held
            held = []
        held.append((item, data))
    yield held
