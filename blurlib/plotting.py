"""Figures; the only file that imports matplotlib."""

from __future__ import annotations

import io
from collections.abc import Mapping, Sequence
from typing import NamedTuple

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import torch
from matplotlib.figure import Figure
from matplotlib.ticker import NullFormatter
from scipy.stats import norm
from torch import Tensor

from blurlib.codec.inspection import Span
from blurlib.entropy import Latent
from blurlib.entropy.coder import bin_mass, coded_bits
from blurlib.evaluation.bd_rate import BdRate
from blurlib.training.run import Step

INK = "#222222"
PALE, PALE_INK = "#b5b5b5", "#777777"
COLOURS = ("#1b6ca8", "#d1495b", "#3a7d44", "#e0a100", "#6a4c93", "#8d6e63", "#2a9d8f", "#e76f51")


def to_svg(figure: Figure, description: str) -> str:
    """The figure as SVG with a description inside; the same text for the same figure. Closes it."""
    file = io.StringIO()
    with plt.rc_context({"svg.hashsalt": "blurlib"}):
        figure.savefig(
            file, format="svg", metadata={"Date": None, "Creator": None, "Description": description}
        )
    plt.close(figure)
    return file.getvalue()


class Panel(NamedTuple):
    """One picture of a comparison: uint8 (3, H, W) and the two lines above it."""

    title: str
    caption: str
    image: Tensor


def comparison(panels: Sequence[Panel], columns: int = 3) -> Figure:
    """Pictures of equal size side by side, each pixel drawn as at least one dot."""
    rows = -(-len(panels) // columns)
    height, width = panels[0].image.shape[1:]
    cell = 4.2
    figure, axes = plt.subplots(
        rows, columns, figsize=(cell * columns, (cell * height / width + 0.62) * rows), dpi=120
    )
    for axis in np.ravel(axes):
        axis.axis("off")
    for axis, panel in zip(np.ravel(axes), panels, strict=False):
        axis.imshow(panel.image.permute(1, 2, 0).numpy(), interpolation="nearest")
        axis.text(0, 1.065, panel.title, transform=axis.transAxes, weight="bold", color=INK)
        axis.text(0, 1.015, panel.caption, transform=axis.transAxes, size=9, color=INK)
    figure.subplots_adjust(left=0.01, right=0.99, bottom=0.01, top=0.93, wspace=0.04, hspace=0.18)
    return figure


def bits_per_pass(latent: Latent, groups: Sequence[int]) -> Figure:
    """Where the bits of one photo go: a bar per group, anchors and non-anchors stacked if it has
    both."""
    bars: dict[int, list[float]] = {}  # first channel of a group -> kB of its passes
    for coded in latent.passes:
        bars.setdefault(coded.here.channels.start, []).append(coded.bits.item() / 8e3)
    labels = ["hyper", *(f"group {j + 1}\n{size} ch." for j, size in enumerate(groups))]
    figure, axis = plt.subplots(figsize=(7, 3.2), dpi=110)
    axis.bar(0, latent.bits_z.item() / 8e3, color=COLOURS[3])
    stacked = np.array(list(bars.values())).T  # (passes of a group, groups)
    names = ("anchors", "non-anchors") if len(stacked) == 2 else ("all positions",)
    bottom = np.zeros(len(groups))
    for kilobytes, name, colour in zip(stacked, names, COLOURS, strict=False):
        axis.bar(np.arange(1, len(groups) + 1), kilobytes, bottom=bottom, color=colour, label=name)
        bottom = bottom + kilobytes
    axis.set_xticks(range(len(labels)), labels)
    axis.set_ylabel("kB")
    _tidy(axis)
    axis.legend(frameon=False)
    return figure


def bits_per_position(photo: Tensor, bits: Tensor) -> Figure:
    """A photo, uint8 (3, H, W), beside a map of the bits each latent position takes, (h, w)."""
    figure, (left, right) = plt.subplots(1, 2, figsize=(10, 3.6), dpi=110, layout="constrained")
    height, width = photo.shape[1:]
    left.imshow(photo.permute(1, 2, 0).numpy())
    edge = (-0.5, bits.shape[1] * 16 - 0.5, bits.shape[0] * 16 - 0.5, -0.5)
    shown = right.imshow(bits.numpy(), cmap="magma", extent=edge, interpolation="nearest")
    right.set(xlim=(-0.5, width - 0.5), ylim=(height - 0.5, -0.5))
    for axis in (left, right):
        axis.axis("off")
    figure.colorbar(shown, ax=right, label="bits per 16×16 pixels", shrink=0.9)
    return figure


def narrowing(probabilities: Mapping[str, float], message: str) -> Figure:
    """Range coding: every row is the interval chosen in the row above, stretched to full width."""
    edges = np.cumsum([0.0, *probabilities.values()])
    colour = dict(zip(probabilities, COLOURS, strict=False))
    place = {name: i for i, name in enumerate(probabilities)}
    figure, axis = plt.subplots(figsize=(8, 0.48 * len(message)), dpi=110, layout="constrained")
    for row, chosen in enumerate(message):
        for name, i in place.items():
            left, width = edges[i], edges[i + 1] - edges[i]
            axis.barh(
                -row, width, 0.5, left, color=colour[name], alpha=0.9 if name == chosen else 0.25
            )
            axis.text(left + width / 2, -row, name, ha="center", va="center", color=INK)
        if row + 1 < len(message):
            low, high = edges[place[chosen]], edges[place[chosen] + 1]
            corners = ([low, 0], [high, 1])
            for x in corners:
                axis.plot(x, [-row - 0.25, -row - 0.75], color=PALE, lw=0.8)
    axis.set_yticks([-row for row in range(len(message))], range(1, len(message) + 1))
    axis.set(ylabel="symbol", xlim=(-0.005, 1.005), xticks=[])
    axis.spines[:].set_visible(False)
    axis.tick_params(left=False)
    return figure


def gaussian_tables(sigmas: Sequence[float], reach: int = 4) -> Figure:
    """What the range coder is told of integers r under N(0, σ): the mass of [r − ½, r + ½]."""
    figure, axes = plt.subplots(
        -(-len(sigmas) // 2), 2, figsize=(8, 2.3 * -(-len(sigmas) // 2)), dpi=110,
        sharex=True, sharey=True, layout="constrained",
    )  # fmt: skip
    r = torch.arange(-reach, reach + 1, dtype=torch.float64)
    x = np.linspace(-reach - 0.5, reach + 0.5, 1001)
    for axis, sigma in zip(np.ravel(axes), sigmas, strict=True):
        scale = torch.tensor(sigma, dtype=torch.float64)
        mass, bits = bin_mass(r, scale).numpy(), coded_bits(r, scale).numpy()
        axis.bar(r, mass, 0.96, color=COLOURS[0], alpha=0.6)
        normal = norm(scale=sigma)
        axis.plot(x, normal.pdf(x), color=COLOURS[1], lw=1.2)
        for at, height, cost in zip(r.numpy(), mass, bits, strict=True):
            top = min(max(height, normal.pdf(at)), 1.0)
            axis.text(at, top + 0.04, f"{cost:.1f}", ha="center", size=8, color=INK)
        axis.set(title=f"σ = {sigma:.3g}", ylim=(0, 1.2), xticks=r)
        _tidy(axis)
    figure.supxlabel("residual r", size=10)
    figure.supylabel("probability", size=10)
    return figure


def timeline(spans: Sequence[Span]) -> Figure:
    """A decode pass by pass: what its networks take, then what the range coder takes."""
    figure, axis = plt.subplots(figsize=(8, 0.3 * len(spans) + 0.9), dpi=110, layout="constrained")
    rows = -np.arange(len(spans))
    start, ready, end = 1e3 * np.array([[s.start, s.ready, s.end] for s in spans]).T
    axis.barh(rows[1:], (ready - start)[1:], left=start[1:], color=COLOURS[0], label="networks")
    axis.barh(rows[1:], (end - ready)[1:], left=ready[1:], color=COLOURS[1], label="range coder")
    axis.barh(rows[0], end[0], color=COLOURS[3], label="hyper-latent and h_s")
    axis.set_yticks(rows, [span.name for span in spans])
    axis.set(xlabel="milliseconds", xlim=(0, None))
    _tidy(axis)
    axis.grid(axis="y", visible=False)
    axis.grid(axis="x", color="#dddddd", lw=0.6)
    axis.legend(frameon=False)
    return figure


def failures(rows: pd.DataFrame) -> Figure:
    """Share of decodes that fail, over the strength of the noise, beside what the bound expects.

    Where none failed, a triangle stands at one in all decodes.

    Args:
        rows: of `benchmarks/portability.py`, with precision, ulps, decodes, failures, expected.
    """
    figure, axis = plt.subplots(figsize=(7, 3.6), dpi=110, layout="constrained")
    for (precision, own), colour in zip(rows.groupby("precision"), COLOURS, strict=False):
        # float32 has 29 bits less: its last place is worth 2^29 of float64's.
        strength = np.log2(own["ulps"].to_numpy(float)) + (29 if precision == "float32" else 0)
        expected, seen = own["expected"] / own["decodes"], own["failures"] / own["decodes"]
        least = 1 / own["decodes"]
        axis.plot(
            strength, expected, "_:", lw=1, ms=16, mew=2, color=colour, label=f"{precision}, bound"
        )
        axis.plot(
            strength[seen > 0], seen[seen > 0], "o", color=colour, label=f"{precision}, measured"
        )
        none = (seen == 0).to_numpy()
        axis.plot(
            strength[none], least[none], "v", mfc="none", color=colour,
            label=f"{precision}, none seen" if none.any() else None,
        )  # fmt: skip
    axis.set_yscale("log")
    axis.set(xlabel="noise: log₂ of units in float64's last place", ylabel="share that fails")
    _tidy(axis)
    axis.legend(frameon=False, fontsize=8.5)
    return figure


class Curve(NamedTuple):
    """One rate–distortion curve. `ours` is drawn strongest, `published` in a lighter hand."""

    label: str
    bpp: Sequence[float]
    quality: Sequence[float]
    published: bool = False
    ours: bool = False


def rate_distortion(
    curves: Sequence[Curve], ylabel: str, bpp: tuple[float, float] = (0.05, 1.0)
) -> Figure:
    """Quality over bits per pixel, inside an interval of rates.

    Measured curves have a dot at every measured point; published ones are dashed and grey, and
    named where they end.
    """
    figure, axis = plt.subplots(figsize=(8, 5), dpi=110, layout="constrained")
    colours = iter(COLOURS * 4)
    shown: list[float] = []
    for curve in curves:
        rate, quality = _inside(curve, bpp)
        if not len(rate):
            continue
        shown += [quality.min(), quality.max()]
        order = np.argsort(curve.bpp)
        points = np.asarray(curve.bpp)[order], np.asarray(curve.quality)[order]
        if curve.published:
            axis.plot(*points, color=PALE, lw=1, ls="--", zorder=1)
            axis.annotate(
                curve.label, (rate[-1], quality[-1]), xytext=(3, 0), textcoords="offset points",
                va="center", size=7.5, color=PALE_INK, annotation_clip=False,
            )  # fmt: skip
            continue
        weight = {"lw": 2.6, "zorder": 3} if curve.ours else {"lw": 1.3, "zorder": 2}
        axis.plot(*points, color=next(colours), marker=".", label=curve.label, **weight)
    margin = 0.05 * (max(shown) - min(shown))
    axis.set(xlabel="bits per pixel", ylabel=ylabel, xlim=bpp)
    axis.set_ylim(min(shown) - margin, max(shown) + margin)
    _tidy(axis)
    axis.legend(frameon=False, loc="best", fontsize=9, title="measured here", alignment="left")
    return figure


def _inside(curve: Curve, bpp: tuple[float, float]) -> tuple[np.ndarray, np.ndarray]:
    """The curve between two rates, interpolated where it crosses them; empty if it has no part."""
    order = np.argsort(curve.bpp)
    rate, quality = np.asarray(curve.bpp)[order], np.asarray(curve.quality)[order]
    low, high = max(bpp[0], rate[0]), min(bpp[1], rate[-1])
    if low > high:
        return np.empty(0), np.empty(0)
    kept = np.unique([low, *rate[(rate > low) & (rate < high)], high])
    return kept, np.interp(kept, rate, quality)


def bd_integral(result: BdRate, labels: tuple[str, str], xlabel: str) -> Figure:
    """What BD-rate is the mean of: log rate over quality for anchor and test, the area between."""
    figure, axis = plt.subplots(figsize=(8, 4.4), dpi=110, layout="constrained")
    curves = (result.f_anchor, result.f_test)
    for f, label, colour in zip(curves, labels, COLOURS, strict=False):
        axis.semilogy(f.x, 10 ** f(f.x), ".", ms=8, color=colour)
        grid = np.linspace(f.x[0], f.x[-1], 300)
        axis.semilogy(grid, 10 ** f(grid), color=colour, label=label)
    grid = np.linspace(result.low, result.high, 300)
    axis.fill_between(grid, *(10 ** f(grid) for f in curves), color=COLOURS[3], alpha=0.3, lw=0)
    axis.set(xlabel=xlabel, ylabel="bits per pixel")
    ticks = [0.1, 0.2, 0.5, 1, 2]
    axis.set_yticks(ticks, [f"{tick:g}" for tick in ticks], minor=False)
    axis.yaxis.set_minor_formatter(NullFormatter())
    _tidy(axis)
    axis.legend(frameon=False)
    return figure


def few_samples(tables: Mapping[str, pd.DataFrame], ylabel: str) -> Figure:
    """Fréchet distance over the number of patches: mean and spread of `perception.by_count`."""
    figure, axis = plt.subplots(figsize=(7, 3.6), dpi=110, layout="constrained")
    for (label, table), colour in zip(tables.items(), COLOURS, strict=False):
        axis.errorbar(
            table["patches"], table["frechet"], table["frechet_std"],
            color=colour, marker=".", capsize=2, label=label,
        )  # fmt: skip
    axis.set(xlabel="patches", ylabel=ylabel, ylim=(0, None))
    _tidy(axis)
    axis.legend(frameon=False)
    return figure


def training_curves(steps: Sequence[Step]) -> Figure:
    """Loss, its parts, gradient and learning rate over the steps of a run, as means of up to 400
    stretches; what is not finite is left out."""
    series = {"loss": [s.loss for s in steps]}
    series |= {name: [s.parts[name] for s in steps] for name in steps[-1].parts}
    series |= {"gradient": [s.gradient for s in steps], "learning rate": [s.lr for s in steps]}
    figure = Figure(figsize=(9, 1.7 * len(series)), dpi=100, layout="constrained")
    stretches = np.array_split(np.arange(len(steps)), min(400, len(steps)))
    at = [steps[stretch[-1]].step for stretch in stretches]
    axes = figure.subplots(len(series), sharex=True)
    for axis, (name, values) in zip(axes, series.items(), strict=True):
        values = np.array(values)
        means = [_finite_mean(values[stretch]) for stretch in stretches]
        axis.plot(at, means, color=COLOURS[0], lw=1.2)
        axis.set_ylabel(name)
        axis.set_yscale("log" if name == "gradient" else "linear")
        _tidy(axis)
    axes[-1].set_xlabel("step")
    return figure


def _finite_mean(values: np.ndarray) -> float:
    finite = values[np.isfinite(values)]
    return finite.mean() if len(finite) else np.nan


def _tidy(axis) -> None:
    axis.spines[["top", "right"]].set_visible(False)
    axis.grid(axis="y", color="#dddddd", lw=0.6)
    axis.set_axisbelow(True)
