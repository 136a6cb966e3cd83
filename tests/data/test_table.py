"""Tables of images with one label or many: what they give, and what they refuse."""

import pytest

from offsites_jax.data.table import open_flat_folder, open_table
from offsites_jax.errors import DamagedDataError, UserError


def labels_of(source):
    return [source[index]["label"].tolist() for index in range(len(source))]


@pytest.fixture
def images(tmp_path):
    for name in ("a.jpg", "b.jpg", "c.jpg"):
        (tmp_path / name).write_bytes(name.encode())
    return tmp_path


def test_csv_and_json_lines_of_numbers_say_the_same(images):
    (images / "train.csv").write_text("path,labels,note\na.jpg,3;1,x\nb.jpg,0,y\n")
    (images / "val.jsonl").write_text(
        '{"path": "a.jpg", "labels": [3, 1]}\n\n{"path": "b.jpg", "labels": [0]}\n'
    )
    table, lines = open_table(images, "train"), open_table(images, "val")
    assert labels_of(table) == labels_of(lines) == [[1, 3], [0]]
    assert table[0]["image"] == b"a.jpg"
    assert table.fingerprint() == lines.fingerprint()
    assert table.label_range() == (0, 3)
    assert table.describe(1) == f"{images}/b.jpg (record 1)"


def test_names_are_numbered_by_the_training_table_or_by_the_list(images):
    (images / "train.csv").write_text("path,labels\na.jpg,zebra; ant\nb.jpg,bee\n")
    (images / "val.csv").write_text("path,labels\nc.jpg,zebra\n")
    assert open_table(images, "train").classes == ("ant", "bee", "zebra")
    assert labels_of(open_table(images, "val")) == [[2]]
    (images / "classes.txt").write_text("zebra\nbee\nant\n")
    assert labels_of(open_table(images, "train")) == [[0, 2], [1]]


def test_the_fingerprint_follows_labels(images):
    prints = set()
    for labels in ("1", "2", "1;2"):
        (images / "train.csv").write_text(f"path,labels\na.jpg,{labels}\n")
        prints.add(open_table(images, "train").fingerprint())
    assert len(prints) == 3


def test_an_image_that_is_not_there_is_damaged_data(images):
    (images / "train.csv").write_text("path,labels\nd.jpg,1\n")
    with pytest.raises(DamagedDataError, match="No such file"):
        open_table(images, "train")[0]


@pytest.mark.parametrize(
    ("name", "text", "words"),
    [
        ("train.csv", "path,labels\n", "split 'train' is empty"),
        ("train.csv", "file,labels\na.jpg,1\n", "no column 'path'"),
        ("train.csv", "path,labels\na.jpg\n", r"train\.csv:2: has fewer cells"),
        ("train.csv", "path,labels\na.jpg,1\nb.jpg,\n", r"train\.csv:3: no label"),
        ("train.jsonl", '{"path": "a.jpg"}\n', r"train\.jsonl:1: .*labels"),
        ("train.jsonl", '{"path": "a.jpg", "labels": [1.5]}\n', r"train\.jsonl:1"),
        ("train.jsonl", "not json\n", r"train\.jsonl:1"),
        ("other.csv", "", r"neither train\.csv nor train\.jsonl"),
    ],
)
def test_mistakes_name_file_and_line(images, name, text, words):
    (images / name).write_text(text)
    with pytest.raises(UserError, match=words) as error:
        open_table(images, "train")
    assert "\n" not in str(error.value)


def test_an_unknown_class_names_its_line(images):
    (images / "train.csv").write_text("path,labels\na.jpg,ant\n")
    (images / "val.csv").write_text("path,labels\nb.jpg,bee\n")
    with pytest.raises(UserError, match=r"val\.csv:2: class 'bee' is in neither"):
        open_table(images, "val")


def test_flat_validation_images_find_their_classes(tmp_path):
    for synset in ("n02", "n01"):
        (tmp_path / "train" / synset).mkdir(parents=True)
    (tmp_path / "val").mkdir()
    for number in (1, 2, 7):
        (tmp_path / f"val/ILSVRC2012_val_0000000{number}.JPEG").write_bytes(b"image")
    assert open_flat_folder(tmp_path, "val") is None
    (tmp_path / "val.txt").write_text("ILSVRC2012_val_00000001.JPEG 1\nILSVRC2012_val_00000002.JPEG 0\n")
    listed = open_flat_folder(tmp_path, "val")
    assert labels_of(listed) == [[1], [0]]
    assert listed[1]["path"] == "val/ILSVRC2012_val_00000002.JPEG"
    assert listed.classes == ("n01", "n02")
    (tmp_path / "LOC_val_solution.csv").write_text(
        "ImageId,PredictionString\nILSVRC2012_val_00000007,n02 85 1 499 272 n02 1 2 3 4\n"
    )
    solved = open_flat_folder(tmp_path, "val")
    assert labels_of(solved) == [[1]]
    assert solved[0]["path"] == "val/ILSVRC2012_val_00000007.JPEG"


def test_a_listing_that_is_none_is_refused(tmp_path):
    (tmp_path / "val.txt").write_text("only_a_name.JPEG\n")
    with pytest.raises(UserError, match=r"val\.txt: .*is not a file name and a class number"):
        open_flat_folder(tmp_path, "val")
