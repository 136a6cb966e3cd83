"""What people do with the text of reports."""

from collections.abc import Iterable, Iterator
from typing import Any

from etils import epath
from tyro.conf import Positional

from offsites_jax.errors import UserError
from offsites_jax.projects.chest_xray.commands.shared import banner


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
    banner()

    from offsites_jax.projects.chest_xray.report_text.labeler import OUTPUT_COLUMNS, Policy, output_row
    from offsites_jax.projects.chest_xray.report_text.labeler import label as label_report
    from offsites_jax.projects.chest_xray.report_text.sections import HEADINGS
    from offsites_jax.projects.chest_xray.tables import openi
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
    print(f"{output}: {len(labelled)} reports: {told}")
    agreed = openi.agreement((indexed, found) for _, found, indexed in labelled if indexed is not None)
    if agreed.true_positive + agreed.true_negative:
        told = f"sensitivity {agreed.sensitivity:.4f}, specificity {agreed.specificity:.4f}"
        print(f"against the index terms: {told}")


def _texts(reports: str, id_column: str, text_column: str) -> Iterator[tuple[str, str, Any]]:
    """Name and text of every report, and the report of Open-i where it is one."""
    from offsites_jax.projects.chest_xray.tables import openi
    from offsites_jax.projects.chest_xray.tables.archives import read_members
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
