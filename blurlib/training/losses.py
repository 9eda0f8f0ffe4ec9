"""Rate–distortion loss of the codec and perceptual diffusion loss of the denoiser."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from blurlib.codec import BlurCodec, CodecOutput
from blurlib.codec.synthesis import DeterministicDecoder, DiffusionDecoder
from blurlib.diffusion import diffusion_loss
from blurlib.metrics import LPIPS_MIN_SIDE, Lpips
from blurlib.training.config import TrainConfig
from blurlib.training.draws import Draws

# Brings an MSE of about 0.02 on [−1, 1] nearer to LPIPS. "residual" needs none: there both are in
# units of what is usual. With a tenth of that weight LPIPS drowned the squared error in
# its gradient, and networks hardly learned to look at the noisy picture.
DIFFUSION_SCALE = 5.0
LPIPS_FLOOR = 0.01  # of a direct picture: a flat one has next to none, and would rule the gradient
SHIFTS = 8  # pixels that LPIPS may see a picture shifted by: fewer than this


class RateDistortion(NamedTuple):
    """R + λ·D of a batch and its parts, each the mean over the batch."""

    loss: Tensor
    bpp: Tensor
    distortion: Tensor


def draw_quality(draws: Draws, levels: int) -> Tensor:
    """One real quality per photo, (B,) float64: one in each equal part of [1, levels], so that
    every (global) batch spans the rates."""
    return 1 + (levels - 1) * draws.strata()


def balanced(bpp: Tensor, d: Tensor, quality: Tensor, levels: int, config: TrainConfig) -> Tensor:
    """Mean of (R + λ·D) / √(λ/λ_mid): at the optimum R + λ·D grows about as fast as √λ, and
    without the division the highest rates would rule the gradient. All (B,)."""
    weight = config.target.lmbda(quality, levels).to(d)
    middle = math.sqrt(config.lmbda_min * config.lmbda_max)
    return ((bpp + weight * d) * (middle / weight).sqrt()).mean()


def rate_distortion(
    codec: BlurCodec, x: Tensor, config: TrainConfig, draws: Draws, z_rate_weight: float = 1.0
) -> RateDistortion:
    """Loss of one batch: quality is drawn per photo, so one network learns all rates."""
    levels = codec.config.levels
    quality = draw_quality(draws, levels)
    output = codec(x, quality, z_rate_weight, draws.uniform)
    bpp = output.estimated_bits / x[0, 0].numel()
    d = config.target.distance(output.x_hat, x)
    loss = balanced(bpp, d, quality, levels, config)
    return RateDistortion(loss, bpp.mean(), d.mean())


HELD_OUT_PARTS = (0.0, 0.2, 0.4, 0.7, 1.0)  # of the way from the lowest quality to the highest


@torch.inference_mode()
def held_out_loss(codec: BlurCodec, photos: Sequence[Tensor], config: TrainConfig) -> float:
    """`rate_distortion` at five qualities with the quantisation of real files, so that runs with
    other noise, steps or optimisers can be compared. Training's own rate is too high where σ is
    small.

    Args:
        codec: with frozen tables, in eval mode.
        photos: (3, H, W) in [0, 1].
    """
    levels = codec.config.levels
    quality = 1 + (levels - 1) * torch.tensor(HELD_OUT_PARTS, dtype=torch.float64)
    losses = []
    for x in photos:
        batch = x[None].expand(len(quality), -1, -1, -1)
        output = codec(batch, quality.to(x.device))
        bpp = output.estimated_bits / x[0].numel()
        d = config.target.distance(output.x_hat, batch)
        losses.append(balanced(bpp, d, output.quality, levels, config))
    return torch.stack(losses).mean().item()


class PerceptualDiffusion(NamedTuple):
    """(1 − ρ) · 5 · diffusion + ρ · LPIPS and its parts, per photo (B,); for "residual", 1 stands
    for 5."""

    loss: Tensor
    diffusion: Tensor
    lpips: Tensor


def perceptual_diffusion(
    decoder: DiffusionDecoder,
    output: CodecOutput,
    x: Tensor,
    lpips: Lpips,
    config: TrainConfig,
    draws: Draws,
) -> PerceptualDiffusion:
    """Loss of each photo at a random time; LPIPS counts where t < `lpips_t_max`.

    Args:
        output: of the codec for x.
        x: (B, 3, H, W) in [0, 1], H and W multiples of 64.
    """
    process = decoder.given(output)
    t = process.schedule.spaced(draws.strata(), config.spacing)
    result = diffusion_loss(
        process,
        lambda seen, t: decoder.predict(seen, t.to(x), output),
        2 * x - 1,
        t,
        draws.normal(x),
        config.loss_weight or None,
    )
    weight = (t < config.lpips_t_max).to(x)
    perceptual = weight * _perceptual(result.x_hat, output, x, lpips, config, draws)
    scale = _scale(config)
    loss = (1 - config.rho) * scale * result.per_sample + config.rho * perceptual
    return PerceptualDiffusion(loss, result.per_sample, perceptual)


def _scale(config: TrainConfig) -> float:
    return 1.0 if config.prediction == "residual" else DIFFUSION_SCALE


def _perceptual(
    x_hat: Tensor,
    output: CodecOutput,
    x: Tensor,
    lpips: Lpips,
    config: TrainConfig,
    draws: Draws,
) -> Tensor:
    """LPIPS per photo, x̂ in [−1, 1]; for "residual" in units of that of the direct picture: it is
    several times smaller at the highest quality than at the lowest, and would not be heard there.
    """
    view = random_view(draws)
    seen = view(x)
    perceptual = lpips(view((x_hat + 1) / 2), seen)
    if config.prediction != "residual":
        return perceptual
    with torch.no_grad():
        usual = lpips(view(output.x_hat), seen).clamp_min(LPIPS_FLOOR)
    return perceptual / usual


def random_view(draws: Draws) -> Callable[[Tensor], Tensor]:
    """A way to look at pictures (…, H, W), drawn once for the global batch: cropped by 7 pixels at
    random sides, mirrored or not in both directions, transposed or not, and one time in three at
    half the size.

    A network learns patterns that please the network of LPIPS where they are, and no other. Seen
    from elsewhere, fewer of them do (E-LPIPS: Kettunen et al. 2019, arXiv 1906.03973).
    """
    starts = draws.shared(SHIFTS), draws.shared(SHIFTS)
    rows, columns = (slice(start, start + 1 - SHIFTS or None) for start in starts)
    flipped = [axis for axis in (-2, -1) if draws.shared(2)]
    transposed, halved = draws.shared(2) == 0, draws.shared(3) == 0

    def view(x: Tensor) -> Tensor:
        x = x[..., rows, columns].flip(flipped)
        x = x.mT if transposed else x
        return F.avg_pool2d(x, 2) if halved and min(x.shape[-2:]) >= 2 * LPIPS_MIN_SIDE else x

    return view


class PerceptualRegression(NamedTuple):
    """(1 − ρ) · 5 · MSE + ρ · LPIPS and its parts, per photo (B,); MSE on [−1, 1]. For "residual",
    MSE in units of the usual error and LPIPS in units of the direct picture's."""

    loss: Tensor
    mse: Tensor
    lpips: Tensor


def perceptual_regression(
    decoder: DeterministicDecoder,
    output: CodecOutput,
    x: Tensor,
    lpips: Lpips,
    config: TrainConfig,
    draws: Draws,
) -> PerceptualRegression:
    """`perceptual_diffusion` without noise and time; arguments as there."""
    x_hat, unit = decoder.predict(output)
    mse = ((x_hat - (2 * x - 1)) / unit).square().mean((1, 2, 3))
    perceptual = _perceptual(x_hat, output, x, lpips, config, draws)
    loss = (1 - config.rho) * _scale(config) * mse + config.rho * perceptual
    return PerceptualRegression(loss, mse, perceptual)


class RatePerception(NamedTuple):
    """R + λ·D with the perceptual D of a batch, and the parts, each the mean over the batch."""

    loss: Tensor
    bpp: Tensor
    diffusion: Tensor
    lpips: Tensor


def rate_perception(
    codec: BlurCodec,
    decoder: DiffusionDecoder,
    x: Tensor,
    lpips: Lpips,
    config: TrainConfig,
    draws: Draws,
    z_rate_weight: float = 1.0,
) -> RatePerception:
    """R + λ·[(1 − ρ) · 5 · diffusion + ρ · LPIPS]: the paper's objective, codec and denoiser at
    once, λ drawn per photo as in `rate_distortion`."""
    levels = codec.config.levels
    quality = draw_quality(draws, levels)
    output = codec(x, quality, z_rate_weight, draws.uniform)
    bpp = output.estimated_bits / x[0, 0].numel()
    d = perceptual_diffusion(decoder, output, x, lpips, config, draws)
    loss = balanced(bpp, d.loss, quality, levels, config)
    return RatePerception(loss, bpp.mean(), d.diffusion.mean(), d.lpips.mean())
