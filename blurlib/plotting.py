"""Figures, in the style of `blurlib.mplstyle`; the only file that imports matplotlib."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import matplotlib as mpl
import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from matplotlib.axis import Axis
from matplotlib.figure import Figure
from matplotlib.ticker import LogLocator, NullFormatter, StrMethodFormatter
from torch import Tensor

if TYPE_CHECKING:
    from blurlib.training.run import Step

# Loaded now: within `rc_context`, a notebook's backend would show the first figure and no other.
plt.switch_backend(plt.get_backend())

style_file = Path(__file__).with_name("blurlib.mplstyle")
STYLE = mpl.rc_params_from_file(style_file, use_default_template=False)
COLOURS = STYLE["axes.prop_cycle"].by_key()["color"]
INK = STYLE["text.color"]
PALE, PALE_INK = "#b5b5b5", "#777777"

styled = mpl.rc_context(STYLE)
"""Decorator: what the function draws is in this style."""
boxed = mpl.rc_context(
    {**STYLE, "axes.grid": False, "axes.spines.top": True, "axes.spines.right": True}
)
"""The same with a frame and no grid: for maps."""


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
        for text, up, look in ((panel.title, 16, {"weight": "bold"}), (panel.caption, 4, {})):
            axis.annotate(text, (0, 1), (0, up), "axes fraction", "offset points", size=9, **look)
    figure.subplots_adjust(left=0.01, right=0.99, bottom=0.01, top=0.93, wspace=0.04, hspace=0.18)
    return figure


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


@styled
def training_curves(steps: Sequence["Step"]) -> Figure:
    """Loss, its parts, gradient and learning rate of a run, as means of up to 400 stretches; what
    is not finite is left out."""
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
