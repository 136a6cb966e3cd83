"""ResNet: shapes, recomputation, and settings that cannot be; its logits are tested with the importers."""

import functools

import chex
import jax
import jax.numpy as jnp
import pytest

from offsites_jax.errors import UserError
from offsites_jax.models.registry import create_model


def test_endpoints_of_an_odd_size():
    images = jax.ShapeDtypeStruct((1, 171, 224, 3), jnp.float32)
    call = functools.partial(create_model("resnet_50").init_with_output, train=False, method="endpoints")
    found, _ = jax.eval_shape(call, jax.random.key(0), images)
    assert {name: value.shape[1:] for name, value in found.items()} == {
        "reduction_1": (86, 112, 64),
        "reduction_2": (43, 56, 256),
        "reduction_3": (22, 28, 512),
        "reduction_4": (11, 14, 1024),
        "reduction_5": (6, 7, 2048),
        "features": (6, 7, 2048),
        "pooled": (2048,),
        "logits": (1000,),
    }


def test_rematerialised_blocks_have_the_same_gradients():
    def gradients(remat):
        model = create_model("resnet_50", depths=(2, 1), width=4, num_classes=3, remat=remat)
        x = jax.random.normal(jax.random.key(1), (8, 16, 16, 3))

        @jax.jit
        def run(x):
            variables = model.init(jax.random.key(0), x, train=False)

            def loss(params):
                logits, _ = model.apply(variables | {"params": params}, x, train=True, mutable="batch_stats")
                return jnp.sum(logits**2)

            return jax.grad(loss)(variables["params"])

        return run(x)

    chex.assert_trees_all_close(gradients(True), gradients(False), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize(
    ("overrides", "message"),
    [({"depths": (3, 0)}, "each stage needs at least one block"), ({"dropout_rate": 1.0}, "dropout_rate")],
)
def test_settings_that_cannot_be(overrides, message):
    with pytest.raises(UserError, match=message):
        create_model("resnet_50", **overrides)
