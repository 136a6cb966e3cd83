"""How fast a classifier is on the machine at hand: train step, throughput, latency, compilation, memory."""

import statistics
import time
from collections.abc import Callable
from typing import Any

import jax
import numpy as np

from offsites_jax.data.augment.draws import OPS
from offsites_jax.parallel.mesh import create_mesh, put_batch
from offsites_jax.train.config import Experiment, resolve
from offsites_jax.train.program import create_program
from offsites_jax.train.state import zero_batch

WARM_UP = 3


def measure(experiment: Experiment, *, repeats: int = 20, batch_size: int = 0) -> dict[str, Any]:
    """Times of the experiment's last stage on random images; nothing is read or written.

    Args:
      experiment: gives model, sizes and mesh.
      repeats: timed runs of each program, after three that are not.
      batch_size: images at a time of training and of throughput; 0 takes the experiment's.

    """
    if batch_size:
        train = {**experiment.raw["train"], "batch_size": batch_size}
        experiment = resolve({**experiment.raw, "train": train})
    experiment = experiment.final
    size = experiment.train.batch_size
    mesh = create_mesh(experiment.mesh)
    program = create_program(experiment, mesh)
    begin = time.perf_counter()
    compiled = program.compile()
    compile_seconds = time.perf_counter() - begin
    steps = _train_times(program, compiled, size, repeats)
    variables = program.initial_state().variables()
    throughput = _predict_times(program, variables, size, repeats)
    latency = _predict_times(program, variables, mesh.size, repeats)
    return {
        "model": experiment.model.name,
        "devices": mesh.size,
        "device_kind": mesh.devices.flat[0].device_kind,
        "batch_size": size,
        "train_pixels": experiment.data.image_size,
        "eval_pixels": experiment.data.eval_size or experiment.data.image_size,
        "compile_seconds": compile_seconds,
        "train_step_ms": 1e3 * statistics.median(steps),
        "train_images_per_second": size / statistics.median(steps),
        "inference_images_per_second": size / statistics.median(throughput),
        "latency_batch": mesh.size,
        "latency_p50_ms": 1e3 * float(np.quantile(latency, 0.5)),
        "latency_p99_ms": 1e3 * float(np.quantile(latency, 0.99)),
        "peak_bytes_per_device": _peak_bytes(compiled),
    }


def render(figures: dict[str, Any]) -> str:
    """The figures as a Markdown table."""
    shown = {
        key: f"{value:,.3f}" if isinstance(value, float) else str(value) for key, value in figures.items()
    }
    rows = [f"| {key.replace('_', ' ')} | {value} |" for key, value in shown.items()]
    return "\n".join(["| figure | value |", "|---|---|", *rows, ""])


def _train_times(program: Any, compiled: Any, size: int, repeats: int) -> list[float]:
    batch = put_batch(
        _random_batch(program.task.batch_spec(size), program.task.num_classes), program.mesh, size
    )
    state = program.initial_state()

    def step() -> Any:
        nonlocal state
        state, metrics = compiled(state, batch)
        return metrics

    return _times(step, repeats)


def _predict_times(program: Any, variables: Any, size: int, repeats: int) -> list[float]:
    spec = program.task.input_spec(size)
    batch = put_batch({name: np.asarray(rows) for name, rows in zero_batch(spec).items()}, program.mesh, size)
    predict = jax.jit(program.task.predict)
    with jax.set_mesh(program.mesh):
        return _times(lambda: predict(variables, batch), repeats)


def _times(run: Callable[[], Any], repeats: int) -> list[float]:
    """Seconds of each run, waited for to its end."""
    seconds = []
    for index in range(WARM_UP + repeats):
        begin = time.perf_counter()
        jax.block_until_ready(run())
        if index >= WARM_UP:
            seconds.append(time.perf_counter() - begin)
    return seconds


def _random_batch(spec: dict[str, jax.ShapeDtypeStruct], num_classes: int) -> dict[str, np.ndarray]:
    rng = np.random.default_rng(0)
    tops = {"image": 256, "label": num_classes, "augment_op": len(OPS), "augment_arguments": 2}
    return {
        name: rng.integers(tops[name], size=entry.shape).astype(entry.dtype) for name, entry in spec.items()
    }


def _peak_bytes(compiled: Any) -> int:
    """Arguments, results and temporaries of the step on one device, as the compiler counts them."""
    found = compiled.memory_analysis()
    donated = found.alias_size_in_bytes
    return int(found.argument_size_in_bytes + found.output_size_in_bytes + found.temp_size_in_bytes - donated)
