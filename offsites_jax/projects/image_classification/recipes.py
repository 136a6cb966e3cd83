"""The published recipes as experiment configurations, for the files in experiments/image_classification.

Each function returns plain sections, so that a file may change any of it before handing it on. Sources:
EfficientNetV2 arXiv 2104.00298 and google/automl (efficientnetv2), CoAtNet arXiv 2106.04803, table 10.
"""

from typing import Any, Literal, NamedTuple

from offsites_jax.errors import UserError
from offsites_jax.projects.image_classification.progressive import (
    Regularisation,
    Stages,
    progressive_stages,
    random_resize_stages,
)
from offsites_jax.train.schema import nearest

Config = dict[str, Any]

IMAGENET, IMAGENET_21K = 1_281_167, 12_720_275
PAPER_V2, PAPER_COATNET = "arXiv 2104.00298", "arXiv 2106.04803"

_RGB_MEAN, _RGB_STD = (123.675, 116.28, 103.53), (58.395, 57.12, 57.375)
_V1_PIXELS = {"preprocess": "v1", "crop_area": (0.08, 1.0), "mean": _RGB_MEAN, "std": _RGB_STD}
# (x / 255 - 0.5) / 0.5, which is not quite what the scratch recipes do.
_HALF = {"mean": (127.5,), "std": (127.5,)}
_IMAGENET_1K = {
    "source": "tfds",
    "name": "imagenet2012",
    "loading": {"num_workers": 16},
    "splits": {
        # For `offsites eval --config.evaluators.real.split=real`, where they are prepared.
        "real": {
            "name": "imagenet2012_real", "split": "validation", "label_key": "real_label", "max_labels": 32,
        },
        "v2": {"name": "imagenet_v2/matched-frequency", "split": "test"},
    },
}  # fmt: skip
_IMAGENET_21K = {
    "source": "tfrecord",
    "path": "/data/imagenet21k/imagenet21k*",
    "label_key": "labels",
    "max_labels": 32,
    "shards": (20, 0),
    "splits": {"eval": {"shards": (0, 16)}, "minival": {"shards": (16, 20)}},
    "loading": {"num_workers": 16},
}


class V2(NamedTuple):
    """How an EfficientNetV2 is trained from scratch: sizes in pixels, and table 6."""

    train_size: int
    eval_size: int
    regularisation: Regularisation
    accuracy: float
    accuracy_21k: float


V2_MODELS = {
    "s": V2(300, 384, Regularisation(magnitude=(5, 15), dropout=(0.1, 0.3)), 0.839, 0.849),
    "m": V2(380, 480, Regularisation((5, 20), mixup=(0, 0.2), dropout=(0.1, 0.4)), 0.851, 0.862),
    "l": V2(380, 480, Regularisation((5, 25), mixup=(0, 0.5), dropout=(0.1, 0.5)), 0.857, 0.868),
    "xl": V2(384, 512, Regularisation((5, 25), mixup=(0, 0.5), dropout=(0.1, 0.5)), 0.0, 0.873),
}
# Strongest of the released code, where dropout stays and CutMix is as strong as mixup.
_AUTOML = {
    "s": (300, Regularisation(magnitude=(5, 10))),
    "m": (384, Regularisation((5, 15), mixup=(0, 0.2), cutmix=(0, 0.2))),
    "l": (384, Regularisation((5, 20), mixup=(0, 0.5), cutmix=(0, 0.5))),
}
# Sizes in training and evaluation, and top-1 as the repository reports it.
_V2_SMALL = {
    "b0": (192, 224, 0.787),
    "b1": (192, 240, 0.798),
    "b2": (208, 260, 0.805),
    "b3": (240, 300, 0.821),
}


class CoAtNet(NamedTuple):
    """A column of table 10: stochastic depth, and RandAugment in fine-tuning."""

    depth_rate: float
    magnitude: float = 15


COATNETS = {"0": CoAtNet(0.2), "1": CoAtNet(0.3), "2": CoAtNet(0.5), "3": CoAtNet(0.7, 20)}
_COATNET_ACCURACY = {  # by model and pixels, ImageNet-1k only
    ("0", 224): 0.816, ("1", 224): 0.833, ("2", 224): 0.841, ("3", 224): 0.845,
    ("0", 384): 0.839, ("1", 384): 0.851, ("2", 384): 0.857, ("3", 384): 0.858,
    ("2", 512): 0.859, ("3", 512): 0.860,
}  # fmt: skip
_COATNET_21K_ACCURACY = {  # by pre-training (RandAugment, 150 epochs) and pixels, on ImageNet-1k
    ("2", 224): 0.871, ("3", 224): 0.876, ("2", 384): 0.871, ("3", 384): 0.876, ("4", 384): 0.879,
    ("2", 512): 0.873, ("3", 512): 0.879, ("4", 512): 0.881,
    ("4-ra", 384): 0.883, ("4-ra", 512): 0.884, ("4-ra-150", 384): 0.884, ("4-ra-150", 512): 0.8856,
}  # fmt: skip


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


def efficientnet_v2(size: str, schedule: Literal["paper", "automl"] = "paper") -> Config:
    """EfficientNetV2-S, M or L on ImageNet-1k from scratch, by progressive learning."""
    about = V2_MODELS[size]
    config = _from_scratch(f"efficientnet_v2_{size}", about.accuracy, f"{PAPER_V2}, table 7")
    config["data"] |= {"image_size": about.train_size, "eval_size": about.eval_size, "augment": "randaugment"}
    if schedule == "paper":
        config["stages"] = progressive_stages((128, about.train_size), about.regularisation)
    else:
        largest, regularisation = _AUTOML[size]
        config["stages"] = progressive_stages((128, largest), regularisation, schedule="automl")
    return config


def efficientnet_v2_small(size: str) -> Config:
    """EfficientNetV2-B0 to B3 on ImageNet-1k, trained as EfficientNet was."""
    train_size, eval_size, accuracy = _V2_SMALL[size]
    return efficientnet_v1(f"efficientnet_v2_{size}", train_size, eval_size, accuracy, "google/automl")


def efficientnet_v1(name: str, train_size: int, eval_size: int, accuracy: float, source: str) -> Config:
    """Any network on ImageNet-1k by the recipe of EfficientNet: AutoAugment, one image size."""
    config = _from_scratch(name, accuracy, source)
    config["data"] |= {
        "image_size": train_size, "eval_size": eval_size, "augment": "autoaugment", **_V1_PIXELS,
    }  # fmt: skip
    return config


def efficientnet_v2_21k(size: str, epochs: int = 60) -> Config:
    """EfficientNetV2 on the multi-label ImageNet-21k: no augmentation, no dropout, cosine decay."""
    overrides = {"dropout_rate": 0.0, "stochastic_depth_rate": 0.0}
    config = _base(f"efficientnet_v2_{size}", 21_843, overrides, 4096, epochs, IMAGENET_21K)
    config["task"] = {"loss": "multilabel_softmax", "label_smoothing": 0.0, "l2": 1e-5}
    config["data"] = {**_IMAGENET_21K, "image_size": 224}
    config["optimizer"] = {
        "name": "rmsprop_tf",
        "learning_rate": _cosine(0.128, epochs_to_steps(1, 4096, IMAGENET_21K)),
    }
    config["train"] |= {"ema": {"decay": 0.9999}, "keep": {"last": 3}}
    config["evaluators"] = {"eval": {"split": "eval"}}
    return config


def efficientnet_v2_21k_to_1k(size: str) -> Config:
    """Fine-tunes an EfficientNetV2 from ImageNet-21k on ImageNet-1k (google/automl, ImagenetFt)."""
    about = V2_MODELS[size]
    batch_size, epochs = 512, 15
    config = _base(f"efficientnet_v2_{size}", 1000, {"dropout_rate": 0.0}, batch_size, epochs)
    config["task"] = {"label_smoothing": 0.1, "l2": 1e-5}
    config["data"] = {**_IMAGENET_1K, **_fine_tuning_pixels(about.eval_size)}
    warmup = epochs_to_steps(1, batch_size)
    config["optimizer"] = {"name": "rmsprop_tf", "learning_rate": {"peak": 1e-3, "warmup_steps": warmup}}
    config["train"] |= {"ema": {"decay": 0.9996}}
    config["init_from"] = {
        "path": f"workdirs/imagenet21k_v2_{size}", "skip": ("^params/classifier/",),
    }  # fmt: skip
    return _evaluated(config, about.accuracy_21k, f"{PAPER_V2}, table 7")


class Transfer(NamedTuple):
    """A data set to transfer to: TFDS name and splits, classes, and top-1 of V2-S, M and L (table 8)."""

    name: str
    train_split: str
    classes: int
    accuracy: dict[str, float]


TRANSFERS = {
    "cifar10": Transfer("cifar10", "train", 10, {"s": 0.987, "m": 0.990, "l": 0.991}),
    "cifar100": Transfer("cifar100", "train", 100, {"s": 0.915, "m": 0.922, "l": 0.923}),
    "flowers": Transfer("oxford_flowers102", "train+validation", 102, {"s": 0.979, "m": 0.985, "l": 0.988}),
    "cars": Transfer("cars196", "train", 196, {"s": 0.938, "m": 0.946, "l": 0.951}),
}


def efficientnet_v2_transfer(size: str, target: str) -> Config:
    """Fine-tunes an EfficientNetV2 trained on ImageNet-1k on a small data set (section 5.3)."""
    to = TRANSFERS[target]
    config = _base(f"efficientnet_v2_{size}", to.classes, {"dropout_rate": 0.0}, 512, 0)
    config["task"] = {"label_smoothing": 0.1}
    config["data"] = {
        "source": "tfds",
        "name": to.name,
        "train_split": to.train_split,
        "loading": {"num_workers": 16},
        **_fine_tuning_pixels(V2_MODELS[size].eval_size),
    }
    config["optimizer"] = {"name": "rmsprop_tf", "learning_rate": _cosine(1e-3, 0)}
    config["train"] |= {"steps": 10_000, "ema": {"decay": 0.9996}, "eval_every": 2000}
    config["init_from"] = {"path": f"workdirs/imagenet_v2_{size}", "skip": ("^params/classifier/",)}
    return _evaluated(config, to.accuracy[size], f"{PAPER_V2}, table 8; mean of 5 runs", split="test")


def coatnet(size: str) -> Config:
    """CoAtNet-0 to 3 on ImageNet-1k from scratch at 224 pixels."""
    about = COATNETS[size]
    config = _base(f"coatnet_{size}", 1000, {"stochastic_depth_rate": about.depth_rate}, 4096, 300)
    config["task"] = {"label_smoothing": 0.1, "mixup_alpha": 0.8}
    config["data"] = {**_IMAGENET_1K, "image_size": 224, **_V1_PIXELS, **_randaugment(15)}
    config["optimizer"] = _adamw(0.05, _cosine(1e-3, 10_000, end=1e-5))
    return _evaluated(config, _COATNET_ACCURACY[size, 224], f"{PAPER_COATNET}, table 4")


def coatnet_fine_tuning(size: str, pixels: int) -> Config:
    """Fine-tunes a CoAtNet of ImageNet-1k on larger images; the network resizes its relative biases."""
    about = COATNETS[size]
    config = _coatnet_tuned(size, pixels, 512, about.depth_rate, f"workdirs/imagenet_coatnet_{size}")
    config["task"]["mixup_alpha"] = 0.8
    config["data"] |= _randaugment(about.magnitude)
    return _evaluated(config, _COATNET_ACCURACY.get((size, pixels), 0.0), f"{PAPER_COATNET}, table 4")


def coatnet_21k(size: str, epochs: int = 90, randaugment: bool = False) -> Config:
    """CoAtNet-2 to 4 on ImageNet-21k at 224 pixels, each class a question of its own."""
    rate = {"2": 0.3, "3": 0.5, "4": 0.7}[size]
    config = _base(f"coatnet_{size}", 21_843, {"stochastic_depth_rate": rate}, 4096, epochs, IMAGENET_21K)
    config["task"] = {"loss": "sigmoid", "label_smoothing": 1e-4}
    config["data"] = {**_IMAGENET_21K, "image_size": 224, **_V1_PIXELS}
    if randaugment:
        config["data"] |= _randaugment(5)
    warmup = epochs_to_steps(5, 4096, IMAGENET_21K)
    config["optimizer"] = _adamw(0.01, _linear(1e-3, warmup, end=1e-5))
    config["train"]["keep"] = {"last": 3}
    config["evaluators"] = {"eval": {"split": "eval"}}
    return config


def coatnet_21k_to_1k(pretrained: str, pixels: int) -> Config:
    """Fine-tunes a CoAtNet of ImageNet-21k on ImageNet-1k, with RandAugment if it was pre-trained so.

    Args:
      pretrained: its size, and how it was pre-trained: "4", "4-ra" (RandAugment), "4-ra-150" (150 epochs).
      pixels: side of the images.
    """
    size, _, how = pretrained.partition("-")
    rate = {"2": 0.3, "3": 0.5, "4": 0.7}[size]
    config = _coatnet_tuned(size, pixels, 1024, rate, f"workdirs/imagenet21k_coatnet_{pretrained}")
    config["init_from"]["skip"] = ("^params/head/logits/",)
    if how:
        config["data"] |= _randaugment(5)
    return _evaluated(config, _COATNET_21K_ACCURACY[pretrained, pixels], f"{PAPER_COATNET}, table 4")


def coatnet_table(size: str, images: int, classes: int, epochs: int = 14) -> Config:
    """The recipe of JFT on a table of multi-label images of one's own: CoAtNet-3, 4 or 5."""
    rate, peak = {"3": (0.0, 1e-3), "4": (0.1, 5e-4), "5": (0.0, 5e-4)}[size]
    config = _base(f"coatnet_{size}", classes, {"stochastic_depth_rate": rate}, 4096, epochs, images)
    config["task"] = {"loss": "sigmoid", "label_smoothing": 1e-4}
    config["data"] = {
        "source": "table",
        "path": "/data/table",
        "max_labels": 32,
        "image_size": 224,
        "loading": {"num_workers": 16},
        **_V1_PIXELS,
        **_randaugment(5),
    }
    config["optimizer"] = _adamw(0.01, _linear(peak, 20_000, end=1e-5))
    config["train"]["keep"] = {"last": 3}
    config["evaluators"] = {"val": {"split": "val"}}
    return config


def fused_b4(stages: int, accuracy: float) -> Config:
    """EfficientNet-B4 whose first stages are Fused-MBConv (table 3)."""
    from offsites_jax.models.efficientnet import variant

    blocks = variant("efficientnet_b4").settings["blocks"]
    fused = [f"{block.replace('_se0.25', '')}_c1" for block in blocks[:stages]]
    config = efficientnet_v1("efficientnet_b4", 304, 380, accuracy, f"{PAPER_V2}, table 3")
    config["model"]["overrides"]["blocks"] = (*fused, *blocks[stages:])
    return config


def resized(name: str, pixels: int, accuracy: float, *, progressive: bool) -> Config:
    """ResNet or EfficientNet on ImageNet-1k with one size, or with progressive learning (table 12)."""
    config = _from_scratch(name, accuracy, f"{PAPER_V2}, table 12")
    config["data"] |= {"image_size": pixels, "augment": "randaugment", "magnitude": 15}
    if progressive:
        config["stages"] = progressive_stages((128, pixels), V2_MODELS["s"].regularisation)
    return config


def resizing_arm(order: Literal["progressive", "random"], *, adaptive: bool) -> Config:
    """EfficientNetV2-S in one of the four arms of table 13."""
    config = efficientnet_v2("s")
    size, regularisation = (128, V2_MODELS["s"].train_size), V2_MODELS["s"].regularisation
    stages: Stages
    if order == "progressive":
        stages = progressive_stages(size, regularisation, adaptive=adaptive)
    else:
        stages = random_resize_stages(size, regularisation, epochs=350, adaptive=adaptive)
    config["stages"] = stages
    config["expected"] = {}  # the table's networks are others
    return config


def _base(
    name: str, classes: int, overrides: Config, batch_size: int, epochs: float, images: int = IMAGENET
) -> Config:
    """What all full-scale runs share: model, length, replicated parameters, and whose moments normalise.

    google/automl averages moments over 8 of its 32 cores, whatever the batch: over a quarter of it.
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
        },
        "mesh": {"data": -1},
        "sharding": {"rules": ((".*", "replicated"),)},
    }


def _from_scratch(name: str, accuracy: float, source: str) -> Config:
    """350 epochs of ImageNet-1k with RMSProp, as all EfficientNets are trained."""
    epoch = IMAGENET / 4096
    config = _base(name, 1000, {}, 4096, 350)
    config["task"] = {"label_smoothing": 0.1, "l2": 1e-5}
    config["data"] = dict(_IMAGENET_1K)
    config["optimizer"] = {
        "name": "rmsprop_tf",
        "learning_rate": {
            "name": "exponential",
            "peak": 0.256,
            "warmup_steps": int(5 * epoch),
            "factor": 0.97,
            "period": 2.4 * epoch,
            "staircase": True,
        },
    }
    config["train"]["ema"] = {"decay": 0.9999}
    return _evaluated(config, accuracy, source)


def _coatnet_tuned(size: str, pixels: int, batch_size: int, rate: float, pretrained: str) -> Config:
    """30 epochs of ImageNet-1k at a constant rate, on whole images at evaluation."""
    overrides = {"stochastic_depth_rate": rate, "table_image_size": (224, 224)}
    config = _base(f"coatnet_{size}", 1000, overrides, batch_size, 30)
    config["task"] = {"label_smoothing": 0.1}
    pixels_as_before = {**_V1_PIXELS, "preprocess": "v2", "eval_crop": "whole"}
    config["data"] = {**_IMAGENET_1K, "image_size": pixels, **pixels_as_before}
    config["optimizer"] = _adamw(1e-8, {"peak": 5e-5})
    config["train"]["ema"] = {"decay": 0.9999}
    config["init_from"] = {"path": pretrained}
    return config


def _evaluated(config: Config, accuracy: float, source: str, split: str = "validation") -> Config:
    """Evaluates on a split, keeps the best checkpoint by it, and expects a published figure."""
    config["train"]["keep"] = {"last": 3, "best": f"{split}/accuracy"}
    config["evaluators"] = {split: {"split": split, "pictures": False}}
    if accuracy:
        config["expected"] = {f"{split}/accuracy": {"value": accuracy, "tolerance": 0.003, "source": source}}
    return config


def _adamw(weight_decay: float, learning_rate: Config) -> Config:
    return {"name": "adamw", "learning_rate": learning_rate, "weight_decay": weight_decay, "clip_norm": 1.0}


def _cosine(peak: float, warmup: int, end: float = 0.0) -> Config:
    return {"name": "cosine", "peak": peak, "warmup_steps": warmup, "end": end}


def _linear(peak: float, warmup: int, end: float) -> Config:
    return {"name": "linear", "peak": peak, "warmup_steps": warmup, "end": end}


def _randaugment(magnitude: float) -> Config:
    return {"augment": "randaugment", "magnitude": magnitude, "num_ops": 2}


def _fine_tuning_pixels(pixels: int) -> Config:
    """Whole images, flipped, with a square of noise half as wide as they are."""
    return {"image_size": pixels, "preprocess": "whole", "cutout": 0.5, "cutout_fill": "noise", **_HALF}
