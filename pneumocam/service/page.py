"""What the page shows of the model and of one image, as plain JSON, and the files that it offers for download."""

import base64
import csv
import io
import json
import math
import re
import zipfile
from collections.abc import Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple

import matplotlib
import numpy as np
from PIL import Image
from pydantic import ConfigDict, Field

from pneumocam import Classifier, OperatingPoint, Prediction, Radiograph, predict_many, targets
from pneumocam.guard import outline
from pneumocam.score import COLUMNS, distinct_names, table_row
from pneumocam.service.api import SharedOptions, classify_or_reject, encode
from pneumocam.service.errors import RequestError

PICTURE_SIDE, THUMBNAIL_SIDE, OVERLAY_SIDE = 1024, 160, 3000  # pixels at most: on the page, in tables, in archives
COLOUR_MAPS = ("inferno", "viridis", "cividis", "turbo")
# A wheel carries them inside the package, a checkout and a Space beside it.
_PACKAGE = Path(__file__).parents[1]
EXAMPLES, WEB = (
    next((path for path in (_PACKAGE / name, _PACKAGE.parent / name) if path.is_dir()), _PACKAGE / name)
    for name in ("examples", "web")
)
Json = dict[str, Any]


class Drawing(SharedOptions):
    """How the page's downloads are drawn."""

    model_config = ConfigDict(extra="ignore")

    opacity: float = Field(0.6, ge=0, le=1)
    colour_map: str = Field("inferno", pattern=f"^({'|'.join(COLOUR_MAPS)})$")


class ReportOptions(Drawing):
    """Options of a report."""

    format: str = Field("pdf", pattern="^(pdf|png)$")
    target: str | None = None


class Entry(NamedTuple):
    """What an archive has of one image."""

    cells: Json
    prediction: Json
    overlay: bytes | None  # PNG


# One image


def row(classify: Any, data: bytes, name: str, options: SharedOptions) -> Json:
    """All that the page shows of one image, at every operating point and for every class.

    Returns:
        name, point (the default operating point), points (`Prediction.to_dict()` at each) and table (the cells of
        `pneumocam score` at each). If the image is a radiograph, also image (format, width, height, steps), picture
        and thumbnail (data URIs of JPEGs), maps (for each class the Grad-CAM, rows of numbers in [0, 1] on one scale,
        or null if it is empty), map_quality (for each class a word, and the shares of the map and of the image inside
        the lung fields), lungs (their outlines), box and size (where a map lies: left, top, right, bottom in pixels of
        an image of that size). If it is rejected and `force` would get a prediction, force (true).
    """
    return row_of(classify_or_reject(classify, data, options), name)


def row_of(prediction: Prediction, name: str) -> Json:
    """As `row`, of a prediction."""
    classifier = prediction.classifier
    points = {point: _with_map(prediction.at(point), prediction) for point in classifier.operating_points}
    result: Json = {
        "name": name,
        "point": classifier.operating_point.name,
        "points": points,
        "table": {point: table_row(_inert(name), answer) for point, answer in points.items()},
    }
    if prediction.reason and prediction.reason.can_be_forced:
        result["force"] = True
    if radiograph := prediction.radiograph:
        result["image"] = prediction.to_dict()["image"]
        result["picture"] = _data_uri(picture(radiograph))
        result["thumbnail"] = _data_uri(picture(radiograph, THUMBNAIL_SIDE))
    if prediction.status != "rejected":
        maps = prediction.maps
        first = prediction.explain()
        result["maps"] = {name: None if one.is_empty else one.relative() for name, one in maps.items()}
        result["box"], result["size"] = first.box, first.size
        result["map_quality"] = {
            name: {"word": one.quality, "inside": one.inside, "expected": one.expected_inside}
            for name, one in maps.items()
        }
        if first.lungs is not None:
            result["lungs"] = outline(first.lungs, *first.size)
    return result


def _with_map(prediction: Prediction, mapped: Prediction) -> Json:
    """The prediction at one operating point as JSON, with the facts of its label's map."""
    return prediction.to_dict(mapped.maps[prediction.label] if prediction.label else None)


def picture(radiograph: Radiograph, side: int = PICTURE_SIDE) -> bytes:
    """The radiograph as a grey JPEG in its own aspect, no side longer than `side` pixels."""
    image = radiograph.to_pil()
    image.thumbnail((side, side), Image.Resampling.LANCZOS, reducing_gap=3)
    buffer = io.BytesIO()
    image.save(buffer, "JPEG", quality=88)
    return buffer.getvalue()


def _data_uri(jpeg: bytes) -> str:
    return "data:image/jpeg;base64," + base64.b64encode(jpeg).decode()


# The model


def facts(classifier: Classifier, notice: str | None, images: int, image_bytes: int) -> Json:
    """What the page needs to know of the model: classes, operating points, what was measured, colour maps, examples."""
    metrics = classifier.metrics or {}
    return {
        "labels": list(classifier.label_names),
        "targets": list(targets(classifier)),
        "point": classifier.operating_point.name,
        "points": {name: _point(point, metrics) for name, point in classifier.operating_points.items()},
        "images": metrics.get("n"),
        "patients": metrics.get("patients"),
        "prevalence": classifier.prevalence,
        "model": {"id": classifier.id, "revision": classifier.revision},
        "notice": notice,
        "colours": {name: _colours(name) for name in COLOUR_MAPS},
        "limits": {"images": images, "bytes": image_bytes},
        "columns": list(COLUMNS),
    }


def _point(point: OperatingPoint, metrics: Mapping[str, Any]) -> Json:
    """The threshold, the probabilities between which a prediction is uncertain, and what was measured, if it was."""
    middle = math.log(point.threshold / (1 - point.threshold))
    band = [1 / (1 + math.exp(-middle - side * point.uncertain_log_odds)) for side in (-1, 1)]
    result: Json = {"threshold": point.threshold, "band": band, "uncertain_error": point.uncertain_error}
    result["measured"] = None
    try:
        measured = metrics["operating_points"][point.name]
        if math.isclose(measured["threshold"], point.threshold, abs_tol=1e-6):
            result["measured"] = {
                name: float(measured[name]["value"]) for name in ("sensitivity", "specificity", "uncertain")
            }
    except (KeyError, TypeError):  # there are none, or another program wrote them
        pass
    return result


def _colours(name: str) -> str:
    """256 RGB triples in base64."""
    table = matplotlib.colormaps[name](np.arange(256), bytes=True)[:, :3]  # (256, 3) uint8
    return base64.b64encode(table.tobytes()).decode()


# Examples


def examples(classifier: Classifier) -> list[tuple[Json, bytes]]:
    """The example radiographs and a JPEG thumbnail of each.

    Returns:
        file, truth (the true label), gallery (whether the page offers it), label and status (the model's prediction),
        and first: whether the page opens with it. That is the first one of the gallery that has pneumonia and gets a
        sure prediction, or else the last one of the gallery.
    """
    rows = _example_rows()
    predictions = list(predict_many(classifier, [example(row["file"]) for row in rows]))
    pairs = list(zip(rows, predictions, strict=True))
    gallery = [row["file"] for row in rows if row["on_page"] == "yes"]
    sure = (row["file"] for row, p in pairs if row["file"] in gallery and row["label"] != "NORMAL" and p.status == "ok")
    first = next(sure, gallery[-1])
    return [
        (
            {
                "file": row["file"],
                "truth": row["label"],
                "gallery": row["file"] in gallery,
                "first": row["file"] == first,
                "label": prediction.label,
                "status": prediction.status,
            },
            picture(prediction.radiograph, 2 * THUMBNAIL_SIDE) if prediction.radiograph else b"",
        )
        for row, prediction in pairs
    ]


def truth(file: str) -> str:
    """The true label of an example; raises RequestError `not_found` if there is no such example."""
    labels = {row["file"]: row["label"] for row in _example_rows()}
    if file not in labels:
        raise RequestError("not_found", f"There is no such example; expected one of {', '.join(labels)}.")
    return labels[file]


@cache
def _example_rows() -> list[dict[str, str]]:
    return list(csv.DictReader(io.StringIO((EXAMPLES / "examples.csv").read_text(encoding="utf-8"))))


def example(file: str) -> bytes:
    """The bytes of an example."""
    return (EXAMPLES / file).read_bytes()


# Downloads


def report_file(classify: Any, data: bytes, options: ReportOptions) -> bytes:
    """The report of one image as PDF or PNG; raises RadiographError if it is no radiograph."""
    from pneumocam.report import report  # Matplotlib's figures, which no other request needs

    drawing = options.model_dump(include={"target", "opacity", "colour_map", "format"})
    return report(classify(data, **options.arguments), **drawing)


def entry(classify: Any, data: bytes, name: str, options: Drawing) -> Entry:
    """What an archive has of one image."""
    prediction = classify_or_reject(classify, data, options)
    answer = _with_map(prediction, prediction)
    overlay = None
    if prediction.status != "rejected":
        image = prediction.overlay(opacity=options.opacity, colour_map=options.colour_map)
        image.thumbnail((OVERLAY_SIDE, OVERLAY_SIDE))
        overlay = encode(image, "png")
    return Entry(table_row(_inert(name), answer), {"path": name, **answer}, overlay)


def archive(entries: Sequence[Entry]) -> bytes:
    """A ZIP of scores.csv, predictions/NAME.json and overlays/NAME.overlay.png."""
    buffer = io.BytesIO()
    names = distinct_names(safe_name(entry.prediction["path"]) for entry in entries)
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as file:
        file.writestr("scores.csv", table([entry.cells for entry in entries]))
        for entry, name in zip(entries, names, strict=True):
            file.writestr(f"predictions/{name}.json", json.dumps(entry.prediction, indent=2, ensure_ascii=False))
            if entry.overlay:
                file.writestr(f"overlays/{name}.overlay.png", entry.overlay, zipfile.ZIP_STORED)
    return buffer.getvalue()


def table(rows: Sequence[Json]) -> str:
    """The rows as CSV, under the columns of `pneumocam score`."""
    text = io.StringIO()
    writer = csv.DictWriter(text, COLUMNS, lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    return text.getvalue()


def _inert(cell: str) -> str:
    """A name that no spreadsheet takes for a formula."""
    cell = re.sub(r"[\x00-\x1f\x7f]+", " ", cell).strip()
    return f"'{cell}" if cell.startswith(("=", "+", "-", "@")) else cell


def safe_name(name: str) -> str:
    """A file name without folders, and without characters that mean something to a file system or a spreadsheet."""
    return re.sub(r"[^\w.() -]", "_", name.replace("\\", "/").rpartition("/")[2]).strip(". ")[-120:] or "image"
