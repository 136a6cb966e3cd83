"""All that is known about a cohort's recognisers, put together from what was read."""

import dataclasses
from collections.abc import Collection, Iterable, Mapping

import numpy as np

from offsites_jax.data.text.score import ErrorCounts
from offsites_jax.errors import UserError
from offsites_jax.projects.euphonia.analysis.anonymity import merge_levels
from offsites_jax.projects.euphonia.analysis.cohort import Improvement, relative_improvement
from offsites_jax.projects.euphonia.analysis.data_size import TARGET, SizeResult
from offsites_jax.projects.euphonia.analysis.groups import MILD, Effect, Groups, effects, wer_groups
from offsites_jax.projects.euphonia.analysis.humans import HumanComparison, Transcript, compare_humans
from offsites_jax.projects.euphonia.analysis.rates import Pair, Scored, by_speaker, rates, score_utterances
from offsites_jax.projects.euphonia.manifest import Utterance
from offsites_jax.projects.euphonia.speakers import Scale, Speaker, read_scale
from offsites_jax.projects.euphonia.splits import Split, check_split

_NAMED = 3
_FLAGS = {
    "recordings with dropouts": lambda quality: quality.get("dropouts", 0) > 0,
    "clipped recordings": lambda quality: quality.get("clipping_ratio", 0.0) > 0,
    "recordings cut short": lambda quality: bool(quality.get("starts_cut") or quality.get("ends_cut")),
}


@dataclasses.dataclass(frozen=True)
class Options:
    """How a study is made.

    Attributes:
      base: name of the recogniser that all speakers share.
      personal: name of the speakers' own.
      break_down: what the test is broken down by: `domain`, or a field that a corpus adds, as `common`.
      mild: the most severe level at which a high error rate is surprising.
      alpha: level of significance.
      target: word error rate that is a success.
      include_small: also count speakers with too few utterances.
      allow_shared_phrases: accept a published split that tests on phrases of the training part.
      allow_missing: score only what was recognised, and say how much was not.

    """

    base: str = "base"
    personal: str = "personal"
    break_down: str = "domain"
    mild: int = MILD
    alpha: float = 0.01
    target: float = TARGET
    include_small: bool = False
    allow_shared_phrases: bool = False
    allow_missing: bool = False


@dataclasses.dataclass(frozen=True)
class Study:
    """A cohort and its recognisers.

    Attributes:
      options: it was made with.
      scale: that speakers were rated on.
      speakers: of the cohort.
      utterances: of the cohort, by name, in all parts.
      scored: errors of each test utterance, by recogniser.
      improvement: of personal over base; None where one of them is missing.
      groups: by personal word error rate, or by base without it.
      effects: of each factor.
      human: comparison with people, if there was one.
      sizes: results of a study of data size, if there was one.
      notes: what the reader of the report has to know, a line each.

    """

    options: Options
    scale: Scale
    speakers: Mapping[str, Speaker]
    utterances: Mapping[str, Utterance]
    scored: Mapping[str, tuple[Scored, ...]]
    improvement: Improvement | None
    groups: Groups
    effects: tuple[Effect, ...]
    human: HumanComparison | None
    sizes: tuple[SizeResult, ...]
    notes: tuple[str, ...]

    def counts(self, system: str) -> dict[str, ErrorCounts]:
        """Errors in words of each speaker."""
        return by_speaker(self.scored[system])

    def levels(self, speakers: Iterable[str]) -> tuple[dict[str, str], list[str]]:
        """Levels of severity by speaker, those of too few joined, and their names in order."""
        known = {name: self.speakers[name].severity for name in speakers}
        names = {name: "" if level is None else self.scale.severity[level] for name, level in known.items()}
        return merge_levels(names, self.scale.severity)

    @property
    def etiology(self) -> dict[str, str]:
        """Each speaker's etiology."""
        return {name: one.etiology for name, one in self.speakers.items()}


def make_study(
    utterances: Iterable[Utterance],
    split: Split,
    speakers: Mapping[str, Speaker],
    hypotheses: Mapping[str, Mapping[str, str]],
    options: Options = Options(),
    transcripts: Iterable[Transcript] = (),
    sizes: Iterable[SizeResult] = (),
    scale: Scale | None = None,
) -> Study:
    """Scores all recognisers on the test utterances of the cohort.

    Args:
      utterances: of a manifest.
      split: of them.
      speakers: who they are.
      hypotheses: what each recogniser made of each utterance, by its name; utterances outside the test are
        not looked at.
      options: as above.
      transcripts: of people.
      sizes: results of a study of data size.
      scale: that speakers were rated on.

    Raises:
      UserError: a split that leaks, a speaker without description, a test utterance that a recogniser was
        not tried on, or nobody in the cohort.

    """
    known = {utterance.utt_id: utterance for utterance in utterances}
    check_split(split, known.values(), options.allow_shared_phrases)
    names = [name for name in split.speakers if options.include_small or name not in split.small]
    if not names:
        raise UserError(
            "nobody in the cohort: all speakers have too few utterances; record more, or include_small"
        )
    unknown = [name for name in names if name not in speakers]
    if unknown:
        raise UserError(f"{_listed(unknown)}: not in speakers.csv; add a row for each speaker")
    cohort = {name: speakers[name] for name in names}
    test = [utt_id for name in names for utt_id in split.speakers[name].test]
    notes = _notes(split, options)
    scored: dict[str, tuple[Scored, ...]] = {}
    for system, texts in hypotheses.items():
        found, empty = _score(system, texts, [known[utt_id] for utt_id in test], options, notes)
        scored[system] = tuple(found)
        if empty:
            notes.append(f"{system}: {len(empty)} test utterances have no words to score")
    error_rates = {system: rates(by_speaker(found)) for system, found in scored.items()}
    both = options.base in scored and options.personal in scored
    judged = options.personal if options.personal in scored else next(iter(scored), "")
    if not error_rates.get(judged):
        raise UserError("no hypotheses that can be scored; give a hyp.jsonl for each recogniser")
    groups = wer_groups(
        error_rates[judged], {name: one.severity for name, one in cohort.items()}, options.mild
    )
    train = {name: split.speakers[name].train for name in names}
    factors = speaker_factors(cohort, known, train, scale or read_scale())
    heard = [one for one in transcripts if one.speaker in cohort]
    return Study(
        options=options,
        scale=scale or read_scale(),
        speakers=cohort,
        utterances={utt_id: one for utt_id, one in known.items() if one.speaker in cohort},
        scored=scored,
        improvement=(
            relative_improvement(error_rates[options.base], error_rates[options.personal]) if both else None
        ),
        groups=groups,
        effects=tuple(effects(groups, factors, options.alpha)),
        human=compare_humans(heard, known, hypotheses.get(options.personal, {}), test) if heard else None,
        sizes=tuple(one for one in sizes if one.speaker in cohort),
        notes=tuple(notes),
    )


def speaker_factors(
    speakers: Mapping[str, Speaker],
    utterances: Mapping[str, Utterance],
    train: Mapping[str, Collection[str]],
    scale: Scale,
) -> dict[str, dict[str, float]]:
    """What may explain an error rate, by factor and speaker; what is unknown is left out.

    Severity, every rated feature, the quality of recordings as rated and as measured (median SNR, shares of
    recordings with a fault), and the number of training utterances.
    """
    factors: dict[str, dict[str, float]] = {
        "severity": {n: float(one.severity) for n, one in speakers.items() if one.severity is not None}
    }
    for feature in scale.names:
        factors[feature] = {n: one.ratings[feature] for n, one in speakers.items() if feature in one.ratings}
    for field in ("technical_quality", "acoustic_quality"):
        values = {name: getattr(one, field) for name, one in speakers.items()}
        factors[field] = {name: value for name, value in values.items() if value is not None}
    factors["SNR"] = _medians(speaker_snr(utterances.values()), speakers)
    factors["training utterances"] = {name: float(len(names)) for name, names in train.items()}
    measured = [one for one in utterances.values() if one.quality and one.speaker in speakers]
    for flag, is_set in _FLAGS.items():
        found: dict[str, list[float]] = {}
        for one in measured:
            found.setdefault(one.speaker, []).append(float(is_set(one.quality)))
        factors[flag] = {name: float(np.mean(values)) for name, values in found.items()}
    return {name: values for name, values in factors.items() if values}


def speaker_snr(utterances: Iterable[Utterance]) -> dict[str, list[float]]:
    """The signal-to-noise ratios of each speaker's recordings in dB, where they were measured."""
    found: dict[str, list[float]] = {}
    for one in utterances:
        ratio = one.quality.get("snr_db")
        if isinstance(ratio, int | float):
            found.setdefault(one.speaker, []).append(float(ratio))
    return found


def _medians(values: Mapping[str, list[float]], names: Collection[str]) -> dict[str, float]:
    return {name: float(np.median(found)) for name, found in values.items() if name in names}


def _notes(split: Split, options: Options) -> list[str]:
    notes = []
    left_out = len(split.small)
    if left_out and not options.include_small:
        notes.append("Speakers with too few utterances are not in the cohort.")
    if split.shares_phrases:
        notes.append(
            "This published split tests on phrases that were trained on; its figures flatter. "
            "Look at those that were not: break_down tells them apart."
        )
    return notes


def _score(
    system: str,
    texts: Mapping[str, str],
    test: Collection[Utterance],
    options: Options,
    notes: list[str],
) -> tuple[list[Scored], list[str]]:
    missing = [one.utt_id for one in test if one.utt_id not in texts]
    if missing and not options.allow_missing:
        raise UserError(
            f"{system}: no hypothesis for {len(missing)} of {len(test)} test utterances: {_listed(missing)}; "
            "recognise them, or allow_missing"
        )
    if missing:
        notes.append(f"{system}: {len(missing)} of {len(test)} test utterances were not recognised.")
    return score_utterances(
        Pair(one.utt_id, one.speaker, _part(one, options.break_down), one.text, texts[one.utt_id])
        for one in test
        if one.utt_id in texts
    )


def _part(utterance: Utterance, field: str) -> str:
    return utterance.domain if field == "domain" else str(utterance.extra.get(field, "unknown"))


def _listed(names: Collection[str]) -> str:
    return ", ".join(sorted(names)[:_NAMED]) + (" ..." if len(names) > _NAMED else "")
