"""The Inference Endpoints handler: called directly, and over HTTP by the public emulator of such an endpoint."""

import base64
import io
import json
import os
import re
import shutil
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from unittest.mock import ANY
from urllib.request import Request, urlopen

import numpy as np
import pytest
from PIL import Image
from pydicom import Dataset, FileMetaDataset, dcmwrite, uid

from handler import EndpointHandler
from pneumocam import Classifier, predict
from tests.conftest import EXAMPLES

ROOT = Path(__file__).parents[2]
IMAGE = EXAMPLES[0]
EMULATOR = ROOT / ".emulator"


@pytest.fixture(scope="module")
def endpoint() -> EndpointHandler:
    return EndpointHandler(str(ROOT / "model"))


def encoded(image: Path | bytes) -> str:
    return base64.b64encode(image if isinstance(image, bytes) else image.read_bytes()).decode()


def ask(endpoint: EndpointHandler, inputs: Any, **parameters: Any) -> dict[str, Any]:
    answer = endpoint({"inputs": inputs, "parameters": parameters})
    assert isinstance(answer, dict)
    json.dumps(answer, allow_nan=False)
    return answer


def expected(image: Any, classifier: Classifier) -> dict[str, Any]:
    return predict(classifier, image).to_dict()


def picture(text: str) -> np.ndarray:
    return np.asarray(Image.open(io.BytesIO(base64.b64decode(text))))


def dicom() -> bytes:
    """IMAGE with 12 bits, as DICOM."""
    with Image.open(IMAGE) as image:
        pixels = np.asarray(image.convert("L")).astype(np.uint16) * 16
    data = Dataset()
    data.Modality = "DX"
    data.PhotometricInterpretation = "MONOCHROME2"
    data.Rows, data.Columns = pixels.shape
    data.SamplesPerPixel, data.BitsAllocated, data.BitsStored, data.HighBit, data.PixelRepresentation = 1, 16, 12, 11, 0
    data.PixelData = pixels.tobytes()
    data.SOPClassUID, data.SOPInstanceUID = uid.SecondaryCaptureImageStorage, "1.2.3"
    data.file_meta = FileMetaDataset()
    data.file_meta.TransferSyntaxUID = uid.ExplicitVRLittleEndian
    buffer = io.BytesIO()
    dcmwrite(buffer, data, enforce_file_format=True)
    return buffer.getvalue()


@pytest.mark.parametrize("kind", ["base64", "base64 in lines", "bytes", "picture"])
def test_one_image_gets_the_answer_that_python_gets(endpoint: EndpointHandler, kind: str) -> None:
    inputs = {
        "base64": encoded(IMAGE),
        "base64 in lines": base64.encodebytes(IMAGE.read_bytes()).decode(),
        "bytes": IMAGE.read_bytes(),
        "picture": Image.open(io.BytesIO(IMAGE.read_bytes())),
    }[kind]
    assert ask(endpoint, inputs) == expected(IMAGE, endpoint.classifier)
    assert endpoint({"inputs": inputs}) == expected(IMAGE, endpoint.classifier)


def test_sixteen_bits_and_dicom_come_whole_as_base64(endpoint: EndpointHandler) -> None:
    with Image.open(IMAGE) as image:
        pixels = np.asarray(image.convert("L"))
    buffer = io.BytesIO()
    Image.fromarray(pixels.astype(np.uint16) * 257).save(buffer, "PNG")
    answer = ask(endpoint, encoded(buffer.getvalue()))
    assert answer["probabilities"] == expected(pixels, endpoint.classifier)["probabilities"]
    assert answer == expected(buffer.getvalue(), endpoint.classifier)
    assert ask(endpoint, encoded(dicom())) == expected(dicom(), endpoint.classifier)


@pytest.mark.parametrize("target", [None, "VIRAL", "PNEUMONIA"])
def test_the_overlay_is_the_one_that_python_draws(endpoint: EndpointHandler, target: str | None) -> None:
    answer = ask(endpoint, encoded(IMAGE), target=target, overlay=True)
    prediction = predict(endpoint.classifier, IMAGE)
    np.testing.assert_array_equal(picture(answer.pop("overlay")), np.asarray(prediction.overlay(target)))
    assert answer == prediction.to_dict(prediction.explain(target))


def test_a_batch_answers_in_order_and_a_bad_image_spoils_none(endpoint: EndpointHandler) -> None:
    images = [encoded(EXAMPLES[1]), encoded(b"no image"), encoded(IMAGE), 7]
    answers = endpoint({"inputs": images, "parameters": {"overlay": True}})
    assert isinstance(answers, list)
    for answer, image in ((answers[0], EXAMPLES[1]), (answers[2], IMAGE)):
        np.testing.assert_array_equal(picture(answer.pop("overlay")), predict(endpoint.classifier, image).overlay())
        assert answer["probabilities"] == pytest.approx(expected(image, endpoint.classifier)["probabilities"], abs=1e-5)
    assert [answers[i]["error"]["code"] for i in (1, 3)] == ["not_an_image", "not_an_image"]
    assert [answers[i]["status"] for i in (1, 3)] == [422, 422]


@pytest.mark.parametrize(
    ("inputs", "code", "message"),
    [
        (encoded(IMAGE.read_bytes()[:20_000]), "damaged_image", "truncated"),
        (encoded(b""), "not_an_image", "empty"),
        ("https://example.com/image.png", "not_an_image", "not base64.*not its address"),
        (str(IMAGE), "not_an_image", "not base64"),
        ("Röntgen", "not_an_image", "not base64"),
        (None, "not_an_image", "NoneType"),
        ({"url": "https://example.com/image.png"}, "not_an_image", "dict"),
    ],
)
def test_an_image_that_cannot_be_used_is_reported(
    endpoint: EndpointHandler, inputs: Any, code: str, message: str
) -> None:
    answer = ask(endpoint, inputs)
    assert (answer["error"]["code"], answer["status"]) == (code, 422)
    assert re.search(message, answer["error"]["message"])


@pytest.mark.parametrize(
    ("inputs", "parameters", "message"),
    [
        ([], {}, "0 images came; expected 1 to 32"),
        ([""] * 33, {}, "33 images came; expected 1 to 32"),
        ("", {"targets": "VIRAL"}, "targets: "),
        ("", ["VIRAL"], "parameters is not an object"),
        ("", {"target": "LUNG"}, "target is 'LUNG'; expected one of NORMAL, BACTERIAL, VIRAL, PNEUMONIA"),
        ("", {"target": ["VIRAL"]}, "target: "),
        ("", {"overlay": "gif"}, "overlay"),
    ],
)
def test_a_request_that_is_not_understood_is_reported(
    endpoint: EndpointHandler, inputs: Any, parameters: Any, message: str
) -> None:
    answer = endpoint({"inputs": inputs, "parameters": parameters})
    assert isinstance(answer, dict)
    assert (answer["error"]["code"], answer["status"]) == ("bad_request", 400)
    assert re.match(message, answer["error"]["message"])


# Over HTTP


@pytest.fixture(scope="module")
def repository(staged_bundled: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The model repository; its package's disclaimer tells it from the checkout's."""
    folder = Path(shutil.copytree(staged_bundled, tmp_path_factory.mktemp("hub") / "xray"))
    for module in (folder / "pneumocam").rglob("*.py"):
        text = re.sub("^DISCLAIMER = .*", 'DISCLAIMER = "The copy."', module.read_text(), flags=re.MULTILINE)
        module.write_text(text)
    return folder


@pytest.fixture(scope="module")
def emulator(repository: Path) -> Iterator[str]:
    """The address of the running emulator. Its Starlette is older than the app's, hence a folder of its own."""
    if not (EMULATOR / "hf_endpoints_emulator").exists():
        pytest.skip("the Inference Endpoints emulator is not in .emulator; `make test` puts it there")
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    process = subprocess.Popen(
        [sys.executable, "-m", "uvicorn", "hf_endpoints_emulator.emulator:app", "--port", str(port)],
        cwd=repository,
        env=os.environ | {"PYTHONPATH": str(EMULATOR), "HANDLER_PATH": str(repository / "handler.py")},
        stderr=subprocess.PIPE,
        stdout=subprocess.DEVNULL,
        text=True,
    )
    assert process.stderr
    log = []
    for line in process.stderr:
        log.append(line)
        if "Uvicorn running" in line:
            break
    else:
        pytest.fail(f"the emulator ended before it served: {''.join(log)}")
    yield f"http://127.0.0.1:{port}"
    process.terminate()
    process.communicate(timeout=30)


def post(url: str, body: bytes, kind: str) -> Any:
    with urlopen(Request(url, body, {"Content-Type": kind}), timeout=120) as answer:
        assert answer.status == 200
        return json.load(answer)


def test_the_endpoint_takes_an_image_as_it_is(emulator: str, bundled: Classifier) -> None:
    answer = post(emulator, IMAGE.read_bytes(), "image/jpeg")
    assert answer["disclaimer"] == "The copy."
    assert answer["model"] == {"id": "local-dir:xray", "revision": bundled.revision}
    assert answer["probabilities"] == pytest.approx(expected(IMAGE, bundled)["probabilities"], abs=1e-5)


def test_the_endpoint_takes_a_batch_as_json(emulator: str, bundled: Classifier) -> None:
    request = {"inputs": [encoded(dicom()), encoded(b"no image")], "parameters": {"overlay": True, "target": "VIRAL"}}
    image, letter = post(emulator, json.dumps(request).encode(), "application/json")
    assert image["probabilities"] == pytest.approx(expected(dicom(), bundled)["probabilities"], abs=1e-5)
    assert picture(image["overlay"]).shape[2] == 3
    assert letter == {"error": {"code": "not_an_image", "message": ANY}, "status": 422}
