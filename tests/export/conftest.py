"""A toy model with two inputs, a state collection and a bfloat16 output, exported once per run."""

import pathlib
import shutil

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from offsites_jax.export.inference import Inference
from offsites_jax.export.write import write_folder

FEATURES, CLASSES, WORDS = 4, 3, 2


class Toy(nn.Module):
    """Normalised pixels plus a word embedding, then a dense layer."""

    @nn.compact
    def __call__(self, pixels, word):
        x = nn.BatchNorm(use_running_average=True, name="norm")(pixels.astype(jnp.float32) / 255)
        x = x + nn.Embed(WORDS, FEATURES, name="words")(word)
        return nn.Dense(CLASSES, name="head")(x), x.astype(jnp.bfloat16)


def predict(variables, batch):
    logits, hidden = Toy().apply(variables, batch["pixels"], batch["word"])
    return {"logits": logits.astype(jnp.float32), "hidden": hidden}


def input_spec(rows):
    return {
        "pixels": jax.ShapeDtypeStruct((rows, FEATURES), jnp.uint8),
        "word": jax.ShapeDtypeStruct((rows,), jnp.int32),
    }


def make_variables(dtype=np.float32):
    """Parameters of a dtype, and statistics in float32."""
    rng = np.random.default_rng(0)
    mean, var = rng.random((2, FEATURES), np.float32)

    def draw(*shape):
        return rng.standard_normal(shape).astype(dtype)

    return {
        "params": {
            "norm": {"scale": draw(FEATURES), "bias": draw(FEATURES)},
            "words": {"embedding": draw(WORDS, FEATURES)},
            # Lies transposed in memory, as arrays fetched from a device may.
            "head": {"kernel": draw(CLASSES, FEATURES).T, "bias": draw(CLASSES)},
        },
        "batch_stats": {"norm": {"mean": mean, "var": var}},
    }


def closed_form(variables, batch):
    """The toy's logits in NumPy float64."""
    wide = jax.tree.map(lambda leaf: np.asarray(leaf, np.float64), variables)
    params, stats = wide["params"], wide["batch_stats"]["norm"]
    x = (batch["pixels"] / 255 - stats["mean"]) / np.sqrt(stats["var"] + 1e-5)
    x = x * params["norm"]["scale"] + params["norm"]["bias"] + params["words"]["embedding"][batch["word"]]
    return x @ params["head"]["kernel"] + params["head"]["bias"]


def make_batch(rows, seed=1):
    rng = np.random.default_rng(seed)
    return {
        "pixels": rng.integers(0, 256, (rows, FEATURES), np.uint8),
        "word": rng.integers(0, WORDS, rows).astype(np.int32),
    }


class ToyKit:
    """What tests need of the toy."""

    predict = staticmethod(predict)
    input_spec = staticmethod(input_spec)
    variables = staticmethod(make_variables)
    closed_form = staticmethod(closed_form)
    batch = staticmethod(make_batch)

    @property
    def facts(self):
        return {
            "project": "toy",
            "config": {"project": "toy", "train": {"steps": 7}},
            "step": 7,
            "params": "ema",
            "metrics": {"test/accuracy": 0.5},
        }

    def inference(self, dtype=np.float32, **changes):
        return Inference(predict, make_variables(dtype), input_spec, **changes)

    def write(self, output, format="stablehlo", **settings):
        return write_folder(self.inference(), output, format=format, facts=self.facts, **settings)


@pytest.fixture(scope="session")
def toy():
    return ToyKit()


@pytest.fixture(scope="session")
def finished(toy, tmp_path_factory) -> pathlib.Path:
    """A StableHLO export that no test may change."""
    output = tmp_path_factory.mktemp("export") / "toy"
    toy.write(output)
    return output


@pytest.fixture
def folder(finished, tmp_path) -> pathlib.Path:
    """A StableHLO export of one's own."""
    return pathlib.Path(shutil.copytree(finished, tmp_path / "copy"))
