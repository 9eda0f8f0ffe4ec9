"""Bands of frequencies: what pictures and coefficients look like from coarse to fine."""

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from blurlib.diffusion.dct import frequencies


@dataclass(frozen=True)
class Bands:
    """Rings of the DCT plane, coarse to fine; none is empty. Made by `radial_bands`.

    index: (H, W), int64, the band of each frequency. frequency: (n,), float64, the mean over each
    band of √λ/2π, in cycles per pixel. Band 0 is the mean of the picture alone, at frequency 0.
    """

    index: Tensor
    frequency: Tensor

    @property
    def wavelength(self) -> Tensor:
        """1 / frequency, (n,), in pixels; infinite for band 0."""
        return 1 / self.frequency

    def mean(self, values: Tensor) -> Tensor:
        """Mean of each band. values: (…, H, W), floating point. Returns (…, n)."""
        return _band_mean(values.flatten(-2), self.index.flatten(), len(self.frequency))


def radial_bands(H: int, W: int, per_octave: int = 1) -> Bands:
    """Rings that are 1/per_octave of an octave wide, after λ of `frequencies`.

    The waves of frequency k, l have √λ/2π = √(k²/H² + l²/W²)/2 cycles per pixel: 1/2 for the finest
    stripes along an axis, one wave in two pixels. With 1 per octave the bands are waves of 2–4
    pixels (and the corners of the plane, down to √2), of 4–8, 8–16, …, then the mean.

    Raises ValueError for H, W or per_octave below 1.
    """
    if min(H, W, per_octave) < 1:
        raise ValueError(f"H, W and per_octave must be at least 1, got {H}, {W} and {per_octave}")
    cycles = frequencies(H, W).sqrt() / (2 * math.pi)
    # A wave of exactly 2^n pixels opens its band, whatever the rounding of √ and log says.
    octave = torch.floor(per_octave * torch.log2(cycles) + 1e-9).clamp(max=-per_octave - 1)
    numbers, index = octave.unique(return_inverse=True)
    return Bands(index, _band_mean(cycles.flatten(), index.flatten(), len(numbers)))


def _band_mean(values: Tensor, index: Tensor, n: int) -> Tensor:
    index = index.to(values.device)
    total = values.new_zeros(*values.shape[:-1], n).index_add_(-1, index, values)
    return total / index.bincount(minlength=n)
