"""Upsampled maps made by torch, for tests/projects/one_class.

Needs torch 2.13.0 and numpy, nothing of this project:

    python tools/golden/localization.py

`upsampling.npz`: maps, and what `conv_transpose2d` makes of them with the Gaussian kernel of liznerski/fcdd,
for even and odd sizes of windows, with and without the division by the same of a map of ones.
"""

import pathlib

import numpy as np
import torch
from torch.nn.functional import conv_transpose2d

FILE = pathlib.Path(__file__).parents[2] / "tests/projects/one_class/golden/upsampling.npz"
CASES = {  # size, stride, sigma, rows, columns; the first is the published setting, 256 pixels
    "published": (32, 4, 12.0, 57, 57),
    "odd": (9, 3, 2.0, 6, 4),
    "even": (6, 2, 1.5, 3, 7),
}


def kernel(size, sigma):
    """The outer product of a window with itself; one of an even size has its centre twice and is halved."""
    window = torch.signal.windows.gaussian(size - 1 + size % 2, std=sigma, sym=True, dtype=torch.float64)
    if size % 2 == 0:
        middle = (size - 1) // 2
        window = torch.cat([window[: middle + 1], window[middle:]]) / 2
    return torch.outer(window, window)


def main():
    arrays = {}
    for number, (name, (size, stride, sigma, rows, columns)) in enumerate(CASES.items()):
        maps = np.random.default_rng(number).gamma(2, 10, (2, rows, columns)).astype(np.float32)
        weights = kernel(size, sigma)[None, None]
        heat = conv_transpose2d(torch.tensor(maps, dtype=torch.float64)[:, None], weights, stride=stride)[
            :, 0
        ]
        ones = torch.ones(1, 1, rows, columns, dtype=torch.float64)
        rim = conv_transpose2d(ones, weights, stride=stride)[0]
        thin = slice(None, None, 5 if name == "published" else 1)  # every fifth pixel: a small file
        arrays[f"{name}/maps"] = maps
        arrays[f"{name}/about"] = np.array([size, stride, sigma, thin.step or 1])
        arrays[f"{name}/heat"] = heat[:, thin, thin].numpy().astype(np.float32)
        arrays[f"{name}/normalized"] = (heat / rim)[:, thin, thin].numpy().astype(np.float32)
    FILE.parent.mkdir(exist_ok=True)
    np.savez_compressed(FILE, **arrays)
    print(FILE, FILE.stat().st_size, "bytes")


if __name__ == "__main__":
    main()
