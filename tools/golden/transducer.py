"""Transducer losses by warprnnt_numba and projected LSTMs by torch, for tests/nn.

Needs warprnnt_numba 0.4.1, numba 0.68.1 and torch 2.13.0, nothing of this project:

    python tools/golden/transducer.py

`transducer.npz`: a batch of logits with utterances of several lengths (one frame; no label; more labels than
frames), and for two blanks and two FastEmit weights the losses and the gradient of a weighted sum of them.
warprnnt_numba reports (1 + weight) times the loss; the file has it without that factor. `projected_lstm.npz`:
input, weights, output, last state and gradients of one `torch.nn.LSTM` with `proj_size`, in float64.
"""

import pathlib

import numpy as np
import torch
from warprnnt_numba.rnnt_loss.rnnt_pytorch import RNNTLossNumba

FOLDER = pathlib.Path(__file__).parents[2] / "tests/nn/golden"
LENGTHS = ((7, 4), (1, 3), (5, 0), (2, 4), (6, 1))  # frames, labels
VOCABULARY = 6
INPUT, CELLS, PROJECTION, STEPS, BATCH = 5, 6, 3, 8, 3


def transducer():
    """Logits, labels, lengths, and both results for each blank and FastEmit weight."""
    draw = np.random.default_rng(5)
    frames, counts = (np.array(column, np.int32) for column in zip(*LENGTHS, strict=True))
    logits = (2 * draw.standard_normal((len(LENGTHS), frames.max(), counts.max() + 1, VOCABULARY))).astype(
        np.float32
    )
    labels = draw.integers(1, VOCABULARY - 1, (len(LENGTHS), counts.max())).astype(np.int32)
    weights = draw.uniform(0.5, 2, len(LENGTHS)).astype(np.float32)
    found = {"logits": logits, "labels": labels, "frames": frames, "counts": counts, "weights": weights}
    for blank in (0, VOCABULARY - 1):
        for fastemit in (0.0, 0.25):
            given = torch.from_numpy(logits).requires_grad_()
            loss = RNNTLossNumba(blank, reduction="none", fastemit_lambda=fastemit)(
                given, *(torch.from_numpy(values) for values in (labels, frames, counts))
            )
            loss.backward(torch.from_numpy(weights))
            name = f"{blank}/{fastemit}"
            found[f"loss/{name}"] = loss.detach().numpy() / (1 + fastemit)
            found[f"gradient/{name}"] = given.grad.numpy()
    return found


def projected_lstm():
    """One layer, from a state that is not zero."""
    torch.manual_seed(3)
    layer = torch.nn.LSTM(INPUT, CELLS, proj_size=PROJECTION, batch_first=True).double()
    x = torch.randn(BATCH, STEPS, INPUT, dtype=torch.double, requires_grad=True)
    state = (torch.randn(1, BATCH, PROJECTION).double(), torch.randn(1, BATCH, CELLS).double())
    weights = torch.randn(BATCH, STEPS, PROJECTION, dtype=torch.double)
    y, (output, cell) = layer(x, state)
    (y * weights).sum().backward()
    tensors = dict(layer.named_parameters())
    found = {"x": x, "output0": state[0][0], "cell0": state[1][0], "weights": weights} | tensors
    found |= {"y": y, "output": output[0], "cell": cell[0], "gradient/x": x.grad}
    found |= {f"gradient/{name}": tensor.grad for name, tensor in tensors.items()}
    return {name: tensor.detach().numpy() for name, tensor in found.items()}


def main():
    """Write both files."""
    np.savez_compressed(FOLDER / "transducer.npz", **transducer())
    np.savez_compressed(FOLDER / "projected_lstm.npz", **projected_lstm())


if __name__ == "__main__":
    main()
