"""Measuring codecs: real baselines, one results file per codec and set, BD-rate."""
