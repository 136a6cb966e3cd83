"""What people do with a classifier beyond training and evaluating it."""

import json
from typing import Any, Literal

from etils import epath

from offsites_jax.errors import UserError
from offsites_jax.projects.image_classification.commands.drawing import pictures
from offsites_jax.projects.image_classification.commands.files import embed, endpoints, predict
from offsites_jax.projects.image_classification.commands.shared import start, write
from offsites_jax.projects.image_classification.commands.splits import convert, worst
from offsites_jax.projects.image_classification.search.jobs import scale, search
from offsites_jax.projects.image_classification.search.overrides import pairs
from offsites_jax.train.steps import step_of

NEW_HEAD = r"^params/(classifier|head/logits)/"


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
        "step": step_of(step),
        "params": params,
        "skip": [NEW_HEAD] if new_head else [],
    }
    sizes = _table_size(raw, start_from)
    if sizes:
        model = raw.setdefault("model", {})
        model["overrides"] = {**model.get("overrides", {}), "table_image_size": sizes}
    tuned = resolve(raw)
    start(tuned.mesh.cpu_devices)

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
    start(found.mesh.cpu_devices)

    from offsites_jax.projects.image_classification.benchmark import measure, render

    figures = measure(found, repeats=repeats, batch_size=batch_size)
    print(render(figures), end="")
    if output:
        write(f"{output}/benchmark.json", f"{json.dumps(figures, indent=2)}\n".encode())
        write(f"{output}/benchmark.md", render(figures).encode())


def report(workdir: str, output: str = "") -> None:
    """Writes a run on one page: stages, scores, published figures, the gap between training and test.

    Args:
      workdir: folder of the run.
      output: Markdown file to write instead of printing it.

    """
    start()

    from offsites_jax.projects.image_classification.report import report as page

    text = page(workdir)
    if output:
        write(output, text.encode())
    else:
        print(text, end="")


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
    start(planned[0].experiment.mesh.cpu_devices, cache=epath.Path(workdir) / COMPILE_CACHE)

    def report(results: list[Result]) -> None:
        if jax.process_index() == 0:
            write_report(workdir, results, machine())

    results = train_arms(planned, metric, after=report)
    print("\n".join(run_table(results)))
    print(f"{workdir}: {len(results)} runs; see arms.md and arms.png")


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


JOBS = {
    "predict": predict,
    "embed": embed,
    "endpoints": endpoints,
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
