"""The tables of an evaluation, as rows for CSV files, for the page and for `report.json`."""

import dataclasses
from typing import Any

from offsites_jax.projects.chest_xray.evaluation import Evaluation
from offsites_jax.projects.chest_xray.intervals import Interval, Proportion
from offsites_jax.projects.chest_xray.operating import predictive_values
from offsites_jax.projects.chest_xray.roc import Auc

BANNER = "Research use only. Not a medical device: not for diagnosis, triage or any other care of patients."
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
            ppv, npv = predictive_values(*rates, prevalence)
            rows.append({"point": name, "prevalence": prevalence, "ppv": ppv, "npv": npv})
    return rows


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


def disease_rows(found: Evaluation) -> TableRows:
    """Abnormality and disease side by side, by threshold."""
    if found.disease is None:
        return []
    both = found.disease
    rows = []
    for name, ill in both.confusions.items():
        abnormal, alarms = both.abnormality_confusions[name], both.abnormal_alarms[name]
        rows.append(
            {
                "point": name,
                **_area_cells("abnormality", both.abnormality),
                "abnormality sensitivity": abnormal.sensitivity.value,
                "abnormality specificity": abnormal.specificity.value,
                **_area_cells(both.column, both.disease),
                f"{both.column} sensitivity": ill.sensitivity.value,
                f"{both.column} specificity": ill.specificity.value,
                f"{both.column} false alarms": alarms.total,
                "of them abnormal": alarms.successes,
                "share abnormal": alarms.value,
            }
        )
    return rows


def _area_cells(name: str, area: Auc) -> dict[str, Any]:
    return {f"{name} area": area.value, **_ends(f"{name} area", area.interval)}


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
            **_ends("area", group.auc.interval if group.auc else None),
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
                    "mean abnormal position": float(order.positions.mean()),
                    "closed form": closed.get(name),
                    "saved": order.reduction,
                    **_ends("saved", order.band),
                    "most any order saves": simulated.expected.bound,
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
