"""Readers of published speech corpora: each layout on disk becomes rows of one manifest."""
