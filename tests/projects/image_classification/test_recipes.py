"""What the experiment files resolve to, against the tables of both papers and google/automl as literals."""

import functools
import itertools
import pathlib

import jax.numpy as jnp
import numpy as np
import pytest

from offsites_jax.train.config import load_experiment
from offsites_jax.train.optimizers import learning_rate

FOLDER = pathlib.Path(__file__).parents[3] / "experiments" / "image_classification"
V1_MEAN = (123.675, 116.28, 103.53)


@functools.cache
def load(name):
    file, _, variant = name.partition(":")
    return load_experiment(f"{FOLDER / file}.py:{variant}")


def model_of(experiment):
    return experiment.found.create_task(experiment, jnp.dtype("float32")).model


def rates(experiment, *steps):
    section = experiment.optimizer["main"]
    rate = learning_rate(section, experiment.train.steps)
    return [float(rate(step)) for step in steps]


# EfficientNetV2: arXiv 2104.00298, table 6, and the lists of google/automl's main.py.

GROWING = {  # by stage: pixels, RandAugment, mixup, CutMix, dropout
    "s": ((128, 185, 242, 300), (5, 15), (0, 0), (0, 0), (0.1, 0.3)),
    "m": ((128, 212, 296, 380), (5, 20), (0, 0.2), (0, 0), (0.1, 0.4)),
    "l": ((128, 212, 296, 380), (5, 25), (0, 0.5), (0, 0), (0.1, 0.5)),
    "s-automl": ((171, 214, 257, 300), (5, 10), (0, 0), (0, 0), (0.2, 0.2)),
    "m-automl": ((192, 256, 320, 384), (5, 15), (0, 0.2), (0, 0.2), (0.3, 0.3)),
    "l-automl": ((192, 256, 320, 384), (5, 20), (0, 0.5), (0, 0.5), (0.4, 0.4)),
}


@pytest.mark.parametrize("variant", GROWING)
def test_v2_grows_as_table_6_says(variant):
    pixels, *ranges = GROWING[variant]
    experiment = load(f"imagenet_v2:{variant}")
    assert experiment.ends == (27368, 54737, 82105, 109474)
    stages = [experiment.at_stage(index) for index in range(4)]
    assert tuple(stage.data.image_size for stage in stages) == pixels
    found = [
        (s.data.magnitude, s.task.mixup_alpha, s.task.cutmix_alpha, model_of(s).dropout_rate) for s in stages
    ]
    wanted = np.stack([np.linspace(low, high, 4) for low, high in ranges], axis=1)
    np.testing.assert_allclose(found, wanted, atol=1e-9)
    assert {(s.data.augment, s.data.num_ops, s.data.preprocess) for s in stages} == {("randaugment", 2, "v2")}
    assert {s.data.eval_size for s in stages} == {384 if variant[0] == "s" else 480}


@pytest.mark.parametrize("variant", [*GROWING, "b0", "b1", "b2", "b3"])
def test_v2_trains_from_scratch_as_section_4_says(variant):
    experiment = load(f"imagenet_v2:{variant}")
    optimizer = experiment.optimizer["main"]
    assert (optimizer.name, optimizer.weight_decay, optimizer.clip_norm) == ("rmsprop_tf", 0, 0)
    # 0.256 after 5 epochs, x 0.97 for every 2.4 epochs since the start; steps of epochs 5, 7.3 and 350.
    found = rates(experiment, 1563, 2283, 109_473)
    np.testing.assert_allclose(found, [0.256 * 0.97**2, 0.256 * 0.97**3, 0.256 * 0.97**145], rtol=1e-5)
    assert (experiment.train.batch_size, experiment.train.steps) == (4096, 109_474)
    assert (experiment.train.ema.decay, experiment.train.ema.warmup) == (0.9999, True)
    assert (experiment.task.loss, experiment.task.label_smoothing) == ("softmax", 0.1)
    assert experiment.task.l2 == 1e-5
    assert model_of(experiment).stochastic_depth_rate == pytest.approx(0.2)


V1_SIZES = {  # training: int(0.8 x evaluation) // 16 x 16; dropout
    "b0": (176, 224, 0.2), "b1": (192, 240, 0.2), "b2": (208, 260, 0.3), "b3": (240, 300, 0.3),
    "b4": (304, 380, 0.4), "b5": (352, 456, 0.4), "b6": (416, 528, 0.5), "b7": (480, 600, 0.5),
}  # fmt: skip
SMALL_V2 = {"b0": (192, 224, 0.2), "b1": (192, 240, 0.2), "b2": (208, 260, 0.3), "b3": (240, 300, 0.3)}


@pytest.mark.parametrize(
    ("name", "sizes"),
    [(f"imagenet_v1:{size}", about) for size, about in V1_SIZES.items()]
    + [(f"imagenet_v2:{size}", about) for size, about in SMALL_V2.items()],
)
def test_networks_of_the_first_recipe_have_their_own_sizes_and_autoaugment(name, sizes):
    experiment = load(name)
    data = experiment.data
    assert (data.image_size, data.eval_size, model_of(experiment).dropout_rate) == sizes
    assert (data.augment, data.preprocess, data.crop_area) == ("autoaugment", "v1", (0.08, 1.0))
    assert data.mean == V1_MEAN
    assert experiment.train.steps == 109_474
    assert not experiment.stages


@pytest.mark.parametrize(("size", "epochs"), itertools.product(["s", "m", "l", "xl"], (60, 30)))
def test_v2_on_21k_is_the_released_recipe(size, epochs):
    experiment = load(f"imagenet21k_v2:{size}" + ("" if epochs == 60 else "-30"))
    assert experiment.train.steps == int(epochs * 12_720_275 / 4096)
    # 0.008 x 4096 / 256 after one epoch of 3,105 steps.
    np.testing.assert_allclose(rates(experiment, 3105), 0.128, rtol=1e-6)
    assert rates(experiment, experiment.train.steps)[0] == pytest.approx(0, abs=1e-9)
    assert (experiment.task.loss, experiment.task.label_smoothing) == ("multilabel_softmax", 0)
    assert (experiment.data.augment, experiment.data.image_size, experiment.data.cutout) == ("none", 224, 0)
    model = model_of(experiment)
    assert (model.num_classes, model.dropout_rate, model.stochastic_depth_rate) == (21_843, 0, 0)
    assert (experiment.train.ema.decay, experiment.task.l2) == (0.9999, 1e-5)
    assert (experiment.data.shards, experiment.data.of_split("eval")[0].shards) == ((20, 0), (0, 16))


@pytest.mark.parametrize(("size", "rate"), itertools.product(["s", "m", "l", "xl"], ("constant", "cosine")))
def test_v2_from_21k_to_1k_is_imagenet_ft(size, rate):
    experiment = load(f"imagenet21k_to_1k_v2:{size}" + ("-cosine" if rate == "cosine" else ""))
    assert (experiment.train.batch_size, experiment.train.steps) == (512, int(15 * 1_281_167 / 512))
    end = {"constant": 1e-3, "cosine": 0}[rate]
    np.testing.assert_allclose(rates(experiment, 2502, 37_533), [1e-3, end], rtol=1e-5, atol=1e-8)
    assert (experiment.train.ema.decay, experiment.task.l2, experiment.task.label_smoothing) == (
        0.9996,
        1e-5,
        0.1,
    )
    data = experiment.data
    assert data.image_size == {"s": 384, "m": 480, "l": 480, "xl": 512}[size]
    assert (data.preprocess, data.augment, data.cutout, data.cutout_fill) == ("whole", "none", 0.5, "noise")
    assert (data.mean, data.std) == ((127.5,), (127.5,))
    model = model_of(experiment)
    assert (model.dropout_rate, model.stochastic_depth_rate) == (0, 0.2)
    assert experiment.init_from.params == "ema"


TRANSFERS = {"cifar10": 10, "cifar100": 100, "flowers": 102, "cars": 196}


@pytest.mark.parametrize(("size", "target"), itertools.product("sml", TRANSFERS))
def test_transfer_is_that_of_section_5_3(size, target):
    experiment = load(f"transfer_v2:{size}-{target}")
    assert (experiment.train.batch_size, experiment.train.steps) == (512, 10_000)
    np.testing.assert_allclose(rates(experiment, 0, 5000, 10_000), [1e-3, 5e-4, 0], atol=1e-9)
    optimizer = experiment.optimizer["main"]
    assert (optimizer.weight_decay, optimizer.l2, experiment.task.l2) == (0, 0, 0)
    assert (experiment.train.ema.decay, experiment.task.label_smoothing) == (0.9996, 0.1)
    assert (experiment.data.cutout, experiment.model.num_classes) == (0.5, TRANSFERS[target])
    assert experiment.data.image_size == {"s": 384, "m": 480, "l": 480}[size]


# CoAtNet: arXiv 2106.04803, table 10.

# Depth rate, whole image, magnitude, mixup, loss, smoothing, epochs, batch, peak, end, warm-up, decay, EMA.
TABLE_10 = {
    "imagenet_coatnet:0": (0.2, False, 15, 0.8, "softmax", 0.1, 300, 4096, 1e-3, 1e-5, 10_000, 0.05, 0),
    "imagenet_coatnet:1": (0.3, False, 15, 0.8, "softmax", 0.1, 300, 4096, 1e-3, 1e-5, 10_000, 0.05, 0),
    "imagenet_coatnet:2": (0.5, False, 15, 0.8, "softmax", 0.1, 300, 4096, 1e-3, 1e-5, 10_000, 0.05, 0),
    "imagenet_coatnet:3": (0.7, False, 15, 0.8, "softmax", 0.1, 300, 4096, 1e-3, 1e-5, 10_000, 0.05, 0),
    "imagenet_coatnet:0-384": (0.2, True, 15, 0.8, "softmax", 0.1, 30, 512, 5e-5, 5e-5, 0, 1e-8, 0.9999),
    "imagenet_coatnet:1-384": (0.3, True, 15, 0.8, "softmax", 0.1, 30, 512, 5e-5, 5e-5, 0, 1e-8, 0.9999),
    "imagenet_coatnet:2-512": (0.5, True, 15, 0.8, "softmax", 0.1, 30, 512, 5e-5, 5e-5, 0, 1e-8, 0.9999),
    "imagenet_coatnet:3-512": (0.7, True, 20, 0.8, "softmax", 0.1, 30, 512, 5e-5, 5e-5, 0, 1e-8, 0.9999),
    "imagenet21k_coatnet:2": (0.3, False, 0, 0, "sigmoid", 1e-4, 90, 4096, 1e-3, 1e-5, 15_527, 0.01, 0),
    "imagenet21k_coatnet:3": (0.5, False, 0, 0, "sigmoid", 1e-4, 90, 4096, 1e-3, 1e-5, 15_527, 0.01, 0),
    "imagenet21k_coatnet:4": (0.7, False, 0, 0, "sigmoid", 1e-4, 90, 4096, 1e-3, 1e-5, 15_527, 0.01, 0),
    "imagenet21k_coatnet:4-ra": (0.7, False, 5, 0, "sigmoid", 1e-4, 90, 4096, 1e-3, 1e-5, 15_527, 0.01, 0),
    "imagenet21k_coatnet:4-ra-150": (
        0.7, False, 5, 0, "sigmoid", 1e-4, 150, 4096, 1e-3, 1e-5, 15_527, 0.01, 0,
    ),
    "imagenet21k_coatnet:2-384": (0.3, True, 0, 0, "softmax", 0.1, 30, 1024, 5e-5, 5e-5, 0, 1e-8, 0.9999),
    "imagenet21k_coatnet:3-224": (0.5, True, 0, 0, "softmax", 0.1, 30, 1024, 5e-5, 5e-5, 0, 1e-8, 0.9999),
    "imagenet21k_coatnet:4-512": (0.7, True, 0, 0, "softmax", 0.1, 30, 1024, 5e-5, 5e-5, 0, 1e-8, 0.9999),
    "imagenet21k_coatnet:4-ra-384": (0.7, True, 5, 0, "softmax", 0.1, 30, 1024, 5e-5, 5e-5, 0, 1e-8, 0.9999),
    "table_coatnet:3": (0.0, False, 5, 0, "sigmoid", 1e-4, 14, 4096, 1e-3, 1e-5, 20_000, 0.01, 0),
    "table_coatnet:4": (0.1, False, 5, 0, "sigmoid", 1e-4, 14, 4096, 5e-4, 1e-5, 20_000, 0.01, 0),
    "table_coatnet:5": (0.0, False, 5, 0, "sigmoid", 1e-4, 14, 4096, 5e-4, 1e-5, 20_000, 0.01, 0),
    "table_coatnet:3-384": (0.1, True, 5, 0, "softmax", 0.1, 30, 512, 5e-5, 5e-5, 0, 1e-8, 0.9999),
    "table_coatnet:4-512": (0.3, True, 5, 0, "softmax", 0.1, 30, 512, 5e-5, 5e-5, 0, 1e-8, 0.9999),
    "table_coatnet:5-512": (0.2, True, 5, 0, "softmax", 0.1, 30, 512, 5e-5, 5e-5, 0, 1e-8, 0.9999),
}  # fmt: skip
IMAGES = {"tfds": 1_281_167, "tfrecord": 12_720_275, "table": 300_000_000}


@pytest.mark.parametrize("name", TABLE_10)
def test_coatnet_is_trained_as_table_10_says(name):
    depth, whole, magnitude, mixup, loss, smoothing, epochs, batch, peak, end, warmup, decay, ema = TABLE_10[
        name
    ]
    experiment = load(name)
    data, task, optimizer = experiment.data, experiment.task, experiment.optimizer["main"]
    steps = int(epochs * IMAGES[data.source] / batch)
    assert model_of(experiment).stochastic_depth_rate == depth
    assert (data.eval_crop, data.preprocess) == (("whole", "v2") if whole else ("auto", "v1"))
    assert (data.magnitude, data.num_ops) == (magnitude, 2) if magnitude else data.augment == "none"
    assert data.augment == ("randaugment" if magnitude else "none")
    assert (task.loss, task.label_smoothing, task.mixup_alpha) == (loss, smoothing, mixup)
    assert (experiment.train.steps, experiment.train.batch_size) == (steps, batch)
    np.testing.assert_allclose(rates(experiment, warmup, steps), [peak, end], rtol=1e-4)
    if warmup:
        np.testing.assert_allclose(rates(experiment, 0, warmup / 2), [0, peak / 2], rtol=1e-6)
        middle = (peak + end) / 2  # of a cosine as of a line
        np.testing.assert_allclose(rates(experiment, (warmup + steps) / 2), middle, rtol=1e-3)
        assert optimizer.learning_rate.name == ("cosine" if data.source == "tfds" else "linear")
    assert (optimizer.name, optimizer.clip_norm) == ("adamw", 1.0)
    assert optimizer.weight_decay == decay
    assert experiment.train.ema.decay == ema
    pixels = name.rpartition("-")[2]
    assert data.image_size == (int(pixels) if whole else 224)


@pytest.mark.parametrize("variant", ["3", "3-384", "3-512"])
def test_coatnet_3_on_a_table_strides_in_its_depthwise_convolutions(variant):
    assert model_of(load(f"table_coatnet:{variant}")).conv.downsample == "dw"
    assert model_of(load(f"table_coatnet:{variant.replace('3', '4', 1)}")).conv.downsample == "conv1x1"


# Ablations.

NETWORKS = ("resnet_50", "resnet_152", "efficientnet_b4", "efficientnet_b5", "efficientnet_b7")


@pytest.mark.parametrize("network", NETWORKS)
def test_fixed_is_the_progressive_arm_at_its_last_stage_in_all_but_the_stages(network):
    fixed = load(f"ablation_progressive:{network}-fixed")
    last = load(f"ablation_progressive:{network}-progressive").final
    assert (fixed.model, fixed.task, fixed.data, fixed.train) == (
        last.model,
        last.task,
        last.data,
        last.train,
    )
    others = {*fixed.raw, *last.raw} - {"stages", "expected"}
    assert {key: fixed.raw[key] for key in others} == {key: last.raw[key] for key in others}
    assert list(last.ends) == [27368, 54737, 82105, 109474]
    assert not fixed.stages


@pytest.mark.parametrize(("size", "strongest"), [("s", 0.3), ("m", 0.4)])
def test_the_first_arm_of_resizing_is_the_recipe_and_the_others_change_stages_alone(size, strongest):
    recipe = load(f"imagenet_v2:{size}")
    for arm in ("progressive-adaptive", "progressive-vanilla", "random-adaptive", "random-vanilla"):
        found = load(f"ablation_resizing:{size}-{arm}")
        others = {*found.raw} - {"stages", "expected"}
        assert {key: found.raw[key] for key in others} == {key: recipe.raw[key] for key in others}
        assert (found.raw["stages"] == recipe.raw["stages"]) == (arm == "progressive-adaptive")
        dropout = {stage.model["overrides"]["dropout_rate"] for stage in found.stages}
        assert (dropout == {strongest}) == arm.endswith("vanilla")
        assert (len(found.stages) == 44) == arm.startswith("random")


@pytest.mark.parametrize(("pixels", "magnitude"), itertools.product((128, 192, 300), (5, 10, 15)))
def test_the_grid_of_randaugment_has_one_size_and_one_strength(pixels, magnitude):
    experiment = load(f"ablation_randaugment:{pixels}-{magnitude}")
    data = experiment.data
    assert (data.image_size, data.eval_size, data.magnitude, data.augment) == (
        pixels,
        0,
        magnitude,
        "randaugment",
    )
    assert not experiment.stages
