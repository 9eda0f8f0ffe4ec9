"""The figure of the trade-offs: bits against time, and closeness against squared error."""

import json
from pathlib import Path
from typing import NamedTuple

import matplotlib.pyplot as plt
import pandas as pd
from matplotlib.figure import Figure

from blurlib.plotting import COLOURS, styled
from experiments.entropy import report as entropy_report

SHORT = {"hyperprior": "hyperprior", "even-2": "2 even groups", "even-5": "5 even groups",
         "even-10": "10 even groups", "uneven": "5 uneven groups",
         "uneven-local": "+ local context", "full": "+ transformer"}  # fmt: skip


class Point(NamedTuple):
    """One choice; `kind` gives it its colour."""

    name: str
    kind: str
    x: float
    y: float


def contexts(root: Path) -> list[Point]:
    """Seconds of a decode, and BD-rate over the hyperprior alone, of the entropy models."""
    found = entropy_report.contributions(entropy_report.read(root / "results/ablation/entropy"))
    rows = found.loc[[name for name in SHORT if name in found.index]].itertuples()
    return [
        Point(
            SHORT[row.Index],
            "even" if row.Index.startswith("even") else "ours",
            round(row.decode_s, 3),
            round(row.over_hyperprior.mean, 2) if row.passes > 1 else 0.0,
        )
        for row in rows
    ]


def sampling(root: Path, quality: float = 3.0) -> list[Point]:
    """Change of PSNR and of LPIPS over the direct picture, by how a denoiser is sampled."""
    content = json.loads((root / "results/checks/sampling-isotropic-small.json").read_text())
    rows, noise = (pd.DataFrame(content[name]) for name in ("rows", "noise"))
    rows, noise = (frame[frame["quality"] == quality] for frame in (rows, noise))
    direct = noise[noise["level"] == 0].iloc[0]
    found = [("grey noise", row) for row in noise[noise["level"] > 0].itertuples()]
    found += [(f"{row.solver}, noise × {row.start_scale:g}", row) for row in rows.itertuples()]
    return [
        Point(
            "",
            kind,
            round(row.psnr - direct.psnr, 3),
            round(100 * (row.lpips / direct.lpips - 1), 2),
        )
        for kind, row in found
    ]


@styled
def draw(contexts: list[Point], sampling: list[Point]) -> Figure:
    """Both, one above the other, so that a telephone shows them."""
    figure, (upper, lower) = plt.subplots(2, 1, figsize=(6, 7.4))
    for axis, points in ((upper, contexts), (lower, sampling)):
        kinds = list(dict.fromkeys(point.kind for point in points))
        for point in points:
            colour = COLOURS[kinds.index(point.kind)]
            axis.plot(point.x, point.y, "o", color=colour)
            axis.annotate(f"  {point.name}", (point.x, point.y), va="center", color=colour)
    for i, kind in enumerate(dict.fromkeys(point.kind for point in sampling)):
        lower.plot([], [], "o", color=COLOURS[i], label=kind)
    lower.axhline(0, color="#999999", lw=0.8)
    lower.axvline(0, color="#999999", lw=0.8)
    lower.legend()
    upper.set(xlabel="decode of a 768×512 photo (s)", ylabel="BD-rate over the hyperprior (%)")
    upper.margins(x=0.35)
    lower.set(
        xlabel="PSNR over the direct picture (dB)", ylabel="LPIPS over the direct picture (%)"
    )
    return figure
