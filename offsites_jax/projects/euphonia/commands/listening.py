"""What commands that listen have in common."""

import sys
from typing import TYPE_CHECKING

import numpy as np

from offsites_jax.train.steps import step_of

if TYPE_CHECKING:
    from offsites_jax.projects.euphonia.decoding.listener import Listener

_MOST_BYTES = 2**33


def open_listener(
    workdir: str,
    speaker: str,
    tokenizer: str,
    step: str,
    *,
    rows: int,
    beam: int = 0,
    length_power: float = 0.0,
) -> "Listener":
    """A trained recogniser that is ready to listen: its program is compiled."""
    from offsites_jax.parallel.start import start

    start()

    from offsites_jax.projects.euphonia.decoding.listener import create_listener
    from offsites_jax.projects.euphonia.decoding.stream import recognise
    from offsites_jax.projects.euphonia.loading import load

    trained = load(workdir, speaker, step_of(step))
    listener = create_listener(trained, tokenizer=tokenizer, rows=rows, beam=beam, length_power=length_power)
    recognise(listener, np.zeros(listener.features.sample_rate, np.int16))  # compiles, before anyone speaks
    return listener


def read_samples(file: str, rate: int, max_seconds: float) -> np.ndarray:
    """int16 samples, as training has them; what is odd about the file goes to standard error."""
    from offsites_jax.data.audio.read import read_audio

    recording = read_audio(file, sample_rate=rate, max_seconds=max_seconds, max_bytes=_MOST_BYTES)
    for note in recording.notes:
        print(f"offsites: {file}: {note}", file=sys.stderr)
    return np.clip(np.rint(recording.samples * 32768), -32768, 32767).astype(np.int16)
