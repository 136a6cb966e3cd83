"""What people do with archives of radiographs: take them in, list them, draw made-up ones."""

from typing import Literal

from etils import epath
from tyro.conf import Positional

from offsites_jax.errors import UserError
from offsites_jax.projects.chest_xray.commands.shared import banner, check_all_read


def synthesize(
    output: str, patients: int = 600, seed: int = 0, height: int = 320, outlines: str = ""
) -> None:
    """Draws a made-up archive in real lung outlines: 12-bit DICOM files and manifest.csv.

    Args:
      output: folder to write.
      patients: how many; each has 2 to 4 images, half of them abnormal.
      seed: gives the same archive again.
      height: of the images, in pixels.
      outlines: zip of lung masks; that of the installed torchxrayvision unless told.

    """
    banner()

    from offsites_jax.projects.chest_xray.synthetic.archive import synthesize as draw

    cases = draw(output, patients, seed, height, outlines)
    print(f"{output}: {len(cases)} drawn radiographs of {patients} made-up patients; nothing clinical")


def manifest(
    layout: Positional[Literal["cxr14", "expert", "tb", "chexpert", "vindr"]],
    root: Positional[str],
    salt: str = "",
    abnormality: str = "",
) -> None:
    """Writes manifest_LAYOUT.csv into the folder of a published data set; for `expert` also its readers.

    Args:
      layout: cxr14: ChestX-ray14 with its weak labels; expert: the 810 images of it that radiologists
        labelled; tb: Shenzhen or Montgomery; chexpert; vindr: VinDr-CXR as DICOM, majority of its readers.
      root: the folder as it was unpacked.
      salt: of the split by patient, where the data set has none.
      abnormality: of tb, a table `image, abnormal`: the names of its files tell of tuberculosis alone.

    """
    banner()

    from offsites_jax.projects.chest_xray.cohorts.layouts import read_layout, reader_rows
    from offsites_jax.projects.chest_xray.tables.manifest import write_manifest
    from offsites_jax.projects.chest_xray.tables.rows import write_table
    from offsites_jax.projects.chest_xray.tables.tuberculosis import with_abnormality

    cases = read_layout(layout, root, salt)
    if abnormality:
        cases = with_abnormality(cases, abnormality)
    write_manifest(f"{root}/manifest_{layout}.csv", cases)
    if layout == "expert":
        write_table(f"{root}/readers_expert.csv", ("image", "reader_id", "label"), reader_rows(root))
    print(f"{root}/manifest_{layout}.csv: {len(cases)} images")


def convert(
    inputs: Positional[tuple[str, ...]],
    output: str,
    key: str = "",
    site: str = "",
    size: int = 1024,
    crop_borders: bool = False,
    allow: tuple[Literal["processing", "secondary"], ...] = (),
) -> None:
    """Takes in an archive: de-identified 16-bit PNGs and a manifest with pseudonyms for patients.

    Of the header only view, sex and age (at most 90) are kept. Files that cannot be taken in are listed in
    failed.csv, whose names are those of the archive, and the command ends with code 3.

    Args:
      inputs: DICOM or image files, folders of them, or manifests, whose splits and labels are kept.
      output: folder to write.
      key: file with the secret of the pseudonyms; the variable OFFSITES_IDENTITY_KEY unless told.
      site: where the patients come from.
      size: side of the square that is kept, in pixels; 0 keeps the pictures as they are.
      crop_borders: cut off rows and columns of one value at the edges first.
      allow: objects to accept beside CR and DX for presentation.

    """
    banner()

    from offsites_jax.projects.chest_xray.intake.conversion import Intake, failures
    from offsites_jax.projects.chest_xray.intake.conversion import convert as take_in
    from offsites_jax.projects.chest_xray.intake.identity import read_key
    from offsites_jax.projects.chest_xray.intake.inputs import find_inputs
    from offsites_jax.projects.chest_xray.tables.rows import write_table

    if size and size < 32:
        raise UserError(f"--size: {size}; use 0, or at least 32 pixels")
    found = find_inputs(inputs)
    settings = Intake(read_key(key or None), size, crop_borders, allow, site)
    errors = take_in(found, output, settings)
    if errors:
        write_table(epath.Path(output) / "failed.csv", ("image", "message"), failures(errors))
    print(f"{output}: {len(found) - len(errors)} of {len(found)} files taken in")
    check_all_read(errors, len(found))


def records(
    manifest: Positional[str],
    output: str,
    size: int = 600,
    per_file: int = 2000,
    crop_borders: bool = False,
    allow: tuple[Literal["processing", "secondary"], ...] = (),
) -> None:
    """Writes the images of a manifest as ArrayRecord files at the size of the network: `data.source=records`.

    The manifest goes with them as it is: take in an archive with `convert` first, where nobody is to be
    known. Files that cannot be read are left out and listed in failed.csv, and the command ends with code 3.

    Args:
      manifest: with a split for every image.
      output: folder to write.
      size: side of the squares, in pixels; `data.image_size` of the experiment.
      per_file: records in a file, at most.
      crop_borders: cut off rows and columns of one value at the edges first.
      allow: DICOM objects to accept beside CR and DX for presentation.

    """
    banner()

    from offsites_jax.projects.chest_xray.intake.conversion import failures
    from offsites_jax.projects.chest_xray.intake.inputs import find_inputs
    from offsites_jax.projects.chest_xray.intake.records import write_records
    from offsites_jax.projects.chest_xray.tables.rows import write_table

    if size < 32 or per_file < 1:
        raise UserError(f"--size {size}, --per-file {per_file}: use at least 32 pixels and 1 record")
    found = find_inputs((manifest,))
    errors = write_records(found, output, size, per_file, crop_borders=crop_borders, allow=allow)
    if errors:
        write_table(epath.Path(output) / "failed.csv", ("image", "message"), failures(errors))
    print(f"{output}: {len(found) - len(errors)} records of {size} x {size} pixels")
    check_all_read(errors, len(found))
