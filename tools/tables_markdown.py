"""How tables and their cells are written."""

import re

import numpy as np


def markdown(head: list[str], rows: list[list[str]]) -> str:
    """A table; nothing where it would have no rows. A spread stays on the line of its mean."""
    lines = [head, ["---"] * len(head), *rows] if rows else []
    text = "".join("| " + " | ".join(line) + " |\n" for line in lines)
    return re.sub(r" ± ([\d.]+)( %)?", lambda m: m[0].replace(" ", "\N{NO-BREAK SPACE}"), text)


def percent(value: float) -> str:
    return "n/a" if np.isnan(value) else f"{value:+.1f} %"
