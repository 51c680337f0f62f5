"""HTML with which predictions, saliency maps, radiographs and classifiers display themselves in a notebook."""

import base64
import io
from collections.abc import Mapping
from html import escape
from typing import TYPE_CHECKING

from PIL import Image

from pneumocam import DISCLAIMER
from pneumocam.overlay import blend

if TYPE_CHECKING:
    from pneumocam.classifier import Classifier
    from pneumocam.gradcam import Saliency
    from pneumocam.image import Radiograph
    from pneumocam.predict import Prediction

_SIDE = 480  # pixels of the longer side of a picture
_ROW = "display:flex;flex-wrap:wrap;gap:16px;align-items:flex-start;margin:8px 0"


def prediction_html(prediction: "Prediction") -> str:
    """Radiograph and map side by side, a bar for each class, the reason if there is one, and the disclaimer."""
    parts = []
    if prediction.radiograph and prediction.label:
        parts.append(_figure(prediction.radiograph.to_pil(), _size(prediction.radiograph)))
        saliency = prediction.explain()
        parts.append(_figure(blend(prediction.radiograph.to_pil(), saliency), _caption(saliency)))
    title = prediction.label or "No prediction"
    if prediction.status == "uncertain":
        title = f"Uncertain, leaning {title}"
    text = f"<b>{escape(title)}</b>{_bars(prediction.probabilities)}"
    if prediction.p_pneumonia is not None:
        text += f"<div>any pneumonia {prediction.p_pneumonia:.1%}</div>"
    if prediction.reason:
        text += f"<div>{escape(prediction.reason.message)}</div>"
    for step in prediction.radiograph.steps if prediction.radiograph else ():
        text += f"<div>Image: {escape(step)}</div>"
    parts.append(f'<div style="min-width:240px;max-width:420px">{text}</div>')
    return f'<div style="{_ROW}">{"".join(parts)}</div><small>{escape(DISCLAIMER)}</small>'


def saliency_html(saliency: "Saliency") -> str:
    """The map over its radiograph, or over black if the radiograph is not known."""
    image = saliency.radiograph.to_pil() if saliency.radiograph else Image.new("L", saliency.size)
    return f"{_figure(blend(image, saliency), _caption(saliency))}<small>{escape(DISCLAIMER)}</small>"


def radiograph_html(radiograph: "Radiograph") -> str:
    """The radiograph with its size, format and the steps that were applied to it."""
    return _figure(radiograph.to_pil(), "; ".join([_size(radiograph), *radiograph.steps]))


def classifier_html(classifier: "Classifier") -> str:
    """A table with the model's source, labels, input and operating points."""
    channels, height, width = classifier.preprocessing["input_size"]
    points = (f"{name} from {point.threshold:.2f}" for name, point in classifier.operating_points.items())
    rows = {
        "model": f"{classifier.id}, {classifier.revision}",
        "labels": ", ".join(classifier.label_names),
        "input": f"{width} x {height} pixels, {channels} channel{'s' * (channels > 1)}",
        "operating points": f"{', '.join(points)}; in use: {classifier.operating_point.name}",
    }
    cells = "".join(f"<tr><th>{escape(key)}</th><td>{escape(value)}</td></tr>" for key, value in rows.items())
    return f"<table>{cells}</table><small>{escape(DISCLAIMER)}</small>"


def _figure(image: Image.Image, caption: str) -> str:
    image.thumbnail((_SIDE, _SIDE), reducing_gap=3)
    buffer = io.BytesIO()
    image.save(buffer, "JPEG", quality=90)
    source = "data:image/jpeg;base64," + base64.b64encode(buffer.getvalue()).decode()
    return (
        f'<figure style="margin:0;max-width:320px"><img src="{source}" alt="{escape(caption)}" style="max-width:100%">'
        f"<figcaption>{escape(caption)}</figcaption></figure>"
    )


def _caption(saliency: "Saliency") -> str:
    return " ".join((f"Grad-CAM for {saliency.target}.", *saliency.sentences))


def _size(radiograph: "Radiograph") -> str:
    return f"{radiograph.source_format}, {radiograph.width} x {radiograph.height} pixels"


def _bars(probabilities: Mapping[str, float]) -> str:
    return "".join(
        f'<div style="display:flex;align-items:center;gap:8px"><span style="width:7em">{escape(name)}</span>'
        f'<span style="flex:1;background:rgba(128,128,128,.25)"><span style="display:block;height:.8em;'
        f'width:{p:.1%};background:#0f766e"></span></span><span style="width:4em">{p:.1%}</span></div>'
        for name, p in probabilities.items()
    )
