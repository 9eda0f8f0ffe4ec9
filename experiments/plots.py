"""Figures that one experiment or one notebook needs, in the library's style."""

from __future__ import annotations

import base64
import html
import io
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from itertools import cycle
from typing import NamedTuple

import matplotlib as mpl
import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.axis import Axis
from matplotlib.figure import Figure
from matplotlib.ticker import LogLocator, MaxNLocator, NullFormatter, StrMethodFormatter
from torch import Tensor

from blurlib import images
from blurlib.entropy import Latent
from blurlib.plotting import COLOURS, STYLE, styled
from experiments.portability.timeline import PassTime

INK = STYLE["text.color"]
PALE, PALE_INK = "#b5b5b5", "#777777"

boxed = mpl.rc_context(
    {**STYLE, "axes.grid": False, "axes.spines.top": True, "axes.spines.right": True}
)
"""The same with a frame and no grid: for maps."""


def to_svg(figure: Figure, description: str) -> str:
    """The figure as SVG with a description inside; the same text for the same figure. Closes it."""
    file = io.StringIO()
    metadata = {"Date": None, "Creator": None, "Description": description}
    with plt.rc_context({"svg.hashsalt": "blurlib"}):
        figure.savefig(file, format="svg", metadata=metadata)
    plt.close(figure)
    return file.getvalue()


CODEC_COLOURS = {
    "JPEG": COLOURS[5],
    "JPEG 2000": "#9c9c4a",
    "WebP": COLOURS[2],
    "AVIF": COLOURS[3],
    "HEIC": "#8a63b8",
    "JPEG XL": COLOURS[7],
    "msssim-small, direct": COLOURS[0],
    "mse-small, direct": COLOURS[1],
    "msssim-first, direct": COLOURS[9],
    "msssim-first, diffusion": "#a0307f",
    "msssim-first, isotropic": COLOURS[6],
}
"""One colour for each codec that was measured here, by its name in tables, on every page; seen on
white and on black."""
CODEC_COLOURS |= dict.fromkeys(("blurlib", "blurlib, direct", "blurlib direct"), COLOURS[0])


class Lines(NamedTuple):
    """One panel of `lines`: named curves over one x."""

    x: Sequence[float]
    curves: Mapping[str, Sequence[float]]
    xlabel: str
    ylabel: str
    title: str = ""
    xscale: str = "linear"
    yscale: str = "linear"


@styled
def lines(panels: Sequence[Lines], marker: str = "") -> Figure:
    """Panels of curves side by side, with one legend where all have the same names.

    Later curves are thinner, so that one below another shows. Few x are all named on the axis.
    """
    figure, axes = plt.subplots(1, len(panels), figsize=(wide(len(panels)), 3.4), squeeze=False)
    for axis, panel in zip(axes.flat, panels, strict=True):
        for i, (name, y) in enumerate(panel.curves.items()):
            axis.plot(panel.x, y, lw=max(3 - 0.5 * i, 1), marker=marker, label=name)
        axis.set(xlabel=panel.xlabel, ylabel=panel.ylabel, title=panel.title)
        axis.set(xscale=panel.xscale, yscale=panel.yscale)
        for side in (axis.xaxis, axis.yaxis):
            _plain_ticks(side)
        if len(panel.x) < 10:
            axis.set_xticks(panel.x, [f"{x:g}" for x in panel.x])
    alike = all(panel.curves.keys() == panels[0].curves.keys() for panel in panels)
    for axis in axes.flat[-1:] if alike else axes.flat:
        axis.legend()
    return figure


def wide(panels: int) -> float:
    """Inches for panels side by side: not so wide that a page must shrink the letters."""
    return (5.5, 8.4, 10.2)[panels - 1] if panels <= 3 else 3.2 * panels


def _plain_ticks(side: Axis) -> None:
    """On a logarithmic axis: 0.1 for 10⁻¹, and 0.2 and 0.5 too where there is room for them."""
    if side.get_scale() == "log":
        low, high = side.get_view_interval()
        side.set_major_locator(LogLocator(subs=(1, 2, 5) if high < 100 * low else (1,)))
        side.set_major_formatter(StrMethodFormatter("{x:g}"))
        side.set_minor_formatter(NullFormatter())


class Curve(NamedTuple):
    """One rate–distortion curve. `ours` is drawn strongest, `published` in a lighter hand."""

    label: str
    bpp: Sequence[float]
    quality: Sequence[float]
    published: bool = False
    ours: bool = False


@styled
def rate_distortion(
    curves: Sequence[Curve], ylabel: str, bpp: tuple[float, float] = (0.05, 1.0)
) -> Figure:
    """Quality over bits per pixel, inside an interval of rates; names stand beside the frame.

    Measured curves have a dot at every measured point; published ones are dashed and grey. Codecs
    have the colour of `CODEC_COLOURS`, other curves what is left.
    """
    figure, axis = plt.subplots(figsize=(6.6, 4.4))
    taken = {CODEC_COLOURS.get(curve.label) for curve in curves}
    free = cycle([colour for colour in COLOURS if colour not in taken])
    ends: list[tuple[float, float, str, str]] = []  # of each curve: where, its name and its colour
    shown: list[float] = []
    for curve in curves:
        rate, quality = np.array(sorted(zip(curve.bpp, curve.quality, strict=True))).T
        low, high = max(bpp[0], rate[0]), min(bpp[1], rate[-1])
        if low > high:
            continue
        inside = np.interp(np.clip(rate, low, high), rate, quality)
        shown += [inside.min(), inside.max()]
        if curve.published:
            colour = PALE_INK
            axis.plot(rate, quality, color=PALE, lw=1, ls="--", zorder=1)
        else:
            colour = CODEC_COLOURS.get(curve.label) or next(free)
            weight = {"lw": 2.4, "zorder": 3} if curve.ours else {"lw": 1.2, "zorder": 2}
            axis.plot(rate, quality, ".-", color=colour, **weight)
        ends.append((inside[-1], high, curve.label, colour))
    margin = 0.05 * (max(shown) - min(shown))
    axis.set(xlabel="bits per pixel", ylabel=ylabel, xlim=bpp)
    axis.set_ylim(min(shown) - margin, max(shown) + margin)
    _name(axis, sorted(ends))
    return figure


def _name(axis: Axes, ends: Sequence[tuple[float, float, str, str]], apart: float = 0.048) -> None:
    """Names of curves beside the frame, at the heights of their ends as far as there is room."""
    low, high = axis.get_ylim()
    steps = apart * np.arange(len(ends))
    wanted = np.array([(end[0] - low) / (high - low) for end in ends]) - steps
    wanted = wanted.clip(0, 1 - steps[-1])
    # The nearest heights that are not below the one before: means of what would fall.
    groups: list[list[float]] = []
    for height in wanted:
        groups.append([height])
        while len(groups) > 1 and np.mean(groups[-2]) > np.mean(groups[-1]):
            last = groups.pop()
            groups[-1] += last
    heights = np.repeat([np.mean(g) for g in groups], [len(g) for g in groups]) + steps
    for (y, x, label, colour), height in zip(ends, heights, strict=True):
        line = {"arrowstyle": "-", "color": colour, "lw": 0.6, "relpos": (0, 0.5), "shrinkB": 0}
        axis.annotate(
            label, (x, y), (1.04, height), textcoords=axis.transAxes, arrowprops=line,
            va="center", size=8.5, color=colour, annotation_clip=False,
        )  # fmt: skip


@styled
def bits_per_pass(latent: Latent, groups: Sequence[int]) -> Figure:
    """Where the bits of one photo go: a bar per group, its anchors and non-anchors stacked."""
    bars: dict[int, list[float]] = {}  # first channel of a group -> kB of its passes
    for coded in latent.passes:
        bars.setdefault(coded.here.channels.start, []).append(coded.bits.item() / 8e3)
    stacked = np.array(list(bars.values())).T  # (passes of a group, groups)
    names = ("anchors", "non-anchors") if len(stacked) == 2 else ("all positions",)
    figure, axis = plt.subplots(figsize=(7, 3.2))
    axis.bar(0, latent.bits_z.item() / 8e3, color=COLOURS[3])
    places, below = np.arange(1, len(groups) + 1), np.cumsum(stacked, 0) - stacked
    for name, kilobytes, bottom in zip(names, stacked, below, strict=True):
        axis.bar(places, kilobytes, bottom=bottom, label=name)
    labels = ["hyper", *(f"group {j + 1}\n{size} ch." for j, size in enumerate(groups))]
    axis.set_xticks(range(len(labels)), labels)
    axis.set_ylabel("kB")
    axis.legend()
    return figure


@styled
def bits_per_position(photo: Tensor, bits: Tensor) -> Figure:
    """A photo, uint8 (3, H, W), beside a map of the bits each latent position takes, (h, w)."""
    figure, (left, right) = plt.subplots(1, 2, figsize=(10, 3.6))
    height, width = photo.shape[1:]
    left.imshow(photo.permute(1, 2, 0).numpy())
    edge = (-0.5, bits.shape[1] * 16 - 0.5, bits.shape[0] * 16 - 0.5, -0.5)
    shown = right.imshow(bits.numpy(), cmap="magma", extent=edge, interpolation="nearest")
    right.set(xlim=(-0.5, width - 0.5), ylim=(height - 0.5, -0.5))
    for axis in (left, right):
        axis.axis("off")
    figure.colorbar(shown, ax=right, label="bits per 16×16 pixels", shrink=0.9)
    return figure


@styled
def strips(rows: Mapping[str, Sequence[Tensor]], titles: Sequence[str]) -> Figure:
    """Rows of pictures of one size, uint8 (3, H, W), a dot per pixel; a title over each column."""
    height, width = next(iter(rows.values()))[0].shape[1:]
    gap, dpi = 6, 100
    down, right = height + gap, width + gap
    canvas = np.full((len(rows) * down - gap, len(titles) * right - gap, 3), 255, np.uint8)
    figure = plt.figure(figsize=np.divide(canvas.shape[1::-1], dpi), dpi=dpi, layout="none")
    axis = figure.add_axes((0, 0, 1, 1))
    axis.axis("off")
    for i, (name, pictures) in enumerate(rows.items()):
        top = i * down
        for j, picture in enumerate(pictures):
            left = j * right
            canvas[top : top + height, left : left + width] = picture.permute(1, 2, 0)
        axis.text(-8, top + height / 2, name, rotation=90, ha="right", va="center")
    for j, title in enumerate(titles):
        axis.text(j * right + width / 2, -6, title, ha="center", va="bottom")
    axis.imshow(canvas, interpolation="nearest")
    return figure


@dataclass(frozen=True)
class Animation:
    """A moving picture, played until its description is clicked; `webp` is the file."""

    webp: bytes = field(repr=False)
    description: str

    def _repr_html_(self) -> str:
        data = base64.b64encode(self.webp).decode()
        text = html.escape(self.description)
        picture = f'<img src="data:image/webp;base64,{data}" alt="{text}">'
        return f"<details open><summary>{text} (click to hide)</summary>{picture}</details>"


def animation(frames: Sequence[Tensor], description: str, seconds: float = 0.25) -> Animation:
    """Pictures of one size, uint8 (3, H, W), shown `seconds` each and the last one for 2 s."""
    first, *others = (images.to_pillow(frame) for frame in frames)
    file = io.BytesIO()
    durations = [round(1000 * seconds)] * len(others) + [2000]
    first.save(
        file, "WEBP", save_all=True, append_images=others, duration=durations, loop=0, quality=60
    )
    return Animation(file.getvalue(), description)


class Cloud(NamedTuple):
    """One panel of `clouds`: points (N, 2), and paths (times, P, 2) drawn under them."""

    title: str
    points: Tensor
    paths: Tensor | None = None


@boxed
def clouds(panels: Sequence[Cloud], columns: int, extent: float = 1.2) -> Figure:
    """Points of the plane, in squares from −extent to extent."""
    rows = -(-len(panels) // columns)
    figure, axes = plt.subplots(rows, columns, figsize=(2.1 * columns, 2.3 * rows), squeeze=False)
    for axis in axes.flat[len(panels) :]:
        axis.axis("off")
    for axis, panel in zip(axes.flat, panels, strict=False):
        if panel.paths is not None:
            axis.plot(*panel.paths.permute(2, 0, 1), color=PALE, lw=0.5, zorder=1)
        axis.scatter(*panel.points.T, s=1.5, lw=0, color=COLOURS[0], zorder=2)
        axis.set(xlim=(-extent, extent), ylim=(-extent, extent), xticks=[], yticks=[], aspect=1)
        axis.set_title(panel.title, fontsize=9, loc="center")
    return figure


class HeatMap(NamedTuple):
    """One panel of `heat_maps`: values (len(y), len(x)) and, for each y, a point x to mark."""

    title: str
    values: Tensor
    marks: Sequence[float] | None = None


@boxed
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
    size = (wide(len(maps)), 3.6)
    figure, axes = plt.subplots(1, len(maps), figsize=size, sharey=True, squeeze=False)
    (low, high), edges = limits, (_edges(x), 2 ** _edges(np.log2(wavelengths)))
    for axis, panel in zip(axes.flat, maps, strict=True):
        shown = axis.pcolormesh(*edges, panel.values, cmap=cmap, vmin=low, vmax=high)
        if panel.marks is not None:
            axis.plot(panel.marks, wavelengths, color=INK, marker="o", ms=4, lw=1)
        axis.set_yscale("log", base=2)
        axis.yaxis.set_major_formatter(StrMethodFormatter("{x:g}"))
        axis.xaxis.set_major_locator(MaxNLocator(steps=[1, 2, 5, 10]))
        axis.set(title=panel.title, xlabel=xlabel)
    axes[0, 0].set_ylabel("wavelength in pixels")
    axes[0, 0].invert_yaxis()
    figure.colorbar(shown, ax=axes, label=label, shrink=0.9)
    return figure


def _edges(centres: Sequence[float]) -> np.ndarray:
    """Edges of the cells around centres: half-way between them, and as far out at the ends."""
    centres = np.asarray(centres, dtype=float)
    inner = (centres[1:] + centres[:-1]) / 2
    return np.array([2 * centres[0] - inner[0], *inner, 2 * centres[-1] - inner[-1]])


class OffsetMap(NamedTuple):
    """A map over the offsets of a key from its query, (2r + 1, 2r + 1), and what stands above."""

    title: str
    values: Tensor


@boxed
def offset_maps(rows: Mapping[str, Sequence[OffsetMap]], reach: int, shared: bool = True) -> Figure:
    """Maps over offsets, a named row of them above the other; the cross marks the query.

    Args:
        reach: largest offset shown.
        shared: one scale of colours for a row; else each map has its own.
    """
    columns = max(map(len, rows.values()))
    size = (1.9 * columns + 0.9, 2.1 * len(rows) + 0.2)
    figure, axes = plt.subplots(len(rows), columns, figsize=size, squeeze=False)
    for axis in axes.flat:
        axis.axis("off")
    for line, (name, maps) in zip(axes, rows.items(), strict=True):
        low = min(0, *(float(m.values.min()) for m in maps)) if shared else None
        high = max(float(m.values.max()) for m in maps) if shared else None
        for axis, (title, values) in zip(line, maps, strict=False):
            r = values.shape[-1] // 2
            axis.imshow(
                values.numpy(), cmap="magma", vmin=low, vmax=high, interpolation="nearest",
                extent=(-r - 0.5, r + 0.5, r + 0.5, -r - 0.5),
            )  # fmt: skip
            axis.plot(0, 0, "+", color="#4fc3f7", ms=6, mew=1.2)
            axis.axis("on")
            axis.set(xlim=(-reach - 0.5, reach + 0.5), ylim=(reach + 0.5, -reach - 0.5))
            axis.set(xticks=(-reach, 0, reach), yticks=(-reach, 0, reach))
            axis.tick_params(labelsize=9, length=2)
            axis.set_title(title, size=9, loc="center")
        place = {"transform": line[0].transAxes, "rotation": 90, "va": "center", "ha": "right"}
        line[0].text(-0.16, 0.5, name, size=9, **place)
    return figure


@styled
def encoding_profiles(biases: Mapping[str, Tensor], half_widths: Sequence[float]) -> Figure:
    """Biases over the distance |dx| + |dy|, a line each, with a dot at the half-width."""
    figure, axis = plt.subplots(figsize=(7, 3.4))
    for (label, bias), half in zip(biases.items(), half_widths, strict=True):
        (line,) = axis.plot(bias.numpy(), marker=".", ms=3, lw=1.4, label=label)
        axis.plot(half, float(bias[0]) / 2, "o", color=line.get_color(), ms=7, mfc="none", mew=1.6)
    axis.set(xlabel="|dx| + |dy| in latent positions", ylabel="added to the logit", xlim=(0, None))
    axis.legend(title="circle: half-width", alignment="left")
    return figure


@styled
def channel_bits(
    panels: Mapping[str, pd.Series], group: pd.Series, ylabel: str, xlabel: str = "channel"
) -> Figure:
    """A bar per channel in the order given, coloured by group, one panel above the other.

    Args:
        panels: title and values; group: number of the group, from 1, of each label of their index.
    """
    figure, axes = plt.subplots(
        len(panels), 1, figsize=(9, 2.2 * len(panels) + 0.3), sharex=True, sharey=True,
        squeeze=False,
    )  # fmt: skip
    for axis, (title, values) in zip(axes.flat, panels.items(), strict=True):
        own = group.loc[values.index].to_numpy()
        for number in np.unique(own):
            at = np.flatnonzero(own == number)
            axis.bar(at, values.to_numpy()[at], width=1.0, label=f"group {number}")
        axis.set(title=title, ylabel=ylabel, xlim=(-0.5, len(values) - 0.5))
    axes[0, 0].legend(ncols=6, loc="lower right", bbox_to_anchor=(1, 0.98))
    axes[-1, 0].set_xlabel(xlabel)
    return figure


@styled
def cumulative_shares(
    shares: Mapping[str, Sequence[float]], groups: Sequence[int], xlabel: str = "channels"
) -> Figure:
    """Share of a total that the first n channels have; borders of groups are dotted."""
    figure, axis = plt.subplots(figsize=(7, 3.8))
    for label, values in shares.items():
        axis.plot([0, *values], label=label, lw=1.8)
    for end in np.cumsum(groups)[:-1]:
        axis.axvline(end, color=PALE, lw=1, ls=":")
    count = sum(groups)
    axis.plot([0, count], [0, 1], color=PALE, lw=1, label="all channels alike")
    axis.set(xlabel=xlabel, ylabel="share", xlim=(0, count), ylim=(0, 1.02))
    axis.legend(loc="lower right")
    return figure


@styled
def timeline(spans: Sequence[PassTime]) -> Figure:
    """A decode pass by pass: what its networks take, then what the range coder takes."""
    figure, axis = plt.subplots(figsize=(8, 0.3 * len(spans) + 0.9))
    rows = -np.arange(len(spans))
    start, ready, end = 1e3 * np.array([[s.start, s.ready, s.end] for s in spans]).T
    axis.barh(rows[1:], (ready - start)[1:], left=start[1:], label="networks")
    axis.barh(rows[1:], (end - ready)[1:], left=ready[1:], label="range coder")
    axis.barh(rows[0], end[0], color=COLOURS[3], label="hyper-latent and h_s")
    axis.set_yticks(rows, [span.name for span in spans])
    axis.set(xlabel="milliseconds", xlim=(0, None))
    axis.grid(axis="y", visible=False)
    axis.grid(axis="x")
    axis.legend()
    return figure


@styled
def failures(rows: pd.DataFrame) -> Figure:
    """Share of decodes that fail, over the strength of the noise, beside what the bound expects.

    Where none failed, a triangle stands at one in all decodes.

    Args:
        rows: of `experiments/portability/noise.py`: precision, ulps, decodes, failures, expected.
    """
    figure, axis = plt.subplots(figsize=(7, 3.6))
    for (precision, own), colour in zip(rows.groupby("precision"), COLOURS, strict=False):
        # float32 has 29 bits less: its last place is worth 2^29 of float64's.
        at = np.log2(own["ulps"].astype(float)) + (29 if precision == "float32" else 0)
        expected, seen = own["expected"] / own["decodes"], own["failures"] / own["decodes"]
        none = seen == 0
        line = {"lw": 1, "ms": 16, "mew": 2, "label": f"{precision}, bound"}
        axis.plot(at, expected, "_:", color=colour, **line)
        axis.plot(at[~none], seen[~none], "o", color=colour, label=f"{precision}, measured")
        if none.any():
            least, label = 1 / own["decodes"][none], f"{precision}, none seen"
            axis.plot(at[none], least, "v", mfc="none", color=colour, label=label)
    axis.set(xlabel="noise: log₂ of units in float64's last place", ylabel="share that fails")
    axis.set_yscale("log")
    axis.legend()
    return figure


class Track(NamedTuple):
    """A measure over the number of steps: mean and standard deviation over seeds (nan for one
    seed). With a single number of steps it is drawn as a level across."""

    label: str
    steps: Sequence[int]
    mean: Sequence[float]
    std: Sequence[float]


@styled
def over_steps(panels: Mapping[str, Sequence[Track]], ylabel: str) -> Figure:
    """A measure over the number of network evaluations, a panel per title; the curves are drawn 2 %
    apart, so that their spreads can be told apart."""
    size = (4.6 * len(panels), 3.8)
    figure, axes = plt.subplots(1, len(panels), figsize=size, squeeze=False, sharex=True)
    steps = sorted({n for tracks in panels.values() for track in tracks for n in track.steps if n})
    for axis, (title, tracks) in zip(axes.flat, panels.items(), strict=True):
        for i, (track, colour) in enumerate(zip(tracks, COLOURS, strict=False)):
            mean, spread = np.array(track.mean), np.nan_to_num(track.std)
            own = {"color": colour, "label": track.label}
            if len(track.steps) > 1:
                axis.errorbar(1.02**i * np.array(track.steps), mean, spread, marker=".", **own)
            else:
                axis.axhline(mean[0], ls="--", lw=1.2, **own)
                low, high = mean[0] - spread[0], mean[0] + spread[0]
                axis.axhspan(low, high, color=colour, alpha=0.15, lw=0)
        axis.set_xscale("log")
        axis.set_xticks(steps, [str(n) for n in steps])
        axis.minorticks_off()
        axis.set(title=title, xlabel="network evaluations", ylabel=ylabel)
    axes[0, -1].legend()
    return figure


@styled
def few_samples(tables: Mapping[str, pd.DataFrame], ylabel: str) -> Figure:
    """Fréchet distance over the number of patches: `experiments.perception.by_count`."""
    figure, axis = plt.subplots(figsize=(7, 3.6))
    for label, table in tables.items():
        mean, spread = table["frechet"], table["frechet_std"]
        axis.errorbar(table["patches"], mean, spread, marker=".", label=label)
    axis.set(xlabel="patches", ylabel=ylabel, ylim=(0, None))
    axis.legend()
    return figure
