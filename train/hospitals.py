"""Leave one hospital out: networks trained on some sources, measured on images of every source.

    python -m train.hospitals runs/children-0 runs/children-1 runs/adults-0 runs/both-0 --data children=DIR adults=DIR

writes hospitals.json, which `python -m train.evaluate` puts into metrics.json and on the card. Of a source that a run
trained on, only the run's own validation images count; of another source all images do.
"""

import json
from collections import defaultdict
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import tyro

from pneumocam import Classifier
from train.data import DataError, LabelledImage, Manifest, labelled_folder, largest_copies, roots_of, sources_from
from train.evaluate import HOSPITALS, score
from train.fit import read_config
from train.scored import Scored, over_seeds

Facts = dict[str, Any]  # of a run: the weights it started from, and its epochs


@dataclass(frozen=True)
class Config:
    """What to compare."""

    runs: tyro.conf.Positional[tuple[Path, ...]]
    """Finished runs of train.fit; those of the same sources are seeds of one row."""
    data: tuple[str, ...]
    """The sources to measure on, as in train.fit, with the names that the runs gave them."""
    labels: tuple[str, ...] = ()
    """As in train.fit."""
    out: Path = Path("model") / HOSPITALS
    """The file to write."""
    resamples: int = 1000
    """Bootstrap resamples, by patient."""
    seed: int = 0


def run(config: Config) -> list[dict[str, Any]]:
    """Measure, write the file and return its rows.

    Returns:
        For each combination of training sources and each source: `trained_on`, `seeds` (how many), `started_from`
        (imagenet, scratch or the name of a file of weights), `epochs` of the run, `measured_on`, `n`, and the mean over
        the seeds of AUROC, sensitivity and specificity at even odds, with 95% intervals over patients.

    Raises:
        DataError: a run is missing or unfinished, or runs of one row were validated on different images.
    """
    sources = sources_from(config.data, config.labels)
    whole = labelled_folder(sources)
    found: dict[tuple[str, str], list[tuple[Facts, Scored]]] = defaultdict(list)
    for folder in config.runs:
        if not (folder / "bundle" / "pneumocam.json").is_file():
            raise DataError(f"{folder} is no finished run of train.fit; start it, or go on with it by --resume.")
        classifier = Classifier.from_pretrained(f"local-dir:{folder / 'bundle'}")
        own = _validation(folder)
        facts = {
            "started_from": classifier.training["recipe"]["init"],
            "epochs": classifier.training["runs"][0]["epochs"],
        }
        for source in whole.sources:
            images = [image for image in whole.images if image.source == source]
            if source in own:
                images = [image for image in images if image.key in own[source]]
            images = largest_copies(images, roots_of(sources))
            found[" + ".join(own), source].append((facts, score(classifier, images, sources)))
    rows = [_row(*key, seeds, config) for key, seeds in found.items()]
    config.out.write_text(json.dumps(rows, indent=2) + "\n")
    return rows


def _validation(folder: Path) -> dict[str, set[object]]:
    """The keys of a run's validation images, by source."""
    config = read_config(folder)
    manifest = Manifest.read(folder / "manifest.csv", roots_of(sources_from(config.data, config.labels)))

    def keys(images: list[LabelledImage], source: str) -> set[object]:
        return {image.key for image in images if image.source == source}

    return {source: keys(manifest.split("val"), source) for source in manifest.sources}


def _row(trained_on: str, measured_on: str, seeds: list[tuple[Facts, Scored]], config: Config) -> dict[str, Any]:
    first = seeds[0][1]
    if any(one.images != first.images for _, one in seeds):
        raise DataError(f"The runs of {trained_on} have other validation images of {measured_on} than each other.")
    return {
        "trained_on": trained_on,
        "seeds": len(seeds),
        **{name: "/".join(sorted({str(facts[name]) for facts, _ in seeds})) for name in seeds[0][0]},
        "measured_on": measured_on,
        **over_seeds([one for _, one in seeds], resamples=config.resamples, seed=config.seed),
    }


def main() -> None:
    try:
        rows = run(tyro.cli(Config, description=__doc__))
    except DataError as error:
        raise SystemExit(f"train.hospitals: {error}") from None
    for row in rows:
        figures = " ".join(f"{name} {row[name]['value']:.3f}" for name in ("auroc", "sensitivity", "specificity"))
        print(f"{row['trained_on']} on {row['measured_on']} ({row['n']} images, {row['seeds']} seeds): {figures}")


if __name__ == "__main__":
    main()
