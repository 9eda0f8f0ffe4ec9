"""Analysis, main decoder, hyper transforms and gain units."""

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from blurlib.codec import BlurCodec, CodecConfig, transforms
from blurlib.codec.transforms import Analysis, Gain, GatedBlock, MainDecoder, TransformConfig


@pytest.mark.parametrize(
    "config",
    [
        TransformConfig(patch=8, widths=(8, 12), blocks=(1, 0)),
        TransformConfig(patch=2, widths=(4, 6, 8, 10), blocks=(1, 1, 1, 1)),
        TransformConfig(patch=16, widths=(8,), blocks=(2,)),
    ],
)
def test_shapes_of_the_latent_and_of_the_pyramid(config):
    x = torch.rand(2, 3, 64, 128)
    y = Analysis(config, M=20)(x)
    assert y.shape == (2, 20, 4, 8)
    reconstruction = MainDecoder(config, M=20)(y)
    assert reconstruction.x_hat.shape == x.shape
    expected = [
        (2, c, 64 // (config.patch * 2**i), 128 // (config.patch * 2**i))
        for i, c in enumerate(config.widths)
    ]
    assert [tuple(f.shape) for f in reconstruction.pyramid] == expected


def test_hyper_shapes():
    z = transforms.HyperAnalysis(20, 6)(torch.randn(2, 20, 8, 12))
    assert z.shape == (2, 6, 2, 3)
    gain = torch.ones(2, 20, 1, 1)
    h_s = transforms.HyperSynthesis(6, 20, 10)
    features = h_s(z, gain)
    assert features.shape == (2, 10, 8, 12)
    assert (h_s(z, 2 * gain) != features).all()  # the rate is known before the first symbol


def test_grey_is_the_zero_of_both_ends():
    config = TransformConfig(widths=(8, 8), blocks=(1, 1))
    analysis, decoder = Analysis(config, 4), MainDecoder(config, 4)
    for module in (analysis, decoder):
        for name, parameter in module.named_parameters():
            if name.endswith("bias"):
                torch.nn.init.zeros_(parameter)
    assert not analysis(torch.full((1, 3, 64, 64), 0.5)).any()
    assert torch.equal(decoder(torch.zeros(1, 4, 4, 4)).x_hat, torch.full((1, 3, 64, 64), 0.5))


def test_h_a_sees_the_signed_logarithm_of_y_and_its_size():
    h_a = transforms.HyperAnalysis(20, 6)
    y = 30 * torch.randn(2, 20, 8, 12)
    size = np.log1p(np.abs(y.numpy()))
    seen = torch.from_numpy(np.concatenate([np.sign(y.numpy()) * size, size], 1))
    torch.testing.assert_close(h_a(y), h_a.layers(seen))


def test_gated_block_is_its_formula():
    torch.manual_seed(0)
    block = GatedBlock(4).double()
    torch.nn.init.normal_(block.norm.weight)
    torch.nn.init.normal_(block.norm.bias)
    x = torch.randn(1, 4, 6, 7, dtype=torch.float64)
    h = F.conv2d(x, block.spatial.weight, block.spatial.bias, padding=2, groups=4)
    h = F.layer_norm(h.movedim(1, -1), (4,), block.norm.weight, block.norm.bias)
    a, b = F.linear(h, block.expand.weight[..., 0, 0], block.expand.bias).split(4, -1)
    out = F.linear(F.silu(a) * b, block.project.weight[..., 0, 0], block.project.bias)
    torch.testing.assert_close(block(x), x + out.movedim(-1, 1))


@torch.no_grad()
def test_what_a_gated_block_adds_does_not_grow_with_its_input():
    torch.manual_seed(0)
    block = GatedBlock(8).double()
    torch.nn.init.zeros_(block.spatial.bias)
    x = torch.randn(1, 8, 6, 7, dtype=torch.float64)
    torch.testing.assert_close(block(1e3 * x) - 1e3 * x, block(x) - x, rtol=1e-2, atol=1e-2)


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"patch": 4}, "patch 4 with 2 scales does not end at H/16"),
        ({"widths": (8, 8, 8), "blocks": (1, 1, 1)}, "patch 8 with 3 scales"),
        ({"blocks": (1,)}, "differ in length"),
    ],
)
def test_transforms_that_do_not_fit_are_refused(fields, message):
    with pytest.raises(ValueError, match=message):
        TransformConfig(**fields)


@pytest.fixture
def gain() -> Gain:
    torch.manual_seed(0)
    gain = Gain(4, 5, (0.0, 2.5))
    torch.nn.init.normal_(gain.log_gain)
    return gain


def test_between_levels_the_gain_is_the_geometric_mean(gain):
    gains = gain(torch.arange(1, 4.5, 0.5, dtype=torch.float64))[..., 0, 0]
    levels = gain.log_gain.double().exp()
    assert torch.equal(gains[::2], levels)
    torch.testing.assert_close(gains[1::2], (levels[:-1] * levels[1:]).sqrt())


def test_gain_and_inverse_gain_start_as_inverses():
    codec = BlurCodec(CodecConfig.small())
    q = torch.linspace(1, 6, 11, dtype=torch.float64)
    found, ones = codec.gain(q) * codec.inverse_gain(q), torch.ones(11, 192, 1, 1).double()
    torch.testing.assert_close(found, ones, rtol=1e-5, atol=0)
