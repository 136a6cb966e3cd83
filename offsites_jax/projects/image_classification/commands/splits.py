"""The commands that go through a split: copying it into records, and looking at the worst mistakes there."""

import json
from typing import Any, Literal

from etils import epath

from offsites_jax.errors import UserError
from offsites_jax.projects.image_classification.commands.shared import start, write
from offsites_jax.train.steps import step_of


def convert(experiment: str, split: str, output: str, shards: int = 1) -> None:
    """Copies a split, whatever it is stored as, into ArrayRecord files, which are read by index.

    Writes `<output>/<split>-00000-of-00001.array_record` and on, with records {image, label or labels, id};
    `<split>.index.npz`, the sizes of all records and their images; and `classes.txt`, where names are known.

    Args:
      experiment: the experiment file whose section `data` says where the split is.
      split: which one.
      output: folder for the files.
      shards: how many files.

    """
    from offsites_jax.projects.image_classification.conversion import copy_split
    from offsites_jax.train.config import load_experiment

    if shards < 1:
        raise UserError(f"--shards: {shards}; must be 1 or more")
    copy = copy_split(load_experiment(experiment), split, epath.Path(output), shards)
    records, total = len(copy.sizes), int(copy.sizes[:, 0].sum())
    print(f"{output}: {records:,} images in {len(copy.files)} files, {total:,} bytes; to read them:")
    print(f"config.data.update({json.dumps(copy.section)})")
    broken = int((copy.sizes[:, 1] == 0).sum())
    if broken:
        first = int((copy.sizes[:, 1] == 0).argmax())
        print(f"{broken} of them are no images of a known kind; the first is record {first}")


def worst(
    workdir: str,
    output: str,
    split: str = "test",
    count: int = 60,
    step: str = "latest",
    params: Literal["ema", "raw"] = "ema",
) -> None:
    """Writes the most confident mistakes on a split, as pictures and as a table.

    A mistake is an image whose most probable class is none of its labels. Images without labels are left out.

    Args:
      workdir: folder of the run.
      output: folder for `worst.png` and `worst.json`.
      split: split to look at.
      count: how many mistakes to show.
      step: latest, best or a number.
      params: averaged parameters where kept, or raw ones.

    """
    if count < 1:
        raise UserError(f"--count: {count}; must be 1 or more")
    start()

    from offsites_jax.projects.image_classification.classes import names_of_run
    from offsites_jax.projects.image_classification.figures.evaluation import mistakes_figure
    from offsites_jax.projects.image_classification.inference import open_model, split_rows
    from offsites_jax.projects.image_classification.mistakes import worst_mistakes
    from offsites_jax.train.media import encode_figure

    model = open_model(workdir, step_of(step), params)
    sigmoid = model.experiment.task.loss.startswith("sigmoid")
    found, labelled = None, False
    for places, rows in split_rows(model, split):
        labelled |= bool((rows["label"] >= 0).any())
        found = worst_mistakes(rows, places, count, sigmoid=sigmoid, before=found)
    if not labelled:
        raise UserError(f"--split: {split!r} has no labels to compare with")
    if not found:
        raise UserError(f"{workdir}: no mistakes on split {split!r}; nothing to show")
    names = names_of_run(workdir, model.experiment)
    source = model.experiment.found.create_pipeline(model.experiment, split, train=False).source
    table = mistake_table(found, names, source)
    write(epath.Path(output) / "worst.json", f"{json.dumps(table, indent=2)}\n".encode())
    write(epath.Path(output) / "worst.png", encode_figure(mistakes_figure(found, names)).content)
    print(f"{output}: {len(table)} mistakes")


def mistake_table(found: Any, names: tuple[str, ...] | None, source: Any) -> list[dict[str, Any]]:
    """A row for each mistake: which record it is, its classes and what was said, by number and by name."""
    from offsites_jax.data.source import describe

    def named(index: int) -> dict[str, Any]:
        return {"index": int(index), "name": names[index] if names else str(index)}

    return [
        {
            "record": describe(source, int(place)),
            "labels": [named(label) for label in labels if label >= 0],
            "prediction": named(guess),
            "confidence": float(sure),
        }
        for place, labels, guess, sure in zip(
            found.places, found.labels, found.predictions, found.confidences, strict=True
        )
    ]
