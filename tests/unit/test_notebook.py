"""How the public objects display themselves: short reprs, and HTML with pictures, bars and the disclaimer."""

import base64
import io
import re
from dataclasses import replace

import numpy as np
import pytest
from PIL import Image

from pneumocam import DISCLAIMER, Classifier, Prediction, load_radiograph, predict, predict_many
from tests.conftest import EXAMPLES


@pytest.fixture(scope="module")
def prediction(bundled: Classifier) -> Prediction:
    return predict(bundled, next(path for path in EXAMPLES if "bacteria_4874" in path.name))


def pictures(html: str) -> list[Image.Image]:
    found = re.findall(r"data:image/jpeg;base64,([\w+/=]+)", html)
    return [Image.open(io.BytesIO(base64.b64decode(data))) for data in found]


def test_a_prediction_shows_radiograph_map_bars_and_disclaimer(prediction: Prediction) -> None:
    html = prediction._repr_html_()
    radiograph, overlay = pictures(html)
    assert radiograph.mode == "L"
    assert overlay.mode == "RGB"
    assert radiograph.size == overlay.size
    assert max(radiograph.size) == 480
    for name, p in prediction.probabilities.items():
        assert f"{name}</span>" in html
        assert f"width:{p:.1%};" in html
    assert f"any pneumonia {prediction.p_pneumonia:.1%}" in html
    assert DISCLAIMER in html


def test_a_rejected_prediction_shows_its_reason_without_a_picture(bundled: Classifier) -> None:
    (rejected,) = predict_many(bundled, [b"<b>no image</b>"])
    html = rejected._repr_html_()
    assert pictures(html) == []
    assert rejected.reason
    assert rejected.reason.message in html
    assert "No prediction" in html
    assert "rejected, not_an_image" in repr(rejected)


def test_a_map_is_shown_over_its_radiograph(prediction: Prediction) -> None:
    saliency = prediction.explain("VIRAL")
    (over,) = pictures(saliency._repr_html_())
    (alone,) = pictures(replace(saliency, radiograph=None)._repr_html_())
    assert np.asarray(over).mean() > np.asarray(alone).mean() + 20
    empty = replace(saliency, cam=np.zeros_like(saliency.cam))
    assert "next to nothing in the image speaks for VIRAL" in empty._repr_html_()


def test_a_radiograph_and_a_classifier_show_what_they_are(bundled: Classifier) -> None:
    deep = load_radiograph(np.linspace(0, 4095, 128 * 96).reshape(96, 128).astype(np.uint16))
    html = deep._repr_html_()
    assert len(pictures(html)) == 1
    assert "128 x 96 pixels" in html
    assert deep.steps
    assert all(step in html for step in deep.steps)
    table = bundled._repr_html_()
    assert all(name in table for name in (*bundled.label_names, *bundled.operating_points, bundled.revision))


def test_reprs_fit_on_a_line_or_two(bundled: Classifier, prediction: Prediction) -> None:
    assert prediction.radiograph
    shown = [repr(x) for x in (bundled, prediction, prediction.radiograph, prediction.explain())]
    assert [text.partition("(")[0] for text in shown] == ["Classifier", "Prediction", "Radiograph", "Saliency"]
    assert max(map(len, shown)) < 160
