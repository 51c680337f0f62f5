"""What image reading tells, and that damage ends in an image or a typed error."""

import logging
import warnings
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pydicom
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image
from pydicom import uid

from pneumocam.image import (
    DamagedImage,
    Radiograph,
    RadiographError,
    load_radiograph,
)
from tests.images import (
    GREYS,
    GREYS_8_OF_12,
    SECRET,
    compressed,
    dicom,
    encapsulated,
    encode,
    greys,
    png,
    refused,
    saved,
)

# Privacy


@pytest.mark.parametrize(
    "spoilt", ["", "Rows", "PixelData", "WindowWidth", "Modality", "TransferSyntaxUID", "BitsStored"]
)
def test_nothing_of_the_patient_gets_out(
    spoilt: str,
    caplog: pytest.LogCaptureFixture,
    capfd: pytest.CaptureFixture[str],
    tmp_path: Path,
) -> None:
    with pydicom.config.disable_value_validation(), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        dataset = dicom(greys(12), 12, WindowCenter=2000, WindowWidth=3000, StudyDate=SECRET, PatientAge=SECRET)
        dataset.add_new("RescaleSlope", "LO", SECRET)
        if spoilt == "TransferSyntaxUID":
            dataset.file_meta.TransferSyntaxUID = uid.UID(SECRET)
        elif spoilt == "PixelData":
            dataset.PixelData = SECRET.encode()
        elif spoilt:
            dataset.add_new(spoilt, "LO", SECRET)
        path = tmp_path / f"{SECRET}.dcm"
        dataset.save_as(path, implicit_vr=False, little_endian=True)
    data = b"\0" * 128 + b"DICM" + path.read_bytes().split(b"DICM", 1)[-1]
    caplog.set_level(logging.DEBUG)
    with warnings.catch_warnings(record=True) as warned:
        warnings.simplefilter("always")
        seen = [str(load_or_error(source)) for source in (data, path)]
    assert not warned
    told = " ".join([*seen, caplog.text, *capfd.readouterr()])
    for part in (*SECRET.split("^"), str(tmp_path)):
        assert part not in told


def test_what_decoders_log_stays_inside(caplog: pytest.LogCaptureFixture) -> None:
    """pydicom logs the words of a failed decoder as an error; Pillow logs each TIFF tag for debugging."""
    caplog.set_level(logging.DEBUG)
    stream = encode(GREYS, "JPEG")
    broken = stream[: stream.index(b"\xff\xc0") + 40]
    refused(encapsulated(broken, uid.JPEGBaseline8Bit, GREYS), DamagedImage, "damaged_image", "DICOM")
    assert caplog.records == []
    tiff = encode(GREYS, "TIFF", artist=SECRET)
    caplog.clear()
    load_radiograph(tiff)
    assert SECRET not in caplog.text


def load_or_error(source: Any) -> str:
    try:
        return repr(load_radiograph(source))
    except RadiographError as error:
        return f"{error!r} {error.message} {error.args} {error.__context__} {error.__cause__}"


def test_settings_of_the_process_are_as_before() -> None:
    def state() -> tuple[Any, ...]:
        mode = pydicom.config.settings._reading_validation_mode
        return list(warnings.filters), logging.getLogger("pydicom").level, logging.getLogger("PIL").level, mode

    before = state()
    for source in (saved(dicom(GREYS)), saved(dicom(GREYS, Modality="CT")), encode(GREYS, "PNG")[:100]):
        load_or_error(source)
    assert state() == before


def test_threads_do_not_disturb_each_other() -> None:
    sources = [
        encode(GREYS, "PNG"),
        saved(dicom(greys(12), 12)),
        encode(GREYS, "TIFF"),
        compressed(GREYS, uid.RLELossless),
    ]
    expected = [GREYS, GREYS_8_OF_12, GREYS, GREYS]
    filters = list(warnings.filters)
    with ThreadPoolExecutor(8) as pool:
        for i, radiograph in enumerate(pool.map(load_radiograph, sources * 25)):
            np.testing.assert_array_equal(radiograph.pixels, expected[i % 4])
    assert list(warnings.filters) == filters


# Damage of any kind

INTACT = {
    "jpeg": encode(GREYS, "JPEG", exif=Image.Exif()),
    "progressive": encode(GREYS, "JPEG", progressive=True),
    "png": encode(GREYS, "PNG"),
    "png16": png(np.stack([greys(16)] * 3, 2), 2),
    "tiff": encode(GREYS, "TIFF"),
    "tiff-lzw": encode(greys(16), "TIFF", compression="tiff_lzw"),
    "bmp": encode(GREYS, "BMP"),
    "webp": encode(np.stack([GREYS] * 3, 2), "WEBP"),
    "gif": encode(GREYS, "GIF"),
    "dicom": saved(dicom(greys(12), 12, WindowCenter=2000, WindowWidth=3000)),
    "dicom-rle": compressed(GREYS, uid.RLELossless),
    "dicom-jpeg": encapsulated(encode(GREYS, "JPEG"), uid.JPEGBaseline8Bit, GREYS),
}
IN_A_SUBPROCESS = {
    "dicom-j2k": encapsulated(encode(GREYS, "JPEG2000", no_jp2=True), uid.JPEG2000Lossless, GREYS),
    "dicom-jpeg-ls": compressed(GREYS, uid.JPEGLSLossless, encoding_plugin="pyjpegls"),
}


def check_damaged(data: bytes, cut: float, flips: list[tuple[float, int]]) -> None:
    """Cut and overwritten at fractions of its length, it is a whole image or a typed error, and nothing else."""
    damaged = bytearray(data[: max(1, round(cut * len(data)))])
    for place, value in flips:
        damaged[int(place * len(damaged))] = value
    try:
        radiograph = load_radiograph(bytes(damaged))
    except RadiographError:
        return
    assert isinstance(radiograph, Radiograph)
    assert radiograph.pixels.dtype == np.uint8
    assert min(radiograph.pixels.shape) >= 64


# Half of the flips go to the header, which decides most.
places = st.one_of(st.floats(0, 0.999), st.floats(0, 0.05))
damage = st.tuples(
    st.one_of(st.just(1.0), st.floats(0, 1)), st.lists(st.tuples(places, st.integers(0, 255)), max_size=8)
)


@pytest.mark.slow
@pytest.mark.parametrize("name", INTACT)
@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(damage=damage)
def test_damage_ends_in_an_image_or_a_typed_error(name: str, damage: tuple[float, list[tuple[float, int]]]) -> None:
    check_damaged(INTACT[name], *damage)


@pytest.mark.slow
@pytest.mark.parametrize("name", IN_A_SUBPROCESS)
@settings(max_examples=5, deadline=None)
@given(damage=damage)
def test_damage_to_what_a_subprocess_decodes(name: str, damage: tuple[float, list[tuple[float, int]]]) -> None:
    check_damaged(IN_A_SUBPROCESS[name], *damage)
