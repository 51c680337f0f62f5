"""The report, read back by pypdf and Pillow: it says what was predicted, on one page, for images of any shape."""

import copy
import datetime
import io
import math
import tomllib
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from functools import reduce
from operator import getitem
from pathlib import Path
from typing import Any, Literal

import matplotlib
import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image
from pypdf import PageObject, PdfReader

import pneumocam
from pneumocam import DISCLAIMER, Classifier, OperatingPoint, Prediction, Radiograph, predict, predict_many
from pneumocam.report import report
from tests.conftest import EXAMPLES, blind

pytestmark = pytest.mark.slow  # each report takes a second

DATE = datetime.date(2026, 3, 9)
BACTERIAL, DOUBTFUL = EXAMPLES[8], EXAMPLES[10]
MakeBundle = Callable[..., Path]


@pytest.fixture(scope="module")
def sure(bundled: Classifier) -> Prediction:
    prediction = predict(bundled, BACTERIAL)
    assert (prediction.status, prediction.label) == ("ok", "BACTERIAL")
    return prediction


@pytest.fixture(scope="module")
def doubtful(bundled: Classifier) -> Prediction:
    prediction = predict(bundled, DOUBTFUL)
    assert (prediction.status, prediction.label) == ("uncertain", "NORMAL")
    return prediction


@pytest.fixture
def strange(make_bundle: MakeBundle) -> Classifier:
    """A tiny model of random weights, with no metrics, that sees the middle square of an image."""
    return Classifier.from_pretrained(f"local-dir:{make_bundle('test_resnet', crop_mode='center')}")


def image_of(width: int, height: int) -> Radiograph:
    """Of large soft blotches."""
    blotches = Image.fromarray(np.random.default_rng(0).integers(0, 255, (5, 5), np.uint8))
    pixels = np.asarray(blotches.resize((width, height), Image.Resampling.BILINEAR))
    return Radiograph(pixels, "array", ())


def page_of(pdf: bytes) -> PageObject:
    (page,) = PdfReader(io.BytesIO(pdf)).pages
    return page


def text_of(pdf: bytes) -> str:
    """On one line."""
    return " ".join(page_of(pdf).extract_text().split())


def pictures_of(pdf: bytes) -> list[Image.Image]:
    """Image and overlay, without the colour bar."""
    pictures = [picture.image for picture in page_of(pdf).images]
    return [picture.convert("RGB") for picture in pictures if picture and picture.height > 1]


def pixels_of(png: bytes) -> NDArray[np.uint8]:
    """`(H, W, 3)`."""
    with Image.open(io.BytesIO(png)) as picture:
        return np.asarray(picture.convert("RGB"))


def check_margins(prediction: Prediction, **options: Any) -> None:
    """All that is printed keeps clear of the paper's edges: nothing overflows."""
    pixels = pixels_of(report(prediction, format="png", date=DATE, **options))
    printed = pixels.min(2) < 250
    first_row, last_row = np.flatnonzero(printed.any(1))[[0, -1]] / printed.shape[0] * 297  # mm
    first_column, last_column = np.flatnonzero(printed.any(0))[[0, -1]] / printed.shape[1] * 210
    assert 15 < first_row < 18.5
    assert 180 < last_row < 297 - 18
    assert (first_column, last_column) == pytest.approx((18, 210 - 18), abs=0.2)


# The words


@pytest.mark.parametrize(
    ("path", "operating_point"),
    [(EXAMPLES[0], "balanced"), (EXAMPLES[5], "screening"), (EXAMPLES[8], "rule_in"), (EXAMPLES[12], "balanced")],
)
def test_the_page_says_what_was_predicted(bundled: Classifier, path: Path, operating_point: str) -> None:
    prediction = predict(bundled.at(operating_point), path)
    text = text_of(report(prediction, date=DATE))
    for name, p in prediction.probabilities.items():
        assert f"{name} {p:.1%}" in text
    assert prediction.p_pneumonia is not None
    assert text.count(f"{prediction.p_pneumonia:.1%}") >= 2
    assert text.startswith(f"PneumoCAM Report of a prediction Made on 2026-03-09 (UTC) {DISCLAIMER} ")
    point = prediction.operating_point
    assert f"Operating point: {operating_point} Called pneumonia from P(pneumonia) = {point.threshold:.1%} on" in text
    assert f"Id bundled Revision {bundled.revision} Software PneumoCAM {pneumocam.__version__}" in text
    assert "JPEG" in text
    with Image.open(path) as picture:
        assert f"Size {picture.width} × {picture.height} pixels" in text
    assert "children of one to five years" in text
    assert "Bacterial and viral are told apart less well" in text
    assert "not where disease is" in text
    assert "please see a doctor" in text


def test_a_sure_prediction_is_the_heading(sure: Prediction) -> None:
    text = text_of(report(sure))
    assert "Looks like bacterial pneumonia" in text
    assert "The model predicts BACTERIAL. Status: ok." in text
    assert "(uncertain)" not in text
    normal = text_of(report(replace(sure, label="NORMAL")))
    assert "No sign of pneumonia found" in normal
    assert "The model predicts NORMAL. Status: ok." in normal


def test_an_uncertain_prediction_is_called_so_with_its_reason(doubtful: Prediction) -> None:
    text = text_of(report(doubtful))
    assert doubtful.reason
    assert f"{DISCLAIMER} Uncertain P(pneumonia)" in text  # the heading
    assert doubtful.reason.message in text
    assert f"Grad-CAM for NORMAL, {doubtful.probabilities['NORMAL']:.1%} (uncertain)" in text
    assert "No sign of pneumonia" not in text


def test_the_uncertain_band_is_where_predictions_are_uncertain(bundled: Classifier, sure: Prediction) -> None:
    p = sure.p_pneumonia
    assert p is not None
    odds = math.log(p / (1 - p))
    point = OperatingPoint("edge", 0.5, odds)  # its band ends at this prediction
    text = text_of(report(predict(replace(bundled, operating_point=point), BACTERIAL)))
    assert f"from P(pneumonia) = 50.0% on, and uncertain between {1 - p:.1%} and {p:.1%}." in text
    assert "line: threshold; shaded: uncertain" in text
    narrow = replace(bundled, operating_point=replace(point, uncertain_log_odds=0.0))
    without = text_of(report(predict(narrow, BACTERIAL)))
    assert "Called pneumonia from P(pneumonia) = 50.0% on." in without
    assert "shaded" not in without


def test_no_probability_is_shown_as_certain(sure: Prediction) -> None:
    certain = replace(sure, probabilities={"NORMAL": 1e-9, "BACTERIAL": 1 - 2e-9, "VIRAL": 1e-9})
    text = text_of(report(certain))
    assert "NORMAL <0.1% BACTERIAL >99.9% VIRAL <0.1%" in text
    assert "100.0%" not in text.replace("100.0%]", "")  # an interval may end there
    near = replace(sure, probabilities={"NORMAL": 0.0006, "BACTERIAL": 0.9988, "VIRAL": 0.0006})
    assert "NORMAL 0.1% BACTERIAL 99.9% VIRAL 0.1%" in text_of(report(near))


def test_measured_figures_are_those_of_the_point_in_use(bundled: Classifier) -> None:
    assert bundled.metrics
    for name, row in bundled.metrics["operating_points"].items():
        text = text_of(report(predict(bundled.at(name), BACTERIAL)))
        for figure in ("sensitivity", "specificity"):
            value, low, high = (f"{row[figure][x]:.1%}" for x in ("value", "low", "high"))
            assert f"{figure.capitalize()} {value} [{low}, {high}]: share of the " in text
        measured = f"{bundled.metrics['n']} images of {bundled.metrics['patients']} patients"
        assert f"Measured on {measured} (validation, patients held out from training)" in text


def broken(metrics: Any, *keys: str, value: Any = None) -> Any:
    """A copy with one value changed."""
    metrics = copy.deepcopy(metrics)
    *path, last = keys
    reduce(getitem, path, metrics)[last] = value
    return metrics


def test_figures_that_are_missing_foreign_or_of_another_threshold_are_left_out(bundled: Classifier) -> None:
    row = ("operating_points", "balanced")
    for metrics in (
        None,
        {"operating_points": [1, 2]},
        broken(bundled.metrics, *row, "threshold", value=0.4),
        broken(bundled.metrics, *row, "sensitivity", value=0.9),
        broken(bundled.metrics, *row, "specificity", "low", value=math.nan),
        broken(bundled.metrics, *row, "specificity", "value", value=96.4),
        broken(bundled.metrics, "n", value="many"),
    ):
        text = text_of(report(predict(replace(bundled, metrics=metrics), BACTERIAL)))
        assert "Operating point: balanced Called pneumonia" in text
        assert not any(word in text for word in ("Sensitivity", "Specificity", "Measured", "nan")), metrics


def test_steps_and_format_of_the_image(bundled: Classifier) -> None:
    bundled = replace(bundled, guard=None)  # which would refuse a made image
    steps = ("VOI LUT applied", "inverted (MONOCHROME1)")
    text = text_of(report(predict(bundled, Radiograph(image_of(90, 70).pixels, "DICOM", steps))))
    assert "Format DICOM" in text
    assert "Size 90 × 70 pixels" in text
    assert "Steps VOI LUT applied; inverted (MONOCHROME1)" in text
    assert "Steps none, the pixels are as they came" in text_of(report(predict(bundled, image_of(90, 70))))


def test_a_model_without_subtypes(make_bundle: MakeBundle) -> None:
    point = {"threshold": 0.001, "uncertain_log_odds": 0.0}
    bundle = make_bundle("test_resnet", labels=("NORMAL", "PNEUMONIA"), operating_point=point)
    prediction = predict(Classifier.from_pretrained(f"local-dir:{bundle}"), image_of(90, 70))
    text = text_of(report(prediction))
    assert "Looks like pneumonia" in text
    assert "The model predicts PNEUMONIA." in text
    assert "bacterial" not in text.lower()
    assert "local-dir:bundle" in text


@pytest.mark.parametrize(
    "name", ["模型$x^2$\n_{μ±é", "a\N{NO-BREAK SPACE}b\x00\x07\udcff", "W" * 255, "long name " * 25]
)
def test_names_of_a_model_may_have_any_letters_and_length(strange: Classifier, name: str) -> None:
    point = OperatingPoint(name, 0.3, 1.0)
    commit = "0123456789abcdef0123456789abcdef01234567"
    prediction = predict(
        replace(strange, id=f"local-dir:{name}", revision=commit, operating_point=point), image_of(64, 500)
    )
    check_margins(prediction)
    text = text_of(report(prediction))
    assert f"Revision {commit} Software" in text  # in one piece, to be copied
    shown = "".join("�" if x in "模型\x00\x07\udcff" else x for x in name if not x.isspace())
    assert f"Idlocal-dir:{shown}Revision" in text.replace(" ", "")


def test_nothing_tells_whose_image_it_was(bundled: Classifier, tmp_path: Path) -> None:
    path = tmp_path / "Roentgen_Anna_22121895.jpeg"
    path.write_bytes(BACTERIAL.read_bytes())
    pdf, png = (report(predict(bundled, path), format=x, date=DATE) for x in ("pdf", "png"))
    metadata = PdfReader(io.BytesIO(pdf)).metadata
    assert metadata
    assert set(metadata) == {"/Title", "/Subject", "/Creator", "/Producer", "/CreationDate"}
    assert (metadata.title, metadata.subject) == ("PneumoCAM: report of a prediction", DISCLAIMER)
    assert metadata.creator == f"PneumoCAM {pneumocam.__version__}"
    assert metadata.creation_date == datetime.datetime(2026, 3, 9, tzinfo=datetime.UTC)
    told = pdf + png + text_of(pdf).encode()
    paths = bytes(tmp_path), bytes(Path.home()), b"/usr", b"site-pack"
    for secret in (b"Roentgen", b"Anna", b"22121895", b"jpeg", *paths):
        assert secret not in told, secret


def test_the_date_is_today_s_in_utc(sure: Prediction) -> None:
    before = datetime.datetime.now(datetime.UTC).date()
    text = text_of(report(sure))
    assert any(f"Made on {day} (UTC)" in text for day in (before, datetime.datetime.now(datetime.UTC).date()))


def test_the_version_is_the_package_s() -> None:
    project = tomllib.loads((Path(__file__).parents[2] / "pyproject.toml").read_text())["project"]
    assert pneumocam.__version__ == project["version"]


# The pictures


@pytest.mark.parametrize("target", [None, "VIRAL", "PNEUMONIA"])  # the map for NORMAL is empty
def test_the_pictures_are_the_image_and_the_overlay(sure: Prediction, target: str | None) -> None:
    pdf = report(sure, target=target)
    shown, overlay = pictures_of(pdf)
    assert sure.radiograph
    size = sure.radiograph.width, sure.radiograph.height
    assert shown.size == overlay.size
    assert shown.width / shown.height == pytest.approx(size[0] / size[1], rel=0.002)
    name = target or "BACTERIAL"
    assert f"Grad-CAM for {name}, {sure.probability(name):.1%} no weight most for any class" in text_of(pdf)
    for picture, original in (
        (shown, sure.radiograph.to_pil().convert("RGB")),
        (overlay, sure.overlay(target).crop((0, 0, *size))),
    ):
        expected = np.asarray(original.resize(picture.size, Image.Resampling.LANCZOS), int)
        assert np.abs(np.asarray(picture, int) - expected).mean() < 1  # outlined after the image was made smaller


def test_opacity_and_colour_map_are_those_asked_for(sure: Prediction) -> None:
    assert sure.radiograph
    unguarded = replace(sure.classifier, guard=None)  # with a guard, the lung fields are outlined
    shown, bare = pictures_of(report(predict(unguarded, sure.radiograph), opacity=0.0))
    np.testing.assert_array_equal(np.asarray(shown), np.asarray(bare))
    _, green = pictures_of(report(sure, opacity=1.0, colour_map="Greens_r"))
    red, green_part, blue = np.asarray(green, int).reshape(-1, 3).T
    assert (green_part >= np.maximum(red, blue)).all()
    assert (green_part > red + 20).any()


def test_an_empty_map_is_reported(sure: Prediction) -> None:
    empty = predict(blind(sure.classifier), EXAMPLES[0])
    assert empty.explain("VIRAL").is_empty
    pdf = report(empty, target="VIRAL")
    assert "Empty map: next to nothing in the image speaks for VIRAL." in text_of(pdf)
    assert "most for any class" not in text_of(pdf)
    shown, overlay = pictures_of(pdf)
    np.testing.assert_array_equal(np.asarray(shown), np.asarray(overlay))
    check_margins(empty)


@pytest.mark.parametrize(
    "size", [(64, 64), (6000, 6000), (6000, 64), (64, 6000), (700, 1000), (64, 500_000), (500_000, 64)]
)
def test_images_of_any_shape_fill_one_page(strange: Classifier, size: tuple[int, int]) -> None:
    prediction = predict(strange, image_of(*size))
    pdf = report(prediction)
    box = page_of(pdf).mediabox
    assert (float(box.width), float(box.height)) == pytest.approx((595.28, 841.89), abs=0.01)
    assert len(pdf) < 1_000_000
    assert all(max(picture.image.size) <= 1000 for picture in page_of(pdf).images if picture.image)
    assert f"Size {size[0]} × {size[1]} pixels" in text_of(pdf)
    check_margins(prediction)


@pytest.mark.parametrize("size", [(64, 64), (1000, 700), (500, 2000), (2000, 500)])
def test_images_are_drawn_upright_and_in_their_proportions(strange: Classifier, size: tuple[int, int]) -> None:
    width, height = size
    halves = np.repeat(np.array([[200], [90]], np.uint8), [height // 2] * 2, 0).repeat(width, 1)
    pixels = pixels_of(report(predict(strange, Radiograph(halves, "array", ())), opacity=0, format="png"))
    boxes = []
    for grey in (200, 90):
        found = (pixels == grey).all(2)
        for part in np.split(found, [pixels.shape[1] // 2], axis=1):  # the image, and an overlay without opacity
            rows, columns = np.flatnonzero(part.sum(1) > 20), np.flatnonzero(part.sum(0) > 20)
            assert (np.ptp(columns) + 1) / (np.ptp(rows) + 1) == pytest.approx(2 * width / height, rel=0.06)
            boxes.append((rows[0], rows[-1]))
    above, above_too, below, below_too = boxes
    assert above == above_too
    assert below == below_too
    assert above[1] < below[0]


# The file


def test_the_text_is_text_in_embedded_truetype(sure: Prediction) -> None:
    fonts = page_of(report(sure))["/Resources"]["/Font"]  # type: ignore[index]
    descendants = [font.get_object()["/DescendantFonts"][0].get_object() for font in fonts.values()]
    assert len(descendants) >= 2
    for font in descendants:
        assert font["/Subtype"] == "/CIDFontType2"
        assert "/FontFile2" in font["/FontDescriptor"].get_object()


def test_the_png_is_the_same_page_as_pixels(sure: Prediction) -> None:
    with Image.open(io.BytesIO(report(sure, format="png", date=DATE))) as picture:
        assert picture.format == "PNG"
        assert picture.size == (1653, 2338)
        assert picture.info["dpi"] == pytest.approx((200, 200), abs=0.1)
        assert picture.info["Title"] == "PneumoCAM: report of a prediction"
        assert picture.info["Description"] == DISCLAIMER
        assert set(picture.info) == {"dpi", "Title", "Description", "Software"}
    check_margins(sure)


@pytest.mark.parametrize("format", ["pdf", "png"])
def test_the_same_prediction_gives_the_same_bytes_in_any_thread_and_setting(
    sure: Prediction, doubtful: Prediction, format: Literal["pdf", "png"]
) -> None:
    once = [report(x, format=format, date=DATE) for x in (sure, doubtful)]
    assert once[0] != once[1]
    with matplotlib.rc_context(
        {"savefig.bbox": "tight", "font.size": 30, "figure.facecolor": "red", "pdf.fonttype": 3, "pdf.compression": 0}
    ):
        settings = dict(matplotlib.rcParams)
        with ThreadPoolExecutor(2) as pool:
            again = list(pool.map(lambda x: report(x, format=format, date=DATE), [sure, doubtful]))
        assert dict(matplotlib.rcParams) == settings
    assert again == once
    assert report(sure, format=format, date=DATE + datetime.timedelta(1)) != once[0]


# Errors


def test_a_rejected_image_has_nothing_to_report(bundled: Classifier) -> None:
    (rejected,) = predict_many(bundled, [b"no image"])
    with pytest.raises(ValueError, match="A rejected image has no prediction to report"):
        report(rejected)


def test_unknown_formats_and_targets_are_refused(sure: Prediction) -> None:
    with pytest.raises(ValueError, match=r"format is 'svg'; expected pdf or png\."):
        report(sure, format="svg")  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="Class to explain is 'LUNG'; this model explains NORMAL, BACTERIAL, VIRAL"):
        report(sure, target="LUNG")


def test_the_prevalence_is_stated(bundled: Classifier) -> None:
    prior = {"NORMAL": 0.5, "BACTERIAL": 0.25, "VIRAL": 0.25}
    prediction = predict(replace(bundled, prior=prior), EXAMPLES[0], prevalence=0.2)
    assert "The probabilities are for a prevalence of 20%." in text_of(report(prediction))
