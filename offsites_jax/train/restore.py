"""A trained model without its training: task, variables and scores from a workdir."""

import dataclasses
import functools
from collections.abc import Callable, Iterator
from typing import Any

import jax
from etils import epath
from jax.sharding import Mesh

from offsites_jax.data.pipeline import eval_batches
from offsites_jax.errors import UserError
from offsites_jax.parallel.mesh import create_mesh, data_shard, put_batch
from offsites_jax.train.config import Experiment, resolve
from offsites_jax.train.contract import Batch, Task, Variables
from offsites_jax.train.evaluation import Evaluations
from offsites_jax.train.program import Program, create_program
from offsites_jax.train.saved import Step, read_meta, restore_variables
from offsites_jax.train.writers import MetricsWriter


@dataclasses.dataclass(frozen=True)
class TrainedModel:
    """A checkpoint ready to predict; it knows its own configuration and needs no data set.

    Attributes:
      program: the system as trained, at its last stage.
      variables: parameters and model state, on the mesh.
      step: of the checkpoint.

    """

    program: Program
    variables: Variables
    step: int

    @property
    def experiment(self) -> Experiment:
        """As trained, at its last stage."""
        return self.program.experiment

    @property
    def task(self) -> Task:
        """The system."""
        return self.program.task

    @property
    def mesh(self) -> Mesh:
        """Where the variables are."""
        return self.program.mesh

    def predict(self, batch: Batch) -> dict[str, Any]:
        """`Task.predict` under jit on the entries the task reads."""
        with jax.set_mesh(self.mesh):
            return self._predict(self.variables, {name: batch[name] for name in self.task.inputs})

    @functools.cached_property
    def _predict(self) -> Callable[[Variables, Batch], dict[str, Any]]:
        return jax.jit(self.program.predict)


def restore(
    workdir: epath.PathLike,
    *,
    step: Step = "latest",
    params: str = "ema",
    experiment: Experiment | None = None,
) -> TrainedModel:
    """The model of a checkpoint, rebuilt from the configuration saved with it.

    Args:
      workdir: folder of the run.
      step: a number, "latest" or "best".
      params: "ema" for averaged parameters where they are kept, or "raw".
      experiment: instead of the saved configuration, e.g. on another mesh; taken at its last stage.

    """
    if experiment is None:
        experiment = resolve(read_meta(workdir, step)["config"])
    experiment = experiment.final
    mesh = create_mesh(experiment.mesh)
    program = create_program(experiment, mesh)
    found, variables, _ = restore_variables(
        workdir, program.abstract.variables(ema=params == "ema"), step=step, params=params
    )
    return TrainedModel(program, variables, found)


def split_batches(model: TrainedModel, split: str) -> Iterator[Batch]:
    """Global batches over a whole split, padded and masked, as evaluators get them."""
    experiment, size = model.experiment, model.experiment.train.batch_size
    pipeline = experiment.found.create_pipeline(experiment, split, train=False)
    shard, loading = data_shard(model.mesh), experiment.data.loading
    with eval_batches(pipeline, batch_size=size, shard=shard, loading=loading) as batches:
        for batch in batches:
            yield put_batch(batch, model.mesh, size)


def evaluate(
    experiment: Experiment, workdir: epath.PathLike, *, step: Step = "latest", params: str = "ema"
) -> tuple[int, dict[str, float]]:
    """Scores of a checkpoint by every evaluator, as (step, {"<evaluator>/<metric>": value}).

    Pictures go to `workdir/artifacts`; `metrics.jsonl` is left as training wrote it.
    """
    if not experiment.evaluators:
        raise UserError("config.evaluators: empty; nothing to evaluate")
    model = restore(workdir, step=step, params=params, experiment=experiment)
    experiment = model.experiment
    evaluations = Evaluations(model.program)
    scores: dict[str, float] = {}
    with MetricsWriter(epath.Path(workdir)) as writer:
        for name in experiment.evaluators:
            found = evaluations.run_one(name, model.variables, writer.artifacts(name, model.step))
            scores |= {f"{name}/{metric}": value for metric, value in found.items()}
    return model.step, scores
