"""Options of a target, declared once as the fields of its settings."""

import argparse
import dataclasses
from collections.abc import Mapping
from typing import Any, TypeVar

from offsites_jax.errors import UserError

T = TypeVar("T")


def option(about: str, default: Any = dataclasses.MISSING) -> Any:
    """A field that is also an option; without a default it must be given."""
    return dataclasses.field(default=default, metadata={"help": about})


def add_options(parser: argparse.ArgumentParser, targets: Mapping[str, type]) -> None:
    """Adds the options of all targets, each once, grouped by who understands them."""
    uses: dict[str, dict[str, dataclasses.Field[Any]]] = {}
    for target, settings in targets.items():
        for field in dataclasses.fields(settings):
            uses.setdefault(field.name, {})[target] = field
    groups: dict[str, Any] = {}
    for name, fields in uses.items():
        title = f"--on {', '.join(fields)}"
        if title not in groups:
            groups[title] = parser.add_argument_group(title)
        groups[title].add_argument(flag(name), **_reading(fields))


def settings_of(options: argparse.Namespace, target: str, targets: Mapping[str, type[T]]) -> T:
    """The settings of the chosen target.

    Raises:
      UserError: an option is missing, or belongs to another target.

    """
    given = {
        field.name: getattr(options, field.name)
        for settings in targets.values()
        for field in dataclasses.fields(settings)  # type: ignore[arg-type]
        if hasattr(options, field.name)
    }
    fields = {field.name: field for field in dataclasses.fields(targets[target])}  # type: ignore[arg-type]
    for name in given:
        if name not in fields:
            raise UserError(f"{flag(name)}: means nothing to --on {target}; leave it out")
    for name, field in fields.items():
        if field.default is dataclasses.MISSING and not given.get(name):
            raise UserError(f"{flag(name)}: needed by --on {target}: {field.metadata['help']}")
    return targets[target](**given)


def flag(name: str) -> str:
    """The option of a field."""
    return f"--{name.replace('_', '-')}"


def _reading(fields: Mapping[str, dataclasses.Field[Any]]) -> dict[str, Any]:
    """How argparse reads an option, by the targets that have it; one that is not given leaves no trace."""
    field = next(iter(fields.values()))
    defaults = {
        f"{f.default} on {target}": f.default
        for target, f in fields.items()
        if f.default not in (dataclasses.MISSING, "", -1)
    }
    about = field.metadata["help"].replace("%", "%%")
    if field.type is bool:
        return {"action": "store_true", "default": argparse.SUPPRESS, "help": about}
    if any(defaults.values()):
        same = len(set(defaults.values())) == 1
        about += f" (default {field.default if same else ', '.join(defaults)})"
    reading: dict[str, Any] = {"default": argparse.SUPPRESS, "help": about, "type": field.type}
    if field.type is int:
        reading["metavar"] = "N"
    return reading
