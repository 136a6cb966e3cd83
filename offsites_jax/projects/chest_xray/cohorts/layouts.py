"""Published data sets as manifests, which every command takes."""

import dataclasses
import os
from typing import Literal, get_args

from etils import epath

from offsites_jax.errors import UserError
from offsites_jax.projects.chest_xray.cohorts import sources
from offsites_jax.projects.chest_xray.tables import cxr14, expert
from offsites_jax.projects.chest_xray.tables.case import Case
from offsites_jax.projects.chest_xray.tables.chexpert import read_chexpert
from offsites_jax.projects.chest_xray.tables.vindr import majority_cases, read_readings

Layout = Literal["cxr14", "expert", "tb", "chexpert", "vindr"]
LAYOUTS: tuple[Layout, ...] = get_args(Layout)


def read_layout(layout: Layout, root: str | os.PathLike[str], salt: str = "") -> list[Case]:
    """The cases of a data set as it is published, with paths below its folder.

    Args:
      layout: cxr14: weak labels, official test list; expert: the 810 images of its test list that
        radiologists labelled; tb: Shenzhen or Montgomery; chexpert; vindr: DICOM files of its training set,
        majority of three readers.
      root: the folder.
      salt: of the split by patient, where the data set has none.

    Raises:
      UserError: a file is missing or not as published; an unknown layout.

    """
    folder = epath.Path(root)
    match layout:
        case "cxr14" | "tb":
            return sources.read_cases(layout, os.fspath(folder), salt)[0]
        case "expert":
            return _expert(folder)
        case "chexpert":
            parts = [(split, folder / f"{split}.csv") for split in ("train", "valid")]
            tables = [(split, file) for split, file in parts if file.exists()]
            if not tables:
                raise UserError(f"{folder}: has neither train.csv nor valid.csv; name CheXpert's folder")
            return [
                dataclasses.replace(case, split="tune" if split == "valid" else split)
                for split, file in tables
                for case in read_chexpert(file)
            ]
        case "vindr":
            cases = majority_cases(read_readings(folder / "train.csv"))
            return [dataclasses.replace(case, image=f"train/{case.image}.dicom") for case in cases]
    raise UserError(f"layout {layout!r}: choose one of {', '.join(LAYOUTS)}")


def reader_rows(root: str | os.PathLike[str]) -> list[dict[str, str]]:
    """What the two comparison readers of the expert labels say: `image, reader_id, label`.

    Names of images are those of `read_layout`.
    """
    folder = epath.Path(root)
    paths = cxr14.find_images(folder)
    readings = expert.read_individual(expert.find_file(folder, expert.INDIVIDUAL))
    return [
        {"image": paths[found.image], "reader_id": found.reader, "label": "YES" if found.abnormal else "NO"}
        for found in readings
        if found.reader in expert.COMPARISON_READERS and found.image in paths
    ]


def _expert(folder: epath.Path) -> list[Case]:
    readings = expert.read_labels(expert.find_file(folder, expert.LABELS))
    entries = next((folder / name for name in sources.ENTRY_FILES if (folder / name).exists()), None)
    about = {case.image: case for case in cxr14.read_entries(entries)} if entries else {}
    cases = [
        dataclasses.replace(
            about.get(found.image, Case(found.image, found.patient, site=cxr14.SITE)),
            split="test",
            label=found.abnormal,
            findings=dict(found.findings),
        )
        for found in readings
    ]
    return cxr14.with_paths(cases, folder)
