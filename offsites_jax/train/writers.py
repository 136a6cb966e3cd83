"""What a run leaves to look at: `metrics.jsonl`, TensorBoard events, artifacts, and W&B when asked.

`metrics.jsonl` holds one strict JSON object a line: `step`, `split` ("train" or an evaluator's name), `time`
(Unix seconds) and the metrics by name. Finite floats are written so that they read back bit for bit; the
others, which JSON has no numbers for, as the strings "NaN", "Infinity" and "-Infinity".
"""

import contextlib
import io
import json
import math
import os
import re
import secrets
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from types import TracebackType
from typing import Any, Protocol, TextIO

import jax
import numpy as np
from etils import epath
from jaxtyping import Float, UInt8
from matplotlib.figure import Figure
from tensorboardX.event_file_writer import EventsWriter
from tensorboardX.proto.event_pb2 import Event, SessionLog
from tensorboardX.proto.summary_pb2 import Summary
from tensorboardX.summary import text as text_summary

from offsites_jax.data.atomic import write_atomically
from offsites_jax.errors import DamagedDataError, UserError
from offsites_jax.train.media import (
    Media,
    encode_audio,
    encode_figure,
    encode_image,
    encode_json,
    encode_table,
    encode_text,
    encode_video,
    strict,
)

METRICS = "metrics.jsonl"
ARTIFACTS = "artifacts"
EVENTS = "tensorboard"
RESERVED = ("step", "split", "time")
# How long a reader may have to wait for events, and for any metrics in a bucket.
FLUSH_SECONDS = 30.0


class Sink(Protocol):
    """One place that metrics and artifacts go to."""

    def write(self, step: int, split: str, metrics: Mapping[str, float]) -> None:
        """Takes the metrics of one step and split."""

    def show(self, step: int, tag: str, media: Media, file: epath.Path) -> None:
        """Takes an artifact, which `file` holds already."""

    def truncate(self, after_step: int) -> None:
        """Forgets what is newer than `after_step`."""

    def flush(self) -> None:
        """Makes everything visible to readers."""

    def close(self) -> None:
        """Ends the writing."""


class MetricsWriter:
    """Writes the metrics and artifacts of a run; process 0 writes, the others do nothing.

    Args:
      workdir: folder of the run.
      tensorboard: whether to write event files, to `workdir/tensorboard`.
      wandb: Weights & Biases project to log to as well; a run that is resumed goes on there too.

    Raises:
      UserError: wandb is asked for and not installed, or (in all methods) the folder cannot be written.

    """

    def __init__(self, workdir: epath.PathLike, *, tensorboard: bool = True, wandb: str = "") -> None:
        self._folder = epath.Path(workdir)
        self._sinks: list[Sink] = []
        if jax.process_index() != 0:
            return
        with _writable(self._folder):
            in_bucket = "://" in os.fspath(self._folder)
            self._sinks.append(JsonLines(self._folder / METRICS, in_bucket=in_bucket))
            if tensorboard:
                self._sinks.append(EventFile(self._folder / EVENTS))
            if wandb:
                self._sinks.append(WandbRun(self._folder, wandb))

    def __enter__(self) -> "MetricsWriter":
        return self

    def __exit__(self, kind: type | None, error: BaseException | None, trace: TracebackType | None) -> None:
        # A full disk fails again when files are closed; the first error is the one to show.
        with contextlib.suppress(UserError) if error else contextlib.nullcontext():
            self.close()

    def write(self, step: int, split: str, metrics: Mapping[str, float]) -> None:
        """Writes the metrics of a step.

        Args:
          step: updates done.
          split: "train", or the evaluator that made them.
          metrics: scalars by name; numpy and JAX scalars are fine.

        """
        for name in RESERVED:
            if name in metrics:
                raise UserError(f"metric {name!r} of {split!r}: the name has another meaning; rename it")
        values = {name: float(value) for name, value in metrics.items()}
        with _writable(self._folder):
            for sink in self._sinks:
                sink.write(step, split, values)

    def artifacts(self, split: str, step: int) -> "Artifacts":
        """Where the pictures, sounds and tables of a split and step go."""
        return Artifacts(self._folder / ARTIFACTS, self._sinks, split, step)

    def truncate(self, after_step: int) -> None:
        """Drops what a run that is resumed from `after_step` will write again."""
        with _writable(self._folder):
            for sink in self._sinks:
                sink.truncate(after_step)

    def flush(self) -> None:
        """Makes everything written so far visible to readers."""
        with _writable(self._folder):
            for sink in self._sinks:
                sink.flush()

    def close(self) -> None:
        """Flushes and ends."""
        with _writable(self._folder):
            while self._sinks:
                self._sinks.pop().close()


class Artifacts:
    """Artifacts of one split and step: files `<split>/<name>_<step>.<extension>`, and TensorBoard.

    Other processes than the first may call everything alike; they do not even encode.
    """

    def __init__(self, folder: epath.Path, sinks: Sequence[Sink], split: str, step: int) -> None:
        self._folder, self._sinks, self._split, self._step = folder, sinks, split, step

    def image(self, name: str, image: UInt8[np.ndarray, "height width channels"]) -> None:
        """A picture: grey (one channel, or no axis for it), RGB or RGBA. Written as PNG."""
        self._publish(name, lambda: encode_image(image))

    def figure(self, name: str, figure: Figure) -> None:
        """A matplotlib figure. Made without pyplot, it needs no closing. Written as PNG."""
        self._publish(name, lambda: encode_figure(figure))

    def video(self, name: str, frames: UInt8[np.ndarray, "time height width 3"], rate: float) -> None:
        """Moving pictures, `rate` frames per second. Written as GIF, which every viewer plays."""
        self._publish(name, lambda: encode_video(frames, rate))

    def audio(self, name: str, samples: Float[np.ndarray, "frames *channels"], rate: int) -> None:
        """Sound in [-1, 1], beyond which it is clipped; `rate` frames per second. Written as 16-bit WAV."""
        self._publish(name, lambda: encode_audio(samples, rate))

    def table(self, name: str, rows: Sequence[Mapping[str, Any]]) -> None:
        """Rows by column; columns that a row lacks stay empty. Written as CSV."""
        self._publish(name, lambda: encode_table(rows))

    def text(self, name: str, text: str) -> None:
        """Plain text, shown in a fixed-width font."""
        self._publish(name, lambda: encode_text(text))

    def json(self, name: str, value: Any) -> None:
        """Nested dicts, lists, numbers and arrays. Non-finite numbers as in `metrics.jsonl`."""
        self._publish(name, lambda: encode_json(value))

    def _publish(self, name: str, encode: Callable[[], Media]) -> None:
        if not self._sinks:
            return
        media = encode()
        file = self._folder / _safe(self._split) / f"{_safe(name)}_{self._step}.{media.extension}"
        with _writable(self._folder):
            write_atomically(file, media.content)
            for sink in self._sinks:
                sink.show(self._step, f"{self._split}/{name}", media, file)


class JsonLines:
    """Metrics as lines of JSON. On a local disk each line is there for readers once written.

    An object in a bucket cannot be appended to: there it is written anew every `FLUSH_SECONDS`.
    """

    def __init__(self, file: epath.Path, *, in_bucket: bool) -> None:
        self._file, self._in_bucket = file, in_bucket
        self._stream: TextIO | None = None
        self._uploaded = -math.inf

    def write(self, step: int, split: str, metrics: Mapping[str, float]) -> None:
        """Appends one line."""
        record = {"step": step, "split": split, "time": round(time.time(), 3), **metrics}
        stream = self._open()
        stream.write(json.dumps(strict(record), allow_nan=False) + "\n")
        if not self._in_bucket:
            stream.flush()
        elif time.monotonic() - self._uploaded > FLUSH_SECONDS:
            self.flush()

    def show(self, step: int, tag: str, media: Media, file: epath.Path) -> None:
        """Nothing: artifacts are files of their own."""

    def truncate(self, after_step: float) -> None:
        """Rewrites the file without later lines, and without one that a crash left unfinished."""
        self.close()
        if not self._file.exists():
            return
        text = _read(self._file)
        kept = "".join(line for line, record in _lines(self._file, text) if record["step"] <= after_step)
        if kept != text:
            write_atomically(self._file, kept.encode())

    def flush(self) -> None:
        """Uploads what a bucket has not got yet."""
        if isinstance(self._stream, io.StringIO):
            write_atomically(self._file, self._stream.getvalue().encode())
            self._uploaded = time.monotonic()

    def close(self) -> None:
        """Closes the file; the next line would open it again."""
        self.flush()
        if self._stream is not None:
            self._stream.close()
            self._stream = None

    def _open(self) -> TextIO:
        if self._stream is None:
            self.truncate(math.inf)
            self._file.parent.mkdir(parents=True, exist_ok=True)
            if self._in_bucket:
                self._stream = io.StringIO()
                self._stream.write(_read(self._file) if self._file.exists() else "")
            else:
                self._stream = self._file.open("a")
        return self._stream


class EventFile:
    """TensorBoard events, written without TensorFlow, in one new file per start of the run.

    Written in the calling thread: tensorboardX's own queue would stop the run, not fail, on a full disk.
    """

    def __init__(self, folder: epath.Path) -> None:
        self._folder = folder
        self._events: EventsWriter | None = None
        self._purge_from = 0
        self._flushed = -math.inf

    def write(self, step: int, split: str, metrics: Mapping[str, float]) -> None:
        """Adds scalars tagged "<split>/<metric>"."""
        scalars = [Summary.Value(tag=f"{split}/{n}", simple_value=v) for n, v in metrics.items()]
        self._add(Event(step=step, summary=Summary(value=scalars)))

    def show(self, step: int, tag: str, media: Media, file: epath.Path) -> None:
        """Adds an image, a sound or a text."""
        if summary := _summary(tag, media):
            self._add(Event(step=step, summary=summary))

    def truncate(self, after_step: int) -> None:
        """Has TensorBoard forget the later events of earlier starts."""
        self.close()
        if self._folder.exists() and any(self._folder.iterdir()):
            self._purge_from = after_step + 1

    def flush(self) -> None:
        """Writes out what is buffered."""
        if self._events is not None:
            self._events.flush()
            self._flushed = time.monotonic()

    def close(self) -> None:
        """Closes the file."""
        if self._events is not None:
            self._events.close()
            self._events = None

    def _add(self, event: Event) -> None:
        if self._events is None:
            self._open()
        assert self._events
        event.wall_time = time.time()
        self._events.write_event(event)
        if time.monotonic() - self._flushed > FLUSH_SECONDS:
            self.flush()

    def _open(self) -> None:
        self._folder.mkdir(parents=True, exist_ok=True)
        # The library names files by the second and opens them afresh: a quick restart would empty one.
        self._events = EventsWriter(os.fspath(self._folder / "events"), f".{time.time_ns()}")
        if self._purge_from:
            start = SessionLog(status=SessionLog.START)
            self._events.write_event(Event(step=self._purge_from, session_log=start, wall_time=time.time()))


class WandbRun:
    """A Weights & Biases run; its id is kept in the workdir, so that a resumed run goes on there."""

    def __init__(self, workdir: epath.Path, project: str) -> None:
        try:
            import wandb
        except ImportError:
            raise UserError(
                "--wandb: Weights & Biases is not installed; pip install 'offsites-jax[wandb]'"
            ) from None
        config = workdir / "config.json"
        key = workdir / "wandb_id"
        if not key.exists():
            write_atomically(key, secrets.token_hex(8).encode())
        self._wandb = wandb
        self._run = wandb.init(
            project=project,
            id=key.read_text(),
            resume="allow",
            config=json.loads(config.read_text()) if config.exists() else {},
        )
        # W&B's own step may not go back, as that of a resumed run does.
        self._run.define_metric("*", step_metric="step")

    def write(self, step: int, split: str, metrics: Mapping[str, float]) -> None:
        """Logs metrics as "<split>/<metric>"."""
        self._run.log({"step": step, **{f"{split}/{name}": value for name, value in metrics.items()}})

    def show(self, step: int, tag: str, media: Media, file: epath.Path) -> None:
        """Logs a picture or a sound."""
        kinds = {"image": self._wandb.Image, "audio": self._wandb.Audio}
        if media.kind in kinds:
            self._run.log({"step": step, tag: kinds[media.kind](os.fspath(file))})

    def truncate(self, after_step: int) -> None:
        """Nothing: what is logged again lies over what was there, bit for bit."""

    def flush(self) -> None:
        """Nothing: the library sends in the background."""

    def close(self) -> None:
        """Ends the run."""
        self._run.finish()


def read_metrics(workdir: epath.PathLike) -> list[dict[str, Any]]:
    """The lines of a run's `metrics.jsonl`, with non-finite numbers as floats again.

    Raises:
      UserError: there is no such file.
      DamagedDataError: a line, other than a last one still being written, is not what we write.

    """
    file = epath.Path(workdir) / METRICS
    if not file.exists():
        raise UserError(f"{workdir}: no {METRICS} here; give the folder of a run")
    return [
        {name: value if name in RESERVED else float(value) for name, value in record.items()}
        for _, record in _lines(file, _read(file))
    ]


def _read(file: epath.Path) -> str:
    """Text of a file that may have been damaged."""
    return file.read_bytes().decode(errors="replace")


@contextlib.contextmanager
def _writable(folder: epath.Path) -> Iterator[None]:
    """Turns the operating system's refusal to write into one line."""
    try:
        yield
    except OSError as error:
        what = f"{error.filename or folder}: cannot be written ({error.strerror or error})"
        raise UserError(f"{what}; free some space or choose another --workdir") from None


def _lines(file: epath.Path, text: str) -> Iterator[tuple[str, dict[str, Any]]]:
    """Complete lines of a metrics file, as text and as records."""
    for number, line in enumerate(io.StringIO(text), start=1):
        if not line.endswith("\n"):
            return
        yield line, _record(file, number, line)


def _record(file: epath.Path, number: int, line: str) -> dict[str, Any]:
    damaged = DamagedDataError(f"{file}: line {number} is damaged: {line[:60]!r}; mend or delete it")
    try:
        record = json.loads(line)
    except json.JSONDecodeError:
        raise damaged from None
    if not isinstance(record, dict) or not {"step", "split"} <= record.keys():
        raise damaged
    return record


def _safe(name: str) -> str:
    """The name as part of a file name, whatever data it may come from."""
    return re.sub(r"[^\w.-]", "_", name).lstrip(".") or "_"


def _summary(tag: str, media: Media) -> Summary | None:
    if media.kind == "text":
        return text_summary(tag, media.markdown)
    if media.kind == "image":
        height, width, channels = media.size
        image = Summary.Image(
            height=height, width=width, colorspace=channels, encoded_image_string=media.content
        )
        return Summary(value=[Summary.Value(tag=tag, image=image)])
    if media.kind == "audio":
        rate, channels, frames = media.size
        audio = Summary.Audio(
            sample_rate=rate,
            num_channels=channels,
            length_frames=frames,
            encoded_audio_string=media.content,
            content_type="audio/wav",
        )
        return Summary(value=[Summary.Value(tag=tag, audio=audio)])
    return None
