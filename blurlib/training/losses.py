"""Rate–distortion loss of the codec and perceptual loss of the decoder that goes on from it."""

import math
from collections.abc import Callable, Sequence
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from blurlib.codec import BlurCodec, CodecOutput
from blurlib.codec.objective import Distance
from blurlib.codec.synthesis import DiffusionDecoder
from blurlib.diffusion import diffusion_loss
from blurlib.metrics import LPIPS_MIN_SIDE, Lpips, block_steps
from blurlib.training.config import TrainConfig
from blurlib.training.draws import Draws

# Brings an MSE of about 0.02 on [−1, 1] nearer to LPIPS. "residual" needs none: there both are in
# units of what is usual. With a tenth of it LPIPS drowned the squared error in the gradient, and
# networks hardly learned to look at the noisy picture.
DIFFUSION_SCALE = 5.0
LPIPS_FLOOR = 0.01  # of a direct picture: a flat one has next to none, and would rule the gradient
SHIFTS = 8  # pixels that LPIPS may see a picture shifted by: fewer than this


class Loss(NamedTuple):
    """What is minimised, and what it is made of by name: per photo (B,), or means of a batch."""

    total: Tensor
    parts: dict[str, Tensor]

    def mean(self) -> "Loss":
        return Loss(self.total.mean(), {name: part.mean() for name, part in self.parts.items()})


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
    codec: BlurCodec,
    x: Tensor,
    config: TrainConfig,
    draws: Draws,
    z_rate_weight: float = 1.0,
    distance: Callable[[CodecOutput], Loss] | None = None,
    lpips: Lpips | None = None,
) -> Loss:
    """R + λ·D of a batch: quality is drawn per photo, so one network learns all rates.

    Args:
        distance: D per photo; by default `distortion`.
        lpips: for an objective with LPIPS; it sees the pictures in a `random_view`.
    """
    levels = codec.config.levels
    quality = draw_quality(draws, levels)
    output = codec(x, quality, z_rate_weight, draws.uniform)
    bpp = output.estimated_bits / x[0, 0].numel()
    if distance:
        d = distance(output)
    else:
        d = distortion(output.x_hat, x, config, lpips and _viewed(lpips, draws, config))
    total = balanced(bpp, d.total, quality, levels, config)
    return Loss(total, {"bpp": bpp.mean(), **d.mean().parts})


def distortion(x_hat: Tensor, x: Tensor, config: TrainConfig, lpips: Distance | None) -> Loss:
    """D of `config.objective` of each photo, grown by `config.grid` times how far its `block_steps`
    are from the photo's: neither MSE nor MS-SSIM minds a faint grid of blocks. Both signs count:
    with an excess alone the lines become smoother than all else."""
    d = config.target.distance(x_hat, x, lpips)
    if not config.grid:
        return Loss(d, {"distortion": d})
    grid = (block_steps(x_hat) - block_steps(x)).abs().sum(1)
    return Loss(d + config.grid * d.detach() * grid, {"distortion": d, "grid": grid})


def _viewed(lpips: Lpips, draws: Draws, config: TrainConfig) -> Distance:
    view, mixed = random_view(draws), config.precision == "bf16-mixed"

    def distance(x_hat: Tensor, x: Tensor) -> Tensor:
        with torch.autocast(x.device.type, torch.bfloat16, enabled=mixed):
            return lpips(view(x_hat), view(x)).to(x)

    return distance


HELD_OUT_PARTS = (0.0, 0.2, 0.4, 0.7, 1.0)  # of the way from the lowest quality to the highest


@torch.inference_mode()
def held_out_loss(
    codec: BlurCodec, photos: Sequence[Tensor], config: TrainConfig, lpips: Lpips | None = None
) -> float:
    """R + λ·D of photos (3, H, W) in [0, 1] at five qualities with the quantisation of real files,
    so that runs with other noise, steps or optimisers can be compared: training's own rate is too
    high where σ is small. The codec has frozen tables and is in eval mode."""
    levels = codec.config.levels
    quality = 1 + (levels - 1) * torch.tensor(HELD_OUT_PARTS, dtype=torch.float64)
    losses = []
    for x in photos:
        batch = x[None].expand(len(quality), -1, -1, -1)
        output = codec(batch, quality.to(x.device))
        bpp = output.estimated_bits / x[0].numel()
        d = config.target.distance(output.x_hat, batch, lpips)
        losses.append(balanced(bpp, d, output.quality, levels, config))
    return torch.stack(losses).mean().item()


def perceptual(
    decoder: DiffusionDecoder,
    output: CodecOutput,
    x: Tensor,
    lpips: Lpips,
    config: TrainConfig,
    draws: Draws,
    unrolled: bool = False,
) -> Loss:
    """(1 − ρ) · 5 · error + ρ · LPIPS of each photo.

    The error of a diffusion is its loss at a random time, and LPIPS counts where t < `lpips_t_max`.
    That of the picture at the end of an `unrolled` chain from fresh noise is the MSE on [−1, 1].
    For "residual" 1 stands for 5, that MSE is in units of the usual error, and LPIPS in units of
    the direct picture's: it is several times smaller at the highest quality than at the lowest, and
    would not be heard there.

    `output` is the codec's for x (B, 3, H, W) in [0, 1], H and W multiples of 64.
    """
    counts: Tensor | float = 1.0
    if unrolled:
        name, x_hat = "mse", decoder.unrolled(output, lambda: draws.normal(x))
        error = (x_hat - (2 * x - 1)).square().mean((1, 2, 3))
        if decoder.process.needs_prior:
            error = error / decoder.variance(output).mean((1, 2, 3)).to(error)
    else:
        name, process = "diffusion", decoder.given(output)
        t = process.schedule.spaced(draws.strata(), config.spacing)
        counts = (t < config.lpips_t_max).to(x)
        error, x_hat = diffusion_loss(
            process, lambda seen, t: decoder.predict(seen, t.to(x), output),
            2 * x - 1, t, draws.normal(x),
        )  # fmt: skip
    viewed = _viewed(lpips, draws, config)
    distance = counts * viewed((x_hat + 1) / 2, x)
    if decoder.process.needs_prior:
        with torch.no_grad():
            usual = viewed(output.x_hat, x).clamp_min(LPIPS_FLOOR)
        distance = distance / usual
    scale = 1.0 if decoder.process.needs_prior else DIFFUSION_SCALE
    total = (1 - config.rho) * scale * error + config.rho * distance
    return Loss(total, {name: error, "lpips": distance})


def random_view(draws: Draws) -> Callable[[Tensor], Tensor]:
    """A way to look at pictures (…, H, W), drawn once for the global batch: cropped by 7 pixels at
    random sides, mirrored or not in both directions, transposed or not, and one time in three at
    half the size.

    Patterns that please LPIPS where they are please it less when seen from elsewhere (E-LPIPS:
    Kettunen et al. 2019, arXiv 1906.03973).
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
