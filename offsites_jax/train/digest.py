"""Fingerprints that notice damage: one digest per array of a tree, one checksum per file of a folder.

Storage rots silently: a flipped bit in the bytes of an array reads back as a slightly other
number. Arrays are therefore fingerprinted before they are saved and again after they are read;
files get a manifest, in the format of ``sha256sum``, so that one can check it without us.
"""

import concurrent.futures
import errno
import functools
import hashlib
import math
from collections.abc import Iterable, Iterator
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from etils import epath
from jax.sharding import NamedSharding, PartitionSpec
from jaxtyping import Array, UInt32

from offsites_jax.errors import DamagedDataError
from offsites_jax.parallel.rules import leaf_names

MANIFEST = "MANIFEST.sha256"

HOST_LIMIT = 2**18
"""Arrays up to this many elements are digested on the host. XLA needs 0.05 to 0.1 s to compile a
program for each new shape; numpy needs 2 ms for the largest of these."""

_PIECE_WORDS = 2**16  # host work is cut into pieces that stay in the cache
_SEEDS = (np.uint32(0x3C6EF372), np.uint32(0xBB67AE85))
_READ_BYTES = 2**20
_READERS = 8


def named_leaves(tree: Any) -> dict[str, Any]:
    """Leaves of a tree by name, such as ``params/encoder/kernel``; None counts as no leaf."""
    pairs = leaf_names(tree)
    leaves = dict(pairs)
    if len(leaves) < len(pairs):
        raise ValueError("two leaves of the tree have the same name: a key contains '/'")
    return leaves


# Arrays


def leaf_digests(tree: Any, *, host_limit: int = HOST_LIMIT) -> dict[str, str]:
    """64-bit digest of every array of a tree, as 16 hex digits.

    A digest depends on the bits of the array alone: not on its sharding, the mesh, the number of
    processes, nor on whether host or devices computed it. Its two halves are sums, modulo 2**32,
    of ``mix(word, position)`` over all 32-bit words of the array (shorter elements are widened,
    longer ones split). For a given position each mix is a bijection of the word: a chain of xor,
    odd multiplications and xor-shifts. A change inside one word, such as any single flipped bit,
    therefore changes exactly one summand of each half, by an amount that is not 0 modulo 2**32: it
    **always** changes both halves. A change of several words, such as a swap of two neighbours,
    goes unnoticed with a probability near 2**-64.

    Args:
        tree: arrays of any dtype and shape, typed random keys included.
        host_limit: arrays with more elements than this are digested where they live, by a jitted
            function; with several processes every process must then take part.

    Returns:
        Digests by leaf name (see `named_leaves`), the same on every process.

    """
    leaves = {name: _without_key_type(leaf) for name, leaf in named_leaves(tree).items()}
    large = {name: leaf for name, leaf in leaves.items() if _on_device(leaf, host_limit)}
    small = [name for name in leaves if name not in large]
    pending = _digests_on_devices(large)
    on_host = host_digests(jax.device_get([leaves[name] for name in small]))
    digests = dict(zip(small, on_host, strict=True))
    digests |= {name: _hex(np.asarray(sums)) for name, sums in pending.items()}
    return {name: digests[name] for name in leaves}


def host_digests(arrays: Iterable[Any]) -> list[str]:
    """The digests of `leaf_digests` for arrays in host memory (of random keys: their data)."""
    words = [_host_words(np.asarray(array)) for array in arrays]
    totals = np.zeros((len(words), len(_SEEDS)), np.uint32)
    for owners, chunks, positions in _pieces(words):
        starts = np.cumsum([0] + [chunk.size for chunk in chunks[:-1]])
        joined, where = np.concatenate(chunks).astype(np.uint32), np.concatenate(positions)
        for half, seed in enumerate(_SEEDS):
            totals[owners, half] += np.add.reduceat(_mix(joined, where, seed), starts)
    return [_hex(total) for total in totals]


def _pieces(words: list[np.ndarray]) -> Iterator[tuple[list[int], list[np.ndarray], list[np.ndarray]]]:
    """Cuts long arrays and joins short ones; an array occurs at most once in a piece."""
    owners: list[int] = []
    chunks: list[np.ndarray] = []
    positions: list[np.ndarray] = []
    size = 0
    for owner, array in enumerate(words):
        for start in range(0, array.size, _PIECE_WORDS):
            chunk = array[start : start + _PIECE_WORDS]
            if size + chunk.size > _PIECE_WORDS:
                yield owners, chunks, positions
                owners, chunks, positions, size = [], [], [], 0
            owners.append(owner)
            chunks.append(chunk)
            positions.append(np.arange(start, start + chunk.size, dtype=np.uint64).astype(np.uint32))
            size += chunk.size
    if owners:
        yield owners, chunks, positions


def _on_device(leaf: Any, host_limit: int) -> bool:
    if not isinstance(leaf, jax.Array):
        return False
    return leaf.size > host_limit or not (leaf.is_fully_addressable or leaf.is_fully_replicated)


def _without_key_type(leaf: Any) -> Any:
    is_key = jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key)
    return jax.random.key_data(leaf) if is_key else leaf


def _digests_on_devices(leaves: dict[str, Array]) -> dict[str, UInt32[Array, "2"]]:
    """Digests by one program for all leaves of a mesh.

    Processes with many programs in flight may start their collectives in different orders, and then wait
    for each other forever.
    """
    by_mesh: dict[Any, dict[str, Array]] = {}
    for name, leaf in leaves.items():
        mesh = leaf.sharding.mesh if isinstance(leaf.sharding, NamedSharding) else None
        by_mesh.setdefault(mesh, {})[name] = leaf
    digests: dict[str, UInt32[Array, 2]] = {}
    for mesh, named in by_mesh.items():
        digests |= jax.block_until_ready(_jitted_digests(mesh)(named))
    return digests


@functools.lru_cache(maxsize=8)
def _jitted_digests(mesh: Any) -> Any:
    replicated = NamedSharding(mesh, PartitionSpec()) if mesh else None  # every process can read it
    return jax.jit(
        lambda leaves: {name: _digest(leaf) for name, leaf in leaves.items()}, out_shardings=replicated
    )


def _digest(leaf: Array) -> UInt32[Array, "2"]:
    words = _device_words(leaf)
    positions = jnp.zeros(words.shape, jnp.uint32)
    for axis in range(words.ndim):  # a flat view of a sharded array would have to be gathered
        stride = np.uint32(math.prod(words.shape[axis + 1 :]) % 2**32)
        positions += jax.lax.broadcasted_iota(jnp.uint32, words.shape, axis) * stride
    return jnp.stack([jnp.sum(_mix(words, positions, seed), dtype=jnp.uint32) for seed in _SEEDS])


def _device_words(leaf: Array) -> UInt32[Array, "..."]:
    if jnp.issubdtype(leaf.dtype, jnp.complexfloating):
        leaf = jnp.stack([leaf.real, leaf.imag], axis=-1)
    if leaf.dtype == jnp.bool_:
        return leaf.astype(jnp.uint32)
    bits = min(_bits(leaf.dtype), 32)  # a 64-bit element becomes two words, the low one first
    return jax.lax.bitcast_convert_type(leaf, jnp.dtype(f"uint{bits}")).astype(jnp.uint32)


def _host_words(array: np.ndarray) -> np.ndarray:
    flat = np.ascontiguousarray(array).reshape(-1)
    if flat.dtype == np.bool_:
        return flat.view(np.uint8)
    if flat.dtype.itemsize > 4:
        return flat.view(np.uint32)
    words, bits = flat.view(f"uint{8 * flat.dtype.itemsize}"), _bits(flat.dtype)
    return words & np.uint8(2**bits - 1) if bits < 8 else words


def _bits(dtype: Any) -> int:
    return (jnp.iinfo if jnp.issubdtype(dtype, jnp.integer) else jnp.finfo)(dtype).bits


def _mix(words: Any, positions: Any, seed: np.uint32) -> Any:
    """One summand per word, for uint32 arrays of numpy and jax; a bijection of the word."""
    return _avalanche(words ^ _avalanche(positions * np.uint32(0x9E3779B1) ^ seed))


def _avalanche(x: Any) -> Any:
    """The 32-bit finaliser of MurmurHash3 (Austin Appleby, public domain): a bijection."""
    x = (x ^ (x >> np.uint32(16))) * np.uint32(0x85EBCA6B)
    x = (x ^ (x >> np.uint32(13))) * np.uint32(0xC2B2AE35)
    return x ^ (x >> np.uint32(16))


def _hex(halves: np.ndarray) -> str:
    return "".join(f"{half:08x}" for half in halves.tolist())


# Files


def write_manifest(folder: epath.Path) -> None:
    """Writes the SHA-256 of every file below a folder to its ``MANIFEST.sha256``, atomically.

    The lines are those of ``sha256sum``; a comment in front holds the checksum of the lines.
    """
    names = sorted(_file_names(folder))
    sums = _map_files(lambda name: _sha256(folder / name), names)
    lines = "".join(f"{digest}  {name}\n" for digest, name in zip(sums, names, strict=True))
    unfinished = folder / f"{MANIFEST}.tmp"
    unfinished.write_text(_with_checksum(lines))
    unfinished.replace(folder / MANIFEST)


def damaged_files(folder: epath.Path, part: int = 0, parts: int = 1) -> dict[str, str]:
    """Files that no longer match the manifest of a folder: name and reason.

    Files the manifest does not name are ignored.

    Args:
        folder: one that `write_manifest` has sealed.
        part: which share of the files to read (several processes divide the work).
        parts: number of shares.

    """
    try:
        expected = _read_manifest(folder)
    except DamagedDataError as error:
        return {MANIFEST: str(error)}
    names = sorted(expected)[part::parts]
    reasons = _map_files(lambda name: _file_damage(folder / name, expected[name]), names)
    return {name: reason for name, reason in zip(names, reasons, strict=True) if reason}


def _read_manifest(folder: epath.Path) -> dict[str, str]:
    text = (folder / MANIFEST).read_bytes().decode(errors="replace")
    lines = text.partition("\n")[2]
    if text != _with_checksum(lines):
        raise DamagedDataError("does not match its own checksum")
    return {name: digest for digest, _, name in (line.split(" ", 2) for line in lines.splitlines())}


def _with_checksum(lines: str) -> str:
    return f"# {hashlib.sha256(lines.encode()).hexdigest()}\n{lines}"


def _file_damage(path: epath.Path, expected: str) -> str:
    try:
        return "" if _sha256(path) == expected else "does not match its checksum"
    except FileNotFoundError:
        return "is missing"
    except OSError as error:
        if error.errno != errno.EIO:  # no permission, no network: says nothing about the bytes
            raise
        return "cannot be read from the disk"


def _sha256(path: epath.Path) -> str:
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while chunk := file.read(_READ_BYTES):
            digest.update(chunk)
    return digest.hexdigest()


def _map_files(function: Any, names: list[str]) -> list[str]:
    with concurrent.futures.ThreadPoolExecutor(_READERS) as readers:
        return list(readers.map(function, names))


def _file_names(folder: epath.Path, prefix: str = "") -> Iterator[str]:
    for child in folder.iterdir():
        name = prefix + child.name
        if child.is_dir():
            yield from _file_names(child, f"{name}/")
        elif not name.startswith(MANIFEST):
            yield name
