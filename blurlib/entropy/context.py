"""What is known before a symbol is decoded: channel, local and global context of one group."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, NamedTuple

import torch
from torch import Tensor, nn

from blurlib.entropy.attention import TransformerBlock
from blurlib.entropy.checkerboard import CheckerboardConv2d, anchor_mask
from blurlib.entropy.position import LaplacianPosition

Keys = Literal["anchors", "non-anchors"]


@dataclass(frozen=True)
class ContextConfig:
    """Sizes of the context networks.

    Attributes:
        hyper: channels of the hyperprior features h_s(ẑ).
        channel, local, attention: features of g_ch, g_ls and g_gs.
        parameters: hidden width of the parameter network g_ep.
        heads, window: of the transformer; the second block is shifted by window // 2.
        keys: which positions the transformer may look at. At "anchors" keys are embeddings of the
            decoded values; at "non-anchors" they are outputs of the local context. Both are causal.
    """

    hyper: int = 128
    channel: int = 64
    local: int = 64
    attention: int = 64
    parameters: int = 128
    heads: int = 4
    window: int = 8
    keys: Keys = "anchors"

    def __post_init__(self):
        if self.window < 2:
            raise ValueError(f"window is {self.window}: a window has a side of at least 2")
        if self.keys not in ("anchors", "non-anchors"):
            raise ValueError(f"keys is {self.keys!r}: it must be 'anchors' or 'non-anchors'")


class Gaussian(NamedTuple):
    """Parameters of each symbol: mean and log₂ of the standard deviation, (B, C, H, W) each."""

    mu: Tensor
    log2_sigma: Tensor

    def scaled(self, gain: Tensor) -> Gaussian:
        """Of gain · y instead of y; gain > 0."""
        return Gaussian(self.mu * gain, self.log2_sigma + gain.log2())


class GlobalContext(nn.Module):
    """g_gs: W-MSA then SW-MSA over tokens made of the decoded anchors.

    The token of an anchor embeds its value; the token of a non-anchor is its local context. Both
    also embed what the whole group already has (hyperprior and channel context).
    """

    def __init__(self, group: int, known: int, config: ContextConfig):
        super().__init__()
        dim, window = config.attention, config.window
        self.keys = config.keys
        self.embed_anchor = nn.Conv2d(group, dim, 1)
        self.embed_local = nn.Conv2d(config.local, dim, 1)
        self.embed_known = nn.Conv2d(known, dim, 1)
        self.position = LaplacianPosition(window)  # one A_j, σ_j for the group
        self.blocks = nn.ModuleList(
            TransformerBlock(dim, config.heads, window, shift) for shift in (0, window // 2)
        )

    def forward(self, y_anchor: Tensor, local: Tensor, known: Tensor) -> Tensor:
        anchors = anchor_mask(*y_anchor.shape[-2:], device=y_anchor.device)
        tokens = torch.where(anchors, self.embed_anchor(y_anchor), self.embed_local(local))
        tokens = (tokens + self.embed_known(known)).permute(0, 2, 3, 1)
        admissible = anchors if self.keys == "anchors" else ~anchors
        for block in self.blocks:
            tokens = block(tokens, admissible, self.position)
        return tokens.permute(0, 3, 1, 2)


class GroupContext(nn.Module):
    """Everything that predicts one channel group, in the two checkerboard passes.

    Args:
        previous: channels of all earlier groups (0 for the first).
        group: channels of this group.
    """

    def __init__(self, previous: int, group: int, config: ContextConfig):
        super().__init__()
        self.channel = _channel_context(previous, config) if previous else None
        known = config.hyper + (config.channel if previous else 0)
        self.local = CheckerboardConv2d(group, config.local)
        self.global_ = GlobalContext(group, known, config)
        self.spatial_channels = config.local + config.attention
        self.parameters_ = nn.Sequential(  # g_ep
            nn.Conv2d(known + self.spatial_channels, config.parameters, 1),
            nn.GELU(),
            nn.Conv2d(config.parameters, config.parameters, 1),
            nn.GELU(),
            nn.Conv2d(config.parameters, 2 * group, 1),
        )

    def known(self, hyper: Tensor, y_previous: Tensor) -> Tensor:
        """What both passes see: hyperprior features and the channel context g_ch(ŷ^{<j})."""
        if self.channel is None:
            return hyper
        return torch.cat([hyper, self.channel(y_previous)], 1)

    def anchor(self, known: Tensor) -> Gaussian:
        """Parameters of the first pass: no spatial context."""
        B, _, H, W = known.shape
        return self._gaussian(known, known.new_zeros(B, self.spatial_channels, H, W))

    def non_anchor(self, known: Tensor, y_anchor: Tensor) -> Gaussian:
        """Parameters of the second pass; `y_anchor` is ŷ of this group, zero at non-anchors."""
        local = self.local(y_anchor)
        return self._gaussian(known, torch.cat([local, self.global_(y_anchor, local, known)], 1))

    def _gaussian(self, known: Tensor, spatial: Tensor) -> Gaussian:
        return Gaussian(*self.parameters_(torch.cat([known, spatial], 1)).chunk(2, 1))


def _channel_context(previous: int, config: ContextConfig) -> nn.Module:
    """g_ch: two 3×3 convolutions over the groups already decoded."""
    return nn.Sequential(
        nn.Conv2d(previous, config.channel, 3, padding=1),
        nn.GELU(),
        nn.Conv2d(config.channel, config.channel, 3, padding=1),
    )
