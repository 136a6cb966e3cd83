"""What a trained detector is worth to another task: accuracy over the number of patients, by start.

A linear probe fits a logistic regression to features that stay as they are; fine-tuning trains everything.
Each seed draws the same patients for every start, so that starts are compared in pairs.
"""

import dataclasses
from collections.abc import Iterable, Mapping, Sequence

import numpy as np
from jaxtyping import Bool, Float, Int
from matplotlib.figure import Figure

from offsites_jax.errors import UserError
from offsites_jax.projects.chest_xray.accuracy.roc import auc
from offsites_jax.projects.chest_xray.cohorts.splits import draw_patients

FRACTIONS = (0.01, 0.05, 0.1, 0.25, 1.0)


@dataclasses.dataclass(frozen=True)
class Features:
    """Images as a start sees them.

    Attributes:
      values: features.
      labels: whether the finding is there.
      patients: whose image it is.

    """

    values: Float[np.ndarray, "images features"]
    labels: Bool[np.ndarray, " images"]
    patients: tuple[str, ...]


@dataclasses.dataclass(frozen=True)
class Point:
    """One training.

    Attributes:
      start: name of what it started from.
      fraction: share of the training patients.
      seed: of their drawing.
      patients: how many.
      auc: on the test images.

    """

    start: str
    fraction: float
    seed: int
    patients: int
    auc: float


def probe(train: Features, test: Features, rows: Int[np.ndarray, " chosen"], strength: float) -> float:
    """Area under the curve on the test images of a logistic regression on some of the training images.

    Features are scaled to unit variance over the images that are trained on.
    """
    from sklearn.linear_model import LogisticRegression

    values = train.values[rows].astype(np.float64)
    mean, deviation = values.mean(axis=0), values.std(axis=0) + 1e-6
    model = LogisticRegression(C=strength, max_iter=2000).fit((values - mean) / deviation, train.labels[rows])
    return auc(test.labels, model.decision_function((test.values - mean) / deviation))


def learning_curve(
    starts: Mapping[str, tuple[Features, Features]],
    fractions: Sequence[float] = FRACTIONS,
    seeds: Iterable[int] = range(5),
    strength: float = 0.01,
) -> list[Point]:
    """A linear probe of every start, share and seed.

    Args:
      starts: features of training and test images by name of the start; the images are the same.
      fractions: shares of the training patients.
      seeds: of the draws.
      strength: inverse of the penalty on the weights, as scikit-learn's C.

    Raises:
      UserError: training and test share a patient, or a share is not in (0, 1].

    """
    if not all(0 < fraction <= 1 for fraction in fractions):
        raise UserError(f"--fractions: {list(fractions)}; give shares above 0, up to 1")
    points = []
    for name, (train, test) in starts.items():
        shared = set(train.patients) & set(test.patients)
        if shared:
            raise UserError(f"training and test share {len(shared)} patients; split by patient first")
        for fraction in fractions:
            for seed in seeds:
                rows = draw_patients(train.labels, train.patients, fraction, seed)
                number = len({train.patients[row] for row in rows})
                points.append(Point(name, fraction, seed, number, probe(train, test, rows, strength)))
    return points


def compare(points: Sequence[Point], first: str, second: str) -> list[dict[str, float | int]]:
    """By share of patients: both means and the mean difference over seeds, with its standard error."""
    by = {(point.start, point.fraction, point.seed): point for point in points}
    rows: list[dict[str, float | int]] = []
    for fraction in sorted({point.fraction for point in points}):
        seeds = sorted({p.seed for p in points if p.fraction == fraction})
        pairs = [(by[first, fraction, seed].auc, by[second, fraction, seed].auc) for seed in seeds]
        one, other = (np.array(column) for column in zip(*pairs, strict=True))
        gain = one - other
        error = float(gain.std(ddof=1) / np.sqrt(len(gain))) if len(gain) > 1 else float("nan")
        rows.append(
            {
                "fraction": fraction,
                "patients": by[first, fraction, seeds[0]].patients,
                first: float(one.mean()),
                second: float(other.mean()),
                "difference": float(gain.mean()),
                "standard_error": error,
                "seeds": len(seeds),
            }
        )
    return rows


def curve_figure(points: Sequence[Point], mode: str) -> Figure:
    """Area under the curve over the number of patients, a line for each start, dots for seeds."""
    figure = Figure(figsize=(6, 4), layout="constrained")
    axes = figure.subplots()
    for name in dict.fromkeys(point.start for point in points):
        own = [point for point in points if point.start == name]
        numbers = sorted({point.patients for point in own})
        means = [np.mean([point.auc for point in own if point.patients == number]) for number in numbers]
        (line,) = axes.plot(numbers, means, label=name)
        axes.scatter([p.patients for p in own], [p.auc for p in own], s=10, color=line.get_color(), alpha=0.6)
    axes.set(xlabel="training patients", ylabel="area under the ROC curve", xscale="log")
    axes.set_title(f"{mode}, research use only")
    axes.grid(alpha=0.3)
    axes.legend()
    return figure
