"""Changes of an image in training: sizes, JPEG, tone, text and outside."""

import math
import tempfile

import numpy as np
import pytest
import torch
from PIL import Image

from train.data import Augmentation, train_transform
from train.data.augment import Picture, random_frame, random_jpeg, random_tone, vary_surroundings
from train.data.surroundings import SIDE, burned_in, erased, outside_of, replaced, stretched, with_text

NONE = Augmentation(erase_text=0, paste_text=0, outside=0, stretch=0)


def gradient(side: int = SIDE) -> np.ndarray:
    """A dim chest without any text."""
    return np.linspace(20, 90, side)[:, None].repeat(side, 1).round().astype(np.uint8)


def marked(side: int = SIDE) -> np.ndarray:
    """The same with bright strokes in the upper left corner."""
    pixels = gradient(side)
    unit = side // 56
    for k in range(4):
        pixels[2 * unit : 7 * unit, (1 + 2 * k) * unit : (2 + 2 * k) * unit] = 250
    return pixels


def lungs(side: int = 64) -> np.ndarray:
    mask = np.zeros((side, side), bool)
    mask[side // 4 : -side // 4, side // 4 : -side // 4] = True
    return mask


def picture(pixels: np.ndarray, mask: np.ndarray | None = None) -> Picture:
    return Picture(pixels, burned_in(pixels, mask), mask)


# --- frames


def test_a_frame_is_flat_narrow_and_at_the_edges_only() -> None:
    torch.manual_seed(0)
    image = torch.full((1, 200, 150), 128, dtype=torch.uint8)
    drawn = [random_frame(image)[0] for _ in range(50)]
    assert all(torch.equal(one[12:-12, 10:-10], image[0, 12:-12, 10:-10]) for one in drawn)
    rims = [float((one[:, 75] != 128).float().mean()) for one in drawn]  # above and below together
    assert max(rims) < 0.08 + 8 / 200
    assert np.mean([rim > 0 for rim in rims]) > 0.7
    assert np.mean([int(one.min()) < 40 for one in drawn]) > 0.5  # most are black
    assert max(int(one.max()) for one in drawn) > 150


# --- text and outside


@pytest.mark.parametrize("side", [SIDE, 448])
def test_text_is_found_in_corners_and_erased(side: int) -> None:
    assert not burned_in(gradient(side)).found
    text = burned_in(marked(side))
    assert text.found
    without = erased(marked(side), text)
    assert np.abs(without.astype(int) - gradient(side)).max() < 25
    assert not burned_in(without).found
    assert np.array_equal(without[side // 2 :], marked(side)[side // 2 :])


def test_what_is_bright_in_the_middle_or_in_the_lungs_is_no_text() -> None:
    assert not burned_in(np.roll(marked(), (SIDE // 2, SIDE // 2), (0, 1))).found
    assert not burned_in(marked(), np.ones((50, 50), bool)).found


def test_text_is_burned_into_an_image_of_another_size() -> None:
    burned = with_text(gradient(448), burned_in(marked()).layer)
    assert burned_in(burned).found
    assert np.abs(burned.astype(int) - marked(448))[: 448 // 2].mean() < 3


def test_lungs_stay_when_the_outside_is_replaced() -> None:
    pixels, side = gradient(), SIDE // 4
    other = replaced(pixels, lungs(), np.full((SIDE, SIDE), 200, np.float32), grow=4, soft=1)
    inside = np.s_[side:-side, side:-side]
    assert np.array_equal(other[inside], pixels[inside])
    assert (other[:20] == 200).all()
    assert (other[:, -20:] == 200).all()


def test_an_outside_has_no_lungs_of_its_own() -> None:
    pixels = gradient()
    pixels[SIDE // 4 : -SIDE // 4, SIDE // 4 : -SIDE // 4] = 255
    outside = outside_of(pixels, lungs(), 100, 60)
    assert outside.shape == (60, 100)
    assert outside[30, 50] < 120
    assert outside[2, 2] == pytest.approx(gradient()[7, 7], abs=4)


def test_percentiles_are_stretched_to_the_full_range() -> None:
    levels = stretched(gradient())
    assert (levels.min(), levels.max()) == (0, 255)
    assert (np.diff(levels[:, 0].astype(int)) >= 0).all()
    flat = np.full((64, 64), 9, np.uint8)
    assert np.array_equal(stretched(flat), flat)


def test_surroundings_vary_as_often_as_asked_and_lungs_never_do() -> None:
    one, other = picture(marked(), lungs()), picture(255 - marked(), lungs())
    inside = np.s_[SIDE // 4 + 24 : -SIDE // 4 - 24, SIDE // 4 + 24 : -SIDE // 4 - 24]
    torch.manual_seed(0)
    assert np.array_equal(vary_surroundings(one, NONE, [one], [other]), one.pixels)
    always = Augmentation(erase_text=1, paste_text=0, outside=0, stretch=0)
    assert not burned_in(vary_surroundings(one, always, [one], [other])).found
    seen = [vary_surroundings(one, Augmentation(1, 0, 1, 0), [], [other]) for _ in range(12)]
    assert all(np.array_equal(pixels[inside], one.pixels[inside]) for pixels in seen)
    assert len({pixels[:20].tobytes() for pixels in seen}) == 12
    pasted = [vary_surroundings(picture(gradient()), Augmentation(0, 1, 0, 0), [one], []) for _ in range(8)]
    assert all(pixels.max() > 150 for pixels in pasted)


# --- place, sharpness, tone and file


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("shape", [(300, 200), (20, 90), (64, 64), (9, 7), (1, 40)])
def test_augmentation_gives_one_size_and_type_for_any_image(channels: int, shape: tuple[int, int]) -> None:
    transform = train_transform(48, [0.5] * channels, [0.25] * channels)
    image = torch.arange(shape[0] * shape[1]).reshape(1, *shape).mul(3).to(torch.uint8).expand(channels, -1, -1)
    torch.manual_seed(0)
    for _ in range(20):
        augmented = transform(image)
        assert augmented.dtype == torch.float32
        assert augmented.shape == (channels, 48, 48)
        assert augmented.min() >= -2
        assert augmented.max() <= 2


def test_jpeg_is_that_of_the_quality_drawn() -> None:
    image = torch.randint(0, 256, (1, 40, 30), dtype=torch.uint8).expand(3, -1, -1)
    torch.manual_seed(5)
    saved = random_jpeg(image)
    torch.manual_seed(5)
    quality = int(torch.randint(25, 96, ()))
    with tempfile.TemporaryFile() as file:
        Image.fromarray(image[0].numpy()).save(file, "JPEG", quality=quality)
        expected = np.array(Image.open(file))
    assert saved.shape == image.shape
    assert all(np.array_equal(channel.numpy(), expected) for channel in saved)
    assert not torch.equal(saved, image)


def test_a_tone_curve_rises_from_black_to_white_through_the_points_drawn() -> None:
    ramp = torch.arange(256, dtype=torch.uint8).reshape(1, 16, 16).expand(3, -1, -1)
    for seed in range(20):
        torch.manual_seed(seed)
        toned = random_tone(ramp)
        torch.manual_seed(seed)
        x1, y1, x2, y2 = torch.rand(4).tolist()
        curve = toned[0].flatten().int()
        assert toned.dtype == torch.uint8
        assert all(torch.equal(channel, toned[0]) for channel in toned)
        assert curve[[0, -1]].tolist() == [0, 255]
        assert (curve.diff() >= 0).all()
        halfway_x, halfway_y = (255 * (3 * a + 3 * b + 1) / 8 for a, b in ((x1, x2), (y1, y2)))
        around = curve[math.floor(halfway_x) : math.floor(halfway_x) + 2]
        assert around.min() - 1 <= halfway_y <= around.max() + 1
