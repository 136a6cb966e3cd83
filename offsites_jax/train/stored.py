"""One stored checkpoint: what it says of itself, its arrays, and whether both are still as written.

A checkpoint is a folder named by its step::

    1200/state/...          the arrays, in Orbax's own format
    1200/meta/metadata      JSON: what the loop noted, and dtype, shape and digest of every array
    1200/MANIFEST.sha256    checksum of every file

`offsites_jax.train.checkpoint` writes them. Only these two modules import Orbax.
"""

import contextlib
import hashlib
import json
import math
from collections.abc import Iterator, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import orbax.checkpoint as ocp
from etils import epath
from flax import traverse_util

from offsites_jax.errors import DamagedDataError, OffsitesError, UserError
from offsites_jax.train import digest

STATE, META = "state", "meta"
FORMAT = 1

READ_ERRORS = (ValueError, KeyError, TypeError, AttributeError, IndexError, FileNotFoundError)
"""What reading damaged files raises, and perhaps other mishaps too."""

_READ_BYTES = 2**30  # host memory for arrays that are read only to be looked at


def saved_steps(folder: epath.Path) -> list[int]:
    """Steps of the complete checkpoints in a folder, oldest first."""
    names = ocp.path.step.standard_name_format()
    return sorted(found.step for found in names.find_all(folder))


def existing_step(folder: epath.Path, step: int) -> int:
    """The step itself if its checkpoint is there; else a UserError that lists those that are."""
    steps = saved_steps(folder)
    if step not in steps:
        raise UserError(f"no checkpoint of step {step} in {folder}; it has {steps}")
    return step


def best_step(metrics: Mapping[int, Mapping[str, float]], metric: str, mode: str) -> int | None:
    """The step with the best value of a metric, the newest of equals.

    Args:
        metrics: of every saved step. Those without this metric, or with NaN, take no part.
        metric: its name.
        mode: whether ``max`` or ``min`` is best.

    """
    sign = 1 if mode == "max" else -1
    values = {step: sign * of.get(metric, math.nan) for step, of in metrics.items()}
    ranked = [step for step, value in values.items() if not math.isnan(value)]
    return max(ranked, key=lambda step: (values[step], step), default=None)


def with_checksum(body: Mapping[str, Any]) -> dict[str, Any]:
    """The JSON to store, as `read_body` takes it."""
    return {"sha256": _checksum(body), "body": body}


def read_body(checkpoint: epath.Path) -> dict[str, Any]:
    """The JSON of a checkpoint: format, step, meta, metrics, best and leaves.

    Raises:
        DamagedDataError: it is missing, or does not match its own checksum.
        UserError: a newer version of this package wrote it.

    """
    try:
        content = json.loads((checkpoint / META / "metadata").read_bytes())
        body, checksum = content["body"], content["sha256"]
    except (FileNotFoundError, ValueError, TypeError, KeyError) as error:
        raise damaged(checkpoint, f"{META}/metadata cannot be read ({reason(error)})") from error
    if checksum != _checksum(body):
        raise damaged(checkpoint, f"{META}/metadata does not match its own checksum")
    if body["format"] > FORMAT:
        raise UserError(f"checkpoint {checkpoint} was written by a newer version; update offsites_jax")
    return body


def saved_metrics(checkpoint: epath.Path) -> dict[str, float]:
    """Metrics it was saved with; none if there were none or they cannot be read any more."""
    try:
        return read_body(checkpoint)["metrics"]
    except OffsitesError:
        return {}


def read_arrays(checkpoint: epath.Path, wanted: Mapping[str, jax.ShapeDtypeStruct | None]) -> dict[str, Any]:
    """Reads the leaves asked for, and nothing else, without a look at their digests.

    Args:
        checkpoint: its folder.
        wanted: leaves by name. One with a sharding becomes a `jax.Array` of that sharding, any
            other a numpy array (of a random key: its data).

    Returns:
        The arrays, in the order of `wanted`.

    Raises:
        One of `READ_ERRORS`: a leaf is not there, or the files are damaged.

    """
    empty = {name: _empty(leaf) for name, leaf in wanted.items() if leaf is not None and 0 in leaf.shape}
    asked = {name: _restore_args(leaf) for name, leaf in wanted.items() if name not in empty}
    args = traverse_util.unflatten_dict(asked, sep="/")
    restore = ocp.args.PyTreeRestore(jax.tree.map(lambda _: 0, args), restore_args=args, partial_restore=True)
    with _unwrapped():
        found = ocp.PyTreeCheckpointHandler().restore(checkpoint / STATE, args=restore) if asked else {}
    arrays = traverse_util.flatten_dict(found, sep="/") | empty
    for name in wanted:  # Orbax hands back what it was given where it finds nothing
        if not isinstance(arrays.get(name), jax.Array | np.ndarray):
            raise ValueError(f"leaf {name} is not in the files")
    return {name: arrays[name] for name in wanted}


def damaged_leaves(checkpoint: epath.Path, leaves: Mapping[str, Any]) -> dict[str, str]:
    """Reads leaves, as `read_body` lists them; those that are damaged, with the reason.

    Needs no mesh, and host memory for about 1 GiB of arrays at a time.
    """
    found: dict[str, str] = {}
    for names in _groups(leaves):
        found |= _damaged_among(names, checkpoint, leaves)
    return found


def check_digests(checkpoint: epath.Path, leaves: Mapping[str, Any], arrays: Mapping[str, Any]) -> None:
    """Raises a DamagedDataError naming the first array that is not the one once saved."""
    for name, found in digest.leaf_digests(arrays).items():
        if found != leaves[name]["digest"]:
            raise damaged(checkpoint, f"leaf {name} does not match its digest")


def check_same_model(checkpoint: epath.Path, leaves: Mapping[str, Any], wanted: Mapping[str, Any]) -> None:
    """Raises a UserError naming the first leaves in which checkpoint and model differ."""
    theirs = {name: f"{leaf['dtype']}{leaf['shape']}" for name, leaf in leaves.items()}
    ours = {name: f"{leaf.dtype}{list(leaf.shape)}" for name, leaf in wanted.items()}
    differing = [
        f"{name} is {theirs.get(name, 'missing')} there and {ours.get(name, 'missing')} in the model"
        for name in dict.fromkeys([*theirs, *ours])
        if theirs.get(name) != ours.get(name)
    ]
    if differing:
        more = f" (and {len(differing) - 3} more)" if len(differing) > 3 else ""
        raise UserError(
            f"checkpoint {checkpoint} is of another model: {'; '.join(differing[:3])}{more}; "
            "use the configuration that wrote it, or another workdir"
        )


def damaged(checkpoint: epath.Path, what: str) -> DamagedDataError:
    """The error that says so."""
    return DamagedDataError(f"checkpoint {checkpoint} is damaged: {what}")


def reason(error: BaseException) -> str:
    """The gist of an error, in a few words."""
    text = " ".join(str(error).split()) or type(error).__name__
    gists = ("No space left on device", "Disk quota exceeded", "File too large", "Permission denied")
    return next((gist for gist in gists if gist in text), text[:200])


def _checksum(body: Mapping[str, Any]) -> str:
    return hashlib.sha256(json.dumps(body, sort_keys=True).encode()).hexdigest()


def _restore_args(leaf: jax.ShapeDtypeStruct | None) -> ocp.RestoreArgs:
    if leaf is None or leaf.sharding is None:
        return ocp.RestoreArgs(restore_type=np.ndarray)
    return ocp.ArrayRestoreArgs(
        restore_type=jax.Array, sharding=leaf.sharding, global_shape=leaf.shape, dtype=leaf.dtype
    )


def _empty(leaf: jax.ShapeDtypeStruct) -> Any:
    """Orbax cannot save an array without elements; its shape says all there is to know."""
    if leaf.sharding is None:
        return np.zeros(leaf.shape, leaf.dtype)
    return jnp.zeros(leaf.shape, leaf.dtype, device=leaf.sharding)


def _damaged_among(names: list[str], checkpoint: epath.Path, leaves: Mapping[str, Any]) -> dict[str, str]:
    try:
        digests = digest.leaf_digests(read_arrays(checkpoint, dict.fromkeys(names)))
    except READ_ERRORS as error:
        if len(names) == 1:
            return {names[0]: f"cannot be read ({reason(error)})"}
        alone = [_damaged_among([name], checkpoint, leaves) for name in names]
        return {name: why for found in alone for name, why in found.items()}
    wrong = [name for name in names if digests[name] != leaves[name]["digest"]]
    return dict.fromkeys(wrong, "does not match its digest")


@contextlib.contextmanager
def _unwrapped() -> Iterator[None]:
    """Raises what went wrong, where Orbax has put it into an exception that says nothing of its kind."""
    try:
        yield
    except Exception as error:
        if type(error) is Exception and isinstance(error.__cause__, READ_ERRORS):
            raise error.__cause__ from None
        raise


def _groups(leaves: Mapping[str, Any]) -> Iterator[list[str]]:
    """Names of the leaves that have elements, in groups that fit into memory."""
    group: list[str] = []
    total = 0
    for name, leaf in leaves.items():
        size = 8 * math.prod(leaf["shape"])
        if group and total + size > _READ_BYTES:
            yield group
            group, total = [], 0
        if size:
            group.append(name)
            total += size
    if group:
        yield group
