"""Every snippet of README and docs/ runs as it stands, except for addresses, and gets the prediction of `predict`."""

import ast
import asyncio
import csv
import json
import os
import re
import shlex
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import huggingface_hub
import numpy as np
import pytest
from mcp import ClientSession
from mcp.client.streamable_http import streamable_http_client
from PIL import Image

from pneumocam import Classifier, RadiographError, predict
from pneumocam.cli import main
from pneumocam.service.errors import CODES
from pneumocam.service.tools import TOOLS
from publish.model import main as publish
from tests.conftest import EXAMPLES, App, use_hub
from tests.hub import Hub, serve
from tests.service.test_force import border_case
from tests.service.test_handler import dicom

# The Hub's client uploads large files in a way that its own HTTP library calls deprecated.
pytestmark = pytest.mark.filterwarnings("ignore:Use 'content=:DeprecationWarning")

ROOT = Path(__file__).parents[2]
IMAGE = ROOT / "examples" / "person1946_bacteria_4874.jpeg"
SHOWN = [path for path in EXAMPLES if re.search("1437|1946|1949", path.name)]  # those that the snippets name
REPO = "lung/pneumocam"
NODE_MODULES = ROOT / "node_modules"


def snippets(document: str, heading: str, *languages: str) -> list[str]:
    """The code of all blocks in a section, which must have these languages; output that is shown there has none."""
    text = (ROOT / document).read_text()
    section = re.split(r"^##+ ", re.split(rf"\n##+ {heading}\n", text)[1], flags=re.MULTILINE)[0]
    blocks = re.findall(r"^```(\w+)\n(.*?)^```$", section, re.MULTILINE | re.DOTALL)
    assert tuple(language for language, _ in blocks) == languages, f"a snippet of {heading!r} has no test or is gone"
    return [code for _, code in blocks]


API = (ROOT / "docs" / "api.md").read_text()
[COMMANDS] = snippets("docs/cli.md", "From a terminal", "bash")
[LIBRARY] = snippets("docs/api.md", "Python package", "python")
PYTHON, MANY = snippets("docs/api.md", "Python client", "python", "python")
[JAVASCRIPT] = snippets("docs/api.md", "JavaScript client", "js")
CURL, CURL_FILE, CURL_MANY, FETCH = snippets("docs/api.md", "HTTP", "bash", "bash", "bash", "js")
[MCP] = snippets("docs/api.md", "MCP", "json")
TIMM, PNEUMOCAM = snippets("docs/api.md", "The weights", "python", "python")
GUIDE, _ = snippets("docs/deploying.md", "Your own weights, Space and endpoint in ten minutes", "bash", "bash")
_, README_COMMANDS = snippets("README.md", "Quick start", "bash", "bash")
[README_LIBRARY] = snippets("README.md", "Python", "python")
README_CURL, README_PYTHON, README_MCP = snippets("README.md", "API", "bash", "python", "json")
[README_TIMM] = snippets("README.md", "The weights in timm", "python")
[WEIGHTS] = re.findall(r"^python -m train\.publish model .*$", GUIDE, re.MULTILINE)  # test_space has the Space


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """An empty folder but for what the snippets name of examples/."""
    (tmp_path / "examples").mkdir()
    for path in [*SHOWN, EXAMPLES[0].with_name("examples.csv")]:
        (tmp_path / "examples" / path.name).symlink_to(path)
    return tmp_path


@pytest.fixture(scope="module")
def hub(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Hub]:
    """A Hub on loopback to which the owner of its token published the bundled model, by the guide's command."""
    arguments = shlex.split(WEIGHTS.replace("YOU/pneumocam", REPO))
    assert arguments[:3] == ["python", "-m", "train.publish"]
    with serve() as hub:
        with pytest.MonkeyPatch.context() as patch:
            use_hub(hub.url, tmp_path_factory.mktemp("hub"), patch)
            patch.setattr(huggingface_hub.constants, "HF_HUB_DISABLE_XET", True)
            patch.setenv("HF_TOKEN", "hf_writer")
            patch.chdir(ROOT)
            patch.setattr(sys, "argv", arguments[2:])
            publish()
        yield hub


def client_of(hub: Hub) -> dict[str, str]:
    """Settings of a process that knows no other Hub."""
    return {"HF_ENDPOINT": hub.url, "HF_HUB_DISABLE_XET": "1", "HF_HUB_DISABLE_PROGRESS_BARS": "1"}


def here(code: str, address: str, ours: str) -> str:
    """The snippet with the one thing that is other for every reader: where the server is or what the model is named."""
    assert code.count(address) == 1
    return code.replace(address, ours)


def output(command: list[str], folder: Path, environment: dict[str, str] | None = None) -> str:
    settings = os.environ | {"GRADIO_TEMP_DIR": str(folder), "HF_HOME": str(folder / "hf")} | (environment or {})
    done = subprocess.run(command, cwd=folder, env=settings, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    return done.stdout


def probabilities(printed: str) -> dict[str, float]:
    """Of each class, in whatever way Python, Node.js or curl prints them."""
    return {name: float(p) for name, p in re.findall(r"(NORMAL|BACTERIAL|VIRAL)\W+([\d.]+(?:e-\d+)?)", printed)}


def check_answer(printed: str, classifier: Classifier) -> None:
    prediction = predict(classifier, IMAGE)
    assert re.findall(r"label\W+(\w+)\W+probabilities", printed) == [prediction.label]
    assert re.findall(r"status\W+(\w+)", printed) == [prediction.status]
    assert probabilities(printed) == pytest.approx(prediction.probabilities, abs=1e-6)


def check_overlay(path: Path, classifier: Classifier) -> None:
    expected = np.asarray(predict(classifier, IMAGE).overlay("PNEUMONIA"), int)
    with Image.open(path) as overlay:
        assert np.abs(np.asarray(overlay, int) - expected).max() <= 1  # another process may round otherwise


# A running page


def test_python_client(app: App, folder: Path, bundled: Classifier) -> None:
    printed = output([sys.executable, "-c", here(PYTHON, "http://127.0.0.1:7860", app.url)], folder)
    check_answer(printed, bundled)
    check_overlay(Path(printed.splitlines()[-1]), bundled)


def test_the_output_in_the_documentation_is_what_is_answered(bundled: Classifier) -> None:
    shown = ast.literal_eval(API.split(f"{PYTHON}```\n\n```\n")[1].split("\n/tmp")[0])
    prediction = predict(bundled, IMAGE)
    answer = prediction.to_dict(prediction.explain("PNEUMONIA"))
    shares = shown.pop("probabilities")
    assert shares == pytest.approx(answer.pop("probabilities"), abs=1e-6)
    assert shown == answer | {"p_pneumonia": pytest.approx(answer["p_pneumonia"], abs=1e-6)}


def test_many_images_and_errors(app: App, folder: Path, bundled: Classifier) -> None:
    printed = output([sys.executable, "-c", here(PYTHON, "http://127.0.0.1:7860", app.url) + MANY], folder)
    *_, radiograph, table, error = printed.splitlines()
    expected = predict(bundled.at("screening"), IMAGE)
    assert radiograph == f"{expected.status} {expected.p_pneumonia} {None}"
    assert table.startswith("rejected None {'code': 'not_an_image', 'message': 'The upload is no picture")
    assert error.startswith("not_an_image The upload is no picture that is known here.")


def test_mcp_settings(app: App) -> None:
    (settings,) = json.loads(here(MCP, "http://127.0.0.1:7860", app.url))["mcpServers"].values()

    async def tools() -> list[str]:
        async with streamable_http_client(settings["url"]) as (read, write, _), ClientSession(read, write) as session:
            await session.initialize()
            return [tool.name for tool in (await session.list_tools()).tools]

    documented = re.findall(r"^\| `(?:GET|POST) /[\w/]+` \| `/\w+` \| `(\w+)` \|", API, re.MULTILINE)
    assert asyncio.run(tools()) == documented == list(TOOLS)


def test_every_code_of_an_error_is_told() -> None:
    image, request = API.split("## Errors")[1].split("| code |")[1:]
    images = {kind.code for kind in RadiographError.__subclasses__() if kind.__module__.startswith("pneumocam")}
    assert set(re.findall(r"^\| `(\w+)` \|", image, re.MULTILINE)) == images
    rows = re.findall(r"^\| `(\w+)` \| (\d+) \| (.+) \|$", request.split("\n## ")[0], re.MULTILINE)
    assert {code: (int(status), text) for code, status, text in rows} == CODES


def test_javascript_client(app: App, folder: Path, bundled: Classifier) -> None:
    node = shutil.which("node")
    if not node or not (NODE_MODULES / "@gradio" / "client").is_dir():
        pytest.skip("Node.js or Gradio's client is missing; where there is npm, `make test` installs it")
    (folder / "node_modules").symlink_to(NODE_MODULES)
    code = here(JAVASCRIPT, "http://127.0.0.1:7860", app.url)
    printed = output([node, "--input-type=module", "--eval", code], folder)
    check_answer(printed, bundled)
    assert re.search(rf"^.*{re.escape(app.url)}/gradio_api/file=\S+\.png$", printed, re.MULTILINE)


def test_curl(app: App, folder: Path, bundled: Classifier) -> None:
    printed, _, many = (
        output(["bash", "-c", here(code, "http://127.0.0.1:7860", app.url)], folder)
        for code in (CURL, CURL_FILE, CURL_MANY)
    )
    check_answer(printed, bundled)
    check_overlay(folder / "overlay.png", bundled)
    first, second = json.loads(many)["predictions"]
    assert first == predict(bundled.at("screening"), IMAGE).to_dict()
    assert (second["status"], second["reason"]["code"]) == ("rejected", "not_an_image")


def test_fetch_in_javascript(app: App, folder: Path, bundled: Classifier) -> None:
    node = shutil.which("node")
    if not node:
        pytest.skip("Node.js is missing")
    code = here(FETCH, "http://127.0.0.1:7860", app.url)
    check_answer(output([node, "--input-type=module", "--eval", code], folder), bundled)


def test_readme_calls_the_api(app: App, folder: Path, bundled: Classifier) -> None:
    address = "http://127.0.0.1:7860"
    check_answer(output(["bash", "-c", here(README_CURL, address, app.url)], folder), bundled)
    code = here(README_PYTHON, address, app.url) + "print(prediction)"
    check_answer(output([sys.executable, "-c", code], folder), bundled)
    assert json.loads(README_MCP) == json.loads(MCP)


# The weights on the Hub


def test_timm_alone(hub: Hub, folder: Path, bundled: Classifier) -> None:
    printed = output([sys.executable, "-c", here(TIMM, "owner/name", REPO)], folder, client_of(hub))
    calibrated = predict(bundled, IMAGE).probabilities
    sharpened = {name: p**bundled.temperature for name, p in calibrated.items()}
    own = {name: p / sum(sharpened.values()) for name, p in sharpened.items()}
    assert probabilities(printed) == pytest.approx(own, abs=1e-5)


def test_pneumocam_from_the_hub(hub: Hub, folder: Path, bundled: Classifier) -> None:
    printed = output([sys.executable, "-c", here(PNEUMOCAM, "owner/name", REPO)], folder, client_of(hub))
    check_answer(printed, bundled)
    assert f"'model': {{'id': '{REPO}', 'revision': '{hub.repositories[REPO].tags['v1.0']}'}}" in printed


def test_readme_loads_the_weights_with_timm_alone(folder: Path) -> None:
    (folder / "model").symlink_to(ROOT / "model")
    assert output([sys.executable, "-c", README_TIMM + "print(network.num_classes)"], folder) == "3\n"


# This package


def test_library(folder: Path, bundled: Classifier, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(folder)
    names: dict[str, object] = {}
    exec(LIBRARY, names)
    check_answer(str(names["prediction"].to_dict()), bundled)  # type: ignore[attr-defined]
    check_overlay(folder / "overlay.png", bundled)


def test_readme_predicts_in_python(
    folder: Path, bundled: Classifier, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(folder)
    exec(README_LIBRARY, {})
    assert probabilities(capsys.readouterr().out) == pytest.approx(predict(bundled, IMAGE).probabilities, abs=1e-6)
    assert (folder / "overlay.png").exists()


def test_commands(
    folder: Path, bundled: Classifier, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(folder)
    (folder / "chest.dcm").write_bytes(dicom())
    (folder / "half.png").write_bytes(border_case(bundled))
    for copy in ("images/a/one.jpeg", "more/b/two.png"):
        (folder / copy).parent.mkdir(parents=True)
        with Image.open(IMAGE) as radiograph:
            radiograph.save(folder / copy)

    lines = [
        line
        for line in COMMANDS.splitlines()
        if line.startswith("pneumocam") and not re.search("--engine ray|serve| - <", line)
    ]
    lines += [line for line in README_COMMANDS.splitlines() if line.startswith("pneumocam")]
    predictions, _, as_json, *_, info, again = (run(line, capsys) for line in lines)
    assert again == predictions
    assert [line.split()[0] for line in predictions.splitlines() if line.startswith("examples/")] == [
        f"examples/{radiograph.name}" for radiograph in SHOWN
    ]
    assert len(list((folder / "overlays").iterdir())) == len(SHOWN)
    assert len(list((folder / "reports").glob("*-report.pdf"))) == len(SHOWN)
    answer = json.loads(as_json)
    assert answer["probabilities"] == pytest.approx(predict(bundled, folder / "chest.dcm").probabilities, abs=1e-6)
    assert bundled.revision in info
    with (folder / "scores.csv").open(newline="") as file:
        rows = {row["path"]: float(row["p_viral"]) for row in csv.DictReader(file)}
    assert rows == {
        radiograph: pytest.approx(predict(bundled, folder / radiograph).probabilities["VIRAL"], abs=1e-5)
        for radiograph in ("images/a/one.jpeg", "more/b/two.png")
    }


def run(line: str, capsys: pytest.CaptureFixture[str]) -> str:
    """What a line prints that Bash reads, with its quotes, globs and comment, and this process carries out."""
    shell = f'pneumocam() {{ printf "%s\\n" "$@"; }}\n{line}'
    assert main(output(["bash", "-c", shell], Path.cwd()).splitlines()) == 0
    return capsys.readouterr().out
