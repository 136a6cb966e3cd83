"""Published weights as a run at step 0, which every command takes and training goes on from.

config.json, checkpoints/  as of a run
imported.json              the file the weights were in, and for each array the tensor it was there
"""

import dataclasses
import os
from collections.abc import Mapping, Sequence
from typing import Any

import flax.linen as nn
import jax
import numpy as np
from jaxtyping import Array, PRNGKeyArray

from offsites_jax.errors import UserError
from offsites_jax.export.importers.settings import unmet
from offsites_jax.export.importing import Report, at_size, is_table, names_of, origin_facts, read, report_of
from offsites_jax.models.coatnet import CoAtNet
from offsites_jax.models.stacked import stack_blocks
from offsites_jax.nn.relative_tables import Resize
from offsites_jax.parallel.mesh import MeshSettings, create_mesh
from offsites_jax.train.config import Experiment
from offsites_jax.train.new_run import check_new, new_run, write_run
from offsites_jax.train.program import Program, create_program
from offsites_jax.train.state import TrainState, flatten, unflatten, zero_batch
from offsites_jax.train.workdir import write_json

IMPORTED = "imported.json"


def import_run(
    experiment: Experiment,
    model_name: str,
    path: str | os.PathLike[str],
    workdir: str | os.PathLike[str],
    source: str = "timm",
    *,
    new_head: bool = False,
    params: str = "ema",
    resize: Resize = "bilinear",
) -> Report:
    """Writes a run that holds the weights of a file before its first update, whole or not at all.

    Pixels are normalised, and images cropped and sized, as the experiment says.

    Args:
      experiment: whose model the weights become; it decides everything but them.
      model_name: what the file is said to hold, a name of `list_models`.
      path: the weights file.
      workdir: folder to make.
      source: whose names the file uses.
      new_head: leave out the file's classifier; the run's is then as training would start with.
      params: "ema" or "raw", of a file that has both.
      resize: how relative biases of a CoAtNet are interpolated for the experiment's images.

    Raises:
      UserError: the experiment has another model, or starts from other weights; as `importing.load`; the
        workdir exists or cannot be written.
      DamagedDataError: the file is damaged.

    """
    check_new(workdir)
    check_experiment(experiment, model_name)
    # One device: a checkpoint goes onto any mesh, and this machine need not have that of the experiment.
    first = dataclasses.replace(experiment.at_stage(0), mesh=MeshSettings(data=1))
    program = create_program(first, create_mesh(first.mesh))
    model = model_of(program, source)
    specs = specs_of(program, model)
    # Tables of relative biases come in the size of the file's.
    there = model.clone(table_image_size=()) if isinstance(model, CoAtNet) else model
    filled, files = read(there, path, source, new_head=new_head, params=params, specs=specs)
    leaves = fitted(model, filled.leaves, specs, program, resize)
    state = started(program, leaves, filled.skipped)
    with new_run(workdir) as folder:
        write_run(folder, experiment, 0, state)
        write_json(folder / IMPORTED, {"model": model_name, **origin_facts(source, filled, files)})
    return report_of(workdir, model_name, source, filled, leaves)


def check_experiment(experiment: Experiment, model_name: str) -> None:
    """Raises UserError where the weights would not be those of the experiment's model from the start."""
    own = getattr(experiment.model, "name", None)
    if own is None:
        raise UserError(f"--experiment: project {experiment.project!r} has no model that goes by a name")
    if own != model_name:
        raise UserError(
            f"config.model.name: the experiment has {own!r}, the file is said to hold {model_name!r}; "
            "make them one"
        )
    if experiment.init_from:
        raise UserError(
            f"config.init_from: the experiment starts from {experiment.init_from.path} already; "
            "set --config.init_from=None"
        )


def model_of(program: Program, source: str) -> nn.Module:
    """The network that the task trains, a block at a time as files have it.

    Raises:
      UserError: the project has none, none of a known family, or one that the source's networks are not.

    """
    task, project = program.task, program.experiment.project
    model = getattr(task, "model", None)
    if not isinstance(model, nn.Module) or not dataclasses.is_dataclass(task):
        raise UserError(f"--experiment: project {project!r} has no network to import weights into")
    for key, (found, needed) in unmet(model, names_of(model, source).settings_for(model, source)).items():
        if not key.endswith("momentum"):  # of training alone
            raise UserError(
                f"config.model.overrides.{key}: is {found!r}, but weights of {source} need {needed!r}"
            )
    return model.clone(scan=False) if getattr(model, "scan", False) else model


def specs_of(program: Program, model: nn.Module) -> dict[str, jax.ShapeDtypeStruct]:
    """Shapes and dtypes of the network's leaves in the experiment, by flat name."""
    task: Any = dataclasses.replace(program.task, model=model)  # type: ignore[type-var]
    batch = task.batch_spec(program.experiment.train.batch_size)
    return flatten(jax.eval_shape(lambda: task.init(jax.random.key(0), zero_batch(batch))))


def fitted(
    model: nn.Module,
    leaves: Mapping[str, np.ndarray],
    specs: Mapping[str, jax.ShapeDtypeStruct],
    program: Program,
    resize: Resize,
) -> dict[str, np.ndarray]:
    """The leaves, with tables of relative biases for the size of images that the experiment's are for."""
    if all(leaf.shape == specs[name].shape for name, leaf in leaves.items() if is_table(name)):
        return dict(leaves)
    assert isinstance(model, CoAtNet)
    height, width = model.table_image_size or program.batch["image"].shape[1:3]
    return at_size(model, leaves, (height, width), resize)


def started(program: Program, leaves: Mapping[str, np.ndarray], skipped: Sequence[str]) -> TrainState:
    """The state before the first step; skipped leaves are as training would start with."""
    specs = flatten(program.abstract.variables(ema=False))
    filled = unflatten({name: spec for name, spec in specs.items() if name not in skipped})
    variables = flatten(stack_blocks(unflatten(leaves), filled))

    def others(key: PRNGKeyArray) -> tuple[TrainState, dict[str, Array]]:
        """What is not in the file; compiling random draws of all the rest would take many times as long."""
        state = program.init(key)
        fresh = flatten(state.variables(ema=False))
        ema: dict[str, Any] | None = None if state.ema is None else {}
        return state.replace(params={}, model_state={}, ema=ema), {name: fresh[name] for name in skipped}

    with jax.set_mesh(program.mesh):
        state, fresh = jax.jit(others)(jax.random.key(program.experiment.train.seed))
        return state.with_variables(unflatten({**variables, **fresh}))
