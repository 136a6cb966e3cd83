"""Features in a plane: of normal images, anomalies and made-up defects (arXiv 2104.04015, fig. 3)."""

from collections.abc import Mapping
from typing import Any

import jax
import numpy as np
from etils import epath
from jaxtyping import UInt8

from offsites_jax.projects.one_class.data import create_pipeline, read_all
from offsites_jax.projects.one_class.detectors.base import Features
from offsites_jax.projects.one_class.localization.dense import Images
from offsites_jax.projects.one_class.measures.embedding import (
    MAX_POINTS,
    PERPLEXITY,
    Embedding,
    embed,
    embedding_figure,
)
from offsites_jax.projects.one_class.measures.scores import image_figures
from offsites_jax.projects.one_class.readers.records import ANOMALOUS, NORMAL, UNKNOWN
from offsites_jax.projects.one_class.scorers import ScorerSettings, fit
from offsites_jax.projects.one_class.second_stage.features import Layer, of_images, of_split
from offsites_jax.projects.one_class.stored import write_file
from offsites_jax.projects.one_class.views.pretexts import PretextConfig, make_rows
from offsites_jax.train.media import encode_figure, encode_json, encode_table
from offsites_jax.train.restore import TrainedModel

TABLE, FIGURES, PICTURE = "embedding.csv", "embedding.json", "embedding.png"

_NAMES = {NORMAL: "normal", ANOMALOUS: "anomaly", UNKNOWN: "not labelled"}
_DEFECTS = ("CutPaste", "CutPaste-Scar")  # the classes of the 3-way task, behind that of normal images
_AT_ONCE = 64  # images that defects are made in together


def groups_of(
    model: TrainedModel, split: str = "test", layer: Layer = "pooled", *, defects: bool = True, seed: int = 0
) -> dict[str, Features]:
    """Features of a split by kind of image.

    Args:
      model: the representation.
      split: of the data it was trained on.
      layer: pooled features, the head's output, or logits.
      defects: also those of its normal images with a patch and with a scar pasted in, as the pretext tasks
        make them, in sizes and colours of the training.
      seed: of these.

    """
    examples = read_all(create_pipeline(model.experiment, split, train=False))
    images, labels = examples["image"], examples["label"]
    shown = {name: images[labels == label] for label, name in _NAMES.items()}
    if defects:
        shown |= made_up(shown["normal"], model.experiment.task.pretext, seed)
    return {name: of_images(model, group, layer) for name, group in shown.items() if len(group)}


def made_up(images: Images, pretext: PretextConfig, seed: int = 0) -> dict[str, Images]:
    """Images with a patch of themselves pasted in, and with a scar."""
    drawn = PretextConfig("cutpaste_3way", patch=pretext.patch, scar=pretext.scar, colors=pretext.colors)

    @jax.jit
    def make(key: jax.Array, part: UInt8[jax.Array, "count height width 3"]) -> jax.Array:
        rows, _ = make_rows(key, part, drawn)
        return (rows.clip(0, 1) * 255).round().astype(np.uint8)

    starts = range(0, len(images), _AT_ONCE)
    keys = jax.random.split(jax.random.key(seed), max(1, len(starts)))
    parts = [
        np.asarray(make(key, images[start : start + _AT_ONCE]))
        for key, start in zip(keys, starts, strict=False)
    ]
    kinds = 1 + len(_DEFECTS)
    rows = np.concatenate(parts) if parts else images
    return {name: rows[place::kinds] for place, name in enumerate(_DEFECTS, start=1)}


def embed_split(
    model: TrainedModel,
    split: str = "test",
    layer: Layer = "pooled",
    *,
    defects: bool = True,
    perplexity: float = PERPLEXITY,
    max_points: int = MAX_POINTS,
    seed: int = 0,
) -> tuple[Embedding, list[dict[str, Any]]]:
    """The plane of `groups_of` a split, and for each group how well a Gaussian tells it from the normal one.

    Args:
      model: the representation.
      split: of the data it was trained on.
      layer: pooled features, the head's output, or logits.
      defects: also made-up ones.
      perplexity: of t-SNE, about how many neighbours count.
      max_points: of more, so many are drawn.
      seed: of defects, draw and t-SNE.

    Returns:
      The points, and rows of group, count and AUC in percent; none for the normal group.

    """
    groups = groups_of(model, split, layer, defects=defects, seed=seed)
    embedding = embed(groups, perplexity=perplexity, max_points=max_points, seed=seed)
    return embedding, _told_apart(groups, of_split(model, "train", layer).features)


def write_embedding(found: Embedding, rows: list[dict[str, Any]], output: epath.PathLike) -> None:
    """Writes `embedding.png`, its points as `embedding.csv`, and `embedding.json`.

    Raises:
      UserError: the folder cannot be written to.

    """
    folder = epath.Path(output)
    points = [
        {"group": name, "x": float(x), "y": float(y)}
        for name, group in found.points.items()
        for x, y in group
    ]
    write_file(folder / TABLE, encode_table(points).content)
    write_file(folder / FIGURES, encode_json({"perplexity": found.perplexity, "groups": rows}).content)
    write_file(folder / PICTURE, encode_figure(embedding_figure(found)).content)


def _told_apart(groups: Mapping[str, Features], train: Features) -> list[dict[str, Any]]:
    scorer = fit(ScorerSettings("gde"), train)
    scores = {name: scorer.score(features) for name, features in groups.items()}
    rows = []
    for name, found in scores.items():
        row: dict[str, Any] = {"group": name, "count": len(found)}
        if name != _NAMES[NORMAL] and _NAMES[NORMAL] in scores:
            normal = scores[_NAMES[NORMAL]]
            labels = np.repeat([NORMAL, ANOMALOUS], [len(normal), len(found)])
            row["auc"] = image_figures(np.concatenate([normal, found]), labels, name).auc
        rows.append(row)
    return rows
