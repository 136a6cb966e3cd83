"""One step of a stream as a pure function of arrays of fixed shapes, for devices without any of this code.

`stream` decodes on a host that may cut sound as it likes. Here all of it, the frontend too, is one program of
JAX, which `offsites export` ships like any other `predict`: sound and state in, labels and state out.

    waveform         int16 [batch, chunk]: the next piece of each stream
    sample_count     int32 [batch]: how many of its samples are real; fewer than all in the last piece only
    state_*          what the step before gave; zeros for a new stream

After the last piece one more, with a count of 0, gives the rest. Rows of a batch are streams of their own.
"""

import dataclasses
from collections.abc import Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax.typing import DTypeLike
from jaxtyping import Array, Bool, Float, Int

from offsites_jax.data.audio import LogMelConfig
from offsites_jax.data.audio.device import StreamState, lead_in, row_counts, stream
from offsites_jax.errors import UserError
from offsites_jax.nn.recurrent import LSTMState
from offsites_jax.projects.euphonia.decoding.greedy import GreedyState, greedy, start_greedy
from offsites_jax.projects.euphonia.model import States
from offsites_jax.projects.euphonia.transcription import NORMALIZATION, Transcribe
from offsites_jax.train.contract import Batch, Tree, Variables

STATE = "state_"  # what the names of the state's arrays begin with


class SessionState(NamedTuple):
    """What a stream remembers; zeros before it begins.

    Attributes:
      held: sound that waits, so that from then on each piece completes the same number of rows.
      samples: tail of the waveform, of the frontend.
      frames: of the frontend, that later rows stack.
      heard: samples so far.
      rows: of features that were encoded so far.
      encoder: states of its layers.
      text: the text side of the joint network for what was said.
      predictor: states that it came from.

    """

    held: Int[Array, "batch held"]
    samples: Float[Array, "batch tail"]
    frames: Float[Array, "batch history mels"]
    heard: Int[Array, " batch"]
    rows: Int[Array, " batch"]
    encoder: States
    text: Float[Array, "batch joint"]
    predictor: States


@dataclasses.dataclass(frozen=True)
class Session(Transcribe):
    """The same recogniser, whose `predict` takes streams one step further.

    Raises:
      UserError: a number of rows, or a frontend, that no stream can have.

    """

    def __post_init__(self) -> None:
        rows, features = self.config.stream_rows, self.data.features
        if rows < 2 or rows % 2:
            raise UserError(f"config.task.stream_rows: is {rows}, must be an even number from 2 on")
        lead = features.frame - row_samples(features)
        if not 0 <= lead < self.chunk:
            raise UserError(
                f"config.data.features.window: a frame of {features.frame} samples has no stream to export; "
                f"that takes {row_samples(features)} to {row_samples(features) + self.chunk - 1} samples"
            )

    @property
    def inputs(self) -> tuple[str, ...]:  # type: ignore[override]
        """Names of what one step takes."""
        return tuple(self.input_spec(1))

    def input_spec(self, batch_size: int) -> dict[str, jax.ShapeDtypeStruct]:
        """A piece of sound, how much of it is real, and the state."""
        return {
            "waveform": jax.ShapeDtypeStruct((batch_size, self.chunk), jnp.int16),
            "sample_count": jax.ShapeDtypeStruct((batch_size,), jnp.int32),
            **named(self.state_spec(batch_size)),
        }

    @property
    def chunk(self) -> int:
        """Samples of a piece."""
        return self.config.stream_rows * row_samples(self.data.features)

    @property
    def frames_per_step(self) -> int:
        """Of the encoder."""
        halved = self.model.config.reduce_after < self.model.config.layers
        return self.config.stream_rows // (2 if halved else 1)

    def predict(self, variables: Variables, batch: Batch) -> dict[str, Array]:
        """One step.

        Returns:
          ``hypothesis`` int32 [batch, most]: further labels, ``hypothesis_count``, ``hypothesis_frames``
          counted from the start of the stream, ``log_prob`` of this step's path, and the state.

        """
        state = unnamed(self.state_spec(batch["waveform"].shape[0]), batch)
        params = variables["params"]
        heard = state.heard + batch["sample_count"]
        fresh = self.begun(params, state)
        sound, rows, held = self.features(state, batch["waveform"])
        statistics = variables[NORMALIZATION]
        mean, std = (jnp.tile(statistics[name], self.data.features.stack) for name in ("mean", "std"))
        # The first piece only fills what is held back; the last has fewer rows than there is room for.
        ready = jnp.clip(row_counts(heard, self.data.features) - state.rows, 0, self.config.stream_rows)
        ready = jnp.where(state.heard == 0, 0, ready)
        found: Any = self.model.apply(
            {"params": params}, (rows - mean) / std, ready, state.encoder, method="encode"
        )
        encoded, counts, encoder = found
        most = self.config.labels_per_frame
        after = greedy(self.model, params, encoded, counts, fresh, labels_per_frame=most)
        frames_before = state.rows // (self.config.stream_rows // self.frames_per_step)
        real = jnp.arange(after.said.labels.shape[1]) < after.said.counts[:, None]
        new = SessionState(
            held, sound.samples, sound.frames, heard, state.rows + ready, encoder, after.text, after.predictor
        )
        return {
            "hypothesis": after.said.labels,
            "hypothesis_count": after.said.counts,
            "hypothesis_frames": jnp.where(real, after.said.frames + frames_before[:, None], 0),
            "log_prob": after.said.log_probs,
            **named(new),
        }

    def features(self, state: SessionState, piece: Array) -> tuple[StreamState, Array, Array]:
        """State of the frontend, stacked rows, not normalised, and the sound that is held back."""
        config = self.data.features
        ahead = jnp.concatenate([state.held, piece], axis=1)
        now = ahead[:, : self.chunk].astype(jnp.float32) / 32768
        before = StreamState(state.samples, state.frames, _wide(state.rows > 0))
        sound, rows = stream(before, now, config)
        return sound, rows, ahead[:, self.chunk :]

    def begun(self, params: Tree, state: SessionState) -> GreedyState:
        """The state of decoding: after nothing was said where a stream is new."""
        most = self.frames_per_step * self.config.labels_per_frame
        start = start_greedy(self.model, params, state.heard.shape[0], most)

        def chosen(new: Array, old: Array) -> Array:
            return jnp.where((state.heard == 0)[:, None], new, old)

        text, predictor = jax.tree.map(chosen, (start.text, start.predictor), (state.text, state.predictor))
        return start._replace(text=text, predictor=predictor)

    def state_spec(self, batch_size: int) -> SessionState:
        """Shapes and dtypes of the state."""
        config, features = self.model.config, self.data.features

        def of(dtype: DTypeLike, *shape: int) -> Any:
            return jax.ShapeDtypeStruct((batch_size, *shape), dtype)

        def layers(number: int) -> Any:
            one = LSTMState(of(jnp.float32, config.projection), of(jnp.float32, config.cells))
            return tuple(one for _ in range(number))

        lead = lead_in(features)
        return SessionState(
            held=of(jnp.int16, self.chunk - lead),
            samples=of(jnp.float32, lead + (features.stride - 1) * features.step),
            frames=of(jnp.float32, features.stack - 1, features.mels),
            heard=of(jnp.int32),
            rows=of(jnp.int32),
            encoder=layers(config.layers),
            text=of(jnp.float32, config.joint),
            predictor=layers(config.predictor_layers),
        )


def named(state: SessionState) -> dict[str, Any]:
    """The arrays of a state by flat name, such as ``state_encoder_0_cell``."""
    leaves = jax.tree_util.tree_leaves_with_path(state)
    return {STATE + jax.tree_util.keystr(path, simple=True, separator="_"): leaf for path, leaf in leaves}


def unnamed(spec: SessionState, arrays: Mapping[str, Array]) -> SessionState:
    """The inverse of `named`."""
    leaves = [arrays[name] for name in named(spec)]
    state: SessionState = jax.tree.unflatten(jax.tree.structure(spec), leaves)
    return state


def rows_of_seconds(seconds: float, features: LogMelConfig) -> int:
    """Rows of a step that takes about so much sound: the nearest even number, and at least 2.

    Raises:
      UserError: no such length.

    """
    if not 0 < seconds <= 60:
        raise UserError(f"--stream-seconds: is {seconds}, must be above 0 and at most 60")
    return max(2, 2 * round(seconds * features.sample_rate / row_samples(features) / 2))


def row_samples(features: LogMelConfig) -> int:
    """Samples from one row of stacked features to the next."""
    return features.stride * features.step


def _wide(flags: Bool[Array, " batch"]) -> Bool[Array, "batch 1 1"]:
    return flags[:, None, None]
