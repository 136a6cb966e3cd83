"""A cohort in figures: medians over speakers, as Green et al. (2021) report, means and pooled rates."""

import dataclasses
from collections.abc import Iterable, Mapping

import numpy as np

from offsites_jax.data.text.score import ErrorCounts
from offsites_jax.projects.euphonia.analysis.anonymity import LEAST, OTHER, merge_small_groups


@dataclasses.dataclass(frozen=True)
class Summary:
    """Error rates of several speakers.

    Attributes:
      speakers: how many.
      median: over speakers, each counting once.
      mean: likewise.
      first_quartile: by numpy's linear percentiles, as all of them.
      third_quartile: likewise.
      pooled: errors of all over words of all.

    """

    speakers: int
    median: float
    mean: float
    first_quartile: float
    third_quartile: float
    pooled: float

    @property
    def interquartile_range(self) -> float:
        """From the first to the third quartile."""
        return self.third_quartile - self.first_quartile


@dataclasses.dataclass(frozen=True)
class Improvement:
    """Personal against base recogniser.

    Attributes:
      median: over speakers of 1 - personal / base; NaN without speakers.
      by_speaker: the same of each.
      excluded: speakers whom the base recogniser understood without error, who cannot improve.

    """

    median: float
    by_speaker: Mapping[str, float]
    excluded: tuple[str, ...]


def summarize(counts: Mapping[str, ErrorCounts]) -> Summary | None:
    """The figures of some speakers; None without any whose reference holds words."""
    held = [found for found in counts.values() if found.reference]
    if not held:
        return None
    values = np.array([found.rate for found in held])
    first, third = np.percentile(values, (25, 75))
    return Summary(
        speakers=len(held),
        median=float(np.median(values)),
        mean=float(values.mean()),
        first_quartile=float(first),
        third_quartile=float(third),
        pooled=sum(held, ErrorCounts()).rate,
    )


def relative_improvement(base: Mapping[str, float], personal: Mapping[str, float]) -> Improvement:
    """The relative fall in error rate of each speaker that both recognisers were tried on.

    Args:
      base: word error rates by speaker.
      personal: likewise.

    """
    both = sorted(base.keys() & personal.keys())
    values = {name: 1 - personal[name] / base[name] for name in both if base[name] > 0}
    excluded = tuple(name for name in both if base[name] == 0)
    return Improvement(float(np.median(list(values.values()))) if values else float("nan"), values, excluded)


def group_table(
    systems: Mapping[str, Mapping[str, ErrorCounts]],
    groups: Mapping[str, str],
    column: str,
    order: Iterable[str] = (),
    least: int = LEAST,
) -> list[dict[str, object]]:
    """A row for each group of speakers, with every recogniser's figures; groups of too few are merged.

    Args:
      systems: counts by speaker, by name of the recogniser.
      groups: the group of each speaker.
      column: what groups are called.
      order: of the groups that have one; others follow by name, OTHER is last.
      least: speakers that a row has to have.

    Returns:
      Cells by column: the group, `speakers`, and `<system> median, mean, q1, q3, pooled`.

    """
    names = sorted({name for counts in systems.values() for name in counts})
    merged = merge_small_groups({name: groups.get(name, "") for name in names}, least)
    ranks = {group: rank for rank, group in enumerate(order)}
    ordered = sorted(
        set(merged.values()), key=lambda group: (group == OTHER, ranks.get(group, len(ranks)), group)
    )
    rows = []
    for group in ordered:
        members = [name for name in names if merged[name] == group]
        row: dict[str, object] = {column: group, "speakers": len(members)}
        for system, counts in systems.items():
            found = summarize({name: counts[name] for name in members if name in counts})
            row |= summary_cells(system, found, least)
        if len(members) >= least:
            rows.append(row)
    return rows


def summary_cells(system: str, found: Summary | None, least: int = LEAST) -> dict[str, object]:
    """Cells of one recogniser in a row, empty where its speakers are too few."""
    names = {
        "median": "median",
        "mean": "mean",
        "q1": "first_quartile",
        "q3": "third_quartile",
        "pooled": "pooled",
    }
    enough = found is not None and found.speakers >= least
    return {f"{system} {short}": getattr(found, name) if enough else None for short, name in names.items()}
