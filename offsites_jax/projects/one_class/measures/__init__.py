"""Figures: of scores, of heat maps, and of how features lie on the sphere and in a plane."""
