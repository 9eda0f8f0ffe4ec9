"""Figures; the only file that imports matplotlib."""

from __future__ import annotations

import io
import itertools
from collections.abc import Mapping, Sequence
from typing import NamedTuple

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from matplotlib.figure import Figure
from matplotlib.ticker import NullFormatter
from torch import Tensor

from blurlib.entropy import Latent
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
    """Where the bits of one photo go: a bar per group, anchors and non-anchors stacked."""
    kilobytes = np.array([coded.bits.item() for coded in latent.passes]) / 8e3
    anchors, rest = kilobytes[0::2], kilobytes[1::2]
    z = latent.bits_z.item() / 8e3
    labels = ["hyper", *(f"group {j + 1}\n{size} ch." for j, size in enumerate(groups))]
    figure, axis = plt.subplots(figsize=(7, 3.2), dpi=110)
    axis.bar(0, z, color=COLOURS[3])
    at = np.arange(1, len(groups) + 1)
    axis.bar(at, anchors, color=COLOURS[0], label="anchors")
    axis.bar(at, rest, bottom=anchors, color=COLOURS[1], label="non-anchors")
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


def training_runs(runs: Mapping[str, Sequence[Step]], window: int = 10) -> Figure:
    """Rate, distortion and gradient of several codecs' runs over their steps: running means over
    `window` steps, up to the first that was not finite."""
    figure, axes = plt.subplots(1, 3, figsize=(11, 3), dpi=100, layout="constrained")
    for (label, run), colour in zip(runs.items(), COLOURS, strict=False):
        steps = list(itertools.takewhile(lambda s: not s.not_finite, run))
        series = {"bits per pixel": [s.parts["bpp"] for s in steps]}
        series["distortion"] = [s.parts["distortion"] for s in steps]
        series["norm of the gradient"] = [s.gradient for s in steps]
        for axis, (name, values) in zip(axes, series.items(), strict=True):
            means = pd.Series(values).rolling(window, min_periods=1).mean()
            axis.plot([s.step for s in steps], means, color=colour, lw=1.6, label=label)
            axis.set(title=name, xlabel="step", yscale="log")
            _tidy(axis)
    axes[0].set(yscale="linear", ylim=(0, None))
    axes[0].legend(frameon=False)
    return figure


def _finite_mean(values: np.ndarray) -> float:
    finite = values[np.isfinite(values)]
    return finite.mean() if len(finite) else np.nan


def _tidy(axis) -> None:
    axis.spines[["top", "right"]].set_visible(False)
    axis.grid(axis="y", color="#dddddd", lw=0.6)
    axis.set_axisbelow(True)
