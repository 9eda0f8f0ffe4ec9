"""Figures show the values they were given; animations hold the frames they were given."""

import io

import numpy as np
import pytest
import torch
from PIL import Image

from blurlib import plotting
from blurlib.codec.bitstream import BlurFile
from experiments import plots
from experiments.portability.timeline import timeline


def picture(value):
    return torch.full((3, 8, 10), value, dtype=torch.uint8)


def test_strips_place_every_picture():
    rows = {"a": [picture(10), picture(20), picture(30)], "b": [picture(40), picture(50)]}
    (axis,) = plots.strips(rows, ["1", "2", "3"]).axes
    canvas = np.asarray(axis.images[0].get_array())
    assert canvas.shape == (8 + 6 + 8, 10 + 6 + 10 + 6 + 10, 3)
    for row, top in ((0, 0), (1, 14)):
        values = [canvas[top : top + 8, left : left + 10] for left in (0, 16, 32)]
        expected = [p[0, 0, 0].item() for p in rows["ab"[row]]] + [255] * row
        assert [np.unique(v).tolist() for v in values] == [[e] for e in expected]
    assert [text.get_text() for text in axis.texts] == ["a", "b", "1", "2", "3"]


def test_an_animation_holds_its_frames():
    made = plots.animation([picture(v) for v in (0, 120, 240)], 'from "dark" to light', 0.1)
    with Image.open(io.BytesIO(made.webp)) as file:
        assert (file.format, file.n_frames, file.info["loop"]) == ("WEBP", 3, 0)
        for frame, value, milliseconds in ((0, 0, 100), (1, 120, 100), (2, 240, 2000)):
            file.seek(frame)
            shown = np.asarray(file.convert("RGB")).astype(int)
            assert np.abs(shown - value).max() <= 4
            assert file.info["duration"] == milliseconds
    assert made._repr_html_().startswith('<img src="data:image/webp;base64,UklGR')
    assert len(repr(made)) < 100
    assert 'alt="from &quot;dark&quot; to light"' in made._repr_html_()


def test_lines_share_a_legend_only_where_they_mean_the_same():
    x = [1.0, 2.0, 4.0]
    curves = {"a": [1, 10, 100], "b": [2, 3, 4]}
    left = plotting.Lines(x, curves, "steps", "error", "", "log", "log")
    figure = plotting.lines([left, left._replace(title="again")])
    assert [axis.get_legend() is not None for axis in figure.axes] == [False, True]
    assert [line.get_ydata().tolist() for line in figure.axes[0].lines] == [[1, 10, 100], [2, 3, 4]]
    assert [tick.get_text() for tick in figure.axes[0].get_xticklabels()] == ["1", "2", "4"]
    figure = plotting.lines([left, left._replace(curves={"c": [1, 2, 3]})])
    assert all(axis.get_legend() for axis in figure.axes)


def test_every_pass_has_its_bar(tiny_codec, photo):
    with torch.inference_mode():
        latent = tiny_codec(photo(64, 128), 2).latent
    figure = plots.bits_per_pass(latent, tiny_codec.config.entropy.groups)
    heights = [patch.get_height() for patch in figure.axes[0].patches]
    assert len(heights) == 1 + 10
    assert sum(heights) == pytest.approx((latent.bits_y + latent.bits_z).item() / 8e3)


def test_the_timeline_has_every_pass_in_order(tiny_codec, photo):
    file = BlurFile.from_bytes(tiny_codec.compress(photo(64, 128), 2))
    ticks = iter(range(100))
    spans = timeline(tiny_codec, file, clock=lambda: next(ticks))
    names = [f"group {j}, {which}" for j in range(1, 6) for which in ("anchors", "non-anchors")]
    assert [span.name for span in spans] == ["hyper", *names]
    times = [span[1:] for span in spans[1:]]  # the first tick is the beginning, the second hyper's
    assert times == [(2 * i + 1, 2 * i + 2, 2 * i + 3) for i in range(10)]
    figure = plots.timeline(spans)
    assert len(figure.axes[0].patches) == 10 + 10 + 1
