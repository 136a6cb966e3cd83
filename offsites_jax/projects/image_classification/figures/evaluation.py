"""Pictures of an evaluation: the confusion matrix and the worst mistakes."""

from collections.abc import Sequence

import matplotlib
import numpy as np
from jaxtyping import Int
from matplotlib.figure import Figure

from offsites_jax.projects.image_classification.mistakes import Mistakes, class_text

MOST_NAMED = 30  # classes whose names and counts can be read in a matrix
_LETTERS = 18  # of a class name


def confusion_figure(
    counts: Int[np.ndarray, "true predicted"],
    names: Sequence[str] | None = None,
    images: Int[np.ndarray, "true"] | None = None,
    title: str = "",
) -> Figure:
    """The confusion matrix as a heat map of shares of the true class, with counts where they are readable.

    Args:
      counts: by true and predicted class.
      names: of these classes; numbers unless told.
      images: of each true class, where not all of them are in `counts`.
      title: how many are right, unless told.

    """
    size = len(counts)
    side = min(12.0, 2.5 + 0.4 * size)
    figure = Figure(figsize=(side, side), layout="constrained")
    axes = figure.subplots()
    shares = counts / np.maximum(counts.sum(axis=1) if images is None else images, 1)[:, None]
    axes.imshow(shares, cmap=matplotlib.colormaps["Blues"], vmin=0, vmax=1)
    axes.set(
        xlabel="predicted class",
        ylabel="true class",
        title=title or f"{np.trace(counts)} of {counts.sum()} right",
    )
    if size > MOST_NAMED:
        return figure
    labels = [_short(name) for name in names or map(str, range(size))]
    long = any(len(label) > 3 for label in labels)
    axes.set_xticks(range(size), labels, rotation=90 if long else 0, fontsize=8)
    axes.set_yticks(range(size), labels, fontsize=8)
    for row, column in zip(*np.nonzero(counts), strict=True):
        colour = "white" if shares[row, column] > 0.5 else "black"
        axes.text(column, row, str(counts[row, column]), ha="center", va="center", color=colour, fontsize=9)
    return figure


def mistakes_figure(mistakes: Mistakes, names: Sequence[str] | None = None) -> Figure:
    """A contact sheet: each wrong image with true classes, predicted class and confidence."""
    count = len(mistakes)
    columns = min(6, max(count, 1))
    rows = max(1, -(-count // columns))
    figure = Figure(figsize=(1.9 * columns + 0.4, 2.3 * rows + 0.4), layout="constrained")
    grid = figure.subplots(rows, columns, squeeze=False).ravel()
    for axes in grid:
        axes.axis("off")
    if not count:
        grid[0].text(0.5, 0.5, "no mistakes", ha="center", va="center")
    for place, axes in enumerate(grid[:count]):
        true = _short(class_text(mistakes.labels[place], names))
        said = _short(class_text(mistakes.predictions[place : place + 1], names))
        axes.imshow(mistakes.images[place].squeeze(), cmap="gray", vmin=0, vmax=255)
        axes.set_title(f"true {true}\nsaid {said}\n{mistakes.confidences[place]:.0%} sure", fontsize=8)
    return figure


def _short(text: str) -> str:
    return text if len(text) <= _LETTERS else f"{text[: _LETTERS - 1]}…"
