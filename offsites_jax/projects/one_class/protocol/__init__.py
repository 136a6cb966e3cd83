"""Published protocols: every class with every seed, and the table of them."""
