"""What a speaker is told about a recording, right after it was made.

The words speak of the recording, never of the speech: how someone talks is no fault. Thresholds are our own.
"""

import dataclasses
from collections.abc import Callable
from typing import Literal, NamedTuple

from offsites_jax.data.audio.quality import Quality

Rating = Literal["good", "usable", "again"]


class Remark(NamedTuple):
    """One thing worth saying.

    Attributes:
      code: for tables.
      text: for the speaker: what it is, and what helps.

    """

    code: str
    text: str


class Verdict(NamedTuple):
    """Whether a recording will do.

    Attributes:
      rating: `good`; `usable`, with something to do better next time; or best recorded `again`.
      remarks: why, the most important first.

    """

    rating: Rating
    remarks: tuple[Remark, ...]


@dataclasses.dataclass(frozen=True)
class _Rule:
    code: str
    rating: Rating
    applies: Callable[[Quality], bool]
    text: str


_RULES = (
    _Rule(
        "empty", "again", lambda q: q.empty,
        "We could not hear any speech. Please check that the right microphone is chosen and switched on.",
    ),
    _Rule(
        "gaps", "again", lambda q: q.dropout_ms >= 30,
        "The sound has gaps. Closing other programs often helps.",
    ),
    _Rule(
        "clipped", "again", lambda q: q.clipping_ratio > 0.005,
        "The recording is too loud and crackles. Please move a little away from the microphone.",
    ),
    _Rule(
        "loud", "usable", lambda q: 0 < q.clipping_ratio <= 0.005,
        "A few moments are too loud. A little more distance from the microphone helps.",
    ),
    _Rule(
        "quiet", "usable", lambda q: q.peak_dbfs < -30 and not q.empty,
        "The recording is very quiet. Moving the microphone closer helps.",
    ),
    _Rule(
        "noisy", "usable", lambda q: q.snr_db is not None and q.snr_db < 12 and not q.empty,
        "There is a lot of noise in the background. A quieter place, or a closer microphone, helps.",
    ),
    _Rule(
        "start", "usable", lambda q: q.starts_cut and not q.empty,
        "The beginning may be missing. It helps to wait for the words Speak now.",
    ),
    _Rule(
        "end", "usable", lambda q: q.ends_cut and not q.empty,
        "The end may be missing. There is no hurry to press Stop.",
    ),
    _Rule(
        "short", "usable", lambda q: q.seconds_per_character is not None and q.seconds_per_character < 0.02,
        "The recording is very short for this phrase. Please listen whether all of it is there.",
    ),
    _Rule(
        "narrow", "usable", lambda q: q.sample_rate < 16000,
        "The microphone gives telephone quality. Another one, or a cable instead of Bluetooth, is better.",
    ),
)  # fmt: skip

REMARKS = {rule.code: rule.text for rule in _RULES}


def judge(quality: Quality) -> Verdict:
    """The verdict on a recording by its measures."""
    found = [rule for rule in _RULES if rule.applies(quality)]
    rating: Rating = "good"
    if found:
        rating = "again" if any(rule.rating == "again" for rule in found) else "usable"
    return Verdict(rating, tuple(Remark(rule.code, rule.text) for rule in found))
