import collections

import numpy as np
import pytest
from scipy.stats import chisquare

from offsites_jax.errors import UserError
from offsites_jax.models.efficientnet_stages import StageSpec
from offsites_jax.projects.image_classification.search import sampler
from offsites_jax.projects.image_classification.search.sampler import Evolution, Tried, propose
from offsites_jax.projects.image_classification.search.space import space_around

STAGES = tuple(map(StageSpec.parse, ("r3_k3_s1_e1_i8_o8_c1", "r3_k3_s2_e4_i8_o16", "r3_k3_s2_e4_i16_o24")))
NAMES = ("random", "evolution", "reinforce")
SMALL_EVOLUTION = Evolution(population=10, tournament=4)


def space(layers=2):
    return space_around(STAGES, layers=layers)


def hidden_reward(choices):
    """Best where all decisions are 0."""
    return 1 - sum(choices) / 20


def searched(name, trials, seed=0):
    tried = []
    for _ in range(trials):
        choices = propose(name, space(), seed, tried, SMALL_EVOLUTION)
        tried.append(Tried(choices, hidden_reward(choices)))
    return tried


@pytest.mark.parametrize("name", NAMES)
def test_candidates_follow_from_seed_and_history(name):
    first, again, other = searched(name, 30), searched(name, 30), searched(name, 30, seed=1)
    assert first == again
    assert first != other
    assert all(max(np.subtract(t.choices, space().sizes)) < 0 <= min(t.choices) for t in first)
    # Whoever starts from a part of the history goes on as the whole did.
    assert propose(name, space(), 0, first[:17], SMALL_EVOLUTION) == first[17].choices


@pytest.mark.parametrize("name", ["random", "evolution"])
def test_random_and_evolution_never_repeat_and_then_say_so(name):
    tiny = space_around(STAGES[:1], kernel_sizes=(3,), expand_ratios=(1, 4), layers=1)
    tried = []
    for _ in range(tiny.count):
        tried.append(Tried(propose(name, tiny, 0, tried, SMALL_EVOLUTION), 0.5))
    assert len({t.choices for t in tried}) == tiny.count == 12
    with pytest.raises(UserError, match="all 12 networks"):
        propose(name, tiny, 0, tried)


def test_random_search_draws_options_evenly():
    draws = [propose("random", space(), seed, []) for seed in range(800)]
    for decision, size in enumerate(space().sizes):
        counts = collections.Counter(choices[decision] for choices in draws)
        assert chisquare([counts[option] for option in range(size)]).pvalue > 1e-4


def test_evolution_changes_one_decision_of_the_best_that_is_alive():
    rng = np.random.default_rng(0)
    drawn = {tuple(int(rng.integers(size)) for size in space().sizes) for _ in range(40)}
    # The best of all is the oldest, and dead; among the living the last one is best.
    tried = [Tried(choices, reward) for choices, reward in zip(drawn, [9, *range(39)], strict=False)]
    everyone = Evolution(population=20, tournament=20)
    for seed in range(20):
        child = propose("evolution", space(), seed, tried, everyone)
        assert sum(a != b for a, b in zip(child, tried[-1].choices, strict=True)) == 1


@pytest.mark.parametrize("name", ["evolution", "reinforce"])
def test_what_learns_ends_above_random_search(name):
    found, chance = searched(name, 120), searched("random", 120)
    late = np.mean([t.reward for t in found[-30:]])
    assert late > np.quantile([t.reward for t in chance], 0.8)


def test_the_policy_gradient_is_that_of_finite_differences():
    rng = np.random.default_rng(0)
    logits, choices = rng.normal(size=(3, 4)), (1, 0, 3)
    advantage, bonus = 0.3, 0.2

    def objective(logits):
        log = logits - np.log(np.exp(logits).sum(-1, keepdims=True))
        entropy = -(np.exp(log) * log).sum()
        return advantage * sum(log[i, c] for i, c in enumerate(choices)) + bonus * entropy

    numeric = np.zeros_like(logits)
    for where in np.ndindex(logits.shape):
        nudge = np.zeros_like(logits)
        nudge[where] = 1e-6
        numeric[where] = (objective(logits + nudge) - objective(logits - nudge)) / 2e-6
    found = sampler.policy_gradient(sampler.softmax(logits), choices, advantage, bonus)
    np.testing.assert_allclose(found, numeric, atol=1e-8)


def test_the_policy_keeps_options_that_are_not_there_at_zero():
    uneven = space_around(STAGES, kernel_sizes=(3,), layers=2)
    probabilities = sampler.policy(uneven, searched_in(uneven, 40))
    sizes = np.asarray(uneven.sizes)[:, None]
    assert (probabilities[np.arange(probabilities.shape[1]) >= sizes] == 0).all()
    np.testing.assert_allclose(probabilities.sum(-1), 1)


def searched_in(somewhere, trials):
    tried = []
    for _ in range(trials):
        choices = propose("reinforce", somewhere, 0, tried)
        tried.append(Tried(choices, hidden_reward(choices)))
    return tried
