"""One JAX trainer, eleven systems.

Names load on first use, so importing the package is instant and `offsites --help` needs no JAX.
"""

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from offsites_jax.export.load import load as load_export
    from offsites_jax.models.registry import create_model, list_models
    from offsites_jax.parallel.start import start
    from offsites_jax.train.config import load_experiment
    from offsites_jax.train.restore import evaluate, restore

__version__ = "0.1.0"

__all__ = [
    "create_model",
    "evaluate",
    "list_models",
    "load_experiment",
    "load_export",
    "restore",
    "start",
    "train",
    "weights",
]

# `train` is the room of that name, which can be called; `weights` is a module.
_HOMES = {
    "create_model": "models.registry:create_model",
    "evaluate": "train.restore:evaluate",
    "list_models": "models.registry:list_models",
    "load_experiment": "train.config:load_experiment",
    "load_export": "export.load:load",
    "restore": "train.restore:restore",
    "start": "parallel.start:start",
}


def __getattr__(name: str) -> Any:
    if name in ("train", "weights"):
        return importlib.import_module(f"{__name__}.{name}")
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    module, _, attribute = _HOMES[name].partition(":")
    return getattr(importlib.import_module(f"{__name__}.{module}"), attribute)


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
