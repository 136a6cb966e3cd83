"""Which checkpoint of a run, as people say it."""

from typing import Literal

from offsites_jax.errors import UserError

Step = int | Literal["latest", "best"]
"""A step, or which: ``best`` is by the metric that the run keeps its best checkpoint by."""


def step_of(text: str) -> Step:
    """A step number, or "latest" or "best".

    Raises:
      UserError: the text is neither.
    """
    if text == "latest":
        return "latest"
    if text == "best":
        return "best"
    if not text.isdigit():
        raise UserError(f"--step: {text!r} is neither a number nor latest nor best")
    return int(text)
