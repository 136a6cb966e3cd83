"""Every experiment file and variant: it resolves at every stage, and its task and parameters can be built."""

import importlib.util
import math
import pathlib

import jax
import jax.numpy as jnp
import pytest

from offsites_jax.errors import UserError
from offsites_jax.projects.image_classification import recipes
from offsites_jax.train.config import load_experiment, plain
from offsites_jax.train.optimizers import create_optimizer, learning_rate

FOLDER = pathlib.Path(__file__).parents[3] / "experiments" / "image_classification"


def module(file):
    spec = importlib.util.spec_from_file_location(f"checked_{file.stem}", file)
    loaded = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(loaded)
    return loaded


def variants():
    for file in sorted(FOLDER.glob("*.py")):
        loaded = module(file)
        names = getattr(loaded, "VARIANTS", ())
        yield from (pytest.param(f"{file}:{name}", id=f"{file.stem}:{name}") for name in names)
        if not names:
            yield pytest.param(str(file), id=file.stem)


def abstract_params(experiment, size=32):
    """Shapes of the parameters, initialised on small images: CoAtNet's biases would need its own size."""
    task = experiment.found.create_task(experiment, jnp.dtype("float32"))
    size = experiment.data.image_size if experiment.model.name.startswith("coatnet") else size
    batch = {"image": jax.ShapeDtypeStruct((2, size, size, experiment.data.channels), jnp.uint8)}
    return task, jax.eval_shape(task.init, jax.random.key(0), batch)["params"]


@pytest.mark.parametrize("name", variants())
def test_every_variant_resolves_at_every_stage(name):
    experiment = load_experiment(name)
    sizes = [experiment.at_stage(index).data.image_size for index in range(len(experiment.ends))]
    assert experiment.final.data.image_size == sizes[-1]
    assert experiment.project == "image_classification"
    section = experiment.optimizer["main"]
    rate = learning_rate(section, experiment.train.steps)
    peak = getattr(section.learning_rate, "peak", section.learning_rate)
    warmup = getattr(section.learning_rate, "warmup_steps", 0)
    assert warmup < experiment.train.steps
    assert float(rate(warmup)) <= peak * (1 + 1e-6)


# One of each family of networks: building all would take minutes.
BUILT = (
    "imagenet_v2:s",
    "imagenet21k_v2:s",
    "imagenet_coatnet:0-384",
    "ablation_progressive:resnet_50-fixed",
)


@pytest.mark.parametrize("name", BUILT)
def test_task_optimizer_and_parameters_can_be_built(name):
    file, _, variant = name.partition(":")
    experiment = load_experiment(f"{FOLDER / file}.py:{variant}").final
    task, params = abstract_params(experiment)
    jax.eval_shape(create_optimizer(experiment.optimizer["main"], params, 10).init, params)
    spec = task.batch_spec(4)
    assert spec["label"].shape == ((4, 32) if "21k" in name else (4,))
    assert spec["image"].shape[1] == experiment.data.image_size


@pytest.mark.parametrize(("stages", "millions"), [(0, 19.3), (5, 43.4), (7, 132.0)])
def test_fused_b4_has_the_published_parameters(stages, millions):
    """Table 3 of arXiv 2104.00298; its 20.0 million with three fused stages are 21.0 here."""
    name = {0: "none", 5: "1-5", 7: "1-7"}[stages]
    _, params = abstract_params(load_experiment(f"{FOLDER}/ablation_fused_b4.py:{name}"))
    count = sum(math.prod(leaf.shape) for leaf in jax.tree.leaves(params)) / 1e6
    assert count == pytest.approx(millions, rel=4e-3)


@pytest.mark.parametrize("name", module(FOLDER / "ablation_coatnet.py").VARIANTS)
def test_what_is_changed_of_coatnet_is_a_network(name):
    experiment = load_experiment(f"{FOLDER}/ablation_coatnet.py:{name}")
    model = experiment.found.create_task(experiment, jnp.dtype("float32")).model
    kinds = "".join(block.kind for block in model.blocks)
    layouts = {"cccc": "c" * 24, "ccct": "c" * 22 + "t" * 2, "cttt": "c" * 2 + "t" * 22}
    layouts |= {"shallow": "c" * 4 + "t" * 20, "deep": "c" * 10 + "t" * 14, "vit_rel": "t" * 12}
    assert kinds == layouts.get(name, "c" * 8 + "t" * 16)


def test_the_file_that_is_written_out_is_the_recipe():
    written = plain(module(FOLDER / "imagenet_v2_s.py").get_config())
    recipe = plain(recipes.efficientnet_v2("s"))
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
