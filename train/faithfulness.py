"""Does a saliency map name what matters to the network? Baselines, deletion and insertion, changes, random weights."""

import copy
import io
from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from PIL import Image
from scipy import ndimage, stats
from torch import Tensor, nn

from pneumocam import Classifier, Saliency
from pneumocam.regions import correlation

GRID = 100  # cells of a side, on which maps are compared: a cell is 1% of the image
STEPS = 5  # of deletion and insertion
BLUR = 0.06  # of the input's side: standard deviation of what takes the place of deleted pixels
SHIFT = 2  # cells

Floats = NDArray[np.float32]
Pixels = NDArray[np.uint8]


def heat_of(saliency: Saliency) -> Floats:
    """The map on the grid of `GRID` x `GRID` cells that covers the image."""
    return saliency.resized(GRID, GRID).heatmap()


# Baselines


def random_map(shape: tuple[int, ...], rng: np.random.Generator) -> Floats:
    """A map with random cells, as coarse as the network's own."""
    return heat_of(Saliency(rng.random(shape, np.float32), "", (0, 0, GRID, GRID), (GRID, GRID)))


def centre_map() -> Floats:
    """A Gaussian in the middle of the image, its standard deviation a quarter of the side."""
    line = stats.norm.pdf(np.arange(GRID) + 0.5, GRID / 2, GRID / 4)
    return np.asarray(line[:, None] * line[None] / line.max() ** 2, np.float32)


# Deletion and insertion


def faithfulness(classifier: Classifier, batch: Tensor, target: str, heat: Floats) -> tuple[float, float]:
    """Areas under the curves of deletion and insertion (Petsiuk et al., *RISE*, BMVC 2018), each in [0, 1].

    Pixels are replaced by those of the blurred image, the most salient first, in `STEPS` equal steps. The curve is
    P(NORMAL) if that is the target, else P(pneumonia). A good map loses the class at once (a small area under
    deletion), and gains it at once when its pixels are put into the blurred image (a large area under insertion).

    Args:
        classifier: the model.
        batch: `(1, C, H, W)`, the network's input.
        target: the class that the map explains.
        heat: the map, of any size; it covers the input.
    """
    size = list(batch.shape[-2:])
    saliency = F.interpolate(torch.from_numpy(heat.copy())[None, None], size=size, mode="bilinear")[0, 0]  # (H, W)
    order = saliency.flatten().argsort(descending=True, stable=True)
    rank = torch.empty_like(order).scatter_(0, order, torch.arange(len(order))).view(size)  # 0: the most salient
    shares = torch.linspace(0, 1, STEPS + 1)
    taken = rank[None, None] < shares[1:-1, None, None, None] * len(order)  # (STEPS - 1, 1, H, W)
    blurred = blur(batch)
    images = [batch, torch.where(taken, blurred, batch), blurred, torch.where(taken, batch, blurred)]
    with_all, deleted, without, inserted = (_probability(classifier, one, target) for one in images)
    deletion = torch.trapezoid(torch.cat([with_all, deleted, without]), shares)
    insertion = torch.trapezoid(torch.cat([without, inserted, with_all]), shares)
    return float(deletion), float(insertion)


def blur(batch: Tensor) -> Tensor:
    """`(B, C, H, W)` without detail."""
    sigma = BLUR * max(batch.shape[-2:])
    return torch.from_numpy(ndimage.gaussian_filter(batch.numpy(), (0, 0, sigma, sigma), mode="reflect"))


def _probability(classifier: Classifier, batch: Tensor, target: str) -> Tensor:
    """`(B, C, H, W)` -> `(B,)` P(NORMAL) if that is the target, else P(pneumonia), as calibrated."""
    with torch.no_grad():
        logits = classifier.head(classifier.features(batch)) / classifier.temperature  # (B, K)
    normal = logits.softmax(1)[:, classifier.label_names.index("NORMAL")]
    return normal if target == "NORMAL" else 1 - normal


# Changes of the image that should not move the map


def _encoded(pixels: Pixels) -> Pixels:
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, "JPEG", quality=50)
    with Image.open(buffer) as image:
        return np.array(image)


def _halved(pixels: Pixels) -> Pixels:
    height, width = pixels.shape
    return np.array(Image.fromarray(pixels).resize((width // 2, height // 2), Image.Resampling.LANCZOS))


def _shifted(pixels: Pixels) -> Pixels:
    """To the right and down; the first row and column fill the gap."""
    offset = [side * SHIFT / GRID for side in pixels.shape]
    moved: Pixels = ndimage.shift(pixels, offset, order=1, mode="nearest")
    return moved


CHANGES: dict[str, Callable[[Pixels], Pixels]] = {
    "jpeg_50": _encoded,
    "half_size": _halved,
    "shift_2_percent": _shifted,
}


def moved(saliency: Saliency, after: Mapping[str, Saliency]) -> dict[str, float]:
    """By change, the correlation of the map of an image with that of the changed image, where both show it."""
    before = heat_of(saliency)
    return {name: correlation(*_overlap(name, before, heat_of(one))) for name, one in after.items()}


def _overlap(change: str, before: Floats, after: Floats) -> tuple[Floats, Floats]:
    """What both maps show of the image."""
    if CHANGES[change] is _shifted:
        return before[:-SHIFT, :-SHIFT], after[SHIFT:, SHIFT:]
    return before, after


# Random weights


def cascade(classifier: Classifier, seed: int) -> Iterator[tuple[str, Classifier]]:
    """The classifier with more and more random layers, from the head down, each with the name of the last.

    The cascading randomisation of Adebayo et al., *Sanity Checks for Saliency Maps*, NeurIPS 2018. A map that hardly
    changes shows edges of the image, not what the network has learned. Each is valid until the next one is taken.
    """
    network = copy.deepcopy(classifier.network)
    parts: list[tuple[str, nn.Module]] = []
    for name, child in network.named_children():
        inner = list(child.named_children()) if isinstance(child, nn.Sequential) else []
        parts += [(f"{name}.{one}", module) for one, module in inner] or [(name, child)]
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        for name, part in reversed(parts):
            layers = [module for module in part.modules() if hasattr(module, "reset_parameters")]
            for layer in layers:
                layer.reset_parameters()  # type: ignore[operator]
            if layers:
                yield name, replace(classifier, network=network)


def rank_correlation(one: Floats, other: Floats) -> float:
    """Spearman's of two maps; 0 if one of them is constant."""
    return correlation(*(stats.rankdata(cam).reshape(cam.shape).astype(np.float32) for cam in (one, other)))
