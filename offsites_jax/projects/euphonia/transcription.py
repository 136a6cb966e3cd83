"""Speech to text by a transducer: base training, and personalising one speaker by freezing the rest.

The waveform enters; features, masking and stacking happen on the device. Mean and deviation of the features
are model state, so that a checkpoint brings its own.
"""

import dataclasses
import functools
from collections.abc import Mapping
from typing import Any, Literal

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jaxtyping import Array, Float, Int, PRNGKeyArray

from offsites_jax.data.audio import LogMelConfig
from offsites_jax.data.audio.device import frame_counts, log_mel, row_counts, stack_frames
from offsites_jax.data.audio.specaugment import DISORDERED, TYPICAL, SpecAugmentPolicy, spec_augment
from offsites_jax.errors import UserError
from offsites_jax.nn.transducer import Reduction, reduce_loss
from offsites_jax.projects.euphonia.decoding.greedy import Hypotheses, greedy, start_greedy
from offsites_jax.projects.euphonia.model import Transducer
from offsites_jax.projects.euphonia.prepared import FEATURES, read_features
from offsites_jax.projects.euphonia.utterances import DataConfig
from offsites_jax.train.contract import Batch, Loss, Mean, Objective, Task, Tree, Variables

NORMALIZATION = "normalization"  # model state: mean and deviation of every channel

POLICIES: dict[str, SpecAugmentPolicy | None] = {"none": None, "typical": TYPICAL, "disordered": DISORDERED}


@dataclasses.dataclass(frozen=True)
class TaskConfig:
    """Section `task`.

    Attributes:
      spec_augment: none; typical, as for LibriSpeech; disordered, whose masks follow the length.
      fastemit_lambda: scales gradients of labels up, so that a stream emits them earlier.
      text_side: whether the joint network takes in what has been said. Without, as a first stage, every label
        has to come from sound: none is guessed from the ones before it.
      ctc_weight: of the auxiliary loss on encoder frames; needs `model.ctc`.
      reduction: how the losses of utterances become one: mean, sum or per_label.
      dither: whether noise of a few steps of the 16-bit samples is added in training.
      variational_noise: standard deviation of noise on all parameters but biases and scales, in training.
      variational_noise_from: the step it starts at.
      labels_per_frame: most labels that one frame emits in decoding.
      members: speakers trained side by side, each with layers of its own; 0 for one model. Then
        `train.batch_size` is their number, and `utterances` is the batch of each.
      utterances: of each speaker, in a batch of members.
      personal_layers: lower encoder layers that each member owns.
      at_a_time: members that a device computes at once; 0 for all it has. Fewer take less memory, and each
        one's forward pass is then done twice.
      patience: evaluations without a better loss on `dev` after which a member stops.
      stream_rows: of features that `predict` takes a stream further, an even number, for export; 0 where it
        takes whole recordings.

    """

    spec_augment: Literal["none", "typical", "disordered"] = "typical"
    fastemit_lambda: float = 0.0
    text_side: bool = True
    ctc_weight: float = 0.0
    reduction: Reduction = "mean"
    dither: bool = True
    variational_noise: float = 0.0
    variational_noise_from: int = 20_000
    labels_per_frame: int = 10
    members: int = 0
    utterances: int = 16
    personal_layers: int = 5
    at_a_time: int = 0
    patience: int = 5
    stream_rows: int = 0

    def __post_init__(self) -> None:
        for name in ("fastemit_lambda", "ctc_weight", "variational_noise"):
            if not 0 <= getattr(self, name) < float("inf"):
                raise UserError(f"config.task.{name}: is {getattr(self, name)}, must be at least 0")
        for name in ("labels_per_frame", "utterances", "personal_layers", "patience"):
            if getattr(self, name) < 1:
                raise UserError(f"config.task.{name}: is {getattr(self, name)}, must be at least 1")


@dataclasses.dataclass(frozen=True)
class Transcribe(Task):
    """Waveforms to texts.

    Attributes:
      model: the network.
      config: section `task`.
      data: section `data`.

    """

    model: Transducer
    config: TaskConfig
    data: DataConfig

    inputs = ("waveform", "sample_count")
    scored = ("labels", "label_count", "real")  # the last where rows are speakers

    def init(self, rng: PRNGKeyArray, batch: Batch) -> Variables:
        """Fresh variables, with the feature statistics of the corpus where it is there."""
        rows = jnp.zeros((1, 2, self.model.config.features), jnp.float32)
        one = jnp.ones(1, jnp.int32)
        params = self.model.init(rng, rows, 2 * one, jnp.zeros((1, 1), jnp.int32), one)["params"]
        return {"params": params, NORMALIZATION: self.statistics()}

    def example(
        self, rng: np.random.Generator, spec: Mapping[str, jax.ShapeDtypeStruct]
    ) -> dict[str, np.ndarray]:
        """Noise, as long as there is room for in the first recording, and shorter in the others."""
        rows, samples = spec["waveform"].shape
        counts = samples - np.arange(rows) * (samples // (2 * rows))
        return {
            "waveform": rng.integers(-3000, 3000, (rows, samples), np.int16),
            "sample_count": counts.astype(np.int32),
        }

    @property
    def objectives(self) -> tuple[Objective, ...]:
        """One: the transducer's loss, perhaps with that of the frames."""
        return (Objective("transcribe", self.loss),)

    def loss(
        self, params: Tree, model_state: Tree, batch: Batch, rng: PRNGKeyArray, step: Int[Array, ""]
    ) -> Loss:
        """Negative log-likelihood of the labels, over the utterances of the batch."""
        keys = jax.vmap(jax.random.fold_in, (None, 0))(rng, jnp.arange(len(batch["waveform"])))
        if self.config.variational_noise:
            params = self.shaken(params, rng, step)
        terms = self.losses(params, model_state, batch, keys)
        found = {}
        for name, (losses, weight) in terms.items():
            total, count = reduce_loss(losses, batch["label_count"], reduction=self.config.reduction)
            found[name] = Mean(total * weight, count)
        return Loss(found, model_state, {"labels": Mean.of(batch["label_count"])})

    def losses(
        self, params: Tree, model_state: Tree, batch: Batch, keys: PRNGKeyArray
    ) -> dict[str, tuple[Float[Array, " batch"], float]]:
        """Losses of each utterance, by term, and what each term weighs; `keys` drive the augmentation."""
        rows, counts = self.rows(batch, model_state, keys)
        params = params if self.config.text_side else without_text(params)
        found: Any = self.model.apply(
            {"params": params},
            rows,
            counts,
            batch["labels"],
            batch["label_count"],
            fastemit_lambda=self.config.fastemit_lambda,
        )
        terms = {"nll": (found["nll"], 1.0)}
        if self.config.ctc_weight:
            terms["ctc"] = (ctc(found, batch), self.config.ctc_weight)
        return terms

    def rows(
        self, batch: Batch, model_state: Tree, keys: PRNGKeyArray | None = None
    ) -> tuple[Float[Array, "batch rows features"], Int[Array, " batch"]]:
        """Normalised and stacked features, and how many rows are real; masked where keys are given."""
        config, policy = self.data.features, POLICIES[self.config.spec_augment]
        dithers = keys if self.config.dither else None
        frames = log_mel(batch["waveform"].astype(jnp.float32) / 32768, config, dithers)
        frames = (frames - model_state[NORMALIZATION]["mean"]) / model_state[NORMALIZATION]["std"]
        real = frame_counts(batch["sample_count"], config)
        if keys is not None and policy is not None:
            mask = functools.partial(spec_augment, policy=policy)
            zero = jnp.zeros(1, jnp.int32)
            frames = jax.vmap(lambda f, n, key: mask(f[None], n[None], zero, key)[0])(frames, real, keys)
        return stack_frames(frames, config), row_counts(batch["sample_count"], config)

    def predict(self, variables: Variables, batch: Batch) -> dict[str, Array]:
        """Labels by greedy decoding; where the batch says what was said, also its loss.

        Returns:
          ``labels`` int32 [batch, most], ``label_counts``, ``label_frames``, ``log_probs``; ``nll`` if known.

        """
        rows, counts = self.rows(batch, variables)
        said = self.decode(variables["params"], rows, counts)
        found = {
            "hypothesis": said.labels,
            "hypothesis_count": said.counts,
            "hypothesis_frames": said.frames,
            "log_prob": said.log_probs,
        }
        if "labels" in batch:
            truth = batch["labels"], batch["label_count"]
            losses: Any = self.model.apply({"params": variables["params"]}, rows, counts, *truth)
            found["nll"] = losses["nll"]
        return found

    def decode(self, params: Tree, rows: Array, counts: Array) -> Hypotheses:
        """Greedy hypotheses for stacked features."""
        encoded: Any = self.model.apply({"params": params}, rows, counts, method="encode")
        sound, frames, _ = encoded
        start = start_greedy(self.model, params, rows.shape[0], self.data.max_labels)
        most = self.config.labels_per_frame
        return greedy(self.model, params, sound, frames, start, labels_per_frame=most).said

    def batch_spec(self, batch_size: int) -> dict[str, jax.ShapeDtypeStruct]:
        """Padded waveforms and labels, and how long each is."""
        shapes = {
            "waveform": ((self.data.max_samples,), jnp.int16),
            "sample_count": ((), jnp.int32),
            "labels": ((self.data.max_labels,), jnp.int32),
            "label_count": ((), jnp.int32),
        }
        return {name: jax.ShapeDtypeStruct((batch_size, *s), t) for name, (s, t) in shapes.items()}

    def statistics(self) -> dict[str, Float[Array, " mels"]]:
        """Mean and deviation of the corpus's features.

        Without the corpus, as when a checkpoint is restored elsewhere, only their shapes count.
        """
        found = corpus_features(self.data)
        mels = self.data.features.mels
        mean, std = (found.mean, found.std) if found else (np.zeros(mels), np.ones(mels))
        return {"mean": jnp.asarray(mean, jnp.float32), "std": jnp.asarray(std, jnp.float32)}

    def shaken(self, params: Tree, rng: PRNGKeyArray, step: Int[Array, ""]) -> Tree:
        """Parameters with noise on every matrix, from `variational_noise_from` on (tensorflow/lingvo)."""
        scale = self.config.variational_noise * (step >= self.config.variational_noise_from)
        leaves, tree = jax.tree.flatten(params)
        keys = jax.random.split(jax.random.fold_in(rng, 2**31 - 1), len(leaves))
        noisy = [
            leaf + scale * jax.random.normal(key, leaf.shape) if leaf.ndim > 1 else leaf
            for key, leaf in zip(keys, leaves, strict=True)
        ]
        return jax.tree.unflatten(tree, noisy)


def without_text(params: Tree) -> Tree:
    """Parameters of the same network, but for a joint network that adds nothing of the text to the sound."""
    joint = params["joint"]
    return {**params, "joint": {**joint, "text": jax.tree.map(jnp.zeros_like, joint["text"])}}


def ctc(found: dict[str, Array], batch: Batch) -> Float[Array, " batch"]:
    """Loss of the labels by frames alone (Graves et al. 2006); 0 where frames are too few for them."""
    logits, labels = found["ctc_logits"], batch["labels"]
    after = jnp.arange(logits.shape[1]) >= found["frame_counts"][:, None]
    beyond = jnp.arange(labels.shape[1]) >= batch["label_count"][:, None]
    losses = optax.ctc_loss(logits, after.astype(jnp.float32), labels, beyond.astype(jnp.float32))
    return jnp.where(losses < 1e4, losses, 0.0)


def corpus_features(data: DataConfig) -> LogMelConfig | None:
    """The frontend of the corpus with its statistics, or None where it is not there."""
    from etils import epath

    if not data.path or not (epath.Path(data.path) / FEATURES).exists():
        return None
    return read_features(data.path)
