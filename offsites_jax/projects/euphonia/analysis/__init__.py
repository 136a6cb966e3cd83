"""Who is served how well: error rates by speaker and group, effects, human listeners, one report."""
