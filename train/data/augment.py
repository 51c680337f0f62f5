"""What may happen to an image in training: its surroundings change, then its place, sharpness, tone and file."""

import io
import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from PIL import Image
from torchvision.transforms import v2

from train.data.surroundings import (
    Mask,
    Pixels,
    Text,
    erased,
    outside_of,
    replaced,
    resized,
    stretched,
    with_text,
)


@dataclass(frozen=True)
class Augmentation:
    """What may happen to a training image; the defaults are the shipped recipe's, see `train_transform`."""

    erase_text: float = 0.5
    """How often burned-in text is taken away from an image that has some."""
    paste_text: float = 0.25
    """How often the text of another training image is burned in, at times moved or mirrored."""
    outside: float = 0.5
    """How often all but the lungs is replaced, in an image whose lung mask is known."""
    stretch: float = 0.5
    """How often grey levels are stretched to the full range, and the darkest 6% and brightest 12% at most made flat."""
    crop_scale: float = 0.2
    """Smallest share of the image that a crop keeps, of its area."""
    crop_aspect: float = 1.5
    """Widest crop, and the inverse of the narrowest; 1 keeps the image's own aspect ratio."""
    zoom_out: float = 0.7
    """How small the image may be drawn on black, as a factor of its side; 1 is never."""
    resample: float = 0.4
    """How often an image is first shrunk, at most to a third of the crop's side."""
    reencode: float = 0.5
    """How often an image is saved as JPEG (quality 25 to 95) before the crop; half as often after it."""
    sharpness: float = 0.8
    """How often detail is taken away or doubled."""
    noise: float = 0.4
    """How often Gaussian noise is added."""
    photometric: float = 1.0
    """Strength of the changes of brightness, contrast and gamma, from 0."""
    tone: float = 0.9
    """How often a random tone curve is laid over the image."""
    frame: float = 0.3
    """How often flat strips are drawn along the edges, each at most 4% of the side wide, sharp or soft."""


@dataclass(frozen=True, eq=False)
class Picture:
    """An image in memory with what is known of its surroundings; `lungs` is a mask of any size, or None."""

    pixels: Pixels
    text: Text
    lungs: Mask | None = None


def vary_surroundings(
    picture: Picture, augment: Augmentation, texts: Sequence[Picture], outsides: Sequence[Picture]
) -> Pixels:
    """The image with other text and another outside, at random by torch's generator.

    Args:
        picture: the image.
        augment: how often.
        texts: training images with burned-in text.
        outsides: training images with a lung mask.
    """
    pixels = picture.pixels
    if picture.text.found and _happens(augment.erase_text):
        pixels = erased(pixels, picture.text)
    if texts and _happens(augment.paste_text):
        pixels = with_text(pixels, _moved(_one_of(texts).text.layer), strength=0.7 + 0.5 * _uniform())
    if picture.lungs is not None and _happens(augment.outside):
        outside = _any_outside(pixels, outsides)
        pixels = replaced(pixels, picture.lungs, outside, grow=2 * _below(7), soft=1 + 3 * _uniform())
    return stretched(pixels, 6 * _uniform(), 100 - 12 * _uniform()) if _happens(augment.stretch) else pixels


def _moved(layer: Pixels) -> Pixels:
    if _happens(0.3):
        layer = np.roll(layer, (_below(60) - 30, _below(60) - 30), (0, 1))
    if _happens(0.3):
        layer = layer[::-1, ::-1] if _happens(0.3) else layer[:, ::-1]
    return np.ascontiguousarray(layer)


def _any_outside(pixels: Pixels, outsides: Sequence[Picture]) -> np.ndarray:
    """(H, W) float32: another image's outside, noise of a random scale, one grey, or the image itself blurred."""
    height, width = pixels.shape
    kind = _below(4)
    if kind == 0:
        other = _one_of(outsides)
        assert other.lungs is not None  # by the definition of `outsides`
        return outside_of(other.pixels, other.lungs, width, height)
    if kind == 1:
        side = 4 + _below(60)
        noise = Image.fromarray((255 * torch.rand(side, side)).to(torch.uint8).numpy())
        return np.asarray(noise.resize((width, height), Image.Resampling.BICUBIC), np.float32) * (
            0.3 + 0.7 * _uniform()
        )
    if kind == 2:
        return np.full((height, width), 255 * _uniform(), np.float32)
    side = 6 + _below(10)
    return resized(resized(pixels, side, side), width, height).astype(np.float32)


def _uniform() -> float:
    return float(torch.rand(()))


def _happens(share: float) -> bool:
    return _uniform() < share


def _below(n: int) -> int:
    return int(torch.randint(n, ()))


def _one_of(pictures: Sequence[Picture]) -> Picture:
    return pictures[_below(len(pictures))]


def train_transform(
    size: int,
    mean: Sequence[float],
    std: Sequence[float],
    augment: Augmentation | None = None,
) -> v2.Transform:
    """Augmentations for a `(C, H, W)` uint8 tensor of any size; gives `(C, size, size)` float32, normalised.

    Zoom, shear, rotation and flip as in the notebook that this project set out to surpass. The others take away what
    tells this dataset's classes apart without a look at the lungs: JPEG quality, noise, sharpness, pixel size, aspect
    ratio, exposure and tone.
    """
    a = augment or Augmentation()
    scale = None if a.zoom_out == 1 else (a.zoom_out, 1.0)
    return v2.Compose(
        [
            v2.RandomApply([v2.RandomResize(size // 3, size + 1, antialias=True)], p=a.resample),
            v2.RandomApply([v2.Lambda(random_jpeg)], p=a.reencode),
            v2.RandomAffine(degrees=12, scale=scale, shear=(-8, 8, -8, 8), interpolation=v2.InterpolationMode.BILINEAR),
            v2.RandomResizedCrop(
                size, scale=(a.crop_scale, 1.0), ratio=(1 / a.crop_aspect, a.crop_aspect), antialias=True
            ),
            v2.RandomHorizontalFlip(),
            v2.RandomApply([v2.Lambda(random_frame)], p=a.frame),
            v2.RandomApply([v2.Lambda(_random_sharpness)], p=a.sharpness),
            v2.RandomApply([v2.Lambda(random_tone)], p=a.tone),
            v2.RandomAutocontrast(p=0.2 * min(a.photometric, 1)),
            v2.ColorJitter(brightness=0.25 * a.photometric, contrast=0.4 * a.photometric),
            v2.RandomApply([v2.Lambda(_random_gamma)], p=0.5 * min(a.photometric, 1)),
            v2.RandomApply([v2.Lambda(random_jpeg)], p=a.reencode / 2),
            v2.ToDtype(torch.float32, scale=True),
            v2.RandomApply([v2.GaussianNoise(sigma=0.04)], p=a.noise),
            v2.Normalize(list(mean), list(std)),
        ]
    )


def random_jpeg(image: torch.Tensor) -> torch.Tensor:
    """The grey `(C, H, W)` image saved as JPEG at a quality of 25 to 95; torchvision is giving up its own codec."""
    file = io.BytesIO()
    Image.fromarray(image[0].numpy()).save(file, "JPEG", quality=int(torch.randint(25, 96, ())))
    return torch.from_numpy(np.array(Image.open(file))).expand_as(image)  # (C, H, W)


def random_frame(image: torch.Tensor) -> torch.Tensor:
    """Flat strips along some edges of the `(C, H, W)` image, as collimators, scanners and programs leave them.

    Each is at most 4% of the side wide, mostly black, and its inner edge takes up to 4 pixels. `without_border` leaves
    narrow strips and parts of soft edges, and a network that was trained without them may change its prediction.
    """
    height, width = image.shape[1:]
    soft = 0.5 + 3.5 * _uniform()  # px
    kept = torch.ones(height, width)
    for side, size in ((0, height), (1, height), (2, width), (3, width)):
        if _happens(0.7):
            distance = torch.arange(size) + 0.5  # px from the edge
            inside = ((distance - 0.04 * size * _uniform()) / soft + 0.5).clamp(0, 1)  # (size,)
            inside = inside.flip(0) if side % 2 else inside
            kept *= inside[:, None] if side < 2 else inside
    grey = 0.0 if _happens(0.7) else 255 * _uniform()
    return (image * kept + grey * (1 - kept)).round().to(torch.uint8)


def _random_sharpness(image: torch.Tensor) -> torch.Tensor:
    """Detail below a random width of 1 to 4 pixels taken away, or up to doubled: an unsharp mask of either sign.

    The training set's normal images are the sharper ones, and a network can go by that instead of the lungs.
    """
    sigma = float(torch.empty(()).uniform_(0.5, 2.0))
    gain = float(torch.empty(()).uniform_(-1.0, 1.0))
    width = 2 * math.ceil(2 * sigma) + 1
    smooth: torch.Tensor = v2.functional.gaussian_blur(image, [width, width], [sigma, sigma]).float()
    return (smooth + (1 + gain) * (image - smooth)).round().clamp(0, 255).to(torch.uint8)


def random_tone(image: torch.Tensor) -> torch.Tensor:
    """Grey values along a rising cubic Bezier curve from (0, 0) to (1, 1) with random control points.

    The nonlinear transformation of Models Genesis (Zhou et al. 2019), since detectors, developers and programs
    differ in the contrast that they give to bright and to dark parts.
    """
    x1, y1, x2, y2 = torch.rand(4)
    t = torch.linspace(0, 1, 1024)

    def bezier(first: torch.Tensor, second: torch.Tensor) -> np.ndarray:
        return (3 * (1 - t) ** 2 * t * first + 3 * (1 - t) * t**2 * second + t**3).numpy()

    curve = np.interp(np.linspace(0, 1, 256), bezier(x1, x2), bezier(y1, y2))
    return torch.from_numpy((curve * 255).round().astype(np.uint8))[image.long()]


def _random_gamma(image: torch.Tensor) -> torch.Tensor:
    adjusted: torch.Tensor = v2.functional.adjust_gamma(image, float(torch.empty(()).uniform_(0.6, 1.6)))
    return adjusted
