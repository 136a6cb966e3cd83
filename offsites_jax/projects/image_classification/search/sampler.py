"""Which network to try next: at random, by evolution, or by reinforcement learning.

A sampler is a pure function of the space, a seed and the trials so far, so that a search that was killed goes
on with the very candidates it would have tried. EfficientNetV2 was found by reinforcement learning or random
search (arXiv 2104.00298, section 3.3, prints the settings of neither).
"""

import dataclasses
from collections.abc import Sequence
from typing import Literal

import numpy as np
from jaxtyping import Float

from offsites_jax.errors import UserError
from offsites_jax.projects.image_classification.search.space import Choices, Space

Name = Literal["random", "evolution", "reinforce"]


@dataclasses.dataclass(frozen=True)
class Tried:
    """A network that has been tried.

    Attributes:
      choices: what it is.
      reward: how good; 0 for one that failed.

    """

    choices: Choices
    reward: float


@dataclasses.dataclass(frozen=True)
class Evolution:
    """Settings of regularised evolution (arXiv 1802.01548), at the size of its small experiments.

    Attributes:
      population: how many of the newest trials may have offspring.
      tournament: how many of them are drawn; the best of these is the parent.

    """

    population: int = 100
    tournament: int = 25

    def __post_init__(self) -> None:
        if min(self.population, self.tournament) < 1:
            raise UserError(
                f"--population, --tournament: {self.population}, {self.tournament}; give 1 or more"
            )


@dataclasses.dataclass(frozen=True)
class Reinforce:
    """Settings of REINFORCE over one independent categorical distribution per decision.

    Attributes:
      learning_rate: of Adam.
      baseline_decay: of the moving average of rewards that is taken off each reward.
      entropy_bonus: weight of the entropy of the distributions.

    """

    learning_rate: float = 0.05
    baseline_decay: float = 0.95
    entropy_bonus: float = 1e-4


def propose(
    name: Name, space: Space, seed: int, tried: Sequence[Tried], evolution: Evolution = Evolution()
) -> Choices:
    """The choices to try after those in `tried`.

    Random search and evolution give networks that are new; reinforcement learning may give one again, as it
    does when it has made up its mind.

    Raises:
      UserError: everything has been tried.

    """
    seen = {t.choices for t in tried}
    if len(seen) >= space.count:
        raise UserError(f"--trials: all {space.count} networks of the space have been tried; ask for fewer")
    rng = np.random.default_rng((seed, len(tried)))
    if name == "reinforce":
        return draw_from(policy(space, tried), space, rng)
    if name == "evolution" and len(tried) >= min(evolution.population, max(1, space.count // 2)):
        return evolve(space, tried, seen, rng, evolution)
    return draw_new(space, seen, rng)


def draw_new(space: Space, seen: set[Choices], rng: np.random.Generator) -> Choices:
    """A network drawn evenly from those not seen."""
    while True:
        choices = tuple(int(rng.integers(size)) for size in space.sizes)
        if choices not in seen:
            return choices


def evolve(
    space: Space,
    tried: Sequence[Tried],
    seen: set[Choices],
    rng: np.random.Generator,
    settings: Evolution,
) -> Choices:
    """One decision changed of the best among a few of the newest trials; more where that was seen."""
    alive = tried[-settings.population :]
    drawn = rng.choice(len(alive), min(settings.tournament, len(alive)), replace=False)
    choices = max((alive[i] for i in drawn), key=lambda t: t.reward).choices
    while choices in seen:
        choices = mutate(space, choices, rng)
    return choices


def mutate(space: Space, choices: Choices, rng: np.random.Generator) -> Choices:
    """The choices with another option in one decision that has more than one."""
    open_decisions = [i for i, size in enumerate(space.sizes) if size > 1]
    where = int(rng.choice(open_decisions))
    other = (choices[where] + int(rng.integers(1, space.sizes[where]))) % space.sizes[where]
    return (*choices[:where], other, *choices[where + 1 :])


def policy(
    space: Space, tried: Sequence[Tried], settings: Reinforce = Reinforce()
) -> Float[np.ndarray, "decisions options"]:
    """Probabilities of the options after learning from all trials in order; rows are padded with 0."""
    closed = np.arange(max(space.sizes)) >= np.asarray(space.sizes)[:, None]
    logits = np.where(closed, -np.inf, 0.0)
    first, second, baseline = np.zeros(closed.shape), np.zeros(closed.shape), 0.0
    for count, trial in enumerate(tried, start=1):
        decay = settings.baseline_decay if count > 1 else 0.0
        baseline = decay * baseline + (1 - decay) * trial.reward
        gradient = policy_gradient(
            softmax(logits), trial.choices, trial.reward - baseline, settings.entropy_bonus
        )
        first = 0.9 * first + 0.1 * gradient
        second = 0.999 * second + 0.001 * gradient**2
        step = first / (1 - 0.9**count) / (np.sqrt(second / (1 - 0.999**count)) + 1e-8)
        logits = logits + settings.learning_rate * step
    return softmax(logits)


def policy_gradient(
    probabilities: Float[np.ndarray, "decisions options"],
    choices: Choices,
    advantage: float,
    entropy_bonus: float,
) -> Float[np.ndarray, "decisions options"]:
    """Gradient to the logits of advantage * log p(choices) + entropy_bonus * entropy."""
    taken = np.zeros_like(probabilities)
    taken[np.arange(len(choices)), choices] = 1
    log = np.log(np.where(probabilities > 0, probabilities, 1))
    entropy = -(probabilities * log).sum(-1, keepdims=True)
    return advantage * (taken - probabilities) - entropy_bonus * probabilities * (log + entropy)


def draw_from(
    probabilities: Float[np.ndarray, "decisions options"], space: Space, rng: np.random.Generator
) -> Choices:
    """One option per decision."""
    return tuple(
        int(rng.choice(size, p=row[:size])) for row, size in zip(probabilities, space.sizes, strict=True)
    )


def softmax(logits: Float[np.ndarray, "decisions options"]) -> Float[np.ndarray, "decisions options"]:
    """Along the options."""
    exp = np.exp(logits - logits.max(-1, keepdims=True))
    return exp / exp.sum(-1, keepdims=True)
