"""Analysis, hyper-analysis, hyper-synthesis and the main decoder.

`small` works at H/8 and H/16 only: a space-to-depth stem replaces the two finest stages, so
nothing convolves at full resolution and a CPU can train it. `paper` has four stride-2 stages.
"""

from dataclasses import dataclass
from functools import partial
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from blurlib.diffusion.denoiser import ChannelNorm, exact
from blurlib.entropy.strips import in_strips


@dataclass(frozen=True)
class TransformConfig:
    """Sizes of g_a and of the main decoder.

    Attributes:
        patch: space-to-depth factor of the stem: 8 in `small`, 2 in `paper`.
        widths: channels at H/patch, H/(2·patch), … H/16.
        blocks: residual blocks at each of these scales.
        norm: whether they have a norm. False for the first weights, which the first denoisers need.
    """

    patch: int = 8
    widths: tuple[int, ...] = (128, 192)
    blocks: tuple[int, ...] = (4, 4)
    norm: bool = True

    def __post_init__(self):
        object.__setattr__(self, "widths", tuple(self.widths))
        object.__setattr__(self, "blocks", tuple(self.blocks))
        if len(self.widths) != len(self.blocks):
            raise ValueError(f"widths {self.widths} and blocks {self.blocks} differ in length")
        if self.patch * 2 ** (len(self.widths) - 1) != 16:
            raise ValueError(
                f"patch {self.patch} with {len(self.widths)} scales does not end at H/16: "
                "patch · 2^(scales − 1) must be 16"
            )


def kept(layer: nn.Module, x: Tensor) -> Tensor:
    """A layer whose output has the precision of its input, also under autocast."""
    return layer(x).to(x.dtype)


class GatedBlock(nn.Module):
    """x + W₂(silu(a) · b), (a, b) = W₁(norm(dw(x))), with dw a depthwise 5×5.

    The norm bounds what a block adds, whatever its input, and lets it learn at a real rate.
    """

    def __init__(self, channels: int, norm: bool = True):
        super().__init__()
        self.spatial = nn.Conv2d(channels, channels, 5, padding=2, groups=channels)
        self.norm = ChannelNorm(channels) if norm else nn.Identity()
        self.expand = nn.Conv2d(channels, 2 * channels, 1)
        self.project = nn.Conv2d(channels, channels, 1)

    def forward(self, x: Tensor) -> Tensor:
        return in_strips(self._whole, x, width=2 * self.expand.out_channels, halo=2)

    def _whole(self, x: Tensor) -> Tensor:
        a, b = self.expand(self.norm(exact(self.spatial, x))).chunk(2, 1)
        return x + self.project(F.silu(a) * b)


def _blocks(config: TransformConfig, scale: int) -> nn.Sequential:
    channels, count = config.widths[scale], config.blocks[scale]
    return nn.Sequential(*(GatedBlock(channels, config.norm) for _ in range(count)))


class Analysis(nn.Module):
    """g_a: photo (B, 3, H, W), floats in [0, 1] or uint8 -> y (B, M, H/16, W/16). H, W: multiples
    of 16. Under autocast y, and the sums between the layers, keep the precision of the weights: at
    high rates 8 bits of mantissa are coarser than the quantisation."""

    def __init__(self, config: TransformConfig, M: int):
        super().__init__()
        w, self.patch = config.widths, config.patch
        layers: list[nn.Module] = [
            nn.PixelUnshuffle(config.patch),
            nn.Conv2d(3 * config.patch**2, w[0], 3, padding=1),
            _blocks(config, 0),
        ]
        for i in range(1, len(w)):
            down = nn.Conv2d(w[i - 1], w[i], 4, stride=2, padding=1)
            layers += [down, _blocks(config, i)]
        self.layers = nn.Sequential(*layers, nn.Conv2d(w[-1], M, 1))

    def forward(self, x: Tensor) -> Tensor:
        unshuffle, stem, *layers, last = self.layers

        def first(x: Tensor) -> Tensor:
            return kept(stem, unshuffle(to_float(x) - 0.5))

        x = in_strips(first, x, width=6 * self.patch**2, halo=1, stride=self.patch)
        for layer in layers:
            if isinstance(layer, nn.Conv2d):
                width = 4 * layer.in_channels
                x = in_strips(partial(kept, layer), x, width=width, halo=1, stride=2)
            else:
                for block in layer.children():  # one by one: what went into the first is not kept
                    x = block(x)
        return in_strips(partial(exact, last), x, width=x.shape[1])


def to_float(x: Tensor) -> Tensor:
    """8-bit values as float32 in [0, 1]; floats as they are."""
    return x / 255 if x.dtype == torch.uint8 else x


class Reconstruction(NamedTuple):
    """What the main decoder makes of ŷ."""

    x_hat: Tensor  # the direct reconstruction (B, 3, H, W), about [0, 1], not clamped
    pyramid: tuple[Tensor, ...]  # features for decoders on top, finest first: H/patch … H/16; or ()


class MainDecoder(nn.Module):
    """Mirror of g_a: ŷ (B, M, H/16, W/16) -> `Reconstruction`."""

    def __init__(self, config: TransformConfig, M: int):
        super().__init__()
        self.widths = w = config.widths[::-1]
        self.patch = config.patch
        self.stem = nn.Conv2d(M, w[0], 1)
        self.scales = nn.ModuleList(_blocks(config, i) for i in reversed(range(len(w))))
        self.up = nn.ModuleList(
            nn.Sequential(nn.Conv2d(w[i], 4 * w[i + 1], 3, padding=1), nn.PixelShuffle(2))
            for i in range(len(w) - 1)
        )
        self.head = nn.Sequential(
            nn.Conv2d(w[-1], 3 * config.patch**2, 3, padding=1), nn.PixelShuffle(config.patch)
        )

    def forward(
        self, y_hat: Tensor, gain: Tensor | None = None, pyramid: bool = True
    ) -> Reconstruction:
        """`gain` (B, M, 1, 1) is what ŷ is to be multiplied with."""
        dtype = self.stem.weight.dtype

        def first(y_hat: Tensor) -> Tensor:
            y_hat = y_hat.to(dtype)
            return exact(self.stem, y_hat if gain is None else y_hat * gain.to(dtype))

        x = in_strips(first, y_hat, width=y_hat.shape[1])
        features: list[Tensor] = []
        for i, scale in enumerate(self.scales):
            if i > 0:
                up = partial(kept, self.up[i - 1])
                x = in_strips(up, x, width=16 * self.widths[i], halo=1)
            for block in scale.children():
                x = block(x)
            features = [x, *features] if pyramid else []
        width = 18 * self.patch**2
        x_hat = in_strips(lambda x: kept(self.head, x) + 0.5, x, width=width, halo=1)
        return Reconstruction(x_hat, tuple(features))


class HyperAnalysis(nn.Module):
    """h_a: y (B, M, H/16, W/16) -> z (B, N, H/64, W/64). H, W: multiples of 64.

    y enters as log(1 + |y|), with and without its sign: its scale grows tenfold from the lowest
    quality to the highest, and on the plain y the network saturates at one end. The magnitudes are
    what σ depends on, and a network needs long to make them from signed values.
    """

    def __init__(self, M: int, N: int, norm: bool = True):
        super().__init__()
        self.layers = nn.Sequential(
            nn.Conv2d(2 * M, N, 1),
            GatedBlock(N, norm),
            nn.Conv2d(N, N, 5, stride=2, padding=2),
            nn.GELU(),
            nn.Conv2d(N, N, 5, stride=2, padding=2),
        )
        # z spans several integers from the start: a z within the noise of rounding teaches h_s
        # little, and its rate presses it flat first. One that spans many costs a short training
        # most of its bits.
        *_, weight, _bias = self.layers.parameters()
        with torch.no_grad():
            weight.mul_(20)

    def forward(self, y: Tensor) -> Tensor:
        return in_strips(self._whole, y, width=16 * 4 * y.shape[1], halo=2, stride=4)

    def _whole(self, y: Tensor) -> Tensor:
        size = y.abs().log1p()
        return self.layers(torch.cat([y.sign() * size, size], 1))


class HyperSynthesis(nn.Module):
    """h_s: ẑ (B, N, H/64, W/64) and the gains -> hyperprior features (B, features, H/16, W/16).

    The gains (B, M, 1, 1) enter as their logarithm. They say what rate is coded, so that ẑ need not
    carry it.
    """

    def __init__(self, N: int, M: int, features: int):
        super().__init__()
        self.rate = nn.Conv2d(M, features, 1)
        self.taps = 16 * 9 * N  # numbers per position of ẑ that the last convolution lays out
        self.layers = nn.Sequential(
            nn.Conv2d(N, 4 * N, 3, padding=1),
            nn.PixelShuffle(2),
            nn.GELU(),
            nn.Conv2d(N, 4 * N, 3, padding=1),
            nn.PixelShuffle(2),
            nn.GELU(),
            nn.Conv2d(N, features, 3, padding=1),
        )

    def forward(self, z_hat: Tensor, gain: Tensor) -> Tensor:
        rate = self.rate(gain.log())
        return in_strips(lambda z: self.layers(z) + rate, z_hat, width=self.taps, halo=2)


class Gain(nn.Module):
    """Gain unit (Cui et al. 2021): one vector per quality level, interpolated between levels.

        g(q) = g_l^{1−t} · g_{l+1}^t,    l = ⌊q⌋, t = q − l

    q is a real number in [1, levels]; `log_range` is the log-gain of the first and the last level
    before training.
    """

    def __init__(self, levels: int, channels: int, log_range: tuple[float, float]):
        super().__init__()
        start = torch.linspace(*log_range, levels)[:, None].repeat(1, channels)
        self.log_gain = nn.Parameter(start)

    def forward(self, quality: Tensor) -> Tensor:
        """quality: (B,) -> gains (B, channels, 1, 1), float64: the entropy model repeats them."""
        position = quality - 1
        low = position.floor().long().clamp(0, self.log_gain.shape[0] - 2)
        t = (position - low).double()[:, None]
        levels = self.log_gain.double()
        log_gain = torch.lerp(levels[low], levels[low + 1], t)
        return log_gain.exp()[:, :, None, None]
