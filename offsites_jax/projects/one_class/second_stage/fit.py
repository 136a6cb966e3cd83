"""The second stage: scorers fitted to any trained representation, without training it again."""

import dataclasses
from collections.abc import Sequence
from typing import Any

import numpy as np

from offsites_jax.data.pipeline import Pipeline
from offsites_jax.errors import UserError
from offsites_jax.parallel.mesh import MeshSettings, create_mesh
from offsites_jax.projects.one_class import scorers
from offsites_jax.projects.one_class.data import read_all
from offsites_jax.projects.one_class.detectors.base import Scorer
from offsites_jax.projects.one_class.detectors.patches import fit_patches
from offsites_jax.projects.one_class.localization import dense
from offsites_jax.projects.one_class.localization.dense import Images, Windows
from offsites_jax.projects.one_class.localization.explain import mean_image
from offsites_jax.projects.one_class.measures.pixel_scores import PixelFigures, PixelScores
from offsites_jax.projects.one_class.measures.scores import Threshold, image_figures, threshold_of
from offsites_jax.projects.one_class.scorers import ScorerSettings
from offsites_jax.projects.one_class.second_stage.bundle import Bundle
from offsites_jax.projects.one_class.second_stage.features import (
    Layer,
    layer_for,
    needs_rotation,
    network_of,
    of_images,
    of_split,
)
from offsites_jax.train.config import Experiment
from offsites_jax.train.program import create_program
from offsites_jax.train.restore import TrainedModel, restore
from offsites_jax.train.saved import Step
from offsites_jax.train.warm_start import warm_start
from offsites_jax.train.workdir import read_experiment

_CPU_WINDOWS = 64
_AT_ONCE = 8  # images whose heat maps are made together


@dataclasses.dataclass(frozen=True)
class SecondStage:
    """How a bundle is fitted.

    Attributes:
      scorer: which scorer; for windows gde, whose settings `covariance` and `normalize` count.
      layer: what it reads of a whole image.
      stride: between windows in pixels, where the network was trained on windows; 0 scores whole images.
      aligned: objects always lie the same way: a Gaussian for each place of a window.
      quantile: of the scores of held-out normal images that becomes the threshold.

    """

    scorer: ScorerSettings = ScorerSettings()
    layer: Layer = "pooled"
    stride: int = 4
    aligned: bool = False
    quantile: float = 0.99


def open_model(workdir: str, step: Step = "latest") -> TrainedModel:
    """A trained representation on one device, whatever mesh it was trained on."""
    experiment = dataclasses.replace(read_experiment(workdir), mesh=MeshSettings(data=1))
    return restore(workdir, step=step, experiment=experiment)


def before_training(experiment: Experiment) -> TrainedModel:
    """The network that a training starts with: fresh or filled from `init_from`, on its mesh."""
    program = create_program(experiment, create_mesh(experiment.mesh))
    variables = program.initial_state().variables(ema=False)
    if experiment.init_from:
        variables, _ = warm_start(variables, experiment.init_from)
    return TrainedModel(program, variables, 0)


def fit_bundle(model: TrainedModel, stage: SecondStage, normal: Pipeline, held_out: Pipeline) -> Bundle:
    """Fits a scorer to normal images, and sets the threshold by others.

    Args:
      model: the representation.
      stage: how.
      normal: images to fit to.
      held_out: normal images that the model was not trained on.

    Raises:
      UserError: settings that the model cannot serve, or too few images.

    """
    unset = fit_without_threshold(model, stage, read_all(normal)["image"])
    examples = read_all(held_out)
    scores = unset.score(examples["image"][examples["label"] <= 0])
    threshold = threshold_of(scores, stage.quantile)
    return dataclasses.replace(unset, threshold=threshold, normal_scores=tuple(map(float, scores)))


def fit_without_threshold(model: TrainedModel, stage: SecondStage, images: Images) -> Bundle:
    """A bundle that scores but flags nothing, of normal images at the size of the model.

    Raises:
      UserError: settings that the model cannot serve, or too few images.

    """
    check(model.experiment, stage)
    windows = windows_of(model.experiment, stage.stride)
    layer = "pooled" if windows else layer_for(stage.scorer, stage.layer)
    if windows is not None:
        scorer = _fit_windows(model, stage, images, windows)
    else:
        scorer = scorers.fit(stage.scorer, of_images(model, images, layer))
    reads_pooled = windows is None and layer == "pooled"
    return Bundle(
        model=model,
        scorer=scorer,
        layer=layer,
        windows=windows,
        whole=scorer if reads_pooled else scorers.fit(ScorerSettings(), of_images(model, images)),
        baseline=mean_image(images),
        threshold=Threshold(float("inf"), stage.quantile, 0),
        normal_scores=(),
    )


def check(experiment: Experiment, stage: SecondStage) -> None:
    """Raises UserError for settings that the network of an experiment cannot serve."""
    windows = windows_of(experiment, stage.stride)
    needs_rotation(experiment, stage.scorer)
    if windows is None:
        layer_for(stage.scorer, stage.layer)
    elif stage.scorer.name != "gde":
        raise UserError(
            f"scorer {stage.scorer.name!r}: windows are scored by Gaussians; use gde, or stride 0 to score "
            "whole images"
        )


def windows_of(experiment: Experiment, stride: int) -> Windows | None:
    """The windows to score, where a network was trained on windows and a stride is given.

    Raises:
      UserError: windows that do not cover an image.

    """
    side, size = experiment.task.pretext.window, experiment.data.image_size
    if not side or not stride:
        return None
    windows = Windows(side, stride, at_once=_CPU_WINDOWS)
    windows.grid(size, size)
    return windows


def table_of_scorers(
    model: TrainedModel, settings: Sequence[ScorerSettings], layer: Layer = "pooled", split: str = "test"
) -> list[dict[str, Any]]:
    """Image-level figures of several scorers on a split, a row each."""
    rows = []
    for scorer in settings:
        needs_rotation(model.experiment, scorer)
        read = layer_for(scorer, layer)
        fitted = scorers.fit(scorer, of_split(model, "train", read).features)
        tested = of_split(model, split, read)
        known = tested.labels >= 0
        scores = fitted.score(tested.features)[known]
        figures = image_figures(scores, tested.labels[known], f"split {split!r}")
        rows.append({"scorer": scorer.name, "layer": read, **figures.row()})
    return rows


def pixel_figures(bundle: Bundle, examples: dict[str, np.ndarray], source: str) -> PixelFigures:
    """Pixel-level figures of a bundle on examples with masks, at the size of the model.

    Raises:
      UserError: there are no masks.

    """
    if "defect" not in examples:
        raise UserError(f"{source}: has no masks; pixel figures need them")
    collected = PixelScores(source)
    for start in range(0, len(examples["image"]), _AT_ONCE):
        part = slice(start, start + _AT_ONCE)
        _, heat = bundle.score_and_heat(examples["image"][part])
        for one, mask in zip(heat, examples["defect"][part], strict=True):
            collected.add(one, mask)
    return collected.result()


def _fit_windows(model: TrainedModel, stage: SecondStage, images: Images, windows: Windows) -> Scorer:
    network = network_of(model)
    found = dense.patch_features(network, model.variables, images, windows, model.mesh)
    return fit_patches(
        found,
        shared=not stage.aligned,
        covariance=stage.scorer.covariance,
        normalize=stage.scorer.normalize,
        mesh=model.mesh,
    )
