"""One folder per system; the trainer finds them by name."""
