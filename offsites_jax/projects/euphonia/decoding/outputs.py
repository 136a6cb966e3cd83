"""What was recognised, as files: JSON lines, the formats of NIST's sclite, subtitles."""

import html
import json
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, NamedTuple

from etils import epath

from offsites_jax.data.atomic import write_atomically
from offsites_jax.projects.euphonia.decoding.listener import Listener
from offsites_jax.projects.euphonia.decoding.stream import Alternative, Recognised
from offsites_jax.projects.euphonia.decoding.words import Caption, Word, captions_of, words_of


class Transcript(NamedTuple):
    """One recording in words.

    Attributes:
      utt: name of the recording.
      speaker: whose model was used, "" for the base.
      words: of the best text, with times.
      captions: the same words, as they are shown.
      alternatives: texts, the best first.
      rtf: seconds of computing for each second of sound.

    """

    utt: str
    speaker: str
    words: tuple[Word, ...]
    captions: tuple[Caption, ...]
    alternatives: tuple[Alternative, ...]
    rtf: float

    @property
    def text(self) -> str:
        """The best."""
        return self.alternatives[0].text


def transcript_of(
    found: Recognised, listener: Listener, *, utt: str, speaker: str = "", rtf: float = 0.0
) -> Transcript:
    """What was recognised, with the times of its words."""
    words = words_of(found.labels, found.frames, listener.spellings, listener.frame_seconds)
    captions = captions_of(words, listener.decoding.silence)
    return Transcript(utt, speaker, words, captions, found.alternatives, rtf)


def row_of(transcript: Transcript) -> dict[str, Any]:
    """A line of `hyp.jsonl`."""
    return {
        "utt": transcript.utt,
        "speaker": transcript.speaker,
        "text": transcript.text,
        "logp": transcript.alternatives[0].log_prob,
        "nbest": [{"text": one.text, "logp": one.log_prob} for one in transcript.alternatives],
        "words": [{"w": word.text, "start": word.start, "end": word.end} for word in transcript.words],
        "rtf": round(transcript.rtf, 4),
    }


def write_outputs(
    folder: epath.PathLike,
    transcripts: Sequence[Transcript],
    references: Mapping[str, str] | None = None,
    rejected: Sequence[Mapping[str, str]] = (),
) -> None:
    """Writes `hyp.jsonl`, `hyp.trn`, `hyp.ctm`, and `<utt>.srt` and `<utt>.vtt` of each recording.

    Args:
      folder: made where it is not there.
      transcripts: of recordings.
      references: what was said, by name of the recording; gives `ref.trn` for those that are named.
      rejected: recordings that cannot be used and why; for `rejected.jsonl`.

    """
    out = epath.Path(folder)
    _write(out / "hyp.jsonl", _lines(map(row_of, transcripts)))
    _write(out / "hyp.trn", trn({one.utt: one.text for one in transcripts}))
    if references:
        known = {one.utt: references[one.utt] for one in transcripts if one.utt in references}
        _write(out / "ref.trn", trn(known))
    _write(out / "hyp.ctm", ctm(transcripts))
    if rejected:
        _write(out / "rejected.jsonl", _lines(rejected))
    for one in transcripts:
        _write(out / f"{one.utt}.srt", srt(one.captions))
        _write(out / f"{one.utt}.vtt", vtt(one.captions))


def trn(texts: Mapping[str, str]) -> str:
    """Transcripts of sclite: the text, then the name in parentheses; one recording a line."""
    return "".join(f"{text} ({utt})\n" if text else f"({utt})\n" for utt, text in texts.items())


def ctm(transcripts: Sequence[Transcript]) -> str:
    """Time-marked words: recording, channel, start, duration, word; one word a line."""
    return "".join(
        f"{one.utt} 1 {word.start:.3f} {word.end - word.start:.3f} {word.text}\n"
        for one in transcripts
        for word in one.words
    )


def srt(captions: Sequence[Caption]) -> str:
    """SubRip subtitles."""
    return "".join(
        f"{number}\n{_times(one, ',')}\n{one.text}\n\n" for number, one in enumerate(captions, start=1)
    )


def vtt(captions: Sequence[Caption]) -> str:
    """WebVTT subtitles."""
    cues = (f"{_times(one, '.')}\n{html.escape(one.text, quote=False)}\n\n" for one in captions)
    return "WEBVTT\n\n" + "".join(cues)


def _times(one: Caption, point: str) -> str:
    return f"{_clock(one.words[0].start, point)} --> {_clock(one.words[-1].end, point)}"


def _clock(seconds: float, point: str) -> str:
    milliseconds = round(1000 * seconds)
    minutes, rest = divmod(milliseconds, 60_000)
    return f"{minutes // 60:02d}:{minutes % 60:02d}:{rest // 1000:02d}{point}{rest % 1000:03d}"


def _lines(rows: Iterable[Mapping[str, Any]]) -> str:
    return "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)


def _write(file: epath.Path, text: str) -> None:
    write_atomically(file, text.encode())
