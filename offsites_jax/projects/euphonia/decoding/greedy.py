"""Greedy decoding: at each frame the best label, again and again, until it is blank."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from offsites_jax.projects.euphonia.model import States, Transducer
from offsites_jax.train.contract import Variables


class Hypotheses(NamedTuple):
    """What was recognised, one text for each utterance.

    Attributes:
      labels: int32 [batch, most]; zeros after the count.
      counts: labels of each.
      frames: int32 [batch, most]: the frame that each label was emitted at.
      log_probs: of the path that was taken, blanks included.

    """

    labels: Int[Array, "batch most"]
    counts: Int[Array, " batch"]
    frames: Int[Array, "batch most"]
    log_probs: Float[Array, " batch"]


class GreedyState(NamedTuple):
    """Where greedy decoding is: what it said, and the text side of the joint network for it."""

    said: Hypotheses
    text: Float[Array, "batch joint"]
    predictor: States
    frame: Int[Array, ""]


def start_greedy(model: Transducer, params: Variables, batch: int, most: int) -> GreedyState:
    """The state before the first frame.

    Args:
      model: the network.
      params: of it.
      batch: utterances.
      most: room for labels; later ones are not emitted.

    """
    first: Any = model.apply({"params": params}, jnp.zeros(batch, jnp.int32), None, method="predict_next")
    nothing = Hypotheses(
        jnp.zeros((batch, most), jnp.int32),
        jnp.zeros(batch, jnp.int32),
        jnp.zeros((batch, most), jnp.int32),
        jnp.zeros(batch, jnp.float32),
    )
    text, states = first
    return GreedyState(nothing, text, states, jnp.zeros((), jnp.int32))


def greedy(
    model: Transducer,
    params: Variables,
    sound: Float[Array, "batch frames joint"],
    frame_counts: Int[Array, " batch"],
    state: GreedyState,
    *,
    labels_per_frame: int = 10,
) -> GreedyState:
    """Goes on decoding with more frames.

    Args:
      model: the network.
      params: of it.
      sound: frames from `Transducer.encode`.
      frame_counts: real ones of each utterance; nothing is emitted after them.
      state: from `start_greedy`, or of the frames before.
      labels_per_frame: most labels that one frame emits.

    """

    def at_frame(state: GreedyState, indexed: tuple[Array, Array]) -> tuple[GreedyState, None]:
        index, frame = indexed

        def going_on(carry: tuple[GreedyState, Array, Array]) -> Array:
            _, active, emitted = carry
            return jnp.any(active) & (emitted <= labels_per_frame)

        def once(carry: tuple[GreedyState, Array, Array]) -> tuple[GreedyState, Array, Array]:
            state, active, emitted = carry
            scores: Any = model.apply({"params": params}, frame, state.text, method="scores")
            full = (state.said.counts >= state.said.labels.shape[1]) | (emitted == labels_per_frame)
            # With no room left only blank can follow.
            scores = jnp.where(full[:, None] & (jnp.arange(scores.shape[-1]) > 0), -jnp.inf, scores)
            best = jnp.argmax(scores, axis=-1).astype(jnp.int32)
            score = jnp.take_along_axis(scores, best[:, None], axis=-1)[:, 0]
            emits = active & (best > 0)
            said = _append(state.said, best, state.frame, emits)
            said = said._replace(log_probs=said.log_probs + jnp.where(active, score, 0.0))
            after: Any = model.apply({"params": params}, best, state.predictor, method="predict_next")
            text, predictor = jax.tree.map(
                lambda new, old: jnp.where(emits[:, None], new, old), after, (state.text, state.predictor)
            )
            return GreedyState(said, text, predictor, state.frame), emits, emitted + 1

        active = index < frame_counts
        state, _, _ = jax.lax.while_loop(going_on, once, (state, active, jnp.zeros((), jnp.int32)))
        return state._replace(frame=state.frame + 1), None

    frames = jnp.swapaxes(sound, 0, 1)
    state, _ = jax.lax.scan(at_frame, state, (jnp.arange(len(frames)), frames))
    return state


def _append(said: Hypotheses, labels: Array, frame: Array, where: Array) -> Hypotheses:
    """Each utterance's label put behind what it has said, where told."""
    place = (jnp.arange(said.labels.shape[1]) == said.counts[:, None]) & where[:, None]
    return said._replace(
        labels=jnp.where(place, labels[:, None], said.labels),
        counts=said.counts + where,
        frames=jnp.where(place, frame, said.frames),
    )


def take_said(state: GreedyState) -> tuple[Hypotheses, GreedyState]:
    """What was said so far, and the state to go on with as if it were not, with all its room again."""
    return state.said, state._replace(said=jax.tree.map(jnp.zeros_like, state.said))
