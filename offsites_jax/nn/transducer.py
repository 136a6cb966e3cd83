"""The transducer loss (Graves 2012, arXiv 1211.3711), from logits or fused with the joint network.

The parts: `transducer_arcs` turns logits into log-probabilities of blanks and labels, `transducer_lattice`
sums over alignments. Everything is float32 inside and exact, gradients too.
"""

from typing import Literal

import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

from offsites_jax.nn.transducer_arcs import joint_arcs, logit_arcs
from offsites_jax.nn.transducer_lattice import lattice_loss

Reduction = Literal["mean", "sum", "per_label"]


def transducer_loss(
    logits: Float[Array, "batch frames labels+1 vocabulary"],
    labels: Int[Array, "batch labels"],
    logit_lengths: Int[Array, " batch"],
    label_lengths: Int[Array, " batch"],
    *,
    blank: int = 0,
    fastemit_lambda: float = 0.0,
) -> Float[Array, " batch"]:
    """Negative log-likelihood of each utterance, in nats.

    Args:
        logits: of any float type; not normalised.
        labels: what was said; anything after the length.
        logit_lengths: frames of each utterance, from 1 on. Cells outside the lengths get a gradient
            of exactly 0, even where they hold NaN.
        label_lengths: labels of each utterance, from 0 on; may exceed the frames.
        blank: its place in the vocabulary.
        fastemit_lambda: scales gradients of labels up, to emit them earlier; see `lattice_loss`.

    """
    arcs = logit_arcs(logits, _leaving(labels)[:, None], blank)
    return lattice_loss(*arcs, logit_lengths, label_lengths, fastemit_lambda)


def fused_transducer_loss(
    encoded: Float[Array, "batch frames joint"],
    predicted: Float[Array, "batch labels+1 joint"],
    kernel: Float[Array, "joint vocabulary"],
    bias: Float[Array, " vocabulary"],
    labels: Int[Array, "batch labels"],
    logit_lengths: Int[Array, " batch"],
    label_lengths: Int[Array, " batch"],
    *,
    blank: int = 0,
    fastemit_lambda: float = 0.0,
    chunk_size: int | None = None,
) -> Float[Array, " batch"]:
    """`transducer_loss` of ``tanh(encoded + predicted) @ kernel + bias``, never held as a whole.

    Args:
        encoded: frames, projected to the joint network's width.
        predicted: predictor outputs after 0, 1, ... labels, likewise projected.
        kernel: of the output layer.
        bias: of the output layer.
        labels: see `transducer_loss`, as are the lengths, ``blank`` and ``fastemit_lambda``.
        logit_lengths: frames of each utterance.
        label_lengths: labels of each utterance.
        blank: its place in the vocabulary.
        fastemit_lambda: scales gradients of labels.
        chunk_size: frames whose logits are held at a time; see `joint_arcs`.

    """
    arcs = joint_arcs(encoded, predicted, kernel, bias, _leaving(labels), blank, chunk_size)
    return lattice_loss(*arcs, logit_lengths, label_lengths, fastemit_lambda)


def reduce_loss(
    loss: Float[Array, " batch"],
    label_lengths: Int[Array, " batch"],
    valid: Bool[Array, " batch"] | None = None,
    reduction: Reduction = "mean",
) -> tuple[Float[Array, ""], Float[Array, ""]]:
    """Sum of losses and what to divide it by; under data parallelism, sum both over devices first.

    Args:
        loss: of each utterance.
        label_lengths: labels of each utterance.
        valid: which rows are utterances; others are left out, even where they hold NaN.
        reduction: ``"mean"`` counts utterances, ``"sum"`` divides by 1, and ``"per_label"`` is the mean over
            utterances of their loss per label (an empty one counts as one label).

    """
    valid = jnp.ones(loss.shape, bool) if valid is None else valid
    if reduction == "per_label":
        loss = loss / jnp.maximum(label_lengths, 1)
    count = jnp.ones(()) if reduction == "sum" else valid.sum(dtype=jnp.float32)
    return jnp.where(valid, loss, 0).sum(), count


def _leaving(labels: Array) -> Array:
    """The label that leaves each cell of a row: none (-1) the last one."""
    return jnp.pad(labels, ((0, 0), (0, 1)), constant_values=-1)
