"""A stream put aside in a file, to go on elsewhere or later as if nothing had happened."""

import io
import json
import zipfile
from typing import Any

import jax
import numpy as np
from etils import epath

from offsites_jax.data.atomic import write_atomically
from offsites_jax.data.audio import frontend
from offsites_jax.errors import DamagedDataError, UserError
from offsites_jax.projects.euphonia.decoding.listener import Listener
from offsites_jax.projects.euphonia.decoding.stream import Settled, StreamState, start_stream

_ABOUT = "about"  # JSON, among the arrays


def save_stream(listener: Listener, state: StreamState, file: epath.PathLike) -> None:
    """Writes a state as one `.npz` file."""
    about = {
        "listener": listener.fingerprint,
        "seen": state.sound.seen,
        "settled": state.settled._asdict(),
        "frame_count": state.frame_count,
    }
    arrays: dict[str, Any] = {
        "samples": state.sound.samples,
        "frames": state.sound.frames,
        "rows": state.rows,
    }
    arrays |= _numbered((state.encoder, state.decoder))
    content = io.BytesIO()
    arrays[_ABOUT] = np.frombuffer(json.dumps(about).encode(), np.uint8)
    np.savez(content, allow_pickle=False, **arrays)
    write_atomically(epath.Path(file), content.getvalue())


def load_stream(listener: Listener, file: epath.PathLike) -> StreamState:
    """What `save_stream` wrote.

    Raises:
      UserError: no such file, or the stream of another listener.
      DamagedDataError: no such state.

    """
    path = epath.Path(file)
    if not path.exists():
        raise UserError(f"{path}: no such file; check the path")
    try:
        with np.load(io.BytesIO(path.read_bytes()), allow_pickle=False) as stored:
            arrays = {name: stored[name] for name in stored.files}
        about = json.loads(arrays.pop(_ABOUT).tobytes())
        if about["listener"] != listener.fingerprint:
            raise UserError(
                f"{path}: the stream of another model, speaker, tokenizer or setting; go on with those"
            )
        return _assembled(listener, about, arrays)
    except (ValueError, KeyError, TypeError, EOFError, zipfile.BadZipFile) as error:
        raise DamagedDataError(f"{path}: no saved stream ({error}); start a new one") from error


def _numbered(tree: Any) -> dict[str, np.ndarray]:
    return {f"state_{number}": leaf for number, leaf in enumerate(jax.tree.leaves(tree))}


def _assembled(listener: Listener, about: dict[str, Any], arrays: dict[str, np.ndarray]) -> StreamState:
    fresh = start_stream(listener)
    like = (fresh.encoder, fresh.decoder)
    for name, leaf in _numbered(like).items():
        if (arrays[name].shape, arrays[name].dtype) != (leaf.shape, leaf.dtype):
            raise ValueError(f"{name} is {arrays[name].dtype} {arrays[name].shape}")
    leaves = [arrays[name] for name in _numbered(like)]
    encoder, decoder = jax.tree.unflatten(jax.tree.structure(like), leaves)
    settled = about["settled"]
    return StreamState(
        sound=frontend.StreamState(arrays["samples"], arrays["frames"], about["seen"]),
        rows=arrays["rows"],
        encoder=encoder,
        decoder=decoder,
        settled=Settled(tuple(settled["labels"]), tuple(settled["frames"]), settled["log_prob"]),
        frame_count=about["frame_count"],
    )
