"""Ablations: the same training for variants of one part, measured with real bytes."""
