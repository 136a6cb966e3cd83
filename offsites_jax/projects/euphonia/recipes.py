"""What the experiment files of this project share.

From the papers are the network (He et al. 2019), which layers are personalised, and the splits (Green et al.
2021). Learning rates, steps and masks were not published: they are our own choice.
"""

import dataclasses
from typing import Any

from offsites_jax.errors import UserError
from offsites_jax.projects.euphonia.model import VARIANTS

ENCODER_LAYERS = 8
PERSONAL_LAYERS = 5
SMALL_FEATURES = {"mels": 64}
LISTEN_FIRST = (
    {"name": "sound", "until": 0.5, "task": {"text_side": False}},
    {"name": "sound and text"},
)

MEDIAN_WER = {
    "test/wer": {
        "value": 0.046,
        "tolerance": 0.02,
        "source": "Green et al. 2021, abstract: median over 432 speakers, private recordings",
    }
}


def chosen(argument: str | None, variants: tuple[str, ...]) -> str:
    """The variant asked for, or the first.

    Raises:
      UserError: there is none of that name.

    """
    if argument and argument not in variants:
        raise UserError(f"variant {argument!r}: there are {', '.join(variants)}")
    return argument or variants[0]


def base(path: str, *, steps: int, batch_size: int = 4096, vocabulary: int = 4096) -> dict[str, Any]:
    """A recogniser of typical speech, streaming, with 122 million parameters."""
    model = dataclasses.replace(VARIANTS["rnnt_wp4096"], vocabulary=vocabulary)
    return {
        "project": "euphonia",
        "model": dataclasses.asdict(model),
        "task": {"spec_augment": "typical", "fastemit_lambda": 0.005},
        "data": {
            "path": path,
            "max_seconds": 16.0,
            "max_labels": 96,
            "augment_waveform": True,
            "loading": {"num_workers": 8},
        },
        "optimizer": {
            "name": "adam",
            "b2": 0.98,
            "learning_rate": {"name": "rsqrt", "peak": 5e-4, "warmup_steps": min(10_000, steps // 10)},
            "clip_norm": 1.0,
        },
        "train": {
            "steps": steps,
            "batch_size": batch_size,
            "checkpoint_every": 1000,
            "eval_every": 5000,
            "ema": {"decay": 0.9999},
            "keep": {"last": 2, "best": "dev/wer", "best_mode": "min"},
        },
        "sharding": {"rules": ((".*", "replicated"),)},
        "evaluators": {
            "dev": {"split": "dev", "batch_size": 512},
            "test": {"split": "test", "batch_size": 512},
        },
    }


def personal(
    path: str, start_from: str, *, trained: tuple[str, ...] | None = None, steps: int = 2000
) -> dict[str, Any]:
    """One speaker's own recogniser: the lower layers learn, the rest stays as it was.

    Args:
      path: prepared corpus of the speaker.
      start_from: run of the base model.
      trained: patterns of the parameters that learn; the lower five encoder layers unless told.
      steps: at most; the best by loss on the dev part is kept.

    """
    return {
        "project": "euphonia",
        "model": dataclasses.asdict(VARIANTS["rnnt_wp4096"]),
        "task": {"spec_augment": "disordered"},
        "data": {"path": path, "max_seconds": 16.0, "max_labels": 96},
        "optimizer": {
            "name": "adam",
            "learning_rate": {"name": "constant", "peak": 1e-4, "warmup_steps": 50},
            "clip_norm": 1.0,
            "frozen": (all_but(trained or layers(0, PERSONAL_LAYERS)),),
        },
        "train": {
            "steps": steps,
            "batch_size": 16,
            "checkpoint_every": 100,
            "eval_every": 100,
            "keep": {"last": 1, "best": "dev/nll", "best_mode": "min"},
        },
        "evaluators": {"dev": {"split": "dev"}, "test": {"split": "test"}},
        "init_from": {"path": start_from},
        "expected": MEDIAN_WER,
    }


def cohort(path: str, start_from: str, *, members: int, steps: int = 2000) -> dict[str, Any]:
    """As `personal`, for many speakers in one job, each stopping by itself."""
    alone = personal(path, start_from, steps=steps)
    alone["data"] |= {"max_seconds": 8.0, "max_labels": 48}
    return {
        **alone,
        "task": {
            **alone["task"],
            "members": members,
            "utterances": 16,
            "personal_layers": PERSONAL_LAYERS,
            "at_a_time": 2,
        },
        "optimizer": {
            **{name: value for name, value in alone["optimizer"].items() if name != "frozen"},
            "members": True,
            "moment_dtype": "bfloat16",  # or else 14 speakers do not fit on a chip of 16 GB
        },
        "train": {**alone["train"], "batch_size": members, "keep": {"last": 1}},
        "sharding": {"rules": (("^personal/", "members"), (".*", "replicated"))},
        "evaluators": {"dev": {"split": "dev"}},
        "init_from": {
            "path": start_from,
            "map": (("^params/(personal|base)/", "params/encoder/"), ("^params/shared/", "params/")),
            "repeat": ("^params/personal/",),
            "skip": ("^cohort/",),
        },
        "expected": {},
    }


def layers(first: int, count: int) -> tuple[str, ...]:
    """Patterns of `count` encoder layers from `first` on."""
    return tuple(f"^encoder/layers_{index}/" for index in range(first, first + count))


def all_but(trained: tuple[str, ...]) -> str:
    """A pattern of all parameters that none of these patterns matches."""
    return f"^(?!{'|'.join(pattern.removeprefix('^') for pattern in trained)})"


def small(path: str, *, vocabulary: int, steps: int, batch_size: int = 16) -> dict[str, Any]:
    """Three million parameters on 64 channels; residual, with a loss on frames besides: learns in minutes.

    The first half of the run has no text side. With one from the start, the first words are emitted before
    they are heard, guessed from the words before them, and stay so.
    """
    model = dataclasses.replace(VARIANTS["rnnt_small"], vocabulary=vocabulary, ctc=True)
    return {
        "project": "euphonia",
        "model": dataclasses.asdict(model),
        "task": {"spec_augment": "none", "ctc_weight": 0.5},
        "data": {"path": path, "max_seconds": 2.4, "max_labels": 16, "features": SMALL_FEATURES},
        "stages": LISTEN_FIRST,
        "optimizer": {
            "name": "adam",
            "b2": 0.98,  # soon forgets that the text side had no gradients
            "learning_rate": {"name": "cosine", "peak": 2e-3, "warmup_steps": 50},
            "clip_norm": 1.0,
        },
        "train": {
            "steps": steps,
            "batch_size": batch_size,
            "log_every": 20,
            "checkpoint_every": 200,
            "eval_every": 200,
            "keep": {"last": 1},
        },
        "mesh": {"data": 1},
        "evaluators": {"test": {"split": "test", "batch_size": 32}},
    }


def memorize(path: str, *, vocabulary: int, steps: int) -> dict[str, Any]:
    """As `small`, half as wide, on a few utterances of up to four seconds; scored on unheard ones, too."""
    alone = small(path, vocabulary=vocabulary, steps=steps, batch_size=20)
    return {
        **alone,
        "model": {**alone["model"], "cells": 128, "projection": 64},
        # These recordings are silent between words: noise there would be another sound than the test has.
        "task": {**alone["task"], "dither": False},
        "data": {**alone["data"], "max_seconds": 4.0, "max_labels": 40},
        "evaluators": {
            "learnt": {"split": "train", "batch_size": 20},
            "unheard": {"split": "test", "batch_size": 20},
        },
    }
