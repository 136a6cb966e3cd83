"""Proofs that anyone can run on their own machine: exact resume, elastic data, independence of the mesh.

Each proof trains or reads the user's own experiment at small size and compares two ways of doing the same.
"""

import copy
import dataclasses
import pathlib
import tempfile
from collections.abc import Callable, Sequence
from typing import Any

import jax
import numpy as np

from offsites_jax.data.pipeline import global_batch, train_batches
from offsites_jax.errors import OffsitesError, Preempted
from offsites_jax.train.config import Experiment, resolve
from offsites_jax.train.loop import train
from offsites_jax.train.writers import read_metrics

STEPS = 6
STOP_AT = 3
# Meshes sum in another order; float32 rounding is amplified by the optimizer over the steps.
MESH_TOLERANCE = 2e-3


@dataclasses.dataclass(frozen=True)
class Proof:
    """One line of the certificate.

    Attributes:
      name: what was to be shown.
      passed: whether it was.
      evidence: what was compared, and what came out.

    """

    name: str
    passed: bool
    evidence: str


def selftest(experiment: Experiment) -> list[Proof]:
    """Runs all proofs on a small version of the experiment, in temporary folders."""
    small = shrink(experiment)
    proofs: Sequence[tuple[str, Callable[[Experiment], tuple[bool, str]]]] = (
        ("resume is bitwise", prove_resume),
        ("data does not depend on the process count", prove_elastic_data),
        ("training does not depend on the mesh", prove_meshes),
    )
    return [run_proof(name, proof, small) for name, proof in proofs]


def run_proof(name: str, proof: Callable[[Experiment], tuple[bool, str]], experiment: Experiment) -> Proof:
    """One proof; an error of the framework's own counts as not passed."""
    try:
        return Proof(name, *proof(experiment))
    except OffsitesError as error:
        return Proof(name, False, f"stopped: {error}")


def shrink(experiment: Experiment) -> Experiment:
    """The experiment cut to a few steps; stages keep their share of the run."""
    raw = copy.deepcopy(experiment.raw)
    steps = experiment.train.steps
    for stage, end in zip(raw.get("stages") or (), experiment.ends, strict=False):
        stage["until"] = 0 if end == steps else min(end / steps, 0.99)
    raw["train"] |= {"steps": STEPS, "log_every": 1, "eval_every": 0, "checkpoint_every": STEPS}
    raw["evaluators"], raw["expected"] = {}, {}
    return resolve(raw)


def prove_resume(experiment: Experiment) -> tuple[bool, str]:
    """A run stopped in the middle and one that was not: same log, same bits."""
    with tempfile.TemporaryDirectory() as folder:
        whole = train(experiment, f"{folder}/whole")
        try:
            train(experiment, f"{folder}/parts", stop_at=STOP_AT)
        except Preempted:
            resumed = train(experiment, f"{folder}/parts")
        lines = [read_losses(pathlib.Path(folder, name)) for name in ("whole", "parts")]
    equal = same_bits(whole.state, resumed.state)
    count = len(jax.tree.leaves(whole.state))
    evidence = (
        f"{STEPS} steps against {STOP_AT} + {STEPS - STOP_AT}: {sum(equal)} of {count} leaves bitwise equal"
    )
    return all(equal) and lines[0] == lines[
        1
    ], f"{evidence}, losses {'equal' if lines[0] == lines[1] else 'differ'}"


def prove_elastic_data(experiment: Experiment) -> tuple[bool, str]:
    """Batches of 1, 2 and 4 readers, and of readers that start later, hold the same rows."""
    experiment = experiment.at_stage(0)
    pipeline = experiment.found.create_pipeline(experiment, experiment.data.train_split, train=True)
    size, seed, loading = experiment.train.batch_size, experiment.train.seed, experiment.data.loading
    counts = [count for count in (1, 2, 4) if size % count == 0]
    wrong = 0
    for step in range(STOP_AT):
        expected = global_batch(pipeline, batch_size=size, seed=seed, step=step, loading=loading)
        for count in counts:
            blocks = []
            for index in range(count):
                with train_batches(
                    pipeline, batch_size=size, seed=seed, step=step, shard=(index, count), loading=loading
                ) as batches:
                    blocks.append(next(batches))
            joined = {name: np.concatenate([block[name] for block in blocks]) for name in expected}
            wrong += not all(np.array_equal(joined[name], expected[name]) for name in expected)
    return wrong == 0, f"{STOP_AT} steps read by {counts} processes: {wrong} batches differ"


def prove_meshes(experiment: Experiment) -> tuple[bool, str]:
    """The same steps on one device, data-parallel and with sharded parameters: the same losses."""
    count = jax.device_count()
    meshes: list[dict[str, int]] = [{"data": count}]
    if count > 1:
        meshes.append({"data": count // 2, "fsdp": 2})
    if jax.process_count() == 1 and count > 1:
        meshes.insert(0, {"data": 1})
    losses = []
    for mesh in meshes:
        raw = copy.deepcopy(experiment.raw)
        raw["mesh"] = {**raw.get("mesh", {}), "data": 1, "fsdp": 1, "tensor": 1, "slices": 1, **mesh}
        with tempfile.TemporaryDirectory() as folder:
            train(resolve(raw), folder)
            losses.append(read_losses(pathlib.Path(folder)))
    pairs = [pair for other in losses[1:] for pair in zip(losses[0], other, strict=True)]
    worst = max((abs(a - b) / max(abs(a), 1e-9) for a, b in pairs), default=0.0)
    names = ", ".join("x".join(map(str, mesh.values())) for mesh in meshes)
    return (
        worst <= MESH_TOLERANCE,
        f"meshes {names}: losses differ by at most {worst:.1e} (limit {MESH_TOLERANCE:.0e})",
    )


def read_losses(workdir: pathlib.Path) -> list[float]:
    """Train losses of a run in order, every objective's."""
    return [
        value
        for line in read_metrics(workdir)
        if line["split"] == "train"
        for name, value in sorted(line.items())
        if name.split("/")[-1] == "loss"
    ]


def same_bits(a: Any, b: Any) -> list[bool]:
    """Leaf by leaf, whether two trees hold the same bytes."""
    pairs = zip(jax.tree.leaves(jax.device_get(a)), jax.tree.leaves(jax.device_get(b)), strict=True)
    return [np.asarray(x).tobytes() == np.asarray(y).tobytes() for x, y in pairs]


def certificate(experiment: Experiment, proofs: Sequence[Proof]) -> str:
    """The proofs as text to print or keep."""
    devices = f"{jax.device_count()} {jax.devices()[0].device_kind} devices, {jax.process_count()} processes"
    head = f"selftest of project {experiment.project} on {devices}, jax {jax.__version__}"
    rows = [f"  {'passed' if p.passed else 'FAILED'}  {p.name}: {p.evidence}" for p in proofs]
    return "\n".join([head, *rows])
