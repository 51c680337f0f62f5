"""One image: the first screen, the numbers, the settings, the downloads; what is shown is what Python says."""

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from playwright.sync_api import Page, Route, expect

from pneumocam import Classifier, Prediction, predict
from pneumocam.report import report
from pneumocam.service import page as served
from tests.browser.visit import (
    BACTERIAL,
    EN,
    NORMAL,
    Visit,
    adjust,
    as_json,
    classified,
    content,
    differ,
    give,
    panes,
    saved,
    shown_json,
    squashed,
)
from tests.conftest import EXAMPLES
from tests.images import dicom


def own(prediction: Prediction) -> float:
    return prediction.probability(prediction.label or "")


@pytest.mark.parametrize("language", ["en", "fr"])
def test_the_first_screen_has_prediction_bars_image_and_map(visits: Callable[..., Visit], language: str) -> None:
    page = visits(locale=language).page
    for width, height in ((1366, 768), (1440, 900)):
        page.set_viewport_size({"width": width, "height": height})
        for part in ("#answer-title", ".any", ".stage", ".captions", ".bars", ".beside"):
            box = page.locator(f"#result {part}").bounding_box()
            assert box
            assert box["y"] >= 0
            assert box["y"] + box["height"] <= height, part
    expect(page.locator(".stage")).to_have_attribute("data-panes", "2")
    expect(page.locator(".bars > div")).to_have_count(3)


def test_on_a_phone_prediction_bars_and_map_are_within_one_and_a_half_screens(visits: Callable[..., Visit]) -> None:
    page = visits(390, 844, has_touch=True, is_mobile=True, locale="fr").page  # French has the longest words
    for part in ("#answer-title", ".any", ".bars", ".stage"):
        box = page.locator(f"#result {part}").bounding_box()
        assert box
        assert box["y"] + box["height"] <= 1.5 * 844, part
    expect(page.locator(".stage.divided")).to_be_visible()
    for width in (390, 820):  # a tablet held upright has a side column too
        page.set_viewport_size({"width": width, "height": 844})
        track = page.locator(".bars .track").first.bounding_box()
        assert track
        assert track["width"] > 50


def test_the_page_begins_with_an_example_tagged_as_one(page: Page) -> None:
    expect(page.locator("#result .tag")).to_have_text(EN["example_tag"])
    expect(page.locator("#result .eyebrow")).to_contain_text(EN["truth"].format(label=EN["label_BACTERIAL"]))
    expect(page.locator("#missing")).to_have_text(EN["missing"].format(label=EN["short_VIRAL"]))
    give(page, NORMAL)
    classified(page, NORMAL.name)
    expect(page.locator("#result .tag")).to_have_count(0)


def test_each_number_has_its_own_name(page: Page, bundled: Classifier) -> None:
    give(page, BACTERIAL)
    card = classified(page, BACTERIAL.name)
    prediction = predict(bundled, BACTERIAL)
    assert prediction.p_pneumonia
    expect(card.get_by_role("heading")).to_contain_text(f"{EN['label_BACTERIAL']} {own(prediction):.0%}")
    expect(card.locator(".any")).to_have_text(f"{EN['any_pneumonia']}{prediction.p_pneumonia:.1%}")
    for name, share in prediction.probabilities.items():
        bar = card.locator(".bars > div", has_text=EN[f"label_{name}"])
        expect(bar).to_contain_text(f"{share:.1%}")
        width = bar.locator(".track span").evaluate("bar => parseFloat(bar.style.width)")
        assert width == pytest.approx(100 * share, abs=0.01)
    assert shown_json(page) == as_json(prediction)
    expect(page.get_by_role("status")).to_contain_text(f"{EN['label_BACTERIAL']} {own(prediction):.0%}")


def test_an_uncertain_prediction_says_where_it_leans_and_how_much(page: Page, bundled: Classifier) -> None:
    predictions = {path: predict(bundled, path) for path in EXAMPLES}
    path, prediction = next((x, p) for x, p in predictions.items() if p.status == "uncertain")
    give(page, path)
    card = classified(page, path.name)
    leans = EN["headline_uncertain"].format(label=EN[f"label_{prediction.label}"])
    expect(card.get_by_role("heading")).to_contain_text(f"{leans} {own(prediction):.0%}")
    expect(card.locator(".answer")).to_have_attribute("data-verdict", "uncertain")
    wrong = round(100 * (bundled.operating_point.uncertain_error or 0))
    expect(card.locator(".answer")).to_contain_text(EN["uncertain_wrong"].format(wrong=wrong))


def test_the_threshold_is_changed_without_a_request(visit: Visit, bundled: Classifier) -> None:
    page = visit.page
    give(page, NORMAL)
    card = classified(page, NORMAL.name)
    with visit.quiet():
        panel = adjust(page)
        for point in ("screening", "rule_in", "balanced"):
            panel.get_by_role("radio", name=EN[f"point_{point}"]).check()
            prediction = predict(bundled.at(point), NORMAL)
            assert shown_json(page) == as_json(prediction)
            expect(card.get_by_role("heading")).to_contain_text(EN[f"label_{prediction.label}"])
            measured = (bundled.metrics or {})["operating_points"][point]
            alarms = 100 * (1 - measured["specificity"]["value"])
            expect(panel.locator(".meaning").first).to_contain_text(f"for {alarms:.0f} of 100")


def test_the_canvas_shows_what_python_draws(visit: Visit, bundled: Classifier, tmp_path: Path) -> None:
    page = visit.page
    for path in (BACTERIAL, squashed(BACTERIAL, 900, 300, tmp_path), squashed(BACTERIAL, 300, 900, tmp_path)):
        prediction = predict(bundled, path)
        assert prediction.radiograph
        plain = prediction.radiograph.to_pil()
        give(page, path)
        classified(page, path.name)
        expect(page.locator(".stage")).to_have_css("--aspect", f"{plain.width / plain.height}".removesuffix(".0"))
        panel = adjust(page)
        with visit.quiet():
            for target, opacity, colour_map in (("PNEUMONIA", 0.6, "inferno"), ("BACTERIAL", 0.9, "turbo")):
                panel.get_by_label(EN["target"]).select_option(target)
                panel.get_by_label(EN["colours"]).select_option(colour_map)
                panel.get_by_label(EN["opacity"]).fill(str(round(100 * opacity)))
                left, right = panes(page)
                expected = prediction.overlay(target, opacity=opacity, colour_map=colour_map).crop((0, 0, *plain.size))
                assert differ(left, plain) < 2.5  # a browser makes images smaller in its own way
                assert differ(right, expected) < 2.5
                assert differ(right, plain) > 4


def test_the_map_of_a_class_without_support_is_empty(page: Page, bundled: Classifier) -> None:
    give(page, BACTERIAL)
    classified(page, BACTERIAL.name)
    legend = page.locator(".captions .caption").last
    saliency = predict(bundled, BACTERIAL).explain()
    shares = {"inside": f"{saliency.inside:.0%}", "expected": f"{saliency.expected_inside:.0%}"}
    expect(legend).to_contain_text(EN[f"quality_{saliency.quality}"])
    expect(legend).to_contain_text(EN["map_inside"].format(**shares))
    panel = adjust(page)
    expect(panel).to_contain_text(EN["legend_peak"])
    panel.get_by_label(EN["target"]).select_option("NORMAL")
    expect(legend).to_contain_text(EN["map_empty"].format(label=EN["label_NORMAL"]))


def test_corrections_are_shown_beside_the_image(page: Page, tmp_path: Path) -> None:
    with Image.open(EXAMPLES[4]) as image:  # which has no border
        pixels = np.asarray(image.convert("L"))
    Image.fromarray(pixels.astype(np.uint16) * 257).save(tmp_path / "sixteen.png")
    give(page, tmp_path / "sixteen.png")
    classified(page, "sixteen.png")
    expect(page.locator(".captions")).to_contain_text("16 bit scaled to 8 bit")
    page.get_by_text(EN["image"], exact=True).click()
    facts = page.locator(".details details").first
    expect(facts).to_contain_text(f"{pixels.shape[1]} × {pixels.shape[0]} pixels")
    expect(facts).to_contain_text("16 bit scaled to 8 bit")


def test_nothing_of_a_dicoms_patient_is_on_the_page(page: Page, tmp_path: Path) -> None:
    with Image.open(NORMAL) as image:
        dataset = dicom(np.asarray(image.convert("L")), PatientName="Castorp^Hans", PatientID="4711-34")
    dataset.save_as(tmp_path / "image.dcm", enforce_file_format=True)
    give(page, tmp_path / "image.dcm")
    classified(page, "image.dcm")
    for summary in page.locator(".details summary").all():
        summary.click()
    expect(page.locator(".details")).to_contain_text("DICOM")
    shown = page.content()
    assert "Castorp" not in shown
    assert "4711-34" not in shown


def test_a_bad_file_is_told_in_words_and_the_page_goes_on(page: Page, tmp_path: Path) -> None:
    name = "<img src=x onerror=alert(1)>.jpeg"
    (tmp_path / name).write_text("Dear radiologist, " * 40)
    give(page, tmp_path / name)
    card = classified(page, "onerror")  # as text, as it is named
    expect(card.get_by_role("heading")).to_contain_text(EN["headline_rejected"])
    expect(card.locator(".problem")).to_contain_text(EN["reason_not_an_image"] + EN["remedy_not_an_image"])
    expect(page.locator(".stage")).to_be_hidden()
    assert page.locator("#result img").count() == 0
    give(page, NORMAL)
    classified(page, NORMAL.name)
    expect(page.locator(".stage")).to_be_visible()


def test_a_file_that_is_too_large_is_not_even_sent(visit: Visit, tmp_path: Path) -> None:
    with (tmp_path / "large.jpeg").open("wb") as file:
        file.truncate(25_000_000)
    with visit.quiet():
        give(visit.page, tmp_path / "large.jpeg")
        expect(classified(visit.page, "large.jpeg")).to_contain_text(EN["reason_too_large"])


def test_the_report_is_of_what_is_shown(page: Page, bundled: Classifier) -> None:
    give(page, NORMAL)
    classified(page, NORMAL.name)
    panel = adjust(page)
    panel.get_by_role("radio", name=EN["point_screening"]).check()
    panel.get_by_label(EN["target"]).select_option("VIRAL")
    panel.get_by_label(EN["colours"]).select_option("cividis")
    panel.get_by_label(EN["opacity"]).fill("30")
    prediction = predict(bundled.at("screening"), NORMAL)
    for kind in ("pdf", "png"):
        download = saved(page, f"report_{kind}")
        assert NORMAL.stem in download.suggested_filename
        assert download.suggested_filename.endswith(f".{kind}")
        expected = report(prediction, target="VIRAL", opacity=0.3, colour_map="cividis", format=kind)
        assert content(download) == expected


def test_an_example_has_its_report_too_and_it_is_not_asked_for_twice(visit: Visit) -> None:
    page = visit.page
    held: list[Route] = []
    page.route("**/page/report*", lambda route: held.append(route))
    pdf = page.get_by_role("button", name=EN["report_pdf"])
    png = page.get_by_role("button", name=EN["report_png"])
    with page.expect_request("**/page/report*"):
        pdf.click()
    expect(page.get_by_role("button", name=EN["making"])).to_be_visible()
    png.click(force=True)
    with page.expect_download() as download:
        held[0].continue_()
    assert "bacteria" in download.value.suggested_filename
    assert download.value.suggested_filename.endswith(".pdf")
    assert content(download.value).startswith(b"%PDF")
    expect(pdf).to_be_visible()
    assert len(held) == 1


def test_the_json_can_be_saved_and_copied_even_without_a_clipboard(page: Page, bundled: Classifier) -> None:
    page.evaluate("Object.defineProperty(navigator, 'clipboard', {value: undefined})")
    page.evaluate("document.addEventListener('copy', () => window.copied = getSelection().toString())")
    give(page, NORMAL)
    classified(page, NORMAL.name)
    page.get_by_text(EN["json"], exact=True).click()
    page.get_by_role("button", name=EN["json_copy"], exact=True).click()
    expect(page.get_by_role("button", name=EN["json_copied"], exact=True)).to_be_visible()
    assert json.loads(page.evaluate("window.copied")) == as_json(predict(bundled, NORMAL))
    download = saved(page, "json_save")
    assert download.suggested_filename == f"{NORMAL.stem}.json"
    assert json.loads(content(download)) == as_json(predict(bundled, NORMAL))


def test_a_model_of_two_classes_without_figures_is_shown_as_what_it_is(
    visit: Visit, make_bundle: Callable[..., Path], tmp_path: Path
) -> None:
    """As a server with that model would answer."""
    bundle = make_bundle("test_resnet", labels=("NORMAL", "PNEUMONIA"), crop_mode="border", crop_pct=0.9)
    path = squashed(BACTERIAL, 500, 300, tmp_path)
    classifier = Classifier.from_pretrained(f"local-dir:{bundle}")
    prediction = predict(classifier, path)
    info = served.facts(classifier, None, 32, 20_000_000) | {"examples": []}
    page = visit.page
    page.route("**/page/info", lambda route: route.fulfill(json=info))
    page.route("**/page/predict", lambda route: route.fulfill(json=served.row_of(prediction, path.name)))
    page.reload()
    expect(page.locator("#drop")).to_contain_text(EN["drop_title"])
    give(page, path)
    card = classified(page, path.name)
    expect(page.locator(".stage[data-zoom]")).to_be_visible()
    assert shown_json(page) == as_json(prediction)
    expect(card.locator(".bars > div")).to_have_count(2)
    expect(card.locator(".any")).to_have_count(0)  # it would be the same number twice
    panel = adjust(page)
    expect(panel.get_by_role("radio")).to_have_count(0)  # one operating point is no choice
    panel.get_by_label(EN["target"]).select_option("PNEUMONIA")
    assert differ(panes(page)[-1], prediction.overlay("PNEUMONIA").crop((0, 0, 500, 300))) < 1


def test_another_prevalence_changes_every_number_without_a_request(visit: Visit, bundled: Classifier) -> None:
    """The model states no prevalence here, so the server's answers are made to."""
    page = visit.page
    page.route("**/page/info", lambda route: route.fulfill(json=route.fetch().json() | {"prevalence": 0.5}))
    page.reload()
    expect(page.locator("#result .stage[data-zoom]")).to_be_visible()
    give(page, BACTERIAL)
    card = classified(page, BACTERIAL.name)
    p = predict(bundled, BACTERIAL).probabilities
    with visit.quiet():
        slider = adjust(page).get_by_role("slider", name=EN["prevalence"])
        expect(slider).to_have_value("50")
        slider.fill("2")
        odds = (p["BACTERIAL"] + p["VIRAL"]) / p["NORMAL"] * 0.02 / 0.98
        ill = odds / (1 + odds)
        bacterial = ill * p["BACTERIAL"] / (p["BACTERIAL"] + p["VIRAL"])
        expect(card.locator(".any")).to_contain_text(f"{ill:.1%}")
        expect(card.locator(".bars")).to_contain_text(f"{bacterial:.1%}")
        shown = shown_json(page)
        assert shown["prevalence"] == 0.02
        assert shown["probabilities"]["BACTERIAL"] == pytest.approx(bacterial)
        page.get_by_role("button", name=EN["prevalence_reset"].format(p="50%")).click()
        assert shown_json(page) == as_json(predict(bundled, BACTERIAL))


def test_a_doubt_about_the_image_is_told_beside_its_prediction(visit: Visit) -> None:
    """As the server tells it of a view from the side."""
    page = visit.page

    def doubt(route: Route) -> None:
        row = route.fetch().json()
        for prediction in row["points"].values():
            reason = {"code": "lateral_view", "message": "From the side."}
            prediction.update(status="uncertain", reason=reason, warnings=[reason])
        route.fulfill(json=row)

    page.route("**/page/predict", doubt)
    give(page, BACTERIAL)
    card = classified(page, BACTERIAL.name)
    expect(card.locator(".answer")).to_contain_text(f"{EN['reason_lateral_view']}. {EN['remedy_lateral_view']}")
