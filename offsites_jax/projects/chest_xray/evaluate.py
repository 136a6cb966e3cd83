"""How well a split is told apart while a run is on: the area under the curve of every output.

Intervals, operating points, readers and work lists belong to `evaluation/`, after training and on the table
of predictions that is written here.
"""

import dataclasses
from collections.abc import Iterator, Mapping

import numpy as np
from absl import logging

from offsites_jax.errors import UserError
from offsites_jax.projects.chest_xray.accuracy.roc import auc
from offsites_jax.train.config import Experiment
from offsites_jax.train.contract import Batch
from offsites_jax.train.evaluation import Evaluator, EvaluatorSettings, Predict, host_rows
from offsites_jax.train.writers import Artifacts


@dataclasses.dataclass(frozen=True)
class EvaluatorConfig(EvaluatorSettings):
    """One entry of section `evaluators`.

    Attributes:
      table: write the scores of every image, by its number in the split.

    """

    table: bool = True


@dataclasses.dataclass(frozen=True)
class Detection(Evaluator):
    """Area under the ROC curve and cross-entropy of each output over its known labels."""

    config: EvaluatorConfig
    outputs: tuple[str, ...]

    def run(self, predict: Predict, batches: Iterator[Batch], artifacts: Artifacts) -> Mapping[str, float]:
        """`auc` and `cross_entropy`; with several outputs one of each for every output, and the means."""
        rows = list(host_rows(predict, batches, keep=("label",)))
        if not rows:
            raise UserError(f"config.evaluators: split {self.config.split!r} is empty")
        logits, labels = (np.concatenate([row[name] for row in rows]) for name in ("logit", "label"))
        if self.config.table:
            artifacts.table("scores", self._table(logits, labels))
        found = [self._figures(name, logits[:, i], labels[:, i]) for i, name in enumerate(self.outputs)]
        if len(found) == 1:
            return found[0]
        means = {key: float(np.nanmean([f.get(key, np.nan) for f in found])) for key in found[0]}
        named = {
            f"{key}_{name}": value
            for name, figures in zip(self.outputs, found, strict=True)
            for key, value in figures.items()
        }
        return means | named

    def _figures(self, name: str, logits: np.ndarray, labels: np.ndarray) -> dict[str, float]:
        known = ~np.isnan(labels)
        truth, scores = labels[known] > 0.5, logits[known].astype(np.float64)
        figures = {"cross_entropy": float(np.mean(np.logaddexp(0, scores) - truth * scores))}
        if truth.all() or not truth.any():
            logging.warning(
                "split %r has labels of one class only for %s: no area under the curve",
                self.config.split,
                name,
            )
            return figures
        return {"auc": auc(truth, scores)} | figures

    def _table(self, logits: np.ndarray, labels: np.ndarray) -> list[dict[str, float | int]]:
        columns = {f"logit_{name}": logits[:, i] for i, name in enumerate(self.outputs)}
        columns |= {f"label_{name}": labels[:, i] for i, name in enumerate(self.outputs)}
        return [
            {"index": row} | {name: float(values[row]) for name, values in columns.items()}
            for row in range(len(logits))
        ]


def create_evaluator(experiment: Experiment, config: EvaluatorConfig) -> Detection:
    """The evaluator of one entry of section `evaluators`."""
    return Detection(config, experiment.model.outputs)
