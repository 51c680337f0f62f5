"""How the guard treats radiographs of held-out patients and pictures of held-out collections."""

import io
from collections import defaultdict
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image, ImageFilter, ImageOps
from sklearn.metrics import roc_auc_score
from tqdm import tqdm

from pneumocam.guard import WARNINGS, Guard, Inspection
from pneumocam.image import Radiograph, RadiographError, load_radiograph
from train.guard.fit import SUFFIXES
from train.guard.gallery import Gallery
from train.metrics import Bools, Floats, Ints, bootstrap, rate

Change = Callable[[Image.Image], Image.Image]
LEFT = 0.6  # share of the lung fields that a cut leaves


@dataclass(frozen=True)
class Case:
    """A radiograph to measure on.

    Attributes:
        path: of the image.
        mask: of its lung mask, if there is one.
        patient: the same for all images of one patient.
    """

    path: Path
    mask: Path | None
    patient: int


def _jpeg(image: Image.Image) -> Image.Image:
    file = io.BytesIO()
    image.save(file, "JPEG", quality=30)
    return Image.open(file).convert("L")


def _gamma(power: float) -> Change:
    table = [round(255 * (value / 255) ** power) for value in range(256)]
    return lambda image: image.point(table)


def _cropped(image: Image.Image) -> Image.Image:
    return ImageOps.crop(image, round(0.05 * min(image.size)))


def _noisy(deviation: float) -> Change:
    def change(image: Image.Image) -> Image.Image:
        noise = np.random.default_rng(0).normal(0, deviation, (image.height, image.width))
        return Image.fromarray(np.clip(np.asarray(image) + noise, 0, 255).astype(np.uint8))

    return change


def _blurred(share: float) -> Change:
    return lambda image: image.filter(ImageFilter.GaussianBlur(image.width * share))


# Harmless changes, after which a radiograph has to be treated as before.
VARIANTS: dict[str, Change] = {
    "JPEG quality 30": _jpeg,
    "darker (gamma 1.6)": _gamma(1.6),
    "brighter (gamma 0.6)": _gamma(0.6),
    "5% cropped from each side": _cropped,
    "on a black border of 10%": lambda image: ImageOps.expand(image, round(0.1 * min(image.size))),
    "mirrored": ImageOps.mirror,
}
POSES = [(turns, inverted) for inverted in (False, True) for turns in range(4)][1:]
# Damage, after which a radiograph has to be refused or to carry any warning.
DAMAGES: dict[str, Change] = {
    "left half only": lambda image: image.crop((0, 0, image.width // 2, image.height)),
    "right half only": lambda image: image.crop((image.width // 2, 0, image.width, image.height)),
    "blurred (1% of the width)": _blurred(0.01),
    "blurred (5% of the width)": _blurred(0.05),
    "noisy (40 grey levels)": _noisy(40),
    "noisy (120 grey levels)": _noisy(120),
    "burnt out": lambda image: image.point([min(255, 3 * max(0, value - 150)) for value in range(256)]),
}
CUTS = {"top": 1, "bottom": 3, "left": 0, "right": 2}  # quarter turns that bring a side to the left


def measure_radiographs(
    guard: Guard, cases: Sequence[Case], gallery: Gallery, *, changed: Collection[Case] | None = None
) -> dict[str, Any]:
    """Refusals, corrections and warnings among real, upright radiographs, and recognised poses and damages.

    Args:
        guard: to be measured.
        cases: the radiographs.
        gallery: gets what went wrong.
        changed: those of them that are also measured turned, inverted, damaged, ...; by default all.

    Returns:
        Shares with n and 95% intervals over patients; `scores` and `patients` are for `with_auroc`.
    """
    marks = _Marks(gallery)
    scores = []
    for case in tqdm(cases, "Radiographs", leave=False):
        radiograph = load_radiograph(case.path)
        found = guard(radiograph)
        scores.append(score(guard, found))
        _as_it_is(marks, case, radiograph, found)
        if changed is None or case in changed:
            _changed(marks, guard, case, radiograph)
    return marks.shares() | {"n": len(cases), "patients": [case.patient for case in cases], "scores": scores}


class _Marks:
    """What was found in each radiograph, by group and name."""

    def __init__(self, gallery: Gallery) -> None:
        self.gallery = gallery
        self.flags: dict[str, dict[str, list[tuple[bool, int]]]] = defaultdict(lambda: defaultdict(list))

    def note(self, group: str, name: str, case: Case, happened: bool, shown: Radiograph | None = None) -> None:
        """Note it, and put an image into the gallery if one is given."""
        self.flags[group][name].append((happened, case.patient))
        if shown:
            self.gallery.add(f"{'not ' * (not happened)}{group.replace('_', ' ')}: {name}", shown.to_pil())

    def shares(self) -> dict[str, Any]:
        return {
            group: {name: share(*zip(*pairs, strict=True)) for name, pairs in named.items()}
            for group, named in self.flags.items()
        }


def _as_it_is(marks: _Marks, case: Case, given: Radiograph, found: Inspection, name: str = "as it is") -> None:
    refused, corrected = bool(found.refusal), found.radiograph.steps != given.steps
    marks.note("refused", name, case, refused, given if refused else None)
    marks.note("wrongly_corrected", name, case, corrected, given if corrected else None)
    codes = {doubt.code for doubt in found.warnings}
    for code in WARNINGS if name == "as it is" else ():
        marks.note("warned", code, case, code in codes, given if code in codes else None)


def _changed(marks: _Marks, guard: Guard, case: Case, radiograph: Radiograph) -> None:
    image = radiograph.to_pil()
    for name, change in VARIANTS.items():
        given = load_radiograph(change(image))
        _as_it_is(marks, case, given, guard(given), name)
    for turns, inverted in POSES:
        posed = np.rot90(radiograph.pixels, turns)
        found = guard(load_radiograph(Image.fromarray(255 - posed if inverted else posed)))
        right = np.array_equal(found.radiograph.pixels, radiograph.pixels)
        name = " and ".join([f"rotated {90 * turns}"] * bool(turns) + ["inverted"] * inverted)
        marks.note("poses_recognised", name, case, right, None if right else radiograph)
    for name, change in DAMAGES.items():
        _damaged(marks, guard, case, "damage_told", name, change(image))
    if case.mask:
        mask = Image.open(case.mask).convert("L").resize(image.size)
        for name, turns in CUTS.items():
            _damaged(marks, guard, case, "cuts_told", f"{name} cut off", cut(image, mask, turns))


def _damaged(marks: _Marks, guard: Guard, case: Case, group: str, name: str, image: Image.Image) -> None:
    try:
        given = load_radiograph(image)
    except RadiographError:  # too small or too flat to be read
        marks.note(group, name, case, happened=True)
        return
    found = guard(given)
    told = bool(found.refusal or found.warnings)
    marks.note(group, name, case, told, None if told else given)


def cut(image: Image.Image, mask: Image.Image, turns: int) -> Image.Image:
    """The image without as much of one side as leaves the share LEFT of the lung fields.

    Args:
        image: a radiograph.
        mask: white in the lung fields, of the same size.
        turns: quarter turns counter-clockwise that bring the side to the left.
    """
    pixels, inside = (np.rot90(np.asarray(one), turns) for one in (image, mask))
    passed = np.cumsum((inside > 127).sum(0)) / max(1, (inside > 127).sum())
    return Image.fromarray(np.ascontiguousarray(np.rot90(pixels[:, int((passed < 1 - LEFT).sum()) :], -turns)))


def measure_others(guard: Guard, folder: Path, gallery: Gallery) -> dict[str, Any]:
    """By kind of picture: the shares that are refused, and refused even where a prediction is forced."""
    figures = {}
    for kind in sorted(path for path in folder.iterdir() if path.is_dir()):
        refused, clearly, scores, packages = [], [], [], set()
        for name, picture in tqdm(readable_pictures(kind), kind.name, leave=False):
            found = guard(picture)
            refused.append(bool(found.refusal))
            clearly.append(bool(found.refusal and not found.refusal.can_be_forced))
            scores.append(score(guard, found))
            packages.add(name.partition("--")[0])
            if not found.refusal:
                gallery.add(f"accepted: {kind.name}", picture.to_pil())
        figures[kind.name] = {
            "packages": sorted(packages),
            "refused": share(refused),
            "refused_even_if_forced": share(clearly),
            "scores": scores,
        }
    return figures


def share(flags: Sequence[bool], patients: Sequence[int] | None = None) -> dict[str, Any]:
    """The share of flags that are set with a 95% interval, by bootstrap over patients where they are given, and n."""
    groups = np.arange(len(flags)) if patients is None else np.asarray(patients)
    return {"n": len(flags), **rate(np.asarray(flags, bool), groups)}


def score(guard: Guard, found: Inspection) -> float:
    """One number that is higher the more an image looks like a frontal chest radiograph, for ROC curves."""
    return found.measures["chest"] - 5 * found.measures["distance"] / guard.thresholds.far


def with_auroc(radiographs: Mapping[str, dict[str, Any]], others: Mapping[str, dict[str, Any]]) -> dict[str, Any]:
    """The figures of both without scores and patients; the AUROC between radiographs of each source and all others."""
    negatives = [value for figures in others.values() for value in figures["scores"]]
    auroc = {}
    for source, figures in radiographs.items() if negatives else ():
        values = np.array(figures["scores"] + negatives)
        truth = np.arange(len(values)) < figures["n"]
        groups = np.array([*figures["patients"], *(-1 - np.arange(len(negatives)))])
        auroc[source] = bootstrap(partial(_auroc, truth, values), groups)
    counts = [(round(one["refused"]["value"] * one["refused"]["n"]), one["refused"]["n"]) for one in others.values()]
    flags = [i < refused for refused, n in counts for i in range(n)]
    hidden = ("scores", "patients")
    return {
        "radiographs": {k: {n: v for n, v in one.items() if n not in hidden} for k, one in radiographs.items()},
        "others": {k: {n: v for n, v in one.items() if n not in hidden} for k, one in others.items()},
        "all_others_refused": share(flags),
        "auroc": auroc,
    }


def _auroc(truth: Bools, values: Floats, drawn: Ints) -> float:
    real = truth[drawn]
    return float(roc_auc_score(real, values[drawn])) if 0 < real.sum() < len(real) else float("nan")


def readable_pictures(folder: Path) -> Iterator[tuple[str, Radiograph]]:
    """The names and pictures of a folder, without those that image reading rejects."""
    for path in sorted(folder.rglob("*")):
        if path.suffix.lower() in SUFFIXES:
            try:
                yield path.stem, load_radiograph(path)
            except RadiographError:
                continue
