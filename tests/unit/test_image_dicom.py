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
from pydicom.dataset import Dataset

from pneumocam.image import (
    DamagedImage,
    MultiFrame,
    NotARadiograph,
    TooSmall,
    UnsupportedDicom,
    load_radiograph,
    stored,
)
from tests.images import (
    GREYS,
    GREYS_8_OF_12,
    by_gdcm,
    compressed,
    dicom,
    encapsulated,
    encode,
    greys,
    refused,
    saved,
)

# DICOM


@pytest.mark.parametrize("bits", [8, 12, 16])
@pytest.mark.parametrize("syntax", [uid.ImplicitVRLittleEndian, uid.ExplicitVRLittleEndian, uid.RLELossless])
def test_lossless_dicom(bits: int, syntax: uid.UID) -> None:
    dataset = dicom(greys(bits), bits)
    if syntax == uid.RLELossless:
        dataset.compress(syntax, generate_instance_uid=False)
    dataset.file_meta.TransferSyntaxUID = syntax
    radiograph = load_radiograph(saved(dataset))
    np.testing.assert_array_equal(radiograph.pixels, np.rint(greys(bits) * (255 / (2**bits - 1))))
    assert radiograph.source_format == "DICOM"


def test_big_endian_dicom(tmp_path: Path) -> None:
    data = by_gdcm(greys(12), 12, gdcm.TransferSyntax.ExplicitVRBigEndian, tmp_path)
    np.testing.assert_array_equal(load_radiograph(data).pixels, GREYS_8_OF_12)


@pytest.mark.parametrize(("quality", "tolerance"), [(0, 0), (4, 3)])
@pytest.mark.parametrize("bits", [8, 16])
def test_jpeg_2000_dicom(bits: int, quality: int, tolerance: int) -> None:
    options = {"quality_mode": "rates", "quality_layers": [quality], "irreversible": True} if quality else {}
    stream = encode(greys(bits), "JPEG2000", no_jp2=True, **options)
    syntax = uid.JPEG2000 if quality else uid.JPEG2000Lossless
    pixels = load_radiograph(encapsulated(stream, syntax, greys(bits))).pixels
    assert np.abs(pixels - np.rint(greys(bits) * (255 / (2**bits - 1)))).max() <= tolerance


def test_jpeg_baseline_dicom_is_what_pillow_decodes() -> None:
    stream = encode(GREYS, "JPEG", quality=90)
    expected = np.asarray(Image.open(io.BytesIO(stream)))
    for syntax in (uid.JPEGBaseline8Bit, uid.JPEGExtended12Bit):
        np.testing.assert_array_equal(load_radiograph(encapsulated(stream, syntax, GREYS)).pixels, expected)


@pytest.mark.parametrize("syntax", [uid.JPEGLSLossless, uid.JPEGLSNearLossless])
def test_jpeg_ls_dicom(syntax: uid.UID) -> None:
    near = {"jls_error": 3} if syntax == uid.JPEGLSNearLossless else {}
    data = compressed(greys(12), syntax, 12, encoding_plugin="pyjpegls", **near)
    assert np.abs(load_radiograph(data).pixels - GREYS_8_OF_12.astype(int)).max() <= len(near)


@pytest.mark.parametrize(
    ("name", "bits", "tolerance"),
    [
        ("JPEGLosslessProcess14", 8, 0),
        ("JPEGLosslessProcess14_1", 16, 0),
        ("JPEGExtendedProcess2_4", 12, 1),
    ],
)
def test_jpeg_that_only_gdcm_reads(name: str, bits: int, tolerance: int, tmp_path: Path) -> None:
    data = by_gdcm(greys(bits), bits, getattr(gdcm.TransferSyntax, name), tmp_path)
    assert name.split("Process")[0][4:] in pydicom.dcmread(io.BytesIO(data)).file_meta.TransferSyntaxUID.name
    difference = load_radiograph(data).pixels - np.rint(greys(bits) * (255 / (2**bits - 1)))
    assert np.abs(difference).max() <= tolerance


def test_a_codestream_that_aborts_gdcm_is_damaged_and_leaves_the_process_alive(tmp_path: Path) -> None:
    """GDCM ends in std::terminate on this, which took the whole server down before it ran apart."""
    data = bytearray(by_gdcm(GREYS, 8, gdcm.TransferSyntax.JPEGLosslessProcess14, tmp_path))
    data[data.rindex(b"\xff\xd8") + 15] = 0
    refused(bytes(data), DamagedImage, "damaged_image", "DICOM", "Export it again")


def test_a_codestream_larger_than_its_header_is_refused_undecoded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(stored, "pixel_array", lambda *_args, **_options: pytest.fail("decoded"))
    large = greys(8, 192, 160)
    jls = pydicom.dcmread(io.BytesIO(compressed(large, uid.JPEGLSLossless, encoding_plugin="pyjpegls")))
    for data in (
        encapsulated(encode(large, "JPEG"), uid.JPEGBaseline8Bit, GREYS),
        encapsulated(encode(np.stack([GREYS] * 3, 2), "JPEG"), uid.JPEGBaseline8Bit, GREYS),
        encapsulated(encode(large, "JPEG2000", no_jp2=True), uid.JPEG2000Lossless, GREYS),
        encapsulated(
            next(pydicom.encaps.generate_frames(jls.PixelData, number_of_frames=1)), uid.JPEGLSLossless, GREYS
        ),
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
    drawn = greys(12) | np.where(np.arange(80) % 7 == 0, 0x8000, 0).astype(np.uint16)
    np.testing.assert_array_equal(load_radiograph(saved(dicom(drawn, 12))).pixels, GREYS_8_OF_12)


def test_colour_dicom_becomes_grey() -> None:
    rgb = np.stack([GREYS, GREYS[::-1], GREYS[:, ::-1]], 2)
    expected = np.asarray(Image.fromarray(rgb).convert("L"))
    np.testing.assert_array_equal(load_radiograph(saved(dicom(rgb))).pixels, expected)
    ybr = np.asarray(Image.fromarray(rgb).convert("YCbCr"))
    radiograph = load_radiograph(saved(dicom(ybr, PhotometricInterpretation="YBR_FULL")))
    assert np.abs(radiograph.pixels - expected.astype(int)).max() <= 2
    jpeg = encapsulated(
        encode(np.stack([GREYS] * 3, 2), "JPEG", quality=95),
        uid.JPEGBaseline8Bit,
        rgb,
        PhotometricInterpretation="YBR_FULL_422",
    )
    assert np.abs(load_radiograph(jpeg).pixels - GREYS.astype(int)).mean() < 3
    wide = np.stack([greys(16)] * 3, 2)
    np.testing.assert_array_equal(load_radiograph(saved(dicom(wide))).pixels, np.rint(greys(16) / 257))


def test_dicom_without_preamble_or_transfer_syntax() -> None:
    whole = saved(dicom(greys(12), 12))
    without_meta = whole[132 + 12 + struct.unpack_from("<I", whole, 140)[0] :]
    for data in (whole[132:], without_meta):
        radiograph = load_radiograph(data)
        np.testing.assert_array_equal(radiograph.pixels, GREYS_8_OF_12)
        assert radiograph.source_format == "DICOM"


@pytest.mark.parametrize("modality", ["CR", "DX", "RG", "OT"])
def test_radiograph_modalities_are_accepted(modality: str) -> None:
    assert load_radiograph(saved(dicom(GREYS, Modality=modality))).source_format == "DICOM"


@pytest.mark.parametrize(
    ("modality", "said"), [("CT", "has CT"), ("MR", "has MR"), ("MG", "has MG"), ("ANNA", "an unknown modality")]
)
def test_other_modalities_are_refused(modality: str, said: str) -> None:
    error = refused(saved(dicom(GREYS, Modality=modality)), NotARadiograph, "not_a_radiograph", said, "CR, DX, RG, OT")
    assert "ANNA" not in error.message


def test_dicoms_that_are_no_single_image() -> None:
    report = dicom(GREYS)
    del report.PixelData
    refused(saved(report), NotARadiograph, "not_a_radiograph", "no pixel data", "Upload the image")
    two = saved(dicom(np.stack([GREYS, GREYS])[0], NumberOfFrames=2))
    refused(two, MultiFrame, "multi_frame", "several frames", "single frame")
    refused(saved(dicom(GREYS[:60])), TooSmall, "too_small", "80 x 60")
    whole = saved(dicom(GREYS))
    refused(whole[:-1000], DamagedImage, "damaged_image", "DICOM", "truncated")


def test_unsupported_encodings_are_refused() -> None:
    future = encapsulated(b"1234", uid.HTJ2KLossless, GREYS)
    unknown = future.replace(uid.HTJ2KLossless.encode(), b"1.2.840.10008.1.2.4.999")
    for data in (future, unknown, encapsulated(b"1234", uid.MPEG2MPML, GREYS)):
        error = refused(data, UnsupportedDicom, "unsupported_dicom", "compressed", "PNG")
        assert "1.2.840" not in error.message
    palette = saved(dicom(GREYS, PhotometricInterpretation="PALETTE COLOR"))
    refused(palette, UnsupportedDicom, "unsupported_dicom", "palette", "PNG")


def deflated(data: bytes) -> bytes:
    """The same DICOM, deflated as a whole."""
    dataset = pydicom.dcmread(io.BytesIO(data))
    dataset.file_meta.TransferSyntaxUID = uid.DeflatedExplicitVRLittleEndian
    return saved(dataset)


def test_a_deflated_dicom_is_read() -> None:
    plain = saved(dicom(greys(12), 12, WindowCenter=2000, WindowWidth=3000))
    for data in (deflated(plain), deflated(plain)[132:]):
        np.testing.assert_array_equal(load_radiograph(data).pixels, load_radiograph(plain).pixels)
    refused(deflated(plain)[:-300], DamagedImage, "damaged_image", "DICOM")


def test_a_deflated_dicom_is_inflated_only_as_far_as_it_may_be_an_image() -> None:
    bomb = deflated(saved(dicom(GREYS, PixelData=bytes(3_000_000))))
    refused(bomb, DamagedImage, "damaged_image", "DICOM", max_pixels=7680)


def test_the_uid_of_deflation_elsewhere_says_nothing() -> None:
    dataset = dicom(GREYS)
    dataset.AvailableTransferSyntaxUID = uid.DeflatedExplicitVRLittleEndian
    np.testing.assert_array_equal(load_radiograph(saved(dataset)).pixels, GREYS)


# Which DICOM is a radiograph, and elements that are missing

CR, DX, DX_RAW, SC = (f"1.2.840.10008.5.1.4.1.1.{end}" for end in ("1", "1.1", "1.1.1", "7"))
DIGITISED, UNKNOWN = "1.2.840.10008.5.1.1.29", "1.2.826.0.1.3680043.2.1"
OTHERS = [
    f"1.2.840.10008.5.1.4.1.1.{end}" for end in ("2", "4", "6.1", "1.2", "1.3", "20", "128", "12.1", "12.2", "481.1")
]


def of_class(sop_class: str, modality: str | None, where: str = "both") -> bytes:
    """A DICOM that says its SOP class in its header, its dataset or both, and this modality."""
    dataset = dicom(GREYS)
    dataset.SOPClassUID = dataset.file_meta.MediaStorageSOPClassUID = uid.UID(sop_class)
    if where == "header":
        del dataset.SOPClassUID
    elif where == "dataset":
        dataset.file_meta.MediaStorageSOPClassUID = uid.UID(UNKNOWN)
    del dataset.Modality
    if modality is not None:
        dataset.add_new("Modality", "CS", modality)
    return saved(dataset)


@pytest.mark.parametrize("where", ["header", "dataset", "both"])
@pytest.mark.parametrize("modality", [None, ""])
def test_without_a_modality_the_sop_class_decides(where: str, modality: str | None) -> None:
    for sop_class in (CR, DX, DX_RAW, SC, DIGITISED):
        np.testing.assert_array_equal(load_radiograph(of_class(sop_class, modality, where)).pixels, GREYS)
    for sop_class in OTHERS:
        refused(of_class(sop_class, modality, where), NotARadiograph, "not_a_radiograph", "CR, DX, RG")
    refused(of_class(UNKNOWN, modality), NotARadiograph, "not_a_radiograph", "no modality")


@pytest.mark.parametrize("modality", ["DR", "XR", "CR", "DX"])
def test_modality_and_sop_class_have_to_agree(modality: str) -> None:
    for sop_class in (CR, DX, SC, UNKNOWN):
        np.testing.assert_array_equal(load_radiograph(of_class(sop_class, modality)).pixels, GREYS)
    for sop_class in OTHERS:
        for where in ("header", "dataset"):
            refused(of_class(sop_class, modality, where), NotARadiograph, "not_a_radiograph")
    for other in ("CT", "MR", "US", "MG", "PT", "NM", "XA"):
        refused(of_class(DX, other), NotARadiograph, "not_a_radiograph", f"has {other}")


@pytest.mark.parametrize("written", [b"dx", b"Cr", b"dr", b"DX\0\0", b" DX "])
def test_a_modality_in_lower_case_or_padded(written: bytes) -> None:
    data = saved(dicom(GREYS, Modality="DX")).replace(
        b"CS\x02\x00DX", b"CS" + struct.pack("<H", len(written)) + written
    )
    np.testing.assert_array_equal(load_radiograph(data).pixels, GREYS)


@pytest.mark.slow
@pytest.mark.parametrize(
    "keyword", ["PixelRepresentation", "SamplesPerPixel", "BitsStored", "HighBit", "PhotometricInterpretation"]
)
@pytest.mark.parametrize("syntax", [uid.ExplicitVRLittleEndian, uid.RLELossless, uid.JPEG2000Lossless])
def test_a_missing_element_gets_its_one_sane_value(keyword: str, syntax: str) -> None:
    dataset = dicom(greys(16))
    if syntax == uid.RLELossless:
        dataset.compress(syntax, generate_instance_uid=False)
    elif syntax == uid.JPEG2000Lossless:
        dataset = pydicom.dcmread(
            io.BytesIO(encapsulated(encode(greys(16), "JPEG2000", no_jp2=True), syntax, greys(16)))
        )
    expected = np.rint(greys(16) / 257)
    for empty in (True, False):
        if empty:
            dataset[keyword].value = None
        else:
            del dataset[keyword]
        radiograph = load_radiograph(saved(dataset))
        np.testing.assert_array_equal(radiograph.pixels, expected)
        assert radiograph.steps[0].startswith(f"{keyword} is missing")


def test_missing_elements_of_colour() -> None:
    rgb = np.stack([GREYS, GREYS[::-1], GREYS[:, ::-1]], 2)
    expected = np.asarray(Image.fromarray(rgb).convert("L"))
    names = ("SamplesPerPixel", "PhotometricInterpretation", "PlanarConfiguration")
    for keywords in (*((name,) for name in names), ("SamplesPerPixel", "PhotometricInterpretation")):
        dataset = dicom(rgb)
        for keyword in keywords:
            del dataset[keyword]
        np.testing.assert_array_equal(load_radiograph(saved(dataset)).pixels, expected)


@pytest.mark.parametrize("signed", [False, True])
def test_high_bit_15_with_12_stored(signed: bool) -> None:
    values = greys(12).astype(np.int32) - 2048 * signed
    shifted = (values << 4).astype(np.int16 if signed else np.uint16)
    lower = shifted | np.where(np.arange(80) % 7 == 0, 9, 0).astype(shifted.dtype)  # an overlay
    for pixels in (shifted, lower):
        data = saved(dicom(pixels, 12, HighBit=15))
        np.testing.assert_array_equal(load_radiograph(data).pixels, GREYS_8_OF_12)
        compressed_data = saved_as_rle(dicom(pixels, 12, HighBit=15))
        np.testing.assert_array_equal(load_radiograph(compressed_data).pixels, GREYS_8_OF_12)


def saved_as_rle(dataset: Dataset) -> bytes:
    stored, high = dataset.BitsStored, dataset.HighBit
    dataset.BitsStored, dataset.HighBit = 16, 15
    dataset.compress(uid.RLELossless, generate_instance_uid=False)
    dataset.BitsStored, dataset.HighBit = stored, high
    return saved(dataset)


def test_a_high_bit_that_is_wrong_is_reported() -> None:
    for high in (15, 0, 7, 40):
        radiograph = load_radiograph(saved(dicom(greys(12), 12, HighBit=high)))
        np.testing.assert_array_equal(radiograph.pixels, GREYS_8_OF_12)
        assert radiograph.steps[0].startswith(f"HighBit {high} ignored")


def test_colour_of_32_bits_and_signed_colour() -> None:
    deep = np.stack([greys(16)] * 3, 2).astype(np.uint32) << 16
    radiograph = load_radiograph(saved(dicom(deep)))
    np.testing.assert_array_equal(radiograph.pixels, np.rint(greys(16) / 257))
    signed = np.stack([greys(12)] * 3, 2).astype(np.int16) - 2048
    refused(saved(dicom(signed)), UnsupportedDicom, "unsupported_dicom", "signed colour")


def test_jpeg_ls_of_7_bits() -> None:
    values = GREYS // 2
    data = compressed(values, uid.JPEGLSLossless, 7, encoding_plugin="pyjpegls")
    np.testing.assert_array_equal(load_radiograph(data).pixels, values)
