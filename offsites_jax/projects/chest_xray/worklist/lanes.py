"""A work list from scores: who reads which radiograph, and in which order."""

import dataclasses
import itertools
from collections.abc import Mapping, Sequence

from offsites_jax.errors import UserError
from offsites_jax.projects.chest_xray.accuracy.operating import OperatingPoint
from offsites_jax.projects.chest_xray.tables.scored import Rows, scored_rows

UNSCORED = "unscored"


@dataclasses.dataclass(frozen=True)
class Lane:
    """Where cases with scores from `lowest` up to the next lane's go."""

    name: str
    lowest: float


# Scores from the top: divert complex cases to a specialist, read urgent ones first, batch the low-risk ones.
DEFAULT_LANES = (
    Lane("specialist", 0.9),
    Lane("expedited", 0.5),
    Lane("routine", 0.1),
    Lane("low_risk_batch", 0.0),
)


@dataclasses.dataclass(frozen=True)
class Entry:
    """A row of `worklist.csv`.

    Attributes:
      position: in the queue, from 1.
      lane: that it goes to.
      image: its name.
      patient_id: whose it is, where known.
      score: as text, as it came; blank without one.
      status: of scoring.
      message: why it could not be scored.

    """

    position: int
    lane: str
    image: str
    patient_id: str
    score: str
    status: str
    message: str


def lanes_of(points: Mapping[str, OperatingPoint], specialist: float | None = None) -> tuple[Lane, ...]:
    """Lanes at the thresholds of two operating points.

    Cases from the high-specificity threshold on are expedited, those below the high-sensitivity one batched.

    Args:
      points: `high_sensitivity` and `high_specificity`.
      specialist: lowest score for a specialist; no such lane unless given.

    Raises:
      UserError: thresholds that are not in falling order.

    """
    upper, lower = points["high_specificity"].threshold, points["high_sensitivity"].threshold
    top = (Lane("specialist", specialist),) if specialist is not None else ()
    # Well separated classes may put the sensitive threshold above the specific one: what both claim is
    # expedited, and nothing is routine.
    routine = (Lane("routine", lower),) if lower < upper else ()
    return checked_lanes((*top, Lane("expedited", upper), *routine, Lane("low_risk_batch", float("-inf"))))


def checked_lanes(lanes: Sequence[Lane]) -> tuple[Lane, ...]:
    """Lanes from the highest scores to the lowest.

    Raises:
      UserError: none, a name twice, or lowest scores that do not fall.

    """
    names, lowest = [lane.name for lane in lanes], [lane.lowest for lane in lanes]
    if not lanes or len(set(names)) < len(names) or UNSCORED in names:
        raise UserError(
            f"lanes {', '.join(names) or '(none)'}; give one or more, each with a name of its own"
        )
    if any(low >= high for high, low in itertools.pairwise(lowest)):
        raise UserError(
            "lanes: "
            + ", ".join(f"{lane.name} from {lane.lowest:g}" for lane in lanes)
            + "; list them from the highest scores to the lowest"
        )
    return tuple(lanes)


def prioritize(predictions: Rows, lanes: Sequence[Lane] = DEFAULT_LANES) -> list[Entry]:
    """Every row of the predictions as an entry of the work list: by lane, then by falling score.

    Images that could not be scored may be anything: they come before the last two lanes (of two lanes before
    the last) and are never batched. Cases of equal scores stay in the order they came.

    Args:
      predictions: columns `image`, `score`, and where present `patient_id`, `status` and `message`.
      lanes: from the highest scores to the lowest; the last one takes all that is lower, too.

    Raises:
      UserError: a column that is missing, an image twice, a score that is no number; with the row.

    """
    order = checked_lanes(lanes)
    names = [lane.name for lane in order]
    names.insert(max(min(1, len(names) - 1), len(names) - 2), UNSCORED)
    placed = []
    for row in scored_rows(predictions):
        lane = UNSCORED if row.score is None else _lane(row.score, order)
        placed.append((names.index(lane), -(row.score or 0.0), lane, row))
    placed.sort(key=lambda entry: entry[:2])
    return [
        Entry(position, lane, row.image, row.patient, row.text, row.status, row.message)
        for position, (_, _, lane, row) in enumerate(placed, start=1)
    ]


def _lane(score: float, lanes: Sequence[Lane]) -> str:
    return next((lane.name for lane in lanes if score >= lane.lowest), lanes[-1].name)
