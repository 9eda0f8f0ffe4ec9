"""How tables and their cells are written."""

import numpy as np


def markdown(head: list[str], rows: list[list[str]]) -> str:
    """A table; nothing where it would have no rows."""
    lines = [head, ["---"] * len(head), *rows] if rows else []
    return "".join("| " + " | ".join(line) + " |\n" for line in lines)


def percent(value: float) -> str:
    return "n/a" if np.isnan(value) else f"{value:+.1f} %"
