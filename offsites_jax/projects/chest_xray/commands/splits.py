"""What people do with manifests: split them by patient, and look for leaks between the splits."""

import dataclasses
import os

from etils import epath
from tyro.conf import Positional

from offsites_jax.errors import DamagedDataError, UserError
from offsites_jax.projects.chest_xray.commands.shared import banner
from offsites_jax.projects.chest_xray.tables.case import Case


def split(
    manifest: Positional[str],
    output: str,
    train: float = 0.8,
    tune: float = 0.1,
    test: float = 0.1,
    salt: str = "",
) -> None:
    """Writes a manifest with a split for every patient, and prints what each split holds.

    Args:
      manifest: table of images with columns image and patient_id.
      output: the manifest to write.
      train: share of the patients.
      tune: share of the patients that thresholds are chosen on.
      test: share of the patients.
      salt: another one gives another split.

    """
    banner()

    from offsites_jax.projects.chest_xray.cohorts import splits
    from offsites_jax.projects.chest_xray.tables.manifest import read_manifest, write_manifest

    cases = splits.assign(
        read_manifest(manifest, check_files=False), {"train": train, "tune": tune, "test": test}, salt
    )
    write_manifest(output, cases)
    for share in splits.shares(cases):
        print(
            f"{share.split}: {share.patients} patients, {share.images} images, "
            f"{share.abnormal:.1%} of the labelled "
            "ones abnormal"
        )


def cross(
    train: Positional[str], test: Positional[str], output: str, tune: float = 0.1, salt: str = ""
) -> None:
    """Writes a manifest to train on one hospital and to test on another.

    Args:
      train: manifest of the hospital to train and tune on, with its name in the column site.
      test: manifest of the other.
      output: the manifest to write, in a folder that both manifests lie below.
      tune: share of the patients of the first that thresholds are chosen on.
      salt: another one gives another share.

    """
    banner()

    from offsites_jax.projects.chest_xray.cohorts import splits
    from offsites_jax.projects.chest_xray.tables.manifest import write_manifest

    cases = splits.across(_cases(train, output), _cases(test, output), tune, salt)
    write_manifest(output, cases)
    for share in splits.shares(cases):
        print(f"{share.split}: {share.patients} patients, {share.images} images")


def audit(manifest: Positional[str], root: str = "", pictures: bool = True, near: int = 4) -> None:
    """Looks for patients, files and pictures that are in two splits; ends with code 3 if there are any.

    Args:
      manifest: table of images with columns image, patient_id and split.
      root: folder of the images; the manifest's own unless told.
      pictures: open the images and compare files and pictures too.
      near: bits of the 64-bit perceptual hash in which two pictures may differ and still count as one, up to
        4.

    """
    banner()

    from offsites_jax.projects.chest_xray.cohorts import leakage
    from offsites_jax.projects.chest_xray.tables.manifest import read_manifest

    folder = root or os.fspath(epath.Path(manifest).parent)
    cases = read_manifest(manifest, folder, check_files=pictures)
    leaks = leakage.audit(cases, folder if pictures else None, near)
    for leak in leaks:
        print(
            f"{leak.kind}: {leak.first} ({leak.splits[0]}), {leak.second} ({leak.splits[1]}): {leak.detail}"
        )
    if leaks:
        raise DamagedDataError(f"{manifest}: {len(leaks)} leaks between splits; put each pair into one split")
    print(f"{manifest}: {len(cases)} images, nothing in two splits")


def _cases(manifest: str, output: str) -> list[Case]:
    """Cases with the paths of their images from the folder of the output."""
    from offsites_jax.projects.chest_xray.tables.manifest import read_manifest

    folder = os.path.abspath(os.path.dirname(output))
    way = os.path.relpath(os.path.dirname(os.path.abspath(manifest)), folder)
    if way.startswith(os.pardir):
        raise UserError(f"--output: {output} is not in a folder above {manifest}; write it there")
    return [
        dataclasses.replace(case, image=os.path.normpath(os.path.join(way, case.image)))
        for case in read_manifest(manifest, check_files=False)
    ]
