"""Recordings as they arrive: 16-bit WAV of one channel, checked before anything else is done with them."""

import dataclasses
import io
import math
import wave
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Float32

from offsites_jax.data.audio.quality import measure
from offsites_jax.data.audio.wav import check_wav
from offsites_jax.projects.euphonia.collect.verdict import Verdict, judge

RATES = (8000, 192000)  # lowest and highest, in Hz
LEAST_SECONDS = 0.032


class Audio(NamedTuple):
    """A checked recording.

    Attributes:
      samples: in -1..1.
      sample_rate: in Hz.

    """

    samples: Float32[np.ndarray, "samples"]
    sample_rate: int


class Heard(NamedTuple):
    """What was found out about a recording.

    Attributes:
      sample_rate: in Hz.
      seconds: length.
      quality: measures as JSON holds them.
      verdict: for the speaker.

    """

    sample_rate: int
    seconds: float
    quality: dict[str, Any]
    verdict: Verdict


def decode(data: bytes) -> Audio:
    """The samples of a WAV file as the page sends it.

    Raises:
      ValueError: anything else: another format, a header that promises more than is there, too short.

    """
    checked = check_wav(data)
    if checked.notes:
        raise ValueError(checked.notes[0])
    try:
        with wave.open(io.BytesIO(checked.data)) as stream:
            channels, width, rate, count, *_ = stream.getparams()
            content = stream.readframes(count)
    except (wave.Error, EOFError) as error:
        raise ValueError(f"is no PCM WAV file: {error}") from error
    if (channels, width) != (1, 2):
        raise ValueError(f"has {channels} channels of {8 * width} bits; one of 16 bits is wanted")
    if not RATES[0] <= rate <= RATES[1]:
        raise ValueError(f"has {rate} Hz; {RATES[0]} to {RATES[1]} are possible")
    samples = np.frombuffer(content, "<i2").astype(np.float32) / 32768
    if len(samples) < LEAST_SECONDS * rate:
        raise ValueError(f"is only {1000 * len(samples) / rate:.0f} ms long")
    return Audio(samples, rate)


def listen(audio: Audio, prompt: str) -> Heard:
    """Measure a recording, and judge it; `prompt` is what was read out, "" where that is not known."""
    quality = measure(audio.samples, audio.sample_rate, prompt)
    measures = {name: _strict(value) for name, value in dataclasses.asdict(quality).items()}
    return Heard(audio.sample_rate, quality.seconds, measures, judge(quality))


def _strict(value: Any) -> Any:
    """None for what JSON has no number for."""
    return None if isinstance(value, float) and not math.isfinite(value) else value
