"""The command line: `pneumocam predict`, `pneumocam score`, `pneumocam info`."""

import argparse
import csv
import glob
import io
import json
import os
import sys
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from tqdm import tqdm

from pneumocam import DISCLAIMER
from pneumocam.bundle import BundleError
from pneumocam.classifier import Classifier
from pneumocam.gradcam import targets
from pneumocam.predict import Prediction, describe, predict_many
from pneumocam.report import report

COLUMNS = ("path", "status", "label", "p_normal", "p_bacterial", "p_viral", "p_pneumonia", "reason")
ENCODING: Any = {"encoding": "utf-8", "errors": "surrogateescape"}  # a file's name may be any bytes
Row = dict[str, Any]


def main(arguments: list[str] | None = None) -> int:
    """Run one command.

    Args:
        arguments: of the command line; None: this process's.

    Returns:
        0; 1 if no file could be answered or nobody reads the answers; 2 if the command itself cannot be carried out.
    """
    options = _parser().parse_args(arguments)
    try:
        status: int = options.run(options)
        sys.stdout.flush()  # here, where it is caught if nobody reads it
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # or Python would complain when it ends
        return 1
    except (BundleError, OSError, ValueError, csv.Error) as error:
        print(f"pneumocam: {error}", file=sys.stderr)
        return 2
    return status


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser("pneumocam", description=f"Pneumonia on chest radiographs. {DISCLAIMER}")
    commands = parser.add_subparsers(required=True, metavar="COMMAND")

    predict = commands.add_parser("predict", help="answer for some radiographs, with overlays and reports if asked")
    predict.add_argument("files", nargs="+", metavar="FILE")
    predict.add_argument("--target", metavar="CLASS", help="the class to explain (default: the one answered)")
    predict.add_argument("--overlay", type=Path, metavar="DIR", help="write NAME.overlay.png there")
    predict.add_argument("--report", type=Path, metavar="DIR", help="write NAME.pdf there, a page about the answer")
    predict.add_argument("--json", action="store_true", help="one JSON object a line")
    predict.set_defaults(run=_predict)

    score = commands.add_parser("score", help="answer for folders (recursively) and globs, into a CSV file")
    score.add_argument("paths", nargs="+", metavar="PATH", help="files, folders, or globs such as 'films/**/*.dcm'")
    score.add_argument("--out", type=Path, required=True, metavar="CSV")
    score.add_argument("--resume", action="store_true", help="keep the rows that are in --out and go on after them")
    score.add_argument("--batch-size", type=int, default=16, metavar="N")
    score.add_argument("--engine", choices=("local", "ray"), default="local", help="ray: all cores of a Ray cluster")
    score.set_defaults(run=_score)

    info = commands.add_parser("info", help="model id, revision, labels, preprocessing, metrics")
    info.add_argument("--json", action="store_true")
    info.set_defaults(run=_info)
    for command in (predict, score, info):
        command.add_argument(
            "--model", metavar="SOURCE", help="hf-hub:owner/name@revision or local-dir:PATH (default: the bundled one)"
        )
    for command in (predict, score):
        command.add_argument(
            "--operating-point", metavar="NAME", help="where to draw the line, as `info` lists them (default: balanced)"
        )
    return parser


def _predict(options: argparse.Namespace) -> int:
    classifier = Classifier.from_pretrained(options.model, operating_point=options.operating_point)
    if options.target and options.target not in targets(classifier):
        raise ValueError(f"--target is {options.target!r}; this model explains {', '.join(targets(classifier))}.")
    for name, folder in (("--overlay", options.overlay), ("--report", options.report)):
        if folder:
            _make_folder(name, folder)
    answered = 0
    names = distinct_names(options.files)
    for file, name, prediction in zip(options.files, names, predict_many(classifier, options.files), strict=True):
        answered += prediction.status != "rejected"
        written = _write_files(options, name, prediction)
        if options.json:
            print(json.dumps({"path": file, **prediction.to_dict(), **written}), flush=True)
        else:
            print("  -> ".join([_sentence(file, prediction), *filter(None, written.values())]), flush=True)
    if not options.json:
        print(DISCLAIMER, file=sys.stderr)
    return 0 if answered else 1


def _make_folder(option: str, folder: Path) -> None:
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except (FileExistsError, NotADirectoryError):
        raise ValueError(
            f"{option}: {str(folder)!r} is a file or below one; expected a folder or a new name."
        ) from None


def _write_files(options: argparse.Namespace, name: str, prediction: Prediction) -> dict[str, str | None]:
    """Overlay and report where they are asked for; returns their paths."""
    overlay = page = None
    if options.overlay and prediction.status != "rejected":
        overlay = str(options.overlay / f"{name}.overlay.png")
        prediction.overlay(options.target).save(overlay)
    if options.report and prediction.status != "rejected":
        page = str(options.report / f"{name}.pdf")
        Path(page).write_bytes(report(prediction, target=options.target))
    return {"overlay": overlay, "report": page}


def distinct_names(files: Iterable[str]) -> list[str]:
    """Names for overlays and reports: two files of one name in two folders must not overwrite each other."""
    names = dict[str, None]()
    for file in files:
        name = stem = Path(file).name
        number = 1
        while name in names:
            number += 1
            name = f"{stem}.{number}"
        names[name] = None
    return list(names)


def _sentence(file: str, prediction: Prediction) -> str:
    if prediction.status == "rejected":
        return f"{file}: rejected. {prediction.reason.message if prediction.reason else ''}"
    shares = "  ".join(f"{name} {p:.3f}" for name, p in prediction.probabilities.items())
    doubt = f"  ({prediction.reason.message})" if prediction.reason else ""
    return f"{file}: {prediction.label}  [{shares}]{doubt}"


def _score(options: argparse.Namespace) -> int:
    if options.out.is_dir():
        raise ValueError(f"--out is {str(options.out)!r}, which is a folder; expected a CSV file.")
    # The table of an earlier run may lie among the films.
    paths = [path for path in _expand(options.paths) if Path(path).resolve() != options.out.resolve()]
    if not paths:
        raise ValueError(f"Nothing to score: {', '.join(options.paths)} matched no file.")
    done = _rows_of(options.out) if options.resume else []
    skip = {row["path"] for row in done}
    rest = [path for path in paths if path not in skip]
    # Before anything is written.
    classifier = Classifier.from_pretrained(options.model, operating_point=options.operating_point)
    if options.batch_size < 1:
        raise ValueError(f"--batch-size is {options.batch_size}; expected at least 1.")
    _make_folder("--out", options.out.parent)
    answered = sum(row["status"] != "rejected" for row in done)
    _start_csv(options.out, done)
    with options.out.open("a", newline="", **ENCODING) as file:
        writer = csv.DictWriter(file, COLUMNS, lineterminator="\n")
        if not rest:
            rows: Iterator[Row] = iter(())
        elif options.engine == "ray":
            rows = _rows_by_ray(rest, options)
        else:
            rows = _rows_here(rest, classifier, options.batch_size)
        for row in tqdm(rows, "Scoring", len(rest), unit="film"):
            writer.writerow(row)
            file.flush()
            answered += row["status"] != "rejected"
    print(f"{answered} of {len(done) + len(rest)} scored, {options.out} written. {DISCLAIMER}", file=sys.stderr)
    return 0 if answered else 1


def _expand(paths: Iterable[str]) -> Iterator[str]:
    """Every file meant, in the order given; folders and globs sorted, hidden files left out."""
    for path in paths:
        if Path(path).is_dir():
            files = (p for p in sorted(Path(path).rglob("*")) if p.is_file())
            yield from (str(p) for p in files if not any(x.startswith(".") for x in p.relative_to(path).parts))
        elif glob.has_magic(path) and not Path(path).exists():
            yield from sorted(p for p in glob.glob(path, recursive=True) if Path(p).is_file())  # noqa: PTH207 - Path.glob takes no absolute pattern
        else:
            yield path


def _start_csv(path: Path, done: list[Row]) -> None:
    temporary = path.with_name(path.name + ".tmp")
    try:
        with temporary.open("w", newline="", **ENCODING) as file:
            writer = csv.DictWriter(file, COLUMNS, lineterminator="\n")
            writer.writeheader()
            writer.writerows(done)
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)


def _rows_of(path: Path) -> list[Row]:
    if not path.is_file():
        return []
    with path.open(newline="", **ENCODING) as file:
        text = file.read()
    # The last row of a killed run may be cut off, were it in the middle of its last field; it is scored again.
    reader = csv.DictReader(io.StringIO(text[: text.rfind("\n") + 1], newline=""))
    if tuple(reader.fieldnames or ()) != COLUMNS:
        raise ValueError(f"--resume: {path} has the columns {reader.fieldnames}; expected {', '.join(COLUMNS)}.")
    return [row for row in reader if None not in row and None not in row.values()]


def _rows_here(paths: list[str], classifier: Classifier, batch_size: int) -> Iterator[Row]:
    for path, prediction in zip(paths, predict_many(classifier, paths, batch_size=batch_size), strict=True):
        yield table_row(path, prediction.to_dict())


def table_row(path: str, answer: Mapping[str, Any]) -> Row:
    """One row of the table, under `COLUMNS`, of what `Prediction.to_dict` gave."""
    shares = answer["probabilities"]
    return {
        "path": path,
        "status": answer["status"],
        "label": answer["label"] or "",
        "p_normal": _fixed(shares.get("NORMAL")),
        "p_bacterial": _fixed(shares.get("BACTERIAL")),
        "p_viral": _fixed(shares.get("VIRAL")),
        "p_pneumonia": _fixed(answer["p_pneumonia"]),
        "reason": answer["reason"]["message"] if answer["reason"] else "",
    }


def _fixed(probability: float | None) -> str:
    return "" if probability is None else f"{probability:.6f}"


class _RayScorer:
    def __init__(self, source: str | None, operating_point: str | None, batch_size: int) -> None:
        self.classifier = Classifier.from_pretrained(source, operating_point=operating_point)
        self.batch_size = batch_size

    def __call__(self, batch: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
        paths = [str(path) for path in batch["path"]]
        predictions = predict_many(self.classifier, paths, batch_size=self.batch_size)
        rows = [table_row(path, prediction.to_dict()) for path, prediction in zip(paths, predictions, strict=True)]
        return {column: np.array([row[column] for row in rows]) for column in COLUMNS}


def _rows_by_ray(paths: list[str], options: argparse.Namespace) -> Iterator[Row]:
    """Score on a Ray cluster (RAY_ADDRESS, else this machine); every node must see the files under the same paths."""
    try:
        import ray
    except ImportError:
        raise ValueError("--engine ray needs the scale extra: pip install 'pneumocam[scale]'.") from None
    context = ray.data.DataContext.get_current()
    context.execution_options.preserve_order = True
    films = ray.data.from_items(
        [{"path": path} for path in paths], override_num_blocks=-(-len(paths) // options.batch_size)
    )
    workers = max(1, int(ray.cluster_resources().get("CPU", 1)))
    yield from films.map_batches(
        _RayScorer,
        fn_constructor_args=(options.model, options.operating_point, options.batch_size),
        batch_size=options.batch_size,
        compute=ray.data.ActorPoolStrategy(min_size=1, max_size=workers),
    ).iter_rows()


def _info(options: argparse.Namespace) -> int:
    classifier = Classifier.from_pretrained(options.model)
    facts = describe(classifier)
    if options.json:
        print(json.dumps(facts, indent=2))
        return 0
    print(f"model          {classifier.id}\nrevision       {classifier.revision}")
    print(f"labels         {', '.join(classifier.label_names)}")
    print("preprocessing  " + ", ".join(f"{key} {value}" for key, value in facts["preprocessing"].items()))
    print(f"temperature    {classifier.temperature:.3f}")
    default = classifier.operating_point
    for point in (default, *(x for x in classifier.operating_points.values() if x != default)):
        print(f"{'decision' if point == default else '':14} {point.name}: pneumonia from P = {point.threshold:.2f} on")
    try:
        lines = _metric_lines(classifier.metrics)
    except (KeyError, TypeError):  # another program's file
        lines = ["metrics        not of train.evaluate: see info --json"]
    print("\n".join(lines))
    print(DISCLAIMER)
    return 0


def _metric_lines(metrics: Any) -> list[str]:
    if metrics is None:
        return ["metrics        none with this bundle: python -m train.evaluate measures them"]
    figures = {
        f"{len(metrics['label_names'])}-class accuracy": metrics["multiclass"]["accuracy"],
        "binary accuracy": metrics["binary"]["accuracy"],
        "binary AUROC": metrics["binary"]["auroc"],
        "sensitivity": metrics["binary"]["sensitivity"],
        "specificity": metrics["binary"]["specificity"],
    }
    lines = [f"{name:18} {_figure(figure)}" for name, figure in figures.items()]
    return [
        f"metrics on {metrics['n']} films of {metrics['patients']} patients ({metrics['split']}), 95% intervals",
        *lines,
    ]


def _figure(figure: Any) -> str:
    if figure["value"] is None:
        return "none"
    # An AUROC of 1, say, of a few films: no resample differs.
    return f"{figure['value']:.3f}" + ("" if figure["low"] is None else f" [{figure['low']:.3f}, {figure['high']:.3f}]")


if __name__ == "__main__":
    raise SystemExit(main())
