"""Over a thousand hostile uploads.

Read in one process, an image or a typed error comes of each: soon, in bounds, in silence. Of each kind, a quarter and
all names are sent to the running app: each is answered, and no other request feels it.
"""

import json
import subprocess
import sys
import threading
import zlib
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from pneumocam import Classifier, RadiographError, load_radiograph, predict
from pneumocam.service.limits import LIMITS
from tests import hostile
from tests.conftest import EXAMPLES, App
from tests.hostile import NAMES, SECRET, WHOLE, Hostile

ROOT = Path(__file__).parents[2]
CODES = {kind.code for kind in RadiographError.__subclasses__() if kind.__module__.startswith("pneumocam")}
# Of CPU; 64 megapixels of JPEG 2000 take about 3.
SECONDS = 8
# On top of what the process starts with: at 64 megapixels a progressive JPEG takes 6 bytes a pixel in libjpeg and 4 in
# Pillow, 640 MB, and nothing takes more. The rest is for what earlier items leave behind.
MEMORY = 800_000_000

ITEMS = hostile.corpus()
IMAGE = EXAMPLES[0]
KINDS = list(dict.fromkeys(item.kind for item in ITEMS))
SENT = [item for kind in KINDS for item in [one for one in ITEMS if one.kind == kind][:: 1 if kind == "name" else 4]]


@pytest.fixture(scope="module")
def run() -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-W", "error", "-m", "tests.hostile"]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=600)


@pytest.fixture(scope="module")
def answers(run: subprocess.CompletedProcess[str]) -> dict[str, dict[str, Any]]:
    assert run.returncode == 0, run.stderr[-2000:]
    rows = [json.loads(line) for line in run.stdout.splitlines()[1:]]
    return {row["name"]: row for row in rows}


def test_the_corpus_has_all_kinds() -> None:
    kinds = Counter(item.kind for item in ITEMS)
    assert len({item.name for item in ITEMS}) == len(ITEMS) > 1000
    assert set(WHOLE) < set(kinds)
    bombs = {"png-bomb", "tiff-bomb", "jpeg-bomb", "webp-bomb", "gif-bomb", "bmp-bomb", "tag-bomb", "dcm-bomb"}
    others = {"dcm-tags", "dcm-structure", "polyglot", "wrong", "tiny", "name", "png-loop", "jpeg-loop", "gif-loop"}
    assert bombs | others < set(kinds)
    # The corpus tests reading, before the guard.
    assert set().union(*(item.expect for item in ITEMS)) == CODES - {"not_a_chest_radiograph"} | {"readable"}


@pytest.mark.parametrize("name", [name for name in WHOLE if name not in ("jpeg-12-bit", "jpeg-lossless")])
def test_what_the_damage_is_done_to_is_whole(name: str) -> None:
    assert min(load_radiograph(WHOLE[name]()).pixels.shape) >= 96


def test_every_upload_ends_in_an_image_or_a_typed_error(answers: dict[str, dict[str, Any]]) -> None:
    assert list(answers) == [item.name for item in ITEMS]
    wrong = {
        item.name: answers[item.name]["outcome"]
        for item in ITEMS
        if answers[item.name]["outcome"] not in (item.expect or CODES | {"readable"})
    }
    assert wrong == {}


def told_too_much(item: Hostile, message: str) -> bool:
    secrets = [*SECRET.decode().strip().split("^"), "Traceback", "File ", "/", "\\", ".py", "0x", "\n", "\0"]
    return any(secret in message for secret in [*secrets, *[item.filename] * (len(item.filename) > 4)])


def test_no_message_has_a_name_a_path_or_a_decoders_words(answers: dict[str, dict[str, Any]]) -> None:
    messages = {item: str(answers[item.name]["message"]) for item in ITEMS}
    assert [item.name for item, message in messages.items() if told_too_much(item, message)] == []
    refused = {item for item in ITEMS if answers[item.name]["outcome"] != "readable"}
    assert {item for item, message in messages.items() if message} == refused


def test_nothing_is_warned_logged_or_printed(
    run: subprocess.CompletedProcess[str], answers: dict[str, dict[str, Any]]
) -> None:
    assert {name: answer["told"] for name, answer in answers.items() if answer["told"]} == {}
    assert run.stderr == ""
    assert len(run.stdout.splitlines()) == 1 + len(ITEMS)


def test_no_upload_takes_long(answers: dict[str, dict[str, Any]]) -> None:
    assert {name: answer["seconds"] for name, answer in answers.items() if answer["seconds"] > SECONDS} == {}


def test_no_upload_takes_much_memory(run: subprocess.CompletedProcess[str], answers: dict[str, dict[str, Any]]) -> None:
    start = json.loads(run.stdout.splitlines()[0])["start"]
    assert {name: answer["peak"] - start for name, answer in answers.items() if answer["peak"] - start > MEMORY} == {}


def test_the_corpus_is_the_same_every_time(answers: dict[str, dict[str, Any]]) -> None:
    """In another process, where hashes differ."""
    small = [item for item in ITEMS if "-bomb" not in item.kind and "-loop" not in item.kind]
    assert [item.name for item in small if zlib.crc32(item.data) != answers[item.name]["crc"]] == []


@pytest.mark.parametrize("what", NAMES)
def test_no_message_has_the_name_of_a_file_on_disk(what: str, tmp_path: Path) -> None:
    name = NAMES[what].replace("/", "_").replace("\0", "_")[-60:] + "_"
    image, other = tmp_path / name, tmp_path / f"{name}.txt"
    image.write_bytes(WHOLE["jpeg-small"]())
    other.write_bytes(b"no picture")
    assert load_radiograph(image).source_format == "JPEG"
    with pytest.raises(RadiographError) as caught:
        load_radiograph(str(other))
    assert caught.value.code == "not_an_image"
    assert name not in caught.value.message
    assert str(tmp_path) not in caught.value.message


# Over HTTP


def send(client: httpx.Client, uploads: list[tuple[str, bytes]]) -> tuple[int, Any]:
    """Status and predictions of these file names and contents; the error if the request is refused."""
    parts = [
        b'--x\r\nContent-Disposition: form-data; name="images"; filename="%b"\r\n\r\n%b\r\n' % (_escaped(name), data)
        for name, data in uploads
    ]
    headers = {"Content-Type": "multipart/form-data; boundary=x"}
    answer = client.post("/api/predict_many", content=b"".join([*parts, b"--x--\r\n"]), headers=headers)
    return answer.status_code, answer.json()["predictions" if answer.status_code == 200 else "error"]


def _escaped(name: str) -> bytes:
    """As browsers do; httpx would refuse half of a surrogate pair."""
    raw = name.encode(errors="surrogateescape")
    return raw.replace(b"\r", b"%0D").replace(b"\n", b"%0A").replace(b'"', b"%22")


def test_every_hostile_upload_is_answered_and_no_other_request_feels_it(app: App, bundled: Classifier) -> None:
    right = json.loads(json.dumps(predict(bundled, IMAGE).to_dict()))
    over, disturbed, undisturbed = threading.Event(), [], 0

    def ask_on() -> None:
        nonlocal undisturbed
        with httpx.Client(base_url=app.url, timeout=120) as client:
            while not over.wait(0.3):  # as often as a busy visitor; without a pause it would take a whole core
                answer = send(client, [("image.jpeg", IMAGE.read_bytes())])
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
        with httpx.Client(base_url=app.url, timeout=300) as client:
            for uploads in _batches(SENT):
                status, answers = send(client, [(item.filename, data) for item, data in uploads])
                texts.append(json.dumps(answers))
                if status != 200:
                    refused |= {item.name: (status, answers["code"]) for item, _ in uploads}
                    continue
                wrong += [
                    f"{item.name}: {told}"
                    for (item, _), answer in zip(uploads, answers, strict=True)
                    if (told := outcome(answer)) not in (item.expect or CODES | {"readable"})
                ]
    finally:
        over.set()
        other.join()
    assert wrong == []
    names = {"70,000 characters": (400, "bad_request")}
    assert refused == {f"name/{name}{what}": x for name, x in names.items() for what in ("", ", of no picture")}
    assert disturbed == []
    assert undisturbed > 3
    everything = "\n".join([*texts, app.log.read_text()])
    for secret in (str(app.log.parent), SECRET.decode().strip(), "Traceback", "site-packages", "/etc/passwd"):
        assert secret not in everything


def outcome(answer: dict[str, Any]) -> str:
    return str(answer["reason"]["code"]) if answer["status"] == "rejected" else "readable"


def _batches(items: list[Hostile], most: int = 40_000_000) -> Iterator[list[tuple[Hostile, bytes]]]:
    """As many as a call takes, and not too many bytes at a time: some are nearly 20 MB. A hostile name comes alone."""
    held: list[tuple[Hostile, bytes]] = []
    for item in items:
        data = item.data
        full = len(held) == LIMITS.images or sum(len(other) for _, other in held) + len(data) > most
        if held and (full or item.kind == "name"):
            yield held
            held = []
        held.append((item, data))
    yield held
