"""Made-up speech for trying the whole: commands by a speech synthesiser, clear and made hard to understand.

A grammar of commands, spoken by many voices of eSpeak NG, is the typical speech that a base is trained on. A
"disordered" speaker is one croaky voice, slow, with pauses, tremor, dulled consonants and breath, all in
proportion to a severity. It is a machine for testing code. It is not, and must not be called, like a patient.
"""

import ctypes
import dataclasses
import functools
import itertools
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np
import scipy.signal
from etils import epath

from offsites_jax.data.audio.resample import resample
from offsites_jax.data.audio.wav import write_wav
from offsites_jax.errors import UserError
from offsites_jax.projects.euphonia.manifest import Utterance

RATE = 16_000
ACCENTS = (
    "en", "en-us", "en-us-nyc", "en-gb-scotland", "en-gb-x-rp", "en-gb-x-gbclan", "en-gb-x-gbcwmd", "en-029",
)  # fmt: skip
VOICES = ("m1", "m2", "m3", "m4", "m5", "m6", "m7", "m8", "f1", "f2", "f3", "f4", "f5")
VERBS = ("turn on", "turn off", "open", "close", "bring")
THINGS = ("light", "window", "radio", "door", "heater", "curtain")
PLACES = ("in here", "in the kitchen", "please")

_RETRIEVAL, _UTF8 = 1, 1
_PARAMETERS = {"rate": 1, "pitch": 3, "gap": 7}  # of espeak_PARAMETER


@dataclasses.dataclass(frozen=True)
class Voice:
    """How the synthesiser speaks.

    Attributes:
      name: a voice and a variant of eSpeak NG, as en-us+m3.
      rate: words a minute.
      pitch: 0 to 99.
      gap: pause between words, in units of 10 ms.

    """

    name: str
    rate: int
    pitch: int
    gap: int = 0


def phrases() -> list[str]:
    """All 90 commands."""
    return [f"{verb} the {thing} {place}" for verb, thing, place in itertools.product(VERBS, THINGS, PLACES)]


def synthesize(
    folder: epath.PathLike,
    *,
    typical: int = 1200,
    typical_test: int = 120,
    severities: Sequence[float] = (1.0,),
    personal: int = 300,
    personal_test: int = 30,
    held_out: int = 15,
    seed: int = 0,
    notify: Callable[[str], None] = lambda line: None,
) -> tuple[list[Utterance], dict[str, str]]:
    """Speaks a corpus into a folder.

    Args:
      folder: to write wav files to.
      typical: utterances of many voices to train on.
      typical_test: of other draws of the voices, on phrases that are held out.
      severities: one speaker each, from 0 (clear) to 1.
      personal: utterances of each to train on, a tenth of them for its dev part.
      personal_test: utterances of each on held-out phrases.
      held_out: phrases that nobody is trained on.
      seed: of texts, voices and what disorders them. The synthesiser has a flutter of its own, which is not
        quite the same twice.
      notify: told how far it is.

    Returns:
      The utterances, and the part of each.

    Raises:
      UserError: the synthesiser is not installed.

    """
    rng = np.random.default_rng(seed)
    shuffled = rng.permutation(phrases()).tolist()
    unheard, heard = shuffled[:held_out], shuffled[held_out:]
    plans: list[tuple[str, float | None, list[str], str, int]] = [
        ("typical", None, heard, "train", typical),
        ("typical", None, unheard, "test", typical_test),
    ]
    for number, level in enumerate(severities):
        name = f"speaker-{number + 1}"
        dev = personal // 10
        plans += [
            (name, level, heard, "train", personal - dev),
            (name, level, heard, "dev", dev),
            (name, level, unheard, "test", personal_test),
        ]
    plans.append(("typical", None, heard, "dev", max(1, typical // 20)))
    utterances, parts = [], {}
    for speaker, severity, texts, part, count in plans:
        notify(f"speaking {count} utterances of {speaker} for {part}")
        for index, (text, samples) in enumerate(_spoken(texts, severity, count, rng)):
            name = f"{speaker}-{part}-{index:04d}"
            write_wav(epath.Path(folder) / f"{name}.wav", samples, RATE)
            utterances.append(
                Utterance(
                    utt_id=name, speaker=speaker, audio=f"{name}.wav", text=text, domain="home_automation",
                    source="synthetic", sample_rate=RATE, duration_s=round(len(samples) / RATE, 3),
                )
            )  # fmt: skip
            parts[name] = part
    return utterances, parts


def disorder(samples: np.ndarray, severity: float, rng: np.random.Generator) -> np.ndarray:
    """Tremor, dulled consonants and breath, each in proportion to the severity; float32 in -1..1."""
    time = np.arange(len(samples)) / RATE
    tremor = 1 - 0.5 * severity * 0.5 * (1 + np.sin(2 * np.pi * (5.5 * time + rng.random())))
    dulled = scipy.signal.lfilter(*scipy.signal.butter(3, 1400, fs=RATE), samples)
    changed = tremor * ((1 - severity) * samples + severity * dulled)
    envelope = scipy.signal.lfilter(*scipy.signal.butter(1, 20, fs=RATE), np.abs(changed))
    breathy = changed + 0.3 * severity * envelope * rng.normal(size=len(samples))
    return (breathy / max(1.0, np.abs(breathy).max())).astype(np.float32)


def speak(text: str, voice: Voice) -> np.ndarray:
    """float32 samples of a text at `RATE`.

    Raises:
      UserError: the synthesiser is not installed, or has no such voice.

    """
    library = _library()
    if library.espeak_SetVoiceByName(voice.name.encode()) != 0:
        raise UserError(f"eSpeak NG has no voice {voice.name!r}")
    for field, parameter in _PARAMETERS.items():
        library.espeak_SetParameter(parameter, getattr(voice, field), 0)
    pieces = library.pieces
    pieces.clear()
    data = text.encode() + b"\0"
    library.espeak_Synth(data, len(data), 0, 0, 0, _UTF8, None, None)
    library.espeak_Synchronize()
    return resample(np.concatenate(pieces).astype(np.float32) / 32768, library.rate, RATE)


def _spoken(
    texts: Sequence[str], severity: float | None, count: int, rng: np.random.Generator
) -> Iterator[tuple[str, np.ndarray]]:
    for index in range(count):
        text = texts[index % len(texts)]
        if severity is None:
            name = f"{rng.choice(ACCENTS)}+{rng.choice(VOICES)}"
            voice = Voice(name, int(rng.integers(140, 211)), int(rng.integers(20, 81)))
            yield text, 0.5 * speak(text, voice)
        else:
            slow = round(170 - 85 * severity)
            voice = Voice("en-us+croak", slow, int(rng.integers(27, 34)), round(12 * severity))
            yield text, disorder(0.5 * speak(text, voice), severity, rng)


class _Synthesizer:
    """eSpeak NG, loaded once; what it says comes through a callback, in pieces of int16."""

    def __init__(self, library: Any, data: str) -> None:
        self._library = library
        self.pieces: list[np.ndarray] = []
        kind = ctypes.CFUNCTYPE(ctypes.c_int, ctypes.POINTER(ctypes.c_short), ctypes.c_int, ctypes.c_void_p)

        def hear(samples: Any, count: int, events: Any) -> int:
            if samples and count > 0:
                self.pieces.append(np.ctypeslib.as_array(samples, (count,)).copy())
            return 0

        self._hear = kind(hear)  # kept, since the library keeps only its address
        self.rate: int = library.espeak_Initialize(_RETRIEVAL, 0, data.encode(), 0)
        if self.rate <= 0:
            raise UserError(f"eSpeak NG does not start with its data in {data}; reinstall espeakng-loader")
        library.espeak_SetSynthCallback(self._hear)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._library, name)


@functools.cache
def _library() -> _Synthesizer:
    try:
        import espeakng_loader
    except ImportError:
        raise UserError("made-up speech needs eSpeak NG: pip install 'offsites-jax[speech]'") from None
    return _Synthesizer(ctypes.CDLL(espeakng_loader.get_library_path()), str(espeakng_loader.get_data_path()))
