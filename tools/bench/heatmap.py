"""Seconds for the dense map of a 256-pixel image on this CPU: windows in chunks, against one after another.

    python tools/bench/heatmap.py [--baseline-python /path/to/venv/bin/python] [--rounds 3] [--rows 5]

The network is a ResNet-18 with the stem for small images; 57 x 57 windows of 32 pixels at stride 4. Only some
rows of windows are run, and of those that go one by one only 24 (`windows` in the output): times are scaled
up to all 3,249, in which they are linear. Features of both ways are compared first, and may differ by
rounding only. Rounds alternate and the median is taken, after one round that compiles. One JSON line each:

`heatmap_speedup`: time of the same network on one window at a time, over ours; above 1 we are faster.
`heatmap_seconds`: ours, for features and scores of an image.
`heatmap_time_ratio`: ours over torch 2.13 with the same network, windows one at a time and in batches of 64,
under an interpreter that has torch and timm 1.0.31; below 1 we are faster. With --baseline-python only.

`cpu_value` and `cpu_seconds` are the same of CPU seconds, all cores together, which other programs on the
machine disturb less.
"""

import argparse
import json
import statistics
import subprocess
import sys
import time

SIZE, WINDOW, STRIDE = 256, 32, 4
GRID = (SIZE - WINDOW) // STRIDE + 1
ALONE = 24  # windows that are run one at a time
AT_ONCE = 64
TOLERANCE = 1e-4


def picture(rows):
    """The part of a smooth random picture that so many rows of windows lie in."""
    import numpy as np

    coarse = np.random.default_rng(0).integers(0, 256, (SIZE // 8, SIZE // 8, 3), np.uint8)
    return coarse.repeat(8, 0).repeat(8, 1)[: WINDOW + (rows - 1) * STRIDE]


def cut(image, count):
    """The first windows as floats, one by one."""
    for number in range(count):
        top, left = STRIDE * (number // GRID), STRIDE * (number % GRID)
        yield image[top : top + WINDOW, left : left + WINDOW].astype("float32") / 255


def seconds(run):
    """By the clock, and of all cores."""
    start = time.perf_counter(), time.process_time()
    run()
    return time.perf_counter() - start[0], time.process_time() - start[1]


def our_ways(rows):
    """Functions that run some windows, by name, with how many those are."""
    import functools

    import jax
    import numpy as np

    from offsites_jax.projects.one_class.detectors.gaussian import Gaussian
    from offsites_jax.projects.one_class.localization.dense import Windows, dense_map, patch_features
    from offsites_jax.projects.one_class.model import ModelConfig, create_network

    network = create_network(ModelConfig(head=()), WINDOW, 0, np.float32)
    init = jax.jit(functools.partial(network.init, train=False))
    variables = init(jax.random.key(0), np.zeros((1, WINDOW, WINDOW, 3), np.float32))
    windows = Windows(WINDOW, STRIDE, AT_ONCE)
    image = picture(rows)
    one = jax.jit(lambda variables, window: network.apply(variables, window[None], train=False)["pooled"][0])

    def alone():
        return [np.asarray(one(variables, window)) for window in cut(image, ALONE)]

    together = patch_features(network, variables, image[None], windows)[:, 0]
    error = np.abs(together[:ALONE] - alone()).max() / np.abs(together).max()
    if error > TOLERANCE:
        sys.exit(f"features differ by {error:.2g} of the largest")
    scorer = Gaussian.fit(together)
    dense = functools.partial(dense_map, network, variables, scorer, image[None], windows)
    return {"alone": (alone, ALONE), "ours": (dense, rows * GRID)}


def torch_ways(rows):
    """The same in torch."""
    import torch

    library = torch.library.Library("torchvision", "DEF")  # a build without its kernels cannot be imported
    for operator in ("nms", "qnms"):
        library.define(f"{operator}(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
    from timm.models.resnet import BasicBlock, ResNet

    network = ResNet(BasicBlock, (2, 2, 2, 2), num_classes=0).eval()
    network.conv1 = torch.nn.Conv2d(3, 64, 3, padding=1, bias=False)
    network.maxpool = torch.nn.Identity()
    image = picture(rows)

    def alone():
        for window in cut(image, ALONE):
            network(torch.tensor(window).permute(2, 0, 1)[None])

    def batched():
        found = [torch.tensor(window).permute(2, 0, 1) for window in cut(image, rows * GRID)]
        for start in range(0, len(found), AT_ONCE):
            network(torch.stack(found[start : start + AT_ONCE]))

    return {"torch alone": (alone, ALONE), "torch batched": (batched, rows * GRID)}


def serve(ways):
    """Seconds an image for every name on a line of the input."""
    for line in sys.stdin:
        run, count = ways[line.strip()]
        print(*(value * GRID**2 / count for value in seconds(run)), flush=True)


def ask(process, name):
    process.stdin.write(f"{name}\n")
    process.stdin.flush()
    return tuple(map(float, process.stdout.readline().split()))


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--baseline-python", help="interpreter that has torch and timm")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--rows", type=int, default=5, help="rows of windows to run, of 57")
    parser.add_argument("--serve", choices=("ours", "torch"), help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.serve == "torch":
        import torch

        with torch.inference_mode():
            serve(torch_ways(options.rows))
        return
    if options.serve == "ours":
        serve(our_ways(options.rows))
        return
    pythons = {"ours": sys.executable, "torch": options.baseline_python}
    names = {"ours": ("alone", "ours"), "torch": ("torch alone", "torch batched")}
    sides = {
        side: subprocess.Popen(
            [python, __file__, "--serve", side, "--rows", str(options.rows)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        for side, python in pythons.items()
        if python
    }
    found = {name: [] for side in sides for name in names[side]}
    for number in range(options.rounds + 1):
        for side, process in sides.items():
            for name in names[side]:
                value = ask(process, name)
                if number:
                    found[name].append(value)
    medians = {
        name: tuple(map(statistics.median, zip(*values, strict=True))) for name, values in found.items()
    }
    report(medians, options)
    for process in sides.values():
        process.communicate()


def report(found, options):
    common = {"windows": options.rows * GRID, "of_windows": GRID**2, "rounds": options.rounds}
    ours, cpu = found.pop("ours")
    lines = [{"name": "heatmap_seconds", "value": ours, "unit": "s", "cpu_seconds": cpu, **common}]
    for way, (value, of_cores) in found.items():
        if way == "alone":
            about = {"name": "heatmap_speedup", "value": value / ours, "cpu_value": of_cores / cpu}
        else:
            about = {"name": "heatmap_time_ratio", "value": ours / value, "cpu_value": cpu / of_cores}
        times = {"unit": "times", "against": way, "seconds": value, "cpu_seconds": of_cores}
        part = {"windows": options.rows * GRID if way == "torch batched" else ALONE}
        lines.append({**about, **times, **common, **part})
    for line in lines:
        print(json.dumps(line))


if __name__ == "__main__":
    main()
