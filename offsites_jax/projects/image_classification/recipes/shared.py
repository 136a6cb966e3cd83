"""What the published recipes have in common: data, batch norm, schedules, and figures to compare with.

Each function returns plain sections, so that an experiment file may change any of it before handing it on.
"""

from typing import Any

from offsites_jax.errors import UserError
from offsites_jax.train.schema import nearest

Config = dict[str, Any]

IMAGENET, IMAGENET_21K = 1_281_167, 12_720_275
REMEMBERED = ", as remembered, not checked"
"""Ends the source of a figure that nobody held against the paper."""

_RGB_MEAN, _RGB_STD = (123.675, 116.28, 103.53), (58.395, 57.12, 57.375)
V1_PIXELS: Config = {"preprocess": "v1", "crop_area": (0.08, 1.0), "mean": _RGB_MEAN, "std": _RGB_STD}
"""Crops and TensorFlow 1's bicubic kernel, as EfficientNet was trained with."""

IMAGENET_1K: Config = {
    "source": "tfds",
    "name": "imagenet2012",
    "loading": {"num_workers": 16},
    "splits": {
        # To choose settings or checkpoints by; see `with_minival`.
        "minival": {"split": "train[:2%]"},
        # For `offsites eval --config.evaluators.real.split=real`, where they are prepared.
        "real": {
            "name": "imagenet2012_real", "split": "validation", "label_key": "real_label", "max_labels": 32,
        },
        "v2": {"name": "imagenet_v2/matched-frequency", "split": "test"},
    },
}  # fmt: skip
MULTI_LABEL_21K: Config = {
    "source": "tfrecord",
    "path": "/data/imagenet21k/imagenet21k*",
    "label_key": "labels",
    "max_labels": 32,
    "shards": (20, 0),
    "splits": {"eval": {"shards": (0, 16)}, "minival": {"shards": (16, 20)}},
    "loading": {"num_workers": 16},
}


def chosen(argument: str | None, known: tuple[str, ...]) -> str:
    """The variant a file was asked for; its first one without an argument.

    Raises:
      UserError: the file has no such variant.
    """
    if argument is None:
        return known[0]
    if argument not in known:
        raise UserError(f"experiment: no variant {argument!r}{nearest(argument, known)}")
    return argument


def epochs_to_steps(epochs: float, batch_size: int, images: int = IMAGENET) -> int:
    """Updates in so many epochs."""
    return int(epochs * images / batch_size)


def base(
    name: str, classes: int, overrides: Config, batch_size: int, epochs: float, images: int = IMAGENET
) -> Config:
    """What all full-scale runs share: model, length, replicated parameters, and whose moments normalise.

    google/automl averages moments over 8 of its 32 cores, whatever the batch: over a quarter of it. The
    newest checkpoints stay and none is picked as best: the images that pick are not those to report on.
    """
    return {
        "project": "image_classification",
        "model": {
            "name": name,
            "num_classes": classes,
            "overrides": {"norm": {"statistics": "group", "group_size": batch_size // 4}, **overrides},
        },
        "train": {
            "steps": max(epochs_to_steps(epochs, batch_size, images), 1),
            "batch_size": batch_size,
            "log_every": 100,
            "checkpoint_every": 2000,
            "eval_every": 5000,
            "keep": {"last": 3},
        },
        "mesh": {"data": -1},
        "sharding": {"rules": ((".*", "replicated"),)},
    }


def evaluated(config: Config, split: str = "validation") -> Config:
    """The same with an evaluator of a split, named after it."""
    config["evaluators"] = {split: {"split": split, "pictures": False}}
    return config


def with_minival(config: Config) -> Config:
    """The same, trained on 98 % of ImageNet's training images; the others pick the best checkpoint.

    Steps and schedules stay those of the whole set.
    """
    config["data"] = {**config["data"], "train_split": "train[2%:]"}
    config["evaluators"] = {**config["evaluators"], "minival": {"split": "minival", "pictures": False}}
    config["train"]["keep"] = {"last": 3, "best": "minival/accuracy"}
    return config


def expect(config: Config, value: float | None, source: str, metric: str = "validation/accuracy") -> Config:
    """The same with a published figure to compare with, if there is one; it replaces any other."""
    found = {metric: {"value": value, "tolerance": 0.003, "source": source}}
    config["expected"] = {} if value is None else found
    return config


def adamw(weight_decay: float, learning_rate: Config) -> Config:
    """AdamW as CoAtNet is trained with; the paper leaves its moments open, which stay at their defaults."""
    return {"name": "adamw", "learning_rate": learning_rate, "weight_decay": weight_decay, "clip_norm": 1.0}


def cosine(peak: float, warmup: int, end: float = 0.0) -> Config:
    """Cosine decay after so many steps of warm-up."""
    return {"name": "cosine", "peak": peak, "warmup_steps": warmup, "end": end}


def linear(peak: float, warmup: int, end: float) -> Config:
    """Linear decay after so many steps of warm-up."""
    return {"name": "linear", "peak": peak, "warmup_steps": warmup, "end": end}


def randaugment(magnitude: float) -> Config:
    """Two operations of RandAugment, of this strength."""
    return {"augment": "randaugment", "magnitude": magnitude, "num_ops": 2}
