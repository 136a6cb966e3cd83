"""From recordings, or from sound as it comes, to text."""

import json as json_lines
import os
import pathlib
import sys
import time
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, BinaryIO

import numpy as np
from tyro.conf import Positional

from offsites_jax.errors import DamagedDataError, OffsitesError, UserError
from offsites_jax.projects.euphonia.commands.listening import open_listener, read_samples

if TYPE_CHECKING:
    from offsites_jax.projects.euphonia.decoding.listener import Listener
    from offsites_jax.projects.euphonia.decoding.outputs import Transcript

_ROWS, _BEAM_ROWS = 64, 16  # of features at once where nobody waits for the text


def transcribe(
    audio: Positional[tuple[str, ...]],
    workdir: str,
    speaker: str = "",
    beam: int = 0,
    length_power: float = 0.0,
    json: bool = False,
    output: str = "",
    references: str = "",
    tokenizer: str = "",
    step: str = "latest",
    max_hours: float = 4.0,
) -> None:
    """Writes down what is said in recordings of any length: text, words with times, subtitles.

    Recordings that cannot be read are named, and left out; the command then ends with an error.

    Args:
      audio: files, or folders of them.
      workdir: folder of the run.
      speaker: whose personal layers to use; the base unless given.
      beam: hypotheses that are kept, such as 8; 0 takes the best label at each place.
      length_power: with a beam, rank texts by log-probability over (labels to this power).
      json: one JSON object a line: utt, speaker, text, logp, nbest, words with times, rtf.
      output: folder for hyp.jsonl, hyp.trn, hyp.ctm and subtitles.
      references: manifest with what was said; gives ref.trn beside hyp.trn.
      tokenizer: folder that holds it; the corpus of the run unless given.
      step: of the checkpoint: latest, best or a number.
      max_hours: refuse recordings that are longer; they are held in memory.

    """
    files = find_recordings(audio)
    rows = _BEAM_ROWS if beam else _ROWS
    listener = open_listener(
        workdir, speaker, tokenizer, step, rows=rows, beam=beam, length_power=length_power
    )
    texts = _references(references)

    from offsites_jax.projects.euphonia.decoding.outputs import row_of, write_outputs

    transcripts, rejected = [], []
    for utt, file in files.items():
        try:
            transcript = _transcribe_file(listener, file, utt, speaker, max_hours)
        except OffsitesError as error:
            if len(files) == 1:
                raise
            rejected.append({"utt": utt, "reason": str(error)})
            print(f"offsites: {error}", file=sys.stderr)
            continue
        transcripts.append(transcript)
        row = json_lines.dumps(row_of(transcript), ensure_ascii=False)
        print(row if json else f"{utt}\t{transcript.text}", flush=True)
    if output:
        write_outputs(output, transcripts, texts, rejected)
    if rejected:
        raise DamagedDataError(f"{len(rejected)} of {len(files)} recordings cannot be used; see above")


def stream(
    source: Positional[str],
    workdir: str,
    speaker: str = "",
    beam: int = 0,
    length_power: float = 0.0,
    chunk_seconds: float = 0.1,
    real_time: bool = False,
    json: bool = False,
    resume: str = "",
    suspend: str = "",
    tokenizer: str = "",
    step: str = "latest",
) -> None:
    """Writes down what is said while it is said: a line whenever more of it is known, the whole at the end.

    From a microphone on Linux: arecord -t raw -f S16_LE -r 16000 | offsites euphonia stream - --workdir W

    Args:
      source: a recording; or - for raw samples from standard input, one channel, 16 bits, little endian, at
        the rate of the model.
      workdir: folder of the run.
      speaker: whose personal layers to use; the base unless given.
      beam: hypotheses that are kept, such as 8; 0 takes the best label at each place.
      length_power: with a beam, rank texts by log-probability over (labels to this power).
      chunk_seconds: of sound that are taken at once.
      real_time: take a recording no faster than it was spoken.
      json: one JSON object a line: seconds, text, the stable part of it, and whether the speaker paused.
      resume: file of a stream to go on with.
      suspend: file to put the stream aside in at the end, instead of finishing it.
      tokenizer: folder that holds it; the corpus of the run unless given.
      step: of the checkpoint: latest, best or a number.

    """
    if not 0 < chunk_seconds < float("inf"):
        raise UserError(f"--chunk-seconds: is {chunk_seconds}, must be above 0")
    listener = open_listener(workdir, speaker, tokenizer, step, rows=2, beam=beam, length_power=length_power)

    from offsites_jax.projects.euphonia.decoding import outputs
    from offsites_jax.projects.euphonia.decoding import stream as streaming
    from offsites_jax.projects.euphonia.decoding.suspend import load_stream, save_stream

    rate = listener.features.sample_rate
    size = max(1, round(chunk_seconds * rate))
    live = source == "-"
    chunks = chunks_of_pcm(sys.stdin.buffer, size) if live else _chunks_of_file(source, rate, size)
    state = load_stream(listener, resume) if resume else streaming.start_stream(listener)
    begin, before, computed, said = time.monotonic(), state.frame_count, 0.0, ("", False)
    for number, chunk in enumerate(chunks):
        if real_time and not live:
            time.sleep(max(0.0, begin + number * chunk_seconds - time.monotonic()))
        start = time.perf_counter()
        state, heard = streaming.step(listener, state, chunk)
        computed += time.perf_counter() - start
        if (heard.text, heard.ended) != said:
            said = heard.text, heard.ended
            line = json_lines.dumps(heard._asdict(), ensure_ascii=False)
            print(line if json else f"{heard.seconds:8.2f}  {heard.text}", flush=True)
    if suspend:
        save_stream(listener, state, suspend)
        return
    found = streaming.finish(listener, state)
    seconds = (found.frame_count - before) * listener.frame_seconds
    utt = "stream" if live else pathlib.Path(source).stem
    rtf = computed / seconds if seconds else 0.0
    transcript = outputs.transcript_of(found, listener, utt=utt, speaker=speaker, rtf=rtf)
    row = json_lines.dumps(outputs.row_of(transcript), ensure_ascii=False)
    print(row if json else transcript.text, flush=True)


def find_recordings(paths: Sequence[str]) -> dict[str, str]:
    """Files by name of the recording: without folder and ending, where that tells them apart.

    Raises:
      UserError: no recordings, or one that is not there.

    """
    from offsites_jax.data.audio.read import SUFFIXES

    files: list[str] = []
    for path in paths:
        if os.path.isdir(path):
            below = (file for file in pathlib.Path(path).rglob("*") if file.suffix.lower() in SUFFIXES)
            files += sorted(map(str, below))
        elif os.path.exists(path):
            files.append(path)
        else:
            raise UserError(f"{path}: no such file; check the path")
    files = list(dict.fromkeys(files))
    if not files:
        raise UserError(f"AUDIO: no recordings; name files, or a folder of {', '.join(SUFFIXES)}")
    names = [_name(pathlib.Path(file).stem) for file in files]
    if len(set(names)) < len(names):
        names = [_name(file) for file in files]
    if len(set(names)) < len(names):
        raise UserError("AUDIO: two recordings have the same name; rename one of them")
    return dict(zip(names, files, strict=True))


def chunks_of_pcm(source: BinaryIO, size: int) -> Iterator[np.ndarray]:
    """int16 samples from raw bytes, at most `size` at once, each as soon as it is there."""
    read = getattr(source, "read1", source.read)
    left = b""
    while more := read(2 * size):
        data = left + more
        whole = len(data) // 2 * 2
        left = data[whole:]
        yield np.frombuffer(data[:whole], "<i2").astype(np.int16)


def _name(text: str) -> str:
    """Fit for a file, and without spaces, which separate the columns of `.ctm`."""
    return "_".join(text.strip("./\\").replace("/", " ").replace("\\", " ").split()) or "recording"


def _transcribe_file(
    listener: "Listener", file: str, utt: str, speaker: str, max_hours: float
) -> "Transcript":
    from offsites_jax.projects.euphonia.decoding.outputs import transcript_of
    from offsites_jax.projects.euphonia.decoding.stream import recognise

    samples = read_samples(file, listener.features.sample_rate, 3600 * max_hours)
    begin = time.perf_counter()
    found = recognise(listener, samples)
    seconds = len(samples) / listener.features.sample_rate
    rtf = (time.perf_counter() - begin) / seconds
    return transcript_of(found, listener, utt=utt, speaker=speaker, rtf=rtf)


def _chunks_of_file(file: str, rate: int, size: int) -> Iterator[np.ndarray]:
    samples = read_samples(file, rate, max_seconds=86400)
    for start in range(0, len(samples), size):
        yield samples[start : start + size]


def _references(manifest: str) -> dict[str, str]:
    """Normalised texts by name of the recording."""
    if not manifest:
        return {}
    from offsites_jax.data.text.normalise import normalise
    from offsites_jax.projects.euphonia.manifest import read_manifest

    return {one.utt_id: normalise(one.text) for one in read_manifest(manifest, check_audio=False)}
