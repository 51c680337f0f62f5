"""DICOM of every encoding and kind, against their known pixels."""

import io
import struct
from pathlib import Path

import gdcm
import numpy as np
import pydicom
import pytest
from PIL import Image
from pydicom import uid

from pneumocam.image import (
    DamagedImage,
    MultiFrame,
    NotARadiograph,
    TooSmall,
    UnsupportedDicom,
    load_radiograph,
    sandbox,
)
from tests.images import (
    FILM,
    FILM_8_OF_12,
    by_gdcm,
    compressed,
    dicom,
    encapsulated,
    encode,
    film,
    refused,
    saved,
)

# DICOM


@pytest.mark.parametrize("bits", [8, 12, 16])
@pytest.mark.parametrize("syntax", [uid.ImplicitVRLittleEndian, uid.ExplicitVRLittleEndian, uid.RLELossless])
def test_lossless_dicom(bits: int, syntax: uid.UID) -> None:
    dataset = dicom(film(bits), bits)
    if syntax == uid.RLELossless:
        dataset.compress(syntax, generate_instance_uid=False)
    dataset.file_meta.TransferSyntaxUID = syntax
    radiograph = load_radiograph(saved(dataset))
    np.testing.assert_array_equal(radiograph.pixels, np.rint(film(bits) * (255 / (2**bits - 1))))
    assert radiograph.source_format == "DICOM"


def test_big_endian_dicom(tmp_path: Path) -> None:
    data = by_gdcm(film(12), 12, gdcm.TransferSyntax.ExplicitVRBigEndian, tmp_path)
    np.testing.assert_array_equal(load_radiograph(data).pixels, FILM_8_OF_12)


@pytest.mark.parametrize(("quality", "tolerance"), [(0, 0), (4, 3)])
@pytest.mark.parametrize("bits", [8, 16])
def test_jpeg_2000_dicom(bits: int, quality: int, tolerance: int) -> None:
    options = {"quality_mode": "rates", "quality_layers": [quality], "irreversible": True} if quality else {}
    stream = encode(film(bits), "JPEG2000", no_jp2=True, **options)
    syntax = uid.JPEG2000 if quality else uid.JPEG2000Lossless
    pixels = load_radiograph(encapsulated(stream, syntax, film(bits))).pixels
    assert np.abs(pixels - np.rint(film(bits) * (255 / (2**bits - 1)))).max() <= tolerance


def test_jpeg_baseline_dicom_is_what_pillow_decodes() -> None:
    stream = encode(FILM, "JPEG", quality=90)
    expected = np.asarray(Image.open(io.BytesIO(stream)))
    for syntax in (uid.JPEGBaseline8Bit, uid.JPEGExtended12Bit):
        np.testing.assert_array_equal(load_radiograph(encapsulated(stream, syntax, FILM)).pixels, expected)


@pytest.mark.parametrize("syntax", [uid.JPEGLSLossless, uid.JPEGLSNearLossless])
def test_jpeg_ls_dicom(syntax: uid.UID) -> None:
    near = {"jls_error": 3} if syntax == uid.JPEGLSNearLossless else {}
    data = compressed(film(12), syntax, 12, encoding_plugin="pyjpegls", **near)
    assert np.abs(load_radiograph(data).pixels - FILM_8_OF_12.astype(int)).max() <= len(near)


@pytest.mark.parametrize(
    ("name", "bits", "tolerance"),
    [
        ("JPEGLosslessProcess14", 8, 0),
        ("JPEGLosslessProcess14_1", 16, 0),
        ("JPEGExtendedProcess2_4", 12, 1),
    ],
)
def test_jpeg_that_only_gdcm_reads(name: str, bits: int, tolerance: int, tmp_path: Path) -> None:
    data = by_gdcm(film(bits), bits, getattr(gdcm.TransferSyntax, name), tmp_path)
    assert name.split("Process")[0][4:] in pydicom.dcmread(io.BytesIO(data)).file_meta.TransferSyntaxUID.name
    difference = load_radiograph(data).pixels - np.rint(film(bits) * (255 / (2**bits - 1)))
    assert np.abs(difference).max() <= tolerance


def test_a_codestream_that_aborts_gdcm_is_damaged_and_leaves_the_process_alive(tmp_path: Path) -> None:
    """GDCM ends in std::terminate on this, which took the whole server down before it ran apart."""
    data = bytearray(by_gdcm(FILM, 8, gdcm.TransferSyntax.JPEGLosslessProcess14, tmp_path))
    data[data.rindex(b"\xff\xd8") + 15] = 0
    refused(bytes(data), DamagedImage, "damaged_image", "DICOM", "Export it again")


def test_a_codestream_larger_than_its_header_is_refused_undecoded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sandbox, "pixel_array", lambda *_args, **_options: pytest.fail("decoded"))
    large = film(8, 192, 160)
    jls = pydicom.dcmread(io.BytesIO(compressed(large, uid.JPEGLSLossless, encoding_plugin="pyjpegls")))
    for data in (
        encapsulated(encode(large, "JPEG"), uid.JPEGBaseline8Bit, FILM),
        encapsulated(encode(np.stack([FILM] * 3, 2), "JPEG"), uid.JPEGBaseline8Bit, FILM),
        encapsulated(encode(large, "JPEG2000", no_jp2=True), uid.JPEG2000Lossless, FILM),
        encapsulated(next(pydicom.encaps.generate_frames(jls.PixelData, number_of_frames=1)), uid.JPEGLSLossless, FILM),
    ):
        refused(data, DamagedImage, "damaged_image", "differ in size", "Export it again")


def test_pydicoms_own_12_bit_jpeg() -> None:
    """A bone scan from another encoder, passed off as a radiograph: it has to look like a body on black."""
    path = Path(pydicom.__file__).parent / "data" / "test_files" / "JPGExtended.dcm"
    dataset = pydicom.dcmread(path)
    dataset.Modality = "OT"
    for keyword in ("WindowCenter", "WindowWidth"):
        dataset.pop(keyword, None)
    pixels = load_radiograph(saved(dataset)).pixels
    assert pixels.shape == (1024, 256)
    assert np.median(pixels) < 10
    assert pixels.max() > 60


def test_overlay_bits_above_the_stored_ones_are_masked() -> None:
    drawn = film(12) | np.where(np.arange(80) % 7 == 0, 0x8000, 0).astype(np.uint16)
    np.testing.assert_array_equal(load_radiograph(saved(dicom(drawn, 12))).pixels, FILM_8_OF_12)


def test_colour_dicom_becomes_grey() -> None:
    rgb = np.stack([FILM, FILM[::-1], FILM[:, ::-1]], 2)
    expected = np.asarray(Image.fromarray(rgb).convert("L"))
    np.testing.assert_array_equal(load_radiograph(saved(dicom(rgb))).pixels, expected)
    ybr = np.asarray(Image.fromarray(rgb).convert("YCbCr"))
    radiograph = load_radiograph(saved(dicom(ybr, PhotometricInterpretation="YBR_FULL")))
    assert np.abs(radiograph.pixels - expected.astype(int)).max() <= 2
    jpeg = encapsulated(
        encode(np.stack([FILM] * 3, 2), "JPEG", quality=95),
        uid.JPEGBaseline8Bit,
        rgb,
        PhotometricInterpretation="YBR_FULL_422",
    )
    assert np.abs(load_radiograph(jpeg).pixels - FILM.astype(int)).mean() < 3
    wide = np.stack([film(16)] * 3, 2)
    np.testing.assert_array_equal(load_radiograph(saved(dicom(wide))).pixels, np.rint(film(16) / 257))


def test_dicom_without_preamble_or_transfer_syntax() -> None:
    whole = saved(dicom(film(12), 12))
    without_meta = whole[132 + 12 + struct.unpack_from("<I", whole, 140)[0] :]
    for data in (whole[132:], without_meta):
        radiograph = load_radiograph(data)
        np.testing.assert_array_equal(radiograph.pixels, FILM_8_OF_12)
        assert radiograph.source_format == "DICOM"


@pytest.mark.parametrize("modality", ["CR", "DX", "RG", "OT"])
def test_radiograph_modalities_are_accepted(modality: str) -> None:
    assert load_radiograph(saved(dicom(FILM, Modality=modality))).source_format == "DICOM"


@pytest.mark.parametrize(
    ("modality", "said"), [("CT", "has CT"), ("MR", "has MR"), ("MG", "has MG"), ("ANNA", "an unknown modality")]
)
def test_other_modalities_are_refused(modality: str, said: str) -> None:
    error = refused(saved(dicom(FILM, Modality=modality)), NotARadiograph, "not_a_radiograph", said, "CR, DX, RG, OT")
    assert "ANNA" not in error.message


def test_dicoms_that_are_no_single_film() -> None:
    report = dicom(FILM)
    del report.PixelData
    refused(saved(report), NotARadiograph, "not_a_radiograph", "no pixel data", "Upload the image")
    two = saved(dicom(np.stack([FILM, FILM])[0], NumberOfFrames=2))
    refused(two, MultiFrame, "multi_frame", "several frames", "single frame")
    refused(saved(dicom(FILM[:60])), TooSmall, "too_small", "80 x 60")
    whole = saved(dicom(FILM))
    refused(whole[:-1000], DamagedImage, "damaged_image", "DICOM", "truncated")


def test_unsupported_encodings_are_refused() -> None:
    future = encapsulated(b"1234", uid.HTJ2KLossless, FILM)
    unknown = future.replace(uid.HTJ2KLossless.encode(), b"1.2.840.10008.1.2.4.999")
    for data in (future, unknown, encapsulated(b"1234", uid.MPEG2MPML, FILM)):
        error = refused(data, UnsupportedDicom, "unsupported_dicom", "compressed", "PNG")
        assert "1.2.840" not in error.message
    palette = saved(dicom(FILM, PhotometricInterpretation="PALETTE COLOR"))
    refused(palette, UnsupportedDicom, "unsupported_dicom", "palette", "PNG")


def deflated(data: bytes) -> bytes:
    """The same DICOM, deflated as a whole."""
    dataset = pydicom.dcmread(io.BytesIO(data))
    dataset.file_meta.TransferSyntaxUID = uid.DeflatedExplicitVRLittleEndian
    return saved(dataset)


def test_a_deflated_dicom_is_read() -> None:
    plain = saved(dicom(film(12), 12, WindowCenter=2000, WindowWidth=3000))
    for data in (deflated(plain), deflated(plain)[132:]):
        np.testing.assert_array_equal(load_radiograph(data).pixels, load_radiograph(plain).pixels)
    refused(deflated(plain)[:-300], DamagedImage, "damaged_image", "DICOM")


def test_a_deflated_dicom_is_inflated_only_as_far_as_it_may_be_an_image() -> None:
    bomb = deflated(saved(dicom(FILM, PixelData=bytes(3_000_000))))
    refused(bomb, DamagedImage, "damaged_image", "DICOM", max_pixels=7680)


def test_the_uid_of_deflation_elsewhere_says_nothing() -> None:
    dataset = dicom(FILM)
    dataset.AvailableTransferSyntaxUID = uid.DeflatedExplicitVRLittleEndian
    np.testing.assert_array_equal(load_radiograph(saved(dataset)).pixels, FILM)
