"""What people do with a classifier beyond training and evaluating it."""

import json
from typing import Any, Literal

import numpy as np
from etils import epath
from tyro.conf import Positional

from offsites_jax.errors import DamagedDataError, UserError
from offsites_jax.projects.image_classification.search.jobs import scale, search
from offsites_jax.projects.image_classification.search.overrides import pairs

NEW_HEAD = r"^params/(classifier|head/logits)/"


def predict(
    inputs: Positional[tuple[str, ...]],
    workdir: str,
    output: str = "",
    top: int = 5,
    step: str = "latest",
    params: Literal["ema", "raw"] = "ema",
) -> None:
    """Prints the most likely classes of each image by name, one JSON object a line.

    A file that cannot be read gets a row with `error`, and the command ends with code 3.

    Args:
      inputs: image files, or folders of them.
      workdir: folder of the run.
      output: file to write the lines to instead.
      top: how many classes.
      step: latest, best or a number.
      params: averaged parameters where kept, or raw ones.

    """
    _start()

    from offsites_jax.projects.image_classification.inference import open_model, predictions

    rows = list(predictions(open_model(workdir, _step(step), params), inputs, top))
    text = "".join(f"{json.dumps(row)}\n" for row in rows)
    if output:
        _write(output, text.encode())
    else:
        print(text, end="")
    _check_all_read({row["path"]: row["error"] for row in rows if "error" in row}, len(rows))


def embed(
    inputs: Positional[tuple[str, ...]],
    workdir: str,
    output: str,
    step: str = "latest",
    params: Literal["ema", "raw"] = "ema",
) -> None:
    """Writes the features that the classifier sees as an npz: `features` [files, width] and `paths`.

    Files that cannot be read are left out and named, and the command ends with code 3.

    Args:
      inputs: image files, or folders of them.
      workdir: folder of the run.
      output: the npz file to write.
      step: latest, best or a number.
      params: averaged parameters where kept, or raw ones.

    """
    import io

    _start()

    from offsites_jax.projects.image_classification.inference import embeddings, open_model

    paths, features, errors = embeddings(open_model(workdir, _step(step), params), inputs)
    stream = io.BytesIO()
    np.savez(stream, features=features, paths=np.array(paths, dtype=str))
    _write(output, stream.getvalue())
    print(f"{output}: {len(paths)} images, {features.shape[1]} features")
    _check_all_read(errors, len(paths) + len(errors))


def finetune(
    experiment: str,
    start_from: str,
    workdir: str,
    new_head: bool = True,
    step: str = "latest",
    params: Literal["ema", "raw"] = "ema",
    overrides: tuple[str, ...] = (),
) -> None:
    """Trains an experiment from the weights of another run, or from imported ones.

    A CoAtNet keeps the size of its relative biases and resizes them to the images within the network.

    Args:
      experiment: the experiment file that says how to fine-tune.
      start_from: workdir of a run, or params.safetensors as `offsites import` writes it.
      workdir: folder of the new run.
      new_head: start the classifier afresh, as other classes need.
      step: of a run: latest, best or a number.
      params: of a run: averaged parameters where kept, or raw ones.
      overrides: keys of the experiment to change, as train.steps=100.

    """
    from offsites_jax.train.config import load_experiment, resolve

    raw = load_experiment(experiment, pairs(overrides)).raw
    raw["init_from"] = {
        "path": start_from,
        "step": _step(step),
        "params": params,
        "skip": [NEW_HEAD] if new_head else [],
    }
    sizes = _table_size(raw, start_from)
    if sizes:
        model = raw.setdefault("model", {})
        model["overrides"] = {**model.get("overrides", {}), "table_image_size": sizes}
    tuned = resolve(raw)
    _start(tuned.mesh.cpu_devices)

    from offsites_jax.train.loop import train

    result = train(tuned, workdir)
    for name, value in result.scores.items():
        print(f"{name:<32} {value:.6g}")


def benchmark(
    experiment: str,
    output: str = "",
    repeats: int = 20,
    batch_size: int = 0,
    overrides: tuple[str, ...] = (),
) -> None:
    """Measures train step, inference throughput, latency, compilation and memory on this machine.

    Args:
      experiment: the experiment file; its last stage and its mesh are measured, on random images.
      output: folder for `benchmark.json` and `benchmark.md`.
      repeats: timed runs of each.
      batch_size: images at a time; 0 takes the experiment's.
      overrides: keys of the experiment to change, as mesh.data=1.

    """
    from offsites_jax.train.config import load_experiment

    if repeats < 1:
        raise UserError(f"--repeats: {repeats}; must be 1 or more")
    found = load_experiment(experiment, pairs(overrides))
    _start(found.mesh.cpu_devices)

    from offsites_jax.projects.image_classification.benchmark import measure, render

    figures = measure(found, repeats=repeats, batch_size=batch_size)
    print(render(figures), end="")
    if output:
        _write(f"{output}/benchmark.json", f"{json.dumps(figures, indent=2)}\n".encode())
        _write(f"{output}/benchmark.md", render(figures).encode())


def report(workdir: str, output: str = "") -> None:
    """Writes a run on one page: stages, scores, published figures, the gap between training and test.

    Args:
      workdir: folder of the run.
      output: Markdown file to write instead of printing it.

    """
    _start()

    from offsites_jax.projects.image_classification.report import report as page

    text = page(workdir)
    if output:
        _write(output, text.encode())
    else:
        print(text, end="")


def convert(experiment: str, split: str, output: str, shards: int = 1) -> None:
    """Copies a split into ArrayRecord files, which are read by index: `<output>/<split>-00000-of-00001...`.

    Args:
      experiment: the experiment file whose section `data` says where the split is.
      split: which one.
      output: folder for the files.
      shards: how many files.

    """
    from offsites_jax.data.source import write_array_record
    from offsites_jax.projects.image_classification.sources import create_source
    from offsites_jax.train.config import load_experiment

    if shards < 1:
        raise UserError(f"--shards: {shards}; must be 1 or more")
    data = load_experiment(experiment).data
    source, keys = create_source(data, split), data.of_split(split)[0]
    folder = epath.Path(output)
    folder.mkdir(parents=True, exist_ok=True)
    for shard in range(shards):
        file = folder / f"{split}-{shard:05d}-of-{shards:05d}.array_record"
        rows = range(shard * len(source) // shards, (shard + 1) * len(source) // shards)
        write_array_record(file, (_portable(source[row], keys.image_key, keys.label_key) for row in rows))
    print(f"{folder}: {len(source)} images in {shards} files")


def worst(workdir: str, output: str, split: str = "test", count: int = 60) -> None:
    """Writes the most confident mistakes on a split, as pictures and as a table.

    Args:
      workdir: folder of the run.
      output: folder for `worst.png` and `worst.json`.
      split: split to look at.
      count: how many mistakes to show.

    """
    from offsites_jax.train.workdir import read_experiment

    _start(read_experiment(workdir).mesh.cpu_devices)

    from offsites_jax.data.show import contact_sheet
    from offsites_jax.projects.image_classification.evaluate import worst_mistakes
    from offsites_jax.projects.image_classification.scores import rows_of
    from offsites_jax.train.evaluation import host_rows
    from offsites_jax.train.media import encode_image
    from offsites_jax.train.restore import restore, split_batches

    model = restore(workdir)
    found = None
    for batch in host_rows(model.predict, split_batches(model, split), keep=("image", "label")):
        found = worst_mistakes(rows_of(batch["logits"], batch["label"]), batch["image"], count, found)
    if found is None or not len(found.labels):
        raise UserError(f"{workdir}: no mistakes on split {split!r}; nothing to show")
    table = [
        {"label": int(label), "prediction": int(guess), "confidence": float(sure)}
        for label, guess, sure in zip(found.labels, found.predictions, found.confidences, strict=True)
    ]
    folder = epath.Path(output)
    _write(folder / "worst.json", json.dumps(table, indent=2).encode())
    _write(folder / "worst.png", encode_image(np.asarray(contact_sheet(found.images))).content)
    print(f"{folder}: {len(table)} mistakes")


def arms(
    experiment: str,
    workdir: str,
    variants: tuple[str, ...] = (),
    seeds: tuple[int, ...] = (0,),
    metric: str = "",
    overrides: tuple[str, ...] = (),
) -> None:
    """Trains the variants of an experiment file one after another and sets them side by side.

    Run it again to go on after a kill, or with more seeds. Writes arms.json, arms.md and arms.png.

    Args:
      experiment: experiment file with a tuple VARIANTS.
      workdir: folder of the comparison; each arm has a workdir VARIANT-SEED in it.
      variants: some of those in the file; all unless told.
      seeds: each variant is trained with each.
      metric: what to call accuracy, as test/accuracy; the experiment's train.keep.best unless told.
      overrides: keys of every arm to change, as train.steps=100.

    """
    import jax

    from offsites_jax.projects.image_classification.arms import Result, list_arms, machine, train_arms
    from offsites_jax.projects.image_classification.arms_report import run_table, write_report
    from offsites_jax.train.workdir import COMPILE_CACHE

    planned = list_arms(experiment, workdir, variants, seeds, pairs(overrides))
    _start(planned[0].experiment.mesh.cpu_devices, cache=epath.Path(workdir) / COMPILE_CACHE)

    def report(results: list[Result]) -> None:
        if jax.process_index() == 0:
            write_report(workdir, results, machine())

    results = train_arms(planned, metric, after=report)
    print("\n".join(run_table(results)))
    print(f"{workdir}: {len(results)} runs; see arms.md and arms.png")


def pictures(
    output: str,
    experiment: str = "",
    runs: tuple[str, ...] = (),
    checkpoint: str = "",
    metric: str = "",
    step: str = "latest",
    params: Literal["ema", "raw"] = "ema",
    overrides: tuple[str, ...] = (),
) -> None:
    """Draws what is asked for: an experiment's stages, recorded runs, or the relative biases of a CoAtNet.

    Args:
      output: folder for the pictures.
      experiment: draws samples.png, training images of each stage, and schedule.png.
      runs: workdirs; draws scatter.png, accuracy over parameters, multiply-adds and time.
      checkpoint: workdir of a CoAtNet; draws biases.png.
      metric: of the runs: what to call accuracy, as test/accuracy; train.keep.best unless told.
      step: of the checkpoint: latest, best or a number.
      params: of the checkpoint: averaged parameters where kept, or raw ones.
      overrides: keys of the experiment to change, as data.augment=none.

    """
    if not (experiment or runs or checkpoint):
        raise UserError("pictures: nothing to draw; give --experiment, --runs or --checkpoint")
    _start()

    from offsites_jax.projects.image_classification import bias_pictures, stage_pictures
    from offsites_jax.projects.image_classification.runs import read_run, scatter_figure
    from offsites_jax.train.config import load_experiment
    from offsites_jax.train.media import encode_figure

    figures = {}
    if experiment:
        found = load_experiment(experiment, pairs(overrides))
        figures["samples"] = stage_pictures.samples_figure(found)
        figures["schedule"] = stage_pictures.schedule_figure(stage_pictures.schedule(found))
    if runs:
        figures["scatter"] = scatter_figure([read_run(workdir, metric) for workdir in runs])
    if checkpoint:
        tables = bias_pictures.read_tables(checkpoint, _step(step), params)
        figures["biases"] = bias_pictures.bias_figure(tables)
    for name, figure in figures.items():
        file = f"{output}/{name}.png"
        _write(file, encode_figure(figure).content)
        print(file)


def _start(cpu_devices: int = 0, cache: epath.PathLike | None = None) -> None:
    from offsites_jax.parallel.start import start

    start(cpu_devices, cache=cache)


def _step(text: str) -> Any:
    """A step number, or "latest" or "best"."""
    if text in ("latest", "best"):
        return text
    if not text.isdigit():
        raise UserError(f"--step: {text!r} is neither a number nor latest nor best")
    return int(text)


def _table_size(raw: dict[str, Any], start_from: str) -> list[int]:
    """Sides of the images that a CoAtNet's relative biases were trained for; empty for other models."""
    from offsites_jax.train.workdir import CONFIG, read_experiment

    if not str(raw.get("model", {}).get("name", "")).startswith("coatnet"):
        return []
    if not (epath.Path(start_from) / CONFIG).exists():
        return []
    trained = read_experiment(start_from)
    kept = trained.model.overrides.get("table_image_size") or [trained.data.image_size] * 2
    return list(kept)


def _portable(record: dict[str, Any], image_key: str, label_key: str) -> dict[str, Any]:
    """A record as bytes, numbers and lists."""
    image = record[image_key]
    if not isinstance(image, bytes):
        raise UserError(f"field {image_key!r} holds pixels, not a file; only encoded images are converted")
    return {"image": image, "label": np.asarray(record[label_key]).tolist()}


def _check_all_read(errors: dict[str, str], count: int) -> None:
    if errors:
        first, reason = next(iter(errors.items()))
        raise DamagedDataError(
            f"{len(errors)} of {count} files could not be read; the first, {first}: {reason}"
        )


def _write(file: epath.PathLike, content: bytes) -> None:
    from offsites_jax.data.atomic import write_atomically

    write_atomically(epath.Path(file), content)


JOBS = {
    "predict": predict,
    "embed": embed,
    "finetune": finetune,
    "benchmark": benchmark,
    "report": report,
    "convert": convert,
    "worst": worst,
    "search": search,
    "scale": scale,
    "arms": arms,
    "pictures": pictures,
}
