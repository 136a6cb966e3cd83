"""How much somebody has to record: error rates after training on more and more of it.

As Tobin and Tomanek (2022) do, success is the share of speakers who reach a target error rate.
"""

import os
from collections.abc import Iterable, Mapping
from typing import NamedTuple

import numpy as np

from offsites_jax.projects.euphonia.analysis.anonymity import LEAST, shown_share
from offsites_jax.projects.euphonia.corpora.delimited import Row, read_csv

SIZES = (10, 25, 50, 100, 250)
TARGET = 0.15
ALL = "all"


class SizeResult(NamedTuple):
    """One personal recogniser.

    Attributes:
      speaker: whose.
      utterances: it was trained on; None for all there are.
      wer: its word error rate on the test.

    """

    speaker: str
    utterances: int | None
    wer: float


def read_sizes(path: str | os.PathLike[str]) -> list[SizeResult]:
    """A table with columns `speaker, utterances` (a number or "all") and `wer`.

    Raises:
      UserError: no such file or column, a value that is none, or two rows of a speaker and size.

    """
    found: dict[tuple[str, int | None], SizeResult] = {}
    for row in read_csv(path, ("speaker", "utterances", "wer")):
        text = row.cells["utterances"]
        if text != ALL and not text.isdecimal():
            raise row.wrong("utterances", f"{text!r} is neither a number nor {ALL!r}")
        one = SizeResult(row.cells["speaker"], None if text == ALL else int(text), _rate(row))
        if one[:2] in found:
            raise row.wrong("utterances", "this speaker has an earlier row of that size; keep one")
        found[one[:2]] = one
    return list(found.values())


def data_size_table(
    results: Iterable[SizeResult],
    base: Mapping[str, float] | None = None,
    target: float = TARGET,
    least: int = LEAST,
) -> list[dict[str, object]]:
    """A row for each size that enough speakers have, from few utterances to all.

    Args:
      results: of all speakers and sizes.
      base: word error rates by speaker before training, for the relative improvement.
      target: word error rate that is a success, at most.
      least: speakers that a row has to have.

    Returns:
      Cells `utterances, speakers, median WER, q1, q3, success, relative improvement`; a success that would
      tell of fewer than six speakers, or all but fewer than six, is None.

    """
    by_size: dict[int | None, dict[str, float]] = {}
    for one in results:
        by_size.setdefault(one.utterances, {})[one.speaker] = one.wer
    sizes = sorted(by_size, key=lambda size: float("inf") if size is None else size)
    return [
        _row(size, by_size[size], base or {}, target, least) for size in sizes if len(by_size[size]) >= least
    ]


def _row(
    size: int | None, rates: Mapping[str, float], base: Mapping[str, float], target: float, least: int
) -> dict[str, object]:
    values = np.array(list(rates.values()))
    gains = [1 - rate / base[name] for name, rate in rates.items() if base.get(name, 0.0) > 0]
    first, third = np.percentile(values, (25, 75))
    return {
        "utterances": ALL if size is None else size,
        "speakers": len(values),
        "median WER": float(np.median(values)),
        "q1": float(first),
        "q3": float(third),
        "success": shown_share(int(np.sum(values <= target + 1e-9)), len(values), least),
        "relative improvement": float(np.median(gains)) if len(gains) >= least else None,
    }


def _rate(row: Row) -> float:
    try:
        value = float(row.cells["wer"])
    except ValueError:
        value = -1.0
    if not 0 <= value < float("inf"):
        raise row.wrong("wer", f"{row.cells['wer']!r} is no error rate; give 0.15 for 15 %")
    return value
