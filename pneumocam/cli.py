"""The command line: `pneumocam predict`, `score`, `info`, `serve` and `static`.

PyTorch is imported after arguments and files were checked, so that mistakes and `--help` take no seconds.
"""

import csv
import json
import os
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import tyro
from tyro.conf import FlagCreatePairsOff, Positional, arg, subcommand

from pneumocam import DISCLAIMER, __version__
from pneumocam.score import Settings, Table, distinct_names, find_files, parse_bytes

if TYPE_CHECKING:
    from pneumocam.predict import Prediction

STDIN = "-"
_FORCE = " To classify it anyway: --force."
PREDICT = """Classify some images, one line for each.

    pneumocam predict chest.jpeg
    pneumocam predict folder/ --overlay overlays/
    pneumocam predict chest.dcm --report reports/ --json
    pneumocam predict - < chest.png"""
SCORE = """Classify files, folders (recursively) and globs into a CSV file.

    pneumocam score images/ 'more/**/*.dcm' --out scores.csv
    pneumocam score images/ --out scores.csv --resume"""
INFO = "Print model, labels, preprocessing, operating points and measured figures."
SERVE = """Serve the page and the API on this machine.

    pneumocam serve
    pneumocam serve --port 8000 --workers 4"""


STATIC = """Write the page and the model as a folder that any static host can serve; it runs in the browser.

    pneumocam static site/ --model hf-hub:owner/name@v1.0"""


def _option(metavar: str, default: str = "") -> Any:
    """How `--help` shows an option that may be left out."""
    return arg(metavar=metavar, help_behavior_hint=f"(default: {default})" if default else "(optional)")


ModelSource = Annotated[str | None, _option("SOURCE", "the bundled model")]
PointName = Annotated[str | None, _option("NAME", "the model's own")]
Prevalence = Annotated[float | None, _option("SHARE", "0.5")]
Folder = Annotated[Path | None, _option("DIR")]
Flag = Annotated[bool, arg(help_behavior_hint="")]
Size = Annotated[str, arg(metavar="SIZE")]


@dataclass(frozen=True)
class Predict:
    """The command `predict`."""

    files: Annotated[Positional[tuple[str, ...]], arg(metavar="FILE ...", help_behavior_hint="")]
    """Images, folders of images, or - for standard input."""
    model: ModelSource = None
    """hf-hub:owner/name@revision or local-dir:PATH."""
    operating_point: PointName = None
    """A threshold, as `pneumocam info` lists them."""
    prevalence: Prevalence = None
    """Share of pneumonia for which probabilities are stated, between 0 and 1."""
    target: Annotated[str | None, _option("CLASS", "the predicted one")] = None
    """Class that overlays and reports explain."""
    overlay: Folder = None
    """Folder for overlays, NAME.overlay.png."""
    report: Folder = None
    """Folder for one-page reports, NAME-report.pdf."""
    force: Flag = False
    """Classify border cases that the guard refuses too; each is uncertain. A photograph stays rejected."""
    max_bytes: Size = "20MB"
    """Largest file that is read, such as 100MB."""
    json: Flag = False
    """Print one JSON object per line."""

    def run(self) -> int:
        """Print a line for each image; returns 1 if no image could be classified."""
        settings = _settings(self)
        files, skipped = find_files(self.files)
        if not files:
            raise ValueError(f"No image in {', '.join(self.files)}; expected image files, or folders of them.")
        if not any(file == STDIN or Path(file).exists() for file in files):
            raise ValueError(f"No such file: {', '.join(files)}.")
        for option, folder in (("--overlay", self.overlay), ("--report", self.report)):
            if folder:
                _make_folder(option, folder)

        classifier = settings.classifier()
        from pneumocam.gradcam import targets
        from pneumocam.predict import predict_many

        if self.target not in (None, *targets(classifier)):
            raise ValueError(f"--target is {self.target!r}; this model explains {', '.join(targets(classifier))}.")
        predictions = predict_many(classifier, files, load=_load(settings.max_bytes), force=settings.force)
        names = distinct_names("stdin" if file == STDIN else file for file in files)
        width = max(map(len, files))
        classified = 0
        for file, name, prediction in zip(files, names, predictions, strict=True):
            classified += prediction.status != "rejected"
            written = self._write_files(name, prediction)
            if self.json:
                mapped = self.overlay or self.report
                saliency = prediction.explain(self.target) if mapped and prediction.status != "rejected" else None
                print(json.dumps({"path": file, **prediction.to_dict(saliency), **written}), flush=True)
            else:
                print(_line(file, width, prediction), flush=True)
        if not self.json:
            print("\n".join(self._summary(classified, skipped)), file=sys.stderr)
        return 0 if classified else 1

    def _write_files(self, name: str, prediction: "Prediction") -> dict[str, str | None]:
        """Write overlay and report if they are asked for; returns their paths."""
        overlay = report = None
        if self.overlay and prediction.status != "rejected":
            overlay = str(self.overlay / f"{name}.overlay.png")
            prediction.overlay(self.target).save(overlay)
        if self.report and prediction.status != "rejected":
            from pneumocam.report import report as page

            report = str(self.report / f"{name}-report.pdf")
            Path(report).write_bytes(page(prediction, target=self.target))
        return {"overlay": overlay, "report": report}

    def _summary(self, classified: int, skipped: int) -> Iterator[str]:
        if skipped:
            yield _skipped(skipped)
        if self.overlay:
            yield f"Overlays: {classified}, in {self.overlay}."
        if self.report:
            yield f"Reports: {classified}, in {self.report}."
        yield DISCLAIMER


@dataclass(frozen=True)
class Score:
    """The command `score`."""

    paths: Annotated[Positional[tuple[str, ...]], arg(metavar="PATH ...", help_behavior_hint="")]
    """Files, folders, or globs such as 'images/**/*.dcm'."""
    out: Annotated[Path, arg(metavar="CSV")]
    """The CSV file, one row per image."""
    model: ModelSource = None
    """hf-hub:owner/name@revision or local-dir:PATH."""
    operating_point: PointName = None
    """A threshold, as `pneumocam info` lists them."""
    prevalence: Prevalence = None
    """Share of pneumonia for which probabilities are stated, between 0 and 1."""
    resume: Flag = False
    """Keep the rows of --out and continue after them; rows with the code internal_error are repeated."""
    batch_size: Annotated[int, arg(metavar="N")] = 16
    """Images that are read and classified together."""
    force: Flag = False
    """Classify border cases that the guard refuses too; each is uncertain. A photograph stays rejected."""
    max_bytes: Size = "20MB"
    """Largest file that is read, such as 100MB."""
    engine: Literal["local", "ray"] = "local"
    """ray: all cores of a Ray cluster."""

    def run(self) -> int:
        """Write the table; returns 1 if no image could be classified."""
        settings = _settings(self)
        found, skipped = find_files(self.paths)
        # The table of an earlier run may lie among the images.
        files = [file for file in found if Path(file).resolve() != self.out.resolve()]
        if not files:
            raise ValueError(f"Nothing to score: no image in {', '.join(self.paths)}.")
        table = Table(self.out, resume=self.resume)
        done = {row["path"] for row in table.rows}
        rest = [file for file in files if file not in done]
        classifier = settings.classifier()  # an unusable model leaves the table as it is
        _make_folder("--out", self.out.parent)
        from tqdm import tqdm

        from pneumocam.score import score

        rows = score(rest, classifier, settings, self.engine) if rest else ()
        classified, total = sum(row["status"] != "rejected" for row in table.rows), len(table.rows) + len(rest)
        for row in tqdm(table.write(rows), "Scoring", len(rest), unit="image"):
            classified += row["status"] != "rejected"
        notes = f" {_skipped(skipped)}" if skipped else ""
        print(f"{classified} of {total} scored, {self.out} written.{notes} {DISCLAIMER}", file=sys.stderr)
        return 0 if classified else 1


@dataclass(frozen=True)
class Info:
    """The command `info`."""

    model: ModelSource = None
    """hf-hub:owner/name@revision or local-dir:PATH."""
    json: Flag = False
    """Print JSON."""

    def run(self) -> int:
        """Print the facts of the model."""
        from pneumocam.classifier import Classifier
        from pneumocam.predict import describe

        facts = describe(Classifier.from_pretrained(self.model))
        print(json.dumps(facts, indent=2) if self.json else "\n".join([*_facts(facts), DISCLAIMER]))
        return 0


@dataclass(frozen=True)
class Serve:
    """The command `serve`."""

    model: Annotated[str | None, _option("SOURCE", "PNEUMOCAM_MODEL, or else the bundled model")] = None
    """hf-hub:owner/name@revision or local-dir:PATH."""
    host: Annotated[str | None, _option("ADDRESS", "127.0.0.1")] = None
    """Address to listen at."""
    port: Annotated[int | None, _option("PORT", "7860")] = None
    """Port to listen at."""
    workers: Annotated[int | None, _option("N", "PNEUMOCAM_WORKERS, or else 1")] = None
    """Processes, each with its own copy of the model."""
    runtime: Annotated[Literal["torch", "onnx"] | None, _option("{torch,onnx}", "PNEUMOCAM_RUNTIME, or torch")] = None
    """What runs the network: torch, or onnx, which answers sooner and needs pip install 'pneumocam[onnx]'."""

    def run(self) -> int:
        """Serve until Ctrl-C."""
        if self.workers is not None and self.workers < 1:
            raise ValueError(f"--workers is {self.workers}; expected at least 1.")
        from pneumocam.service import serve

        serve(self.model, self.host, self.port, workers=self.workers, runtime=self.runtime)
        return 0


@dataclass(frozen=True)
class Static:
    """The command `static`."""

    out: Annotated[Positional[Path], arg(metavar="OUT", help_behavior_hint="")]
    """A new or empty folder."""
    model: ModelSource = None
    """hf-hub:owner/name@revision or local-dir:PATH."""
    onnxruntime_web: Annotated[Path | None, _option("DIR", "npm downloads it")] = None
    """The unpacked npm package onnxruntime-web."""

    def run(self) -> int:
        """Write the folder and say how to look at it."""
        from pneumocam.classifier import Classifier
        from pneumocam.static import write_static

        write_static(Classifier.from_pretrained(self.model), self.out, runtime=self.onnxruntime_web)
        print(f"{self.out} holds the page. To look at it: python -m http.server --directory {self.out}")
        return 0


Command = (
    Annotated[Predict, subcommand("predict", description=PREDICT)]
    | Annotated[Score, subcommand("score", description=SCORE)]
    | Annotated[Info, subcommand("info", description=INFO)]
    | Annotated[Serve, subcommand("serve", description=SERVE)]
    | Annotated[Static, subcommand("static", description=STATIC)]
)


def main(arguments: list[str] | None = None) -> int:
    """Run one command.

    Args:
        arguments: of the command line; None: this process's.

    Returns:
        0; 1 if no image could be classified or the output was closed; 2 if the command cannot be carried out.
    """
    given = sys.argv[1:] if arguments is None else arguments
    if given == ["--version"]:
        print(f"pneumocam {__version__}")
        return 0
    parse: Any = tyro.cli  # its annotations do not cover a union
    command: Predict | Score | Info | Serve | Static = parse(
        Command,
        prog="pneumocam",
        description=f"Pneumonia on chest radiographs. {DISCLAIMER}",
        args=given or ["--help"],
        config=(FlagCreatePairsOff,),
    )
    try:
        status = command.run()
        sys.stdout.flush()  # an error of a closed output is raised here
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # Python would print an error when it exits
        return 1
    except (OSError, ValueError, csv.Error) as error:  # BundleError is a ValueError
        print(f"pneumocam: {error}", file=sys.stderr)
        return 2
    return status


def _settings(options: Predict | Score) -> Settings:
    """Raises ValueError for values that no model takes."""
    if options.prevalence is not None and not 0 < options.prevalence < 1:
        raise ValueError(f"--prevalence is {options.prevalence}; expected a share between 0 and 1, such as 0.3.")
    batch_size = options.batch_size if isinstance(options, Score) else 16
    if batch_size < 1:
        raise ValueError(f"--batch-size is {batch_size}; expected at least 1.")
    max_bytes = parse_bytes(options.max_bytes)
    return Settings(options.model, options.operating_point, options.prevalence, max_bytes, batch_size, options.force)


def _make_folder(option: str, folder: Path) -> None:
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except (FileExistsError, NotADirectoryError):
        raise ValueError(
            f"{option}: {str(folder)!r} is a file or below one; expected a folder or a new name."
        ) from None


def _load(max_bytes: int) -> Callable[[Any], Any]:
    """`load_radiograph` that also reads standard input."""
    from pneumocam.image import load_radiograph

    def load(source: Any) -> Any:
        data = sys.stdin.buffer.read(max_bytes + 1) if source == STDIN else source
        return load_radiograph(data, max_bytes=max_bytes)

    return load


def _line(file: str, width: int, prediction: "Prediction") -> str:
    """Aligned columns: file, label, P(pneumonia), classes; then reason, other warnings and steps, if there are any."""
    status, reason, radiograph = prediction.status, prediction.reason, prediction.radiograph
    cells = [f"{file:{width}}", f"{status if status != 'ok' else prediction.label:9}"]
    if status != "rejected":
        cells.append(f"P(pneumonia) {prediction.p_pneumonia:6.1%} ")
        cells += [f"{name} {p:6.1%}" for name, p in prediction.probabilities.items()]
    if reason:
        cells.append(reason.message + _FORCE * reason.can_be_forced)
    cells += [warning.message for warning in prediction.warnings if not reason or warning.code != reason.code]
    if radiograph and radiograph.steps:
        cells.append(f"[{'; '.join(radiograph.steps)}]")
    return "  ".join(cells)


def _skipped(number: int) -> str:
    return f"Files skipped because they are no images: {number}."


def _facts(facts: dict[str, Any]) -> Iterator[str]:
    """What `describe` gives, in words."""
    yield f"model            {facts['model']['id']}"
    yield f"revision         {facts['model']['revision']}"
    yield f"labels           {', '.join(facts['labels'])}"
    yield "preprocessing    " + ", ".join(f"{key} {value}" for key, value in facts["preprocessing"].items())
    yield f"temperature      {facts['temperature']:.3f}"
    if facts["prevalence"] is not None:
        yield f"prevalence       {facts['prevalence']:.0%}"
    default, points = facts["operating_point"], facts["operating_points"].values()
    for point in (default, *(x for x in points if x != default)):
        title = "operating point" if point == default else ""
        yield f"{title:16} {point['name']}: pneumonia from P = {point['threshold']:.2f} on"
    try:
        yield from list(_metrics(facts["metrics"]))
    except (KeyError, TypeError):  # a file of another program
        yield "metrics          in another form than that of train.evaluate: see info --json"


def _metrics(metrics: Any) -> Iterator[str]:
    if metrics is None:
        yield "metrics          none with this bundle: python -m train.evaluate measures them"
        return
    yield f"metrics on {metrics['n']} images of {metrics['patients']} patients ({metrics['split']}), 95% intervals"
    figures = {
        f"{len(metrics['label_names'])}-class accuracy": metrics["multiclass"]["accuracy"],
        "binary accuracy": metrics["binary"]["accuracy"],
        "binary AUROC": metrics["binary"]["auroc"],
        "sensitivity": metrics["binary"]["sensitivity"],
        "specificity": metrics["binary"]["specificity"],
    }
    for name, figure in figures.items():
        yield f"{name:18} {_figure(figure)}"


def _figure(figure: Any) -> str:
    if figure["value"] is None:
        return "none"
    # No interval if all resamples agree, such as an AUROC of 1 on a few images.
    return f"{figure['value']:.3f}" + ("" if figure["low"] is None else f" [{figure['low']:.3f}, {figure['high']:.3f}]")


if __name__ == "__main__":
    raise SystemExit(main())
