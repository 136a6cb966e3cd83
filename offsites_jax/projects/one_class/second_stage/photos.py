"""From a folder of good photos to a bundle: training, scorer, threshold, and figures where there are any."""

import dataclasses
import os
from typing import Any

from absl import logging

from offsites_jax.data.pipeline import Pipeline
from offsites_jax.errors import DamagedDataError
from offsites_jax.projects.one_class.data import BadRecord, read_all, screen, split_pipeline
from offsites_jax.projects.one_class.data_config import DataConfig
from offsites_jax.projects.one_class.measures.scores import image_figures
from offsites_jax.projects.one_class.readers.folder import is_plain
from offsites_jax.projects.one_class.readers.sources import VALIDATION
from offsites_jax.projects.one_class.recipes.photos import PhotoSettings, photos
from offsites_jax.projects.one_class.second_stage import bundle_files
from offsites_jax.projects.one_class.second_stage.bundle import Bundle
from offsites_jax.projects.one_class.second_stage.fit import (
    SecondStage,
    check,
    fit_bundle,
    open_model,
    pixel_figures,
)
from offsites_jax.train.config import plain, resolve
from offsites_jax.train.loop import train

_SHOWN = 5  # files a message names


def fit_photos(
    folder: str, workdir: str, settings: PhotoSettings, stage: SecondStage, *, skip_bad: bool = False
) -> dict[str, Any]:
    """Trains, fits, and writes `<workdir>/bundle`.

    Args:
      folder: of photos.
      workdir: of the run; a run of the same settings goes on.
      settings: of the training.
      stage: of the scorer.
      skip_bad: leave out files that cannot be read.

    Returns:
      What to tell: numbers of images, the threshold, and with `test/` in the folder its figures.

    Raises:
      UserError: settings or photos that are not as they have to be.
      DamagedDataError: a photo cannot be read.

    """
    raw = plain(photos(os.path.abspath(folder), settings))
    if skip_bad:
        raw["data"]["loading"] = {"on_bad_record": "skip"}
    experiment = resolve(raw)
    check(experiment, stage)
    normal, bad = _readable(experiment.data, "train", skip_bad)
    held_out, bad_held_out = _readable(experiment.data, VALIDATION, skip_bad)
    left_out = [*bad, *bad_held_out]
    train(experiment, workdir)
    fitted = fit_bundle(open_model(workdir), stage, normal, held_out)
    fitted = dataclasses.replace(fitted, note=_note(fitted, len(normal.source), left_out))
    bundle_files.save(fitted, os.path.join(workdir, bundle_files.FOLDER))
    told: dict[str, Any] = {
        "training images": len(normal.source),
        "held-out images": len(held_out.source),
        "left out": len(left_out),
        "threshold": fitted.threshold.value,
    }
    return told | _test_figures(fitted, folder, skip_bad=skip_bad)


def _readable(data: DataConfig, split: str, skip_bad: bool) -> tuple[Pipeline, tuple[BadRecord, ...]]:
    """The images of a split, all looked at before hours are spent on them."""
    pipeline, bad = screen(split_pipeline(data, split))
    if bad and not skip_bad:
        raise DamagedDataError(
            f"{bad[0].name}: {bad[0].reason}; {len(bad)} bad files: repair or remove them, or leave them out "
            "with --skip-bad"
        )
    for record in bad[:_SHOWN]:
        logging.warning("left out: %s: %s", record.name, record.reason)
    return pipeline, bad


def _note(fitted: Bundle, images: int, left_out: list[BadRecord]) -> str:
    """What a reader of scores should know of how the bundle was made."""
    held_out = len(fitted.normal_scores)
    lines = []
    if left_out:
        names = "; ".join(record.name for record in left_out)
        lines.append(f"Left out of training because they cannot be read: {names}.")
    if held_out * (1 - fitted.threshold.quantile) < 1:
        lines.append(
            f"The threshold is the highest score of {held_out} held-out good images: with so few, expect "
            f"about one in {held_out + 1} good images above it."
        )
    if fitted.windows is None and images < fitted.scorer.dimension:
        lines.append(
            f"{images} training images are fewer than the {fitted.scorer.dimension} features of each: a "
            "covariance is shrunk towards a sphere."
        )
    return "\n".join(lines)


def _test_figures(fitted: Bundle, folder: str, *, skip_bad: bool) -> dict[str, Any]:
    """Figures on `test/`, where there is one."""
    if is_plain(folder) or not os.path.isdir(os.path.join(folder, "test")):
        return {}
    pipeline, _ = _readable(fitted.model.experiment.data, "test", skip_bad)
    examples = read_all(pipeline)
    figures = image_figures(fitted.score(examples["image"]), examples["label"], f"{folder}/test")
    told: dict[str, Any] = {
        "test images": len(examples["label"]),
        "image AUC": figures.undefined or figures.auc,
    }
    if "defect" in examples:
        pixels = pixel_figures(fitted, examples, f"{folder}/test")
        told["pixel AUC"] = pixels.undefined or pixels.auc
        told["pixel AUC at"] = f"{pixels.width} x {pixels.height} pixels"
    return told
