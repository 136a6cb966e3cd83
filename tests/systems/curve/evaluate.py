"""Largest error."""

import dataclasses

import numpy as np

from offsites_jax.train.evaluation import Evaluator, EvaluatorSettings, host_rows


@dataclasses.dataclass(frozen=True)
class EvaluatorConfig(EvaluatorSettings):
    """One entry of `evaluators`."""


class Worst(Evaluator):
    """Largest absolute error."""

    def run(self, predict, batches, artifacts):
        """Over all points."""
        rows = list(host_rows(predict, batches, keep=("x",)))
        x, found = (np.concatenate([r[name] for r in rows]) for name in ("x", "y"))
        wanted = np.sin(3 * x[:, 0])
        return {"worst": float(np.abs(found - wanted).max()), "points": len(found)}


def create_evaluator(experiment, settings):
    """The evaluator."""
    return Worst()
