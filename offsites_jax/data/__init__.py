"""Sources, transforms and the elastic batch pipeline."""
