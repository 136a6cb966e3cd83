"""How evenly the features of several trainings lie on the sphere: a table, and a picture over batch sizes."""

import collections
import dataclasses
from collections.abc import Sequence
from typing import Any

from etils import epath

from offsites_jax.errors import UserError
from offsites_jax.projects.one_class.measures.uniformity import (
    TEMPERATURE,
    Uniformity,
    uniformity,
    uniformity_figure,
)
from offsites_jax.projects.one_class.second_stage.features import Layer, of_split
from offsites_jax.projects.one_class.second_stage.fit import open_model
from offsites_jax.projects.one_class.stored import write_file
from offsites_jax.projects.one_class.views.pretexts import PretextConfig
from offsites_jax.train.media import encode_figure, encode_table
from offsites_jax.train.saved import Step

TABLE, PICTURE = "uniformity.csv", "uniformity.png"


@dataclasses.dataclass(frozen=True)
class Measured:
    """One training.

    Attributes:
      workdir: folder of its run.
      kind: of pretext task.
      batch_size: images a step.
      seed: of the training.
      step: of the checkpoint.
      figures: of its features.

    """

    workdir: str
    kind: str
    batch_size: int
    seed: int
    step: int
    figures: Uniformity

    def row(self) -> dict[str, Any]:
        """A line of the table."""
        plain = dataclasses.asdict(self)
        return {**plain, **plain.pop("figures")}


def measure(
    workdir: str,
    *,
    split: str = "train",
    layer: Layer = "pooled",
    temperature: float = TEMPERATURE,
    step: Step = "latest",
) -> Measured:
    """Uniformity of the features of a split by a training.

    Args:
      workdir: of any training of this project.
      split: of the data it was trained on; all of its images count.
      layer: pooled features, the head's output, or logits.
      temperature: of the kernel.
      step: of the checkpoint.

    """
    model = open_model(workdir, step)
    features = of_split(model, split, layer).features
    experiment = model.experiment
    return Measured(
        workdir=workdir,
        kind=_kind(experiment.task.pretext),
        batch_size=experiment.train.batch_size,
        seed=experiment.train.seed,
        step=model.step,
        figures=uniformity(features, temperature=temperature, mesh=model.mesh),
    )


def write_uniformity(measured: Sequence[Measured], output: epath.PathLike) -> None:
    """Writes `uniformity.csv`, a row a training, and `uniformity.png`, a line a kind.

    Raises:
      UserError: two trainings that only their folders tell apart, or a folder that cannot be written to.

    """
    several = len({one.seed for one in measured}) > 1
    lines: dict[str, dict[int, Uniformity]] = collections.defaultdict(dict)
    for one in measured:
        line = lines[f"{one.kind}, seed {one.seed}" if several else one.kind]
        if one.batch_size in line:
            raise UserError(
                f"{one.workdir}: another training has the same task, batch size and seed; compare one of them"
            )
        line[one.batch_size] = one.figures
    folder = epath.Path(output)
    write_file(folder / TABLE, encode_table([one.row() for one in measured]).content)
    write_file(folder / PICTURE, encode_figure(uniformity_figure(lines)).content)


def _kind(pretext: PretextConfig) -> str:
    return pretext.name if pretext.union == "none" else f"{pretext.name} with {pretext.union}"
