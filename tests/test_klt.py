"""The start of training: a linear transform with the properties of a KLT."""

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from sklearn.decomposition import TruncatedSVD

from blurlib import metrics
from blurlib.codec import BlurCodec, CodecConfig
from blurlib.codec.klt import SCALE, fit, start_from_klt


@pytest.fixture(scope="module")
def photos(photo):
    return torch.cat([photo(128, 192), photo(128, 192).flip(-1)])


@pytest.fixture(scope="module", params=["small", "paper"])
def codec(request, photos):
    torch.manual_seed(0)
    codec = BlurCodec(getattr(CodecConfig, request.param)())
    start_from_klt(codec, photos)
    return codec


def test_the_first_scale_is_the_principal_subspace_that_scikit_learn_finds(photos):
    stage = fit(photos, 8, (20,))[0]
    vectors = F.pixel_unshuffle(photos - 0.5, 8).permute(0, 2, 3, 1).reshape(-1, 192).numpy()
    theirs = TruncatedSVD(20, algorithm="arpack", random_state=0).fit(vectors)
    np.testing.assert_allclose(
        stage.basis.T @ stage.basis, theirs.components_.T @ theirs.components_, atol=2e-3
    )
    expected = theirs.singular_values_**2 / len(vectors)
    np.testing.assert_allclose(stage.variance, expected[np.argsort(-expected)], rtol=1e-3)


def test_rows_are_orthonormal_and_variances_fall(photos):
    for stage in fit(photos, 8, (128, 192)):
        torch.testing.assert_close(stage.basis @ stage.basis.T, torch.eye(len(stage.basis)))
        assert (stage.variance.diff() <= 0).all()


@torch.no_grad()
def test_the_codec_starts_as_a_linear_transform_and_its_transpose(codec, photos):
    a, b = photos[:1], photos[1:]
    y = codec.g_a(a)
    torch.testing.assert_close(codec.g_a((a + b) / 2), (y + codec.g_a(b)) / 2, rtol=0, atol=1e-4)
    kept = min(codec.config.entropy.M, codec.config.transform.widths[-1])
    energy = (y[:, :kept] / SCALE).square().sum()
    x_hat = codec.main_decoder(y).x_hat
    # Orthonormal rows: the error of the transpose is what the energy lacks (Pythagoras).
    missing = (a - 0.5).square().sum() - energy
    torch.testing.assert_close((x_hat - a).square().sum(), missing, rtol=2e-3, atol=2e-3)


@torch.no_grad()
def test_the_codec_starts_as_the_klt_of_blocks_up_to_the_border(codec, photos):
    """Block after block, without convolutions: there is no padding that could be seen."""
    config = codec.config.transform
    stages = fit(photos, config.patch, config.widths)
    sides = [config.patch] + [2] * (len(stages) - 1)
    expected = photos - 0.5
    for side, (basis, _) in zip(sides, stages, strict=True):
        expected = torch.einsum("oc,bchw->bohw", basis, F.pixel_unshuffle(expected, side))
    kept = expected[:, : codec.config.entropy.M]
    y = codec.g_a(photos)
    torch.testing.assert_close(y[:, : kept.shape[1]], SCALE * kept, rtol=0, atol=1e-4)
    x = F.pad(kept, (0, 0, 0, 0, 0, expected.shape[1] - kept.shape[1]))
    for side, (basis, _) in reversed(list(zip(sides, stages, strict=True))):
        x = F.pixel_shuffle(torch.einsum("oc,bohw->bchw", basis, x), side)
    x_hat = codec.main_decoder(y).x_hat
    torch.testing.assert_close(x_hat, x + 0.5, rtol=0, atol=1e-4)


@torch.no_grad()
@pytest.mark.parametrize(("row", "column"), [(0, 0), (3, 5), (7, 11)])
def test_at_the_start_a_block_is_coded_by_itself(codec, photos, row, column):
    """The taps around the centre are 0: what a block holds is seen at its own position alone."""
    here = slice(16 * row, 16 * row + 16), slice(16 * column, 16 * column + 16)
    changed = photos[:1].clone()
    changed[..., here[0], here[1]] = torch.rand(3, 16, 16)
    kept = min(codec.config.entropy.M, codec.config.transform.widths[-1])
    y = codec.g_a(torch.cat([photos[:1], changed]))
    moved = (y[1, :kept] - y[0, :kept]).abs().amax(0) > 1e-5
    assert moved.nonzero().tolist() == [[row, column]]
    x_hat = codec.main_decoder(y).x_hat
    moved = (x_hat[1] - x_hat[0]).abs().amax(0) > 1e-4
    assert moved[here].any()
    moved[here] = False
    assert not moved.any()


@torch.no_grad()
def test_without_quantisation_the_picture_is_close(codec, photos):
    x_hat = codec.main_decoder(codec.g_a(photos)).x_hat
    assert metrics.psnr(x_hat.clamp(0, 1), photos) > 30


@torch.no_grad()
def test_each_channel_starts_with_the_deviation_of_its_coefficient(codec, photos):
    y = codec.g_a(photos)
    expected = y.square().mean((0, 2, 3)).sqrt().clamp_min(1e-3)  # of so few photos, some are 0
    for channels, group in zip(codec.entropy.channels, codec.entropy.groups, strict=True):
        bias = group.parameters_[-1].bias[channels.stop - channels.start :]
        torch.testing.assert_close(bias.exp2(), expected[channels], rtol=1e-2, atol=1e-4)


def test_every_weight_can_leave_the_start(photos):
    torch.manual_seed(0)
    codec = BlurCodec(CodecConfig.small())
    start_from_klt(codec, photos)
    x_hat = codec.main_decoder(codec.g_a(photos)).x_hat
    (x_hat - photos).square().sum().backward()
    for name, parameter in [*codec.g_a.named_parameters(), *codec.main_decoder.named_parameters()]:
        # Inside a block all wait one step for `project` to move.
        inside = any(part in name for part in ("spatial", "norm", "expand"))
        assert parameter.grad.any() or inside, name
