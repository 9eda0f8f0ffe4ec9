"""Encodings by offset and effective receptive fields, against what is known of them."""

import dataclasses

import pytest
import torch

from blurlib.codec import BlurCodec, CodecConfig
from blurlib.codec.transforms import TransformConfig
from blurlib.entropy.position import LaplacianPosition
from experiments.entropy.attention_maps import bias_by_offset, receptive_fields
from experiments.entropy.positional import ENCODINGS

RADIUS = 9


@pytest.fixture(scope="module")
def x(astronaut):
    return astronaut[None, :, 100:292, 60:316].float() / 255


def untrained(config) -> BlurCodec:
    torch.manual_seed(0)
    codec = BlurCodec(CodecConfig(config, TransformConfig(widths=(16, 16), blocks=(1, 1)), 3))
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


@pytest.mark.parametrize("encoding", ENCODINGS)
def test_every_bias_depends_on_offsets_alone(encoding):
    position = ENCODINGS[encoding](4, 2, 8)
    shown, bias = bias_by_offset(position), position.bias()
    for query, key in [(0, 0), (0, 15), (5, 6), (9, 2), (15, 0)]:
        dy, dx = key // 4 - query // 4, key % 4 - query % 4
        assert torch.equal(shown[:, 3 + dy, 3 + dx], bias[:, query, key])


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


def test_local_context_alone_sees_its_kernel(tiny_entropy, x):
    context = dataclasses.replace(tiny_entropy.context, attention=0)
    codec = untrained(dataclasses.replace(tiny_entropy, context=context))
    field = receptive_fields(codec, x, 2.0, radius=RADIUS)
    axis = torch.arange(-RADIUS, RADIUS + 1)
    inside = torch.maximum(axis.abs()[:, None], axis.abs()) <= 2
    odd = (axis.abs()[:, None] + axis.abs()) % 2 == 1
    assert (field[:, inside & odd] > 0).all()
    assert not field[:, ~(inside & odd)].any()
    assert not receptive_fields(codec, x, 2.0, "attention", radius=RADIUS).any()


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


def test_without_spatial_context_there_is_no_field(tiny_entropy, x):
    context = dataclasses.replace(tiny_entropy.context, attention=0, local=0)
    codec = untrained(dataclasses.replace(tiny_entropy, context=context))
    with pytest.raises(ValueError, match="no local or global context"):
        receptive_fields(codec, x, 2.0)


@pytest.mark.parametrize(
    ("keys", "through", "words"),
    [
        ("anchors", "walls", "through is 'walls': .* everything, attention"),
        ("non-anchors", "attention", "choose 'everything'"),
    ],
)
def test_fields_that_cannot_be_told_apart_are_refused(tiny_entropy, x, keys, through, words):
    context = dataclasses.replace(tiny_entropy.context, keys=keys)
    codec = untrained(dataclasses.replace(tiny_entropy, context=context))
    with pytest.raises(ValueError, match=words):
        receptive_fields(codec, x, 2.0, through)
