"""Positional encodings of window attention, all behind `bias()` and `rotate(q, k)`.

An encoding may add to the logits, turn queries and keys before their product, or neither. All are
compared in the same place: one encoding per channel group, shared by its attention blocks.
"""

from __future__ import annotations

import math
from typing import Literal, get_args

import torch
from torch import Tensor, nn

Encoding = Literal["laplacian", "none", "relative", "diamond", "linear", "rotary"]
ENCODINGS: tuple[Encoding, ...] = get_args(Encoding)


def window_offsets(window: int) -> Tensor:
    """Relative positions of every key seen from every query in a square window.

    Returns:
        (window², window², 2) int64: [query, key] -> (dy, dx), tokens in row-major order.
    """
    token = _window_positions(window)
    return token[None, :, :] - token[:, None, :]


class PositionalEncoding(nn.Module):
    """How attention knows where a key lies. This base adds and turns nothing: the encoding "none".

    Args:
        window: side of the attention window, in latent positions.
    """

    distance: Tensor

    def __init__(self, window: int):
        super().__init__()
        distance = window_offsets(window).abs().sum(-1)[None]  # |dx| + |dy|
        self.register_buffer("distance", distance.float(), persistent=False)

    def bias(self) -> Tensor:
        """What is added to the logits: (1 or heads, window², window²), for [head, query, key]."""
        return torch.zeros_like(self.distance)

    def rotate(self, q: Tensor, k: Tensor) -> tuple[Tensor, Tensor]:
        """Queries and keys, (windows, heads, window², d) each, as their product shall see them."""
        return q, k


class LaplacianPosition(PositionalEncoding):
    """Laplacian-shaped positional encoding of one channel group j.

        f(dx, dy) = A_j · exp(−(|dx| + |dy|) / (2 σ_j²))

    A_j and σ_j are learned; A_j is not bounded, since a bias re-weights keys by e^{A_j} at most.
    σ_j is stored as its logarithm and so stays positive. The heads share them.

    Args:
        window: side of the attention window, in latent positions.
        amplitude, sigma: initial A_j and σ_j.
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


class LinearPosition(PositionalEncoding):
    """ALiBi's linear distance (Press et al. 2022), with |dx| + |dy| for its distance in a sequence.

        f_h(dx, dy) = −m_h · (|dx| + |dy|),    m_h = 2^(−8h/n) for head h = 1 … n

    As in the original, every head has its own slope and none is learned.
    """

    slopes: Tensor

    def __init__(self, window: int, heads: int):
        super().__init__(window)
        slopes = torch.tensor(alibi_slopes(heads))[:, None, None]
        self.register_buffer("slopes", slopes, persistent=False)

    def bias(self) -> Tensor:
        return -self.slopes * self.distance


class TablePosition(PositionalEncoding):
    """One learned value per head and class of offsets: f_h(dx, dy) = table[h, class(dy, dx)].

    Args:
        index: (window², window²) int64, class of every offset from 0, for [query, key].
    """

    index: Tensor

    def __init__(self, window: int, heads: int, index: Tensor):
        super().__init__(window)
        self.register_buffer("index", index, persistent=False)
        self.table = nn.Parameter(torch.empty(heads, int(index.max()) + 1))
        nn.init.trunc_normal_(self.table, std=0.02)  # as Swin

    def bias(self) -> Tensor:
        return self.table[:, self.index]


class RotaryPosition(PositionalEncoding):
    """Rotary encoding (Su et al. 2024) over two axes (RoPE-ViT's axial form, Heo et al. 2024).

    Of the d channels of a head, the first half turns with the row and the second with the column:
    channels 2i and 2i + 1 of a half turn as one complex number by position · base^(−i / (d/4)).
    The logits q · k then depend on positions through dy and dx alone.

    Args:
        head_dim: d, a multiple of 4.
    """

    cos: Tensor
    sin: Tensor

    def __init__(self, window: int, head_dim: int, base: float = 100.0):
        super().__init__(window)
        if head_dim < 4 or head_dim % 4:
            raise ValueError(
                f"channels per head are {head_dim}: rotary positions need a multiple of 4"
            )
        steps = torch.arange(head_dim // 4, dtype=torch.float64)
        frequency = base ** (-steps / (head_dim // 4))
        angle = (_window_positions(window)[..., None] * frequency).flatten(1)  # (window², d/2)
        # Rounded from float64: where libraries differ in its last bit, a float32 hides it.
        self.register_buffer("cos", angle.cos().float(), persistent=False)
        self.register_buffer("sin", angle.sin().float(), persistent=False)

    def rotate(self, q: Tensor, k: Tensor) -> tuple[Tensor, Tensor]:
        return self._turn(q), self._turn(k)

    def _turn(self, x: Tensor) -> Tensor:
        real, imaginary = x.unflatten(-1, (-1, 2)).unbind(-1)
        turned = (
            real * self.cos - imaginary * self.sin,
            real * self.sin + imaginary * self.cos,
        )
        return torch.stack(turned, -1).flatten(-2)


def positional_encoding(
    encoding: Encoding, window: int, heads: int, head_dim: int
) -> PositionalEncoding:
    """The encoding of that name, at its start.

    Args:
        encoding: "laplacian"; "none"; "relative" (Swin's table, one value per offset and head);
            "diamond" (Entroformer's classes: an own value inside |dx| + |dy| ≤ 3, one outside);
            "linear" (ALiBi); "rotary" (RoPE over two axes).
        window: side of the window; head_dim: channels of one of the `heads`.

    Raises:
        ValueError: an unknown name, or sizes that it cannot have.
    """
    match check_encoding(encoding):
        case "laplacian":
            return LaplacianPosition(window)
        case "none":
            return PositionalEncoding(window)
        case "relative":
            return TablePosition(window, heads, relative_index(window))
        case "diamond":
            return TablePosition(window, heads, diamond_index(window))
        case "linear":
            return LinearPosition(window, heads)
        case "rotary":
            return RotaryPosition(window, head_dim)


def check_encoding(encoding: str) -> Encoding:
    """Return `encoding` unchanged if there is one of that name, else raise ValueError."""
    if encoding not in ENCODINGS:
        allowed = ", ".join(map(repr, ENCODINGS))
        raise ValueError(f"position is {encoding!r}: it must be one of {allowed}")
    return encoding


def relative_index(window: int) -> Tensor:
    """Swin (Liu et al. 2021): a class per offset, (2·window − 1)² of them, numbered as there."""
    down, right = (window - 1 - window_offsets(window)).unbind(-1)  # Swin counts query − key
    return down * (2 * window - 1) + right


def diamond_index(window: int, radius: int = 3) -> Tensor:
    """Entroformer (Qian et al. 2022): a class per offset with |dx| + |dy| ≤ radius, one beyond.

    There the entry of a class is a vector that is multiplied with the query; here, as in all that
    this is compared with, it is a number per head. 3 is the radius of their released code.
    """
    axis = torch.arange(1 - window, window)
    inside = axis[:, None].abs() + axis.abs() <= radius
    number = torch.where(inside, inside.flatten().cumsum(0).view_as(inside) - 1, inside.sum())
    down, right = (window_offsets(window) + window - 1).unbind(-1)
    return number[down, right]


def alibi_slopes(heads: int) -> list[float]:
    """m_h = 2^(−8h/n) for n heads; where n is no power of 2, every other slope of the next power
    follows those of the power below, as in ALiBi's own code."""
    power = 2 ** (heads.bit_length() - 1)
    between = [2 ** (-4 * h / power) for h in range(1, 2 * power, 2)]
    return [2 ** (-8 * h / power) for h in range(1, power + 1)] + between[: heads - power]


def _window_positions(window: int) -> Tensor:
    """(window², 2) int64: (row, column) of every token of a window, in row-major order."""
    axis = torch.arange(window)
    return torch.cartesian_prod(axis, axis)
