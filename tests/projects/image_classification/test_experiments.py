"""Every experiment file and variant: it resolves at every stage, and its network is the one it says."""

import ast
import dataclasses
import functools
import importlib.util
import math
import pathlib
import shlex

import jax
import jax.numpy as jnp
import pytest

from offsites_jax.cli.main import parse_overrides
from offsites_jax.errors import UserError
from offsites_jax.models.counting import count_variables
from offsites_jax.parallel.mesh import MeshSettings, create_mesh
from offsites_jax.parallel.rules import shardings, table
from offsites_jax.projects.image_classification.recipes import efficientnet
from offsites_jax.train.config import load_experiment, plain
from offsites_jax.train.optimizers import create_optimizer, learning_rate

FOLDER = pathlib.Path(__file__).parents[3] / "experiments" / "image_classification"
FILES = sorted(FOLDER.glob("*.py"))
FULL_SCALE = [file for file in FILES if "\nPod: " in ast.get_docstring(ast.parse(file.read_text()))]

# Parameters with 1,000 classes: google/automl, Keras, torchvision, and tables 3 and 12 of arXiv 2106.04803.
PARAMETERS = {
    "efficientnet_v2_b0": 7_139_704, "efficientnet_v2_b1": 8_141_052, "efficientnet_v2_b2": 10_096_086,
    "efficientnet_v2_b3": 14_358_406, "efficientnet_v2_s": 21_458_488, "efficientnet_v2_m": 54_139_356,
    "efficientnet_v2_l": 118_515_272, "efficientnet_v2_xl": 208_119_808,
    "efficientnet_b0": 5_288_548, "efficientnet_b1": 7_794_184, "efficientnet_b2": 9_109_994,
    "efficientnet_b3": 12_233_232, "efficientnet_b4": 19_341_616, "efficientnet_b5": 30_389_784,
    "efficientnet_b6": 43_040_704, "efficientnet_b7": 66_347_960,
    "resnet_50": 25_557_032, "resnet_152": 60_192_808,
    "coatnet_0": 25_036_820, "coatnet_1": 42_225_776, "coatnet_2": 74_684_744, "coatnet_3": 166_966_264,
    "coatnet_4": 275_425_288, "coatnet_5": 687_052_952, "coatnet_6": 1_471_125_232,
    "coatnet_7": 2_441_972_728,
}  # fmt: skip
# Tables of relative biases: blocks x heads x positions, of stages 3 and 4 at 224 pixels.
TABLES_2, TABLES_4 = 14 * 16 * 27**2 + 2 * 32 * 13**2, 28 * 24 * 27**2 + 2 * 48 * 13**2
# What the docstrings say, in millions, or exactly.
CHANGED = {
    "ablation_fused_b4:1-3": 20.9, "ablation_fused_b4:1-5": 43.5, "ablation_fused_b4:1-7": 132.1,
    "ablation_coatnet:cccc": 62.7, "ablation_coatnet:ccct": 67.4, "ablation_coatnet:cttt": 75.6,
    "ablation_coatnet:vit_rel": 73.4, "ablation_coatnet:shallow": 84.7, "ablation_coatnet:deep": 69.7,
    "ablation_transfer_coatnet:cttt": 75.6, "ablation_transfer_coatnet:cttt-224": 75.6,
    "ablation_transfer_coatnet:cttt-384": 75.6,
    "ablation_coatnet:absolute": 74_684_744 - TABLES_2,
    "ablation_coatnet:absolute-384": 74_684_744 - TABLES_2,
    "ablation_coatnet:absolute-21k": 275_425_288 - TABLES_4,
    "ablation_coatnet:absolute-21k-384": 275_425_288 - TABLES_4,
    "ablation_coatnet:head_64": 74_684_744 - TABLES_2 // 2,
}  # fmt: skip


def module(file):
    spec = importlib.util.spec_from_file_location(f"checked_{file.stem}", file)
    loaded = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(loaded)
    return loaded


def variants(files):
    for file in files:
        loaded = module(file)
        names = getattr(loaded, "VARIANTS", ())
        yield from (pytest.param(f"{file}:{name}", id=f"{file.stem}:{name}") for name in names)
        if not names:
            yield pytest.param(str(file), id=file.stem)


load = functools.cache(load_experiment)


def named(name):
    file, _, variant = name.partition(":")
    return load(f"{FOLDER / file}.py:{variant}")


def create_task(experiment):
    return experiment.found.create_task(experiment, jnp.dtype("float32"))


def abstract_params(experiment, size=32):
    """Shapes of the parameters, initialised on small images: CoAtNet's biases would need its own size."""
    task = create_task(experiment)
    size = experiment.data.image_size if experiment.model.name.startswith("coatnet") else size
    batch = {"image": jax.ShapeDtypeStruct((2, size, size, experiment.data.channels), jnp.uint8)}
    return task, jax.eval_shape(task.init, jax.random.key(0), batch)["params"]


def plain_network(model):
    """The network with what changes neither shapes nor names of its parameters left at one value."""
    fields = {field.name for field in dataclasses.fields(model)}
    same = {
        "num_classes": 1000, "dropout_rate": 0.0, "stochastic_depth_rate": 0.0, "scan": False, "remat": False,
        "table_image_size": (), "norm": type(model.norm)(),
    }  # fmt: skip
    return model.clone(**{key: value for key, value in same.items() if key in fields})


@functools.cache
def count_params(network):
    return count_variables(network, 224)["params"]


@pytest.mark.parametrize("name", variants(FILES))
def test_every_variant_resolves_at_every_stage(name):
    experiment = load(name)
    stages = [experiment.at_stage(experiment.first_alike(index)) for index in range(len(experiment.ends))]
    for stage in {id(stage): stage for stage in stages}.values():
        size = stage.data.image_size
        assert create_task(stage).batch_spec(2)["image"].shape == (2, size, size, stage.data.channels)
    assert experiment.final.data.image_size == stages[-1].data.image_size
    assert experiment.project == "image_classification"
    section = experiment.optimizer["main"]
    rate = learning_rate(section, experiment.train.steps)
    peak = getattr(section.learning_rate, "peak", section.learning_rate)
    warmup = getattr(section.learning_rate, "warmup_steps", 0)
    assert warmup < experiment.train.steps
    assert float(rate(warmup)) <= peak * (1 + 1e-6)


@pytest.mark.parametrize("name", variants(FULL_SCALE))
def test_every_full_scale_network_has_the_parameters_published_or_told(name):
    experiment = load(name).final
    found = count_params(plain_network(create_task(experiment).model))
    told = CHANGED.get(f"{pathlib.Path(name.partition(':')[0]).stem}:{name.partition(':')[2]}")
    if told is not None and told < 1000:
        assert round(found / 1e6, 1) == told
    else:
        assert found == (told or PARAMETERS[experiment.model.name])


@pytest.mark.parametrize("name", variants(FULL_SCALE))
def test_moments_are_of_64_images_or_more_and_no_reported_split_picks_a_checkpoint(name):
    """google/automl averages moments over 8 of 32 cores: 1,024 images of 4,096."""
    experiment = load(name)
    norm, batch_size = experiment.model.overrides["norm"], experiment.train.batch_size
    assert norm["statistics"] == "group"
    assert norm["group_size"] == batch_size // 4 >= 64
    assert experiment.train.keep.best in ("", "minival/accuracy")
    if experiment.train.keep.best:
        split = experiment.evaluators["minival"].split
        assert experiment.data.of_split(split)[1] == "train[:2%]"
        assert experiment.data.train_split == "train[2%:]"


@pytest.mark.parametrize("file", FULL_SCALE, ids=lambda file: file.stem)
def test_every_full_scale_file_says_what_it_needs_and_costs(file):
    about = ast.get_docstring(ast.parse(file.read_text()))
    assert {"Data", "Pod", "Cost", "Expect"} <= {line.partition(":")[0] for line in about.splitlines()}


@pytest.mark.parametrize("file", FILES, ids=lambda file: file.stem)
def test_commands_of_docstrings_name_variants_and_keys_there_are(file):
    about = ast.get_docstring(ast.parse(file.read_text())).replace("\\\n", " ")
    commands = [
        shlex.split(line) for line in about.splitlines() if line.strip().startswith("offsites train ")
    ]
    assert commands
    for _, _, experiment, *rest in commands:
        overrides = parse_overrides([word for word in rest if word.startswith("--config.")])
        assert load_experiment(FOLDER.parents[1] / experiment, overrides).project == "image_classification"


@pytest.mark.parametrize("size", ["5", "6", "7"])
def test_parameters_of_the_largest_are_spread_evenly_over_a_mesh(size):
    experiment = named(f"table_coatnet:{size}")
    assert experiment.mesh.fsdp > 1
    _, params = abstract_params(experiment)
    total = 4 * sum(math.prod(leaf.shape) for leaf in jax.tree.leaves(params))
    for mesh in (MeshSettings(data=1, fsdp=8), MeshSettings(data=1, fsdp=4, tensor=2)):
        rows = table(params, shardings(params, create_mesh(mesh), experiment.sharding))
        assert sum(row.bytes_per_device for row in rows) < 1.1 * total / 8


# One of each family of networks: initialising all would take minutes.
BUILT = (
    "imagenet_v2:s",
    "imagenet21k_v2:s",
    "imagenet_coatnet:0-384",
    "ablation_progressive:resnet_50-fixed",
)


@pytest.mark.parametrize("name", BUILT)
def test_task_optimizer_and_parameters_can_be_built(name):
    experiment = named(name).final
    task, params = abstract_params(experiment)
    jax.eval_shape(create_optimizer(experiment.optimizer["main"], params, 10).init, params)
    spec = task.batch_spec(4)
    assert spec["label"].shape == ((4, 32) if "21k" in name else (4,))
    assert spec["image"].shape[1] == experiment.data.image_size


LAYOUTS = {
    "cccc": "c" * 24, "ccct": "c" * 22 + "t" * 2, "cttt": "c" * 2 + "t" * 22, "shallow": "c" * 4 + "t" * 20,
    "deep": "c" * 10 + "t" * 14, "vit_rel": "t" * 12, "strided_dw-0": "c" * 5 + "t" * 7,
    "absolute-21k": "c" * 14 + "t" * 30, "absolute-21k-384": "c" * 14 + "t" * 30,
}  # fmt: skip


@pytest.mark.parametrize("name", module(FOLDER / "ablation_coatnet.py").VARIANTS)
def test_what_is_changed_of_coatnet_is_a_network(name):
    model = create_task(named(f"ablation_coatnet:{name}")).model
    assert "".join(block.kind for block in model.blocks) == LAYOUTS.get(name, "c" * 8 + "t" * 16)


def test_the_file_that_is_written_out_is_the_recipe():
    written = plain(module(FOLDER / "imagenet_v2_s.py").get_config())
    recipe = plain(efficientnet.v2("s"))
    assert written == recipe


def test_rates_are_those_published():
    """At the end of the warm-up the staircase has gone down twice: 0.256 x 0.97^2 (google/automl)."""
    experiment = load_experiment(FOLDER / "imagenet_v2.py")
    section = experiment.optimizer["main"]
    rate = learning_rate(section, experiment.train.steps)
    warmup = section.learning_rate.warmup_steps
    assert experiment.train.steps == 109474
    assert float(rate(warmup)) == pytest.approx(0.24087, rel=1e-4)
    assert float(rate(warmup // 2)) == pytest.approx(0.128, rel=1e-2)


def test_an_unknown_variant_lists_the_nearest():
    with pytest.raises(UserError, match="no variant 'sm'; did you mean"):
        load_experiment(f"{FOLDER}/imagenet_v2.py:sm")
