"""Figures, in the style of `blurlib.mplstyle`; the only file that imports matplotlib."""

from __future__ import annotations

import base64
import html
import io
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import matplotlib as mpl
import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from matplotlib.axis import Axis
from matplotlib.figure import Figure
from matplotlib.ticker import LogLocator, MaxNLocator, NullFormatter, StrMethodFormatter
from torch import Tensor

from blurlib import images
from blurlib.entropy import Latent

if TYPE_CHECKING:
    from blurlib.training.run import Step

STYLE = mpl.rc_params_from_file(
    Path(__file__).with_name("blurlib.mplstyle"), use_default_template=False
)
COLOURS = STYLE["axes.prop_cycle"].by_key()["color"]
INK = STYLE["text.color"]
PALE, PALE_INK = "#b5b5b5", "#777777"

styled = mpl.rc_context(STYLE)
"""Decorator: what the function draws is in this style."""
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


class Panel(NamedTuple):
    """One picture of a comparison: uint8 (3, H, W) and the two lines above it."""

    title: str
    caption: str
    image: Tensor


@styled
def comparison(panels: Sequence[Panel], columns: int = 3) -> Figure:
    """Pictures of equal size side by side, each pixel drawn as at least one dot."""
    rows = -(-len(panels) // columns)
    height, width = panels[0].image.shape[1:]
    size = (4.2 * columns, (4.2 * height / width + 0.62) * rows)
    figure, axes = plt.subplots(rows, columns, figsize=size, dpi=120, layout="none", squeeze=False)
    for axis in axes.flat:
        axis.axis("off")
    for axis, panel in zip(axes.flat, panels, strict=False):
        axis.imshow(panel.image.permute(1, 2, 0), interpolation="nearest")
        axis.text(0, 1.065, panel.title, transform=axis.transAxes, weight="bold")
        axis.text(0, 1.015, panel.caption, transform=axis.transAxes, size=9)
    figure.subplots_adjust(left=0.01, right=0.99, bottom=0.01, top=0.93, wspace=0.04, hspace=0.18)
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


@styled
def lines(panels: Sequence[Lines], marker: str = "") -> Figure:
    """Panels of curves side by side, with one legend where all have the same names.

    Later curves are thinner, so that one below another shows. Few x are all named on the axis.
    """
    figure, axes = plt.subplots(1, len(panels), figsize=(_wide(len(panels)), 3.4), squeeze=False)
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
    size = (_wide(len(maps)), 3.6)
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
    """Quality over bits per pixel, inside an interval of rates.

    Measured curves have a dot at every measured point; published ones are dashed and grey, and
    named where they end.
    """
    figure, axis = plt.subplots(figsize=(8, 5))
    shown: list[float] = []
    for curve in curves:
        rate, quality = np.array(sorted(zip(curve.bpp, curve.quality, strict=True))).T
        low, high = max(bpp[0], rate[0]), min(bpp[1], rate[-1])
        if low > high:
            continue
        inside = np.interp(np.clip(rate, low, high), rate, quality)
        shown += [inside.min(), inside.max()]
        if curve.published:
            axis.plot(rate, quality, color=PALE, lw=1, ls="--", zorder=1)
            axis.annotate(
                curve.label, (high, inside[-1]), xytext=(3, 0), textcoords="offset points",
                va="center", size=7.5, color=PALE_INK, annotation_clip=False,
            )  # fmt: skip
        else:
            weight = {"lw": 2.6, "zorder": 3} if curve.ours else {"lw": 1.3, "zorder": 2}
            axis.plot(rate, quality, marker=".", label=curve.label, **weight)
    margin = 0.05 * (max(shown) - min(shown))
    axis.set(xlabel="bits per pixel", ylabel=ylabel, xlim=bpp)
    axis.set_ylim(min(shown) - margin, max(shown) + margin)
    axis.legend(loc="best", title="measured here", alignment="left")
    return figure


@styled
def training_curves(steps: Sequence[Step]) -> Figure:
    """Loss, its parts, gradient and learning rate over the steps of a run, as means of up to 400
    stretches; what is not finite is left out."""
    log = pd.DataFrame([{"loss": s.loss, **s.parts} for s in steps], dtype=float)
    log["gradient"], log["learning rate"] = [s.gradient for s in steps], [s.lr for s in steps]
    stretch = np.arange(len(log)) * min(400, len(log)) // len(log)
    means = log.where(np.isfinite(log)).groupby(stretch).mean()
    at = pd.Series([s.step for s in steps]).groupby(stretch).last()
    figure = Figure(figsize=(9, 1.7 * len(means.columns)))
    for axis, name in zip(figure.subplots(len(means.columns), sharex=True), means, strict=True):
        axis.plot(at, means[name], lw=1.2)
        axis.set(ylabel=name, yscale="log" if name == "gradient" else "linear")
    axis.set_xlabel("step")
    return figure
