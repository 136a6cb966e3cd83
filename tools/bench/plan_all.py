"""Plans every experiment whose docstring names a pod, and writes the results as docs/plan.md.

An experiment at full scale says where it runs in a line such as `Pod: v5e:16x16`; one for a laptop has none.
Each is planned in a process of its own, so that one that cannot be planned stops no other. Needs the TPU
compiler (pip install 'offsites-jax[plan]') and takes minutes for each large model.

python tools/bench/plan_all.py [FILE[:VARIANT] ...] [--output docs/plan.md]

Without files, all experiments by their first variant. A page that is there keeps rows of other experiments.
"""

import argparse
import ast
import importlib.metadata
import importlib.util
import json
import os
import pathlib
import re
import subprocess
import sys

ROOT = pathlib.Path(__file__).parents[2]
POD = re.compile(r"^Pod: (\S+)", re.MULTILINE)
COLUMNS = (
    "experiment", "stage", "pod", "mesh", "batch", "HBM of a chip", "fits", "step at least", "bound by",
    "MFU at most", "samples/s/chip at most", "chip-hours at least",
)  # fmt: skip
HEADER = """\
# Plans

What each experiment needs on the pod its file names, from its own train step compiled by XLA:TPU on a machine
without a TPU ([how](plan-a-run.md)). Memory is what the compiled program takes. Times, and what follows from
them, are floors from published peaks: nothing was run, and real steps are slower. Written by
`tools/bench/plan_all.py` with {versions}.
"""
STALE = r"""
\* Counted when a part read or written by a fusion inside a fusion still counted as the whole array, and not
compiled again since: some per cent too much. Those of image_classification had batch norm by device.
"""


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("experiments", nargs="*", help="FILE or FILE:VARIANT; default: all files")
    parser.add_argument("--output", type=pathlib.Path, help="default: docs/plan.md when all are planned")
    options = parser.parse_args()
    if importlib.util.find_spec("libtpu") is None:
        sys.exit("plan_all: the TPU compiler is missing; pip install 'offsites-jax[plan]'")
    output = options.output or (None if options.experiments else ROOT / "docs" / "plan.md")
    rows = rows_of(output) if output else {}
    failed = False
    for experiment in options.experiments or with_pods():
        pod = pod_of(experiment)
        if not pod:
            sys.exit(f"plan_all: {experiment}: its docstring names no pod")
        plan = run_plan(experiment, pod)
        failed |= "error" in plan
        if "error" in plan:
            print(json.dumps({"name": "plan", "experiment": experiment, "pod": pod, **plan}), flush=True)
            rows[experiment] = [[experiment, plan["error"], pod, *[""] * (len(COLUMNS) - 3)]]
            continue
        for stage in plan["stages"]:
            print(json.dumps(line(experiment, plan, stage)), flush=True)
        rows[experiment] = [row(experiment, plan, stage) for stage in plan["stages"]]
    if output:
        write(output, page(rows))
    sys.exit(1 if failed else 0)


def with_pods() -> list[str]:
    """All experiments whose docstring names a pod."""
    files = sorted((ROOT / "experiments").glob("*/*.py"))
    names = [str(file.relative_to(ROOT)) for file in files]
    return [name for name in names if pod_of(name)]


def pod_of(experiment: str) -> str:
    """The pod that an experiment's docstring names, or nothing."""
    file = ROOT / re.sub(r"(?<=\.py):.*", "", experiment)
    found = POD.search(ast.get_docstring(ast.parse(file.read_text())) or "")
    return found[1] if found else ""


def rows_of(file: pathlib.Path) -> dict[str, list[list[str]]]:
    """The rows of a page by experiment, as cells."""
    rows: dict[str, list[list[str]]] = {}
    for text in file.read_text().splitlines() if file.exists() else ():
        cells = [cell.strip() for cell in text.strip("|").split("|")]
        if text.startswith("| experiments/") and len(cells) == len(COLUMNS):
            rows.setdefault(cells[0], []).append(cells)
    return rows


def run_plan(experiment: str, pod: str) -> dict:
    """What `offsites plan --json` says, or {"error": its one line}."""
    command = [sys.executable, "-m", "offsites_jax.cli.main", "plan", experiment, "--topology", pod, "--json"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    if done.returncode:
        last = (done.stderr.strip().splitlines() or ["no message"])[-1]
        return {"error": last.removeprefix("offsites: ")}
    return json.loads(done.stdout)


def line(name: str, plan: dict, stage: dict) -> dict:
    """One figure as the benchmarks print them, with what belongs to it."""
    kept = (
        "batch_size", "bound", "estimated_mfu", "samples_per_second_per_chip", "model_flops_per_step",
        "hbm_bytes_per_chip", "fits", "compile_seconds",
    )  # fmt: skip
    return {
        "name": "plan",
        "value": stage["step_estimate_seconds"],
        "unit": "s a step, at least",
        "experiment": name,
        "stage": stage["name"],
        "pod": plan["topology"],
        "num_chips": plan["num_chips"],
        "mesh": plan["mesh"],
        **{key: stage[key] for key in kept},
    }


def row(name: str, plan: dict, stage: dict) -> list[str]:
    """A stage as cells of the table."""
    memory, seconds = stage["hbm_bytes_per_chip"], stage["step_estimate_seconds"]
    slices = f" x {plan['slices']} slices" if plan["slices"] > 1 else ""
    floors = ["", "", "", "", ""]
    if seconds:
        hours = stage["steps"] * seconds * plan["num_chips"] / 3600
        rate = f"{stage['samples_per_second_per_chip']:,.0f}"
        floors = [
            f"{1e3 * seconds:.3g} ms", stage["bound"], f"{stage['estimated_mfu']:.0%}", rate, f"{hours:,.3g}"
        ]  # fmt: skip
    return [
        name,
        stage["name"],
        plan["topology"] + slices,
        " ".join(f"{axis}={size}" for axis, size in plan["mesh"].items() if size > 1),
        f"{stage['batch_size']:,}",
        f"{memory['total'] / 2**30:.2f} of {memory['limit'] / 2**30:.2f} GiB",
        "yes" if stage["fits"] else "no",
        *floors,
    ]


def page(rows: dict[str, list[list[str]]]) -> str:
    """The page as Markdown, in order of name."""
    versions = ", ".join(f"{name} {importlib.metadata.version(name)}" for name in ("jax", "libtpu"))
    planned = [row for experiment in sorted(rows) for row in rows[experiment]]
    cells = [list(COLUMNS), ["---"] * len(COLUMNS), *planned]
    table = "\n".join(f"| {' | '.join(cell.replace('|', '/') for cell in line)} |" for line in cells)
    left = [f"`{experiment}`" for experiment in with_pods() if experiment not in rows]
    unplanned = f"\nNot planned yet: {', '.join(left)}.\n" if left else ""
    stale = STALE if any(r"\*" in cell for row in planned for cell in row) else ""
    return f"{HEADER.format(versions=versions)}\n{table}\n{unplanned}{stale}"


def write(file: pathlib.Path, text: str) -> None:
    """The file whole, or not at all."""
    partial = file.with_name(f".{file.name}.{os.getpid()}")
    try:
        partial.write_text(text)
        partial.replace(file)
    finally:
        partial.unlink(missing_ok=True)


if __name__ == "__main__":
    main()
