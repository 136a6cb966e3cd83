"""Figures of localisation: heat maps against masks, the pixels of all test images of a category together.

Good images take part with empty masks. The published protocol is at 256x256 pixels; at another size the
figures differ, so the size is part of the result.
"""

import dataclasses
from typing import Any

import numpy as np
from jaxtyping import Bool, Float

from offsites_jax.errors import UserError
from offsites_jax.projects.one_class.measures.scores import undefined

PRO_LIMIT = 0.3
"""Share of normal pixels flagged up to which the region overlap is averaged."""


@dataclasses.dataclass(frozen=True)
class PixelFigures:
    """Figures of one category, in percent.

    Attributes:
      auc: area under the ROC curve of all pixels, ties counted half; None if there is none.
      region_overlap: PRO: the mean overlap with each defect, averaged over thresholds that flag up to 30 % of
        normal pixels; None unless asked for.
      height: of the maps.
      width: of the maps.
      images: how many.
      undefined: why there is no AUC; empty if there is one.

    """

    auc: float | None
    region_overlap: float | None
    height: int
    width: int
    images: int
    undefined: str = ""


class PixelScores:
    """Collects heat maps and masks of one category.

    Memory is four bytes a pixel, and one more for its mask.
    """

    def __init__(self, source: str) -> None:
        """`source` names the category, for messages."""
        self._source = source
        self._heats: list[Float[np.ndarray, "height width"]] = []
        self._masks: list[Bool[np.ndarray, "height width"]] = []

    def add(self, heat: Float[np.ndarray, "height width"], mask: np.ndarray | None, name: str = "") -> None:
        """Adds an image; a mask of None is that of a good one.

        Raises:
          UserError: sizes that differ from the mask's or the first image's, or heat that is not finite.

        """
        heat = np.asarray(heat, np.float32)
        mask = np.zeros(heat.shape, bool) if mask is None else np.asarray(mask) > 0
        size = self._heats[0].shape if self._heats else heat.shape
        if heat.ndim != 2 or not heat.shape == mask.shape == size:
            raise UserError(
                f"{name or self._source}: heat map {list(heat.shape)}, mask {list(mask.shape)}, others "
                f"{list(size)}; all must have the same size"
            )
        if not np.isfinite(heat).all():
            raise UserError(f"{name or self._source}: the heat map holds NaN or infinity; check the image")
        self._heats.append(heat)
        self._masks.append(mask)

    def result(self, *, region_overlap: bool = False) -> PixelFigures:
        """The figures of all images added.

        Raises:
          UserError: there are none.

        """
        if not self._heats:
            raise UserError(f"{self._source}: no heat maps to compare with masks; give test images")
        heats, masks = np.stack(self._heats), np.stack(self._masks)
        reason = undefined(int((~masks).sum()), int(masks.sum()), self._source, "pixels")
        overlap = 100 * per_region_overlap(heats, masks) if region_overlap and not reason else None
        auc = None if reason else 100 * pooled_auc(heats, masks)
        images, height, width = heats.shape
        return PixelFigures(auc, overlap, height, width, images, reason)


def pooled_auc(scores: Float[np.ndarray, "*any"], positive: Bool[np.ndarray, "*any"]) -> float:
    """Share of pairs (positive, negative) in the right order, ties counted half.

    Equal to `sklearn.metrics.roc_auc_score`, in a fifth of its memory: only the negative scores are sorted.
    """
    negatives = np.sort(scores[~positive])
    positives = scores[positive]
    below = np.searchsorted(negatives, positives, "left").astype(np.int64).sum()
    up_to = np.searchsorted(negatives, positives, "right").astype(np.int64).sum()
    return float((int(below) + int(up_to)) / (2 * len(negatives) * len(positives)))


def per_region_overlap(
    heats: Float[np.ndarray, "images height width"],
    masks: Bool[np.ndarray, "images height width"],
    limit: float = PRO_LIMIT,
) -> float:
    """Mean overlap with each defect, averaged over the share of normal pixels flagged, up to `limit`.

    A defect is a connected part of a mask, neighbours by a corner included; each counts the same, whatever
    its size. This is the area under the curve divided by the limit, so that 1 is perfect (Bergmann et al.,
    "The MVTec Anomaly Detection Dataset", IJCV 2021).
    """
    order = np.argsort(-heats, axis=None, kind="stable")
    flat = heats.reshape(-1)[order]
    last = np.append(flat[1:] != flat[:-1], True)  # a threshold takes all pixels of the same heat
    alarms = np.cumsum(~masks.reshape(-1)[order])[last] / (~masks).sum()
    overlap = np.cumsum(_region_weights(masks).reshape(-1)[order])[last]
    alarms, overlap = np.insert(alarms, 0, 0.0), np.insert(overlap, 0, 0.0)
    inside = alarms <= limit
    ends = np.append(alarms[inside], limit), np.append(overlap[inside], np.interp(limit, alarms, overlap))
    return float(np.trapezoid(ends[1], ends[0]) / limit)


def _region_weights(masks: Bool[np.ndarray, "images height width"]) -> Any:
    """1 / (pixels of its defect x number of defects) at each pixel of a mask."""
    from scipy import ndimage

    weights = np.zeros(masks.shape)
    regions = 0
    for weight, mask in zip(weights, masks, strict=True):
        labels, count = ndimage.label(mask, np.ones((3, 3)))
        weight[mask] = 1 / np.bincount(labels.reshape(-1))[labels[mask]]
        regions += count
    return weights / regions
