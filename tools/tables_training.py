"""What the training of the codecs took, and what they learned."""

from collections.abc import Mapping
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from matplotlib.figure import Figure

from blurlib import plotting
from blurlib.codec import zoo
from experiments import published, report
from tables_markdown import markdown


def runs(root: Path) -> dict[str, pd.DataFrame]:
    """Logs of the codecs that ship."""
    files = sorted((root / "results/training").glob("*.csv"))
    logs = {path.stem: pd.read_csv(path) for path in files}
    return {name: log for name, log in logs.items() if "distortion" in log}


def trained(root: Path, runs: Mapping[str, pd.DataFrame]) -> str:
    """What the training of each codec took, and what it came to: loss on held-out photos, and
    BD-rates on Kodak over the published points of VTM, overall and by rate."""
    anchors = published.read(root / "results/published")
    codecs = {codec.label: codec for codec in report.measured("kodak", root / "results")}
    rows = []
    for name, log in runs.items():
        codec = codecs[f"{name}, direct"]
        column = {"ms-ssim": "ms_ssim_db", "mse": "psnr"}[codec.training]
        vtm, ours = anchors.curve(report.ANCHOR, column), codec.curve(column)
        spans = [report.bd(vtm, ours, rates) for rates in (None, (0.1, 0.3), (0.3, 0.8))]
        rows.append(
            [name, f"{log['step'].iloc[-1]:,}", f"{log['seconds'].iloc[-1] / 3600:.1f}",
             f"{log['held_out'].dropna().iloc[-1]:.3f}" if "held_out" in log else "–",
             "PSNR" if column == "psnr" else "MS-SSIM", *(f"{span}" for span in spans)]
        )  # fmt: skip
    head = ["weights", "steps", "hours", "held-out loss", "BD-rate in", "over VTM-9.1",
            "0.1–0.3 bpp", "0.3–0.8 bpp"]  # fmt: skip
    return markdown(head, rows) + (
        "\nHours by the clock, on a machine that did other work too; a run was paused at times.\n"
    )


def perceptual(root: Path) -> str:
    """LPIPS on Kodak at two rates: the codec in training/ that is trained with it, and others."""
    own = [c for c in report.measured("kodak", root / "training") if c.training == "mse+lpips"]
    rows = []
    for codec in (*own, *report.measured("kodak", root / "results")):
        at = [report.at_rate(codec.table, "lpips", rate) for rate in (0.15, 0.3)]
        rows.append([codec.label, *("–" if np.isnan(value) else f"{value:.3f}" for value in at)])
    return markdown(["codec", "LPIPS at 0.15 bpp", "at 0.3 bpp"], rows)


@plotting.styled
def draw(runs: Mapping[str, pd.DataFrame]) -> Figure:
    """Loss over steps."""
    figure, axis = plt.subplots(figsize=(5.5, 3.8))
    for name, log in runs.items():
        axis.plot(log["step"], log["loss"], lw=1.2, label=name)
    axis.set(xlabel="steps", ylabel="loss", ylim=(0.9, 2))
    axis.legend()
    return figure


def laplacian(model: str) -> str:
    """A_j, σ_j and half-width that each channel group of a model has learned."""
    rows = []
    for j, group in enumerate(zoo.load(model).entropy.groups):
        position = group.global_.position
        values = (position.amplitude, position.sigma, position.half_width)
        rows.append([f"{j + 1}", *(f"{value.item():.2f}" for value in values)])
    return markdown(["group", "$A_j$", "$\\sigma_j$", "half-width (latent positions)"], rows)
