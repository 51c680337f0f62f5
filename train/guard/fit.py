"""Radiographs with lung masks and other pictures -> a fitted guard with its thresholds."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn
from tqdm import tqdm

from pneumocam.bundle import GuardThresholds
from pneumocam.guard import EDGES, GRID, HEADS, SIDE, Guard, LungLocator, normalised
from pneumocam.image import load_radiograph, without_border
from train.guard.batches import Batch, Pool, draw_batch
from train.guard.drawn import KINDS

STORED = 128  # px, the side at which pictures are kept in memory
SUFFIXES = {".jpg", ".jpeg", ".png", ".webp", ".bmp", ".pgm", ".ppm", ".tif", ".tiff", ".gif"}
LATERAL = "lateral"  # the kind of picture that is a chest from the side


@dataclass(frozen=True)
class Radiographs:
    """The radiographs of one source, shrunk: images and masks `(N, 1, STORED, STORED)` uint8, masked `(N,)` bool."""

    images: Tensor
    masks: Tensor
    masked: Tensor


def read_radiographs(paths: Sequence[Path], masks: Sequence[Path | None]) -> Radiographs:
    """Read radiographs and, where there is one, the mask of each."""
    images = [shrunk(Image.open(path)) for path in tqdm(paths, "Reading radiographs", leave=False)]
    empty = np.zeros((STORED, STORED), np.uint8)
    drawn = [shrunk(Image.open(mask).convert("L")) if mask else empty for mask in masks]
    stack, outlines = (torch.from_numpy(np.stack(arrays))[:, None] for arrays in (images, drawn))
    return Radiographs(stack, outlines, torch.tensor([mask is not None for mask in masks]))


def shrunk(image: Image.Image) -> NDArray[np.uint8]:
    """`(STORED, STORED)` uint8 grey, the aspect ratio lost; transparency on grey."""
    if image.has_transparency_data:
        coloured = image.convert("RGBA")
        image = Image.alpha_composite(Image.new("RGBA", image.size, "grey"), coloured)
    return np.asarray(image.convert("L").resize((STORED, STORED), Image.Resampling.BOX))


def read_others(folder: Path, rng: np.random.Generator) -> tuple[Tensor, list[str]]:
    """Pictures below `folder/KIND`, large ones as two crops too: `(N, 1, STORED, STORED)` uint8, and their kinds."""
    pictures, kinds = [], []
    for path in tqdm(
        sorted(p for p in folder.rglob("*") if p.suffix.lower() in SUFFIXES), "Reading others", leave=False
    ):
        image = Image.open(path)
        crops = [image.crop(_box(rng, *image.size)) for _ in range(2)] if min(image.size) > 2 * STORED else []
        for one in (image, *crops):
            pictures.append(shrunk(one))
            kinds.append(path.relative_to(folder).parts[0])
    return torch.from_numpy(np.stack(pictures))[:, None], kinds


def _box(rng: np.random.Generator, width: int, height: int) -> tuple[int, int, int, int]:
    sides = [int(side * rng.uniform(0.25, 0.9)) for side in (width, height)]
    left, top = (int(rng.integers(whole - side)) for whole, side in zip((width, height), sides, strict=True))
    return left, top, left + sides[0], top + sides[1]


def draw_others(count: int, seed: int) -> tuple[Tensor, list[str]]:
    """`count` drawn pictures of each kind of `train.guard.drawn`."""
    rng = np.random.default_rng(seed)
    kinds = [kind for kind in KINDS for _ in range(count)]
    pictures = [shrunk(Image.fromarray(KINDS[kind](rng))) for kind in tqdm(kinds, "Drawing", leave=False)]
    return torch.from_numpy(np.stack(pictures))[:, None], kinds


def make_pool(sources: Sequence[Radiographs], others: Tensor, kinds: Sequence[str]) -> Pool:
    """A pool in which a kind of picture is drawn in proportion to the square root of its number."""
    names, index, counts = np.unique(np.asarray(kinds), return_inverse=True, return_counts=True)
    return Pool(
        tuple(source.images for source in sources),
        tuple(source.masks for source in sources),
        tuple(source.masked for source in sources),
        others,
        torch.from_numpy(1 / np.sqrt(counts)[index]),
        torch.from_numpy(names[index] == LATERAL),
    )


def fit(pool: Pool, *, steps: int, radiographs: tuple[int, ...], others: int, rate: float, seed: int) -> LungLocator:
    """Fit a network: AdamW, one cycle of the learning rate, and an average of the weights over the last steps."""
    torch.manual_seed(seed)
    network = LungLocator().to(memory_format=torch.channels_last)
    optimizer = torch.optim.AdamW(network.parameters(), lr=rate, weight_decay=0.02)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, rate, steps, pct_start=0.15)
    average = AveragedModel(network, multi_avg_fn=get_ema_multi_avg_fn(0.99), use_buffers=True)  # type: ignore[no-untyped-call]
    progress = tqdm(range(steps), "Fitting")
    for step in progress:
        batch = draw_batch(pool, radiographs, others)
        network.train()
        loss = _loss(network(batch.images), batch)
        optimizer.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        nn.utils.clip_grad_norm_(network.parameters(), 2.0)
        optimizer.step()
        schedule.step()
        average.update_parameters(network)
        if step % 50 == 0:
            progress.set_postfix(loss=f"{float(loss.detach()):.3f}")
    fitted = average.module.eval()
    assert isinstance(fitted, LungLocator)
    return fitted


def _loss(outputs: tuple[Tensor, Tensor, Tensor], batch: Batch) -> Tensor:
    lungs, heads, _ = outputs
    target = F.adaptive_avg_pool2d(batch.lungs, GRID)[:, 0]
    cross_entropy = F.binary_cross_entropy_with_logits(lungs, target, reduction="none").mean((1, 2))
    p = lungs.sigmoid()
    overlap = (2 * (p * target).sum((1, 2)) + 10) / (p.sum((1, 2)) + target.sum((1, 2)) + 10)  # soft Dice
    pose = F.cross_entropy(heads[:, :4], batch.turns, reduction="none")
    return (
        _mean(cross_entropy + 0.5 * (1 - overlap), batch.lungs_weight)
        + _mean(pose, batch.pose_weight)
        + _binary(heads[:, 4], batch.inverted, batch.pose_weight)
        + 2 * _binary(heads[:, 5], batch.chest, batch.chest_weight)
        + 0.5 * _binary(heads[:, 6], batch.lateral, batch.lateral_weight)
        + 0.5 * _binary(heads[:, 7], batch.cut_off, batch.cut_off_weight)
        + 0.5 * _binary(heads[:, 8], batch.poor, batch.poor_weight)
    )


def _mean(losses: Tensor, weight: Tensor) -> Tensor:
    return (losses * weight).sum() / weight.sum().clamp(min=1)


def _binary(logits: Tensor, target: Tensor, weight: Tensor) -> Tensor:
    return _mean(F.binary_cross_entropy_with_logits(logits, target, reduction="none"), weight)


def finish(network: LungLocator, sources: Sequence[Radiographs]) -> Guard:
    """Set the limits from the training radiographs as they are, each source counting alike.

    The limits on distance, area, cut and quality follow from what all but a few in 1000 of these radiographs keep
    to; the others are even odds of the network's heads.
    """
    lungs, heads, features = zip(*(_outputs(network, source.images) for source in sources), strict=True)
    centre = torch.stack([part.mean(0) for part in features]).mean(0)
    covariance = torch.stack([torch.cov(part.T) for part in features]).mean(0)
    covariance += 1e-3 * covariance.diagonal().mean() * torch.eye(len(centre))
    whitening = torch.linalg.cholesky(torch.linalg.inv(covariance))
    distances = [torch.linalg.vector_norm((part - centre) @ whitening, dim=1) for part in features]
    usual = max(float(torch.quantile(part, 0.998)) for part in distances)
    usual_head = torch.stack([torch.quantile(part, 0.995, dim=0) for part in heads]).amax(0)
    named = dict(zip(HEADS, usual_head[4:].clamp(max=0).tolist(), strict=True))
    areas = torch.cat([(part > 0).float().mean((1, 2)) for part in lungs])
    thresholds = GuardThresholds(
        chest=0.0,
        forced=-2.0,
        pose=2.0,
        lung_area=(round(float(areas.min()) / 2, 3), round(min(1.0, float(areas.max()) * 1.25), 3)),
        distance=round(usual, 2),
        far=round(2 * usual, 2),
        lateral=0.0,
        cut_off=round(named["cut_off"], 2),
        poor_quality=round(named["poor_quality"], 2),
    )
    return Guard(network, thresholds, centre, whitening)


def limits_in_use(guard: Guard, sources: Sequence[Sequence[Path]]) -> dict[str, tuple[float, ...]]:
    """The thresholds `edges` and `detail`, from the training radiographs of each source.

    All but 1% of these keep to each of `edges`: in most of the others, part of the lungs is indeed outside of the
    image. All but .2% keep to `detail`.

    The radiographs are read as in use, not shrunk before.

    Args:
        guard: a fitted one, without these limits.
        sources: the files of the training radiographs of each source.
    """
    edges, details = [], []
    for paths in sources:
        found = [guard(without_border(load_radiograph(path))) for path in tqdm(paths, "Setting limits", leave=False)]
        edges.append(np.quantile([[one.measures[edge] for edge in EDGES] for one in found], 0.99, axis=0))
        details.append(np.quantile([one.measures["detail"] for one in found], [0.001, 0.999]))
    highest = np.max(edges, axis=0).tolist()
    return {
        "edges": tuple(round(share, 3) for share in highest),
        "detail": (round(float(np.min(details)), 3), round(float(np.max(details)), 3)),
    }


@torch.no_grad()
def _outputs(network: LungLocator, images: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    parts = [
        network(normalised(F.adaptive_avg_pool2d(part.float(), SIDE).round())) for part in torch.split(images, 256)
    ]
    return tuple(torch.cat(column) for column in zip(*parts, strict=True))  # type: ignore[return-value]
