"""Other ways to make a saliency map, compared with the one in use: finer, earlier, fused, averaged; and their cost.

    python -m benchmarks.maps --data children=DIR adults=DIR --masks children=DIR

Each contender explains the predicted class of the same validation images. A map is the better the more of it lies
inside the lung fields, the smaller its area under the deletion curve, and the larger that under the insertion curve,
see `train.faithfulness`. Times are those of the map alone, without the prediction that it explains, so that the one in
use takes the head only.
"""

import json
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
import tyro
from captum.attr import LayerGradCam
from numpy.typing import NDArray
from PIL import Image
from scipy import ndimage
from torch import Tensor, nn
from tqdm import tqdm

from pneumocam import Classifier, load_radiograph
from pneumocam.gradcam import grad_cam
from pneumocam.predict import classify, features_of
from pneumocam.regions import share_inside
from train.data import build_manifest, largest_copies, roots_of, sources_from
from train.faithfulness import GRID, centre_map, faithfulness, random_map
from train.maps import masked
from train.metrics import bootstrap

RESULT = Path(__file__).with_suffix(".json")
STAGE = 5  # of seven: the last one with cells of 16 px, where the whole network has 32 px
SHIFT = 16  # px, half a cell
FIGURES = ("inside", "deletion", "insertion")

Cam = NDArray[np.float32]  # (h, w)
Method = Callable[[Tensor, Tensor, str], Cam]  # from the input (1, C, H, W), its features (D, h, w) and the class


class Rest(nn.Module):
    """What comes after a stage of an EfficientNet."""

    def __init__(self, classifier: Classifier) -> None:
        super().__init__()
        self.stage = nn.Identity()
        self.network: Any = classifier.network

    def forward(self, stage: Tensor) -> Tensor:
        """`(B, d, 2 h, 2 w)` -> logits `(B, K)`."""
        network = self.network
        features = network.blocks[STAGE:](self.stage(stage))
        logits: Tensor = network.forward_head(network.bn2(network.conv_head(features)))
        return logits


def methods(classifier: Classifier) -> dict[str, Method]:
    """The contenders by name."""
    network: Any = classifier.network
    rng = np.random.default_rng(0)

    def cams(batch: Tensor, target: str) -> Cam:
        return grad_cam(classifier, torch.stack(features_of(classifier, batch)), [target] * len(batch))  # (B, h, w)

    def in_use(_: Tensor, features: Tensor, target: str) -> Cam:
        return np.asarray(grad_cam(classifier, features[None], [target])[0])

    def larger(side: int) -> Method:
        def explain(batch: Tensor, _: Tensor, target: str) -> Cam:
            return np.asarray(cams(F.interpolate(batch, (side, side), mode="bicubic", antialias=True), target)[0])

        return explain

    def earlier(batch: Tensor, _: Tensor, target: str) -> Cam:
        with torch.no_grad():
            stage = network.blocks[:STAGE](network.bn1(network.conv_stem(batch)))
        rest = Rest(classifier)
        index = classifier.label_names.index(target)
        cam: Tensor = LayerGradCam(rest, rest.stage).attribute(stage.requires_grad_(), index, relu_attributions=True)
        return cam.detach()[0, 0].numpy()

    def fused(batch: Tensor, features: Tensor, target: str) -> Cam:
        return covering(in_use(batch, features, target)) * covering(earlier(batch, features, target))

    def flipped(batch: Tensor, features: Tensor, target: str) -> Cam:
        return np.asarray((in_use(batch, features, target) + cams(batch.flip(-1), target)[0, :, ::-1]) / 2)

    def shifted(batch: Tensor, _: Tensor, target: str) -> Cam:
        height, width = batch.shape[-2:]
        padded = F.pad(batch, (SHIFT,) * 4, mode="replicate")
        moves = [(0, 0), (SHIFT, 0), (-SHIFT, 0), (0, SHIFT), (0, -SHIFT)]  # px down and to the right
        parts = [padded[:, :, SHIFT - y : SHIFT - y + height, SHIFT - x : SHIFT - x + width] for y, x in moves]
        back = [(-GRID * y / height, -GRID * x / width) for y, x in moves]  # cells
        maps = zip(cams(torch.cat(parts), target), back, strict=True)
        # What came from beyond the image does not count.
        moved = [ndimage.shift(covering(cam), move, order=1, cval=np.nan) for cam, move in maps]
        return np.asarray(np.nanmean(moved, 0), np.float32)

    return {
        "in use: 6 x 6 cells": in_use,
        "8 x 8 cells, input of 256 px": larger(256),
        "10 x 10 cells, input of 320 px": larger(320),
        "12 x 12 cells, an earlier stage": earlier,
        "product of both stages": fused,
        "mean with the mirror image": flipped,
        "mean of five shifts": shifted,
        "baseline: random cells": lambda _, features, __: random_map(features.shape[1:], rng),
        "baseline: Gaussian in the middle": lambda *_: centre_map(),
    }


def covering(cam: Cam) -> Cam:
    """A map on the grid that covers the image, with its peak at 1."""
    heat = np.asarray(Image.fromarray(np.ascontiguousarray(cam)).resize((GRID, GRID), Image.Resampling.BILINEAR))
    return np.asarray(heat / max(float(heat.max()), 1e-9), np.float32)


def main(
    data: tuple[str, ...],
    masks: tuple[str, ...] = (),
    images: int = 30,
    resamples: int = 1000,
    seed: int = 0,
    out: Path = RESULT,
) -> None:
    """Measure the bundled model's maps and write the result.

    Args:
        data: sources as in train.fit, in the same order.
        masks: hand-drawn lung fields, as in train.fit; the guard finds those of other sources.
        images: at most so many validation images of each source, drawn by the seed.
        resamples: bootstrap resamples, by patient.
        seed: of the draws.
        out: the JSON file to write.
    """
    classifier = Classifier.from_pretrained()
    sources = sources_from(data, (), masks)
    recipe = classifier.training["recipe"]
    manifest = build_manifest(sources, val_fraction=recipe["val_fraction"], seed=recipe["split_seed"])
    chosen = masked(largest_copies(manifest.split("val"), roots_of(sources)), sources, images, seed=seed)
    contenders = methods(classifier)
    found: dict[str, list[tuple[float, float, float, float]]] = {name: [] for name in contenders}
    for image in tqdm(chosen, "Images"):
        radiograph = load_radiograph(image.path)
        batch = classifier.transform(radiograph)[None]  # (1, C, H, W)
        (features,) = features_of(classifier, batch)
        target = str(classify(classifier, radiograph, features).label)
        lungs = image.lungs
        if lungs is None and classifier.guard and (seen := classifier.guard(radiograph).lungs) is not None:
            lungs = seen > 0.5
        assert lungs is not None
        inside = np.asarray(Image.fromarray(lungs).resize((GRID, GRID), Image.Resampling.NEAREST))
        for name, method in contenders.items():
            start = time.perf_counter()
            cam = method(batch, features, target)
            seconds = time.perf_counter() - start
            heat = covering(cam)
            deletion, insertion = faithfulness(classifier, batch, target, heat)
            found[name].append((share_inside(heat, inside), deletion, insertion, 1000 * seconds))
    groups = [image.group for image in chosen]

    def mean(values: NDArray[np.float64]) -> dict[str, float | None]:
        return bootstrap(lambda drawn: float(values[drawn].mean()), groups, resamples=resamples, seed=seed)

    used = np.array(next(iter(found.values())))
    table: dict[str, dict[str, Any]] = {}
    for name, rows in found.items():
        columns = np.array(rows)  # (N, 4)
        table[name] = {figure: mean(columns[:, i]) for i, figure in enumerate(FIGURES)}
        table[name]["ms"] = round(float(np.median(columns[:, 3])), 1)
        # On the same images, so that their differences cancel out.
        table[name]["gain"] = {figure: mean(columns[:, i] - used[:, i]) for i, figure in enumerate(FIGURES)}
    result = {
        "model": classifier.revision,
        "images": len(chosen),
        "threads": torch.get_num_threads(),
        "maps": table,
    }
    out.write_text(json.dumps(result, indent=2) + "\n")
    for name, row in table.items():
        figures = (row[figure]["value"] for figure in FIGURES)
        print(f"{name:34}", *(f"{value:.3f}" for value in figures), f"{row['ms']} ms")


if __name__ == "__main__":
    tyro.cli(main, description=__doc__)
