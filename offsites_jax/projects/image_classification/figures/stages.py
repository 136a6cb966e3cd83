"""Pictures of an experiment before it is trained: its schedule, and what the network sees in each stage."""

import dataclasses
from collections.abc import Sequence

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Float
from matplotlib.figure import Figure

from offsites_jax.data.pipeline import global_batch
from offsites_jax.projects.image_classification.model import create_classifier
from offsites_jax.train.config import Experiment

MOST_ROWS = 6  # random resizing has dozens of stages, with the same few settings again and again


@dataclasses.dataclass(frozen=True)
class StageSettings:
    """What a stage asks of the network.

    Attributes:
      name: of the stage.
      start, end: first step, and the one after the last.
      pixels: side of the images.
      dropout: rate in front of the classifier, the backbone's own where the experiment says none.
      magnitude: of RandAugment; 0 without it.
      mixup, cutmix: their alphas; 0 is off.

    """

    name: str
    start: int
    end: int
    pixels: int
    dropout: float
    magnitude: float
    mixup: float
    cutmix: float


PANELS = (
    ("pixels", "side of the images, pixels"),
    ("dropout", "dropout rate"),
    ("magnitude", "RandAugment magnitude"),
    ("mixup", "mixup alpha"),
    ("cutmix", "CutMix alpha"),
)


def schedule(experiment: Experiment) -> list[StageSettings]:
    """The settings of every stage, in order; one entry where there are no stages."""
    return [_settings(experiment.at_stage(index), index) for index in range(len(experiment.ends))]


def schedule_figure(stages: Sequence[StageSettings]) -> Figure:
    """Image size and regularisation over the steps; what is 0 throughout is left out."""
    panels = [(key, label) for key, label in PANELS if any(getattr(stage, key) for stage in stages)]
    figure = Figure(figsize=(7.5, 1.7 * len(panels) + 0.6), layout="constrained")
    edges = [stage.start for stage in stages] + [stages[-1].end]
    for axes, (key, label) in zip(
        figure.subplots(len(panels), 1, sharex=True, squeeze=False)[:, 0], panels, strict=True
    ):
        values = [getattr(stage, key) for stage in stages]
        axes.stairs(values, edges, baseline=None, lw=2)
        for stage, value in list(zip(stages, values, strict=True))[: 2 * MOST_ROWS]:
            middle = (stage.start + stage.end) / 2
            axes.annotate(
                f"{value:.3g}", (middle, value), xytext=(0, 3), textcoords="offset points", ha="center"
            )
        axes.set_ylabel(label, fontsize=8)
        axes.margins(y=0.35)
        axes.grid(alpha=0.3)
    axes.set_xlabel("step")
    return figure


def samples_figure(experiment: Experiment, columns: int = 10) -> Figure:
    """The first images of each stage's first batch, as the network gets them; stages alike are shown once."""
    shown = sorted({experiment.first_alike(index) for index in range(len(experiment.ends))})[:MOST_ROWS]
    columns = min(columns, experiment.train.batch_size)
    figure = Figure(figsize=(1.05 * columns + 1.2, 1.25 * len(shown) + 0.2), layout="constrained")
    grid = figure.subplots(len(shown), columns, squeeze=False)
    for row, index in zip(grid, shown, strict=True):
        staged = experiment.at_stage(index)
        about = _settings(staged, index)
        for axes, image in zip(row, seen_images(staged, about.start)[:columns], strict=True):
            axes.imshow(image.squeeze(), cmap="gray", vmin=0, vmax=1, interpolation="nearest")
            axes.set(xticks=[], yticks=[])
        row[0].set_ylabel(f"{about.name}\nfrom step {about.start}\n{about.pixels} pixels", fontsize=8)
    return figure


def seen_images(staged: Experiment, step: int) -> Float[np.ndarray, "batch height width channels"]:
    """The images of one training batch in 0..1: cropped and augmented by the stage's pipeline, then mixed.

    What the step does to them (operations drawn for the device, mixup and CutMix) is done here by the task
    itself; it draws the blends elsewhere, so that they are like those of training, not the same.
    """
    batch = global_batch(
        staged.found.create_pipeline(staged, staged.data.train_split, train=True),
        batch_size=staged.train.batch_size,
        seed=staged.train.seed,
        step=step,
        loading=staged.data.loading,
    )
    task = staged.found.create_task(staged, jnp.dtype("float32"))
    pixels, _ = task.mixed({name: jnp.asarray(array) for name, array in batch.items()}, jax.random.key(step))
    bytes_again = np.asarray(pixels) * np.asarray(staged.data.std) + np.asarray(staged.data.mean)
    return np.clip(bytes_again / 255, 0, 1).astype(np.float32)


def _settings(staged: Experiment, index: int) -> StageSettings:
    model = create_classifier(staged.model, jnp.dtype("float32"))
    return StageSettings(
        name=staged.stage_name,
        start=staged.ends[index - 1] if index else 0,
        end=staged.ends[index],
        pixels=staged.data.image_size,
        dropout=getattr(model, "dropout_rate", 0.0),
        magnitude=staged.data.magnitude if staged.data.augment == "randaugment" else 0.0,
        mixup=staged.task.mixup_alpha,
        cutmix=staged.task.cutmix_alpha,
    )
