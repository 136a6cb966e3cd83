"""Where the images of a labelled split are anomalous: pixel figures and a report with ground truth beside."""

import dataclasses
from typing import Any

import numpy as np
from etils import epath
from jaxtyping import Bool, Float, Int32

from offsites_jax.errors import UserError
from offsites_jax.projects.one_class import scorers
from offsites_jax.projects.one_class.data import create_pipeline, read_all
from offsites_jax.projects.one_class.detectors.base import Scorer
from offsites_jax.projects.one_class.detectors.patches import fit_patches
from offsites_jax.projects.one_class.localization import dense
from offsites_jax.projects.one_class.localization.dense import HeatMaps, Images, Windows
from offsites_jax.projects.one_class.localization.explain import grad_cam
from offsites_jax.projects.one_class.measures.pixel_scores import PixelFigures, PixelScores
from offsites_jax.projects.one_class.report import score_report
from offsites_jax.projects.one_class.report.heat_pictures import PanelColumn
from offsites_jax.projects.one_class.report.score_report import ScoredImages
from offsites_jax.projects.one_class.second_stage.features import network_of, of_images
from offsites_jax.train.restore import TrainedModel

_AT_ONCE = 64  # windows


@dataclasses.dataclass(frozen=True)
class Localized:
    """Images of a split from all sides.

    Attributes:
      images: as the model sees them.
      labels: 0 normal, 1 anomalous.
      masks: where they are defective.
      scores: of the worst window of each.
      heat: scores of windows, spread over their pixels.
      cams: GradCAM of a scorer of whole images.
      figures: of the heat against the masks.
      cam_figures: of GradCAM against them.

    """

    images: Images
    labels: Int32[np.ndarray, "count"]
    masks: Bool[np.ndarray, "count height width"]
    scores: Float[np.ndarray, "count"]
    heat: HeatMaps
    cams: HeatMaps
    figures: PixelFigures
    cam_figures: PixelFigures


def localize(
    model: TrainedModel,
    split: str,
    *,
    stride: int = 4,
    aligned: bool = False,
    normalize_borders: bool = False,
) -> Localized:
    """Scores every window of the images of a split, and compares the heat with their masks.

    The windows are as large as what the network was trained on. If that were whole images, those of the split
    may be larger.

    Args:
      model: trained on whole images or on windows.
      split: with masks.
      stride: between windows in pixels.
      aligned: a Gaussian for each place, not one for all; for networks trained on windows.
      normalize_borders: of heat maps, see `dense.upsample`.

    Raises:
      UserError: the split has no masks, or windows do not cover its images.

    """
    experiment = model.experiment
    examples = read_all(create_pipeline(experiment, split, train=False))
    if "defect" not in examples:
        raise UserError(f"split {split!r} has no masks; choose one that has")
    images, window = examples["image"], experiment.task.pretext.window
    windows = Windows(window or experiment.data.image_size, stride, at_once=_AT_ONCE)
    windows.grid(*images.shape[1:3])
    network = network_of(model)
    normal = read_all(create_pipeline(experiment, "train", train=False))["image"]
    whole = scorers.fit(scorers.ScorerSettings(), of_images(model, normal))
    scorer: Scorer = whole
    if window:
        found = dense.patch_features(network, model.variables, normal, windows, model.mesh)
        scorer = fit_patches(found, shared=not aligned, mesh=model.mesh)
    maps = dense.dense_map(network, model.variables, scorer, images, windows, model.mesh)
    heat = dense.upsample(maps, windows, normalize_borders=normalize_borders)
    cams = grad_cam(network, model.variables, whole, images)
    return Localized(
        images=images,
        labels=examples["label"],
        masks=examples["defect"] > 0,
        scores=dense.image_scores(maps),
        heat=heat,
        cams=cams,
        figures=_against(examples["defect"], heat, split),
        cam_figures=_against(examples["defect"], cams, split),
    )


def write_localized(found: Localized, output: epath.PathLike, *, source: str) -> None:
    """Writes `report.html`, with ground truth, GradCAM and heat map of every image, and `heatmaps/`."""
    columns = zip(found.images, found.masks, found.cams, found.heat, strict=True)
    both = {"heat map": found.figures, "GradCAM": found.cam_figures}
    scored = ScoredImages(
        names=[f"{number:04d}" for number in range(len(found.images))],
        scores=found.scores,
        image=lambda index: found.images[index],
        labels=found.labels,
        heat=list(found.heat),
    )
    score_report.write(
        output,
        scored,
        title="Where images are anomalous",
        source=source,
        facts=[{"by": name, **_shown(figures)} for name, figures in both.items()],
        panels=[PanelColumn(*column) for column in columns],
    )


def _against(masks: np.ndarray, heat: HeatMaps, source: str) -> PixelFigures:
    collected = PixelScores(source)
    for one, mask in zip(heat, masks, strict=True):
        collected.add(one, mask)
    return collected.result()


def _shown(figures: PixelFigures) -> dict[str, Any]:
    """Figures that there are, for a table."""
    plain = dataclasses.asdict(figures)
    return {f"pixel {name}": value for name, value in plain.items() if value not in (None, "")}
