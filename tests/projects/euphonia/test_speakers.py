"""Speakers and ratings: out of range is named, unknown is not 0, kappa is Cohen's."""

import itertools

import numpy as np
import pytest

from offsites_jax.errors import UserError
from offsites_jax.projects.euphonia.speakers import (
    Rating,
    Speaker,
    agreement,
    merge_ratings,
    read_ratings,
    read_scale,
    read_speakers,
    write_speakers,
)


def test_scale_has_24_features_and_5_levels():
    scale = read_scale()
    assert len(scale.names) == len(set(scale.names)) == 24
    assert scale.severity == ("typical", "mild", "moderate", "severe", "profound")
    assert (scale.least, scale.most) == (0.0, 4.0)
    assert scale.group("hypernasality") == "resonance"


def test_round_trip_and_unknown_is_not_zero(tmp_path):
    speakers = [
        Speaker("E1", "ALS", ("dysarthria", "apraxia"), 3, {"tremor": 0.0}, 1.0, None, ("r1", "r2"), "2021"),
        Speaker("E2"),
    ]
    write_speakers(tmp_path / "speakers.csv", speakers)
    found = read_speakers(tmp_path / "speakers.csv")
    assert list(found.values()) == speakers
    assert found["E1"].ratings["tremor"] == 0.0
    assert "tremor" not in found["E2"].ratings
    assert found["E2"].severity is None


@pytest.mark.parametrize(
    ("text", "named"),
    [
        ("speaker,severity\nE1,5", r"row 2: severity: 5 is out of range"),
        ("speaker,severity\nE1,1.5", r"row 2: severity: 1.5 is no level"),
        ("speaker,tremor\nE1,1\nE2,-1", r"row 3: tremor: -1 is out of range"),
        ("speaker,tremor\nE1,nan", r"row 2: tremor: nan is out of range"),
        ("speaker,tremor\nE1,some", r"row 2: tremor: 'some' is no number"),
        ("speaker,tremr\nE1,1", r"no such column: 'tremr'"),
        ("speaker\nE1\nE1", r"row 3: speaker: has an earlier row"),
        ("speaker,etiology\n,ALS", r"row 2: speaker: empty"),
        ("name\nE1", r"no column 'speaker'"),
        ("speaker,etiology\nE1", r"row 2: not 2 cells"),
        ("speaker", r"no speakers"),
    ],
)
def test_bad_tables_are_named(tmp_path, text, named):
    (tmp_path / "speakers.csv").write_text(text + "\n")
    with pytest.raises(UserError, match=named) as caught:
        read_speakers(tmp_path / "speakers.csv")
    assert "\n" not in str(caught.value)


def test_scale_of_ones_own(tmp_path):
    (tmp_path / "own.yaml").write_text(
        "scale: {least: 1, most: 7}\nseverity: [none, some]\nfeatures:\n  voice: {rough: Rough.}\n"
    )
    scale = read_scale(tmp_path / "own.yaml")
    (tmp_path / "speakers.csv").write_text("speaker,severity,rough\nE1,1,7\n")
    assert read_speakers(tmp_path / "speakers.csv", scale)["E1"].ratings == {"rough": 7.0}
    (tmp_path / "twice.yaml").write_text(
        "scale: {least: 1, most: 7}\nseverity: [none]\nfeatures:\n  voice: {date: The date.}\n"
    )
    with pytest.raises(UserError, match="'date' comes twice"):
        read_scale(tmp_path / "twice.yaml")
    (tmp_path / "bad.yaml").write_text("features: [1, 2]\n")
    with pytest.raises(UserError, match="compare"):
        read_scale(tmp_path / "bad.yaml")


def test_rating_sheets_merge_by_median(tmp_path):
    (tmp_path / "sheet.csv").write_text(
        "speaker,rater,severity,tremor,blocks,date\n"
        "E1,r1,1,0,,2021-01\nE1,r2,2,4,3,2021-03\nE1,r3,2,1,,2021-02\nE2,r1,1,,,2021-01\nE2,r2,2,,,2021-01\n"
    )
    ratings = read_ratings(tmp_path / "sheet.csv")
    merged = merge_ratings({"E1": Speaker("E1", "ALS", ratings={"blocks": 1.0, "monopitch": 2.0})}, ratings)
    assert merged["E1"].ratings == {"tremor": 1.0, "blocks": 3.0, "monopitch": 2.0}
    assert (merged["E1"].severity, merged["E2"].severity) == (2, 2)
    assert (merged["E1"].raters, merged["E1"].date, merged["E1"].etiology) == (
        ("r1", "r2", "r3"),
        "2021-03",
        "ALS",
    )
    (tmp_path / "twice.csv").write_text("speaker,rater,tremor\nE1,r1,1\nE1,r1,1\n")
    with pytest.raises(UserError, match="row 3: rater: rated this speaker"):
        read_ratings(tmp_path / "twice.csv")


def _weighted_kappa(first, second, levels):
    """Cohen (1968), from the joint table: 1 - observed over expected squared disagreement."""
    joint = np.zeros((levels, levels))
    for a, b in zip(first, second, strict=True):
        joint[a, b] += 1 / len(first)
    weight = np.subtract.outer(np.arange(levels), np.arange(levels)) ** 2
    return 1 - (weight * joint).sum() / (weight * np.outer(joint.sum(1), joint.sum(0))).sum()


def test_agreement_is_cohens_weighted_kappa():
    draw = np.random.default_rng(3)
    first = draw.integers(0, 5, 40)
    second = np.clip(first + draw.integers(-1, 2, 40), 0, 4)
    ratings = [Rating(f"E{n}", "r1", {"tremor": float(a)}) for n, a in enumerate(first)]
    ratings += [Rating(f"E{n}", "r2", {"tremor": float(b)}) for n, b in enumerate(second)]
    ratings += [Rating("E99", "r1", {"tremor": 2.0}), Rating("E1", "r3", {"blocks": 1.0})]
    (found,) = agreement(ratings)
    assert (found.feature, found.raters, found.speakers) == ("tremor", ("r1", "r2"), 40)
    assert found.exact == pytest.approx(np.mean(first == second))
    assert found.kappa == pytest.approx(_weighted_kappa(first, second, 5), abs=1e-12)


def test_agreement_without_meaning_has_no_kappa():
    same = [Rating(s, r, {"tremor": 2.0}) for s, r in itertools.product(("E1", "E2"), ("a", "b"))]
    (found,) = agreement(same)
    assert (found.exact, found.kappa) == (1.0, None)
    halves = [Rating(f"E{n}", r, {"tremor": n + (0.5 if r == "a" else 0.0)}) for n in range(3) for r in "ab"]
    assert agreement(halves)[0].kappa is None
