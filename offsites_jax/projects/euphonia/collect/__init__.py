"""Collecting speech: lists of phrases, a page that records them, and the server that keeps the recordings."""
