"""The commands around reports and splits, from files to files."""

import csv
import json

import numpy as np
import pytest
from PIL import Image

from offsites_jax.errors import DamagedDataError, UserError
from offsites_jax.projects.chest_xray.commands import reports, splits
from offsites_jax.projects.chest_xray.tables.manifest import read_manifest

TEXTS = {"a": "Lungs clear.", "b": "Mild cardiomegaly. No effusion.", "c": "Possible edema.", "d": ""}
OPENI = '<a><AbstractText Label="FINDINGS">{}</AbstractText><major>{}</major></a>'


def rows(path):
    with path.open(newline="") as stream:
        return list(csv.DictReader(stream))


def write_reports(folder, layout):
    if layout == "csv":
        with (folder / "r.csv").open("w", newline="") as stream:
            csv.writer(stream).writerows([("report_id", "report"), *TEXTS.items()])
        return folder / "r.csv"
    for name, text in TEXTS.items():
        (folder / "in").mkdir(exist_ok=True)
        (folder / "in" / f"{name}.txt").write_text(text)
    return folder / "in"


@pytest.mark.parametrize("layout", ["csv", "txt"])
def test_label_writes_decisions_evidence_and_the_table(tmp_path, capsys, layout):
    reports.label(str(write_reports(tmp_path, layout)), str(tmp_path / "out" / "labels.csv"))
    found = rows(tmp_path / "out" / "labels.csv")
    assert [row["label"] for row in found] == ["normal", "abnormal", "uncertain", "unreadable"]
    assert [row["report_id"][0] for row in found] == list(TEXTS)
    assert (found[1]["Cardiomegaly"], found[1]["Pleural Effusion"], found[1]["Fracture"]) == ("1", "0", "")
    assert found[2]["Edema"] == "-1"
    evidence = json.loads(found[1]["evidence_json"])
    assert [(piece["text"], piece["start"], piece["status"]) for piece in evidence] == [
        ("cardiomegaly", 5, "present"),
        ("effusion", 22, "absent"),
    ]
    printed = capsys.readouterr().out
    assert "4 reports: 1 normal, 1 abnormal, 1 uncertain, 1 unreadable" in printed
    assert "research use only" in printed


def test_label_tells_agreement_with_index_terms(tmp_path, capsys):
    for number, (text, term) in enumerate(
        (("Edema.", "x"), ("Edema.", "normal"), ("Clear lungs.", "normal"))
    ):
        (tmp_path / f"{number}.xml").write_text(OPENI.format(text, term))
    reports.label(str(tmp_path), str(tmp_path / "labels.csv"))
    assert "sensitivity 1.0000, specificity 0.5000" in capsys.readouterr().out


def test_label_refuses_unknown_sections_and_columns(tmp_path):
    place = str(write_reports(tmp_path, "csv"))
    with pytest.raises(UserError, match="no section 'finding'"):
        reports.label(place, str(tmp_path / "l.csv"), sections=("finding",))
    with pytest.raises(UserError, match="no column 'text'"):
        reports.label(place, str(tmp_path / "l.csv"), text_column="text")
    assert not (tmp_path / "l.csv").exists()


def test_split_then_audit(tmp_path, capsys):
    noise = np.random.default_rng(0)
    with (tmp_path / "m.csv").open("w", newline="") as stream:
        table = csv.writer(stream)
        table.writerow(["image", "patient_id", "label", "Scanner"])
        for number in range(40):
            pixels = noise.integers(0, 256, (8, 8), np.uint8)
            Image.fromarray(pixels).resize((64, 64)).save(tmp_path / f"{number}.png")
            table.writerow([f"{number}.png", number // 2, number % 2, "Z"])
    splits.split(str(tmp_path / "m.csv"), str(tmp_path / "split.csv"), 0.5, 0.25, 0.25)
    assert "train:" in capsys.readouterr().out
    found = read_manifest(tmp_path / "split.csv")
    assert {case.extra["Scanner"] for case in found} == {"Z"}
    splits.audit(str(tmp_path / "split.csv"))
    assert "nothing in two splits" in capsys.readouterr().out

    train, test = (next(c.image for c in found if c.split == split) for split in ("train", "test"))
    (tmp_path / test).write_bytes((tmp_path / train).read_bytes())
    with pytest.raises(DamagedDataError, match="1 leaks"):
        splits.audit(str(tmp_path / "split.csv"))
    first, second = sorted((train, test), key=lambda image: int(image.split(".")[0]))
    assert f"bytes: {first}" in capsys.readouterr().out
    assert second
    splits.audit(str(tmp_path / "split.csv"), pictures=False)


def test_one_hospital_trains_and_another_tests(tmp_path, capsys):
    for site, count in (("east", 30), ("west", 5)):
        (tmp_path / site).mkdir()
        lines = [
            "image,patient_id,split,site,Tuberculosis",
            *(f"i/{n}.png,{n},x,{site},1" for n in range(count)),
        ]
        (tmp_path / site / "m.csv").write_text("\n".join(lines) + "\n")
    output, files = tmp_path / "cross.csv", [str(tmp_path / site / "m.csv") for site in ("east", "west")]
    splits.cross(*files, str(output), tune=0.3)
    cases = read_manifest(output, check_files=False)
    assert {case.image for case in cases} == {
        *(f"east/i/{n}.png" for n in range(30)), *(f"west/i/{n}.png" for n in range(5)),
    }  # fmt: skip
    assert {case.split for case in cases if case.site == "west"} == {"test"}
    assert {case.split for case in cases if case.site == "east"} == {"train", "tune"}
    assert cases[0].extra == {"Tuberculosis": "1"}
    assert "test: 5 patients, 5 images" in capsys.readouterr().out
    with pytest.raises(UserError, match="'east' on both sides"):
        splits.cross(files[0], files[0], str(output))
    with pytest.raises(UserError, match="not in a folder above"):
        splits.cross(*files, str(tmp_path / "east" / "cross.csv"))
