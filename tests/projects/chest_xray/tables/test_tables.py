"""Published label files in small, written as they come, and every mistake with its row."""

import gzip
import sys

import numpy as np
import pyarrow
import pyarrow.parquet
import pytest

from offsites_jax.errors import DamagedDataError, UserError
from offsites_jax.projects.chest_xray.tables import chexpert, cxr14, expert, manifest, vindr
from offsites_jax.projects.chest_xray.tables import tuberculosis as tb
from offsites_jax.projects.chest_xray.tables.case import FINDINGS, Case, parse_age, parse_sex
from offsites_jax.projects.chest_xray.tables.rows import read_table

ENTRY = (
    "Image Index,Finding Labels,Follow-up #,Patient ID,Patient Age,Patient Gender,View Position,"
    "OriginalImage[Width,Height],OriginalImagePixelSpacing[x,y]"
)
ROWS = (
    "00000001_000.png,Cardiomegaly|Pleural_Thickening,0,1,58,M,PA,2682,2749,0.143,0.143",
    "00000001_001.png,No Finding,1,1,58,M,AP,2500,2048,0.168,0.168",
    "00000002_000.png,No Finding,0,2,81,F,PA,2500,2048,0.171,0.171",
)


def write(path, *lines):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("\n".join(lines) + "\n")
    return path


def test_cxr14_entries_of_every_release_are_the_same(tmp_path):
    new = cxr14.read_entries(write(tmp_path / "v2020.csv", ENTRY, *ROWS))
    old_rows = [row.replace(",58,M", ",058Y,M").replace(",81,F", ",081Y,F") + "," for row in ROWS]
    old = cxr14.read_entries(write(tmp_path / "2017.csv", ENTRY + ",", *old_rows))
    portal = cxr14.read_entries(write(tmp_path / "sex.csv", ENTRY.replace("Gender", "Sex"), *ROWS))
    (tmp_path / "z.csv.gz").write_bytes(gzip.compress((tmp_path / "v2020.csv").read_bytes()))
    assert new == old == portal == cxr14.read_entries(tmp_path / "z.csv.gz")
    first = new[0]
    assert (first.patient_id, first.age, first.sex, first.view, first.label) == ("1", 58, "M", "PA", True)
    assert {name for name, present in first.findings.items() if present} == {
        "Cardiomegaly",
        "Pleural_Thickening",
    }
    assert first.extra == {"width": "2682", "height": "2749", "spacing_x": "0.143", "spacing_y": "0.143"}
    assert [case.label for case in new] == [True, False, False]
    assert len(FINDINGS) == 14


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (("Cardiomegaly|", "Cardiomegalie|"), "row 2: unknown finding 'Cardiomegalie'"),
        (("No Finding,1", "No Finding|Mass,1"), "row 3: unknown finding 'No Finding'"),
        ((",2,81", ",,81"), "row 4: no image or no patient"),
        (("81,F", "old,F"), "row 4: 'old' is not an age"),
        (("81,F", "81,X"), "row 4: 'X' is not a sex"),
        (("00000002_000", "00000001_000"), r"row 4: 00000001_000.png was in row 2"),
        (("Patient ID", "Patient"), "no column 'Patient ID'"),
        (("0.171,0.171", "0.171"), "row 4: has 10 cells for 11 columns"),
        (("0.171,0.171", "0.171,0.171,3"), "row 4: has 12 cells"),
    ],
)
def test_cxr14_mistakes_are_named_with_their_row(tmp_path, change, message):
    text = "\n".join([ENTRY, *ROWS]).replace(*change)
    with pytest.raises((UserError, DamagedDataError), match=message):
        cxr14.read_entries(write(tmp_path / "e.csv", text))


def test_cxr14_official_lists_are_checked(tmp_path):
    cases = cxr14.read_entries(write(tmp_path / "e.csv", ENTRY, *ROWS))
    names = [case.image for case in cases]
    write(tmp_path / "train_val_list.txt", *names[:2])
    write(tmp_path / "test_list.txt", names[2])
    assert [c.split for c in cxr14.assign_official_splits(cases, tmp_path)] == [
        "train_val",
        "train_val",
        "test",
    ]
    for lists, message in (
        ((names[:1], names[1:]), "patient 1 is in both"),
        ((names, names[2:]), "is in both official lists"),
        ((names[:2], ["x.png", names[2]]), "x.png is not in both"),
        ((names[:2], []), "00000002_000.png is not in both"),
    ):
        write(tmp_path / "train_val_list.txt", *lists[0])
        write(tmp_path / "test_list.txt", *lists[1])
        with pytest.raises(UserError, match=message):
            cxr14.assign_official_splits(cases, tmp_path)


def test_cxr14_boxes_spell_infiltration_otherwise(tmp_path):
    header = "Image Index,Finding Label,Bbox [x,y,w,h],,,"
    path = write(tmp_path / "b.csv", header, "a.png,Infiltrate,1.5,2,3,4,,,", "b.png,Mass,1,2,3,4")
    assert cxr14.read_boxes(path) == [
        cxr14.Box("a.png", "Infiltration", 1.5, 2, 3, 4),
        cxr14.Box("b.png", "Mass", 1, 2, 3, 4),
    ]
    with pytest.raises(UserError, match="row 2"):
        cxr14.read_boxes(write(tmp_path / "c.csv", header, "a.png,Mass,1,two,3,4"))


def test_cxr14_images_in_twelve_folders_or_one(tmp_path):
    for path in (
        "t/images_001/images/a.png",
        "t/images_012/images/b.png",
        "o/images/a.png",
        "o/images/b.png",
    ):
        write(tmp_path / path)
    cases = [Case("a.png", "1"), Case("b.png", "2")]
    found = [case.image for case in cxr14.with_paths(cases, tmp_path / "t")]
    assert found == ["images_001/images/a.png", "images_012/images/b.png"]
    assert [case.image for case in cxr14.with_paths(cases, tmp_path / "o")] == [
        "images/a.png",
        "images/b.png",
    ]
    with pytest.raises(UserError, match=r"has no c\.png"):
        cxr14.with_paths([Case("c.png", "1")], tmp_path / "o")
    write(tmp_path / "t/images_002/images/a.png")
    with pytest.raises(UserError, match=r"a\.png is both"):
        cxr14.find_images(tmp_path / "t")
    with pytest.raises(UserError, match="unpack"):
        cxr14.find_images(tmp_path)


def reading(image, reader, abnormal, *present):
    return expert.Reading(image, "9", reader, abnormal, {name: name in present for name in expert.COLUMNS})


def test_expert_labels_come_back_as_written(tmp_path):
    readings = [reading("a.png", "1", True, "Mass", "Pleural_Thickening"), reading("a.png", "2", False)]
    expert.write_individual(tmp_path / "i.csv", readings)
    assert expert.read_individual(tmp_path / "i.csv") == readings
    assert len(read_table(tmp_path / "i.csv").header) == 19
    labels = [reading("a.png", "", True, "Other")]
    expert.write_labels(tmp_path / "all_findings_expert_labels_test_labels.csv", labels)
    assert expert.read_labels(expert.find_file(tmp_path, expert.LABELS)) == labels
    with pytest.raises(UserError, match="has no test_individual"):
        expert.find_file(tmp_path, expert.INDIVIDUAL)


def test_expert_columns_in_any_order_spelling_and_answer(tmp_path):
    names = ["Abnormal", *reversed(expert.COLUMNS), "patient_id", "IMAGE ID"]
    row = ["True", *("YES" if name == "Mass" else "no" for name in reversed(expert.COLUMNS)), "9", "a.png"]
    path = write(tmp_path / "l.csv", ",".join(names), ",".join(row))
    assert expert.read_labels(path) == [reading("a.png", "", True, "Mass")]
    with pytest.raises(UserError, match="row 2: Mass is 'maybe'; it has to be YES or NO"):
        expert.read_labels(write(tmp_path / "m.csv", ",".join(names), ",".join(row).replace("YES", "maybe")))
    with pytest.raises(UserError, match=r"row 3: a\.png was in row 2"):
        expert.read_labels(write(tmp_path / "t.csv", ",".join(names), ",".join(row), ",".join(row)))


def test_majority_of_three_and_other_where_they_agree_on_nothing():
    one, two, three = expert.REFERENCE_READERS
    ignored = expert.COMPARISON_READERS[0]
    readings = [
        *(
            reading("a", one, True, "Mass"),
            reading("a", two, True, "Mass", "Edema"),
            reading("a", three, False),
        ),
        *(reading("b", one, True, "Mass"), reading("b", two, True, "Edema"), reading("b", three, False)),
        *(reading("c", one, False), reading("c", two, False), reading("c", three, True, "Other")),
        *(
            reading("d", one, True, "Other"),
            reading("d", two, True, "Other", "Mass"),
            reading("d", three, True, "Mass"),
        ),
        reading("c", ignored, True, "Hernia"),
    ]
    assert expert.majority(readings) == [
        reading("a", "", True, "Mass"),
        reading("b", "", True, "Other"),
        reading("c", "", False),
        reading("d", "", True, "Mass", "Other"),
    ]
    with pytest.raises(UserError, match=f"a: not read by {three}"):
        expert.majority(readings[:2])


def test_four_findings_with_hedges(tmp_path):
    header = f"{ENTRY},Fracture,Pneumothorax,Airspace opacity,Nodule or mass"
    path = write(tmp_path / "f.csv", header, f"{ROWS[0]},NO,YES,HEDGE,NO", f"{ROWS[1]},NO,NO,NO,YES")
    found = expert.read_four_findings(path)
    assert [list(r.findings.values()) for r in found] == [
        [False, True, None, False],
        [False, False, False, True],
    ]
    assert found[0][:4] == ("00000001_000.png", "1", "", "")
    with pytest.raises(UserError, match="row 2: Fracture"):
        expert.read_four_findings(write(tmp_path / "g.csv", header, f"{ROWS[0]},?,YES,NO,NO"))


def chexpert_row(path, **marks):
    cells = [marks.get(name.replace(" ", "_"), "") for name in chexpert.COLUMNS]
    return ",".join([path, "Female", "68", "Frontal", "AP", *cells])


CHEXPERT = ",".join(["Path", "Sex", "Age", "Frontal/Lateral", "AP/PA", *chexpert.COLUMNS])


@pytest.mark.parametrize(("doubt", "edema"), [("ignore", None), ("zero", False), ("one", True)])
def test_chexpert_marks(tmp_path, doubt, edema):
    rows = [
        chexpert_row(
            "C/train/patient00001/study1/view1_frontal.jpg", No_Finding="1.0", Support_Devices="1.0"
        ),
        chexpert_row("C/train/patient00001/study2/view1_frontal.jpg", Edema="-1.0", Fracture="0.0"),
        chexpert_row("C/train/patient00002/study1/view1_frontal.jpg", Pneumonia="1"),
    ]
    found = chexpert.read_chexpert(write(tmp_path / "c.csv", CHEXPERT, *rows), doubt)
    assert [case.label for case in found] == [False, True if edema else None, True]
    assert (found[1].findings["Edema"], found[1].findings["Fracture"]) == (edema, False)
    assert found[1].patient_id == "patient00001"
    assert found[1].study_id == "patient00001/study2"


@pytest.mark.parametrize(
    ("row", "message"),
    [
        (chexpert_row("a.jpg"), "row 2: path 'a.jpg' names no patient"),
        (chexpert_row("patient1/study1/a.jpg", Edema="2"), "row 2: Edema is '2'"),
        (chexpert_row("patient1/study1/a.jpg").replace("68", "x"), "row 2: 'x' is not an age"),
    ],
)
def test_chexpert_mistakes(tmp_path, row, message):
    with pytest.raises(UserError, match=message):
        chexpert.read_chexpert(write(tmp_path / "c.csv", CHEXPERT, row))


def test_vindr_readings_and_votes(tmp_path):
    header = "image_id,class_name,class_id,rad_id,x_min,y_min,x_max,y_max"
    rows = ["a,Cardiomegaly,3,R1,10,20,30,50", "a,Mass,7,R1,1,1,2,2", "a,Cardiomegaly,3,R2,11,20,30,50"]
    rows += ["a,No finding,14,R3,,,,", *(f"b,No finding,14,R{n},,,," for n in (4, 5, 6))]
    found = vindr.read_readings(write(tmp_path / "v.csv", header, *rows))
    assert len(found) == 6
    assert found[0].boxes[0] == cxr14.Box("a", "Cardiomegaly", 10, 20, 20, 30)
    np.testing.assert_array_equal(vindr.abnormality_votes(found), [[1, 2], [3, 0]])
    np.testing.assert_array_equal(vindr.finding_votes(found, "Mass"), [[2, 1], [3, 0]])
    first, second = vindr.majority_cases(found)
    assert (first.label, dict(first.findings)) == (True, {"Cardiomegaly": True, "Mass": False})
    assert (second.label, dict(second.findings)) == (False, {})
    with pytest.raises(UserError, match="nobody marked"):
        vindr.finding_votes(found, "Masse")
    for row in ("a,Mass,7,R1,5,1,2,2", "a,Mass,7,R1,,,,", "a,Mass,7,R3,1,1,2,2"):
        with pytest.raises(UserError, match="row "):
            vindr.read_readings(write(tmp_path / "w.csv", header, *rows, row))


def test_tuberculosis_sets(tmp_path):
    china, usa = tmp_path / "ChinaSet_AllFiles", tmp_path / "MontgomerySet"
    for name, note in (
        ("CHNCXR_0001_0", "male 45yrs\nnormal"),
        ("CHNCXR_0327_1", "Female, 29yr\n\nbilateral PTB\n"),
    ):
        write(china / "CXR_png" / f"{name}.png")
        write(china / "ClinicalReadings" / f"{name}.txt", note)
    write(china / "CXR_png" / "Thumbs.db")
    for name in ("CXR_png/MCUCXR_0001_0.png", "ManualMask/leftMask/MCUCXR_0001_0.png"):
        write(usa / name)
    write(usa / "ClinicalReadings/MCUCXR_0001_0.txt", "Patient's Sex: F", "Patient's Age: 027Y", "normal")
    first, second = tb.read_shenzhen(tmp_path)
    assert (first.sex, first.age, first.report, first.findings, first.label) == (
        *("M", 45, "normal"),
        {tb.TUBERCULOSIS: False},
        None,
    )
    assert (second.sex, second.age, second.report, second.findings) == (
        *("F", 29, "bilateral PTB"),
        {tb.TUBERCULOSIS: True},
    )
    (third,) = tb.read_montgomery(usa)
    assert (third.sex, third.age, third.report, third.site) == ("F", 27, "normal", "montgomery")
    with pytest.raises(UserError, match="rightMask"):
        tb.find_masks(usa, third.image)
    write(usa / "ManualMask/rightMask/MCUCXR_0001_0.png")
    assert [mask.parent.name for mask in tb.find_masks(usa, third.image)] == ["leftMask", "rightMask"]

    table = write(tmp_path / "abnormal.csv", "image,abnormal", "CHNCXR_0001_0.png,YES")
    assert [case.label for case in tb.with_abnormality([first, second], table)] == [True, None]
    with pytest.raises(UserError, match=r"CHNCXR_0001_0\.png. is none"):
        tb.with_abnormality([second], table)
    write(china / "CXR_png" / "CHNCXR_1_0.png")
    with pytest.raises(UserError, match="not named as"):
        tb.read_shenzhen(china)
    with pytest.raises(UserError, match="unpack"):
        tb.read_montgomery(china.parent / "none")


def test_notes_written_by_hand():
    assert tb.parse_shenzhen("female 24yrs , \nSTB") == ("F", 24, "STB")
    assert tb.parse_shenzhen("PTB in the right upper field") == ("", None, "PTB in the right upper field")
    assert tb.parse_montgomery("Patient's Sex: ?\nPatient's Age: old\nx") == ("", None, "x")


@pytest.mark.parametrize(
    ("text", "years"),
    [("58", 58), ("058Y", 58), ("006M", 0.5), ("29yr", 29), ("45 yrs", 45), ("", None), ("0", 0)],
)
def test_ages(text, years):
    assert parse_age(text) == years


def test_sexes():
    assert [parse_sex(text) for text in ("M", "female", "F ", "Unknown", "O", "")] == [
        "M",
        "F",
        "F",
        "",
        "",
        "",
    ]


def test_manifests_come_back_as_written(tmp_path):
    cases = [
        Case(
            "a/1.png", "p1", "s1", "train", True, view="PA", age=50.5, sex="F", report="One, two\n", site="x"
        ),
        Case("a/2.png", "p2", extra={"Scanner": "Z 1"}),
    ]
    manifest.write_manifest(tmp_path / "m.csv", cases)
    found = manifest.read_manifest(tmp_path / "m.csv", check_files=False)
    assert found[1].extra == {"Scanner": "Z 1"}
    assert found[0].report == "One, two"
    assert [
        (c.image, c.patient_id, c.study_id, c.split, c.label, c.view, c.age, c.sex, c.site) for c in found
    ] == [(c.image, c.patient_id, c.study_id, c.split, c.label, c.view, c.age, c.sex, c.site) for c in cases]


def test_parquet_is_the_same_as_csv_and_needs_pyarrow(tmp_path, monkeypatch):
    rows = {"image": ["a.png", "b.png"], "patient_id": ["1", "2"], "label": [True, None], "age": [50.0, None]}
    pyarrow.parquet.write_table(pyarrow.table(rows), tmp_path / "m.parquet")
    write(tmp_path / "m.csv", "image,patient_id,label,age", "a.png,1,1,50", "b.png,2,,")
    found = manifest.read_manifest(tmp_path / "m.parquet", check_files=False)
    assert found == manifest.read_manifest(tmp_path / "m.csv", check_files=False)
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    with pytest.raises(UserError, match="pip install pyarrow"):
        manifest.read_manifest(tmp_path / "m.parquet", check_files=False)
    monkeypatch.undo()
    (tmp_path / "bad.parquet").write_bytes(b"PAR1")
    with pytest.raises(DamagedDataError, match="Parquet"):
        manifest.read_manifest(tmp_path / "bad.parquet")


@pytest.mark.parametrize(
    ("lines", "message"),
    [
        (("image,patient", "a,1"), "no column 'patient_id'"),
        (("image,patient_id", "a.png,"), "row 2: patient_id is empty"),
        (("image,patient_id", "a.png,1", "./a.png,2"), "row 3: a.png was in row 2"),
        (("image,patient_id", "../a.png,1"), "row 2: .* leaves its folder"),
        (("image,patient_id", "/etc/passwd,1"), "row 2: .* absolute"),
        (("image,patient_id,label", "a.png,1,perhaps"), "row 2: label is 'perhaps'"),
        (("image,patient_id,age", "a.png,1,x"), "row 2: 'x' is not an age"),
        (("image,patient_id", "a.png,1", "b.png,2"), "row 3: no file"),
        (("",), "empty"),
    ],
)
def test_manifest_mistakes(tmp_path, lines, message):
    (tmp_path / "a.png").touch()
    with pytest.raises(UserError, match=message):
        manifest.read_manifest(write(tmp_path / "m.csv", *lines))


@pytest.mark.parametrize(
    "content", [b"\xff\xfe,a\n", b"\x1f\x8bgarbage", b'a,b\n"' + b"x" * 200_000 + b'",1\n']
)
def test_damaged_tables(tmp_path, content):
    (tmp_path / "t.csv").write_bytes(content)
    with pytest.raises(DamagedDataError, match=r"t\.csv"):
        read_table(tmp_path / "t.csv")
