"""What the experiment files of this project share.

The paper's Methods name the network and its start; every other number is our own choice.
"""

from typing import Any

from offsites_jax.errors import UserError

SOURCES = ("manifest", "cxr14")
BACKBONES = ("b7", "b4", "b0")
SIZES = {"b7": 600, "b4": 380, "b0": 224}
HEAD = "^params/classifier/"

PUBLISHED = {
    "test/auc": {
        "value": 0.87,
        "tolerance": 0.02,
        "source": "Nabulsi et al. 2021, general abnormality on DS-1, a private set",
    }
}


def detector(
    name: str, size: int, source: str | None, *, batch_size: int = 256, steps: int = 60_000
) -> dict[str, Any]:
    """An abnormality detector that is fine-tuned from ImageNet weights: the head first, then everything.

    Args:
      name: of the backbone.
      size: side of the images, in pixels.
      source: one of `SOURCES`; the first for none.
      batch_size: images at a time, on all devices.
      steps: of the run.

    """
    source = _chosen(source, SOURCES)
    return {
        "project": "chest_xray",
        "model": {
            "name": name,
            "outputs": ("abnormal",),
            "overrides": {"dropout_rate": 0.5, "stochastic_depth_rate": 0.2, "remat": size >= 500},
        },
        "task": {"l2": 1e-5},
        "data": {"source": source, "path": f"data/{source}", "image_size": size},
        "optimizer": _momentum(0.01 * batch_size / 256, min(2000, steps // 10)),
        "train": {
            "steps": steps,
            "batch_size": batch_size,
            "checkpoint_every": 1000,
            "eval_every": 1000,
            "ema": {"decay": 0.9999},
            "keep": {"last": 1, "best": "tune/auc"},
        },
        "stages": (
            {"name": "head", "until": steps // 60, "task": {"trains": "head"}},
            {"name": "all"},
        ),
        "init_from": {"path": "imagenet.safetensors", "skip": (HEAD,)},
        "mesh": {"data": -1},
        "evaluators": {"tune": {"split": "tune"}, "test": {"split": "test"}},
    }


def tuberculosis(backbone: str | None) -> dict[str, Any]:
    """Fine-tuning on some hundred images; batch norm keeps the statistics it starts with.

    Args:
      backbone: one of `BACKBONES`; the first for none.

    """
    size = _chosen(backbone, BACKBONES)
    return {
        "project": "chest_xray",
        "model": {
            "name": f"efficientnet_{size}",
            "outputs": ("Tuberculosis",),
            "overrides": {"dropout_rate": 0.5, "norm": {"statistics": "frozen", "momentum": 0.99}},
        },
        "task": {"l2": 1e-5},
        "data": {"source": "tb", "path": "data/ChinaSet_AllFiles", "image_size": SIZES[size]},
        "optimizer": _momentum(0.002, 50),
        "train": {
            "steps": 1000,
            "batch_size": 32,
            "log_every": 10,
            "checkpoint_every": 100,
            "eval_every": 100,
            "ema": {"decay": 0.99},
            "keep": {"last": 1, "best": "tune/auc"},
        },
        "stages": ({"name": "head", "until": 100, "task": {"trains": "head"}}, {"name": "all"}),
        "init_from": {"path": "start", "skip": (HEAD,)},
        "mesh": {"data": -1},
        "evaluators": {"tune": {"split": "tune"}, "test": {"split": "test"}},
    }


def _momentum(peak: float, warmup: int) -> dict[str, Any]:
    return {
        "name": "momentum",
        "momentum": 0.9,
        "learning_rate": {"name": "cosine", "peak": peak, "warmup_steps": warmup},
    }


def _chosen(argument: str | None, known: tuple[str, ...]) -> str:
    if argument is None:
        return known[0]
    if argument not in known:
        raise UserError(f"variant {argument!r}: choose one of {', '.join(known)}")
    return argument
