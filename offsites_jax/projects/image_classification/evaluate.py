"""Accuracy and what goes wrong: scores, confusion matrix, the worst mistakes as a picture."""

import dataclasses
from collections.abc import Iterator, Mapping

import matplotlib
import numpy as np
from jaxtyping import Float, Int, UInt8
from matplotlib.figure import Figure

from offsites_jax.train.config import Experiment
from offsites_jax.train.contract import Batch
from offsites_jax.train.evaluation import Evaluator, EvaluatorSettings, Predict, host_rows
from offsites_jax.train.writers import Artifacts


@dataclasses.dataclass(frozen=True)
class EvaluatorConfig(EvaluatorSettings):
    """One entry of section `evaluators`.

    Attributes:
      pictures: draw the confusion matrix and the worst mistakes.
      worst: how many mistakes to show, most confident first.

    """

    pictures: bool = True
    worst: int = 30


@dataclasses.dataclass(frozen=True)
class Mistakes:
    """The most confident wrong answers.

    Attributes:
      images: their pixels.
      labels: true classes.
      predictions: predicted classes.
      confidences: probability given to the predicted class.

    """

    images: UInt8[np.ndarray, "count height width channels"]
    labels: Int[np.ndarray, "count"]
    predictions: Int[np.ndarray, "count"]
    confidences: Float[np.ndarray, "count"]


@dataclasses.dataclass(frozen=True)
class Classification(Evaluator):
    """Top-1 and top-5 accuracy, cross-entropy, and pictures of what went wrong."""

    config: EvaluatorConfig
    num_classes: int

    def run(self, predict: Predict, batches: Iterator[Batch], artifacts: Artifacts) -> Mapping[str, float]:
        """Scores over every image of the split, none dropped."""
        logits, labels, wrong = [], [], []
        for rows in host_rows(predict, batches, keep=("image", "label")):
            logits.append(rows["logits"])
            labels.append(rows["label"])
            wrong.append(rows["image"][rows["logits"].argmax(-1) != rows["label"]])
        all_logits, all_labels = np.concatenate(logits), np.concatenate(labels)
        if self.config.pictures:
            self._draw(all_logits, all_labels, np.concatenate(wrong), artifacts)
        return scores(all_logits, all_labels)

    def _draw(self, logits: np.ndarray, labels: np.ndarray, wrong: np.ndarray, artifacts: Artifacts) -> None:
        artifacts.figure("confusion", confusion_figure(confusion(logits, labels, self.num_classes)))
        artifacts.figure(
            "mistakes", mistakes_figure(worst_mistakes(logits, labels, wrong, self.config.worst))
        )


def create_evaluator(experiment: Experiment, config: EvaluatorConfig) -> Classification:
    """The evaluator of one entry of section `evaluators`."""
    return Classification(config, experiment.model.num_classes)


def scores(logits: Float[np.ndarray, "count classes"], labels: Int[np.ndarray, "count"]) -> dict[str, float]:
    """Accuracy, top-5 accuracy and mean cross-entropy.

    An image counts for top-k when fewer than k logits are strictly larger than its label's (the tie rule of
    TensorFlow's in_top_k); a row with a non-finite logit counts as wrong.
    """
    finite = np.isfinite(logits).all(axis=-1)
    safe = np.where(finite[:, None], logits, 0.0).astype(np.float64)
    own = np.take_along_axis(safe, labels[:, None], axis=-1)
    larger = (safe > own).sum(axis=-1)
    shifted = safe - safe.max(axis=-1, keepdims=True)
    log_likelihood = np.take_along_axis(shifted, labels[:, None], axis=-1)[:, 0] - np.log(
        np.exp(shifted).sum(-1)
    )
    return {
        "accuracy": float(np.mean(finite & (larger < 1))),
        "top5_accuracy": float(np.mean(finite & (larger < 5))),
        "cross_entropy": float(-log_likelihood.mean()),
        "images": float(len(labels)),
    }


def confusion(
    logits: Float[np.ndarray, "count classes"], labels: Int[np.ndarray, "count"], num_classes: int
) -> Int[np.ndarray, "true predicted"]:
    """Counts by true class (row) and predicted class (column)."""
    counts = np.zeros((num_classes, num_classes), np.int64)
    np.add.at(counts, (labels, logits.argmax(-1)), 1)
    return counts


def worst_mistakes(
    logits: Float[np.ndarray, "count classes"],
    labels: Int[np.ndarray, "count"],
    wrong_images: UInt8[np.ndarray, "wrong height width channels"],
    most: int,
) -> Mistakes:
    """The `most` mistakes with the highest confidence; `wrong_images` are in the order of the split."""
    predictions = logits.argmax(-1)
    wrong = predictions != labels
    exp = np.exp(logits[wrong] - logits[wrong].max(-1, keepdims=True))
    confidences = (exp / exp.sum(-1, keepdims=True)).max(-1)
    order = np.argsort(-confidences, kind="stable")[:most]
    return Mistakes(wrong_images[order], labels[wrong][order], predictions[wrong][order], confidences[order])


def confusion_figure(counts: Int[np.ndarray, "true predicted"]) -> Figure:
    """The confusion matrix as a heat map, with counts where they are readable."""
    size = len(counts)
    side = min(10.0, 2.5 + 0.4 * size)
    figure = Figure(figsize=(side, side), layout="constrained")
    axes = figure.subplots()
    shares = counts / np.maximum(counts.sum(axis=1, keepdims=True), 1)
    axes.imshow(shares, cmap=matplotlib.colormaps["Blues"], vmin=0, vmax=1)
    axes.set(
        xlabel="predicted class", ylabel="true class", title=f"{np.trace(counts)} of {counts.sum()} right"
    )
    if size <= 30:
        axes.set_xticks(range(size))
        axes.set_yticks(range(size))
        for row, column in zip(*np.nonzero(counts), strict=True):
            colour = "white" if shares[row, column] > 0.5 else "black"
            axes.text(
                column, row, str(counts[row, column]), ha="center", va="center", color=colour, fontsize=9
            )
    return figure


def mistakes_figure(mistakes: Mistakes) -> Figure:
    """A contact sheet: each wrong image with true class, predicted class and confidence."""
    count = len(mistakes.labels)
    columns = min(6, max(count, 1))
    rows = max(1, -(-count // columns))
    figure = Figure(figsize=(1.7 * columns + 0.4, 2.0 * rows + 0.4), layout="constrained")
    grid = figure.subplots(rows, columns, squeeze=False).ravel()
    for axes in grid:
        axes.axis("off")
    if not count:
        grid[0].text(0.5, 0.5, "no mistakes", ha="center", va="center")
    for axes, image, label, guess, sure in zip(
        grid, mistakes.images, mistakes.labels, mistakes.predictions, mistakes.confidences, strict=False
    ):
        axes.imshow(image.squeeze(), cmap="gray", vmin=0, vmax=255)
        axes.set_title(f"true {label}, said {guess}\n{sure:.0%} sure", fontsize=8)
    return figure
