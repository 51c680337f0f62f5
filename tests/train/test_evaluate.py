"""What is measured is what an upload gets, on the images that were asked for, and it is said which these are."""

import json
import math
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from pneumocam import Classifier, predict, predict_many
from tests.conftest import SUBTYPES, write_kaggle_folder
from tests.train.made import sources
from train import evaluate
from train.audit import COUNTERFACTUALS, SURROUNDINGS
from train.data import DataError, LabelledImage, Manifest, build_manifest, labelled_folder, sources_from
from train.evaluate import run
from train.fit import Config as TrainingConfig
from train.fit import fit
from train.metrics import binary_probability
from train.metrics import evaluate as measure
from train.scored import Scored, calibration

BINARY = ("NORMAL", "PNEUMONIA")
FIGURES = {"metrics.json", "confusion.png", "roc.png", "reliability.png", "risk_coverage.png"}

MakeFolder = Callable[..., Path]


@pytest.fixture
def bundle(trained: TrainingConfig, tmp_path: Path) -> Path:
    """A copy of the trained bundle, to write figures into."""
    return Path(shutil.copytree(trained.out / "bundle", tmp_path / "bundle"))


@pytest.fixture(scope="module")
def measured_once(trained: TrainingConfig, tmp_path_factory: pytest.TempPathFactory) -> tuple[dict[str, Any], Path]:
    """The validation images of the training measured, with a small audit, into an empty folder."""
    out = tmp_path_factory.mktemp("measured") / "new/out"
    bundle = trained.out / "bundle"
    return run(config(bundle, trained.data[0], out=out, audit=True, audit_images=4)), out


def config(model: Path | str, data: Path | str, **options: Any) -> evaluate.Config:
    """Without the audit, which takes sixteen times as long, unless asked for."""
    return evaluate.Config(str(model), (str(data),), **{"resamples": 50, "audit": False} | options)


def plain(report: dict[str, Any]) -> dict[str, Any]:
    """As it reads from a JSON file."""
    content: dict[str, Any] = json.loads(json.dumps(report))
    return content


# --- the validation images of a training


def test_validation_is_on_the_images_held_out_and_on_nothing_else(trained: TrainingConfig, bundle: Path) -> None:
    data = Path(trained.data[0])
    metrics = run(config(bundle, data))
    manifest = Manifest.read(trained.out / "manifest.csv", [data])
    assert metrics["manifest_sha256"] == manifest.sha256
    assert metrics["split"] == "validation, patients held out from training"
    assert json.loads((bundle / "metrics.json").read_text()) == plain(metrics)

    images = manifest.split("val")
    classifier = Classifier.from_pretrained(f"local-dir:{bundle}")
    predictions = list(predict_many(classifier, [data / image.path for image in images], batch_size=32))
    expected = measure(
        [SUBTYPES.index(image.label) for image in images],
        [list(p.probabilities.values()) for p in predictions],
        [image.group for image in images],
        SUBTYPES,
        threshold=classifier.operating_point.threshold,
        resamples=50,
        seed=0,
    )
    assert metrics.items() >= expected.items()
    assert expected["n"] == len(images) == 11
    uncertain = metrics["operating_points"]["balanced"]["uncertain"]["value"]
    assert uncertain == pytest.approx(np.mean([p.status == "uncertain" for p in predictions]))
    assert metrics["rejected"] == 0
    assert metrics["model"] == {"id": "local-dir:bundle", "revision": classifier.revision}
    assert (metrics["label_names"], metrics["operating_point"]) == (list(SUBTYPES), "balanced")


def test_it_agrees_with_the_training_about_the_same_images(
    bundle: Path, measured_once: tuple[dict[str, Any], Path]
) -> None:
    metrics, _ = measured_once
    best = json.loads((bundle / "pneumocam.json").read_text())["training"]["runs"][0]["best"]
    assert metrics["binary"]["auroc"]["value"] == pytest.approx(best["val_auroc"], abs=0.02)


def test_figures_stand_beside_the_metrics(bundle: Path, measured_once: tuple[dict[str, Any], Path]) -> None:
    _, out = measured_once
    assert {p.name for p in out.iterdir()} - {"failures.png"} == FIGURES | {"audit.png"}
    assert not (bundle / "metrics.json").exists()
    for name in ("confusion", "roc", "reliability"):
        path = out / f"{name}.png"
        with Image.open(path) as picture:
            assert (picture.format, picture.size) == ("PNG", (506, 440))
            assert len(np.unique(np.asarray(picture.convert("L")))) > 50
        assert path.stat().st_size < 200_000


def test_a_bundle_measured_in_place_gets_its_card_and_loads_with_its_metrics(
    trained: TrainingConfig, bundle: Path
) -> None:
    metrics = run(config(bundle, trained.data[0], audit=True, audit_images=4))
    assert {p.name for p in bundle.iterdir()} >= FIGURES | {"README.md", "audit.png"}
    assert Classifier.from_pretrained(f"local-dir:{bundle}").metrics == plain(metrics)


def test_it_is_reported_when_the_images_are_not_those_of_the_training(
    trained: TrainingConfig, bundle: Path, tmp_path: Path
) -> None:
    data = Path(shutil.copytree(trained.data[0], tmp_path / "data"))
    out = tmp_path / "out"
    assert run(config(bundle, data, out=out))["split"] == "validation, patients held out from training"
    (data / "train/NORMAL/IM-0000-0001.jpeg").unlink()
    split = run(config(bundle, data, out=out))["split"]
    assert split.endswith("on other data than it was trained on: images of it may have been trained on")


def test_a_run_that_was_given_a_manifest_is_measured_on_that_split(trained: TrainingConfig, tmp_path: Path) -> None:
    data = Path(trained.data[0])
    own = Manifest.read(trained.out / "manifest.csv", [data])
    moved = {"train": "val", "val": "train"}
    other = Manifest(tuple(replace(image, split=moved[image.split]) for image in own.images))
    other.write(tmp_path / "other.csv")
    bundle = fit(replace(trained, out=tmp_path / "run", manifest=tmp_path / "other.csv", epochs=1))
    metrics = run(config(bundle, data, manifest=tmp_path / "other.csv"))
    assert metrics["n"] == len(own.split("train"))
    assert metrics["split"] == "validation, patients held out from training"


def test_the_split_is_that_of_the_recipe(trained: TrainingConfig, bundle: Path, tmp_path: Path) -> None:
    path = bundle / "pneumocam.json"
    description = json.loads(path.read_text())
    description["training"]["recipe"] |= {"split_seed": 5, "val_fraction": 0.5}
    path.write_text(json.dumps(description))
    metrics = run(config(bundle, trained.data[0], out=tmp_path / "out"))
    assert metrics["n"] == 36
    assert metrics["split"].startswith("validation by the recipe's seed on other data")


# --- other images


def test_an_official_folder_is_measured_whole_and_alone(bundle: Path, make_kaggle_folder: MakeFolder) -> None:
    data = make_kaggle_folder(3, folders=("train", "val", "test"))
    out = bundle / "elsewhere"
    for split, n in (("test", 9), ("all", 27)):
        metrics = run(config(bundle, data, split=split, out=out))
        assert (metrics["n"], metrics["class_counts"]) == (n, dict.fromkeys(SUBTYPES, n // 3))
        assert metrics["split"] == f"{split}; not checked against the images trained on"
        assert metrics["command"] == f"python -m train.evaluate bundle --data DIR... --split {split}"
        assert metrics["manifest_sha256"] == labelled_folder(sources_from([str(data)])).sha256
        assert not (out / "README.md").exists()


def test_images_of_one_patient_count_as_one_in_the_intervals(bundle: Path, make_kaggle_folder: MakeFolder) -> None:
    data = make_kaggle_folder(3, folders=("",))
    for i in range(4):
        shutil.copy(data / "NORMAL/IM-3000-0001.jpeg", data / f"NORMAL/IM-3000-{i + 2:04d}.jpeg")
    metrics = run(config(bundle, data, split="all", out=data / "out"))
    # person3000 has bacterial images, person3500 viral ones, so there are nine patients.
    assert (metrics["n"], metrics["patients"]) == (13, 9)


def test_of_several_copies_the_largest_is_measured_and_each_source_on_its_own(
    trained: TrainingConfig, bundle: Path, tmp_path: Path
) -> None:
    data, larger = Path(trained.data[0]), write_kaggle_folder(tmp_path / "larger", 24, size=120)
    roots = (str(data), str(larger))
    both = run(replace(config(bundle, data, out=tmp_path / "out"), data=roots))
    manifest = build_manifest(sources(data, larger), val_fraction=0.15)
    images = [image for image in manifest.split("val") if image.root == 1]
    assert both["n"] == len(images)
    classifier = Classifier.from_pretrained(f"local-dir:{bundle}")
    answers = [predict(classifier, larger / image.path) for image in images]
    pneumonia = np.array([p.p_pneumonia for p in answers])
    ill = np.array([image.label != "NORMAL" for image in images])
    assert both["binary"]["brier"]["value"] == pytest.approx(((pneumonia - ill) ** 2).mean(), abs=1e-4)
    assert {name: part["n"] for name, part in both["by_folder"].items()} == {"0: data": 11, "1: larger": 11}
    assert {name: part["n"] for name, part in both["by_source"].items()} == {"data": 11}
    assert {name: part["n"] for name, part in both["by_size"].items()} == {"up to 256 px": 11}
    assert both["longer_side"]["largest"] == 120


def test_figures_are_given_by_the_size_of_the_originals_where_it_is_known(
    trained: TrainingConfig, bundle: Path, tmp_path: Path
) -> None:
    data = Path(trained.data[0])
    images = Manifest.read(trained.out / "manifest.csv", [data]).split("val")
    originals = tmp_path / "originals.csv"
    rows = [f"{image.path},{(900, 2000)[i % 2]},700,90000,5" for i, image in enumerate(images[:6])]
    originals.write_text("\n".join(["file,width,height,bytes,mean_luma_quantisation", *rows]) + "\n")
    metrics = run(config(bundle, data, out=tmp_path / "out", originals=originals))
    assert {name: part["n"] for name, part in metrics["by_size"].items()} == {
        "original unknown": 5,
        "257 up to 1024 px": 3,
        "1537 px and more": 3,
    }
    assert metrics["command"].endswith("--split val --originals CSV")
    originals.write_text("name\nimage.jpeg\n")
    with pytest.raises(DataError, match=r"^--originals .* cannot be used .*; expected a CSV with the columns file"):
        run(config(bundle, data, out=tmp_path / "out", originals=originals))


def test_each_operating_point_says_what_it_means(
    trained: TrainingConfig, bundle: Path, measured_once: tuple[dict[str, Any], Path]
) -> None:
    data = Path(trained.data[0])
    metrics, _ = measured_once
    classifier = Classifier.from_pretrained(f"local-dir:{bundle}")
    images = Manifest.read(trained.out / "manifest.csv", [data]).split("val")
    pneumonia = np.array([predict(classifier, data / image.path).p_pneumonia for image in images])
    labels = np.array([image.label for image in images])
    assert set(metrics["operating_points"]) == {"screening", "balanced", "rule_in"}
    for name, figures in metrics["operating_points"].items():
        called = pneumonia >= classifier.operating_points[name].threshold
        assert figures["threshold"] == classifier.operating_points[name].threshold
        assert figures["sensitivity"]["value"] == pytest.approx(called[labels != "NORMAL"].mean())
        assert figures["specificity"]["value"] == pytest.approx(1 - called[labels == "NORMAL"].mean())
        for label in SUBTYPES:
            assert figures["by_class"][label]["value"] == pytest.approx(called[labels == label].mean())


def test_the_audit_says_how_far_answers_hang_on_the_file(
    trained: TrainingConfig, bundle: Path, tmp_path: Path, measured_once: tuple[dict[str, Any], Path]
) -> None:
    metrics = run(config(bundle, trained.data[0], out=tmp_path / "out", audit=True, split="val"))
    audit = metrics["audit"]
    assert list(audit["counterfactuals"]["by_name"]) == ["original", *COUNTERFACTUALS, *SURROUNDINGS]
    assert audit["counterfactuals"]["by_name"]["original"]["auroc"] == metrics["binary"]["auroc"]
    png = audit["counterfactuals"]["by_name"]["PNG"]
    assert (png["shift_95th_percentile"], png["flips"]["value"]) == (pytest.approx(0, abs=1e-6), 0)
    worst = audit["counterfactuals"]["worst"]
    assert worst["auroc"]["value"] == min(x["auroc"]["value"] for x in audit["counterfactuals"]["by_name"].values())
    # Eleven images are too few patients to cross-validate a baseline.
    assert audit["baselines"] == dict.fromkeys(("file facts", "spectrum", "8 px blocks", "source and burned-in text"))
    assert (tmp_path / "out/audit.png").stat().st_size > 10_000
    few, _ = measured_once
    assert few["audit"]["counterfactuals"]["n"] == 4
    assert few["n"] == 11


def test_the_surest_mistakes_are_shown(bundle: Path, make_kaggle_folder: MakeFolder) -> None:
    data = make_kaggle_folder(3, folders=("test",))
    shutil.move(data / "test/NORMAL", data / "test/swapped")
    shutil.move(data / "test/PNEUMONIA", data / "test/NORMAL")
    (data / "test/PNEUMONIA").mkdir()
    for image in (data / "test/swapped").iterdir():
        image.rename(data / "test/PNEUMONIA" / f"person{image.stem[3:7]}_virus_1.jpeg")
    metrics = run(config(bundle, data, split="test", out=bundle / "out"))
    assert metrics["binary"]["accuracy"]["value"] < 0.5
    with Image.open(bundle / "out/failures.png") as picture:
        assert picture.width > 1000
        assert len(np.unique(np.asarray(picture))) > 100


def test_an_unreadable_image_is_counted_and_left_out(bundle: Path, make_kaggle_folder: MakeFolder) -> None:
    data = make_kaggle_folder(3, folders=("test",))
    options: dict[str, Any] = {"split": "test", "out": bundle / "out"}
    (data / "test/NORMAL/IM-2001-0001.jpeg").write_bytes(b"no picture")
    metrics = run(config(bundle, data, **options))
    assert (metrics["n"], metrics["rejected"]) == (8, 1)
    assert metrics["class_counts"] == {"NORMAL": 2, "BACTERIAL": 3, "VIRAL": 3}
    for path in data.rglob("*.jpeg"):
        path.write_bytes(b"no picture")
    with pytest.raises(
        DataError, match=r"^None of the 9 images could be read; .*IM-2000-0001.jpeg first: The upload is"
    ):
        run(config(bundle, data, **options))


def test_one_class_alone_has_no_roc_curve(bundle: Path, make_kaggle_folder: MakeFolder) -> None:
    data = make_kaggle_folder(3, folders=("test",))
    shutil.rmtree(data / "test/PNEUMONIA")
    metrics = run(config(bundle, data, split="test", out=bundle / "out"))
    assert metrics["binary"]["auroc"] == {"value": None, "low": None, "high": None}
    assert not math.isnan(metrics["binary"]["specificity"]["value"])
    assert {p.name for p in (bundle / "out").iterdir()} - {"failures.png"} == FIGURES - {"roc.png"}


# --- two labels and three


def test_a_model_of_subtypes_is_measured_in_two_classes_where_images_have_none(
    bundle: Path, make_kaggle_folder: MakeFolder
) -> None:
    data = make_kaggle_folder(4, folders=("test",), subtypes=False)
    metrics = run(config(bundle, data, split="test", out=bundle / "out"))
    assert metrics["class_counts"] == {"NORMAL": 4, "PNEUMONIA": 8}
    assert "subtype" not in metrics
    classifier = Classifier.from_pretrained(f"local-dir:{bundle}")
    images = labelled_folder(sources(data)).images
    answers = [predict(classifier, data / image.path) for image in images]
    pneumonia = binary_probability([list(p.probabilities.values()) for p in answers], SUBTYPES)
    truth = np.array([image.label == "PNEUMONIA" for image in images])
    right = (pneumonia >= classifier.operating_point.threshold) == truth
    assert metrics["multiclass"]["accuracy"]["value"] == metrics["binary"]["accuracy"]["value"] == right.mean()
    assert metrics["binary"]["brier"]["value"] == pytest.approx(((pneumonia - truth) ** 2).mean(), rel=1e-4)


def test_a_model_of_two_classes_is_measured_on_images_with_subtypes(
    make_bundle: Callable[..., Path], make_kaggle_folder: MakeFolder
) -> None:
    bundle = make_bundle("test_resnet", labels=BINARY)
    metrics = run(config(bundle, make_kaggle_folder(4, folders=("",)), split="all", out=bundle / "out"))
    assert metrics["label_names"] == list(BINARY)
    assert metrics["class_counts"] == dict.fromkeys(SUBTYPES, 4)
    assert np.array(metrics["binary"]["confusion_matrix"]).sum(axis=1).tolist() == [4, 8]


def test_a_model_of_two_classes_is_measured_in_place(
    trained: TrainingConfig, tmp_path: Path, make_kaggle_folder: MakeFolder
) -> None:
    data = make_kaggle_folder(8, subtypes=False)
    changes: dict[str, Any] = {"out": tmp_path / "run", "epochs": 1, "train_size": 32}
    bundle = fit(replace(trained, data=(str(data),), **changes))
    metrics = run(config(bundle, data, audit=True, audit_images=2))
    assert metrics["split"] == "validation, patients held out from training"
    assert set(metrics["class_counts"]) == set(BINARY)
    assert "{{" not in (bundle / "README.md").read_text()


# --- several sources


@pytest.fixture(scope="module")
def of_two(trained: TrainingConfig, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """Figures of children with subtypes and adults without, the adults' normal images with text in a corner."""
    folder = tmp_path_factory.mktemp("two")
    adults = write_kaggle_folder(folder / "adults", 12, folders=("",), subtypes=False, size=224)
    for path in (adults / "NORMAL").iterdir():
        with Image.open(path) as picture:
            pixels = np.array(picture)
        pixels[:40, :50] //= 2
        for k in range(4):
            pixels[8:28, 4 + 8 * k : 8 + 8 * k] = 250
        Image.fromarray(pixels).save(path, quality=95)
    data = (f"children={trained.data[0]}", f"adults={adults}")
    model = str(trained.out / "bundle")
    return run(evaluate.Config(model, data, split="all", out=folder / "out", resamples=20, audit_images=6))


def test_figures_are_given_for_each_source_and_over_all(of_two: dict[str, Any]) -> None:
    assert {name: one["n"] for name, one in of_two["by_source"].items()} == {"children": 72, "adults": 36}
    assert of_two["n"] == 108
    assert of_two["class_counts"] == {"NORMAL": 36, "BACTERIAL": 24, "VIRAL": 24, "PNEUMONIA": 24}
    assert np.sum(of_two["binary"]["confusion_matrix"]) == 108
    assert np.sum(of_two["multiclass"]["confusion_matrix"]) == 84  # the adults' pneumonia has no known subtype
    for one in of_two["by_source"].values():
        assert set(one["operating_points"]) == {"balanced", "screening", "rule_in"}
    flips = of_two["audit"]["counterfactuals"]["any_re_encoding"]["by_source"]
    assert set(flips) == {"children", "adults"}
    assert of_two["command"].startswith("python -m train.evaluate bundle --data children=DIR adults=DIR ")


def scored(pneumonia: np.ndarray, ill: np.ndarray, source: str) -> Scored:
    labels = ["PNEUMONIA" if one else "NORMAL" for one in ill]
    images = [
        LabelledImage(source, str(i), 0, "", label, str(i), str(i), "", group=i) for i, label in enumerate(labels)
    ]
    both = np.stack([1 - pneumonia, pneumonia], axis=1)
    none = np.zeros(len(ill), bool)
    return Scored(images, [Path(source)] * len(ill), [[]] * len(ill), none, both, ("NORMAL", "PNEUMONIA"))


def test_probabilities_are_judged_at_the_prevalence_of_each_source() -> None:
    true = np.repeat([0.1, 0.5, 0.8], [300, 100, 200])
    ill = np.concatenate([np.arange(n) < round(n * p) for n, p in ((300, 0.1), (100, 0.5), (200, 0.8))])
    prevalence = float(ill.mean())  # 0.4
    odds = true / (1 - true) / (prevalence / (1 - prevalence))  # restated for 50%
    one = scored(odds / (1 + odds), ill, "one")
    other = scored(1 - odds / (1 + odds), ~ill, "other")  # 60% are ill
    for parts in ([one], [other], [one, other], [one, scored(np.ones(9), np.ones(9, bool), "all ill")]):
        found = calibration(parts, 0.5, resamples=20)
        assert found["ece"]["value"] == pytest.approx(0, abs=1e-9)
        assert 0.01 < found["ece_of_calibrated"] < 0.06
    assert found["prevalence"] == pytest.approx(prevalence)
    wrong = calibration([one], 0.2, resamples=20)  # as if they were stated for 20%
    assert wrong["ece"]["value"] > 0.1
    assert calibration([scored(np.ones(9), np.ones(9, bool), "all ill")], 0.5) == {}


def test_groups_of_class_and_text_have_their_share_right(of_two: dict[str, Any]) -> None:
    groups = {(row["source"], row["ill"], row["text"]): row for row in of_two["by_console"]["groups"]}
    assert groups["adults", False, True]["n"] == 12
    assert ("adults", False, False) not in groups
    specificity = of_two["by_source"]["adults"]["specificity"]["value"]
    assert groups["adults", False, True]["right"]["value"] == pytest.approx(specificity)
    worst = of_two["by_console"]["worst"]["specificity"]
    assert worst["right"]["value"] == min(row["right"]["value"] for row in groups.values() if not row["ill"])


def test_errors_inside_and_outside_of_the_band_are_all_errors(of_two: dict[str, Any]) -> None:
    for one in (of_two, *of_two["by_source"].values()):
        point = one["operating_points"]["balanced"]
        inside = point["uncertain"]["value"]
        parts = ((inside, point["errors_inside"]), (1 - inside, point["errors_outside"]))
        errors = sum(share * figure["value"] for share, figure in parts if share)
        assert errors == pytest.approx(1 - point["accuracy"]["value"])


# --- what is refused, and the command


def test_what_cannot_be_measured_is_refused(bundle: Path, make_kaggle_folder: MakeFolder) -> None:
    data = make_kaggle_folder(2)
    with pytest.raises(DataError, match=r"^Give --out DIR: only validation figures belong in the bundle's own folder"):
        run(config(bundle, data, split="test"))
    with pytest.raises(DataError, match=r"^Give --out DIR"):
        run(config("bundled", data))
    with pytest.raises(DataError, match=r"^No images of --split test; found {'train': 6}"):
        run(config(bundle, data, split="test", out=bundle / "out"))
    with pytest.raises(DataError, match=r"absent is not a folder"):
        run(config(bundle, data / "absent", split="all", out=bundle / "out"))
    assert not (bundle / "out").exists()


def test_the_command_prints_intervals_and_itself(
    bundle: Path,
    make_kaggle_folder: MakeFolder,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    data, out = make_kaggle_folder(3, folders=("test",)), bundle / "out"
    arguments = [str(bundle), "--data", str(data), "--split", "test", "--out", str(out), "--resamples", "20"]
    monkeypatch.setattr("sys.argv", ["evaluate.py", *arguments])
    evaluate.main()
    printed = capsys.readouterr().out
    assert printed.startswith("9 images, 9 patient groups: test; not checked against the images trained on\n")
    binary = json.loads((out / "metrics.json").read_text())["binary"]
    brier = binary["brier"]
    assert f"binary      brier              {brier['value']:.4f} [{brier['low']:.4f}, {brier['high']:.4f}]\n" in printed
    assert binary["auroc"] == {"value": 1, "low": None, "high": None}  # of nine easy images
    assert "binary      auroc              1.0000\n" in printed
    assert printed.endswith(f"$ python -m train.evaluate {' '.join(arguments)}\n")

    (bundle / "model.safetensors").unlink()
    with pytest.raises(SystemExit, match=r"^train.evaluate: .*model.safetensors is missing"):
        evaluate.main()
