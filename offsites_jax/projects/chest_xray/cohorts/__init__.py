"""Which cases belong to a data set and to each of its splits, and proof that nothing leaks."""
