"""Nobody can be told from a table or picture: every count and figure is of six speakers or more.

Groups of five or fewer are merged into OTHER, as the Euphonia team publishes its figures (k-anonymity,
Sweeney 2002), and no difference of two counts tells of fewer either.
"""

from collections import Counter
from collections.abc import Mapping, Sequence

import numpy as np
import scipy.optimize
from jaxtyping import Bool, Float, Int

LEAST = 6  # speakers in a group that is shown
OTHER = "OTHER"


def merge_small_groups(groups: Mapping[str, str], least: int = LEAST) -> dict[str, str]:
    """The group of each speaker, where groups of too few are OTHER.

    Where all of OTHER are too few still, the smallest group that is left joins them: else the total would
    tell. The order of names decides between groups of one size. If all speakers together are too few, they
    are OTHER, which `shown` then hides.

    Args:
      groups: by speaker; "" is unknown and is OTHER.
      least: speakers that a group has to have.

    """
    sizes = Counter(group for group in groups.values() if group and group != OTHER)
    kept = {group for group, size in sizes.items() if size >= least}
    while kept and 0 < len(groups) - sum(sizes[group] for group in kept) < least:
        kept.remove(min(kept, key=lambda group: (sizes[group], group)))
    return {speaker: group if group in kept else OTHER for speaker, group in groups.items()}


def merge_levels(
    levels: Mapping[str, str], order: Sequence[str], least: int = LEAST
) -> tuple[dict[str, str], list[str]]:
    """The level of each speaker on a scale, where levels of too few are joined with one beside them.

    "severe to profound" says more than OTHER. The smallest level goes first, to its smaller neighbour.
    Speakers of unknown level are OTHER; were they too few, the smallest level joins them.

    Args:
      levels: by speaker; "" is unknown.
      order: of the levels.
      least: speakers that a level has to have.

    Returns:
      Levels by speaker, and their names in order.

    """
    sizes = Counter(levels.values())
    spans = [[name] for name in order if sizes[name]]

    def size(span: Sequence[str]) -> int:
        return sum(sizes[name] for name in span)

    while len(spans) > 1 and size(smallest := min(spans, key=size)) < least:
        place = spans.index(smallest)
        beside = min((n for n in (place - 1, place + 1) if 0 <= n < len(spans)), key=lambda n: size(spans[n]))
        first, second = sorted((place, beside))
        spans[first : second + 1] = [spans[first] + spans[second]]
    titles = {name: _title(span) for span in spans for name in span}
    merged = merge_small_groups({speaker: titles.get(level, "") for speaker, level in levels.items()}, least)
    present = set(merged.values())
    return merged, [name for name in (*dict.fromkeys(titles.values()), OTHER) if name in present]


def _title(span: Sequence[str]) -> str:
    return span[0] if len(span) == 1 else f"{span[0]} to {span[-1]}"


def shown_share(count: int, total: int, least: int = LEAST) -> float | None:
    """The share of speakers that something is true of; None where it tells of fewer than `least`.

    Neither those it is true of nor the others may be somebody but too few.
    """
    telling = 0 < count < least or 0 < total - count < least
    return None if telling or total < least else count / total


def shown(count: int, least: int = LEAST) -> int | None:
    """A count of speakers, None where they are too few to be counted."""
    return count if count >= least else None


def hide_small_cells(
    counts: Int[np.ndarray, "rows columns"], least: int = LEAST
) -> Bool[np.ndarray, "rows columns"]:
    """Which cells of a table of counts are hidden, given that its row and column totals are known.

    Every cell of fewer than `least` is. As long as the totals and the cells that are left still tell of one
    that it holds somebody but too few, another cell is hidden too.
    """
    hidden = np.asarray(counts) < least
    while (told := _told(counts, hidden, least)) is not None:
        _hide_one_more(counts, hidden, told)
    return hidden


def _told(counts: np.ndarray, hidden: np.ndarray, least: int) -> tuple[int, int] | None:
    """A hidden cell that can be told to hold fewer than `least`; none where nothing is left to hide."""
    small = np.argwhere(hidden & (counts > 0) & (counts < least)) if not hidden.all() else ()
    return next(((row, column) for row, column in small if _most(counts, hidden, row, column) < least), None)


def _most(counts: np.ndarray, hidden: np.ndarray, row: int, column: int) -> float:
    """The largest count that a hidden cell could hold, for all that is shown: a linear programme."""
    places = np.argwhere(hidden)
    lines = [places[:, 0] == line for line in range(counts.shape[0])]
    lines += [places[:, 1] == line for line in range(counts.shape[1])]
    totals = [counts[hidden][inside].sum() for inside in lines]
    wanted = -np.all(places == (row, column), axis=1).astype(float)
    found = scipy.optimize.linprog(wanted, A_eq=np.array(lines, float), b_eq=totals)
    return float(np.round(-found.fun, 6))


def _hide_one_more(counts: np.ndarray, hidden: np.ndarray, place: tuple[int, int]) -> None:
    """Hides, in place, the cell that joins most cells that are hidden alone in their row or column.

    Then one in the row or column of `place`, then the smallest.
    """
    alone = (hidden.sum(1) == 1)[:, None].astype(int) + (hidden.sum(0) == 1)[None, :]
    beside = np.zeros_like(hidden)
    beside[place[0]], beside[:, place[1]] = True, True
    left = np.flatnonzero(~hidden)
    best = left[np.lexsort((counts.flat[left], ~beside.flat[left], -alone.flat[left]))[0]]
    hidden.flat[best] = True


def group_neighbours(values: Sequence[float], least: int = LEAST) -> list[Int[np.ndarray, "members"]]:
    """Positions in order of value, cut into groups of `least` speakers; the last takes the rest.

    What a picture shows of a group is then true of six people or more (microaggregation, Domingo-Ferrer and
    Mateo-Sanz 2002).
    """
    order = np.argsort(np.asarray(values), kind="stable")
    count = len(order) // least
    if not count:
        return []
    edges = [least * number for number in range(count)]
    return np.split(order, edges[1:])


def within_range(values: Float[np.ndarray, "speakers"]) -> tuple[float, float, float, float, float] | None:
    """The 10th, 25th, 50th, 75th and 90th percentile; None for too few. Extremes would be single people."""
    if len(values) < LEAST:
        return None
    low, first, middle, third, high = np.percentile(values, (10, 25, 50, 75, 90))
    return float(low), float(first), float(middle), float(third), float(high)
