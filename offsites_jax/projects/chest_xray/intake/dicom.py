"""One radiograph from one DICOM file: what is accepted, and how stored values become brightness.

The order is fixed: stored values, modality LUT, VOI LUT or window, inversion of MONOCHROME1, then the range
of the image to [0, 1]. A file that says too little or contradicts itself is refused by the name of the tag;
guesses would put inverted lungs among the others. pydicom (extra `xray`) decodes and applies the tables.
"""

import io
import os
from collections.abc import Collection, Iterator
from typing import TYPE_CHECKING, Any

import numpy as np
from etils import epath
from jaxtyping import Bool, Float32, Integer

from offsites_jax.errors import DamagedDataError, UserError
from offsites_jax.projects.chest_xray.intake.grey import Radiograph, unit_range

if TYPE_CHECKING:
    from pydicom.dataset import Dataset

MAX_PIXELS = 10**8

# Of the SOP classes that are read, under which word some have to be allowed.
_ACCEPTED = {
    "1.2.840.10008.5.1.4.1.1.1": "",  # computed radiography
    "1.2.840.10008.5.1.4.1.1.1.1": "",  # digital X-ray, for presentation
    "1.2.840.10008.5.1.4.1.1.1.1.1": "processing",
    "1.2.840.10008.5.1.4.1.1.7": "secondary",
}
_MODALITIES = {"": ("CR", "DX"), "processing": ("CR", "DX"), "secondary": ("CR", "DX", "OT", "SC")}
_FRONTAL = ("PA", "AP")
_LATERAL = ("LL", "RL", "LLD", "RLD", "LAT")


def read(path: str | os.PathLike[str], *, allow: Collection[str] = ()) -> Radiograph:
    """Read a chest radiograph from a DICOM file with its preamble; see `parse`.

    Raises:
      DamagedDataError: as `parse`; names the file, too.
      UserError: there is no such file, or pydicom is not installed.

    """
    if not epath.Path(path).exists():
        raise UserError(f"{path}: no such file")
    try:
        return parse(epath.Path(path).read_bytes(), allow=allow)
    except DamagedDataError as error:
        raise DamagedDataError(f"{path}: {error}") from error


def parse(data: bytes, *, allow: Collection[str] = ()) -> Radiograph:
    """A chest radiograph from the bytes of a DICOM file.

    Args:
      data: all of the file.
      allow: objects to accept beside CR and DX for presentation: "processing", "secondary".

    Returns:
      Its pixels in [0, 1], air dark and bone bright, and what its header says of the patient and the view.

    Raises:
      DamagedDataError: no DICOM file, of another kind or view, with a tag missing or wrong, or with pixels
        that cannot be decoded; the message names the tag, never the patient.
      UserError: pydicom is not installed.

    """
    dataset = _dataset(data)
    warnings = check_header(dataset, allow=allow)
    view = str(dataset.get("ViewPosition") or "").upper()
    return Radiograph(
        pixels=brightness(dataset),
        view=view if view in _FRONTAL else "",
        patient_id=str(dataset.get("PatientID") or ""),
        sex=str(dataset.get("PatientSex") or ""),
        age=_years(str(dataset.get("PatientAge") or "")),
        warnings=warnings,
    )


def check_header(header: "Dataset", *, allow: Collection[str] = ()) -> tuple[str, ...]:
    """Whether a header is that of a frontal chest radiograph this module reads.

    Returns:
      What is not wrong, but worth knowing: that the view is not stated, for example.

    Raises:
      DamagedDataError: it is not; names the tag.

    """
    kind = _ACCEPTED.get(str(_value(header, "SOPClassUID")))
    if kind is None:
        name = getattr(header.SOPClassUID, "name", header.SOPClassUID)
        raise DamagedDataError(f"SOPClassUID is {name}: not a CR or DX image")
    if kind and kind not in allow:
        raise DamagedDataError(f"SOPClassUID is that of a {kind} image: allow it with --allow {kind}")
    _expect(header, "Modality", _MODALITIES[kind])
    if int(header.get("NumberOfFrames") or 1) != 1:
        raise DamagedDataError(f"NumberOfFrames is {header.NumberOfFrames}: one radiograph has one frame")
    _expect(header, "SamplesPerPixel", (1,))
    _expect(header, "PhotometricInterpretation", ("MONOCHROME1", "MONOCHROME2"))
    _check_sizes(header)
    _check_inversion(header)
    _check_windows(header)
    return tuple(_view_warnings(header))


def brightness(dataset: "Dataset") -> Float32[np.ndarray, "height width"]:
    """Stored values to [0, 1] by the dataset's own tables; MONOCHROME1 comes out as MONOCHROME2.

    Pixels of the padding value count for nothing and come out black. The tables are applied to every value a
    pixel can have, not to every pixel: there are fewer.

    Raises:
      DamagedDataError: the pixels cannot be decoded, a table is broken, or all pixels have one value.

    """
    from pydicom.pixels import apply_modality_lut, apply_voi_lut

    stored = _stored_values(dataset)
    lowest = int(stored.min())
    index = (stored.astype(np.int32) - lowest).reshape(-1)
    present = np.bincount(index) > 0
    levels = np.arange(lowest, lowest + len(present)).astype(stored.dtype)
    present &= ~_padding(dataset, levels)
    try:
        values = apply_voi_lut(apply_modality_lut(levels, dataset), dataset, index=0).astype(np.float64)
    except Exception as error:  # a broken table fails in nearly every way
        raise DamagedDataError(f"the modality or VOI table cannot be applied ({_line(error)})") from error
    if dataset.PhotometricInterpretation == "MONOCHROME1":
        values = -values
    return unit_range(values, counted=present)[index].reshape(stored.shape)


def _dataset(data: bytes) -> "Dataset":
    try:
        import pydicom
    except ImportError:
        raise UserError("reading DICOM needs pydicom; pip install 'offsites-jax[xray]'") from None
    try:
        return pydicom.dcmread(io.BytesIO(data), force=False)
    except pydicom.errors.InvalidDicomError:
        raise DamagedDataError("not a DICOM file: it lacks the preamble") from None
    except Exception as error:  # damaged headers fail in nearly every way
        raise DamagedDataError(f"the DICOM header cannot be read ({_line(error)})") from error


def _value(header: "Dataset", keyword: str) -> Any:
    value = header.get(keyword)
    if value is None or value == "":
        raise DamagedDataError(f"tag {keyword} is missing")
    return value


def _expect(header: "Dataset", keyword: str, accepted: tuple[Any, ...]) -> None:
    value = _value(header, keyword)
    if value not in accepted:
        raise DamagedDataError(f"{keyword} is {value}: expected {' or '.join(map(str, accepted))}")


def _check_sizes(header: "Dataset") -> None:
    rows, columns, allocated, stored = (
        int(_value(header, keyword)) for keyword in ("Rows", "Columns", "BitsAllocated", "BitsStored")
    )
    if rows * columns > MAX_PIXELS or rows * columns == 0:
        raise DamagedDataError(
            f"Rows x Columns is {rows} x {columns}: from 1 to {MAX_PIXELS} pixels are read"
        )
    if allocated not in (8, 16) or not 1 <= stored <= allocated:
        raise DamagedDataError(f"BitsStored is {stored} of {allocated} BitsAllocated: 8 or 16 are read")
    high = int(header.get("HighBit", stored - 1))
    if high != stored - 1:
        raise DamagedDataError(f"HighBit is {high}, but BitsStored {stored}: they contradict each other")


def _check_inversion(header: "Dataset") -> None:
    """PresentationLUTShape repeats what PhotometricInterpretation says; it inverts nothing by itself."""
    shape = str(header.get("PresentationLUTShape") or "")
    expected = {"MONOCHROME1": "INVERSE", "MONOCHROME2": "IDENTITY"}[header.PhotometricInterpretation]
    if shape == "INVERSE" and expected != "INVERSE":
        raise DamagedDataError("PresentationLUTShape is INVERSE, but PhotometricInterpretation MONOCHROME2")


def _check_windows(header: "Dataset") -> None:
    width = _first(header.get("WindowWidth"))
    if width is None:
        return
    if _first(header.get("WindowCenter")) is None:
        raise DamagedDataError("tag WindowCenter is missing beside WindowWidth")
    function = str(header.get("VOILUTFunction") or "LINEAR").upper()
    least = 1.0 if function == "LINEAR" else 0.0
    if width < least or width == 0:
        raise DamagedDataError(
            f"WindowWidth is {width:g}: {function} needs {'1 or more' if least else 'more than 0'}"
        )


def _view_warnings(header: "Dataset") -> Iterator[str]:
    view = str(header.get("ViewPosition") or "").upper()
    if view in _LATERAL or "LATERAL" in view:
        raise DamagedDataError(f"ViewPosition is {view}: frontal views (PA, AP) are read")
    if not view:
        yield "ViewPosition is not stated: taken as frontal"
    elif view not in _FRONTAL:
        yield f"ViewPosition is {view}: taken as frontal"


def _stored_values(dataset: "Dataset") -> Integer[np.ndarray, "height width"]:
    """Pixels as stored, without what lies above the bits in use (overlays of old devices)."""
    if "PixelData" not in dataset:
        raise DamagedDataError("tag PixelData is missing")
    try:
        pixels = dataset.pixel_array
    except Exception as error:  # decoders raise nearly every type
        raise DamagedDataError(_undecodable(dataset, error)) from error
    if dataset.get("PixelRepresentation"):
        return pixels
    return pixels & pixels.dtype.type((1 << int(dataset.BitsStored)) - 1)


def _undecodable(dataset: "Dataset", error: Exception) -> str:
    syntax = getattr(dataset.file_meta, "TransferSyntaxUID", None)
    name = getattr(syntax, "name", None) or "unknown"
    advice = ""
    if "missing dependencies" in str(error) or "plugins are missing" in str(error):
        advice = "; pip install pylibjpeg pylibjpeg-libjpeg, or store the file uncompressed"
    return f"PixelData in the transfer syntax {name} cannot be decoded ({_line(error)}){advice}"


def _padding(dataset: "Dataset", levels: Integer[np.ndarray, " levels"]) -> Bool[np.ndarray, " levels"]:
    value = dataset.get("PixelPaddingValue")
    if value is None:
        return np.zeros(levels.shape, bool)
    low, high = sorted((int(value), int(dataset.get("PixelPaddingRangeLimit", value))))
    return (levels >= low) & (levels <= high)


def _years(age: str) -> float | None:
    """A DICOM age string such as 045Y, 018M, 003W or 012D."""
    units = {"Y": 1.0, "M": 12.0, "W": 52.1775, "D": 365.2425}
    number, unit = age[:-1], age[-1:].upper()
    return int(number) / units[unit] if unit in units and number.isdigit() else None


def _first(value: Any) -> float | None:
    """Of a tag with one value or several, the first; None for none."""
    values = np.atleast_1d([] if value is None or value == "" else value)
    return float(values[0]) if len(values) else None


def _line(error: Exception) -> str:
    return " ".join(str(error).split()) or type(error).__name__
