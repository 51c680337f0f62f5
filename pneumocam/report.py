"""A Prediction -> a one-page report as PDF or PNG: label, image and overlay, figures and limits."""

import datetime
import io
import math
import textwrap
import threading
from functools import lru_cache
from pathlib import Path
from typing import Any, Literal

import matplotlib
import matplotlib.style
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.font_manager import FontProperties, get_font
from matplotlib.ft2font import LoadFlags
from matplotlib.patches import Rectangle
from PIL import Image

from pneumocam import DISCLAIMER, __version__
from pneumocam.classifier import OperatingPoint
from pneumocam.gradcam import Saliency
from pneumocam.image import Radiograph
from pneumocam.overlay import COLOUR_MAP, blend
from pneumocam.predict import Prediction

# All lengths on the page are in mm, from its upper left corner.
WIDTH, HEIGHT, MARGIN, GUTTER = 210.0, 297.0, 18.0, 8.0
INNER = WIDTH - 2 * MARGIN
COLUMN = (INNER - GUTTER) / 2
RIGHT = MARGIN + COLUMN + GUTTER
INCH, POINT = 25.4, 25.4 / 72
GAP = 5.0  # between the parts of the foot
CAPTION = 16.0  # below the pictures
LOWEST_MAT = 50.0  # mm, even for a very wide image
BAR, BAR_WIDTH = MARGIN + 26, COLUMN - 42
DPI = 200  # of the pictures in both formats

INK, GREY, SLATE, RULE, MAT = "#1f2933", "#5b6770", "#94a1ab", "#d3d9de", "#eef1f3"
TEAL, AMBER, STRAW, SAND = "#0f766e", "#b45309", "#f5dcb0", "#fdf2e0"
_FONTS = Path(matplotlib.get_data_path(), "fonts", "ttf")  # the same on every machine
_REGULAR, _BOLD = _FONTS / "DejaVuSans.ttf", _FONTS / "DejaVuSans-Bold.ttf"

# Matplotlib's settings belong to the process, not to the thread; whatever they are there, the page is to look the same.
_PROCESS_SETTINGS = threading.Lock()
_SETTINGS: dict[str, Any] = {"pdf.fonttype": 42, "image.composite_image": False, "text.hinting": "none"}


def report(
    prediction: Prediction,
    *,
    target: str | None = None,
    opacity: float = 0.6,
    colour_map: str = COLOUR_MAP,
    format: Literal["pdf", "png"] = "pdf",
    date: datetime.date | None = None,
) -> bytes:
    """One upright A4 page about one prediction; without anything about the patient, not even the file's name.

    Safe to call from several threads. The same prediction and date give the same bytes.

    Args:
        prediction: of a radiograph that was not rejected.
        target: as in `Prediction.explain`.
        opacity: of the map's peak, in [0, 1].
        colour_map: any of Matplotlib's.
        format: `pdf`, its text as text; or `png`, 200 pixels an inch.
        date: of the report; by default today in UTC.

    Raises:
        ValueError: the prediction was rejected, the target is unknown, or the format is.
    """
    if format not in ("pdf", "png"):
        raise ValueError(f"format is {format!r}; expected pdf or png.")
    if prediction.radiograph is None:
        raise ValueError("A rejected image has no prediction to report.")
    date = date or datetime.datetime.now(datetime.UTC).date()
    saliency = prediction.explain(target)
    with _PROCESS_SETTINGS, matplotlib.style.context(["default", _SETTINGS]):
        figure = Figure((WIDTH / INCH, HEIGHT / INCH))
        head, middle, foot = (_layer(figure) for _ in range(3))
        top = _draw_label(head, prediction, date)
        room = HEIGHT - MARGIN - top - _draw_facts(foot, prediction)  # of the pictures: what the words leave
        bottom = _draw_pictures(middle, prediction, saliency, top, room, opacity, colour_map)
        foot.set_ylim(HEIGHT - bottom, -bottom)
        return _saved(figure, format, date)


def _saved(figure: Figure, format: str, date: datetime.date) -> bytes:
    software = f"PneumoCAM {__version__}"
    metadata: dict[str, Any] = {"Title": "PneumoCAM: report of a prediction"}
    if format == "pdf":
        midnight = datetime.datetime.combine(date, datetime.time(), datetime.UTC)
        metadata |= {"Subject": DISCLAIMER, "Creator": software, "CreationDate": midnight}
    else:
        metadata |= {"Description": DISCLAIMER, "Software": software}
    file = io.BytesIO()
    figure.savefig(file, format=format, dpi=DPI, metadata=metadata)
    return file.getvalue()


def _draw_label(axes: Axes, prediction: Prediction, date: datetime.date) -> float:
    """Title, disclaimer and label; returns where they end."""
    doubt = prediction.status == "uncertain"
    _write(axes, "PneumoCAM", MARGIN, 16, 19, bold=True, colour=TEAL)
    _write(axes, "Report of a prediction", MARGIN, 24.5, colour=GREY)
    _write(axes, f"Made on {date.isoformat()} (UTC)", WIDTH - MARGIN, 24.5, colour=GREY, align="right")
    _fill(axes, MARGIN, 32, INNER, 10, SAND)
    _fill(axes, MARGIN, 32, 1.2, 10, AMBER)
    _write(axes, DISCLAIMER, MARGIN + 5, 34.8, 11.5, bold=True, width=INNER)

    _write(axes, _heading(prediction), MARGIN, 51, 17, bold=True, colour=AMBER if doubt else INK, width=INNER)
    _write(axes, "P(pneumonia)", WIDTH - MARGIN, 46, colour=GREY, align="right")
    _write(axes, _percent(prediction.probability("PNEUMONIA")), WIDTH - MARGIN, 50.3, 19, bold=True, align="right")
    return _write(axes, _sentence(prediction), MARGIN, 60.5, 9, width=0.8 * INNER) + 4


def _heading(prediction: Prediction) -> str:
    if prediction.status == "uncertain":
        return "Uncertain"
    kinds = {"NORMAL": "No sign of pneumonia found", "PNEUMONIA": "Looks like pneumonia"}
    return kinds.get(str(prediction.label), f"Looks like {str(prediction.label).lower()} pneumonia")


def _sentence(prediction: Prediction) -> str:
    if prediction.reason:
        return prediction.reason.message
    return f"The model predicts {prediction.label}. Status: {prediction.status}."


def _draw_pictures(
    axes: Axes,
    prediction: Prediction,
    saliency: Saliency,
    top: float,
    room: float,
    opacity: float,
    colour_map: str,
) -> float:
    """Image and overlay side by side, each on a mat of the same size; returns where they end."""
    radiograph = prediction.radiograph
    assert radiograph
    caption = CAPTION + GAP
    height = min(room - caption, max(LOWEST_MAT, COLUMN * radiograph.height / radiograph.width))
    scale = min(COLUMN / radiograph.width, height / radiograph.height)  # mm a pixel
    size = scale * radiograph.width, scale * radiograph.height
    for picture, left in zip(_pictures(radiograph, saliency, size, opacity, colour_map), (MARGIN, RIGHT), strict=True):
        _fill(axes, left, top, COLUMN, height, MAT)
        _place(axes, picture, left + (COLUMN - size[0]) / 2, top + (height - size[1]) / 2, *size)
    _draw_captions(axes, prediction, saliency, top + height + 1.5, colour_map)
    return top + height + caption


def _pictures(
    radiograph: Radiograph, saliency: Saliency, size: tuple[float, float], opacity: float, colour_map: str
) -> tuple[np.ndarray, np.ndarray]:
    """Image and overlay, each `(h, w, 3)` uint8 with the pixels that `size` in mm has at DPI."""
    width, height = (max(1, round(x / INCH * DPI)) for x in size)
    image = radiograph.to_pil().resize((width, height), Image.Resampling.LANCZOS, reducing_gap=3)
    blended = blend(image, saliency.resized(width, height), opacity=opacity, colour_map=colour_map)
    return np.asarray(image.convert("RGB")), np.asarray(blended)


def _draw_captions(axes: Axes, prediction: Prediction, saliency: Saliency, y: float, colour_map: str) -> None:
    _write(axes, "The image as uploaded", MARGIN, y, bold=True)
    doubt = " (uncertain)" if prediction.status == "uncertain" else ""
    probability = _percent(prediction.probability(saliency.target))
    _write(axes, f"Grad-CAM for {saliency.target}, {probability}{doubt}", RIGHT, y, bold=True)
    if saliency.is_empty:
        _write(axes, saliency.sentences[0], RIGHT, y + 4.6, 7.5, colour=AMBER)
        return
    ramp = matplotlib.colormaps[colour_map](np.linspace(0, 1, 256))[None, :, :3]  # (1, 256, 3)
    _write(axes, "no weight", RIGHT, y + 4.6, 7.5, colour=GREY)
    _place(axes, ramp, RIGHT + 16, y + 5.1, COLUMN - 45, 2.4)
    _write(axes, "most for any class", RIGHT + COLUMN, y + 4.6, 7.5, colour=GREY, align="right")
    colour = GREY if saliency.quality == "steady" else AMBER
    _write(axes, " ".join(saliency.sentences), RIGHT, y + 8.8, 7.5, colour=colour)


def _draw_facts(axes: Axes, prediction: Prediction) -> float:
    """Figures, image, model and limits, from 0 downwards; returns where they end."""
    radiograph, point = prediction.radiograph, prediction.operating_point
    assert radiograph
    left = _title(axes, "Probabilities", MARGIN, 0)
    for name, probability in prediction.probabilities.items():
        left = _draw_bar(axes, prediction, name, probability, left)
    left = _draw_scale(axes, prediction, left)
    right = _title(axes, f"Operating point: {textwrap.shorten(point.name, 30, placeholder='…')}", RIGHT, 0)
    for line in (_meaning(prediction), *_measured(prediction)):
        right = _write(axes, line, RIGHT, right) + 0.8

    y = max(left, right) + GAP
    left = _title(axes, "Image", MARGIN, y)
    left = _draw_fact(axes, "Format", radiograph.source_format, MARGIN, left)
    left = _draw_fact(axes, "Size", f"{radiograph.width} × {radiograph.height} pixels", MARGIN, left)
    steps = "; ".join(radiograph.steps) or "none, the pixels are as they came"
    left = _draw_fact(axes, "Steps", steps, MARGIN, left)
    right = _title(axes, "Model", RIGHT, y)
    right = _draw_fact(axes, "Id", prediction.classifier.id, RIGHT, right)
    right = _draw_fact(axes, "Revision", prediction.classifier.revision, RIGHT, right)
    right = _draw_fact(axes, "Software", f"PneumoCAM {__version__}", RIGHT, right)

    y = _title(axes, "Limits", MARGIN, max(left, right) + GAP, INNER)
    return _write(axes, _limits(prediction), MARGIN, y, colour=GREY, width=INNER)


def _draw_bar(axes: Axes, prediction: Prediction, name: str, probability: float, y: float) -> float:
    predicted = name == prediction.label
    accent = AMBER if prediction.status == "uncertain" else TEAL
    _write(axes, name, MARGIN, y, bold=predicted)
    _fill(axes, BAR, y + 0.5, BAR_WIDTH, 3, MAT)
    _fill(axes, BAR, y + 0.5, probability * BAR_WIDTH, 3, accent if predicted else SLATE)
    _write(axes, _percent(probability), MARGIN + COLUMN, y, bold=predicted, align="right")
    return y + 5.8


def _draw_scale(axes: Axes, prediction: Prediction, y: float) -> float:
    """P(pneumonia) against the threshold and what around it counts as uncertain."""
    point, probability = prediction.operating_point, prediction.probability("PNEUMONIA")
    low, high = _uncertain(point)
    _fill(axes, MARGIN, y + 0.6, COLUMN, 0.15, RULE)
    y += 2.6
    _write(axes, "P(pneumonia)", MARGIN, y)
    _fill(axes, BAR, y + 0.5, BAR_WIDTH, 3, MAT)
    _fill(axes, BAR + low * BAR_WIDTH, y + 0.5, (high - low) * BAR_WIDTH, 3, STRAW)
    _fill(axes, BAR, y + 1.25, probability * BAR_WIDTH, 1.5, INK)
    _fill(axes, BAR + point.threshold * BAR_WIDTH - 0.2, y - 0.3, 0.4, 4.6, AMBER)
    _write(axes, _percent(probability), MARGIN + COLUMN, y, align="right")
    legend = "line: threshold" + ("; shaded: uncertain" if low < high else "")
    return _write(axes, legend, BAR, y + 4.6, 7, colour=GREY)


def _draw_fact(axes: Axes, name: str, value: str, x: float, y: float) -> float:
    _write(axes, name, x, y, 7.5, colour=GREY)
    return _write(axes, value, x + 15, y, 7.5, width=COLUMN - 15) + 0.8  # wide enough for a commit in one piece


# The words


def _percent(probability: float) -> str:
    """With one decimal, but never as certain as 0.0% or 100.0%."""
    if probability < 0.0005:
        return "<0.1%"
    return f"{probability:.1%}" if probability < 0.9995 else ">99.9%"


def _uncertain(point: OperatingPoint) -> tuple[float, float]:
    """The lowest and the highest P(pneumonia) of an uncertain prediction."""
    odds = math.log(point.threshold / (1 - point.threshold))
    low, high = (1 / (1 + math.exp(-odds - x)) for x in (-point.uncertain_log_odds, point.uncertain_log_odds))
    return low, high


def _meaning(prediction: Prediction) -> str:
    point, prevalence = prediction.operating_point, prediction.prevalence
    low, high = _uncertain(point)
    doubt = f", and uncertain between {_percent(low)} and {_percent(high)}" if low < high else ""
    prior = f" The probabilities are for a prevalence of {prevalence:.0%}." if prevalence is not None else ""
    return f"Called pneumonia from P(pneumonia) = {_percent(point.threshold)} on{doubt}.{prior}"


def _measured(prediction: Prediction) -> list[str]:
    """The measured figures of the operating point; empty if there are none or another program wrote them."""
    metrics: Any = prediction.classifier.metrics
    try:
        row = metrics["operating_points"][prediction.operating_point.name]
        if row["threshold"] != prediction.operating_point.threshold:
            return []
        images, patients, split = metrics["n"], metrics["patients"], textwrap.shorten(metrics["split"], 80)
        return [
            f"Sensitivity {_interval(row['sensitivity'])}: share of the images with pneumonia that it finds.",
            f"Specificity {_interval(row['specificity'])}: share of the normal images that it calls normal.",
            f"Measured on {images:d} images of {patients:d} patients ({split}), uncertain predictions included; in "
            "brackets 95% intervals.",
        ]
    except (KeyError, TypeError, ValueError, AttributeError):
        return []


def _interval(figure: Any) -> str:
    value, low, high = figure["value"], figure["low"], figure["high"]
    if not all(0 <= x <= 1 for x in (value, low, high)):
        raise ValueError(f"Figure is {figure}; expected numbers from 0 to 1.")
    return f"{value:.1%} [{low:.1%}, {high:.1%}]"


def _limits(prediction: Prediction) -> str:
    subtypes = "Bacterial and viral are told apart less well, because their labels are noisy. "
    return (
        "The model is made for frontal radiographs of children of one to five years and, with less evidence, of "
        "adults; on other images its probabilities can be wrong. "
        f"{subtypes if len(prediction.probabilities) > 2 else ''}"
        "The map shows what moved the network, not where disease is; it is coarse and can be wrong. "
        "This is not a diagnosis: if you are worried about somebody's lungs, please see a doctor."
    )


# What the page is drawn with


def _layer(figure: Figure) -> Axes:
    """The whole page in mm, y downwards."""
    axes: Axes = figure.add_axes((0, 0, 1, 1))
    axes.set(xlim=(0, WIDTH), ylim=(HEIGHT, 0))
    axes.axis("off")
    return axes


def _title(axes: Axes, text: str, x: float, y: float, width: float = COLUMN) -> float:
    _fill(axes, x, y, width, 0.25, RULE)
    return _write(axes, text, x, y + 2, 9.5, bold=True, width=width) + 1


def _fill(axes: Axes, x: float, y: float, width: float, height: float, colour: str) -> None:
    axes.add_patch(Rectangle((x, y), width, height, color=colour, linewidth=0))


def _place(axes: Axes, picture: np.ndarray, x: float, y: float, width: float, height: float) -> None:
    """Set an RGB picture."""
    extent = (x, x + width, y + height, y)
    # Matplotlib stores pictures upside down; turned so, they lie upright in the PDF for those who take them out of it.
    axes.imshow(picture[::-1], origin="lower", extent=extent, aspect="auto", interpolation="none", zorder=2)


def _write(
    axes: Axes,
    text: str,
    x: float,
    y: float,
    points: float = 8.5,
    *,
    colour: str = INK,
    bold: bool = False,
    width: float = COLUMN,
    align: Literal["left", "right"] = "left",
) -> float:
    """Set text from y downwards in lines no wider than `width`; returns where they end."""
    font = FontProperties(fname=_BOLD if bold else _REGULAR, size=points)
    for line in _lines(_drawable(text, font), font, width):
        baseline = y + points * POINT
        # A ligature would be one letter to those who search or copy the text, and a font of its own in the file.
        plain: Any = {"parse_math": False, "fontfeatures": ("-liga",)}
        axes.text(x, baseline, line, color=colour, fontproperties=font, ha=align, **plain)
        y += 1.45 * points * POINT
    return y


def _drawable(text: str, font: FontProperties) -> str:
    """A model's name may have any letters, the font has not."""
    face = get_font(str(font.get_file()))
    known = (x.isspace() or (x.isprintable() and face.get_char_index(ord(x))) for x in text)
    return "".join(x if fine else "\N{REPLACEMENT CHARACTER}" for x, fine in zip(text, known, strict=True))


def _lines(text: str, font: FontProperties, width: float) -> list[str]:
    lines = [""]
    for word in text.split():
        if lines[-1] and _length(f"{lines[-1]} {word}", font) > width:
            lines.append("")
        line = f"{lines[-1]} {word}".lstrip()
        while _length(line, font) > width:  # one word, as the name of a folder can be
            fits = next(n for n in range(len(line) - 1, 0, -1) if n == 1 or _length(line[:n], font) <= width)
            lines[-1:] = [line[:fits], ""]
            line = line[fits:]
        lines[-1] = line
    return lines


def _length(text: str, font: FontProperties) -> float:
    return font.get_size() * POINT * sum(_advance(str(font.get_file()), x) for x in text)


@lru_cache(10_000)
def _advance(font: str, letter: str) -> float:
    """The width of a letter in units of the font's size."""
    face = get_font(font)
    face.set_size(100, 72)
    advance: int = face.load_char(ord(letter), LoadFlags.NO_HINTING).linearHoriAdvance
    return advance / 65536 / 100
