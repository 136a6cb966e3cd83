"""Experiments and changes to them as text: flags as the command line takes them, and files."""

import json
import pprint
import shlex
from typing import Any

from etils import epath

from offsites_jax.data.atomic import write_atomically
from offsites_jax.errors import UserError


def flag(key: str, value: Any) -> str:
    """`--config.key=value`, quoted for a shell."""
    return f"--config.{key}={shlex.quote(json.dumps(value))}"


def pairs(overrides: tuple[str, ...]) -> dict[str, str]:
    """Overrides by dotted key.

    Raises:
      UserError: one is not KEY=VALUE.

    """
    found = {}
    for text in overrides:
        key, equals, value = text.removeprefix("--config.").removeprefix("config.").partition("=")
        if not (key and equals):
            raise UserError(f"--overrides: {text!r} is not KEY=VALUE, as in train.steps=100")
        found[key] = value
    return found


def write_experiment(file: epath.PathLike, raw: dict[str, Any], about: str) -> None:
    """Writes an experiment file that stands by itself.

    Args:
      file: to write.
      raw: the sections, of JSON types.
      about: one line on what it is.

    """
    path = epath.Path(file)
    text = (
        f'"""{about}\n\n'
        f"    offsites train {file} --workdir workdirs/{path.stem}\n\n"
        f'Expect: nothing was trained with it.\n"""\n\n'
        "import ml_collections\n\n\n"
        "def get_config() -> ml_collections.ConfigDict:\n"
        "    return ml_collections.ConfigDict(CONFIG)\n\n\n"
        f"CONFIG = {pprint.pformat(raw, width=100, sort_dicts=False)}\n"
    )
    write_atomically(path, text.encode())
