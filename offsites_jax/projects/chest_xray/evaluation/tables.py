"""The tables of an evaluation, as rows for CSV files, for the page and for `report.json`."""

import dataclasses
from typing import Any

from offsites_jax.projects.chest_xray.accuracy.bootstrap import bootstrap_predictive_values
from offsites_jax.projects.chest_xray.accuracy.intervals import Interval, Proportion
from offsites_jax.projects.chest_xray.accuracy.operating import flag, predictive_intervals, predictive_values
from offsites_jax.projects.chest_xray.evaluation.study import Evaluation
from offsites_jax.projects.chest_xray.notice import BANNER

RATES = ("sensitivity", "specificity", "ppv", "npv", "flagged", "prevalence")

TableRows = list[dict[str, Any]]


def report_json(found: Evaluation, title: str) -> dict[str, Any]:
    """All figures, in JSON's types; what is 0 / 0 is null."""
    return {
        "title": title,
        "notice": BANNER,
        "warnings": found.warnings,
        "options": dataclasses.asdict(found.options),
        "auc": dataclasses.asdict(found.auc),
        "bootstrap": {
            "interval": found.bootstrap.interval(),
            "draws": found.bootstrap.values.shape[1],
            "redrawn": found.bootstrap.redrawn,
            "patients": found.bootstrap.patients,
            "seed": found.bootstrap.seed,
            "stratified": found.bootstrap.stratified,
        },
        "operating_points": {name: dataclasses.asdict(point) for name, point in found.points.items()},
        "agreement": found.agreement,
        "calibrator": found.calibrator and dataclasses.asdict(found.calibrator),
        "calibration_error": {
            "before": found.uncalibrated and found.uncalibrated.error,
            "after": found.calibrated and found.calibrated.error,
        },
        **tables(found),
        "missed": len(found.deferred.missed),
    }


def tables(found: Evaluation) -> dict[str, TableRows]:
    """The tables of the report by name; each is a CSV file too."""
    return {
        "rates": rate_rows(found),
        "predictive_values": prevalence_rows(found),
        "roc": [
            {"threshold": level, "false_positive_rate": false, "true_positive_rate": true}
            for level, false, true in zip(
                found.curve.thresholds.tolist(),
                found.curve.false_positive_rate.tolist(),
                found.curve.true_positive_rate.tolist(),
                strict=True,
            )
        ],
        "readers": reader_rows(found),
        "groups": group_rows(found),
        "disease": disease_rows(found),
        "disease_areas": disease_area_rows(found),
        "comparison": comparison_rows(found),
        "reliability": reliability_rows(found),
        "worklists": worklist_rows(found),
        "arrivals": [dataclasses.asdict(turnaround) for turnaround in found.arrivals],
        "missed_cases": missed_rows(found),
    }


def rate_rows(found: Evaluation) -> TableRows:
    """Every rate at every threshold, with its counts and intervals."""
    rows = []
    for name, counts in found.confusions.items():
        for rate in RATES:
            share: Proportion = getattr(counts, rate)
            interval = found.rates[name].get(rate)
            rows.append(
                {
                    "point": name,
                    "rate": rate,
                    "value": share.value,
                    "cases": share.successes,
                    "of": share.total,
                    **_ends("exact", share.exact),
                    **_ends("wilson", share.wilson),
                    **_ends("patients", interval),
                }
            )
    return rows


def prevalence_rows(found: Evaluation) -> TableRows:
    """PPV and NPV at the stated prevalences."""
    rows = []
    for name, counts in found.confusions.items():
        for prevalence in found.options.prevalences:
            rates = counts.sensitivity.value, counts.specificity.value
            values = predictive_values(*rates, prevalence)
            exact, drawn = predictive_intervals(counts, prevalence), _drawn_values(found, name, prevalence)
            row: dict[str, Any] = {"point": name, "prevalence": prevalence}
            for place, rate in enumerate(("ppv", "npv")):
                row[rate] = values[place]
                row |= _ends(f"{rate} exact", exact[place]) | _ends(f"{rate} patients", drawn[place])
            rows.append(row)
    return rows


def _drawn_values(
    found: Evaluation, point: str, prevalence: float
) -> tuple[Interval | None, Interval | None]:
    cases, options = found.test, found.options
    flagged = flag(cases.scores, found.points[point].threshold)
    return bootstrap_predictive_values(
        cases.labels, flagged, cases.patients, prevalence, options.draws, options.seed, options.confidence
    )


def reader_rows(found: Evaluation) -> TableRows:
    """Each reader against the reference."""
    return [
        {
            "reader": reader.name,
            "cases": reader.confusion.total,
            "sensitivity": reader.confusion.sensitivity.value,
            **_ends("sensitivity", reader.confusion.sensitivity.exact),
            "specificity": reader.confusion.specificity.value,
            **_ends("specificity", reader.confusion.specificity.exact),
            "model sensitivity there": reader.model_sensitivity,
            "kappa with reference": reader.kappa,
        }
        for reader in found.readers
    ]


def disease_area_rows(found: Evaluation) -> TableRows:
    """Areas of every disease on every set, for abnormality and for the disease."""
    rows = []
    for one in found.diseases:
        for truth, area, draws in (
            ("abnormality", one.abnormality, one.abnormality_draws),
            (one.column, one.disease, one.disease_draws),
        ):
            rows.append(
                {
                    "set": one.subset or "test",
                    "told apart by": truth,
                    "with": area.positives,
                    "without": area.negatives,
                    "area": area.value,
                    **_ends("DeLong", area.interval),
                    **_ends("patients", draws.interval()),
                }
            )
    return rows


def disease_rows(found: Evaluation) -> TableRows:
    """Abnormality and disease side by side, by set and threshold."""
    rows = []
    for one in found.diseases:
        for name, ill in one.confusions.items():
            abnormal, alarms = one.abnormality_confusions[name], one.abnormal_alarms[name]
            rows.append(
                {
                    "set": one.subset or "test",
                    "disease": one.column,
                    "point": name,
                    "abnormality sensitivity": abnormal.sensitivity.value,
                    "abnormality specificity": abnormal.specificity.value,
                    "disease sensitivity": ill.sensitivity.value,
                    "disease specificity": ill.specificity.value,
                    "false alarms": alarms.total,
                    "of them abnormal": alarms.successes,
                    "share abnormal": alarms.value,
                }
            )
    return rows


def comparison_rows(found: Evaluation) -> TableRows:
    """Areas of this and of other models on the same cases, and their difference."""
    return [
        {
            "other": one.name,
            "cases": one.cases,
            "left out": one.left_out,
            "area": one.difference.first.value,
            "area of the other": one.difference.second.value,
            "difference": one.difference.value,
            **_ends("DeLong", one.difference.interval),
            **_ends("patients", one.draws.difference()),
            "p (DeLong)": one.difference.p,
        }
        for one in found.comparisons
    ]


def group_rows(found: Evaluation) -> TableRows:
    """Figures of every group of cases."""
    rows = []
    for group in found.groups:
        row: dict[str, Any] = {
            "by": group.column,
            "group": group.value,
            "abnormal": group.positives,
            "normal": group.negatives,
            "area": group.auc.value if group.auc else "too few",
            **_ends("DeLong", group.auc.interval if group.auc else None),
        }
        for name, counts in group.confusions.items():
            row[f"{name} sensitivity"] = counts.sensitivity.value
            row[f"{name} specificity"] = counts.specificity.value
        rows.append(row)
    return rows


def reliability_rows(found: Evaluation) -> TableRows:
    """Bins of the reliability curves."""
    rows = []
    for name, curve in (("before", found.uncalibrated), ("after", found.calibrated)):
        for part in curve.bins if curve else ():
            rows.append(
                {
                    "calibration": name,
                    "from": part.low,
                    "to": part.high,
                    "cases": part.observed.total,
                    "mean score": part.predicted,
                    "abnormal": part.observed.value,
                    **_ends("exact", part.observed.exact),
                }
            )
    return rows


def worklist_rows(found: Evaluation) -> TableRows:
    """Simulated lists: every order at every threshold."""
    rows = []
    for point, simulated in found.worklists.items():
        closed = {"flagged_first": simulated.expected.flagged_first, "random": simulated.expected.random}
        for name, order in simulated.orders.items():
            rows.append(
                {
                    "point": point,
                    "order": name,
                    "mean position": float(order.positions.mean()),
                    "closed form": closed.get(name),
                    "saved": order.reduction,
                    **_ends("saved", order.band),
                    "most to save": simulated.expected.bound,
                    "last missed, mean": order.missed,
                    "last missed, most": order.missed_most,
                }
            )
    return rows


def missed_rows(found: Evaluation) -> TableRows:
    """Abnormal cases below the high-sensitivity threshold."""
    cases = found.test
    return [
        {"image": cases.images[row], "patient_id": cases.patients[row], "score": float(cases.scores[row])}
        for row in found.deferred.missed.tolist()
    ]


def _ends(name: str, interval: Interval | None) -> dict[str, float | None]:
    low, high = interval or (None, None)
    return {f"{name} low": low, f"{name} high": high}
