"""What is known before a symbol is decoded: channel, local and global context of one group."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal, NamedTuple, get_args

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from blurlib.entropy.attention import TransformerBlock
from blurlib.entropy.channel_groups import check_count
from blurlib.entropy.checkerboard import CheckerboardConv2d, TapConv2d
from blurlib.entropy.position import ENCODINGS
from blurlib.entropy.strips import in_strips

Keys = Literal["anchors", "non-anchors"]


@dataclass(frozen=True)
class ContextConfig:
    """Which contexts predict a symbol, and their sizes.

    A context of size 0 is off: it has no parameters and takes no pass. With `local` and `attention`
    both off there is no checkerboard, and a group takes one pass instead of two.

    Attributes:
        hyper: channels of the hyperprior features h_s(ẑ).
        channel, local, attention: features of g_ch, g_ls and g_gs; 0 switches one off.
        parameters: hidden width of the parameter network g_ep.
        heads, window: of the transformer; the second block is shifted by window // 2.
        keys: which positions the transformer may look at. At "anchors" keys are embeddings of the
            decoded values; at "non-anchors" they are outputs of the local context. Both are causal.
        position: positional encoding of the transformer: "laplacian" or "none".

    Raises:
        ValueError: a combination that cannot work; the message names the field and what it may be.
    """

    hyper: int = 128
    channel: int = 64
    local: int = 64
    attention: int = 64
    parameters: int = 128
    heads: int = 4
    window: int = 8
    keys: Keys = "anchors"
    position: str = "laplacian"

    def __post_init__(self):
        minima = {"hyper": 1, "channel": 0, "local": 0, "attention": 0, "parameters": 1}
        for name, least in {**minima, "heads": 1, "window": 2}.items():
            check_count(name, getattr(self, name), least)
        if self.keys not in get_args(Keys):
            raise ValueError(f"keys is {self.keys!r}: it must be 'anchors' or 'non-anchors'")
        if self.position not in ENCODINGS:
            allowed = ", ".join(map(repr, ENCODINGS))
            raise ValueError(f"position is {self.position!r}: it must be one of {allowed}")
        if self.attention % self.heads:
            allowed = f"0 or a multiple of {self.heads} (heads)"
            raise ValueError(f"attention is {self.attention}: it must be {allowed}")
        if self.attention and self.keys == "non-anchors" and not self.local:
            raise ValueError(
                "keys is 'non-anchors' and local is 0: without local context the non-anchors know "
                "nothing of the anchors; make keys 'anchors' or local at least 1"
            )

    @property
    def checkerboard(self) -> bool:
        """Whether a group takes two passes, anchors and non-anchors."""
        return self.local > 0 or self.attention > 0


class Gaussian(NamedTuple):
    """Parameters of each symbol of a pass: mean and log₂ of the standard deviation, (B, C,
    positions) each."""

    mu: Tensor
    log2_sigma: Tensor

    def scaled(self, gain: Tensor) -> "Gaussian":
        """Of gain · y instead of y; gain > 0."""
        return Gaussian(self.mu * gain, self.log2_sigma + gain.log2())


class GlobalContext(nn.Module):
    """g_gs: W-MSA then SW-MSA over tokens made of the positions seen so far, the anchors.

    The token of an anchor embeds its value, where anchors are the keys; the token of a non-anchor
    embeds its local context, if there is one. Both also embed what the whole group already has
    (hyperprior and channel context).
    """

    def __init__(self, group: int, known: int, config: ContextConfig):
        super().__init__()
        dim, window, heads = config.attention, config.window, config.heads
        self.keys, self.window = config.keys, window
        self.embed_anchor = nn.Conv2d(group, dim, 1) if config.keys == "anchors" else None
        self.embed_local = nn.Conv2d(config.local, dim, 1) if config.local else None
        self.embed_known = nn.Conv2d(known, dim, 1)
        # One for the group: of the Laplacian, A_j and σ_j.
        self.position = ENCODINGS[config.position](window, heads, dim // heads)
        blocks = (TransformerBlock(dim, heads, window, shift) for shift in (0, window // 2))
        self.blocks = nn.ModuleList(blocks)

    def forward(self, y: Tensor, seen: Tensor, local: Tensor | None, *known: Tensor) -> Tensor:
        """y: of the group, as far as it was `seen`, (H, W) bool; the result is for elsewhere."""
        tokens = self.embed_known(torch.cat(known, 1))
        if self.embed_anchor is not None:
            tokens = tokens + torch.where(seen, self.embed_anchor(y), 0)
        if self.embed_local is not None:
            tokens = tokens + torch.where(seen, 0, self.embed_local(local))
        tokens = tokens.permute(0, 2, 3, 1)
        admissible = seen if self.keys == "anchors" else ~seen
        first, last = self.blocks
        tokens = last(first(tokens, admissible, self.position), admissible, self.position, ~seen)
        return tokens.permute(0, 3, 1, 2)


class GroupContext(nn.Module):
    """Everything that predicts one channel group, in one pass or two (checkerboard).

    `previous` counts the channels of all earlier groups, `group` those of this one. Contexts that
    are off are None here.
    """

    def __init__(self, previous: int, group: int, config: ContextConfig):
        super().__init__()
        has_channel = previous > 0 and config.channel > 0
        known = config.hyper + (config.channel if has_channel else 0)
        # The paper's g_ch, g_ls, g_gs and g_ep.
        self.channel = _channel_context(previous, config.channel) if has_channel else None
        self.local = CheckerboardConv2d(group, config.local) if config.local else None
        self.global_ = GlobalContext(group, known, config) if config.attention else None
        # Numbers per position that the channel context lays out, and that g_ep sees.
        self.taps = 9 * max(previous, config.channel)
        self.width = known + config.local + config.attention
        self.parameters_ = nn.Sequential(
            _HeardSoFar(self.width, config.parameters, 1),
            nn.GELU(),
            nn.Conv2d(config.parameters, config.parameters, 1),
            nn.GELU(),
            nn.Conv2d(config.parameters, 2 * group, 1),
        )

    def known(self, hyper: Tensor, y_previous: Tensor) -> tuple[Tensor, ...]:
        """What all passes see: hyperprior features and the channel context g_ch(ŷ^{<j})."""
        if self.channel is None:
            return (hyper,)
        return hyper, in_strips(self.channel, y_previous, width=self.taps, halo=2)

    def gaussian(
        self,
        known: tuple[Tensor, ...],
        mask: Tensor,
        decoded: tuple[Tensor, Tensor] | None = None,
    ) -> Gaussian:
        """Parameters of a pass at the positions of its mask, (H, W). decoded: (ŷ of this group, 0
        where it is not known; (H, W), where it is), of which the first pass has none."""
        contexts = (*known, *self._spatial(*decoded, known)) if decoded else known

        def estimated(rows: Tensor, columns: Tensor) -> Tensor:
            return self.parameters_(torch.cat([x[..., rows, columns] for x in contexts], 1))

        at = mask.nonzero().unsqueeze(-1).unbind(1)  # as a map of one column
        outputs = in_strips(estimated, *at, width=4 * self.width)
        return Gaussian(*outputs.squeeze(-1).chunk(2, 1))

    def _spatial(self, y: Tensor, seen: Tensor, known: tuple[Tensor, ...]) -> Iterator[Tensor]:
        """Local and global context, as far as there are."""
        local = None
        if self.local is not None:
            taps = self.local.weight[0].numel()
            # Strips must begin with an anchor.
            yield (local := in_strips(self.local, y, width=taps, halo=2, align=2))
        if self.global_ is not None:
            side = self.global_.window  # its second block reaches half-way into the next ones
            yield in_strips(self.global_, y, seen, local, *known, width=512, halo=side, align=side)


class _HeardSoFar(nn.Conv2d):
    """A 1×1 convolution whose last inputs may be missing: what they are 0 for costs nothing."""

    def forward(self, x: Tensor) -> Tensor:
        return F.conv2d(x, self.weight[:, : x.shape[1]], self.bias)


def _channel_context(previous: int, width: int) -> nn.Module:
    """g_ch: two 3×3 convolutions over the groups already decoded."""
    first = TapConv2d(previous, width, 3, padding=1)
    return nn.Sequential(first, nn.GELU(), TapConv2d(width, width, 3, padding=1))
