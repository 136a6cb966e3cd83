"""The trials of a search: one line of JSON each, in a file that is whole at any moment."""

import dataclasses
import json
from collections.abc import Sequence
from typing import Literal

import jax
import msgspec
import numpy as np
from etils import epath
from jax.experimental import multihost_utils

from offsites_jax.data.atomic import write_atomically
from offsites_jax.errors import DamagedDataError

_ROW_BYTES = 1 << 16


@dataclasses.dataclass(frozen=True)
class Trial:
    """One line of `trials.jsonl`.

    Attributes:
      index: 0 is the backbone, which is trained for comparison; the sampler's candidates follow.
      blocks: the network.
      seed: of its training.
      status: ok, failed, or repeat of a network tried before.
      reason: why it failed, or which trial it repeats.
      reward: as `Reward`; 0 where it failed.
      accuracy: of the experiment's metric after the last step.
      step_seconds: of its train step.
      params, macs, step_flops: as `measure.Size`.
      seconds: that the trial took, since its last start.

    """

    index: int
    blocks: tuple[str, ...]
    seed: int
    status: Literal["ok", "failed", "repeat"]
    reason: str = ""
    reward: float = 0.0
    accuracy: float = 0.0
    step_seconds: float = 0.0
    params: int = 0
    macs: int = 0
    step_flops: int = 0
    seconds: float = 0.0


def read_trials(file: epath.Path) -> list[Trial]:
    """The trials recorded; a last line that is only half there is left out.

    Raises:
      DamagedDataError: another line is not what we write.

    """
    text = file.read_bytes().decode(errors="replace") if file.exists() else ""
    lines = text.split("\n")[:-1]  # what follows the last line break is empty, or half a line
    rows = []
    for index, line in enumerate(lines):
        try:
            row = msgspec.json.decode(line, type=Trial)
        except msgspec.MsgspecError as error:
            where = f"{file}: line {index + 1}"
            raise DamagedDataError(f"{where} is damaged ({error}); mend it, or cut the file there") from None
        if row.index != index:
            raise DamagedDataError(f"{file}: line {index + 1} is trial {row.index}; put the lines in order")
        rows.append(row)
    return rows


def write_trials(file: epath.Path, rows: Sequence[Trial]) -> None:
    """Writes all lines anew, so that the file is whole at any moment, in a bucket too."""
    lines = [json.dumps(dataclasses.asdict(row), allow_nan=False) + "\n" for row in rows]
    write_atomically(file, "".join(lines).encode())


def agree(trial: Trial) -> Trial:
    """What the first process found: times differ between processes, and decide what comes next."""
    if jax.process_count() == 1:
        return trial
    content = msgspec.json.encode(trial)
    padded = np.frombuffer(content.ljust(_ROW_BYTES), np.uint8)
    shared = np.asarray(multihost_utils.broadcast_one_to_all(padded))
    return msgspec.json.decode(shared.tobytes(), type=Trial)


def describe(trial: Trial) -> str:
    """A trial in one line."""
    figures = (
        f"reward {trial.reward:.4f}, accuracy {trial.accuracy:.4f}, step {trial.step_seconds * 1e3:.3g} ms, "
        f"{trial.params:,} parameters"
    )
    said = {"ok": figures, "failed": f"failed: {trial.reason}", "repeat": f"{trial.reason}: {figures}"}
    return f"trial {trial.index}: {said[trial.status]}: {' '.join(trial.blocks)}"
