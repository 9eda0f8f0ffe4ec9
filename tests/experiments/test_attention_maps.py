"""Encodings by offset and effective receptive fields, against what is known of them."""

import dataclasses

import pytest
import torch

from blurlib.codec import BlurCodec, CodecConfig
from blurlib.entropy.position import LaplacianPosition
from experiments.entropy.attention_maps import bias_by_offset, receptive_fields
from stand_ins import TRANSFORM

RADIUS = 9


@pytest.fixture(scope="module")
def x(astronaut):
    return astronaut[None, :, 100:292, 60:316].float() / 255


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


@pytest.mark.parametrize("keys", ["anchors", "non-anchors"])
def test_predictions_depend_on_anchors_only_and_attention_reaches_further(tiny_entropy, x, keys):
    context = dataclasses.replace(tiny_entropy.context, keys=keys)
    codec = untrained(dataclasses.replace(tiny_entropy, context=context))
    field = receptive_fields(codec, x, 2.0, radius=RADIUS)
    assert field.shape == (5, 19, 19)
    axis = torch.arange(-RADIUS, RADIUS + 1)
    distance = axis.abs()[:, None] + axis.abs()
    assert not field[:, distance % 2 == 0].any()  # non-anchors, itself among them
    near = torch.maximum(axis.abs()[:, None], axis.abs()) <= 2
    assert (field[:, near & (distance % 2 == 1)] > 0).all()
    assert (field[:, ~near].amax(-1) > 0).all()
    # two layers of windows of 4, the second shifted by 2: 3 + 3 positions; non-anchors see 2 more
    reach = 6 if keys == "anchors" else 8
    far = torch.maximum(axis.abs()[:, None], axis.abs()) > reach
    assert not field[:, far].any()


def test_the_field_is_the_gradient(tiny_entropy, x):
    """Where μ is a weighted sum of the local context, its gradient is the convolution's weights."""
    context = dataclasses.replace(tiny_entropy.context, attention=0, channel=0)
    codec = untrained(dataclasses.replace(tiny_entropy, M=2, groups=(1, 1), context=context))
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
    field = receptive_fields(codec, x, 2.0, positions=12, radius=2)
    torch.testing.assert_close(field, torch.stack(expected).double(), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(
    ("context", "through", "words"),
    [
        ({}, "walls", "through is 'walls': .* everything, attention"),
        ({"keys": "non-anchors"}, "attention", "choose 'everything'"),
        ({"attention": 0, "local": 0}, "everything", "no local or global context"),
    ],
)
def test_fields_that_cannot_be_told_apart_are_refused(tiny_entropy, x, context, through, words):
    context = dataclasses.replace(tiny_entropy.context, **context)
    codec = untrained(dataclasses.replace(tiny_entropy, context=context))
    with pytest.raises(ValueError, match=words):
        receptive_fields(codec, x, 2.0, through)
