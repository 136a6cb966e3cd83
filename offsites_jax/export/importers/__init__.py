"""Readers of published weight files, and the tables that say which tensor there is which leaf here."""
