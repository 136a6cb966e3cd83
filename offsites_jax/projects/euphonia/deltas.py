"""One speaker's own layers as a small file: how they differ from the base, and which base that is.

    SPEAKER.safetensors   the difference of every personal parameter, bfloat16 or float32
    SPEAKER.json          the speaker, the base's digest, scores

Added to another base, a difference would make a network that nobody trained; so the digest is checked.
"""

import dataclasses
import json
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import msgspec
import numpy as np
import safetensors
import safetensors.flax
from etils import epath

from offsites_jax.data.atomic import write_atomically
from offsites_jax.errors import DamagedDataError, UserError
from offsites_jax.train.contract import Tree
from offsites_jax.train.digest import leaf_digests
from offsites_jax.train.state import flatten, unflatten

FOLDER = "speakers"  # in the workdir of a cohort

_DTYPES = {"BF16": jnp.bfloat16, "F32": np.float32}


@dataclasses.dataclass(frozen=True)
class About:
    """What a delta file says of itself.

    Attributes:
      speaker: whose layers these are.
      base: digest of the base's layers that the difference is from.
      step: of training that the checkpoint had.
      scores: of the speaker, such as `dev_nll`.

    """

    speaker: str
    base: str
    step: int
    scores: Mapping[str, float] = dataclasses.field(default_factory=dict)


def base_digest(layers: Tree) -> str:
    """Names the base's layers, whatever device or file they are on."""
    digests = sorted(leaf_digests(layers).items())
    return " ".join(f"{name}:{digest}" for name, digest in digests)


def write_delta(folder: epath.PathLike, about: About, delta: Tree) -> epath.Path:
    """Writes a speaker's two files, and returns the first; the second comes last, and stands for both."""
    file = delta_file(folder, about.speaker)
    arrays = {name: jnp.asarray(leaf) for name, leaf in flatten(delta).items()}
    write_atomically(file, safetensors.flax.save(arrays))
    content = json.dumps(dataclasses.asdict(about), indent=1).encode() + b"\n"
    write_atomically(file.with_suffix(".json"), content)
    return file


def read_about(folder: epath.PathLike, speaker: str) -> About:
    """What is noted of a speaker.

    Raises:
      UserError: there is no such speaker. Says how many there are, not who: that is health data.
      DamagedDataError: the note is damaged.

    """
    note = delta_file(folder, speaker).with_suffix(".json")
    if not note.exists():
        count = len(list_speakers(folder))
        raise UserError(
            f"{folder}: no speaker {speaker!r}; look there for the names of the {count} there are"
        )
    try:
        return msgspec.convert(json.loads(note.read_text()), About)
    except (ValueError, msgspec.ValidationError) as error:
        raise DamagedDataError(f"{note}: does not describe a speaker ({error}); write it again") from error


def read_delta(folder: epath.PathLike, speaker: str) -> Tree:
    """The difference of a speaker's layers, float32.

    Raises:
      UserError: there is no such speaker.
      DamagedDataError: the file is damaged.

    """
    read_about(folder, speaker)
    file = delta_file(folder, speaker)
    try:
        arrays = _load(file.read_bytes())
    except (OSError, KeyError, ValueError, safetensors.SafetensorError) as error:
        raise DamagedDataError(f"{file}: cannot be read ({error}); write it again") from error
    return unflatten({name: array.astype(np.float32) for name, array in arrays.items()})


def add_delta(layers: Tree, delta: Tree, about: About, where: epath.PathLike) -> Tree:
    """The speaker's layers.

    Raises:
      UserError: the delta is of another base, or of other layers.

    """
    if base_digest(layers) != about.base:
        raise UserError(
            f"{where}: the layers of {about.speaker!r} belong to another base; give the one that they were "
            "trained from"
        )
    return jax.tree.map(lambda base, own: jnp.asarray(base) + own, layers, delta)


def _load(data: bytes) -> dict[str, np.ndarray]:
    """Arrays by name; the library's own reader into NumPy knows no bfloat16."""
    return {
        name: np.frombuffer(entry["data"], _DTYPES[entry["dtype"]]).reshape(entry["shape"])
        for name, entry in safetensors.deserialize(data)
    }


def list_speakers(folder: epath.PathLike) -> list[str]:
    """Who has layers there, sorted."""
    path = epath.Path(folder)
    return sorted(file.stem for file in path.glob("*.json")) if path.exists() else []


def delta_file(folder: epath.PathLike, speaker: str) -> epath.Path:
    """Where a speaker's layers are.

    Raises:
      UserError: the name cannot be a file's.

    """
    plain: Any = speaker.replace("-", "").replace("_", "").replace(".", "")
    if not plain.isalnum() or speaker.startswith("."):
        raise UserError(f"speaker {speaker!r}: a name is of letters, digits, '-', '_' and '.'")
    return epath.Path(folder) / f"{speaker}.safetensors"
