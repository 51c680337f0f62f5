"""Many images: the table, its order, its files, and the way from image to image."""

import csv
import io
import json
import zipfile
from pathlib import Path

import numpy as np
from PIL import Image
from playwright.sync_api import Page, Route, expect

from pneumocam import Classifier, predict
from pneumocam.score import COLUMNS, table_row
from tests.browser.visit import (
    EN,
    Visit,
    as_json,
    classified,
    content,
    drawn_frame,
    finished,
    give,
    names,
    saved,
    shown_json,
)
from tests.conftest import EXAMPLES


def test_many_images_become_a_table_to_sort_open_and_download(
    visit: Visit, bundled: Classifier, tmp_path: Path
) -> None:
    page = visit.page
    bad = tmp_path / "=1+1.txt"
    bad.write_text("no image " * 20)
    images = [EXAMPLES[0], bad, EXAMPLES[8], EXAMPLES[6]]
    give(page, *images)
    finished(page, 3, 4)
    assert names(page) == [path.name for path in images]
    expect(page.locator("#compare tr", has_text=bad.name)).to_contain_text(EN["reason_not_an_image"])
    predictions = {path.name: predict(bundled, path) for path in images if path != bad}

    with visit.quiet():
        header = page.locator("th[data-key=p_PNEUMONIA]")
        by_share = sorted(predictions, key=lambda name: predictions[name].p_pneumonia or 0)
        for order, expected in (("descending", by_share[::-1]), ("ascending", by_share)):
            header.get_by_role("button").click()
            expect(header).to_have_attribute("aria-sort", order)
            assert names(page) == [*expected, bad.name]  # what has no number stays at the end
        page.locator("th[data-key=name]").get_by_role("button").click()
        assert names(page)[-2:] == [EXAMPLES[6].name, EXAMPLES[8].name]
        page.locator("#compare select").select_option("screening")
        for name in predictions:
            shown = predict(bundled.at("screening"), EXAMPLES[0].with_name(name))
            row = page.locator("#compare tbody tr", has_text=name)
            kind = {"uncertain": "uncertain"}.get(shown.status, "normal" if shown.label == "NORMAL" else "pneumonia")
            expect(row).to_have_attribute("data-verdict", kind)
            expect(row).to_contain_text(f"{shown.p_pneumonia:.1%}")

    page.get_by_role("button", name=EN["open"].format(name=EXAMPLES[8].name)).click()
    classified(page, EXAMPLES[8].name)
    assert shown_json(page) == as_json(predict(bundled.at("screening"), EXAMPLES[8]))
    page.get_by_role("button", name=EN["back"]).click()
    expect(page.locator(f"#compare button[aria-label*='{EXAMPLES[8].name}']")).to_be_focused()

    with visit.quiet():
        table = list(csv.DictReader(io.StringIO(content(saved(page, "save_csv")).decode())))
    assert list(table[0]) == list(COLUMNS)
    assert table[1]["path"] == f"'{bad.name}"  # no formula
    for i in (0, 2, 3):
        prediction = predict(bundled.at("screening"), images[i])
        assert table[i] == {k: str(v) for k, v in table_row(images[i].name, prediction.to_dict()).items()}

    with zipfile.ZipFile(io.BytesIO(content(saved(page, "save_zip")))) as archive:
        assert list(csv.DictReader(io.TextIOWrapper(archive.open("scores.csv"), "utf-8"))) == table
        assert [name for name in archive.namelist() if name.startswith("overlays/")] == [
            f"overlays/{images[i].name}.overlay.png" for i in (0, 2, 3)
        ]
        prediction = predict(bundled.at("screening"), images[2])
        found = json.loads(archive.read(f"predictions/{images[2].name}.json"))
        assert found == {"path": images[2].name, **as_json(prediction)}
        with Image.open(archive.open(f"overlays/{images[2].name}.overlay.png")) as overlay:
            np.testing.assert_array_equal(np.asarray(overlay), np.asarray(prediction.overlay()))

    page.get_by_role("button", name=EN["clear"], exact=True).click()
    expect(page.locator("#compare")).to_be_hidden()
    expect(page.locator("#files")).to_be_focused()


def test_verdicts_differ_in_more_than_colour(page: Page, tmp_path: Path) -> None:
    (tmp_path / "notes.txt").write_text("no image " * 20)
    give(page, *EXAMPLES, tmp_path / "notes.txt")
    finished(page, 16, 17)
    looks = {}
    for kind in ("pneumonia", "normal", "uncertain", "rejected"):
        row = page.locator(f"#compare tbody tr[data-verdict={kind}]").first
        chip = row.locator(".chip")
        style = chip.evaluate("chip => [getComputedStyle(chip).borderStyle, getComputedStyle(chip).backgroundColor]")
        looks[kind] = (chip.locator("span").inner_text(), *style)
        expect(page.locator(f".counts .chip[data-verdict={kind}]")).to_contain_text(EN[f"verdict_{kind}"])
    assert len({shape for shape, *_ in looks.values()}) == 4
    assert len({(border, ground) for _, border, ground in looks.values()}) == 4


def test_no_name_is_broken_inside_a_word(page: Page) -> None:
    give(page, *EXAMPLES[8:12])
    finished(page, 4, 4)
    for width in (1366, 390):
        page.set_viewport_size({"width": width, "height": 844})
        broken = page.locator("#compare .file button").evaluate_all("""(buttons) => buttons.flatMap((button) =>
            [...button.childNodes].filter((node) => node.nodeType === Node.TEXT_NODE).flatMap((node) => {
              const range = document.createRange();
              range.selectNodeContents(node);
              return range.getClientRects().length > 1 ? [node.textContent] : [];
            }))""")
        assert broken == []


def test_arrows_and_page_keys_go_from_image_to_image_and_back_leads_to_the_table(visit: Visit) -> None:
    page = visit.page
    give(page, *EXAMPLES[:4])
    finished(page, 4, 4)
    with visit.quiet():
        page.get_by_role("button", name=EN["open"].format(name=EXAMPLES[1].name)).click()
        classified(page, EXAMPLES[1].name)
        keys = {"PageDown": 2, "ArrowRight": 3, "PageUp": 2, "Home": 0, "End": 3, "ArrowLeft": 2}
        for key, index in keys.items():
            page.keyboard.press(key)
            classified(page, EXAMPLES[index].name)
            position = EN["position"].format(position=index + 1, total=4)
            expect(page.locator("nav.steps")).to_contain_text(position)
        page.get_by_role("button", name=EN["next"]).click()
        classified(page, EXAMPLES[3].name)
        expect(page.get_by_role("button", name=EN["next"])).to_be_disabled()
        page.get_by_role("button", name=EN["back"]).click()
        expect(page.locator("#compare")).to_be_visible()
        expect(page.locator("#result")).to_be_hidden()
        page.locator("th[data-key=p_PNEUMONIA]").get_by_role("button").click()
        order = names(page)
        assert order != [path.name for path in EXAMPLES[:4]]
        page.locator("#compare button.name").first.click()
        classified(page, order[0])
        page.keyboard.press("PageDown")
        classified(page, order[1])


def test_reports_of_many_images_have_names_of_their_own(page: Page) -> None:
    give(page, *EXAMPLES[:2])
    finished(page, 2, 2)
    page.locator("#compare button.name").first.click()
    found = set()
    for path in EXAMPLES[:2]:
        classified(page, path.name)
        found.add(saved(page, "report_png").suggested_filename)
        page.locator(".stage").focus()
        page.keyboard.press("PageDown")
    assert len(found) == 2


def test_a_thirty_third_file_is_left_out_and_the_page_says_so(page: Page, tmp_path: Path) -> None:
    for i in range(33):
        (tmp_path / f"{i:02}.txt").write_text("no image " * 20)
    give(page, *sorted(tmp_path.glob("*.txt")))
    finished(page, 0, 32)
    expect(page.get_by_role("alert")).to_contain_text(EN["left_out"].format(most=32))
    assert names(page) == [f"{i:02}.txt" for i in range(32)]


def test_an_image_can_be_opened_while_others_are_classified(page: Page) -> None:
    held: list[Route] = []
    page.route("**/page/predict", lambda route: held.append(route) if len(held) < 1 else route.continue_())
    give(page, *EXAMPLES[:6])
    expect(page.locator("#compare tbody button.name")).to_have_count(5)
    page.locator("#compare button.name").first.click()
    shown = page.locator("#result .eyebrow").inner_text()
    held[0].continue_()
    expect(page.locator("#results")).to_have_attribute("aria-busy", "false")
    assert page.locator("#result .eyebrow").inner_text() == shown
    page.get_by_role("button", name=EN["back"]).click()
    finished(page, 6, 6)


def test_what_is_cleared_while_it_is_classified_stays_away(page: Page) -> None:
    held: list[Route] = []
    page.route("**/page/predict", lambda route: held.append(route) if len(held) < 1 else route.continue_())
    give(page, *EXAMPLES[:4])
    expect(page.locator("#compare tbody button.name")).to_have_count(3)
    page.get_by_role("button", name=EN["clear"], exact=True).click()
    drawn_frame(page)
    expect(page.locator("#compare")).to_be_hidden()
    page.unroute_all(behavior="ignoreErrors")
    give(page, *EXAMPLES[:2])
    finished(page, 2, 2)
