"""Schedules against closed forms in float64, written out per published recipe."""

import math

import jax
import jax.numpy as jnp
import msgspec
import numpy as np
import pytest

from offsites_jax.errors import UserError
from offsites_jax.train.schedules import Schedule, create_schedule


def rates(schedule, total_steps, steps):
    """Rates of several steps at once, as the compiled step would see them."""
    rate = jax.jit(create_schedule(schedule, total_steps))
    return np.asarray(rate(jnp.asarray(steps, jnp.int32)))


def expect(schedule, total_steps, reference, steps):
    wanted = [reference(step) for step in steps]
    np.testing.assert_allclose(rates(schedule, total_steps, steps), wanted, rtol=3e-6, atol=1e-9)


def test_mask_rcnn_warms_up_and_steps_down_at_absolute_steps():
    schedule = Schedule(
        "piecewise",
        peak=0.12,
        warmup_steps=500,
        warmup_from=0.0067,
        boundaries=(50_000, 65_000),
        scales=(0.1, 0.1),
    )

    def reference(step):
        if step < 500:
            return 0.0067 + (0.12 - 0.0067) * step / 500
        return 0.12 if step < 50_000 else 0.012 if step < 65_000 else 0.0012

    steps = [0, 1, 250, 499, 500, 501, 49_999, 50_000, 50_001, 64_999, 65_000, 72_000]
    expect(schedule, 72_000, reference, steps)


def test_deep_mac_cosine_covers_the_steps_after_the_warmup():
    schedule = Schedule("cosine", peak=1e-3, warmup_steps=5000, warmup_from=2.5e-4)

    def reference(step):
        if step < 5000:
            return 2.5e-4 + 7.5e-4 * step / 5000
        return 1e-3 * 0.5 * (1 + math.cos(math.pi * (step - 5000) / 45_000))

    expect(schedule, 50_000, reference, [0, 1, 4999, 5000, 5001, 27_500, 49_999, 50_000])


def test_fact_piecewise_changes_on_the_boundary_step_itself():
    schedule = Schedule("piecewise", boundaries=(100_000, 150_000), values=(1e-4, 1e-5, 1e-6))
    steps = [0, 99_999, 100_000, 149_999, 150_000, 10**6]
    wanted = np.float32([1e-4, 1e-4, 1e-5, 1e-5, 1e-6, 1e-6])
    np.testing.assert_array_equal(rates(schedule, 200_000, steps), wanted)


def test_efficientnet_staircase_counts_from_step_zero_through_the_warmup():
    steps_per_epoch = 1_281_167 / 4096
    warmup = round(5 * steps_per_epoch)
    schedule = Schedule(
        "exponential",
        peak=0.256,
        warmup_steps=warmup,
        factor=0.97,
        period=2.4 * steps_per_epoch,
        staircase=True,
    )

    def reference(step):
        if step < warmup:
            return 0.256 * step / warmup
        return 0.256 * 0.97 ** math.floor(step / (2.4 * steps_per_epoch))

    expect(schedule, 109_474, reference, [0, 1, warmup - 1, warmup, 2251, 2252, 2253, 109_473])
    assert rates(schedule, 109_474, [warmup])[0] == pytest.approx(0.24087, abs=1e-5)


def test_whole_periods_jump_on_their_very_step():
    schedule = Schedule("exponential", peak=1.0, factor=0.5, period=3, staircase=True)
    steps = np.arange(60)
    np.testing.assert_allclose(rates(schedule, 60, steps), 0.5 ** (steps // 3), rtol=2e-6)


def test_smooth_exponential_stops_at_its_lowest_rate():
    schedule = Schedule("exponential", peak=0.1, factor=0.5, period=10, end=0.02)
    expect(schedule, 100, lambda s: max(0.1 * 0.5 ** (s / 10), 0.02), range(0, 100, 7))


def test_one_class_cosine_moves_once_per_epoch():
    schedule = Schedule("cosine", peak=0.01, every=32)

    def reference(step):
        epoch = step // 32
        return 0.01 * 0.5 * (1 + math.cos(math.pi * epoch * 32 / 320))

    expect(schedule, 320, reference, range(320))
    assert len(set(rates(schedule, 320, range(320)).tolist())) == 10


def test_half_cosine_ends_at_a_fifth_of_its_peak():
    schedule = Schedule("half_cosine", peak=0.03, warmup_steps=20)
    expect(schedule, 420, lambda s: 0.03 * math.cos(7 * math.pi / 16 * (s - 20) / 400), range(20, 421, 9))
    np.testing.assert_allclose(rates(schedule, 420, [420, 900]), 0.03 * 0.19509, rtol=1e-4)


@pytest.mark.parametrize(("name", "half_way"), [("cosine", 0.5), ("linear", 0.5)])
def test_coatnet_ends_at_its_end_value_and_stays_there(name, half_way):
    schedule = Schedule(name, peak=1e-3, end=1e-5, warmup_steps=100)
    found = rates(schedule, 1100, [100, 600, 1100, 5000])
    middle = 1e-5 + half_way * (1e-3 - 1e-5)
    np.testing.assert_allclose(found, [1e-3, middle, 1e-5, 1e-5], rtol=1e-5)


def test_linear_is_straight():
    schedule = Schedule("linear", peak=0.3, end=0.1, total_steps=200)
    expect(schedule, 1000, lambda s: 0.3 - 0.2 * min(s / 200, 1), range(0, 300, 9))


def test_peak_holds_between_warmup_and_decay_start():
    schedule = Schedule("linear", peak=1.0, warmup_steps=10, decay_start=50)
    np.testing.assert_allclose(
        rates(schedule, 100, [5, 10, 30, 50, 75, 100]), [0.5, 1, 1, 1, 0.5, 0], atol=1e-7
    )


def test_rsqrt_joins_its_warmup_and_falls_as_the_root():
    schedule = Schedule("rsqrt", peak=5e-4, warmup_steps=10_000)
    steps = [9999, 10_000, 20_000, 40_000, 10**6]
    expect(schedule, 10**6, lambda s: 5e-4 * min(s / 1e4, math.sqrt(1e4 / s)), steps)


def test_transformer_follows_the_paper_with_steps_from_one():
    schedule = Schedule("transformer", model_size=144, warmup_steps=10_000, factor=2.0)

    def reference(step):
        return 2.0 * 144**-0.5 * min((step + 1) * 10_000**-1.5, (step + 1) ** -0.5)

    expect(schedule, 100_000, reference, [0, 1, 9998, 9999, 10_000, 99_999])


def test_a_number_is_a_constant_rate():
    np.testing.assert_array_equal(rates(3e-4, 10, [0, 5, 10**6]), np.float32([3e-4] * 3))


def test_constant_after_warmup():
    schedule = Schedule("constant", peak=1e-4, warmup_steps=50)
    expect(schedule, 2000, lambda s: 1e-4 * min(s / 50, 1), [0, 1, 49, 50, 51, 2000])


def test_scalars_and_python_ints_agree_with_the_compiled_rate():
    rate = create_schedule(Schedule("cosine", peak=0.1, warmup_steps=3), 20)
    each = [float(rate(step)) for step in range(20)]
    together = jax.jit(rate)(jnp.arange(20))
    np.testing.assert_allclose(each, together, rtol=1e-6, atol=1e-8)
    assert together.dtype == jnp.float32
    assert rate(0).shape == ()


def test_a_run_shorter_than_its_warmup_stays_finite():
    schedule = Schedule("cosine", peak=1.0, warmup_steps=100)
    np.testing.assert_allclose(rates(schedule, 10, range(10)), np.arange(10) / 100, rtol=1e-6)


def test_section_is_read_from_plain_values():
    plain = {"name": "piecewise", "peak": 1, "boundaries": [5], "scales": [0.1]}
    schedule = msgspec.convert(plain, Schedule)
    np.testing.assert_allclose(rates(schedule, 10, [4, 5]), [1.0, 0.1])


@pytest.mark.parametrize(
    ("schedule", "names"),
    [
        (Schedule("cosinus", peak=1.0), [".name", "cosine"]),
        (Schedule("cosine"), [".peak", "missing"]),
        (Schedule("cosine", peak=-1.0), [".peak"]),
        (Schedule("cosine", peak=math.nan), [".peak"]),
        (Schedule("cosine", peak=1.0, factor=0.5), [".factor", "does not use"]),
        (Schedule("constant", peak=1.0, total_steps=5), [".total_steps", "does not use"]),
        (Schedule("cosine", peak=1.0, warmup_steps=-1), [".warmup_steps"]),
        (Schedule("cosine", peak=1.0, warmup_steps=9, total_steps=9), [".total_steps"]),
        (Schedule("cosine", peak=1.0, every=0), [".every"]),
        (Schedule("exponential", peak=1.0, factor=0.9), [".period", "missing"]),
        (Schedule("exponential", peak=1.0, factor=0.9, period=0), [".period"]),
        (Schedule("rsqrt", peak=1.0), [".timescale", "missing"]),
        (Schedule("transformer", model_size=8), [".warmup_steps", "missing"]),
        (Schedule("piecewise", peak=1.0), [".boundaries", "missing"]),
        (Schedule("piecewise", boundaries=(5, 5), values=(1.0, 1.0, 1.0)), [".boundaries"]),
        (Schedule("piecewise", boundaries=(5,)), [".values"]),
        (Schedule("piecewise", boundaries=(5,), values=(1.0,)), [".values", "need 2"]),
        (Schedule("piecewise", boundaries=(5,), scales=(0.1,)), [".peak"]),
        (Schedule("piecewise", boundaries=(5,), peak=1.0, scales=(-1.0,)), [".scales"]),
        (-0.1, ["-0.1"]),
    ],
)
def test_errors_name_the_field(schedule, names):
    with pytest.raises(UserError) as error:
        create_schedule(schedule, 100, where="optimizer.main.learning_rate")
    message = str(error.value)
    assert message.startswith("config.optimizer.main.learning_rate")
    assert "\n" not in message
    assert all(name in message for name in names), message
