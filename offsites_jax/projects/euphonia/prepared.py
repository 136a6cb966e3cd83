"""A corpus made ready for training: one folder with waveforms, texts, splits, tokenizer and features.

    utterances.array_record   {"utt_id", "speaker", "text", "pcm"}: 16-bit samples at one rate
    index.json                one entry for each, in the same order, and what was left out
    features.json             the frontend, with mean and deviation of every channel over the training part
    graphemes.json            or pieces.model: the tokenizer

Recordings are decoded and resampled once, so that training never waits for a codec.
"""

import dataclasses
import functools
import json
import os
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any, Literal, NamedTuple

import msgspec
import numpy as np
from etils import epath

from offsites_jax.data.atomic import write_atomically
from offsites_jax.data.audio import LogMelConfig, log_mel
from offsites_jax.data.audio.read import read_audio
from offsites_jax.data.source import ArrayRecordSource, Record, write_array_record
from offsites_jax.data.text.graphemes import GraphemeTokenizer, train_graphemes
from offsites_jax.data.text.normalise import normalise
from offsites_jax.data.text.pieces import PieceTokenizer, train_pieces
from offsites_jax.data.text.vocabulary import Tokenizer
from offsites_jax.errors import DamagedDataError, UserError
from offsites_jax.projects.euphonia.manifest import Utterance

RECORDS, INDEX, FEATURES = "utterances.array_record", "index.json", "features.json"
GRAPHEMES, PIECES = "graphemes.json", "pieces.model"

Names = Mapping[str, str]
PieceKind = Literal["unigram", "bpe"]


class Entry(NamedTuple):
    """What the index says of an utterance.

    Attributes:
      utt_id: its name.
      speaker: who said it.
      split: train, dev or test.
      samples: its length.
      text: normalised.

    """

    utt_id: str
    speaker: str
    split: str
    samples: int
    text: str


class Rejected(NamedTuple):
    """An utterance that was left out, and why."""

    utt_id: str
    reason: str


@dataclasses.dataclass(frozen=True)
class Prepared:
    """A folder written by `prepare`.

    Attributes:
      folder: where it is.
      entries: of its utterances, in the order of the records.
      features: the frontend, with mean and deviation.
      tokenizer: of its texts.
      rejected: what was left out.

    """

    folder: epath.Path
    entries: tuple[Entry, ...]
    features: LogMelConfig
    tokenizer: Tokenizer
    rejected: tuple[Rejected, ...]

    def speakers(self) -> tuple[str, ...]:
        """Names of the speakers, sorted."""
        return tuple(sorted({entry.speaker for entry in self.entries}))


def prepare(
    utterances: Iterable[Utterance],
    root: epath.PathLike,
    output: epath.PathLike,
    *,
    splits: Names,
    tokenizer: Tokenizer | Callable[[Sequence[str]], Tokenizer],
    features: LogMelConfig,
    max_seconds: float = 30.0,
    notify: Callable[[str], None] = lambda line: None,
) -> Prepared:
    """Decodes, resamples and writes a corpus; what cannot be used is left out and listed.

    Args:
      utterances: of the manifest.
      root: folder that recordings are relative to.
      output: folder to write; must not hold a prepared corpus yet.
      splits: train, dev or test by utterance; one that is not named is left out.
      tokenizer: one there is, or a function that trains one on the texts of the training part.
      features: the frontend; with mean and deviation those are kept, without they are measured.
      max_seconds: longer utterances are left out, never cut.
      notify: told how far it is, as one line.

    Raises:
      UserError: nothing is left, or the folder is taken.

    """
    folder = epath.Path(output)
    if (folder / INDEX).exists():
        raise UserError(f"{folder}: holds a prepared corpus already; name another --output")
    folder.mkdir(parents=True, exist_ok=True)
    entries: list[Entry] = []
    rejected: list[Rejected] = []
    frames = _Frames(features.mels)

    def records() -> Iterator[Record]:
        for utterance in utterances:
            try:
                entry, pcm = _read(utterance, epath.Path(root), splits, features, max_seconds)
            except (DamagedDataError, UserError) as error:
                rejected.append(Rejected(utterance.utt_id, str(error)))
                continue
            if entry.split == "train" and not features.mean:
                frames.add(log_mel(pcm, features))
            entries.append(entry)
            if len(entries) % 1000 == 0:
                notify(f"{len(entries)} utterances")
            yield {
                "utt_id": entry.utt_id,
                "speaker": entry.speaker,
                "text": entry.text,
                "pcm": pcm.astype("<i2").tobytes(),
            }

    write_array_record(folder / RECORDS, records())
    if not entries:
        first = f"; the first: {rejected[0].utt_id}: {rejected[0].reason}" if rejected else ""
        raise UserError(f"{folder}: none of {len(rejected)} utterances can be used{first}")
    texts = [entry.text for entry in entries if entry.split == "train"]
    made = tokenizer(texts) if callable(tokenizer) else tokenizer
    if not features.mean:
        mean, std = frames.statistics()
        features = dataclasses.replace(features, mean=mean, std=std)
    save_tokenizer(made, folder)
    _write_json(folder / FEATURES, dataclasses.asdict(features))
    # Last, since a folder without an index is not a corpus.
    content = {"utterances": [e._asdict() for e in entries], "rejected": [r._asdict() for r in rejected]}
    _write_json(folder / INDEX, content)
    return Prepared(folder, tuple(entries), features, made, tuple(rejected))


def read_prepared(path: epath.PathLike) -> Prepared:
    """The corpus in a folder.

    Raises:
      UserError: there is none.
      DamagedDataError: a file of it is damaged.

    """
    folder = epath.Path(path)
    if not (folder / INDEX).exists():
        raise UserError(f"{folder}: no prepared corpus; make one with `offsites euphonia prepare`")
    content = _read_json(folder / INDEX)
    try:
        return Prepared(
            folder,
            tuple(Entry(**entry) for entry in content["utterances"]),
            read_features(folder),
            read_tokenizer(folder),
            tuple(Rejected(**one) for one in content["rejected"]),
        )
    except (KeyError, TypeError) as error:
        raise DamagedDataError(f"{folder / INDEX}: no index ({error}); prepare the corpus again") from error


def read_features(folder: epath.PathLike) -> LogMelConfig:
    """The frontend of a prepared corpus, with mean and deviation of its training part."""
    file = epath.Path(folder) / FEATURES
    try:
        return msgspec.convert(_read_json(file), LogMelConfig)
    except msgspec.ValidationError as error:
        raise DamagedDataError(f"{file}: not a frontend ({error}); prepare the corpus again") from error


def read_tokenizer(folder: epath.PathLike) -> Tokenizer:
    """The tokenizer in a folder: of a prepared corpus, or of a merged run.

    Raises:
      UserError: there is none.

    """
    path = epath.Path(folder)
    if (path / PIECES).exists():
        return PieceTokenizer.load(path / PIECES)
    if (path / GRAPHEMES).exists():
        return GraphemeTokenizer.load(path / GRAPHEMES)
    raise UserError(f"{path}: has neither {GRAPHEMES} nor {PIECES}; give the folder of a prepared corpus")


def has_tokenizer(folder: epath.PathLike) -> bool:
    """Whether `read_tokenizer` finds one there."""
    return any((epath.Path(folder) / name).exists() for name in (GRAPHEMES, PIECES))


def tokenizer_for(
    *, like: str = "", pieces: int = 0, kind: PieceKind = "unigram", characters: bool = False
) -> Tokenizer | Callable[[Sequence[str]], Tokenizer]:
    """What `prepare` takes: the tokenizer of a corpus, a way to train one, or that of English characters."""
    if like:
        return read_tokenizer(like)
    if pieces:
        return functools.partial(train_pieces, size=pieces, kind=kind)
    return train_graphemes if characters else GraphemeTokenizer()


def describe(prepared: Prepared) -> str:
    """A corpus in one line."""
    parts = ("train", "dev", "test")
    counts = ", ".join(f"{sum(e.split == part for e in prepared.entries)} {part}" for part in parts)
    hours = sum(entry.samples for entry in prepared.entries) / prepared.features.sample_rate / 3600
    return (
        f"{prepared.folder}: {len(prepared.entries)} utterances ({counts}) of {len(prepared.speakers())} "
        f"speakers, {hours:.2f} hours; vocabulary {prepared.tokenizer.size}, "
        f"{len(prepared.rejected)} left out"
    )


def open_records(prepared: Prepared) -> ArrayRecordSource:
    """Random access to the utterances."""
    return ArrayRecordSource(os.fspath(prepared.folder / RECORDS))


def samples_of(record: Record) -> np.ndarray:
    """int16 samples of a record.

    Raises:
      DamagedDataError: the record holds none.

    """
    pcm = record.get("pcm")
    if not isinstance(pcm, bytes) or not pcm or len(pcm) % 2:
        raise DamagedDataError("holds no 16-bit samples; prepare the corpus again")
    return np.frombuffer(pcm, "<i2")


def save_tokenizer(tokenizer: Tokenizer, folder: epath.Path) -> None:
    """Writes it under the name that `read_tokenizer` looks for."""
    tokenizer.save(os.fspath(folder / (PIECES if isinstance(tokenizer, PieceTokenizer) else GRAPHEMES)))


class _Frames:
    """Sums over frames, for mean and deviation of each channel."""

    def __init__(self, mels: int) -> None:
        self._count = 0
        self._sum, self._squares = np.zeros(mels), np.zeros(mels)

    def add(self, frames: np.ndarray) -> None:
        self._count += len(frames)
        self._sum += frames.sum(0, dtype=np.float64)
        self._squares += np.square(frames, dtype=np.float64).sum(0)

    def statistics(self) -> tuple[tuple[float, ...], tuple[float, ...]]:
        if not self._count:
            raise UserError("none of the utterances is in the training part; features cannot be measured")
        mean = self._sum / self._count
        std = np.sqrt(np.maximum(self._squares / self._count - mean**2, 1e-12))
        return tuple(mean.tolist()), tuple(np.maximum(std, 1e-3).tolist())


def _read(
    utterance: Utterance, root: epath.Path, splits: Names, features: LogMelConfig, max_seconds: float
) -> tuple[Entry, np.ndarray]:
    """The index entry and int16 samples of an utterance."""
    split = splits.get(utterance.utt_id)
    if split is None:
        raise UserError("in no part of the split")
    text = normalise(utterance.text)
    if not text:
        raise UserError("nothing is left of its text")
    recording = read_audio(root / utterance.audio, sample_rate=features.sample_rate)
    start = round((utterance.start or 0.0) * features.sample_rate)
    end = None if utterance.end is None else round(utterance.end * features.sample_rate)
    samples = recording.samples[start:end]
    seconds = len(samples) / features.sample_rate
    if seconds > max_seconds:
        raise UserError(f"{seconds:.1f} s long, more than {max_seconds:g} s")
    if len(samples) < features.frame:
        raise UserError(f"{seconds:.3f} s long, less than one frame")
    pcm = np.clip(np.rint(samples * 32768), -32768, 32767).astype(np.int16)
    return Entry(utterance.utt_id, utterance.speaker, split, len(pcm), text), pcm


def _write_json(file: epath.Path, content: Any) -> None:
    write_atomically(file, json.dumps(content, ensure_ascii=False, indent=1).encode() + b"\n")


def _read_json(file: epath.Path) -> Any:
    try:
        return json.loads(file.read_text())
    except FileNotFoundError:
        raise UserError(f"{file}: missing; prepare the corpus again") from None
    except (OSError, ValueError) as error:
        raise DamagedDataError(f"{file}: cannot be read ({error}); prepare the corpus again") from error
