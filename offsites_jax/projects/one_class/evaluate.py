"""Evaluation while the representation trains: a scorer is fitted to normal features, and scores a split."""

import dataclasses
from collections.abc import Iterator, Mapping

import jax
import numpy as np
from absl import logging

from offsites_jax.projects.one_class.measures.scores import image_figures
from offsites_jax.projects.one_class.scorers import ScorerSettings, fit
from offsites_jax.projects.one_class.second_stage.features import (
    Layer,
    batches_of,
    collect,
    layer_for,
    needs_rotation,
)
from offsites_jax.train.config import Experiment
from offsites_jax.train.contract import Batch
from offsites_jax.train.evaluation import Evaluator, EvaluatorSettings, Predict
from offsites_jax.train.writers import Artifacts


@dataclasses.dataclass(frozen=True)
class EvaluatorConfig(EvaluatorSettings):
    """One entry of section `evaluators`.

    Attributes:
      scorer: which scorer, and how it is fitted.
      layer: what it reads: pooled features, embeds (the head's output), logits, or the mean of a stage.
      normal_split: images it is fitted to.
      table: write the score of every image.

    """

    scorer: ScorerSettings = ScorerSettings()
    layer: Layer = "pooled"
    normal_split: str = "train"
    table: bool = False


@dataclasses.dataclass(frozen=True)
class OneClassEvaluator(Evaluator):
    """Image-level figures in percent of a scorer fitted anew to the features of normal images."""

    config: EvaluatorConfig
    experiment: Experiment

    def run(self, predict: Predict, batches: Iterator[Batch], artifacts: Artifacts) -> Mapping[str, float]:
        """`auc` and other figures where they exist, and how many images were normal and anomalous."""
        config, experiment = self.config, self.experiment
        layer = layer_for(config.scorer, config.layer)
        tested = collect(predict, batches, layer)
        pipeline = experiment.found.create_pipeline(experiment, config.normal_split, train=False)
        size = config.batch_size or experiment.train.batch_size
        normal = batches_of(pipeline, experiment, jax.sharding.get_mesh(), size)
        scorer = fit(config.scorer, collect(predict, normal, layer).features)
        known = tested.labels >= 0
        scores = scorer.score(tested.features)
        figures = image_figures(scores[known], tested.labels[known], f"split {config.split!r}")
        if figures.undefined:
            logging.warning("%s", figures.undefined)
        if config.table:
            artifacts.table("scores", _rows(scores, tested.labels))
        return {
            name: value
            for name, value in dataclasses.asdict(figures).items()
            if name != "undefined" and value is not None
        }


def create_evaluator(experiment: Experiment, config: EvaluatorConfig) -> OneClassEvaluator:
    """The evaluator of one entry of section `evaluators`.

    Raises:
      UserError: a scorer that the network of the experiment cannot feed.

    """
    layer_for(config.scorer, config.layer)
    needs_rotation(experiment, config.scorer)
    return OneClassEvaluator(config, experiment)


def _rows(scores: np.ndarray, labels: np.ndarray) -> list[dict[str, float | int]]:
    return [
        {"index": index, "label": int(label), "score": float(score)}
        for index, (score, label) in enumerate(zip(scores, labels, strict=True))
    ]
