"""A part of a split that stands for all of it."""

from offsites_jax.data.source import RandomAccess, Record, describe


class EvenlySpaced:
    """Records of a source at even distances, so that those of a sorted one are of all kinds.

    Args:
      source: to take from.
      count: how many, at most as many as there are.

    """

    def __init__(self, source: RandomAccess, count: int) -> None:
        self._source, self._count = source, min(count, len(source))

    def __len__(self) -> int:
        """Number of records."""
        return self._count

    def __getitem__(self, index: int) -> Record:
        """A record of the source, as it is."""
        return self._source[self._place(index)]

    def describe(self, index: int) -> str:
        """As the source does."""
        return describe(self._source, self._place(index))

    def fingerprint(self) -> str:
        """That of the source, and how many are taken."""
        return f"{self._count} of {self._source.fingerprint()}"

    def _place(self, index: int) -> int:
        return index * len(self._source) // self._count
