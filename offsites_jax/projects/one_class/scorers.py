"""The second stage: a scorer fitted to features of normal images scores those of others.

    scorer = fit(ScorerSettings("gde"), features)
    scores = scorer.score(others, mesh)       # float32, larger is more anomalous
    save(scorer, "run/scorer"); scorer = load("run/scorer")

Features are those of *unaugmented* images, from a model in evaluation mode. A scorer is a tree of arrays with
a pure `apply` for `jax.jit` and `jax.grad`, and a `score` that works chunk by chunk on a mesh.
"""

import dataclasses
import os
from collections.abc import Callable
from typing import Any, Literal

import numpy as np
from jaxtyping import Float

from offsites_jax.errors import UserError
from offsites_jax.projects.one_class.detectors import files
from offsites_jax.projects.one_class.detectors.base import Features, Scorer, training_features
from offsites_jax.projects.one_class.detectors.gaussian import Covariance, Gaussian, Mixture
from offsites_jax.projects.one_class.detectors.kernel import (
    KernelDensity,
    LinearOneClassSVM,
    NearestNeighbours,
    OneClassSVM,
)
from offsites_jax.projects.one_class.detectors.patches import LocationGaussians, LowRankLocationGaussians
from offsites_jax.projects.one_class.detectors.rotation import RotationLogit, RotationProduct

MAX_SAMPLES = 20_000
"""Of more features, this many are drawn to fit to (google-research/deep_representation_one_class)."""

ScorerName = Literal["ocsvm", "ocsvm_linear", "kde", "gde", "gmm", "knn", "logit", "dscore"]


@dataclasses.dataclass(frozen=True)
class ScorerSettings:
    """Which scorer, and how it is fitted.

    Attributes:
      name: ocsvm and ocsvm_linear (one-class SVM), kde (kernel density), gde (one Gaussian), gmm (several),
        knn (nearest neighbours), or logit and dscore (of a rotation classifier, from its logits).
      gamma: of the kernel of ocsvm and kde; none is 10 / (columns x variance of all entries).
      nu: of ocsvm and ocsvm_linear.
      covariance: of gde, "ledoit_wolf" or "full".
      normalize: whether gde divides features by their length; the others always do, ocsvm_linear never.
      components: of gmm.
      neighbours: of knn.
      max_samples: of more features, this many are drawn at random.
      seed: of that draw, and of gmm.

    """

    name: ScorerName = "gde"
    gamma: float | None = None
    nu: float = 0.5
    covariance: Covariance = "ledoit_wolf"
    normalize: bool = True
    components: int = 4
    neighbours: int = 1
    max_samples: int = MAX_SAMPLES
    seed: int = 0


_FIT: dict[str, Callable[[Any, ScorerSettings], Scorer]] = {
    "ocsvm": lambda features, s: OneClassSVM.fit(features, gamma=s.gamma, nu=s.nu),
    "ocsvm_linear": lambda features, s: LinearOneClassSVM.fit(features, nu=s.nu),
    "kde": lambda features, s: KernelDensity.fit(features, gamma=s.gamma),
    "gde": lambda features, s: Gaussian.fit(features, covariance=s.covariance, normalize=s.normalize),
    "gmm": lambda features, s: Mixture.fit(features, components=s.components, seed=s.seed),
    "knn": lambda features, s: NearestNeighbours.fit(features, neighbours=s.neighbours),
}
_NEEDS_NO_FIT: dict[str, Callable[[Any], Scorer]] = {
    "logit": RotationLogit.fit,
    "dscore": RotationProduct.fit,
}
_CLASSES: tuple[type[Scorer], ...] = (
    OneClassSVM,
    LinearOneClassSVM,
    KernelDensity,
    Gaussian,
    Mixture,
    NearestNeighbours,
    RotationLogit,
    RotationProduct,
    LocationGaussians,
    LowRankLocationGaussians,
)
KINDS: dict[str, type[Scorer]] = {scorer.kind: scorer for scorer in _CLASSES}
"""The class of each kind of scorer that is kept in files."""


def fit(settings: ScorerSettings, features: Features) -> Scorer:
    """A scorer fitted to features of normal images.

    Args:
      settings: which and how.
      features: float [count, columns] of unaugmented images; for "logit" and "dscore" logits, of which they
        need nothing but the number.

    Raises:
      UserError: an unknown name, or features that are not sound; the message says what to do.

    """
    if settings.name in _NEEDS_NO_FIT:
        return _NEEDS_NO_FIT[settings.name](features)
    if settings.name not in _FIT:
        known = ", ".join((*_FIT, *_NEEDS_NO_FIT))
        raise UserError(f"scorer {settings.name!r} is unknown; known: {known}")
    if settings.max_samples < 2:
        raise UserError(f"max_samples is {settings.max_samples}; give 2 or more")
    what = f"the {settings.name} scorer"
    drawn = training_features(features, what, limit=settings.max_samples, seed=settings.seed)
    return _FIT[settings.name](drawn, settings)


def save(scorer: Scorer, path: str | os.PathLike[str]) -> None:
    """Writes `path`.npz (arrays) and `path`.json (what they are).

    Raises:
      UserError: the folder cannot be written.

    """
    files.write(scorer, path)


def load(path: str | os.PathLike[str]) -> Scorer:
    """The scorer that `save` wrote.

    Raises:
      UserError: no such files, or of a newer version of this package.
      DamagedDataError: files that are broken or do not belong together.

    """
    return files.read(path, KINDS)


def ensemble(
    scores: Float[np.ndarray, "models count"],
    normal_scores: Float[np.ndarray, "models normals"] | None = None,
) -> Float[np.ndarray, "count"]:
    """One score from those of several models, as a rule the same recipe under other seeds.

    Without `normal_scores` the plain mean, which is how we read "ensemble of anomaly scores" in CutPaste
    (arXiv 2104.04015, table 1): Gaussian scores have one scale, about half the number of columns. With them,
    the scores of each model are first standardised by mean and standard deviation of its scores of normal
    images that are not under test; use that where the scale depends on the model (ocsvm, kde, knn).

    Raises:
      UserError: shapes that do not fit, or normal scores that do not vary.

    """
    scores = np.asarray(scores, np.float64)
    if scores.ndim != 2:
        raise UserError(f"scores of shape {list(scores.shape)} to join; give [models, images]")
    if normal_scores is not None:
        normal = np.asarray(normal_scores, np.float64)
        if normal.ndim != 2 or len(normal) != len(scores) or not normal.std(axis=1).all():
            raise UserError(
                f"normal scores of shape {list(normal.shape)} cannot standardise those of {len(scores)} "
                "models; give [models, normal images], of at least two images"
            )
        scores = (scores - normal.mean(axis=1, keepdims=True)) / normal.std(axis=1, keepdims=True)
    return scores.mean(axis=0).astype(np.float32)
