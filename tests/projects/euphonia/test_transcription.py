"""Without its text side the transducer's loss is that of sound alone; the small recipes begin so."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy.special import log_softmax

from offsites_jax.projects.euphonia import recipes
from offsites_jax.projects.euphonia.model import Transducer
from offsites_jax.projects.euphonia.transcription import Transcribe
from offsites_jax.train.config import resolve
from offsites_jax.train.state import flatten

LABELS, COUNTS = np.array([[3, 1, 1, 2], [2, 5, 0, 0]]), np.array([4, 2])


@pytest.fixture
def task(experiment):
    model = Transducer(experiment.model, jnp.float32)
    return Transcribe(model, dataclasses.replace(experiment.task, spec_augment="none"), experiment.data)


@pytest.fixture
def batch():
    waveform = np.random.default_rng(0).integers(-9000, 9000, (2, 4800)).astype(np.int16)
    return {
        "waveform": jnp.asarray(waveform),
        "sample_count": jnp.array([4800, 3000]),
        "labels": jnp.asarray(LABELS, jnp.int32),
        "label_count": jnp.asarray(COUNTS, jnp.int32),
    }


def of_sound_alone(scores, labels):
    """Negative log-likelihood where each frame's scores [frames, vocabulary] know nothing of the text."""
    paths = np.full(len(labels) + 1, -np.inf)
    paths[0] = 0.0
    for frame in scores:
        for said, label in enumerate(labels):
            paths[said + 1] = np.logaddexp(paths[said + 1], paths[said] + frame[label])
        paths = paths + frame[0]
    return -paths[-1]


def test_without_its_text_side_the_loss_is_that_of_sound_alone(task, batch):
    keys, deaf = jax.random.split(jax.random.key(1), 2), dataclasses.replace(task.config, text_side=False)
    variables = task.init(jax.random.key(0), batch)
    params, state = variables["params"], variables

    @jax.jit
    def terms(params):
        alone = dataclasses.replace(task, config=dataclasses.replace(deaf, dither=False))
        return alone.losses(params, state, batch, keys)["nll"][0]

    rows, counts = task.rows(batch, state)
    sound, frames, _ = task.model.apply({"params": params}, rows, counts, method="encode")
    output = params["joint"]["scores"]
    scores = log_softmax(np.tanh(np.float64(sound)) @ output["kernel"] + output["bias"], axis=-1)
    expected = [
        of_sound_alone(own[:most], labels[:count])
        for own, most, labels, count in zip(scores, frames, LABELS, COUNTS, strict=True)
    ]
    np.testing.assert_allclose(terms(params), expected, rtol=1e-5)

    gradients = flatten(jax.grad(lambda params: terms(params).sum())(params))
    text = {name for name in gradients if name.startswith(("predictor/", "joint/text/"))}
    assert {name for name, leaf in gradients.items() if not np.any(leaf)} == text
    heard = task.losses(params, state, batch, keys)["nll"][0]
    assert np.all(np.abs(heard - np.array(expected)) > 1e-3)


@pytest.mark.parametrize("recipe", [recipes.small, recipes.memorize])
def test_small_recipes_begin_without_text_and_end_with_it(recipe):
    experiment = resolve(recipe("nowhere", vocabulary=64, steps=600))
    assert not experiment.task.text_side
    assert experiment.final.task == dataclasses.replace(experiment.task, text_side=True)
    assert experiment.ends[-1] == 600
