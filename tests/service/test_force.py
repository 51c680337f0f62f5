"""`force`: a border case that the guard refuses gets a prediction on demand; a photograph stays refused."""

import base64
import io
import json
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import matplotlib
import pytest
from gradio_client import Client, handle_file
from gradio_client.exceptions import AppError
from starlette.testclient import TestClient

from handler import EndpointHandler
from pneumocam import Classifier, load_radiograph, predict
from pneumocam.report import report
from pneumocam.service.endpoints import Endpoints
from pneumocam.service.engine import Engine
from pneumocam.service.http import application
from tests.conftest import EXAMPLES, ROOT, App
from tests.service.test_tools import data_url, use, words
from tests.unit.test_report import text_of

PHOTOGRAPH = Path(matplotlib.get_data_path()) / "sample_data" / "grace_hopper.jpg"


def border_case(classifier: Classifier) -> bytes:
    """The first example whose half, with one lung only, the guard refuses as a border case; as PNG."""
    assert classifier.guard
    for path in EXAMPLES:
        image = load_radiograph(path).to_pil()
        half = image.crop((image.width // 2, 0, image.width, image.height))
        refusal = classifier.guard(load_radiograph(half)).refusal
        if refusal and refusal.can_be_forced:
            buffer = io.BytesIO()
            half.save(buffer, "PNG")
            return buffer.getvalue()
    pytest.fail("the guard refuses no half of an example as a border case")


@pytest.fixture(scope="module")
def border(bundled: Classifier) -> bytes:
    return border_case(bundled)


@pytest.fixture(scope="module")
def photograph() -> bytes:
    return PHOTOGRAPH.read_bytes()


@pytest.fixture(scope="module")
def expected(bundled: Classifier, border: bytes) -> dict[str, Any]:
    """The forced prediction."""
    prediction = predict(bundled, border, force=True)
    assert prediction.status == "uncertain"
    assert "not_a_chest_radiograph" in {warning.code for warning in prediction.warnings}
    return prediction.to_dict()


@pytest.fixture(scope="module")
def client(bundled: Classifier) -> Iterator[TestClient]:
    with TestClient(application(Endpoints(Engine(bundled)))) as client:
        yield client


def code(answer: Any) -> tuple[int, str]:
    return answer.status_code, answer.json()["error"]["code"]


@pytest.mark.parametrize("path", ["/api/predict", "/page/report"])
def test_one_image_is_refused_and_then_forced(
    client: TestClient, bundled: Classifier, border: bytes, photograph: bytes, expected: dict[str, Any], path: str
) -> None:
    refused = (422, "not_a_chest_radiograph")
    assert code(client.post(path, content=border)) == refused
    assert code(client.post(f"{path}?force=false", content=border)) == refused
    assert code(client.post(f"{path}?force=true", content=photograph)) == refused
    assert code(client.post(f"{path}?force=perhaps", content=border)) == (400, "bad_request")
    forced = client.post(f"{path}?force=true", content=border)
    if path == "/api/predict":
        assert forced.json() == expected
    else:
        assert text_of(forced.content) == text_of(report(predict(bundled, border, force=True)))


def test_of_many_images_the_border_cases_are_forced(
    client: TestClient, border: bytes, photograph: bytes, expected: dict[str, Any]
) -> None:
    files = [("images", (name, data)) for name, data in (("half", border), ("photograph", photograph))]
    for force in (False, True):
        half, picture = client.post(f"/api/predict_many?force={force}", files=files).json()["predictions"]
        assert picture["reason"]["code"] == "not_a_chest_radiograph"
        assert (half == expected) is force
        answer = client.post(f"/page/archive?force={force}", files=files)
        with zipfile.ZipFile(io.BytesIO(answer.content)) as archive:
            stored = json.loads(archive.read("predictions/half.json"))
            assert stored == {"path": "half", **half, "map": stored["map"]}
            assert (stored["map"] is not None) is force
            assert [name for name in archive.namelist() if "overlay" in name] == ["overlays/half.overlay.png"] * force


def test_the_page_is_told_which_refusal_may_be_overruled(
    client: TestClient, border: bytes, photograph: bytes, expected: dict[str, Any]
) -> None:
    row = client.post("/page/predict", content=border).json()
    assert row["force"] is True
    assert row["points"]["balanced"]["status"] == "rejected"
    forced = client.post("/page/predict?force=true", content=border).json()
    assert "force" not in forced
    prediction = forced["points"][forced["point"]]
    assert prediction.pop("map")["target"] == prediction["label"]
    assert prediction | {"map": None} == expected
    for path in ("/page/predict", "/page/predict?force=true"):
        picture = client.post(path, content=photograph).json()
        assert "force" not in picture
        assert picture["points"]["balanced"]["status"] == "rejected"


def test_gradios_clients_and_the_tools_can_force(
    app: App, border: bytes, photograph: bytes, expected: dict[str, Any], tmp_path: Path
) -> None:
    (tmp_path / "half.png").write_bytes(border)
    half, picture = handle_file(tmp_path / "half.png"), handle_file(PHOTOGRAPH)
    client = Client(app.url, verbose=False)
    for image, force in ((half, False), (picture, True)):
        with pytest.raises(AppError) as refusal:
            client.predict(image, force=force, api_name="/predict")
        assert refusal.value.title == "not_a_chest_radiograph"
    assert client.predict(half, overlay=False, force=True, api_name="/predict")[2] == expected
    assert client.predict([half], force=True, api_name="/predict_many") == [expected]

    for data, options in ((border, {}), (photograph, {"force": True})):
        refused = use(app, "classify_radiograph", image=data_url(data), **options)
        assert words(refused).startswith("not_a_chest_radiograph: ")
    forced = use(app, "classify_radiograph", image=data_url(border), overlay=False, force=True)
    assert forced.structuredContent == expected
    many = use(app, "classify_radiographs", images=[data_url(border)], force=True)
    assert many.structuredContent == {"predictions": [expected]}


def test_the_handler_can_force(border: bytes, photograph: bytes, expected: dict[str, Any]) -> None:
    endpoint = EndpointHandler(str(ROOT / "model"))
    inputs = [base64.b64encode(data).decode() for data in (border, photograph)]
    for force in (False, True):
        answers = endpoint({"inputs": inputs, "parameters": {"force": force}})
        assert isinstance(answers, list)
        half, picture = answers
        assert picture["reason"]["code"] == "not_a_chest_radiograph"
        assert half["probabilities"] == (expected["probabilities"] if force else {})
        assert half["status"] == ("uncertain" if force else "rejected")
