"""Seconds to import, to print help, and to the first train step, with cold and with warm compile cache.

python tools/bench/startup.py
"""

import json
import os
import pathlib
import statistics
import subprocess
import sys
import tempfile
import time

ROOT = pathlib.Path(__file__).parents[2]
EXPERIMENT = "experiments/image_classification/digits.py"
OFFSITES = [sys.executable, "-m", "offsites_jax.cli.main"]


def main() -> None:
    in_process = "import time; t = time.perf_counter(); import offsites_jax; print(time.perf_counter() - t)"
    imports = [float(run([sys.executable, "-c", in_process])) for _ in range(5)]
    report("import_seconds", statistics.median(imports))
    report("help_seconds", statistics.median(seconds([*OFFSITES, "--help"]) for _ in range(5)))
    with tempfile.TemporaryDirectory() as cache:
        report("first_step_seconds_cold", first_step_seconds(cache))
        report("first_step_seconds_warm", statistics.median(first_step_seconds(cache) for _ in range(3)))


def first_step_seconds(cache: str) -> float:
    """From the start of the process until the metrics of step 1 are on disk."""
    with tempfile.TemporaryDirectory() as workdir:
        begin = time.time()
        overrides = ["--config.train.log_every=1", "--config.evaluators=None", "--config.expected=None"]
        run(
            [*OFFSITES, "train", EXPERIMENT, "--workdir", workdir, "--config.train.steps=2", *overrides],
            cache,
        )
        lines = (pathlib.Path(workdir) / "metrics.jsonl").read_text().splitlines()
        return json.loads(lines[0])["time"] - begin


def seconds(command: list[str]) -> float:
    """Wall seconds of a command."""
    begin = time.perf_counter()
    run(command)
    return time.perf_counter() - begin


def run(command: list[str], cache: str = "") -> str:
    """Standard output of a command that must succeed."""
    environment = {**os.environ, "OFFSITES_CACHE": cache, "JAX_PLATFORMS": "cpu"}
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, check=False)
    if done.returncode not in (0, 75):
        sys.exit(done.stderr)
    return done.stdout


def report(name: str, value: float) -> None:
    """One line."""
    print(json.dumps({"name": name, "value": value, "unit": "s"}), flush=True)


if __name__ == "__main__":
    main()
