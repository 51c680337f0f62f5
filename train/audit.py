"""Does a model read lungs, or files and consoles? Baselines without lungs, and the same images changed elsewhere.

In the children's data set the compression and the size of a file tell the training classes apart (see the README's
limits), and so does text that a console burns in; good figures on held-out patients prove little. `baseline` says how
far a classifier gets without any anatomy, and `counterfactuals` how a model's predictions change when only the file or
the surroundings of the lungs change. `python -m train.evaluate` runs both.
"""

import io
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
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
from train.data import BINARY, DataError
from train.data.surroundings import Mask, Pixels, burned_in, erased, outside_of, replaced, with_text
from train.metrics import Bools, Floats, Ints, bootstrap, evaluate, rate

# What the dataset's originals are like in the mean: width, height and JPEG quality of either class.
ENCODINGS = {"NORMAL": (1686, 1379, 95), "PNEUMONIA": (1195, 820, 75)}
COPY_SIDE = 224  # of the small copies of this dataset that go round, squashed to a square

Picture = Image.Image


# --- counterfactuals: (image in 8-bit grey, whether it has pneumonia) -> the bytes of another file


def _png(image: Picture) -> bytes:
    file = io.BytesIO()
    image.save(file, "PNG", compress_level=1)
    return file.getvalue()


def _jpeg(image: Picture, quality: int) -> bytes:
    file = io.BytesIO()
    image.save(file, "JPEG", quality=quality)
    return file.getvalue()


def _scaled(image: Picture, factor: float) -> bytes:
    factor = max(factor, MIN_SIDE / min(image.size))  # what is smaller would be refused
    size = (max(1, round(image.width * factor)), max(1, round(image.height * factor)))
    return _png(image.resize(size, Image.Resampling.BICUBIC))


def _squashed(image: Picture) -> bytes:
    """To a square of the same height; a square image to the data set's usual 4:3."""
    width = image.height if abs(image.width / image.height - 1) > 0.05 else round(image.height * 4 / 3)
    return _png(image.resize((width, image.height), Image.Resampling.BICUBIC))


def _padded(image: Picture) -> bytes:
    """Black bars up to a square; for a square image up to 4:3."""
    side = max(image.size)
    wide = abs(image.width / image.height - 1) <= 0.05
    return _png(ImageOps.pad(image, (round(side * 4 / 3) if wide else side, side), Image.Resampling.BICUBIC))


def _blurred(image: Picture) -> bytes:
    """By a Gaussian as wide as a pixel of the small copies."""
    return _png(image.filter(ImageFilter.GaussianBlur(max(image.size) / COPY_SIDE)))


def _stretched(image: Picture) -> bytes:
    return _png(ImageOps.autocontrast(image, cutoff=2))


def _toned(image: Picture, *, highlights: bool) -> bytes:
    """The brighter or the darker half of the grey levels loses seven tenths of its contrast."""
    curve = np.arange(256.0)
    part = curve > 127.5 if highlights else curve < 127.5
    curve[part] = 127.5 + 0.3 * (curve[part] - 127.5)
    return _png(image.point(curve.round().astype(int).tolist()))


def _encoded_as(image: Picture, pneumonia: bool) -> bytes:
    width, height, quality = ENCODINGS["PNEUMONIA" if pneumonia else "NORMAL"]
    return _jpeg(image.resize((width, height), Image.Resampling.BICUBIC), quality)


def _copied_as(image: Picture, pneumonia: bool) -> bytes:
    small = image.resize((COPY_SIDE, COPY_SIDE), Image.Resampling.BICUBIC)
    return _jpeg(small, ENCODINGS["PNEUMONIA" if pneumonia else "NORMAL"][2])


COUNTERFACTUALS: dict[str, Callable[[Picture, bool], bytes]] = {
    "PNG": lambda image, _: _png(image),
    "JPEG 95": lambda image, _: _jpeg(image, 95),
    "JPEG 75": lambda image, _: _jpeg(image, 75),
    "JPEG 50": lambda image, _: _jpeg(image, 50),
    "JPEG 30": lambda image, _: _jpeg(image, 30),
    "half size": lambda image, _: _scaled(image, 0.5),
    "double size": lambda image, _: _scaled(image, 2),
    "squashed": lambda image, _: _squashed(image),
    "padded": lambda image, _: _padded(image),
    "blurred": lambda image, _: _blurred(image),
    "stretched histogram": lambda image, _: _stretched(image),
    "flat highlights": lambda image, _: _toned(image, highlights=True),
    "flat shadows": lambda image, _: _toned(image, highlights=False),
    "own class's encoding": lambda image, pneumonia: _encoded_as(image, pneumonia),
    "other class's encoding": lambda image, pneumonia: _encoded_as(image, not pneumonia),
    "own class's encoding, small": lambda image, pneumonia: _copied_as(image, pneumonia),
    "other class's encoding, small": lambda image, pneumonia: _copied_as(image, not pneumonia),
}
"""The same image in another file; the class counts only where the classes' usual encodings are given or exchanged."""

RE_ENCODINGS = ("PNG", "JPEG 95", "JPEG 75", "JPEG 50", "JPEG 30", "half size", "double size")
"""What any program or chat may do to an image on its way here."""


def variants(name: str, paths: Sequence[Path], ill: Sequence[bool]) -> Iterator[bytes]:
    """The images at these paths in the files of one of COUNTERFACTUALS; ill: which of them have pneumonia."""
    for path, pneumonia in zip(paths, ill, strict=True):
        yield COUNTERFACTUALS[name](load_radiograph(path).to_pil(), pneumonia)


SURROUNDINGS = ("text removed", "other class's text", "other class's outside")
"""The same lungs in other surroundings; see `surroundings`."""


def surroundings(
    name: str,
    paths: Sequence[Path],
    ill: Sequence[bool],
    sources: Sequence[str],
    lungs: Sequence[Mask | None],
    *,
    seed: int = 0,
) -> Iterator[bytes]:
    """The images at these paths in one of SURROUNDINGS, as PNG.

    Text is what `train.data.surroundings` finds in the corners. Text and outside of the other class come from images of
    the same source, drawn by the seed: the text replaces the image's own. An image stays as it is where its source has
    none to give, and without a lung mask its outside does.

    Args:
        name: one of SURROUNDINGS.
        paths: of the images.
        ill: which of them have pneumonia.
        sources: the source of each.
        lungs: the lung mask of each, of any size, or None.
        seed: of the draw.
    """
    rng = np.random.default_rng(seed)
    donors: dict[tuple[str, bool], list[int]] = {}
    for i, path in enumerate(paths):
        if name == "other class's outside" and lungs[i] is None:
            continue
        if name != "other class's text" or burned_in(_pixels(path), lungs[i]).found:
            donors.setdefault((sources[i], ill[i]), []).append(i)
    for i, path in enumerate(paths):
        pixels, mask = _pixels(path), lungs[i]
        others = donors.get((sources[i], not ill[i]), [])
        donor = int(rng.choice(others)) if others else None
        if name == "other class's outside":
            other = None if donor is None else lungs[donor]
            if mask is not None and donor is not None and other is not None:
                height, width = pixels.shape
                outside = outside_of(_pixels(paths[donor]), other, width, height)
                pixels = replaced(pixels, mask, outside, grow=4, soft=2)
        else:
            pixels = erased(pixels, burned_in(pixels, mask))
            if name == "other class's text" and donor is not None:
                pixels = with_text(pixels, burned_in(_pixels(paths[donor]), lungs[donor]).layer)
        yield _png(Image.fromarray(pixels))


def _pixels(path: Path) -> Pixels:
    return load_radiograph(path).pixels


def answers(
    classifier: Classifier, images: Iterable[Path | bytes], total: int, caption: str, *, batch_size: int = 32
) -> Floats:
    """(N, K) probabilities for images that are all readable, the way of an upload.

    Raises:
        DataError: an image was rejected.
    """
    predictions = list(tqdm(predict_many(classifier, images, batch_size=batch_size), caption, total, leave=False))
    reasons = [p.reason for p in predictions if p.status == "rejected"]
    if reasons:
        first = reasons[0] and reasons[0].message
        raise DataError(f"{caption}: {len(reasons)} of {total} images were rejected, the first because: {first}")
    return np.array([list(p.probabilities.values()) for p in predictions])


def counterfactuals(
    answer: Callable[[Iterable[bytes], str], Floats],
    files: Mapping[str, Iterable[bytes]],
    ill: Bools,
    groups: Sequence[int],
    sources: Sequence[str],
    *,
    original: Floats,
    threshold: float,
    uncertain: Bools,
    resamples: int = 1000,
    seed: int = 0,
) -> dict[str, Any]:
    """How a model's predictions change when the lungs stay and the file or the surroundings change.

    Args:
        answer: encoded images and a caption for the progress bar -> (N,) P(pneumonia).
        files: by name, the N images in other files; RE_ENCODINGS among them.
        ill: (N,) which have pneumonia.
        groups: (N,) the patient of each.
        sources: (N,) the source of each.
        original: (N,) P(pneumonia) for the images as they are.
        threshold: the operating point on P(pneumonia).
        uncertain: (N,) which of the original predictions are called uncertain.
        resamples: of the bootstrap over patients.
        seed: of the bootstrap.

    Returns:
        `by_name`: for `original` and each of the files the binary figures, and how far P(pneumonia) moved (median and
        95th percentile) and the share of binary decisions that flipped; `worst`: the lowest AUROC, sensitivity and
        specificity among them all, the highest calibration error and the most flips; `any_re_encoding`: the share of
        images of which the decision flips under at least one of RE_ENCODINGS (`flips`), the mean share under one of
        them (`flips_of_each`), both of the images not called uncertain (`..._of_sure`), and all for each source
        (`by_source`). Rates and figures with 95% intervals.
    """
    intervals = {"resamples": resamples, "seed": seed}
    owners, patients = np.asarray(sources), np.asarray(groups)

    def figures(pneumonia: Floats) -> dict[str, Any]:
        both = np.stack([1 - pneumonia, pneumonia], axis=1)  # (N, 2)
        binary = evaluate(ill.astype(int), both, groups, BINARY, threshold=threshold, **intervals)["binary"]
        return {name: binary[name] for name in ("auroc", "sensitivity", "specificity", "accuracy", "brier", "ece")}

    by_name: dict[str, Any] = {"original": figures(original)}
    flips = {}
    for name, images in files.items():
        after = answer(images, name)
        flips[name] = (after >= threshold) != (original >= threshold)
        by_name[name] = figures(after) | {
            "shift_median": float(np.median(np.abs(after - original))),
            "shift_95th_percentile": float(np.quantile(np.abs(after - original), 0.95)),
            "flips": rate(flips[name], groups, **intervals),
        }
    worst = {
        figure: min(by_name, key=lambda name: by_name[name][figure]["value"] or 0)
        for figure in ("auroc", "sensitivity", "specificity")
    } | {
        figure: max(named, key=lambda name: by_name[name][figure]["value"])
        for figure, named in (("ece", by_name), ("flips", flips))
    }
    flipped = np.stack([flips[name] for name in RE_ENCODINGS])  # (len(RE_ENCODINGS), N)

    def flips_of(member: Bools) -> dict[str, Any]:
        counted = {"flips": flipped.any(axis=0), "flips_of_each": flipped.mean(axis=0)}
        return {
            name + suffix: rate(values[some], patients[some], **intervals)
            for name, values in counted.items()
            for suffix, some in (("", member), ("_of_sure", member & ~uncertain))
        }

    return {
        "n": len(ill),
        "by_name": by_name,
        "worst": {figure: {"counterfactual": name} | by_name[name][figure] for figure, name in worst.items()},
        "any_re_encoding": flips_of(np.ones(len(ill), bool))
        | {"by_source": {source: flips_of(owners == source) for source in dict.fromkeys(sources)}},
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


def spectrum(image: Picture, *, bands: int = 24) -> Floats:
    """(bands,) log power by spatial frequency, from a cycle across the image up to the finest of a 192 px input."""
    pixels = np.asarray(image.resize((192, 192), Image.Resampling.BICUBIC), dtype=np.float64)
    power = np.abs(np.fft.rfft2(pixels - pixels.mean())) ** 2 / max(pixels.var(), 1e-9)
    frequency = np.hypot(np.fft.fftfreq(192)[:, None], np.fft.rfftfreq(192)[None]) * 192  # cycles across the image
    band = np.digitize(frequency, np.linspace(0.5, 96, bands + 1)) - 1
    inside = (band >= 0) & (band < bands)
    total, count = (np.bincount(band[inside], w, bands) for w in (power[inside], None))
    logarithm: Floats = np.log(total / count + 1e-9)
    return logarithm


def blocks(image: Picture) -> Floats:
    """(63,) mean size of the cosine coefficients of 8 px blocks of a 192 px input: texture without any place."""
    pixels = np.asarray(image.resize((192, 192), Image.Resampling.BICUBIC), dtype=np.float64)
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
        `n`; the baseline's `auroc`; `dependence`, Spearman's correlation of its score with the model's P(pneumonia)
        among images of one class (mean of both): 0 for a model that does not use the features, and above it also for
        one that sees signs in the lungs that occur together with them, such as how ill a child is. Both with 95%
        intervals over patients. None where there are too few patients to cross-validate.
    """
    ill = labels != label_names.index("NORMAL")
    patients = [len({g for g, x in zip(groups, ill, strict=True) if x == value}) for value in (False, True)]
    if min(patients) < 5:
        return None
    folds = StratifiedGroupKFold(5, shuffle=True, random_state=seed)
    trees = HistGradientBoostingClassifier(random_state=seed)
    scores = cross_val_predict(trees, features, ill, groups=groups, cv=folds, method="predict_proba")  # (N, 2)
    figures = evaluate(ill.astype(int), scores, groups, BINARY, resamples=resamples, seed=seed)

    def along(images: Ints) -> float:
        classes = (images[ill[images] == value] for value in (False, True))
        return float(np.mean([_correlation(scores[of_class, 1], answers[of_class]) for of_class in classes]))

    dependence = bootstrap(along, groups, resamples=resamples, seed=seed)
    return {"n": len(labels), "auroc": figures["binary"]["auroc"], "dependence": dependence}


def _correlation(one: Floats, other: Floats) -> float:
    """Spearman's; 0 where one of the two never changes."""
    varies = len(one) > 0 and np.ptp(one) > 0 and np.ptp(other) > 0
    return float(spearmanr(one, other).statistic) if varies else 0.0
