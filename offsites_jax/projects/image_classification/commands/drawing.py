"""The command that draws: an experiment's stages, recorded runs, and what a CoAtNet has learnt to look at."""

from typing import Any, Literal

from offsites_jax.errors import UserError
from offsites_jax.projects.image_classification.commands.shared import check_all_read, start, write
from offsites_jax.projects.image_classification.search.overrides import pairs
from offsites_jax.train.steps import step_of

POINTS = ("0.5,0.5", "0.25,0.25", "0.75,0.6")
CLASSES_OF_IMAGENET = 1000


def pictures(
    output: str,
    experiment: str = "",
    runs: tuple[str, ...] = (),
    published: bool = False,
    checkpoint: str = "",
    images: tuple[str, ...] = (),
    layers: tuple[str, ...] = (),
    points: tuple[str, ...] = POINTS,
    metric: str = "",
    step: str = "latest",
    params: Literal["ema", "raw"] = "ema",
    overrides: tuple[str, ...] = (),
) -> None:
    """Draws what is asked for: an experiment's stages, recorded runs, biases and attention of a CoAtNet.

    Args:
      output: folder for the pictures.
      experiment: draws samples.png, training images of each stage, and schedule.png.
      runs: workdirs; draws scatter.png, accuracy over parameters, multiply-adds and time.
      published: puts the published ImageNet figures into scatter.png.
      checkpoint: workdir of a CoAtNet; draws biases.png, or with images their attention.
      images: draws attention_0.png and on, what points of these images attend to.
      layers: of the attention, as stage_3/block_0; a few from the first to the last unless told.
      points: of the attention: shares of width and height, from the left and from above.
      metric: of the runs: what to call accuracy, as test/accuracy; train.keep.best unless told.
      step: of the checkpoint: latest, best or a number.
      params: of the checkpoint: averaged parameters where kept, or raw ones.
      overrides: keys of the experiment to change, as data.augment=none.

    """
    if not (experiment or runs or checkpoint or published):
        raise UserError("pictures: nothing to draw; give --experiment, --runs, --published or --checkpoint")
    if images and not checkpoint:
        raise UserError("--images: give the --checkpoint whose attention to draw")
    start()

    from offsites_jax.projects.image_classification.figures import stages
    from offsites_jax.train.config import load_experiment
    from offsites_jax.train.media import encode_figure

    figures: dict[str, Any] = {}
    errors: dict[str, str] = {}
    if experiment:
        found = load_experiment(experiment, pairs(overrides))
        figures["samples"] = stages.samples_figure(found)
        figures["schedule"] = stages.schedule_figure(stages.schedule(found))
    if runs or published:
        figures["scatter"] = _scatter(runs, metric, published)
    if images:
        attention, errors = _attention(checkpoint, step_of(step), params, images, layers, points)
        figures |= attention
    elif checkpoint:
        figures["biases"] = _biases(checkpoint, step_of(step), params)
    for name, figure in figures.items():
        file = f"{output}/{name}.png"
        write(file, encode_figure(figure).content)
        print(file)
    check_all_read(errors, len(figures) + len(errors))


def _scatter(runs: tuple[str, ...], metric: str, published: bool) -> Any:
    from offsites_jax.projects.image_classification.figures.published import PUBLISHED
    from offsites_jax.projects.image_classification.figures.scatter import scatter_figure
    from offsites_jax.projects.image_classification.runs import read_run
    from offsites_jax.train.workdir import read_experiment

    for workdir in runs if published else ():
        classes = read_experiment(workdir).model.num_classes
        if classes != CLASSES_OF_IMAGENET:
            raise UserError(
                f"--published: is of ImageNet's {CLASSES_OF_IMAGENET:,} classes, {workdir} has {classes}"
            )
    return scatter_figure([read_run(workdir, metric) for workdir in runs], PUBLISHED if published else ())


def _biases(checkpoint: str, step: Any, params: str) -> Any:
    from offsites_jax.projects.image_classification.figures import biases

    return biases.bias_figure(biases.read_tables(checkpoint, step, params))


def _attention(
    checkpoint: str,
    step: Any,
    params: str,
    images: tuple[str, ...],
    layers: tuple[str, ...],
    points: tuple[str, ...],
) -> tuple[dict[str, Any], dict[str, str]]:
    """Figures by name, and errors of the files that could not be read."""
    from offsites_jax.projects.image_classification import inference
    from offsites_jax.projects.image_classification.figures import attention

    places = [attention.point_of(text) for text in points]
    model = inference.open_model(checkpoint, step, params)
    look = attention.attention_of(model, places)
    pipeline = model.experiment.found.create_input_pipeline(model.experiment, images)
    figures: dict[str, Any] = {}
    errors: dict[str, str] = {}
    for chunk in inference.read_chunks(pipeline, model.task.input_spec(1)["image"]):
        if chunk.errors:
            errors[chunk.names[0]] = chunk.errors[0]
        else:
            maps = attention.choose(look(chunk.images[0]), layers)
            figures[f"attention_{len(figures)}"] = attention.attention_figure(chunk.images[0], maps, places)
    return figures, errors
