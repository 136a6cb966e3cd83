"""The tables of a report. No cell tells of fewer than six speakers."""

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any, TypeAlias

import numpy as np

from offsites_jax.projects.euphonia.analysis.anonymity import (
    LEAST,
    OTHER,
    hide_small_cells,
    merge_small_groups,
    shown_share,
)
from offsites_jax.projects.euphonia.analysis.cohort import group_table, summarize, summary_cells
from offsites_jax.projects.euphonia.analysis.data_size import data_size_table
from offsites_jax.projects.euphonia.analysis.rates import by_speaker, rates
from offsites_jax.projects.euphonia.analysis.study import Study

Rows: TypeAlias = list[dict[str, Any]]


def tables(study: Study) -> dict[str, Rows]:
    """All tables of a study by name; those without rows are left out."""
    found = {
        "cohort": cohort_rows(study),
        "severity": severity_rows(study),
        "severity_etiology": distribution_rows(study),
        study.options.break_down: part_rows(study),
        f"severity_{study.options.break_down}": severity_part_rows(study),
        "etiology": etiology_rows(study),
        "effects": effect_rows(study),
        "human": human_rows(study),
        "data_size": size_rows(study),
    }
    return {name: rows for name, rows in found.items() if rows}


def cohort_rows(study: Study) -> Rows:
    """A row for each recogniser over the whole cohort."""
    rows: Rows = []
    for system, scored in study.scored.items():
        words = summarize(by_speaker(scored))
        if words is None or words.speakers < LEAST:
            continue
        characters = summarize(by_speaker(scored, lambda one: one.characters))
        raw = summarize(by_speaker(scored, lambda one: one.raw))
        row = {"recogniser": system, "speakers": words.speakers, **summary_cells("WER", words)}
        row["CER median"] = None if characters is None else characters.median
        row["WER median, text as it is"] = None if raw is None else raw.median
        rows.append(row)
    return rows


def severity_rows(study: Study) -> Rows:
    """A row for each level of severity."""
    return _grouped(study, *study.levels(study.speakers), "severity")


def etiology_rows(study: Study) -> Rows:
    """A row for each etiology of six speakers or more; the rest are OTHER."""
    return _grouped(study, study.etiology, (), "etiology")


def part_rows(study: Study) -> Rows:
    """A row for each domain of the test, or whatever the test is broken down by."""
    rows: Rows = []
    for part in _parts(study):
        row: dict[str, Any] = {study.options.break_down: part}
        counts = {system: _counts_of(study, system, part) for system in study.scored}
        row["speakers"] = max(map(len, counts.values()))
        for system, found in counts.items():
            row |= summary_cells(system, summarize(found))
        if row["speakers"] >= LEAST:
            rows.append(row)
    return rows


def severity_part_rows(study: Study) -> Rows:
    """A row for each level of severity within each domain."""
    rows: Rows = []
    for part in _parts(study):
        counts = {system: _counts_of(study, system, part) for system in study.scored}
        severity, levels = study.levels({name for found in counts.values() for name in found})
        grouped = group_table(counts, severity, "severity", levels)
        rows += [{study.options.break_down: part, **row} for row in grouped]
    return rows


def effect_rows(study: Study) -> Rows:
    """A row for each group and factor."""
    names = {
        "group": "group",
        "factor": "factor",
        "speakers": "speakers",
        "low_speakers": "speakers in Low",
        "mean": "mean",
        "low_mean": "mean in Low",
        "d": "Cohen's d",
        "band": "size",
        "mann_whitney": "Mann-Whitney p",
        "mann_whitney_holm": "p, Holm",
        "welch": "Welch p",
        "significant": f"Holm p < {study.options.alpha:g}",
    }
    rows = [
        {title: getattr(effect, field) for field, title in names.items()}
        for effect in study.effects
        if effect.speakers is not None and effect.low_speakers is not None
    ]
    return [{**row, "Cohen's d": "n/a" if row["Cohen's d"] is None else row["Cohen's d"]} for row in rows]


def human_rows(study: Study) -> Rows:
    """A row for each level of severity, and one for all: people and the personal recogniser."""
    if study.human is None or len(study.human.speakers) < LEAST:
        return []
    merged, levels = study.levels(one.speaker for one in study.human.speakers)
    rows: Rows = []
    for group in [*levels, "all"]:
        found = [one for one in study.human.speakers if group in ("all", merged[one.speaker])]
        medians = {
            "human": [one.human for one in found],
            "best transcriber": [one.best for one in found],
            "majority": [one.majority for one in found],
            "personal": [one.personal for one in found],
            "personal - human": [one.delta for one in found],
        }
        cells = {f"{name} median": float(np.median(values)) for name, values in medians.items()}
        better = shown_share(sum(one.delta < 0 for one in found), len(found))
        rows.append({"severity": group, "speakers": len(found), **cells, "recogniser better": better})
    return rows


def size_rows(study: Study) -> Rows:
    """A row for each number of training utterances."""
    base = rates(study.counts(study.options.base)) if study.options.base in study.scored else {}
    return data_size_table(study.sizes, base, study.options.target)


def distribution_rows(study: Study) -> Rows:
    """Speakers by severity and etiology; cells from which fewer than six could be told are empty."""
    counts, levels, etiologies, hidden = distribution(study)
    if not counts.size or counts.sum() < LEAST:
        return []
    return [
        {
            "severity": level,
            **{
                etiology: None if hidden[row, column] else int(counts[row, column])
                for column, etiology in enumerate(etiologies)
            },
        }
        for row, level in enumerate(levels)
    ]


def distribution(study: Study) -> tuple[np.ndarray, list[str], list[str], np.ndarray]:
    """Counts of speakers, [level, etiology], the names of both, and which counts are hidden."""
    severity, levels = study.levels(study.speakers)
    etiology = merge_small_groups(study.etiology)
    etiologies = sorted(set(etiology.values()), key=lambda name: (name == OTHER, name))
    counts = np.zeros((len(levels), len(etiologies)), int)
    for name in study.speakers:
        counts[levels.index(severity[name]), etiologies.index(etiology[name])] += 1
    return counts, levels, etiologies, hide_small_cells(counts)


def speaker_rows(study: Study) -> Rows:
    """A row for each speaker: not for sharing."""
    counts = {system: by_speaker(scored) for system, scored in study.scored.items()}
    characters = {
        system: by_speaker(scored, lambda one: one.characters) for system, scored in study.scored.items()
    }
    rows: Rows = []
    for name in sorted(study.speakers):
        row: dict[str, Any] = {"speaker": name}
        for system in study.scored:
            if name in counts[system]:
                found = counts[system][name]
                row[f"{system} WER"], row[f"{system} CER"] = found.rate, characters[system][name].rate
                row |= {f"{system} errors": found.errors, f"{system} words": found.reference}
        rows.append(row)
    return rows


def report_json(study: Study) -> dict[str, Any]:
    """The tables and the figures above them, for programs."""
    improvement = study.improvement
    human = study.human
    return {
        "options": dataclasses.asdict(study.options),
        "tables": tables(study),
        "median_relative_improvement": _if_enough(
            None if improvement is None else improvement.median,
            0 if improvement is None else len(improvement.by_speaker),
        ),
        "median_delta_to_human": _if_enough(
            None if human is None else human.median_delta, 0 if human is None else len(human.speakers)
        ),
        "human_p_value": _if_enough(
            None if human is None else human.p_value, 0 if human is None else len(human.speakers)
        ),
    }


def _if_enough(value: float | None, speakers: int) -> float | None:
    return value if speakers >= LEAST else None


def _grouped(study: Study, groups: Mapping[str, str], order: Sequence[str], column: str) -> Rows:
    counts = {system: by_speaker(scored) for system, scored in study.scored.items()}
    return group_table(counts, groups, column, order)


def _parts(study: Study) -> Sequence[str]:
    return sorted({one.domain for scored in study.scored.values() for one in scored})


def _counts_of(study: Study, system: str, part: str) -> dict[str, Any]:
    return by_speaker(one for one in study.scored[system] if one.domain == part)
