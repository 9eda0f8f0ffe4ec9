"""Encodings by offset and effective receptive fields, against what is known of them."""

import dataclasses

import pytest
import torch

from blurlib.codec import BlurCodec, CodecConfig
from blurlib.entropy.position import LaplacianPosition
from experiments.entropy.attention_maps import bias_by_offset, receptive_fields
from stand_ins import ENTROPY, TRANSFORM


def untrained(config) -> BlurCodec:
    torch.manual_seed(0)
    codec = BlurCodec(CodecConfig(config, TRANSFORM, levels=3))
    codec.entropy.hyper_latent.freeze()
    return codec.eval()


def test_a_bias_is_shown_where_its_offset_is():
    position = LaplacianPosition(4, amplitude=2.0, sigma=1.5)
    shown = bias_by_offset(position)[0]
    assert shown.shape == (7, 7)
    for dy in range(-3, 4):
        for dx in range(-3, 4):
            value = 2.0 * torch.exp(torch.tensor(-(abs(dy) + abs(dx)) / (2 * 1.5**2)))
            assert shown[3 + dy, 3 + dx] == pytest.approx(value.item())


def test_the_field_is_the_gradient(photo):
    """Where μ is a weighted sum of the local context, its gradient is the convolution's weights."""
    context = dataclasses.replace(ENTROPY.context, attention=0, channel=0)
    codec = untrained(dataclasses.replace(ENTROPY, M=2, groups=(1, 1), context=context))
    expected = []
    for group in codec.entropy.groups:
        linear = torch.nn.Conv2d(context.hyper + context.local, 2, 1)
        torch.nn.init.zeros_(linear.weight)
        weights = torch.randn(context.local)
        with torch.no_grad():
            linear.weight[0, context.hyper :, 0, 0] = weights
        group.parameters_ = linear
        kernel = (group.local.weight * group.local.mask)[:, 0]
        expected.append(torch.einsum("k,kyx->yx", weights, kernel.detach()).abs())
    field = receptive_fields(codec, photo(192, 256), 2.0, positions=12, radius=2)
    torch.testing.assert_close(field, torch.stack(expected).double(), rtol=1e-4, atol=1e-5)
