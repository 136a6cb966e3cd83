"""How a text lies in a recording, by the network's own account, and where what it heard is another text."""

import functools
from collections.abc import Sequence
from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Float32, Int

from offsites_jax.errors import UserError
from offsites_jax.nn.transducer_arcs import joint_arcs
from offsites_jax.nn.transducer_lattice import lattice_loss, occupancies
from offsites_jax.projects.euphonia.decoding.listener import Listener
from offsites_jax.projects.euphonia.decoding.words import Word, words_of
from offsites_jax.projects.euphonia.model import Transducer
from offsites_jax.train.contract import Variables


class Alignment(NamedTuple):
    """All ways to say a text in a recording, weighed by how probable the network holds each.

    Attributes:
      labels: of the text.
      spoken: probability that a frame emits a label, [frames, labels]; over frames they sum to 1.
      passed: probability that so many labels were said at some time of a frame, [frames, labels + 1].
      log_prob: natural logarithm of the text's probability, over all alignments.
      words: of the text, each from the frame that most probably emits its first label to that of its last.

    """

    labels: tuple[int, ...]
    spoken: Float[np.ndarray, "frames labels"]
    passed: Float[np.ndarray, "frames labels+1"]
    log_prob: float
    words: tuple[Word, ...]


class Pair(NamedTuple):
    """A word that was said beside the one that was heard.

    Attributes:
      said: of the reference; None where the recogniser added one.
      heard: of the hypothesis; None where it missed one.

    """

    said: int | None
    heard: int | None


def align(listener: Listener, rows: Float32[np.ndarray, "rows features"], labels: Sequence[int]) -> Alignment:
    """Aligns the labels of a text.

    Args:
      listener: the recogniser.
      rows: features of the whole recording, from the listener's frontend.
      labels: of what was said.

    """
    found = _weigh(listener.model, listener.params, rows[None], np.array(labels, np.int32)[None])
    by_blank, by_label, loss = (leaf[0] for leaf in jax.device_get(found))
    spoken = by_label[:, : len(labels)]
    # Most probable one by one, labels of next to no probability might come before those that they follow.
    frames = np.maximum.accumulate(spoken.argmax(axis=0)).tolist()
    words = words_of(labels, frames, listener.spellings, listener.frame_seconds)
    return Alignment(tuple(labels), spoken, by_blank + by_label, -float(loss), words)


@functools.partial(jax.jit, static_argnums=0)
def _weigh(
    model: Transducer,
    params: Variables,
    rows: Float[Array, "1 rows features"],
    labels: Int[Array, "1 labels"],
) -> tuple[Array, Array, Array]:
    """Probabilities to leave each cell by its blank and by its label, and the loss."""

    def arcs(module: Transducer) -> tuple[tuple[Array, Array], Array]:
        encoded, counts, _ = module.encoder(rows, jnp.array([rows.shape[1]]))
        predicted, _ = module.predictor(labels)
        sides = module.joint.of_sound(encoded), module.joint.of_text(predicted)
        leaving = jnp.pad(labels, ((0, 0), (0, 1)), constant_values=-1)
        return joint_arcs(*sides, *module.joint.output(), leaving), counts

    found: Any = nn.apply(arcs, model)({"params": params})
    (blank, label), frames = found
    lengths = frames, jnp.array([labels.shape[1]])
    return *occupancies(blank, label, *lengths), lattice_loss(blank, label, *lengths)


def compare(said: Sequence[str], heard: Sequence[str]) -> tuple[Pair, ...]:
    """Words side by side, with the fewest substitutions, insertions and deletions.

    Raises:
      UserError: the library that counts errors is missing.

    """
    try:
        import jiwer
    except ImportError as error:
        raise UserError("error rates need jiwer; pip install 'offsites-jax[speech]'") from error
    found = jiwer.process_words(" ".join(said), " ".join(heard))
    pairs: list[Pair] = []
    for chunk in found.alignments[0]:
        ours = list(range(chunk.ref_start_idx, chunk.ref_end_idx))
        theirs = list(range(chunk.hyp_start_idx, chunk.hyp_end_idx))
        for place in range(max(len(ours), len(theirs))):
            pairs.append(Pair(ours[place] if ours else None, theirs[place] if theirs else None))
    return tuple(pairs)
