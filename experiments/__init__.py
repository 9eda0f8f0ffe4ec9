"""Research questions about the codec: one module or folder each, run from a checkout with
`python -m experiments.NAME`, answered by files in `results/`.
"""
