"""What the commands of this project share."""

from typing import Any, Literal

from etils import epath

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


def print_figures(figures: dict[str, Any]) -> None:
    """A line a figure."""
    for name, value in figures.items():
        print(f"{name:<24} {value:.6g}" if isinstance(value, float) else f"{name:<24} {value}")
