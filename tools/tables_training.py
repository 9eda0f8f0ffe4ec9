"""What the training of the codecs that ship took and would still give, and what they learned."""

from pathlib import Path

import numpy as np
import pandas as pd

from blurlib import plotting
from blurlib.codec import zoo
from blurlib.evaluation import learning
from tables_markdown import markdown, percent


def runs(root: Path) -> dict[str, pd.DataFrame]:
    """The logs of the codecs that ship, in short, by name."""
    files = sorted((root / "results/training").glob("*.csv"))
    logs = {path.stem: pd.read_csv(path) for path in files}
    return {name: log for name, log in logs.items() if "distortion" in log}


def trained(root: Path) -> str:
    """What the training of each codec took, and what its loss would be after ten times as much."""
    rows = []
    for name, log in runs(root).items():
        found = learning.forecast(log)
        rows.append(
            [name, f"{log['step'].iloc[-1]:,}", f"{log['seconds'].iloc[-1] / 3600:.1f}",
             f"{found.now:.3f}", f"{log['loss'].tail(5).mean():.3f}",
             f"{found.floor:.2f} + {found.scale:.2f} n^-{found.exponent:.2f}",
             percent(100 * (found.tenfold / found.now - 1)), percent(100 * found.missed)]
        )  # fmt: skip
    head = ["weights", "steps", "hours", "loss at the peak rate", "loss at the end", "law",
            "after ten times the steps", "law of the first half"]  # fmt: skip
    return markdown(head, rows)


def panels(root: Path) -> list[plotting.Lines]:
    """Loss over steps, and the law that it follows up to ten times as many."""
    drawn = []
    for name, log in runs(root).items():
        law, step = learning.forecast(log), log["step"].to_numpy()
        more = step[-1] * np.geomspace(1, 10, 20)[1:]
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
