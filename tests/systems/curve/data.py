"""Points on the curve, jittered by the pipeline's generator."""

import dataclasses

import numpy as np

from offsites_jax.data.files import FilesSource
from offsites_jax.data.pipeline import Loading, Pipeline
from offsites_jax.data.source import ArraySource


@dataclasses.dataclass(frozen=True)
class DataConfig:
    """Section `data`.

    Attributes:
      records: points in the set.
      jitter: standard deviation of the noise on x in training.
      train_split: split that training reads.
      loading: workers, prefetch, bad records.
    """

    records: int = 100
    jitter: float = 0.05
    train_split: str = "train"
    loading: Loading = Loading()


@dataclasses.dataclass(frozen=True)
class Jitter:
    """Moves x a little, and y with it."""

    scale: float

    def __call__(self, record, rng):
        """One example."""
        noise = rng.normal(size=1) * self.scale if rng else np.zeros(1)
        x = (record["x"] + noise).astype(np.float32)
        return {"x": x, "y": np.sin(3 * x[0]).astype(np.float32)}


def create_pipeline(experiment, split, train):
    """x in -1..1."""
    x = np.linspace(-1, 1, experiment.data.records, dtype=np.float32)[:, None]
    return Pipeline(ArraySource({"x": x}), Jitter(experiment.data.jitter))


def create_input_pipeline(experiment, paths):
    """Files that hold one number each."""
    return Pipeline(FilesSource(paths), lambda record, rng: {"x": np.float32([float(record["content"])])})
