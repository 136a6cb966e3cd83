"""Scored images as tables, heat maps and pages."""
