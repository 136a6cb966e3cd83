"""The transducer: recurrent encoder with time reduction, recurrent predictor, joint network.

Eight layers of projected LSTM, two halves at two rates, as in He et al. 2019 ("Streaming end-to-end speech
recognition for mobile devices") and the personalised recognisers of Project Euphonia (Green et al. 2021).
"""

import dataclasses
from collections.abc import Mapping, Sequence

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax.typing import DTypeLike
from jaxtyping import Array, Float, Int

from offsites_jax.errors import UserError
from offsites_jax.nn.recurrent import LSTMSettings, LSTMState, ProjectedLSTM, reduce_time
from offsites_jax.nn.transducer import fused_transducer_loss

States = tuple[LSTMState, ...]  # of LSTM layers in a row


@dataclasses.dataclass(frozen=True)
class ModelConfig:
    """Section `model`. The defaults have 122,098,304 parameters, 98,697,216 of them in the encoder.

    Attributes:
      features: columns of the stacked log-mel rows.
      cells: of each LSTM layer.
      projection: what a layer hands on, and feeds back to itself.
      layers: of the encoder.
      reduce_after: layers at the first rate; then pairs of rows become one.
      embedding: columns of the predictor's table.
      predictor_layers: LSTM layers of the predictor.
      joint: width of the joint network.
      vocabulary: labels, the blank (0) counted.
      layer_norm: whether gates are normalised, each by itself.
      residual: whether layers of equal widths add their input; the published networks do not.
      cell_cap: largest magnitude of a cell; 0 for none.
      ctc: whether frames also have an output of their own, for an auxiliary loss; not exported.

    """

    features: int = 512
    cells: int = 2048
    projection: int = 640
    layers: int = 8
    reduce_after: int = 2
    embedding: int = 128
    predictor_layers: int = 2
    joint: int = 640
    vocabulary: int = 4096
    layer_norm: bool = True
    residual: bool = False
    cell_cap: float = 10.0
    ctc: bool = False

    def __post_init__(self) -> None:
        for field, value in dataclasses.asdict(self).items():
            least = {"vocabulary": 2, "reduce_after": 0, "cell_cap": 0}.get(field, 1)
            if not isinstance(value, bool) and value < least:
                raise UserError(f"config.model.{field}: is {value}, must be at least {least}")
        if self.reduce_after > self.layers:
            raise UserError(
                f"config.model.reduce_after: is {self.reduce_after}, must be at most layers = {self.layers}"
            )


VARIANTS: Mapping[str, ModelConfig] = {
    "rnnt_wp4096": ModelConfig(),
    "rnnt_grapheme76": ModelConfig(vocabulary=76),
    "he2019_wp4096": ModelConfig(features=320),
    "he2019_grapheme76": ModelConfig(features=320, vocabulary=76),
    "rnnt_small": ModelConfig(
        features=256,
        cells=256,
        projection=128,
        embedding=32,
        joint=128,
        vocabulary=32,
        residual=True,
    ),
}


class Transducer(nn.Module):
    """Scores of texts for sounds, and the pieces that decoding needs.

    Attributes:
      config: section `model`.
      dtype: of matrix products; states, norms and losses are float32.

    """

    config: ModelConfig
    dtype: DTypeLike = jnp.float32

    def setup(self) -> None:
        """Name the parts, and so their parameters."""
        self.encoder = Encoder(self.config, self.dtype)
        self.predictor = Predictor(self.config, self.dtype)
        self.joint = Joint(self.config, self.dtype)
        if self.config.ctc:
            self.ctc = Affine(self.config.projection, self.config.vocabulary, dtype=self.dtype)

    def __call__(
        self,
        rows: Float[Array, "batch rows features"],
        row_counts: Int[Array, " batch"],
        labels: Int[Array, "batch labels"],
        label_counts: Int[Array, " batch"],
        *,
        fastemit_lambda: float = 0.0,
    ) -> dict[str, Array]:
        """Losses of each utterance.

        Args:
            rows: stacked log-mel features.
            row_counts: real rows of each utterance, from 1 on.
            labels: what was said; anything after the count.
            label_counts: labels of each utterance, from 0 on.
            fastemit_lambda: see `fused_transducer_loss`.

        Returns:
            ``nll`` [batch]: negative log-likelihoods in nats; ``frame_counts`` [batch]; and, with an
            auxiliary output, ``ctc_logits`` [batch, frames, vocabulary].

        """
        encoded, frame_counts, _ = self.encoder(rows, row_counts)
        predicted, _ = self.predictor(labels)
        found = {"frame_counts": frame_counts}
        found["nll"] = fused_transducer_loss(
            self.joint.of_sound(encoded),
            self.joint.of_text(predicted),
            *self.joint.output(),
            labels,
            frame_counts,
            label_counts,
            fastemit_lambda=fastemit_lambda,
        )
        if self.config.ctc:
            found["ctc_logits"] = self.ctc(encoded).astype(jnp.float32)
        return found

    def encode(
        self,
        rows: Float[Array, "batch rows features"],
        row_counts: Int[Array, " batch"],
        states: States | None = None,
    ) -> tuple[Float[Array, "batch frames joint"], Int[Array, " batch"], States]:
        """Frames as the joint network takes them, how many are real, and the states after the last."""
        encoded, frame_counts, states = self.encoder(rows, row_counts, states)
        return self.joint.of_sound(encoded), frame_counts, states

    def predict_next(
        self, labels: Int[Array, " batch"], states: States | None
    ) -> tuple[Float[Array, "batch joint"], States]:
        """The text side of the joint network after one more label; after none without states."""
        if states is None:
            predicted, states = self.predictor(jnp.zeros((labels.shape[0], 0), jnp.int32))
        else:
            predicted, states = self.predictor.after(labels, states)
        return self.joint.of_text(predicted[:, 0]), states

    def scores(
        self, sound: Float[Array, "*batch joint"], text: Float[Array, "*batch joint"]
    ) -> Float[Array, "*batch vocabulary"]:
        """Log-probabilities of blank and labels."""
        return nn.log_softmax(self.joint(sound, text))


class Encoder(nn.Module):
    """LSTM layers ``layers_0`` …; after `reduce_after` of them, pairs of rows become one."""

    config: ModelConfig
    dtype: DTypeLike = jnp.float32

    def setup(self) -> None:
        """All layers."""
        self.layers = [_layer(self.config, self.dtype) for _ in range(self.config.layers)]

    def __call__(
        self,
        rows: Float[Array, "batch rows features"],
        row_counts: Int[Array, " batch"],
        states: States | None = None,
    ) -> tuple[Float[Array, "batch frames projection"], Int[Array, " batch"], States]:
        """Encode rows, going on from the states of a piece before (of an even number of rows)."""
        x, counts, after = rows, row_counts, []
        for index, layer in enumerate(self.layers):
            if index == self.config.reduce_after:
                x, counts = reduce_time(x, counts)
            real = jnp.arange(x.shape[1]) < counts[:, None]
            x, state = layer(x, real, states[index] if states else None)
            after.append(state)
        return x, counts, tuple(after)


class Predictor(nn.Module):
    """What has been said so far: an embedding of each label, then LSTM layers."""

    config: ModelConfig
    dtype: DTypeLike = jnp.float32

    def setup(self) -> None:
        """Table and layers."""
        shape = (self.config.vocabulary, self.config.embedding)
        self.embedding = self.param("embedding", nn.initializers.normal(0.1), shape, jnp.float32)
        self.layers = [_layer(self.config, self.dtype) for _ in range(self.config.predictor_layers)]

    def __call__(
        self, labels: Int[Array, "batch labels"]
    ) -> tuple[Float[Array, "batch labels+1 projection"], States]:
        """Outputs after 0, 1, … labels. The first input is zeros: the blank's row is never looked up."""
        embedded = jnp.pad(self._embedded(labels), ((0, 0), (1, 0), (0, 0)))
        return self._run(embedded, None)

    def after(
        self, labels: Int[Array, " batch"], states: States
    ) -> tuple[Float[Array, "batch 1 projection"], States]:
        """The output after one more label."""
        return self._run(self._embedded(labels[:, None]), states)

    def _embedded(self, labels: Array) -> Array:
        return jnp.take(self.embedding, jnp.maximum(labels, 1), axis=0)

    def _run(self, x: Array, states: States | None) -> tuple[Array, States]:
        after = []
        for index, layer in enumerate(self.layers):
            x, state = layer(x, state=states[index] if states else None)
            after.append(state)
        return x, tuple(after)


class Joint(nn.Module):
    """tanh(sound + text), then scores of blank and labels."""

    config: ModelConfig
    dtype: DTypeLike = jnp.float32

    def setup(self) -> None:
        """Projections of both sides, and the output."""
        config = self.config
        self.sound = Affine(config.projection, config.joint, use_bias=False, dtype=self.dtype)
        self.text = Affine(config.projection, config.joint, dtype=self.dtype)
        self.scores = Affine(config.joint, config.vocabulary, dtype=self.dtype)

    def of_sound(self, encoded: Float[Array, "*batch projection"]) -> Float[Array, "*batch joint"]:
        """The sound's side of the sum."""
        return self.sound(encoded)

    def of_text(self, predicted: Float[Array, "*batch projection"]) -> Float[Array, "*batch joint"]:
        """The text's side of the sum, bias included."""
        return self.text(predicted)

    def output(self) -> tuple[Float[Array, "joint vocabulary"], Float[Array, " vocabulary"]]:
        """Kernel and bias of the output."""
        return self.scores.kernel.astype(self.dtype), self.scores.bias

    def __call__(
        self, sound: Float[Array, "*batch joint"], text: Float[Array, "*batch joint"]
    ) -> Float[Array, "*batch vocabulary"]:
        """Logits, in float32."""
        return self.scores(jnp.tanh(sound + text)).astype(jnp.float32)


class Affine(nn.Module):
    """A dense layer whose weights can be had, initialised uniformly within 1 / sqrt(inputs)."""

    inputs: int
    outputs: int
    use_bias: bool = True
    dtype: DTypeLike = jnp.float32

    def setup(self) -> None:
        """Kernel and bias."""
        self.kernel = self.param(
            "kernel", _within(self.inputs**-0.5), (self.inputs, self.outputs), jnp.float32
        )
        if self.use_bias:
            self.bias = self.param("bias", nn.initializers.zeros, (self.outputs,), jnp.float32)

    def __call__(self, x: Float[Array, "*batch inputs"]) -> Float[Array, "*batch outputs"]:
        """Product in `dtype`, summed in float32 where the hardware does."""
        y = x.astype(self.dtype) @ self.kernel.astype(self.dtype)
        return y + self.bias.astype(self.dtype) if self.use_bias else y


def _layer(config: ModelConfig, dtype: DTypeLike) -> ProjectedLSTM:
    settings = LSTMSettings(
        cells=config.cells,
        projection=config.projection,
        layer_norm=config.layer_norm,
        residual=config.residual,
        cell_cap=config.cell_cap or None,
    )
    return ProjectedLSTM(settings, dtype)


def _within(bound: float) -> nn.initializers.Initializer:
    """Uniform between -bound and bound."""

    def draw(key: Array, shape: Sequence[int], dtype: DTypeLike = jnp.float32) -> Array:
        return jax.random.uniform(key, shape, dtype, -bound, bound)

    return draw
