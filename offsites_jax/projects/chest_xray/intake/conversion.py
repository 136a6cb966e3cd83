"""An archive of DICOM or PNG files as de-identified 16-bit PNGs with a manifest.

What is written is the picture, and of the header only view, sex and age. Patients go by keyed pseudonyms,
files by a digest of their pixels: no name, date, number or path of the archive gets out.
"""

import dataclasses
import hashlib
import io
import os
from collections.abc import Iterator, Sequence

import numpy as np
from etils import epath
from jaxtyping import UInt16
from PIL import Image

from offsites_jax.data.atomic import write_atomically
from offsites_jax.errors import UserError
from offsites_jax.projects.chest_xray.intake import identity, radiograph
from offsites_jax.projects.chest_xray.intake.inputs import Input
from offsites_jax.projects.chest_xray.intake.readings import Reading, read_all
from offsites_jax.projects.chest_xray.tables.case import Case
from offsites_jax.projects.chest_xray.tables.manifest import write_manifest

MANIFEST, IMAGES = "manifest.csv", "images"
PER_FOLDER = 1000
OLDEST = 90.0  # from which on an age alone may tell who somebody is

_DIGEST = 20  # hexadecimal digits


@dataclasses.dataclass(frozen=True)
class Intake:
    """How files are taken in.

    Attributes:
      key: secret of the pseudonyms.
      size: side of the square that is kept, in pixels; 0 keeps the picture as it is.
      crop_borders: cut off rows and columns of one value at the edges first.
      allow: objects to accept beside CR and DX for presentation.
      site: where patients come from; the same number at two sites is two patients.

    """

    key: bytes
    size: int = 1024
    crop_borders: bool = False
    allow: tuple[str, ...] = ()
    site: str = ""


def convert(inputs: Sequence[Input], output: str | os.PathLike[str], settings: Intake) -> dict[str, str]:
    """Writes `images/000/<digest>.png` and `manifest.csv`; the same picture twice is kept once.

    Split and label are kept from a manifest, where the inputs come from one.

    Returns:
      Errors by name of the input, of the files that could not be taken in.

    Raises:
      UserError: no file could be.

    """
    folder, errors = epath.Path(output), {}
    cases: dict[str, Case] = {}
    for readings in read_all(inputs, settings.allow):
        for reading in readings:
            try:
                case, content = _taken_in(reading, settings, len(cases))
            except UserError as error:
                errors[reading.source.name] = str(error)
                continue
            digest = case.study_id
            if digest not in cases:
                cases[digest] = dataclasses.replace(case, study_id="")
                write_atomically(folder / case.image, content)
    if not cases:
        raise UserError(
            f"none of {len(inputs)} files could be read; the first: {next(iter(errors.values()), '')}"
        )
    write_manifest(folder / MANIFEST, cases.values())
    return errors


def png16(pixels: UInt16[np.ndarray, "height width"]) -> bytes:
    """A grey PNG of 16 bits."""
    stream = io.BytesIO()
    Image.fromarray(pixels).save(stream, "PNG")
    return stream.getvalue()


def _taken_in(reading: Reading, settings: Intake, number: int) -> tuple[Case, bytes]:
    """The row of the manifest, with the digest of the pixels as its study, and the file."""
    if reading.read is None:
        raise UserError(reading.error)
    read, known = reading.read, reading.source.case
    patient = read.patient_id.strip() or known.patient_id
    if not patient:
        raise UserError(f"{reading.source.path}: tag PatientID is missing, and no manifest says who it is")
    pixels = radiograph.without_borders(read.pixels) if settings.crop_borders else read.pixels
    if settings.size:
        pixels = radiograph.prepare(pixels, settings.size)
    image = radiograph.to_uint16(pixels)
    digest = hashlib.sha256(image.tobytes()).hexdigest()[:_DIGEST]
    age = known.age if read.age is None else read.age
    return (
        Case(
            image=f"{IMAGES}/{number // PER_FOLDER:03d}/{digest}.png",
            patient_id=identity.pseudonym(settings.key, patient, settings.site),
            study_id=digest,
            split=known.split,
            label=known.label,
            findings=known.findings,
            view=read.view or known.view,
            age=None if age is None else min(age, OLDEST),
            sex=read.sex if read.sex in ("M", "F") else known.sex,
            site=settings.site,
        ),
        png16(image),
    )


def failures(errors: dict[str, str]) -> Iterator[dict[str, str]]:
    """Rows of the list of what could not be taken in."""
    yield from ({"image": name, "message": message} for name, message in errors.items())
