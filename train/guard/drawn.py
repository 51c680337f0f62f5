"""Pictures that are no chest radiograph, drawn at random: noise, textures, pages, plots, windows, bones, scans.

Real pictures of these kinds are few where no data set may be downloaded, and the guard has to refuse what it has
never seen. Every function takes a random generator and returns `(SIZE, SIZE)` uint8.
"""

import math
import string
from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFilter, ImageFont
from scipy.ndimage import gaussian_filter, zoom

SIZE = 192
Picture = NDArray[np.uint8]
Floats = NDArray[np.floating]


def _uint8(values: Floats) -> Picture:
    """Any range of values, stretched to 0..255."""
    low, high = float(values.min()), float(values.max())
    return ((values - low) / (high - low + 1e-6) * 255).astype(np.uint8)


def _clouds(rng: np.random.Generator, *, steepness: float | None = None) -> Floats:
    """`(SIZE, SIZE)` Gaussian noise with power falling as frequency ** -steepness, in 0..1."""
    steepness = rng.uniform(0.8, 2.5) if steepness is None else steepness
    frequency = np.hypot(*np.meshgrid(np.fft.fftfreq(SIZE), np.fft.fftfreq(SIZE)))
    spectrum = np.fft.fft2(rng.standard_normal((SIZE, SIZE))) / np.maximum(frequency, 1 / SIZE) ** steepness
    values = np.fft.ifft2(spectrum).real
    return np.asarray((values - values.min()) / (np.ptp(values) + 1e-9))


def noise(rng: np.random.Generator) -> Picture:
    """Noise of one of five distributions, at any grain."""
    side = int(rng.choice([SIZE, SIZE // 2, SIZE // 4, SIZE // 12, SIZE // 24]))
    shape = side, side
    draws: list[Callable[[], Floats]] = [
        lambda: rng.random(shape),
        lambda: rng.standard_normal(shape),
        lambda: rng.exponential(1.0, shape),
        lambda: (rng.random(shape) < rng.uniform(0.02, 0.5)).astype(float),
        lambda: rng.poisson(rng.uniform(1, 20), shape).astype(float),
    ]
    values = draws[rng.integers(5)]()
    return _uint8(zoom(values, SIZE / side, order=int(rng.integers(0, 2)))[:SIZE, :SIZE])


def clouds(rng: np.random.Generator) -> Picture:
    """Natural-looking noise, sometimes mirrored so that it has a left and a right half."""
    values = _clouds(rng)
    if rng.random() < 0.5:
        values = values + values[:, ::-1]
    return _uint8(values)


def gradient(rng: np.random.Generator) -> Picture:
    """Ramps, waves, rings and stripes."""
    angle, (y, x) = rng.uniform(0, 2 * math.pi), np.mgrid[:SIZE, :SIZE] / SIZE - rng.uniform(0.2, 0.8, (2, 1, 1))
    along = x * math.cos(angle) + y * math.sin(angle)
    place = [along, np.hypot(x, y), np.abs(along) - np.abs(y), np.arctan2(y, x) / 6][rng.integers(4)]
    kind = rng.integers(3)
    if kind == 0:
        return _uint8(place)
    wave = np.sin(2 * math.pi * place * rng.uniform(1, 20) + rng.uniform(0, 6))
    return _uint8(np.sign(wave) if kind == 1 else wave)


def shapes(rng: np.random.Generator) -> Picture:
    """Flat and soft shapes on one another, also in pairs as lungs come."""
    image = Image.new("L", (SIZE, SIZE), int(rng.integers(256)))
    draw = ImageDraw.Draw(image)
    for _ in range(rng.integers(2, 25)):
        x, y = rng.uniform(-20, SIZE, 2)
        w, h = rng.uniform(8, SIZE * 0.7, 2)
        fill, box = int(rng.integers(256)), (x, y, x + w, y + h)
        paint = [draw.ellipse, draw.rectangle][rng.integers(2)]
        paint(box, fill)
        if rng.random() < 0.3:
            paint((SIZE - x - w, y, SIZE - x, y + h), fill)
        if rng.random() < 0.2:
            draw.line([tuple(p) for p in rng.uniform(0, SIZE, (rng.integers(2, 6), 2))], fill, int(rng.integers(1, 9)))
    return np.asarray(image.filter(ImageFilter.GaussianBlur(float(rng.choice([0, 0, 1, 4, 9])))))


def _text(rng: np.random.Generator, letters: int) -> str:
    return "".join(rng.choice(list(string.ascii_letters + string.digits + "    .,-"), max(1, letters)))


def page(rng: np.random.Generator) -> Picture:
    """A document: title, paragraphs, table or form, sometimes a picture, dark on light or the other way round."""
    ink, paper = sorted(int(v) for v in rng.integers(0, 256, 2)) if rng.random() < 0.3 else (0, 255)
    image = Image.new("L", (SIZE, SIZE), paper)
    draw = ImageDraw.Draw(image)
    y, margin, columns = rng.uniform(4, 20), rng.uniform(4, 24), int(rng.integers(1, 4))
    width = (SIZE - 2 * margin) / columns
    while y < SIZE - 8:
        size = float(rng.choice([5, 6, 7, 7, 8, 14, 22]))
        kind = rng.random()
        if kind < 0.75:
            for column in range(columns):
                line = _text(rng, int(width / size * 1.7 * rng.uniform(0.5, 1)))
                draw.text((margin + column * width, y), line, ink, ImageFont.load_default(size))
            y += size * rng.uniform(1.1, 1.6)
        elif kind < 0.9:
            rows = rng.integers(2, 6)
            for row in range(rows):
                draw.rectangle((margin, y, SIZE - margin, y + size * 1.5), outline=ink)
                draw.text((margin + 3, y + 2), _text(rng, 12), ink, ImageFont.load_default(6 + row % 2))
                y += size * 1.5
        else:
            height = rng.uniform(20, 60)
            draw.rectangle((margin, y, margin + width * 0.8, y + height), int(rng.integers(256)))
            y += height + 6
    return np.asarray(image)


def plot(rng: np.random.Generator) -> Picture:
    """Axes with curves, bars, points or a heat map."""
    paper, ink = (255, 0) if rng.random() < 0.8 else (20, 230)
    image = Image.new("L", (SIZE, SIZE), paper)
    draw = ImageDraw.Draw(image)
    left, top, right, bottom = 22, 12, SIZE - 8, SIZE - 20
    kind = rng.integers(4)
    if kind == 0:
        cells = Image.fromarray(_uint8(rng.random((rng.integers(3, 14), rng.integers(3, 14)))))
        image.paste(cells.resize((right - left, bottom - top), Image.Resampling.NEAREST), (left, top))
    for _ in range(rng.integers(1, 5)):
        grey, count = int(rng.integers(0, 200)), int(rng.integers(5, 60))
        xs = np.linspace(left, right, count)
        ys = np.clip(np.cumsum(rng.standard_normal(count)) * 12 + rng.uniform(top, bottom), top, bottom)
        if kind == 1:
            draw.line(list(zip(xs.tolist(), ys.tolist(), strict=True)), grey, int(rng.integers(1, 4)))
        elif kind == 2:
            for x, y in zip(xs, ys, strict=True):
                draw.rectangle((x, y, x + (right - left) / count * 0.7, bottom), grey)
        elif kind == 3:
            for x, y in zip(rng.uniform(left, right, count), ys, strict=True):
                draw.ellipse((x - 2, y - 2, x + 2, y + 2), grey)
    draw.rectangle((left, top, right, bottom), outline=ink)
    for i in range(5):
        draw.text((2, top + i * 36), _text(rng, 3), ink, ImageFont.load_default(7))
        draw.text((left + i * 34, bottom + 4), _text(rng, 3), ink, ImageFont.load_default(7))
    return np.asarray(image)


def window(rng: np.random.Generator) -> Picture:
    """A screenshot: bars, menus, panels, buttons and text, light or dark."""
    dark = rng.random() < 0.5
    greys = [int(v) for v in (rng.integers(10, 90, 4) if dark else rng.integers(180, 256, 4))]
    ink = int(rng.integers(180, 256) if dark else rng.integers(0, 90))
    image = Image.new("L", (SIZE, SIZE), greys[0])
    draw = ImageDraw.Draw(image)
    draw.rectangle((0, 0, SIZE, rng.uniform(6, 20)), greys[1])
    side = rng.uniform(0, 70)
    draw.rectangle((0, 12, side, SIZE), greys[2])
    for _ in range(rng.integers(4, 22)):
        x, y, w, h = *rng.uniform(0, SIZE, 2), *rng.uniform(10, 90, 2)
        if rng.random() < 0.4:
            draw.rounded_rectangle((x, y, x + w, y + h / 2), 3, int(rng.choice(greys)), ink)
        draw.text((x + 3, y + 2), _text(rng, int(w / 4)), ink, ImageFont.load_default(float(rng.choice([6, 7, 9, 13]))))
    if rng.random() < 0.3:
        photo = Image.fromarray(_uint8(_clouds(rng))).resize((70, 60))
        image.paste(photo, (int(rng.integers(0, 110)), int(rng.integers(20, 120))))
    return np.asarray(image)


def _bone(canvas: Floats, start: Floats, end: Floats, width: float, grey: float) -> None:
    """Add a long bone: bright walls, a darker marrow, knobs at both ends."""
    y, x = np.mgrid[:SIZE, :SIZE]
    axis = end - start
    length = float(np.hypot(*axis)) + 1e-6
    t = ((x - start[0]) * axis[0] + (y - start[1]) * axis[1]) / length**2
    across = np.abs((x - start[0]) * axis[1] - (y - start[1]) * axis[0]) / length
    radius = width * (1 + 0.6 * np.exp(-((np.minimum(t, 1 - t) * length / width) ** 2) / 3))
    inside = (t > 0) & (t < 1) & (across < radius)
    canvas += np.where(inside, grey * (0.55 + 0.45 * (across / radius) ** 2), 0)


def limb(rng: np.random.Generator) -> Picture:
    """An arm or a leg: one or two long bones in a band of soft tissue, a joint, plates and screws now and then."""
    y, x = np.mgrid[:SIZE, :SIZE]
    canvas = np.zeros((SIZE, SIZE))
    middle, bend = rng.uniform(60, 130), rng.uniform(-0.35, 0.35)
    joint = rng.uniform(-20, SIZE + 20)
    half = rng.uniform(25, 60) * (1 + 0.25 * np.sin(y / rng.uniform(25, 80)))
    canvas += np.sqrt(np.clip(1 - ((x - middle - bend * (y - 96)) / half) ** 2, 0, None)) * rng.uniform(0.25, 0.6)
    for offset in ([0.0], [-14.0, 14.0])[rng.integers(2)]:
        for top, bottom in ((-30.0, joint - 4), (joint + 4, SIZE + 30.0)):
            points = [np.array([middle + offset + bend * (end - 96) + rng.normal(0, 3), end]) for end in (top, bottom)]
            _bone(canvas, points[0], points[1], rng.uniform(6, 15), rng.uniform(0.35, 0.8))
    if rng.random() < 0.15:
        canvas[int(joint) % SIZE :: 14, int(middle) - 12 : int(middle) + 12] += 1.2
    return _finished(rng, canvas)


def hand(rng: np.random.Generator) -> Picture:
    """A hand or a foot: wrist, palm and five rows of bones in soft tissue."""
    canvas = np.zeros((SIZE, SIZE))
    tissue = Image.new("L", (SIZE, SIZE))
    draw = ImageDraw.Draw(tissue)
    palm = np.array([rng.uniform(80, 110), rng.uniform(120, 150)])
    spread = rng.uniform(0.15, 0.45)
    draw.ellipse((palm[0] - 40, palm[1] - 45, palm[0] + 40, palm[1] + 45), 200)
    draw.rectangle((palm[0] - 25, palm[1], palm[0] + 25, SIZE), 200)
    for finger in range(5):
        angle = -math.pi / 2 + (finger - 2) * spread + rng.normal(0, 0.05)
        direction = np.array([math.cos(angle), math.sin(angle)])
        place = palm + np.array([(finger - 2) * 11, -8.0])
        for length in np.array([36, 27, 18, 12]) * rng.uniform(0.8, 1.1) * (0.75 if finger in (0, 4) else 1):
            end = place + direction * length
            _bone(canvas, place, end, rng.uniform(4, 6), rng.uniform(0.4, 0.7))
            draw.line([tuple(place), tuple(end + direction * 5)], 170, 20)
            place = end + direction * 2.5
    for _ in range(8):
        spot = palm + rng.normal(0, 12, 2) + np.array([0, 28])
        y, x = np.mgrid[:SIZE, :SIZE]
        canvas += 0.4 * (np.hypot(x - spot[0], y - spot[1]) < rng.uniform(5, 9))
    for offset in (-10.0, 11.0):
        _bone(canvas, palm + np.array([offset, 45]), palm + np.array([offset, 110]), 9, 0.6)
    canvas += gaussian_filter(np.asarray(tissue) / 255.0, 3) * rng.uniform(0.3, 0.6)
    return _finished(rng, canvas)


def skull(rng: np.random.Generator) -> Picture:
    """A head from the front or the side: a bright rim, orbits, a jaw with teeth; or the teeth alone, in an arch."""
    y, x = np.mgrid[:SIZE, :SIZE] / SIZE * 2 - 1
    canvas = np.zeros((SIZE, SIZE))
    if rng.random() < 0.6:
        a, b = rng.uniform(0.5, 0.85, 2)
        distance = np.hypot((x - rng.normal(0, 0.1)) / a, (y + 0.2) / b)
        canvas += 0.45 * (distance < 1) + 0.5 * np.exp(-(((distance - 1) / 0.05) ** 2))
        for side in (-1, 1):
            canvas -= 0.3 * (np.hypot((x - side * 0.3 * a) / 0.2, (y - 0.05) / 0.15) < 1)
        canvas += 0.3 * ((np.abs(x) < 0.4 * a) & (y > 0.3) & (y < 0.85))
    bow, count = rng.uniform(-0.5, 0.9), int(rng.integers(8, 17))
    for row in (-1, 1):
        for place in np.linspace(-0.75, 0.75, count) * rng.uniform(0.5, 1.1):
            middle = 0.4 + row * 0.13 - bow * place**2
            canvas += 0.45 * ((np.abs(x - place) < 0.6 / count) & (np.abs(y - middle) < 0.12))
    canvas += 0.3 * np.exp(-(((y - 0.45 + bow * x**2) / 0.3) ** 2)) * (np.abs(x) < 0.95)
    return _finished(rng, canvas)


def trunk(rng: np.random.Generator) -> Picture:
    """An abdomen, a pelvis or a spine: vertebrae in the middle, gas, iliac wings, never two lungs."""
    y, x = np.mgrid[:SIZE, :SIZE] / SIZE * 2 - 1
    canvas = 0.5 * np.sqrt(np.clip(1 - (x / rng.uniform(0.7, 1.3)) ** 2, 0, None))
    spine, sway = rng.normal(0, 0.1), rng.normal(0, 0.15)
    place = x - spine - sway * y**2
    period = rng.uniform(0.18, 0.35)
    canvas += 0.4 * (np.abs(place) < rng.uniform(0.08, 0.16)) * (0.7 + 0.3 * np.sin(2 * math.pi * y / period))
    for _ in range(rng.integers(0, 9)):
        cx, cy, r = *rng.uniform(-0.8, 0.8, 2), rng.uniform(0.05, 0.22)
        canvas -= 0.25 * (np.hypot((x - cx) / r, (y - cy) / (r * rng.uniform(0.5, 1.5))) < 1)
    if rng.random() < 0.6:
        for side in (-1, 1):
            wing = np.hypot((x - side * 0.5) / 0.4, (y - 0.3) / 0.4)
            canvas += 0.3 * (wing < 1) + 0.25 * np.exp(-(((wing - 1) / 0.08) ** 2))
            ring = np.hypot((x - side * 0.25) / 0.16, (y - 0.8) / 0.14)
            canvas += 0.4 * np.exp(-(((ring - 1) / 0.25) ** 2))
    return _finished(rng, canvas)


def breast(rng: np.random.Generator) -> Picture:
    """A mammogram: half an ellipse that grows from one edge, veined, on black; sometimes two, back to back."""
    y, x = np.mgrid[:SIZE, :SIZE] / SIZE
    wide, high, middle = rng.uniform(0.35, 0.8), rng.uniform(0.3, 0.55), rng.uniform(0.4, 0.6)
    distance = np.hypot(x / wide, (y - middle) / high)
    canvas = np.clip(1 - distance**3, 0, None) * (0.4 + 0.8 * _clouds(rng, steepness=1.6))
    if rng.random() < 0.4:
        canvas += 0.6 * (x + 0.7 * y < rng.uniform(0.2, 0.4))
    if rng.random() < 0.3:
        canvas = np.hstack([canvas[:, ::-2], canvas[:, ::2]])
    return _finished(rng, canvas)


def ultrasound(rng: np.random.Generator) -> Picture:
    """A sector of speckle on black, with scales and letters."""
    y, x = np.mgrid[:SIZE, :SIZE] / SIZE
    top, half = rng.uniform(-0.2, 0.15), rng.uniform(0.4, 0.9)
    radius, angle = np.hypot(x - 0.5, y - top), np.arctan2(x - 0.5, y - top)
    inside = (np.abs(angle) < half) & (radius > rng.uniform(0.02, 0.3)) & (radius < rng.uniform(0.7, 1.0))
    if rng.random() < 0.25:
        inside = (np.abs(x - 0.5) < 0.4) & (y > 0.1) & (y < 0.9)
    tissue = _clouds(rng, steepness=1.8) ** 2 * 1.6 * rng.rayleigh(0.6, (SIZE, SIZE))
    for _ in range(rng.integers(0, 4)):
        cx, cy, r = *rng.uniform(0.3, 0.7, 2), rng.uniform(0.05, 0.2)
        tissue *= 1 - 0.9 * (np.hypot(x - cx, (y - cy) * rng.uniform(0.7, 1.5)) < r)
    image = Image.fromarray(_uint8(np.clip(gaussian_filter(tissue, (0.6, 1.2)), 0, 1.5) * inside))
    draw = ImageDraw.Draw(image)
    for _ in range(rng.integers(1, 8)):
        draw.text(tuple(rng.uniform(0, SIZE - 40, 2)), _text(rng, 8), 220, ImageFont.load_default(8))
    return np.asarray(image)


def slice_(rng: np.random.Generator) -> Picture:
    """A slice of a body or a head on black: an oval with organs, a spine, a rim of fat or bone."""
    y, x = np.mgrid[:SIZE, :SIZE] / SIZE * 2 - 1
    a, b = rng.uniform(0.6, 0.95), rng.uniform(0.45, 0.95)
    distance = np.hypot(x / a, y / b)
    canvas = (distance < 1) * (0.35 + 0.25 * _clouds(rng))
    canvas += rng.uniform(0, 0.8) * np.exp(-(((distance - rng.uniform(0.85, 0.97)) / rng.uniform(0.02, 0.06)) ** 2))
    for _ in range(rng.integers(1, 9)):
        cx, cy, r = *rng.uniform(-0.5, 0.5, 2), rng.uniform(0.06, 0.3)
        organ = np.hypot((x - cx) / r, (y - cy) / (r * rng.uniform(0.6, 1.6))) < 1
        canvas += organ * rng.uniform(-0.35, 0.35) * (distance < 0.9)
    if rng.random() < 0.4:  # lungs as a slice shows them: lying, short, behind them the spine
        for side in (-1, 1):
            canvas -= 0.5 * (np.hypot((x - side * 0.42 * a) / (0.33 * a), (y + 0.02) / (0.6 * b)) < 1)
    canvas += 0.6 * (np.hypot(x / 0.16, (y - 0.6 * b) / 0.18) < 1) * (rng.random() < 0.7)
    return _finished(rng, np.clip(canvas, 0, None))


def _finished(rng: np.random.Generator, canvas: Floats) -> Picture:
    """Structure, blur, noise, tone and a marker, as a detector or a scanner would add."""
    canvas = canvas * (1 + rng.uniform(0, 0.5) * (_clouds(rng) - 0.5)) + rng.uniform(0, 0.15) * _clouds(rng)
    canvas = gaussian_filter(canvas, rng.uniform(0.3, 2.0)) + rng.normal(0, rng.uniform(0, 0.03), canvas.shape)
    image = Image.fromarray(_uint8(np.clip(canvas, 0, np.quantile(canvas, 0.998)) ** rng.uniform(0.5, 1.6)))
    if rng.random() < 0.4:
        place = tuple(rng.uniform(2, SIZE - 20, 2))
        ImageDraw.Draw(image).text(place, str(rng.choice(["R", "L", "AP"])), 250, ImageFont.load_default(16))
    return np.asarray(image)


KINDS: dict[str, Callable[[np.random.Generator], Picture]] = {
    "noise": noise,
    "clouds": clouds,
    "gradient": gradient,
    "shapes": shapes,
    "page": page,
    "plot": plot,
    "window": window,
    "limb": limb,
    "hand": hand,
    "skull": skull,
    "trunk": trunk,
    "breast": breast,
    "ultrasound": ultrasound,
    "slice": slice_,
}
