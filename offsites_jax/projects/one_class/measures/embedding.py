"""t-SNE pictures of features: normal images, anomalies, the pretext's defects (arXiv 2104.04015, fig. 3)."""

import dataclasses
from collections.abc import Mapping

import matplotlib
import numpy as np
from jaxtyping import Float
from matplotlib.figure import Figure

from offsites_jax.errors import UserError
from offsites_jax.projects.one_class.detectors.base import Features, checked, host_unit_rows

PERPLEXITY = 30.0
MAX_POINTS = 2000
"""Points of a picture, over all groups; of more, so many are drawn."""


@dataclasses.dataclass(frozen=True)
class Embedding:
    """Points of a picture.

    Attributes:
      points: by group.
      perplexity: that was used; less than asked for where there are few points.

    """

    points: Mapping[str, Float[np.ndarray, "count 2"]]
    perplexity: float


def embed(
    groups: Mapping[str, Features],
    *,
    perplexity: float = PERPLEXITY,
    max_points: int = MAX_POINTS,
    seed: int = 0,
) -> Embedding:
    """All groups in one plane by t-SNE, from features divided by their length.

    Args:
      groups: features by name, such as normal, anomaly, CutPaste and CutPaste-Scar; all of the same columns.
      perplexity: about how many neighbours count.
      max_points: of more, so many are drawn, from each group its share.
      seed: of the draw and of t-SNE.

    Raises:
      UserError: groups that do not fit each other, features that are not sound, or fewer than five.

    """
    from sklearn import manifold

    features = {name: checked(group, f"t-SNE of {name}") for name, group in groups.items()}
    widths = {group.shape[1] for group in features.values()}
    total = sum(map(len, features.values()))
    if len(widths) != 1 or total < 5:
        raise UserError(
            f"t-SNE: {total} features of {sorted(widths)} columns; give five or more, all of the same layer"
        )
    random = np.random.default_rng(seed)
    share = min(1.0, max_points / total)
    drawn = {name: _draw(group, share, random) for name, group in features.items()}
    count = sum(map(len, drawn.values()))
    perplexity = min(perplexity, (count - 1) / 3)
    points = manifold.TSNE(perplexity=perplexity, init="pca", random_state=seed).fit_transform(
        host_unit_rows(np.concatenate(list(drawn.values())))
    )
    ends = np.cumsum([len(group) for group in drawn.values()])[:-1]
    return Embedding(dict(zip(drawn, np.split(points, ends), strict=True)), perplexity)


def embedding_figure(embedding: Embedding, title: str = "") -> Figure:
    """The points, a colour a group."""
    figure = Figure(figsize=(6, 6), layout="constrained")
    axes = figure.subplots()
    colours = matplotlib.colormaps["tab10"]
    for index, (name, points) in enumerate(embedding.points.items()):
        label = f"{name} ({len(points)})"
        axes.scatter(points[:, 0], points[:, 1], s=9, alpha=0.7, color=colours(index % 10), label=label)
    axes.set_xticks([])
    axes.set_yticks([])
    axes.set_title(title or f"t-SNE of features, perplexity {embedding.perplexity:g}")
    figure.legend(loc="outside lower center", ncols=2)
    return figure


def _draw(features: Features, share: float, random: np.random.Generator) -> Features:
    """A share of the rows in their order, at least one of any."""
    count = min(len(features), max(1, round(share * len(features))))
    return features[np.sort(random.choice(len(features), count, replace=False))]
