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
        if window < 1:
            raise ValueError(f"window is {window}: a window has at least 1 position")
        if dim % heads:
            raise ValueError(f"dim is {dim}: it must be a multiple of heads = {heads}")
        self.heads, self.window, self.shift = heads, window, shift
        self.qkv = nn.Linear(dim, 3 * dim)
        self.out = nn.Linear(dim, dim, bias=False)  # no bias: "no key" must stay exactly 0

    def forward(self, x: Tensor, admissible: Tensor, position: PositionalEncoding) -> Tensor:
        """x: (B, H, W, C); admissible: (H, W) bool, True where a key may be looked at; position:
        of the same window."""
        B, H, W, C = x.shape
        windows = partition(x, self.window, self.shift)
        qkv = self.qkv(windows).unflatten(-1, (3, self.heads, C // self.heads))
        q, k, v = qkv.permute(2, 0, 3, 1, 4)
        q, k = position.rotate(q, k)
        keys = partition(admissible[None, :, :, None].to(x.dtype), self.window, self.shift)
        keys = keys[:, None, None, :, 0].bool()
        somewhere = keys[:, 0, 0].any(0)  # what is a key in no window is left out: half, mostly
        somewhere[0] = True  # a softmax needs one
        bias, has_key = self._bias(keys[..., somewhere], position.bias()[..., somewhere], B)
        k, v = k[:, :, somewhere], v[:, :, somewhere]
        attended = F.scaled_dot_product_attention(q, k, v, attn_mask=bias)
        attended = attended.transpose(1, 2).flatten(2)
        if not has_key.all():
            attended = attended * has_key
        return merge(self.out(attended), self.window, self.shift, (B, H, W))

    def _bias(self, keys: Tensor, f: Tensor, batch: int) -> tuple[Tensor, Tensor]:
        """Bias (windows, 1 or heads, query, key); which windows have a key (windows, 1, 1)."""
        has_key = keys.any(-1, keepdim=True)
        bias = f.masked_fill(~keys & has_key, -torch.inf)  # keyless windows stay finite, then × 0
        return bias.repeat(batch, 1, 1, 1), has_key[:, 0].to(f.dtype).repeat(batch, 1, 1)


class TransformerBlock(nn.Module):
    """Pre-norm window attention and a two-layer MLP, both residual."""

    def __init__(self, dim: int, heads: int, window: int, shift: int):
        super().__init__()
        self.norm_attention = nn.LayerNorm(dim)
        self.attention = WindowAttention(dim, heads, window, shift)
        expand, project = nn.Linear(dim, 2 * dim), nn.Linear(2 * dim, dim)
        self.mlp = nn.Sequential(nn.LayerNorm(dim), expand, nn.GELU(), project)

    def forward(self, x: Tensor, admissible: Tensor, position: PositionalEncoding) -> Tensor:
        x = x + self.attention(self.norm_attention(x), admissible, position)
        return x + self.mlp(x)
