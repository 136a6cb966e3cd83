"""Accuracy and what goes wrong: scores, accuracy by class, confusion matrix, the worst mistakes."""

import dataclasses
from collections.abc import Iterator, Mapping

import numpy as np
from absl import logging

from offsites_jax.errors import UserError
from offsites_jax.projects.image_classification.classes import TABLE, Names, known_names
from offsites_jax.projects.image_classification.confused import (
    classes_of_pairs,
    confused_pairs,
    confusion_among,
    pair_table,
)
from offsites_jax.projects.image_classification.figures.evaluation import (
    MOST_NAMED,
    confusion_figure,
    mistakes_figure,
)
from offsites_jax.projects.image_classification.mistakes import worst_mistakes
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
from offsites_jax.train.config import Experiment
from offsites_jax.train.contract import Batch
from offsites_jax.train.evaluation import Evaluator, EvaluatorSettings, Predict, host_rows
from offsites_jax.train.writers import Artifacts

MOST_DRAWN = 200  # classes of a confusion matrix that can still be looked at as a whole


@dataclasses.dataclass(frozen=True)
class EvaluatorConfig(EvaluatorSettings):
    """One entry of section `evaluators`.

    Attributes:
      pictures: draw the worst mistakes and the confusion matrix; of more than 200 classes, its part with the
        30 that are taken for each other most.
      worst: how many mistakes to show, most confident first.
      per_class: write a table of the accuracy of each class, and one of the pairs that are confused most.
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
    names: Names | None = None
    sigmoid: bool = False

    def run(self, predict: Predict, batches: Iterator[Batch], artifacts: Artifacts) -> Mapping[str, float]:
        """Figures for one label an image, or for several where the labels of an image are a list."""
        many, parts, found, seen = MultiLabelScores(), [], None, 0
        keep = ("image", "label") if self.config.pictures else ("label",)
        for batch in host_rows(predict, batches, keep=keep):
            labels, logits = batch["label"], batch["logits"]
            places, seen = np.arange(seen, seen + len(labels)), seen + len(labels)
            if self.config.pictures:
                found = worst_mistakes(batch, places, self.config.worst, sigmoid=self.sigmoid, before=found)
            labelled = (labels >= 0).any(axis=-1) if labels.ndim == 2 else labels >= 0
            if not labelled.any():
                continue
            if labels.ndim == 2:
                many.add(logits[labelled], labels[labelled])
            else:
                parts.append(rows_of(logits[labelled], labels[labelled]))
        if not many.images and not parts:
            raise UserError(f"config.evaluators: split {self.config.split!r} has no labels to compare with")
        figures = self._single(joined(parts), artifacts) if parts else many.result()
        if found is not None:
            artifacts.figure("mistakes", mistakes_figure(found, self.names))
        if figures["non_finite"]:
            logging.warning(
                "%d images have logits that are not finite; they count as wrong", figures["non_finite"]
            )
        return figures

    def _single(self, rows: Rows, artifacts: Artifacts) -> dict[str, float]:
        """Figures and artifacts of a split with one label an image."""
        figures = scores(rows)
        if self.config.bootstrap:
            low, high = accuracy_interval(rows, self.config.bootstrap)
            figures |= {"accuracy_low": low, "accuracy_high": high}
        if self.config.per_class:
            artifacts.table(TABLE, per_class(rows, self.num_classes, self.names))
            pairs = pair_table(confused_pairs(rows, self.num_classes), rows, self.names)
            if pairs:
                artifacts.table("confused", pairs)
        if self.config.pictures:
            self._draw_confusion(rows, artifacts)
        return figures

    def _draw_confusion(self, rows: Rows, artifacts: Artifacts) -> None:
        """The whole matrix where it can be looked at, else its part with the pairs that are confused most."""
        spoilt = int((~rows.finite).sum())
        note = f"; {spoilt} not finite, in no column" if spoilt else ""
        if self.num_classes <= MOST_DRAWN:
            title = f"{int(rows.within(1).sum())} of {len(rows)} right{note}"
            counts = confusion(rows, self.num_classes)
            artifacts.figure("confusion", confusion_figure(counts, self.names, title=title))
            return
        classes = classes_of_pairs(confused_pairs(rows, self.num_classes), MOST_NAMED)
        if not len(classes):
            return
        names = [self.names[k] if self.names else str(k) for k in classes]
        images = np.bincount(rows.label, minlength=self.num_classes)[classes]
        title = f"the {len(classes)} of {self.num_classes:,} classes that are confused most{note}"
        artifacts.figure("confusion", confusion_figure(confusion_among(rows, classes), names, images, title))


def create_evaluator(experiment: Experiment, config: EvaluatorConfig) -> Classification:
    """The evaluator of one entry of section `evaluators`."""
    count, data = experiment.model.num_classes, experiment.data
    names = known_names(data, config.split, count) or known_names(data, data.train_split, count)
    return Classification(config, count, names, experiment.task.loss.startswith("sigmoid"))
