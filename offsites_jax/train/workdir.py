"""The folder of a run: its resolved configuration, written once and checked at every later start."""

import json
import os
from collections.abc import Mapping
from typing import Any

import jax
from etils import epath

from offsites_jax.errors import UserError
from offsites_jax.train.config import Experiment, differences, override, resolve

CONFIG = "config.json"
CHECKPOINTS = "checkpoints"
COMPILE_CACHE = "compile_cache"


def open_workdir(workdir: epath.PathLike, experiment: Experiment) -> epath.Path:
    """Makes the folder, or accepts one that holds the same experiment.

    Raises:
      UserError: another experiment lives there, or nothing can be written.

    """
    folder = epath.Path(workdir)
    if (folder / CONFIG).exists():
        changed = differences(read_config(folder), experiment.raw)
        if changed:
            raise UserError(
                f"{folder}: holds a run of another configuration ({'; '.join(changed)}); "
                "choose another --workdir or set these back"
            )
    elif jax.process_index() == 0:
        write_json(folder / CONFIG, experiment.raw)
    return folder


def read_config(workdir: epath.PathLike) -> dict[str, Any]:
    """The plain configuration a run was started with.

    Raises:
      UserError: the folder holds no run.

    """
    file = epath.Path(workdir) / CONFIG
    if not file.exists():
        raise UserError(f"{workdir}: no {CONFIG} here; give the --workdir of a run of `offsites train`")
    try:
        return json.loads(file.read_text())
    except json.JSONDecodeError as error:
        raise UserError(f"{file}: not valid JSON ({error}); restore it from a checkpoint's meta") from None


def read_experiment(workdir: epath.PathLike, overrides: Mapping[str, str] | None = None) -> Experiment:
    """The experiment a workdir was started with, at its last stage, with values overridden by dotted key."""
    raw = read_config(workdir)
    for key, text in (overrides or {}).items():
        override(raw, key, text)
    return resolve(raw).final


def write_json(file: epath.Path, value: Any) -> None:
    """Writes JSON under its final name only when complete.

    Raises:
      UserError: the folder cannot be written.

    """
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        partial = file.with_name(f".{file.name}.{os.getpid()}")
        partial.write_text(json.dumps(value, indent=2, sort_keys=True) + "\n")
        partial.replace(file)
    except OSError as error:
        raise UserError(
            f"{file.parent}: cannot be written ({error.strerror or error}); choose another --workdir"
        ) from None
