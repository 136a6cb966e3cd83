"""Settings that weights of a source need, beside those a model has."""

import dataclasses
from collections.abc import Mapping
from typing import Any


def merged(needed: Mapping[str, Any], given: Mapping[str, Any]) -> dict[str, Any]:
    """Both, what is given first; of a group of settings only what is named."""
    both = {**needed, **given}
    for key, value in needed.items():
        if isinstance(value, Mapping) and isinstance(given.get(key), Mapping):
            both[key] = merged(value, given[key])
    return both


def unmet(model: Any, needed: Mapping[str, Any]) -> dict[str, tuple[Any, Any]]:
    """What a model has otherwise than needed: by name, such as `conv.activation`, that and what it has to be.

    Args:
      model: a module, or a group of its settings.
      needed: values of its fields; a mapping for a field that is a group.

    """
    found: dict[str, tuple[Any, Any]] = {}
    for key, value in needed.items():
        own = getattr(model, key)
        if isinstance(value, Mapping) and dataclasses.is_dataclass(own):
            found |= {f"{key}.{name}": pair for name, pair in unmet(own, value).items()}
        elif own != value:
            found[key] = own, value
    return found
