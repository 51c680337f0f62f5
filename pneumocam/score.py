"""A folder of images -> a table, one row per file; a run that stopped is resumed."""

import csv
import glob
import io
import re
from codecs import getincrementaldecoder
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

if TYPE_CHECKING:
    import numpy as np

    from pneumocam.classifier import Classifier

COLUMNS = (
    *("path", "status", "label", "p_normal", "p_bacterial", "p_viral", "p_pneumonia"),
    *("code", "reason", "steps"),
)
_ENCODING: Any = {"encoding": "utf-8", "errors": "surrogateescape"}  # a file's name may be any bytes
_NO_IMAGE = (b"%PDF-", b"PK\x03\x04", b"\x1f\x8b", b"SQLite format")
_UNITS = {"": 1, "kb": 10**3, "mb": 10**6, "gb": 10**9}
Row = dict[str, str]


@dataclass(frozen=True)
class Settings:
    """How images are read and predictions are stated; another process loads the same classifier from it.

    Attributes:
        model: as in `Classifier.from_pretrained`.
        operating_point: by name; None for the model's own.
        prevalence: share of pneumonia, in (0, 1); None for the model's own.
        max_bytes: largest file that is read.
        batch_size: images at a time, at least 1.
        force: classify border cases that the guard refuses, as in `pneumocam.predict`.
    """

    model: str | None = None
    operating_point: str | None = None
    prevalence: float | None = None
    max_bytes: int = 20_000_000
    batch_size: int = 16
    force: bool = False

    def classifier(self) -> "Classifier":
        """The model at this operating point and prevalence.

        Raises:
            BundleError, ValueError: as in `Classifier.from_pretrained` and `Classifier.at`.
        """
        from pneumocam.classifier import Classifier

        return Classifier.from_pretrained(self.model).at(self.operating_point, prevalence=self.prevalence)


def find_files(paths: Iterable[str]) -> tuple[list[str], int]:
    """Files in the given order; folders are searched recursively and globs expanded, both sorted.

    Hidden files are left out, as are files of a folder or glob that are plainly no images, such as text.

    Returns:
        The files, and the number of files that are no images.
    """
    found, skipped = list[str](), 0
    for path in paths:
        if Path(path).is_dir():
            files = (p for p in sorted(Path(path).rglob("*")) if p.is_file())
            candidates = [p for p in files if not any(x.startswith(".") for x in p.relative_to(path).parts)]
        elif glob.has_magic(path) and not Path(path).exists():
            # Path.glob takes no absolute pattern.
            candidates = [Path(p) for p in sorted(glob.glob(path, recursive=True)) if Path(p).is_file()]  # noqa: PTH207
        else:
            found.append(path)
            continue
        images = [str(p) for p in candidates if not _plainly_no_image(p)]
        found += images
        skipped += len(candidates) - len(images)
    return found, skipped


def _plainly_no_image(path: Path) -> bool:
    """Whether a file starts as a PDF, a ZIP, a gzip or a database, or is text."""
    try:
        with path.open("rb") as file:
            head = file.read(1024)
    except OSError:  # reported when it is classified
        return False
    if head.startswith(_NO_IMAGE):
        return True
    try:
        getincrementaldecoder("utf-8")().decode(head)  # incremental, because the end may cut a character
    except UnicodeDecodeError:
        return False
    return bool(head) and b"\0" not in head


def parse_bytes(text: str) -> int:
    """A size such as "500000", "100MB" or "1.5 GB" in bytes.

    Raises:
        ValueError: the text is no size.
    """
    match = re.fullmatch(r"(\d+(?:\.\d+)?)\s*(|kb|mb|gb)", text.strip().lower())
    if not match or not (size := int(float(match[1]) * _UNITS[match[2]])):
        raise ValueError(f"--max-bytes is {text!r}; expected a size such as 20000000, 100MB or 1GB.")
    return size


def distinct_names(files: Iterable[str]) -> list[str]:
    """A name for each file's overlay and report: files of the same name in two folders get different ones."""
    names = dict[str, None]()
    for file in files:
        name = stem = Path(file).name
        number = 1
        while name in names:
            number += 1
            name = f"{stem}.{number}"
        names[name] = None
    return list(names)


def table_row(path: str, prediction: Mapping[str, Any]) -> Row:
    """The cells of one row, by column.

    Args:
        path: of the file.
        prediction: from `Prediction.to_dict`.
    """
    shares, reason = prediction["probabilities"], prediction["reason"] or {}
    return {
        "path": path,
        "status": prediction["status"],
        "label": prediction["label"] or "",
        "p_normal": _fixed(shares.get("NORMAL")),
        "p_bacterial": _fixed(shares.get("BACTERIAL")),
        "p_viral": _fixed(shares.get("VIRAL")),
        "p_pneumonia": _fixed(prediction["p_pneumonia"]),
        "code": reason.get("code", ""),
        "reason": reason.get("message", ""),
        "steps": "; ".join(prediction["image"]["steps"]) if prediction["image"] else "",
    }


def _fixed(probability: float | None) -> str:
    return "" if probability is None else f"{probability:.6f}"


class Table:
    """A CSV file that is written row by row.

    Attributes:
        path: of the file.
        rows: that an earlier run wrote and this run keeps.
    """

    def __init__(self, path: Path, *, resume: bool = False) -> None:
        """Read what an earlier run wrote; nothing is written yet.

        Args:
            path: of the file.
            resume: keep its rows, except those with the code `internal_error`, which are classified again.

        Raises:
            ValueError: the file is a folder, or a table with other columns.
        """
        if path.is_dir():
            raise ValueError(f"--out is {str(path)!r}, which is a folder; expected a CSV file.")
        self.path = path
        self.rows = [row for row in _read(path) if row["code"] != "internal_error"] if resume else []

    def write(self, rows: Iterable[Row]) -> Iterator[Row]:
        """Write the header, the kept rows and these rows; each is on disk when it is yielded."""
        temporary = self.path.with_name(self.path.name + ".tmp")
        try:
            with temporary.open("w", newline="", **_ENCODING) as file:
                writer = csv.DictWriter(file, COLUMNS, lineterminator="\n")
                writer.writeheader()
                writer.writerows(self.rows)
            temporary.replace(self.path)
        finally:
            temporary.unlink(missing_ok=True)
        with self.path.open("a", newline="", **_ENCODING) as file:
            writer = csv.DictWriter(file, COLUMNS, lineterminator="\n")
            for row in rows:
                writer.writerow(row)
                file.flush()
                yield row


def _read(path: Path) -> list[Row]:
    if not path.is_file():
        return []
    with path.open(newline="", **_ENCODING) as file:
        text = file.read()
    # A killed run can leave a part of its last row, which is left out here and classified again.
    reader = csv.DictReader(io.StringIO(text[: text.rfind("\n") + 1], newline=""))
    if tuple(reader.fieldnames or ()) != COLUMNS:
        raise ValueError(f"--resume: {path} has the columns {reader.fieldnames}; expected {', '.join(COLUMNS)}.")
    return [row for row in reader if None not in row and None not in row.values()]


def score(
    paths: list[str], classifier: "Classifier", settings: Settings, engine: Literal["local", "ray"] = "local"
) -> Iterator[Row]:
    """Classify files and yield a row for each, in order.

    Args:
        paths: of the files.
        classifier: from `settings.classifier()`; the engine `ray` loads its own.
        settings: the same that made the classifier.
        engine: `local` for this process, `ray` for a Ray cluster (RAY_ADDRESS, or else this machine) on which all
            nodes see the files under the same paths.

    Raises:
        ValueError: Ray is not installed.
    """
    return _by_ray(paths, settings) if engine == "ray" else _rows(paths, classifier, settings)


def _rows(paths: list[str], classifier: "Classifier", settings: Settings) -> Iterator[Row]:
    from pneumocam.predict import predict_many

    load = reader(settings.max_bytes)
    predictions = predict_many(classifier, paths, batch_size=settings.batch_size, load=load, force=settings.force)
    for path, prediction in zip(paths, predictions, strict=True):
        yield table_row(path, prediction.to_dict())


def reader(max_bytes: int) -> Callable[[Any], Any]:
    """`load_radiograph` with another limit of a file's size."""
    from pneumocam.image import load_radiograph

    return partial(load_radiograph, max_bytes=max_bytes)


class _RayScorer:
    def __init__(self, settings: Settings) -> None:
        self.settings = settings
        self.classifier = settings.classifier()

    def __call__(self, batch: "dict[str, np.ndarray]") -> "dict[str, np.ndarray]":
        import numpy as np

        rows = list(_rows([str(path) for path in batch["path"]], self.classifier, self.settings))
        return {column: np.array([row[column] for row in rows]) for column in COLUMNS}


def _by_ray(paths: list[str], settings: Settings) -> Iterator[Row]:
    try:
        import ray
    except ImportError:
        raise ValueError("--engine ray needs the scale extra: pip install 'pneumocam[scale]'.") from None
    context = ray.data.DataContext.get_current()
    context.execution_options.preserve_order = True
    images = ray.data.from_items(
        [{"path": path} for path in paths], override_num_blocks=-(-len(paths) // settings.batch_size)
    )
    workers = max(1, int(ray.cluster_resources().get("CPU", 1)))
    yield from images.map_batches(
        _RayScorer,
        fn_constructor_args=(settings,),
        batch_size=settings.batch_size,
        compute=ray.data.ActorPoolStrategy(min_size=1, max_size=workers),
    ).iter_rows()
