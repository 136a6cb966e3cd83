"""Files of tests/export/golden were written by TensorFlow, see tools/golden/tensorflow_checkpoint.py."""

import pathlib
import shutil

import ml_dtypes
import numpy as np
import pytest

from offsites_jax.errors import DamagedDataError, OffsitesError, UserError
from offsites_jax.export.importers.bundle import read_bundle

GOLDEN = pathlib.Path(__file__).parent / "golden"
COUNT = np.arange(300)
EXPECTED = {
    "first/float32": (COUNT / 7).astype(np.float32).reshape(3, 100),
    "first/float32_scalar": np.float32(0.1),
    "first/int64": COUNT.astype(np.int64) << 33,
    "second/bfloat16": (COUNT[:50] / 8).astype(ml_dtypes.bfloat16),
    "second/float16": (COUNT[:50] / 8).astype(np.float16),
    "second/float64": COUNT[:5] / 7,
    "second/empty": np.zeros((0, 4), np.float32),
}


@pytest.fixture
def prefix(tmp_path):
    for file in GOLDEN.glob("numbers.*"):
        shutil.copy(file, tmp_path)
    return tmp_path / "numbers"


def test_every_type_from_several_shards():
    tensors = read_bundle(GOLDEN / "numbers")
    assert set(tensors.shapes) == {*EXPECTED, "first/text", "sliced"}
    for name, wanted in EXPECTED.items():
        found = tensors.read(name)
        assert (
            (found.dtype, found.shape) == (wanted.dtype, wanted.shape) == (found.dtype, tensors.shapes[name])
        )
        assert found.tobytes() == wanted.tobytes(), name
    assert [file.suffix for file in tensors.files] == [
        ".index",
        *(f".data-0000{k}-of-00003" for k in range(3)),
    ]


def test_what_is_no_array_of_numbers_is_refused_by_name():
    tensors = read_bundle(GOLDEN / "numbers")
    with pytest.raises(UserError, match="'first/text' is of TensorFlow's type number 7"):
        tensors.read("first/text")
    assert tensors.shapes["sliced"] == (4, 2)
    with pytest.raises(UserError, match="'sliced' is stored in slices"):
        tensors.read("sliced")


def test_a_large_index_of_many_blocks_reads_in_order():
    """The index of a model: keys share beginnings, and fill more than one block."""
    tensors = read_bundle(GOLDEN / "automl_tiny/model.ckpt-12345")
    assert tensors.read("global_step") == 12345
    names = list(tensors.shapes)
    assert names == sorted(names)
    assert tensors.shapes["efficientnetv2-b0/stem/conv2d/kernel/RMSProp_1"] == (3, 3, 3, 8)


def test_a_flipped_bit_in_the_data_names_the_tensor(prefix):
    shard = prefix.with_name("numbers.data-00001-of-00003")
    data = bytearray(shard.read_bytes())
    data[10] ^= 4
    shard.write_bytes(data)
    tensors = read_bundle(prefix)
    np.testing.assert_array_equal(tensors.read("first/float32"), EXPECTED["first/float32"])
    with pytest.raises(DamagedDataError, match=r"00001-of-00003: tensor 'second/bfloat16' does not have its"):
        tensors.read("second/bfloat16")


def test_a_shard_cut_short_or_missing(prefix):
    shard = prefix.with_name("numbers.data-00000-of-00003")
    shard.write_bytes(shard.read_bytes()[:1500])
    with pytest.raises(DamagedDataError, match="ends inside tensor 'first/int64'"):
        read_bundle(prefix).read("first/int64")
    shard.unlink()
    with pytest.raises(UserError, match=r"data-00000-of-00003: missing"):
        read_bundle(prefix)


def contents(prefix):
    """Everything a checkpoint says, or None if it is refused."""
    try:
        tensors = read_bundle(prefix)
        return {**tensors.shapes, **{name: tensors.read(name).tobytes() for name in EXPECTED}}
    except OffsitesError:
        return None


def test_damage_anywhere_in_the_index_is_refused_or_without_effect(prefix):
    """Bits of bytes all over: nothing crashes, and nothing wrong is read."""
    index = prefix.with_name("numbers.index")
    whole, wanted = index.read_bytes(), contents(prefix)
    assert wanted
    refused = 0
    for at in range(0, len(whole), 3):
        damaged = bytearray(whole)
        damaged[at] ^= 1 << at % 8
        index.write_bytes(damaged)
        found = contents(prefix)
        assert found in (None, wanted), f"byte {at}"
        refused += found is None
    assert refused > 110  # of 134: some bytes of the footer and of an empty block mean nothing


def test_an_index_cut_short_anywhere_is_refused(prefix):
    index = prefix.with_name("numbers.index")
    whole = index.read_bytes()
    for size in range(0, len(whole), 7):
        index.write_bytes(whole[:size])
        assert contents(prefix) is None
