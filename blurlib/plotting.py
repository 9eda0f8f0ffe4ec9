"""Figures; the only file that imports matplotlib."""

from __future__ import annotations

import io
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


class OffsetMap(NamedTuple):
    """A map over the offsets of a key from its query, (2r + 1, 2r + 1), and what stands above."""

    title: str
    values: Tensor


def offset_maps(rows: Mapping[str, Sequence[OffsetMap]], reach: int, shared: bool = True) -> Figure:
    """Maps over offsets, a named row of them above the other; the cross marks the query.

    Args:
        reach: largest offset shown.
        shared: one scale of colours for a row; else each map has its own.
    """
    columns = max(map(len, rows.values()))
    figure, axes = plt.subplots(
        len(rows), columns, figsize=(1.9 * columns + 0.9, 2.1 * len(rows) + 0.2), dpi=110,
        layout="constrained", squeeze=False,
    )  # fmt: skip
    for axis in axes.ravel():
        axis.axis("off")
    for line, (name, maps) in zip(axes, rows.items(), strict=True):
        low = min(float(m.values.min()) for m in maps)
        high = max(float(m.values.max()) for m in maps)
        for axis, shown in zip(line, maps, strict=False):
            _offset_map(axis, shown, reach, (min(low, 0), high) if shared else (None, None))
        line[0].text(
            -0.16, 0.5, name, transform=line[0].transAxes, rotation=90, va="center", ha="right",
            size=9, color=INK,
        )  # fmt: skip
    return figure


def _offset_map(axis, shown: OffsetMap, reach: int, limits: tuple) -> None:
    r = shown.values.shape[-1] // 2
    axis.imshow(
        shown.values.numpy(), cmap="magma", vmin=limits[0], vmax=limits[1],
        extent=(-r - 0.5, r + 0.5, r + 0.5, -r - 0.5), interpolation="nearest",
    )  # fmt: skip
    axis.plot(0, 0, "+", color="#4fc3f7", ms=6, mew=1.2)
    axis.axis("on")
    axis.set(xlim=(-reach - 0.5, reach + 0.5), ylim=(reach + 0.5, -reach - 0.5))
    axis.set_xticks([-reach, 0, reach])
    axis.set_yticks([-reach, 0, reach])
    axis.tick_params(labelsize=7, length=2)
    axis.set_title(shown.title, size=9, color=INK)


def encoding_profiles(biases: Mapping[str, Tensor], half_widths: Sequence[float]) -> Figure:
    """Biases over the distance |dx| + |dy|, a line each, with a dot at the half-width."""
    figure, axis = plt.subplots(figsize=(7, 3.4), dpi=110, layout="constrained")
    for (label, bias), half, colour in zip(biases.items(), half_widths, COLOURS, strict=False):
        distance = np.linspace(0, len(bias) - 1, len(bias))
        axis.plot(distance, bias.numpy(), color=colour, marker=".", ms=3, lw=1.4, label=label)
        axis.plot(half, float(bias[0]) / 2, "o", color=colour, ms=7, mfc="none", mew=1.6)
    axis.set(xlabel="|dx| + |dy| in latent positions", ylabel="added to the logit", xlim=(0, None))
    _tidy(axis)
    axis.legend(frameon=False, title="circle: half-width", alignment="left")
    return figure


def channel_bits(
    panels: Mapping[str, pd.Series], group: pd.Series, ylabel: str, xlabel: str = "channel"
) -> Figure:
    """A bar per channel in the order given, coloured by group, one panel above the other.

    Args:
        panels: title and values; group: number of the group, from 1, of each label of their index.
    """
    figure, axes = plt.subplots(
        len(panels), 1, figsize=(9, 2.2 * len(panels) + 0.3), dpi=110, layout="constrained",
        sharex=True, sharey=True, squeeze=False,
    )  # fmt: skip
    for axis, (title, values) in zip(axes[:, 0], panels.items(), strict=True):
        at = np.arange(len(values))
        own = group.loc[values.index].to_numpy()
        for number in np.unique(own):
            here = own == number
            colour = COLOURS[(number - 1) % len(COLOURS)]
            axis.bar(at[here], values[here], width=1.0, color=colour, label=f"group {number}")
        axis.set_title(title, size=10, loc="left", color=INK)
        axis.set(ylabel=ylabel, xlim=(-0.5, len(values) - 0.5))
        _tidy(axis)
    axes[0, 0].legend(
        frameon=False, ncols=6, fontsize=8, loc="lower right", bbox_to_anchor=(1, 0.98)
    )
    axes[-1, 0].set_xlabel(xlabel)
    return figure


def cumulative_shares(
    shares: Mapping[str, Sequence[float]], groups: Sequence[int], xlabel: str = "channels"
) -> Figure:
    """Share of a total that the first n channels have; borders of groups are dotted."""
    figure, axis = plt.subplots(figsize=(7, 3.8), dpi=110, layout="constrained")
    for (label, values), colour in zip(shares.items(), COLOURS, strict=False):
        axis.plot(np.arange(len(values) + 1), [0, *values], color=colour, label=label, lw=1.8)
    for end in np.cumsum(groups)[:-1]:
        axis.axvline(end, color=PALE, lw=1, ls=":")
    count = sum(groups)
    axis.plot([0, count], [0, 1], color=PALE, lw=1, label="all channels alike")
    axis.set(xlabel=xlabel, ylabel="share", xlim=(0, count), ylim=(0, 1.02))
    _tidy(axis)
    axis.legend(frameon=False, loc="lower right")
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
