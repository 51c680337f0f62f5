"""What Pillow, timm, Captum and this package give, for tests/web: `python -m tests.web.values` writes values.json."""

import base64
import io
import json
import struct
import zlib
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from PIL import ExifTags, Image
from torch import Tensor, nn

from pneumocam import Classifier, Radiograph, load_radiograph, predict
from pneumocam.bundle import GuardThresholds
from pneumocam.classifier import eval_transform
from pneumocam.guard import GRID, Guard, outline, thumbnail

FILE = Path(__file__).with_name("values.json")
SIZES = ((97, 61, 24, 24), (20, 33, 48, 40), (64, 64, 64, 31), (130, 67, 9, 67), (200, 3, 7, 5))  # from, to
DEEP = (  # colour type and Adam7 of a PNG, highest value, what else is in it
    *(
        (0, False, 4095, ""),
        (0, True, 65535, "twice the same byte"),
        (0, False, 200, ""),
        (0, False, 3000, "hot pixels"),
    ),
    *(
        (0, True, 4095, "border"),
        (0, False, 3000, "warm pixel"),
        (2, False, 65535, ""),
        (4, True, 60000, ""),
        (6, False, 16383, ""),
    ),
)
DEEP_BORDERS = ((0, False, 3000, "blurred collimator"), (0, True, 3000, "bright surround"))
ADAM7 = ((0, 0, 8, 8), (4, 0, 8, 8), (0, 4, 4, 8), (2, 0, 4, 4), (0, 2, 2, 4), (1, 0, 2, 2), (0, 1, 1, 2))
SHRUNK = ((97, 61), (64, 64), (500, 400), (1231, 390), (192, 192), (64, 700))  # width, height
GUARDS = 12
CROPS = ((1, 24, 24, 1.0), (3, 24, 20, 0.875), (1, 22, 22, 0.95))  # channels, height, width, crop_pct


class Eye(nn.Module):
    """From the means of 8 x 8 blocks: lungs (B, 4, 4), heads (B, 9), features (B, 6), as from the guard's network."""

    def __init__(self, weights: Tensor) -> None:
        """With weights (64, 31)."""
        super().__init__()
        self.weights = weights

    def forward(self, thumbnails: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        outputs = (F.avg_pool2d(thumbnails, 8).flatten(1) + 0.5).square() @ self.weights  # (B, 31)
        return outputs[:, :16].reshape(-1, 4, 4), outputs[:, 16:25], outputs[:, 25:]


class Network(nn.Module):
    """A convolution, global average pooling, one linear layer."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.convolution = nn.Conv2d(channels, 5, 6, stride=6)
        self.classifier = nn.Linear(5, 3)

    def forward_features(self, batch: Tensor) -> Tensor:
        features: Tensor = self.convolution(batch)
        return features

    def forward_head(self, features: Tensor) -> Tensor:
        logits: Tensor = self.classifier(features.mean((2, 3)))
        return logits


def values() -> dict[str, Any]:
    """Inputs and outputs as plain JSON; files and arrays of uint8 or float32 as base64 of zlib."""
    generator = np.random.default_rng(0)
    return {
        "resize": [_resized(generator, *sizes) for sizes in SIZES],
        "shrunk": [_shrunk(generator, *size) for size in SHRUNK],
        "guard": _guards(generator),
        "grey": _grey(generator),
        "files": _files(generator),
        "deep": [
            *(_deep(generator, *kind) for kind in DEEP),
            *(_deep(np.random.default_rng(1), *kind) for kind in DEEP_BORDERS),
        ],
        "prediction": [_prediction(generator, *crop) for crop in CROPS],
    }


def _resized(generator: np.random.Generator, width: int, height: int, to_width: int, to_height: int) -> dict[str, Any]:
    pixels = _pixels(generator, width, height)
    result = Image.fromarray(pixels).resize((to_width, to_height), Image.Resampling.BICUBIC)
    return {
        "sizes": [width, height, to_width, to_height],
        "pixels": _base64(pixels),
        "expected": _base64(np.asarray(result)),
    }


def _shrunk(generator: np.random.Generator, width: int, height: int) -> dict[str, Any]:
    pixels = np.kron(_pixels(generator, width // 5 + 1, height // 8 + 1), np.ones((8, 5), np.uint8))[:height, :width]
    return {"size": [width, height], "pixels": _base64(pixels), "expected": _base64(thumbnail(pixels).numpy())}


def _guards(generator: np.random.Generator) -> dict[str, Any]:
    """An image, and what guards with networks of random weights and with random limits say of it."""
    pixels = _pixels(generator, 90, 70)
    cases = [_guard(generator, Radiograph(pixels, "PNG", ())) for _ in range(GUARDS)]
    return {"width": 90, "height": 70, "pixels": _base64(pixels), "cases": cases}


def _guard(generator: np.random.Generator, radiograph: Radiograph) -> dict[str, Any]:
    weights = generator.integers(-3, 4, (64, 31), np.int8)
    limits: dict[str, Any] = {name: generator.normal(0, 4) for name in ("chest", "lateral", "cut_off", "poor_quality")}
    limits |= {"forced": limits["chest"] - 6, "pose": 0.1, "distance": 15.0, "far": 30.0}
    own = np.random.default_rng(abs(int(weights.sum())))
    limits |= {
        "detail": (own.uniform(0, 8), own.uniform(0, 8)),
        "edges": tuple(own.uniform(0, 2, 4).clip(max=1).tolist()),
    }
    thresholds = GuardThresholds.model_validate({**limits, "lung_area": (0.1, 0.9)})
    centre, whitening = (torch.from_numpy(generator.normal(0, 1, size).astype(np.float32)) for size in (6, (6, 6)))
    found = Guard(Eye(torch.from_numpy(weights).float()), thresholds, centre, whitening)(radiograph)
    return {
        "weights": _base64(weights),
        "thresholds": thresholds.model_dump(),
        "centre": _base64(centre.numpy()),
        "whitening": _base64(whitening.numpy()),
        "pixels": _base64(found.radiograph.pixels) if found.radiograph is not radiograph else None,
        "size": [found.radiograph.width, found.radiograph.height],
        "steps": found.radiograph.steps,
        "refusal": found.refusal and [found.refusal.code, found.refusal.message, found.refusal.can_be_forced],
        "warnings": [doubt._asdict() for doubt in found.warnings],
        "measures": dict(found.measures),
    }


def _pixels(generator: np.random.Generator, width: int, height: int) -> Any:
    """(height, width) uint8 with the steepest edges that there are, where a cubic filter overshoots."""
    pixels = generator.integers(0, 256, (height, width), np.uint8)
    pixels[:, : width // 3] = np.where(pixels[:, : width // 3] > 127, 255, 0)
    return pixels


def _grey(generator: np.random.Generator) -> dict[str, str]:
    colours = generator.integers(0, 256, (32, 32, 3), np.uint8)
    expected = np.asarray(Image.fromarray(colours).convert("L"))
    return {"rgb": _base64(colours), "expected": _base64(expected)}


def _files(generator: np.random.Generator) -> list[dict[str, Any]]:
    """Encoded images, and the header that Pillow reads or the code of the refusal."""
    grey = Image.fromarray(np.kron(_pixels(generator, 9, 8), np.ones((9, 8), np.uint8)) // 2)  # 72 x 72
    turned = Image.Exif()
    turned[ExifTags.Base.Orientation] = 6
    several: dict[str, Any] = {"save_all": True, "append_images": [grey.rotate(180)]}
    known: list[tuple[Image.Image, str, dict[str, Any]]] = [
        *((grey, "JPEG", {}), (grey.convert("RGB"), "JPEG", {"exif": turned}), (grey, "PNG", {})),
        *((grey.convert("P"), "PNG", {}), (grey.convert("RGBA"), "PNG", {}), (grey.convert("1"), "PNG", {})),
        *(
            (grey, "WEBP", {}),
            (grey, "WEBP", {"lossless": True}),
            (grey.convert("RGBA"), "WEBP", {"exif": b"Exif\0\0"}),
        ),
    ]
    refused: list[tuple[Image.Image, str, dict[str, Any], str]] = [
        *((grey.convert("CMYK"), "JPEG", {}, "unsupported_here"), (grey, "PNG", {"exif": turned}, "unsupported_here")),
        *((grey, "WEBP", {"exif": turned}, "unsupported_here"), (grey, "TIFF", {}, "unsupported_here")),
        *((grey, "BMP", {}, "unsupported_here"), (grey, "GIF", {}, "unsupported_here")),
        *((grey, "PNG", several, "multi_frame"), (grey, "WEBP", several, "multi_frame")),
        (grey.crop((0, 0, 72, 63)), "PNG", {}, "too_small"),
    ]
    dicom = (bytes(128) + b"DICM" + bytes(64), b"\x08\0\x05\0CS" + bytes(64))
    whole = [_encoded(image, kind, options) for image, kind, options in known]
    cases: list[tuple[bytes, dict[str, Any]]] = [
        *((data, {"header": _header(*one)}) for data, one in zip(whole, known, strict=True)),
        *((_encoded(*one[:3]), {"code": one[3]}) for one in refused),
        *((whole[i][:-200], {"code": "damaged_image"}) for i in (0, 2, 6)),
        *((data, {"code": "unsupported_here"}) for data in dicom),
        *((data, {"code": "not_an_image"}) for data in (b"", b"%PDF-1.7 and so on")),
    ]
    return [{"data": _base64(data), **expected} for data, expected in cases]


def _encoded(image: Image.Image, kind: str, options: dict[str, Any]) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, kind, **options)
    return buffer.getvalue()


def _header(image: Image.Image, kind: str, options: dict[str, Any]) -> dict[str, Any]:
    colour = kind == "WEBP" or image.mode in ("RGB", "RGBA", "P")
    return {
        "format": kind,
        "width": image.width,
        "height": image.height,
        "channels": 3 if colour else 1,
        "depth": 1 if image.mode == "1" else 8,
        "orientation": 6 if isinstance(options.get("exif"), Image.Exif) else 1,
    }


def _deep(generator: np.random.Generator, colour_type: int, adam7: bool, high: int, also: str) -> dict[str, Any]:
    """A PNG of 16 bits a channel, and what the package reads in it."""
    channels = {0: 1, 2: 3, 4: 2, 6: 4}[colour_type]
    blocks = np.linspace(0.1, 1, 110 * channels).reshape(10, 11, channels) * high
    blocks += generator.integers(0, high // 20, blocks.shape)
    samples = np.kron(blocks, np.ones((7, 6, 1))).clip(0, high).astype(np.uint16)
    if also == "twice the same byte":
        samples = samples // 257 * 257
    elif also == "hot pixels":
        samples[5, 7] = samples[50, 60] = 65535
    elif also == "warm pixel":
        samples[20, 20] = 3300
    elif also == "border":
        samples[:, :9] = 65535
    elif also == "blurred collimator":
        samples[:, :13] = np.linspace(92000, 8000, 13).clip(0, 65535).reshape(1, 13, 1)
    elif also == "bright surround":
        inner = samples[17:53, 16:50].copy()
        samples += 30000
        samples[17:53, 16:50] = inner
    passes = ADAM7 if adam7 else ((0, 0, 1, 1),)
    data = b"".join(_filtered(samples[y::dy, x::dx]) for x, y, dx, dy in passes)
    header = struct.pack(">IIBBBBB", 66, 70, 16, colour_type, 0, 0, adam7)
    chunks = ((b"IHDR", header), (b"IDAT", zlib.compress(data, 9)), (b"IEND", b""))
    png = b"\x89PNG\r\n\x1a\n" + b"".join(
        struct.pack(">I", len(body)) + name + body + struct.pack(">I", zlib.crc32(name + body)) for name, body in chunks
    )
    radiograph = load_radiograph(png)
    return {
        "kind": [colour_type, adam7, high, also],
        "png": _base64(png),
        "expected": _base64(radiograph.pixels),
        "steps": radiograph.steps,
    }


def _filtered(samples: Any) -> bytes:
    """Rows of (H, W, C) uint16 as a PNG holds them, with its five filters in turn."""
    height, width, channels = samples.shape
    pixel = 2 * channels
    rows = np.zeros((height + 1, pixel * (width + 1)), np.int16)  # zeros above and to the left
    rows[1:, pixel:] = np.frombuffer(samples.astype(">u2").tobytes(), np.uint8).reshape(height, -1)
    lines = []
    for y in range(height):
        row, above = rows[y + 1, pixel:], rows[y, pixel:]
        left, corner = rows[y + 1, :-pixel], rows[y, :-pixel]
        guess = left + above - corner
        a, b, c = abs(guess - left), abs(guess - above), abs(guess - corner)
        paeth = np.where((a <= b) & (a <= c), left, np.where(b <= c, above, corner))
        predicted = (0, left, above, (left + above) // 2, paeth)[y % 5]
        lines.append(bytes([y % 5]) + (row - predicted).astype(np.uint8).tobytes())
    return b"".join(lines)


def _prediction(
    generator: np.random.Generator, channels: int, height: int, width: int, crop_pct: float
) -> dict[str, Any]:
    bundled = replace(Classifier.from_pretrained(), guard=None)  # which knows these images for none
    torch.manual_seed(channels + height)
    preprocessing = {
        **bundled.preprocessing,
        "input_size": (channels, height, width),
        "mean": (0.485, 0.456, 0.406)[:channels],
        "std": (0.229, 0.224, 0.225)[:channels],
        "crop_pct": crop_pct,
    }
    prior = {"NORMAL": 0.25, "BACTERIAL": 0.5, "VIRAL": 0.25} if channels == 3 else None
    network = Network(channels).eval().requires_grad_(False)
    classifier = replace(
        bundled,
        network=network,
        preprocessing=preprocessing,
        transform=eval_transform(preprocessing),
        temperature=0.3,
        prior=prior,
        prevalence=0.1 if prior else None,
    )
    pixels = _pixels(generator, 90, 70)
    prediction = predict(classifier, Radiograph(pixels, "PNG", ()))
    batch = classifier.transform(Radiograph(pixels, "PNG", ()))[None]  # (1, C, H, W)
    features = classifier.features(batch)  # (1, D, h, w)
    lungs = F.interpolate(torch.from_numpy(generator.random((1, 1, 6, 6), np.float32)), (GRID, GRID), mode="bilinear")
    found = {name: replace(one, lungs=lungs[0, 0].numpy()) for name, one in prediction.maps.items()}
    return {
        "pixels": {"width": 90, "height": 70, "data": _base64(pixels)},
        "preprocessing": preprocessing,
        "input": _base64(batch.numpy()),
        "features": {"shape": features.shape[1:], "data": _base64(features.numpy())},
        "logits": classifier.head(features)[0].tolist(),
        "weights": _base64(network.classifier.weight.numpy()),
        "labels": classifier.label_names,
        "temperature": classifier.temperature,
        "shift": classifier.log_odds_shift(),
        "points": {name: vars(point) for name, point in classifier.operating_points.items()},
        "expected": {name: prediction.at(name).to_dict() for name in classifier.operating_points},
        "maps": {name: one.relative() for name, one in found.items()},
        "facts": {name: one.to_dict() for name, one in found.items()},
        "lungs": _base64(lungs.numpy()),
        "outline": outline(lungs[0, 0].numpy(), 90, 70),
        "box": prediction.explain().box,
    }


def _base64(data: Any) -> str:
    """Bytes or an array, compressed by zlib."""
    plain = data if isinstance(data, bytes) else np.ascontiguousarray(data).tobytes()
    return base64.b64encode(zlib.compress(plain, 9)).decode()


def text() -> str:
    """The content of values.json."""
    kinds = (f"{json.dumps(name)}: {json.dumps(value)}" for name, value in values().items())
    return "{" + ",\n".join(kinds) + "}\n"


if __name__ == "__main__":
    FILE.write_text(text())
