"""Measure the saliency maps of a bundle: where they lie, whether they name what matters, and how steady they are.

    python -m train.maps model --data children=DIR adults=DIR --masks children=DIR

`train.evaluate` does the same among its other figures. This command measures the maps alone, puts them into the
bundle's metrics.json under `maps`, and writes its card anew.
"""

import json
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
import tyro
from numpy.typing import NDArray
from PIL import Image
from tqdm import tqdm

from pneumocam import BundleError, Classifier, Prediction, Radiograph, Saliency, load_radiograph, predict
from pneumocam.gradcam import grad_cam
from pneumocam.image.border import border
from pneumocam.regions import share_inside
from train.data import (
    DataError,
    LabelledImage,
    Source,
    build_manifest,
    largest_copies,
    masks_of,
    read_mask,
    roots_of,
    sources_from,
)
from train.faithfulness import (
    CHANGES,
    GRID,
    cascade,
    centre_map,
    faithfulness,
    heat_of,
    moved,
    random_map,
    rank_correlation,
)
from train.metrics import bootstrap

BORDER, CORNER = 10, 15  # cells: the outer 10% of the image, and corners of 15% by 15%, where markers stand
RANDOMISED = 50  # images of the randomisation check
IMPROBABLE = 0.05  # a class with a smaller probability should not glow

Bools = NDArray[np.bool_]
Figure = dict[str, float | None]


@dataclass(frozen=True, eq=False)
class MaskedImage:
    """An image of a source, its hand-drawn lung fields `(h, w)` of any size if there are any, and its patient."""

    path: Path
    source: str
    group: int
    lungs: Bools | None = None


@dataclass(frozen=True, eq=False)
class _Row:
    """What is measured of one image; a figure whose name has a dot is one of several of a kind."""

    label: str
    word: str
    source: str
    lungs: str  # who drew them
    figures: dict[str, float]  # of the map of the predicted class
    maps: list[tuple[str, float, float, float]]  # of each class: word, probability, peak, smallest correlation


def masked(
    images: Sequence[LabelledImage], sources: Sequence[Source], most: int, *, seed: int = 0
) -> list[MaskedImage]:
    """At most `most` images of each source, drawn by the seed, with their masks if the source has some.

    Raises:
        DataError: a source has masks, but none for its images.
    """
    roots, masks = roots_of(sources), masks_of(sources)
    result: list[MaskedImage] = []
    for source in dict.fromkeys(image.source for image in images):
        mine = [
            MaskedImage(roots[image.root] / image.path, source, image.group, read_mask(masks.get(source), image.path))
            for image in images
            if image.source == source
        ]
        known = [image for image in mine if image.lungs is not None] if source in masks else mine
        if not known:
            raise DataError(
                f"No image of {source} has a lung mask in {masks[source]}; expected files of the same path."
            )
        result += [known[i] for i in np.random.default_rng(seed).permutation(len(known))[:most]]
    return result


def measure_maps(
    classifier: Classifier, images: Sequence[MaskedImage], *, resamples: int = 1000, seed: int = 0
) -> dict[str, Any]:
    """Figures of the maps of some images, with the intervals of `train.metrics.evaluate`.

    Args:
        classifier: the model. Its guard finds the lung fields of an image without hand-drawn ones, and nothing else.
        images: radiographs that can be read, all with hand-drawn lung fields unless the model has a guard.
        resamples: bootstrap draws by patient, from 1.
        seed: of the draws, of the random baseline, and of random weights.

    Returns:
        `n`; `lungs`, the number of images by who drew their lung fields. `by_class` and `by_source`, for the map of
        the predicted class: `n`, `words` (how often which) and figures: `inside`, the share of the map's energy inside
        the lung fields, against `expected`, their share of the image, and `centre`, that of a Gaussian in the middle;
        `border` and `corners`, the shares in the outer 10% (36% of the image) and in the corners of 15% (9%);
        `deletion` and `insertion`, each of `map`, `random` and `centre`, and `gain`, how much better the map is than
        `centre`, see `train.faithfulness`; `moved`, by change, the correlation with the map of the changed image.
        `by_word`, over the maps of all classes: `n` and `moved`, the smallest of these correlations. `improbable`, over
        the maps of classes with a probability below 5%: `n`, the share that is `empty`, and `peak`, the brightest.
        `randomised`: see there.
    """
    rng = np.random.default_rng(seed)
    rows = [_row(classifier, image, rng) for image in tqdm(images, "Maps", leave=False)]
    groups = np.array([image.group for image in images])

    def mean(values: Sequence[float], among: NDArray[Any]) -> Figure:
        found = np.array(values)
        return bootstrap(lambda drawn: float(found[drawn].mean()), among, resamples=resamples, seed=seed)

    def figures(which: Sequence[int]) -> dict[str, Any]:
        means = {name: mean([rows[i].figures[name] for i in which], groups[list(which)]) for name in rows[0].figures}
        return {"n": len(which), "words": dict(Counter(rows[i].word for i in which)), **_nested(means)}

    def by(names: Sequence[str]) -> dict[str, Any]:
        return {one: figures([i for i, name in enumerate(names) if name == one]) for one in sorted(set(names))}

    flat = [(*one, group) for row, group in zip(rows, groups, strict=True) for one in row.maps]
    of_word = {word: [(least, group) for w, _, _, least, group in flat if w == word] for word, *_ in flat}
    dim = [(word, peak, group) for word, p, peak, _, group in flat if p < IMPROBABLE]
    few = rng.permutation(len(images))[:RANDOMISED]
    return {
        "n": len(images),
        "lungs": dict(Counter(row.lungs for row in rows)),
        "by_class": {**by([row.label for row in rows]), "all": figures(range(len(rows)))},
        "by_source": by([row.source for row in rows]),
        "by_word": {
            word: {"n": len(pairs), "moved": mean([pair[0] for pair in pairs], np.array([pair[1] for pair in pairs]))}
            for word, pairs in of_word.items()
        },
        "improbable": {
            "n": len(dim),
            "empty": mean([one[0] == "empty" for one in dim], np.array([one[2] for one in dim])) if dim else None,
            "peak": max((one[1] for one in dim), default=None),
        },
        "randomised": randomised(classifier, [images[i] for i in few], resamples=resamples, seed=seed),
    }


def _row(classifier: Classifier, image: MaskedImage, rng: np.random.Generator) -> _Row:
    unguarded = replace(classifier, guard=None)
    read = load_radiograph(image.path)
    prediction = predict(unguarded, read)
    radiograph = prediction.radiograph
    assert radiograph
    by_hand = None if image.lungs is None else _without(border(read.pixels), read, image.lungs)
    lungs = _lungs(classifier, radiograph) if by_hand is None else by_hand
    maps = {target: replace(one, lungs=lungs) for target, one in prediction.maps.items()}
    changed = {
        name: predict(unguarded, replace(radiograph, pixels=f(radiograph.pixels))) for name, f in CHANGES.items()
    }
    movement = {name: moved(one, {c: after.maps[name] for c, after in changed.items()}) for name, one in maps.items()}
    label = str(prediction.label)
    figures = _figures(unguarded, radiograph, maps[label], rng)
    return _Row(
        label,
        str(maps[label].quality),
        image.source,
        "by the guard" if by_hand is None else "by hand",
        figures | {f"moved.{name}": value for name, value in movement[label].items()},
        [
            (str(one.quality), prediction.probability(target), one.peak, min(movement[target].values()))
            for target, one in maps.items()
        ],
    )


def _without(cut: tuple[int, int, int, int], radiograph: Radiograph, lungs: Bools) -> NDArray[np.float32]:
    """A mask of any size that covers the radiograph, without what is cut off from it: `(h, w)` 0 or 1."""
    top, bottom, left, right = cut
    whole = Image.fromarray(lungs.astype(np.float32))
    x, y = whole.width / radiograph.width, whole.height / radiograph.height
    box = (left * x, top * y, whole.width - right * x, whole.height - bottom * y)
    return np.asarray(whole.resize(whole.size, Image.Resampling.NEAREST, box=box))


def _lungs(classifier: Classifier, radiograph: Radiograph) -> NDArray[np.float32]:
    """`(h, w)` in [0, 1], as the guard finds them."""
    found = classifier.guard(radiograph) if classifier.guard else None
    if found is None or found.lungs is None:
        raise DataError("An image has no lung mask, and the model has no guard to find its lung fields: give --masks.")
    return found.lungs


def _figures(
    classifier: Classifier, radiograph: Radiograph, saliency: Saliency, rng: np.random.Generator
) -> dict[str, float]:
    assert saliency.lungs is not None
    heat = heat_of(saliency)
    outer = np.ones((GRID, GRID), bool)
    outer[BORDER:-BORDER, BORDER:-BORDER] = False
    near = np.minimum(np.arange(GRID), np.arange(GRID)[::-1]) < CORNER  # (GRID,)
    middle = replace(saliency, cam=centre_map(), box=(0, 0, *saliency.size))
    figures = {
        "inside": saliency.inside or 0.0,
        "expected": saliency.expected_inside or 0.0,
        "centre": middle.inside or 0.0,
        "border": share_inside(heat, outer),
        "corners": share_inside(heat, near[:, None] & near[None]),
    }
    batch = classifier.transform(radiograph)[None]  # (1, C, H, W)
    for name, given in {"map": heat, "random": random_map(saliency.cam.shape, rng), "centre": centre_map()}.items():
        curves = faithfulness(classifier, batch, saliency.target, given)
        figures[f"deletion.{name}"], figures[f"insertion.{name}"] = curves
    figures["deletion.gain"] = figures["deletion.centre"] - figures["deletion.map"]  # less is better
    figures["insertion.gain"] = figures["insertion.map"] - figures["insertion.centre"]
    return figures


def _nested(figures: dict[str, Figure]) -> dict[str, Any]:
    """`{"a.b": x}` -> `{"a": {"b": x}}`."""
    nested: dict[str, Any] = {}
    for name, figure in figures.items():
        kind, _, one = name.partition(".")
        if one:
            nested.setdefault(kind, {})[one] = figure
        else:
            nested[kind] = figure
    return nested


def randomised(
    classifier: Classifier, images: Sequence[MaskedImage], *, resamples: int = 1000, seed: int = 0
) -> list[dict[str, Any]]:
    """How much of the maps is left when layers get random weights, one after the other, see `cascade`.

    Returns:
        For each layer: `layer`, `n` and `correlation`, the mean of Spearman's between the maps before and after, of
        the class predicted before.
    """
    unguarded = replace(classifier, guard=None)
    predictions: list[Prediction] = [predict(unguarded, load_radiograph(image.path)) for image in images]
    batch = torch.stack([classifier.transform(one.radiograph) for one in predictions if one.radiograph])  # (B, C, H, W)
    labels = [str(one.label) for one in predictions]
    result = []
    for layer, randomly in tqdm(cascade(classifier, seed), "Random weights", leave=False):
        cams = grad_cam(randomly, randomly.features(batch), labels)  # (B, h, w)
        values = np.array([rank_correlation(p.explain().cam, cam) for p, cam in zip(predictions, cams, strict=True)])
        mean = bootstrap(
            lambda drawn, values=values: float(values[drawn].mean()),  # type: ignore[misc]
            [image.group for image in images],
            resamples=resamples,
            seed=seed,
        )
        result.append({"layer": layer, "n": len(values), "correlation": mean})
    return result


# The command


@dataclass(frozen=True)
class Config:
    """What to measure."""

    model: tyro.conf.Positional[Path]
    """A bundle's folder with its metrics.json."""
    data: tuple[str, ...]
    """Sources as in train.fit, in the same order."""
    masks: tuple[str, ...] = ()
    """Hand-drawn lung fields, as in train.fit; the guard finds those of other sources."""
    labels: tuple[str, ...] = ()
    """As in train.fit."""
    images: int = 200
    """Largest number of validation images of each source, drawn by the seed."""
    resamples: int = 1000
    """Bootstrap resamples, by patient."""
    seed: int = 0


def run(config: Config) -> dict[str, Any]:
    """Measure the maps of validation images, and put the figures into the bundle's metrics.json and card.

    Raises:
        BundleError: the model cannot be loaded.
        DataError: the data or the masks cannot be read.
    """
    from train.evaluate import render_card  # which needs this module for its own figures

    classifier = Classifier.from_pretrained(f"local-dir:{config.model}")
    sources = sources_from(config.data, config.labels, config.masks)
    recipe = classifier.training.get("recipe", {})
    manifest = build_manifest(sources, val_fraction=recipe.get("val_fraction", 0.15), seed=recipe.get("split_seed", 0))
    images = masked(largest_copies(manifest.split("val"), roots_of(sources)), sources, config.images, seed=config.seed)
    measured = measure_maps(classifier, images, resamples=config.resamples, seed=config.seed)
    path = config.model / "metrics.json"
    metrics = json.loads(path.read_text()) if path.is_file() else {}
    metrics["maps"] = measured
    path.write_text(json.dumps(metrics, indent=2) + "\n")
    if "audit" in metrics:
        (config.model / "README.md").write_text(render_card(classifier, metrics))
    return measured


def main() -> None:
    try:
        measured = run(tyro.cli(Config, description=__doc__))
    except (DataError, BundleError) as error:
        raise SystemExit(f"train.maps: {error}") from None
    for name, figures in measured["by_class"].items():
        shown = {key: figures[key]["value"] for key in ("inside", "expected") if key in figures}
        print(name, figures["n"], figures.get("words"), *(f"{key} {value:.3f}" for key, value in shown.items()))


if __name__ == "__main__":
    main()
