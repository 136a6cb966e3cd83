"""Reports of Open-i from archives and folders, and archives that are up to no good."""

import io
import tarfile

import pytest

from offsites_jax.errors import DamagedDataError, UserError
from offsites_jax.projects.chest_xray.report_text.labeler import label
from offsites_jax.projects.chest_xray.tables import archives, openi

REPORT = """<?xml version="1.0" encoding="utf-8"?>
<eCitation><MedlineCitation><Article><Abstract>
<AbstractText Label="COMPARISON">None.</AbstractText>
<AbstractText Label="INDICATION">Cough &amp; fever</AbstractText>
<AbstractText Label="FINDINGS">{findings}</AbstractText><AbstractText Label="IMPRESSION"/>
</Abstract></Article></MedlineCitation>
<MeSH>{major}<automatic>cough</automatic></MeSH><parentImage id="CXR7_IM-1"/></eCitation>"""


def report(findings="Clear lungs.", *major):
    terms = "".join(f"<major>{term}</major>" for term in major)
    return REPORT.format(findings=findings, major=terms).encode()


def archive(path, **members):
    with tarfile.open(path, "w:gz") as tar:
        for name, content in members.items():
            about = content if isinstance(content, tarfile.TarInfo) else tarfile.TarInfo(name)
            about.size = 0 if content is about else len(content)
            tar.addfile(about, None if content is about else io.BytesIO(content))
    return path


def test_archive_and_folder_give_the_same(tmp_path):
    files = {
        "a/7.xml": report("Edema.", "Pulmonary Edema"),
        "a/8.xml": report("Clear lungs.", "normal"),
        "a/x.txt": b"",
    }
    for name, content in files.items():
        (tmp_path / "f" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "f" / name).write_bytes(content)
    packed = list(openi.read_reports(archive(tmp_path / "r.tgz", **files)))
    assert packed == list(openi.read_reports(tmp_path / "f"))
    first = packed[0]
    assert (first.number, first.indication, first.findings, first.impression) == (
        7,
        "Cough & fever",
        "Edema.",
        "",
    )
    assert (first.major, first.automatic, first.images) == (("Pulmonary Edema",), ("cough",), ("CXR7_IM-1",))
    assert [r.abnormal for r in packed] == [True, False]
    assert label(first.text).decision == "abnormal"


def test_agreement_counts_uncertain_as_abnormal_and_leaves_out_what_nobody_judged():
    texts = [
        ("Edema.", "x"),
        ("Clear lungs.", "x"),
        ("Clear lungs.", "normal"),
        ("Possible edema.", "normal"),
    ]
    texts += [("Edema.", "No Indexing"), ("XXXX", "normal"), ("Edema.", "normal\t")]
    pairs = [openi.parse_report(report(*text), f"{n}.xml") for n, text in enumerate(texts)]
    result = openi.agreement((r, label(r.text)) for r in pairs)
    assert result == openi.Agreement(1, 1, 1, 2, 1, 2)
    assert (result.sensitivity, result.specificity) == (1 / 2, 1 / 3)


def link(name, kind):
    about = tarfile.TarInfo(name)
    about.type, about.linkname = kind, "/etc/passwd"
    return about


@pytest.mark.parametrize(
    "members",
    [
        {"/etc/1.xml": report()},
        {"a/../../1.xml": report()},
        {"1.xml": link("1.xml", tarfile.SYMTYPE)},
        {"1.xml": link("1.xml", tarfile.LNKTYPE)},
        {"1.xml": link("1.xml", tarfile.FIFOTYPE)},
        {"1.xml": b" " * (archives.MAX_FILE + 1)},
        {"1.xml": b"<a>"},
        {"one.xml": report()},
        {"1.xml": b'<!DOCTYPE a [<!ENTITY b "bbbb">]><a>&b;</a>'},
        {"1.xml": b'<!DOCTYPE a [<!ENTITY b SYSTEM "file:///etc/passwd">]><a>&b;</a>'},
    ],
)
def test_unsafe_archives_are_refused(tmp_path, members):
    with pytest.raises(DamagedDataError):
        list(openi.read_reports(archive(tmp_path / "r.tgz", **members)))


def test_limits_count_all_members(tmp_path, monkeypatch):
    files = {f"{n}.xml": report() for n in range(3)}
    monkeypatch.setattr(archives, "MAX_FILES", 2)
    with pytest.raises(DamagedDataError, match="2 files"):
        list(openi.read_reports(archive(tmp_path / "r.tgz", **files)))


def test_damaged_missing_and_empty_archives(tmp_path):
    whole = archive(tmp_path / "r.tgz", **{"1.xml": report() * 50}).read_bytes()
    (tmp_path / "cut.tgz").write_bytes(whole[: len(whole) // 2])
    with pytest.raises(DamagedDataError, match="cannot be read"):
        list(openi.read_reports(tmp_path / "cut.tgz"))
    with pytest.raises(UserError, match="no such file"):
        list(openi.read_reports(tmp_path / "none.tgz"))
    with pytest.raises(DamagedDataError, match=r"no \.xml"):
        list(openi.read_reports(archive(tmp_path / "e.tgz", a=b"")))


@pytest.mark.parametrize("name", ["", "/a", "a/../../b", "C:/a", "..\\a", "a\0b"])
def test_paths_that_leave_their_folder(name):
    with pytest.raises(ValueError, match=r"path|folder"):
        archives.safe_path(name)


def test_paths_that_stay():
    assert archives.safe_path("./a//b\\c.png") == "a/b/c.png"
