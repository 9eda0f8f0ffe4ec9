"""Figures show the numbers that they are given."""

import dataclasses

import matplotlib
import pytest
import torch

matplotlib.use("Agg")

from blurlib import plotting
from blurlib.codec import BlurCodec, CodecConfig
from blurlib.codec.bitstream import BlurFile
from blurlib.codec.inspection import timeline
from blurlib.codec.transforms import TransformConfig


@pytest.mark.parametrize(
    ("groups", "context", "bars"),
    [
        ((160,), {"local": 0, "attention": 0}, 1 + 1),
        ((100, 60), {"local": 0, "attention": 0}, 1 + 2),
        ((16, 16, 32, 64, 32), {}, 1 + 10),
    ],
)
def test_every_pass_has_its_bar_whatever_the_configuration(
    tiny_entropy, photo, groups, context, bars
):
    torch.manual_seed(0)
    context = dataclasses.replace(tiny_entropy.context, **context)
    entropy = dataclasses.replace(tiny_entropy, groups=groups, context=context)
    codec = BlurCodec(CodecConfig(entropy, TransformConfig(widths=(16, 16), blocks=(1, 1))))
    codec.entropy.hyper_latent.freeze()
    with torch.inference_mode():
        latent = codec.eval()(photo(64, 128), 2).latent
    figure = plotting.bits_per_pass(latent, groups)
    heights = [patch.get_height() for patch in figure.axes[0].patches]
    assert len(heights) == bars
    assert sum(heights) == pytest.approx((latent.bits_y + latent.bits_z).item() / 8e3)
    plotting.plt.close(figure)


def test_the_timeline_has_every_pass_in_order(tiny_codec, photo):
    file = BlurFile.from_bytes(tiny_codec.compress(photo(64, 128), 2))
    ticks = iter(range(100))
    spans = timeline(tiny_codec, file, clock=lambda: next(ticks))
    names = [f"group {j}, {which}" for j in range(1, 6) for which in ("anchors", "non-anchors")]
    assert [span.name for span in spans] == ["hyper", *names]
    times = [span[1:] for span in spans[1:]]  # the first tick is the beginning, the second hyper's
    assert times == [(2 * i + 1, 2 * i + 2, 2 * i + 3) for i in range(10)]
    figure = plotting.timeline(spans)
    assert len(figure.axes[0].patches) == 10 + 10 + 1
    plotting.plt.close(figure)
