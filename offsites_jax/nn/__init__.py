"""Flax Linen layers that several models share."""
