"""Speech with its text: how an utterance of a prepared corpus becomes an example.

An example is `waveform` int16 [samples], `sample_count` int32, `labels` int32 [labels] and `label_count`
int32, padded with zeros; features are made of the waveform on the device, so that what is exported takes
sound. At evaluation `index` int32 says which entry of the prepared corpus it is.
"""

import dataclasses
import hashlib
from collections.abc import Sequence

import numpy as np

from offsites_jax.data.audio import LogMelConfig
from offsites_jax.data.audio.noise import pink_noise
from offsites_jax.data.audio.read import decode_audio
from offsites_jax.data.audio.waveform import WaveformPolicy, augment
from offsites_jax.data.pipeline import Example, Loading
from offsites_jax.data.source import Record
from offsites_jax.data.text.vocabulary import Tokenizer
from offsites_jax.errors import DamagedDataError, UserError
from offsites_jax.projects.euphonia.prepared import Prepared, open_records, read_prepared, samples_of


@dataclasses.dataclass(frozen=True)
class DataConfig:
    """Section `data`.

    Attributes:
      path: folder that `offsites euphonia prepare` wrote.
      speaker: read this one's utterances only; all unless given.
      speakers: of a cohort that is personalised together: these, in this order; all unless given.
      train_utterances: of a cohort: so many training utterances of each of `speakers` only, 0 for all. One
        may then come several times, as members NAME-10 and NAME that learn from 10 and from all.
      max_seconds: longest utterance; the corpus must hold none that is longer.
      max_labels: most labels of an utterance, likewise.
      features: the frontend; must be that of the corpus, whose mean and deviation are used.
      waveform: what happens to a waveform in training, if anything.
      augment_waveform: whether `waveform` applies.
      train_split: part that training reads.
      loading: workers, prefetch, what to do about a bad record.

    """

    path: str = ""
    speaker: str = ""
    speakers: tuple[str, ...] = ()
    train_utterances: tuple[int, ...] = ()
    max_seconds: float = 15.0
    max_labels: int = 96
    features: LogMelConfig = LogMelConfig()
    waveform: WaveformPolicy = WaveformPolicy()
    augment_waveform: bool = False
    train_split: str = "train"
    loading: Loading = Loading()

    def __post_init__(self) -> None:
        if not self.max_seconds > 0 or self.max_labels < 1:
            raise UserError("config.data: max_seconds and max_labels must be above 0")
        if self.features.mean:
            raise UserError("config.data.features.mean: comes from the prepared corpus; leave it out")

    @property
    def max_samples(self) -> int:
        """Samples that every waveform is padded to."""
        return round(self.max_seconds * self.features.sample_rate)


def open_prepared(config: DataConfig, vocabulary: int) -> Prepared:
    """The corpus of a section `data`, checked against frontend and vocabulary.

    Raises:
      UserError: they differ.

    """
    if not config.path:
        raise UserError("config.data.path: give the folder that `offsites euphonia prepare` wrote")
    prepared = read_prepared(config.path)
    made_with = dataclasses.replace(prepared.features, mean=(), std=())
    if made_with != config.features:
        wrong = next(
            field.name
            for field in dataclasses.fields(made_with)
            if getattr(made_with, field.name) != getattr(config.features, field.name)
        )
        raise UserError(
            f"config.data.features.{wrong}: is {getattr(config.features, wrong)}, but {config.path} was "
            f"prepared with {getattr(made_with, wrong)}"
        )
    if prepared.tokenizer.size != vocabulary:
        raise UserError(
            f"config.model.vocabulary: is {vocabulary}, but the tokenizer of {config.path} has "
            f"{prepared.tokenizer.size} labels, the blank counted"
        )
    return prepared


def check_lengths(prepared: Prepared, rows: Sequence[int], config: DataConfig) -> None:
    """Raises UserError when an utterance is longer than the batch has room for."""
    for row in rows:
        entry = prepared.entries[row]
        if entry.samples > config.max_samples:
            seconds = entry.samples / config.features.sample_rate
            raise UserError(
                f"config.data.max_seconds: is {config.max_seconds:g}, but {entry.utt_id} takes {seconds:.2f} "
                "s; raise it, or prepare the corpus with a smaller --max-seconds"
            )
        labels = len(prepared.tokenizer.encode(entry.text))
        if labels > config.max_labels:
            raise UserError(
                f"config.data.max_labels: is {config.max_labels}, but {entry.utt_id} has {labels} labels; "
                "raise it"
            )


class Chosen:
    """Some of the utterances of a prepared corpus, with their place in it."""

    def __init__(self, prepared: Prepared, rows: Sequence[int]) -> None:
        self._prepared, self._rows = prepared, list(rows)
        self._records = open_records(prepared)

    def __reduce__(self) -> tuple[type["Chosen"], tuple[Prepared, list[int]]]:
        return Chosen, (self._prepared, self._rows)  # a worker process opens the file anew

    def __len__(self) -> int:
        return len(self._rows)

    def __getitem__(self, index: int) -> Record:
        row = self._rows[index]
        return {**self._records[row], "index": row}

    def describe(self, index: int) -> str:
        """Where record `index` is; not who says what."""
        return self._records.describe(self._rows[index])

    def fingerprint(self) -> str:
        """That of the file, and which rows."""
        return f"{self._records.fingerprint()} {hash_rows(self._rows)}"


def hash_rows(rows: Sequence[int]) -> str:
    """A short digest of row numbers."""
    return hashlib.sha256(np.asarray(rows, "<i8").tobytes()).hexdigest()[:16]


def example(
    record: Record,
    rng: np.random.Generator | None,
    *,
    tokenizer: Tokenizer,
    config: DataConfig,
    train: bool,
) -> Example:
    """One utterance, padded; its waveform changed in training where asked for."""
    samples = samples_of(record)
    if train and rng is not None and config.augment_waveform:
        samples = augmented(samples, rng, config)
    found = padded(samples, tokenizer.encode(record["text"]), config)
    return found if train else {**found, "index": np.asarray(record["index"], np.int32)}


def augmented(samples: np.ndarray, rng: np.random.Generator, config: DataConfig) -> np.ndarray:
    """int16 samples after the waveform policy, with pink noise."""
    speech = samples.astype(np.float32) / 32768
    changed = augment(speech, config.features.sample_rate, rng, config.waveform, pink_noise)
    return np.clip(np.rint(changed * 32768), -32768, 32767).astype(np.int16)


def padded(samples: np.ndarray, labels: Sequence[int], config: DataConfig) -> Example:
    """The arrays of an example."""
    waveform, row = np.zeros(config.max_samples, np.int16), np.zeros(config.max_labels, np.int32)
    waveform[: len(samples)] = samples
    row[: len(labels)] = labels
    return {
        "waveform": waveform,
        "sample_count": np.asarray(len(samples), np.int32),
        "labels": row,
        "label_count": np.asarray(len(labels), np.int32),
    }


def example_of_file(record: Record, rng: np.random.Generator | None = None, *, config: DataConfig) -> Example:
    """A recording as prediction takes it.

    Raises:
      DamagedDataError: unreadable, or longer than `max_seconds`.

    """
    rate = config.features.sample_rate
    recording = decode_audio(record["content"], record["path"], sample_rate=rate)
    if len(recording.samples) > config.max_samples:
        raise DamagedDataError(
            f"{recording.seconds:.1f} s long, more than the {config.max_seconds:g} s this model takes at "
            "once; use `offsites euphonia transcribe`, which takes any length"
        )
    pcm = np.clip(np.rint(recording.samples * 32768), -32768, 32767).astype(np.int16)
    found = padded(pcm, (), config)
    return {name: found[name] for name in ("waveform", "sample_count")}
