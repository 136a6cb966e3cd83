"""Made-up radiographs in real lung outlines."""
