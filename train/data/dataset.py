"""The datasets of a manifest: balanced draws of augmented images for training, every image once for validation."""

import hashlib
from collections import Counter, defaultdict
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch.utils.data import Dataset
from tqdm import tqdm

from pneumocam.image import Radiograph, RadiographError, load_radiograph, without_border
from pneumocam.image.border import border
from train.data.augment import Augmentation, Picture, train_transform, vary_surroundings
from train.data.folders import DataError
from train.data.manifest import LabelledImage
from train.data.surroundings import Mask, burned_in

LARGEST = 500_000_000  # bytes of an image: the limit of a server is not needed here
LONGER_SIDE = 320  # px, to which images are shrunk when they are kept in memory
TEXT_SHARE = (0.2, 0.4)  # of the images drawn of each class, those with text: the source's own share within these


class ValidationImages(Dataset[tuple[torch.Tensor, int]]):
    """`(C, H, W)` float32 images and class indices (see `class_index`), every image once, in order."""

    def __init__(
        self,
        images: Sequence[LabelledImage],
        roots: Sequence[Path],
        label_names: Sequence[str],
        transform: Callable[[Radiograph], torch.Tensor],
    ) -> None:
        self.images, self.roots, self.transform = list(images), list(roots), transform
        self.labels = [class_index(image.label, label_names) for image in images]

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, index: int) -> tuple[torch.Tensor, int]:
        image = self.images[index]
        return self.transform(without_border(_load(self.roots[image.root] / image.path))), self.labels[index]


class TrainingImages(Dataset[tuple[torch.Tensor, int]]):
    """`(C, H, W)` float32 augmented images and class indices (see `class_index`), drawn anew each epoch.

    An epoch has as many items as there are images; a copy counts as the same image, and each draw takes one of the
    copies. Draws are balanced by `balanced_weights`. All images are kept in memory, at most LONGER_SIDE px long.
    Every item takes its random numbers from (seed, epoch, index): neither the number of workers nor that of
    machines, nor a resumed run, changes what an epoch looks like.

    Attributes:
        pictures: the copies of each image.
        weights: (N,) float64, the probability of each image in a draw.
    """

    def __init__(
        self,
        images: Sequence[LabelledImage],
        roots: Sequence[Path],
        label_names: Sequence[str],
        *,
        masks: Mapping[str, Path] | None = None,
        size: int,
        mean: Sequence[float],
        std: Sequence[float],
        augment: Augmentation,
        seed: int,
    ) -> None:
        by_key: dict[object, list[LabelledImage]] = defaultdict(list)
        for image in images:
            by_key[image.key].append(image)
        copies = list(by_key.values())
        self.labels = [class_index(one[0].label, label_names) for one in copies]
        self.pictures = _pictures(copies, roots, masks or {})
        self.weights = balanced_weights(
            [one[0].source for one in copies],
            [one[0].label for one in copies],
            [one[0].text.found for one in self.pictures],
        )
        self._texts = [one[0] for one in self.pictures if one[0].text.found]
        self._outsides = [copy for one in self.pictures for copy in one if copy.lungs is not None]
        self._transform = train_transform(size, mean, std, augment)
        self._augment, self._channels, self._seed = augment, len(mean), seed
        self.draw(0)

    def draw(self, epoch: int) -> None:
        """Choose the images of an epoch. Not called `set_epoch`, which Accelerate's loader calls with its own count."""
        self._epoch = epoch
        generator = torch.Generator().manual_seed(_hash(self._seed, epoch))
        weights = torch.from_numpy(self.weights)
        self.drawn: list[int] = torch.multinomial(weights, len(self), replacement=True, generator=generator).tolist()

    def __len__(self) -> int:
        return len(self.pictures)

    def __getitem__(self, index: int) -> tuple[torch.Tensor, int]:
        drawn = self.drawn[index]
        with torch.random.fork_rng(devices=[]):
            torch.default_generator.manual_seed(_hash(self._seed, self._epoch, index))
            copies = self.pictures[drawn]
            picture = copies[int(torch.randint(len(copies), ()))]
            pixels = vary_surroundings(picture, self._augment, self._texts, self._outsides)
            image = torch.from_numpy(np.ascontiguousarray(pixels))[None]  # (1, H, W)
            return self._transform(image.expand(self._channels, -1, -1)), self.labels[drawn]


def class_index(label: str, label_names: Sequence[str]) -> int:
    """The index of a label; len(label_names) for PNEUMONIA of unknown subtype where subtypes are told apart."""
    return label_names.index(label) if label in label_names else len(label_names)


def balanced_weights(sources: Sequence[str], labels: Sequence[str], texts: Sequence[bool]) -> NDArray[np.float64]:
    """(N,) probabilities of a draw such that neither source nor burned-in text tells the class.

    A source is drawn in proportion to the square root of its number of images. In each source NORMAL is half of the
    draws, so that the network's prior of pneumonia is 50%, and the other classes are the other half in equal parts. In
    each class of a source the images with text are the same share of the draws: that of the source, within TEXT_SHARE.

    Args:
        sources: the source of each image.
        labels: NORMAL, BACTERIAL, VIRAL or PNEUMONIA.
        texts: whether each has text.
    """
    size = Counter(sources)
    total = sum(n**0.5 for n in size.values())
    kinds = {source: {label for s, label in zip(sources, labels, strict=True) if s == source} for source in size}
    cells = Counter(zip(sources, labels, texts, strict=True))
    with_text: dict[str, float] = {
        source: float(
            np.clip(sum(n for (s, _, t), n in cells.items() if s == source and t) / size[source], *TEXT_SHARE)
        )
        for source in size
    }

    def weight(source: str, label: str, text: bool) -> float:
        ill = kinds[source] - {"NORMAL"}
        class_share = 1.0 if len(kinds[source]) == 1 else 0.5 if label == "NORMAL" else 0.5 / len(ill)
        text_share = 1.0 if not cells[source, label, not text] else with_text[source] if text else 1 - with_text[source]
        return float(size[source] ** 0.5 / total * class_share * text_share / cells[source, label, text])

    weights = np.array([weight(*cell) for cell in zip(sources, labels, texts, strict=True)])
    return np.asarray(weights / weights.sum())


def read_mask(folder: Path | None, path: str) -> Mask | None:
    """(h, w) bool: the lungs of the image of that path, or None without a mask for it."""
    file = folder and (folder / path).with_suffix(".png")
    if file is None or not file.is_file():
        return None
    with Image.open(file) as mask:
        return np.array(mask.convert("L")) > 127


def text_found(image: LabelledImage, roots: Sequence[Path], masks: Mapping[str, Path]) -> bool:
    """Whether text is burned into an image; see `train.data.surroundings`."""
    pixels = _load(roots[image.root] / image.path).pixels
    return burned_in(pixels, read_mask(masks.get(image.source), image.path)).found


def _pictures(
    copies: Sequence[Sequence[LabelledImage]], roots: Sequence[Path], masks: Mapping[str, Path]
) -> list[list[Picture]]:
    def read(image: LabelledImage) -> Picture:
        radiograph, lungs = _load(roots[image.root] / image.path), read_mask(masks.get(image.source), image.path)
        height, width = radiograph.pixels.shape
        above, below, left, right = border(radiograph.pixels)  # which `without_border` cuts off in use
        picture = radiograph.to_pil().crop((left, above, width - right, height - below))
        box = (left / width, above / height, 1 - right / width, 1 - below / height)
        picture.thumbnail((LONGER_SIDE, LONGER_SIDE), Image.Resampling.BICUBIC)
        pixels, lungs = np.array(picture), None if lungs is None else _part(lungs, box)
        return Picture(pixels, burned_in(pixels, lungs), lungs)

    flat = [image for one in copies for image in one]
    with ThreadPoolExecutor() as pool:
        read_in = iter(list(tqdm(pool.map(read, flat), "Reading images", len(flat), unit="image", leave=False)))
    return [[next(read_in) for _ in one] for one in copies]


def _part(mask: Mask, box: tuple[float, float, float, float]) -> Mask:
    """The part of a mask within left, upper, right and lower limits, each a share of the side."""
    height, width = mask.shape
    left, upper, right, lower = np.round(np.multiply(box, (width, height, width, height))).astype(int)
    return mask[upper:lower, left:right]


def _load(path: Path) -> Radiograph:
    try:
        return load_radiograph(path, max_bytes=LARGEST)
    except RadiographError as error:
        raise DataError(f"{path} cannot be trained on; remove it or mend it: {error}") from error


def _hash(*numbers: int) -> int:
    return int.from_bytes(hashlib.blake2b(" ".join(map(str, numbers)).encode(), digest_size=7).digest(), "big")
