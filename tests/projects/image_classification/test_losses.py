"""Losses against closed forms in NumPy and scikit-learn, and where mixup and CutMix enter them."""

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from sklearn.metrics import log_loss

from offsites_jax.errors import UserError
from offsites_jax.projects.image_classification import losses
from offsites_jax.projects.image_classification.data import DataConfig
from offsites_jax.projects.image_classification.task import ImageClassification, TaskConfig
from offsites_jax.train.config import load_experiment, resolve

DIGITS = "experiments/image_classification/digits.py"


def drawn(count=6, classes=5):
    rng = np.random.default_rng(0)
    return rng.normal(size=(count, classes)).astype(np.float32), rng.integers(classes, size=count)


def log_softmax(logits):
    logits = logits.astype(np.float64)
    return logits - np.log(np.exp(logits).sum(-1, keepdims=True))


class Linear(nn.Module):
    """The smallest classifier."""

    @nn.compact
    def __call__(self, images, *, train):
        return nn.Dense(10)(images.reshape(len(images), -1))


def task_of(**config):
    return ImageClassification(Linear(), TaskConfig(**config), DataConfig(channels=1), 10, steps=40)


def test_one_label_gives_the_log_loss_of_scikit_learn():
    logits, labels = drawn()
    found = losses.softmax(logits, losses.targets_of(jnp.asarray(labels), 5), 0.0)
    expected = log_loss(labels, np.exp(log_softmax(logits)), labels=range(5))
    assert float(found.mean()) == pytest.approx(expected, rel=1e-5)


def test_soft_targets_go_in_unchanged_and_are_smoothed():
    logits, labels = drawn()
    soft = 0.7 * np.eye(5)[labels] + 0.3 * np.eye(5)[labels[::-1]]
    expected = -((0.9 * soft + 0.1 / 5) * log_softmax(logits)).sum(-1)
    np.testing.assert_allclose(losses.softmax(logits, jnp.asarray(soft), 0.1), expected, rtol=1e-5)


def test_several_labels_share_one_unit():
    logits, _ = drawn(count=2)
    targets = losses.targets_of(jnp.array([[1, 4, -1], [0, -1, -1]]), 5)
    np.testing.assert_array_equal(targets, [[0, 1, 0, 0, 1], [1, 0, 0, 0, 0]])
    found = losses.multilabel_softmax(logits, targets, 0.0)
    known = log_softmax(logits)
    np.testing.assert_allclose(found, [-(known[0, 1] + known[0, 4]) / 2, -known[1, 0]], rtol=1e-5)


def test_a_label_given_twice_counts_once():
    np.testing.assert_array_equal(losses.targets_of(jnp.array([[2, 2, -1]]), 4), [[0, 0, 1, 0]])


@pytest.mark.parametrize(("name", "share"), [("sigmoid", 1), ("sigmoid_mean", 1 / 5)])
def test_sigmoid_moves_targets_towards_a_half(name, share):
    logits, _ = drawn(count=2)
    targets = np.array([[0, 1, 0, 0, 1], [1, 0, 0, 0, 0]], np.float64)
    smoothed = targets * (1 - 0.2) + 0.1
    p = 1 / (1 + np.exp(-logits.astype(np.float64)))
    expected = -(smoothed * np.log(p) + (1 - smoothed) * np.log(1 - p)).sum(-1) * share
    np.testing.assert_allclose(losses.LOSSES[name](logits, jnp.asarray(targets), 0.2), expected, rtol=1e-5)


def test_the_gradient_of_softmax_is_probability_minus_target():
    logits, labels = drawn()
    targets = 0.9 * np.eye(5)[labels] + 0.1 / 5
    grad = jax.grad(lambda z: losses.softmax(z, jnp.eye(5)[labels], 0.1).sum())(jnp.asarray(logits))
    np.testing.assert_allclose(grad, np.exp(log_softmax(logits)) - targets, atol=1e-6)


def batch_of(count, size=32):
    """Images of one grey each, and labels that tell them apart."""
    greys = np.arange(count, dtype=np.uint8) * 20
    image = np.broadcast_to(greys[:, None, None, None], (count, size, size, 1))
    return {"image": jnp.asarray(image), "label": jnp.arange(count)}


def test_mixup_weighs_labels_as_it_weighs_pixels():
    task = task_of(mixup_alpha=0.8)
    pixels, targets = task.mixed(batch_of(8), jax.random.key(1))
    greys = np.asarray(pixels[:, 0, 0, 0]) * 128 + 128
    expected = np.asarray(targets) @ np.append(np.arange(8) * 20.0, [0, 0])
    np.testing.assert_allclose(greys, expected, atol=1e-3)
    np.testing.assert_allclose(targets.sum(-1), 1, rtol=1e-6)
    assert (np.asarray(targets).max(-1) < 1).any(), "something was mixed"


def test_cutmix_weighs_labels_by_area():
    task = task_of(cutmix_alpha=1.0)
    pixels, targets = task.mixed(batch_of(8), jax.random.key(2))
    greys = np.asarray(pixels.mean((1, 2, 3))) * 128 + 128
    expected = np.asarray(targets) @ np.append(np.arange(8) * 20.0, [0, 0])
    np.testing.assert_allclose(greys, expected, atol=1e-3)


def test_without_alphas_nothing_is_mixed():
    _, targets = task_of().mixed(batch_of(8), jax.random.key(0))
    np.testing.assert_array_equal(targets, np.eye(10)[:8])


def test_the_loss_is_that_of_the_mixed_batch():
    task = task_of(mixup_alpha=0.8, label_smoothing=0.1)
    batch, rng = batch_of(4, size=4), jax.random.key(3)
    params = task.model.init(jax.random.key(0), task.pixels(batch["image"]), train=False)["params"]
    found = task.loss(params, {}, batch, rng, jnp.zeros((), jnp.int32))
    pixels, targets = task.mixed(batch, jax.random.split(rng)[0])
    kernel, bias = np.asarray(params["Dense_0"]["kernel"]), np.asarray(params["Dense_0"]["bias"])
    logits = np.asarray(pixels).reshape(4, -1) @ kernel + bias
    smoothed = 0.9 * np.asarray(targets) + 0.01
    expected = -(smoothed * log_softmax(logits)).sum(-1).mean()
    assert float(found.terms["cross_entropy"].value) == pytest.approx(expected, rel=1e-5)
    assert (np.asarray(targets).max(-1) < 1).any(), "something was mixed"


@pytest.mark.parametrize(("growth", "step", "factor"), [(0.0, 30, 1.0), (3.0, 0, 1.0), (3.0, 30, 3.25)])
def test_l2_grows_in_a_straight_line(growth, step, factor):
    task, batch = task_of(l2=1e-2, l2_growth=growth), batch_of(4, size=4)
    params = task.model.init(jax.random.key(0), task.pixels(batch["image"]), train=False)["params"]

    def l2(params):
        return task.loss(params, {}, batch, jax.random.key(1), jnp.asarray(step)).terms["l2"].value

    value, gradient = jax.value_and_grad(l2)(params)
    kernel = np.asarray(params["Dense_0"]["kernel"])
    assert float(value) == pytest.approx(factor * 1e-2 * (kernel**2).sum() / 2, rel=1e-5)
    np.testing.assert_allclose(gradient["Dense_0"]["kernel"], factor * 1e-2 * kernel, rtol=1e-5)
    assert not gradient["Dense_0"]["bias"].any()


def test_alphas_may_differ_by_stage():
    raw = load_experiment(DIGITS).raw
    raw["stages"][0]["task"] = {"mixup_alpha": 0.0}
    raw["stages"][1]["task"] = {"mixup_alpha": 0.2}
    assert [resolve(raw, stage=index).task.mixup_alpha for index in (0, 1)] == [0.0, 0.2]


def shapes_of(raw):
    """What every run does before it compiles anything."""
    experiment = resolve(raw)
    task = experiment.found.create_task(experiment, jnp.dtype("float32"))
    batch = {name: jnp.zeros(spec.shape, spec.dtype) for name, spec in task.batch_spec(2).items()}
    return jax.eval_shape(task.init, jax.random.key(0), batch)


@pytest.mark.parametrize(
    ("sections", "words"),
    [
        ({"task": {"mixup_alpha": -1}}, "config.task.mixup_alpha"),
        ({"task": {"l2_growth": -1}}, "config.task.l2_growth"),
        ({"task": {"label_smoothing": 1.0}}, "config.task.label_smoothing"),
        ({"task": {"mixup_alpha": 1.0}, "train": {"batch_size": 9}}, "cannot be paired"),
        ({"data": {"max_labels": 3}}, "config.task.loss: softmax takes one label"),
        ({"data": {"image_size": 4}}, "config.data.image_size: 4 pixels are too few"),
        ({"data": {"eval_size": 4}}, "config.data.eval_size: 4 pixels are too few"),
    ],
)
def test_what_cannot_be_trained_is_named_before_anything_is_compiled(sections, words):
    raw = load_experiment(DIGITS).raw
    raw["stages"] = []
    for name, section in sections.items():
        raw[name] = {**raw[name], **section}
    with pytest.raises(UserError, match=words) as error:
        shapes_of(raw)
    assert "\n" not in str(error.value)
