"""Positional encodings: a bias over relative positions, added to the attention logits."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn


def window_offsets(window: int) -> Tensor:
    """Relative positions of every key seen from every query in a square window.

    Returns:
        (window², window², 2) int64: [query, key] -> (dy, dx), tokens in row-major order.
    """
    axis = torch.arange(window)
    token = torch.cartesian_prod(axis, axis)
    return token[None, :, :] - token[:, None, :]


class LaplacianPosition(nn.Module):
    """Laplacian-shaped positional encoding of one channel group j.

        f(dx, dy) = A_j · exp(−(|dx| + |dy|) / (2 σ_j²))

    A_j and σ_j are learned; A_j is not bounded, since a bias re-weights keys by e^{A_j} at most.
    σ_j is stored as its logarithm and so stays positive.

    Args:
        window: side of the attention window, in latent positions.
        amplitude, sigma: initial A_j and σ_j.
    """

    distance: Tensor

    def __init__(self, window: int, amplitude: float = 1.0, sigma: float = 1.5):
        super().__init__()
        self.amplitude = nn.Parameter(torch.tensor(float(amplitude)))
        self.log_sigma = nn.Parameter(torch.tensor(math.log(sigma)))
        distance = window_offsets(window).abs().sum(-1)
        self.register_buffer("distance", distance.float(), persistent=False)

    @property
    def sigma(self) -> Tensor:
        """σ_j, in latent positions to the power 1/2 (the exponent divides a distance by σ²)."""
        return self.log_sigma.exp()

    @property
    def half_width(self) -> Tensor:
        """Distance |dx| + |dy| where f has fallen to A_j / 2: 2 σ_j² ln 2, in latent positions."""
        return 2 * math.log(2) * self.sigma**2

    def forward(self) -> Tensor:
        """Bias (window², window²), for [query, key]."""
        return self.amplitude * torch.exp(-self.distance / (2 * self.sigma**2))
