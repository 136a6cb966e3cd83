"""What people do with reports, tables and splits before any training."""

import os
from collections.abc import Iterable, Iterator
from typing import Any

from etils import epath
from tyro.conf import Positional

from offsites_jax.errors import DamagedDataError, UserError

BANNER = "research use only: not a medical device"


def label(
    reports: Positional[str],
    output: str,
    id_column: str = "report_id",
    text_column: str = "report",
    sections: tuple[str, ...] = ("findings", "impression"),
    devices: bool = True,
    postoperative: bool = False,
    technical: bool = False,
) -> None:
    """Labels reports normal, abnormal, uncertain or unreadable, with the words that decided.

    Writes one line per report: `report_id,label,evidence_json` and the 14 CheXpert columns (1 present, 0
    absent, -1 doubtful). For Open-i the agreement with its index terms is printed too.

    Args:
      reports: NLMCXR_reports.tgz of Open-i or its unpacked folder, a .csv with one report a row, or a folder
        of .txt files.
      output: the .csv file to write.
      id_column: column of a .csv that names the report.
      text_column: column of a .csv that holds the report.
      sections: what is read.
      devices: tubes, lines, pacemakers, clips and other foreign material alone make a report abnormal.
      postoperative: so do operations of the past.
      technical: so do limits of the image.

    """
    from offsites_jax.projects.chest_xray import openi
    from offsites_jax.projects.chest_xray.reports import OUTPUT_COLUMNS, Policy, output_row
    from offsites_jax.projects.chest_xray.reports import label as label_report
    from offsites_jax.projects.chest_xray.sections import HEADINGS
    from offsites_jax.projects.chest_xray.tables.rows import write_table

    wrong = next((name for name in sections if name not in HEADINGS), "")
    if wrong:
        raise UserError(f"--sections: no section {wrong!r}; there are {', '.join(HEADINGS)}")
    policy = Policy(tuple(sections), devices, postoperative, technical)
    labelled = []
    for identifier, text, indexed in _texts(reports, id_column, text_column):
        labelled.append((identifier, label_report(text, policy), indexed))
    write_table(output, OUTPUT_COLUMNS, (output_row(name, found) for name, found, _ in labelled))
    counts = dict.fromkeys(("normal", "abnormal", "uncertain", "unreadable"), 0)
    for _, found, _ in labelled:
        counts[found.decision] += 1
    told = ", ".join(f"{number} {kind}" for kind, number in counts.items())
    print(f"{output}: {len(labelled)} reports: {told}; {BANNER}")
    agreed = openi.agreement((indexed, found) for _, found, indexed in labelled if indexed is not None)
    if agreed.true_positive + agreed.true_negative:
        told = f"sensitivity {agreed.sensitivity:.4f}, specificity {agreed.specificity:.4f}"
        print(f"against the index terms: {told}")


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
    from offsites_jax.projects.chest_xray import splits
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


def audit(manifest: Positional[str], root: str = "", pictures: bool = True, near: int = 4) -> None:
    """Looks for patients, files and pictures that are in two splits; ends with code 3 if there are any.

    Args:
      manifest: table of images with columns image, patient_id and split.
      root: folder of the images; the manifest's own unless told.
      pictures: open the images and compare files and pictures too.
      near: bits of the 64-bit perceptual hash in which two pictures may differ and still count as one, up to
        4.

    """
    from offsites_jax.projects.chest_xray import leakage
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


def _texts(reports: str, id_column: str, text_column: str) -> Iterator[tuple[str, str, Any]]:
    """Name and text of every report, and the report of Open-i where it is one."""
    from offsites_jax.projects.chest_xray import openi
    from offsites_jax.projects.chest_xray.archives import read_members
    from offsites_jax.projects.chest_xray.tables.rows import read_table

    place = epath.Path(reports)
    if place.name.endswith((".csv", ".csv.gz")):
        table = read_table(place)
        name, text = table.column(id_column), table.column(text_column)
        yield from ((cells[name], cells[text], None) for cells in table.rows)
    elif place.is_dir() and _any(read_members(place, ".txt")):
        for file, content in read_members(place, ".txt"):
            yield file, content.decode(errors="replace"), None
    else:
        for report in openi.read_reports(place):
            yield str(report.number), report.text, report


def _any(items: Iterable[object]) -> bool:
    return next(iter(items), None) is not None


JOBS = {"label": label, "split": split, "audit": audit}
