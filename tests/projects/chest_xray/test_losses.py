"""The loss against probabilities written out, and what unknown labels do."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from sklearn.metrics import log_loss

from offsites_jax.projects.chest_xray.losses import binary_cross_entropy

LOGITS = np.array([[-2.0, 0.5], [0.0, 3.0], [1.5, -0.25], [4.0, -4.0]], np.float32)
LABELS = np.array([[0.0, 1.0], [1.0, np.nan], [np.nan, 0.0], [1.0, 1.0]], np.float32)


def written_out(logits, labels, positive_weight=1.0, smoothing=0.0, focal=0.0):
    p = 1 / (1 + np.exp(-logits.astype(np.float64)))
    y = labels * (1 - smoothing) + smoothing / 2
    terms = positive_weight * y * (1 - p) ** focal * np.log(p) + (1 - y) * p**focal * np.log(1 - p)
    return np.where(np.isnan(labels), 0, -terms)


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"positive_weight": 3.0},
        {"smoothing": 0.1},
        {"focal": 2.0},
        {"focal": 0.5, "positive_weight": 2.0},
    ],
)
def test_losses_are_those_of_the_formula(options):
    losses, known = binary_cross_entropy(jnp.asarray(LOGITS), jnp.asarray(LABELS), **options)
    np.testing.assert_allclose(losses, written_out(LOGITS, LABELS, **options), rtol=2e-6, atol=1e-7)
    np.testing.assert_array_equal(known, ~np.isnan(LABELS))


def test_the_mean_over_known_labels_is_scikit_learns_log_loss():
    losses, known = binary_cross_entropy(jnp.asarray(LOGITS), jnp.asarray(LABELS))
    seen = ~np.isnan(LABELS)
    expected = log_loss(LABELS[seen], 1 / (1 + np.exp(-LOGITS[seen].astype(np.float64))))
    assert float(losses.sum() / known.sum()) == pytest.approx(expected, rel=1e-6)


@pytest.mark.parametrize("focal", [0.0, 0.5, 2.0])
def test_slopes_are_finite_far_out_and_zero_where_nothing_is_known(focal):
    def total(logits, labels):
        return binary_cross_entropy(logits, labels, focal=focal)[0].sum()

    far = jnp.asarray([[100.0], [-100.0], [100.0], [-100.0]])
    truth = jnp.asarray([[1.0], [1.0], [0.0], [0.0]])
    slopes = np.asarray(jax.grad(total)(far, truth))
    assert np.isfinite(slopes).all()
    np.testing.assert_allclose(slopes[:, 0], [0, -1, 1, 0], atol=1e-6)
    slopes = np.asarray(jax.grad(total)(jnp.asarray(LOGITS), jnp.asarray(LABELS)))
    np.testing.assert_array_equal(slopes[np.isnan(LABELS)], 0)
    # A step of 1e-2 in float32 gives three digits.
    for row, column in zip(*np.nonzero(~np.isnan(LABELS)), strict=True):
        moved = np.zeros_like(LOGITS)
        moved[row, column] = 1e-2
        rise = written_out(LOGITS + moved, LABELS, focal=focal) - written_out(
            LOGITS - moved, LABELS, focal=focal
        )
        assert slopes[row, column] == pytest.approx(rise.sum() / 2e-2, rel=1e-2, abs=1e-4)


def test_half_precision_logits_are_computed_in_full():
    losses, _ = binary_cross_entropy(jnp.asarray([[12.0]], jnp.bfloat16), jnp.asarray([[1.0]]))
    assert losses.dtype == jnp.float32
    assert float(losses[0, 0]) == pytest.approx(np.log1p(np.exp(-12.0)), rel=1e-4)
