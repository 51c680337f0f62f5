"""Gradio's endpoints of the running app, as `gradio_client` and any HTTP client see it."""

import json
import re
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest
from gradio_client import Client, handle_file
from gradio_client.exceptions import AppError
from PIL import Image

from pneumocam import Classifier, RadiographError, load_radiograph, predict, predict_many, targets
from pneumocam.predict import describe
from tests.conftest import EXAMPLES, ROOT, App
from tests.service.test_handler import dicom

IMAGE = next(path for path in EXAMPLES if "bacteria" in path.name)
NORMAL = next(path for path in EXAMPLES if "NORMAL" in path.name)
META = {"_type": "gradio.FileData"}


@pytest.fixture(scope="module")
def client(app: App) -> Client:
    return Client(app.url, verbose=False)


def pixels(path: str) -> np.ndarray:
    with Image.open(path) as image:
        return np.asarray(image)


def upload(app: App, data: bytes = b"x", name: str = "x") -> str:
    (path,) = httpx.post(f"{app.url}/gradio_api/upload", files={"files": (name, data)}).raise_for_status().json()
    return str(path)


def call(app: App, name: str, body: dict[str, Any]) -> httpx.Response:
    return httpx.post(f"{app.url}/gradio_api/call/v2/{name}", json=body, timeout=60)


def last_event(app: App, name: str, started: httpx.Response) -> tuple[str, Any]:
    stream = httpx.get(f"{app.url}/gradio_api/call/{name}/{started.raise_for_status().json()['event_id']}", timeout=60)
    event, data = re.findall(r"^event: (complete|error)\ndata: (.*)$", stream.text, re.MULTILINE)[-1]
    return event, json.loads(data)


@pytest.mark.parametrize(("target", "point"), [(None, None), ("PNEUMONIA", "screening"), ("VIRAL", "rule_in")])
def test_a_client_gets_the_prediction_and_overlay_of_python(
    client: Client, bundled: Classifier, target: str | None, point: str | None
) -> None:
    prediction = predict(bundled.at(point) if point else bundled, IMAGE)
    options = {key: value for key, value in {"target": target, "operating_point": point}.items() if value}
    overlay, shares, answer = client.predict(image=handle_file(IMAGE), **options, api_name="/predict")
    assert answer == prediction.to_dict(prediction.explain(target))
    assert {row["label"]: row["confidence"] for row in shares["confidences"]} == prediction.probabilities
    np.testing.assert_array_equal(pixels(overlay), np.asarray(prediction.overlay(target)))


def test_without_an_overlay_there_is_none(client: Client, bundled: Classifier) -> None:
    overlay, _, answer = client.predict(image=handle_file(IMAGE), overlay=False, api_name="/predict")
    assert (overlay, answer) == (None, predict(bundled, IMAGE).to_dict())


def test_sixteen_bit_png_and_dicom_keep_their_grey_levels(client: Client, bundled: Classifier, tmp_path: Path) -> None:
    eight = pixels(str(NORMAL))
    Image.fromarray(eight.astype(np.uint16) * 257).save(tmp_path / "sixteen.png")
    (tmp_path / "image.dcm").write_bytes(dicom())
    for name, image in (("sixteen.png", eight), ("image.dcm", dicom())):
        answer = client.predict(image=handle_file(tmp_path / name), overlay=False, api_name="/predict")[2]
        assert answer["probabilities"] == predict(bundled, image).probabilities
        assert answer["image"] == predict(bundled, tmp_path / name).to_dict()["image"]


def test_many_images_get_their_own_predictions_and_a_bad_one_affects_no_other(
    client: Client, bundled: Classifier, tmp_path: Path
) -> None:
    (tmp_path / "letter.jpeg").write_text("Dear radiologist")
    images = [*EXAMPLES[:5], tmp_path / "letter.jpeg", *EXAMPLES[5:]]
    answers = client.predict(images=[handle_file(path) for path in images], api_name="/predict_many")
    assert answers == [prediction.to_dict() for prediction in predict_many(bundled, images)]


def test_calls_at_the_same_time_get_their_own_answers(client: Client, bundled: Classifier) -> None:
    points, classes = list(bundled.operating_points), list(targets(bundled))
    calls = [(path, classes[i % 4], points[i % 3]) for i, path in enumerate(EXAMPLES * 2)]

    def one(call: tuple[Path, str, str]) -> Any:
        path, target, point = call
        return client.predict(handle_file(path), target, point, False, api_name="/predict")[2]

    with ThreadPoolExecutor(8) as pool:
        answers = list(pool.map(one, calls))
    assert answers == [predict(bundled.at(point), path).to_dict() for path, _, point in calls]


def test_info_and_health_are_the_models(client: Client, bundled: Classifier) -> None:
    assert client.predict(api_name="/info") == json.loads(json.dumps(describe(bundled)))
    health = client.predict(api_name="/health")
    assert (health["status"], health["model"]) == ("ok", {"id": "bundled", "revision": bundled.revision})


def test_view_api_names_each_argument_with_its_values(client: Client, bundled: Classifier) -> None:
    named = client.view_api(return_format="dict")["named_endpoints"]
    assert list(named) == ["/predict", "/predict_many", "/info", "/health"]
    parameters = {one["parameter_name"]: one for one in named["/predict"]["parameters"]}
    assert list(parameters) == ["image", "target", "operating_point", "overlay", "prevalence", "force"]
    assert "VIRAL" in parameters["target"]["python_type"]["type"]
    assert all(point in parameters["operating_point"]["python_type"]["type"] for point in bundled.operating_points)
    for name in parameters:
        assert f"{name}: " in named["/predict"]["description"]
    assert "not a diagnosis" in named["/predict"]["description"]


@pytest.mark.parametrize("data", [b"Dear radiologist, " * 40, NORMAL.read_bytes()[:20_000]], ids=["letter", "cut"])
def test_an_image_that_cannot_be_used_is_an_error_with_its_code(client: Client, tmp_path: Path, data: bytes) -> None:
    with pytest.raises(RadiographError) as told:
        load_radiograph(data)
    (tmp_path / "image").write_bytes(data)
    with pytest.raises(AppError) as refusal:
        client.predict(image=handle_file(tmp_path / "image"), api_name="/predict")
    assert (refusal.value.title, refusal.value.message) == (told.value.code, told.value.message)


@pytest.mark.parametrize(
    ("name", "arguments", "named"),
    [
        ("predict", {"target": "LUNG"}, "target"),
        ("predict", {"target": ["VIRAL"]}, "target"),
        ("predict", {"operating_point": "strict"}, "operating_point"),
        ("predict", {"overlay": "gif"}, "overlay"),
        ("predict", {"image": None}, "image"),
        ("predict_many", {"images": []}, "images"),
        ("predict_many", {"operating_point": 5}, "operating_point"),
    ],
)
def test_a_wrong_argument_is_named(client: Client, name: str, arguments: dict[str, Any], named: str) -> None:
    right = {"image": handle_file(NORMAL)} if name == "predict" else {"images": [handle_file(NORMAL)]}
    with pytest.raises(AppError, match=named) as refusal:
        client.predict(**{**right, **arguments}, api_name=f"/{name}")
    assert refusal.value.title == "bad_request"


@pytest.mark.parametrize(
    ("path", "status", "code"),
    [
        ("https://example.com/image.png", 400, "no_url"),
        ("HTTP://127.0.0.1/x", 400, "no_url"),
        ("//example.com/x", 400, "no_url"),
        ("file:///etc/passwd", 400, "no_url"),
        ("/etc/passwd", 410, "upload_gone"),
        ("{}/../../../../etc/passwd", 410, "upload_gone"),
        ("{}", 410, "upload_gone"),
        ("{}/nothing/x.png", 410, "upload_gone"),
        ("a\0b", 410, "upload_gone"),
        (str(EXAMPLES[0]), 410, "upload_gone"),
    ],
)
@pytest.mark.parametrize("nested", [False, True])
def test_nothing_but_uploads_is_opened_or_fetched(app: App, path: str, status: int, code: str, nested: bool) -> None:
    file: Any = {"path": path.replace("{}", str(Path(upload(app)).parents[1])), "meta": META}
    refused = call(app, "predict", {"image": {"x": [file]} if nested else file})
    assert (refused.status_code, refused.json()["error"]["code"]) == (status, code)
    joined = httpx.post(
        f"{app.url}/gradio_api/queue/join", json={"data": [file, None, None, False], "fn_index": 0, "session_hash": "x"}
    )
    assert joined.json()["error"]["code"] == code


@pytest.mark.parametrize("body", [b"", b"{", b"[1", b"\xff", b'{"image": ' + b"[" * 100_000])
def test_a_call_that_is_not_json_is_refused(app: App, body: bytes) -> None:
    headers = {"Content-Type": "application/json"}
    refused = httpx.post(f"{app.url}/gradio_api/call/v2/predict", content=body, headers=headers)
    assert (refused.status_code, refused.json()["error"]["code"]) == (400, "bad_request")


@pytest.mark.parametrize(
    ("method", "path"),
    [
        ("POST", "/gradio_api/run/predict"),
        ("POST", "/gradio_api/api/predict"),
        ("GET", "/gradio_api/proxy=https://x.hf.space/"),
        ("GET", "/gradio_api/file=https://example.com/x.png"),
        ("GET", "/gradio_api/file=x"),
        ("GET", "/gradio_api/runs"),
        ("GET", "/gradio_api/dev/reload"),
        ("GET", "/gradio_api/deep_link?session_hash=x"),
        ("POST", "/gradio_api/component_server"),
        ("GET", "/monitoring/summary"),
        ("GET", "/docs"),
        ("POST", "/login"),
        ("GET", "/theme.css"),
        ("GET", "/static/img/logo.svg"),
        ("GET", "/assets/%2e%2e/index.html"),
        ("GET", f"/gradio_api/file={EXAMPLES[0]}"),
        ("GET", "/gradio_api/file=/etc/passwd"),
    ],
)
def test_nothing_else_of_gradios_is_reachable(app: App, method: str, path: str) -> None:
    refused = httpx.request(method, app.url + path)
    assert (refused.status_code, refused.json()["error"]["code"]) == (404, "not_found")


@pytest.mark.parametrize("name", ["../../../etc/x", "..\\..\\x", "/etc/passwd", "a\nb", "CON", "n" * 200, "фильм.png"])
def test_hostile_names_stay_in_the_folder(app: App, name: str) -> None:
    path = Path(upload(app, name=name))
    assert path.parents[1].name.startswith("run-")
    assert path.parents[1].stat().st_mode & 0o777 == 0o700
    assert path.read_bytes() == b"x"


@pytest.mark.parametrize(
    ("options", "code"),
    [
        ({}, "bad_request"),
        ({"json": {}}, "bad_request"),
        ({"files": {"files": ("..", b"x")}}, "bad_request"),
        ({"files": {"files": ("large", bytes(20_000_001))}}, "too_large"),
        ({"content": b"x", "headers": {"Content-Type": "multipart/form-data"}}, "bad_request"),
    ],
)
def test_bad_uploads_are_refused(app: App, options: dict[str, Any], code: str) -> None:
    refused = httpx.post(f"{app.url}/gradio_api/upload", timeout=60, **options)
    assert refused.json()["error"]["code"] == code


def test_no_browser_runs_what_was_uploaded(app: App) -> None:
    path = upload(app, b"<script>alert(1)</script>", "x.html")
    answer = httpx.get(f"{app.url}/gradio_api/file={path}")
    assert answer.status_code == 200
    assert "sandbox" in answer.headers["content-security-policy"]
    assert answer.headers["x-content-type-options"] == "nosniff"


def test_gradio_writes_no_stubs_when_the_service_imports_it() -> None:
    code = """
import ast, inspect
import torch  # which replaces a function of inspect
before, parsed, segment = inspect.getfile, [], ast.get_source_segment
ast.get_source_segment = lambda *a, **k: parsed.append(1) or segment(*a, **k)  # Gradio parses its source for a stub
from pneumocam.service.light_gradio import gradio
written = list(parsed)
from gradio.component_meta import create_or_modify_pyi
create_or_modify_pyi(gradio.Textbox, "Textbox", gradio.Textbox.EVENTS)  # so that this test sees a stub that is written
print(len(written), bool(parsed), inspect.getfile is before, "blocks.py" in inspect.getfile(gradio.Blocks))
"""
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["0", "True", "True", "True"]
