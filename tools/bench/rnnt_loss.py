"""The transducer loss with its gradient on this CPU: time beside others', memory beside the whole lattice's.

    python tools/bench/rnnt_loss.py --reference-python /path/to/venv/bin/python [--rounds 3]

The reference is an interpreter with warprnnt_numba 0.4.1, numba 0.68.1 and torch 2.13.0. Eight utterances of
100 frames and 30 labels, float32, as many threads on each side, whose losses must agree. One JSON line a
figure:

`rnnt_time_ratio`: our time over theirs, below 1 we are faster; rounds alternate, and medians are taken after
one round that compiles. The job "loss" starts at logits; "joint" at the two inputs of a joint network of
width 640, where ours is the fused form, which computes logits twice to hold few of them. On the CPU
warprnnt_numba walks the lattice in interpreted Python, and is given one round; so that there is a fair
competitor as well, "torch" is the same walk compiled by numba, between torch's log-softmax and its gradient
in place. CPU time is in the line, too, for machines that others use.

`rnnt_memory_ratio`: what the fused form adds to peak memory over what the same network and loss on all logits
add, with 4,096 words, each in a process of its own.
"""

import argparse
import json
import os
import pathlib
import statistics
import subprocess
import sys
import time

ROOT = pathlib.Path(__file__).parents[2]
BATCH, FRAMES, LABELS, JOINT = 8, 100, 30, 640
VOCABULARIES = (512, 4096)
TOLERANCE = 1e-4
RIVALS = ("warprnnt_numba", "torch")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--reference-python", help="interpreter with warprnnt_numba and torch")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--threads", type=int, default=min(2, len(os.sched_getaffinity(0))))
    parser.add_argument("--rivals", nargs="*", default=list(RIVALS), choices=RIVALS)
    parser.add_argument("--serve", choices=("ours", "theirs"), help=argparse.SUPPRESS)
    options = parser.parse_args()
    os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[: options.threads])
    if options.serve:
        serve(options.serve, options.threads)
        return
    compare_memory(options)
    if options.reference_python:
        compare_time(options)
    else:
        print("rnnt_loss: needs --reference-python to compare times", file=sys.stderr)


def compare_memory(options) -> None:
    added = {}
    for job in ("joint", "joint_full"):
        with server(sys.executable, "ours", options) as process:
            added[job] = ask(process, "memory", job, VOCABULARIES[-1])
            process.stdin.close()
    ours, full = added["joint"], added["joint_full"]
    line = {"name": "rnnt_memory_ratio", "value": round(ours / full, 3), "unit": "fused / whole lattice"}
    about = {"vocabulary": VOCABULARIES[-1], "fused_mb": round(ours), "whole_mb": round(full)}
    print(json.dumps(line | about), flush=True)


def compare_time(options) -> None:
    with (
        server(sys.executable, "ours", options) as ours,
        server(options.reference_python, "theirs", options) as theirs,
    ):
        for vocabulary in VOCABULARIES:
            for job in ("loss", "joint"):
                for rival in options.rivals:
                    rounds = 1 if rival == "warprnnt_numba" else options.rounds
                    measure(ours, theirs, job, rival, vocabulary, rounds)
        ours.stdin.close()
        theirs.stdin.close()


def measure(ours, theirs, job: str, rival: str, vocabulary: int, rounds: int) -> None:
    """Prints a line of the median over alternating rounds."""
    walls, cpus, expected = ([], []), ([], []), 0.0
    for turn in range(rounds + 1):
        for side, (process, form) in enumerate(((ours, "ours"), (theirs, rival))):
            if turn or form != "warprnnt_numba":  # nothing of it is compiled
                wall, cpu, loss = ask(process, "time", f"{job}_{form}", vocabulary)
                walls[side].append(wall)
                cpus[side].append(cpu)
                if side and abs(loss / expected - 1) > TOLERANCE:
                    raise SystemExit(f"{job} of {rival}: losses are {expected} and {loss}")
                expected = loss
    wall, cpu = ([statistics.median(side[-rounds:]) for side in sides] for sides in (walls, cpus))
    line = {
        "name": "rnnt_time_ratio",
        "value": float(f"{wall[0] / wall[1]:.3g}"),
        "unit": f"ours / {rival}",
        "cpu_time_ratio": float(f"{cpu[0] / cpu[1]:.3g}"),
    }
    about = {
        "job": job,
        "vocabulary": vocabulary,
        "ours_ms": round(1e3 * wall[0]),
        "theirs_ms": round(1e3 * wall[1]),
    }
    print(json.dumps(line | about), flush=True)


def server(python: str, side: str, options):
    command = [python, __file__, "--serve", side, f"--threads={options.threads}"]
    return subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)


def ask(process, *question):
    print(*question, file=process.stdin, flush=True)
    return json.loads(process.stdout.readline())


def serve(side: str, threads: int) -> None:
    """Answers "time job vocabulary" with seconds, CPU seconds and loss, "memory ..." with megabytes added."""
    make = {"ours": ours, "theirs": theirs}[side](threads)
    known, run = None, None
    for line in sys.stdin:
        question, job, vocabulary = line.split()
        if (job, vocabulary) != known:
            run = None  # gives its memory back first
            known, run = (job, vocabulary), make(job, int(vocabulary))
        if question == "memory":
            print(json.dumps(added_memory(run)), flush=True)
            continue
        begin, cpu = time.perf_counter(), time.process_time()
        loss = run()
        print(json.dumps([time.perf_counter() - begin, time.process_time() - cpu, loss]), flush=True)


def added_memory(run) -> float:
    """Megabytes by which a call raises the highest resident size above the present one."""
    pathlib.Path("/proc/self/clear_refs").write_text("5")  # the highest so far is forgotten
    before = resident("VmRSS")
    run()
    return resident("VmHWM") - before


def resident(name: str) -> float:
    lines = pathlib.Path("/proc/self/status").read_text().splitlines()
    return next(float(line.split()[1]) for line in lines if line.startswith(name)) / 1024


def inputs(job: str, vocabulary: int):
    """What a job starts at, and labels; the same on both sides."""
    import numpy as np

    draw = np.random.default_rng(0)
    labels = draw.integers(1, vocabulary, (BATCH, LABELS), np.int32)
    if job.startswith("loss"):
        return [draw.standard_normal((BATCH, FRAMES, LABELS + 1, vocabulary), np.float32)], labels
    shapes = ((BATCH, FRAMES, JOINT), (BATCH, LABELS + 1, JOINT), (JOINT, vocabulary), (vocabulary,))
    joint = [draw.standard_normal(shape, np.float32) for shape in shapes]
    joint[2] /= JOINT**0.5
    return joint, labels


def ours(threads: int):
    """A maker of functions that compute a sum of losses with its gradient, and return the sum."""
    os.environ["JAX_PLATFORMS"] = "cpu"
    import jax
    import jax.numpy as jnp

    from offsites_jax.nn.transducer import fused_transducer_loss, transducer_loss
    from offsites_jax.parallel.start import start

    start(cpu_devices=1, cache=ROOT / ".cache" / "jax")
    frames, counts = jnp.full(BATCH, FRAMES), jnp.full(BATCH, LABELS)

    def whole(encoded, predicted, kernel, bias, *others):
        hidden = jnp.tanh(encoded[:, :, None] + predicted[:, None])
        return transducer_loss(hidden @ kernel + bias, *others)

    def make(job: str, vocabulary: int):
        form = {"loss": transducer_loss, "joint_full": whole}.get(
            job.removesuffix("_ours"), fused_transducer_loss
        )
        given, labels = jax.device_put(inputs(job, vocabulary))

        def total(*given):
            return form(*given, labels, frames, counts).sum()

        gradients = jax.jit(jax.value_and_grad(total, tuple(range(len(given))))).lower(*given).compile()
        return lambda: float(jax.block_until_ready(gradients(*given))[0])

    return make


def theirs(threads: int):
    """The same with torch, around warprnnt_numba or a compiled walk."""
    import torch
    from warprnnt_numba.rnnt_loss.rnnt_pytorch import RNNTLossNumba

    torch.set_num_threads(threads)
    losses = {"warprnnt_numba": RNNTLossNumba(blank=0, reduction="sum"), "torch": compiled_loss()}
    frames, counts = (torch.full((BATCH,), length, dtype=torch.int32) for length in (FRAMES, LABELS))

    def make(job: str, vocabulary: int):
        values, labels = inputs(job, vocabulary)
        given = [torch.from_numpy(value).requires_grad_() for value in values]
        labels = torch.from_numpy(labels)
        loss = losses[job.partition("_")[2]]

        def run() -> float:
            for value in given:
                value.grad = None
            logits = given[0]
            if len(given) > 1:
                encoded, predicted, kernel, bias = given
                logits = torch.tanh(encoded[:, :, None] + predicted[:, None]) @ kernel + bias
            total = loss(logits, labels, frames, counts)
            total.backward()
            return total.item()

        return run

    return make


def compiled_loss():
    """Sum of losses of full lengths, as a torch function."""
    import numba
    import numpy as np
    import torch

    @numba.njit
    def add(a, b):
        return max(a, b) + np.log1p(np.exp(-abs(a - b)))

    @numba.njit
    def walk(blank, label):
        """Loss of one utterance, and how often each arc is used."""
        frames, columns = blank.shape
        alpha, beta = np.full((2, frames + 1, columns + 1), -1e30)
        alpha[0, 0], beta[frames, columns - 1] = 0, 0
        for t in range(frames):
            for u in range(columns):
                if t:
                    alpha[t, u] = alpha[t - 1, u] + blank[t - 1, u]
                if u:
                    alpha[t, u] = add(alpha[t, u], alpha[t, u - 1] + label[t, u - 1])
        for t in range(frames - 1, -1, -1):
            for u in range(columns - 1, -1, -1):
                beta[t, u] = add(beta[t + 1, u] + blank[t, u], beta[t, u + 1] + label[t, u])
        whole = beta[0, 0]
        by_blank = np.exp(alpha[:-1, :-1] + blank + beta[1:, :-1] - whole)
        by_label = np.exp(alpha[:-1, :-1] + label + beta[:-1, 1:] - whole)
        return -whole, by_blank, by_label

    class Loss(torch.autograd.Function):
        @staticmethod
        def forward(ctx, logits, labels):
            log_p = torch.log_softmax(logits, -1)
            places = (
                torch.nn.functional.pad(labels, (0, 1)).long()[:, None, :, None].expand(-1, FRAMES, -1, 1)
            )
            arcs = log_p[..., 0].numpy(), log_p.gather(-1, places)[..., 0].numpy()
            loss, *used = zip(*map(walk, *arcs), strict=True)
            by_blank, by_label = (torch.from_numpy(np.stack(x)).float()[..., None] for x in used)
            ctx.save_for_backward(log_p, places, by_blank, by_label)
            return logits.new_tensor(sum(loss))

        @staticmethod
        def backward(ctx, gradient):
            log_p, places, by_blank, by_label = ctx.saved_tensors
            to_logits = log_p.exp_().mul_(by_blank + by_label)
            to_logits[..., :1] -= by_blank
            return to_logits.scatter_add_(-1, places, -by_label), None

    return lambda logits, labels, frames, counts: Loss.apply(logits, labels)


if __name__ == "__main__":
    main()
