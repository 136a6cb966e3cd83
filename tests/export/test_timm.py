"""Folders that timm loads: names, the arguments that make the network, and what has no counterpart there."""

import functools
import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from safetensors.numpy import load_file

from offsites_jax import weights
from offsites_jax.errors import UserError
from offsites_jax.export.inference import Inference
from offsites_jax.export.timm import timm_network, timm_tensors
from offsites_jax.export.write import write_folder
from offsites_jax.models.registry import create_model
from offsites_jax.train.state import flatten

SMALL = {"stages": ("c1_d8", "t3_d16"), "stem_widths": (8, 8), "num_classes": 5}
FACTS = {"project": "toy", "config": {}, "step": 1, "params": "raw", "metrics": {}}


def small(**overrides):
    return create_model("coatnet_0", **(SMALL | {"attention": {"head_size": 8}} | overrides))


def variables_of(model, size=(32, 32), channels=3):
    """Drawn leaves of the model's shapes."""
    shapes = jax.eval_shape(
        functools.partial(model.init, train=False), jax.random.key(0), jnp.zeros((1, *size, channels))
    )
    draw = np.random.default_rng(0)
    return jax.tree.map(lambda leaf: draw.uniform(0.1, 0.5, leaf.shape).astype(leaf.dtype), shapes)


def export(model, variables, folder):
    def predict(variables, batch):
        return {"logits": model.apply(variables, batch["image"], train=False)}

    def input_spec(rows):
        return {"image": jax.ShapeDtypeStruct((rows, 32, 32, 3), jnp.float32)}

    inference = Inference(predict, variables, input_spec, model=model)
    return write_folder(inference, folder, format="timm", facts=FACTS)


@pytest.mark.parametrize("scan", [False, True])
def test_a_folder_is_what_the_importer_reads(scan, tmp_path):
    model = small(scan=scan)
    report = export(model, variables_of(model), tmp_path / "out")
    assert report.max_abs_diff == 0
    back = weights.load("coatnet_0", tmp_path / "out/model.safetensors", **SMALL, attention={"head_size": 8})
    tensors = timm_tensors(small(), back)
    written = load_file(tmp_path / "out/model.safetensors")
    assert set(tensors) == set(written)
    assert all((tensors[name] == written[name]).all() for name in tensors)
    network = json.loads((tmp_path / "out/timm.json").read_text())
    assert network["embed_dim"] == [8, 16]
    assert network["img_size"] == [32, 32]
    assert "timm.create_model(**json.loads" in (tmp_path / "out/README.md").read_text()


def test_query_key_and_value_are_one_tensor_by_heads():
    model = small()
    variables = variables_of(model)
    leaves, tensors = flatten(variables), timm_tensors(model, variables)
    place = "params/stage_2/block_1/attn"
    kernels = np.stack([leaves[f"{place}/{name}/kernel"] for name in ("query", "key", "value")])
    weight = tensors["stages.1.blocks.1.attn.qkv.weight"]
    assert weight.shape == (48, 16, 1, 1)
    for head in range(2):
        for part in range(3):
            rows = weight[24 * head + 8 * part :][:8, :, 0, 0]
            np.testing.assert_array_equal(rows, kernels[part, :, head].T)


def test_arguments_of_a_network_of_timm():
    model = create_model("coatnet_rmlp_1_rw_224", num_classes=7)
    found = timm_network(model, {"params": {"stem": {"conv_0": {"kernel": np.zeros((3, 3, 4, 32))}}}})
    assert found == {
        "model_name": "coatnet_0_224",
        "img_size": [224, 224],
        "num_classes": 7,
        "in_chans": 4,
        "drop_rate": 0.0,
        "embed_dim": [96, 192, 384, 768],
        "depths": [2, 6, 14, 2],
        "block_type": ["C", "C", "T", "T"],
        "stem_width": [32, 64],
        "stem_bias": False,
        "head_hidden_size": 0,
        "conv_expand_ratio": 4.0,
        "conv_expand_output": False,
        "conv_pre_norm_act": True,
        "conv_output_bias": False,
        "conv_stride_mode": "pool",
        "conv_pool_type": "max",
        "conv_padding": "",
        "conv_attn_early": True,
        "conv_attn_act_layer": "relu",
        "conv_attn_ratio": 0.25,
        "conv_act_layer": "silu",
        "conv_norm_layer": "batchnorm2d",
        "conv_norm_eps": 1e-5,
        "transformer_dim_head": 32,
        "transformer_expand_ratio": 4.0,
        "transformer_expand_first": False,
        "transformer_shortcut_bias": False,
        "transformer_pool_type": "max",
        "transformer_rel_pos_type": "mlp",
        "transformer_rel_pos_dim": 384,
        "transformer_init_values": 0.0,
        "transformer_act_layer": "gelu",
        "transformer_norm_layer": "layernorm2d",
        "transformer_norm_eps": 1e-6,
    }


@pytest.mark.parametrize(
    ("name", "settings", "expected"),
    [
        ("efficientnet_v2_b3", {}, {"model_name": "tf_efficientnetv2_b3"}),
        ("efficientnet_b7", {}, {"model_name": "tf_efficientnet_b7"}),
        ("resnet_50", {"depths": (1, 2, 3, 1)}, {"model_name": "resnet50", "layers": [1, 2, 3, 1]}),
    ],
)
def test_networks_without_tables(name, settings, expected):
    kernel = np.zeros((3, 3, 3, 32))
    found = timm_network(create_model(name, **settings), {"params": {"stem": {"conv": {"kernel": kernel}}}})
    assert found.items() >= expected.items()


@pytest.mark.parametrize(
    ("model", "message"),
    [
        (small(patch_size=16, stages=("t1_d8",)), "no CoAtNet over patches"),
        (small(head_hidden=False), "norm_features and head_hidden both or neither"),
        (small(stages=("c1_d8 t1_d16",)), "two widths in a stage"),
        (create_model("resnet_50", width=32), "width 64"),
        (create_model("efficientnet_v2_b0", depth=3.0), "no EfficientNet of these blocks"),
    ],
)
def test_what_timm_does_not_have(model, message):
    with pytest.raises(UserError, match=f"--format timm: .*{message}"):
        timm_network(model, {"params": {}})


def test_a_task_without_such_a_model_is_the_users_error(toy, tmp_path):
    with pytest.raises(UserError, match="--format timm: the task has no field `model`"):
        toy.write(tmp_path / "out", "timm")
