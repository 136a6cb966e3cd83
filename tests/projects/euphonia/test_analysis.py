"""From files of a cohort to its report: figures against numpy, bad input in one line, nobody told from it."""

import csv
import dataclasses
import io
import json
import re
import xml.etree.ElementTree as ElementTree

import jiwer
import numpy as np
import pytest
import scipy.stats
from PIL import Image

from offsites_jax.errors import UserError
from offsites_jax.projects.euphonia.analysis.data_size import SizeResult
from offsites_jax.projects.euphonia.analysis.figures import box_figure, snr_figure
from offsites_jax.projects.euphonia.analysis.humans import Transcript
from offsites_jax.projects.euphonia.analysis.page import PRIVATE, analyze, draw, report_html
from offsites_jax.projects.euphonia.analysis.study import Options, make_study
from offsites_jax.projects.euphonia.analysis.tables import cohort_rows, human_rows, part_rows, report_json
from offsites_jax.projects.euphonia.manifest import Utterance, write_manifest
from offsites_jax.projects.euphonia.speakers import Speaker, write_speakers
from offsites_jax.projects.euphonia.splits import Parts, Split, write_split

DIGITS = ["zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine"]
DOMAINS = ("home_automation", "caregiver")
LEVELS = (0, 1, 1, 1, 2, 2, 2, 3, 3, 4)


def _phrase(number):
    return " ".join(DIGITS[int(digit)] for digit in f"{number:04d}")


def _wrong(text, count):
    words = text.split()
    return " ".join(["what"] * count + words[count:])


class Cohort:
    """`count` speakers with 8 training and 4 test phrases each, of 4 words."""

    def __init__(self, folder, count=30, small=0):
        self.folder = folder
        names = [f"E{n:02d}" for n in range(count + small)]
        self.level = {name: LEVELS[n % 10] for n, name in enumerate(names)}
        kinds = ["ALS"] * (count // 2) + ["Parkinson"] * (count - count // 2 - 2) + ["very rare"] * 2
        etiology = [*kinds[::2], *kinds[1::2], *["ALS"] * small]
        self.speakers = [
            Speaker(name, etiology[n], ("dysarthria",), self.level[name], {"tremor": float(n % 5)}, 1.0)
            for n, name in enumerate(names)
        ]
        self.utterances = [
            Utterance(
                f"{name}-{number}", name, f"{name}/{number}.wav", _phrase(100 * n + number),
                domain=DOMAINS[number % 2],
                quality={"snr_db": 30.0 - n / 3 + number, "dropouts": number == 1},
            )
            for n, name in enumerate(names)
            for number in range(12)
        ]  # fmt: skip
        parts = {
            name: Parts(*(tuple(f"{name}-{n}" for n in span) for span in (range(6), (6, 7), range(8, 12))))
            for name in names
        }
        self.split = Split(parts, 0, small=dict.fromkeys(names[count:], 12))
        self.test = [u for u in self.utterances if int(u.utt_id.split("-")[1]) >= 8]
        draw = np.random.default_rng(0)
        self.base = {
            u.utt_id: _wrong(u.text, min(4, self.level[u.speaker] + draw.integers(0, 2))) for u in self.test
        }
        self.personal = {
            u.utt_id: _wrong(u.text, draw.integers(0, 2 + (self.level[u.speaker] > 2))) for u in self.test
        }
        self.heard = [
            (u.speaker, u.utt_id, person, _wrong(u.text, draw.integers(0, 1 + self.level[u.speaker] % 4)))
            for u in self.test
            for person in ("p", "q", "r")
        ]

    def only(self, count):
        """The same with the first few speakers, and five etiologies."""
        kept = list(self.split.speakers)[:count]
        self.speakers = [
            dataclasses.replace(one, etiology=f"kind {n % 5}") for n, one in enumerate(self.speakers)
        ]
        self.split = Split({name: self.split.speakers[name] for name in kept}, 0)
        self.heard = [row for row in self.heard if row[0] in kept]
        return self

    def study(self, options=Options()):
        return make_study(
            self.utterances, self.split, {one.speaker: one for one in self.speakers},
            {"base": self.base, "personal": self.personal}, options, [Transcript(*row) for row in self.heard],
            [SizeResult(name, None if size == "all" else size, rate) for name, size, rate in self.sizes()],
        )  # fmt: skip

    def write(self):
        folder = self.folder
        write_manifest(folder / "manifest.jsonl", self.utterances)
        write_speakers(folder / "speakers.csv", self.speakers)
        write_split(folder / "split.json", self.split)
        for name in ("base", "personal"):
            texts = getattr(self, name)
            lines = (json.dumps({"utt": utt, "text": text, "nbest": []}) for utt, text in texts.items())
            (folder / f"{name}.jsonl").write_text("\n".join(lines))
        for file, header, rows in (
            ("heard.csv", ("speaker", "utt", "transcriber", "text"), self.heard),
            ("sizes.csv", ("speaker", "utterances", "wer"), self.sizes()),
        ):
            with (folder / file).open("w", newline="") as stream:
                csv.writer(stream).writerows([header, *rows])
        return self

    def sizes(self):
        return [
            (one.speaker, size, rate)
            for n, one in enumerate(self.speakers)
            for size, rate in ((10, 0.5), (50, 0.1 + 0.01 * (n % 11)), ("all", 0.05))
        ]

    def analyze(self, output="report", **options):
        folder = self.folder
        files = {name: folder / f"{name}.jsonl" for name in ("base", "personal")}
        return analyze(
            folder / "manifest.jsonl", folder / "split.json", folder / "speakers.csv", files, folder / output,
            transcripts=folder / "heard.csv", data_size=folder / "sizes.csv", **options,
        )  # fmt: skip

    def rates(self, texts):
        """Word error rates by speaker, straight from jiwer."""
        by = {}
        for one in self.test:
            by.setdefault(one.speaker, []).append((one.text, texts[one.utt_id]))
        return {name: jiwer.wer([a for a, _ in rows], [b for _, b in rows]) for name, rows in by.items()}


@pytest.fixture(scope="module")
def cohort(tmp_path_factory):
    return Cohort(tmp_path_factory.mktemp("cohort")).write()


@pytest.fixture(scope="module")
def report(cohort):
    return cohort.analyze(per_speaker=True)


def _rows(report, name):
    text = report.files[f"{name}.csv"].read_text()
    return [
        {key: float(cell) if re.fullmatch(r"-?[\d.]+(e-?\d+)?", cell) else cell for key, cell in row.items()}
        for row in csv.DictReader(io.StringIO(text))
    ]


def test_cohort_figures_are_numpys_over_speakers(cohort, report):
    base, personal = cohort.rates(cohort.base), cohort.rates(cohort.personal)
    for row, rates in zip(_rows(report, "cohort"), (base, personal), strict=True):
        values = np.array(list(rates.values()))
        assert row["speakers"] == 30
        assert row["WER median"] == pytest.approx(np.median(values))
        assert (row["WER q1"], row["WER q3"]) == pytest.approx(tuple(np.percentile(values, (25, 75))))
        assert row["WER pooled"] == pytest.approx(values.mean())  # all speakers have as many words
    found = json.loads(report.files["report.json"].read_text())["median_relative_improvement"]
    assert found == pytest.approx(np.median([1 - personal[n] / base[n] for n in base if base[n]]))


def test_tables_by_severity_etiology_and_domain(cohort, report):
    base = cohort.rates(cohort.base)
    rows = {row["severity"]: row for row in _rows(report, "severity")}
    assert {name: row["speakers"] for name, row in rows.items()} == {
        "typical to mild": 12, "moderate": 9, "severe to profound": 9,
    }  # fmt: skip
    moderate = [base[name] for name, level in cohort.level.items() if level == 2]
    assert rows["moderate"]["base median"] == pytest.approx(np.median(moderate))
    etiology = _rows(report, "etiology")
    assert {row["etiology"]: row["speakers"] for row in etiology} == {"ALS": 15, "OTHER": 15}
    domains = {row["domain"]: row for row in _rows(report, "domain")}
    assert set(domains) == set(DOMAINS)
    own = [one for one in cohort.test if one.domain == "caregiver"]
    pooled = jiwer.wer([one.text for one in own], [cohort.base[one.utt_id] for one in own])
    assert domains["caregiver"]["base pooled"] == pytest.approx(pooled)
    within = {(row["domain"], row["severity"]): row["speakers"] for row in _rows(report, "severity_domain")}
    assert within["caregiver", "moderate"] == 9


def test_effects_are_of_the_personal_recogniser(cohort, report):
    personal = cohort.rates(cohort.personal)
    low, high = np.percentile(list(personal.values()), (20, 80))
    sides = [[n for n in personal if personal[n] >= high], [n for n in personal if personal[n] <= low]]
    first, second = ([cohort.level[name] for name in side] for side in sides)
    row = next(r for r in _rows(report, "effects") if (r["group"], r["factor"]) == ("High", "severity"))
    t = scipy.stats.ttest_ind(first, second).statistic
    assert row["Cohen's d"] == pytest.approx(t * np.sqrt(1 / len(first) + 1 / len(second)))
    assert row["Mann-Whitney p"] == pytest.approx(scipy.stats.mannwhitneyu(first, second).pvalue)
    factors = {r["factor"] for r in _rows(report, "effects")}
    assert {"severity", "tremor", "SNR", "training utterances", "recordings with dropouts"} <= factors
    constant = next(r for r in _rows(report, "effects") if r["factor"] == "training utterances")
    assert (constant["Cohen's d"], constant["mean"]) == ("n/a", 6)


def test_people_and_data_size(cohort, report):
    by_person = [
        cohort.rates({utt: text for _, utt, person, text in cohort.heard if person == one}) for one in "pqr"
    ]
    personal = cohort.rates(cohort.personal)
    deltas = [personal[n] - np.mean([rates[n] for rates in by_person]) for n in personal]
    everybody = _rows(report, "human")[-1]
    assert (everybody["severity"], everybody["speakers"]) == ("all", 30)
    assert everybody["personal - human median"] == pytest.approx(np.median(deltas))
    found = json.loads(report.files["report.json"].read_text())
    assert found["human_p_value"] == pytest.approx(scipy.stats.wilcoxon(np.round(deltas, 12)).pvalue)
    sizes = _rows(report, "data_size")
    assert [(row["utterances"], row["speakers"], row["success"]) for row in sizes] == [
        (10, 30, 0.0), (50, 30, 0.6), ("all", 30, 1.0),
    ]  # fmt: skip


def test_page_holds_its_pictures_and_is_well_formed(report):
    page = report.files["report.html"].read_text()
    root = ElementTree.fromstring(page.removeprefix("<!DOCTYPE html>\n"))
    assert len(root.findall(".//img")) == 7
    headings = [one.text for one in root.iter("h2")]
    assert headings[:3] == ["All speakers", "Speakers", "By severity"]
    for name in ("severity_etiology", "severity", "effects", "human", "snr", "data_size", "quality"):
        picture = Image.open(io.BytesIO(report.files[f"{name}.png"].read_bytes()))
        assert min(picture.size) > 200
        assert np.asarray(picture.convert("L")).std() > 5


def test_nobody_is_named_outside_the_table_that_says_so(report):
    for name, file in report.files.items():
        if name.endswith(("csv", "json", "html")):
            text = re.sub(r"data:image/png;base64,[^\"]+", "", file.read_text())
            assert bool(re.search(r"\bE\d\d\b", text)) == (name == PRIVATE), name
    for name in ("report.html", "report.json", "etiology.csv", "severity_etiology.csv"):
        assert "very rare" not in report.files[name].read_text()


def _counts(value):
    """All counts of speakers in nested tables."""
    if isinstance(value, dict):
        for key, inner in value.items():
            if isinstance(key, str) and key.startswith("speakers"):
                yield inner
            yield from _counts(inner)
    elif isinstance(value, list):
        for inner in value:
            yield from _counts(inner)


@pytest.mark.parametrize("count", [7, 13, 20])
def test_every_count_is_six_or_more_however_small_the_cohort(tmp_path, count):
    found = Cohort(tmp_path, 24).only(count)
    value = report_json(found.study())
    counts = list(_counts(value))
    assert counts
    assert min(counts) >= 6
    cells = [cell for row in value["tables"].get("severity_etiology", ()) for cell in row.values()]
    assert all(cell is None or isinstance(cell, str) or cell >= 6 for cell in cells)


def test_five_speakers_show_nothing(tmp_path):
    report = Cohort(tmp_path, 18).only(5).write().analyze()
    value = json.loads(report.files["report.json"].read_text())
    assert value["tables"] == {}
    assert value["median_relative_improvement"] is None
    assert value["median_delta_to_human"] is None
    assert set(report.files) == {"report.html", "report.json"}
    page = report.files["report.html"].read_text()
    assert "too few speakers" in page
    assert "<img" not in page


def test_pictures_show_six_speakers_or_more_in_every_mark(tmp_path):
    study = Cohort(tmp_path, 30).study()
    boxes = box_figure(study).axes[0]
    sizes = [int(label.get_text().split("\n")[1].split()[0]) for label in boxes.get_xticklabels()]
    assert sizes == [12, 9, 9]
    assert not [line for line in boxes.lines if line.get_marker() not in ("None", "", None)]  # no outliers
    dots = [one for one in snr_figure(study).axes[0].collections if len(one.get_offsets())]
    assert [round(one.get_sizes()[0] / 12) for one in dots] == [6] * 10  # 5 groups of 6, twice
    five = Cohort(tmp_path, 18).only(5).study()
    assert draw(five) == {}


def test_small_speakers_count_only_when_asked_for(tmp_path):
    found = Cohort(tmp_path, 24, small=4)
    study = found.study()
    assert cohort_rows(study)[0]["speakers"] == 24
    assert "too few utterances" in study.notes[0]
    assert cohort_rows(found.study(Options(include_small=True)))[0]["speakers"] == 28


def test_break_down_by_a_field_of_the_corpus(tmp_path):
    found = Cohort(tmp_path, 18)
    found.utterances = [
        dataclasses.replace(one, extra={"common": int(one.utt_id[-1]) % 2 == 0}) for one in found.utterances
    ]
    rows = part_rows(found.study(Options(break_down="common")))
    assert [(row["common"], row["speakers"]) for row in rows] == [("False", 18), ("True", 18)]


def _leak(found):
    parts = found.split.speakers["E00"]
    found.split = Split({**found.split.speakers, "E00": parts._replace(dev=(parts.test[0],))}, 0)


def _repeat(found):
    found.utterances = [
        one if one.utt_id != "E00-0" else Utterance("E00-0", "E00", "x.wav", found.test[0].text.upper())
        for one in found.utterances
    ]


CASES = {
    "E00: 1 utterances are in two parts": _leak,
    "phrase of train or dev: E00-8": _repeat,
    "E03: not in speakers.csv": lambda found: found.speakers.pop(3),
    "base: no hypothesis for 1 of 72 test utterances: E05-9": lambda found: found.base.pop("E05-9"),
    r"transcripts of E00: 1 are not in the test: E00-1": lambda found: found.heard.append(
        ("E00", "E00-1", "p", "")
    ),
    r"heard.csv: row 218: transcriber: wrote down E00-8": lambda found: found.heard.append(found.heard[0]),
    r"sizes.csv: row 2: wer: 'x' is no error rate": lambda found: setattr(
        found, "sizes", lambda: [("E00", 5, "x")]
    ),
    r"sizes.csv: row 2: utterances: 'most'": lambda found: setattr(
        found, "sizes", lambda: [("E00", "most", 1)]
    ),
}


@pytest.mark.parametrize("named", CASES)
def test_bad_input_is_one_line_and_writes_nothing(tmp_path, named):
    found = Cohort(tmp_path, 18)
    CASES[named](found)
    found.write()
    with pytest.raises(UserError, match=named) as caught:
        found.analyze()
    assert "\n" not in str(caught.value)
    assert not (tmp_path / "report").exists()


@pytest.mark.parametrize(
    ("line", "named"), [("{", "row 2: not"), ('{"utt": "E00-8"}', "row 2: not"), ("[]", "row 2: not")]
)
def test_hypotheses_that_are_none(tmp_path, line, named):
    found = Cohort(tmp_path, 18).write()
    good = json.dumps({"utt": "E00-8", "text": "a"})
    (tmp_path / "base.jsonl").write_text(f"{good}\n{line}\n")
    with pytest.raises(UserError, match=named):
        found.analyze()
    (tmp_path / "base.jsonl").write_text(f"{good}\n{good}\n")
    with pytest.raises(UserError, match="row 2: utt: E00-8 has an earlier row"):
        found.analyze()


def test_missing_hypotheses_and_transcribers_are_told(tmp_path):
    found = Cohort(tmp_path, 18)
    del found.base["E05-9"]
    found.heard = [row for row in found.heard if (row[0], row[2]) != ("E02", "r")]
    study = found.study(Options(allow_missing=True))
    assert "base: 1 of 72 test utterances were not recognised." in study.notes
    assert study.human.missing == ("E02: 2 of 3 transcribers; left out",)
    assert human_rows(study)[-1]["speakers"] == 17
    assert "E02" not in report_html(study, "title", {})
