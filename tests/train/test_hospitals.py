"""Runs of one source are measured on another one whole, and on their own by their validation images alone."""

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from pneumocam import Classifier, predict
from tests.conftest import write_kaggle_folder
from train.data import DataError, Manifest
from train.fit import Config as TrainingConfig
from train.fit import fit
from train.hospitals import Config, run


def test_a_row_for_each_pair_of_sources(trained: TrainingConfig, tmp_path: Path) -> None:
    children = trained.data[0]
    adults = write_kaggle_folder(tmp_path / "adults", 12, folders=("",), subtypes=False, size=64)
    quick = replace(trained, epochs=1, calibrate=False)
    one, two, both = (tmp_path / name for name in ("one", "two", "both"))
    fit(replace(quick, data=(f"children={children}",), out=one))
    fit(replace(quick, data=(f"children={children}",), out=two, seed=1))
    fit(replace(quick, data=(f"children={children}", f"adults={adults}"), out=both))
    held = Manifest.read(both / "manifest.csv", [Path(children), adults]).split("val")

    data = (f"children={children}", f"adults={adults}")
    out = tmp_path / "hospitals.json"
    rows = run(Config((one, two, both), data, out=out, resamples=20))
    assert json.loads(out.read_text()) == rows
    assert [(r["trained_on"], r["measured_on"], r["seeds"], r["epochs"]) for r in rows] == [
        ("children", "children", 2, "1"),
        ("children", "adults", 2, "1"),
        ("children + adults", "children", 1, "1"),
        ("children + adults", "adults", 1, "1"),
    ]
    assert {row["started_from"] for row in rows} == {"scratch"}
    assert [row["n"] for row in rows] == [11, 36, 11, sum(image.source == "adults" for image in held)]
    right: dict[bool, list[bool]] = {False: [], True: []}
    for folder in (one, two):
        classifier = Classifier.from_pretrained(f"local-dir:{folder / 'bundle'}")
        for path in sorted(adults.rglob("*.jpeg")):
            ill = path.parent.name == "PNEUMONIA"
            p = predict(classifier, path).p_pneumonia
            assert p is not None
            right[ill].append((p >= 0.5) == ill)
    assert rows[1]["sensitivity"]["value"] == pytest.approx(np.mean(right[True]))
    assert rows[1]["specificity"]["value"] == pytest.approx(np.mean(right[False]))

    with pytest.raises(DataError, match="absent is no finished run"):
        run(Config((tmp_path / "absent",), data, out=out))
