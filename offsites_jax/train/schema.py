"""Checks a plain config section against a dataclass, with errors that name the key and the nearest one."""

import dataclasses
import difflib
import types
import typing
from collections.abc import Mapping
from typing import Any, TypeVar

import msgspec

from offsites_jax.errors import UserError

T = TypeVar("T")


def parse(section: Mapping[str, Any], schema: type[T], where: str) -> T:
    """The section as an instance of the dataclass `schema`.

    Raises:
      UserError: for an unknown key, a missing one or a wrong type; the message names the full key.

    """
    check_keys(section, schema, where)
    try:
        return msgspec.convert(section, schema)
    except msgspec.ValidationError as error:
        raise UserError(_explain(str(error), where)) from None


def check_keys(value: Any, schema: Any, where: str) -> None:
    """Raises UserError for a key that no dataclass inside `schema` knows, wherever it is nested."""
    dataclass = _dataclass_of(schema)
    if dataclass and isinstance(value, Mapping):
        known = typing.get_type_hints(dataclass)
        for key, inner in value.items():
            if key not in known:
                raise UserError(f"config.{where}.{key}: unknown key{nearest(key, known)}")
            check_keys(inner, known[key], f"{where}.{key}")
        return
    arguments = [a for a in typing.get_args(schema) if a is not Ellipsis]
    if isinstance(value, Mapping) and typing.get_origin(schema) in (dict, Mapping):
        for key, inner in value.items():
            check_keys(inner, arguments[1], f"{where}.{key}")
    elif isinstance(value, list | tuple) and typing.get_origin(schema) in (tuple, list):
        for index, inner in enumerate(value):
            check_keys(inner, arguments[min(index, len(arguments) - 1)], f"{where}[{index}]")


def nearest(name: str, known: typing.Iterable[str]) -> str:
    """A hint such as '; did you mean a or b?', or the list of what is known."""
    known = sorted(known)
    close = difflib.get_close_matches(name, known, n=3, cutoff=0.5)
    if close:
        return f"; did you mean {' or '.join(close)}?"
    return f"; known: {', '.join(known)}" if known else ""


def _dataclass_of(schema: Any) -> type | None:
    """The dataclass that `schema` is, or the one inside a union."""
    options = typing.get_args(schema) if isinstance(schema, types.UnionType) else (schema,)
    return next((o for o in options if dataclasses.is_dataclass(o) and isinstance(o, type)), None)


def _explain(message: str, where: str) -> str:
    """Msgspec's 'Expected `int`, got `str` - at `$.steps`' as 'config.train.steps: expected ...'."""
    text, _, path = message.partition(" - at `$")
    text = text.replace("`", "")
    hint = "; the word none needs quotes: \"'none'\"" if text == "Expected str, got null" else ""
    return f"config.{where}{path.rstrip('`')}: {text[0].lower()}{text[1:]}{hint}"
