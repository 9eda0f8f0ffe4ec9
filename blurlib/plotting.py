"""Figures, in the style of `blurlib.mplstyle`; the only file that imports matplotlib."""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import matplotlib as mpl
import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from matplotlib.figure import Figure
from torch import Tensor

if TYPE_CHECKING:
    from blurlib.training.run import Step

# Loaded now: within `rc_context`, a notebook's backend would show the first figure and no other.
plt.switch_backend(plt.get_backend())

style_file = Path(__file__).with_name("blurlib.mplstyle")
STYLE = mpl.rc_params_from_file(style_file, use_default_template=False)
COLOURS = STYLE["axes.prop_cycle"].by_key()["color"]

styled = mpl.rc_context(STYLE)
"""Decorator: what the function draws is in this style."""


class Panel(NamedTuple):
    """One picture of a comparison: uint8 (3, H, W) and the two lines above it."""

    title: str
    caption: str
    image: Tensor


@styled
def comparison(panels: Sequence[Panel], columns: int = 3, dots: int = 2) -> Figure:
    """Pictures of equal size side by side, each pixel drawn as `dots` × `dots` dots."""
    height, width = (dots * side for side in panels[0].image.shape[1:])
    down, right, dpi = height + 50, width + 12, 120
    size = np.array((columns * right, -(-len(panels) // columns) * down))
    figure = plt.figure(figsize=size / dpi, dpi=dpi, layout="none")
    for i, panel in enumerate(panels):
        corner = (i % columns * right + 6, size[1] - (i // columns + 1) * down + 4)
        axis = figure.add_axes((*corner / size, *(width, height) / size))
        axis.imshow(panel.image.permute(1, 2, 0), interpolation="nearest")
        axis.axis("off")
        for text, up, weight in ((panel.title, 27, "bold"), (panel.caption, 7, "normal")):
            axis.text(0, 1 + up / height, text, transform=axis.transAxes, size=9, weight=weight)
    return figure


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
