"""Batches of many trainings side by side: row m of a step is the batch that training m would see there."""

import dataclasses
from collections.abc import Mapping

import numpy as np

from offsites_jax.data.pipeline import Example, Loading, Pipeline, global_batch
from offsites_jax.projects.one_class.stacking.task import SEED

_ONE_THREAD = Loading(num_threads=1)  # many rows are made at once already


@dataclasses.dataclass(frozen=True)
class MemberBatches:
    """Position `step * members + m` is what member m sees at a step.

    Attributes:
      pipelines: by category.
      members: category and seed of each row of a step.
      images: of the batch of one member.
      steps: of the run.

    """

    pipelines: Mapping[str, Pipeline]
    members: tuple[tuple[str, int], ...]
    images: int
    steps: int

    def __len__(self) -> int:
        return len(self.members) * self.steps

    def __getitem__(self, index: int) -> Example:
        step, place = divmod(index, len(self.members))
        category, seed = self.members[place]
        batch = global_batch(
            self.pipelines[category], batch_size=self.images, seed=seed, step=step, loading=_ONE_THREAD
        )
        return {**batch, SEED: np.asarray(seed, np.uint32)}

    def describe(self, index: int) -> str:
        """Step, category and seed."""
        step, place = divmod(index, len(self.members))
        category, seed = self.members[place]
        return f"step {step} of {category}, seed {seed}"

    def fingerprint(self) -> str:
        """That of all records, and who is in which row."""
        records = ",".join(pipeline.source.fingerprint() for pipeline in self.pipelines.values())
        return f"{records} {','.join(f'{category}:{seed}' for category, seed in self.members)}"


def stacked_pipeline(source: MemberBatches) -> Pipeline:
    """The pipeline of such rows, which come as they are."""
    return Pipeline(source, _as_it_is, ordered=True)


def _as_it_is(record: Example, rng: np.random.Generator | None) -> Example:
    del rng
    return record
