"""Effective receptive fields, against what is known of them."""

import dataclasses

import torch

from blurlib.codec import BlurCodec, CodecConfig
from experiments.entropy.attention_maps import receptive_fields
from stand_ins import ENTROPY, TRANSFORM


def untrained(config) -> BlurCodec:
    torch.manual_seed(0)
    codec = BlurCodec(CodecConfig(config, TRANSFORM, levels=3))
    codec.entropy.hyper_latent.freeze()
    return codec.eval()


def test_the_field_is_the_gradient(photo):
    """Where μ is a weighted sum of the local context, its gradient is the convolution's weights."""
    context = dataclasses.replace(ENTROPY.context, attention=0, channel=0)
    codec = untrained(dataclasses.replace(ENTROPY, M=2, groups=(1, 1), context=context))
    expected = []
    for group in codec.entropy.groups:
        linear = type(group.parameters_[0])(context.hyper + context.local, 2, 1)
        torch.nn.init.zeros_(linear.weight)
        weights = torch.randn(context.local)
        with torch.no_grad():
            linear.weight[0, context.hyper :, 0, 0] = weights
        group.parameters_ = linear
        kernel = (group.local.weight * group.local.mask)[:, 0]
        expected.append(torch.einsum("k,kyx->yx", weights, kernel.detach()).abs())
    field = receptive_fields(codec, photo(192, 256), 2.0, positions=12, radius=2)
    torch.testing.assert_close(field, torch.stack(expected).double(), rtol=1e-4, atol=1e-5)
