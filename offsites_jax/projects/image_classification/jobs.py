"""What people do with a classifier beyond training and evaluating it."""

import json
import os

import numpy as np
from etils import epath

from offsites_jax.data.show import contact_sheet
from offsites_jax.errors import UserError


def worst(workdir: str, output: str, split: str = "test", count: int = 60) -> None:
    """Writes the most confident mistakes on a split, as pictures and as a table.

    Args:
      workdir: folder of the run.
      output: folder for `worst.png` and `worst.json`.
      split: split to look at.
      count: how many mistakes to show.

    """
    from offsites_jax.parallel.start import start
    from offsites_jax.train.workdir import read_experiment

    start(read_experiment(workdir).mesh.cpu_devices)

    from offsites_jax.projects.image_classification.evaluate import worst_mistakes
    from offsites_jax.train.evaluation import host_rows
    from offsites_jax.train.restore import restore, split_batches

    model = restore(workdir)
    batches = split_batches(model, split)
    rows = list(host_rows(model.predict, batches, keep=("image", "label")))
    logits, labels, images = (
        np.concatenate([r[name] for r in rows]) for name in ("logits", "label", "image")
    )
    found = worst_mistakes(logits, labels, images[logits.argmax(-1) != labels], count)
    if not len(found.labels):
        raise UserError(f"{workdir}: no mistakes on split {split!r}; nothing to show")
    folder = epath.Path(output)
    folder.mkdir(parents=True, exist_ok=True)
    table = [
        {"label": int(label), "prediction": int(guess), "confidence": float(sure)}
        for label, guess, sure in zip(found.labels, found.predictions, found.confidences, strict=True)
    ]
    partial = folder / f".worst.{os.getpid()}.json"
    partial.write_text(json.dumps(table, indent=2))
    partial.rename(folder / "worst.json")
    contact_sheet(found.images).save(folder / "worst.png")
    print(f"{folder}: {len(table)} mistakes")


JOBS = {"worst": worst}
