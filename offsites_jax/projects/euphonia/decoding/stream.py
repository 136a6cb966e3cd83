"""Recognition while someone speaks: sound goes in in pieces, text comes out, a plain record remembers.

    state = start_stream(listener)
    for chunk in chunks:
        state, heard = step(listener, state, chunk)
    found = finish(listener, state)

Sound is cut anew into pieces of a fixed number of feature rows, whatever the chunks are, so that chunks of
any lengths give the same text bit for bit and one program serves all. What a piece lacks waits in the state,
which is NumPy arrays and plain values throughout. A recording is a stream of one chunk.
"""

import functools
from typing import Any, NamedTuple, cast

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Float32, Int, Shaped

from offsites_jax.data.audio import frontend
from offsites_jax.projects.euphonia.decoding.beam import (
    BeamState,
    beam_search,
    ranking,
    start_beam,
)
from offsites_jax.projects.euphonia.decoding.greedy import GreedyState, greedy, start_greedy, take_said
from offsites_jax.projects.euphonia.decoding.listener import Decoding, Listener
from offsites_jax.projects.euphonia.decoding.words import text_of
from offsites_jax.projects.euphonia.model import States, Transducer
from offsites_jax.train.contract import Variables

Samples = Shaped[np.ndarray, "samples"]
Decoder = GreedyState | BeamState

_AT_ONCE = 60  # seconds of a recording whose features are held


class Settled(NamedTuple):
    """What will not change any more.

    Attributes:
      labels: said for sure.
      frames: of each label.
      log_prob: of saying so, up to the last frame that was decoded, summed in double precision.

    """

    labels: tuple[int, ...] = ()
    frames: tuple[int, ...] = ()
    log_prob: float = 0.0


class StreamState(NamedTuple):
    """What a stream remembers from chunk to chunk.

    Attributes:
      sound: of the frontend: the tail of the waveform, and frames that later rows stack.
      rows: that wait for the rest of their piece.
      encoder: states of its layers.
      decoder: of greedy decoding or of a beam.
      settled: labels so far that will not change.
      frame_count: frames that were decoded.

    """

    sound: frontend.StreamState
    rows: Float32[np.ndarray, "rows features"]
    encoder: States
    decoder: Decoder
    settled: Settled
    frame_count: int


class Heard(NamedTuple):
    """What is known after a chunk.

    Attributes:
      text: what was said, as far as can be told.
      stable: the part of it, from the start, that will not change.
      seconds: of sound that it covers.
      ended: whether the speaker has said something and then nothing for a while.

    """

    text: str
    stable: str
    seconds: float
    ended: bool


class Alternative(NamedTuple):
    """One of the texts that may have been said.

    Attributes:
      text: words with one space between them.
      log_prob: natural logarithm of its probability.

    """

    text: str
    log_prob: float


class Recognised(NamedTuple):
    """What was said in a whole stream.

    Attributes:
      labels: of the best text.
      frames: of each label.
      alternatives: the best text and others, the best first; only one without a beam.
      frame_count: frames of the stream.

    """

    labels: tuple[int, ...]
    frames: tuple[int, ...]
    alternatives: tuple[Alternative, ...]
    frame_count: int

    @property
    def text(self) -> str:
        """The best."""
        return self.alternatives[0].text


def start_stream(listener: Listener) -> StreamState:
    """The state before the first sample."""
    start = _start(listener.model, listener.decoding, listener.params)
    encoder, decoder = jax.device_get(start)
    rows = np.zeros((0, listener.features.dim), np.float32)
    return StreamState(frontend.start_stream(listener.features), rows, encoder, decoder, Settled(), 0)


def step(listener: Listener, state: StreamState, chunk: Samples) -> tuple[StreamState, Heard]:
    """Takes a further chunk of sound: int16 samples, or floats in -1..1, at the rate of the features.

    Raises:
      DamagedDataError: samples that are not finite, or floats that are not in -1..1.

    """
    sound, rows = frontend.stream(state.sound, chunk, listener.features)
    rows, size = np.concatenate([state.rows, rows]), listener.decoding.rows
    whole = len(rows) // size * size
    state = state._replace(sound=sound)
    for start in range(0, whole, size):
        state, _ = advance(listener, state, rows[start : start + size])
    state = state._replace(rows=rows[whole:])
    return state, _heard(listener, state)


def finish(listener: Listener, state: StreamState) -> Recognised:
    """What was said, once no more sound comes; the state can still go on."""
    if len(state.rows):
        state, _ = advance(listener, state, state.rows)
    settled = state.settled
    alternatives = []
    for labels, frames, log_prob in _hypotheses(listener, state):
        whole = (*settled.labels, *labels)
        text = text_of(whole, listener.spellings)
        alternatives.append((text, settled.log_prob + log_prob, whole, (*settled.frames, *frames)))
    first: dict[str, Alternative] = {}  # other labels may spell the same text
    for text, log_prob, _, _ in alternatives:
        first.setdefault(text, Alternative(text, log_prob))
    return Recognised(alternatives[0][2], alternatives[0][3], tuple(first.values()), state.frame_count)


def recognise(listener: Listener, samples: Samples) -> Recognised:
    """What is said in a whole recording."""
    state, chunk = start_stream(listener), _AT_ONCE * listener.features.sample_rate
    for start in range(0, len(samples), chunk):
        state, _ = step(listener, state, samples[start : start + chunk])
    return finish(listener, state)


def advance(
    listener: Listener, state: StreamState, rows: Float32[np.ndarray, "rows features"]
) -> tuple[StreamState, Float[np.ndarray, "frames joint"]]:
    """Encodes and decodes one piece: as many rows as the settings say, or fewer, the last of the stream.

    Returns:
      The state, and the encoded frames as the joint network takes them.

    """
    decoding, count = listener.decoding, len(rows)
    padded = np.zeros((decoding.rows, listener.features.dim), np.float32)
    padded[:count] = rows
    found = _piece(
        listener.model,
        decoding,
        listener.params,
        padded,
        np.int32(count),
        state.encoder,
        state.decoder,
    )
    encoder, decoder, said, sound, frames = jax.device_get(found)
    if said is None:
        new, decoder = _settle_beam(decoder, decoding)
    else:
        labels, at = (part[0, : said.counts[0]].tolist() for part in (said.labels, said.frames))
        new = Settled(tuple(labels), tuple(at), float(said.log_probs[0]))
    before = state.settled
    settled = Settled(before.labels + new.labels, before.frames + new.frames, before.log_prob + new.log_prob)
    frame_count = state.frame_count + int(frames)
    after = state._replace(encoder=encoder, decoder=decoder, settled=settled, frame_count=frame_count)
    return after, sound[: int(frames)]


@functools.partial(jax.jit, static_argnums=(0, 1))
def _start(model: Transducer, decoding: Decoding, params: Variables) -> tuple[States, Decoder]:
    rows = jnp.zeros((1, 2, model.config.features), jnp.float32)

    def encode(rows: Array) -> Any:
        return model.apply({"params": params}, rows, jnp.full(1, 2), method="encode")

    # LSTM layers start at zero.
    encoder = jax.tree.map(lambda leaf: jnp.zeros(leaf.shape, leaf.dtype), jax.eval_shape(encode, rows)[2])
    if decoding.beam:
        return encoder, start_beam(model, params, decoding.beam.width, decoding.doubts + decoding.most_labels)
    return encoder, start_greedy(model, params, 1, decoding.most_labels)


@functools.partial(jax.jit, static_argnums=(0, 1))
def _piece(
    model: Transducer,
    decoding: Decoding,
    params: Variables,
    rows: Float[Array, "rows features"],
    count: Int[Array, ""],
    encoder: States,
    decoder: Decoder,
) -> Any:
    """States after a piece, what greedy decoding said in it, its frames, and how many are real."""
    found: Any = model.apply({"params": params}, rows[None], count[None], encoder, method="encode")
    sound, frames, encoder = found
    if decoding.beam and isinstance(decoder, BeamState):
        decoder = beam_search(model, params, sound[0], frames[0], decoder, decoding.beam)
        return encoder, decoder, None, sound[0], frames[0]
    most = decoding.labels_per_frame
    after = greedy(model, params, sound, frames, cast(GreedyState, decoder), labels_per_frame=most)
    said, decoder = take_said(after)
    return encoder, decoder, said, sound[0], frames[0]


def _settle_beam(state: BeamState, decoding: Decoding) -> tuple[Settled, BeamState]:
    """Takes out what all hypotheses begin with, and the probability of the best."""
    beam: Any = state.beam  # of NumPy arrays
    live = np.isfinite(beam.log_probs)
    if beam.counts[live].max() > decoding.doubts:
        live &= np.arange(len(live)) == 0  # no room for doubts that are so long ago
    shortest = int(beam.counts[live].min())
    same = (beam.labels[live, :shortest] == beam.labels[0, :shortest]).all(0)
    common = int(np.argmin([*same, False]))
    best = float(beam.log_probs[0])
    labels, frames = (part[0, :common].tolist() for part in (beam.labels, beam.frames))
    left = beam._replace(
        labels=_shifted(beam.labels, common),
        frames=_shifted(beam.frames, common),
        counts=np.where(live, beam.counts - common, 0).astype(np.int32),
        log_probs=np.where(live, beam.log_probs - best, -np.inf).astype(np.float32),
    )
    return Settled(tuple(labels), tuple(frames), best), state._replace(beam=left)


def _shifted(rows: np.ndarray, count: int) -> np.ndarray:
    return np.concatenate([rows[:, count:], np.zeros_like(rows[:, :count])], axis=1)


def _hypotheses(
    listener: Listener, state: StreamState
) -> list[tuple[tuple[int, ...], tuple[int, ...], float]]:
    """Labels, frames and log-probability, beyond what is settled, of what may have been said; best first."""
    settings = listener.decoding.beam
    if not isinstance(state.decoder, BeamState) or settings is None:
        return [((), (), 0.0)]
    beam, found = state.decoder.beam, []
    places, _ = ranking(beam, settings.length_power, len(state.settled.labels))
    for place in np.asarray(places).tolist():
        if np.isfinite(beam.log_probs[place]):
            row = slice(0, int(beam.counts[place]))
            labels, frames = beam.labels[place, row].tolist(), beam.frames[place, row].tolist()
            found.append((tuple(labels), tuple(frames), float(beam.log_probs[place])))
    return found


def _heard(listener: Listener, state: StreamState) -> Heard:
    settled, spellings = state.settled, listener.spellings
    labels, frames, _ = _hypotheses(listener, state)[0]
    at = (*settled.frames, *frames)
    quiet = (state.frame_count - 1 - at[-1]) * listener.frame_seconds if at else 0.0
    return Heard(
        text=text_of((*settled.labels, *labels), spellings),
        stable=text_of(settled.labels, spellings),
        seconds=state.frame_count * listener.frame_seconds,
        ended=quiet >= listener.decoding.silence,
    )
