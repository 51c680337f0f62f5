"""What tells chest radiographs from other pictures: signs of the guard, and signs that it does not use.

    python -m benchmarks.guard --data children=DIR children=DIR2 adults=DIR3 --others others/held_out

Radiographs are those of held-out patients, other pictures those of collections that the guard was not fitted on. The
sources are those of the classifier, in their order. Images count as they are: none is turned or refused for its colour
first. Writes guard.json.
"""

import json
from collections.abc import Iterable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
import tyro
from scipy.special import logsumexp, softmax
from sklearn.metrics import roc_auc_score
from sklearn.neighbors import NearestNeighbors
from tqdm import tqdm

from pneumocam import Classifier, load_radiograph
from pneumocam.guard import Guard, Inspection, normalised, thumbnail
from pneumocam.image import Radiograph
from train.data import build_manifest, largest_copies, roots_of, sources_from
from train.guard.measure import readable_pictures, score
from train.metrics import Floats, Ints, bootstrap, rate

RESULT = Path(__file__).with_suffix(".json")
NEIGHBOUR = 10  # the distance to the k-th nearest: Sun et al., "Out-of-Distribution Detection with Deep Nearest
# Neighbors", ICML 2022
KEPT = 0.99  # of the radiographs, at the threshold of each sign


def signs(classifier: Classifier, guard: Guard, radiograph: Radiograph) -> tuple[dict[str, float], Floats]:
    """Of one image: signs by name, larger for what looks more like a radiograph; and its whitened features (64,)."""
    with torch.no_grad():
        lungs, heads, features = guard.network(normalised(thumbnail(radiograph.pixels)[None]))
        logits = classifier.head(classifier.features(classifier.transform(radiograph)[None]))[0].double().numpy()
    measures = guard.measures(lungs, heads, features)
    found = {
        "guard: head `chest`": measures["chest"],
        "guard: Mahalanobis distance of features": -measures["distance"],
        "guard: both, as in use": score(guard, Inspection(radiograph, measures=measures)),
        "classifier: energy (Liu et al. 2020)": float(logsumexp(logits)),
        "classifier: largest probability": float(softmax(logits / classifier.temperature).max()),
    }
    return found, ((features[0] - guard.centre) @ guard.whitening).numpy()


def values_of(
    classifier: Classifier, guard: Guard, near: NearestNeighbors, images: Iterable[Radiograph]
) -> dict[str, Floats]:
    """Each sign of many images, (N,)."""
    named, features = zip(*(signs(classifier, guard, image) for image in images), strict=True)
    distance = near.kneighbors(np.stack(features))[0][:, -1]
    return {name: np.array([one[name] for one in named]) for name in named[0]} | {
        f"guard: distance to the {NEIGHBOUR}th nearest training radiograph": -distance
    }


def compared(real: Floats, patients: list[int], others: Floats) -> dict[str, Any]:
    """AUROC of a sign, and the share of other pictures that it refuses where it keeps KEPT of the radiographs."""
    values, truth = np.concatenate([real, others]), np.arange(len(real) + len(others)) < len(real)
    groups = np.array([*patients, *(-1 - np.arange(len(others)))])

    def auroc(drawn: Ints) -> float:
        return float(roc_auc_score(truth[drawn], values[drawn])) if 0 < truth[drawn].sum() < len(drawn) else np.nan

    refused = others < np.quantile(real, 1 - KEPT)
    return {"auroc": bootstrap(auroc, groups), "refused": rate(refused, np.arange(len(others)))}


def main(
    data: tuple[str, ...], others: Path, model: str | None = None, reference: int = 500, out: Path = RESULT
) -> None:
    """Write the comparison.

    Args:
        data: sources as in train.fit.
        others: pictures that are no frontal chest radiograph, in a folder for each kind.
        model: a bundle with a guard; by default the bundled one.
        reference: training radiographs of each source among which neighbours are looked for.
        out: a JSON file.
    """
    classifier = Classifier.from_pretrained(model)
    guard = classifier.guard
    assert guard
    sources = sources_from(data)
    roots, manifest = roots_of(sources), build_manifest(sources)

    def read(split: str, source: str) -> tuple[list[Path], list[int]]:
        own = largest_copies([one for one in manifest.split(split) if one.source == source], roots)
        return [roots[one.root] / one.path for one in own], [one.group for one in own]

    names = list(dict.fromkeys(source.name for source in sources))
    paths = []
    for name in names:
        images, _ = read("train", name)
        paths += [images[i] for i in np.random.default_rng(0).permutation(len(images))[:reference]]
    of_training = [signs(classifier, guard, load_radiograph(path))[1] for path in tqdm(paths, "Training", leave=False)]
    near = NearestNeighbors(n_neighbors=NEIGHBOUR).fit(np.stack(of_training))
    value_of = partial(values_of, classifier, guard, near)
    pictures = value_of(one for _, one in tqdm(readable_pictures(others), "Other pictures", leave=False))
    found: dict[str, Any] = {}
    for name in names:
        images, patients = read("val", name)
        real = value_of(load_radiograph(path) for path in tqdm(images, name, leave=False))
        for sign, values in real.items():
            found.setdefault(sign, {})[name] = compared(values, patients, pictures[sign])
    n = len(next(iter(pictures.values())))
    about = {"model": classifier.revision, "others": n, "reference": len(paths), "kept": KEPT}
    out.write_text(json.dumps(about | {"signs": found}, indent=2) + "\n")


if __name__ == "__main__":
    tyro.cli(main, description=__doc__)
