"""Accuracy and what goes wrong: scores, accuracy by class, confusion matrix, the worst mistakes."""

import contextlib
import dataclasses
from collections.abc import Iterator, Mapping

import numpy as np
from absl import logging
from jaxtyping import UInt8

from offsites_jax.errors import UserError
from offsites_jax.projects.image_classification.pictures import Mistakes, confusion_figure, mistakes_figure
from offsites_jax.projects.image_classification.scores import (
    MultiLabelScores,
    Rows,
    accuracy_interval,
    confusion,
    joined,
    per_class,
    rows_of,
    scores,
)
from offsites_jax.projects.image_classification.sources import class_names
from offsites_jax.train.config import Experiment
from offsites_jax.train.contract import Batch
from offsites_jax.train.evaluation import Evaluator, EvaluatorSettings, Predict, host_rows
from offsites_jax.train.writers import Artifacts

MOST_DRAWN = 200  # classes of a confusion matrix that can still be looked at


@dataclasses.dataclass(frozen=True)
class EvaluatorConfig(EvaluatorSettings):
    """One entry of section `evaluators`.

    Attributes:
      pictures: draw the confusion matrix (of up to 200 classes) and the worst mistakes.
      worst: how many mistakes to show, most confident first.
      per_class: write a table of the accuracy of each class.
      bootstrap: samples for a 95 % interval of the accuracy, `accuracy_low` to `accuracy_high`; 0 for none.

    """

    pictures: bool = True
    worst: int = 30
    per_class: bool = True
    bootstrap: int = 0


@dataclasses.dataclass(frozen=True)
class Classification(Evaluator):
    """Scores over every image of the split that has a label, none dropped, and what went wrong."""

    config: EvaluatorConfig
    num_classes: int
    names: tuple[str, ...] | None = None

    def run(self, predict: Predict, batches: Iterator[Batch], artifacts: Artifacts) -> Mapping[str, float]:
        """Figures for one label an image, or for several where the labels of an image are a list."""
        many, parts, found = MultiLabelScores(), [], None
        for batch in host_rows(predict, batches, keep=("image", "label")):
            labels, logits = batch["label"], batch["logits"]
            labelled = (labels >= 0).reshape(len(labels), -1).any(axis=-1)
            if not labelled.any():
                continue
            if labels.ndim == 2:
                many.add(logits[labelled], labels[labelled])
                continue
            parts.append(rows_of(logits[labelled], labels[labelled]))
            if self.config.pictures:
                found = worst_mistakes(parts[-1], batch["image"][labelled], self.config.worst, found)
        if not many.images and not parts:
            raise UserError(f"config.evaluators: split {self.config.split!r} has no labels to compare with")
        figures = self._single(joined(parts), found, artifacts) if parts else many.result()
        if figures["non_finite"]:
            logging.warning(
                "%d images have logits that are not finite; they count as wrong", figures["non_finite"]
            )
        return figures

    def _single(self, rows: Rows, found: Mistakes | None, artifacts: Artifacts) -> dict[str, float]:
        """Figures and artifacts of a split with one label an image."""
        figures = scores(rows)
        if self.config.bootstrap:
            low, high = accuracy_interval(rows, self.config.bootstrap)
            figures |= {"accuracy_low": low, "accuracy_high": high}
        if self.config.per_class:
            artifacts.table("classes", per_class(rows, self.num_classes, self.names))
        if found is not None:
            artifacts.figure("mistakes", mistakes_figure(found))
            if self.num_classes <= MOST_DRAWN:
                artifacts.figure("confusion", confusion_figure(confusion(rows, self.num_classes)))
        return figures


def create_evaluator(experiment: Experiment, config: EvaluatorConfig) -> Classification:
    """The evaluator of one entry of section `evaluators`."""
    names = None
    with contextlib.suppress(UserError):  # a table of classes without their names is worth having, too
        names = class_names(experiment.data, config.split)
    if names and len(names) != experiment.model.num_classes:
        names = None
    return Classification(config, experiment.model.num_classes, names)


def worst_mistakes(
    rows: Rows,
    images: UInt8[np.ndarray, "count height width channels"],
    most: int,
    before: Mistakes | None = None,
) -> Mistakes:
    """The `most` mistakes with the highest confidence among these rows and those found before."""
    wrong = rows.prediction != rows.label
    found = Mistakes(images[wrong], rows.label[wrong], rows.prediction[wrong], rows.confidence[wrong])
    names = [field.name for field in dataclasses.fields(Mistakes)]
    if before is not None:
        both = {name: np.concatenate([getattr(before, name), getattr(found, name)]) for name in names}
        found = Mistakes(**both)
    order = np.argsort(-found.confidences, kind="stable")[:most]
    return Mistakes(**{name: getattr(found, name)[order] for name in names})
