"""Cases of a data set as records that can be read at random."""

import hashlib
import os
from collections.abc import Sequence

import numpy as np
from etils import epath
from jaxtyping import Float32

from offsites_jax.data.source import ArrayRecordSource, Record
from offsites_jax.errors import DamagedDataError, UserError
from offsites_jax.projects.chest_xray.cohorts import splits
from offsites_jax.projects.chest_xray.cohorts.leakage import patient_leaks
from offsites_jax.projects.chest_xray.intake.records import MANIFEST, open_records
from offsites_jax.projects.chest_xray.tables import cxr14, tuberculosis
from offsites_jax.projects.chest_xray.tables.case import Case
from offsites_jax.projects.chest_xray.tables.manifest import read_manifest

ABNORMAL = "abnormal"
ENTRY_FILES = ("Data_Entry_2017_v2020.csv", "Data_Entry_2017.csv")


class CasesSource:
    """The images of cases, with one label for each output.

    Records are {"content": bytes of the file, "label": float32 [outputs], NaN where unknown}, or with the
    fields of `records.write_records` in place of the bytes of a file.

    Args:
      cases: in order.
      root: folder their paths are below.
      outputs: `abnormal`, or names of findings or of columns with 0 and 1.
      kept: records of the images, and the number of that of each case; without them files are read.

    Raises:
      UserError: there is no case, or an output nobody labels.

    """

    def __init__(
        self,
        cases: Sequence[Case],
        root: str | os.PathLike[str],
        outputs: Sequence[str],
        kept: tuple[ArrayRecordSource, Sequence[int]] | None = None,
    ) -> None:
        self.cases, self._kept = tuple(cases), kept
        self._root, self._outputs = epath.Path(root), tuple(outputs)
        self.labels = np.array([labels_of(case, outputs) for case in cases], np.float32)
        for column, name in enumerate(outputs):
            if np.isnan(self.labels[:, column]).all():
                raise UserError(f"config.model.outputs: no case of {root} is labelled for {name!r}")

    def __len__(self) -> int:
        """Number of cases."""
        return len(self.cases)

    def __getitem__(self, index: int) -> Record:
        """The file or the record of one case, and its labels."""
        if self._kept is None:
            return {"content": self._path(index).read_bytes(), "label": self.labels[index]}
        records, places = self._kept
        found = records[places[index]]
        if found.get("image") != self.cases[index].image:
            raise DamagedDataError(
                f"record {places[index]} is {found.get('image')!r}, but {self.cases[index].image!r} in the "
                "manifest; write the records again"
            )
        return {**found, "label": self.labels[index]}

    def describe(self, index: int) -> str:
        """The path of the image."""
        return str(self._path(index))

    def of_patients(self, fraction: float, seed: int) -> "CasesSource":
        """The images of a share of the patients, see `splits.draw_patients`; the first output counts.

        Raises:
          UserError: there are not two patients with the first output and two without.

        """
        patients = [f"{case.site}/{case.patient_id}" for case in self.cases]
        rows = splits.draw_patients(self.labels[:, 0] > 0.5, patients, fraction, seed)
        kept = self._kept and (self._kept[0], [self._kept[1][row] for row in rows])
        return CasesSource([self.cases[row] for row in rows], self._root, self._outputs, kept)

    def fingerprint(self) -> str:
        """Digest of the paths and labels."""
        digest = hashlib.sha256(self.labels.tobytes())
        digest.update("\0".join(case.image for case in self.cases).encode())
        return digest.hexdigest()[:16]

    def _path(self, index: int) -> epath.Path:
        return self._root / self.cases[index].image


def create_source(kind: str, path: str, split: str, outputs: Sequence[str], salt: str = "") -> CasesSource:
    """The cases of one split.

    Raises:
      UserError: the table or folder is not as it has to be, a patient is in two splits, or a split is empty.

    """
    cases, root = read_cases(kind, path, salt)
    leaks = patient_leaks(cases)
    if leaks:
        raise UserError(
            f"{path}: {len(leaks)} patients have images in two splits; every patient belongs to one"
        )
    chosen = [case for case in cases if case.split == split]
    if not chosen:
        known = ", ".join(sorted({case.split for case in cases}))
        raise UserError(f"{path}: no case has the split {split!r}; there are {known}")
    kept = (open_records(root, split, chosen), range(len(chosen))) if kind == "records" else None
    return CasesSource(chosen, root, outputs, kept)


def read_cases(kind: str, path: str, salt: str = "") -> tuple[list[Case], epath.Path]:
    """All cases of a data set, each in a split, and the folder of their images."""
    root = epath.Path(path)
    match kind:
        case "manifest":
            cases, root = read_manifest(path), root.parent
        case "records":
            cases = read_manifest(root / MANIFEST, check_files=False)
        case "cxr14":
            cases = _cxr14(root, salt)
        case "tb":
            cases, root = _tuberculosis(root)
        case _:
            raise UserError(f"config.data.source: {kind!r}: choose manifest, records, cxr14 or tb")
    return (cases if all(case.split for case in cases) else splits.assign(cases, salt=salt)), root


def labels_of(case: Case, outputs: Sequence[str]) -> Float32[np.ndarray, " outputs"]:
    """1, 0 or NaN for each output.

    Raises:
      UserError: a cell that is neither 0 nor 1 nor empty.

    """
    return np.array([_label(case, name) for name in outputs], np.float32)


def _label(case: Case, name: str) -> float:
    if name == ABNORMAL:
        known = case.label
    elif name in case.findings:
        known = case.findings[name]
    else:
        cell = case.extra.get(name, "").strip()
        if cell not in ("0", "1", ""):
            raise UserError(f"{case.image}: {name} is {cell!r}; it has to be 0, 1 or empty")
        known = bool(int(cell)) if cell else None
    return np.nan if known is None else float(known)


def _cxr14(root: epath.Path, salt: str) -> list[Case]:
    """The official test split; of the other patients nine tenths train and a tenth tunes."""
    entries = next((root / name for name in ENTRY_FILES if (root / name).exists()), root / ENTRY_FILES[0])
    cases = cxr14.with_paths(cxr14.assign_official_splits(cxr14.read_entries(entries), root), root)
    test = [case for case in cases if case.split == "test"]
    rest = [case for case in cases if case.split != "test"]
    return test + splits.assign(rest, {"train": 0.9, "tune": 0.1}, salt)


def _tuberculosis(root: epath.Path) -> tuple[list[Case], epath.Path]:
    """Shenzhen's or Montgomery's folder, whichever this is."""
    inside = (root, *(root / name for name in ("ChinaSet_AllFiles", "MontgomerySet")))
    folder = next((place for place in inside if (place / "CXR_png").is_dir()), root)
    chinese = any((folder / "CXR_png").glob("CHNCXR_*"))
    return (tuberculosis.read_shenzhen if chinese else tuberculosis.read_montgomery)(folder), folder
