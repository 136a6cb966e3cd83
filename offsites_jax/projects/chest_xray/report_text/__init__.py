"""Radiology reports to labels, by phrases, negation and doubt."""
