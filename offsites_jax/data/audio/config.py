"""How a waveform becomes log-mel features: one frozen record, equal for NumPy, JAX and streams."""

import dataclasses
from typing import Literal

from offsites_jax.errors import UserError


@dataclasses.dataclass(frozen=True)
class LogMelConfig:
    """Log-mel features of tensorflow/lingvo's `MelAsrFrontend`, with 128 channels and windows of 32 ms.

    Frame k covers samples [k step, k step + frame): no centring, no padding at the end. Pre-emphasis, a
    periodic Hann window, the spectrum, triangles, the logarithm of what exceeds the floor, then mean and
    standard deviation of each channel.

    Attributes:
      sample_rate: in Hz.
      window: samples of a windowed frame.
      step: samples between frames; at most `window`.
      fft: points of the transform; zeros fill up the window. Lingvo takes twice the next power of two.
      mels: channels.
      low_hz: lower end of the first triangle.
      high_hz: upper end of the last triangle.
      triangles: linear over "mel" (lingvo, Kaldi) or over "hertz" (librosa with `htk`, torchaudio).
      scale: waveforms in -1..1 are multiplied by it; 32768 counts in steps of 16-bit samples.
      preemphasis: share of the sample before that is taken off; a frame then is one sample longer.
      dither: standard deviation of the noise added where a random key is given, in scaled units.
      exponent: 1 takes the magnitude of the spectrum, 2 its power.
      floor: least value the logarithm is taken of, in scaled units.
      mean: of each channel over the training data; empty for none.
      std: likewise.
      stack: successive frames put side by side, oldest first; before the first frame lie copies of it.
      stride: every how many frames a stack ends.

    """

    sample_rate: int = 16_000
    window: int = 512
    step: int = 160
    fft: int = 1024
    mels: int = 128
    low_hz: float = 125.0
    high_hz: float = 7600.0
    triangles: Literal["mel", "hertz"] = "mel"
    scale: float = 32768.0
    preemphasis: float = 0.97
    dither: float = 8.0
    exponent: Literal[1, 2] = 1
    floor: float = 1.0
    mean: tuple[float, ...] = ()
    std: tuple[float, ...] = ()
    stack: int = 4
    stride: int = 3

    def __post_init__(self) -> None:
        for field, wrong, advice in (
            ("step", not 0 < self.step <= self.window, f"take 1 to window = {self.window}"),
            ("fft", self.fft < self.window or self.fft % 2, f"take an even number >= window = {self.window}"),
            ("low_hz", not 0 <= self.low_hz < self.high_hz, f"take 0 to below high_hz = {self.high_hz}"),
            ("high_hz", self.high_hz > self.sample_rate / 2, f"take at most {self.sample_rate / 2}"),
            ("floor", self.floor <= 0, "take a positive number"),
            ("stack", min(self.stack, self.stride) < 1, "take stack and stride of at least 1"),
            ("mean", len(self.mean) not in (0, self.mels), f"give none or {self.mels} values"),
            ("std", len(self.std) != len(self.mean), "give as many values as mean has"),
            ("std", any(value <= 0 for value in self.std), "give positive values"),
        ):
            if wrong:
                raise UserError(f"log-mel features: {field} = {getattr(self, field)} is impossible; {advice}")

    @property
    def frame(self) -> int:
        """Samples that a frame is made of."""
        return self.window + (1 if self.preemphasis else 0)

    @property
    def dim(self) -> int:
        """Columns of the stacked features."""
        return self.mels * self.stack

    def frame_count(self, samples: int) -> int:
        """Frames of a waveform, before stacking."""
        return max(0, 1 + (samples - self.frame) // self.step)

    def row_count(self, samples: int) -> int:
        """Rows of stacked features of a waveform."""
        return -(-self.frame_count(samples) // self.stride)


TELEPHONE = LogMelConfig(sample_rate=8000, window=256, step=80, fft=512, mels=64, high_hz=3800.0)
