"""Who is served badly, and what sets them apart: groups by error rate, effect sizes, tests.

The groups and their comparison follow the analysis of the Euphonia cohort: speakers in the lowest fifth of
error rates against the highest fifth, and against those of the highest fifth whose speech is mild.
"""

import dataclasses
import math
from collections.abc import Mapping, Sequence

import numpy as np
import scipy.stats

from offsites_jax.projects.euphonia.analysis.anonymity import LEAST, shown

MILD = 1
SMALL, MEDIUM = 0.5, 0.8  # Cohen (1988)


@dataclasses.dataclass(frozen=True)
class Groups:
    """Speakers by error rate.

    Attributes:
      low: rates up to the 20th percentile.
      high: rates from the 80th percentile on.
      surprising: those of `high` whose severity is mild at most.
      low_limit: the 20th percentile.
      high_limit: the 80th.

    """

    low: tuple[str, ...]
    high: tuple[str, ...]
    surprising: tuple[str, ...]
    low_limit: float
    high_limit: float


@dataclasses.dataclass(frozen=True)
class Effect:
    """How a factor differs between a group of speakers and those served best.

    Attributes:
      group: "High" or "SurpHigh".
      factor: what is compared.
      speakers: of the group with a value.
      low_speakers: of Low with a value.
      mean: in the group; None where there are too few to be shown, like all that follows.
      low_mean: in Low.
      d: Cohen's, positive where the group has more of it; None also without variance.
      band: small, medium or large.
      mann_whitney: two-sided p-value.
      welch: likewise, of Welch's t test.
      mann_whitney_holm: adjusted over all factors of the group (Holm 1979).
      significant: whether that is below alpha.

    """

    group: str
    factor: str
    speakers: int | None
    low_speakers: int | None
    mean: float | None = None
    low_mean: float | None = None
    d: float | None = None
    band: str | None = None
    mann_whitney: float | None = None
    welch: float | None = None
    mann_whitney_holm: float | None = None
    significant: bool | None = None


def wer_groups(
    error_rates: Mapping[str, float], severity: Mapping[str, int | None], mild: int = MILD
) -> Groups:
    """Groups of speakers by numpy's linear percentiles; ties at a limit are within.

    Args:
      error_rates: by speaker.
      severity: by speaker; None is unknown, and then never mild.
      mild: the most severe level that is surprising.

    Raises:
      ValueError: no speakers.

    """
    if not error_rates:
        raise ValueError("no speakers to group")
    names = sorted(error_rates)
    low_limit, high_limit = np.percentile([error_rates[name] for name in names], (20, 80))
    high = tuple(name for name in names if error_rates[name] >= high_limit)
    levels = {name: severity.get(name) for name in high}
    return Groups(
        low=tuple(name for name in names if error_rates[name] <= low_limit),
        high=high,
        surprising=tuple(name for name, level in levels.items() if level is not None and level <= mild),
        low_limit=float(low_limit),
        high_limit=float(high_limit),
    )


def cohens_d(group: Sequence[float], low: Sequence[float]) -> float | None:
    """Difference of means over the pooled standard deviation, each with n - 1.

    Returns:
      Positive where `group` has more; None with fewer than two values in either, or without variance.

    """
    first, second = np.asarray(group, np.float64), np.asarray(low, np.float64)
    if min(len(first), len(second)) < 2:
        return None
    squares = (len(first) - 1) * first.var(ddof=1) + (len(second) - 1) * second.var(ddof=1)
    deviation = math.sqrt(squares / (len(first) + len(second) - 2))
    if deviation <= 1e-12 * max(1.0, float(np.abs(first).max()), float(np.abs(second).max())):
        return None
    return float((first.mean() - second.mean()) / deviation)


def band(d: float) -> str:
    """Cohen's word for a size, whatever its sign."""
    return "small" if abs(d) < SMALL else "medium" if abs(d) < MEDIUM else "large"


def mann_whitney_p(group: Sequence[float], low: Sequence[float]) -> float | None:
    """Two-sided p-value of the Mann-Whitney U test; None where `cohens_d` is."""
    if cohens_d(group, low) is None:
        return None
    return float(scipy.stats.mannwhitneyu(group, low, alternative="two-sided").pvalue)


def welch_p(group: Sequence[float], low: Sequence[float]) -> float | None:
    """Two-sided p-value of Welch's t test; None where `cohens_d` is."""
    if cohens_d(group, low) is None:
        return None
    return float(scipy.stats.ttest_ind(group, low, equal_var=False).pvalue)


def holm(p_values: Sequence[float]) -> list[float]:
    """P-values adjusted for there being several (Holm 1979), in the order given."""
    order = np.argsort(p_values, kind="stable")
    adjusted = np.empty(len(p_values))
    worst = 0.0
    for rank, place in enumerate(order):
        worst = max(worst, min(1.0, (len(p_values) - rank) * p_values[place]))
        adjusted[place] = worst
    return [float(value) for value in adjusted]


def effects(
    groups: Groups,
    factors: Mapping[str, Mapping[str, float]],
    alpha: float = 0.01,
    least: int = LEAST,
) -> list[Effect]:
    """Every factor in High and in SurpHigh against Low.

    Args:
      groups: of speakers.
      factors: values by speaker, by name of the factor; speakers without one are left out of it.
      alpha: level of significance.
      least: speakers that each side has to have to be shown.

    """
    low = groups.low
    found = []
    for name, members in (("High", groups.high), ("SurpHigh", groups.surprising)):
        # Speakers on both sides, as when all rates are equal, would be compared with themselves.
        alone = [member for member in members if member not in low]
        rows = [_effect(name, factor, values, alone, low, least) for factor, values in factors.items()]
        tested = [row for row in rows if row.mann_whitney is not None]
        adjusted = holm([row.mann_whitney for row in tested if row.mann_whitney is not None])
        by_factor = {row.factor: value for row, value in zip(tested, adjusted, strict=True)}
        found += [_adjusted(row, by_factor.get(row.factor), alpha) for row in rows]
    return found


def _effect(
    group: str,
    factor: str,
    values: Mapping[str, float],
    members: Sequence[str],
    low: Sequence[str],
    least: int,
) -> Effect:
    first = [values[name] for name in members if name in values]
    second = [values[name] for name in low if name in values]
    counts = shown(len(first), least), shown(len(second), least)
    if None in counts:
        return Effect(group, factor, *counts)
    d = cohens_d(first, second)
    return Effect(
        group,
        factor,
        speakers=len(first),
        low_speakers=len(second),
        mean=float(np.mean(first)),
        low_mean=float(np.mean(second)),
        d=d,
        band=None if d is None else band(d),
        mann_whitney=mann_whitney_p(first, second),
        welch=welch_p(first, second),
    )


def _adjusted(row: Effect, p_value: float | None, alpha: float) -> Effect:
    if p_value is None:
        return row
    return dataclasses.replace(row, mann_whitney_holm=p_value, significant=p_value < alpha)
