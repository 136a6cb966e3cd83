"""Round trips: every kind of source, and its copy read by the same pipeline, give the same examples."""

import io
import json
import struct

import msgspec
import numpy as np
import pytest
from PIL import Image
from tensorboardX.crc32c import crc32c
from tensorflow_datasets.proto import tf_example_generated_pb2 as example_pb2

from offsites_jax.cli.main import main
from offsites_jax.data.pipeline import eval_batches
from offsites_jax.data.source import ArrayRecordSource, write_array_record
from offsites_jax.errors import DamagedDataError, UserError
from offsites_jax.projects.image_classification import classes, conversion, data
from offsites_jax.train.config import load_experiment, resolve

DIGITS = "experiments/image_classification/digits.py"


def experiment(num_classes, **section):
    raw = load_experiment(DIGITS).raw
    raw["data"] = {"image_size": 16, "eval_crop": "whole", **section}
    raw["model"]["num_classes"] = num_classes
    raw["task"] = {"loss": "sigmoid" if section.get("max_labels") else "softmax"}
    raw["stages"] = []
    return resolve(raw)


def picture(grey, size=(20, 12), kind="PNG"):
    stream = io.BytesIO()
    Image.new("RGB", size, (grey, 255 - grey, grey // 2)).save(stream, kind)
    return stream.getvalue()


def message(values):
    found = example_pb2.Example()
    for name, value in values.items():
        feature = found.features.feature[name]
        kind = feature.bytes_list if isinstance(value[0], bytes) else feature.int64_list
        kind.value.extend(value)
    return found.SerializeToString()


def write_tfrecord(file, examples):
    def masked(content):
        value = crc32c(content)
        return struct.pack("<I", ((value >> 15 | value << 17 & 0xFFFFFFFF) + 0xA282EAD8) % 2**32)

    with file.open("wb") as stream:
        for content in map(message, examples):
            length = struct.pack("<Q", len(content))
            stream.write(length + masked(length) + content + masked(content))


def folder(root):
    for number, name in enumerate(("bee/2.jpg", "ant/0.png", "bee/1.png", "cow/x y.webp")):
        (root / "train" / name).parent.mkdir(parents=True, exist_ok=True)
        kind = {"g": "PNG", "p": "WEBP"}[name[-1]] if name[-1] in "p" else "PNG"
        (root / "train" / name).write_bytes(
            picture(40 * number, kind="JPEG" if name.endswith("jpg") else kind)
        )
    ids = ["train/ant/0.png", "train/bee/1.png", "train/bee/2.jpg", "train/cow/x y.webp"]
    return experiment(3, source="folder", path=str(root)), [0, 1, 1, 2], ids, ("ant", "bee", "cow")


def imagenet_tfrecord(root):
    """google/automl's shards: classes from 1, names of files."""
    for shard in range(2):
        write_tfrecord(
            root / f"train-0000{shard}-of-00002",
            [
                {
                    "image/encoded": [picture(shard)],
                    "image/class/label": [1 + 4 * shard],
                    "image/filename": [f"n0{shard}.JPEG".encode()],
                }
            ],
        )
    found = experiment(
        5, source="tfrecord", path=f"{root}/{{split}}-*", image_key="image/encoded",
        label_key="image/class/label", label_offset=-1,
    )  # fmt: skip
    return found, [0, 4], ["n00.JPEG", "n01.JPEG"], None


def imagenet21k_tfrecord(root):
    """Several labels an image, and an id."""
    rows = [([7, 3], b"a"), ([21_842], b"b"), ([1, 2, 3], "\u00fc".encode())]
    write_tfrecord(
        root / "imagenet21k-0",
        [{"image": [picture(9)], "labels": labels, "id": [name]} for labels, name in rows],
    )
    found = experiment(
        21_843, source="tfrecord", path=f"{root}/imagenet21k*", label_key="labels", max_labels=3
    )
    return found, [labels for labels, _ in rows], ["a", "b", "ü"], None


def table(root):
    (root / "train.csv").write_text("path,labels\nb.png,dog;cat\na.png,cat\n")
    for name in "ab":
        (root / f"{name}.png").write_bytes(picture(ord(name)))
    found = experiment(2, source="table", path=str(root), max_labels=2)
    return found, [[0, 1], [0]], ["b.png", "a.png"], ("cat", "dog")


def array_record_of_maps(root):
    """As another copy, with names beside it."""
    rows = [{"image": picture(k), "label": k, "id": f"x{k}"} for k in (1, 0)]
    write_array_record(root / "train.array_record", rows)
    (root / "classes.txt").write_text("no\nyes\n")
    found = experiment(2, source="array_record", path=f"{root}/{{split}}.array_record")
    return found, [1, 0], ["x1", "x0"], ("no", "yes")


def array_record_of_examples(root):
    from array_record.python import array_record_module

    writer = array_record_module.ArrayRecordWriter(str(root / "train.array_record"), "group_size:1")
    for k in (2, 0):
        writer.write(message({"image": [picture(k)], "label": [k]}))
    writer.close()
    found = experiment(3, source="array_record", path=f"{root}/{{split}}.array_record")
    return found, [2, 0], ["train-00000000", "train-00000001"], None


def digits(root):
    """Pixels, no files."""
    from sklearn.datasets import load_digits
    from sklearn.model_selection import train_test_split

    target = load_digits().target
    rows = np.sort(
        train_test_split(np.arange(len(target)), test_size=0.2, stratify=target, random_state=0)[0]
    )
    ids = [f"train-{row:08d}" for row in range(len(rows))]
    return experiment(10, source="digits", channels=1), target[rows].tolist(), ids, tuple("0123456789")


KINDS = [
    folder, imagenet_tfrecord, imagenet21k_tfrecord, table, array_record_of_maps, array_record_of_examples,
    digits,
]  # fmt: skip


def examples(found, split):
    pipeline = data.create_pipeline(found, split, train=False)
    batches = eval_batches(pipeline, batch_size=256, shard=(0, 1), loading=found.data.loading)
    rows = [(batch["image"][real], batch["label"][real]) for batch in batches for real in [batch["mask"] > 0]]
    return tuple(np.concatenate(part) for part in zip(*rows, strict=True))


@pytest.mark.parametrize("kind", KINDS)
def test_a_copy_gives_the_same_examples(kind, tmp_path):
    (tmp_path / "source").mkdir()
    found, labels, ids, names = kind(tmp_path / "source")
    output = conversion.epath.Path(tmp_path / "copy")
    copy = conversion.copy_split(found, "train", output, 2)

    assert [file.name for file in copy.files] == [f"train-0000{n}-of-00002.array_record" for n in range(2)]
    source = ArrayRecordSource(f"{output}/train-*.array_record")
    key = "labels" if found.data.max_labels else "label"
    records = [source[index] for index in range(len(source))]
    assert [set(record) for record in records] == [{"image", key, "id"}] * len(labels)
    assert [record[key] for record in records] == labels
    assert [record["id"] for record in records] == ids

    raw = {**found.raw, "data": {**found.raw["data"], **copy.section}}
    again = resolve(raw)
    for ours, theirs in zip(examples(again, "train"), examples(found, "train"), strict=True):
        np.testing.assert_array_equal(ours, theirs)

    with np.load(tmp_path / "copy" / "train.index.npz") as index:
        assert index["files"].tolist() == [file.name for file in copy.files]
        assert index["counts"].tolist() == [len(labels) // 2, len(labels) - len(labels) // 2]
        assert index["bytes"].tolist() == [len(msgspec.msgpack.encode(record)) for record in records]
        sides = [Image.open(io.BytesIO(record["image"])).size for record in records]
        assert list(zip(index["width"].tolist(), index["height"].tolist(), strict=True)) == sides

    listing = tmp_path / "copy" / "classes.txt"
    assert (tuple(listing.read_text().splitlines()) if names else listing.exists()) == (names or False)
    assert classes.known_names(again.data, "train", found.model.num_classes) == names


def test_pixels_are_copied_exactly(tmp_path):
    found, *_ = digits(tmp_path)
    conversion.copy_split(found, "test", conversion.epath.Path(tmp_path), 1)
    copies, source = (
        ArrayRecordSource(f"{tmp_path}/test-*"),
        data.create_pipeline(found, "test", False).source,
    )
    for row in (0, 100, 359):
        pixels = np.asarray(Image.open(io.BytesIO(copies[row]["image"])))
        np.testing.assert_array_equal(pixels, source[row]["image"][..., 0])


def test_files_are_copied_byte_by_byte(tmp_path):
    found, *_ = folder(tmp_path)
    conversion.copy_split(found, "train", conversion.epath.Path(tmp_path / "copy"), 1)
    for record in map(ArrayRecordSource(f"{tmp_path}/copy/train-*").__getitem__, range(4)):
        assert record["image"] == (tmp_path / record["id"]).read_bytes()


def test_the_command_says_how_to_read_the_copy_and_what_is_no_image(tmp_path, capfd):
    folder(tmp_path)
    (tmp_path / "train" / "ant" / "1.png").write_bytes(b"broken")
    file = tmp_path / "experiment.py"
    file.write_text(
        "def get_config():\n    return {'project': 'image_classification', 'model': {'num_classes': 3}, "
        "'train': {'steps': 1, 'batch_size': 1}, "
        f"'data': {{'source': 'folder', 'path': {str(tmp_path)!r}}}}}\n"
    )
    words = [
        "convert",
        "--experiment",
        file,
        "--split",
        "train",
        "--output",
        tmp_path / "copy",
        "--shards",
        3,
    ]
    with pytest.raises(SystemExit) as ended:
        main(["image_classification", *map(str, words)])
    assert not ended.value.code
    first, section, broken = capfd.readouterr().out.splitlines()
    assert "5 images in 3 files" in first
    told = json.loads(section.removeprefix("config.data.update(").removesuffix(")"))
    assert told == {
        "source": "array_record", "path": f"{tmp_path}/copy/{{split}}-*", "image_key": "image",
        "label_key": "label", "label_offset": 0, "max_labels": 0,
    }  # fmt: skip
    assert broken == "1 of them are no images of a known kind; the first is record 1"


def test_what_cannot_be_copied_is_named(tmp_path):
    found, *_ = imagenet_tfrecord(tmp_path)
    few = resolve({**found.raw, "model": {**found.raw["model"], "num_classes": 4}})
    output = conversion.epath.Path(tmp_path / "copy")
    with pytest.raises(DamagedDataError, match=r"train-00001-of-00002, record 0: label 4 is not in 0\.\.3"):
        conversion.copy_split(few, "train", output, 1)
    assert not list((tmp_path / "copy").glob("*.array_record"))
    wide = {"image/encoded": np.zeros((2, 2, 3), np.uint16), "label": 0}
    with pytest.raises(DamagedDataError, match="uint16"):
        conversion.portable(wide, "x", found.data, 4)


def test_other_classes_in_the_folder_are_refused(tmp_path):
    found, *_ = folder(tmp_path)
    (tmp_path / "copy").mkdir()
    (tmp_path / "copy" / "classes.txt").write_text("ape\nbat\ncat\n")
    with pytest.raises(UserError, match="has other classes"):
        conversion.copy_split(found, "train", conversion.epath.Path(tmp_path / "copy"), 1)


def test_a_record_without_a_label_stays_without(tmp_path):
    found, *_ = array_record_of_maps(tmp_path)
    assert conversion.portable({"image": b"x"}, "r7", found.data, 2) == {"image": b"x", "id": "r7"}
    assert conversion.portable({"image": b"x", "label": -1}, "r7", found.data, 2)["label"] == -1
