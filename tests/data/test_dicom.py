"""DICOM: windows and tables by hand and by pydicom, both photometrics alike, and every file without a picture named."""

import base64
import importlib.util
import io
import warnings
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pydicom
import pytest
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.pixels import apply_windowing
from pydicom.uid import (
    HTJ2K,
    MPEG2MPML,
    ExplicitVRBigEndian,
    ExplicitVRLittleEndian,
    HTJ2KLossless,
    ImplicitVRLittleEndian,
    JPEGExtended12Bit,
    JPEGLosslessSV1,
    RLELossless,
    SecondaryCaptureImageStorage,
    generate_uid,
)

from data.decoding import decode_image
from data.dicom import decode_dicom, is_dicom

FILES = Path(pydicom.__file__).parent / "data" / "test_files"
RAMP = np.arange(4096, dtype=np.uint16).reshape(64, 64)


def make_dicom(pixels: np.ndarray, bits: int = 12, photometric: str = "MONOCHROME2",
               syntax: str = ExplicitVRLittleEndian, **attributes: object) -> Dataset:
    """A file of one or more frames around these numbers; attributes by their DICOM keyword."""
    dataset = Dataset()
    dataset.file_meta = FileMetaDataset()
    dataset.file_meta.TransferSyntaxUID = syntax
    dataset.file_meta.MediaStorageSOPClassUID = dataset.SOPClassUID = SecondaryCaptureImageStorage
    dataset.file_meta.MediaStorageSOPInstanceUID = dataset.SOPInstanceUID = generate_uid(entropy_srcs=["one"])
    frames = int(attributes.get("NumberOfFrames", 1))
    shape = pixels.shape[1:] if frames > 1 else pixels.shape
    dataset.Rows, dataset.Columns = shape[:2]
    dataset.SamplesPerPixel = shape[2] if len(shape) == 3 else 1
    if dataset.SamplesPerPixel > 1:
        dataset.PlanarConfiguration = 0
    dataset.PhotometricInterpretation = photometric
    dataset.BitsAllocated, dataset.BitsStored, dataset.HighBit = 8 * pixels.itemsize, bits, bits - 1
    dataset.PixelRepresentation = int(pixels.dtype.kind == "i")
    for name, value in attributes.items():
        setattr(dataset, name, value)
    raw = pixels.astype(pixels.dtype.newbyteorder(">" if syntax == ExplicitVRBigEndian else "<")).tobytes()
    dataset.PixelData = raw + b"\0" * (len(raw) % 2)
    dataset["PixelData"].VR = "OW" if pixels.itemsize > 1 else "OB"
    return dataset


def to_bytes(dataset: Dataset) -> bytes:
    file = io.BytesIO()
    dataset.save_as(file, enforce_file_format=True)
    return file.getvalue()


def decode(pixels: np.ndarray, *arguments: object, **attributes: object) -> np.ndarray:
    return decode_dicom(to_bytes(make_dicom(pixels, *arguments, **attributes)))


def lut(first: int, values: list[int], bits: int) -> Dataset:
    item = Dataset()
    item.LUTDescriptor = [len(values), first, bits]
    item["LUTDescriptor"].VR = "US"
    item.LUTData = values
    item["LUTData"].VR = "US"
    return item


# ---- grey values


def test_linear_window_follows_the_standard():
    shown = decode(RAMP, WindowCenter=2048, WindowWidth=4096).ravel().astype(float)
    expected = ((RAMP.ravel() - 2047.5) / 4095 + 0.5) * 255  # PS3.3 C.11.2.1.2.1, its first example
    assert np.abs(shown - np.clip(expected, 0, 255)).max() <= 0.51
    shown = decode(RAMP, WindowCenter=2048, WindowWidth=1).ravel()  # its second: a threshold
    assert not shown[:2048].any() and (shown[2048:] == 255).all()


@pytest.mark.parametrize("function", ["LINEAR", "LINEAR_EXACT", "SIGMOID"])
@pytest.mark.parametrize(("centre", "width"), [(1000, 600), (40, 2000), (3000, 50)])
def test_windows_are_pydicoms(function, centre, width):
    dataset = make_dicom(RAMP, WindowCenter=centre, WindowWidth=width, VOILUTFunction=function)
    expected = apply_windowing(RAMP, dataset) / 4095 * 255
    assert np.abs(decode_dicom(to_bytes(dataset)) - expected).max() <= 0.51


def test_a_sigmoid_window_by_hand():
    shown = decode(np.array([[0, 100, 150, 200, 4000]], np.uint16), WindowCenter=100, WindowWidth=200,
                   VOILUTFunction="SIGMOID")
    assert shown.tolist() == [[30, 128, 186, 225, 255]]  # 255 / (1 + exp(-4 (x - 100) / 200))


def test_a_window_counts_in_rescaled_units():
    stored = np.array([[0, 1024, 1064, 1104, 3000]], np.uint16)
    shown = decode(stored, RescaleSlope=1, RescaleIntercept=-1024, WindowCenter=40, WindowWidth=80,
                   VOILUTFunction="LINEAR_EXACT")
    assert shown.tolist() == [[0, 0, 128, 255, 255]]
    signed = decode((stored.astype(np.int32) - 1024).astype(np.int16), 16, WindowCenter=40, WindowWidth=80,
                    VOILUTFunction="LINEAR_EXACT")
    assert np.array_equal(signed, shown)


def test_of_several_windows_it_is_the_first():
    several = decode(RAMP, WindowCenter=[1000, 40], WindowWidth=[500, 80])
    assert np.array_equal(several, decode(RAMP, WindowCenter=1000, WindowWidth=500))


@pytest.mark.parametrize("wrong", [{"WindowCenter": 9000, "WindowWidth": 10}, {"WindowCenter": 100, "WindowWidth": 0},
                                   {"WindowCenter": 100}, {"WindowCenter": "", "WindowWidth": ""}])
def test_a_window_that_shows_nothing_counts_as_none(wrong):
    assert np.array_equal(decode(RAMP, **wrong), decode(RAMP))


def test_without_a_window_the_percentiles_are_black_and_white():
    pixels = np.random.default_rng(0).normal(1500, 200, (80, 90)).astype(np.uint16)
    pixels[0, :3] = 4095  # a marker of lead
    low, high = np.percentile(pixels, [0.5, 99.5])
    expected = np.clip((pixels - low) / (high - low), 0, 1) * 255
    assert np.abs(decode(pixels) - expected).max() <= 0.51


def test_8_bits_without_a_window_stay_as_they_are():
    pixels = np.random.default_rng(0).integers(50, 120, (20, 30), dtype=np.uint8)
    assert np.array_equal(decode(pixels, 8), pixels)
    assert np.array_equal(decode(pixels, 8, photometric="MONOCHROME1"), 255 - pixels)
    assert decode(np.array([[0, 1, 2, 3]], np.uint8), 2).tolist() == [[0, 85, 170, 255]]


@pytest.mark.parametrize("window", [{}, {"WindowCenter": 1000, "WindowWidth": 700},
                                    {"WindowCenter": 1000, "WindowWidth": 700, "VOILUTFunction": "SIGMOID"}])
def test_both_photometrics_of_a_picture_look_the_same(window):
    pixels = np.random.default_rng(0).integers(300, 3000, (40, 50), dtype=np.uint16)
    inverted = {**window, "WindowCenter": 4096 - 1000} if window else {}  # the standard's window ends half a step off
    one, other = decode(pixels, **window), decode(4095 - pixels, photometric="MONOCHROME1", **inverted)
    assert np.abs(one.astype(int) - other).max() <= 1 and one.std() > 30


def test_voi_lut_takes_precedence_over_the_window():
    pixels = np.array([[0, 9, 10, 11, 12, 13, 4000]], np.uint16)
    shown = decode(pixels, VOILUTSequence=[lut(10, [0, 64, 200, 255], 8)], WindowCenter=1, WindowWidth=1)
    assert shown.tolist() == [[0, 0, 0, 64, 200, 255, 255]]
    twelve = decode(pixels, VOILUTSequence=[lut(10, [0, 1028, 3212, 4095], 16)])  # said to be 16 bits, but is 12
    assert twelve.tolist() == [[0, 0, 0, 64, 200, 255, 255]]


def test_voi_table_may_start_at_a_negative_value():
    pixels = np.array([[-100, -3, -2, -1, 0, 500]], np.int16)
    shown = decode(pixels, 16, VOILUTSequence=[lut(65536 - 3, [0, 64, 200, 255], 8)])  # -3, written as unsigned
    assert shown.tolist() == [[0, 0, 64, 200, 255, 255]]
    unsigned = np.array([[0, 65532, 65533, 65534, 65535]], np.uint16)  # the same number in a file without a sign
    assert decode(unsigned, 16, VOILUTSequence=[lut(65533, [0, 64, 255], 8)]).tolist() == [[0, 0, 0, 64, 255]]


def test_a_modality_table_comes_before_the_window():
    item = lut(0, [0, 100, 50, 200], 8)
    item.ModalityLUTType = "US"
    shown = decode(np.array([[0, 1, 2, 3]], np.uint16), ModalityLUTSequence=[item], WindowCenter=100, WindowWidth=200,
                   VOILUTFunction="LINEAR_EXACT")
    assert shown.tolist() == [[0, 128, 64, 255]]


@pytest.mark.parametrize(("padding", "limit"), [(-2000, None), (63536, None), (-2000, -1900)])
def test_padding_is_black_and_counts_in_no_percentile(padding, limit):
    pixels = np.random.default_rng(0).normal(0, 300, (60, 60)).astype(np.int16)
    clean = decode(pixels[:, 20:], 16)
    pixels[:, :20] = -2000 if limit is None else -1950
    for photometric in ("MONOCHROME2", "MONOCHROME1"):
        dataset = make_dicom(pixels, 16, photometric)
        dataset.add_new("PixelPaddingValue", "SS" if padding < 0 else "US", padding)
        if limit is not None:
            dataset.add_new("PixelPaddingRangeLimit", "SS", limit)
        shown = decode_dicom(to_bytes(dataset))
        assert not shown[:, :20].any()
        assert np.array_equal(shown[:, 20:], clean if photometric == "MONOCHROME2" else 255 - clean)


@pytest.mark.parametrize("value", [0, 7, 4095])
def test_a_constant_picture_stays_constant(value):
    for attributes in ({}, {"WindowCenter": 100, "WindowWidth": 50}, {"PixelPaddingValue": value}):
        assert np.ptp(decode(np.full((8, 8), value, np.uint16), **attributes)) == 0


def test_first_frame_uses_its_own_attributes():
    frames = np.stack([RAMP, RAMP[::-1], RAMP.T])
    assert np.array_equal(decode(frames, NumberOfFrames=3), decode(RAMP))
    first, shared, voi, transformation = Dataset(), Dataset(), Dataset(), Dataset()
    voi.WindowCenter, voi.WindowWidth = 0, 500
    transformation.RescaleSlope, transformation.RescaleIntercept = 2, -1000
    first.FrameVOILUTSequence, shared.PixelValueTransformationSequence = [voi], [transformation]
    enhanced = decode(frames, NumberOfFrames=3, PerFrameFunctionalGroupsSequence=[first, Dataset(), Dataset()],
                      SharedFunctionalGroupsSequence=[shared])
    plain = decode(RAMP, WindowCenter=0, WindowWidth=500, RescaleSlope=2, RescaleIntercept=-1000)
    assert np.array_equal(enhanced, plain) and 20 < plain.mean() < 235


def test_more_than_16_bits_need_a_window():
    pixels = np.arange(16, dtype=np.uint32).reshape(4, 4) * 1000
    with pytest.raises(ValueError, match="uint32 without a window, so their range of grey is not known"):
        decode(pixels, 32)
    assert decode(pixels, 32, WindowCenter=7000, WindowWidth=14001).ravel()[[0, 7, 14]].tolist() == [0, 128, 255]


# ---- colours


def test_rgb_comes_as_it_is_and_as_grey(tmp_path):
    pixels = np.random.default_rng(0).integers(0, 256, (10, 12, 3), dtype=np.uint8)
    path = tmp_path / "a.dcm"
    path.write_bytes(to_bytes(make_dicom(pixels, 8, "RGB")))
    assert np.array_equal(decode_image(path, 3), pixels)
    assert np.abs(decode_image(path, 1) - pixels @ [0.299, 0.587, 0.114]).max() < 1
    assert np.array_equal(decode(pixels.astype(np.uint16) * 257, 16, "RGB"), pixels)


def test_a_grey_file_fills_three_channels(tmp_path):
    path = tmp_path / "a.dcm"
    path.write_bytes(to_bytes(make_dicom(RAMP)))
    assert np.array_equal(decode_image(path, 3), np.dstack([decode_image(path, 1)] * 3))


def test_ybr_becomes_rgb():
    ybr = np.array([[[76, 85, 255], [150, 44, 21], [29, 255, 107], [255, 128, 128]]], np.uint8)
    expected = [[[254, 0, 0], [0, 255, 1], [0, 0, 254], [255, 255, 255]]]  # ITU-T T.871
    assert np.abs(decode(ybr, 8, "YBR_FULL") - np.array(expected)).max() <= 1


def test_a_palette_gives_its_colours():
    tables = {f"{colour}PaletteColorLookupTableData": np.array(values, "<u2").tobytes()
              for colour, values in (("Red", [0, 65535, 0]), ("Green", [0, 0, 32896]), ("Blue", [257, 0, 0]))}
    dataset = make_dicom(np.array([[0, 1, 2, 1]], np.uint8), 8, "PALETTE COLOR", **tables)
    for colour in ("Red", "Green", "Blue"):
        dataset.add_new(f"{colour}PaletteColorLookupTableDescriptor", "US", [3, 0, 16])
    assert decode_dicom(to_bytes(dataset)).tolist() == [[[0, 0, 1], [255, 0, 0], [0, 128, 0], [255, 0, 0]]]


# ---- how a file is written


@pytest.mark.parametrize("syntax", [ExplicitVRLittleEndian, ImplicitVRLittleEndian, ExplicitVRBigEndian])
def test_every_byte_order_gives_the_same_picture(syntax):
    assert np.array_equal(decode(RAMP, syntax=syntax), decode(RAMP))


@pytest.mark.parametrize("syntax", [ImplicitVRLittleEndian, ExplicitVRLittleEndian])
def test_file_without_preamble_is_recognised_by_name(tmp_path, syntax):
    dataset = make_dicom(RAMP, syntax=syntax)
    expected = decode_dicom(to_bytes(dataset))
    del dataset.file_meta
    file = io.BytesIO()
    dataset.save_as(file, implicit_vr=syntax == ImplicitVRLittleEndian, little_endian=True)
    raw = file.getvalue()
    assert not is_dicom(raw) and is_dicom(raw, "A/B.DCM") and is_dicom(raw, Path("b.dicom"))
    for name in ("a.dcm", "b.DICOM"):
        (tmp_path / name).write_bytes(raw)
        assert np.array_equal(decode_image(tmp_path / name, 1), expected)


def test_a_file_with_its_mark_needs_no_name(tmp_path):
    (tmp_path / "00042").write_bytes(to_bytes(make_dicom(RAMP)))
    assert np.array_equal(decode_image(tmp_path / "00042", 1), decode(RAMP))


MR = ["MR_small.dcm", "MR_small_RLE.dcm", "MR_small_bigendian.dcm", "MR_small_implicit.dcm", "MR_small_padded.dcm",
      "MR_small_jp2klossless.dcm", "MR_small_jpeg_ls_lossless.dcm"]


@pytest.mark.parametrize("name", MR)
def test_lossless_files_of_one_scan_give_one_picture(name):
    shown = decode_dicom((FILES / name).read_bytes())
    assert shown.shape == (64, 64) and np.array_equal(shown, decode_dicom((FILES / MR[0]).read_bytes()))


@pytest.mark.parametrize("name", ["SC_rgb_jpeg_gdcm.dcm", "SC_rgb_rle.dcm", "SC_rgb_rle_16bit_2frame.dcm",
                                  "SC_rgb_gdcm_KY.dcm", "SC_rgb_dcmtk_+eb+cr.dcm", "SC_rgb_jls_lossy_line.dcm",
                                  "SC_ybr_full_422_uncompressed.dcm", "SC_rgb_dcmtk_+eb+cy+s2.dcm"])
def test_one_colour_chart_in_every_compression(name):
    shown = decode_dicom((FILES / name).read_bytes())
    assert np.abs(shown[5::10, 50].astype(int) - [  # what its author says is in the bars, from the top
        [255, 0, 0], [255, 128, 128], [0, 255, 0], [128, 255, 128], [0, 0, 255], [128, 128, 255], [0, 0, 0],
        [64, 64, 64], [192, 192, 192], [255, 255, 255]]).max() <= 5


# a ramp of 12 bits, 200 a row and 40 a column, as the encoders of OpenJPH and libjpeg-turbo write it
RAMP_HTJ2K = ("/0//UQApQAAAAAAQAAAAEAAAAAAAAAAAAAAAEAAAABAAAAAAAAAAAAABDwEB/1AACAACAAAACv9SAAwAAgABAAUEBEAB/1wAEyCIkJCQ"
              "kJCQkJCQkJCQiIiI/2QAFwABT3BlbkpQSCBWZXIgMC4yNi4zLv+QAAoAAAAAAIEAAf+TwAAmbfcFB3QAAMAAE0AAEwDa/gIHdABG/gMH"
              "dADAABNAABOAbGwBgnQAIAf5AKNUAMAAFTAABVgymUz2qnECdQCCCxYs+MBCAey2AMAAK6AAFpCO4ziO4zjnynp6cIJ4AI4dHR0dHR0d"
              "/Yxge/Yxgey6AP/Z")
RAMP_JPEG_12 = ("/9j/4AAQSkZJRgABAQAAAQABAAD/2wBDAAIBAQEBAQIBAQECAgICAgQDAgICAgUEBAMEBgUGBgYFBgYGBwkIBgcJBwYGCAsICQoK"
                "CgoKBggLDAsKDAkKCgr/wQALDAAQABABAREA/8QAFQABAQAAAAAAAAAAAAAAAAAACw3/xAAcEAAABgMAAAAAAAAAAAAAAAAACgwpNkZTY3H/"
                "2gAIAQEAAD8Amj5SZDhRloLDRuawoAUmQ4UZaCw0bmsVAApMhwoy0Fho3NYUAKTIcKMtBYaNzWP/2Q==")


def compressed_ramp(syntax: str, stream: str) -> tuple[bytes, np.ndarray]:
    """A file that holds the stream, and the picture that it must give."""
    ramp = (200 * np.arange(16)[:, None] + 40 * np.arange(16)).astype(np.uint16)
    dataset = make_dicom(ramp)
    dataset.file_meta.TransferSyntaxUID = syntax
    dataset.PixelData = pydicom.encaps.encapsulate([base64.b64decode(stream)])
    return to_bytes(dataset), decode(ramp)


@pytest.mark.parametrize("syntax", [HTJ2KLossless, HTJ2K])
def test_high_throughput_jpeg_2000_gives_its_pixels(syntax):
    raw, expected = compressed_ramp(syntax, RAMP_HTJ2K)
    assert np.array_equal(decode_dicom(raw), expected)


def test_12_bit_jpeg_decodes_or_names_the_package():
    raw, expected = compressed_ramp(JPEGExtended12Bit, RAMP_JPEG_12)
    if importlib.util.find_spec("libjpeg"):
        assert np.array_equal(decode_dicom(raw), expected)
        return
    with pytest.raises(ValueError, match="JPEG Extended.* pip install pylibjpeg pylibjpeg-libjpeg"):
        decode_dicom(raw)


# ---- files without a picture


def test_file_without_pixels_is_an_error(tmp_path):
    dataset = make_dicom(RAMP)
    del dataset.PixelData
    for raw in (to_bytes(dataset), (FILES / "rtplan.dcm").read_bytes()):
        (tmp_path / "a.dcm").write_bytes(raw)
        with pytest.raises(ValueError, match=r"a\.dcm: a DICOM file without pixels"):
            decode_image(tmp_path / "a.dcm", 1)


@pytest.mark.parametrize("raw", [b"no image at all", b"\0" * 300, b"\0" * 128 + b"DICM", b"x" * 5000,
                                 b"<html>not found</html>" * 20])
def test_non_dicom_file_is_an_error_with_its_name(tmp_path, raw):
    (tmp_path / "a.dcm").write_bytes(raw)
    with pytest.raises(ValueError, match=r"a\.dcm: (no DICOM file|a DICOM file without|a damaged DICOM)"):
        decode_image(tmp_path / "a.dcm", 1)


def test_unsupported_compression_names_the_package(monkeypatch):
    dataset = make_dicom(RAMP)
    dataset.file_meta.TransferSyntaxUID = MPEG2MPML
    dataset.PixelData = pydicom.encaps.encapsulate([b"\0" * 64])
    with pytest.raises(ValueError, match="'MPEG2 Main Profile / Main Level' .*cannot be decoded; convert"):
        decode_dicom(to_bytes(dataset))

    class Unavailable:
        is_available = False

    monkeypatch.setattr("pydicom.pixels.get_decoder", lambda uid: Unavailable)
    for syntax, package in ((JPEGLosslessSV1, "python-gdcm"), ("1.2.840.10008.1.2.4.51", "pylibjpeg-libjpeg")):
        dataset.file_meta.TransferSyntaxUID = syntax
        with pytest.raises(ValueError, match=f"'JPEG .*needs a package that is not installed: pip install .*{package}"):
            decode_dicom(to_bytes(dataset))


@pytest.mark.parametrize("name", ["uncompressed", "RLE", "JPEG lossless", "JPEG 2000", "JPEG"])
def test_a_truncated_file_is_an_error_or_has_the_same_pixels(name, capfd):
    if name == "uncompressed":
        raw = to_bytes(make_dicom(RAMP))
    elif name == "RLE":
        dataset = make_dicom(RAMP)
        dataset.compress(RLELossless)
        raw = to_bytes(dataset)
    else:
        raw = (FILES / {"JPEG lossless": "SC_rgb_jpeg_gdcm.dcm", "JPEG 2000": "MR_small_jp2klossless.dcm",
                        "JPEG": "SC_rgb_jpeg_dcmtk.dcm"}[name]).read_bytes()
    whole = decode_dicom(raw)
    for end in {*range(0, len(raw), 1 + len(raw) // 40), *range(len(raw) - 12, len(raw))}:
        try:
            assert np.array_equal(decode_dicom(raw[:end]), whole), f"cut at byte {end} of {len(raw)}"
        except ValueError:
            continue
    assert capfd.readouterr().err == ""


def test_flipped_bytes_give_an_image_or_a_value_error():
    raw = to_bytes(make_dicom(RAMP, WindowCenter=2000, WindowWidth=1000))
    start = len(raw) - RAMP.nbytes
    for position in range(132, start):
        try:
            shown = decode_dicom(raw[:position] + bytes([raw[position] ^ 0x55]) + raw[position + 1:])
        except ValueError:
            continue
        assert shown.dtype == np.uint8 and shown.size


def test_attributes_that_contradict_the_pixels_are_an_error():
    for name, value in (("Rows", 65), ("BitsAllocated", 7), ("SamplesPerPixel", 3),
                        ("PhotometricInterpretation", "XY")):
        dataset = make_dicom(RAMP)
        setattr(dataset, name, value)
        with pytest.raises(ValueError):
            decode_dicom(to_bytes(dataset))


# ---- warnings


def test_warnings_of_unusual_files_do_not_escape(capfd):
    raw = (FILES / "SC_rgb_jpeg.dcm").read_bytes()  # pydicom warns about its photometric interpretation
    filters = list(warnings.filters)
    assert filters[0][0] == "error", "warnings are errors in these tests"
    with ThreadPoolExecutor(4) as pool:
        assert len({decode.tobytes() for decode in pool.map(decode_dicom, [raw] * 24)}) == 1
    assert warnings.filters == filters and capfd.readouterr().err == ""
    with pytest.raises(UserWarning):
        warnings.warn("still an error", stacklevel=1)
