"""Checkpoints out of the framework and back."""
