"""Digests of leaves and manifests of files: whatever changes is noticed, whatever is equal agrees."""

import struct
import subprocess
import sys

import jax
import jax.numpy as jnp
import numpy as np
import portpicker
import pytest
from etils import epath
from jax.sharding import AxisType, NamedSharding, PartitionSpec

from offsites_jax.train import digest

ON_DEVICE = -1  # a limit that no array fits in


def on_mesh(array, shape, spec):
    mesh = jax.make_mesh(shape, ("data", "fsdp"), axis_types=(AxisType.Auto,) * 2)
    return jax.device_put(array, NamedSharding(mesh, PartitionSpec(*spec)))


def random(dtype, shape=(8, 4, 3)):
    return jnp.asarray(np.random.default_rng(1).normal(size=shape) * 5).astype(dtype)


def test_the_digest_does_not_depend_on_mesh_and_sharding():
    array = random("float32")
    placed = {
        "rows": on_mesh(array, (8, 1), ("data",)),
        "columns": on_mesh(array, (2, 4), (None, "fsdp")),
        "copies": on_mesh(array, (4, 2), ()),
        "one": array,
    }
    digests = digest.leaf_digests(placed, host_limit=ON_DEVICE)
    assert list(digests) == ["columns", "copies", "one", "rows"]
    assert set(digests.values()) == {digest.host_digests([np.asarray(array)])[0]}


def test_host_and_devices_agree_on_every_kind_of_number():
    kinds = ["bfloat16", "float8_e4m3fn", "complex64", "int4", "int16", "bool"]
    placed = {kind: on_mesh(random(kind), (4, 2), ("data", "fsdp")) for kind in kinds}
    assert digest.leaf_digests(placed, host_limit=ON_DEVICE) == digest.leaf_digests(placed)


def test_random_keys_scalars_and_empty_arrays_have_digests():
    tree = {"keys": jax.random.split(jax.random.key(3), 4), "step": jnp.int32(7), "none": jnp.zeros((0, 3))}
    digests = digest.leaf_digests(tree)
    assert digests == digest.leaf_digests(tree, host_limit=ON_DEVICE)
    assert digests["keys"] == digest.host_digests([np.asarray(jax.random.key_data(tree["keys"]))])[0]
    assert len(set(digests.values())) == 3


def avalanche(x):
    x = (x ^ x >> 16) * 0x85EBCA6B % 2**32
    x = (x ^ x >> 13) * 0xC2B2AE35 % 2**32
    return x ^ x >> 16


def test_digests_stay_what_they_were_when_old_checkpoints_were_written():
    words = [struct.unpack("<I", struct.pack("<f", value))[0] for value in range(6)]
    sums = [
        sum(avalanche(word ^ avalanche(n * 0x9E3779B1 % 2**32 ^ seed)) for n, word in enumerate(words))
        % 2**32
        for seed in (0x3C6EF372, 0xBB67AE85)
    ]
    assert digest.host_digests([np.arange(6, dtype=np.float32)]) == [f"{sums[0]:08x}{sums[1]:08x}"]


def flipped(array, bit):
    copy = array.copy()
    copy.view(np.uint8).reshape(-1)[bit // 8] ^= 1 << bit % 8
    return copy


@pytest.mark.parametrize("dtype", ["float32", "float64", "bfloat16", "int8", "complex64"])
def test_every_single_flipped_bit_changes_both_halves(dtype):
    array = np.asarray(random("float32", 15)).astype(jnp.dtype(dtype))
    changed = [flipped(array, bit) for bit in range(8 * array.nbytes)]
    (right,), wrong = digest.host_digests([array]), digest.host_digests(changed)
    assert all(other[:8] != right[:8] and other[8:] != right[8:] for other in wrong)
    assert len(set(wrong)) == len(wrong)


def test_order_counts():
    array = np.asarray(random("float32", 50))
    swapped = [array.copy() for _ in range(49)]
    for index, copy in enumerate(swapped):
        copy[[index, index + 1]] = copy[[index + 1, index]]
    assert len({*digest.host_digests([array, *swapped])}) == 50
    assert digest.host_digests([np.zeros(5, np.float32)]) != digest.host_digests([np.zeros(6, np.float32)])


def test_long_and_short_arrays_together_equal_each_alone():
    sizes = [3, 200_000, 0, 65_536, 1, 65_535, 70_000, 9]
    arrays = [np.random.default_rng(size).integers(0, 2**32, size, np.uint32) for size in sizes]
    together = digest.host_digests(arrays)
    assert together == [digest.host_digests([array])[0] for array in arrays]
    on_device = digest.leaf_digests({"x": jnp.asarray(arrays[1])}, host_limit=ON_DEVICE)
    assert on_device["x"] == together[1]
    assert digest.host_digests([flipped(arrays[1], 32 * 199_999)]) != [together[1]]


def test_large_arrays_are_digested_where_they_are(monkeypatch):
    tree = {"large": jnp.ones(digest.HOST_LIMIT + 1), "small": jnp.ones(digest.HOST_LIMIT)}
    fetched = []
    monkeypatch.setattr(jax, "device_get", lambda arrays: fetched.extend(arrays) or map(np.asarray, arrays))
    digest.leaf_digests(tree)
    assert [array.size for array in fetched] == [digest.HOST_LIMIT]


OF_MANY = """
import sys
import jax, numpy as np
from jax.sharding import NamedSharding, PartitionSpec
from offsites_jax.train import digest
count, index, port = map(int, sys.argv[1:])
jax.config.update("jax_platforms", "cpu")
jax.config.update("jax_num_cpu_devices", 8 // count)
if count > 1:
    jax.distributed.initialize(f"localhost:{port}", count, index, initialization_timeout=120)
sharding = NamedSharding(jax.make_mesh((8,), ("data",)), PartitionSpec("data"))
numbers = np.arange(64 * 5, dtype=np.float32).reshape(64, 5)
make = lambda i: jax.make_array_from_callback(numbers.shape, sharding, lambda part: numbers[part] / (i + 1))
print(digest.leaf_digests({f"leaf{i}": make(i) for i in range(100)}, host_limit=0))
"""


def digests_of_many(count):
    """What `count` processes make of a hundred arrays on eight devices."""
    port = str(portpicker.pick_unused_port())
    children = [
        subprocess.Popen(
            [sys.executable, "-c", OF_MANY, str(count), str(index), port], stdout=subprocess.PIPE, text=True
        )
        for index in range(count)
    ]
    try:
        said = [child.communicate(timeout=300)[0] for child in children]
    finally:
        for child in children:
            child.kill()
    return {text[text.index("{") :].strip() for text in said}


def test_processes_digest_many_sharded_arrays_without_waiting_for_each_other_forever():
    assert digests_of_many(2) == digests_of_many(1)


def test_leaves_of_one_name_are_refused():
    with pytest.raises(ValueError, match="same name"):
        digest.named_leaves({"a": {"b": 1}, "a/b": 2})


@pytest.fixture
def folder(tmp_path):
    (tmp_path / "d").mkdir()
    (tmp_path / "d" / "data").write_bytes(np.random.default_rng(0).bytes(300))
    (tmp_path / "meta.json").write_text('{"step": 8}')
    (tmp_path / "empty").write_text("")
    digest.write_manifest(epath.Path(tmp_path))
    return epath.Path(tmp_path)


def test_a_manifest_is_what_sha256sum_makes_of_it(folder):
    assert digest.damaged_files(folder) == {}
    listed = [line.split("  ")[1] for line in (folder / digest.MANIFEST).read_text().splitlines()[1:]]
    assert listed == ["d/data", "empty", "meta.json"]
    subprocess.run(["sha256sum", "--check", "--strict", digest.MANIFEST], cwd=folder, check=True)


def test_a_flipped_bit_in_any_file_is_noticed_the_manifest_included(folder):
    for name in ("d/data", "meta.json", digest.MANIFEST):
        right = (folder / name).read_bytes()
        for bit in np.random.default_rng(2).choice(8 * len(right), min(80, 8 * len(right)), replace=False):
            (folder / name).write_bytes(flipped(np.frombuffer(right, np.uint8), bit).tobytes())
            assert list(digest.damaged_files(folder)) == [name], bit
        (folder / name).write_bytes(right)
    assert digest.damaged_files(folder) == {}


def test_missing_and_cut_files_are_named(folder):
    (folder / "empty").unlink()
    (folder / "d" / "data").write_bytes((folder / "d" / "data").read_bytes()[:-1])
    assert digest.damaged_files(folder) == {"empty": "is missing", "d/data": "does not match its checksum"}


def test_processes_that_share_the_work_find_what_one_finds(folder):
    for name in ("d/data", "meta.json"):
        (folder / name).write_text("other")
    shares = [digest.damaged_files(folder, part, 3) for part in range(3)]
    assert {name for share in shares for name in share} == {"d/data", "meta.json"}
    assert sum(map(len, shares)) == 2
