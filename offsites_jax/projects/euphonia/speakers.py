"""Who speaks: etiology, severity and ratings of each speaker, and how far raters agree.

`speakers.csv` has a row for each: `speaker`, and as far as known `etiology, disorder_types, severity,
technical_quality, acoustic_quality, raters, date`, and a column for each feature of `ratings.yaml`. Several
types and raters are separated by ";". An empty cell is unknown, which is not 0.
"""

import csv
import dataclasses
import io
import itertools
import os
import pathlib
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np
import yaml
from etils import epath

from offsites_jax.data.atomic import write_atomically
from offsites_jax.errors import UserError
from offsites_jax.projects.euphonia.corpora.delimited import Row, read_csv

SHIPPED = pathlib.Path(__file__).with_name("ratings.yaml")

_SEPARATOR = ";"
_PLAIN = ("speaker", "etiology", "disorder_types", "severity", "technical_quality", "acoustic_quality")
_LATE = ("raters", "date")


@dataclasses.dataclass(frozen=True)
class Scale:
    """What is rated, and from where to where.

    Attributes:
      least: rating; nothing unusual.
      most: rating.
      severity: names of the levels of severity, from 0.
      features: names of what is rated, by group, and a sentence for each.

    """

    least: float
    most: float
    severity: tuple[str, ...]
    features: Mapping[str, Mapping[str, str]]

    @property
    def names(self) -> tuple[str, ...]:
        """All features, in order."""
        return tuple(name for group in self.features.values() for name in group)

    def group(self, feature: str) -> str:
        """The group of a feature."""
        return next(name for name, group in self.features.items() if feature in group)


@dataclasses.dataclass(frozen=True)
class Speaker:
    """What is known about a speaker; None and what is absent are unknown.

    Attributes:
      speaker: as the manifest names them.
      etiology: of the speech disorder; "typical" without one.
      disorder_types: such as dysarthria, apraxia, stuttering.
      severity: 0 typical, 1 mild, 2 moderate, 3 severe, 4 profound.
      ratings: by feature, on the scale of `ratings.yaml`.
      technical_quality: of the recordings, on the same scale.
      acoustic_quality: of the rooms, on the same scale.
      raters: who rated.
      date: when.

    """

    speaker: str
    etiology: str = ""
    disorder_types: tuple[str, ...] = ()
    severity: int | None = None
    ratings: Mapping[str, float] = dataclasses.field(default_factory=dict)
    technical_quality: float | None = None
    acoustic_quality: float | None = None
    raters: tuple[str, ...] = ()
    date: str = ""


@dataclasses.dataclass(frozen=True)
class Rating:
    """One rater's ratings of one speaker."""

    speaker: str
    rater: str
    ratings: Mapping[str, float]
    date: str = ""


@dataclasses.dataclass(frozen=True)
class Agreement:
    """How far two raters agree on one feature.

    Attributes:
      feature: what was rated.
      raters: the two.
      speakers: whom both rated.
      exact: share of speakers with the same rating.
      kappa: quadratic weighted kappa of Cohen (1968); None where chance alone would agree always, or where
        ratings are not whole.

    """

    feature: str
    raters: tuple[str, str]
    speakers: int
    exact: float
    kappa: float | None


def read_scale(path: str | os.PathLike[str] = SHIPPED) -> Scale:
    """The rating scale of a YAML file.

    Raises:
      UserError: no such file, not YAML, or not of the shape of the one that ships with the package.

    """
    file = epath.Path(path)
    if not file.exists():
        raise UserError(f"{file}: no such file; check the path")
    try:
        found = yaml.safe_load(file.read_text())
        features = {group: dict(names) for group, names in found["features"].items()}
        scale = Scale(
            float(found["scale"]["least"]), float(found["scale"]["most"]), tuple(found["severity"]), features
        )
    except (yaml.YAMLError, KeyError, TypeError, ValueError, AttributeError):
        raise UserError(
            f"{file}: not as the ratings.yaml of the package, with scale, severity and features; compare"
        ) from None
    twice = [name for name in scale.names if (*scale.names, *_PLAIN, *_LATE).count(name) > 1]
    if twice:
        raise UserError(f"{file}: {twice[0]!r} comes twice, or is the name of another column; rename it")
    return scale


def read_speakers(path: str | os.PathLike[str], scale: Scale | None = None) -> dict[str, Speaker]:
    """The speakers of `speakers.csv` by name.

    Raises:
      UserError: no such file, no column `speaker`, a column that is none, a speaker twice, a value that is
        no number or out of range: with row and field.

    """
    scale = scale or read_scale()
    speakers: dict[str, Speaker] = {}
    for row in read_csv(path, ("speaker",)):
        _refuse_unknown(row, {*_PLAIN, *_LATE, *scale.names})
        speaker = _speaker(row, scale)
        if speaker.speaker in speakers:
            raise row.wrong("speaker", "has an earlier row; keep one")
        speakers[speaker.speaker] = speaker
    if not speakers:
        raise UserError(f"{path}: no speakers; give a row for each")
    return speakers


def write_speakers(
    path: str | os.PathLike[str], speakers: Iterable[Speaker], scale: Scale | None = None
) -> None:
    """Writes `speakers.csv` at once, with a column for each feature."""
    names = (scale or read_scale()).names
    stream = io.StringIO(newline="")
    writer = csv.writer(stream, lineterminator="\n")
    writer.writerow([*_PLAIN, *names, *_LATE])
    for one in speakers:
        types, raters = _SEPARATOR.join(one.disorder_types), _SEPARATOR.join(one.raters)
        quality = [_cell(one.technical_quality), _cell(one.acoustic_quality)]
        ratings = [_cell(one.ratings.get(name)) for name in names]
        writer.writerow(
            [one.speaker, one.etiology, types, _cell(one.severity), *quality, *ratings, raters, one.date]
        )
    write_atomically(epath.Path(path), stream.getvalue().encode())


def read_ratings(path: str | os.PathLike[str], scale: Scale | None = None) -> list[Rating]:
    """A rating sheet: a row for each speaker and rater, with columns `speaker, rater`, features, and `date`.

    Raises:
      UserError: as for `read_speakers`; also two rows of one speaker by one rater.

    """
    scale = scale or read_scale()
    found: dict[tuple[str, str], Rating] = {}
    for row in read_csv(path, ("speaker", "rater")):
        _refuse_unknown(row, {"speaker", "rater", "date", "severity", *scale.names})
        key = _required(row, "speaker"), _required(row, "rater")
        if key in found:
            raise row.wrong("rater", "rated this speaker in an earlier row; keep one")
        found[key] = Rating(*key, _ratings(row, ("severity", *scale.names), scale), row.cells.get("date", ""))
    if not found:
        raise UserError(f"{path}: no ratings; give a row for each speaker and rater")
    return list(found.values())


def merge_ratings(speakers: Mapping[str, Speaker], ratings: Iterable[Rating]) -> dict[str, Speaker]:
    """Speakers with the median over raters of each feature; what nobody rated stays as it was.

    Severity, a level, is the median rounded half up. Speakers that are new are added.
    """
    merged = dict(speakers)
    by_speaker: dict[str, list[Rating]] = {}
    for rating in ratings:
        by_speaker.setdefault(rating.speaker, []).append(rating)
    for name, own in by_speaker.items():
        known = merged.get(name, Speaker(name))
        features = dict.fromkeys(feature for rating in own for feature in rating.ratings)
        medians = {
            feature: float(np.median([r.ratings[feature] for r in own if feature in r.ratings]))
            for feature in features
        }
        severity = medians.pop("severity", None)
        merged[name] = dataclasses.replace(
            known,
            ratings={**known.ratings, **medians},
            severity=known.severity if severity is None else int(np.floor(severity + 0.5)),
            raters=tuple(dict.fromkeys((*known.raters, *(rating.rater for rating in own)))),
            date=max((rating.date for rating in own), default="") or known.date,
        )
    return merged


def agreement(ratings: Sequence[Rating], scale: Scale | None = None) -> list[Agreement]:
    """Agreement of every two raters on every feature that both rated, by feature and rater.

    Raises:
      UserError: scikit-learn is missing.

    """
    scale = scale or read_scale()
    by_rater: dict[str, dict[str, Mapping[str, float]]] = {}
    for rating in ratings:
        by_rater.setdefault(rating.rater, {})[rating.speaker] = rating.ratings
    return [
        _agree(feature, pair, both, scale)
        for feature in ("severity", *scale.names)
        for pair in itertools.combinations(sorted(by_rater), 2)
        if (both := _rated_by_both(feature, by_rater[pair[0]], by_rater[pair[1]]))
    ]


def _rated_by_both(
    feature: str, first: Mapping[str, Mapping[str, float]], second: Mapping[str, Mapping[str, float]]
) -> list[tuple[float, float]]:
    common = [name for name in first if feature in first[name] and feature in second.get(name, {})]
    return [(first[name][feature], second[name][feature]) for name in common]


def _agree(feature: str, pair: tuple[str, str], both: list[tuple[float, float]], scale: Scale) -> Agreement:
    first, second = np.array(both).T
    kappa = None
    whole = np.all(first == np.round(first)) and np.all(second == np.round(second))
    if whole and len({*first, *second}) > 1:
        levels = range(int(scale.least), int(scale.most) + 1)
        score = _sklearn_metrics().cohen_kappa_score(
            first.astype(int), second.astype(int), labels=list(levels), weights="quadratic"
        )
        kappa = float(score)
    return Agreement(feature, pair, len(both), float(np.mean(first == second)), kappa)


def _sklearn_metrics() -> Any:
    try:
        import sklearn.metrics
    except ImportError as error:
        raise UserError("agreement needs scikit-learn; pip install 'offsites-jax[speech]'") from error
    return sklearn.metrics


def _speaker(row: Row, scale: Scale) -> Speaker:
    cells = row.cells
    severity = _number(row, "severity", 0, len(scale.severity) - 1)
    if severity is not None and severity != int(severity):
        raise row.wrong("severity", f"{cells['severity']} is no level; give 0 to {len(scale.severity) - 1}")
    return Speaker(
        speaker=_required(row, "speaker"),
        etiology=cells.get("etiology", ""),
        disorder_types=_list(cells.get("disorder_types", "")),
        severity=None if severity is None else int(severity),
        ratings=_ratings(row, scale.names, scale),
        technical_quality=_number(row, "technical_quality", scale.least, scale.most),
        acoustic_quality=_number(row, "acoustic_quality", scale.least, scale.most),
        raters=_list(cells.get("raters", "")),
        date=cells.get("date", ""),
    )


def _ratings(row: Row, names: Iterable[str], scale: Scale) -> dict[str, float]:
    found = {name: _number(row, name, scale.least, scale.most) for name in names}
    return {name: value for name, value in found.items() if value is not None}


def _number(row: Row, field: str, least: float, most: float) -> float | None:
    text = row.cells.get(field, "")
    if not text:
        return None
    try:
        value = float(text)
    except ValueError:
        raise row.wrong(field, f"{text!r} is no number; leave it empty where it is unknown") from None
    if not least <= value <= most:
        raise row.wrong(field, f"{text} is out of range; give {least:g} to {most:g}, or leave it empty")
    return value


def _required(row: Row, field: str) -> str:
    if not row.cells[field]:
        raise row.wrong(field, "empty; every row needs one")
    return row.cells[field]


def _refuse_unknown(row: Row, known: set[str]) -> None:
    """A misspelt column would pass for one that nobody rated."""
    unknown = [name for name in row.cells if name and name not in known]
    if unknown:
        raise UserError(f"{row.file}: no such column: {unknown[0]!r}; rename it, or add it to ratings.yaml")


def _list(cell: str) -> tuple[str, ...]:
    return tuple(part.strip() for part in cell.split(_SEPARATOR) if part.strip())


def _cell(value: float | None) -> str:
    return "" if value is None else f"{value:g}"
