"""Metrics and artifacts read back: JSON strictly, event files by their framing, files by other readers."""

import csv
import json
import math
import pathlib
import struct
import sys
import types

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from PIL import Image
from tensorboardX.proto.event_pb2 import Event, SessionLog

from offsites_jax.errors import DamagedDataError, UserError
from offsites_jax.train import writers
from offsites_jax.train.writers import JsonLines, MetricsWriter, read_metrics


def no_constants(name):
    raise ValueError(f"{name} is not JSON")


def lines_of(workdir):
    text = (workdir / "metrics.jsonl").read_text()
    return [json.loads(line, parse_constant=no_constants) for line in text.splitlines()]


def crc32c(data):
    """Castagnoli CRC by its definition, bit by bit (RFC 3720)."""
    crc = 0xFFFFFFFF
    for byte in data:
        crc ^= byte
        for _ in range(8):
            crc = crc >> 1 ^ (0x82F63B78 if crc & 1 else 0)
    return crc ^ 0xFFFFFFFF


def masked(data):
    crc = crc32c(data)
    return ((crc >> 15 | crc << 17) + 0xA282EAD8) & 0xFFFFFFFF


def events_of(workdir):
    """Events of all files in the order TensorBoard reads them, every checksum verified."""
    events = []
    for file in sorted((workdir / "tensorboard").iterdir()):
        data, at = file.read_bytes(), 0
        while at < len(data):
            (size,) = struct.unpack("<Q", data[at : at + 8])
            body = data[at + 12 : at + 12 + size]
            assert struct.unpack("<I", data[at + 8 : at + 12]) == (masked(data[at : at + 8]),)
            assert struct.unpack("<I", data[at + 12 + size : at + 16 + size]) == (masked(body),)
            events.append(Event.FromString(body))
            at += 16 + size
    return events


def values_of(workdir):
    return {value.tag: value for event in events_of(workdir) for value in event.summary.value}


def test_floats_read_back_bit_for_bit(tmp_path):
    rng = np.random.default_rng(0)
    numbers = np.frombuffer(rng.bytes(8 * 500), np.float64)
    numbers = numbers[np.isfinite(numbers)]
    with MetricsWriter(tmp_path, tensorboard=False) as writer:
        writer.write(7, "train", {str(i): x for i, x in enumerate(numbers)})
    found = np.array([read_metrics(tmp_path)[0][str(i)] for i in range(len(numbers))])
    assert found.tobytes() == numbers.tobytes()


def test_lines_are_strict_json_with_step_split_and_time(tmp_path):
    with MetricsWriter(tmp_path, tensorboard=False) as writer:
        writer.write(10, "train", {"loss": jnp.float32(0.1), "count": np.int64(3)})
        writer.write(10, "test", {"nan": math.nan, "up": math.inf, "down": -math.inf})
    first, second = lines_of(tmp_path)
    assert first.pop("time") > 1.7e9
    assert first == {"step": 10, "split": "train", "loss": float(np.float32(0.1)), "count": 3.0}
    assert (second["nan"], second["up"], second["down"]) == ("NaN", "Infinity", "-Infinity")
    back = read_metrics(tmp_path)[1]
    assert math.isnan(back["nan"])
    assert (back["up"], back["down"], back["split"]) == (math.inf, -math.inf, "test")


def test_lines_are_there_before_the_writer_closes(tmp_path):
    with MetricsWriter(tmp_path, tensorboard=False) as writer:
        for step in range(3):
            writer.write(step, "train", {"loss": 1.0})
            assert len(lines_of(tmp_path)) == step + 1


def test_resume_drops_later_lines_and_a_torn_one(tmp_path):
    with MetricsWriter(tmp_path) as writer:
        for step in (10, 20, 30):
            writer.write(step, "train", {"loss": step / 3})
            writer.write(step, "test", {"accuracy": step / 7})
    file = tmp_path / "metrics.jsonl"
    kept = "".join(file.read_text().splitlines(keepends=True)[:4])
    with file.open("a") as stream:
        stream.write('{"step": 15, "split": "tra')
    with MetricsWriter(tmp_path) as writer:
        writer.truncate(20)
        assert file.read_text() == kept
        writer.write(21, "train", {"loss": 1.0})
    assert [line["step"] for line in lines_of(tmp_path)] == [10, 10, 20, 20, 21]
    assert [f.name for f in tmp_path.iterdir() if f.is_file()] == ["metrics.jsonl"]


def test_a_torn_line_is_never_glued_to_the_next(tmp_path):
    file = tmp_path / "metrics.jsonl"
    file.write_text('{"step": 1, "split": "train", "loss": 1.0}\n{"step": 2, "sp')
    assert [line["step"] for line in read_metrics(tmp_path)] == [1]
    with MetricsWriter(tmp_path, tensorboard=False) as writer:
        writer.write(2, "train", {"loss": 2.0})
    assert [line["step"] for line in lines_of(tmp_path)] == [1, 2]


@pytest.mark.parametrize("damage", [b"\xff\xfe", b"[1, 2]", b'{"step": 3}', b"{"])
def test_a_damaged_line_is_named(tmp_path, damage):
    good = b'{"step": 1, "split": "train"}\n'
    (tmp_path / "metrics.jsonl").write_bytes(good + damage + b"\n" + good)
    with pytest.raises(DamagedDataError, match=r"metrics\.jsonl: line 2 is damaged"):
        read_metrics(tmp_path)


def test_no_metrics_is_one_clear_line(tmp_path):
    with pytest.raises(UserError, match=r"no metrics\.jsonl here"):
        read_metrics(tmp_path)


def test_a_bucket_gets_whole_objects_and_all_lines_in_the_end(tmp_path, monkeypatch):
    file = writers.epath.Path(tmp_path) / "metrics.jsonl"
    file.write_text('{"step": 1, "split": "train", "loss": 1.0}\n')
    now = [0.0]
    monkeypatch.setattr(writers.time, "monotonic", lambda: now[0])
    lines = JsonLines(file, in_bucket=True)
    seen = []
    for step in range(2, 8):
        now[0] += 10
        lines.write(step, "train", {"loss": 1.0})
        seen.append(lines_of(tmp_path)[-1]["step"])
    assert seen == [2, 2, 2, 2, 6, 6]
    lines.truncate(6)
    lines.write(9, "train", {})
    lines.close()
    assert [line["step"] for line in lines_of(tmp_path)] == [1, 2, 3, 4, 5, 6, 9]


def test_event_files_hold_the_scalars(tmp_path):
    with MetricsWriter(tmp_path) as writer:
        writer.write(5, "train", {"loss": 0.25, "generator/loss": 1e300})
        writer.write(6, "test", {"accuracy": math.nan})
    first, *rest = events_of(tmp_path)
    assert first.file_version == "brain.Event:2"
    assert [event.step for event in rest] == [5, 6]
    scalars = {tag: value.simple_value for tag, value in values_of(tmp_path).items()}
    assert (scalars["train/loss"], scalars["train/generator/loss"]) == (0.25, math.inf)
    assert math.isnan(scalars["test/accuracy"])


def test_tensorboard_is_told_to_forget_what_a_resumed_run_writes_again(tmp_path):
    for start in (0, 20, 20):
        with MetricsWriter(tmp_path) as writer:
            writer.truncate(start)
            for step in range(start + 10, 41, 10):
                writer.write(step, "train", {"loss": step + start})
    curve = {}
    for event in events_of(tmp_path):
        if event.session_log.status == SessionLog.START:
            curve = {step: loss for step, loss in curve.items() if step < event.step}
        for value in event.summary.value:
            assert event.step not in curve
            curve[event.step] = value.simple_value
    assert curve == {10: 10.0, 20: 20.0, 30: 50.0, 40: 60.0}


def test_artifacts_are_files_and_summaries(tmp_path):
    rng = np.random.default_rng(0)
    pixels = rng.integers(0, 256, (5, 7, 3), np.uint8)
    rows = [{"name": "a", "score": 0.5}, {"name": "b|c", "extra": 1}]
    with MetricsWriter(tmp_path) as writer:
        artifacts = writer.artifacts("test", 30)
        artifacts.image("worst", pixels)
        artifacts.audio("sample", np.linspace(-1, 1, 80, dtype=np.float32), 8000)
        artifacts.table("classes", rows)
        artifacts.text("notes", "x = 1\ny = 2")
        artifacts.json("matrix", {"counts": np.eye(2, dtype=int), "mean": np.float32(np.nan)})
    folder = tmp_path / "artifacts" / "test"
    np.testing.assert_array_equal(np.asarray(Image.open(folder / "worst_30.png")), pixels)
    with (folder / "classes_30.csv").open(newline="") as stream:
        assert list(csv.DictReader(stream)) == [
            {"name": "a", "score": "0.5", "extra": ""},
            {"name": "b|c", "score": "", "extra": "1"},
        ]
    assert (folder / "notes_30.txt").read_text() == "x = 1\ny = 2"
    found = json.loads((folder / "matrix_30.json").read_text(), parse_constant=no_constants)
    assert found == {"counts": [[1, 0], [0, 1]], "mean": "NaN"}

    values = values_of(tmp_path)
    image, audio = values["test/worst"].image, values["test/sample"].audio
    assert (image.height, image.width, image.colorspace) == (5, 7, 3)
    assert image.encoded_image_string == (folder / "worst_30.png").read_bytes()
    assert (audio.sample_rate, audio.num_channels, audio.length_frames) == (8000, 1, 80)
    assert audio.encoded_audio_string == (folder / "sample_30.wav").read_bytes()
    table = values["test/classes/text_summary"].tensor.string_val[0].decode()
    assert table.splitlines() == ["name | score | extra", "--- | --- | ---", "a | 0.5 | ", "b\\|c |  | 1"]
    assert b"y = 2" in values["test/notes/text_summary"].tensor.string_val[0]
    assert {event.step for event in events_of(tmp_path)[1:]} == {30}


def test_names_from_data_cannot_leave_the_folder(tmp_path):
    with MetricsWriter(tmp_path, tensorboard=False) as writer:
        writer.artifacts("../..", 1).text("../../etc/passwd", "x")
        writer.artifacts("test", 1).text("..", "y")
    files = [path for path in tmp_path.rglob("*") if path.is_file()]
    assert len(files) == 2
    assert all(tmp_path / "artifacts" in path.parents for path in files)


def test_a_failed_write_leaves_the_old_file(tmp_path, monkeypatch):
    with MetricsWriter(tmp_path, tensorboard=False) as writer:
        writer.artifacts("test", 1).text("notes", "old")

        def full(self, content):
            pathlib.Path(self).touch()
            raise OSError(28, "No space left on device")

        monkeypatch.setattr(type(writers.epath.Path(tmp_path)), "write_bytes", full)
        with pytest.raises(UserError, match=r"No space left on device.*another --workdir"):
            writer.artifacts("test", 1).text("notes", "new")
    (left,) = (tmp_path / "artifacts" / "test").iterdir()
    assert (left.name, left.read_text()) == ("notes_1.txt", "old")


def test_an_unwritable_folder_is_one_clear_line(tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(UserError, match=r"file.*cannot be written.*another --workdir"):
        MetricsWriter(tmp_path / "file" / "run").write(1, "train", {"loss": 1.0})


def test_metrics_may_not_take_the_names_of_the_line(tmp_path):
    with MetricsWriter(tmp_path) as writer, pytest.raises(UserError, match="'step'"):
        writer.write(1, "train", {"step": 2.0})


def test_other_processes_write_nothing(tmp_path, monkeypatch):
    monkeypatch.setattr(jax, "process_index", lambda: 1)
    with MetricsWriter(tmp_path, wandb="project") as writer:
        writer.truncate(0)
        writer.write(1, "train", {"loss": 1.0})
        writer.artifacts("test", 1).image("broken", "never encoded")
        writer.flush()
    assert list(tmp_path.iterdir()) == []


def test_a_writer_that_writes_nothing_leaves_nothing(tmp_path):
    with MetricsWriter(tmp_path) as writer:
        writer.truncate(0)
    assert list(tmp_path.iterdir()) == []


class FakeRun:
    def __init__(self, **settings):
        self.settings, self.logged, self.finished = settings, [], False

    def define_metric(self, name, step_metric):
        self.axis = (name, step_metric)

    def log(self, values):
        self.logged.append(values)

    def finish(self):
        self.finished = True


def test_wandb_goes_on_in_the_same_run(tmp_path, monkeypatch):
    runs = []
    fake = types.ModuleType("wandb")
    fake.init = lambda **settings: runs.append(FakeRun(**settings)) or runs[-1]
    fake.Image = fake.Audio = lambda path: ("file", path)
    monkeypatch.setitem(sys.modules, "wandb", fake)
    (tmp_path / "config.json").write_text('{"project": "toy"}')
    for _ in range(2):
        with MetricsWriter(tmp_path, tensorboard=False, wandb="offsites") as writer:
            writer.write(3, "train", {"loss": 0.5})
            writer.artifacts("test", 3).image("worst", np.zeros((2, 2), np.uint8))
    assert runs[0].settings == runs[1].settings
    assert runs[0].settings["project"] == "offsites"
    assert runs[0].settings["config"] == {"project": "toy"}
    assert runs[0].axis == ("*", "step")
    assert runs[0].logged == [
        {"step": 3, "train/loss": 0.5},
        {"step": 3, "test/worst": ("file", str(tmp_path / "artifacts" / "test" / "worst_3.png"))},
    ]
    assert runs[0].finished


def test_wandb_missing_says_how_to_install_it(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "wandb", None)
    with pytest.raises(UserError, match=r"pip install 'offsites-jax\[wandb\]'"):
        MetricsWriter(tmp_path, wandb="offsites")
