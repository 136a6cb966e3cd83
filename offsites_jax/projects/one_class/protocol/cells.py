"""A published protocol: every class with every seed, one cell each, that survives being stopped.

A cell is one training with its scores, in a folder of its own. Its `cell.json` appears when it is finished,
and it is not run again; one that failed is recorded, the others go on, and the next start tries it again.
"""

import dataclasses
import hashlib
import logging
import math
import re
import time
import traceback
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, Literal

import jax
import msgspec
from etils import epath

from offsites_jax.errors import Preempted, UserError
from offsites_jax.projects.one_class.stored import write_file
from offsites_jax.train.media import encode_json

CELL, SETTINGS = "cell.json", "protocol.json"

logger = logging.getLogger(__name__)


@dataclasses.dataclass(frozen=True)
class Cell:
    """One training of a protocol.

    Attributes:
      category: what is normal.
      seed: of the training.
      workdir: folder of its own.

    """

    category: str
    seed: int
    workdir: epath.Path


@dataclasses.dataclass(frozen=True)
class Result:
    """What a cell came to.

    Attributes:
      category, seed: of the cell.
      status: done or failed.
      figures: by name; None where a figure is undefined.
      seconds: it took.
      error: why it failed, in one line.

    """

    category: str
    seed: int
    status: Literal["done", "failed"]
    figures: dict[str, float | None] = dataclasses.field(default_factory=dict)
    seconds: float = 0.0
    error: str = ""


RunCell = Callable[[Cell], Mapping[str, float | None]]


def cells_of(folder: epath.PathLike, categories: Sequence[str], seeds: Sequence[int]) -> list[Cell]:
    """Every category with every seed; all categories with the first seed come first.

    Raises:
      UserError: a category or seed is there twice, or there is none.

    """
    for what, values in (("category", categories), ("seed", seeds)):
        if not values or len(set(values)) < len(values):
            raise UserError(f"protocol: name at least one {what}, each once")
    root = epath.Path(folder)
    return [Cell(name, seed, root / _slug(name) / f"seed_{seed}") for seed in seeds for name in categories]


def run_protocol(
    folder: epath.PathLike,
    cells: Sequence[Cell],
    run_cell: RunCell,
    settings: Mapping[str, Any] | None = None,
    before: Callable[[Sequence[Cell]], None] = lambda cells: None,
) -> list[Result]:
    """Runs the cells that are not finished, one after the other.

    Called on every process alike; the first writes.

    Args:
      folder: of the whole protocol.
      cells: as `cells_of` gives them.
      run_cell: trains and scores one cell, and returns its figures; a figure that is not finite is undefined.
      settings: plain values that all cells share; a folder holds cells of one setting only.
      before: called with the cells that are not finished, before the first of them runs.

    Returns:
      Results in the order of `cells`.

    Raises:
      UserError: the folder holds cells of other settings.

    """
    _check_settings(epath.Path(folder), dict(settings or {}))
    # Looked up before anything runs, so that all processes skip the same cells.
    finished = {cell: found for cell in cells if (found := _finished(cell)) is not None}
    before([cell for cell in cells if cell not in finished])
    return [finished[cell] if cell in finished else _run(cell, run_cell) for cell in cells]


def read_results(cells: Iterable[Cell]) -> list[Result]:
    """What is recorded of the cells so far, failures too."""
    return [found for cell in cells if (found := _read(cell)) is not None]


def _run(cell: Cell, run_cell: RunCell) -> Result:
    begin = time.monotonic()
    try:
        figures = {name: _finite(value) for name, value in run_cell(cell).items()}
        result = Result(cell.category, cell.seed, "done", figures, time.monotonic() - begin)
    except Preempted:
        raise
    except Exception as error:  # whatever it is, the other cells go on
        logger.error("%s, seed %d failed:\n%s", cell.category, cell.seed, traceback.format_exc())
        reason = " ".join(f"{type(error).__name__}: {error}".split())
        result = Result(cell.category, cell.seed, "failed", {}, time.monotonic() - begin, reason)
    if jax.process_index() == 0:
        write_file(cell.workdir / CELL, encode_json(dataclasses.asdict(result)).content)
    return result


def _finished(cell: Cell) -> Result | None:
    found = _read(cell)
    return found if found is not None and found.status == "done" else None


def _read(cell: Cell) -> Result | None:
    file = cell.workdir / CELL
    if not file.exists():
        return None
    try:
        found = msgspec.json.decode(file.read_bytes(), type=Result)
    except (msgspec.DecodeError, msgspec.ValidationError) as error:
        raise UserError(f"{file}: no record of a cell ({error}); remove it to run the cell again") from None
    if (found.category, found.seed) != (cell.category, cell.seed):
        raise UserError(
            f"{file}: is of {found.category}, seed {found.seed}; remove it, or use another folder"
        )
    return found


def _check_settings(folder: epath.Path, settings: dict[str, Any]) -> None:
    file = folder / SETTINGS
    plain = msgspec.json.decode(msgspec.json.encode(settings))
    if not file.exists():
        if jax.process_index() == 0:
            write_file(file, encode_json(plain).content)
        return
    try:
        before = msgspec.json.decode(file.read_bytes(), type=dict[str, Any])
    except (msgspec.DecodeError, msgspec.ValidationError) as error:
        raise UserError(f"{file}: not readable ({error}); use another folder") from None
    changed = [key for key in sorted(plain.keys() | before.keys()) if plain.get(key) != before.get(key)]
    if changed:
        raise UserError(
            f"{folder}: holds cells of other settings ({', '.join(changed)}); "
            "use another folder, or set these back"
        )


def _finite(value: float | None) -> float | None:
    return None if value is None or not math.isfinite(value) else float(value)


def _slug(category: str) -> str:
    """The category as a folder name; where letters had to go, told apart by a digest."""
    safe = re.sub(r"[^\w-]+", "_", category, flags=re.ASCII)
    if safe == category:
        return safe
    return f"{safe}_{hashlib.blake2b(category.encode(), digest_size=3).hexdigest()}"
