"""One JAX trainer, eleven systems. Names load on first use, so importing the package is instant."""
