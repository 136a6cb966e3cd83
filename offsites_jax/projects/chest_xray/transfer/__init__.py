"""What a trained detector is worth as the start of another task."""
