"""Sources: what they hold, in which order, and what they say when something is wrong."""

import pickle
import subprocess
import sys

import numpy as np
import pytest

from offsites_jax.data.source import (
    ArrayRecordSource,
    ArraySource,
    ImageFolderSource,
    describe,
    write_array_record,
)
from offsites_jax.errors import DamagedDataError, UserError


def make_folders(root, files):
    for name in files:
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_bytes(name.encode())
    return root


class TestArraySource:
    def test_cuts_records_and_protects_them(self):
        images = np.arange(24).reshape(4, 2, 3)
        source = ArraySource({"image": images, "label": np.array([3, 1, 4, 1])})
        assert len(source) == 4
        np.testing.assert_array_equal(source[2]["image"], images[2])
        assert source[2]["label"] == 4
        with pytest.raises(ValueError, match="read-only"):
            source[0]["image"][:] = 0
        assert images.flags.writeable

    def test_fingerprint_follows_values_names_and_dtype(self):
        base = np.arange(6)
        prints = {
            ArraySource({"a": base}).fingerprint(),
            ArraySource({"b": base}).fingerprint(),
            ArraySource({"a": base.astype(np.int32)}).fingerprint(),
            ArraySource({"a": base[::-1]}).fingerprint(),
        }
        assert len(prints) == 4
        assert ArraySource({"a": base.copy()}).fingerprint() in prints

    def test_unequal_lengths_and_scalars_are_errors(self):
        with pytest.raises(UserError, match="one common length"):
            ArraySource({"a": np.zeros(3), "b": np.zeros(4)})
        with pytest.raises(UserError, match="one common length"):
            ArraySource({})
        with pytest.raises(UserError, match="'a' must have a leading axis"):
            ArraySource({"a": np.float32(1)})


def test_describe_falls_back_to_the_index():
    assert describe([{}], 7) == "record 7"


class TestImageFolderSource:
    FILES = ("train/b/2.JPG", "train/b/1.png", "train/B2/x.webp", "train/a/y.jpeg", "val/b/v.jpg")

    def test_orders_by_bytes_and_numbers_classes(self, tmp_path):
        make_folders(tmp_path, [*self.FILES, "train/a/notes.txt", "train/.cache/z.jpg"])
        source = ImageFolderSource(tmp_path, "train")
        assert source.classes == ("B2", "a", "b")
        records = [source[index] for index in range(len(source))]
        paths = ["train/B2/x.webp", "train/a/y.jpeg", "train/b/1.png", "train/b/2.JPG"]
        assert [record["path"] for record in records] == paths
        assert [int(record["label"]) for record in records] == [0, 1, 2, 2]
        assert records[3]["image"] == b"train/b/2.JPG"
        assert source.describe(3) == f"{tmp_path}/train/b/2.JPG (record 3)"

    def test_a_split_without_some_classes_keeps_the_numbers_of_train(self, tmp_path):
        make_folders(tmp_path, self.FILES)
        assert ImageFolderSource(tmp_path, "val")[0]["label"] == 2

    def test_classes_txt_overrides(self, tmp_path):
        make_folders(tmp_path, self.FILES)
        (tmp_path / "classes.txt").write_text("b\na\n\nB2\n")
        source = ImageFolderSource(tmp_path, "train")
        assert source.classes == ("b", "a", "B2")
        assert [int(source[index]["label"]) for index in range(4)] == [2, 1, 0, 0]

    def test_root_may_hold_the_classes_itself(self, tmp_path):
        make_folders(tmp_path, ["cat/1.jpg", "train/1.jpg"])
        source = ImageFolderSource(tmp_path)
        assert source.classes == ("cat", "train")
        assert source[1]["path"] == "train/1.jpg"

    def test_fingerprint_follows_the_file_list_not_the_place(self, tmp_path):
        one, two = (make_folders(tmp_path / name, self.FILES) for name in ("one", "two"))
        before = ImageFolderSource(one, "train").fingerprint()
        assert ImageFolderSource(two, "train").fingerprint() == before
        make_folders(two, ["train/a/z.jpg"])
        assert ImageFolderSource(two, "train").fingerprint() != before

    @pytest.mark.parametrize(
        ("files", "listing", "message"),
        [
            (["val/a/1.jpg"], None, "no such folder"),
            (["train/1.jpg"], None, "no class folders"),
            (["train/a/1.jpg", "train/b/readme"], None, r"train/b: this class has no images"),
            (["train/cat/1.jpg", "train/Cat/1.jpg"], None, "'Cat' and 'cat' clash"),
            (["train/caf\u00e9/1.jpg", "train/cafe\u0301/1.jpg"], None, "clash; rename one"),
            (["train/STRASSE/1.jpg", "train/stra\u00dfe/1.jpg"], None, "clash; rename one"),
            (["train/a/1.jpg"], "b", "in neither classes.txt nor train"),
            (["train/a/1.jpg"], "a\nb\na", "'a' is listed twice"),
        ],
    )
    def test_mistakes_are_one_clear_line(self, tmp_path, files, listing, message):
        make_folders(tmp_path, files)
        if listing:
            (tmp_path / "classes.txt").write_text(listing)
        with pytest.raises(UserError, match=message) as error:
            ImageFolderSource(tmp_path, "train")
        assert str(tmp_path) in str(error.value)
        assert "\n" not in str(error.value)

    def test_a_class_that_only_val_has_is_an_error(self, tmp_path):
        make_folders(tmp_path, ["train/a/1.jpg", "val/c/1.jpg"])
        with pytest.raises(UserError, match="val/c: this class is in neither"):
            ImageFolderSource(tmp_path, "val")

    def test_a_file_that_vanished_is_damaged_data(self, tmp_path):
        source = ImageFolderSource(make_folders(tmp_path, ["train/a/1.jpg"]), "train")
        (tmp_path / "train/a/1.jpg").unlink()
        with pytest.raises(DamagedDataError, match="No such file"):
            source[0]


class TestArrayRecordSource:
    @pytest.fixture
    def folder(self, tmp_path):
        for shard, size in enumerate((3, 2)):
            records = ({"id": 10 * shard + i, "image": b"\xff\x00", "name": "é"} for i in range(size))
            assert write_array_record(tmp_path / f"part-{shard}.array_record", records) == size
        return tmp_path

    def test_roundtrip_over_several_files(self, folder):
        source = ArrayRecordSource(folder / "part-*.array_record")
        assert [source[index]["id"] for index in range(len(source))] == [0, 1, 2, 10, 11]
        assert source[4] == {"id": 11, "image": b"\xff\x00", "name": "é"}
        assert source.describe(4) == f"{folder}/part-1.array_record, record 1"
        assert sorted(path.name for path in folder.iterdir()) == [
            "part-0.array_record",
            "part-1.array_record",
        ]
        copy = pickle.loads(pickle.dumps(source))
        assert copy[3] == source[3]
        assert copy.fingerprint() == source.fingerprint()

    def test_fingerprint_follows_the_files(self, folder):
        whole = ArrayRecordSource([folder / "part-0.array_record", folder / "part-1.array_record"])
        assert whole.fingerprint() == ArrayRecordSource(folder / "part-*").fingerprint()
        assert whole.fingerprint() != ArrayRecordSource(folder / "part-0.array_record").fingerprint()

    def test_missing_and_damaged_files_are_named(self, folder):
        with pytest.raises(UserError, match=r"none-\*: no such file"):
            ArrayRecordSource(folder / "none-*")
        file = folder / "part-0.array_record"
        file.write_bytes(file.read_bytes()[:70_000])
        with pytest.raises(DamagedDataError, match=r"part-0\.array_record: not a whole"):
            ArrayRecordSource(file)

    def test_a_record_that_does_not_decode_is_damaged(self, folder):
        def refuse(data):
            raise DamagedDataError("is strange")

        with pytest.raises(DamagedDataError, match="is strange"):
            ArrayRecordSource(folder / "part-0.array_record", refuse)[0]
        from array_record.python.array_record_module import ArrayRecordWriter

        writer = ArrayRecordWriter(str(folder / "raw"), "group_size:1")
        writer.write(b"\xc1 not msgpack")
        writer.close()
        with pytest.raises(DamagedDataError, match="not a msgpack map"):
            ArrayRecordSource(folder / "raw")[0]


TFDS_SCRIPT = """
import sys, pathlib
import numpy as np
import tensorflow_datasets as tfds
from PIL import Image

root = pathlib.Path(sys.argv[1])
picture = root / "picture.png"
Image.fromarray(np.arange(48, dtype=np.uint8).reshape(4, 4, 3)).save(picture)

class Tiny(tfds.core.GeneratorBasedBuilder):
    VERSION = tfds.core.Version("1.2.0")

    def _info(self):
        return tfds.core.DatasetInfo(builder=self, features=tfds.features.FeaturesDict({
            "image": tfds.features.Image(shape=(None, None, 3)),
            "label": tfds.features.ClassLabel(num_classes=7),
            "words": tfds.features.Text(),
        }))

    def _split_generators(self, manager):
        return {"train": self._generate_examples()}

    def _generate_examples(self):
        for i in range(6):
            yield i, {"image": str(picture), "label": i, "words": f"word {i}"}

Tiny(data_dir=root, file_format="array_record").download_and_prepare()

from offsites_jax.data.image import decode
from offsites_jax.data.source import TFDSSource
from offsites_jax.errors import UserError

source = TFDSSource("tiny", "train[:50%]", root)
assert len(source) == 3
labels = {int(source[i]["label"]) for i in range(3)}
assert len(labels) == 3
assert source[0]["image"] == picture.read_bytes()
assert decode(source[0]["image"])[3, 3].tolist() == [45, 46, 47]
assert source[0]["words"] == b"word %d" % source[0]["label"]
assert source.describe(2).startswith("tiny/1.2.0, split train[:50%] (record 2: ")
assert source.fingerprint() != TFDSSource("tiny:1.2.0", "train", root).fingerprint()
rest = TFDSSource("tiny", "train[50%:]", root)
assert labels | {int(rest[i]["label"]) for i in range(3)} == set(range(6))
import cloudpickle
assert cloudpickle.loads(cloudpickle.dumps(source))[1]["label"] == source[1]["label"]
info = root / "tiny/1.2.0/dataset_info.json"
(root / "other/1.2.0").mkdir(parents=True)
for file in info.parent.iterdir():
    (root / "other/1.2.0" / file.name).write_bytes(file.read_bytes())
other = root / "other/1.2.0/dataset_info.json"
other.write_text(info.read_text().replace('"array_record"', '"tfrecord"').replace("tiny", "other"))
for name, split in (("tiny", "test"), ("cifar1O", "train"), ("cifar10", "train"), ("other", "train")):
    try:
        TFDSSource(name, split, root)
    except UserError as error:
        print(error)
assert "tensorflow" not in sys.modules
"""


def test_tfds_without_tensorflow(tmp_path):
    script = tmp_path / "script.py"
    script.write_text(TFDS_SCRIPT)
    root = tmp_path / "data"
    root.mkdir()
    run = subprocess.run(
        [sys.executable, str(script), str(root)], capture_output=True, text=True, check=False
    )
    assert run.returncode == 0, run.stderr
    no_split, unknown, unprepared, other_format = run.stdout.strip().splitlines()[-4:]
    assert no_split == "tiny/1.2.0 has no split 'test'; it has train"
    assert "no TFDS data set 'cifar1O'" in unknown
    assert "cifar10" in unknown
    command = f"tfds build cifar10 --data_dir={root} --file_format=array_record"
    assert unprepared == f"cifar10 is not prepared in {root}; run: {command}"
    assert "prepared as tfrecord, which has no random access" in other_format
    assert other_format.endswith(f"tfds build other --data_dir={root} --file_format=array_record")
