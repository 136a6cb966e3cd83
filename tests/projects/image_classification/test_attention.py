"""Attention maps against the network's own attention, and what of them is drawn where."""

import dataclasses
import functools
import pathlib
import types

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import traverse_util
from PIL import Image

from offsites_jax.cli.main import main
from offsites_jax.errors import UserError
from offsites_jax.models.coatnet import CoAtNet
from offsites_jax.models.registry import create_model
from offsites_jax.models.stacked import stack_blocks
from offsites_jax.projects.image_classification.figures import attention, biases
from offsites_jax.train import media
from offsites_jax.train.config import load_experiment
from offsites_jax.train.loop import train

POINTS = ((0.5, 0.5), (0.0, 0.99), (0.26, 0.0))
STAGES = ("t2_d32",)


def network(**settings):
    return CoAtNet(stages=STAGES, stem_widths=(8, 8), num_classes=3, **settings)


def drawn(model, shape=(1, 16, 8, 1)):
    """Variables with tables and projections large enough to matter, and an image."""
    pixels = np.random.default_rng(1).normal(size=shape).astype(np.float32)
    variables = jax.jit(functools.partial(model.init, train=False))(jax.random.key(0), pixels)
    rng = np.random.default_rng(0)
    params = jax.tree.map(
        lambda leaf: np.asarray(leaf + 0.2 * rng.normal(size=leaf.shape), np.float32), variables["params"]
    )
    return {**variables, "params": params}, pixels


def maps_of(model, variables, pixels, points=POINTS):
    return jax.jit(functools.partial(attention.attention_maps, model, points=points))(
        variables, pixels=pixels
    )


def every_pixel(height, width):
    return tuple(((x + 0.5) / width, (y + 0.5) / height) for y in range(height) for x in range(width))


@pytest.mark.parametrize("relative", ["table", "mlp"])
def test_the_shares_make_what_the_layer_gives(relative):
    """Weights of all pixels of a map, times the values, projected: the output of the layer."""
    model = network(attention=dataclasses.replace(network().attention, relative=relative, head_size=16))
    variables, pixels = drawn(model)
    capture = functools.partial(
        model.apply, train=False, method="endpoints", mutable=["intermediates"],
        capture_intermediates=lambda layer, method: method == "__call__" and layer.name in ("value", "attn"),
    )  # fmt: skip
    _, state = jax.jit(capture)(variables, pixels)
    seen = traverse_util.flatten_dict(state["intermediates"], sep="/")
    maps = maps_of(model, variables, pixels, every_pixel(4, 2))
    assert list(maps) == ["stage_1/block_0", "stage_1/block_1"]
    for name, heads, grid in (("stage_1/block_0", 2, (4, 2)), ("stage_1/block_1", 2, (4, 2))):
        shares = np.asarray(maps[name])
        assert shares.shape == (heads, 8, *grid)
        np.testing.assert_allclose(shares.sum((-2, -1)), 1, rtol=1e-5)
        value = np.asarray(seen[f"{name}/attn/value/__call__"][0])[0]
        mixed = np.einsum("hqk,khd->qhd", shares.reshape(heads, 8, 8), value)
        stage, block = name.split("/")
        out = variables["params"][stage][block]["attn"]["out"]
        given = np.einsum("qhd,hdc->qc", mixed, out["kernel"]) + out["bias"]
        np.testing.assert_allclose(
            given.reshape(*grid, -1), seen[f"{name}/attn/__call__"][0][0], rtol=1e-4, atol=1e-5
        )


def test_a_point_is_the_pixel_of_the_map_it_is_in_and_scanned_blocks_are_like_others():
    plain = network(table_image_size=(32, 32))  # tables are resized to the image, which is of another shape
    scanned = plain.clone(stages=("t3_d32",), scan=True, remat=True)
    plain = plain.clone(stages=("t3_d32",))
    variables, pixels = drawn(plain)
    table = variables["params"]["stage_1"]["block_0"]["attn"]["relative_bias"]
    assert table.shape == (1, 15, 15)
    everywhere = maps_of(plain, variables, pixels, every_pixel(4, 2))
    like = jax.eval_shape(lambda: scanned.init(jax.random.key(0), pixels, train=False))
    found = maps_of(scanned, stack_blocks(variables, like), pixels)
    assert list(found) == list(everywhere) == [f"stage_1/block_{k}" for k in range(3)]
    # Maps of 4 rows of 2: the middle is the first pixel of what is right of and below it.
    for place, pixel in enumerate((2 * 2 + 1, 3 * 2 + 0, 0)):
        for name, maps in found.items():
            np.testing.assert_allclose(maps[:, place], everywhere[name][:, pixel], rtol=1e-4)


def test_the_figure_draws_the_mean_of_heads_over_the_image_and_marks_the_point():
    image = np.arange(32 * 16, dtype=np.uint32).reshape(32, 16, 1).astype(np.uint8)
    rng = np.random.default_rng(0)
    maps = {"stage_2/block_1": rng.random((2, 3, 4, 2)), "stage_3/block_0": rng.random((4, 3, 2, 1))}
    figure = attention.attention_figure(image, maps, POINTS)
    grid = np.array(figure.axes).reshape(3, 3)
    for row, (x, y) in enumerate(POINTS):
        for axes in grid[row]:
            np.testing.assert_array_equal(axes.images[0].get_array(), image[..., 0])
            (marker,) = axes.lines
            assert (marker.get_xdata()[0], marker.get_ydata()[0]) == (16 * x, 32 * y)
            assert (axes.get_xlim(), axes.get_ylim()) == ((0, 16), (32, 0))
        assert len(grid[row, 0].images) == 1
        for axes, heads in zip(grid[row, 1:], maps.values(), strict=True):
            mean = heads[:, row].mean(0)
            heat = axes.images[1]
            np.testing.assert_allclose(heat.get_array(), mean)
            assert tuple(heat.get_extent()) == (0, 16, 32, 0)
            assert heat.get_clim() == (0, pytest.approx(mean.max()))
            assert f"up to {mean.max():.1%}" in axes.get_title()
            left, top = axes.patches[0].get_xy()
            assert 0 <= 16 * x - left <= axes.patches[0].get_width() == 16 / mean.shape[1]
            assert 0 <= 32 * y - top <= axes.patches[0].get_height() == 32 / mean.shape[0]


def test_layers_are_chosen_by_name_or_spread_over_the_network():
    maps = {f"stage_3/block_{k}": np.zeros(1) for k in range(14)}
    assert list(attention.choose(maps, ("stage_3/block_7",))) == ["stage_3/block_7"]
    assert list(attention.choose(maps, ())) == [f"stage_3/block_{k}" for k in (0, 3, 5, 8, 10, 13)]
    with pytest.raises(UserError, match="has no 'stage_9/block_0'"):
        attention.choose(maps, ("stage_9/block_0",))
    with pytest.raises(UserError, match="no attention"):
        attention.choose({}, ())


def test_points_are_shares_of_the_sides():
    assert attention.point_of("0.5,0.25") == (0.5, 0.25)
    for wrong in ("0.5", "1,0", "a,b", "0.1,-0.1", "0,0,0"):
        with pytest.raises(UserError, match="give shares"):
            attention.point_of(wrong)


def test_a_network_without_attention_is_refused():
    trained = types.SimpleNamespace(
        task=types.SimpleNamespace(model=create_model("efficientnet_v2_b0", num_classes=3))
    )
    with pytest.raises(UserError, match="EfficientNet has no attention"):
        attention.attention_of(trained, POINTS)
    convolutions = CoAtNet(stages=("c1_d8",), stem_widths=(8, 8), num_classes=3)
    pixels = jnp.zeros((1, 16, 16, 1))
    variables = convolutions.init(jax.random.key(0), pixels, train=False)
    assert attention.attention_maps(convolutions, variables, pixels, POINTS) == {}


@pytest.fixture(scope="module")
def workdir(tmp_path_factory):
    """Two updates of a small CoAtNet."""
    folder = tmp_path_factory.mktemp("coatnet") / "run"
    changes = {
        "data.image_size": "16", "data.pad": "0", "train.steps": "2", "train.batch_size": "8",
        "train.eval_every": "0",
        "evaluators": "{}", "expected": "{}", "train.keep.best": "''", "mesh.cpu_devices": "8",
        "model.overrides.stages": "['t1_d32']", "model.overrides.stem_widths": "[8, 8]",
    }  # fmt: skip
    file = pathlib.Path(__file__).parents[3] / "experiments" / "image_classification" / "digits_coatnet.py"
    train(load_experiment(str(file), changes), folder)
    return folder


@pytest.fixture
def command(monkeypatch):
    """Runs `pictures` and gives its exit code and the figures it wrote."""
    drawn = []
    encode = media.encode_figure
    monkeypatch.setattr(media, "encode_figure", lambda figure: drawn.append(figure) or encode(figure))

    def run(*words):
        drawn.clear()
        with pytest.raises(SystemExit) as ended:
            main(["image_classification", "pictures", *map(str, words)])
        return ended.value.code, list(drawn)

    return run


def test_the_command_draws_the_biases_of_a_checkpoint(workdir, command, tmp_path):
    code, (figure,) = command("--checkpoint", workdir, "--output", tmp_path, "--params", "raw")
    assert not code
    ((name, table),) = biases.read_tables(workdir, params="raw").items()
    assert (name, table.shape) == ("stage_1/block_0", (1, 7, 7))
    (axes,) = (axes for axes in figure.axes if axes.images)
    np.testing.assert_array_equal(axes.images[0].get_array(), table[0, ::-1, ::-1])
    assert Image.open(tmp_path / "biases.png").size[0] > 100


def test_the_command_draws_what_images_are_attended_to(workdir, command, tmp_path, capfd):
    (tmp_path / "in").mkdir()
    Image.linear_gradient("L").save(tmp_path / "in" / "a.png")
    Image.new("L", (9, 9), 77).save(tmp_path / "in" / "b.png")
    (tmp_path / "in" / "bad.png").write_bytes(b"")
    words = [
        "--checkpoint",
        workdir,
        "--images",
        tmp_path / "in",
        "--points",
        "0.1,0.9",
        "--output",
        tmp_path / "out",
    ]
    code, (first, second) = command(*words)
    assert code == 3
    assert "bad.png" in capfd.readouterr().err
    assert sorted(file.name for file in (tmp_path / "out").iterdir()) == [
        "attention_0.png",
        "attention_1.png",
    ]
    for figure, grey in ((first, 127), (second, 77)):
        image, layer = figure.axes
        assert image.images[0].get_array().mean() == pytest.approx(grey, abs=1)
        assert layer.images[1].get_array().shape == (4, 4)
        assert layer.images[1].get_array().sum() == pytest.approx(1, rel=1e-4)
        assert layer.get_title().startswith("stage_1 block_0")
    code, _ = command(*words, "--layers", "stage_2/block_0")
    assert code == 2


def test_images_without_a_checkpoint_are_refused(command, tmp_path):
    assert command("--images", tmp_path, "--published", "--output", tmp_path) == (2, [])
