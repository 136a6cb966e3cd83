"""Folders and tables of photos: what is read, and one clear line for everything that does not fit."""

import numpy as np
import pytest
from PIL import Image

from offsites_jax.errors import UserError
from offsites_jax.projects.one_class.readers import mvtec
from offsites_jax.projects.one_class.readers.folder import open_folder
from offsites_jax.projects.one_class.readers.mvtec import open_mvtec
from offsites_jax.projects.one_class.readers.table import open_table

GOOD = [f"train/good/{number:03d}.png" for number in range(3)]
TEST = ["test/crack/000.png", "test/crack/001.png", "test/good/000.png"]
MASKS = ["ground_truth/crack/000_mask.png", "ground_truth/crack/001_mask.png"]


def write(root, names):
    for name in names:
        file = root / name
        file.parent.mkdir(parents=True, exist_ok=True)
        Image.new("L", (4, 4)).save(file)
    return root


def masks_of(source):
    return [photo.mask for photo in source._photos]


def test_the_layout_of_mvtec(tmp_path):
    write(tmp_path, GOOD + TEST + MASKS)
    (tmp_path / "license.txt").write_text("CC BY-NC-SA 4.0")
    (tmp_path / "test" / ".DS_Store").write_text("")
    (tmp_path / "test" / "good" / "Thumbs.db").write_text("")
    train, test = open_folder(tmp_path, "train"), open_folder(tmp_path, "test")
    assert train.names == tuple(GOOD)
    assert train.labels.tolist() == [0, 0, 0]
    assert test.names == tuple(TEST)
    assert test.labels.tolist() == [1, 1, 0]
    assert test.kinds == ("crack", "crack", "good")
    assert masks_of(test) == [*MASKS, ""]


def test_masks_are_matched_by_stem_not_by_order(tmp_path):
    names = ["test/crack/9.png", "test/crack/10.jpg", "test/crack/a b.tif"]
    masks = ["ground_truth/crack/10.png", "ground_truth/crack/9_mask.bmp", "ground_truth/crack/a b_mask.png"]
    write(tmp_path, GOOD + names + masks)
    found = open_folder(tmp_path, "test")
    assert dict(zip(found.names, masks_of(found), strict=True)) == {
        "test/crack/9.png": "ground_truth/crack/9_mask.bmp",
        "test/crack/10.jpg": "ground_truth/crack/10.png",
        "test/crack/a b.tif": "ground_truth/crack/a b_mask.png",
    }


def test_without_ground_truth_there_are_no_masks(tmp_path):
    write(tmp_path, GOOD + TEST)
    assert not open_folder(tmp_path, "test").has_masks


@pytest.mark.parametrize(
    ("more", "less", "message"),
    [
        ([], [MASKS[1]], r"test/crack/001\.png: has no mask; expected .*001_mask\.png"),
        (["ground_truth/crack/002_mask.png"], [], r"002_mask\.png: a mask without a photo in"),
        (["ground_truth/crack/000.png"], [], "masks of the same photo"),
        (["test/crack/000.jpg"], [], "has no mask"),
        (["ground_truth/good/000_mask.png"], [], "good photos have no masks"),
        (["ground_truth/dent/000_mask.png"], [], "dent: masks of a kind without photos"),
        (["test/dent/000.png"], [], "dent: photos without masks"),
    ],
)
def test_photos_and_masks_have_to_belong_together(tmp_path, more, less, message):
    write(tmp_path, [name for name in GOOD + TEST + MASKS + more if name not in less])
    with pytest.raises(UserError, match=message) as caught:
        open_folder(tmp_path, "test")
    assert "\n" not in str(caught.value)


def test_training_is_on_good_photos_only(tmp_path):
    write(tmp_path, [*GOOD, "train/bad/000.png"])
    with pytest.raises(UserError, match="train/bad: training is on good photos only"):
        open_folder(tmp_path, "train")


def test_an_empty_train_folder_is_named(tmp_path):
    (tmp_path / "train" / "good").mkdir(parents=True)
    with pytest.raises(UserError, match="train/good: no photos"):
        open_folder(tmp_path, "train")
    with pytest.raises(UserError, match="test: no such folder"):
        open_folder(tmp_path, "test")


def test_a_file_that_is_no_image_is_not_passed_over(tmp_path):
    write(tmp_path, GOOD)
    (tmp_path / "train" / "good" / "004.heic").write_bytes(b"")
    with pytest.raises(UserError, match=r"004\.heic: not an image .*; convert it"):
        open_folder(tmp_path, "train")


def test_a_plain_folder_of_good_photos(tmp_path):
    write(tmp_path, ["b.png", "a.JPG", "ä.tiff", "c.bmp"])
    assert open_folder(tmp_path, "train").names == ("a.JPG", "b.png", "c.bmp", "ä.tiff")
    with pytest.raises(UserError, match="holds good photos only, nothing to test on"):
        open_folder(tmp_path, "test")
    write(tmp_path, ["more/d.png"])
    with pytest.raises(UserError, match="more: a folder where only photos belong"):
        open_folder(tmp_path, "train")
    with pytest.raises(UserError, match="no such folder"):
        open_folder(tmp_path / "elsewhere", "train")
    (tmp_path / "empty").mkdir()
    with pytest.raises(UserError, match="empty: no photos"):
        open_folder(tmp_path / "empty", "train")


def test_the_published_counts():
    totals = np.sum(list(mvtec.COUNTS.values()), axis=0)
    assert totals.tolist() == [3629, 467, 1258]
    assert len(mvtec.COUNTS) == 15
    assert len(mvtec.OBJECTS) == 10
    assert set(mvtec.ALIGNED) < set(mvtec.OBJECTS)


def test_mvtec_says_which_category_differs(tmp_path, monkeypatch):
    monkeypatch.setattr(mvtec, "COUNTS", {"pill": mvtec.Counts(3, 1, 2), "screw": mvtec.Counts(4, 1, 2)})
    for category in ("pill", "screw"):
        write(tmp_path / category, GOOD + TEST + MASKS)
    assert len(open_mvtec(tmp_path, "pill", "train")) == 3
    assert open_mvtec(tmp_path, "pill", "test").has_masks
    with pytest.raises(UserError, match=r"screw: has 3 training, .* instead of 4 training"):
        open_mvtec(tmp_path, "screw", "train")
    assert [line.split(":")[0] for line in mvtec.differences(tmp_path)] == [str(tmp_path / "screw")]
    with pytest.raises(UserError, match="no 'scrw'; did you mean screw"):
        open_mvtec(tmp_path, "scrw", "train")


def table(tmp_path, text):
    file = tmp_path / "all.csv"
    file.write_text(text)
    return file


def test_a_table_names_paths_splits_labels_and_masks(tmp_path):
    file = table(
        tmp_path,
        "\ufeffpath,split,label,mask\na/1.png,train,good,\n2.png,train,0,\n"
        "3.png,test,normal,\n4.png,test,dent,m/4.png\n5.png,test,1,m/5.png\n",
    )
    train, test = open_table(file, "train"), open_table(file, "test")
    assert train.names == ("a/1.png", "2.png")
    assert test.labels.tolist() == [0, 1, 1]
    assert test.kinds == ("good", "dent", "anomaly")
    assert masks_of(test) == ["", "m/4.png", "m/5.png"]
    without = table(tmp_path, "label,split,path\n1,test,x.png\n")
    assert not open_table(without, "test").has_masks


@pytest.mark.parametrize(
    ("lines", "message"),
    [
        ("1.png,train,dent,", r"all\.csv:2: training is on normal images only"),
        ("1.png,train,good,\n1.png,train,good,", "3: 1.png is listed twice"),
        ("1.png,test,good,", "no split 'train', but test"),
        ("1.png,train,,", "2: path, split and label have to be given"),
        ("../1.png,train,0,", r"\.\./1\.png is not below"),
        ("/etc/1.png,train,0,", "is not below"),
        ("1.png,train,0,m.png", "a normal image has no mask"),
    ],
)
def test_wrong_lines_of_a_table_are_named(tmp_path, lines, message):
    file = table(tmp_path, f"path,split,label,mask\n{lines}\n")
    with pytest.raises(UserError, match=message):
        open_table(file, "train")


def test_all_anomalies_of_a_split_have_masks_or_none(tmp_path):
    file = table(tmp_path, "path,split,label,mask\n1.png,test,1,m.png\n2.png,test,1,\n")
    with pytest.raises(UserError, match="3: has no mask, other lines"):
        open_table(file, "test")
    with pytest.raises(UserError, match="no column 'split'"):
        open_table(table(tmp_path, "path,label\n"), "test")
    (tmp_path / "all.csv").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(UserError, match="not a CSV in UTF-8"):
        open_table(tmp_path / "all.csv", "test")
