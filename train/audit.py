"""Does a model read lungs or files? Baselines that see no lungs, and the same films saved, sized and toned otherwise.

In this dataset the compression and the size of a file tell the training classes apart (see the README's limits), so
good figures on held-out patients prove little. `baselines` says how far a classifier gets without any anatomy, and
`counterfactuals` what becomes of a model's answers when only the file changes. `python -m train.evaluate` runs both.
"""

import io
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageFilter, ImageOps, UnidentifiedImageError
from scipy.fft import dctn
from scipy.stats import spearmanr
from sklearn.ensemble import HistGradientBoostingClassifier
from sklearn.model_selection import StratifiedGroupKFold, cross_val_predict
from tqdm import tqdm

from pneumocam import Classifier, load_radiograph, predict_many
from pneumocam.image import MIN_SIDE
from train.data import BINARY
from train.metrics import Bools, Floats, Ints, binary_probability, bootstrap, evaluate, rate

# What the dataset's originals are like in the mean: width, height and JPEG quality of either class.
ENCODINGS = {"NORMAL": (1686, 1379, 95), "PNEUMONIA": (1195, 820, 75)}
COPY_SIDE = 224  # of the small copies of this dataset that go round, squashed to a square

Picture = Image.Image


# --- counterfactuals: (film as 8-bit grey, whether it has pneumonia) -> the bytes of another file


def _png(film: Picture) -> bytes:
    file = io.BytesIO()
    film.save(file, "PNG", compress_level=1)
    return file.getvalue()


def _jpeg(film: Picture, quality: int) -> bytes:
    file = io.BytesIO()
    film.save(file, "JPEG", quality=quality)
    return file.getvalue()


def _scaled(film: Picture, factor: float) -> bytes:
    factor = max(factor, MIN_SIDE / min(film.size))  # what is smaller would be refused
    size = (max(1, round(film.width * factor)), max(1, round(film.height * factor)))
    return _png(film.resize(size, Image.Resampling.BICUBIC))


def _squashed(film: Picture) -> bytes:
    """To a square of the same height; what is square already, to the dataset's usual 4:3."""
    width = film.height if abs(film.width / film.height - 1) > 0.05 else round(film.height * 4 / 3)
    return _png(film.resize((width, film.height), Image.Resampling.BICUBIC))


def _padded(film: Picture) -> bytes:
    """Black bars up to a square; what is square already, up to 4:3."""
    side = max(film.size)
    wide = abs(film.width / film.height - 1) <= 0.05
    return _png(ImageOps.pad(film, (round(side * 4 / 3) if wide else side, side), Image.Resampling.BICUBIC))


def _blurred(film: Picture) -> bytes:
    """By a Gaussian as wide as a pixel of the small copies."""
    return _png(film.filter(ImageFilter.GaussianBlur(max(film.size) / COPY_SIDE)))


def _stretched(film: Picture) -> bytes:
    return _png(ImageOps.autocontrast(film, cutoff=2))


def _toned(film: Picture, *, highlights: bool) -> bytes:
    """What is brighter than half, or else darker, loses seven tenths of its contrast."""
    curve = np.arange(256.0)
    part = curve > 127.5 if highlights else curve < 127.5
    curve[part] = 127.5 + 0.3 * (curve[part] - 127.5)
    return _png(film.point(curve.round().astype(int).tolist()))


def _encoded_as(film: Picture, pneumonia: bool) -> bytes:
    width, height, quality = ENCODINGS["PNEUMONIA" if pneumonia else "NORMAL"]
    return _jpeg(film.resize((width, height), Image.Resampling.BICUBIC), quality)


def _copied_as(film: Picture, pneumonia: bool) -> bytes:
    small = film.resize((COPY_SIDE, COPY_SIDE), Image.Resampling.BICUBIC)
    return _jpeg(small, ENCODINGS["PNEUMONIA" if pneumonia else "NORMAL"][2])


COUNTERFACTUALS: dict[str, Callable[[Picture, bool], bytes]] = {
    "PNG": lambda film, _: _png(film),
    "JPEG 95": lambda film, _: _jpeg(film, 95),
    "JPEG 75": lambda film, _: _jpeg(film, 75),
    "JPEG 50": lambda film, _: _jpeg(film, 50),
    "JPEG 30": lambda film, _: _jpeg(film, 30),
    "half size": lambda film, _: _scaled(film, 0.5),
    "double size": lambda film, _: _scaled(film, 2),
    "squashed": lambda film, _: _squashed(film),
    "padded": lambda film, _: _padded(film),
    "blurred": lambda film, _: _blurred(film),
    "stretched histogram": lambda film, _: _stretched(film),
    "flat highlights": lambda film, _: _toned(film, highlights=True),
    "flat shadows": lambda film, _: _toned(film, highlights=False),
    "own class's encoding": lambda film, pneumonia: _encoded_as(film, pneumonia),
    "other class's encoding": lambda film, pneumonia: _encoded_as(film, not pneumonia),
    "own class's encoding, small": lambda film, pneumonia: _copied_as(film, pneumonia),
    "other class's encoding, small": lambda film, pneumonia: _copied_as(film, not pneumonia),
}
"""The same film in another file; the class counts only where the classes' usual encodings are given or exchanged."""

RE_ENCODINGS = ("PNG", "JPEG 95", "JPEG 75", "JPEG 50", "JPEG 30", "half size", "double size")
"""Those that any program or chat may do to a film on its way here."""


def variants(name: str, paths: Sequence[Path], ill: Sequence[bool]) -> Iterator[bytes]:
    """The films at these paths in the files of one of COUNTERFACTUALS; ill: which of them have pneumonia."""
    for path, pneumonia in zip(paths, ill, strict=True):
        yield COUNTERFACTUALS[name](load_radiograph(path).to_pil(), pneumonia)


def answers(
    classifier: Classifier, films: Iterable[Path | bytes], total: int, caption: str, *, batch_size: int = 32
) -> Floats:
    """(N, K) probabilities for films that are all readable, the way of an upload."""
    predictions = predict_many(classifier, films, batch_size=batch_size)
    return np.array([list(p.probabilities.values()) for p in tqdm(predictions, caption, total, leave=False)])


def counterfactuals(
    answer: Callable[[Iterable[bytes], str], Floats],
    paths: Sequence[Path],
    labels: Ints,
    groups: Sequence[int],
    label_names: Sequence[str],
    *,
    original: Floats,
    threshold: float,
    uncertain: Bools,
    resamples: int = 1000,
    seed: int = 0,
) -> dict[str, Any]:
    """What becomes of a model's answers when the film stays and the file changes.

    Args:
        answer: encoded films and a caption for the progress bar -> (N, K) probabilities.
        paths: N readable films.
        labels: (N,) indices into label_names.
        groups: (N,) the patient of each.
        label_names: the K classes: NORMAL with either PNEUMONIA, or BACTERIAL and VIRAL.
        original: (N, K) probabilities for the films as they are.
        threshold: the operating point on P(pneumonia).
        uncertain: (N,) which of the original answers are called uncertain.
        resamples: of the bootstrap over patients.
        seed: of the bootstrap.

    Returns:
        `by_name`: for `original` and each of COUNTERFACTUALS the binary figures, and how far P(pneumonia) moved
        (median and 95th percentile) and the share of binary decisions that flipped; `worst`: the lowest AUROC,
        sensitivity and specificity among them all, the highest calibration error and the most flips;
        `any_re_encoding`: the share of films of which the decision flips under at least one of RE_ENCODINGS, and that
        share of the films not called uncertain (`flips_of_sure`). Rates and figures with 95% intervals.
    """
    ill = labels != label_names.index("NORMAL")
    intervals = {"resamples": resamples, "seed": seed}

    def figures(probabilities: Floats) -> dict[str, Any]:
        binary = evaluate(labels, probabilities, groups, label_names, threshold=threshold, **intervals)["binary"]
        return {name: binary[name] for name in ("auroc", "sensitivity", "specificity", "accuracy", "brier", "ece")}

    before = binary_probability(original, label_names)
    by_name: dict[str, Any] = {"original": figures(original)}
    flips = {}
    for name in COUNTERFACTUALS:
        probabilities = answer(variants(name, paths, ill.tolist()), name)
        after = binary_probability(probabilities, label_names)
        flips[name] = (after >= threshold) != (before >= threshold)
        by_name[name] = figures(probabilities) | {
            "shift_median": float(np.median(np.abs(after - before))),
            "shift_95th_percentile": float(np.quantile(np.abs(after - before), 0.95)),
            "flips": rate(flips[name], groups, **intervals),
        }
    worst = {
        figure: min(by_name, key=lambda name: by_name[name][figure]["value"] or 0)
        for figure in ("auroc", "sensitivity", "specificity")
    } | {
        figure: max(films, key=lambda name: by_name[name][figure]["value"])
        for figure, films in (("ece", by_name), ("flips", flips))
    }
    flipped, sure = np.any([flips[name] for name in RE_ENCODINGS], axis=0), ~uncertain
    return {
        "n": len(paths),
        "by_name": by_name,
        "worst": {figure: {"counterfactual": name} | by_name[name][figure] for figure, name in worst.items()},
        "any_re_encoding": {
            "flips": rate(flipped, groups, **intervals),
            "flips_of_sure": rate(flipped[sure], np.asarray(groups)[sure], **intervals),
        },
    }


# --- baselines


def file_facts(path: Path) -> list[float]:
    """Width, height, aspect ratio, bytes per pixel and mean luminance quantisation step (0 if no JPEG) of a file."""
    try:
        with Image.open(path) as picture:
            (width, height), tables = picture.size, getattr(picture, "quantization", {})
    except UnidentifiedImageError:  # a DICOM
        (width, height), tables = load_radiograph(path).to_pil().size, {}
    step = float(np.mean(tables[0])) if tables else 0.0
    return [width, height, width / height, path.stat().st_size / (width * height), step]


def spectrum(film: Picture, *, bands: int = 24) -> Floats:
    """(bands,) log power by spatial frequency, from a cycle across the film up to the finest of a 192 px input."""
    pixels = np.asarray(film.resize((192, 192), Image.Resampling.BICUBIC), dtype=np.float64)
    power = np.abs(np.fft.rfft2(pixels - pixels.mean())) ** 2 / max(pixels.var(), 1e-9)
    frequency = np.hypot(np.fft.fftfreq(192)[:, None], np.fft.rfftfreq(192)[None]) * 192  # cycles across the film
    band = np.digitize(frequency, np.linspace(0.5, 96, bands + 1)) - 1
    inside = (band >= 0) & (band < bands)
    total, count = (np.bincount(band[inside], w, bands) for w in (power[inside], None))
    logarithm: Floats = np.log(total / count + 1e-9)
    return logarithm


def blocks(film: Picture) -> Floats:
    """(63,) mean size of the cosine coefficients of 8 px blocks of a 192 px input: texture without any place."""
    pixels = np.asarray(film.resize((192, 192), Image.Resampling.BICUBIC), dtype=np.float64)
    tiles = pixels.reshape(24, 8, 24, 8).swapaxes(1, 2)  # (24, 24, 8, 8)
    mean = np.abs(dctn(tiles, axes=(2, 3), norm="ortho")).mean(axis=(0, 1)).ravel()[1:]
    logarithm: Floats = np.log(mean / mean.sum() + 1e-9)
    return logarithm


def baseline(
    features: NDArray[Any],
    labels: Ints,
    groups: Sequence[int],
    label_names: Sequence[str],
    *,
    answers: Floats,
    resamples: int = 1000,
    seed: int = 0,
) -> dict[str, Any] | None:
    """How well some features alone tell pneumonia from NORMAL, and how far a model's answers go along with them.

    Gradient-boosted trees, cross-validated by patient.

    Args:
        features: (N, F).
        labels: (N,) indices into label_names.
        groups: (N,) the patient of each.
        label_names: the classes, NORMAL among them.
        answers: (N,) the model's P(pneumonia).
        resamples: of the bootstrap over patients.
        seed: of the bootstrap and of the folds.

    Returns:
        `n`; the baseline's `auroc`; `dependence`, Spearman's correlation of its score with the model's answers among
        films of one class (mean of both): 0 for a model that takes no notice of the features, and above it also for
        one that sees in the lungs what goes with them, such as how ill a child is. Both with 95% intervals over
        patients. None where there are too few patients to cross-validate.
    """
    ill = labels != label_names.index("NORMAL")
    patients = [len({g for g, x in zip(groups, ill, strict=True) if x == value}) for value in (False, True)]
    if min(patients) < 5:
        return None
    folds = StratifiedGroupKFold(5, shuffle=True, random_state=seed)
    trees = HistGradientBoostingClassifier(random_state=seed)
    scores = cross_val_predict(trees, features, ill, groups=groups, cv=folds, method="predict_proba")  # (N, 2)
    figures = evaluate(ill.astype(int), scores, groups, BINARY, resamples=resamples, seed=seed)

    def along(films: Ints) -> float:
        classes = (films[ill[films] == value] for value in (False, True))
        return float(np.mean([_correlation(scores[of_class, 1], answers[of_class]) for of_class in classes]))

    dependence = bootstrap(along, groups, resamples=resamples, seed=seed)
    return {"n": len(labels), "auroc": figures["binary"]["auroc"], "dependence": dependence}


def _correlation(one: Floats, other: Floats) -> float:
    """Spearman's; 0 where one of the two never changes."""
    varies = len(one) > 0 and np.ptp(one) > 0 and np.ptp(other) > 0
    return float(spearmanr(one, other).statistic) if varies else 0.0
