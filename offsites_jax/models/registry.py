"""Backbones by name. The table is written down here; a family is imported when first asked for.

model = create_model("efficientnet_v2_s", num_classes=10, dtype="bfloat16")
"""

import dataclasses
import difflib
import fnmatch
import importlib
from collections.abc import Callable, Iterable, Mapping
from typing import TYPE_CHECKING, Any

from offsites_jax.errors import UserError

if TYPE_CHECKING:
    import flax.linen as nn

_FAMILIES = {
    "offsites_jax.models.efficientnet:variant": (
        *(f"efficientnet_v2_{size}" for size in ("b0", "b1", "b2", "b3", "s", "m", "l", "xl")),
        *(f"efficientnet_b{size}" for size in range(9)),
        "efficientnet_l2",
    ),
    "offsites_jax.models.coatnet:variant": (
        *(f"coatnet_{size}" for size in range(7)),
        "coatnet_6_table12",
        "coatnet_7",
        *(f"coatnet_{size}_rw_224" for size in ("pico", "nano", "0", "1", "2", "3", "bn_0")),
        *(f"coatnet_rmlp_{size}_rw_224" for size in ("nano", "0", "1", "2", "3")),
        "coatnet_rmlp_1_rw2_224",
        "coatnet_rmlp_2_rw_384",
    ),
    "offsites_jax.models.resnet:variant": tuple(f"resnet_{depth}" for depth in (10, 18, 34, 50, 101, 152)),
}
"""``module:function`` to the names it knows; the function takes a name and gives its `Variant`."""

_NOT_SETTINGS = ("parent", "name")
"""Fields every Linen module has, which say where it sits and not what it is."""


@dataclasses.dataclass(frozen=True)
class Variant:
    """A published member of a model family.

    Attributes:
        module: its class; the dataclass fields of it are what may be overridden.
        settings: the values of those fields that make this variant.
        train_size: side in pixels of the images it was published to train on.
        eval_size: the same for evaluation.

    """

    module: "type[nn.Module]"
    settings: Mapping[str, Any]
    train_size: int
    eval_size: int


@dataclasses.dataclass(frozen=True)
class ModelInfo:
    """A row of the model list.

    Attributes:
        name: as `create_model` takes it.
        params: number of trainable values.
        stats: number of values in the running statistics.
        train_size: side of training images in pixels.
        eval_size: side of evaluation images in pixels.

    """

    name: str
    params: int
    stats: int
    train_size: int
    eval_size: int


def list_models(pattern: str = "*") -> list[str]:
    """Names that match a shell pattern such as ``"*_b?"``, in the order of the table."""
    names = [name for family in _FAMILIES.values() for name in family]
    return fnmatch.filter(names, pattern)


def create_model(name: str, **overrides: Any) -> "nn.Module":
    """Make the backbone called ``name``, with some of its settings replaced.

    Args:
        name: one of `list_models`.
        **overrides: fields of the model's class. A mapping given for a group of settings, such as
            ``norm={"statistics": "group", "group_size": 32}``, replaces only what it names. Lists
            are taken for tuples, so values may come straight from a configuration file.

    Raises:
        UserError: if the name, an override or its type is not one the model knows.

    """
    found = _variant(name)
    fields = {f.name: f for f in dataclasses.fields(found.module) if f.name not in _NOT_SETTINGS}
    settings = dict(found.settings)
    for key, value in overrides.items():
        if key not in fields:
            raise UserError(f"model {name!r} has no setting {key!r}{_nearest(key, fields)}")
        settings[key] = _fitted(f"{name}.{key}", settings.get(key, fields[key].default), value)
    return found.module(**settings)


def model_info(name: str) -> ModelInfo:
    """Count the parameters and statistics of a model as published, without allocating them.

    Raises:
        UserError: if there is no such model.

    """
    from offsites_jax.models.counting import count_variables

    found = _variant(name)
    # Drop rates differ from block to block, and hold no values.
    fields = {field.name for field in dataclasses.fields(found.module)}
    same = {"stochastic_depth_rate": 0.0} if "stochastic_depth_rate" in fields else {}
    counts = count_variables(create_model(name, **same), found.eval_size)
    return ModelInfo(name, counts["params"], counts["batch_stats"], found.train_size, found.eval_size)


def _variant(name: str) -> Variant:
    for path, names in _FAMILIES.items():
        if name in names:
            module, _, function = path.partition(":")
            describe: Callable[[str], Variant] = getattr(importlib.import_module(module), function)
            return describe(name)
    raise UserError(f"there is no model {name!r}{_nearest(name, list_models())}")


def _nearest(name: str, known: Iterable[str]) -> str:
    close = difflib.get_close_matches(name, list(known), n=3, cutoff=0.5)
    return f": did you mean {', '.join(close)}?" if close else f": known are {', '.join(known)}"


def _fitted(where: str, default: Any, value: Any) -> Any:
    """Check a value from a configuration against the default it replaces, and make it hashable."""
    if dataclasses.is_dataclass(default) and hasattr(value, "items"):
        known = {f.name: getattr(default, f.name) for f in dataclasses.fields(default)}
        for key in value:
            if key not in known:
                raise UserError(f"{where} has no setting {key!r}{_nearest(key, known)}")
        changes = {key: _fitted(f"{where}.{key}", known[key], v) for key, v in value.items()}
        return dataclasses.replace(default, **changes)  # type: ignore[type-var]
    if where.endswith("dtype"):
        return _dtype(where, value)
    if isinstance(value, list | tuple):
        value = tuple(value)
    kinds = _KINDS.get(type(default))
    # A bool is an int to Python, and no number to anyone who writes a configuration.
    if kinds and (not isinstance(value, kinds) or (bool not in kinds and isinstance(value, bool))):
        raise UserError(f"{where} is {value!r}: it must be a {type(default).__name__}")
    return value


def _dtype(where: str, value: Any) -> Any:
    import jax.numpy as jnp

    try:
        dtype = jnp.dtype(value)
    except TypeError:
        dtype = None
    if dtype is None or not jnp.issubdtype(dtype, jnp.floating):
        raise UserError(f"{where} is {value!r}: it must be a float type such as 'bfloat16'")
    return dtype


_KINDS: Mapping[type, tuple[type, ...]] = {
    bool: (bool,),
    int: (int,),
    float: (int, float),
    str: (str,),
    tuple: (tuple,),
}
