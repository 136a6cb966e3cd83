"""What the commands of this project share."""

from typing import Any, Literal

from etils import epath

from offsites_jax.errors import UserError

ScorerChoice = Literal["gde", "kde", "knn", "ocsvm", "ocsvm_linear", "gmm", "logit", "dscore"]
LayerChoice = Literal[
    "pooled", "embeds", "logits",
    "reduction_0", "reduction_1", "reduction_2", "reduction_3", "reduction_4", "reduction_5",
]  # fmt: skip
"""What a scorer reads; `reduction_k` is the mean of the stage whose map has a 2^k-th of the image's side."""


def start(cpu_devices: int = 0, cache: epath.PathLike | None = None) -> None:
    """Prepares JAX."""
    from offsites_jax.parallel.start import start as prepare

    prepare(cpu_devices, cache=cache)


def step_of(text: str) -> Any:
    """A step number, or "latest" or "best"."""
    if text in ("latest", "best"):
        return text
    if not text.isdigit():
        raise UserError(f"--step: {text!r} is neither a number nor latest nor best")
    return int(text)


def print_figures(figures: dict[str, Any]) -> None:
    """A line a figure."""
    for name, value in figures.items():
        print(f"{name:<24} {value:.6g}" if isinstance(value, float) else f"{name:<24} {value}")
