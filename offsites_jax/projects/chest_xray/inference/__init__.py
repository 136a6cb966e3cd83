"""Trained detectors on files: scores, what they look at, and what goes along with an export."""
