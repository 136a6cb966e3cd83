"""One reader for each published layout of one-class data."""
