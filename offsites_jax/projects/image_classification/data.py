"""Labelled images: the pipelines that training, evaluation and prediction read."""

import functools
from collections.abc import Sequence

from offsites_jax.data.files import FilesSource
from offsites_jax.data.pipeline import Pipeline
from offsites_jax.projects.image_classification.data_config import DataConfig
from offsites_jax.projects.image_classification.sampling import EvenlySpaced
from offsites_jax.projects.image_classification.sources import check_classes, create_source
from offsites_jax.projects.image_classification.transforms import augment, prepare
from offsites_jax.train.config import Experiment

__all__ = ["DataConfig", "create_input_pipeline", "create_pipeline"]


def create_pipeline(experiment: Experiment, split: str, train: bool) -> Pipeline:
    """The pipeline of one split: augmented for training, plain for evaluation.

    Raises:
      UserError: the split is not there, or its classes are not those of the classifier.
    """
    config: DataConfig = experiment.data
    num_classes = experiment.model.num_classes
    source = create_source(config, split)
    check_classes(source, config, split, num_classes)
    here, _ = config.of_split(split)
    if here.sample:
        source = EvenlySpaced(source, here.sample)
    transform = augment if train else prepare
    return Pipeline(source, functools.partial(transform, config=here, num_classes=num_classes))


def create_input_pipeline(experiment: Experiment, paths: Sequence[str]) -> Pipeline:
    """The pipeline of image files a user names, for `offsites predict`."""
    transform = functools.partial(prepare, config=experiment.data, num_classes=experiment.model.num_classes)
    return Pipeline(FilesSource(paths), transform)
