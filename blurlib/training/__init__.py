"""Training: a generator, a folder per run."""
