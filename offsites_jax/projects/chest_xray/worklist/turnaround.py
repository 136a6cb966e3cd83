"""What reading flagged radiographs first does to the time until an abnormal one is read.

Cases wait in a list and each takes as long to read as any other: the turnaround of a case is its position.
"""

import dataclasses
from collections.abc import Sequence

import numpy as np
from jaxtyping import Bool, Float, Int

from offsites_jax.errors import UserError
from offsites_jax.projects.chest_xray.accuracy.bootstrap import percentiles
from offsites_jax.projects.chest_xray.accuracy.intervals import CONFIDENCE, Interval, Proportion
from offsites_jax.projects.chest_xray.accuracy.operating import confusion, flag
from offsites_jax.projects.chest_xray.accuracy.roc import Labels, Scores

BATCH = 200
REPEATS = 1000

Positions = Int[np.ndarray, "repeats cases"]


@dataclasses.dataclass(frozen=True)
class Expected:
    """Mean position of an abnormal case in a list of n, in closed form.

    Attributes:
      random: in random order: (n + 1) / 2.
      flagged_first: with flagged cases first, in random order within both groups.
      reduction: share of the random position that is saved.
      bound: the most that any order can save: abnormal cases first.

    """

    random: float
    flagged_first: float
    reduction: float
    bound: float


@dataclasses.dataclass(frozen=True)
class Order:
    """One order of the list, over all repeats.

    Attributes:
      positions: mean position of an abnormal case in each repeat.
      saved: share of it that is saved against the random order of the same repeat.
      band: percentile interval of that share.
      missed: mean over repeats of the position of the last abnormal case that is not flagged; None if all
        are.
      missed_most: the highest such position in any repeat.

    """

    positions: Float[np.ndarray, "repeats"]
    saved: Float[np.ndarray, "repeats"]
    band: Interval
    missed: float | None
    missed_most: int | None

    @property
    def reduction(self) -> float:
        """Mean share saved."""
        return float(self.saved.mean())


@dataclasses.dataclass(frozen=True)
class Worklist:
    """Simulated lists in several orders.

    Attributes:
      batch: cases that wait.
      abnormal: of them.
      expected: closed form for the sensitivity and specificity of the sampled cases.
      orders: `random`, `flagged_first` and `by_score`.
      seed: of the simulation.
      example: whether the case at each position is abnormal, in the first repeat, by order.

    """

    batch: int
    abnormal: int
    expected: Expected
    orders: dict[str, Order]
    seed: int
    example: dict[str, Bool[np.ndarray, "cases"]]


def expected_positions(cases: int, tp: float, fp: float, abnormal: float) -> Expected:
    """Closed form for a list of `cases` with `abnormal` ones, of which tp are flagged, and fp normal ones.

    With F = tp + fp and s = tp / abnormal, flagged first gives s (F + 1) / 2 + (1 - s) (F + (n - F + 1) / 2).
    """
    if not 0 < abnormal <= cases or not 0 <= tp <= abnormal or not 0 <= fp <= cases - abnormal:
        raise UserError(f"a list of {cases} with {abnormal} abnormal ones, {tp} + {fp} flagged, cannot be")
    flagged, sensitivity, random = tp + fp, tp / abnormal, (cases + 1) / 2
    first = sensitivity * (flagged + 1) / 2
    first += (1 - sensitivity) * (flagged + (cases - flagged + 1) / 2)
    return Expected(random, first, 1 - first / random, 1 - (abnormal + 1) / (cases + 1))


def worklist(
    labels: Labels,
    scores: Scores,
    threshold: float,
    batch: int = BATCH,
    repeats: int = REPEATS,
    seed: int = 0,
    confidence: float = CONFIDENCE,
) -> Worklist:
    """Lists sampled at the prevalence of the cases, in random order, flagged first, and by score.

    Args:
      labels: of the cases to sample from, with replacement and by class.
      scores: of these cases.
      threshold: cases that score at least this are flagged.
      batch: cases that wait.
      repeats: lists to sample.
      seed: of the sampling.
      confidence: of the bands.

    Raises:
      UserError: no abnormal case, or a list too short to hold one.

    """
    labels, scores = np.asarray(labels, bool), np.asarray(scores, np.float64)
    abnormal = round(batch * float(labels.mean())) if len(labels) else 0
    if not abnormal or batch < 2 or repeats < 1:
        raise UserError(
            f"a list of {batch} from {len(labels)} cases, {int(labels.sum())} of them abnormal, holds no "
            "abnormal case; take more"
        )
    rng = np.random.default_rng(seed)
    own = rng.choice(scores[labels], (repeats, abnormal))
    others = rng.choice(scores[~labels], (repeats, batch - abnormal)) if batch > abnormal else own[:, :0]
    sampled = np.concatenate([own, others], axis=1)
    flagged, chance = flag(sampled, threshold), rng.random(sampled.shape)
    ranked = {
        "random": _positions(rng.random(sampled.shape)),
        "flagged_first": _positions(chance, flagged),
        "by_score": _positions(chance, sampled),
    }
    random = ranked["random"][:, :abnormal].mean(axis=1)
    found = confusion(labels, flag(scores, threshold))
    normal = batch - abnormal
    rates = (found.sensitivity.value or 0) * abnormal, normal * (1 - (found.specificity.value or 0))
    return Worklist(
        batch,
        abnormal,
        expected_positions(batch, rates[0], rates[1] if normal else 0, abnormal),
        {
            name: _order(places[:, :abnormal], flagged[:, :abnormal], random, confidence)
            for name, places in ranked.items()
        },
        seed,
        {name: _at_positions(places[0], abnormal) for name, places in ranked.items()},
    )


@dataclasses.dataclass(frozen=True)
class LowRisk:
    """Cases that score below a threshold, which could be batched or deferred.

    Attributes:
      share: of all cases.
      npv: normal ones among them.
      missed: numbers of the abnormal cases among them.
      by_finding: how many of the missed have each finding.

    """

    share: Proportion
    npv: Proportion
    missed: Int[np.ndarray, "missed"]
    by_finding: dict[str, int]


def low_risk(
    labels: Labels, scores: Scores, threshold: float, findings: Sequence[Sequence[str]] = ()
) -> LowRisk:
    """What it would cost to batch all cases below a threshold, best the one for high sensitivity.

    Args:
      labels: whether each case is abnormal.
      scores: of each case.
      threshold: cases below it are batched.
      findings: those of each case, by name; the missed are counted by them.

    """
    labels, below = np.asarray(labels, bool), ~flag(scores, threshold)
    missed = np.flatnonzero(below & labels)
    names = (
        [name for row in missed.tolist() for name in (findings[row] or ("not named",))] if findings else []
    )
    counts = {name: names.count(name) for name in sorted(set(names))}
    most_first = dict(sorted(counts.items(), key=lambda item: -item[1]))
    normal = int((below & ~labels).sum())
    return LowRisk(
        Proportion(int(below.sum()), len(labels)), Proportion(normal, int(below.sum())), missed, most_first
    )


def _positions(chance: Float[np.ndarray, "repeats cases"], score: np.ndarray | None = None) -> Positions:
    """Position of each case, from 1: by falling score, by chance among equals."""
    order = np.lexsort((chance,) if score is None else (chance, -score.astype(np.float64)))
    places = np.empty(chance.shape, int)
    np.put_along_axis(places, order, np.arange(1, chance.shape[1] + 1)[None, :], axis=1)
    return places


def _order(
    places: Int[np.ndarray, "repeats abnormal"],
    flagged: Bool[np.ndarray, "repeats abnormal"],
    random: Float[np.ndarray, "repeats"],
    confidence: float,
) -> Order:
    saved = 1 - places.mean(axis=1) / random
    last = np.where(flagged, 0, places).max(axis=1)
    missed = last[last > 0]
    return Order(
        places.mean(axis=1),
        saved,
        percentiles(saved, confidence),
        float(missed.mean()) if len(missed) else None,
        int(missed.max()) if len(missed) else None,
    )


def _at_positions(places: Int[np.ndarray, "cases"], abnormal: int) -> Bool[np.ndarray, "cases"]:
    """Whether the case at each position is abnormal; the first cases of a list are."""
    found = np.zeros(len(places), bool)
    found[places[:abnormal] - 1] = True
    return found
