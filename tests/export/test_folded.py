"""Exports in the form that is served: nothing left of batch norms, checked against the live model."""

import json

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from offsites_jax.errors import OffsitesError, UserError
from offsites_jax.export import compare
from offsites_jax.export.inference import Inference
from offsites_jax.export.load import load
from offsites_jax.export.write import write_folder
from offsites_jax.models.registry import create_model
from offsites_jax.nn.norm import BatchNorm

FACTS = {"project": "toy", "config": {}, "step": 1, "params": "raw", "metrics": {}}
SMALL = {"blocks": ("r1_k3_s2_e4_i4_o8_se0.25",), "head_width": 8, "num_classes": 5}


def inference_of(model, gain=1.0, **call):
    """A model with drawn leaves, so that its statistics are not those at rest."""
    shapes = jax.eval_shape(lambda x: model.init(jax.random.key(0), x, **call), jnp.zeros((1, 16, 16, 3)))
    draw = np.random.default_rng(0)
    variables = jax.tree.map(lambda leaf: draw.uniform(-0.5, 1.5, leaf.shape).astype(leaf.dtype), shapes)
    variables["batch_stats"] = jax.tree.map(np.square, variables["batch_stats"])

    def predict(variables, batch):
        logits = gain * model.apply(variables, batch["image"].astype(jnp.float32) / 255, **call)
        return {"logits": logits, "prediction": jnp.argmax(logits, -1)}

    def input_spec(rows):
        return {"image": jax.ShapeDtypeStruct((rows, 16, 16, 3), jnp.uint8)}

    return Inference(predict, variables, input_spec, platforms=("cpu",))


@pytest.fixture(scope="module")
def small():
    return inference_of(create_model("efficientnet_v2_b0", **SMALL), train=False)


@pytest.mark.parametrize("folded", [True, False])
def test_what_is_in_a_folder(small, folded, tmp_path):
    report = write_folder(small, tmp_path / "out", format="stablehlo", facts=FACTS, folded=folded)
    exported = load(tmp_path / "out")
    norms = [name for name in exported.params if "bn/" in name or "_bn" in name]
    assert bool(norms) is not folded
    assert ("params/stem/conv/bias" in exported.params) is folded
    assert json.loads((tmp_path / "out/manifest.json").read_text())["folded"] is folded
    assert ("rsqrt" in small.folded().export().mlir_module()) is False
    batch = small.random_batch(5, seed=3)
    live = small.bind(small.variables)(batch)["logits"]
    np.testing.assert_allclose(exported.predict(batch)["logits"], live, atol=1e-5 * np.abs(live).max())
    assert report.differences["prediction"] == 0


def test_a_format_that_keeps_what_was_trained(small, tmp_path):
    with pytest.raises(UserError, match=r"--fold: format safetensors keeps the parameters .* fold stablehlo"):
        write_folder(small, tmp_path / "out", format="safetensors", facts=FACTS, folded=True)
    assert list(tmp_path.iterdir()) == []


class Twice(nn.Module):
    """Uses what leaves its convolution for more than its norm, which folding cannot know."""

    @nn.compact
    def __call__(self, x):
        x = nn.Conv(5, (3, 3), name="conv")(x)
        return (x + BatchNorm(name="norm")(x, True)).mean((1, 2))


def test_a_fold_that_changes_the_model_is_not_written(tmp_path):
    inference = inference_of(Twice())
    with pytest.raises(OffsitesError, match=r"'logits' is .* off the live model, .* with --no-fold"):
        write_folder(inference, tmp_path / "out", format="stablehlo", facts=FACTS, folded=True)
    assert list(tmp_path.iterdir()) == []
    write_folder(inference, tmp_path / "out", format="stablehlo", facts=FACTS)


def test_large_numbers_may_be_off_by_their_share(small, tmp_path):
    """Of logits in the ten thousands rounding takes more than the tolerance, of which nothing is wrong."""
    large = inference_of(create_model("efficientnet_v2_b0", **SMALL), gain=1e5, train=False)
    report = write_folder(large, tmp_path / "out", format="stablehlo", facts=FACTS, folded=True)
    assert report.max_abs_diff > 1e-4


def test_largest_values():
    outputs = [
        {"a": np.array([1.0, -3.0, np.inf]), "label": np.array([7])},
        {"a": np.array([2.0, np.nan]), "label": np.array([9])},
    ]
    assert compare.largest_values(lambda batch: outputs[batch["row"]], [{"row": 0}, {"row": 1}]) == {"a": 3.0}
