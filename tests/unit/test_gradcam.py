"""Maps against three other implementations, their place on the upload against timm's own transform, and the drawing."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import timm
import torch
from captum.attr import LayerGradCam
from numpy.typing import NDArray
from PIL import Image
from pytorch_grad_cam import GradCAM as GradCamOfGildenblat
from pytorch_grad_cam.utils.model_targets import ClassifierOutputTarget
from torch import Tensor, nn
from torchcam.methods import GradCAM as TorchCam

import pneumocam.overlay
from pneumocam import DISCLAIMER, Classifier, Radiograph, Saliency, load_radiograph, predict, predict_many, targets
from pneumocam.gradcam import grad_cam, input_box
from pneumocam.hub import BUNDLED
from pneumocam.overlay import blend, draw_overlay
from tests.conftest import EXAMPLES, SUBTYPES

# The layer whose output is that of forward_features.
LAYERS = {
    "tf_efficientnet_lite0": "bn2",
    "resnet10t": "layer4",
    "convnext_atto": "norm_pre",
    "densenet121": "features",
    "regnetx_002": "final_conv",
}
BINARY = ("NORMAL", "PNEUMONIA")
MakeBundle = Callable[..., Path]
Pixels = NDArray[np.uint8]


class WithLogOdds(nn.Module):
    """The whole network with one more output, the last: log of P(any pneumonia) / P(NORMAL)."""

    def __init__(self, network: nn.Module, labels: tuple[str, ...]) -> None:
        super().__init__()
        self.network, self.normal = network, labels.index("NORMAL")

    def forward(self, batch: Tensor) -> Tensor:
        logits = self.network(batch)  # (B, K)
        others = torch.cat([logits[:, : self.normal], logits[:, self.normal + 1 :]], 1)
        return torch.cat([logits, torch.logsumexp(others, 1, keepdim=True) - logits[:, [self.normal]]], 1)  # (B, K + 1)


def whole(bundle: Path, labels: tuple[str, ...] = SUBTYPES) -> tuple[WithLogOdds, nn.Module]:
    """The network as timm alone loads it, and its layer."""
    network = timm.create_model(f"local-dir:{bundle}", pretrained=True).eval()
    return WithLogOdds(network, labels), network.get_submodule(LAYERS[network.default_cfg["architecture"]])


def output_of(target: str, labels: tuple[str, ...] = SUBTYPES) -> int:
    return len(labels) if target == "PNEUMONIA" else labels.index(target)


def by_captum(model: nn.Module, layer: nn.Module, batch: Tensor, output: int) -> NDArray[np.float32]:
    """`(B, h, w)`."""
    cam: Tensor = LayerGradCam(model, layer).attribute(batch, output, relu_attributions=True)  # (B, 1, h, w)
    return cam.detach().squeeze(1).numpy()


def by_torchcam(model: nn.Module, layer: nn.Module, batch: Tensor, output: int) -> NDArray[np.float32]:
    """`(B, h, w)`, its smallest value shifted to 0 and its greatest scaled to 1."""
    with TorchCam(model, layer) as extractor:
        scores = model(batch.clone().requires_grad_())
        (cam,) = extractor(output, scores)  # (B, h, w)
    return cam.detach().numpy()


def normalised(cam: NDArray[np.float32]) -> NDArray[np.float32]:
    shifted: NDArray[np.float32] = cam - cam.min((-2, -1), keepdims=True)
    scaled: NDArray[np.float32] = shifted / (shifted.max((-2, -1), keepdims=True) + 1e-8)
    return scaled


def noise(channels: int, size: tuple[int, int], count: int = 2) -> Tensor:
    return torch.randn(count, channels, *size, generator=torch.Generator().manual_seed(1))


# The numbers


@pytest.mark.slow
@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("architecture", LAYERS)
def test_maps_are_those_of_captum_and_torchcam_on_the_whole_network(
    make_bundle: MakeBundle, architecture: str, channels: int
) -> None:
    bundle = make_bundle(architecture, in_chans=channels, size=(64, 96))
    classifier = Classifier.from_pretrained(f"local-dir:{bundle}")
    batch = noise(channels, (64, 96))
    features = classifier.features(batch)
    before = features.clone()
    model, layer = whole(bundle)
    shown = 0
    for target in targets(classifier):
        cam = grad_cam(classifier, features, [target] * len(batch))
        captum = by_captum(model, layer, batch, output_of(target))
        assert cam.shape == features.shape[:1] + features.shape[2:]
        assert cam.dtype == np.float32
        scale = max(1, float(captum.max()))
        np.testing.assert_allclose(cam, captum, rtol=0, atol=1e-5 * scale)
        torchcam = by_torchcam(model, layer, batch, output_of(target))
        for mine, other in zip(cam, torchcam, strict=True):
            if mine.max() > 1e-4 * scale:  # below, normalising shows rounding and nothing else
                np.testing.assert_allclose(normalised(mine), other, rtol=0, atol=1e-4)
                shown += 1
    assert shown >= 2
    assert torch.equal(features, before)  # explaining changes nothing for who comes after


@pytest.mark.parametrize("target", [*SUBTYPES, "PNEUMONIA"])
def test_maps_of_real_images_are_those_of_captum_and_torchcam(bundled: Classifier, target: str) -> None:
    model, layer = whole(BUNDLED)
    images = [load_radiograph(path) for path in (EXAMPLES[0], EXAMPLES[-1])]
    batch = torch.stack([bundled.transform(image) for image in images])
    cams = [answer.explain(target).cam for answer in predict_many(bundled, images)]
    captum = by_captum(model, layer, batch, output_of(target))
    scale = max(1, float(captum.max()))
    np.testing.assert_allclose(cams, captum, rtol=0, atol=1e-5 * scale)
    torchcam = by_torchcam(model, layer, batch, output_of(target))
    for mine, other in zip(cams, torchcam, strict=True):
        if mine.max() > 1e-4 * scale:
            np.testing.assert_allclose(normalised(mine), other, rtol=0, atol=1e-4)


def test_the_heatmap_of_a_real_image_is_that_of_pytorch_grad_cam(bundled: Classifier) -> None:
    model, layer = whole(BUNDLED)
    image = load_radiograph(EXAMPLES[-1])
    answer = predict(bundled, image)
    target = next(name for name in targets(bundled) if not answer.explain(name).is_empty)
    with GradCamOfGildenblat(model, [layer]) as peer:
        (other,) = peer(bundled.transform(image)[None], [ClassifierOutputTarget(output_of(target))])  # (H, W)
    saliency = answer.explain(target)
    mine = saliency.heatmap()
    upright = np.asarray(Image.fromarray(other).resize(mine.shape[::-1], Image.Resampling.BILINEAR))
    assert np.corrcoef(mine.ravel(), upright.ravel())[0, 1] > 0.98
    assert np.abs(mine / saliency.peak - upright).mean() < 0.03


@pytest.mark.parametrize("target", BINARY)
def test_a_binary_model_explains_pneumonia_by_its_log_odds(make_bundle: MakeBundle, target: str) -> None:
    bundle = make_bundle("resnet10t", labels=BINARY)
    classifier = Classifier.from_pretrained(f"local-dir:{bundle}")
    assert targets(classifier) == BINARY
    batch = noise(1, (64, 64))
    cam = grad_cam(classifier, classifier.features(batch), [target] * 2)
    model, layer = whole(bundle, BINARY)
    np.testing.assert_allclose(cam, by_captum(model, layer, batch, output_of(target, BINARY)), rtol=0, atol=1e-5)


def test_each_image_of_a_batch_has_its_own_target(make_bundle: MakeBundle) -> None:
    classifier = Classifier.from_pretrained(f"local-dir:{make_bundle('resnet10t')}")
    features = classifier.features(noise(1, (64, 64), 3))
    together = grad_cam(classifier, features, ["VIRAL", "PNEUMONIA", "NORMAL"])
    for i, name in enumerate(("VIRAL", "PNEUMONIA", "NORMAL")):
        np.testing.assert_allclose(together[i], grad_cam(classifier, features[[i]], [name])[0], rtol=0, atol=1e-6)


@pytest.mark.parametrize("target", ["LUNG", "normal", ""])
def test_an_unknown_target_is_refused(make_bundle: MakeBundle, target: str) -> None:
    classifier = Classifier.from_pretrained(f"local-dir:{make_bundle('test_resnet')}")
    answer = predict(classifier, EXAMPLES[0])
    message = f"Class to explain is '{target}'; this model explains NORMAL, BACTERIAL, VIRAL, PNEUMONIA"
    for ask in (answer.explain, answer.overlay):
        with pytest.raises(ValueError, match=message):
            ask(target)


# The place on the upload


def measured_box(preprocessing: dict[str, Any], width: int, height: int) -> tuple[float, float, float, float]:
    """Where the outer edges of the network's input lie on a picture, read off ramps sent through timm's transform."""
    transform = timm.data.create_transform(**preprocessing, normalize=False)
    columns, rows = np.meshgrid(np.arange(width, dtype=np.float32), np.arange(height, dtype=np.float32))

    def through(values: NDArray[np.float32]) -> NDArray[np.float64]:
        shown: NDArray[np.float64] = np.asarray(transform(Image.fromarray(values))[0], np.float64)  # (H, W)
        return shown

    inside = through(np.full_like(columns, 1e6)) > 1e6 - 1  # not what the transform pads
    edges = []
    for values, axis in ((through(columns + 0.5), 0), (through(rows + 0.5), 1)):
        line = (values * inside).sum(axis) / inside.sum(axis).clip(1)
        steps = np.flatnonzero(inside.any(axis))[3:-3]  # resampling bends a ramp near its ends
        slope, start = np.polyfit(steps + 0.5, line[steps], 1)
        edges.append((start, start + slope * len(line)))
    (left, right), (top, bottom) = edges
    return left, top, right, bottom


@pytest.mark.parametrize("picture", [(200, 200), (300, 170), (170, 300), (1200, 900)])
@pytest.mark.parametrize("size", [(64, 64), (64, 96), (96, 64)])
@pytest.mark.parametrize("crop_pct", [1.0, 0.875])
@pytest.mark.parametrize("crop_mode", ["squash", "center", "border"])
def test_the_box_is_what_timm_shows_the_network(
    crop_mode: str, crop_pct: float, size: tuple[int, int], picture: tuple[int, int]
) -> None:
    preprocessing = {
        "input_size": (1, *size),
        "interpolation": "bilinear",
        "mean": (0.0,),
        "std": (1.0,),
        "crop_pct": crop_pct,
        "crop_mode": crop_mode,
    }
    box = input_box(preprocessing, *picture)
    expected = measured_box(preprocessing, *picture)
    # timm resizes to whole pixels and crops at whole pixels: half of one, of those the network sees, at either edge.
    pixel = max((box[2] - box[0]) / size[1], (box[3] - box[1]) / size[0])
    np.testing.assert_allclose(box, expected, rtol=0, atol=1.05 * pixel)


BOXES = {
    "whole": (0, 0, 300, 200),
    "center": (50, 0, 250, 200),
    "border": (0, -50, 300, 250),
    "inner": (30, 20, 270, 180),
}


@pytest.mark.parametrize("cell", [(0, 0), (1, 2), (3, 4), (2, 0)])
@pytest.mark.parametrize("box", BOXES)
def test_a_hot_cell_is_at_its_place(box: str, cell: tuple[int, int]) -> None:
    left, top, right, bottom = BOXES[box]
    cam = np.zeros((4, 5), np.float32)
    cam[cell] = 7.0
    heat = Saliency(cam, "VIRAL", BOXES[box], (300, 200)).heatmap()
    assert heat.shape == (200, 300)
    assert heat.dtype == np.float32
    ys, xs = np.mgrid[:200, :300] + 0.5
    row, column = (ys - top) * 4 / (bottom - top) - 0.5, (xs - left) * 5 / (right - left) - 0.5  # in cells
    # Interpolated between the cells' centres, held beyond the outermost ones, and 0 where the network was blind.
    tent = np.clip(1 - abs(row.clip(0, 3) - cell[0]), 0, 1) * np.clip(1 - abs(column.clip(0, 4) - cell[1]), 0, 1)
    blind = (ys < top) | (ys > bottom) | (xs < left) | (xs > right)
    np.testing.assert_allclose(heat, np.where(blind, 0, tent), rtol=0, atol=1e-5)


@pytest.mark.parametrize("box", BOXES)
def test_the_grey_map_is_the_heatmap_within_two_levels(box: str) -> None:
    cam = np.random.default_rng(0).uniform(0, 5, (6, 6)).astype(np.float32)
    saliency = Saliency(cam, "VIRAL", BOXES[box], (300, 200), scale=6.0)
    grey = saliency.grey()
    assert grey.mode == "L"
    np.testing.assert_allclose(np.asarray(grey, float), 255 * saliency.heatmap(), rtol=0, atol=2)


def test_an_image_far_from_the_shape_of_the_input_takes_little_memory() -> None:
    box = input_box({"input_size": (1, 64, 64), "crop_pct": 1.0, "crop_mode": "border"}, 64, 200_000)
    heat = Saliency(np.ones((2, 2), np.float32), "VIRAL", box, (64, 200_000)).heatmap()
    assert heat.shape == (200_000, 64)
    assert heat.min() == 1


def test_what_the_network_is_shown_is_where_the_map_lies(make_bundle: MakeBundle) -> None:
    bundle = make_bundle("resnet10t", size=(96, 64), crop_mode="center", crop_pct=0.9)
    classifier = Classifier.from_pretrained(f"local-dir:{bundle}")
    image = load_radiograph(EXAMPLES[0])
    saliency = predict(classifier, image).explain("PNEUMONIA")
    assert saliency.size == (image.width, image.height)
    assert saliency.box == input_box(classifier.preprocessing, image.width, image.height)
    assert saliency.target == "PNEUMONIA"
    assert saliency.cam.shape == (3, 2)


# The drawing


def ramp(width: int, height: int) -> Radiograph:
    return Radiograph(np.tile(np.linspace(0, 255, width).astype(np.uint8), (height, 1)), "array", ())


def map_of(image: Radiograph, *hot: tuple[int, int], target: str = "VIRAL") -> Saliency:
    cam = np.zeros((4, 4), np.float32)
    for cell in hot:
        cam[cell] = 3.0
    return Saliency(cam, target, (0, 0, image.width, image.height), (image.width, image.height))


def split(picture: Image.Image, image: Radiograph) -> tuple[Pixels, Pixels]:
    """The image's part, and the strip below."""
    assert picture.mode == "RGB"
    assert picture.width == image.width
    assert picture.height > image.height
    pixels = np.asarray(picture)
    return pixels[: image.height], pixels[image.height :]


@pytest.mark.parametrize("size", [(64, 64), (64, 300), (640, 480), (2500, 2000)])
def test_the_image_stays_where_there_is_no_heat(size: tuple[int, int]) -> None:
    image = ramp(*size)
    saliency = map_of(image, (0, 0))
    above, strip = split(draw_overlay(image, saliency, "VIRAL 70%"), image)
    cold = saliency.heatmap() == 0
    assert 0.5 < cold.mean() < 0.9
    np.testing.assert_array_equal(above[cold], np.repeat(image.pixels[cold][:, None], 3, 1))
    assert (above[~cold].max(1) != above[~cold].min(1)).mean() > 0.5  # coloured
    assert strip.max() > 150  # written on
    assert strip.shape[0] >= 40


def test_colour_is_blended_by_heat_and_opacity() -> None:
    image = ramp(160, 160)
    cam = np.ones((1, 1), np.float32)
    saliency = Saliency(cam, "VIRAL", (0, 0, 160, 160), (160, 160))
    above, _ = split(draw_overlay(image, saliency, "VIRAL", opacity=0.25, colour_map="gray"), image)
    expected = 0.75 * image.pixels[..., None].astype(float) + 0.25 * 255
    np.testing.assert_allclose(above, np.repeat(expected, 3, 2), rtol=0, atol=1)  # in grey levels


def test_no_opacity_leaves_the_image() -> None:
    image = ramp(160, 120)
    above, _ = split(draw_overlay(image, map_of(image, (1, 1), (2, 3)), "VIRAL", opacity=0), image)
    np.testing.assert_array_equal(above, np.repeat(image.pixels[..., None], 3, 2))


@pytest.mark.parametrize("width", [64, 200, 1000])
def test_caption_and_disclaimer_are_in_the_strip_and_only_there(width: int, monkeypatch: pytest.MonkeyPatch) -> None:
    image = ramp(width, 100)
    saliency = map_of(image, (1, 1))
    above, strip = split(draw_overlay(image, saliency, "VIRAL 70%"), image)
    other_above, other_strip = split(draw_overlay(image, saliency, "BACTERIAL 12% (uncertain)"), image)
    np.testing.assert_array_equal(above, other_above)
    changed = np.flatnonzero((strip != other_strip).any((1, 2)))
    assert len(changed) > 0
    assert changed.max() < len(strip) / 2  # the caption is the first line

    monkeypatch.setattr(pneumocam.overlay, "DISCLAIMER", " ")
    bare_above, bare_strip = split(draw_overlay(image, saliency, "VIRAL 70%"), image)
    np.testing.assert_array_equal(above, bare_above)
    changed = np.flatnonzero((strip != bare_strip).any((1, 2)))
    assert len(changed) > 0
    assert changed.min() > len(strip) / 2  # the disclaimer is the last line
    assert DISCLAIMER == "Research and teaching only: not a diagnosis."


@pytest.mark.parametrize("width", [64, 90, 500])
def test_a_long_caption_fits_a_narrow_image(width: int) -> None:
    image = ramp(width, 80)
    _, strip = split(draw_overlay(image, map_of(image, (1, 1)), "BACTERIAL 100% (uncertain)"), image)
    assert strip[:, [0, 1, -2, -1]].max() == 0


def test_the_text_of_large_images_is_not_kept_in_memory() -> None:
    image = ramp(6000, 64)
    before = pneumocam.overlay._kept_letters.cache_info()
    draw_overlay(image, map_of(image, (1, 1)), "VIRAL 70%")
    assert pneumocam.overlay._kept_letters.cache_info() == before


def test_the_blended_picture_is_the_overlay_without_its_strip() -> None:
    image = ramp(400, 300)
    saliency = map_of(image, (1, 1))
    above, _ = split(draw_overlay(image, saliency, "VIRAL 70%", opacity=0.3, colour_map="viridis"), image)
    blended = np.asarray(blend(image.to_pil(), saliency, opacity=0.3, colour_map="viridis"))
    np.testing.assert_array_equal(blended, above)
    assert blended.dtype == np.uint8
    assert np.ptp(blended, axis=2).max() > 0


def test_a_map_on_less_than_a_pixel_is_nowhere() -> None:
    saliency = Saliency(np.ones((3, 3), np.float32), "VIRAL", (300.1, 0, 300.4, 1), (654, 1))
    heat = saliency.heatmap()
    assert (heat.shape, heat.max()) == ((1, 654), 0)
    assert heat.dtype == np.float32


def test_an_empty_map_is_reported_and_leaves_the_image() -> None:
    image = ramp(400, 300)
    empty = map_of(image)
    assert empty.is_empty
    assert not map_of(image, (0, 0)).is_empty
    assert empty.heatmap().shape == (300, 400)
    assert empty.heatmap().max() == 0
    above, strip = split(draw_overlay(image, empty, "VIRAL 1%"), image)
    np.testing.assert_array_equal(above, np.repeat(image.pixels[..., None], 3, 2))
    _, other = split(draw_overlay(image, replace(empty, target="BACTERIAL"), "VIRAL 1%"), image)
    changed = np.flatnonzero((strip != other).any((1, 2)))
    assert len(changed) > 0  # the target is named in it
    # No colour bar where there is nothing to read off it: nothing but black, white, grey and amber.
    assert (strip[..., 2] <= strip[..., 0]).all()


def test_the_bar_shows_the_colours_from_none_to_most() -> None:
    image = ramp(640, 200)
    _, strip = split(draw_overlay(image, map_of(image, (0, 0)), "VIRAL 70%", colour_map="viridis"), image)
    both = {(68, 1, 84), (253, 231, 37)}  # viridis's two ends
    bar = [line for line in strip.astype(int) if both <= {tuple(pixel) for pixel in line.tolist()}]
    assert len(bar) >= 10
    colours = bar[0]
    (first,) = np.flatnonzero((colours == (68, 1, 84)).all(1))[:1]
    (last,) = np.flatnonzero((colours == (253, 231, 37)).all(1))[-1:]
    assert last - first > 100
    assert (np.diff(colours[first : last + 1, 1]) >= 0).all()


def test_the_caption_says_class_probability_and_doubt(bundled: Classifier) -> None:
    image = load_radiograph(EXAMPLES[-1])
    for band, doubt in ((0.0, ""), (50.0, " (uncertain)")):
        point = replace(bundled.operating_point, uncertain_log_odds=band)
        answer = predict(replace(bundled, operating_point=point), image)
        saliency = answer.explain("PNEUMONIA")
        expected = draw_overlay(image, saliency, f"PNEUMONIA {answer.probability('PNEUMONIA'):.0%}{doubt}")
        np.testing.assert_array_equal(np.asarray(answer.overlay("PNEUMONIA")), np.asarray(expected))
