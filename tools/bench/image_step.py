"""Training steps and predictions of image networks on this CPU, against timm and torch.

    python tools/bench/image_step.py --baseline-python /path/to/venv/bin/python [--rounds 5]

The baseline is an interpreter with timm 1.0.31 and torch 2.13.0. Both sides have the same architecture, fresh
weights, batch of 8 images, float32 and all cores; both train with SGD, momentum and cross-entropy on batch
statistics, ours by the step the trainer compiles, theirs eagerly. Rounds alternate and medians are reported,
one JSON line a figure: our time over theirs, so below 1 we are faster.
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
BATCH = 8
SECONDS = 4.0  # of work in a round
MODELS = {  # ours: theirs, its options, sides of images at inference and in training
    "efficientnet_v2_b0": ("tf_efficientnetv2_b0", {}, 224, 128),
    "efficientnet_v2_s": ("tf_efficientnetv2_s", {}, 128, 128),
    "efficientnet_b0": ("tf_efficientnet_b0", {}, 224, 128),
    "coatnet_0": (
        "coatnet_0_224",
        {"conv_stride_mode": "1x1", "conv_pool_type": "max2", "transformer_pool_type": "max2"},
        224,
        128,
    ),
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--baseline-python", help="interpreter with timm and torch")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--models", nargs="*", default=list(MODELS), choices=MODELS)
    parser.add_argument("--serve", action="store_true", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.serve:
        serve(len(os.sched_getaffinity(0)))
    elif options.baseline_python:
        compare(options)
    else:
        print("image_step: needs --baseline-python; nothing measured", file=sys.stderr)


def compare(options) -> None:
    """Prints two ratios for each network."""
    from offsites_jax.parallel.start import start

    start(cpu_devices=1, cache=ROOT / ".cache" / "jax")
    command = [options.baseline_python, __file__, "--serve"]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as baseline:
        for name in options.models:
            for job, figure in (("predict", "image_inference_ratio"), ("train", "image_train_step_ratio")):
                side = MODELS[name][2 if job == "predict" else 3]
                report(
                    figure, name, side, measure(ours(name, job, side), baseline, name, job, options.rounds)
                )
        baseline.stdin.close()


def measure(run, baseline, name: str, job: str, rounds: int) -> tuple[float, float]:
    """Median seconds of one call, ours and theirs, over alternating rounds after one that warms up."""
    pairs = []
    for _ in range(rounds + 1):
        mine = seconds_of(run)
        print(name, job, file=baseline.stdin, flush=True)
        pairs.append((mine, float(baseline.stdout.readline())))
    mine, theirs = zip(*pairs[1:], strict=True)
    return statistics.median(mine), statistics.median(theirs)


def report(figure: str, name: str, side: int, seconds: tuple[float, float]) -> None:
    mine, theirs = seconds
    line = {"name": figure, "value": round(mine / theirs, 3), "unit": "ours / torch", "model": name}
    about = {
        "ours_ms": round(1e3 * mine, 1),
        "torch_ms": round(1e3 * theirs, 1),
        "batch": BATCH,
        "side": side,
    }
    print(json.dumps(line | about), flush=True)


def seconds_of(run) -> float:
    """Seconds of one call: the mean over as many as fit a round."""
    run()
    begin, calls = time.perf_counter(), 0
    while time.perf_counter() - begin < SECONDS:
        run()
        calls += 1
    return (time.perf_counter() - begin) / calls


def ours(name: str, job: str, side: int):
    """A function that does one step or one prediction and waits for it."""
    import jax
    import numpy as np

    from offsites_jax.parallel.mesh import create_mesh, put_batch
    from offsites_jax.train.config import resolve
    from offsites_jax.train.program import create_program

    experiment = resolve(
        {
            "project": "image_classification",
            "model": {"name": name, "num_classes": 1000},
            "task": {"label_smoothing": 0.0},
            "data": {"source": "digits", "image_size": side, "eval_size": side},
            "optimizer": {"name": "momentum", "learning_rate": 1e-3},
            "train": {"steps": 1, "batch_size": BATCH},
            "mesh": {"data": 1, "cpu_devices": 1},
        }
    )
    mesh = create_mesh(experiment.mesh)
    program = create_program(experiment, mesh)
    pixels = np.random.default_rng(0).integers(0, 256, (BATCH, side, side, 3), np.uint8)
    state, batch = program.initial_state(), put_batch({"image": pixels}, mesh, BATCH)
    if job == "predict":
        variables, predict = state.variables(ema=False), program.jit_predict()
        return lambda: jax.block_until_ready(predict(variables, batch))
    batch |= put_batch({"label": np.arange(BATCH, dtype=np.int32)}, mesh, BATCH)
    update, states = program.update(), [state]

    def step() -> None:
        states[0], metrics = update(states[0], batch)
        jax.block_until_ready(metrics)

    return step


def serve(threads: int) -> None:
    """The baseline: answers each line "model job" with seconds of one call."""
    import torch

    torch.set_num_threads(threads)
    runs = {}
    for line in sys.stdin:
        name, job = line.split()
        if (name, job) not in runs:
            runs[name, job] = theirs(name, job)
        print(seconds_of(runs[name, job]), flush=True)


def theirs(name: str, job: str):
    """The same with timm and torch."""
    import torch

    # The CPU build of torch lacks two operators that torchvision, imported by timm, describes further.
    library = torch.library.Library("torchvision", "DEF")
    for operator in ("nms", "qnms"):
        library.define(f"{operator}(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
    import timm

    other, options, *sides = MODELS[name]
    side = sides[0] if job == "predict" else sides[1]
    sized = {"img_size": side} if "coatnet" in other else {}
    model = timm.create_model(other, **options, **sized).train(job == "train")
    images = torch.rand(BATCH, 3, side, side)
    if job == "predict":

        def predict() -> None:
            with torch.inference_mode():
                model(images)

        return predict
    labels = torch.arange(BATCH)
    optimizer = torch.optim.SGD(model.parameters(), lr=1e-3, momentum=0.9)

    def step() -> None:
        optimizer.zero_grad()
        torch.nn.functional.cross_entropy(model(images), labels).backward()
        optimizer.step()

    return step


if __name__ == "__main__":
    main()
