"""Recipes of CoAtNet (arXiv 2106.04803, table 10) for ImageNet-1k, ImageNet-21k and a table of one's own."""

from typing import NamedTuple

from offsites_jax.projects.image_classification.recipes.shared import (
    IMAGENET_1K,
    IMAGENET_21K,
    MULTI_LABEL_21K,
    V1_PIXELS,
    Config,
    adamw,
    base,
    cosine,
    epochs_to_steps,
    evaluated,
    expect,
    linear,
    randaugment,
)

PAPER = "arXiv 2106.04803"


class Small(NamedTuple):
    """On ImageNet-1k: stochastic depth, RandAugment in fine-tuning, accuracy by pixels where published."""

    depth_rate: float
    magnitude: float
    accuracy: dict[int, float]


SMALL = {
    "0": Small(0.2, 15, {224: 0.816, 384: 0.839}),
    "1": Small(0.3, 15, {224: 0.833, 384: 0.851}),
    "2": Small(0.5, 15, {224: 0.841, 384: 0.857, 512: 0.859}),
    "3": Small(0.7, 20, {224: 0.845, 384: 0.858, 512: 0.860}),
    # Not in the paper: the strongest regularisation that is.
    "4": Small(0.7, 20, {}),
}
DEPTH_RATES_21K = {"2": 0.3, "3": 0.5, "4": 0.7}
_ACCURACY_21K = {  # by pre-training (RandAugment, 150 epochs) and pixels, on ImageNet-1k
    ("2", 224): 0.871, ("3", 224): 0.876, ("2", 384): 0.871, ("3", 384): 0.876, ("4", 384): 0.879,
    ("2", 512): 0.873, ("3", 512): 0.879, ("4", 512): 0.881,
    ("4-ra", 384): 0.883, ("4-ra", 512): 0.884, ("4-ra-150", 384): 0.884, ("4-ra-150", 512): 0.8856,
}  # fmt: skip
_COMPARED = f"{PAPER}, tables 4, 13 and 14"


class Large(NamedTuple):
    """By the recipe of JFT: rate and stochastic depth in pre-training, stochastic depth in fine-tuning."""

    peak: float
    depth_rate: float
    tuned_depth_rate: float
    accuracy: dict[int, float]
    fsdp: int = 1


LARGE = {
    "3": Large(1e-3, 0.0, 0.1, {384: 0.8852, 512: 0.8881}),
    "4": Large(5e-4, 0.1, 0.3, {512: 0.8911}),
    "5": Large(5e-4, 0.0, 0.2, {512: 0.8977}, fsdp=8),
    # Table 10 ends at CoAtNet-5, whose settings these have.
    "6": Large(5e-4, 0.0, 0.2, {512: 0.9045}, fsdp=32),
    "7": Large(5e-4, 0.0, 0.2, {512: 0.9088}, fsdp=32),
}
# Heads, hidden units and classes split over `tensor`, an axis of one unless `mesh.tensor` says more.
_SPLIT = (
    (r"block_\d+/attn/(query|key|value)/kernel$", ("fsdp", "tensor", None)),
    (r"blocks_\d+_\d+/attn/(query|key|value)/kernel$", (None, "fsdp", "tensor", None)),
    (r"block_\d+/attn/out/kernel$", ("tensor", None, "fsdp")),
    (r"blocks_\d+_\d+/attn/out/kernel$", (None, "tensor", None, "fsdp")),
    (r"block_\d+/ffn/expand/kernel$", ("fsdp", "tensor")),
    (r"blocks_\d+_\d+/ffn/expand/kernel$", (None, "fsdp", "tensor")),
    (r"block_\d+/ffn/shrink/kernel$", ("tensor", "fsdp")),
    (r"blocks_\d+_\d+/ffn/shrink/kernel$", (None, "tensor", "fsdp")),
    ("head/logits/kernel$", ("fsdp", "tensor")),
    (".*", "fsdp"),
)


def scratch_1k(size: str) -> Config:
    """CoAtNet-0 to 4 on ImageNet-1k from scratch at 224 pixels."""
    about = SMALL[size]
    config = base(f"coatnet_{size}", 1000, {"stochastic_depth_rate": about.depth_rate}, 4096, 300)
    config["task"] = {"label_smoothing": 0.1, "mixup_alpha": 0.8}
    config["data"] = {**IMAGENET_1K, "image_size": 224, **V1_PIXELS, **randaugment(15)}
    config["optimizer"] = adamw(0.05, cosine(1e-3, 10_000, end=1e-5))
    return expect(evaluated(config), about.accuracy.get(224), _COMPARED)


def fine_tuned_1k(size: str, pixels: int) -> Config:
    """Fine-tunes a CoAtNet of ImageNet-1k on larger images; the network resizes its relative biases."""
    about = SMALL[size]
    config = _tuned(size, pixels, 512, about.depth_rate, f"workdirs/imagenet_coatnet_{size}")
    config["task"]["mixup_alpha"] = 0.8
    config["data"] |= randaugment(about.magnitude)
    return expect(config, about.accuracy.get(pixels), _COMPARED)


def scratch_21k(size: str, epochs: int = 90, with_randaugment: bool = False) -> Config:
    """CoAtNet-2 to 4 on ImageNet-21k at 224 pixels, each class a question of its own."""
    overrides = {"stochastic_depth_rate": DEPTH_RATES_21K[size]}
    config = base(f"coatnet_{size}", 21_843, overrides, 4096, epochs, IMAGENET_21K)
    config["task"] = {"loss": "sigmoid", "label_smoothing": 1e-4}
    config["data"] = {**MULTI_LABEL_21K, "image_size": 224, **V1_PIXELS}
    if with_randaugment:
        config["data"] |= randaugment(5)
    warmup = epochs_to_steps(5, 4096, IMAGENET_21K)
    config["optimizer"] = adamw(0.01, linear(1e-3, warmup, end=1e-5))
    config["evaluators"] = {"eval": {"split": "eval"}}
    return config


def fine_tuned_21k(pretrained: str, pixels: int) -> Config:
    """Fine-tunes a CoAtNet of ImageNet-21k on ImageNet-1k, with RandAugment if it was pre-trained so.

    Args:
      pretrained: its size, and how it was pre-trained: "4", "4-ra" (RandAugment), "4-ra-150" (150 epochs).
      pixels: side of the images.
    """
    size, _, how = pretrained.partition("-")
    path = f"workdirs/imagenet21k_coatnet_{pretrained}"
    config = _new_head(_tuned(size, pixels, 1024, DEPTH_RATES_21K[size], path))
    if how:
        config["data"] |= randaugment(5)
    return expect(config, _ACCURACY_21K[pretrained, pixels], _COMPARED)


def scratch_table(size: str, images: int, classes: int, epochs: int = 14) -> Config:
    """The recipe of JFT on a table of multi-label images of one's own: CoAtNet-3 to 7."""
    about = LARGE[size]
    overrides = {"stochastic_depth_rate": about.depth_rate, **_built(size)}
    config = base(f"coatnet_{size}", classes, overrides, 4096, epochs, images)
    config["task"] = {"loss": "sigmoid", "label_smoothing": 1e-4}
    config["data"] = {
        "source": "table",
        "path": "/data/table",
        "max_labels": 32,
        "image_size": 224,
        "loading": {"num_workers": 16},
        **V1_PIXELS,
        **randaugment(5),
    }
    config["optimizer"] = adamw(0.01, linear(about.peak, 20_000, end=1e-5))
    config["evaluators"] = {"val": {"split": "val"}}
    return _split(config, about.fsdp)


def fine_tuned_table(size: str, pixels: int) -> Config:
    """Fine-tunes what `scratch_table` trained on ImageNet-1k."""
    about = LARGE[size]
    path = f"workdirs/table_coatnet_{size}"
    config = _new_head(_tuned(size, pixels, 512, about.tuned_depth_rate, path))
    config["model"]["overrides"] |= _built(size)
    config["data"] |= randaugment(5)
    config = expect(config, about.accuracy.get(pixels), f"{PAPER}, table 5, pre-trained on JFT")
    return _split(config, about.fsdp)


def _built(size: str) -> Config:
    """What else the networks of the recipe are: CoAtNet-3 strides in depthwise convolutions (3† of table 5).

    The largest compute blocks again for the gradient, and equal blocks as a loop, whose parameters are
    gathered a block at a time.
    """
    if size == "3":
        return {"conv": {"downsample": "dw"}}
    return {"scan": True, "remat": True} if LARGE[size].fsdp > 1 else {}


def _split(config: Config, fsdp: int) -> Config:
    """The same with parameters and optimizer split over so many chips."""
    if fsdp > 1:
        config["mesh"] = {"data": -1, "fsdp": fsdp}
        config["sharding"] = {"rules": _SPLIT, "gather": "compiler"}
    return config


def _tuned(size: str, pixels: int, batch_size: int, rate: float, pretrained: str) -> Config:
    """30 epochs of ImageNet-1k at a constant rate, on whole images at evaluation."""
    overrides = {"stochastic_depth_rate": rate, "table_image_size": (224, 224)}
    config = base(f"coatnet_{size}", 1000, overrides, batch_size, 30)
    config["task"] = {"label_smoothing": 0.1}
    pixels_as_before = {**V1_PIXELS, "preprocess": "v2", "eval_crop": "whole"}
    config["data"] = {**IMAGENET_1K, "image_size": pixels, **pixels_as_before}
    config["optimizer"] = adamw(1e-8, {"peak": 5e-5})
    config["train"]["ema"] = {"decay": 0.9999}
    config["init_from"] = {"path": pretrained}
    return evaluated(config)


def _new_head(config: Config) -> Config:
    """The same with a classifier that is not taken from the checkpoint."""
    config["init_from"]["skip"] = ("^params/head/logits/",)
    return config
