"""What is known of a picture before its diffusion: the decoded one, and how wrong it usually is."""

import math
from typing import NamedTuple

import torch
from torch import Tensor

from blurlib.diffusion.dct import dct2, frequencies

ROWS = 64  # of a variance that are computed at once
BANDS = 18  # half octaves, from 1/√2 cycles per pixel (the finest diagonal) down to waves of 512


class Prior(NamedTuple):
    """u_x ~ N(mean, variance), every frequency by itself.

    Attributes:
        mean: (B, 3, H, W), DCT of the decoded picture, pixels in [−1, 1].
        variance: (B, 1, H, W), float64, above 0: the expected squared error of the mean.
    """

    mean: Tensor
    variance: Tensor


def error_spectrum(error: Tensor) -> Tensor:
    """Mean power of each band of frequencies, in logarithms: (BANDS,), float64, finest first.

    The error is (N, C, H, W), pixels; its mean is in the last band. Bands of waves longer than the
    pictures get the power of the longest ones there are. Raises ValueError where the error is 0
    throughout a band.
    """
    power = dct2(error).double().square().mean(dim=(0, 1)).flatten()
    band = _band(*error.shape[-2:]).round().long().flatten().to(power.device)
    count = band.bincount(minlength=BANDS)
    total = power.new_zeros(BANDS).index_add_(0, band, power)
    present = count > 0
    mean = (total[present] / count[present]).cpu()
    if not (mean > 0).all():
        raise ValueError("the error is 0 throughout a band of frequencies: it has no logarithm")
    last = present.cumsum(0).cpu() - 1  # the band itself, or the next finer one that is there
    return mean.log()[last.clamp(min=0)]


def error_variance(spectra: Tensor, quality: Tensor, H: int, W: int) -> Tensor:
    """The variance of a `Prior` for pictures of H×W, (B, 1, H, W), float64: linear in logarithms
    between the bands and between the qualities.

    Args:
        spectra: (levels, BANDS), of `error_spectrum`, one per quality 1 … levels.
        quality: (B,), from 1 to levels; ValueError for any other.
    """
    if not ((quality >= 1) & (quality <= len(spectra))).all():
        known = f"qualities 1 to {len(spectra)}"
        raise ValueError(f"the errors are known for {known}, got {quality.tolist()}")
    by_band = _between(spectra.double(), quality.to(spectra.device).double() - 1)
    band = _band(H, W).to(spectra.device)
    variance = band.new_empty(len(by_band), 1, H, W)
    for own, row in zip(variance[:, 0], by_band, strict=True):
        for at in range(0, H, ROWS):  # few at a time: what lies between takes memory
            own[at : at + ROWS] = _between(row, band[at : at + ROWS]).exp_()
    return variance


def _band(H: int, W: int) -> Tensor:
    """Half octaves below 1/√2 cycles per pixel, (H, W), float64, at most BANDS − 1."""
    cycles = frequencies(H, W).sqrt_().div_(2 * math.pi)
    return cycles.log2_().mul_(-2).sub_(1).clamp_(0, BANDS - 1)


def _between(rows: Tensor, position: Tensor) -> Tensor:
    """Rows (n, …) at real positions from 0 to n − 1, linear in between: (*position.shape, …)."""
    below = position.floor().long().clamp(max=len(rows) - 2)
    part = (position - below).reshape(*position.shape, *[1] * (rows.ndim - 1))
    return torch.lerp(rows[below], rows[below + 1], part)
