"""Pictures of an evaluation: the confusion matrix and the worst mistakes."""

import dataclasses

import matplotlib
import numpy as np
from jaxtyping import Float, Int, UInt8
from matplotlib.figure import Figure


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
