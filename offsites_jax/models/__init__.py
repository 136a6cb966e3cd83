"""Backbones that several projects share, created by name."""
