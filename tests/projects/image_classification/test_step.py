"""A whole train step against timm: loss and the norm of every gradient.

Reference numbers are made by tools/golden/train_step.py.
"""

import json
import math
import pathlib
import zlib

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from safetensors.numpy import save_file

from offsites_jax import weights
from offsites_jax.export.importers.coatnet import TIMM_PAPER
from offsites_jax.export.timm import timm_tensors
from offsites_jax.models.registry import create_model
from offsites_jax.projects.image_classification.data import DataConfig
from offsites_jax.projects.image_classification.task import ImageClassification, TaskConfig

GOLDEN = json.loads((pathlib.Path(__file__).parent / "golden/step.json").read_text())
CLASSES, SIZE = 5, 64
MODELS = {
    "efficientnet": (
        "efficientnet_v2_b0",
        {
            "blocks": (
                "r1_k3_s1_e1_i8_o8_c1",
                "r2_k3_s2_e4_i8_o16_c1",
                "r1_k3_s1_e1_i16_o16_se0.25",
                "r2_k5_s2_e4_i16_o24_se0.25",
            ),
            "head_width": 24,
            "dropout_rate": 0.0,
        },
    ),
    "coatnet": (
        "coatnet_0",
        {
            "stages": ("c1_d16", "c2_d32", "t2_d32", "t1_d64"),
            "stem_widths": (8, 16),
            "table_image_size": (SIZE, SIZE),
            **TIMM_PAPER,
        },
    ),
    "efficientnet_v2_b0": ("efficientnet_v2_b0", {"dropout_rate": 0.0}),
    "efficientnet_b0": ("efficientnet_b0", {"dropout_rate": 0.0}),
}
L2 = {"efficientnet": 0.01, "coatnet": 0.0, "efficientnet_v2_b0": 1e-4, "efficientnet_b0": 1e-4}


def drawn(name, shape):
    """One tensor, from a generator seeded by its name; scales are around 1."""
    draw = np.random.default_rng(zlib.crc32(name.encode()))
    if name.endswith("running_var") or (name.endswith("weight") and len(shape) == 1):
        values = draw.uniform(0.5, 1.5, shape)
    elif name.endswith("relative_position_bias_table"):
        values = draw.standard_normal(shape)
    elif len(shape) == 1:
        values = 0.1 * draw.standard_normal(shape)
    else:
        values = draw.standard_normal(shape) * math.sqrt(2 / math.prod(shape[1:]))
    return values.astype(np.float32)


@pytest.mark.parametrize("family", MODELS)
def test_loss_and_gradients_of_a_step_are_those_of_timm(family, tmp_path):
    golden, (name, settings) = GOLDEN[family], MODELS[family]
    settings = settings | {"num_classes": CLASSES, "stochastic_depth_rate": 0.0}
    save_file({key: drawn(key, shape) for key, shape in golden["shapes"].items()}, tmp_path / "w.safetensors")
    variables = weights.load(name, tmp_path / "w.safetensors", source="timm", **settings)
    model = create_model(name, **settings)
    data = DataConfig(image_size=SIZE, mean=(127.5,), std=(127.5,))
    task = ImageClassification(model, TaskConfig(label_smoothing=0.1, l2=L2[family]), data, CLASSES)
    batch = {
        "image": np.random.default_rng(7).integers(0, 256, (6, SIZE, SIZE, 3), np.uint8),
        "label": np.arange(6, dtype=np.int32) % CLASSES,
    }
    state = {"batch_stats": variables["batch_stats"]}

    @jax.jit
    @jax.value_and_grad
    def step(params):
        terms = task.loss(params, state, batch, jax.random.key(0), jnp.int32(0)).terms
        return sum(term.value for term in terms.values())

    loss, gradients = step(variables["params"])
    assert loss == pytest.approx(golden["loss"], rel=1e-4)
    there = timm_tensors(model, {"params": gradients, **state})
    norms = {key: np.linalg.norm(there[key]) for key in golden["gradient_norms"]}
    # In front of a batch norm with batch statistics a bias has no gradient but rounding.
    floor = 1e-6 * max(golden["gradient_norms"].values())
    assert norms == pytest.approx(golden["gradient_norms"], rel=1e-3, abs=floor)
    assert sum(norm > floor for norm in norms.values()) > 0.9 * len(norms)
