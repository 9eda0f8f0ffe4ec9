"""The start of training: a linear lapped transform with the properties of a KLT."""

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from sklearn.decomposition import TruncatedSVD

from blurlib import metrics
from blurlib.codec import BlurCodec, CodecConfig
from blurlib.codec.transforms import TransformConfig
from blurlib.training import klt

RHO = 0.95


@pytest.fixture(scope="module")
def photos(photo):
    return torch.cat([photo(128, 192), photo(128, 192).flip(-1)])


@pytest.fixture(scope="module", params=["small", "paper"])
def codec(request, photos):
    torch.manual_seed(0)
    codec = BlurCodec(getattr(CodecConfig, request.param)())
    klt.start_from_klt(codec, photos)
    return codec


def markov(n: int) -> torch.Tensor:
    """Autocovariance of x_k = ρ·x_{k−1} + noise: the usual model of a line of pixels."""
    return RHO ** torch.arange(3.0 * n, dtype=torch.float64)[None]


def nothing(n: int) -> torch.Tensor:
    return torch.eye(n // 2, dtype=torch.float64)[None]


@pytest.mark.parametrize("n", [2, 8])
def test_without_lapping_the_gain_is_that_of_the_klt(n):
    # det of the covariance of n samples is (1 − ρ²)^(n − 1).
    expected = -10 * (n - 1) / n * np.log10(1 - RHO**2)
    assert klt.coding_gain(nothing(n), markov(n), n).item() == pytest.approx(expected)


def test_the_gain_of_the_lapped_transform_is_the_published_one():
    # Tran, Liang and Tu 2003: 9.62 dB for blocks of 8, two to a basis function; 8.83 for the DCT.
    gain = klt.coding_gain(klt.best_lapping(markov(8), 8), markov(8), 8).item()
    assert gain == pytest.approx(9.62, 0.002)


def test_the_filter_keeps_what_is_even_and_is_orthogonal_with_v():
    V = torch.linalg.qr(torch.randn(3, 4, 4, dtype=torch.float64))[0]
    P = klt.border_filter(V)
    torch.testing.assert_close(P @ P.mT, torch.eye(8, dtype=torch.float64).expand(3, -1, -1))
    even = torch.tensor([3.0, 1, 4, 1, 1, 4, 1, 3], dtype=torch.float64)
    torch.testing.assert_close(P @ even, even.expand(3, -1))
    torch.testing.assert_close(klt.border_filter(nothing(8))[0], torch.eye(8, dtype=torch.float64))


def test_the_first_scale_is_the_principal_subspace_that_scikit_learn_finds(photos):
    stage = klt.fit(photos, 8, (20,))[0]
    filtered = klt.lap(photos.double() - 0.5, stage.lapping)
    vectors = F.pixel_unshuffle(filtered, 8).permute(0, 2, 3, 1).reshape(-1, 192).numpy()
    theirs = TruncatedSVD(20, algorithm="arpack", random_state=0).fit(vectors)
    basis, components = stage.basis.flatten(1).numpy(), theirs.components_
    np.testing.assert_allclose(basis.T @ basis, components.T @ components, atol=2e-3)
    expected = theirs.singular_values_**2 / len(vectors)
    np.testing.assert_allclose(stage.variance, expected[np.argsort(-expected)], rtol=1e-3)


@pytest.mark.slow
@torch.no_grad()
@pytest.mark.parametrize("patch", [8, 2])
def test_the_decoder_is_the_inverse_of_what_keeps_everything(photos, patch):
    scales = {8: 2, 2: 4}[patch]
    widths = tuple(3 * (patch * 2**i) ** 2 for i in range(scales))
    transform = TransformConfig(patch=patch, widths=widths, blocks=(0,) * scales)
    config = CodecConfig.small()
    entropy = type(config.entropy)(**{**vars(config.entropy), "M": widths[-1], "groups": ()})
    codec = BlurCodec(type(config)(**{**vars(config), "transform": transform, "entropy": entropy}))
    klt.start_from_klt(codec, photos)
    x_hat = codec.main_decoder(codec.g_a(photos)).x_hat
    inside = (slice(None), slice(None), slice(32, -32), slice(32, -32))
    torch.testing.assert_close(x_hat[inside], photos[inside], rtol=0, atol=1e-3)


@torch.no_grad()
def test_the_codec_starts_linear_and_close_to_the_picture(codec, photos):
    a, b = photos[:1], photos[1:]
    mean = (codec.g_a(a) + codec.g_a(b)) / 2
    torch.testing.assert_close(codec.g_a((a + b) / 2), mean, rtol=0, atol=1e-4)
    inside = (slice(None), slice(None), slice(32, -32), slice(32, -32))
    x_hat = codec.main_decoder(codec.g_a(photos)).x_hat[inside]
    assert metrics.psnr(x_hat.clamp(0, 1), photos[inside]) > 30
    grey = torch.full((1, 3, 128, 128), 0.7)
    x_hat = codec.main_decoder(codec.g_a(grey)).x_hat[inside]
    torch.testing.assert_close(x_hat, grey[inside], rtol=0, atol=0.01)


@torch.no_grad()
def test_coarse_steps_leave_no_grid(photos):
    """Steps between pixels across the lines of 16, over those off the lines of 8."""
    codec = BlurCodec(CodecConfig.small())
    klt.start_from_klt(codec, photos)
    x_hat = codec.main_decoder(codec.g_a(photos).div(2).round().mul(2)).x_hat
    steps = x_hat.diff(dim=-1).abs().mean((0, 1, 2))
    at = torch.arange(1, x_hat.shape[-1])
    assert steps[at % 16 == 0].mean() < 1.2 * steps[at % 8 != 0].mean()


@torch.no_grad()
def test_each_channel_starts_with_the_deviation_of_its_coefficient(codec, photos):
    config = codec.config.transform
    deviation = klt.fit(photos, config.patch, config.widths)[-1].variance.clamp_min(0).sqrt()
    M = codec.config.entropy.M
    expected = (klt.SCALE * F.pad(deviation, (0, max(0, M - len(deviation)))))[:M].clamp_min(1e-3)
    for channels, group in zip(codec.entropy.channels, codec.entropy.groups, strict=True):
        bias = group.parameters_[-1].bias[channels.stop - channels.start :]
        torch.testing.assert_close(bias.exp2(), expected[channels].float(), rtol=1e-2, atol=1e-4)


def test_every_weight_can_leave_the_start(photos):
    torch.manual_seed(0)
    codec = BlurCodec(CodecConfig.small())
    klt.start_from_klt(codec, photos)
    x_hat = codec.main_decoder(codec.g_a(photos)).x_hat
    (x_hat - photos).square().sum().backward()
    for name, parameter in [*codec.g_a.named_parameters(), *codec.main_decoder.named_parameters()]:
        # Inside a block all wait one step for `project` to move.
        inside = any(part in name for part in ("spatial", "norm", "expand"))
        assert parameter.grad.any() or inside, name
