"""A scored test set as a report: figures, tables, pictures and a page."""
