"""Figures; the only file that imports matplotlib."""

from __future__ import annotations

import base64
import html
import io
import itertools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import torch
from matplotlib.axis import Axis
from matplotlib.figure import Figure
from matplotlib.ticker import LogLocator, MaxNLocator, NullFormatter, StrMethodFormatter
from scipy.stats import norm
from torch import Tensor

from blurlib import images
from blurlib.codec.inspection import Span
from blurlib.entropy import Latent
from blurlib.entropy.coder import bin_mass, coded_bits
from blurlib.evaluation.bd_rate import BdRate
from blurlib.training.run import Step

INK = "#222222"
PALE, PALE_INK = "#b5b5b5", "#777777"
COLOURS = (
    "#1b6ca8", "#d1495b", "#3a7d44", "#e0a100", "#6a4c93",
    "#8d6e63", "#2a9d8f", "#e76f51", "#1c1c1c", "#c77dba",
)  # fmt: skip


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


def strips(rows: Mapping[str, Sequence[Tensor]], titles: Sequence[str]) -> Figure:
    """Rows of pictures of one size, uint8 (3, H, W), a dot per pixel; a title over each column."""
    height, width = next(iter(rows.values()))[0].shape[1:]
    gap, dpi = 6, 100
    canvas = np.full(
        (len(rows) * (height + gap) - gap, len(titles) * (width + gap) - gap, 3), 255, np.uint8
    )
    figure = plt.figure(figsize=(canvas.shape[1] / dpi, canvas.shape[0] / dpi), dpi=dpi)
    axis = figure.add_axes((0, 0, 1, 1))
    axis.axis("off")
    for i, (name, pictures) in enumerate(rows.items()):
        top = i * (height + gap)
        for j, picture in enumerate(pictures):
            left = j * (width + gap)
            canvas[top : top + height, left : left + width] = picture.permute(1, 2, 0)
        axis.text(-8, top + height / 2, name, rotation=90, ha="right", va="center", color=INK)
    for j, title in enumerate(titles):
        axis.text(j * (width + gap) + width / 2, -6, title, ha="center", va="bottom", color=INK)
    axis.imshow(canvas, interpolation="nearest")
    return figure


@dataclass(frozen=True)
class Animation:
    """A moving picture, played over and over by notebooks and web pages; `webp` is the file."""

    webp: bytes = field(repr=False)
    description: str

    def _repr_html_(self) -> str:
        data = base64.b64encode(self.webp).decode()
        return f'<img src="data:image/webp;base64,{data}" alt="{html.escape(self.description)}">'


def animation(frames: Sequence[Tensor], description: str, seconds: float = 0.25) -> Animation:
    """Pictures of one size, uint8 (3, H, W), shown `seconds` each and the last one for 2 s."""
    first, *others = (images.to_pillow(frame) for frame in frames)
    file = io.BytesIO()
    durations = [round(1000 * seconds)] * len(others) + [2000]
    first.save(
        file, "WEBP", save_all=True, append_images=others, duration=durations, loop=0, quality=60
    )
    return Animation(file.getvalue(), description)


class Lines(NamedTuple):
    """One panel of `lines`: named curves over one x."""

    x: Sequence[float]
    curves: Mapping[str, Sequence[float]]
    xlabel: str
    ylabel: str
    title: str = ""
    xscale: str = "linear"
    yscale: str = "linear"


def lines(panels: Sequence[Lines], marker: str = "") -> Figure:
    """Panels of curves side by side, with one legend where all have the same names.

    Later curves are thinner, so that one below another shows. Few x are all named on the axis.
    """
    figure, axes = plt.subplots(
        1, len(panels), figsize=(_wide(len(panels)), 3.4), dpi=100, layout="constrained"
    )
    for axis, panel in zip(np.ravel(axes), panels, strict=True):
        for i, (name, y) in enumerate(panel.curves.items()):
            colour, width = COLOURS[i % len(COLOURS)], max(3 - 0.5 * i, 1)
            axis.plot(panel.x, y, color=colour, lw=width, marker=marker, label=name)
        axis.set(xlabel=panel.xlabel, ylabel=panel.ylabel, xscale=panel.xscale, yscale=panel.yscale)
        axis.set_title(panel.title, fontsize=10, loc="left", color=INK)
        for side in (axis.xaxis, axis.yaxis):
            _plain_ticks(side)
        if len(panel.x) < 10:
            axis.set_xticks(panel.x, [f"{x:g}" for x in panel.x])
        _tidy(axis)
    alike = all(panel.curves.keys() == panels[0].curves.keys() for panel in panels)
    for axis in np.ravel(axes)[-1:] if alike else np.ravel(axes):
        axis.legend(frameon=False, fontsize=9)
    return figure


def _wide(panels: int) -> float:
    """Inches for panels side by side: not so wide that a page must shrink the letters."""
    return (5.5, 8.4, 10.2)[panels - 1] if panels <= 3 else 3.2 * panels


def _plain_ticks(side: Axis) -> None:
    """On a logarithmic axis: 0.1 for 10⁻¹, and 0.2 and 0.5 too where there is room for them."""
    if side.get_scale() == "log":
        low, high = side.get_view_interval()
        side.set_major_locator(LogLocator(subs=(1, 2, 5) if high < 100 * low else (1,)))
        side.set_major_formatter(StrMethodFormatter("{x:g}"))
        side.set_minor_formatter(NullFormatter())


class Cloud(NamedTuple):
    """One panel of `clouds`: points (N, 2), and paths (times, P, 2) drawn under them."""

    title: str
    points: Tensor
    paths: Tensor | None = None


def clouds(panels: Sequence[Cloud], columns: int, extent: float = 1.2) -> Figure:
    """Points of the plane, in squares from −extent to extent."""
    rows = -(-len(panels) // columns)
    figure, axes = plt.subplots(
        rows, columns, figsize=(2.1 * columns, 2.3 * rows), dpi=100, layout="constrained"
    )
    for axis in np.ravel(axes)[len(panels) :]:
        axis.axis("off")
    for axis, panel in zip(np.ravel(axes), panels, strict=False):
        if panel.paths is not None:
            axis.plot(*panel.paths.permute(2, 0, 1), color=PALE, lw=0.5, zorder=1)
        axis.scatter(*panel.points.T, s=1.5, lw=0, color=COLOURS[0], zorder=2)
        axis.set(xlim=(-extent, extent), ylim=(-extent, extent), xticks=[], yticks=[], aspect=1)
        axis.set_title(panel.title, fontsize=9, color=INK)
    return figure


class HeatMap(NamedTuple):
    """One panel of `heat_maps`: values (len(y), len(x)) and, for each y, a point x to mark."""

    title: str
    values: Tensor
    marks: Sequence[float] | None = None


def heat_maps(
    maps: Sequence[HeatMap],
    x: Sequence[float],
    wavelengths: Sequence[float],
    xlabel: str,
    label: str,
    *,
    limits: tuple[float, float],
    cmap: str = "viridis",
) -> Figure:
    """Values over x and the wavelengths of bands, fine detail on top; marks joined by a line."""
    figure, axes = plt.subplots(
        1, len(maps), figsize=(_wide(len(maps)), 3.6), dpi=100, layout="constrained", sharey=True
    )
    (low, high), edges = limits, (_edges(x), 2 ** _edges(np.log2(wavelengths)))
    for axis, panel in zip(np.ravel(axes), maps, strict=True):
        shown = axis.pcolormesh(*edges, panel.values, cmap=cmap, vmin=low, vmax=high)
        if panel.marks is not None:
            axis.plot(panel.marks, wavelengths, color=INK, marker="o", ms=4, lw=1)
        axis.set_yscale("log", base=2)
        axis.yaxis.set_major_formatter(StrMethodFormatter("{x:g}"))
        axis.xaxis.set_major_locator(MaxNLocator(steps=[1, 2, 5, 10]))
        axis.set_title(panel.title, fontsize=10, loc="left", color=INK)
        axis.set_xlabel(xlabel)
    np.ravel(axes)[0].set_ylabel("wavelength in pixels")
    np.ravel(axes)[0].invert_yaxis()
    figure.colorbar(shown, ax=axes, label=label, shrink=0.9)
    return figure


def _edges(centres: Sequence[float]) -> np.ndarray:
    """Edges of the cells around centres: half-way between them, and as far out at the ends."""
    centres = np.asarray(centres, dtype=float)
    inner = (centres[1:] + centres[:-1]) / 2
    return np.array([2 * centres[0] - inner[0], *inner, 2 * centres[-1] - inner[-1]])


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
        rows: of `experiments/portability/noise.py`: precision, ulps, decodes, failures, expected.
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


class Track(NamedTuple):
    """A measure over the number of steps: mean and standard deviation over seeds (nan for one
    seed). With a single number of steps it is drawn as a level across."""

    label: str
    steps: Sequence[int]
    mean: Sequence[float]
    std: Sequence[float]


def over_steps(panels: Mapping[str, Sequence[Track]], ylabel: str) -> Figure:
    """A measure over the number of network evaluations, a panel per title; the curves are drawn 2 %
    apart, so that their spreads can be told apart."""
    figure, axes = plt.subplots(
        1, len(panels), figsize=(4.6 * len(panels), 3.8), dpi=110, layout="constrained",
        squeeze=False, sharex=True,
    )  # fmt: skip
    steps = sorted({n for tracks in panels.values() for track in tracks for n in track.steps if n})
    for axis, (title, tracks) in zip(axes[0], panels.items(), strict=True):
        for i, (track, colour) in enumerate(zip(tracks, COLOURS, strict=False)):
            _track(axis, track, colour, shift=1.02**i)
        axis.set_xscale("log")
        axis.set_xticks(steps, [str(n) for n in steps])
        axis.xaxis.set_minor_formatter(NullFormatter())
        axis.minorticks_off()
        axis.set(title=title, xlabel="network evaluations", ylabel=ylabel)
        _tidy(axis)
    axes[0, -1].legend(frameon=False)
    return figure


def _track(axis, track: Track, colour: str, shift: float) -> None:
    spread = np.nan_to_num(track.std)
    if len(track.steps) > 1:
        axis.errorbar(
            shift * np.array(track.steps), track.mean, spread,
            color=colour, marker=".", capsize=2, label=track.label,
        )  # fmt: skip
        return
    axis.axhline(track.mean[0], color=colour, ls="--", lw=1.2, label=track.label)
    axis.axhspan(
        track.mean[0] - spread[0], track.mean[0] + spread[0], color=colour, alpha=0.15, lw=0
    )


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
