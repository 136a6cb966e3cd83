"""Grad-CAM against the derivative by hand, and what it says of layers that give no map."""

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from offsites_jax.errors import UserError
from offsites_jax.projects.chest_xray.inference.gradients import gradient_maps, layers_of


class Part(nn.Module):
    @nn.compact
    def __call__(self, x):
        return nn.Conv(3, (3, 3), name="conv")(x)


class Network(nn.Module):
    @nn.compact
    def __call__(self, x):
        features = Part(name="part")(x)
        return nn.Dense(2, name="head")((features**2).mean(axis=(1, 2)))


@pytest.mark.parametrize("layer", ["part", "part/conv"])
def test_maps_are_the_derivative_by_hand(layer):
    model, images = Network(), jax.random.normal(jax.random.key(1), (2, 5, 4, 1))
    variables = model.init(jax.random.key(0), images)
    predict = lambda variables, batch: {"logit": model.apply(variables, batch["image"])}  # noqa: E731
    maps, logits = gradient_maps(predict, variables, {"image": images}, layer, 1)
    features = np.asarray(Part().apply({"params": variables["params"]["part"]}, images), np.float64)
    kernel = np.asarray(variables["params"]["head"]["kernel"], np.float64)[:, 1]
    weights = (2 * features * kernel / 20).mean(axis=(1, 2), keepdims=True)
    expected = np.maximum((weights * features).sum(axis=-1), 0)
    np.testing.assert_allclose(maps, expected, atol=1e-5)
    assert expected.any()
    np.testing.assert_allclose(logits, model.apply(variables, images)[:, 1], atol=1e-5)


def test_layers_that_give_no_map_are_refused_with_those_that_do():
    model, images = Network(), jnp.zeros((1, 5, 4, 1))
    variables = model.init(jax.random.key(0), images)
    predict = lambda variables, batch: {"logit": model.apply(variables, batch["image"])}  # noqa: E731
    assert list(layers_of(predict, variables, {"image": images})) == ["part/conv", "part"]
    with pytest.raises(UserError, match="'head' gives no map; there are part/conv, part"):
        gradient_maps(predict, variables, {"image": images}, "head", 0)
