import math

import numpy as np

from offsites_jax.projects.image_classification.search.reward import Reward, pareto


def test_the_reward_is_the_published_product():
    reward = Reward(step_seconds=0.2, params=1000)
    assert reward(0.8, 0.2, 1000) == 0.8
    # Twice the time and half the parameters: A * 2^-0.07 * 2^0.05.
    assert math.isclose(reward(0.8, 0.4, 500), 0.8 * 2**-0.02)
    assert math.isclose(math.log(reward(1, 0.5, 7000)), -0.07 * math.log(2.5) - 0.05 * math.log(7))
    other = Reward(0.2, 1000, step_weight=0.0, params_weight=-1.0)
    assert math.isclose(other(0.9, 12.0, 3000), 0.3)


def beaten(one, others):
    """Whether another one is at least as good in all and better in one, said in words of Python."""
    return any(
        all(o <= mine for o, mine in zip(other, one, strict=True))
        and any(o < mine for o, mine in zip(other, one, strict=True))
        for other in others
    )


def test_pareto_is_what_brute_force_finds_ties_included():
    rng = np.random.default_rng(0)
    for objectives in (1, 2, 3):
        for _ in range(20):
            costs = rng.integers(0, 6, (25, objectives)).astype(float)
            assert pareto(costs).tolist() == [not beaten(row, costs.tolist()) for row in costs.tolist()]
