"""Runs and published networks where their figures put them."""

import jax
import jax.numpy as jnp
import matplotlib.colors
import numpy as np
import pytest

from offsites_jax.cli.main import main
from offsites_jax.models.registry import create_model
from offsites_jax.projects.image_classification.figures import published, scatter
from offsites_jax.projects.image_classification.runs import Run
from offsites_jax.train import media


def run(name, accuracy, params, macs, seconds, devices=8):
    return Run(
        name=name, model="m", seed=0, steps=10, metric="test/accuracy", accuracy=accuracy, images=100,
        params=params, macs=macs, step_seconds=seconds, wait_seconds=3600.0, gap=None, plain_gap=False,
        curve=((10, accuracy),), devices=devices,
    )  # fmt: skip


RUNS = [
    run("small", 0.75, 2_000_000, 5_000_000, 32400.0),
    run("large", 0.875, 9_000_000, 70_000_000, 50.0, 0),
]


def points(axes):
    """(x, y), label and whether it is filled, of every point."""
    return [
        (tuple(dots.get_offsets()[0].tolist()), dots.get_label(), bool(len(dots.get_facecolors())))
        for dots in axes.collections
    ]


def test_each_run_is_a_point_in_each_panel():
    figure = scatter.scatter_figure(RUNS)
    assert [axes.get_xlabel() for axes in figure.axes] == [
        "parameters, millions",
        "multiply-adds of a prediction, millions",
        "train steps, seconds on the machine that trained",
    ]
    for axes, xs in zip(figure.axes, ((2, 9), (5, 70), (32400, 50)), strict=True):
        assert points(axes) == [((xs[0], 0.75), "small", True), ((xs[1], 0.875), "large", True)]
        assert axes.get_xscale() == "linear"
    assert figure.axes[0].get_ylabel() == "test/accuracy"
    (legend,) = figure.legends
    assert [text.get_text() for text in legend.get_texts()] == ["small", "large"]


def test_published_points_are_marked_and_those_from_memory_are_hollow():
    known = [
        published.Published("S", "1k", 384, 0.839, 21.5, 8.4, "a", 7.1, True),
        published.Published("CoAtNet-7", "JFT", 512, 0.9, 2440, None, published.COATNET),
        published.Published("B7", "1k", 0, 0.85, 66, 38, "c", 54.0),
    ]
    figure = scatter.scatter_figure(RUNS, known)
    sizes, macs, hours = figure.axes
    assert points(sizes)[:3] == [
        ((21.5, 0.839), "published: EfficientNetV2, 1k", True),
        ((2440, 0.9), "published: CoAtNet, JFT", True),
        ((66, 0.85), "published: EfficientNet, progressive, 1k", True),
    ]
    assert [x for (x, _), *_ in points(macs)] == [8400, 38_000, 5, 70]
    # 9 hours of steps and one of waiting on 8 devices; the other run does not say on how many it was.
    assert points(hours) == [
        ((7.1, 0.839), "published: EfficientNetV2, 1k (hours from memory)", False),
        ((54, 0.85), "published: EfficientNet, progressive, 1k", True),
        ((pytest.approx(2.5), 0.75), "small", True),
    ]
    assert hours.get_xlabel() == "hours of training as if on 32 devices"
    assert {axes.get_xscale() for axes in figure.axes} == {"log"}
    assert [text.get_text() for text in macs.texts] == ["S 384", "B7"]
    assert [text.get_text() for text in sizes.texts] == ["S", "7", "B7"]
    colours = [matplotlib.colors.to_hex(dots.get_edgecolor()[0][:3]) for dots in sizes.collections[:3]]
    assert len(set(colours)) == 3
    assert sizes.get_ylabel() == "ImageNet top-1 and test/accuracy"
    assert len(figure.legends[0].get_texts()) == 6


def test_published_figures_are_those_of_the_networks_here():
    """Parameters of each against what the network of that name really has."""
    names = {"B0": "efficientnet_v2_b0", "S": "efficientnet_v2_s", "CoAtNet-0": "coatnet_0"}
    image = jax.ShapeDtypeStruct((1, 64, 64, 3), jnp.float32)
    known = {point.name: point.params for point in published.PUBLISHED}
    for name, model_name in names.items():
        model = create_model(model_name, num_classes=1000)
        shapes = jax.eval_shape(lambda x, m=model: m.init(jax.random.key(0), x, train=False), image)["params"]
        count = sum(np.prod(leaf.shape) for leaf in jax.tree.leaves(shapes))
        assert known[name] == pytest.approx(count / 1e6, rel=0.01)
    assert all(0.7 < point.accuracy < 0.91 for point in published.PUBLISHED)
    assert all(
        point.hours_recalled or point.name.startswith("B7") for point in published.PUBLISHED if point.hours
    )


def test_the_command_draws_published_networks_alone(tmp_path, monkeypatch):
    drawn = []
    encode = media.encode_figure
    monkeypatch.setattr(media, "encode_figure", lambda figure: drawn.append(figure) or encode(figure))
    with pytest.raises(SystemExit) as ended:
        main(["image_classification", "pictures", "--published", "--output", str(tmp_path)])
    assert not ended.value.code
    places = {dots[0] for dots in points(drawn[0].axes[0])}
    assert {(21.5, 0.839), (25, 0.816), (2440, 0.9088)} <= places
    assert len(drawn[0].axes[0].collections) == len(published.PUBLISHED)
    assert len(drawn[0].axes[1].collections) == len(published.PUBLISHED) - 1  # XL's are not known for sure
    assert [file.name for file in tmp_path.iterdir()] == ["scatter.png"]
