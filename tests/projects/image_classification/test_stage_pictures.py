"""The schedule against the list of stages, the samples against the batches of training, the bias maps."""

import pathlib

import numpy as np
import pytest
from PIL import Image

from offsites_jax.cli.main import main
from offsites_jax.data.pipeline import global_batch
from offsites_jax.errors import UserError
from offsites_jax.models.coatnet import CoAtNet
from offsites_jax.nn.relative_tables import pair_biases_by_gather
from offsites_jax.projects.image_classification.figures import biases
from offsites_jax.projects.image_classification.figures import stages as stage_figures
from offsites_jax.train.config import load_experiment

FILE = pathlib.Path(__file__).parents[3] / "experiments" / "image_classification" / "compare_progressive.py"


@pytest.fixture(scope="module")
def experiment():
    return load_experiment(f"{FILE}:progressive", {"train.batch_size": "4"})


def test_the_schedule_is_the_list_of_stages(experiment):
    stages = stage_figures.schedule(experiment)
    assert [(stage.start, stage.end, stage.pixels) for stage in stages] == [
        (0, 120, 16),
        (120, 240, 21),
        (240, 360, 26),
        (360, 480, 32),
    ]
    np.testing.assert_allclose([stage.mixup for stage in stages], np.linspace(0, 0.4, 4))
    np.testing.assert_allclose([stage.dropout for stage in stages], np.linspace(0.1, 0.3, 4))
    assert not any(stage.magnitude or stage.cutmix for stage in stages)


def test_the_schedule_of_a_published_recipe():
    """EfficientNetV2-M, table 6 of arXiv 2104.00298."""
    stages = stage_figures.schedule(load_experiment(FILE.with_name("imagenet_v2.py").as_posix() + ":m"))
    found = [(stage.magnitude, stage.mixup, stage.dropout) for stage in stages]
    np.testing.assert_allclose(found, np.linspace((5, 0, 0.1), (20, 0.2, 0.4), 4))
    assert [stage.pixels for stage in stages] == [128, 212, 296, 380]
    assert [stage.start for stage in stages[1:]] == [stage.end for stage in stages[:-1]]


def test_the_chart_draws_those_values_and_leaves_out_what_is_off(experiment):
    stages = stage_figures.schedule(experiment)
    figure = stage_figures.schedule_figure(stages)
    drawn = {axes.get_ylabel(): axes.patches[0].get_data() for axes in figure.axes}
    assert list(drawn) == ["side of the images, pixels", "dropout rate", "mixup alpha"]
    values, edges, _ = drawn["mixup alpha"]
    np.testing.assert_array_equal(edges, [0, 120, 240, 360, 480])
    np.testing.assert_allclose(values, [stage.mixup for stage in stages])


def test_an_experiment_without_stages_is_one():
    (stage,) = stage_figures.schedule(load_experiment(f"{FILE}:fixed"))
    assert (stage.start, stage.end, stage.pixels, stage.mixup, stage.dropout) == (0, 480, 32, 0.4, 0.3)


def test_samples_are_the_batches_of_training(experiment):
    staged = experiment.at_stage(0)
    batch = global_batch(
        staged.found.create_pipeline(staged, "train", train=True), batch_size=4, seed=0, step=7
    )
    seen = stage_figures.seen_images(staged, 7)
    np.testing.assert_allclose(seen, batch["image"] / 255, atol=1e-6)


def test_samples_are_blended_where_the_stage_blends():
    settings = {"train.batch_size": "4", "task.mixup_alpha": "5.0"}
    staged = load_experiment(f"{FILE}:fixed", settings)
    batch = global_batch(
        staged.found.create_pipeline(staged, "train", train=True), batch_size=4, seed=0, step=0
    )["image"].astype(float)
    seen = stage_figures.seen_images(staged, 0) * 255
    own, other = batch, batch[[1, 0, 3, 2]]
    differs = np.abs(own - other) > 30
    shares = [((s - a) / (b - a + 1e-9))[d] for s, a, b, d in zip(seen, own, other, differs, strict=True)]
    for share in shares:  # each image takes one part of its neighbour, at most half
        np.testing.assert_allclose(share, share[0], atol=1e-3)
        assert 0 < share[0] <= 0.5


def test_maps_show_each_bias_where_its_key_lies():
    """Against the biases of all pairs: the middle pixel of a 3 x 3 map looks at all others."""
    table = np.random.default_rng(0).normal(size=(2, 5, 5)).astype(np.float32)
    pairs = np.asarray(pair_biases_by_gather(table)).reshape(2, 3, 3, 3, 3)
    seen = biases.seen_from_the_middle(table[1])
    np.testing.assert_array_equal(seen[1:4, 1:4], pairs[1, 1, 1])


def test_tables_are_those_of_the_blocks_in_order():
    """A numpy tree as a checkpoint gives it, one run of blocks scanned."""
    rng = np.random.default_rng(0)
    tables = rng.normal(size=(4, 2, 3, 3))
    tree = {
        "stage_10": {"block_0": {"attention": {"relative_bias": tables[3]}}},
        "stage_2": {
            "block_0": {"attention": {"relative_bias": tables[0], "query": {"kernel": np.zeros(3)}}},
            "blocks_1_2": {"attention": {"relative_bias": tables[1:3]}},
        },
        "stem": {"conv_0": {"kernel": np.zeros(3)}},
    }
    found = biases.find_tables(tree)
    assert list(found) == ["stage_2/block_0", "stage_2/block_1", "stage_2/block_2", "stage_10/block_0"]
    for table, name in zip(tables, found, strict=True):
        np.testing.assert_array_equal(found[name], table)
    figure = biases.bias_figure(found)
    drawn = [axes.images[0].get_array() for axes in figure.axes if axes.images]
    assert len(drawn) == 8
    np.testing.assert_array_equal(drawn[3], tables[1, 1, ::-1, ::-1])


def test_the_tables_of_a_network_are_found_by_their_names():
    import jax
    import jax.numpy as jnp

    model = CoAtNet(stages=("c1_d8", "t2_d32"), stem_widths=(8, 8), num_classes=0)
    shapes = jax.eval_shape(lambda: model.init(jax.random.key(0), jnp.zeros((1, 32, 16, 1)), train=False))[
        "params"
    ]
    tree = jax.tree.map(lambda leaf: np.zeros(leaf.shape), shapes)
    found = biases.find_tables(tree)
    # Maps of 4 x 2 pixels after the stem and two stages.
    assert {name: table.shape for name, table in found.items()} == {
        "stage_2/block_0": (1, 7, 3),
        "stage_2/block_1": (1, 7, 3),
    }


def test_the_command_draws_the_stages(tmp_path):
    words = ["pictures", "--experiment", f"{FILE}:progressive", "--output", str(tmp_path)]
    with pytest.raises(SystemExit) as ended:
        main(["image_classification", *words])
    assert not ended.value.code
    assert sorted(file.name for file in tmp_path.iterdir()) == ["samples.png", "schedule.png"]
    assert all(Image.open(file).size[0] > 100 for file in tmp_path.iterdir())


def test_nothing_to_draw_and_no_biases_are_refused(tmp_path, monkeypatch):
    from offsites_jax.projects.image_classification.jobs import pictures

    with pytest.raises(UserError, match="nothing to draw"):
        pictures(str(tmp_path))
    empty = biases.find_tables({"stem": {"kernel": np.zeros(2)}})
    assert empty == {}
