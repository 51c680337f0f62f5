"""Plain HTTP: the API and the page's requests, as any HTTP client sees them."""

import base64
import csv
import io
import json
import zipfile
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from PIL import Image
from starlette.testclient import TestClient

from pneumocam import Classifier, RadiographError, load_radiograph, predict, predict_many, targets
from pneumocam.predict import describe
from pneumocam.service import page
from pneumocam.service.api import PredictAnswer
from pneumocam.service.endpoints import Endpoints
from pneumocam.service.engine import Engine
from pneumocam.service.guard import Guard
from pneumocam.service.http import application
from pneumocam.service.limits import LIMITS, Limits
from tests.conftest import EXAMPLES

IMAGE = next(path for path in EXAMPLES if "bacteria" in path.name)
NORMAL = next(path for path in EXAMPLES if "NORMAL" in path.name)
LETTER = b"Dear radiologist, " * 40


@pytest.fixture(scope="module")
def engine(bundled: Classifier) -> Engine:
    return Engine(bundled)


def http_client(engine: Engine, limits: Limits = LIMITS) -> TestClient:
    """A client of the HTTP routes, behind the guard."""
    own = application(Endpoints(engine, notice="A notice."))
    return TestClient(Guard(own, own, limits), base_url="http://127.0.0.1")


@pytest.fixture(scope="module")
def client(engine: Engine) -> Iterator[TestClient]:
    with http_client(engine) as client:
        yield client


def pixels(data: bytes) -> np.ndarray:
    with Image.open(io.BytesIO(data)) as image:
        return np.asarray(image, int)


# One image


@pytest.mark.parametrize("multipart", [False, True])
@pytest.mark.parametrize(("target", "point"), [(None, None), ("PNEUMONIA", "screening"), ("VIRAL", "rule_in")])
def test_an_image_gets_the_prediction_and_overlay_of_python(
    client: TestClient, bundled: Classifier, target: str | None, point: str | None, multipart: bool
) -> None:
    data = IMAGE.read_bytes()
    body: dict[str, Any] = {"files": {"image": ("x.jpeg", data)}} if multipart else {"content": data}
    options = {key: value for key, value in {"target": target, "operating_point": point}.items() if value}
    answer = client.post("/api/predict", params=options | {"overlay": "png"}, **body).json()
    prediction = predict(bundled.at(point) if point else bundled, data)
    PredictAnswer.model_validate(answer)
    drawn = pixels(base64.b64decode(answer.pop("overlay")))
    assert answer == prediction.to_dict(prediction.explain(target))
    np.testing.assert_array_equal(drawn, np.asarray(prediction.overlay(target), int))


def test_without_an_overlay_there_is_none(client: TestClient, bundled: Classifier) -> None:
    answer = client.post("/api/predict", content=IMAGE.read_bytes()).json()
    assert answer == predict(bundled, IMAGE).to_dict()


def test_probabilities_are_stated_for_the_prevalence_that_is_asked_for(bundled: Classifier) -> None:
    prior = {"NORMAL": 0.25, "BACTERIAL": 0.5, "VIRAL": 0.25}
    stated, silent = replace(bundled, prior=prior, prevalence=0.5), replace(bundled, prior=None, prevalence=None)
    ask = "/api/predict?prevalence=0.1"
    answer = http_client(Engine(stated)).post(ask, content=IMAGE.read_bytes()).json()
    assert answer == predict(stated, IMAGE, prevalence=0.1).to_dict()
    assert answer["p_pneumonia"] < predict(stated, IMAGE).to_dict()["p_pneumonia"]
    refused = http_client(Engine(silent)).post(ask, content=IMAGE.read_bytes())
    assert (refused.status_code, refused.json()["error"]["code"]) == (400, "bad_request")


@pytest.mark.parametrize(("kind", "tolerance"), [("png", 0), ("jpeg", 6), ("webp", 8)])
def test_the_overlay_itself_comes_where_it_is_accepted(
    client: TestClient, bundled: Classifier, kind: str, tolerance: float
) -> None:
    answer = client.post("/api/predict", content=IMAGE.read_bytes(), headers={"Accept": f"image/{kind}"})
    assert answer.headers["content-type"] == f"image/{kind}"
    with Image.open(io.BytesIO(answer.content)) as image:
        assert image.format == kind.upper()
    expected = np.asarray(predict(bundled, IMAGE).overlay(), int)
    assert np.abs(pixels(answer.content) - expected).mean() <= tolerance


def bad_images() -> dict[str, bytes]:
    """By the code of their error."""
    blank = io.BytesIO()
    Image.new("L", (90, 90), 7).save(blank, "PNG")
    return {"not_an_image": LETTER, "damaged_image": NORMAL.read_bytes()[:20_000], "blank": blank.getvalue()}


@pytest.mark.parametrize("code", bad_images())
def test_an_image_that_cannot_be_used_is_an_error_with_its_code(client: TestClient, code: str) -> None:
    with pytest.raises(RadiographError) as told:
        load_radiograph(bad_images()[code])
    answer = client.post("/api/predict", content=bad_images()[code])
    assert answer.status_code == 422
    assert answer.json()["error"] == {"code": code, "message": told.value.message}


@pytest.mark.parametrize(
    ("query", "named"),
    [
        ("target=LUNG", ["target", "LUNG", "NORMAL", "PNEUMONIA"]),
        ("operating_point=strict", ["operating_point", "strict", "balanced", "screening"]),
        ("overlay=gif", ["overlay", "jpeg"]),
        ("prevalence=0", ["prevalence", "0"]),
        ("prevalence=much", ["prevalence"]),
        ("zoom=2", ["zoom"]),
    ],
)
def test_an_option_that_is_unknown_is_named_with_what_was_expected(
    client: TestClient, query: str, named: list[str]
) -> None:
    answer = client.post(f"/api/predict?{query}", content=IMAGE.read_bytes())
    assert (answer.status_code, answer.json()["error"]["code"]) == (400, "bad_request")
    assert [word for word in named if word not in answer.json()["error"]["message"]] == []


@pytest.mark.parametrize(
    ("body", "code"),
    [
        ({"content": b""}, "bad_request"),
        ({"files": {"picture": b"x"}}, "bad_request"),
        ({"files": [("image", b"x"), ("image", b"y")]}, "too_large"),
        ({"content": b"--x", "headers": {"Content-Type": "multipart/form-data; boundary=x"}}, "bad_request"),
        ({"content": b"--x", "headers": {"Content-Type": "multipart/form-data"}}, "bad_request"),
    ],
)
def test_a_body_that_is_not_understood_is_told(client: TestClient, body: dict[str, Any], code: str) -> None:
    assert client.post("/api/predict", **body).json()["error"]["code"] == code


# Many images


def test_many_images_get_their_own_predictions_and_a_bad_one_affects_no_other(
    client: TestClient, bundled: Classifier
) -> None:
    images = [*(path.read_bytes() for path in EXAMPLES[:4]), LETTER, *(path.read_bytes() for path in EXAMPLES[4:])]
    files = [("images", ("x", data)) for data in images]
    answer = client.post("/api/predict_many?operating_point=screening", files=files).json()
    expected = [prediction.to_dict() for prediction in predict_many(bundled.at("screening"), images)]
    assert answer == {"predictions": expected}
    assert expected[4]["status"] == "rejected"


def test_more_images_than_one_request_may_have_are_refused(client: TestClient) -> None:
    files = [("images", ("x", b"x"))] * (LIMITS.images + 1)
    answer = client.post("/api/predict_many", files=files)
    assert (answer.status_code, answer.json()["error"]["code"]) == (413, "too_large")
    assert str(LIMITS.images) in answer.json()["error"]["message"]


# The model


def test_info_and_health_are_the_models(client: TestClient, bundled: Classifier) -> None:
    assert client.get("/api/info").json() == json.loads(json.dumps(describe(bundled)))
    health = client.get("/healthz").json()
    assert health["status"] == "ok"
    assert health["model"] == {"id": "bundled", "revision": bundled.revision}
    assert client.head("/healthz").status_code == 200


def test_openapi_names_the_models_operating_points_and_classes(client: TestClient, bundled: Classifier) -> None:
    document = client.get("/openapi.json").json()
    assert set(document["paths"]) == {"/api/predict", "/api/predict_many", "/api/info", "/healthz"}
    parameters = {one["name"]: one["schema"] for one in document["paths"]["/api/predict"]["post"]["parameters"]}
    assert parameters["target"]["enum"] == [*targets(bundled), None]
    assert parameters["operating_point"]["enum"] == [*bundled.operating_points, None]


# The page


def test_the_page_gets_every_operating_points_prediction_and_every_classs_map(
    client: TestClient, bundled: Classifier
) -> None:
    row = client.post("/page/predict", content=IMAGE.read_bytes(), headers={"X-File-Name": "%E8%83%B8 a.jpeg"}).json()
    prediction = predict(bundled, IMAGE)
    assert row["name"] == "胸 a.jpeg"
    for point in bundled.operating_points:
        there = prediction.at(point)
        assert row["points"][point] == there.to_dict(there.explain())
    assert list(row["maps"]) == list(targets(bundled))
    assert row["table"]["balanced"]["p_viral"] == f"{prediction.probabilities['VIRAL']:.6f}"
    with Image.open(io.BytesIO(base64.b64decode(row["picture"].partition(",")[2]))) as picture:
        assert (picture.format, max(picture.size)) == ("JPEG", min(1024, max(row["size"])))


def test_a_rejected_image_is_a_row_with_its_reason(client: TestClient) -> None:
    answer = client.post("/page/predict", content=LETTER)
    assert answer.status_code == 200
    assert "maps" not in answer.json()
    assert {point["reason"]["code"] for point in answer.json()["points"].values()} == {"not_an_image"}


def test_an_example_comes_with_its_true_label(client: TestClient, bundled: Classifier) -> None:
    row = client.get(f"/page/example/{IMAGE.name}").json()
    assert row["truth"] == "BACTERIAL"
    prediction = predict(bundled, IMAGE)
    assert row["points"]["balanced"] == prediction.to_dict(prediction.explain())
    assert client.get("/page/example/..%2FREADME.md").status_code == 404


def test_the_page_is_told_the_model_its_limits_and_the_examples(client: TestClient) -> None:
    facts = client.get("/page/info").json()
    assert facts["notice"] == "A notice."
    assert facts["limits"] == {"images": LIMITS.images, "bytes": LIMITS.image_bytes}
    assert {len(base64.b64decode(colours)) for colours in facts["colours"].values()} == {3 * 256}
    assert [one["file"] for one in facts["examples"]] == [path.name for path in EXAMPLES]
    thumbnail = client.get("/" + facts["examples"][0]["thumbnail"].removeprefix("./"))
    assert thumbnail.headers["content-type"] == "image/jpeg"
    assert "immutable" in thumbnail.headers["cache-control"]


@pytest.mark.parametrize(("kind", "start"), [("pdf", b"%PDF"), ("png", b"\x89PNG")])
def test_a_report_is_a_file_with_the_uploads_name(client: TestClient, kind: str, start: bytes) -> None:
    headers = {"X-File-Name": "..%2Fa%20b.jpeg"}
    answer = client.post(f"/page/report?format={kind}&target=VIRAL", content=IMAGE.read_bytes(), headers=headers)
    assert answer.content.startswith(start)
    assert f'filename="a b.jpeg.{kind}"' in answer.headers["content-disposition"]


def test_an_archive_has_the_table_and_each_prediction_and_overlay(client: TestClient, bundled: Classifier) -> None:
    files = [("images", ("a.jpeg", IMAGE.read_bytes())), ("images", ("=a.jpeg", LETTER))]
    answer = client.post("/page/archive?operating_point=rule_in&opacity=0.3&colour_map=viridis", files=files)
    with zipfile.ZipFile(io.BytesIO(answer.content)) as archive:
        rows = list(csv.DictReader(io.TextIOWrapper(archive.open("scores.csv"))))
        assert [row["path"] for row in rows] == ["a.jpeg", "'=a.jpeg"]
        prediction = predict(bundled.at("rule_in"), IMAGE)
        stored = json.loads(archive.read("predictions/a.jpeg.json"))
        assert stored == {"path": "a.jpeg", **prediction.to_dict(prediction.explain())}
        drawn = prediction.overlay(opacity=0.3, colour_map="viridis")
        np.testing.assert_array_equal(pixels(archive.read("overlays/a.jpeg.overlay.png")), np.asarray(drawn, int))
        assert len(archive.namelist()) == 4


def test_no_image_is_read_while_routes_are_added(engine: Engine, monkeypatch: pytest.MonkeyPatch) -> None:
    # Both change Python's filters of warnings, which all threads share: a warning of FastAPI's would be printed.
    order: list[str] = []
    examples = page.examples

    def noted(classifier: Classifier) -> list[tuple[dict[str, Any], bytes]]:
        order.append("examples")
        return examples(classifier)

    monkeypatch.setattr(page, "examples", noted)
    own = application(Endpoints(engine))
    order.append("routes")
    with TestClient(own) as client:
        assert len(client.get("/page/info").json()["examples"]) == len(EXAMPLES)
    assert order == ["routes", "examples"]


# Limits


def test_too_many_bytes_are_refused_before_they_are_read(engine: Engine) -> None:
    small = replace(LIMITS, image_bytes=100_000)
    with http_client(engine, small) as client:
        answer = client.post("/api/predict", content=bytes(400_000))
    assert (answer.status_code, answer.json()["error"]["code"]) == (413, "too_large")


def test_an_address_that_sends_too_often_has_to_wait(engine: Engine) -> None:
    own = application(Endpoints(engine))
    guard = Guard(own, own, replace(LIMITS, rate="2/minute"))
    public, local = (TestClient(guard, client=(address, 1)) for address in ("8.8.8.8", "10.0.0.1"))
    codes = [public.post("/api/predict", content=LETTER).status_code for _ in range(3)]
    last = public.post("/api/predict", content=LETTER)
    assert public.get("/api/info").status_code == 200
    assert local.post("/api/predict", content=LETTER).status_code == 422
    assert codes == [422, 422, 429]
    assert (last.json()["error"]["code"], last.headers["retry-after"]) == ("rate", str(LIMITS.retry_seconds))


@pytest.mark.parametrize("path", ["/nothing", "/web/../app.py", "/web/nothing.js", "/api/nothing", "/gradio_api/run/x"])
def test_other_addresses_are_not_there(client: TestClient, path: str) -> None:
    answer = client.get(path)
    assert (answer.status_code, answer.json()["error"]["code"]) == (404, "not_found")


def test_every_answer_has_the_security_headers(client: TestClient) -> None:
    for answer in (client.get("/page/info"), client.get("/nothing"), client.post("/api/predict", content=LETTER)):
        policy = answer.headers["content-security-policy"]
        assert "script-src 'self';" in policy
        assert "unsafe" not in policy
        assert answer.headers["x-content-type-options"] == "nosniff"
