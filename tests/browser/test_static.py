"""The page without a server, in Chromium, from Python's own http.server: the same predictions, private, offline."""

import base64
import io
import json
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import sklearn.datasets
from axe_playwright_python.sync_playwright import Axe
from PIL import ExifTags, Image, ImageDraw, ImageOps
from playwright.sync_api import Browser, Page, Route, expect

from pneumocam import Classifier, load_radiograph, predict
from pneumocam.guard import outline
from pneumocam.predict import try_predict
from pneumocam.regions import EMPTY, STEADY
from pneumocam.static import write_static
from tests.conftest import EXAMPLES, ROOT

TIMEOUT = 120_000  # ms, on cores that are busy
FIRST_VISIT = 20_000_000  # bytes
TEXTS = {path.stem: json.loads(path.read_text()) for path in (ROOT / "web" / "static" / "i18n").glob("*.json")}
EN = TEXTS["en"]
PAGE_EN = json.loads((ROOT / "web" / "i18n" / "en.json").read_text())
CLASSIFY = """async ([name, data]) => {
  const { BrowserEngine } = await import("./engine.browser.js");
  window.own ??= new BrowserEngine();
  const bytes = Uint8Array.from(atob(data), (character) => character.charCodeAt(0));
  const { picture, ...row } = await window.own.predict(new File([bytes], name));
  return row;
}"""

INSPECT = """async (files) => {
  const modules = ["decode", "guard", "networks", "row"].map((name) => import(`./static/${name}.js`));
  const [{ decode }, { inspect }, { open }, { floats }] = await Promise.all(modules);
  const model = await (await fetch("model/model.json")).json();
  const { look } = await open(model, new URL("model/", document.baseURI), () => {});
  const { thresholds, centre, whitening } = model.guard;
  const guard = { thresholds, centre: floats(centre), whitening: floats(whitening) };
  const found = [];
  for (const data of files) {
    const radiograph = await decode(Uint8Array.from(atob(data), (character) => character.charCodeAt(0)));
    const { refusal, warnings, measures, radiograph: { steps } } = await inspect(radiograph, guard, look);
    found.push({ refusal: refusal && [refusal.code, refusal.message, refusal.border], warnings, measures, steps });
  }
  return found;
}"""


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory, bundled: Classifier) -> Path:
    folder = tmp_path_factory.mktemp("static") / "out"
    write_static(bundled, folder, runtime=ROOT / "node_modules" / "onnxruntime-web")
    return folder


@pytest.fixture(scope="module")
def first(folder: Path) -> str:
    """The first example of the gallery."""
    examples = json.loads((folder / "model" / "info.json").read_text())["examples"]
    return next(str(example["file"]) for example in examples if example["gallery"])


class Host:
    """A folder on an address of its own, until it is stopped."""

    def __init__(self, folder: Path) -> None:
        requests: list[str] = []

        class Handler(SimpleHTTPRequestHandler):
            def log_request(self, *_: Any) -> None:
                requests.append(self.path)

            def log_message(self, *_: Any) -> None:
                """Say nothing."""

        self.requests = requests
        self._server = ThreadingHTTPServer(("127.0.0.1", 0), partial(Handler, directory=str(folder)))
        self._thread = threading.Thread(target=self._server.serve_forever, kwargs={"poll_interval": 0.01})
        self._thread.start()
        self.url = f"http://127.0.0.1:{self._server.server_port}/"

    def stop(self) -> None:
        self._server.shutdown()
        self._thread.join()
        self._server.server_close()


@pytest.fixture(scope="module")
def host(folder: Path) -> Iterator[Host]:
    host = Host(folder)
    yield host
    host.stop()


@contextmanager
def visits(host: Host, browser: Browser) -> Iterator[Callable[..., Page]]:
    """Open the page, with an empty cache; afterwards nothing may have been asked of another origin."""
    contexts = []
    requests: list[str] = []

    def open_page(
        routes: Mapping[str, Callable[[Route], None]] | None = None,
    ) -> Page:
        context = browser.new_context(
            viewport={"width": 1366, "height": 768},
            locale="en-GB",
            # A service worker's own requests do not pass the routes.
            service_workers="block" if routes else "allow",
        )
        for pattern, handler in (routes or {}).items():
            context.route(pattern, handler)
        contexts.append(context)
        context.set_default_timeout(TIMEOUT)
        context.on("request", lambda request: requests.append(request.url))
        page = context.new_page()
        page.goto(host.url)
        expect(page.locator("#result .stage[data-zoom]")).to_be_visible(timeout=TIMEOUT)
        expect(page.locator("#download")).to_be_visible(timeout=TIMEOUT)
        return page

    yield open_page
    for context in contexts:
        context.close()
    assert [url for url in requests if not url.startswith((host.url, "data:", "blob:"))] == []


@pytest.fixture
def visit(host: Host, browser: Browser) -> Iterator[Callable[..., Page]]:
    with visits(host, browser) as visit:
        yield visit


@pytest.fixture
def page(visit: Callable[..., Page]) -> Page:
    return visit()


@pytest.fixture(scope="module")
def engine(host: Host, browser: Browser) -> Iterator[Page]:
    """A page whose model is loaded once for all tests that need nothing but its predictions."""
    with visits(host, browser) as visit:
        yield visit()


def encoded(image: Image.Image, kind: str, **options: Any) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, kind, **options)
    return buffer.getvalue()


def classify(page: Page, data: bytes, name: str = "image") -> Any:
    """The row that the page's engine makes of a file."""
    return page.evaluate(CLASSIFY, [name, base64.b64encode(data).decode()])


def agrees(classifier: Classifier, row: Any, data: bytes) -> None:
    """The row says of a file what the Python package says."""
    prediction = predict(classifier, data)
    radiograph = prediction.radiograph
    assert radiograph
    expected = {"format": radiograph.source_format, "width": radiograph.width, "height": radiograph.height}
    assert row["image"] == expected | {"steps": list(radiograph.steps)}
    for point in classifier.operating_points:
        found, there = row["points"][point], prediction.at(point).to_dict()
        assert (found["label"], found["status"]) == (there["label"], there["status"])
        for key in ("model", "operating_point", "reason", "warnings"):
            assert found[key] == there[key]
        for label, p in there["probabilities"].items():
            assert found["probabilities"][label] == pytest.approx(p, abs=0.001)  # the promise is .02
    for point in classifier.operating_points:
        label = row["points"][point]["label"]
        told, there = row["points"][point]["map"], prediction.explain(label).to_dict()
        assert told.keys() == there.keys()
        assert told["target"] == label
        for one, other in zip(told["regions"], there["regions"], strict=True):
            assert np.abs(np.subtract(one["box"], other["box"])).max() <= max(prediction.explain().size) / 64
            assert one["share"] == pytest.approx(other["share"], abs=0.02)
    for target, found in row["maps"].items():
        saliency = prediction.explain(target)
        assert (found is None) == saliency.is_empty
        if found is not None:
            assert np.corrcoef(np.ravel(found), saliency.cam.ravel())[0, 1] > 0.999  # the promise is .99
        assert row["box"] == pytest.approx(saliency.box)
        assert tuple(row["size"]) == saliency.size
        said, facts = row["map_quality"][target], saliency.to_dict()
        assert said["expected"] == pytest.approx(facts["expected_inside_lungs"], abs=0.005)  # a few cells of 1024
        assert said["inside"] == pytest.approx(facts["inside_lungs"], abs=0.01)
        if abs(facts["steadiness"] - STEADY) > 0.02 and abs(facts["peak"] - EMPTY) > 0.01:
            assert said["word"] == facts["quality"]
    lungs = prediction.lungs
    assert lungs is not None
    size = [radiograph.width, radiograph.height]
    outlines = outline(lungs, *size)
    assert [len(polygon) for polygon in row["lungs"]] == pytest.approx([len(polygon) for polygon in outlines], abs=4)
    for drawn, expected_line in zip(row["lungs"], outlines, strict=True):
        for edge in (np.min, np.max):
            np.testing.assert_allclose(edge(drawn, 0) / size, edge(expected_line, 0) / size, atol=1 / 32)


# Predictions


def test_every_example_as_original_png_and_jpeg_50_gets_the_prediction_of_the_package(
    engine: Page, bundled: Classifier
) -> None:
    for path in EXAMPLES:
        with Image.open(path) as opened:
            image = opened.convert("L")
        for data in (path.read_bytes(), encoded(image, "PNG"), encoded(image.convert("RGB"), "JPEG", quality=50)):
            agrees(bundled, classify(engine, data, path.name), data)


def test_what_a_browser_reads_in_its_own_way_is_read_as_in_the_package(engine: Page, bundled: Classifier) -> None:
    with Image.open(EXAMPLES[-1]) as opened:
        image = opened.convert("L").resize((640, 480))
    pixels = np.asarray(image).astype(np.uint16)
    hot = pixels * 16
    hot[5, 5] = 65535
    turned = Image.Exif()
    turned[ExifTags.Base.Orientation] = 6
    transparent = image.convert("RGBA")
    transparent.putalpha(Image.linear_gradient("L").resize((640, 480)).point(lambda level: 128 + level // 2))
    profile = Path("/usr/share/color/icc/ghostscript/a98.icc")
    coloured = {"icc_profile": profile.read_bytes()} if profile.exists() else {}
    for data in (
        encoded(Image.fromarray(pixels * 257), "PNG"),
        encoded(Image.fromarray(hot), "PNG"),
        encoded(image.convert("RGB"), "JPEG", exif=turned),
        encoded(image.convert("RGB"), "PNG", **coloured),
        encoded(image, "WEBP", quality=90),
        encoded(transparent, "PNG"),
    ):
        agrees(bundled, classify(engine, data), data)


def test_an_image_given_by_hand_is_shown_as_the_package_has_it(page: Page, bundled: Classifier) -> None:
    path = EXAMPLES[0]
    page.set_input_files("#files", path)
    expect(page.locator("#result .eyebrow")).to_contain_text(path.name, timeout=TIMEOUT)
    shown = json.loads(page.locator(".details pre").text_content() or "")
    expected = predict(bundled, path).to_dict()
    assert shown["label"] == expected["label"]
    assert shown["model"] == {"id": bundled.id, "revision": bundled.revision}
    assert shown["probabilities"] == pytest.approx(expected["probabilities"], abs=0.001)
    expect(page.locator("#revision")).to_contain_text(bundled.revision)


def test_what_a_browser_cannot_read_is_told_without_the_model(page: Page, tmp_path: Path) -> None:
    with Image.open(EXAMPLES[0]) as image:
        image.save(tmp_path / "study.tiff")
    (tmp_path / "study.dcm").write_bytes(bytes(128) + b"DICM" + bytes(1000))
    for name in ("study.tiff", "study.dcm"):
        page.set_input_files("#files", tmp_path / name)
        expect(page.locator("#result .eyebrow")).to_contain_text(name, timeout=TIMEOUT)
        expect(page.locator("#result .problem")).to_contain_text(EN["remedy_unsupported_here"])
    expect(page.locator("#download")).to_have_attribute("data-state", "absent")


# The guard


def poses(path: Path) -> Iterator[Image.Image]:
    """An example as it is, inverted, and turned both ways."""
    image = load_radiograph(path).to_pil()
    image.thumbnail((700, 700))
    yield image
    yield ImageOps.invert(image)
    yield image.transpose(Image.Transpose.ROTATE_90)
    yield ImageOps.invert(image).transpose(Image.Transpose.ROTATE_180)


def other_pictures() -> Iterator[Image.Image]:
    """A photograph, a page of text, and half of a radiograph."""
    yield Image.fromarray(sklearn.datasets.load_sample_image("china.jpg"))
    page = Image.new("L", (600, 800), "white")
    ImageDraw.Draw(page).multiline_text((40, 40), "\n".join(["Findings: none. Impression: none."] * 25), font_size=24)
    yield page
    with Image.open(EXAMPLES[0]) as image:
        yield image.convert("L").crop((0, 0, image.width // 2, image.height))


def test_the_guard_decides_and_measures_as_in_the_package(engine: Page, bundled: Classifier) -> None:
    assert bundled.guard
    posed = EXAMPLES[::3]
    files = [encoded(image, "PNG") for path in posed for image in poses(path)]
    files += [encoded(image, "PNG") for image in other_pictures()]
    found = engine.evaluate(INSPECT, [base64.b64encode(data).decode() for data in files])
    corrected = 0
    for data, one in zip(files, found, strict=True):
        expected = bundled.guard(load_radiograph(data))
        refusal = expected.refusal
        assert one["refusal"] == (refusal and [refusal.code, refusal.message, refusal.can_be_forced])
        assert one["warnings"] == [doubt._asdict() for doubt in expected.warnings]
        assert one["steps"] == list(expected.radiograph.steps)
        assert one["measures"] == pytest.approx(expected.measures, abs=0.01)
        corrected += bool(expected.radiograph.steps)
    assert corrected >= 3 * len(posed)


def test_a_turned_radiograph_gets_the_prediction_of_the_package(engine: Page, bundled: Classifier) -> None:
    for image in poses(EXAMPLES[3]):
        data = encoded(image, "PNG")
        agrees(bundled, classify(engine, data), data)


def test_a_photograph_is_refused_and_cannot_be_forced(engine: Page, bundled: Classifier, tmp_path: Path) -> None:
    picture = next(other_pictures())
    picture.save(tmp_path / "picture.png")
    engine.set_input_files("#files", tmp_path / "picture.png")
    expect(engine.locator("#result .eyebrow")).to_contain_text("picture.png", timeout=TIMEOUT)
    expect(engine.locator("#result .problem")).to_be_visible()
    expect(engine.get_by_role("button", name=PAGE_EN["show_anyway"])).to_have_count(0)
    expected = try_predict(bundled, tmp_path / "picture.png").to_dict()
    row = classify(engine, (tmp_path / "picture.png").read_bytes())
    assert not row["force"]
    assert row["points"][row["point"]] == expected


def test_a_border_case_is_shown_anyway(visit: Callable[..., Page], bundled: Classifier) -> None:
    """The limit for chest radiographs is raised above any image's."""

    def stricter(route: Route) -> None:
        model = route.fetch().json()
        model["guard"]["thresholds"]["chest"] = 900
        route.fulfill(json=model)

    page = visit(routes={"**/model/model.json": stricter})
    page.set_input_files("#files", EXAMPLES[0])
    expect(page.locator("#result .eyebrow")).to_contain_text(EXAMPLES[0].name, timeout=TIMEOUT)
    page.get_by_role("button", name=PAGE_EN["show_anyway"]).click()
    expect(page.locator("#result .stage[data-zoom]")).to_be_visible(timeout=TIMEOUT)
    shown = json.loads(page.locator(".details pre").text_content() or "")
    expected = predict(bundled, EXAMPLES[0]).to_dict()
    assert shown["label"] == expected["label"]
    assert shown["probabilities"] == pytest.approx(expected["probabilities"], abs=0.001)


# The download


def test_the_page_is_usable_before_the_model_and_states_its_size(
    visit: Callable[..., Page], folder: Path, host: Host
) -> None:
    host.requests.clear()
    page = visit()
    size = json.loads((folder / "model" / "info.json").read_text())["download"]
    expect(page.locator("#download")).to_contain_text(f"{size / 1e6:.0f} MB")
    expect(page.locator("#private")).to_have_text(EN["nothing_uploaded"])
    expect(page.locator("#examples button")).not_to_have_count(0)
    assert not [path for path in host.requests if path.endswith(".bin")]
    page.get_by_role("button", name=EN["download_now"]).click()
    expect(page.locator("#download")).to_have_attribute("data-state", "ready", timeout=TIMEOUT)
    assert [path for path in host.requests if path.endswith(".bin")]
    asked = {path.partition("?")[0].lstrip("/") or "index.html" for path in host.requests}
    transferred = sum((folder / path).stat().st_size for path in asked if (folder / path).is_file())
    assert size < transferred < FIRST_VISIT


def test_progress_is_shown_and_a_download_that_fails_can_be_tried_again(page: Page, first: str) -> None:
    held: list[Route] = []
    page.context.route("**/model/network-*.bin", lambda route: held.append(route))
    with page.expect_request("**/model/network-*.bin"):
        page.locator("#examples button").first.click()
    expect(page.locator("#download progress")).to_be_visible()
    expect(page.locator("#download")).to_contain_text("Downloading the model")
    held.pop().abort()
    expect(page.locator("#problem")).to_contain_text(EN["notice_model"], timeout=TIMEOUT)
    page.context.unroute("**/model/network-*.bin")
    page.locator("#problem button").click()
    expect(page.locator("#result .eyebrow")).to_contain_text(first, timeout=TIMEOUT)


def test_a_model_that_comes_damaged_is_refused(visit: Callable[..., Page]) -> None:
    page = visit()

    def damage(route: Route) -> None:
        body = route.fetch().body()
        route.fulfill(body=body[:-9] + bytes([body[-9] ^ 1]) + body[-8:])

    page.context.route("**/model/network-*.bin", damage)
    page.locator("#examples button").first.click()
    expect(page.locator("#problem")).to_contain_text(EN["notice_model"], timeout=TIMEOUT)


# Privacy and the network


def test_it_answers_again_with_the_host_gone(folder: Path, browser: Browser, bundled: Classifier, first: str) -> None:
    host = Host(folder)
    with visits(host, browser) as visit:
        page = visit()
        page.locator("#examples button").first.click()
        expect(page.locator("#result .eyebrow")).to_contain_text(first, timeout=TIMEOUT)
        page.evaluate("navigator.serviceWorker.ready")
        host.stop()
        page.reload()
        expect(page.locator("#download")).to_have_attribute("data-state", "ready", timeout=TIMEOUT)
        data = EXAMPLES[9].read_bytes()
        agrees(bundled, classify(page, data), data)
        page.goto(f"{host.url}?lang=de")
        expect(page.locator("#private")).to_have_text(TEXTS["de"]["nothing_uploaded"], timeout=TIMEOUT)
        for name, texts in TEXTS.items():
            loaded = page.evaluate("async (name) => (await fetch(`i18n/${name}.json`)).json()", name)
            assert loaded.items() >= texts.items()


def test_neither_the_page_nor_its_worker_can_reach_another_origin(page: Page, folder: Path) -> None:
    other = Host(folder)
    try:
        page.get_by_role("button", name=EN["download_now"]).click()  # starts the worker
        expect(page.locator("#download")).not_to_have_attribute("data-state", "absent")
        reach = f"fetch('{other.url}', {{mode: 'no-cors'}}).then(() => 'reached', () => 'refused')"
        assert page.evaluate(reach) == "refused"
        assert [worker.evaluate(reach) for worker in page.workers] == ["refused"]
        assert other.requests == []
    finally:
        other.stop()


# Everybody


def test_axe_finds_nothing(page: Page) -> None:
    for state in ("absent", "ready"):
        if state == "ready":
            page.get_by_role("button", name=EN["download_now"]).click()
        expect(page.locator("#download")).to_have_attribute("data-state", state, timeout=TIMEOUT)
        for width in (1366, 390):
            page.set_viewport_size({"width": width, "height": 800})
            found = Axe().run(page).response["violations"]
            assert [(rule["id"], [node["html"][:200] for node in rule["nodes"]]) for rule in found] == []
            assert page.evaluate("document.documentElement.scrollWidth") <= width
