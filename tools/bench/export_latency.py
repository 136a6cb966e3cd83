"""Latency of an exported model over that of the live one, for batches of 1 and 32.

python tools/bench/export_latency.py

Both answer the same requests by turns, from NumPy arrays to NumPy arrays; the medians are compared. An export
also checks its inputs. Ends with code 1 if a request after the first compiles anything.
"""

import json
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from offsites_jax.export.inference import Inference
from offsites_jax.export.load import load
from offsites_jax.export.write import write_folder
from offsites_jax.models.registry import create_model

MODEL, SIZE = "efficientnet_v2_b0", 96
REQUESTS = {1: 60, 32: 12}

Predict = Callable[[Mapping[str, np.ndarray]], Mapping[str, Any]]


def main() -> None:
    model = create_model(MODEL)
    images = jnp.zeros((1, SIZE, SIZE, 3))
    variables = jax.device_get(jax.jit(lambda x: model.init(jax.random.key(0), x, train=False))(images))

    def predict(variables: Any, batch: Mapping[str, jax.Array]) -> dict[str, jax.Array]:
        pixels = batch["image"].astype(jnp.float32) / 127.5 - 1
        return {"logits": model.apply(variables, pixels, train=False)}

    def spec(rows: Any) -> dict[str, jax.ShapeDtypeStruct]:
        return {"image": jax.ShapeDtypeStruct((rows, SIZE, SIZE, 3), jnp.uint8)}

    inference = Inference(predict, variables, spec, platforms=("cpu", "tpu", "cuda"))
    with tempfile.TemporaryDirectory() as temporary:
        folder = f"{temporary}/export"
        facts = {"project": MODEL, "config": {}, "step": 0, "params": "raw"}
        write_folder(inference, folder, format="stablehlo", facts=facts)
        exported = load(folder)
    live = inference.bind(variables)
    compiled = count_compilations()
    for rows in REQUESTS:
        measure(exported.predict, lambda batch: jax.device_get(live(dict(batch))), rows, compiled)


def measure(exported: Predict, live: Predict, rows: int, compiled: list[str]) -> None:
    """Prints both medians and their ratio."""
    rng = np.random.default_rng(rows)
    batch = {"image": rng.integers(0, 256, (rows, SIZE, SIZE, 3), np.uint8)}
    for predict in (exported, live):
        predict(batch)  # compiles
    before = len(compiled)
    seconds: dict[str, list[float]] = {"exported": [], "live": []}
    for _ in range(REQUESTS[rows]):
        for name, predict in (("exported", exported), ("live", live)):
            begin = time.perf_counter()
            predict(batch)
            seconds[name].append(time.perf_counter() - begin)
    if len(compiled) != before:
        sys.exit(f"{len(compiled) - before} compilations in {REQUESTS[rows]} equal requests")
    medians = {name: statistics.median(values) for name, values in seconds.items()}
    report("export_latency_ratio", medians["exported"] / medians["live"], "", rows)
    for name, median in medians.items():
        report(f"{name}_latency", 1000 * median, "ms", rows)


def count_compilations() -> list[str]:
    """A list that grows by one with each program compiled from now on."""
    compiled: list[str] = []

    def listen(event: str, _: float, **__: Any) -> None:
        if event == "/jax/core/compile/backend_compile_duration":
            compiled.append(event)

    jax.monitoring.register_event_duration_secs_listener(listen)
    return compiled


def report(name: str, value: float, unit: str, batch: int) -> None:
    """One line."""
    print(json.dumps({"name": name, "value": round(value, 4), "unit": unit, "batch": batch}), flush=True)


if __name__ == "__main__":
    main()
