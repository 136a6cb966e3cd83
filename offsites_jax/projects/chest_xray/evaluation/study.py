"""A study of a scored test set: everything that the report shows, as figures.

Thresholds and calibration come from tuning cases, which must share no patient with the test cases.
"""

import dataclasses
from collections.abc import Mapping, Sequence

import numpy as np
from jaxtyping import Bool
from tyro.conf import Suppress

from offsites_jax.errors import UserError
from offsites_jax.projects.chest_xray.accuracy.bootstrap import (
    DRAWS,
    Bootstrap,
    bootstrap_rates,
    cluster_bootstrap,
)
from offsites_jax.projects.chest_xray.accuracy.calibration import (
    Calibrator,
    Method,
    Reliability,
    fit,
    reliability,
)
from offsites_jax.projects.chest_xray.accuracy.comparison import Comparison, compare_models
from offsites_jax.projects.chest_xray.accuracy.disease import Disease, disease_sets
from offsites_jax.projects.chest_xray.accuracy.intervals import CONFIDENCE, Interval
from offsites_jax.projects.chest_xray.accuracy.operating import (
    TARGET,
    Confusion,
    OperatingPoint,
    confusion,
    flag,
    operating_point,
)
from offsites_jax.projects.chest_xray.accuracy.reader_study import (
    Reader,
    compare_readers,
    fleiss_kappa,
    votes_of,
)
from offsites_jax.projects.chest_xray.accuracy.roc import Auc, Curve, delong, roc_curve
from offsites_jax.projects.chest_xray.accuracy.subgroups import Group, age_bands, by_group
from offsites_jax.projects.chest_xray.tables.scored import (
    Cases,
    Rows,
    check_apart,
    columns_of,
    findings_of,
    join,
)
from offsites_jax.projects.chest_xray.worklist.arrivals import Traffic, Turnaround, simulate_arrivals
from offsites_jax.projects.chest_xray.worklist.turnaround import (
    BATCH,
    REPEATS,
    LowRisk,
    Worklist,
    low_risk,
    worklist,
)

SENSITIVE, SPECIFIC = "high_sensitivity", "high_specificity"


@dataclasses.dataclass(frozen=True)
class Options:
    """What an evaluation is told.

    Attributes:
      sensitivity: target of the high-sensitivity point, on tuning cases.
      specificity: target of the high-specificity point, on tuning cases.
      prevalences: shares of abnormal cases for which PPV and NPV are given as well.
      subgroups: columns of the labels to split by, those that are there; `age` is split into bands.
      findings: columns of the labels that name findings: YES/NO ones, or lists separated by `|`.
      disease: columns of the labels that say whether a disease is there, for a second evaluation each.
      disease_by: column that says which set a case belongs to, such as its site: each set by itself.
      calibration: fitted on tuning cases.
      draws: of patients, for bootstrap intervals.
      batch: cases of a simulated work list.
      repeats: simulated work lists.
      traffic: also simulate arrivals.
      seed: of draws and simulations.
      confidence: of all intervals.

    """

    sensitivity: float = TARGET
    specificity: float = TARGET
    prevalences: tuple[float, ...] = ()
    subgroups: tuple[str, ...] = ("sex", "age", "view", "site", "device")
    findings: tuple[str, ...] = ()
    disease: tuple[str, ...] = ()
    disease_by: str = ""
    calibration: Method = "platt"
    draws: int = DRAWS
    batch: int = BATCH
    repeats: int = REPEATS
    traffic: Suppress[Traffic | None] = None
    seed: int = 0
    confidence: float = CONFIDENCE


@dataclasses.dataclass(frozen=True)
class Evaluation:
    """Everything that is known about a scored test set; by name of operating point where there are several.

    Attributes:
      test: its cases.
      tuning: cases that thresholds and calibration come from; None where they were given.
      options: of the evaluation.
      auc: area under the ROC curve, by DeLong.
      curve: the ROC curve.
      bootstrap: draws of patients.
      points: thresholds.
      confusions: counts at each threshold.
      rates: intervals over draws of patients of the rates at each threshold.
      groups: figures of parts of the cases.
      readers: radiologists against the reference.
      agreement: Fleiss' kappa of the readers; None without, or where it cannot be said.
      calibrator: fitted on tuning cases; None without them.
      uncalibrated: reliability of the scores; None where they are no probabilities.
      calibrated: reliability after calibration.
      worklists: simulations at each threshold.
      deferred: what is below the high-sensitivity threshold.
      arrivals: turnaround with Poisson arrivals, at the high-specificity threshold.
      diseases: the second evaluations, of every disease on every set that it is labelled in.
      comparisons: with other models.
      warnings: what a reader of the figures must know.

    """

    test: Cases
    tuning: Cases | None
    options: Options
    auc: Auc
    curve: Curve
    bootstrap: Bootstrap
    points: dict[str, OperatingPoint]
    confusions: dict[str, Confusion]
    rates: dict[str, dict[str, Interval | None]]
    groups: list[Group]
    readers: list[Reader]
    agreement: float | None
    calibrator: Calibrator | None
    uncalibrated: Reliability | None
    calibrated: Reliability | None
    worklists: dict[str, Worklist]
    deferred: LowRisk
    arrivals: list[Turnaround]
    diseases: list[Disease]
    comparisons: list[Comparison]
    warnings: tuple[str, ...]


def evaluate_tables(
    predictions: Rows,
    labels: Rows,
    options: Options = Options(),
    readers: Rows = (),
    tuning_split: str = "tuning",
    test_split: str = "test",
) -> Evaluation:
    """An evaluation from tables as they are read from CSV.

    Args:
      predictions: columns `image`, `score`, and as `predict` writes them `patient_id`, `logit`, `status`.
      labels: columns `image`, `patient_id`, `label`, `split`, and any others.
      options: of the evaluation.
      readers: columns `image`, `reader_id`, `label`: a row for each image that a reader read.
      tuning_split: value of `split` of the cases for thresholds and calibration.
      test_split: of the cases to evaluate.

    Raises:
      UserError: tables that do not fit together, shared patients, or too few cases; says where.

    """
    split = columns_of(labels, ("split",), "labels")["split"]
    parts = {}
    for name in (tuning_split, test_split):
        rows = [row for row in labels if row[split].strip().lower() == name.lower()]
        if not rows:
            found = sorted({row[split] for row in labels})
            raise UserError(f"labels: no row with split {name!r}; there are {', '.join(map(repr, found))}")
        parts[name] = join(predictions, rows)
    return evaluate(parts[test_split], parts[tuning_split], options, readers=readers)


def evaluate(
    test: Cases,
    tuning: Cases | None = None,
    options: Options = Options(),
    points: Mapping[str, OperatingPoint] | None = None,
    readers: Rows = (),
    against: Mapping[str, Cases] | None = None,
) -> Evaluation:
    """An evaluation of test cases, with thresholds from tuning cases or given ones.

    Args:
      test: the cases.
      tuning: for thresholds and calibration.
      options: of the evaluation.
      points: thresholds by name; chosen on the tuning cases unless given.
      readers: rows `image`, `reader_id`, `label`.
      against: other models to compare with, by name: the test cases with their scores.

    Raises:
      UserError: neither tuning cases nor thresholds, shared patients, or too few cases; says which.

    """
    if tuning is not None:
        check_apart(tuning, test)
        points = points or choose_points(tuning, options)
    if not points:
        raise UserError(
            "evaluation: no tuning cases and no thresholds; a threshold is not chosen on test cases"
        )
    flags = {name: flag(test.scores, point.threshold) for name, point in points.items()}
    names, votes = votes_of(readers, test) if readers else ([], np.zeros((0, len(test)), int))
    calibrator = fit(tuning.labels, _finite(tuning), options.calibration) if tuning is not None else None
    area = delong(test.labels, test.scores, options.confidence)
    draws = cluster_bootstrap(
        test.labels, test.scores, test.patients, options.draws, options.seed, confidence=options.confidence
    )
    comparisons = [
        compare_models(test, other, name, options.draws, options.seed, options.confidence)
        for name, other in (against or {}).items()
    ]
    diseases, left_out = disease_sets(
        test, points, options.disease, options.disease_by, options.confidence, options.draws, options.seed
    )
    return Evaluation(
        test=test,
        tuning=tuning,
        options=options,
        auc=area,
        curve=roc_curve(test.labels, test.scores),
        bootstrap=draws,
        points=dict(points),
        confusions={
            name: confusion(test.labels, flagged, options.confidence) for name, flagged in flags.items()
        },
        rates={name: _rates(test, flagged, options) for name, flagged in flags.items()},
        groups=subgroup_figures(test, points, options.subgroups),
        readers=compare_readers(names, votes, test.labels, test.scores),
        agreement=fleiss_kappa(votes) if names else None,
        calibrator=calibrator,
        uncalibrated=_reliability(test, test.scores),
        calibrated=_reliability(test, calibrator.apply(_finite(test))) if calibrator else None,
        worklists={
            name: worklist(
                test.labels,
                test.scores,
                point.threshold,
                options.batch,
                options.repeats,
                options.seed,
                options.confidence,
            )
            for name, point in points.items()
        },
        deferred=low_risk(
            test.labels, test.scores, sensitive_threshold(points), findings_of(test, options.findings)
        ),
        arrivals=_arrivals(test, points, options),
        diseases=diseases,
        comparisons=comparisons,
        warnings=(*_warnings(test, tuning, area), *_of_points(points), *left_out),
    )


def choose_points(tuning: Cases, options: Options) -> dict[str, OperatingPoint]:
    """Both operating points, from tuning cases."""
    return {
        SENSITIVE: operating_point(tuning.labels, tuning.scores, "high_sensitivity", options.sensitivity),
        SPECIFIC: operating_point(tuning.labels, tuning.scores, "high_specificity", options.specificity),
    }


def subgroup_figures(
    cases: Cases, points: Mapping[str, OperatingPoint], columns: Sequence[str]
) -> list[Group]:
    """Figures by each column that the cases have."""
    thresholds = {name: point.threshold for name, point in points.items()}
    found = []
    for column in columns:
        values = cases.column(column)
        if values is None:
            continue
        parts = age_bands(values) if column == "age" else values
        found += by_group(column, parts, cases.labels, cases.scores, thresholds)
    return found


def _rates(test: Cases, flagged: Bool[np.ndarray, "cases"], options: Options) -> dict[str, Interval | None]:
    return bootstrap_rates(
        test.labels, flagged, test.patients, options.draws, options.seed, options.confidence
    )


def _reliability(cases: Cases, probabilities: np.ndarray) -> Reliability | None:
    """None for scores that are no probabilities."""
    inside = probabilities.min() >= 0 and probabilities.max() <= 1
    return reliability(cases.labels, probabilities) if inside else None


def _finite(cases: Cases) -> np.ndarray:
    """Logits; those of scores of exactly 0 or 1 as far out as the others go and a little further."""
    finite = cases.logits[np.isfinite(cases.logits)]
    most = np.abs(finite).max() + 1 if len(finite) else 1.0
    return np.clip(cases.logits, -most, most)


def sensitive_threshold(points: Mapping[str, OperatingPoint]) -> float:
    """The high-sensitivity threshold, which need not be the lower one; of other points the lowest."""
    return (points.get(SENSITIVE) or min(points.values(), key=lambda point: point.threshold)).threshold


def specific_threshold(points: Mapping[str, OperatingPoint]) -> float:
    """The high-specificity threshold; the highest of points of other names."""
    return (points.get(SPECIFIC) or max(points.values(), key=lambda point: point.threshold)).threshold


def _arrivals(test: Cases, points: Mapping[str, OperatingPoint], options: Options) -> list[Turnaround]:
    if options.traffic is None:
        return []
    threshold = specific_threshold(points)
    return simulate_arrivals(test.labels, test.scores, threshold, options.traffic, options.seed)


def _of_points(points: Mapping[str, OperatingPoint]) -> list[str]:
    if not {SENSITIVE, SPECIFIC} <= points.keys():
        return []
    if points[SENSITIVE].threshold <= points[SPECIFIC].threshold:
        return []
    return [
        "The high-sensitivity threshold lies above the high-specificity one: on the tuning cases any "
        "threshold between them meets both targets."
    ]


def _warnings(test: Cases, tuning: Cases | None, area: Auc) -> list[str]:
    said = []
    if test.clustered:
        said.append(
            f"{len(set(test.patients)):,} patients have {len(test):,} images. DeLong's and the exact "
            "intervals take images to be independent and are too narrow here; use those over draws of "
            "patients."
        )
    if area.degenerate:
        said.append(
            "The test scores separate the classes fully, or tell them apart not at all, or a class has one "
            "case: DeLong's variance says nothing, and the interval of the area is a wide bound instead."
        )
    if test.failed:
        said.append(f"{len(test.failed):,} test images could not be scored and are left out of all figures.")
    if test.open:
        said.append(f"{len(test.open):,} test images have a label that is neither yes nor no; left out.")
    if tuning is None:
        said.append(
            "Thresholds were given. That their cases and these share no patient could not be checked."
        )
    return said
