"""SpecAugment (arXiv 1904.08779) without time warping, in JAX: before frames are stacked.

A mask put on stacked frames would cover each frame in some of its copies only.
"""

import dataclasses

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int, Key

from offsites_jax.errors import UserError

_ROUNDING = 1e-3  # so that a share of a length that comes out whole is not rounded down in float32


@dataclasses.dataclass(frozen=True)
class SpecAugmentPolicy:
    """How many channels and frames are masked.

    Widths are drawn uniformly from 0 to their maximum, then positions from all that fit.

    Attributes:
      frequency_masks: number of masks over channels.
      frequency_width: their maximum, in channels.
      time_masks: number of masks over frames, at most.
      time_masks_per_frame: with a value, no more than this times the length, rounded down.
      time_width: their maximum, in frames.
      time_width_share: their maximum as a share of the length; the smaller of the two counts.
      time_total_share: all masks over frames together, as a share of the length; later ones get shorter.

    """

    frequency_masks: int = 2
    frequency_width: int = 43
    time_masks: int = 2
    time_masks_per_frame: float | None = None
    time_width: int = 100
    time_width_share: float = 1.0
    time_total_share: float = 1.0

    def __post_init__(self) -> None:
        for field in ("time_width_share", "time_total_share"):
            if not 0 <= getattr(self, field) <= 1:
                raise UserError(f"SpecAugment: {field} = {getattr(self, field)} is no share; take 0 to 1")


# Like LibriSpeech double of the paper: 27 of 80 channels are 43 of 128.
TYPICAL = SpecAugmentPolicy()

# Slow, long phones and pauses make long utterances of few words: a mask of a second may delete the only one.
# Many short masks in proportion to the length still keep a model from resting on single steady phones.
DISORDERED = SpecAugmentPolicy(
    frequency_width=27,
    time_masks=8,
    time_masks_per_frame=0.02,
    time_width=1_000_000,
    time_width_share=0.04,
    time_total_share=0.2,
)

POLICIES = {"typical": TYPICAL, "disordered": DISORDERED}


def spec_augment(
    frames: Float[Array, "batch frames mels"],
    lengths: Int[Array, "batch"],
    indices: Int[Array, "batch"],
    key: Key[Array, ""],
    policy: SpecAugmentPolicy,
    value: Float[Array, "mels"] | float = 0.0,
) -> Float[Array, "batch frames mels"]:
    """Mask channels and frames of each example.

    What is masked follows from the key and the example's index alone, not from the batch around it or from
    how the batch is spread over devices. Frames beyond the length stay as they are.

    Args:
      frames: log-mel features, not stacked.
      lengths: real frames of each example.
      indices: of the examples in the whole training, so that a later epoch draws anew.
      key: one for the whole training.
      policy: see `SpecAugmentPolicy`.
      value: what is put under a mask: the mean of the features, which is 0 where they are normalised.

    """
    keys = jax.vmap(jax.random.fold_in, (None, 0))(key, indices)
    mask = jax.vmap(lambda length, key: _mask(frames.shape[1:], length, key, policy))(lengths, keys)
    return jnp.where(mask, jnp.asarray(value, frames.dtype), frames)


def _mask(
    shape: tuple[int, ...], length: Int[Array, ""], key: Key[Array, ""], policy: SpecAugmentPolicy
) -> Bool[Array, "frames mels"]:
    frames, mels = shape
    masks = policy.frequency_masks
    of_width, of_start = jax.random.uniform(key, (2, masks + policy.time_masks))
    widths = _draw(of_width[:masks], min(policy.frequency_width, mels))
    channels = _spans(widths, _draw(of_start[:masks], mels - widths), mels)
    widths = _time_widths(of_width[masks:], length, policy)
    times = _spans(widths, _draw(of_start[masks:], length - widths), frames)
    real = jnp.arange(frames) < length
    return (times[:, None] | channels) & real[:, None]


def _draw(uniform: Float[Array, "masks"], most: Int[Array, "*masks"] | int) -> Int[Array, "masks"]:
    """Whole numbers from 0 to `most`, equally likely."""
    return jnp.floor(uniform * (most + 1)).astype(jnp.int32)


def _time_widths(
    uniform: Float[Array, "masks"], length: Int[Array, ""], policy: SpecAugmentPolicy
) -> Int[Array, "masks"]:
    widest = jnp.minimum(policy.time_width, _share(policy.time_width_share, length))
    widths = _draw(uniform, widest)
    if policy.time_masks_per_frame is not None:
        count = _share(policy.time_masks_per_frame, length)
        widths = jnp.where(jnp.arange(policy.time_masks) < count, widths, 0)
    before = jnp.cumsum(widths) - widths
    return jnp.clip(_share(policy.time_total_share, length) - before, 0, widths)


def _share(share: float, length: Int[Array, ""]) -> Int[Array, ""]:
    return jnp.floor(share * length + _ROUNDING).astype(jnp.int32)


def _spans(widths: Int[Array, "masks"], starts: Int[Array, "masks"], size: int) -> Bool[Array, "size"]:
    """Whether each of `size` places lies in one of the spans."""
    place = jnp.arange(size)[:, None]
    return jnp.any((place >= starts) & (place < starts + widths), axis=1)
