"""Beam search, frame by frame: the most probable texts, each with all the ways it may have been said.

At each frame every hypothesis may end the frame by a blank, or grow by up to `labels_per_frame` labels first:
time-synchronous search, which is in Saon et al. 2020 ("Alignment-length synchronous decoding for RNN
transducer") beside the one of the title, and `tsd` in espnet/espnet and NVIDIA/NeMo. Hypotheses of equal
labels are one: their probabilities are added. So a beam that is wide enough gives the exact probability of a
text, over all alignments with at most so many labels a frame.
"""

import dataclasses
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from offsites_jax.errors import UserError
from offsites_jax.projects.euphonia.model import States, Transducer
from offsites_jax.train.contract import Tree, Variables

# What is this much less probable than all that is kept can change none of it by more than a ten-millionth.
_HOPELESS = 16.0


@dataclasses.dataclass(frozen=True)
class BeamSettings:
    """How a beam searches.

    Attributes:
      width: hypotheses that are kept.
      labels_per_frame: most labels that one frame emits.
      length_power: texts are ranked by log-probability over (labels to this power); 0 for no difference.

    """

    width: int = 8
    labels_per_frame: int = 10
    length_power: float = 0.0

    def __post_init__(self) -> None:
        for name in ("width", "labels_per_frame"):
            if getattr(self, name) < 1:
                raise UserError(f"beam.{name}: is {getattr(self, name)}, must be at least 1")
        if not 0 <= self.length_power < float("inf"):
            raise UserError(f"beam.length_power: is {self.length_power}, must be at least 0")


class Fusion(NamedTuple):
    """A language model of labels that has its say in the ranking ("shallow fusion").

    Attributes:
      start: its state before the first label.
      scores: weighted scores of all labels, [vocabulary], in a state; that of the blank is ignored.
      after: the state after one more label.

    """

    start: Tree
    scores: Callable[[Tree], Array]
    after: Callable[[Tree, Array], Tree]


class Beam(NamedTuple):
    """Hypotheses, the best first; what does not exist has log-probability -inf.

    Attributes:
      labels: int32 [width, most]; zeros after the count.
      counts: labels of each.
      frames: int32 [width, most]: the frame of each label, on the most probable way merged.
      log_probs: of each text, over all ways.
      bonus: what a language model adds.
      text: the text side of the joint network.
      predictor: states that it came from.
      fusion: states of the language model.

    """

    labels: Int[Array, "width most"]
    counts: Int[Array, " width"]
    frames: Int[Array, "width most"]
    log_probs: Float[Array, " width"]
    bonus: Float[Array, " width"]
    text: Float[Array, "width joint"]
    predictor: States
    fusion: Tree


class BeamState(NamedTuple):
    """Where the search is: its hypotheses, and the number of the next frame."""

    beam: Beam
    frame: Int[Array, ""]


def start_beam(
    model: Transducer, params: Variables, width: int, most: int, fusion: Fusion | None = None
) -> BeamState:
    """The state before the first frame of one utterance: one hypothesis, nothing said.

    Args:
      model: the network.
      params: of it.
      width: hypotheses that are kept.
      most: room for labels; a hypothesis that is full cannot grow.
      fusion: a language model.

    """
    first: Any = model.apply({"params": params}, jnp.zeros(width, jnp.int32), None, method="predict_next")
    text, predictor = first
    own = () if fusion is None else fusion.start
    beam = Beam(
        labels=jnp.zeros((width, most), jnp.int32),
        counts=jnp.zeros(width, jnp.int32),
        frames=jnp.zeros((width, most), jnp.int32),
        log_probs=jnp.where(jnp.arange(width) == 0, 0.0, -jnp.inf),
        bonus=jnp.zeros(width, jnp.float32),
        text=text,
        predictor=predictor,
        fusion=jax.tree.map(lambda leaf: jnp.repeat(jnp.asarray(leaf)[None], width, 0), own),
    )
    return BeamState(beam, jnp.zeros((), jnp.int32))


def beam_search(
    model: Transducer,
    params: Variables,
    sound: Float[Array, "frames joint"],
    frame_count: Int[Array, ""],
    state: BeamState,
    settings: BeamSettings,
    fusion: Fusion | None = None,
) -> BeamState:
    """Goes on searching with more frames of one utterance; `jax.vmap` takes several.

    Args:
      model: the network.
      params: of it.
      sound: frames from `Transducer.encode`.
      frame_count: how many of them are real.
      state: from `start_beam`, or of the frames before.
      settings: how to search; the width is that of the state.
      fusion: the language model that the state was started with.

    """

    def at_frame(state: BeamState, indexed: tuple[Array, Array]) -> tuple[BeamState, None]:
        index, frame = indexed
        exists = index < frame_count

        def going_on(carry: tuple[Beam, Beam, Array]) -> Array:
            ended, growing, emitted = carry
            hopeful = jnp.max(_rank(growing)) > jnp.min(_rank(ended)) - _HOPELESS
            return exists & hopeful & (emitted <= settings.labels_per_frame)

        def once(carry: tuple[Beam, Beam, Array]) -> tuple[Beam, Beam, Array]:
            ended, growing, emitted = carry
            sounds = jnp.broadcast_to(frame, growing.text.shape)
            scores: Any = model.apply({"params": params}, sounds, growing.text, method="scores")
            ending = growing._replace(log_probs=growing.log_probs + scores[:, 0])
            grown = _grow(model, params, growing, scores, state.frame, fusion)
            return _best_of(ended, ending), grown, emitted + 1

        nothing = state.beam._replace(log_probs=jnp.full_like(state.beam.log_probs, -jnp.inf))
        start = nothing, state.beam, jnp.zeros((), jnp.int32)
        ended, _, _ = jax.lax.while_loop(going_on, once, start)
        beam = jax.tree.map(lambda new, old: jnp.where(exists, new, old), ended, state.beam)
        return BeamState(beam, state.frame + 1), None

    state, _ = jax.lax.scan(at_frame, state, (jnp.arange(len(sound)), sound))
    return state


def ranking(
    beam: Beam, length_power: float = 0.0, said_before: int = 0
) -> tuple[Int[Array, " width"], Float[Array, " width"]]:
    """Places of the hypotheses, the best first, and their scores in that order.

    Args:
      beam: hypotheses.
      length_power: see `BeamSettings`.
      said_before: labels that all of them have in common, and that are not in the beam any more.

    """
    lengths = jnp.maximum(beam.counts + said_before, 1).astype(jnp.float32)
    scores, places = jax.lax.top_k(_rank(beam) / lengths**length_power, len(beam.counts))
    return places, scores


def _rank(beam: Beam) -> Array:
    return beam.log_probs + beam.bonus


def _grow(
    model: Transducer,
    params: Variables,
    beam: Beam,
    scores: Array,
    frame: Array,
    fusion: Fusion | None,
) -> Beam:
    """The best hypotheses with one label more; all differ, since those before do."""
    width, most = beam.labels.shape
    vocabulary = scores.shape[-1]
    extra = jnp.zeros_like(scores) if fusion is None else jax.vmap(fusion.scores)(beam.fusion)
    impossible = (jnp.arange(vocabulary) == 0) | (beam.counts >= most)[:, None]
    ranks = jnp.where(impossible, -jnp.inf, _rank(beam)[:, None] + scores + extra)
    rank, chosen = jax.lax.top_k(ranks.reshape(-1), width)
    parent, label = chosen // vocabulary, (chosen % vocabulary).astype(jnp.int32)
    grown: Beam = _take(beam, parent)
    after: Any = model.apply({"params": params}, label, grown.predictor, method="predict_next")
    text, predictor = after
    place = jnp.arange(most) == grown.counts[:, None]
    log_probs = grown.log_probs + scores[parent, label]
    return Beam(
        labels=jnp.where(place, label[:, None], grown.labels),
        counts=grown.counts + 1,
        frames=jnp.where(place, frame, grown.frames),
        log_probs=jnp.where(rank > -jnp.inf, log_probs, -jnp.inf),
        bonus=grown.bonus + extra[parent, label],
        text=text,
        predictor=predictor,
        fusion=() if fusion is None else jax.vmap(fusion.after)(grown.fusion, label),
    )


def _best_of(one: Beam, other: Beam) -> Beam:
    """The best of both, equal texts merged to one."""
    both: Beam = jax.tree.map(lambda *leaves: jnp.concatenate(leaves), one, other)
    # Labels are never 0 and what follows them is, so equal rows are equal texts.
    equal = (both.labels[:, None] == both.labels).all(-1)
    ours, theirs = both.log_probs[:, None], both.log_probs
    place = jnp.arange(len(theirs))
    better = equal & ((theirs > ours) | ((theirs == ours) & (place < place[:, None])))
    together = jax.nn.logsumexp(jnp.where(equal, theirs, -jnp.inf), axis=1)
    both = both._replace(log_probs=jnp.where(better.any(1), -jnp.inf, together))
    _, places = jax.lax.top_k(_rank(both), len(one.counts))
    return _take(both, places)


def _take(beam: Beam, places: Array) -> Beam:
    return jax.tree.map(lambda leaf: leaf[places], beam)
