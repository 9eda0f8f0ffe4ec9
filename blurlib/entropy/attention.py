"""Masked window attention on any rectangle (Swin's W-MSA and SW-MSA with a key mask)."""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from blurlib.entropy.position import PositionalEncoding


def partition(x: Tensor, window: int, shift: int) -> Tensor:
    """Cut a map into square windows, zero-padded to whole windows.

    A shifted partition pads `shift` rows and columns at the top left instead of rolling the map:
    windows at the border are then simply smaller, and nothing wraps around. (B, H, W, C) to
    (B · n_windows, window², C).
    """
    B, H, W, C = x.shape
    bottom, right = -(H + shift) % window, -(W + shift) % window
    x = F.pad(x, (0, 0, shift, right, shift, bottom))
    rows, columns = x.shape[1] // window, x.shape[2] // window
    x = x.view(B, rows, window, columns, window, C).transpose(2, 3)
    return x.reshape(B * rows * columns, window * window, C)


def merge(windows: Tensor, window: int, shift: int, size: tuple[int, int, int]) -> Tensor:
    """Inverse of `partition`: windows back to (B, H, W, C), with `size` = (B, H, W)."""
    B, H, W = size
    rows, columns = -(-(H + shift) // window), -(-(W + shift) // window)
    x = windows.view(B, rows, columns, window, window, -1).transpose(2, 3)
    x = x.reshape(B, rows * window, columns * window, -1)
    return x[:, shift : shift + H, shift : shift + W]


class WindowAttention(nn.Module):
    """Multi-head attention inside windows, over admissible keys only.

        softmax(q kᵀ / √d + f + mask) v,    mask = −∞ where the key is not admissible

    The positional encoding gives f, turns q and k, or both.
    A query with no admissible key in its window gets exactly 0 (a softmax over −∞ alone would be
    NaN, and its gradient would poison every weight).

    Args:
        dim: channels; a multiple of `heads`.
        window: side of the window; `shift`: offset of the window grid (0, or window // 2).
    """

    def __init__(self, dim: int, heads: int, window: int, shift: int):
        super().__init__()
        self.heads, self.window, self.shift = heads, window, shift
        self.qkv = nn.Linear(dim, 3 * dim)
        self.out = nn.Linear(dim, dim, bias=False)  # no bias: "no key" must stay exactly 0

    def forward(
        self,
        x: Tensor,
        admissible: Tensor,
        position: PositionalEncoding,
        wanted: Tensor | None = None,
    ) -> Tensor:
        """x: (B, H, W, C); admissible: (H, W) bool, True where a key may be looked at; position:
        of the same window; wanted: (H, W) bool, where the result is used, by default everywhere."""
        B, H, W, C = x.shape
        windows = partition(x, self.window, self.shift)
        keys = self._flags(admissible)
        # What is a key, or asks, in no window is left out: half, mostly.
        of, at = _anywhere(keys), slice(None) if wanted is None else _anywhere(self._flags(wanted))
        weight, bias = self.qkv.weight.split((C, 2 * C)), self.qkv.bias.split((C, 2 * C))
        q = F.linear(windows[:, at], weight[0], bias[0]).unflatten(-1, (self.heads, -1))
        kv = F.linear(windows[:, of], weight[1], bias[1]).unflatten(-1, (2, self.heads, -1))
        k, v = kv.permute(2, 0, 3, 1, 4)
        q, k = position.rotate(q.transpose(1, 2), at), position.rotate(k, of)
        added, has_key = self._added(keys[:, of], position.bias()[:, at][..., of], B)
        attended = F.scaled_dot_product_attention(q, k, v, attn_mask=added)
        attended = attended.transpose(1, 2).flatten(2)
        if not has_key.all():
            attended = attended * has_key
        out = windows.new_zeros(windows.shape)
        out[:, at] = self.out(attended)
        return merge(out, self.window, self.shift, (B, H, W))

    def _flags(self, where: Tensor) -> Tensor:
        """(H, W) bool in windows, (windows, window²)."""
        return partition(where[None, :, :, None], self.window, self.shift)[..., 0]

    def _added(self, keys: Tensor, f: Tensor, batch: int) -> tuple[Tensor, Tensor]:
        """f and mask, (windows, 1 or heads, query, key); has any key, (windows, 1, 1)."""
        has_key = keys.any(-1)[:, None, None]
        # Keyless windows stay finite, then × 0.
        added = f.masked_fill((~keys[:, None] & has_key)[:, None], -torch.inf)
        return added.repeat(batch, 1, 1, 1), has_key.to(f.dtype).repeat(batch, 1, 1)


def _anywhere(flags: Tensor) -> Tensor:
    """Positions of a window that have the flag in some window, as indices, which a GPU is waited
    for once; at least one: a softmax needs it."""
    positions = flags.any(0)
    positions[0] |= ~positions.any()
    return positions.nonzero().squeeze(1)


class TransformerBlock(nn.Module):
    """Pre-norm window attention and a two-layer MLP, both residual."""

    def __init__(self, dim: int, heads: int, window: int, shift: int):
        super().__init__()
        self.norm_attention = nn.LayerNorm(dim)
        self.attention = WindowAttention(dim, heads, window, shift)
        expand, project = nn.Linear(dim, 2 * dim), nn.Linear(2 * dim, dim)
        self.mlp = nn.Sequential(nn.LayerNorm(dim), expand, nn.GELU(), project)

    def forward(
        self,
        x: Tensor,
        admissible: Tensor,
        position: PositionalEncoding,
        wanted: Tensor | None = None,
    ) -> Tensor:
        """As of `WindowAttention`; what is not wanted means nothing."""
        x = x + self.attention(self.norm_attention(x), admissible, position, wanted)
        if wanted is None:
            return x + self.mlp(x)
        own = x[:, wanted]
        return x.masked_scatter(wanted[..., None], own + self.mlp(own))
