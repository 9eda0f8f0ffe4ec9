"""What the training of the codecs that ship took and would still give, and what they learned."""

from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pandas as pd

from blurlib import plotting
from blurlib.codec import zoo
from blurlib.evaluation import learning, published, report
from tables_markdown import markdown, percent


class Run(NamedTuple):
    """A codec's log, in short, and the law that its loss follows."""

    name: str
    log: pd.DataFrame
    law: learning.Forecast


def runs(root: Path) -> list[Run]:
    """Of the codecs that ship."""
    files = sorted((root / "results/training").glob("*.csv"))
    logs = {path.stem: pd.read_csv(path) for path in files}
    return [
        Run(name, log, learning.forecast(log)) for name, log in logs.items() if "distortion" in log
    ]


def trained(runs: Sequence[Run]) -> str:
    """What the training of each codec took, and what its loss would be after ten times as much."""
    rows = [
        [name, f"{log['step'].iloc[-1]:,}", f"{log['seconds'].iloc[-1] / 3600:.1f}",
         f"{law.now:.3f}", f"{log['loss'].tail(5).mean():.3f}",
         f"{law.floor:.2f} + {law.scale:.2f} n^-{law.exponent:.2f}",
         "–" if law.bounded else percent(100 * (law.tenfold / law.now - 1)),
         percent(100 * law.missed)]
        for name, log, law in runs
    ]  # fmt: skip
    head = ["weights", "steps", "hours", "loss at the peak rate", "loss at the end", "law",
            "after ten times the steps", "law of the first half"]  # fmt: skip
    return markdown(head, rows)


def unfinished(root: Path) -> str:
    """What the codecs in training/ have come to: loss on held-out photos, and BD-rates on Kodak
    over the published points of VTM, overall and by rate."""
    anchors = published.read(root / "results/published")
    rows = []
    for codec in report.measured("kodak", root / "training"):
        name = codec.label.removesuffix(", direct")
        log = pd.read_csv(root / "training" / f"{name}.csv")
        pace = (log["seconds"].diff() / log["step"].diff()).median()  # runs are paused at times
        steps = log["step"].iloc[-1]
        column = {"ms-ssim": "ms_ssim_db", "mse": "psnr"}[codec.training]
        vtm, ours = anchors.curve(report.ANCHOR, column), codec.curve(column)
        spans = [report.bd(vtm, ours, rates) for rates in (None, (0.1, 0.3), (0.3, 0.8))]
        rows.append(
            [name, f"{steps:,}", f"{pace * steps / 3600:.1f}",
             f"{log['held_out'].dropna().iloc[-1]:.3f}", "PSNR" if column == "psnr" else "MS-SSIM",
             *(f"{span}" for span in spans)]
        )  # fmt: skip
    head = ["weights", "steps", "hours", "held-out loss", "BD-rate in", "over VTM-9.1",
            "0.1–0.3 bpp", "0.3–0.8 bpp"]  # fmt: skip
    return markdown(head, rows)


def panels(runs: Sequence[Run]) -> list[plotting.Lines]:
    """Loss over steps, and the law that it follows: up to ten times as many, if it says anything
    of them."""
    drawn = []
    for name, log, law in runs:
        step = log["step"].to_numpy()
        more = step[-1] * np.geomspace(1, 1 if law.bounded else 10, 20)[1:]
        fitted = [law.at(n) if n > learning.WARM * step[-1] else np.nan for n in (*step, *more)]
        curves = {"loss": [*log["loss"], *[np.nan] * len(more)], "power law": fitted}
        drawn.append(
            plotting.Lines([*step.tolist(), *more.tolist()], curves, "steps", "loss", name, "log")
        )
    return drawn


def laplacian(model: str) -> str:
    """A_j, σ_j and half-width that each channel group of a model has learned."""
    rows = []
    for j, group in enumerate(zoo.load(model).entropy.groups):
        position = group.global_.position
        values = (position.amplitude, position.sigma, position.half_width)
        rows.append([f"{j + 1}", *(f"{value.item():.2f}" for value in values)])
    return markdown(["group", "A_j", "σ_j", "half-width (latent positions)"], rows)
