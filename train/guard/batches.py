"""Batches to fit the guard on: radiographs with lung masks, other pictures, and what is made of both."""

import math
from dataclasses import dataclass
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from pneumocam.guard import SIDE, normalised


@dataclass(frozen=True)
class Pool:
    """What batches are drawn from; images are uint8 `(N, 1, 128, 128)`, the aspect ratio lost.

    Attributes:
        radiographs: one tensor for each source; each source gives an equal share to a quarter of a batch or more.
        masks: lung masks of these, white inside; zeros where there is none.
        masked: `(N,)` bool of these, whether there is a mask.
        others: pictures that are no frontal chest radiograph.
        weights: `(N,)`, how often each of those is drawn.
        lateral: `(N,)` bool, which of those are chests from the side.
    """

    radiographs: tuple[Tensor, ...]
    masks: tuple[Tensor, ...]
    masked: tuple[Tensor, ...]
    others: Tensor
    weights: Tensor
    lateral: Tensor


class Batch(NamedTuple):
    """Images, targets, and weights by which each target counts; a weight of 0 means that the target is not known."""

    images: Tensor  # (B, 1, SIDE, SIDE) float32, normalised
    lungs: Tensor  # (B, 1, SIDE, SIDE) in [0, 1]
    lungs_weight: Tensor  # this and all below: (B,)
    turns: Tensor
    inverted: Tensor
    pose_weight: Tensor
    chest: Tensor
    chest_weight: Tensor
    lateral: Tensor
    lateral_weight: Tensor
    cut_off: Tensor
    cut_off_weight: Tensor
    poor: Tensor
    poor_weight: Tensor


def draw_batch(pool: Pool, radiographs: tuple[int, ...], others: int) -> Batch:
    """A random batch: a number of radiographs of each source, and a number of other pictures."""
    parts = [_radiographs(pool, source, count) for source, count in enumerate(radiographs)]
    parts.append(_others(pool, others))
    return Batch(*(torch.cat(column) for column in zip(*parts, strict=True)))


def _radiographs(pool: Pool, source: int, count: int) -> Batch:
    chosen = torch.randint(len(pool.radiographs[source]), (count,))
    images, masks = pool.radiographs[source][chosen].float(), pool.masks[source][chosen].float()
    masked = pool.masked[source][chosen]
    close = torch.rand(count) < 0.15  # crops that cut lungs off
    views = _views(close)
    border = torch.where(torch.rand(count) < 0.7, 0.0, torch.rand(count) * 255)[:, None, None, None]
    x, lungs = _with_markers(_warped(images, views, border)), _warped(masks, views) / 255
    visible = _visible(masks / 255, lungs, views, masked, close)
    chest, chest_weight = torch.ones(count), (visible >= 0.55).float()
    crumb = (visible < 0.15) & masked
    chest[crumb], chest_weight[crumb] = 0, 0.5
    pose_weight, cut_weight = (visible > 0.6).float(), ((visible < 0.72) | (visible > 0.93)).float()
    cut_weight *= (masked | ~close).float()
    lungs_weight, poor = masked.float(), torch.zeros(count)
    fate = torch.rand(count)
    for i in torch.where(fate < 0.07)[0]:
        x[i : i + 1] = _spoilt(x[i : i + 1])
        poor[i], chest_weight[i] = 1, 0
    for i in torch.where((fate > 0.07) & (fate < 0.14))[0]:
        x[i] = _jumbled(x, int(i))
        chest[i], chest_weight[i] = 0, 0.7
        pose_weight[i] = cut_weight[i] = lungs_weight[i] = 0
    x = _toned(x)
    turns = torch.where(torch.rand(count) < 0.45, 0, torch.randint(0, 4, (count,)))
    inverted = (torch.rand(count) < 0.35).float()
    x, lungs = _posed(x, turns, inverted), _posed(lungs, turns, torch.zeros(count))
    return Batch(
        images=normalised(x * 255),
        lungs=lungs,
        lungs_weight=lungs_weight,
        turns=turns,
        inverted=inverted,
        pose_weight=pose_weight,
        chest=chest,
        chest_weight=chest_weight,
        lateral=torch.zeros(count),
        lateral_weight=chest * pose_weight,
        cut_off=(visible < 0.78).float(),
        cut_off_weight=cut_weight * (chest > 0) * (poor == 0),
        poor=poor,
        poor_weight=(chest > 0).float(),
    )


def _others(pool: Pool, count: int) -> Batch:
    chosen = torch.multinomial(pool.weights, count, replacement=True)
    lateral = pool.lateral[chosen]
    border = torch.where(torch.rand(count) < 0.5, 0.0, torch.rand(count) * 255)[:, None, None, None]
    views = _views(torch.rand(count) < 0.2)
    x = _toned(_with_markers(_warped(pool.others[chosen].float(), views, border)))
    turns = torch.where(lateral | (torch.rand(count) < 0.5), 0, torch.randint(0, 4, (count,)))
    inverted = (torch.rand(count) < 0.25).float()
    zeros, other = torch.zeros(count), (~lateral).float()
    return Batch(
        images=normalised(_posed(x, turns, inverted) * 255),
        lungs=torch.zeros(count, 1, SIDE, SIDE),
        lungs_weight=other * 0.5,
        turns=turns,
        inverted=inverted,
        pose_weight=zeros,
        chest=zeros,
        chest_weight=other,
        lateral=lateral.float(),
        lateral_weight=torch.where(lateral, 1.0, 0.1),
        cut_off=zeros,
        cut_off_weight=zeros,
        poor=zeros,
        poor_weight=zeros,
    )


def _views(close: Tensor) -> Tensor:
    """`(B, 2, 3)` maps from output to input: turned a little, zoomed, sheared, mirrored; far into it where `close`."""
    count = len(close)
    angle, aspect = torch.randn(count) * math.radians(7), torch.exp(torch.randn(count) * 0.12)
    zoom = torch.where(
        close, torch.empty(count).uniform_(0.2, 0.65), torch.exp(torch.empty(count).uniform_(-0.32, 0.28))
    )
    shift = torch.where(close, torch.empty(2, count).uniform_(-0.7, 0.7), torch.randn(2, count) * 0.07)
    mirror = torch.where(torch.rand(count) < 0.5, -1.0, 1.0)
    cos, sin, width, height = torch.cos(angle), torch.sin(angle), zoom * mirror, zoom * aspect
    first = torch.stack([cos * width, -sin * height + torch.randn(count) * 0.05, shift[0]], 1)
    return torch.stack([first, torch.stack([sin * width, cos * height, shift[1]], 1)], 1)


def _warped(images: Tensor, views: Tensor, border: Tensor | float = 0.0) -> Tensor:
    grid = F.affine_grid(views, [len(images), 1, SIDE, SIDE], align_corners=False)
    return F.grid_sample(images - border, grid, align_corners=False) + border


def _visible(whole: Tensor, seen: Tensor, views: Tensor, masked: Tensor, close: Tensor) -> Tensor:
    """Share of the lung fields inside each view; a guess where there is no mask."""
    scale = torch.linalg.det(views[:, :, :2]).abs()
    share = seen.mean((1, 2, 3)) * scale / whole.mean((1, 2, 3)).clamp(min=1e-3)
    return torch.where(masked, share.clamp(max=1.05), torch.where(close, 0.5, 1.0))


def _with_markers(images: Tensor) -> Tensor:
    """Small bright or dark rectangles, as letters and labels are, and frames along the edges."""
    for i in torch.where(torch.rand(len(images)) < 0.25)[0]:
        (height, width), (top, left) = torch.randint(2, 9, (2,)).tolist(), torch.randint(0, SIDE - 9, (2,)).tolist()
        grey = float(torch.rand(())) if torch.rand(()) < 0.3 else float(torch.rand(()) > 0.3)
        images[i, :, top : top + height, left : left + width] = 255 * grey
    for i in torch.where(torch.rand(len(images)) < 0.15)[0]:
        depth, grey, side = int(torch.randint(1, 12, ())), 255 * float(torch.rand(()) > 0.6), int(torch.randint(6, ()))
        if side in (0, 4):
            images[i, :, :depth] = grey
        if side in (1, 4):
            images[i, :, -depth:] = grey
        if side in (2, 5):
            images[i, :, :, :depth] = grey
        if side in (3, 5):
            images[i, :, :, -depth:] = grey
    return images


def _toned(images: Tensor) -> Tensor:
    """Grey values 0..255 -> 0..1 under another gamma, contrast, sharpness and noise."""
    count = len(images)
    x = (images.clamp(0, 255) / 255) ** torch.exp(torch.randn(count, 1, 1, 1) * 0.4)
    contrast = (x - 0.5) * torch.empty(count, 1, 1, 1).uniform_(1, 1.8) + 0.5 + torch.randn(count, 1, 1, 1) * 0.1
    x = torch.where(torch.rand(count, 1, 1, 1) < 0.25, contrast, x).clamp(0, 1)
    share = torch.empty(count, 1, 1, 1).uniform_(-0.7, 1)
    x = (x * (1 - share) + _blurred(x, 0.85) * share).clamp(0, 1)
    noise = torch.rand(count, 1, 1, 1) * 0.06 * (torch.rand(count, 1, 1, 1) < 0.4)
    return (x + torch.randn_like(x) * noise).clamp(0, 1)


def _blurred(images: Tensor, sigma: float) -> Tensor:
    reach = math.ceil(3 * sigma)
    steps = torch.arange(-reach, reach + 1)
    kernel = torch.exp(-((steps / sigma) ** 2) / 2)
    kernel /= kernel.sum()
    x = F.conv2d(F.pad(images, (reach, reach, 0, 0), mode="replicate"), kernel[None, None, None])
    return F.conv2d(F.pad(x, (0, 0, reach, reach), mode="replicate"), kernel[None, None, :, None])


def _spoilt(image: Tensor) -> Tensor:
    """`(1, 1, h, w)` in 0..255, blurred, noisy or burnt out beyond use."""
    x, kind = image / 255, int(torch.randint(3, ()))
    if kind == 0:
        x = _blurred(x, float(torch.empty(()).uniform_(3, 7)))
    elif kind == 1:
        x = x + torch.randn_like(x) * float(torch.empty(()).uniform_(0.35, 1))
    else:
        level = torch.quantile(x, float(torch.empty(()).uniform_(0.5, 0.8)))
        x = (x - level).clamp(min=0) * 3 if torch.rand(()) < 0.5 else 1 - (level - x).clamp(min=0) * 3
    return x.clamp(0, 1) * 255


def _jumbled(images: Tensor, index: int) -> Tensor:
    """`(1, h, w)`: one radiograph's tiles in another order, or a sheet of several radiographs."""
    tiles = int(torch.randint(2, 5, ()))
    side = SIDE // tiles
    if torch.rand(()) < 0.3:
        pieces = F.interpolate(images[torch.randint(len(images), (tiles**2,))], (side, side), mode="area")[:, 0]
    else:
        image = images[index, 0, : side * tiles, : side * tiles].reshape(tiles, side, tiles, side)
        pieces = image.permute(0, 2, 1, 3).reshape(tiles**2, side, side)[torch.randperm(tiles**2)]
    sheet = pieces.reshape(tiles, tiles, side, side).permute(0, 2, 1, 3).reshape(1, 1, side * tiles, side * tiles)
    return F.interpolate(sheet, (SIDE, SIDE))[0]


def _posed(images: Tensor, turns: Tensor, inverted: Tensor) -> Tensor:
    turned = images.clone()
    for quarter in (1, 2, 3):
        turned[turns == quarter] = torch.rot90(images[turns == quarter], quarter, (2, 3))
    return torch.where(inverted[:, None, None, None] > 0, 1 - turned, turned)
