"""DICOM intake: values against pydicom's own tables, every refusal by its tag."""

import pathlib

import numpy as np
import pydicom
import pytest
from pydicom.dataset import FileDataset, FileMetaDataset
from pydicom.pixels import apply_modality_lut, apply_voi_lut
from pydicom.sequence import Sequence
from pydicom.uid import (
    ComputedRadiographyImageStorage,
    DigitalXRayImageStorageForPresentation,
    DigitalXRayImageStorageForProcessing,
    ExplicitVRLittleEndian,
    RLELossless,
    SecondaryCaptureImageStorage,
    generate_uid,
)

from offsites_jax.errors import DamagedDataError, UserError
from offsites_jax.projects.chest_xray.intake import dicom, radiograph

EXAMPLES = pathlib.Path(pydicom.__file__).parent / "data" / "test_files"


def scene(bits=12, shape=(40, 30), seed=0):
    """Something with a gradient and noise, as stored values."""
    rng = np.random.default_rng(seed)
    values = np.linspace(0.1, 0.9, shape[1])[None] + 0.05 * rng.standard_normal(shape)
    return np.clip(values * (2**bits - 1), 0, 2**bits - 1).astype(np.uint8 if bits <= 8 else np.uint16)


def dataset(pixels=None, bits=12, **tags):
    pixels = scene(bits) if pixels is None else pixels
    meta = FileMetaDataset()
    meta.TransferSyntaxUID = ExplicitVRLittleEndian
    meta.MediaStorageSOPClassUID = DigitalXRayImageStorageForPresentation
    meta.MediaStorageSOPInstanceUID = generate_uid(entropy_srcs=["test"])
    found = FileDataset(None, {}, file_meta=meta, preamble=b"\0" * 128)
    found.SOPClassUID, found.SOPInstanceUID = meta.MediaStorageSOPClassUID, meta.MediaStorageSOPInstanceUID
    found.Modality, found.PatientID, found.PatientName = "DX", "secret-7", "Doe^Jane"
    found.ViewPosition, found.PatientSex, found.PatientAge = "PA", "F", "045Y"
    found.Rows, found.Columns = pixels.shape
    found.SamplesPerPixel, found.PhotometricInterpretation = 1, "MONOCHROME2"
    found.BitsAllocated, found.BitsStored, found.HighBit = pixels.dtype.itemsize * 8, bits, bits - 1
    found.PixelRepresentation = int(pixels.dtype.kind == "i")
    found.PixelData = pixels.tobytes()
    found["PixelData"].VR = "OB" if found.BitsAllocated == 8 else "OW"
    for keyword, value in tags.items():
        if value is None:
            del found[keyword]
        else:
            setattr(found, keyword, value)
    return found


@pytest.fixture
def save(tmp_path):
    def write(found, name="image.dcm"):
        found.save_as(tmp_path / name, enforce_file_format=True)
        return tmp_path / name

    return write


def unit(values):
    return (values - values.min()) / (values.max() - values.min())


@pytest.mark.parametrize("bits", [8, 10, 12, 15, 16])
def test_without_a_window_the_full_range_counts(save, bits):
    found = dicom.read(save(dataset(bits=bits)))
    np.testing.assert_allclose(found.pixels, unit(scene(bits).astype(float)), atol=1e-6)
    assert (found.view, found.sex, found.age, found.patient_id) == ("PA", "F", 45.0, "secret-7")
    assert found.pixels.dtype == np.float32


LUT = pydicom.Dataset()
LUT.LUTDescriptor = [4096, 0, 16]
LUT.add_new("LUTData", "OW", (np.linspace(0, 1, 4096) ** 2 * 65535).astype("<u2").tobytes())


@pytest.mark.parametrize(
    "tags",
    [
        {"WindowCenter": 1800, "WindowWidth": 1500},
        {"WindowCenter": [1800, 900], "WindowWidth": [1500, 100]},
        {"WindowCenter": 1800, "WindowWidth": 1500, "VOILUTFunction": "LINEAR_EXACT"},
        {"WindowCenter": 1800, "WindowWidth": 900, "VOILUTFunction": "SIGMOID"},
        {"RescaleSlope": 2, "RescaleIntercept": -1000, "WindowCenter": 3000, "WindowWidth": 2000},
        {"VOILUTSequence": Sequence([LUT]), "WindowCenter": 10, "WindowWidth": 5},
        {"ModalityLUTSequence": Sequence([LUT])},
    ],
)
@pytest.mark.parametrize("interpretation", ["MONOCHROME1", "MONOCHROME2"])
def test_windows_and_tables_are_pydicoms(save, tags, interpretation):
    made = dataset(PhotometricInterpretation=interpretation, **tags)
    if "ModalityLUTSequence" in tags:
        made.ModalityLUTSequence[0].ModalityLUTType = "US"
    windowed = apply_voi_lut(apply_modality_lut(scene(), made), made).astype(float)
    expected = unit(-windowed if interpretation == "MONOCHROME1" else windowed)
    np.testing.assert_allclose(dicom.read(save(made)).pixels, expected, atol=1e-5)


@pytest.mark.parametrize("lut_shape", [None, "INVERSE"])
def test_monochrome1_is_the_same_picture_once_inverted(save, lut_shape):
    tags = {"PresentationLUTShape": lut_shape} if lut_shape else {}
    negative = dataset(4095 - scene(), PhotometricInterpretation="MONOCHROME1", **tags)
    one, two = dicom.read(save(negative, "1.dcm")), dicom.read(save(dataset(), "2.dcm"))
    np.testing.assert_allclose(one.pixels, two.pixels, atol=1e-6)


def test_bits_above_those_in_use_and_padding_do_not_count(save):
    clean = scene()
    dirty = clean | np.uint16(0xA000)
    np.testing.assert_array_equal(
        dicom.read(save(dataset(dirty))).pixels, dicom.read(save(dataset(clean), "clean.dcm")).pixels
    )
    padded = np.clip(scene(), 1000, 3000)
    padded[:5] = 4095
    found = dicom.read(save(dataset(padded, PixelPaddingValue=4095), "padded.dcm")).pixels
    assert (found[:5] == 0).all()
    np.testing.assert_allclose(found[5:], unit(padded[5:].astype(float)), atol=1e-6)


def test_signed_values_and_compressed_ones(save):
    signed = scene().astype(np.int16) - 2000
    np.testing.assert_allclose(
        dicom.read(save(dataset(signed, bits=16))).pixels, unit(signed.astype(float)), atol=1e-6
    )
    packed = dataset()
    packed.compress(RLELossless)
    np.testing.assert_allclose(dicom.read(save(packed)).pixels, unit(scene().astype(float)), atol=1e-6)


@pytest.mark.parametrize(
    ("tags", "message"),
    [
        ({"Modality": "CT"}, "Modality is CT: expected CR or DX"),
        ({"Modality": None}, "tag Modality is missing"),
        ({"NumberOfFrames": 2}, "NumberOfFrames is 2"),
        ({"SamplesPerPixel": 3}, "SamplesPerPixel is 3"),
        ({"PhotometricInterpretation": None}, "tag PhotometricInterpretation is missing"),
        ({"PhotometricInterpretation": "RGB"}, "PhotometricInterpretation is RGB"),
        ({"ViewPosition": "LL"}, "ViewPosition is LL: frontal"),
        ({"ViewPosition": "LATERAL"}, "ViewPosition is LATERAL"),
        ({"ViewPosition": "Large Lateral"}, "ViewPosition is LARGE LATERAL"),
        ({"WindowCenter": 5, "WindowWidth": 0}, "WindowWidth is 0"),
        ({"WindowCenter": 5, "WindowWidth": 0.5}, "WindowWidth is 0.5"),
        ({"WindowWidth": 50}, "tag WindowCenter is missing"),
        ({"PresentationLUTShape": "INVERSE"}, "PresentationLUTShape is INVERSE, but"),
        ({"Rows": 60000, "Columns": 60000}, "Rows x Columns is 60000 x 60000"),
        ({"Rows": None}, "tag Rows is missing"),
        ({"HighBit": 15}, "HighBit is 15, but BitsStored 12"),
        ({"BitsStored": 17}, "BitsStored is 17 of 16"),
        ({"PixelData": None}, "tag PixelData is missing"),
        ({"PixelData": b"\0" * 100}, "PixelData in the transfer syntax Explicit VR Little Endian"),
        ({"SOPClassUID": SecondaryCaptureImageStorage}, "allow it with --allow secondary"),
        ({"SOPClassUID": DigitalXRayImageStorageForProcessing}, "allow it with --allow processing"),
        ({"SOPClassUID": "1.2.840.10008.5.1.4.1.1.2"}, "SOPClassUID is CT Image Storage"),
    ],
)
def test_a_file_that_is_no_frontal_radiograph_is_refused_by_its_tag(save, tags, message):
    path = save(dataset(**tags))
    with pytest.raises(DamagedDataError) as raised:
        dicom.read(path)
    text = str(raised.value)
    assert text.startswith(f"{path}: ")
    assert message in text
    assert "\n" not in text
    assert "Doe" not in text
    assert "secret" not in text


def test_a_constant_image_is_refused(save):
    with pytest.raises(DamagedDataError, match="all pixels have the same value"):
        dicom.read(save(dataset(np.full((8, 8), 7, np.uint16))))


def test_what_is_allowed_is_read(save):
    processing = save(dataset(SOPClassUID=DigitalXRayImageStorageForProcessing))
    assert dicom.read(processing, allow=("processing",)).pixels.shape == (40, 30)
    plain = save(
        dataset(SOPClassUID=ComputedRadiographyImageStorage, Modality="CR", ViewPosition=""), "cr.dcm"
    )
    assert dicom.read(plain).warnings == ("ViewPosition is not stated: taken as frontal",)


@pytest.mark.parametrize(
    "name", ["CT_small.dcm", "MR_small.dcm", "SC_rgb_rle.dcm", "rtplan.dcm", "no_meta.dcm"]
)
def test_other_kinds_of_real_files_are_refused(name):
    with pytest.raises(DamagedDataError, match=name):
        dicom.read(EXAMPLES / name)


def test_no_dicom_and_no_file(tmp_path):
    (tmp_path / "a.dcm").write_bytes(b"hello")
    with pytest.raises(DamagedDataError, match="not a DICOM file"):
        dicom.read(tmp_path / "a.dcm")
    with pytest.raises(UserError, match="no such file"):
        radiograph.read(tmp_path / "b.dcm")
