"""Settings: of the papers, of a laptop's photos, and the published figures to compare with."""
