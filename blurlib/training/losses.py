"""Rate–distortion loss of the codec and perceptual diffusion loss of the denoiser."""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
from torch import Tensor

from blurlib.codec import BlurCodec, CodecOutput
from blurlib.codec.synthesis import DiffusionDecoder
from blurlib.diffusion import diffusion_loss
from blurlib.metrics import Lpips, MsSsimLoss
from blurlib.training.config import TrainConfig

DIFFUSION_SCALE = 5.0  # brings an MSE of about 0.02 on [−1, 1] nearer to the size of LPIPS


class RateDistortion(NamedTuple):
    """R + λ·D of a batch and its parts, each the mean over the batch."""

    loss: Tensor
    bpp: Tensor
    distortion: Tensor


def draw_quality(batch: int, levels: int, device: torch.device) -> Tensor:
    """One real quality per photo, (batch,) float64: one in each of `batch` equal parts of
    [1, levels], so that every batch spans the rates."""
    part = torch.arange(batch, device=device)
    drawn = torch.rand(batch, dtype=torch.float64, device=device)
    return 1 + (levels - 1) * (part + drawn) / batch


def lmbda(quality: Tensor, levels: int, config: TrainConfig) -> Tensor:
    """λ(q) = λ_min^{1−t} · λ_max^t, t = (q − 1)/(levels − 1)."""
    ratio = config.lmbda_max / config.lmbda_min
    return config.lmbda_min * ratio ** ((quality - 1) / (levels - 1))


def distortion(x_hat: Tensor, x: Tensor, objective: str) -> Tensor:
    """D per photo (B,): 1 − MS-SSIM, or 255² · MSE."""
    if objective == "ms-ssim":
        return MsSsimLoss()(x_hat, x)
    return 255**2 * (x_hat - x).square().mean((1, 2, 3))


def rate_distortion(
    codec: BlurCodec, x: Tensor, config: TrainConfig, z_rate_weight: float = 1.0
) -> RateDistortion:
    """Loss of one batch: quality is drawn per photo, so one network learns all rates.

    (R + λ·D) / √(λ/λ_mid): at the optimum R + λ·D grows about as fast as √λ, and without the
    division the highest rates would rule the gradient.
    """
    levels = codec.config.levels
    quality = draw_quality(len(x), levels, x.device)
    output = codec(x, quality, z_rate_weight)
    bpp = output.estimated_bits / x[0, 0].numel()
    d = distortion(output.x_hat, x, config.objective)
    weight = lmbda(quality, levels, config).to(d)
    middle = math.sqrt(config.lmbda_min * config.lmbda_max)
    loss = (bpp + weight * d) * (middle / weight).sqrt()
    return RateDistortion(loss.mean(), bpp.mean(), d.mean())


class PerceptualDiffusion(NamedTuple):
    """(1 − ρ) · 5 · diffusion + ρ · LPIPS and its parts, each the mean over the batch."""

    loss: Tensor
    diffusion: Tensor
    lpips: Tensor


def perceptual_diffusion(
    decoder: DiffusionDecoder, output: CodecOutput, x: Tensor, lpips: Lpips, config: TrainConfig
) -> PerceptualDiffusion:
    """Loss of one batch at random times; LPIPS counts where t < `lpips_t_max`.

    Args:
        output: of the frozen codec for x.
        x: (B, 3, H, W) in [0, 1], H and W multiples of 64.
    """
    B = len(x)
    t = (torch.rand(B, device=x.device) + torch.arange(B, device=x.device)) / B  # stratified
    eps = torch.randn_like(x)
    result = diffusion_loss(
        decoder.process,
        lambda z_t, t: decoder.predict(z_t, t, output.reconstruction),
        2 * x - 1,
        t,
        eps,
    )
    weight = (t < config.lpips_t_max).to(x)
    perceptual = (weight * lpips((result.x_hat + 1) / 2, x)).mean()
    diffusion = result.per_sample.mean()
    loss = (1 - config.rho) * DIFFUSION_SCALE * diffusion + config.rho * perceptual
    return PerceptualDiffusion(loss, diffusion, perceptual)
