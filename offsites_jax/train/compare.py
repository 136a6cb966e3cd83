"""A run's figures beside the published ones that its experiment names."""

import dataclasses
import math
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from etils import epath

from offsites_jax.errors import UserError
from offsites_jax.train.config import Expected
from offsites_jax.train.schema import nearest, parse
from offsites_jax.train.workdir import read_config
from offsites_jax.train.writers import RESERVED, read_metrics

REPRODUCED = "reproduced"
_HEADER = ("metric", "expected", "found", "at step", "verdict", "source")


@dataclasses.dataclass(frozen=True)
class Comparison:
    """One expected figure and what the run made of it.

    Attributes:
      metric: "<split>/<metric>".
      expected: the published figure.
      tolerance: how far off still counts as reproduced.
      source: where it is published.
      last: the run's last value; None if it was never measured (or, like `closest`, if it is not finite).
      last_step: the step of it.
      closest: the run's value that came closest to the published one.
      closest_step: the step of it.
      reproduced: whether the last value is within the tolerance.
      verdict: that in words: "reproduced", "off by -0.012", ...

    """

    metric: str
    expected: float
    tolerance: float
    source: str
    last: float | None
    last_step: int | None
    closest: float | None
    closest_step: int | None
    reproduced: bool
    verdict: str
