"""A made-up hospital archive: DICOM files of drawn radiographs in real lung outlines, and their manifest.

It proves that the way from files to a report works. It says nothing about patients.
"""

import dataclasses
import io
import os
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor

import numpy as np
from etils import epath
from jaxtyping import UInt16

from offsites_jax.data.atomic import write_atomically
from offsites_jax.errors import UserError
from offsites_jax.projects.chest_xray.cohorts import splits
from offsites_jax.projects.chest_xray.synthetic import outlines
from offsites_jax.projects.chest_xray.synthetic.drawing import FINDINGS, Body, Finding, draw
from offsites_jax.projects.chest_xray.tables.case import Case
from offsites_jax.projects.chest_xray.tables.manifest import write_manifest

SPLITS = {"train": 0.7, "tune": 0.12, "test": 0.18}
MANIFEST, IMAGES = "manifest.csv", "images"
BITS = 12

_SENTENCES: dict[Finding | None, tuple[str, ...]] = {
    None: (
        "The lungs are clear. No pleural effusion or pneumothorax.",
        "No acute cardiopulmonary abnormality.",
        "Heart size is normal. No focal opacity, effusion or pneumothorax.",
    ),
    "opacity": (
        "There is a focal opacity in the lung. No pleural effusion.",
        "Rounded pulmonary opacity, which may be a mass or pneumonia. No pneumothorax.",
    ),
    "effusion": (
        "Moderate pleural effusion. No pneumothorax.",
        "There is a pleural effusion on one side. Heart size is normal.",
    ),
}


@dataclasses.dataclass(frozen=True)
class Plan:
    """One image to draw.

    Attributes:
      case: all that the manifest says of it but the place of the finding.
      body: of the patient.
      finding: to plant.
      inverted: written as MONOCHROME1.
      seed: of this image.

    """

    case: Case
    body: Body
    finding: Finding | None
    inverted: bool
    seed: tuple[int, ...]


def synthesize(
    output: str | os.PathLike[str],
    patients: int,
    seed: int = 0,
    height: int = 320,
    masks: str | os.PathLike[str] = "",
) -> list[Case]:
    """Draws an archive: `images/*.dcm`, 12 bits, every second one MONOCHROME1, and `manifest.csv`.

    Patients have 2 to 4 images each; half of all images are abnormal. Splits go by outline, so that a
    network is tested on lungs whose shape it has not seen, whoever they belong to. Columns `finding` and
    `box` (left top width height, in pixels) say what was planted, and where.

    Args:
      output: folder, made where missing.
      patients: how many.
      seed: gives the same archive again, byte for byte.
      height: of the images, in pixels.
      masks: zip of lung masks; that of the installed torchxrayvision unless told.

    Returns:
      The rows of the manifest.

    Raises:
      UserError: there are no outlines, pydicom is not installed, or a number cannot be.

    """
    if patients < 1 or height < 64:
        raise UserError(f"--patients {patients}, --height {height}: use at least 1 and 64")
    shapes = outlines.read_outlines(masks or outlines.find_archive(), patients)
    folder = epath.Path(output)
    (folder / IMAGES).mkdir(parents=True, exist_ok=True)

    def drawn(plan: Plan) -> Case:
        return _draw_one(plan, folder, height)

    with ThreadPoolExecutor(os.cpu_count()) as threads:
        cases = list(threads.map(drawn, plans(shapes, patients, seed)))
    write_manifest(folder / MANIFEST, cases)
    return cases


def plans(shapes: Sequence[outlines.Outline], patients: int, seed: int) -> Iterator[Plan]:
    """What will be drawn for each patient, in order."""
    number = 0
    for patient in range(patients):
        rng = np.random.default_rng([seed, patient])
        shape = shapes[patient % len(shapes)]
        split = _split(shape.name, seed)
        body = Body(shape.lungs, int(rng.integers(2**31)))
        age, sex = float(rng.integers(20, 90)), str(rng.choice(["F", "M"]))
        for image in range(int(rng.integers(2, 5))):
            finding = FINDINGS[rng.integers(len(FINDINGS))] if rng.random() < 0.5 else None
            case = Case(
                image=f"{IMAGES}/{patient:05d}_{image}.dcm",
                patient_id=f"synthetic-{patient:05d}",
                study_id=f"{patient:05d}.{image}",
                split=split,
                label=finding is not None,
                view=str(rng.choice(["PA", "AP"])),
                age=age,
                sex=sex,
                report=f"FINDINGS: {rng.choice(_SENTENCES[finding])}",
                site="synthetic",
                extra={"finding": finding or "", "outline": shape.name},
            )
            yield Plan(case, body, finding, number % 2 == 0, (seed, patient, image, 1))
            number += 1


def dicom_file(pixels: UInt16[np.ndarray, "height width"], case: Case, *, inverted: bool) -> bytes:
    """A DX image for presentation, uncompressed, with nothing in its header that would differ tomorrow.

    Args:
      pixels: 12 bits; brighter is denser.
      case: patient, study, view, age and sex.
      inverted: store it as MONOCHROME1, in which 0 is white.

    Raises:
      UserError: pydicom is not installed.

    """
    try:
        from pydicom.dataset import FileDataset, FileMetaDataset
        from pydicom.uid import DigitalXRayImageStorageForPresentation, ExplicitVRLittleEndian, generate_uid
    except ImportError:
        raise UserError("writing DICOM needs pydicom; pip install 'offsites-jax[xray]'") from None
    meta = FileMetaDataset()
    meta.TransferSyntaxUID = ExplicitVRLittleEndian
    meta.MediaStorageSOPClassUID = DigitalXRayImageStorageForPresentation
    meta.MediaStorageSOPInstanceUID = generate_uid(entropy_srcs=[case.site, case.image])
    dataset = FileDataset(io.BytesIO(), {}, file_meta=meta, preamble=b"\0" * 128)
    dataset.SOPClassUID = meta.MediaStorageSOPClassUID
    dataset.SOPInstanceUID = meta.MediaStorageSOPInstanceUID
    dataset.Modality, dataset.BodyPartExamined = "DX", "CHEST"
    dataset.PatientID, dataset.PatientName = case.patient_id, "Made-up^Patient"
    dataset.PatientSex, dataset.PatientAge = case.sex, f"{int(case.age or 0):03d}Y"
    dataset.StudyID, dataset.ViewPosition = case.study_id, case.view
    dataset.PhotometricInterpretation = "MONOCHROME1" if inverted else "MONOCHROME2"
    dataset.PresentationLUTShape = "INVERSE" if inverted else "IDENTITY"
    dataset.Rows, dataset.Columns = pixels.shape
    dataset.SamplesPerPixel, dataset.PixelRepresentation = 1, 0
    dataset.BitsAllocated, dataset.BitsStored, dataset.HighBit = 16, BITS, BITS - 1
    stored = (1 << BITS) - 1 - pixels if inverted else pixels
    dataset.PixelData = stored.astype("<u2").tobytes()
    stream = io.BytesIO()
    dataset.save_as(stream, enforce_file_format=True)
    return stream.getvalue()


def _draw_one(plan: Plan, folder: epath.Path, height: int) -> Case:
    drawn = draw(plan.body, np.random.default_rng(plan.seed), height, plan.finding)
    pixels = np.round(drawn.pixels * ((1 << BITS) - 1)).astype(np.uint16)
    write_atomically(folder / plan.case.image, dicom_file(pixels, plan.case, inverted=plan.inverted))
    box = drawn.box
    place = f"{box.left} {box.top} {box.width} {box.height}" if box else ""
    return dataclasses.replace(plan.case, extra={**plan.case.extra, "box": place})


def _split(outline: str, seed: int) -> str:
    """By the outline's hash, as splits by patient go."""
    position, end = splits.position(outline, "outlines", str(seed)), 0.0
    for name, share in SPLITS.items():
        end += share
        if position < end:
            return name
    return name
