"""Proportions with exact and with score intervals; 0 of 0 is undefined, not 0."""

import dataclasses

import numpy as np
from scipy import stats

Interval = tuple[float, float]

CONFIDENCE = 0.95


@dataclasses.dataclass(frozen=True)
class Proportion:
    """A share of cases.

    Attributes:
      successes: how many have the property.
      total: of how many.
      confidence: of the intervals.

    """

    successes: int
    total: int
    confidence: float = CONFIDENCE

    @property
    def value(self) -> float | None:
        """The share; None of no cases."""
        return self.successes / self.total if self.total else None

    @property
    def exact(self) -> Interval | None:
        """Clopper and Pearson's interval; None of no cases."""
        return clopper_pearson(self.successes, self.total, self.confidence) if self.total else None

    @property
    def wilson(self) -> Interval | None:
        """Wilson's interval; None of no cases."""
        return wilson(self.successes, self.total, self.confidence) if self.total else None

    def __str__(self) -> str:
        if self.value is None or self.exact is None:
            return "undefined (0 of 0)"
        low, high = self.exact
        return f"{self.value:.3f} ({low:.3f} to {high:.3f}; {self.successes:,} of {self.total:,})"


def clopper_pearson(successes: int, total: int, confidence: float = CONFIDENCE) -> Interval:
    """Exact binomial interval (Clopper and Pearson 1934): never covers less often than it says."""
    tail = (1 - confidence) / 2
    low = stats.beta.ppf(tail, successes, total - successes + 1) if successes else 0.0
    high = stats.beta.ppf(1 - tail, successes + 1, total - successes) if successes < total else 1.0
    return float(low), float(high)


def wilson(successes: int, total: int, confidence: float = CONFIDENCE) -> Interval:
    """Score interval (Wilson 1927): covers as often as it says on average."""
    z = stats.norm.ppf((1 + confidence) / 2)
    share, correction = successes / total, z * z / total
    middle = (share + correction / 2) / (1 + correction)
    half = z * np.sqrt(share * (1 - share) / total + correction / (4 * total)) / (1 + correction)
    return (
        0.0 if successes == 0 else float(middle - half),
        1.0 if successes == total else float(middle + half),
    )
