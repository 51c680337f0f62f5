"""DICOM whose VOI or modality transformation is partly unusable, against renderings written here."""

import struct
from typing import Any

import numpy as np
import pytest
from pydicom.datadict import tag_for_keyword
from pydicom.dataset import Dataset

from pneumocam.image import Radiograph, load_radiograph
from tests.images import GREYS, GREYS_8_OF_12, Array, dicom, greys, saved
from tests.unit.test_image_display import linear, linear_exact, sigmoid

STORED = greys(12)
VALUES = STORED.astype(float)
WINDOW = {"WindowCenter": 1800, "WindowWidth": 2500}
WINDOWED = linear(VALUES, 1800, 2500)


def near(radiograph: Radiograph, rendering: Array) -> bool:
    return bool(np.abs(radiograph.pixels - rendering).max() <= 0.501)


def lut_item(descriptor: list[int], data: bytes, vr: str = "OW") -> Dataset:
    item = Dataset()
    item.add_new("LUTDescriptor", "US", descriptor)
    item.add_new("LUTData", vr, data)
    return item


def with_texts(texts: dict[str, bytes], **tags: Any) -> bytes:
    """A DICOM in which the texts of some elements are these bytes, which pydicom would not write."""
    dataset = dicom(STORED, 12, **tags)
    for keyword, value in texts.items():
        dataset.add_new(keyword, "LO", "~" * (len(value) + len(value) % 2))
    data = saved(dataset)
    for keyword, value in texts.items():
        tag, size = tag_for_keyword(keyword) or 0, len(value) + len(value) % 2
        start = struct.pack("<HH", tag >> 16, tag & 0xFFFF)
        head, _, tail = data.partition(start + b"LO" + struct.pack("<H", size) + b"~" * size)
        vr = b"CS" if keyword == "VOILUTFunction" else b"DS"
        data = head + start + vr + struct.pack("<H", size) + value.ljust(size) + tail
    return data


CURVE = np.rint((np.arange(4096) / 4095) ** 2 * 255).astype(np.uint8)


@pytest.mark.parametrize(
    ("function", "rendering"),
    [
        (b"", linear),
        (b" ", linear),
        (b"linear ", linear),
        (b"LINEAR\0", linear),
        (b"unknown", linear),
        (b"LINEAR_EXACT", linear_exact),
        (b"sigmoid", sigmoid),
    ],
)
def test_voi_lut_function(function: bytes, rendering: Any) -> None:
    radiograph = load_radiograph(with_texts({"VOILUTFunction": function}, **WINDOW))
    assert near(radiograph, rendering(VALUES, 1800, 2500))
    assert radiograph.steps[-1] == "VOI window applied"
    assert len(radiograph.steps) == 1 + (function == b"unknown")


@pytest.mark.parametrize(
    ("center", "width", "used"),
    [
        (b"1800,5", b"2500,0", (1800.5, 2500)),
        (b"1.8e3", b" +2500 ", (1800, 2500)),
        (b"1800\0", b"2500.\0", (1800, 2500)),
        (b"\\1800", b"1\\2500", (1800, 2500)),
        (b"nan\\1800", b"2500\\2500", (1800, 2500)),
        (b"2048\\1800\\7", b"0\\2500\\9", (1800, 2500)),
        (b"2048\\1800", b"-5\\2500", (1800, 2500)),
        (b"1800\\9", b"2500", (1800, 2500)),
        (b"9\\1800", b"WIDE\\2500", (1800, 2500)),
        (b"32768\\1800", b"65536\\2500", (1800, 2500)),
    ],
)
def test_the_first_usable_window(center: bytes, width: bytes, used: tuple[float, float]) -> None:
    data = with_texts({"WindowCenter": center, "WindowWidth": width})
    radiograph = load_radiograph(data)
    assert near(radiograph, linear(VALUES, *used))
    assert radiograph.steps[-1] == "VOI window applied"
    assert all(" ignored: " in step for step in radiograph.steps[:-1])


@pytest.mark.parametrize(
    ("pixels", "bits", "window", "expected"),
    [
        (GREYS, 8, (2048, 4096), GREYS),
        (GREYS, 8, (32768, 65536), GREYS),
        (GREYS, 8, (512, 1024), GREYS),
        (GREYS, 8, (-600, 1500), GREYS),
        (STORED, 12, (128, 256), GREYS_8_OF_12),
        (STORED, 12, (32768, 65536), GREYS_8_OF_12),
        (STORED, 12, (8192, 16384), GREYS_8_OF_12),
        (STORED, 12, (40, 400), GREYS_8_OF_12),
        (STORED, 12, (60000, 100), GREYS_8_OF_12),
        (STORED, 12, (2048, 1), GREYS_8_OF_12),
        (STORED, 12, (2048, 0.5), GREYS_8_OF_12),
    ],
)
@pytest.mark.parametrize("negative", [False, True])
def test_a_window_of_other_values_is_not_believed(
    pixels: Array, bits: int, window: tuple[float, float], expected: Array, negative: bool
) -> None:
    tags: dict[str, Any] = {"WindowCenter": window[0], "WindowWidth": window[1]}
    tags |= {"PhotometricInterpretation": "MONOCHROME1"} if negative else {}
    radiograph = load_radiograph(saved(dicom(pixels, bits, **tags)))
    np.testing.assert_array_equal(radiograph.pixels, 255 - expected if negative else expected)
    assert radiograph.steps[0].startswith(f"window {window[0]:g}/{window[1]:g} ignored: it ")


def test_the_step_says_what_the_window_leaves() -> None:
    radiograph = load_radiograph(saved(dicom(GREYS, WindowCenter=2048, WindowWidth=4096)))
    assert radiograph.steps[0].endswith(" of 256 grey levels")


@pytest.mark.parametrize("slope", [1 / 4095, 16])
def test_a_window_of_rescaled_values_is_believed(slope: float) -> None:
    tags = {"RescaleSlope": f"{slope:.10g}", "RescaleIntercept": 0}
    values = STORED * float(f"{slope:.10g}")
    center, width = f"{2000 * slope:.8g}", f"{3000 * slope:.8g}"
    radiograph = load_radiograph(saved(dicom(STORED, 12, **tags, WindowCenter=center, WindowWidth=width)))
    rendering = linear if float(width) >= 1 else linear_exact
    assert near(radiograph, rendering(values, float(center), float(width)))


@pytest.mark.parametrize("vr", ["OW", "US"])
@pytest.mark.parametrize("count", [4096, 4095])
def test_a_voi_lut_of_8_bit_entries_two_in_a_word(vr: str, count: int) -> None:
    data = CURVE[:count].tobytes().ljust(4096, b"\0")
    item = lut_item([count, 0, 8], data if vr == "OW" else b"", "OW")
    if vr == "US":
        item.add_new("LUTData", "US", np.frombuffer(data, "<u2").tolist())
    radiograph = load_radiograph(saved(dicom(STORED, 12, VOILUTSequence=[item])))
    assert near(radiograph, CURVE[np.minimum(STORED, count - 1)])
    assert radiograph.steps == ("VOI LUT applied",)


@pytest.mark.parametrize(("bits", "true_bits"), [(8, 16), (0, 12), (255, 12), (16, 12), (16, 8), (12, 16)])
def test_a_voi_lut_whose_descriptor_says_another_depth(bits: int, true_bits: int) -> None:
    table = np.rint((np.arange(4096) / 4095) ** 2 * (2**true_bits - 1)).astype(np.uint16)
    data = saved(dicom(STORED, 12, VOILUTSequence=[lut_item([4096, 0, bits], table.tobytes())]))
    assert near(load_radiograph(data), table[STORED] * (255 / (2**true_bits - 1)))


def test_more_than_a_megabyte_of_tables() -> None:
    tables = [np.rint((np.arange(65536) / 4095) ** power * 65535).clip(0, 65535) for power in range(2, 10)]
    items = [lut_item([0, 0, 16], table.astype(np.uint16).tobytes()) for table in tables]
    data = saved(dicom(STORED, 12, VOILUTSequence=items))
    assert len(data) > 1_000_000
    assert near(load_radiograph(data), tables[0][STORED] / 257)


@pytest.mark.parametrize(
    "item",
    [
        Dataset(),
        lut_item([4096, 0, 12], b""),
        lut_item([4096, 0, 12], bytes(100)),
        lut_item([4096, 0], bytes(8192)),
        lut_item([4096, 0, 12], bytes(8192)),
        lut_item([1, 0, 16], b"\xff\xff"),
    ],
)
def test_an_unusable_voi_lut_leaves_the_next_and_the_window(item: Dataset) -> None:
    radiograph = load_radiograph(saved(dicom(STORED, 12, VOILUTSequence=[item], **WINDOW)))
    assert near(radiograph, WINDOWED)
    assert radiograph.steps[-1] == "VOI window applied"
    assert len(radiograph.steps) == 1 + bool(len(item))
    good = lut_item([4096, 0, 8], CURVE.astype(np.uint16).tobytes())
    radiograph = load_radiograph(saved(dicom(STORED, 12, VOILUTSequence=[item, good], **WINDOW)))
    assert near(radiograph, CURVE[STORED])


@pytest.mark.slow
def test_an_oversized_window_leaves_the_rest() -> None:
    dataset = dicom(STORED, 12, WindowWidth=2500)
    dataset.add_new("WindowCenter", "UC", "1\\" * 600_000)
    radiograph = load_radiograph(saved(dataset))
    np.testing.assert_array_equal(radiograph.pixels, GREYS_8_OF_12)
    assert radiograph.steps[0] == "WindowCenter ignored: it is far too large"


@pytest.mark.parametrize(
    ("slope", "intercept", "applied"),
    [
        (b"2", b"100", True),
        (b"2,0", b"100,0", True),
        (b"", b"", False),
        (b"2", b"", False),
        (b"", b"100", False),
        (b"0", b"100", False),
        (b"two", b"100", False),
        (b"inf", b"100", False),
    ],
)
def test_rescaling(slope: bytes, intercept: bytes, applied: bool) -> None:
    data = with_texts({"RescaleSlope": slope, "RescaleIntercept": intercept}, **WINDOW)
    values = STORED * 2.0 + 100 if applied else VALUES
    assert near(load_radiograph(data), linear(values, 1800, 2500))


@pytest.mark.parametrize("missing", ["RescaleSlope", "RescaleIntercept"])
def test_one_of_two_rescaling_values_is_none(missing: str) -> None:
    dataset = dicom(STORED, 12, RescaleSlope=2, RescaleIntercept=100, **WINDOW)
    del dataset[missing]
    radiograph = load_radiograph(saved(dataset))
    assert near(radiograph, WINDOWED)
    assert radiograph.steps[0].startswith("rescaling ignored")


@pytest.mark.parametrize("bits", [8, 10, 12, 14, 16])
def test_a_modality_lut_of_any_depth(bits: int) -> None:
    table = np.rint((np.arange(4096) / 4095) ** 2 * (2**bits - 1)).astype(np.uint16)
    center, width = 2.0 ** (bits - 1), 2.0**bits
    tags = {"WindowCenter": center, "WindowWidth": width}
    item = lut_item([4096, 0, bits], table.tobytes())
    radiograph = load_radiograph(saved(dicom(STORED, 12, ModalityLUTSequence=[item], **tags)))
    assert near(radiograph, linear(table[STORED].astype(float), center, width))


def test_a_modality_lut_of_signed_values() -> None:
    signed = STORED.astype(np.int16) - 2048
    table = np.arange(4096)[::-1].astype(np.uint16)
    item = lut_item([4096, 65536 - 2048, 16], table.tobytes())
    radiograph = load_radiograph(saved(dicom(signed, 12, ModalityLUTSequence=[item], **WINDOW)))
    assert near(radiograph, linear(table[STORED].astype(float), 1800, 2500))


def test_an_unusable_modality_lut_leaves_the_rescaling() -> None:
    for item, steps in ((Dataset(), 1), (lut_item([4096, 0, 12], b""), 2)):
        tags = {"RescaleSlope": 2, "RescaleIntercept": 100, **WINDOW}
        radiograph = load_radiograph(saved(dicom(STORED, 12, ModalityLUTSequence=[item], **tags)))
        assert near(radiograph, linear(STORED * 2.0 + 100, 1800, 2500))
        assert len(radiograph.steps) == steps
