"""An evaluation as files: `report.html`, `report.json`, tables as CSV and pictures as PNG."""

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
from etils import epath
from jaxtyping import UInt8
from matplotlib.figure import Figure

from offsites_jax.data.atomic import write_atomically
from offsites_jax.projects.chest_xray.accuracy.intervals import Interval
from offsites_jax.projects.chest_xray.evaluation import figures
from offsites_jax.projects.chest_xray.evaluation.study import Evaluation, sensitive_threshold
from offsites_jax.projects.chest_xray.evaluation.tables import (
    TableRows,
    comparison_rows,
    disease_area_rows,
    disease_rows,
    group_rows,
    missed_rows,
    prevalence_rows,
    rate_rows,
    reader_rows,
    report_json,
    tables,
    worklist_rows,
)
from offsites_jax.projects.chest_xray.notice import BANNER
from offsites_jax.projects.chest_xray.worklist.arrivals import Turnaround
from offsites_jax.projects.chest_xray.worklist.lanes import Entry
from offsites_jax.train.media import encode_figure, encode_json, encode_table
from offsites_jax.train.page import Paragraph, Part, Picture, Section, Table, cell_text, render

SPACE = "\N{NO-BREAK SPACE}"
NAMES = ("point", "order")  # columns of names as they are in code
LISTED = 200  # missed cases that the page lists; the CSV has all

LoadImage = Callable[[str], UInt8[np.ndarray, "height width *channels"]]


def write_evaluation(
    found: Evaluation, folder: epath.PathLike, title: str = "Evaluation", load_image: LoadImage | None = None
) -> dict[str, epath.Path]:
    """Writes everything about an evaluation; each file appears whole or not at all.

    Args:
      found: the evaluation.
      folder: made where missing.
      title: of the page.
      load_image: pixels of an image by name, for the gallery; without it there is none.

    Returns:
      The files by name.

    """
    pictures = {name: encode_figure(drawn).content for name, drawn in draw(found, load_image).items()}
    files = {f"{name}.png": content for name, content in pictures.items()}
    files |= {f"{name}.csv": encode_table(rows).content for name, rows in tables(found).items() if rows}
    files["report.json"] = encode_json(report_json(found, title)).content
    files["report.html"] = report_html(found, title, pictures).encode()
    paths = {name: epath.Path(folder) / name for name in files}
    for name, content in files.items():
        write_atomically(paths[name], content)
    return paths


def write_worklist(entries: Sequence[Entry], file: epath.PathLike) -> None:
    """Writes `worklist.csv`, a row for each case in the order of reading."""
    write_atomically(epath.Path(file), encode_table([dataclasses.asdict(entry) for entry in entries]).content)


def report_html(found: Evaluation, title: str, pictures: Mapping[str, bytes]) -> str:
    """The page, with the pictures inside."""
    sections = [
        Section("Cases", _cases(found)),
        Section("Area under the ROC curve", _area(found, pictures)),
        Section("Operating points", _points(found, pictures)),
        *_optional("Readers", found.readers, _readers(found)),
        *_optional("Other models", found.comparisons, _comparisons(found)),
        *_optional("Abnormality and disease", found.diseases, _disease(found)),
        *_optional("Groups of cases", found.groups, _groups(found, pictures)),
        Section("Calibration", _calibration(found, pictures)),
        Section("Work list", _worklists(found, pictures)),
        Section("Low-risk cases", _deferred(found)),
        *_optional("Gallery", "gallery" in pictures, _gallery(pictures)),
        Section("How it was made", _method(found)),
    ]
    return render(title, sections, BANNER)


def draw(found: Evaluation, load_image: LoadImage | None = None) -> dict[str, Figure]:
    """The pictures of the report by name."""
    cases, points = found.test, found.points
    thresholds = {name: point.threshold for name, point in points.items()}
    drawn = {
        "roc": figures.roc_figure(found.curve, found.auc, found.bootstrap, found.confusions, found.readers),
        "scores": figures.histogram_figure(cases.labels, cases.scores, thresholds),
    }
    if found.uncalibrated or found.calibrated:
        drawn["reliability"] = figures.reliability_figure(found.uncalibrated, found.calibrated)
    if any(group.auc for group in found.groups):
        drawn["groups"] = figures.subgroup_figure(found.groups, found.auc)
    for name, simulated in found.worklists.items():
        drawn[f"worklist_{name}"] = figures.worklist_figure(simulated)
        drawn[f"improvement_{name}"] = figures.improvement_figure(simulated)
    if load_image is not None:
        rows = figures.gallery_rows(cases.labels, cases.scores, sensitive_threshold(points))
        tiles = {
            cell: [
                figures.Tile(
                    load_image(cases.images[row]), f"{cases.images[row][-24:]}\n{cases.scores[row]:.3f}"
                )
                for row in chosen.tolist()
            ]
            for cell, chosen in rows.items()
        }
        drawn["gallery"] = figures.gallery_figure(tiles)
    return drawn


def _optional(title: str, shown: object, parts: list[Part]) -> list[Section]:
    return [Section(title, parts)] if shown else []


def _cases(found: Evaluation) -> list[Part]:
    sets = [("test", found.test)] + ([("tuning", found.tuning)] if found.tuning else [])
    rows = [
        {
            "set": name,
            "images": len(cases),
            "patients": len(set(cases.patients)),
            "abnormal": int(cases.labels.sum()),
            "share abnormal": float(cases.labels.mean()),
            "not scored": len(cases.failed),
            "label left open": len(cases.open),
        }
        for name, cases in sets
    ]
    return [Table(rows), *(Paragraph(f"Note: {warning}") for warning in found.warnings)]


def _area(found: Evaluation, pictures: Mapping[str, bytes]) -> list[Part]:
    draws = found.bootstrap
    rows = [
        _area_row("DeLong, normal", found.auc.value, found.auc.interval),
        _area_row("DeLong, logit", found.auc.value, found.auc.logit_interval),
        _area_row(f"{draws.values.shape[1]:,} draws of patients", found.auc.value, draws.interval()),
    ]
    preferred = "the one over draws of patients" if found.test.clustered else "any of them"
    text = (
        f"The probability that an abnormal case scores higher than a normal one; ties count one half. "
        f"{found.options.confidence:.0%} intervals; where images of one patient repeat, only the one over "
        f"draws of patients holds. Here: {preferred}."
    )
    return [Table(rows), Paragraph(text), Picture(pictures["roc"], "ROC curve on the test cases."),
            Picture(pictures["scores"], "Scores by class, with the thresholds.")]  # fmt: skip


def _area_row(method: str, value: float, interval: Interval) -> dict[str, Any]:
    return {"interval by": method, "area": value, "low": interval[0], "high": interval[1]}


def _points(found: Evaluation, pictures: Mapping[str, bytes]) -> list[Part]:
    origin = "chosen on tuning cases" if found.tuning else "given, not chosen here"
    points = [
        {
            "point": name,
            "target": point.target,
            "threshold": point.threshold,
            "tuning sensitivity": point.sensitivity,
            "tuning specificity": point.specificity,
        }
        for name, point in found.points.items()
    ]
    text = (
        f"Thresholds were {origin}. A case is flagged when its score is at least the threshold. PPV and NPV "
        f"hold at the prevalence of these test cases, {found.test.labels.mean():.1%}, and at no other."
    )
    parts: list[Part] = [_table(points), Paragraph(text), _table(rate_rows(found))]
    if found.options.prevalences:
        text = (
            "Predictive values at stated prevalences, taken as known. Exact: enclosed by exact intervals of "
            "sensitivity and specificity, never too narrow for independent cases."
        )
        parts += [Paragraph(text), _table(prevalence_rows(found))]
    return parts


def _readers(found: Evaluation) -> list[Part]:
    text = (
        "Each reader against the reference, and the model's sensitivity at the reader's specificity on the "
        f"same cases. Fleiss' kappa of all readers: {_said(found.agreement)}."
    )
    return [_table(reader_rows(found)), Paragraph(text)]


def _disease(found: Evaluation) -> list[Part]:
    text = (
        "The same scores against two truths. A case without the disease that is abnormal in another way is "
        "rightly flagged as abnormal and counts as a false alarm for the disease; the last columns below say "
        "how many."
    )
    return [_table(disease_area_rows(found)), Paragraph(text), _table(_rates_together(disease_rows(found)))]


def _comparisons(found: Evaluation) -> list[Part]:
    text = (
        "Areas of this model and of another one on the cases that both scored; the difference is this one's "
        "minus the other's, paired by case (DeLong) and by the same draws of patients."
    )
    return [_table(comparison_rows(found)), Paragraph(text)]


def _groups(found: Evaluation, pictures: Mapping[str, bytes]) -> list[Part]:
    text = "Groups with fewer than 10 cases of a class are listed as too few and not scored."
    parts: list[Part] = [_table(_rates_together(group_rows(found))), Paragraph(text)]
    if "groups" in pictures:
        parts.append(Picture(pictures["groups"], "Area by group, with DeLong's interval."))
    return parts


def _calibration(found: Evaluation, pictures: Mapping[str, bytes]) -> list[Part]:
    if found.calibrator is None:
        parts: list[Part] = [Paragraph("No tuning cases: nothing was calibrated.")]
    else:
        fitted = found.calibrator
        text = (
            f"Fitted on tuning cases ({fitted.method}): probability = sigmoid({fitted.slope:.4g} x logit "
            f"{fitted.intercept:+.4g}). It leaves the order of the cases, and every area, as they are."
        )
        parts = [Paragraph(text)]
    if "reliability" in pictures:
        parts.append(Picture(pictures["reliability"], "Reliability on the test cases; exact intervals."))
    return parts


def _worklists(found: Evaluation, pictures: Mapping[str, bytes]) -> list[Part]:
    text = (
        f"{found.options.repeats:,} simulated lists of {found.options.batch} cases, at the prevalence "
        "of the test cases; cases take equally long to read, so the turnaround of an abnormal case is its "
        "position in the list. Reading flagged cases first makes the missed ones wait: see the last columns."
    )
    parts: list[Part] = [Paragraph(text), _table(worklist_rows(found))]
    for name in found.worklists:
        at = name.replace("_", " ")
        parts += [
            Picture(pictures[f"worklist_{name}"], f"One simulated list at the {at} threshold."),
            Picture(pictures[f"improvement_{name}"], f"Turnaround saved at the {at} threshold."),
        ]
    if found.arrivals and found.options.traffic:
        traffic = found.options.traffic
        said = (
            f"Arrivals one by one: {traffic.arrivals_per_hour:g} an hour, {traffic.readers} readers, "
            f"{traffic.read_minutes:g} minutes each, load {traffic.load:.0%}. Minutes until read:"
        )
        parts += [Paragraph(said), Table([_in_words(row) for row in found.arrivals])]
    return parts


def _deferred(found: Evaluation) -> list[Part]:
    low = found.deferred
    text = (
        f"Below the high-sensitivity threshold lie {low.share} of the cases; of these, {low.npv} are normal. "
        f"{len(low.missed):,} abnormal cases are among them, which batching or deferring would delay."
    )
    parts: list[Part] = [Paragraph(text)]
    if low.by_finding:
        rows = [{"finding": name, "missed cases with it": count} for name, count in low.by_finding.items()]
        parts.append(Table(rows))
    if len(low.missed):
        parts.append(Table(missed_rows(found)[:LISTED]))
    if len(low.missed) > LISTED:
        parts.append(Paragraph(f"The first {LISTED} are listed here, all of them in missed_cases.csv."))
    return parts


def _gallery(pictures: Mapping[str, bytes]) -> list[Part]:
    if "gallery" not in pictures:
        return []
    text = "At the high-sensitivity threshold: the highest scores of flagged cases, the lowest of the others."
    return [Picture(pictures["gallery"], text)]


def _method(found: Evaluation) -> list[Part]:
    draws = found.bootstrap
    text = (
        f"Seed {draws.seed}. {draws.values.shape[1]:,} draws of {draws.patients:,} patients with all their "
        "images, those with and those without an abnormal image apart; "
        f"{draws.redrawn} draws held one class only and were drawn again. Areas: DeLong, DeLong and "
        "Clarke-Pearson 1988. Exact intervals: Clopper and Pearson 1934; Wilson 1927."
    )
    return [Paragraph(text)]


def _in_words(row: Turnaround) -> dict[str, Any]:
    return {
        "next is read": row.rule.replace("_", " "),
        "abnormal, mean": row.abnormal,
        "abnormal, 95 % below": row.abnormal_95,
        "normal, mean": row.normal,
        "abnormal not flagged, mean": row.missed,
        "abnormal not flagged, longest": row.missed_most,
    }


def _rates_together(rows: TableRows) -> TableRows:
    """Sensitivity and specificity at each point as one cell, since columns are few on a page."""
    found = []
    for row in rows:
        short = {key: row[key] for key in row if not key.endswith((" sensitivity", " specificity"))}
        for key in row:
            point = key.removesuffix(" sensitivity")
            if point != key:
                pair = (row[key], row[f"{point} specificity"])
                text = " / ".join("undefined" if rate is None else f"{rate:.3f}" for rate in pair)
                short[f"sens. / spec., {point}"] = text
        found.append(short)
    return found


def _table(rows: TableRows) -> Table:
    """Rows with each pair of columns `... low` and `... high` as one, and names without underscores."""
    return Table([_narrow(row) for row in rows])


def _narrow(row: Mapping[str, Any]) -> dict[str, Any]:
    found = {}
    for key, value in row.items():
        name = key.removesuffix(" low")
        if name != key and f"{name} high" in row:
            high = row[f"{name} high"]
            title = f"{name}, interval" if name in row else name
            found[title] = "" if value is None else f"{cell_text(value)}{SPACE}to{SPACE}{cell_text(high)}"
        elif not (key.endswith(" high") and f"{key.removesuffix(' high')} low" in row):
            found[key.replace("_", " ")] = value.replace("_", " ") if key in NAMES else value
    return found


def _said(value: float | None) -> str:
    return "undefined" if value is None else f"{value:.3f}"
