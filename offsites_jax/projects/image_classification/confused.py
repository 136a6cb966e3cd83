"""Which classes are taken for which: the pairs in order, and the part of the matrix where they meet."""

import dataclasses
from collections.abc import Sequence

import numpy as np
from jaxtyping import Int

from offsites_jax.projects.image_classification.scores import Rows


@dataclasses.dataclass(frozen=True)
class Pairs:
    """Pairs of a true and another predicted class, most images first.

    Attributes:
      label: the true class.
      prediction: what it was taken for.
      images: how often.

    """

    label: Int[np.ndarray, "pairs"]
    prediction: Int[np.ndarray, "pairs"]
    images: Int[np.ndarray, "pairs"]


def confused_pairs(rows: Rows, num_classes: int) -> Pairs:
    """All pairs there are; takes memory by rows, not by classes squared."""
    wrong = rows.finite & (rows.prediction != rows.label)
    keys = rows.label[wrong].astype(np.int64) * num_classes + rows.prediction[wrong]
    found, images = np.unique(keys, return_counts=True)
    order = np.argsort(-images, kind="stable")
    return Pairs(found[order] // num_classes, found[order] % num_classes, images[order])


def pair_table(
    pairs: Pairs, rows: Rows, names: Sequence[str] | None = None, most: int = 200
) -> list[dict[str, object]]:
    """The first pairs, one entry each; `share` is of the images of the true class."""
    images_of = np.bincount(rows.label)
    return [
        {
            "label": int(label),
            "label_name": names[label] if names else str(label),
            "prediction": int(prediction),
            "prediction_name": names[prediction] if names else str(prediction),
            "images": int(images),
            "share": float(images / images_of[label]),
        }
        for label, prediction, images in zip(
            pairs.label[:most], pairs.prediction[:most], pairs.images[:most], strict=True
        )
    ]


def classes_of_pairs(pairs: Pairs, most: int) -> Int[np.ndarray, "classes"]:
    """The classes of the first pairs, as many as fit, partners beside each other."""
    chosen: dict[int, None] = {}
    for pair in zip(pairs.label.tolist(), pairs.prediction.tolist(), strict=True):
        if len(chosen | dict.fromkeys(pair)) > most:
            break
        chosen |= dict.fromkeys(pair)
    return np.array(list(chosen), np.int64)


def confusion_among(rows: Rows, classes: Int[np.ndarray, "classes"]) -> Int[np.ndarray, "true predicted"]:
    """Counts by true and predicted class, of images whose both are among these classes, in their order."""
    order = np.argsort(classes)
    place = np.searchsorted(classes[order], np.stack([rows.label, rows.prediction]))
    place = order[np.minimum(place, len(classes) - 1)]
    both = (classes[place[0]] == rows.label) & (classes[place[1]] == rows.prediction)
    counts = np.zeros((len(classes), len(classes)), np.int64)
    np.add.at(counts, (place[0][both], place[1][both]), 1)
    return counts
