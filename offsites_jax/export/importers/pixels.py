"""How pixels have to be normalised for published weights: that belongs to them, and no tensor tells it."""

import dataclasses
import json
import pathlib
import re
from typing import Literal

_HALF = (127.5, 127.5, 127.5)
_CENTRE = (128.0, 128.0, 128.0)
_IMAGENET = (123.675, 116.28, 103.53), (58.395, 57.12, 57.375)
_LIMIT = 1 << 20  # bytes of a configuration worth reading

_UNTAGGED_HALF = ("efficientnet_v2_b3", "efficientnet_b8")
"""Networks that timm, asked for them without a tag, takes weights of that are not the usual ones."""


@dataclasses.dataclass(frozen=True)
class Pixels:
    """Settings of section `data` that weights expect.

    Attributes:
      mean: subtracted from pixels of 0..255.
      std: what they are divided by.
      preprocess: how their images were cropped and resized, where that is one of ours; else empty.
      why: what it was seen by.

    """

    mean: tuple[float, ...]
    std: tuple[float, ...]
    preprocess: Literal["v1", "v2", ""]
    why: str


def pixels_of(model_name: str, source: str, path: pathlib.Path) -> Pixels | None:
    """What the weights of a file expect; nothing where it is anyone's own training that decided.

    Args:
      model_name: of `list_models`.
      source: whose names the file uses.
      path: the file. Beside it there may be a `config.json`, of timm's repositories or of our exports; else
        names decide, of the file and the folders it is in.

    """
    if source == "maxvit":
        return None
    if stated := _stated(path.with_name("config.json")):
        return Pixels(*stated, "", "config.json beside the file")
    large = model_name in {f"efficientnet_v2_{size}" for size in ("s", "m", "l", "xl")}
    preprocess: Literal["v1", "v2", ""] = "v2" if large else "v1" if "efficientnet" in model_name else ""
    if source.startswith("timm"):
        half, why = _of_timm(model_name, path, large)
        return Pixels(*((_HALF, _HALF) if half else _IMAGENET), preprocess, why)
    if large:
        return Pixels(_CENTRE, _CENTRE, preprocess, f"{model_name} of {source}")
    words = set(re.findall(r"[a-z0-9]+", "/".join(path.parts[-3:]).lower()))
    if source == "automl" and words & {"advprop", "ap"}:
        return Pixels(_HALF, _HALF, preprocess, "AdvProp, by the name of the file")
    return Pixels(*_IMAGENET, preprocess, f"{model_name} of {source}")


def describe(pixels: Pixels | None) -> str:
    """A sentence and code for the README of an import."""
    if pixels is None:
        return "Pixels have to be normalised as for the model the weights were trained in."
    return (
        f"Pixels of 0..255 have to be normalised by `config.data.mean = {pixels.mean}` and "
        f"`config.data.std = {pixels.std}` ({pixels.why})."
    )


def _of_timm(model_name: str, path: pathlib.Path, large: bool) -> tuple[bool, str]:
    """Whether mean and deviation are a half in timm, and why."""
    if model_name.startswith("coatnet"):
        return "_bn_" not in model_name, f"{model_name} of timm"
    if large:
        return True, f"{model_name} of timm"
    plain = model_name.startswith("resnet")
    there = model_name.replace("_", "") if plain else "tf_" + model_name.replace("_v2", "v2")
    # The file's own name comes first, then the folders around it.
    part = next((part for part in reversed(path.parts) if there in part), "")
    words = re.findall(r"[a-z0-9]+", part.partition(there)[2].lower().removesuffix(path.suffix))
    if not words:  # timm's own choice for a name without a tag
        return model_name in _UNTAGGED_HALF, f"{there} of timm without a tag"
    half = "ra4" in words if plain else "ap" in words or any(word.startswith("in21") for word in words)
    return half, f"by the name {part}"


def _stated(file: pathlib.Path) -> tuple[tuple[float, ...], tuple[float, ...]] | None:
    """Mean and deviation for 0..255 that a configuration gives, timm's for 0..1 or ours, if it is one."""
    try:
        if file.stat().st_size > _LIMIT:
            return None
        found = json.loads(file.read_text())
        section, scale = (
            (found["pretrained_cfg"], 255.0) if "pretrained_cfg" in found else (found["data"], 1.0)
        )
        mean, std = (tuple(round(scale * value, 6) for value in section[key]) for key in ("mean", "std"))
    except (OSError, ValueError, KeyError, TypeError):
        return None
    return mean, std
