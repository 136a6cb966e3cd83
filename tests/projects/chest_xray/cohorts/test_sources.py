"""Cases as records: what a split holds, what an output's label is, and what is refused."""

import numpy as np
import pytest
from PIL import Image

from offsites_jax.errors import DamagedDataError, UserError
from offsites_jax.projects.chest_xray.cohorts import layouts, sources
from offsites_jax.projects.chest_xray.data import DataConfig, create_pipeline, example
from offsites_jax.projects.chest_xray.intake.inputs import find_inputs
from offsites_jax.projects.chest_xray.intake.records import write_records
from offsites_jax.projects.chest_xray.tables.case import FINDINGS
from offsites_jax.train.config import resolve

ROWS = [
    # image, patient, split, label, Effusion
    ("a.png", "1", "train", "1", "1"),
    ("b.png", "1", "train", "0", "0"),
    ("c.png", "2", "train", "", "1"),
    ("d.png", "3", "train", "0", ""),
    ("e.png", "4", "tune", "1", "0"),
    ("f.png", "5", "test", "0", "0"),
]


def picture(seed, shape=(40, 30)):
    return np.random.default_rng(seed).integers(0, 65536, shape).astype(np.uint16)


@pytest.fixture
def manifest(tmp_path):
    def write(rows=ROWS):
        for number, row in enumerate(rows):
            Image.fromarray(picture(number)).save(tmp_path / row[0])
        lines = ["image,patient_id,split,label,Effusion", *(",".join(row) for row in rows)]
        (tmp_path / "manifest.csv").write_text("\n".join(lines) + "\n")
        return str(tmp_path / "manifest.csv")

    return write


def test_a_split_holds_its_cases_with_a_label_for_each_output(manifest):
    source = sources.create_source("manifest", manifest(), "train", ("abnormal", "Effusion"))
    nan = np.nan
    np.testing.assert_array_equal(source.labels, [[1, 1], [0, 0], [nan, 1], [0, nan]])
    assert [case.image for case in source.cases] == ["a.png", "b.png", "c.png", "d.png"]
    assert source.describe(2).endswith("c.png")
    record = source[1]
    found = example(record, config=DataConfig(image_size=40))
    pixels = picture(1).astype(np.float64)
    expected = np.zeros((40, 40))
    expected[:, 5:35] = (pixels - pixels.min()) / np.ptp(pixels)
    np.testing.assert_allclose(found["image"] / 65535, expected, atol=1.1 / 65535)
    assert found["image"].dtype == np.uint16
    np.testing.assert_array_equal(found["label"], [0, 0])


def test_records_are_what_the_files_are(manifest, tmp_path):
    path, folder = manifest(), tmp_path / "records"
    assert write_records(find_inputs((path,)), folder, 40, per_file=2) == {}
    names = sorted(file.name for file in folder.glob("train-*"))
    assert names == ["train-00000-of-00002.array_record", "train-00001-of-00002.array_record"]
    config, outputs = DataConfig(image_size=40), ("abnormal", "Effusion")
    for split in ("train", "tune", "test"):
        files = sources.create_source("manifest", path, split, outputs)
        found = sources.create_source("records", str(folder), split, outputs)
        np.testing.assert_array_equal(found.labels, files.labels)
        for index in range(len(files)):
            for seed in (None, 3):
                views = [
                    example(source[index], seed and np.random.default_rng(seed), config=config)["image"]
                    for source in (files, found)
                ]
                np.testing.assert_allclose(views[0].astype(int), views[1], atol=4 if seed else 0)
    whole = sources.create_source("records", str(folder), "train", ("Effusion",))
    whole.cases = tuple(reversed(whole.cases))
    with pytest.raises(DamagedDataError, match=r"record 0 is 'a\.png', but 'd\.png' in the manifest"):
        whole[0]
    with pytest.raises(UserError, match="holds records already"):
        write_records(find_inputs((path,)), folder, 40, per_file=2)


def test_what_cannot_be_read_is_left_out_of_the_records_and_said(manifest, tmp_path):
    path, folder = manifest(), tmp_path / "records"
    (tmp_path / "b.png").write_bytes(b"no picture")
    errors = write_records(find_inputs((path,)), folder, 32, per_file=10)
    assert list(errors) == ["b.png"]
    source = sources.create_source("records", str(folder), "train", ("abnormal", "Effusion"))
    assert [case.image for case in source.cases] == ["a.png", "c.png", "d.png"]
    assert source[1]["image"] == "c.png"
    (folder / "train-00000-of-00001.array_record").unlink()
    with pytest.raises(UserError, match="train"):
        sources.create_source("records", str(folder), "train", ("abnormal",))
    with pytest.raises(UserError, match=r"a\.png: has the split ''"):
        write_records(find_inputs((manifest([("a.png", "1", "", "1", "1")]),)), tmp_path / "other", 32, 10)


@pytest.mark.parametrize(("policy", "value"), [("ignore", np.nan), ("negative", 0.0), ("positive", 1.0)])
def test_unknown_labels_follow_the_policy_in_training_only(manifest, policy, value):
    source = sources.create_source("manifest", manifest(), "train", ("abnormal", "Effusion"))
    config = DataConfig(image_size=32, unknown=policy)
    trained = example(source[2], np.random.default_rng(0), config=config)["label"]
    np.testing.assert_array_equal(trained, [value, 1])
    np.testing.assert_array_equal(example(source[2], config=config)["label"], [np.nan, 1])


def test_without_splits_patients_are_assigned_and_stay_together(manifest):
    rows = [(f"{k}.png", str(k // 2), "", str(k % 2), "") for k in range(60)]
    path = manifest(rows)
    cases, _ = sources.read_cases("manifest", path)
    splits = {}
    for case in cases:
        splits.setdefault(case.patient_id, set()).add(case.split)
    assert all(len(found) == 1 for found in splits.values())
    assert {case.split for case in cases} == {"train", "tune", "test"}
    other, _ = sources.read_cases("manifest", path, salt="another")
    assert [case.split for case in other] != [case.split for case in cases]


def test_a_patient_in_two_splits_is_refused(manifest):
    path = manifest([*ROWS, ("g.png", "1", "test", "0", "0")])
    with pytest.raises(UserError, match="1 patients have images in two splits"):
        sources.create_source("manifest", path, "train", ("abnormal",))


def test_what_nobody_labels_a_wrong_cell_and_an_empty_split_are_refused(manifest):
    path = manifest()
    with pytest.raises(UserError, match=r"no case of .* is labelled for 'Hernia'"):
        sources.create_source("manifest", path, "train", ("Hernia",))
    with pytest.raises(UserError, match=r"no case has the split 'val'; there are test, train, tune"):
        sources.create_source("manifest", path, "val", ("abnormal",))
    wrong = manifest([("a.png", "1", "train", "1", "maybe"), *ROWS[1:]])
    with pytest.raises(UserError, match=r"a\.png: Effusion is 'maybe'; it has to be 0, 1 or empty"):
        sources.create_source("manifest", wrong, "train", ("Effusion",))


def test_a_share_of_the_patients_is_for_training_alone_and_grows(tmp_path, manifest):
    rows = [(f"{k}.png", str(k // 2), "train" if k < 80 else "test", str(k // 2 % 2), "") for k in range(100)]
    path = manifest(rows)

    def images(fraction, *, train=True, seed=0):
        raw = {
            "project": "chest_xray",
            "data": {"path": path, "image_size": 32, "fraction": fraction, "fraction_seed": seed},
            "train": {"steps": 1, "batch_size": 2},
        }
        source = create_pipeline(resolve(raw), "train" if train else "test", train).source
        return [case.image for case in source.cases]

    assert len(images(1.0)) == 80
    assert len(images(0.25)) == 20
    assert set(images(0.1)) < set(images(0.25))
    assert images(0.25) != images(0.25, seed=1)
    assert len(images(0.25, train=False)) == 20


@pytest.mark.parametrize(("name", "site"), [("CHNCXR_{:04d}_{}.png", "ChinaSet_AllFiles"),
                                            ("MCUCXR_{:04d}_{}.png", "MontgomerySet")])  # fmt: skip
def test_tuberculosis_comes_from_the_file_name(tmp_path, name, site):
    folder = tmp_path / site / "CXR_png"
    folder.mkdir(parents=True)
    for number in range(40):
        Image.fromarray(picture(number)).save(folder / name.format(number + 1, number % 2))
    parts = [
        sources.create_source("tb", str(tmp_path), split, ("Tuberculosis",))
        for split in ("train", "tune", "test")
    ]
    assert sum(map(len, parts)) == 40
    for source in parts:
        expected = [float(case.image[-5]) for case in source.cases]
        np.testing.assert_array_equal(source.labels[:, 0], expected)
        assert example(source[0], config=DataConfig(image_size=32))["image"].shape == (32, 32)


CXR14 = (
    "Image Index,Finding Labels,Follow-up #,Patient ID,Patient Age,Patient Gender,View Position,"
    "OriginalImage[Width,Height],OriginalImagePixelSpacing[x,y]"
)


def test_chestxray14_keeps_its_test_list_and_tunes_on_training_patients(tmp_path):
    (tmp_path / "images").mkdir()
    lines, lists = [CXR14], {"train_val_list.txt": [], "test_list.txt": []}
    for patient in range(60):
        image = f"{patient + 1:08d}_000.png"
        Image.fromarray(picture(patient)).save(tmp_path / "images" / image)
        finding = "Effusion|Mass" if patient % 3 == 0 else "No Finding"
        lines.append(f"{image},{finding},0,{patient + 1},58,M,PA,40,30,0.1,0.1")
        lists["test_list.txt" if patient >= 45 else "train_val_list.txt"].append(image)
    (tmp_path / "Data_Entry_2017_v2020.csv").write_text("\n".join(lines) + "\n")
    for file, images in lists.items():
        (tmp_path / file).write_text("\n".join(images) + "\n")
    cases, _ = sources.read_cases("cxr14", str(tmp_path))
    by = {
        split: {case.patient_id for case in cases if case.split == split}
        for split in ("train", "tune", "test")
    }
    assert by["test"] == {str(patient + 1) for patient in range(45, 60)}
    assert len(by["train"] | by["tune"]) == 45
    assert 0 < len(by["tune"]) < 15
    source = sources.create_source("cxr14", str(tmp_path), "test", ("abnormal", "Effusion", "Hernia"))
    np.testing.assert_array_equal(source.labels[0], [1, 1, 0])
    np.testing.assert_array_equal(source.labels[1], [0, 0, 0])
    assert example(source[0], config=DataConfig(image_size=32))["image"].shape == (32, 32)


def test_pictures_that_are_none_are_damaged_data():
    with pytest.raises(DamagedDataError):
        example({"content": b"no picture"}, config=DataConfig(image_size=32), num_outputs=1)


def test_expert_labels_become_a_manifest_and_a_table_of_readers(tmp_path):
    (tmp_path / "images").mkdir()
    labels = ["Patient ID,Image ID,Abnormal,Other," + ",".join(FINDINGS)]
    readings = ["Reader ID," + labels[0]]
    for number in range(4):
        image = f"{number + 1:08d}_000.png"
        Image.fromarray(picture(number)).save(tmp_path / "images" / image)
        cells = [
            str(number + 1),
            image,
            str(number % 2),
            "NO",
            *("YES" if number % 2 else "NO" for _ in FINDINGS),
        ]
        labels.append(",".join(cells))
        for reader in (4343880271, 4343882583, 4343882785, 4343883593, 4343883996):
            flipped = [*cells[:2], str(1 - number % 2), *cells[3:]] if reader == 4343882583 else cells
            readings.append(f"{reader}," + ",".join(flipped))
    (tmp_path / "test_labels.csv").write_text("\n".join(labels) + "\n")
    (tmp_path / "test_individual_readers.csv").write_text("\n".join(readings) + "\n")
    cases = layouts.read_layout("expert", tmp_path)
    assert [case.label for case in cases] == [False, True, False, True]
    assert {case.split for case in cases} == {"test"}
    assert cases[1].image == "images/00000002_000.png"
    rows = layouts.reader_rows(tmp_path)
    assert [(row["reader_id"], row["label"]) for row in rows[:4]] == [
        ("4343880271", "NO"), ("4343882583", "YES"), ("4343880271", "YES"), ("4343882583", "NO")
    ]  # fmt: skip
    assert {row["image"] for row in rows} == {case.image for case in cases}
