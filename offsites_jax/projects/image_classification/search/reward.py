"""What a search maximises, and which networks no other one beats."""

import dataclasses

import numpy as np
from jaxtyping import Bool, Float


@dataclasses.dataclass(frozen=True)
class Reward:
    """Accuracy times powers of step time and of parameters: A * S^w * P^v (arXiv 2104.00298, section 3.3).

    Attributes:
      step_seconds: the backbone's train step, by which step times are divided.
      params: the backbone's number of parameters; the paper does not say whether it divides by it. Without
        a norm, all rewards are scaled by one number and rank the same.
      step_weight: w.
      params_weight: v.

    """

    step_seconds: float
    params: int
    step_weight: float = -0.07
    params_weight: float = -0.05

    def __call__(self, accuracy: float, step_seconds: float, params: int) -> float:
        """The reward of a network; the backbone's is its accuracy."""
        slower, larger = step_seconds / self.step_seconds, params / self.params
        return float(accuracy * slower**self.step_weight * larger**self.params_weight)


def pareto(costs: Float[np.ndarray, "candidates objectives"]) -> Bool[np.ndarray, "candidates"]:
    """Which candidates no other one equals or undercuts in every objective and undercuts in one.

    Args:
      costs: less is better; negate what should be large. Equal candidates are all kept.

    """
    no_worse = (costs[:, None] <= costs[None]).all(-1)
    better = (costs[:, None] < costs[None]).any(-1)
    return np.logical_not((no_worse & better).any(0))
