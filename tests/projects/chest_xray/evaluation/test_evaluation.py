"""A whole study from tables, read back from its files; and what is refused on the way."""

import csv
import json
import xml.etree.ElementTree as ET

import numpy as np
import pytest
from scipy import special
from sklearn.metrics import roc_auc_score

from offsites_jax.errors import DamagedDataError, UserError
from offsites_jax.projects.chest_xray.accuracy.roc import delong_difference
from offsites_jax.projects.chest_xray.evaluation import page as evaluation_page
from offsites_jax.projects.chest_xray.evaluation.figures import gallery_rows
from offsites_jax.projects.chest_xray.evaluation.study import Options, evaluate, evaluate_tables
from offsites_jax.projects.chest_xray.tables.scored import Cases, findings_of, join, read_rows
from offsites_jax.projects.chest_xray.worklist.arrivals import Traffic
from offsites_jax.train.media import encode_table

RNG = np.random.default_rng(0)
WHOSE = np.repeat(np.arange(160), RNG.integers(1, 4, 160))
LABELS = (RNG.random(160) < 0.4)[WHOSE]
LOGITS = 2.5 * LABELS - 1.2 + RNG.normal(size=len(WHOSE)) + 0.5 * RNG.normal(size=160)[WHOSE]
SCORES = special.expit(LOGITS)
DISEASE = LABELS & (RNG.random(len(WHOSE)) < 0.5)
TEST = WHOSE >= 60
FAILED = int(np.flatnonzero(TEST)[3])
OPTIONS = Options(
    sensitivity=0.8,
    prevalences=(0.01,), disease=("TB",), findings=("Finding Labels", "nodule"), draws=50, batch=40,
    repeats=30, traffic=Traffic(cases=200),
)  # fmt: skip


def predictions():
    rows = [
        {
            "image": f"{n}.png", "patient_id": f"p{WHOSE[n]}", "score": repr(float(SCORES[n])),
            "logit": repr(float(LOGITS[n])), "status": "ok", "message": "",
        }
        for n in range(len(WHOSE))
    ]  # fmt: skip
    rows[FAILED] |= {"score": "", "logit": "", "status": "error", "message": "truncated"}
    return rows


def labels():
    return [
        {
            "Image": f"{n}.png", "Patient ID": f"p{WHOSE[n]}", "label": "YES" if LABELS[n] else "0",
            "split": "test" if TEST[n] else "Tuning", "Sex": "MF"[WHOSE[n] % 2], "age": str(WHOSE[n] % 80),
            "tb": str(int(DISEASE[n])), "finding_labels": "Mass|Effusion" if LABELS[n] else "No Finding",
            "nodule": "NO" if n % 2 else "YES",
        }
        for n in range(len(WHOSE))
    ]  # fmt: skip


def readers():
    return [
        {
            "image": f"{n}.png",
            "reader_id": f"r{reader}",
            "label": str(int(LABELS[n] ^ (n % (7 + reader) == 0))),
        }
        for reader in range(2)
        for n in np.flatnonzero(TEST)[reader:]
    ]


@pytest.fixture(scope="module")
def found():
    return evaluate_tables(predictions(), labels(), OPTIONS, readers())


def used():
    kept = TEST.copy()
    kept[FAILED] = False
    return kept


def test_figures_are_those_of_the_right_cases(found):
    kept = used()
    assert found.auc.value == pytest.approx(roc_auc_score(LABELS[kept], SCORES[kept]), abs=1e-12)
    assert len(found.test) == kept.sum()
    assert found.test.failed == (f"{FAILED}.png",)
    threshold = np.sort(SCORES[~TEST & LABELS])[-int(np.ceil(0.8 * (~TEST & LABELS).sum()))]
    assert found.points["high_sensitivity"].threshold == threshold
    counts = found.confusions["high_sensitivity"]
    assert counts.tp == (LABELS & (threshold <= SCORES))[kept].sum()
    assert counts.fp == (~LABELS & (threshold <= SCORES))[kept].sum()


def test_thresholds_and_calibration_do_not_look_at_test_labels(found):
    turned = [
        row | {"label": "YES"} if row["split"] == "test" and n % 3 else row for n, row in enumerate(labels())
    ]
    other = evaluate_tables(predictions(), turned, OPTIONS)
    assert other.points == found.points
    assert other.calibrator == found.calibrator
    assert other.auc != found.auc


def test_a_disease_is_evaluated_beside_abnormality(found):
    kept = used()
    (both,) = found.diseases
    assert both.disease.value == pytest.approx(roc_auc_score(DISEASE[kept], SCORES[kept]), abs=1e-12)
    assert both.abnormality.value == found.auc.value
    assert both.abnormality_draws.interval() == found.bootstrap.interval()
    flagged = found.points["high_specificity"].threshold <= SCORES
    alarms = both.abnormal_alarms["high_specificity"]
    assert alarms.total == (flagged & ~DISEASE & kept).sum()
    assert alarms.successes == (flagged & ~DISEASE & LABELS & kept).sum()


def test_every_disease_is_evaluated_on_every_set_it_is_labelled_in():
    rows, scores = labels(), predictions()
    for number, row in enumerate(rows):
        row["hospital"] = "AB"[WHOSE[number] % 2]
        row["covid"] = row["tb"] if row["hospital"] == "A" else ""
        row["flu"] = "0"
    options = Options(disease=("tb", "covid", "flu"), disease_by="hospital", draws=5, repeats=2)
    found = evaluate_tables(scores, rows, options)
    assert [(one.column, one.subset) for one in found.diseases] == [("tb", "A"), ("tb", "B"), ("covid", "A")]
    for one in found.diseases:
        own = used() & ((one.subset == "B") == WHOSE % 2)
        assert one.disease.value == pytest.approx(roc_auc_score(DISEASE[own], SCORES[own]), abs=1e-12)
        assert one.abnormality.value == pytest.approx(roc_auc_score(LABELS[own], SCORES[own]), abs=1e-12)
    assert [text for text in found.warnings if "one class only" in text] == [
        f"flu in {name}: one class only, not evaluated." for name in "AB"
    ]
    with pytest.raises(UserError, match="no column 'place' for the sets"):
        evaluate_tables(scores, rows, Options(disease=("tb",), disease_by="place", draws=5, repeats=2))


def test_another_model_is_compared_case_by_case(found):
    kept = used()
    worse = np.where(np.arange(len(LABELS)) % 4 == 0, 1 - SCORES, SCORES)
    rows = [row | {"score": repr(float(worse[n])), "logit": "", "status": "ok"}
            for n, row in enumerate(predictions())][::-1]  # fmt: skip
    other = join(rows, [row for row in labels() if row["split"] == "test"])
    (one,) = evaluate(found.test, found.tuning, OPTIONS, against={"other": other}).comparisons
    assert (one.cases, one.left_out) == (kept.sum(), 1)
    expected = delong_difference(LABELS[kept], SCORES[kept], worse[kept])
    assert one.difference.value == pytest.approx(expected.value, abs=1e-12)
    assert one.difference.p == pytest.approx(expected.p)
    low, high = one.draws.difference()
    assert low < expected.value < high
    turned = join(rows, [row | {"label": "NO"} for row in labels() if row["split"] == "test"])
    with pytest.raises(UserError, match="other: other labels for the same images"):
        evaluate(found.test, found.tuning, OPTIONS, against={"other": turned})
    with pytest.raises(UserError, match="scores none of the cases"):
        evaluate(found.test, found.tuning, OPTIONS, against={"other": found.tuning})


def test_readers_findings_and_groups_reach_the_figures(found):
    assert [reader.name for reader in found.readers] == ["r0", "r1"]
    assert found.readers[1].confusion.total == used().sum() - 1
    assert {group.column for group in found.groups} == {"sex", "age"}
    missed = {found.test.images[row] for row in found.deferred.missed}
    low = LABELS & (found.points["high_sensitivity"].threshold > SCORES) & used()
    assert missed == {f"{n}.png" for n in np.flatnonzero(low)} != set()
    assert found.deferred.by_finding["Mass"] == len(missed)
    assert any("patients have" in warning for warning in found.warnings)
    assert any("could not be scored" in warning for warning in found.warnings)


def test_files_hold_the_same_figures(found, tmp_path, monkeypatch):
    drawn = evaluation_page.draw(found, lambda name: np.zeros((8, 8), np.uint8))
    assert {"roc", "scores", "reliability", "groups", "gallery", "worklist_high_sensitivity"} <= drawn.keys()
    shown = {name: figure for name, figure in drawn.items() if not name.startswith("gallery")}
    for figure in shown.values():
        figure.set_size_inches(1, 1)
        figure.set_layout_engine("none")
    monkeypatch.setattr(evaluation_page, "draw", lambda *_: shown)
    files = evaluation_page.write_evaluation(found, tmp_path, "Study <1>")
    page = ET.fromstring(files["report.html"].read_bytes())
    assert "research use only" in page.findtext("body/p").lower()
    assert page.findtext("body/main/h1") == "Study <1>"
    assert len(list(page.iter("img"))) == len(shown)
    titles = [heading.text for heading in page.iter("h2")]
    assert {"Readers", "Abnormality and disease", "Work list"} <= set(titles)
    cells = {cell.text for cell in page.iter("td")}
    reader, saved = found.readers[0].confusion.sensitivity, found.worklists["high_sensitivity"].orders
    low, high = reader.exact
    assert {f"{reader.value:.4f}", f"{low:.4f}\N{NO-BREAK SPACE}to\N{NO-BREAK SPACE}{high:.4f}"} <= cells
    assert f"{saved['flagged_first'].reduction:.4f}" in cells
    report = json.loads(files["report.json"].read_text())
    assert report["auc"]["value"] == found.auc.value
    assert report["bootstrap"]["seed"] == 0
    with files["rates.csv"].open() as file:
        rates = {(row["point"], row["rate"]): row for row in csv.DictReader(file)}
    row = rates["high_sensitivity", "ppv"]
    assert float(row["value"]) == found.confusions["high_sensitivity"].ppv.value
    assert not list(tmp_path.glob(".*"))


def test_given_thresholds_need_no_tuning_cases(found):
    alone = evaluate(found.test, None, OPTIONS, found.points)
    assert alone.confusions == found.confusions
    assert alone.calibrator is None
    assert any("could not be checked" in warning for warning in alone.warnings)
    with pytest.raises(UserError, match="not chosen on test cases"):
        evaluate(found.test)


def test_shared_patients_are_refused_and_sites_tell_them_apart():
    rows = labels()
    moved = int(np.flatnonzero(~TEST)[0])
    rows[moved]["Patient ID"] = f"p{WHOSE[-1]}"
    guesses = predictions()
    guesses[moved]["patient_id"] = ""
    with pytest.raises(UserError, match=f"share 1 patients, such as 'p{WHOSE[-1]}'"):
        evaluate_tables(guesses, rows, OPTIONS)
    for number, row in enumerate(rows):
        row["Site"] = "a" if number == moved else "b"
    evaluate_tables(guesses, rows, Options(draws=5, repeats=2))


def table(**changes):
    row = {"image": "a.png", "patient_id": "p", "label": "YES", "score": "0.5", "status": "ok"} | changes
    return [row, row | {"image": "b.png", "label": "NO", "score": "0.4", "status": "ok"}]


@pytest.mark.parametrize(
    ("guess", "truth", "message"),
    [
        ({}, {"label": "maybe"}, r"labels row 2, column 'label': label 'maybe'"),
        ({}, {"image": "b.png"}, r"labels row 3: image 'b.png' is blank or there twice"),
        ({}, {"image": "c.png"}, r"labels row 2: image 'c.png' has no prediction"),
        ({}, {"patient_id": " "}, r"labels row 2: image 'a.png' has no patient_id"),
        ({"patient_id": "q"}, {}, r"of patient 'p', but of 'q'"),
        ({"score": "high"}, {}, r"predictions row 2: score 'high' is no finite number"),
        ({"score": "nan"}, {}, r"predictions row 2: score 'nan' is no finite number"),
        ({"score": ""}, {}, r"predictions row 2: status 'ok' with score ''"),
        ({"status": "error"}, {}, r"predictions row 2: status 'error' with score '0.5'"),
        ({"image": "b.png"}, {}, r"predictions row 3: image 'b.png' is blank or there twice"),
    ],
)
def test_tables_that_do_not_fit_are_refused_with_their_row(guess, truth, message):
    with pytest.raises(UserError, match=message):
        join(table(**guess), table(**truth))


def test_missing_columns_are_named():
    with pytest.raises(UserError, match="labels: no column 'label'; it has image"):
        join(table(), [{"image": "a.png", "patient_id": "p"}])
    with pytest.raises(UserError, match="predictions: no rows"):
        join([], table())
    with pytest.raises(UserError, match="no row with split 'tuning'; there are 'x'"):
        evaluate_tables(table(), [row | {"split": "x"} for row in table()])
    with pytest.raises(UserError, match="no column 'covid'"):
        evaluate_tables(predictions(), labels(), Options(disease=("covid",), draws=5, repeats=2))


@pytest.mark.parametrize(
    ("word", "count"), [("abnormal", 1), ("1.0", 1), (" true ", 1), ("HEDGE", 0), ("", 0)]
)
def test_labels_are_read_in_any_spelling_and_open_ones_left_out(word, count):
    cases = join(table(), table(label=word))
    assert cases.labels.sum() == count
    assert len(cases) == 1 + count == 2 - len(cases.open)


def test_logits_follow_from_scores_where_they_are_not_given():
    cases = join(table(score="0.8"), table())
    assert special.expit(cases.logits) == pytest.approx(cases.scores)


def test_findings_come_from_lists_and_from_columns():
    columns = {"labels": ("Mass|Nodule", "No Finding"), "Effusion": ("no", "YES")}
    cases = Cases(("a", "b"), ("p", "q"), np.ones(2, bool), np.ones(2), np.ones(2), columns)
    assert findings_of(cases, ("labels", "effusion")) == [["Mass", "Nodule"], ["No Finding", "effusion"]]


def test_tables_come_back_from_csv(tmp_path):
    rows = [{"image": "a,b.png", "label": 'quo"te'}, {"image": "ü.png", "label": ""}]
    file = tmp_path / "t.csv"
    file.write_bytes(b"\xef\xbb\xbf" + encode_table(rows).content)
    assert read_rows(file) == rows
    file.write_text("image,label\na\n")
    with pytest.raises(DamagedDataError, match="row 2 has 1 cells, the header 2"):
        read_rows(file)
    file.write_bytes(b"image\n\xff")
    with pytest.raises(DamagedDataError, match="not UTF-8 at byte 6"):
        read_rows(file)
    with pytest.raises(UserError, match="no such file"):
        read_rows(tmp_path / "none.csv")


def test_galleries_show_the_surest_of_each_kind():
    labels, scores = np.array([1, 1, 1, 0, 0, 0], bool), np.array([0.9, 0.8, 0.1, 0.7, 0.2, 0.3])
    rows = {cell: found.tolist() for cell, found in gallery_rows(labels, scores, 0.5, 2).items()}
    assert rows == {"TP": [0, 1], "FP": [3], "TN": [4, 5], "FN": [2]}


def test_a_table_of_nothing_is_named(tmp_path):
    (tmp_path / "empty.csv").write_text("image,score\n")
    with pytest.raises(DamagedDataError, match=r"empty\.csv: a header and no rows"):
        read_rows(tmp_path / "empty.csv")
