"""Positional encodings of window attention: the paper's, none, and a place for others.

An encoding may add to the logits, turn queries and keys before their product, or neither: `bias`
and `rotate`. Each channel group has its own, shared by its attention blocks.
"""

import math
from collections.abc import Callable

import torch
from torch import Tensor, nn


def window_offsets(window: int) -> Tensor:
    """(window², window², 2) int64: (dy, dx) of every [query, key], tokens in row-major order."""
    token = window_positions(window)
    return token[None, :, :] - token[:, None, :]


def window_positions(window: int) -> Tensor:
    """(window², 2) int64: (row, column) of every token of a window, in row-major order."""
    axis = torch.arange(window)
    return torch.cartesian_prod(axis, axis)


class PositionalEncoding(nn.Module):
    """How attention knows where a key lies, in windows of `window` × `window` latent positions.
    This base adds and turns nothing: the encoding "none".
    """

    distance: Tensor

    def __init__(self, window: int):
        super().__init__()
        distance = window_offsets(window).abs().sum(-1)[None]  # |dx| + |dy|
        self.register_buffer("distance", distance.float(), persistent=False)

    def bias(self) -> Tensor:
        """What is added to the logits: (1 or heads, window², window²), for [head, query, key]."""
        return torch.zeros_like(self.distance)

    def rotate(self, x: Tensor, at: Tensor | slice = slice(None)) -> Tensor:
        """Queries or keys, (windows, heads, positions, d), as their product shall see them; `at`:
        which of the window² positions they are."""
        return x


class LaplacianPosition(PositionalEncoding):
    """Laplacian-shaped positional encoding of one channel group j.

        f(dx, dy) = A_j · exp(−(|dx| + |dy|) / (2 σ_j²))

    A_j and σ_j are learned; A_j is not bounded, since a bias re-weights keys by e^{A_j} at most.
    σ_j is stored as its logarithm and so stays positive. The heads share them; `amplitude` and
    `sigma` are their values at the start.
    """

    def __init__(self, window: int, amplitude: float = 1.0, sigma: float = 1.5):
        super().__init__(window)
        self.amplitude = nn.Parameter(torch.tensor(float(amplitude)))
        self.log_sigma = nn.Parameter(torch.tensor(math.log(sigma)))

    @property
    def sigma(self) -> Tensor:
        """σ_j, in latent positions to the power 1/2 (the exponent divides a distance by σ²)."""
        return self.log_sigma.exp()

    @property
    def half_width(self) -> Tensor:
        """Distance |dx| + |dy| where f has fallen to A_j / 2: 2 σ_j² ln 2, in latent positions."""
        return 2 * math.log(2) * self.sigma**2

    def bias(self) -> Tensor:
        return self.amplitude * torch.exp(-self.distance / (2 * self.sigma**2))


# By name, what makes an encoding of (window, heads, channels per head). Those that the ablation
# compares with are added by `experiments.entropy.positional`.
ENCODINGS: dict[str, Callable[[int, int, int], PositionalEncoding]] = {
    "laplacian": lambda window, heads, head_dim: LaplacianPosition(window),
    "none": lambda window, heads, head_dim: PositionalEncoding(window),
}
