"""The most confident wrong answers, found batch by batch."""

import dataclasses
from collections.abc import Sequence

import numpy as np
from jaxtyping import Float, Int, UInt8

from offsites_jax.projects.image_classification.scores import probabilities


@dataclasses.dataclass(frozen=True)
class Mistakes:
    """Images whose most probable class is none of their labels.

    Attributes:
      images: their pixels.
      labels: true classes, filled up with -1.
      predictions: predicted classes.
      confidences: probability given to the predicted class.
      places: of the images in the split.

    """

    images: UInt8[np.ndarray, "count height width channels"]
    labels: Int[np.ndarray, "count most"]
    predictions: Int[np.ndarray, "count"]
    confidences: Float[np.ndarray, "count"]
    places: Int[np.ndarray, "count"]

    def __len__(self) -> int:
        return len(self.predictions)


def worst_mistakes(
    batch: dict[str, np.ndarray],
    places: Int[np.ndarray, "count"],
    most: int,
    *,
    sigmoid: bool = False,
    before: Mistakes | None = None,
) -> Mistakes:
    """The `most` mistakes with the highest confidence in this batch and among those found before.

    Args:
      batch: `logits`, `label` (one each or several) and `image`. Rows without a label, and those whose logits
        are not finite, are left out.
      places: of the rows in the split.
      most: how many to keep.
      sigmoid: whether probabilities are sigmoids.
      before: what earlier batches gave.

    """
    logits, labels = batch["logits"], batch["label"]
    labels = labels if labels.ndim == 2 else labels[:, None]
    known = np.isfinite(logits).all(axis=-1) & (labels >= 0).any(axis=-1)
    guess = np.argmax(np.where(known[:, None], logits, 0), axis=-1)
    wrong = np.flatnonzero(known & ~(labels == guess[:, None]).any(axis=-1))
    sure = probabilities(logits[wrong], sigmoid=sigmoid).max(axis=-1)
    found = Mistakes(batch["image"][wrong], labels[wrong], guess[wrong], sure, places[wrong])
    fields = [field.name for field in dataclasses.fields(Mistakes)]
    if before is not None:
        found = Mistakes(
            *(np.concatenate([getattr(part, name) for part in (before, found)]) for name in fields)
        )
    order = np.argsort(-found.confidences, kind="stable")[:most]
    return Mistakes(*(getattr(found, name)[order] for name in fields))


def class_text(classes: Sequence[int] | Int[np.ndarray, "most"], names: Sequence[str] | None) -> str:
    """Class names, or numbers where there are none; -1 is no class."""
    return ", ".join(names[k] if names else str(k) for k in map(int, classes) if k >= 0)
