"""What the page shows, made in Python as plain JSON: a film with its answers and maps, and the files to take away."""

import base64
import csv
import io
import json
import math
import re
import zipfile
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import matplotlib
import numpy as np
from PIL import Image

from pneumocam import Classifier, OperatingPoint, Prediction, Radiograph, RadiographError, Reason, predict_many, targets
from pneumocam.cli import COLUMNS, distinct_names, table_row
from pneumocam.predict import rejected

FILM_SIDE, THUMBNAIL_SIDE, OVERLAY_SIDE = 1024, 160, 3000  # pixels at most: on the page, in tables, in archives
COLOUR_MAPS = ("inferno", "viridis", "cividis", "turbo")
HERE = Path(__file__).parent
Answer = Callable[[str], Prediction]
Json = dict[str, Any]


class Film(NamedTuple):
    """One upload of a session: where it lies, and its row as `row` makes it."""

    path: str
    row: Json


def answered(classifier: Classifier, answer: Answer, path: str) -> Prediction:
    """The prediction for one file; what cannot be read is `rejected`, with its reason.

    Args:
        classifier: what answers.
        answer: as `pneumocam.predict` with that classifier.
        path: where the file lies.
    """
    try:
        return answer(path)
    except RadiographError as error:
        return rejected(classifier, Reason(error.code, error.message))
    except OSError as error:
        reason = f"The file cannot be read: {error.strerror or type(error).__name__}."
        return rejected(classifier, Reason("unreadable_file", reason))


def row(classifier: Classifier, name: str, prediction: Prediction) -> Json:
    """All that the page shows of one film but the picture itself, at every operating point and for every class.

    Returns:
        name, point (the operating point in use) and points (`Prediction.to_dict` at each); and, where there is a
        picture, image (facts of it) and thumbnail; where there is an answer, maps (per class the Grad-CAM, peak 1, or
        None if nothing speaks for it), and the box that they cover in a film of size.
    """
    result: Json = {
        "name": name,
        "point": prediction.operating_point.name,
        "points": {point: prediction.at(point).to_dict() for point in classifier.operating_points},
    }
    if radiograph := prediction.radiograph:
        result["image"] = {
            "format": radiograph.source_format,
            "width": radiograph.width,
            "height": radiograph.height,
            "steps": list(radiograph.steps),
        }
        result["thumbnail"] = picture(radiograph, THUMBNAIL_SIDE)
    if prediction.status != "rejected":
        maps = [prediction.explain(target) for target in targets(classifier)]
        result["maps"] = {x.target: None if x.is_empty else _relative(x.cam) for x in maps}
        result["box"], result["size"] = maps[0].box, maps[0].size
    return result


def _relative(cam: np.ndarray) -> list[list[float]]:
    values: list[list[float]] = np.round(cam.astype(np.float64) / cam.max(), 5).tolist()
    return values


def picture(radiograph: Radiograph, side: int = FILM_SIDE) -> str:
    """The film as a `data:` URI of a grey JPEG, in its own aspect, no side longer than `side` pixels."""
    image = radiograph.to_pil()
    image.thumbnail((side, side), Image.Resampling.LANCZOS, reducing_gap=3)
    buffer = io.BytesIO()
    image.save(buffer, "JPEG", quality=88)
    return "data:image/jpeg;base64," + base64.b64encode(buffer.getvalue()).decode()


def facts(classifier: Classifier) -> Json:
    """What the page has to know of the model: its classes, operating points, what was measured, and the colour maps."""
    metrics = classifier.metrics or {}
    return {
        "labels": list(classifier.label_names),
        "targets": list(targets(classifier)),
        "points": {name: _point(point, metrics) for name, point in classifier.operating_points.items()},
        "films": metrics.get("n"),
        "children": metrics.get("patients"),
        "model": {"id": classifier.id, "revision": classifier.revision},
        "colours": {name: _colours(name) for name in COLOUR_MAPS},
    }


def _point(point: OperatingPoint, metrics: Mapping[str, Any]) -> Json:
    """Where the line is, between which probabilities an answer is uncertain, and what was measured there, if it was."""
    middle = math.log(point.threshold / (1 - point.threshold))
    band = [1 / (1 + math.exp(-middle - side * point.uncertain_log_odds)) for side in (-1, 1)]
    result: Json = {"threshold": point.threshold, "band": band, "measured": None}
    try:
        measured = metrics["operating_points"][point.name]
        if math.isclose(measured["threshold"], point.threshold, abs_tol=1e-6):
            result["measured"] = {
                name: float(measured[name]["value"]) for name in ("sensitivity", "specificity", "uncertain")
            }
    except (KeyError, TypeError):  # none, or another program's
        pass
    return result


def _colours(name: str) -> str:
    """256 RGB triples in base64, as Matplotlib has them."""
    table = matplotlib.colormaps[name](np.arange(256), bytes=True)[:, :3]  # (256, 3) uint8
    return base64.b64encode(table.tobytes()).decode()


# Examples


def examples(classifier: Classifier) -> list[Json]:
    """The radiographs of examples/: file, true label, whether in the gallery, thumbnail, and the model's answer."""
    rows = _example_rows()
    answers = predict_many(classifier, [example_path(row["file"]) for row in rows])
    return [
        {
            "file": row["file"],
            "truth": row["label"],
            "gallery": row["on_page"] == "yes",
            "label": prediction.label,
            "status": prediction.status,
            "thumbnail": picture(prediction.radiograph, 2 * THUMBNAIL_SIDE) if prediction.radiograph else None,
        }
        for row, prediction in zip(rows, answers, strict=True)
    ]


def truths() -> dict[str, str]:
    """The examples' true labels by file."""
    return {row["file"]: row["label"] for row in _example_rows()}


def _example_rows() -> list[dict[str, str]]:
    with (HERE / "examples" / "examples.csv").open(newline="") as file:
        return list(csv.DictReader(file))


def example_path(file: str) -> str:
    """Where an example lies."""
    return str(HERE / "examples" / file)


# Files to take away


def table(rows: Sequence[Json], point: str) -> str:
    """The rows as CSV, under the columns of `pneumocam score`; no cell of it is a formula to a spreadsheet."""
    text = io.StringIO()
    writer = csv.DictWriter(text, COLUMNS, lineterminator="\n")
    writer.writeheader()
    writer.writerows(table_row(_inert(row["name"]), row["points"][point]) for row in rows)
    return text.getvalue()


def _inert(cell: str) -> str:
    cell = re.sub(r"[\x00-\x1f\x7f]+", " ", cell).strip()
    return f"'{cell}" if cell.startswith(("=", "+", "-", "@")) else cell


def archive(
    path: Path,
    rows: Sequence[Json],
    predictions: Iterable[Prediction],
    point: str,
    *,
    opacity: float,
    colour_map: str,
) -> None:
    """Write the rows as a ZIP: scores.csv, and of each film its prediction as JSON and its overlay.

    Args:
        path: of the ZIP.
        rows: as from `row`.
        predictions: theirs, in the same order; taken one at a time.
        point: the operating point.
        opacity: as in `Prediction.overlay`.
        colour_map: as there.
    """
    names = distinct_names(_safe_name(row["name"]) for row in rows)
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as file:
        file.writestr("scores.csv", table(rows, point))
        for row, name, prediction in zip(rows, names, predictions, strict=True):
            answer = {"path": row["name"], **row["points"][point]}
            file.writestr(f"predictions/{name}.json", json.dumps(answer, indent=2, ensure_ascii=False))
            if prediction.status == "rejected":
                continue
            overlay = prediction.at(point).overlay(opacity=opacity, colour_map=colour_map)
            overlay.thumbnail((OVERLAY_SIDE, OVERLAY_SIDE))
            buffer = io.BytesIO()
            overlay.save(buffer, "PNG", compress_level=1)
            file.writestr(f"overlays/{name}.overlay.png", buffer.getvalue(), zipfile.ZIP_STORED)


def _safe_name(name: str) -> str:
    """A file's name without folders and whatever a file system or a spreadsheet may take for a command."""
    return re.sub(r"[^\w.() -]", "_", name.replace("\\", "/").rpartition("/")[2]).strip(". ")[-120:] or "film"
