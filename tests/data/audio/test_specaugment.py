"""SpecAugment: how much is masked, where, and that nothing but key and index decides."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import AxisType, NamedSharding, PartitionSpec

from offsites_jax.data.audio.specaugment import DISORDERED, TYPICAL, SpecAugmentPolicy, spec_augment
from offsites_jax.errors import UserError

KEY = jax.random.key(7)
FRAMES, MELS = 300, 64
augment = jax.jit(spec_augment, static_argnames="policy")


def _masks(policy: SpecAugmentPolicy, lengths: np.ndarray, first: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Masked frames and masked channels of many examples."""
    ones = jnp.ones((len(lengths), FRAMES, MELS))
    out = np.asarray(augment(ones, jnp.asarray(lengths), first + jnp.arange(len(lengths)), KEY, policy))
    assert set(np.unique(out)) <= {0.0, 1.0}
    times = np.stack([np.all(o == 0, axis=1) for o in out])
    channels = np.stack([np.all(o[:n] == 0, axis=0) for o, n in zip(out, lengths, strict=True)])
    expected = (
        1 - (times[:, :, None] | channels[:, None, :]) * (np.arange(FRAMES) < lengths[:, None])[..., None]
    )
    np.testing.assert_array_equal(out, expected)  # whole frames, whole channels, nothing beyond the length
    return times, channels


def test_typical_masks_have_the_widths_of_the_paper():
    lengths = np.full(FRAMES, FRAMES)
    times, channels = _masks(dataclasses.replace(TYPICAL, time_masks=1, frequency_masks=1), lengths)
    for mask, widest in ((times, 100), (channels, 43)):
        widths = mask.sum(axis=1)
        assert widths.max() == widest
        assert widths.min() == 0
        assert widths.mean() == pytest.approx(widest / 2, rel=0.15)  # uniform over 0 ... widest
        runs = np.diff(np.pad(mask, ((0, 0), (1, 1))).astype(int), axis=1)
        assert np.all((runs == 1).sum(axis=1) == (widths > 0))  # one piece
    starts = times.argmax(axis=1)[times.any(axis=1)]
    assert starts.min() < 15
    assert times.any(axis=0).mean() > 0.98  # all over the utterance


def test_disordered_masks_are_many_short_and_a_fifth_at_most():
    lengths = np.arange(1, FRAMES + 1)
    times, channels = _masks(DISORDERED, lengths)
    assert np.all(times.sum(axis=1) <= 0.2 * lengths)
    assert channels.sum(axis=1).max() <= 2 * 27
    longest = [
        max((len(run) for run in "".join(map(str, row.astype(int))).split("0")), default=0) for row in times
    ]
    assert np.all(np.array(longest) <= 6 * 0.04 * lengths + 1e-6)  # masks may touch
    assert not times[:49].any()  # 0.02 x 49 is no mask yet
    many, _ = _masks(DISORDERED, np.full(FRAMES, 50))
    assert many.sum(axis=1).max() == 2
    assert many.sum(axis=1).min() == 0
    long, _ = _masks(DISORDERED, np.full(FRAMES, FRAMES))
    assert long.sum(axis=1).max() > 30


def test_the_cap_on_the_total_shortens_later_masks():
    policy = SpecAugmentPolicy(frequency_masks=0, time_masks=50, time_width=40, time_total_share=0.1)
    times, _ = _masks(policy, np.full(64, 200))
    assert times.sum(axis=1).max() <= 20
    assert times.sum(axis=1).mean() > 10


def test_an_example_is_masked_by_its_index_alone():
    rng = np.random.default_rng(0)
    frames = jnp.asarray(rng.standard_normal((8, FRAMES, MELS)), jnp.float32)
    lengths = jnp.asarray(rng.integers(100, FRAMES, 8))
    indices = jnp.arange(40, 48)
    whole = augment(frames, lengths, indices, KEY, DISORDERED)
    alone = augment(frames[5:6], lengths[5:6], indices[5:6], KEY, DISORDERED)
    np.testing.assert_array_equal(whole[5:6], alone)
    mesh = jax.make_mesh((8,), ("data",), axis_types=(AxisType.Auto,))
    spread = [
        jax.device_put(array, NamedSharding(mesh, PartitionSpec("data")))
        for array in (frames, lengths, indices)
    ]
    np.testing.assert_array_equal(augment(*spread, KEY, DISORDERED), whole)
    other = augment(frames, lengths, indices + 8, KEY, DISORDERED)
    assert np.all(np.any(np.asarray(other != whole), axis=(1, 2)))


def test_the_value_under_a_mask():
    mean = jnp.arange(MELS, dtype=jnp.float32)
    frames = jnp.full((4, FRAMES, MELS), -1.0)
    lengths = jnp.full(4, FRAMES)
    out = np.asarray(augment(frames, lengths, jnp.arange(4), KEY, TYPICAL, value=mean))
    assert np.all((out == -1) | (out == np.asarray(mean)))
    assert np.any(out != -1)


def test_shares_are_checked():
    with pytest.raises(UserError, match="time_total_share"):
        SpecAugmentPolicy(time_total_share=1.5)
