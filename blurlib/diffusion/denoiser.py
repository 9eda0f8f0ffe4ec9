"""The conditional U-Net of the perceptual decoder: one class, from CPU size to the paper's."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import islice, pairwise

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from blurlib.diffusion.prior import BANDS


@dataclass(frozen=True)
class DenoiserConfig:
    """The shape of a `Denoiser`. Raises ValueError, naming the field, for a shape that cannot be.

    Attributes:
        patch: pixels per side folded into channels before the first layer (1 = none); scale i of
            the network, i = 0 … len(widths)−1, is at 1/(patch · 2^i) of full resolution.
        widths: channels of each scale, finest first.
        blocks: blocks per scale on the way down, and as many on the way up.
        cond_channels: channels of the feature map concatenated at each scale, 0 for none; scales
            left out at the coarse end have none.
        image_channels: of z_t, of base and of the output.
        residual_to_base: the output is base + what the network computes; for x-prediction only,
            since anything else that is predicted is no picture.
        gated: the output also gets gate ⊙ z_t, with a gate per value that the network computes:
            noise then need not pass through layers that hold fewer values than it has.
        error_levels: qualities of the codec whose error spectra are kept with the weights, as
            `error_spectra`, for "residual"; 0 for none.
        told: channels of one more map, concatenated where the coarsest feature map is: what else
            is known of the picture. They need error_levels; 0 for none.
    """

    patch: int
    widths: tuple[int, ...]
    blocks: int
    cond_channels: tuple[int, ...] = ()
    image_channels: int = 3
    residual_to_base: bool = True
    gated: bool = False
    error_levels: int = 0
    told: int = 0

    def __post_init__(self) -> None:
        for name in ("patch", "blocks", "image_channels"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} must be at least 1, got {getattr(self, name)}")
        if self.error_levels < 0 or self.error_levels == 1:
            raise ValueError(f"error_levels must be 0, or 2 or more, got {self.error_levels}")
        if not self.widths or min(self.widths) < 1:
            raise ValueError(f"widths must hold positive channel counts, got {self.widths}")
        if len(self.cond_channels) > len(self.widths) or min(self.cond_channels, default=0) < 0:
            raise ValueError(
                f"cond_channels must hold at most {len(self.widths)} counts of 0 or more, "
                f"one per width, got {self.cond_channels}"
            )
        if self.told and not (self.told > 0 and self.error_levels and any(self.cond_channels)):
            raise ValueError(
                "told must be 0, or above 0 with error_levels and cond_channels above 0 too, "
                f"got {self.told}"
            )

    @classmethod
    def small(cls) -> "DenoiserConfig":
        """Nothing at full resolution; conditioned at H/8 and H/16. About 13 kMAC per pixel."""
        return cls(patch=4, widths=(64, 128, 192), blocks=2, cond_channels=(0, 128, 192))

    @classmethod
    def paper(cls) -> "DenoiserConfig":
        """Widths 64·(1..6) from full resolution down, conditioned at H/2 … H/16: `base` at the
        finest scale, then the main decoder's four."""
        return cls(1, (64, 128, 192, 256, 320, 384), 2, cond_channels=(0, 64, 128, 192, 256))

    @property
    def maps(self) -> list[tuple[int, ...]]:
        """Channels of the maps that are concatenated at each scale, finest first."""
        maps: list[tuple[int, ...]] = [(n,) if n else () for n in self.cond_channels]
        if self.told:
            maps[max(i for i, own in enumerate(maps) if own)] += (self.told,)
        return maps + [()] * (len(self.widths) - len(maps))

    @property
    def multiple(self) -> int:
        """Height and width must be multiples of this: patch · 2^(len(widths)−1)."""
        return self.patch * 2 ** (len(self.widths) - 1)

    @property
    def bytes_per_pixel(self) -> int:
        """Memory of an evaluation without gradients, per pixel of a picture, from 256² up: a bound.

        float32: 14 feature maps of the largest scale (8 by count; the allocator and the
        convolutions' copies bring it up to 14 as measured on CPUs), the other scales' skip
        connections, and what goes in and out.
        """
        scales = [width / (self.patch * 2**i) ** 2 for i, width in enumerate(self.widths)]
        return math.ceil(4 * (14 * max(scales) + sum(scales[1:]) + 4 * self.image_channels))


def time_features(t: Tensor, n: int) -> Tensor:
    """(B, n), n even: cos and sin of 1000 t · 10000^(−2i/n), i = 0 … n/2−1, for t (B,) in [0, 1]
    (Ho et al. 2020, arXiv 2006.11239)."""
    exponents = torch.arange(n // 2, device=t.device, dtype=torch.float32) / (n // 2)
    angles = 1000 * t.float()[:, None] * torch.exp(-math.log(10_000) * exponents)
    return torch.cat([angles.cos(), angles.sin()], dim=1)


def zero(*layers: nn.Module) -> None:
    """Let layers start as 0, bias included."""
    for layer in layers:
        for parameter in layer.parameters():
            nn.init.zeros_(parameter)


class ChannelNorm(nn.LayerNorm):
    """LayerNorm over the channels of each pixel of (B, C, H, W): local, so tiles do not notice."""

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x.permute(0, 2, 3, 1)).permute(0, 3, 1, 2)


def exact(layer: nn.Module, x: Tensor) -> Tensor:
    """A layer without autocast. On CPUs the backward pass of a depthwise convolution is slow in
    bfloat16: three times as long as in float32."""
    with torch.autocast(x.device.type, enabled=False):
        return layer(x.float() if x.dtype == torch.bfloat16 else x)


class Block(nn.Module):
    """x + W₂ (a ⊙ gelu(b)), (a, b) = W₁ FiLM_t(norm(depthwise 5×5 (x))); starts as the identity.

    FiLM_t(h) = h · (1 + scale(t)) + shift(t), one scale and shift per channel.
    """

    def __init__(self, channels: int, time_channels: int) -> None:
        super().__init__()
        self.spatial = nn.Conv2d(channels, channels, 5, padding=2, groups=channels)
        self.norm = ChannelNorm(channels)
        self.film = nn.Linear(time_channels, 2 * channels)
        self.expand = nn.Conv2d(channels, 2 * channels, 1)
        self.project = nn.Conv2d(channels, channels, 1)
        zero(self.film, self.project)

    def forward(self, x: Tensor, time: Tensor) -> Tensor:
        scale, shift = self.film(time)[:, :, None, None].chunk(2, dim=1)
        h = self.norm(exact(self.spatial, x)) * (1 + scale) + shift
        a, b = self.expand(h).chunk(2, dim=1)
        return x + self.project(a * F.gelu(b))


class Blocks(nn.ModuleList):
    """`count` blocks in a row, all told the time."""

    def __init__(self, count: int, channels: int, time_channels: int) -> None:
        super().__init__(Block(channels, time_channels) for _ in range(count))

    def forward(self, x: Tensor, time: Tensor) -> Tensor:
        for block in self:
            x = block(x, time)
        return x


class Denoiser(nn.Module):
    """U-Net on (z_t, base), told the time and the main decoder's pyramid.

    Space-to-depth of (z_t, base) → per scale: concatenate the conditioning, blocks, halve → per
    scale back: blocks, double, join the skip connection → depth-to-space. The last layer starts at
    zero: an untrained network returns base, or 0 without `residual_to_base`.

    Under `torch.autocast` the layers run in its precision; input and output stay float32.

    Args:
        checkpointing: in training, keep only what enters each scale's blocks and compute the rest
            again on the way back: the same gradients, less memory, about a third more time.
    """

    error_spectra: Tensor

    def __init__(self, config: DenoiserConfig, *, checkpointing: bool = False) -> None:
        super().__init__()
        self.config = config
        self.checkpointing = checkpointing
        if config.error_levels:
            self.register_buffer("error_spectra", torch.zeros(config.error_levels, BANDS))
        widths, blocks, patch = config.widths, config.blocks, config.patch
        self.time_channels = time = 4 * widths[0]
        self.time_mlp = nn.Sequential(nn.Linear(time, time), nn.SiLU(), nn.Linear(time, time))
        pixels = config.image_channels * patch**2
        self.stem = nn.Conv2d(2 * pixels, widths[0], 1)
        self.fuse = nn.ModuleList(
            nn.Conv2d(width + sum(maps), width, 1) if maps else nn.Identity()
            for width, maps in zip(widths, config.maps, strict=True)
        )
        self.encode = nn.ModuleList(Blocks(blocks, width, time) for width in widths)
        self.decode = nn.ModuleList(Blocks(blocks, width, time) for width in widths)
        scales = list(pairwise(widths))
        self.down = nn.ModuleList(nn.Conv2d(fine, coarse, 2, stride=2) for fine, coarse in scales)
        self.up = nn.ModuleList(nn.Conv2d(coarse, 4 * fine, 1) for fine, coarse in scales)
        self.join = nn.ModuleList(nn.Conv2d(2 * fine, fine, 1) for fine, _ in scales)
        self.norm = ChannelNorm(widths[0])
        self.head = nn.Conv2d(widths[0], (1 + config.gated) * pixels, 1)
        zero(self.head)

    def forward(self, z_t: Tensor, t: Tensor, base: Tensor, pyramid: Sequence[Tensor]) -> Tensor:
        """The prediction of `BlurDiffusion`, in pixel space.

        Args:
            z_t: (B, 3, H, W), noisy picture, or what `BlurDiffusion.network_input` makes of it.
            t: (B,) in [0, 1].
            base: (B, 3, H, W), the direct reconstruction, pixels in [−1, 1].
            pyramid: feature maps of the main decoder for the scales with cond_channels > 0, finest
                first: (B, cond_channels[i], H/(patch·2^i), W/(patch·2^i)); then what is told.

        Returns (B, 3, H, W). Raises ValueError where shapes disagree with these or H, W are not
        multiples of patch · 2^(len(widths)−1).
        """
        self._check(z_t, base, pyramid)
        time = F.silu(self.time_mlp(time_features(t, self.time_channels).to(z_t.dtype)))
        conditions = iter(pyramid)
        x = self.stem(F.pixel_unshuffle(torch.cat([z_t, base], dim=1), self.config.patch))
        skips = []
        for i, (encode, maps) in enumerate(zip(self.encode, self.config.maps, strict=True)):
            x = self.down[i - 1](x) if i > 0 else x
            x = self.fuse[i](torch.cat([x, *islice(conditions, len(maps))], 1)) if maps else x
            x = self._run(encode, x, time)
            skips.append(x)
        x = self._run(self.decode[-1], x, time)
        for i in reversed(range(len(self.up))):
            x = F.pixel_shuffle(self.up[i](x), 2)
            x = self._run(self.decode[i], self.join[i](torch.cat([x, skips[i]], dim=1)), time)
        x = F.pixel_shuffle(self.head(self.norm(x)), self.config.patch)
        if self.config.gated:
            x, gate = x.chunk(2, dim=1)
            x = x + gate * z_t
        return (base + x if self.config.residual_to_base else x).to(z_t.dtype)

    def _run(self, blocks: nn.Module, x: Tensor, time: Tensor) -> Tensor:
        if self.checkpointing and torch.is_grad_enabled():
            return checkpoint(blocks, x, time, use_reentrant=False)
        return blocks(x, time)

    def _check(self, z_t: Tensor, base: Tensor, pyramid: Sequence[Tensor]) -> None:
        B, _, H, W = z_t.shape
        if H % self.config.multiple or W % self.config.multiple or not H * W:
            raise ValueError(
                f"height and width must be multiples of {self.config.multiple}, got {H}×{W}: "
                "pad the picture"
            )
        wanted = [(B, self.config.image_channels, H, W)] * 2
        for i, maps in enumerate(self.config.maps):
            stride = self.config.patch * 2**i
            wanted += [(B, channels, H // stride, W // stride) for channels in maps]
        got = [tuple(x.shape) for x in (z_t, base, *pyramid)]
        if got != wanted:
            raise ValueError(f"z_t, base and pyramid must have shapes {wanted}, got {got}")
