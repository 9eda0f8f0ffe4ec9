"""Positional encodings to compare the Laplacian with, by name in `ENCODINGS` once this is imported:

"relative" (Swin's table, one value per offset and head), "diamond" (Entroformer's classes: an own
value inside |dx| + |dy| ≤ 3, one outside), "linear" (ALiBi), "rotary" (RoPE over two axes).
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from blurlib.entropy.position import (
    ENCODINGS,
    PositionalEncoding,
    window_offsets,
    window_positions,
)


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
        angle = (window_positions(window)[..., None] * frequency).flatten(1)  # (window², d/2)
        # Rounded from float64: where libraries differ in its last bit, a float32 hides it.
        self.register_buffer("cos", angle.cos().float(), persistent=False)
        self.register_buffer("sin", angle.sin().float(), persistent=False)

    def rotate(self, x: Tensor, at: Tensor | slice = slice(None)) -> Tensor:
        real, imaginary = x.unflatten(-1, (-1, 2)).unbind(-1)
        cos, sin = self.cos[at], self.sin[at]
        turned = real * cos - imaginary * sin, real * sin + imaginary * cos
        return torch.stack(turned, -1).flatten(-2)


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


ENCODINGS.update(
    relative=lambda window, heads, _: TablePosition(window, heads, relative_index(window)),
    diamond=lambda window, heads, _: TablePosition(window, heads, diamond_index(window)),
    linear=lambda window, heads, _: LinearPosition(window, heads),
    rotary=lambda window, _, head_dim: RotaryPosition(window, head_dim),
)
