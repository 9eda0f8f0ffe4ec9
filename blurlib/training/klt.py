"""A start for training: the transforms begin as the lapped Karhunen–Loève transform of photos.

From random weights a codec has to discover first what every transform codec is built on: that the
pixels of a block are correlated, and in which basis they are not. That basis is the KLT, the
eigenvectors of the blocks' covariance. Blocks that are coded each by itself leave a grid, so that
the KLT stands behind a filter over the borders of blocks, and its inverse before that filter's
inverse (Tran, Liang and Tu, IEEE Trans. Signal Processing 51(6), 2003). Across a border, with h
samples on either side, I the identity and J the reversal, the filter is

    P = ½ [I J; J −I] · diag(I, V) · [I J; J −I]:

half sums of mirrored samples stay, half differences become V times themselves. V = I changes
nothing. Here V has the largest coding gain for the autocovariance of what comes in.

All of it is linear and fits into the convolutions: with the gated blocks adding nothing, g_a is
this transform and the main decoder its inverse on what g_a keeps (but for the border of the photo,
which the convolutions pad with 0). Training starts from a working transform codec without a grid.
"""

from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from blurlib.codec.model import BlurCodec
from blurlib.codec.transforms import Analysis, GatedBlock, MainDecoder
from blurlib.diffusion.denoiser import zero

SCALE = 2.0  # y per unit of an orthonormal coefficient of a photo in [0, 1]


class KltScale(NamedTuple):
    """One scale of the transform, from C channels in blocks of n × n.

    Attributes:
        lapping: V of each channel, (C, n/2, n/2).
        basis: orthonormal rows for filtered blocks, (kept, C, n, n).
        variance: of their coefficients, falling, (kept,).
    """

    lapping: Tensor
    basis: Tensor
    variance: Tensor


@torch.no_grad()
def start_from_klt(codec: BlurCodec, photos: Tensor, lapped: bool = True) -> None:
    """Set the transforms of `codec` to the lapped KLT of the photos, and its σ to their deviations.

    Channels beyond the rank of a scale (in `paper` the finest scale has more channels than a block
    has pixels) keep their random weights and start unheard.

    Args:
        photos: (B, 3, H, W) in [0, 1], sides multiples of 16, at least 48; some 100 are enough.
        lapped: False is V = I, the plain KLT of blocks, to compare with.
    """
    config = codec.config.transform
    scales = fit(photos, config.patch, config.widths, lapped)
    _set_analysis(codec.g_a, scales)
    _set_decoder(codec.main_decoder, scales)
    for transform in (codec.g_a, codec.main_decoder):
        for module in transform.modules():
            if isinstance(module, GatedBlock):
                zero(module.project)
    deviation = scales[-1].variance.clamp_min(0).sqrt().float()
    silent = max(0, codec.config.entropy.M - len(deviation))
    codec.entropy.start_at(SCALE * F.pad(deviation, (0, silent)))


@torch.no_grad()
def fit(photos: Tensor, patch: int, widths: tuple[int, ...], lapped: bool = True) -> list[KltScale]:
    """The lapped KLT scale by scale, in float64: blocks of `patch`, then 2×2 of what the scale
    before has kept."""
    features, scales = photos.double() - 0.5, []
    for i, width in enumerate(widths):
        n = patch if i == 0 else 2
        covariance = autocovariance(features, 3 * n)
        if i == 0:  # one for all colours, so that grey stays grey
            covariance = covariance.mean(0, keepdim=True)
        best = best_lapping(covariance, n) if lapped else torch.eye(n // 2).to(covariance)
        lapping = best.expand(features.shape[1], -1, -1)
        blocks = F.pixel_unshuffle(lap(features, lapping), n)
        vectors = blocks.permute(1, 0, 2, 3).flatten(1)
        # About 0 rather than about the mean: the transforms start without a bias.
        variance, basis = torch.linalg.eigh(vectors @ vectors.T / vectors.shape[1])
        kept = min(width, len(basis))
        basis = basis.flip(1).T[:kept]
        scales.append(KltScale(lapping, basis.unflatten(1, (-1, n, n)), variance.flip(0)[:kept]))
        features = torch.einsum("oc,bchw->bohw", basis, blocks)
    return scales


def lap(x: Tensor, lapping: Tensor) -> Tensor:
    """P over all borders of blocks inside (B, C, H, W), along rows and columns."""
    h = lapping.shape[-1]
    P = border_filter(lapping)

    def along_rows(x: Tensor) -> Tensor:
        borders = x[..., h:-h].unflatten(-1, (-1, 2 * h))
        filtered = torch.einsum("cij,bchnj->bchni", P, borders).flatten(-2)
        return torch.cat([x[..., :h], filtered, x[..., -h:]], -1)

    return along_rows(along_rows(x).mT).mT


def border_filter(lapping: Tensor) -> Tensor:
    """P of V (…, h, h): (…, 2h, 2h)."""
    h = lapping.shape[-1]
    identity = torch.eye(h).to(lapping)
    mirror = identity.flip(0)
    butterfly = torch.cat([torch.cat([identity, mirror], 1), torch.cat([mirror, -identity], 1)])
    middle = F.pad(lapping, (h, 0, h, 0)) + F.pad(identity, (0, h, 0, h))
    return butterfly @ middle @ butterfly / 2


def autocovariance(x: Tensor, lags: int) -> Tensor:
    """Sum of products of samples 0 … `lags` − 1 apart, over the number of samples: (C, lags)."""
    found = [
        (x[..., lag:] * x[..., : x.shape[-1] - lag]).sum((0, 2, 3))
        + (x[..., lag:, :] * x[..., : x.shape[-2] - lag, :]).sum((0, 2, 3))
        for lag in range(lags)
    ]
    return torch.stack(found, 1) / (2 * x[:, 0].numel())


@torch.enable_grad()
def best_lapping(covariance: Tensor, n: int) -> Tensor:
    """V with the largest `coding_gain` in one dimension, for each channel: (C, n/2, n/2)."""
    identity = torch.eye(n // 2).to(covariance).expand(len(covariance), -1, -1)
    lapping = identity.clone().requires_grad_()
    optimiser = torch.optim.LBFGS([lapping], max_iter=100, line_search_fn="strong_wolfe")

    def loss() -> Tensor:
        optimiser.zero_grad()
        loss = -coding_gain(lapping, covariance, n).mean()
        loss.backward()
        return loss

    optimiser.step(loss)
    return lapping.detach()


def coding_gain(lapping: Tensor, covariance: Tensor, n: int) -> Tensor:
    """What the lapped KLT of blocks of n gains over samples coded one by one, in dB: (C,).

        −10 · mean over coefficients i of log₁₀(σ_i² · ‖f_i‖² / σ²)

    σ_i² is the variance of coefficient i, f_i what it adds to the picture.
    """
    line = _three_blocks(lapping)
    lag = (torch.arange(3 * n)[:, None] - torch.arange(3 * n)).abs()
    analysis = line[:, n : 2 * n]
    variance, basis = torch.linalg.eigh(analysis @ covariance[:, lag] @ analysis.mT)
    synthesis = torch.linalg.inv(line)[..., n : 2 * n] @ basis
    cost = variance.clamp_min(1e-12) * synthesis.square().sum(1) / covariance[:, :1]
    return -10 * cost.log10().mean(1)


def _three_blocks(lapping: Tensor) -> Tensor:
    """P over both borders in a line of three blocks, (C, 3n, 3n); the ends stay."""
    h = lapping.shape[-1]
    P = border_filter(lapping)
    ends = F.pad(P.new_zeros(4 * h), (h, h), value=1.0).diag()
    return ends + F.pad(P, (h, 3 * h, h, 3 * h)) + F.pad(P, (3 * h, h, 3 * h, h))


def _kernels(scale: KltScale, inverse: bool) -> Tensor:
    """What each coefficient hears of a block and its neighbours, or adds to them:
    (kept, C, 3n, 3n)."""
    n = scale.basis.shape[-1]
    line = _three_blocks(scale.lapping)
    filters = torch.linalg.inv(line) if inverse else line.mT
    return filters @ F.pad(scale.basis, (n, n, n, n)) @ filters.mT


def _set_analysis(g_a: Analysis, scales: list[KltScale]) -> None:
    stem, *down, last = (layer for layer in g_a.layers if isinstance(layer, nn.Conv2d))
    n = scales[0].basis.shape[-1]
    # Unshuffled, neighbouring blocks are the neighbours of a 3×3 kernel.
    _set(stem, F.pixel_unshuffle(_kernels(scales[0], inverse=False), n))
    for layer, scale in zip(down, scales[1:], strict=True):
        _set(layer, _kernels(scale, inverse=False)[..., 1:5, 1:5])
    _set(last, SCALE * _identity(last, scales[-1]))


def _set_decoder(decoder: MainDecoder, scales: list[KltScale]) -> None:
    _set(decoder.stem, _identity(decoder.stem, scales[-1]) / SCALE)
    up = (m for part in (decoder.up, decoder.head) for m in part.modules())
    layers = (layer for layer in up if isinstance(layer, nn.Conv2d))
    for layer, scale in zip(layers, scales[::-1], strict=True):
        # Before a pixel shuffle, which makes blocks of coefficients.
        blocks = F.pixel_unshuffle(_kernels(scale, inverse=True), scale.basis.shape[-1])
        _set(layer, blocks.transpose(0, 1).flip(2, 3))


def _identity(layer: nn.Conv2d, scale: KltScale) -> Tensor:
    """A 1×1 kernel for all outputs that passes on what the scale has kept."""
    return torch.eye(layer.out_channels, len(scale.basis))[..., None, None]


def _set(layer: nn.Conv2d, kernel: Tensor) -> None:
    """The first outputs of a convolution, heard of its first inputs only; no bias."""
    outputs, inputs = kernel.shape[0], min(kernel.shape[1], layer.in_channels)
    weight, bias = layer.parameters()
    weight[:outputs] = 0
    weight[:outputs, :inputs] = kernel[:, :inputs]
    nn.init.zeros_(bias)
