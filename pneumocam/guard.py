"""Is this image a frontal chest radiograph, upright and whole? Checked before the classifier sees it.

A network of 0.4 million weights looks at a thumbnail of 64 x 64 pixels: it finds the lung fields and tells apart chest
radiographs from other pictures, upright from turned, positive from negative. Its thresholds come from the bundle.
"""

# ruff: noqa: N818 - an exception here is named by what is wrong, as in pneumocam.image.errors.

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, NamedTuple, cast

import numpy as np
import torch
import torch.nn.functional as F
from contourpy import contour_generator
from numpy.typing import NDArray
from PIL import Image
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from torch.nn.utils.fusion import fuse_conv_bn_eval

from pneumocam.bundle import BundleError, GuardThresholds, read_guard
from pneumocam.image import Radiograph, RadiographError

SIDE = 64  # px, of the thumbnail
GRID = 32  # cells, of the lung map
DETAIL_SIDE = 192  # px, of the larger thumbnail that sharpness and noise are measured on
COLOURED = 0.25  # share of strong colours; coloured marks and letters on a radiograph take less
EDGES = ("top_edge", "bottom_edge", "left_edge", "right_edge")
HEADS = ("inverted", "chest", "lateral", "cut_off", "poor_quality")  # after the four of the rotation

Floats = NDArray[np.float32]


class NotAChestRadiograph(RadiographError):
    """The image is no frontal chest radiograph, as far as the guard can tell.

    Attributes:
        can_be_forced: whether `force=True` gets a prediction anyway; never for a clear case such as a photograph.
    """

    code = "not_a_chest_radiograph"

    def __init__(self, message: str, *, can_be_forced: bool) -> None:
        """As a sentence for people, with what to do."""
        super().__init__(message)
        self.can_be_forced = can_be_forced


class Doubt(NamedTuple):
    """A doubt about a radiograph that makes its prediction uncertain.

    Attributes:
        code: `lateral_view`, `cut_off`, `poor_quality`, `unlike_training`, or that of a refusal that was overruled.
        message: a sentence for people, with what to do.
    """

    code: str
    message: str


WARNINGS = {
    "lateral_view": "This looks like a view from the side. The model knows frontal views only: send the frontal one.",
    "cut_off": "Part of the lungs is outside of the image. Send the whole radiograph.",
    "poor_quality": "The image is too blurred, noisy or badly exposed to rely on. Send the original file.",
    "unlike_training": "This radiograph is unlike those that the model was trained on, so its figures may not hold.",
}
REFUSAL = (
    "This does not look like a frontal chest radiograph. Send one whole, frontal radiograph of a chest, with nothing "
    "else in the picture."
)


@dataclass(frozen=True, eq=False)
class Inspection:
    """What the guard found in one image.

    Attributes:
        radiograph: the image, turned upright and to bright bones; its steps name each correction.
        refusal: why no prediction should be made, or None.
        warnings: doubts about the prediction.
        lungs: `(GRID, GRID)` float32, the probability that a cell of the corrected image lies in a lung field; None
            if nothing looked for them.
        measures: what was compared with the thresholds, by name.
    """

    radiograph: Radiograph
    refusal: NotAChestRadiograph | None = None
    warnings: tuple[Doubt, ...] = ()
    lungs: Floats | None = None
    measures: Mapping[str, float] = field(default_factory=dict)


class _Block(nn.Sequential):
    def __init__(self, inputs: int, outputs: int, stride: int = 1, kernel: int = 3) -> None:
        super().__init__(
            nn.Conv2d(inputs, outputs, kernel, stride, kernel // 2, bias=False),
            nn.BatchNorm2d(outputs),
            nn.ReLU(inplace=True),
        )


class LungLocator(nn.Module):
    """`(B, 1, SIDE, SIDE)` -> lung map logits `(B, GRID, GRID)`, logits `(B, 4 + 5)` of the heads, features `(B, 64)`.

    The first four logits are of the rotation by 0, 90, 180, 270 degrees counter-clockwise from upright; then come
    `HEADS`. A U-Net (Ronneberger et al. 2015) whose last step is a pixel shuffle.
    """

    def __init__(self) -> None:
        """With random weights."""
        super().__init__()
        self.stem = _Block(1, 16, 2, 5)
        self.down1 = nn.Sequential(_Block(16, 32, 2), _Block(32, 32))
        self.down2 = nn.Sequential(_Block(32, 64, 2), _Block(64, 64))
        self.down3 = nn.Sequential(_Block(64, 128, 2), _Block(128, 128))
        self.squeeze = _Block(128, 32, 1, 1)
        self.up2 = _Block(96, 32)
        self.up1 = _Block(64, 24)
        self.mask = nn.Conv2d(24, 4, 3, padding=1)
        self.hidden = nn.Linear(256, 64)
        self.heads = nn.Linear(64, 4 + len(HEADS))

    def forward(self, images: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        fine = self.down1(self.stem(images))  # (B, 32, 16, 16)
        middle = self.down2(fine)  # (B, 64, 8, 8)
        coarse = self.down3(middle)  # (B, 128, 4, 4)
        up = self.up2(torch.cat([F.interpolate(self.squeeze(coarse), scale_factor=2.0), middle], 1))
        up = self.up1(torch.cat([F.interpolate(up, scale_factor=2.0), fine], 1))
        lungs = F.pixel_shuffle(self.mask(up), 2)[:, 0]
        features = F.relu(self.hidden(torch.cat([coarse.mean((2, 3)), coarse.amax((2, 3))], 1)))
        return lungs, self.heads(F.dropout(features, 0.1, self.training)), features


def normalised(thumbnails: Tensor) -> Tensor:
    """Grey values `(B, 1, h, w)` in 0..255 -> float32 with the 2nd percentile at -1 and the 98th at 1."""
    values = thumbnails.float()
    flat = values.flatten(1)
    ranks = (1 + int(share * flat.shape[1]) for share in (0.02, 0.98))
    low, high = (flat.kthvalue(rank).values[:, None, None, None] for rank in ranks)
    return ((values - low) / (high - low + 4)).clamp(-0.5, 1.5) * 2 - 1


def on_edge(lungs: Tensor) -> Tensor:
    """Lung map logits `(B, GRID, GRID)` -> `(B, 4)`, the share of each of `EDGES` that lies in a lung."""
    inside = (lungs > 0).float()
    edges = [inside[:, 0], inside[:, -1], inside[:, :, 0], inside[:, :, -1]]  # (B, GRID) each
    return torch.stack([edge.mean(1) for edge in edges], 1)


def thumbnail(pixels: NDArray[np.uint8]) -> Tensor:
    """`(H, W)` uint8 -> `(1, SIDE, SIDE)` uint8, the aspect ratio lost."""
    small = Image.fromarray(pixels).resize((SIDE, SIDE), Image.Resampling.BOX, reducing_gap=3.0)
    return torch.from_numpy(np.array(small))[None]


def detail(pixels: NDArray[np.uint8]) -> float:
    """How strong the finest detail of `(H, W)` is, at least 0: low in a blurred image, high in a noisy one.

    The 95th percentile of the absolute Laplacian of a thumbnail, in standard deviations of its grey levels.
    """
    side = (DETAIL_SIDE, DETAIL_SIDE)
    small = np.asarray(Image.fromarray(pixels).resize(side, Image.Resampling.BOX, reducing_gap=1.5), np.int16)
    around = small[:-2, 1:-1] + small[2:, 1:-1] + small[1:-1, :-2] + small[1:-1, 2:]
    laplacian = np.abs(4 * small[1:-1, 1:-1] - around).ravel()
    counts = np.bincount(laplacian).cumsum()  # the percentile of whole numbers, without sorting them
    return float(np.searchsorted(counts, int(0.95 * laplacian.size), "right") / (small.std(dtype=np.float64) + 1))


@dataclass(frozen=True, eq=False)
class Guard:
    """The trained guard.

    Attributes:
        network: a LungLocator in eval mode.
        thresholds: from the bundle.
        centre: `(64,)`, the mean of the network's features over training radiographs.
        whitening: `(64, 64)`, features minus centre times this have unit covariance there.
        training, measured: provenance and figures, as stored in the bundle.
    """

    network: nn.Module
    thresholds: GuardThresholds
    centre: Tensor
    whitening: Tensor
    training: Mapping[str, Any] = field(default_factory=dict)
    measured: Mapping[str, Any] = field(default_factory=dict)

    def __call__(self, radiograph: Radiograph) -> Inspection:
        """Correct one image and say what speaks against a prediction for it."""
        image = thumbnail(radiograph.pixels)[None]  # (1, 1, SIDE, SIDE)
        lungs, heads, features = self._run(image)
        turns, inverted = 0, False
        if not self._plainly_upright(heads[0]):
            turns, inverted = self._pose(image)
            if turns or inverted:
                lungs, heads, features = self._run(_corrected(image, turns, inverted))
        measures = self.measures(lungs, heads, features) | {"detail": detail(radiograph.pixels)}
        refusal = self._refusal(measures, radiograph.colour)
        return Inspection(
            radiograph if refusal else _correct(radiograph, turns, inverted),
            refusal,
            () if refusal else tuple(self._warnings(measures)),
            lungs[0].sigmoid().numpy(),
            measures,
        )

    def measures(self, lungs: Tensor, heads: Tensor, features: Tensor) -> dict[str, float]:
        """What is compared with the thresholds, from a LungLocator's outputs for one image."""
        named = dict(zip(HEADS, heads[0, 4:].tolist(), strict=True))
        distance = torch.linalg.vector_norm((features[0] - self.centre) @ self.whitening)
        return named | {
            "lung_area": float((lungs > 0).float().mean()),
            "distance": float(distance),
            **dict(zip(EDGES, on_edge(lungs)[0].tolist(), strict=True)),
        }

    def _run(self, images: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        with torch.no_grad():
            return cast(tuple[Tensor, Tensor, Tensor], self.network(normalised(images)))

    def _plainly_upright(self, heads: Tensor) -> bool:
        upright, others = heads[0], heads[1:4].max()
        sure = min(float(upright - others), float(-heads[4]))
        return sure > self.thresholds.pose and float(heads[5]) > self.thresholds.chest

    def _pose(self, image: Tensor) -> tuple[int, bool]:
        """Quarter turns (counter-clockwise) and inversion of an image, from all eight views of it.

        Each view is a vote on the pose of the image itself, so that a slip of the network in one view is outvoted.
        """
        views = torch.cat([_corrected(image, turns, flip) for flip in (False, True) for turns in range(4)])  # (8, ...)
        _, heads, _ = self._run(views)
        rotation = heads[:, :4].log_softmax(1)
        inversion = F.logsigmoid(torch.stack([-heads[:, 4], heads[:, 4]], 1))
        # View (flip, undone) of an image turned by `turns` shows it turned by turns - undone.
        votes = torch.zeros(2, 4)
        for flip in range(2):
            for undone in range(4):
                row = 4 * flip + undone
                votes += inversion[row].roll(flip)[:, None] + rotation[row].roll(undone)[None]
        votes /= 8
        best = int(votes.argmax())
        if float(votes.flatten()[best] - votes[0, 0]) <= self.thresholds.pose:
            return 0, False
        return best % 4, best >= 4

    def _refusal(self, measures: Mapping[str, float], colour: float) -> NotAChestRadiograph | None:
        if colour > COLOURED:
            return NotAChestRadiograph(REFUSAL, can_be_forced=False)
        t = self.thresholds
        chest, area, distance = (measures[name] for name in ("chest", "lung_area", "distance"))
        if chest >= t.chest and t.lung_area[0] <= area <= t.lung_area[1] and distance <= t.far:
            return None
        return NotAChestRadiograph(REFUSAL, can_be_forced=chest >= t.forced and distance <= 2 * t.far)

    def _warnings(self, measures: Mapping[str, float]) -> Iterator[Doubt]:
        t = self.thresholds
        found = {
            "lateral_view": measures["lateral"] > t.lateral,
            "cut_off": measures["cut_off"] > t.cut_off
            or any(measures[edge] > limit for edge, limit in zip(EDGES, t.edges, strict=True)),
            "poor_quality": measures["poor_quality"] > t.poor_quality
            or not t.detail[0] <= measures["detail"] <= t.detail[1],
            "unlike_training": measures["distance"] > t.distance,
        }
        return (Doubt(code, WARNINGS[code]) for code, doubtful in found.items() if doubtful)


def load_guard(folder: Path) -> Guard | None:
    """The guard of a bundle, or None if it has none.

    Raises:
        BundleError: one of its two files is missing or damaged, or they do not belong together.
    """
    description = read_guard(folder)
    path = folder / "guard.safetensors"
    if description is None and not path.is_file():
        return None
    if description is None:
        raise BundleError(f"{folder / 'guard.json'} is missing beside guard.safetensors. Fetch the bundle again.")
    network = LungLocator().float()  # whatever PyTorch's default precision is
    try:
        weights = {name: tensor.float() for name, tensor in load_file(path).items()}
        centre, whitening = weights.pop("centre"), weights.pop("whitening")
        network.load_state_dict(weights)
    except (OSError, SafetensorError, KeyError, RuntimeError) as error:
        raise BundleError(
            f"{path} is missing, damaged or not of this version ({type(error).__name__}): expected the weights of the "
            "guard. Fetch the bundle again."
        ) from None
    network.eval().requires_grad_(False)
    for block in [module for module in network.modules() if isinstance(module, _Block)]:
        convolution, norm = cast(nn.Conv2d, block[0]), cast(nn.BatchNorm2d, block[1])
        block[0], block[1] = fuse_conv_bn_eval(convolution, norm), nn.Identity()
    network.to(memory_format=torch.channels_last)  # a seventh faster
    return Guard(network, description.thresholds, centre, whitening, description.training, description.measured)


def save_weights(folder: Path, guard: Guard) -> None:
    """Write guard.safetensors, the network in half precision; `pneumocam.bundle.write_guard` writes guard.json."""
    weights = {name: value.half().contiguous() for name, value in guard.network.state_dict().items()}
    statistics = {"centre": guard.centre.contiguous(), "whitening": guard.whitening.contiguous()}
    save_file(weights | statistics, folder / "guard.safetensors")


def _corrected(images: Tensor, turns: int, inverted: bool) -> Tensor:
    upright = torch.rot90(images, -turns, (2, 3))
    return 255 - upright if inverted else upright


def _correct(radiograph: Radiograph, turns: int, inverted: bool) -> Radiograph:
    if not (turns or inverted):
        return radiograph
    steps = list(radiograph.steps)
    pixels = radiograph.pixels
    if inverted:
        pixels = 255 - pixels
        steps.append("inverted, because its bones were dark")
    if turns:
        pixels = np.rot90(pixels, -turns)
        steps.append(f"rotated by {90 * turns} degrees clockwise, because it was not upright")
    pixels = np.ascontiguousarray(pixels)
    pixels.setflags(write=False)
    return replace(radiograph, pixels=pixels, steps=tuple(steps))


def outline(lungs: Floats, width: int, height: int) -> list[list[tuple[float, float]]]:
    """A lung map -> the lung fields' outlines: polygons of (x, y) in pixels of an image of this size, largest first."""
    centres = (np.arange(GRID) + 0.5) / GRID
    # A rim of zeros closes the polygons of fields that touch the image's edge.
    padded = np.pad(lungs, 1)
    xs, ys = (np.concatenate([[0], centres, [1]]) * side for side in (width, height))
    lines = cast(list[Any], contour_generator(xs, ys, padded).lines(0.5))
    polygons = [[(round(float(x), 1), round(float(y), 1)) for x, y in line] for line in lines if len(line) > 8]
    return sorted(polygons, key=len, reverse=True)
