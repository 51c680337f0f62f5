"""Prevalence on every interface: of a bundle that states its prior, and of one that does not."""

import asyncio
import base64
import io
import json
import shutil
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from gradio_client import Client, handle_file
from gradio_client.exceptions import AppError
from starlette.testclient import TestClient

from handler import EndpointHandler
from pneumocam import Classifier, Prediction, predict
from pneumocam.report import report
from pneumocam.service.endpoints import Endpoints
from pneumocam.service.engine import Engine
from pneumocam.service.http import application
from pneumocam.service.tools import Tools
from tests.conftest import EXAMPLES, ROOT, App, running_app
from tests.service.test_tools import data_url, use, words
from tests.unit.test_report import text_of

IMAGE = EXAMPLES[0]
DATA = IMAGE.read_bytes()
PRIOR = {"NORMAL": 0.25, "BACTERIAL": 0.5, "VIRAL": 0.25}
RARE = 0.03
OUT_OF_RANGE = ["0", "1", "-0.2", "30", "nan", "much"]


def with_prior(bundle: Path, prior: dict[str, float] | None) -> Path:
    """The same bundle with another prior."""
    path = bundle / "pneumocam.json"
    description = json.loads(path.read_text()) | {"prior": prior}
    path.write_text(json.dumps(description))
    return bundle


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The bundled model with a prior."""
    return with_prior(Path(shutil.copytree(ROOT / "model", tmp_path_factory.mktemp("prior") / "bundle")), PRIOR)


@pytest.fixture(scope="module")
def app(bundle: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[App]:
    with running_app(tmp_path_factory.mktemp("app"), PNEUMOCAM_MODEL=f"local-dir:{bundle}") as app:
        yield app


@pytest.fixture(scope="module")
def rare(bundle: Path) -> Prediction:
    """The prediction for a rare pneumonia."""
    classifier = Classifier.from_pretrained(f"local-dir:{bundle}")
    prediction = predict(classifier, IMAGE, prevalence=RARE)
    usual = predict(classifier, IMAGE)
    assert prediction.p_pneumonia
    assert usual.p_pneumonia
    assert prediction.p_pneumonia < usual.p_pneumonia
    return prediction


def test_http_and_the_page_state_probabilities_for_the_prevalence(app: App, rare: Prediction) -> None:
    def post(path: str, **body: Any) -> httpx.Response:
        return httpx.post(f"{app.url}{path}?prevalence={RARE}", timeout=60, **body).raise_for_status()

    expected, files = rare.to_dict(), [("images", ("a", DATA))]
    assert httpx.get(f"{app.url}/page/info").json()["prevalence"] == 0.5
    assert post("/api/predict", content=DATA).json() == expected
    assert post("/api/predict_many", files=files).json() == {"predictions": [expected]}
    assert text_of(post("/page/report", content=DATA).content) == text_of(report(rare))
    with zipfile.ZipFile(io.BytesIO(post("/page/archive", files=files).content)) as archive:
        assert json.loads(archive.read("predictions/a.json")) == {"path": "a", **rare.to_dict(rare.explain())}


def test_gradio_and_the_tools_state_probabilities_for_the_prevalence(app: App, rare: Prediction) -> None:
    client, expected = Client(app.url, verbose=False), rare.to_dict()
    image = handle_file(IMAGE)
    assert client.predict(image, overlay=False, prevalence=RARE, api_name="/predict")[2] == expected
    assert client.predict([image], prevalence=RARE, api_name="/predict_many") == [expected]
    for value in ("much", 0, 1.5):
        with pytest.raises(AppError, match="prevalence") as refusal:
            client.predict(image, prevalence=value, api_name="/predict")
        assert refusal.value.title == "bad_request"

    one, many = {"image": data_url(DATA), "overlay": False}, {"images": [data_url(DATA)]}
    assert use(app, "classify_radiograph", **one, prevalence=RARE).structuredContent == expected
    answer = use(app, "classify_radiographs", **many, prevalence=RARE)
    assert answer.structuredContent == {"predictions": [expected]}
    assert words(use(app, "classify_radiographs", **many, prevalence=1)).startswith("bad_request: prevalence")


def test_the_handler_states_probabilities_for_the_prevalence(bundle: Path, rare: Prediction) -> None:
    endpoint = EndpointHandler(str(bundle))
    request = {"inputs": base64.b64encode(DATA).decode()}
    assert endpoint({**request, "parameters": {"prevalence": RARE}}) == rare.to_dict()
    refused: Any = endpoint({**request, "parameters": {"prevalence": 1}})
    assert (refused["status"], refused["error"]["code"]) == (400, "bad_request")
    assert refused["error"]["message"].startswith("prevalence: ")


@pytest.fixture(params=[PRIOR, None], ids=["prior", "no prior"])
def tiny(make_bundle: Callable[..., Path], request: pytest.FixtureRequest) -> Classifier:
    """A tiny network, with a prior and without."""
    return Classifier.from_pretrained(f"local-dir:{with_prior(make_bundle('test_resnet'), request.param)}")


def test_a_prevalence_that_cannot_be_used_is_an_error_of_the_usual_shape(tiny: Classifier) -> None:
    endpoints = Endpoints(Engine(tiny))
    client = TestClient(application(endpoints))
    for value in OUT_OF_RANGE if tiny.prior else [*OUT_OF_RANGE, "0.3"]:
        for path in ("/api/predict", "/page/report", "/api/predict_many", "/page/archive"):
            field = "image" if path == "/api/predict" else "images"
            answer = client.post(f"{path}?prevalence={value}", files={field: DATA})
            assert (answer.status_code, answer.json()["error"]["code"]) == (400, "bad_request")
            assert "prevalence" in answer.json()["error"]["message"]
        result = asyncio.run(Tools(endpoints).call("classify_radiograph", {"image": "aGk=", "prevalence": value}))
        assert words(result).startswith("bad_request: prevalence")


def test_the_page_is_told_the_prevalence_or_that_there_is_none(tiny: Classifier) -> None:
    client = TestClient(application(Endpoints(Engine(tiny))))
    assert client.get("/page/info").json()["prevalence"] == (0.5 if tiny.prior else None)
    row = client.post("/page/predict", content=DATA).json()
    assert row["points"]["balanced"]["prevalence"] == (0.5 if tiny.prior else None)
