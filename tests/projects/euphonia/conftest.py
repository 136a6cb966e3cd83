"""A tiny corpus and networks that fit it."""

import numpy as np
import pytest

from offsites_jax.data.audio import LogMelConfig
from offsites_jax.data.audio.wav import write_wav
from offsites_jax.data.text.graphemes import train_graphemes
from offsites_jax.projects.euphonia.manifest import Utterance
from offsites_jax.projects.euphonia.prepared import prepare
from offsites_jax.train.config import resolve

FEATURES = {
    "sample_rate": 8000, "window": 256, "step": 80, "fft": 512, "mels": 12, "high_hz": 3800.0,
}  # fmt: skip
WORDS = ("go", "stop", "on", "off")


@pytest.fixture(scope="session")
def corpus(tmp_path_factory):
    """Twelve utterances of each of three speakers, in three parts: tones whose pitch says the word."""
    root = tmp_path_factory.mktemp("corpus")
    utterances, splits = [], {}
    for number, speaker in enumerate(("ann", "ben", "cat")):
        for index in range(12):
            rng = np.random.default_rng([number, index])
            said = [int(word) for word in rng.integers(len(WORDS), size=1 + index % 3)]
            name = f"{speaker}-{index}"
            pieces = [
                np.sin(2 * np.pi * (400 + 300 * word + 40 * number) * np.arange(1600) / 8000) for word in said
            ]
            wave = 0.3 * np.concatenate(pieces) + 0.01 * rng.normal(size=1600 * len(said))
            write_wav(root / f"{name}.wav", wave.astype(np.float32), 8000)
            utterances.append(Utterance(name, speaker, f"{name}.wav", " ".join(WORDS[word] for word in said)))
            splits[name] = "test" if index >= 10 else "dev" if index >= 7 else "train"
    return prepare(
        utterances,
        root,
        root / "prepared",
        splits=splits,
        tokenizer=train_graphemes,
        features=LogMelConfig(**FEATURES),
    )


@pytest.fixture
def raw(corpus):
    """A config of one small model, as plain values."""
    return {
        "project": "euphonia",
        "model": {
            "features": 48,
            "cells": 16,
            "projection": 12,
            "embedding": 6,
            "joint": 10,
            "vocabulary": corpus.tokenizer.size,
            "layers": 3,
            "reduce_after": 1,
            "predictor_layers": 1,
        },
        "task": {"spec_augment": "disordered", "personal_layers": 2},
        "data": {
            "path": str(corpus.folder),
            "max_seconds": 0.6,
            "max_labels": 16,
            "features": FEATURES,
            "loading": {"num_threads": 2},
        },
        # So large an epsilon keeps Adam from blowing up gradients of nearly nothing to steps of either sign.
        "optimizer": {"name": "adam", "learning_rate": 3e-3, "clip_norm": 1.0, "eps": 1e-4},
        "train": {"steps": 6, "batch_size": 8, "log_every": 2, "eval_every": 3, "checkpoint_every": 3},
        "mesh": {"data": 1},
        "evaluators": {"dev": {"split": "dev"}},
    }


@pytest.fixture
def experiment(raw):
    """That model."""
    return resolve(raw)
