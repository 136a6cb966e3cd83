"""Evaluation: the task's own predict over a padded, masked split, and what evaluators are."""

import abc
import dataclasses
from collections.abc import Callable, Iterator, Mapping
from typing import Any, Literal

import jax
import numpy as np
from jax.experimental import multihost_utils
from jaxtyping import Array

from offsites_jax.data.pipeline import eval_batches
from offsites_jax.parallel.mesh import check_batch_size, data_shard, put_batch
from offsites_jax.train.contract import Batch, Variables
from offsites_jax.train.program import Program
from offsites_jax.train.state import TrainState
from offsites_jax.train.writers import Artifacts, MetricsWriter

Predict = Callable[[Batch], dict[str, Array]]


@dataclasses.dataclass(frozen=True)
class EvaluatorSettings:
    """What every entry of section `evaluators` may say; projects add their own fields.

    Attributes:
      split: the split to evaluate on.
      params: averaged parameters where they are kept, or the raw ones.
      batch_size: rows at a time; 0 takes the training batch size.

    """

    split: str = "test"
    params: Literal["ema", "raw"] = "ema"
    batch_size: int = 0


class Evaluator(abc.ABC):
    """Turns predictions over one split into figures and artifacts."""

    @abc.abstractmethod
    def run(self, predict: Predict, batches: Iterator[Batch], artifacts: Artifacts) -> Mapping[str, float]:
        """Scores of the split. Called on every process alike; `artifacts` writes on the first only.

        Args:
          predict: jitted `Task.predict`, bound to the parameters.
          batches: global batches in order; `mask` is 0 on the rows that pad the last one.
          artifacts: where pictures, tables, audio and text go.

        """


def host_rows(
    predict: Predict, batches: Iterator[Batch], keep: tuple[str, ...] = ()
) -> Iterator[dict[str, np.ndarray]]:
    """Real rows of predictions and of the batch entries in `keep`, batch by batch, on every host.

    Yields dicts of arrays whose first axis counts the batch's unpadded rows, in the order of the split.

    Raises:
      ValueError: a batch entry to keep has the name of an output; one of them would be lost.
    """
    for batch in batches:
        outputs = predict(batch)
        if set(outputs) & set(keep):
            raise ValueError(
                f"predict and the batch both have {sorted(set(outputs) & set(keep))}; rename the output"
            )
        wanted = {**outputs, **{name: batch[name] for name in keep}, "mask": batch["mask"]}
        rows = to_host(wanted)
        real = rows.pop("mask") > 0
        yield {name: values[real] for name, values in rows.items()}


def to_host(tree: Any) -> Any:
    """Global arrays as numpy on every process."""
    if jax.process_count() == 1:
        return jax.device_get(tree)
    return multihost_utils.process_allgather(tree, tiled=True)


class Evaluations:
    """All evaluators of an experiment, with predict compiled once per parameter choice.

    Args:
      program: gives the evaluators and their splits, the prediction, and where it runs.

    """

    def __init__(self, program: Program) -> None:
        experiment = self._experiment = program.experiment
        self._mesh = program.mesh
        self._evaluators = {
            name: experiment.found.create_evaluator(experiment, settings)
            for name, settings in experiment.evaluators.items()
        }
        self._predict = program.jit_predict()
        self._inputs = program.task.inputs
        self._scored = program.task.scored

    def run(self, step: int, state: TrainState, writer: MetricsWriter) -> dict[str, float]:
        """Runs every evaluator; writes and returns scores as {"<evaluator>/<metric>": value}."""
        scores: dict[str, float] = {}
        for name in self._evaluators:
            ema = self._experiment.evaluators[name].params == "ema"
            found = self.run_one(name, state.variables(ema=ema), writer.artifacts(name, step))
            writer.write(step, name, found)
            scores |= {f"{name}/{metric}": value for metric, value in found.items()}
        return scores

    def run_one(self, name: str, variables: Variables, artifacts: Artifacts) -> dict[str, float]:
        """Scores of one evaluator."""
        settings = self._experiment.evaluators[name]
        size = settings.batch_size or self._experiment.train.batch_size
        check_batch_size(self._mesh, size, key=f"evaluators.{name}.batch_size")
        pipeline = self._experiment.found.create_pipeline(self._experiment, settings.split, train=False)
        shard = data_shard(self._mesh)
        blocks = eval_batches(pipeline, batch_size=size, shard=shard, loading=self._experiment.data.loading)

        def predict(batch: Batch) -> dict[str, Array]:
            names = (*self._inputs, *(name for name in self._scored if name in batch))
            return self._predict(variables, {name: batch[name] for name in names})

        with jax.set_mesh(self._mesh), blocks:
            batches = (put_batch(block, self._mesh, size) for block in blocks)
            found = self._evaluators[name].run(predict, batches, artifacts)
        return {metric: float(value) for metric, value in found.items()}
