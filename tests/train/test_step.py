"""The train step on toy tasks whose updates are known in closed form."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from offsites_jax.train.contract import Loss, Mean, Objective, Task
from offsites_jax.train.state import create_state, flatten, group_paths, zero_batch
from offsites_jax.train.step import Ema, StepSettings, create_step


class Toy(Task):
    """Base of the toys: a batch of `x` and a token mask."""

    def predict(self, variables, batch):
        return {"y": batch["x"]}

    def batch_spec(self, batch_size):
        return {
            "x": jax.ShapeDtypeStruct((batch_size, 3), jnp.float32),
            "weight": jax.ShapeDtypeStruct((batch_size, 3), jnp.float32),
        }


def start(task, optimizers, settings=StepSettings(), frozen=None, batch_size=8):
    spec = task.batch_spec(batch_size)
    params = jax.eval_shape(lambda key: task.init(key, zero_batch(spec)), jax.random.key(0))["params"]
    groups = group_paths(params, task.parameter_groups, frozen or {})
    step = jax.jit(create_step(task, optimizers, groups, settings))
    state = create_state(
        task, optimizers, groups, jax.random.key(0), zero_batch(spec), ema=settings.ema.decay > 0
    )
    return step, state


def batch_of(rows=8, seed=0):
    rng = np.random.default_rng(seed)
    return {
        "x": jnp.asarray(rng.normal(size=(rows, 3)), jnp.float32),
        "weight": jnp.asarray(rng.integers(0, 2, size=(rows, 3)), jnp.float32),
    }


# --- two objectives -----------------------------------------------------------------------------------


@dataclasses.dataclass(frozen=True)
class Gan(Toy):
    """Generator g and discriminator d are scalars; the discriminator sees the first half of the batch.

    Discriminator loss: mean (d - x)^2 + (d - g)^2. Generator loss: (g - d)^2 with the *new* d.
    """

    parameter_groups = {"generator": "^g$", "discriminator": "^d$"}  # noqa: RUF012

    def init(self, rng, batch):
        return {"params": {"g": jnp.array(1.0), "d": jnp.array(2.0)}}

    @property
    def objectives(self):
        return (
            Objective("discriminate", self.discriminate, ("discriminator",), part=(0, 2)),
            Objective("generate", self.generate, ("generator",), part=(1, 2)),
        )

    def discriminate(self, params, model_state, batch, rng, step):
        real = Mean.of((params["d"] - batch["x"]) ** 2)
        return Loss({"real": real, "fake": Mean.of((params["d"] - params["g"]) ** 2)}, model_state)

    def generate(self, params, model_state, batch, rng, step):
        return Loss({"fool": Mean.of((params["g"] - params["d"]) ** 2)}, model_state)


def test_gan_updates_discriminator_then_generator():
    step, state = start(Gan(), {"generator": optax.sgd(0.1), "discriminator": optax.sgd(0.25)})
    batch = batch_of()
    state, metrics = step(state, batch)
    first_half = np.asarray(batch["x"])[0::2]
    d = 2.0 - 0.25 * (2 * (2.0 - first_half).mean() + 2 * (2.0 - 1.0))
    g = 1.0 - 0.1 * 2 * (1.0 - d)
    np.testing.assert_allclose(state.params["d"], d, rtol=1e-6)
    np.testing.assert_allclose(state.params["g"], g, rtol=1e-6)
    np.testing.assert_allclose(
        metrics["discriminate/real"].value, ((2.0 - first_half) ** 2).mean(), rtol=1e-6
    )
    np.testing.assert_allclose(metrics["generate/loss"].value, (1.0 - d) ** 2, rtol=1e-5)


def test_gan_objectives_share_one_optimizer_state_per_group():
    class TwoCritics(Gan):
        @property
        def objectives(self):
            first, second = super().objectives
            return (
                first,
                dataclasses.replace(first, name="again", part=(1, 2)),
                dataclasses.replace(second, part=(0, 1)),
            )

    step, state = start(TwoCritics(), {"generator": optax.sgd(0.1), "discriminator": optax.adam(0.1)})
    state, _ = step(state, batch_of())
    counts = [leaf for leaf in jax.tree.leaves(state.opt_state["discriminator"]) if leaf.dtype == jnp.int32]
    assert [int(c) for c in counts] == [2], "the critic's Adam must have counted both of its updates"


# --- weighted terms, accumulation ---------------------------------------------------------------------


@dataclasses.dataclass(frozen=True)
class Tokens(Toy):
    """Two terms with different weights (tokens; examples), one scaled, plus a running mean as model state."""

    with_state: bool = False

    def init(self, rng, batch):
        variables = {"params": {"w": jnp.array([0.5, -1.0, 2.0]), "b": jnp.array(0.3)}}
        return (
            {**variables, "stats": {"mean": jnp.zeros(3), "calls": jnp.zeros((), jnp.int32)}}
            if self.with_state
            else variables
        )

    @property
    def objectives(self):
        return (Objective("fit", self.loss),)

    def loss(self, params, model_state, batch, rng, step):
        per_token = (params["w"] * batch["x"] + params["b"]) ** 2
        per_example = jnp.sum(params["w"] * batch["x"], axis=-1) ** 2
        terms = {"tokens": Mean.of(per_token, batch["weight"]), "examples": Mean.of(per_example).scale(0.1)}
        if self.with_state:
            stats = model_state["stats"]
            model_state = {
                "stats": {"mean": 0.5 * stats["mean"] + 0.5 * batch["x"].mean(0), "calls": stats["calls"] + 1}
            }
        return Loss(terms, model_state, {"positive": Mean.of(batch["x"] > 0)})


@pytest.mark.parametrize("accumulate", [2, 4])
def test_accumulation_equals_the_large_batch_for_unevenly_weighted_terms(accumulate):
    batch = batch_of()
    whole_step, state = start(Tokens(), {"main": optax.sgd(0.1)})
    parts_step, _ = start(Tokens(), {"main": optax.sgd(0.1)}, StepSettings(accumulate=accumulate))
    whole, whole_metrics = whole_step(state, batch)
    parts, parts_metrics = parts_step(state, batch)
    for path, leaf in flatten(whole.params).items():
        np.testing.assert_allclose(flatten(parts.params)[path], leaf, rtol=2e-6, err_msg=path)
    for name, mean in whole_metrics.items():
        np.testing.assert_allclose(parts_metrics[name].value, mean.value, rtol=2e-6, err_msg=name)


def test_gradient_is_that_of_the_sum_of_weighted_means():
    batch = batch_of()
    step, state = start(Tokens(), {"main": optax.sgd(1.0)})
    new, _ = step(state, batch)

    def closed_form(w, b):
        x, m = np.asarray(batch["x"], np.float64), np.asarray(batch["weight"], np.float64)
        return ((w * x + b) ** 2 * m).sum() / m.sum() + 0.1 * ((w * x).sum(-1) ** 2).mean()

    w, b, h = np.array([0.5, -1.0, 2.0]), 0.3, 1e-6
    slopes = [(closed_form(w + h * e, b) - closed_form(w - h * e, b)) / (2 * h) for e in np.eye(3)]
    np.testing.assert_allclose(new.params["w"], w - slopes, rtol=1e-5)
    slope_b = (closed_form(w, b + h) - closed_form(w, b - h)) / (2 * h)
    np.testing.assert_allclose(new.params["b"], b - slope_b, rtol=1e-5)


def test_model_state_passes_through_micro_batches_in_order():
    batch = batch_of()
    step, state = start(Tokens(with_state=True), {"main": optax.sgd(0.1)}, StepSettings(accumulate=2))
    new, _ = step(state, batch)
    x = np.asarray(batch["x"])
    expected = 0.5 * (0.5 * x[0::2].mean(0)) + 0.5 * x[1::2].mean(0)
    np.testing.assert_allclose(new.model_state["stats"]["mean"], expected, rtol=1e-6)
    assert int(new.model_state["stats"]["calls"]) == 2


# --- frozen parameters --------------------------------------------------------------------------------


def test_frozen_parameters_keep_their_bits_and_have_no_optimizer_state():
    frozen = {"main": ("^b$",)}
    step, state = start(Tokens(), {"main": optax.adam(0.1)}, frozen=frozen)
    new, _ = step(state, batch_of())
    assert np.asarray(new.params["b"]).tobytes() == np.asarray(state.params["b"]).tobytes()
    assert not np.allclose(new.params["w"], state.params["w"])
    shapes = sorted(leaf.shape for leaf in jax.tree.leaves(new.opt_state))
    assert shapes == [(), (3,), (3,)], "Adam's count and two moments of w, nothing for b"


# --- a loss that reads the step -----------------------------------------------------------------------


@dataclasses.dataclass(frozen=True)
class Curriculum(Toy):
    """The loss is `step * w`, so the gradient of update n is n."""

    def init(self, rng, batch):
        return {"params": {"w": jnp.array(0.0)}}

    @property
    def objectives(self):
        return (Objective("grow", lambda p, s, b, r, step: Loss({"l": Mean.of(p["w"] * step)}, s)),)


def test_curriculum_sees_the_step_and_ema_follows_its_formula():
    step, state = start(Curriculum(), {"main": optax.sgd(1.0)}, StepSettings(ema=Ema(decay=0.5)))
    w, ema = 0.0, 0.0
    for n in range(4):
        state, _ = step(state, batch_of())
        w -= n
        decay = min(0.5, (1 + n + 1) / (10 + n + 1))
        ema = decay * ema + (1 - decay) * w
        np.testing.assert_allclose(state.params["w"], w, rtol=1e-6)
        np.testing.assert_allclose(state.ema["params"]["w"], ema, rtol=1e-6)
    assert step._cache_size() == 1


def test_settle_has_the_last_word_leaf_by_leaf():
    class Stopped(Curriculum):
        def settle(self, before, after):
            done = after.step > 2
            return jax.tree.map(lambda old, new: jnp.where(done, old, new), before, after).replace(
                step=after.step
            )

    step, state = start(Stopped(), {"main": optax.sgd(1.0)})
    for _ in range(4):
        state, _ = step(state, batch_of())
    np.testing.assert_allclose(state.params["w"], -1.0)
    assert int(state.step) == 4


# --- non-finite losses, random streams ----------------------------------------------------------------


def test_skipping_a_non_finite_update_leaves_everything_but_the_step():
    settings = StepSettings(skip_non_finite=True, ema=Ema(decay=0.9))
    step, state = start(Tokens(with_state=True), {"main": optax.adam(0.1)}, settings)
    bad = {**batch_of(), "weight": jnp.ones((8, 3))}
    bad["x"] = bad["x"].at[0, 0].set(jnp.nan)
    new, metrics = step(state, bad)
    for old_leaf, new_leaf in zip(
        jax.tree.leaves(state.replace(step=0, ema=None)),
        jax.tree.leaves(new.replace(step=0, ema=None)),
        strict=True,
    ):
        np.testing.assert_array_equal(old_leaf, new_leaf)
    assert int(new.step) == 1
    assert float(metrics["non_finite"].total) == 1
    assert float(metrics["loss"].weight) == 0, "a skipped step takes no part in the means"
    good, metrics = step(new, batch_of())
    assert float(metrics["non_finite"].total) == 0
    assert not np.allclose(good.params["w"], state.params["w"])


def test_each_objective_and_micro_batch_draws_from_its_own_stream():
    draws = []

    @dataclasses.dataclass(frozen=True)
    class Noisy(Toy):
        def init(self, rng, batch):
            return {"params": {"w": jnp.array(0.0)}}

        @property
        def objectives(self):
            def loss(params, model_state, batch, rng, step):
                noise = jax.random.uniform(rng)
                return Loss(
                    {"l": Mean.of(params["w"] * noise)}, model_state, {"noise": Mean(noise, jnp.ones(()))}
                )

            return (Objective("a", loss), Objective("b", loss))

    step, state = start(Noisy(), {"main": optax.sgd(0.1)})
    for _ in range(2):
        state, metrics = step(state, batch_of())
        draws += [float(metrics["a/noise"].value), float(metrics["b/noise"].value)]
    assert len(set(draws)) == 4
    again, _ = start(Noisy(), {"main": optax.sgd(0.1)})
    _, metrics = again(state.replace(step=jnp.zeros((), jnp.int32)), batch_of())
    assert float(metrics["a/noise"].value) == draws[0]


def test_mean_ignores_rows_of_weight_zero_even_if_they_are_not_finite():
    mean = Mean.of(jnp.array([1.0, jnp.nan, 3.0]), jnp.array([1.0, 0.0, 1.0]))
    assert float(mean.value) == 2.0
    assert float(Mean.of(jnp.ones(2), jnp.zeros(2)).value) == 0.0
