"""A stream taken on by the exported step alone says what the whole recording says, bit by bit of time."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from offsites_jax.data.audio import LogMelConfig
from offsites_jax.errors import UserError
from offsites_jax.export.inference import Inference
from offsites_jax.export.load import load
from offsites_jax.export.write import write_folder
from offsites_jax.projects.euphonia.data import create_input_pipeline, create_pipeline
from offsites_jax.projects.euphonia.decoding.session import STATE, Session, rows_of_seconds
from offsites_jax.projects.euphonia.model import ModelConfig, Transducer
from offsites_jax.projects.euphonia.task import create_task
from offsites_jax.projects.euphonia.transcription import NORMALIZATION, TaskConfig, Transcribe
from offsites_jax.projects.euphonia.utterances import DataConfig
from offsites_jax.train.config import resolve

MODEL = Transducer(
    ModelConfig(
        features=48,
        cells=9,
        projection=6,
        embedding=4,
        joint=7,
        vocabulary=6,
        layers=3,
        reduce_after=1,
        predictor_layers=1,
    )
)
FRONTEND = LogMelConfig(sample_rate=8000, window=256, step=80, fft=512, mels=12, high_hz=3800.0)
DATA = DataConfig(max_seconds=1.2, max_labels=80, features=FRONTEND)
# Two hundred samples are less than a frame; 497 = 257 + 240 end a row, 737 the row after, 9600 fill a piece.
LENGTHS = (200, 257, 497, 737, 736, 5000, 9600, 9337)


@pytest.fixture(scope="module")
def variables():
    """Of a network that says something: scaled up, and not too fond of blank."""
    one = jnp.ones(1, jnp.int32)
    rows, labels = jnp.zeros((1, 2, 48)), jnp.zeros((1, 1), jnp.int32)
    params = jax.jit(MODEL.init)(jax.random.key(3), rows, 2 * one, labels, one)["params"]
    params = jax.tree.map(lambda leaf: 3 * np.asarray(leaf), params)
    params["joint"]["scores"]["bias"][0] = -1.0
    rng = np.random.default_rng(2)
    statistics = {"mean": 7 + rng.normal(size=12), "std": rng.uniform(1, 3, 12)}
    return {"params": params, NORMALIZATION: {name: v.astype(np.float32) for name, v in statistics.items()}}


@pytest.fixture(scope="module")
def sounds():
    """Of many lengths, beside one another."""
    rng = np.random.default_rng(0)
    found = np.zeros((len(LENGTHS), DATA.max_samples), np.int16)
    for row, length in enumerate(LENGTHS):
        loud = np.repeat(rng.uniform(0, 8000, 24), 400)[:length]
        found[row, :length] = (loud * rng.normal(size=length)).clip(-32768, 32767)
    return found


@pytest.fixture(scope="module")
def whole(variables, sounds):
    """What each says at once."""
    task = Transcribe(MODEL, TaskConfig(labels_per_frame=2), DATA)
    batch = {"waveform": sounds, "sample_count": np.array(LENGTHS, np.int32)}
    return jax.device_get(jax.jit(task.predict)(variables, batch))


def session(rows):
    return Session(MODEL, TaskConfig(labels_per_frame=2, stream_rows=rows), DATA)


def listen(step, state, sounds, lengths):
    """Labels with their frames, and the log-probability, of each stream; pieces, then one of nothing."""
    found, log_probs = [[] for _ in sounds], np.zeros(len(sounds))
    chunk = state["waveform"].shape[1]
    for start in range(0, sounds.shape[1] + chunk, chunk):
        piece = sounds[:, start : start + chunk]
        batch = {
            **state,
            "waveform": np.pad(piece, ((0, 0), (0, chunk - piece.shape[1]))),
            "sample_count": np.clip(np.array(lengths) - start, 0, chunk).astype(np.int32),
        }
        out = jax.device_get(step(batch))
        state = {**batch, **{name: leaf for name, leaf in out.items() if name.startswith(STATE)}}
        for row, count in enumerate(out["hypothesis_count"]):
            pairs = zip(out["hypothesis"][row, :count], out["hypothesis_frames"][row, :count], strict=True)
            found[row] += [(int(label), int(frame)) for label, frame in pairs]
        log_probs += out["log_prob"]
    return found, log_probs


def silence(task, batch):
    """The inputs of a new stream: all zeros."""
    return {name: np.zeros(spec.shape, spec.dtype) for name, spec in task.input_spec(batch).items()}


def check(found, log_probs, whole):
    for row, pairs in enumerate(found):
        count = whole["hypothesis_count"][row]
        labels, frames = whole["hypothesis"][row, :count], whole["hypothesis_frames"][row, :count]
        assert pairs == list(zip(labels.tolist(), frames.tolist(), strict=True))
    np.testing.assert_allclose(log_probs, whole["log_prob"], rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("rows", [2, 40])
def test_pieces_of_a_stream_say_what_the_whole_says(rows, variables, sounds, whole):
    assert whole["hypothesis_count"].tolist()[0] == 0
    assert whole["hypothesis_count"].max() > 20
    assert whole["hypothesis_count"].max() < DATA.max_labels
    task = session(rows)
    step = jax.jit(task.predict)
    found = listen(lambda batch: step(variables, batch), silence(task, len(sounds)), sounds, LENGTHS)
    check(*found, whole)


def test_the_export_alone_takes_streams_that_begin_at_different_times(variables, sounds, whole, tmp_path):
    task = session(4)
    inference = Inference(task.predict, variables, task.input_spec, platforms=("cpu",))
    facts = {"project": "euphonia", "config": {}, "step": 1, "params": "raw"}
    write_folder(inference, tmp_path / "live", format="stablehlo", facts=facts)
    exported = load(tmp_path / "live")
    assert set(exported.signature.inputs) == set(task.inputs)
    found = listen(exported.predict, silence(task, len(sounds)), sounds, LENGTHS)
    check(*found, whole)
    # The last row's stream begins anew after another one's first piece: its state is zeros again.
    piece, zeros = sounds[:1, : task.chunk], silence(task, 1)
    full = np.array([task.chunk], np.int32)
    used = exported.predict({**zeros, "waveform": piece, "sample_count": full})
    both = {
        name: np.concatenate([used.get(name, leaf), leaf]) if name.startswith(STATE) else leaf
        for name, leaf in zeros.items()
    }
    two = {"waveform": np.concatenate([sounds[5:6, : task.chunk]] * 2), "sample_count": full.repeat(2)}
    after = exported.predict({**both, **two})
    alone = exported.predict({**zeros, "waveform": two["waveform"][1:], "sample_count": full})
    for name, leaf in alone.items():
        np.testing.assert_allclose(after[name][1], leaf[0], atol=1e-6, err_msg=name)


def test_an_export_is_compared_on_sound(variables):
    """Of ones and zeros, as other integers are drawn, no frame would be left to compare."""
    task = Transcribe(MODEL, TaskConfig(), DATA)
    inference = Inference(task.predict, variables, task.input_spec, example=task.example)
    batch, predict = inference.random_batch(), jax.jit(task.predict)
    assert DATA.max_samples == batch["sample_count"][0] > batch["sample_count"][2] > DATA.max_samples / 2
    assert np.abs(predict(variables, batch)["log_prob"]).min() > 1
    blind = dataclasses.replace(inference, example=lambda rng, spec: {}).random_batch()
    assert not predict(variables, blind)["log_prob"].any()


def test_what_has_no_stream_is_named(raw):
    with pytest.raises(UserError, match=r"config.task.stream_rows: is 3, must be an even number"):
        session(3)
    narrow = dataclasses.replace(DATA, features=dataclasses.replace(FRONTEND, window=200))
    with pytest.raises(UserError, match="a frame of 201 samples has no stream to export"):
        Session(MODEL, TaskConfig(stream_rows=2), narrow)
    with pytest.raises(UserError, match="--stream-seconds: is -1"):
        rows_of_seconds(-1, FRONTEND)
    assert [rows_of_seconds(seconds, FRONTEND) for seconds in (0.001, 0.06, 0.13, 0.25)] == [2, 2, 4, 8]
    experiment = resolve({**raw, "task": {**raw["task"], "stream_rows": 4}})
    assert isinstance(create_task(experiment, jnp.float32), Session)
    for pipeline in (
        lambda: create_pipeline(experiment, "dev", False),
        lambda: create_input_pipeline(experiment, ["x"]),
    ):
        with pytest.raises(UserError, match="one step of a stream can only be exported"):
            pipeline()
