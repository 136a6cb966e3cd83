"""A whole table of trainings as one: every class with every seed, side by side in one state."""
