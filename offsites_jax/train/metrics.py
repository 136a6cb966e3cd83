"""What a step reports: means by name, in one array."""

import dataclasses
from collections.abc import Iterator, Mapping

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float32

from offsites_jax.train.contract import Mean


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True, eq=False)
class Metrics(Mapping[str, Mean]):
    """Means by name. However many there are, a step returns one buffer for them, and the log fetches one.

    Attributes:
      pairs: total and weight of each.
      names: of the rows of `pairs`.

    """

    pairs: Float32[Array, "metrics 2"]
    names: tuple[str, ...] = dataclasses.field(metadata={"static": True})

    @classmethod
    def pack(cls, means: Mapping[str, Mean]) -> "Metrics":
        """The same means in one array."""
        pairs = [jnp.stack([mean.total, mean.weight]) for mean in means.values()]
        return cls(jnp.stack(pairs).astype(jnp.float32), tuple(means))

    def __getitem__(self, name: str) -> Mean:
        if name not in self.names:
            raise KeyError(name)
        total, weight = self.pairs[self.names.index(name)]
        return Mean(total, weight)

    def __iter__(self) -> Iterator[str]:
        return iter(self.names)

    def __len__(self) -> int:
        return len(self.names)
