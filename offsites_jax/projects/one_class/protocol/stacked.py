"""The cells of a protocol trained side by side, each then left as a run of its own would leave it.

Scores, reports and later commands find the checkpoint of a single training in the cell's folder, and know
nothing of the stack. A stack is a run like any other in `stacks/<number>`, so that a killed one goes on; its
checkpoints are removed once all of its cells have theirs.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
import numpy as np
from absl import logging
from etils import epath
from jax.experimental import multihost_utils

from offsites_jax.parallel.mesh import MeshSettings, create_mesh, num_batch_shards, replicated
from offsites_jax.projects.one_class.data import split_pipeline
from offsites_jax.projects.one_class.protocol.cells import Cell, cells_of
from offsites_jax.projects.one_class.stacking.experiment import stacked
from offsites_jax.projects.one_class.stacking.task import SKIPPED, STACK, member_of
from offsites_jax.projects.one_class.stored import write_file
from offsites_jax.train.checkpoint import Checkpoints
from offsites_jax.train.config import Experiment, resolve
from offsites_jax.train.loop import train
from offsites_jax.train.media import encode_json
from offsites_jax.train.report import versions
from offsites_jax.train.schema import parse
from offsites_jax.train.state import TrainState
from offsites_jax.train.stored import saved_steps
from offsites_jax.train.workdir import CHECKPOINTS, CONFIG, open_workdir, read_config

RUN = "run"  # folder of a cell's training, in its own
STACKS = "stacks"
_WRITTEN = "written.json"  # in the folder of a stack: it is done with

RawOf = Callable[[Cell], dict[str, Any]]


def train_stacked(folder: epath.PathLike, cells: Sequence[Cell], raw_of: RawOf) -> None:
    """Trains in one job all cells that no training has begun yet; first goes on with a stack begun before.

    A member whose loss did not stay finite is left out, with a warning: its training begins anew, by itself,
    and ends with the error that says where.

    Args:
      folder: of the protocol.
      cells: that are not finished.
      raw_of: the configuration of a cell's own run.

    Raises:
      UserError: settings that a stack does not have.

    """
    root = epath.Path(folder) / STACKS
    numbers = sorted(int(path.parent.name) for path in root.glob(f"*/{CONFIG}"))
    begun = [root / str(number) for number in numbers if not (root / str(number) / _WRITTEN).exists()]
    runs = {stack: read_config(stack) for stack in begun}
    taken = {member for raw in runs.values() for member in _members(raw)}
    fresh = [cell for cell in cells if (cell.category, cell.seed) not in taken and not _begun(cell)]
    # All processes have looked before the first one writes.
    multihost_utils.sync_global_devices("cells looked up")
    if fresh:
        runs[root / str(max(numbers, default=-1) + 1)] = _raw_stack(fresh, raw_of)
    for stack, raw in runs.items():
        state = train(resolve(raw), stack).state
        _write_members(stack, state, _cells(folder, _members(raw)), raw_of)


def _cells(folder: epath.PathLike, members: Sequence[tuple[str, int]]) -> list[Cell]:
    """The cells of these categories and seeds."""
    return [cells_of(folder, [category], [seed])[0] for category, seed in members]


def _members(raw: Mapping[str, Any]) -> list[tuple[str, int]]:
    stack = raw["task"]["stack"]
    return list(zip(stack["categories"], stack["seeds"], strict=True))


def _begun(cell: Cell) -> bool:
    folder = cell.workdir / RUN / CHECKPOINTS
    return folder.exists() and bool(saved_steps(folder))


def _raw_stack(cells: Sequence[Cell], raw_of: RawOf) -> dict[str, Any]:
    """The configuration of a stack of these cells on the devices there are."""
    # In turn takes less memory; but in a loop, XLA:CPU computes convolutions slowly.
    at_a_time = 0 if jax.default_backend() == "cpu" else 1
    members = [(cell.category, cell.seed) for cell in cells]
    alone = raw_of(cells[0])
    mesh = create_mesh(parse(stacked(alone, members)["mesh"], MeshSettings, "mesh"))
    return stacked(alone, members, num_batch_shards(mesh), at_a_time)


def _write_members(stack: epath.Path, state: TrainState, cells: Sequence[Cell], raw_of: RawOf) -> None:
    """Writes the checkpoints of the cells that have none, and removes those of the stack."""
    mesh = jax.tree.leaves(state.params)[0].sharding.mesh
    member = jax.jit(member_of, out_shardings=replicated(mesh))
    skipped = np.asarray(state.model_state[STACK][SKIPPED])
    lost = []
    for place, cell in enumerate(cells):
        alone = resolve(raw_of(cell))
        if skipped[place] and alone.train.on_non_finite == "stop":
            logging.warning("%s, seed %d: the loss did not stay finite", cell.category, cell.seed)
            lost.append(f"{cell.category}, seed {cell.seed}")
        elif not _begun(cell):
            _write(cell.workdir / RUN, member(state, place), alone)
    if jax.process_index() == 0:
        write_file(stack / _WRITTEN, encode_json({"left out": lost}).content)
        (stack / CHECKPOINTS).rmtree()


def _write(workdir: epath.Path, state: TrainState, alone: Experiment) -> None:
    """A member's state as the last checkpoint of a run of its own."""
    open_workdir(workdir, alone)
    source = split_pipeline(alone.data, alone.data.train_split, train=True).source
    meta = {
        "config": alone.raw,
        "stage": alone.stage_name,
        "data": {"fingerprint": source.fingerprint(), "seed": alone.train.seed},
        "devices": {"count": jax.device_count(), "kind": jax.devices()[0].device_kind},
        "tally": {},
        "versions": versions(),
    }
    with Checkpoints(workdir / CHECKPOINTS, alone.train.keep) as checkpoints:
        checkpoints.save(int(state.step), state, meta)
