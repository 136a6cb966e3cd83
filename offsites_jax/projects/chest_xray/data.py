"""Radiographs and their labels: a manifest of one's own, or ChestX-ray14 as it is published."""

import dataclasses
import functools
from collections.abc import Sequence
from typing import Literal

import numpy as np

from offsites_jax.data.files import FilesSource
from offsites_jax.data.pipeline import Loading, Pipeline
from offsites_jax.data.source import Record
from offsites_jax.errors import UserError
from offsites_jax.projects.chest_xray.augment import AugmentConfig, augment
from offsites_jax.projects.chest_xray.cohorts import sources
from offsites_jax.projects.chest_xray.intake import radiograph, records
from offsites_jax.projects.chest_xray.intake.grey import Grey
from offsites_jax.train.config import Experiment


@dataclasses.dataclass(frozen=True)
class DataConfig:
    """Section `data`.

    Attributes:
      source: manifest (a CSV or Parquet table `image, patient_id, label, split ...`); records (a folder that
        `offsites chest_xray records` wrote); cxr14 (the folder of ChestX-ray14 with its entry file and lists,
        weak labels); tb (a folder of the Shenzhen or Montgomery set, tuberculosis by file name).
      path: of the manifest, or the folder.
      train_split: split that training reads.
      salt: of the split by patient, where the data set assigns none.
      fraction: share of the training patients to train on, drawn with and without the finding alike.
      fraction_seed: another one draws others.
      unknown: what training takes a doubtful or missing label for: ignore, negative or positive; evaluation
        always leaves it out.
      image_size: side of the square the network sees, in pixels.
      crop_borders: cut off rows and columns of one value at the edges first.
      allow: DICOM objects to read beside CR and DX for presentation: processing, secondary.
      augment: random views in training.
      loading: workers, prefetch, what to do about a bad record.

    """

    source: Literal["manifest", "records", "cxr14", "tb"] = "manifest"
    path: str = ""
    train_split: str = "train"
    salt: str = ""
    fraction: float = 1.0
    fraction_seed: int = 0
    unknown: Literal["ignore", "negative", "positive"] = "ignore"
    image_size: int = 600
    crop_borders: bool = False
    allow: tuple[str, ...] = ()
    augment: AugmentConfig = AugmentConfig()
    loading: Loading = Loading()

    def __post_init__(self) -> None:
        if self.image_size < 32:
            raise UserError(f"config.data.image_size: is {self.image_size}, must be at least 32")
        if not 0 < self.fraction <= 1:
            raise UserError(f"config.data.fraction: is {self.fraction}, must be above 0 and at most 1")
        wrong = set(self.allow) - {"processing", "secondary"}
        if wrong:
            raise UserError(f"config.data.allow: {sorted(wrong)}: choose from processing, secondary")


def create_pipeline(experiment: Experiment, split: str, train: bool) -> Pipeline:
    """The pipeline of one split: random views for training, plain ones for evaluation.

    Raises:
      UserError: the table or folder is not as it has to be, a patient is in two splits, or a split is empty.

    """
    config: DataConfig = experiment.data
    source = sources.create_source(config.source, config.path, split, experiment.model.outputs, config.salt)
    if train and config.fraction < 1:
        source = source.of_patients(config.fraction, config.fraction_seed)
    return Pipeline(source, functools.partial(example, config=config))


def create_input_pipeline(experiment: Experiment, paths: Sequence[str]) -> Pipeline:
    """The pipeline of files a user names, for `offsites predict`."""
    config = experiment.data
    transform = functools.partial(example, config=config, num_outputs=len(experiment.model.outputs))
    return Pipeline(FilesSource(paths), transform)


def example(
    record: Record,
    rng: np.random.Generator | None = None,
    *,
    config: DataConfig,
    num_outputs: int = 0,
) -> Record:
    """A square uint16 image and its labels, NaN where they are not known."""
    pixels, crop = _pixels(record, config)
    image = radiograph.prepare(pixels, config.image_size, crop_borders=crop)
    labels = np.asarray(record.get("label", np.full(num_outputs, np.nan)), np.float32)
    if rng is not None:
        image = augment(image, rng, config.augment)
        labels = with_unknown(labels, config.unknown)
    return {"image": radiograph.to_uint16(image), "label": labels}


def _pixels(record: Record, config: DataConfig) -> tuple[Grey, bool]:
    """Brightness, and whether borders are to be cut off yet."""
    if "content" in record:
        return radiograph.parse(record["content"], allow=config.allow).pixels, config.crop_borders
    return records.pixels_of(record).astype(np.float32) / radiograph.FULL, False


def with_unknown(labels: np.ndarray, policy: str) -> np.ndarray:
    """Labels with unknown ones replaced as the policy says."""
    stand_in = {"ignore": np.nan, "negative": 0.0, "positive": 1.0}[policy]
    return np.where(np.isnan(labels), np.float32(stand_in), labels).astype(np.float32)
