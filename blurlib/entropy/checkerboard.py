"""Checkerboard split of the latent (He et al. 2021, "Checkerboard Context Model").

Anchors are the positions with an even coordinate sum, the parity CompressAI calls "even":

    A N A N
    N A N A      A: decoded first, without spatial context
    A N A N      N: decoded second, seeing every anchor
"""

import torch
import torch.nn.functional as F
from torch import Tensor, nn


def anchor_mask(height: int, width: int, device: torch.device | str | None = None) -> Tensor:
    """Boolean mask (height, width), True at anchors: (row + column) even."""
    rows = torch.arange(height, device=device)[:, None]
    columns = torch.arange(width, device=device)[None, :]
    return (rows + columns) % 2 == 0


def pass_masks(
    height: int, width: int, checkerboard: bool, device: torch.device | str | None = None
) -> tuple[Tensor, ...]:
    """Boolean masks (height, width) of the passes of one group: anchors, then non-anchors; without
    a `checkerboard` everything at once. A map of one position is all anchor: a pass without a
    position is left out."""
    anchors = anchor_mask(height, width)  # not on a GPU, which would be waited for
    masks = (anchors, ~anchors) if checkerboard else (torch.ones_like(anchors),)
    return tuple(mask.to(device) for mask in masks if mask.any())


class TapConv2d(nn.Conv2d):
    """A convolution of stride 1 that keeps the size. Without gradients, in float64, it adds up one
    matrix product per tap that is not 0: laying out all neighbourhoods takes twice the time."""

    every = 1  # position of a padded map, in reading order, is an input

    def taps(self) -> Tensor:
        return self.weight

    def forward(self, x: Tensor) -> Tensor:
        weight, bias = self.taps(), self.bias
        if torch.is_grad_enabled() or x.dtype != torch.float64 or bias is None:
            return F.conv2d(x, weight, bias, padding=self.padding)
        (B, _, H, W), r, every = x.shape, self.kernel_size[0] // 2, self.every
        width = (W + 2 * r) // every * every + every - 1  # odd, where anchors are to be every other
        rows = F.pad(x, (r, width - W - r, r, r + 1)).flatten(2)[..., ::every].contiguous()
        out = bias[:, None].repeat(B, 1, H * width // every)
        for i, j in weight.any(0).any(0).nonzero().tolist():
            tap, start = weight[:, :, i, j].expand(B, -1, -1), -(-(i * width + j) // every)
            out.baddbmm_(tap, rows[..., start : start + out.shape[2]])
        if every == 2:  # the anchors have the bias alone
            found, out = out, bias[:, None].repeat(B, 1, H * width)
            out[..., 1::2] = found
        return out.unflatten(2, (H, width))[..., :W]


class CheckerboardConv2d(TapConv2d):
    """Convolution whose taps all lie at an odd distance |dy| + |dx| from the centre.

    On an input that is zero outside the anchors, its output at a non-anchor sees every anchor in
    the kernel; its output *at an anchor* is exactly its bias, because every tap falls on a zero.
    Without gradients, in float64, it looks at the anchors of its input only.
    `kernel_size` is odd; padding keeps the size.
    """

    mask: Tensor
    every = 2  # of an odd width: the anchors

    def __init__(self, in_channels: int, out_channels: int, kernel_size: int = 5):
        if kernel_size < 3 or kernel_size % 2 == 0:
            raise ValueError(
                f"kernel_size is {kernel_size}: a checkerboard kernel is odd and >= 3 (3, 5, 7 …)"
            )
        super().__init__(in_channels, out_channels, kernel_size, padding=kernel_size // 2)
        odd_taps = ~anchor_mask(kernel_size, kernel_size)  # the centre (r, r) has an even sum
        self.register_buffer("mask", odd_taps.to(self.weight.dtype), persistent=False)

    def taps(self) -> Tensor:
        return self.weight * self.mask
