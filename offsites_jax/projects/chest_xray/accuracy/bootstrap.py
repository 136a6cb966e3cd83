"""Intervals for images that belong to patients: whole patients are drawn anew, with all their images.

A draw only changes how often each image counts, never the order of the scores. So cases are sorted once and
every draw is a weighted count over the sorted cases: many draws make one matrix, and no draw is a loop.
"""

import dataclasses
from collections.abc import Iterator, Sequence

import numpy as np
from jaxtyping import Bool, Float, Int

from offsites_jax.errors import UserError
from offsites_jax.projects.chest_xray.accuracy.intervals import CONFIDENCE, Interval
from offsites_jax.projects.chest_xray.accuracy.roc import Labels, Scores, checked

DRAWS = 1000
GRID = np.linspace(0, 1, 201)  # false positive rates at which the band of a curve is known

_CHUNK = 400_000  # numbers in memory at a time
_PATIENCE = 100  # times as many draws as asked for, before giving up on those with one class only


@dataclasses.dataclass(frozen=True)
class Bootstrap:
    """Areas under the ROC curve of draws of patients.

    Attributes:
      values: area of each model in each draw.
      band: lowest and highest true positive rate of each model at each of `GRID`, pointwise.
      patients: how many there are to draw from.
      redrawn: draws that held one class only and were drawn again.
      seed: that gives these draws.
      stratified: patients with an abnormal image and those without were drawn apart.
      confidence: of the intervals.

    """

    values: Float[np.ndarray, "models draws"]
    band: Float[np.ndarray, "models 2 grid"]
    patients: int
    redrawn: int
    seed: int
    stratified: bool
    confidence: float

    def interval(self, model: int = 0) -> Interval:
        """Percentile interval of the area of a model."""
        return percentiles(self.values[model], self.confidence)

    def difference(self, first: int = 0, second: int = 1) -> Interval:
        """Percentile interval of the difference of two models, which share their draws."""
        return percentiles(self.values[first] - self.values[second], self.confidence)


def cluster_bootstrap(
    labels: Labels,
    scores: Scores | Float[np.ndarray, "models cases"],
    patients: Sequence[str] | np.ndarray,
    draws: int = DRAWS,
    seed: int = 0,
    *,
    stratified: bool = True,
    confidence: float = CONFIDENCE,
) -> Bootstrap:
    """Areas and bands of one or several models, over draws of patients with replacement.

    Args:
      labels: whether each case is abnormal.
      scores: of one model, or a row for each model.
      patients: whose image each case is.
      draws: how many to keep.
      seed: the same one gives the same draws.
      stratified: draw patients with an abnormal image and patients without apart, each as many as there are.
      confidence: of the intervals.

    Raises:
      UserError: one class only, scores that are not finite, or draws with both classes that hardly ever come.

    """
    rows = np.atleast_2d(np.asarray(scores, np.float64))
    labels = np.asarray(labels, bool)
    models = [_Sorted.of(*checked(labels, row)) for row in rows]
    groups = _Patients.of(labels, patients, stratified)
    values, curves, redrawn = [], [], 0
    for counts in _draws(groups, len(labels), draws, np.random.default_rng(seed)):
        both = groups.both_classes(counts)
        redrawn += int((~both).sum())
        if not both.any():
            continue
        weights = counts[both][:, groups.patient]
        found = [model.areas_and_curves(weights) for model in models]
        values.append(np.stack([area for area, _ in found]))
        curves.append(np.stack([curve for _, curve in found]))
    tail = 50 * (1 - confidence)
    band = np.percentile(np.concatenate(curves, axis=1), (tail, 100 - tail), axis=1).swapaxes(0, 1)
    areas = np.concatenate(values, axis=1)
    return Bootstrap(areas, band, groups.count, redrawn, seed, stratified, confidence)


def bootstrap_rates(
    labels: Labels,
    flagged: Bool[np.ndarray, "cases"],
    patients: Sequence[str] | np.ndarray,
    draws: int = DRAWS,
    seed: int = 0,
    confidence: float = CONFIDENCE,
) -> dict[str, Interval | None]:
    """Percentile intervals of sensitivity, specificity, PPV and NPV over stratified draws of patients.

    A rate that is 0 / 0 in a draw leaves that draw out; one that is so in all of them is None.
    """
    tp, fp, tn, fn = _drawn_cells(labels, flagged, patients, draws, seed)
    return {
        "sensitivity": _middle(tp, tp + fn, confidence),
        "specificity": _middle(tn, tn + fp, confidence),
        "ppv": _middle(tp, tp + fp, confidence),
        "npv": _middle(tn, tn + fn, confidence),
    }


def bootstrap_predictive_values(
    labels: Labels,
    flagged: Bool[np.ndarray, "cases"],
    patients: Sequence[str] | np.ndarray,
    prevalence: float,
    draws: int = DRAWS,
    seed: int = 0,
    confidence: float = CONFIDENCE,
) -> tuple[Interval | None, Interval | None]:
    """Percentile intervals of PPV and NPV where a share `prevalence` of all cases is abnormal.

    Sensitivity and specificity are those of each draw of patients, of the draws of `bootstrap_rates`; the
    prevalence is taken as known.
    """
    tp, fp, tn, fn = _drawn_cells(labels, flagged, patients, draws, seed)
    both = (tp + fn > 0) & (tn + fp > 0)
    sensitivity, specificity = (part[both] / whole[both] for part, whole in ((tp, tp + fn), (tn, tn + fp)))
    hits, alarms = prevalence * sensitivity, (1 - prevalence) * (1 - specificity)
    rests, misses = (1 - prevalence) * specificity, prevalence * (1 - sensitivity)
    return _middle(hits, hits + alarms, confidence), _middle(rests, rests + misses, confidence)


def percentiles(values: Float[np.ndarray, "draws"], confidence: float = CONFIDENCE) -> Interval:
    """The middle share of the draws."""
    low, high = np.quantile(values, ((1 - confidence) / 2, (1 + confidence) / 2))
    return float(low), float(high)


def _drawn_cells(
    labels: Labels,
    flagged: Bool[np.ndarray, "cases"],
    patients: Sequence[str] | np.ndarray,
    draws: int,
    seed: int,
) -> Float[np.ndarray, "4 draws"]:
    """True and false positives, true and false negatives of each stratified draw."""
    labels, flagged = np.asarray(labels, bool), np.asarray(flagged, bool)
    groups = _Patients.of(labels, patients, stratified=True)
    cells = np.stack([flagged & labels, flagged & ~labels, ~flagged & ~labels, ~flagged & labels])
    own = np.stack([np.bincount(groups.patient, cell, groups.count) for cell in cells], axis=1)
    chunks = _chunks(groups, len(labels), draws, np.random.default_rng(seed))
    return np.concatenate([counts @ own for counts in chunks]).T


def _middle(
    part: Float[np.ndarray, "draws"], whole: Float[np.ndarray, "draws"], confidence: float
) -> Interval | None:
    """Percentiles over the draws in which the share is defined; None where it is so in none."""
    defined = whole > 0
    return percentiles(part[defined] / whole[defined], confidence) if defined.any() else None


@dataclasses.dataclass(frozen=True)
class _Sorted:
    """Cases of a model by falling score, and where runs of one score begin."""

    order: Int[np.ndarray, "cases"]
    labels: Labels
    starts: Int[np.ndarray, "runs"]

    @classmethod
    def of(cls, labels: Labels, scores: Scores) -> "_Sorted":
        order = np.argsort(-scores, kind="stable")
        starts = np.flatnonzero(np.append(True, np.diff(scores[order]) != 0))
        return cls(order, labels[order], starts)

    def areas_and_curves(
        self, weights: Int[np.ndarray, "draws cases"]
    ) -> tuple[Float[np.ndarray, "draws"], Float[np.ndarray, "draws grid"]]:
        """Area, and true positive rates at `GRID`, of each draw; weights say how often each case counts."""
        weights = weights[:, self.order]
        hits = self._cumulated(weights * self.labels)
        alarms = self._cumulated(weights) - hits
        true_rate, false_rate = hits / hits[:, -1:], alarms / alarms[:, -1:]
        # By trapezoids: cases of one score, abnormal and normal, make one slanted line, so a tie counts 1/2.
        areas = ((true_rate[:, 1:] + true_rate[:, :-1]) / 2 * np.diff(false_rate)).sum(axis=1)
        # All curves side by side, each in a range of its own, are interpolated in one call.
        apart = 2.0 * np.arange(len(weights))[:, None]
        curves = np.interp(GRID + apart, (false_rate + apart).ravel(), true_rate.ravel())
        return areas, curves

    def _cumulated(self, weights: Int[np.ndarray, "draws cases"]) -> Int[np.ndarray, "draws points"]:
        runs = (
            weights if len(self.starts) == weights.shape[1] else np.add.reduceat(weights, self.starts, axis=1)
        )
        return np.pad(np.cumsum(runs, axis=1), ((0, 0), (1, 0)))


@dataclasses.dataclass(frozen=True)
class _Patients:
    """Patients by number.

    Attributes:
      patient: number of the patient of each case; patients of one stratum have neighbouring numbers.
      strata: number of the first patient and number of patients of the stratum of each patient.
      classes: abnormal and normal images of each patient.

    """

    patient: Int[np.ndarray, "cases"]
    strata: Int[np.ndarray, "patients 2"]
    classes: Int[np.ndarray, "patients 2"]

    @property
    def count(self) -> int:
        return len(self.strata)

    @classmethod
    def of(cls, labels: Labels, patients: Sequence[str] | np.ndarray, stratified: bool) -> "_Patients":
        names, patient = np.unique(np.asarray(patients), return_inverse=True)
        if len(patient) != len(labels):
            raise ValueError(f"{len(patient)} patients for {len(labels)} cases; give one for each")
        abnormal = np.bincount(patient, labels, len(names)) > 0
        stratum = abnormal if stratified else np.zeros(len(names), bool)
        order = np.argsort(stratum, kind="stable")
        patient = np.argsort(order)[patient]  # renumbered, those of a stratum together
        without = int((~stratum).sum())
        strata = np.where(stratum[order][:, None], (without, len(names) - without), (0, without))
        classes = np.stack([np.bincount(patient, kind, len(names)) for kind in (labels, ~labels)], axis=1)
        return cls(patient, strata, classes.astype(int))

    def drawn(self, uniform: Float[np.ndarray, "draws patients"]) -> Int[np.ndarray, "draws patients"]:
        """How often each patient is drawn, from a number in [0, 1) for each draw of a patient."""
        first, size = self.strata.T
        chosen = first + (uniform * size).astype(int)
        flat = chosen + self.count * np.arange(len(uniform))[:, None]
        return np.bincount(flat.ravel(), minlength=uniform.size).astype(np.int32).reshape(uniform.shape)

    def both_classes(self, counts: Int[np.ndarray, "draws patients"]) -> Bool[np.ndarray, "draws"]:
        """Whether a draw holds abnormal and normal images."""
        return (counts @ self.classes > 0).all(axis=1)


def _draws(
    groups: _Patients, cases: int, draws: int, rng: np.random.Generator
) -> Iterator[Int[np.ndarray, "draws patients"]]:
    """Chunks of draws, until as many as asked for hold both classes."""
    kept = tried = 0
    while kept < draws:
        for counts in _chunks(groups, cases, draws - kept, rng):
            kept += int(groups.both_classes(counts).sum())
            tried += len(counts)
            yield counts
        if tried > _PATIENCE * draws:
            raise UserError(
                f"of {tried:,} draws of {groups.count} patients only {kept:,} held normal and abnormal "
                "images; there are too few patients to bootstrap"
            )


def _chunks(
    groups: _Patients, cases: int, draws: int, rng: np.random.Generator
) -> Iterator[Int[np.ndarray, "draws patients"]]:
    """How often each patient is drawn. The size of a chunk does not change what is drawn."""
    size = max(1, _CHUNK // max(cases, groups.count))
    for begin in range(0, draws, size):
        yield groups.drawn(rng.random((min(size, draws - begin), groups.count)))
