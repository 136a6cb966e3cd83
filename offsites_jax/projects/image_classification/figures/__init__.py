"""Pictures: of an evaluation, of an experiment's stages, of recorded runs, of what a CoAtNet looks at."""
