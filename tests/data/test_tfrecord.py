"""TFRecord files against records written by others' code: protobuf's encoder and a bytewise checksum."""

import pickle
import struct

import numpy as np
import pytest
from tensorboardX.crc32c import crc32c as bytewise
from tensorflow_datasets.proto import tf_example_generated_pb2 as example_pb2

from offsites_jax.data.crc32c import masked_crc32c_rows
from offsites_jax.data.protobuf import parse_example
from offsites_jax.data.tfrecord import TFRecordSource, decode_example
from offsites_jax.errors import DamagedDataError, UserError


def masked(data):
    value = bytewise(data)
    return ((value >> 15 | value << 17 & 0xFFFFFFFF) + 0xA282EAD8) % 2**32


def example(**features):
    message = example_pb2.Example()
    for name, values in features.items():
        feature = message.features.feature[name]
        kind = {bytes: feature.bytes_list, int: feature.int64_list, float: feature.float_list}[
            type(values[0])
        ]
        kind.value.extend(values)
    return message.SerializeToString()


def write(file, records):
    with file.open("wb") as stream:
        for data in records:
            length = struct.pack("<Q", len(data))
            stream.write(length + struct.pack("<I", masked(length)))
            stream.write(data + struct.pack("<I", masked(data)))
    return file


@pytest.fixture
def folder(tmp_path):
    for shard, size in enumerate((3, 2)):
        records = [example(image=[bytes([shard, i])], label=[10 * shard + i]) for i in range(size)]
        write(tmp_path / f"train-{shard:05d}-of-00002", records)
    return tmp_path


def test_features_of_all_kinds_come_back():
    large = -(2**63)
    data = example(image=[b"\xff\x00", b""], label=[1, -1, 2**40, large], share=[0.5, -2.25])
    found = parse_example(data)
    assert found == {"image": [b"\xff\x00", b""], "label": [1, -1, 2**40, large], "share": [0.5, -2.25]}


def test_lists_that_are_not_packed_are_read_too():
    """Field 3 holds the int64s; old writers gave each element a tag of its own."""
    unpacked = bytes([0x1A, 4, 0x08, 5, 0x08, 6])
    entry = bytes([0x0A, 1, ord("n"), 0x12, len(unpacked)]) + unpacked
    features = bytes([0x0A, len(entry)]) + entry
    message = bytes([0x0A, len(features)]) + features
    reference = example_pb2.Example.FromString(message)
    assert list(reference.features.feature["n"].int64_list.value) == [5, 6]
    assert parse_example(message) == {"n": [5, 6]}


def test_records_are_read_in_any_order(folder):
    source = TFRecordSource(folder / "train-*")
    assert len(source) == 5
    assert [source[index]["label"] for index in (4, 0, 3, 2)] == [[11], [0], [10], [2]]
    assert source[1] == {"image": [bytes([0, 1])], "label": [1]}
    assert source.describe(4) == f"{folder}/train-00001-of-00002, record 1"
    copy = pickle.loads(pickle.dumps(source))
    assert copy[3] == source[3]
    assert (
        copy.fingerprint()
        == source.fingerprint()
        != TFRecordSource(folder / "train-00000-of-00002").fingerprint()
    )


def test_an_index_file_saves_the_walk_until_the_data_changes(folder, monkeypatch):
    index = folder / "index.npz"
    walked = []
    from offsites_jax.data import tfrecord

    walk = tfrecord._walk
    monkeypatch.setattr(tfrecord, "_walk", lambda *args: walked.append(args[0]) or walk(*args))
    first = TFRecordSource(folder / "train-*", index=index)
    assert len(walked) == 2
    again = TFRecordSource(folder / "train-*", index=index)
    assert len(walked) == 2
    assert [again[i] for i in range(5)] == [first[i] for i in range(5)]
    write(folder / "train-00001-of-00002", [example(label=[7])])
    assert TFRecordSource(folder / "train-*", index=index)[3]["label"] == [7]
    assert len(walked) == 4
    assert sorted(file.name for file in folder.iterdir())[0] == "index.npz", "nothing half-written is left"


@pytest.mark.parametrize(
    ("damage", "words"),
    [
        (lambda data: data[:-2], "ends inside record 2"),
        (lambda data: b"\x99" + data[1:], "the length of record 0 has another checksum"),
        (lambda data: data[:8] + b"\0" + data[9:], "the length of record 0 has another checksum"),
        (lambda data: data + b"junk", "the length of record 3 has another checksum"),
        (lambda data: b"\xff" * 40, "not a TFRecord file"),
    ],
)
def test_a_damaged_file_is_named_when_it_is_opened(folder, damage, words):
    file = folder / "train-00000-of-00002"
    file.write_bytes(damage(file.read_bytes()))
    with pytest.raises(DamagedDataError, match=words) as error:
        TFRecordSource(folder / "train-*")
    assert str(file) in str(error.value)


def test_a_flipped_bit_in_a_record_is_noticed_when_it_is_read(folder):
    file = folder / "train-00000-of-00002"
    data = bytearray(file.read_bytes())
    data[14] ^= 4
    file.write_bytes(data)
    source = TFRecordSource(folder / "train-*")
    with pytest.raises(DamagedDataError, match="does not have its checksum"):
        source[0]
    assert source[1]["label"] == [1]


def test_what_is_no_example_and_no_file_is_named(tmp_path):
    with pytest.raises(UserError, match=r"none-\*: no such file"):
        TFRecordSource(tmp_path / "none-*")
    for data in (b"\xff\xff", b"\x0a\x05abc", b"\x0b", b"\x0a\x02\x0a\x00"):
        with pytest.raises(DamagedDataError, match=r"not a tf\.train\.Example"):
            decode_example(data)
    index = tmp_path / "index.npz"
    index.write_bytes(b"nothing")
    write(tmp_path / "a", [example(label=[1])])
    with pytest.raises(DamagedDataError, match="delete it"):
        TFRecordSource(tmp_path / "a", index=index)


def test_checksums_of_many_rows_at_once():
    rows = np.random.default_rng(0).integers(256, size=(50, 8), dtype=np.uint8)
    assert masked_crc32c_rows(rows).tolist() == [masked(row.tobytes()) for row in rows]
