"""How tables and their cells are written."""

import re

import numpy as np

RAISED = str.maketrans("-0123456789", "⁻⁰¹²³⁴⁵⁶⁷⁸⁹")


def markdown(head: list[str], rows: list[list[str]]) -> str:
    """A table; nothing where it would have no rows. A spread and a unit stay on the line of their
    number."""
    lines = [head, ["---"] * len(head), *rows] if rows else []
    text = "".join("| " + " | ".join(line) + " |\n" for line in lines)
    return re.sub(
        r"(?<=\d)( ± [\d.]+)?( %| dB)?", lambda m: m[0].replace(" ", "\N{NO-BREAK SPACE}"), text
    )


def minus(text: str) -> str:
    """With the sign of mathematics before negative numbers."""
    return re.sub(r"(?<![\w.–-])-(?=\d)", "\N{MINUS SIGN}", text)


def percent(value: float) -> str:
    return "n/a" if np.isnan(value) else f"{value:+.1f} %"


def power(value: float) -> str:
    """A number in two digits, times a power of ten."""
    digits, exponent = f"{value:.1e}".split("e")
    return f"{digits} · 10{str(int(exponent)).translate(RAISED)}"
