"""Every layout of labelled images, small copies of the published ones, and labels that do not fit."""

import gzip
import io
import struct
import subprocess
import sys

import numpy as np
import pytest
from etils import epath
from PIL import Image
from tensorboardX.crc32c import crc32c
from tensorflow_datasets.proto import tf_example_generated_pb2 as example_pb2

from offsites_jax.data.pipeline import eval_batches, global_batch
from offsites_jax.data.source import ArrayRecordSource, write_array_record
from offsites_jax.errors import DamagedDataError, UserError
from offsites_jax.projects.image_classification import conversion, data, sources
from offsites_jax.train.config import load_experiment, resolve

DIGITS = "experiments/image_classification/digits.py"


def experiment(num_classes=10, task=None, **section):
    raw = load_experiment(DIGITS).raw
    raw["data"] = {"image_size": 16, **section}
    raw["model"]["num_classes"] = num_classes
    raw["task"] = task or {}
    raw["stages"] = []
    return resolve(raw)


def picture(grey, size=(20, 12)):
    stream = io.BytesIO()
    Image.new("RGB", size, (grey, grey, grey)).save(stream, "PNG")
    return stream.getvalue()


def evaluated(found, split):
    """All examples of a split as evaluation reads them."""
    pipeline = data.create_pipeline(found, split, train=False)
    (batch,) = eval_batches(pipeline, batch_size=8, shard=(0, 1), loading=found.data.loading)
    real = batch["mask"] > 0
    return batch["image"][real], batch["label"][real]


def masked(data):
    value = crc32c(data)
    return ((value >> 15 | value << 17 & 0xFFFFFFFF) + 0xA282EAD8) % 2**32


def write_tfrecord(file, examples):
    with file.open("wb") as stream:
        for values in examples:
            message = example_pb2.Example()
            for name, value in values.items():
                feature = message.features.feature[name]
                kind = feature.bytes_list if isinstance(value[0], bytes) else feature.int64_list
                kind.value.extend(value)
            content = message.SerializeToString()
            length = struct.pack("<Q", len(content))
            stream.write(length + struct.pack("<I", masked(length)))
            stream.write(content + struct.pack("<I", masked(content)))


def test_imagenet_tfrecords_count_classes_from_1(tmp_path):
    for shard in range(2):
        write_tfrecord(
            tmp_path / f"validation-0000{shard}-of-00002",
            [{"image/encoded": [picture(100 + shard)], "image/class/label": [1 + 9 * shard]}],
        )
    found = experiment(
        source="tfrecord",
        path=f"{tmp_path}/{{split}}-*",
        image_key="image/encoded",
        label_key="image/class/label",
        label_offset=-1,
        index=f"{tmp_path}/index",
    )
    images, labels = evaluated(found, "validation")
    assert labels.tolist() == [0, 9]
    assert images[:, 8, 8, 0].tolist() == [100, 101]
    assert [file.name for file in (tmp_path / "index").iterdir()] == ["validation.npz"]


def test_imagenet_21k_shards_hold_lists_of_labels(tmp_path):
    for shard in range(3):
        write_tfrecord(
            tmp_path / f"imagenet21k-{shard}",
            [{"id": [b"x"], "image": [picture(10 * shard)], "labels": [shard, 21_842]}],
        )
    found = experiment(
        num_classes=21_843,
        task={"loss": "multilabel_softmax"},
        source="tfrecord",
        path=f"{tmp_path}/imagenet21k*",
        label_key="labels",
        max_labels=3,
        shards=(1, 0),
        splits={"eval": {"shards": (0, 1)}},
    )
    assert evaluated(found, "train")[1].tolist() == [[1, 21_842, -1], [2, 21_842, -1]]
    assert evaluated(found, "eval")[1].tolist() == [[0, 21_842, -1]]


def test_array_records_may_hold_maps_or_examples(tmp_path):
    write_array_record(tmp_path / "train-0", [{"image": picture(50), "label": 3, "id": "a"}])
    from array_record.python.array_record_module import ArrayRecordWriter

    message = example_pb2.Example()
    message.features.feature["image"].bytes_list.value.append(picture(60))
    message.features.feature["label"].int64_list.value.append(4)
    writer = ArrayRecordWriter(str(tmp_path / "train-1"), "group_size:1")
    writer.write(message.SerializeToString())
    writer.close()
    found = experiment(source="array_record", path=f"{tmp_path}/{{split}}-*")
    images, labels = evaluated(found, "train")
    assert labels.tolist() == [3, 4]
    assert images[:, 0, 0, 0].tolist() == [50, 60]


def test_a_table_of_ones_own_images(tmp_path):
    for name in ("a", "b"):
        (tmp_path / f"{name}.png").write_bytes(picture(70))
    (tmp_path / "val.csv").write_text("path,labels\na.png,4;1\nb.png,0\n")
    about = {"source": "table", "path": str(tmp_path), "max_labels": 2}
    found = experiment(num_classes=5, task={"loss": "sigmoid"}, **about)
    assert evaluated(found, "val")[1].tolist() == [[1, 4], [0, -1]]
    with pytest.raises(UserError, match=r"is 4, but split 'val' of .* has labels 0 to 4"):
        data.create_pipeline(experiment(4, {"loss": "sigmoid"}, **about), "val", train=False)
    one = experiment(num_classes=5, source="table", path=str(tmp_path))
    with pytest.raises(DamagedDataError, match=r"a\.png \(record 0\): has 2 labels; set data.max_labels"):
        evaluated(one, "val")


def test_mnist_is_split_by_class_and_read_from_a_file(tmp_path):
    rows = [[*range(16), label] for label in range(10) for _ in range(5)]
    with gzip.open(tmp_path / "mnist.csv.gz", "wt") as stream:
        stream.writelines(",".join(map(str, row)) + "\n" for row in rows)
    train, test = (sources.mnist(split, str(tmp_path / "mnist.csv.gz")) for split in ("train", "test"))
    assert (len(train), len(test)) == (40, 10)
    assert sorted(int(test[i]["label"]) for i in range(10)) == list(range(10))
    np.testing.assert_array_equal(train[0]["image"][..., 0], np.arange(16).reshape(4, 4))
    with pytest.raises(UserError, match="no split 'val'"):
        sources.mnist("val", str(tmp_path / "mnist.csv.gz"))
    with pytest.raises(UserError, match="not a table of bytes"):
        sources.mnist("train", str(tmp_path))


def test_a_folder_with_another_number_of_classes_is_refused(tmp_path):
    for name in ("train/ant", "train/bee", "val/ant"):
        (tmp_path / name).mkdir(parents=True)
        (tmp_path / name / "1.png").write_bytes(picture(5))
    found = experiment(num_classes=2, source="folder", path=str(tmp_path))
    assert evaluated(found, "val")[1].tolist() == [0]
    assert sources.class_names(found.data, "val") == ("ant", "bee")
    with pytest.raises(UserError, match=r"num_classes: is 3, but split 'train' of .* has 2 classes"):
        data.create_pipeline(experiment(3, source="folder", path=str(tmp_path)), "train", train=True)


def test_a_label_that_no_class_has_names_its_record(tmp_path):
    write_array_record(tmp_path / "train-0", [{"image": picture(1), "label": n} for n in (2, 10)])
    found = experiment(source="array_record", path=f"{tmp_path}/train-*")
    pipeline = data.create_pipeline(found, "train", train=True)
    with pytest.raises(DamagedDataError, match=r"train-0, record 1: label 10 is not in 0\.\.9"):
        global_batch(pipeline, batch_size=2, seed=0, step=0)


def test_images_without_a_label_can_be_predicted_but_not_trained_on(tmp_path):
    write_array_record(tmp_path / "test-0", [{"image": picture(1), "label": -1}])
    found = experiment(source="array_record", path=f"{tmp_path}/test-*")
    assert evaluated(found, "test")[1].tolist() == [-1]
    with pytest.raises(DamagedDataError, match="has no label, which training needs"):
        global_batch(data.create_pipeline(found, "test", train=True), batch_size=1, seed=0, step=0)


@pytest.mark.parametrize(
    ("section", "words"),
    [
        ({"crop_area": (1.0, 0.5)}, r"config\.data\.crop_area: 1\.0 to 0\.5 is no range"),
        ({"crop_area": (0.5, 2.0)}, r"config\.data\.crop_area: 2\.0 is more than the whole image"),
        ({"cutout": 1.5}, r"config\.data\.cutout"),
        ({"mean": (1.0, 2.0)}, r"config\.data\.std: give mean and std as 1 or 3"),
        ({"fast_decode": True, "preprocess": "v1"}, r"config\.data\.fast_decode: is for the crops of"),
        ({"fast_decode": True, "pad": 2}, r"config\.data\.fast_decode: .* without pad"),
        ({"magnitude": -1}, r"config\.data\.magnitude: is -1"),
        (
            {"splits": {"real": {"naem": "x"}}},
            r"data\.splits\.real\.naem: unknown key; did you mean name",
        ),
    ],
)
def test_impossible_settings_are_named(section, words):
    with pytest.raises(UserError, match=words) as error:
        experiment(**section)
    assert "\n" not in str(error.value)


TFDS_SCRIPT = """
import pathlib, sys
import tensorflow_datasets as tfds
from PIL import Image

root = pathlib.Path(sys.argv[1])
Image.new("RGB", (9, 7), (90, 90, 90)).save(root / "picture.png")
features = {
    "imagenet2012": {"label": tfds.features.ClassLabel(num_classes=10), "file_name": tfds.features.Text()},
    "imagenet2012_real": {
        "original_label": tfds.features.ClassLabel(num_classes=10),
        "real_label": tfds.features.Sequence(tfds.features.ClassLabel(num_classes=10)),
        "file_name": tfds.features.Text(),
    },
    "oxford_flowers102": {
        "label": tfds.features.ClassLabel(num_classes=10), "file_name": tfds.features.Text(),
    },
}
records = {
    "imagenet2012": {"train": [{"label": n % 10} for n in range(50)], "validation": [{"label": 3}]},
    "imagenet2012_real": {"validation": [
        {"original_label": 3, "real_label": [3, 7]}, {"original_label": 1, "real_label": []}
    ]},
    "oxford_flowers102": {"train": [{"label": 1}], "validation": [{"label": 2}]},
}

def build(name):
    class Made(tfds.core.GeneratorBasedBuilder, skip_registration=True):
        VERSION = tfds.core.Version("1.0.0")
        def _info(self):
            kinds = {"image": tfds.features.Image(), **features[name]}
            return tfds.core.DatasetInfo(builder=self, features=tfds.features.FeaturesDict(kinds))
        def _split_generators(self, manager):
            return {split: self._generate_examples(split) for split in records[name]}
        def _generate_examples(self, split):
            for i, record in enumerate(records[name][split]):
                yield i, {"image": str(root / "picture.png"), "file_name": f"{i}", **record}
    Made.name = name
    Made(data_dir=root, file_format="array_record").download_and_prepare()

for name in features:
    build(name)
"""


def test_tfds_sets_of_imagenet_and_of_transfer(tmp_path):
    script = tmp_path / "script.py"
    script.write_text(TFDS_SCRIPT)
    root = tmp_path / "data"
    root.mkdir()
    done = subprocess.run(
        [sys.executable, str(script), str(root)], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    real = {"name": "imagenet2012_real", "split": "validation", "label_key": "real_label", "max_labels": 3}
    found = experiment(source="tfds", path=str(root), splits={"real": real})
    assert evaluated(found, "validation")[1].tolist() == [3]
    assert evaluated(found, "real")[1].tolist() == [[3, 7, -1], [-1, -1, -1]]
    for split, key, labels in (("validation", "label", [3]), ("real", "labels", [[3, 7], []])):
        copy = conversion.copy_split(found, split, epath.Path(tmp_path / "copy"), 1)
        read, source = ArrayRecordSource(copy.files), sources.create_source(found.data, split)
        rows = range(len(source))
        assert [read[row][key] for row in rows] == labels
        assert [read[row]["image"] for row in rows] == [source[row]["image"] for row in rows]
    parts = [sources.create_source(found.data, part) for part in ("train[2%:]", "train[:2%]")]
    assert [len(part) for part in parts] == [49, 1], "the minimal validation split overlaps nothing"
    assert len(sources.class_names(found.data, "train")) == 10
    flowers = experiment(source="tfds", path=str(root), name="oxford_flowers102")
    assert sorted(evaluated(flowers, "train+validation")[1].tolist()) == [1, 2]
    with pytest.raises(UserError, match="label_key: imagenet2012 has no classes in 'name', but in label"):
        data.create_pipeline(experiment(path=str(root), label_key="name"), "train", train=True)
