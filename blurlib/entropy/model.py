"""The entropy model: hyper-latent, then the passes over the latent (ten in the full model).

Training, evaluation, encoding and decoding all take the same walk over the passes; they differ
only in where a pass gets its values from.
"""

from __future__ import annotations

import copy
import itertools
import math
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import NamedTuple

import numpy as np
import torch
from compressai.entropy_models import EntropyBottleneck
from compressai.ops import LowerBound
from torch import Tensor, nn

from blurlib.entropy.channel_groups import check_count, check_groups, uneven_groups
from blurlib.entropy.checkerboard import pass_masks
from blurlib.entropy.coder import (
    LOG2_SIGMA_MAX,
    LOG2_SIGMA_MIN,
    MAX_SYMBOL,
    PROBABILITY_FLOOR,
    BatchDecoder,
    GaussianBits,
    SymbolDecoder,
    SymbolEncoder,
    coded_bits,
    snap_mu,
    snap_sigma,
)
from blurlib.entropy.context import ContextConfig, Gaussian, GroupContext


@dataclass(frozen=True)
class EntropyConfig:
    """Sizes of the entropy model.

    Attributes:
        M: channels of the latent y; N: channels of the hyper-latent z.
        groups: channels per group; by default the uneven groups 16, 16, 32, 64, M − 128.
            One group of all M is no channel context at all.
        context: which contexts there are, and their sizes.

    Raises:
        ValueError: sizes that cannot work; the message names the field and what it may be.
    """

    M: int = 192
    N: int = 64
    groups: tuple[int, ...] = ()
    context: ContextConfig = field(default_factory=ContextConfig)

    def __post_init__(self):
        check_count("M", self.M, 1)
        check_count("N", self.N, 1)
        if not isinstance(self.context, ContextConfig):
            raise ValueError(f"context is {self.context!r}: it must be a ContextConfig")
        groups = uneven_groups(self.M) if self.groups == () else self.groups
        object.__setattr__(self, "groups", check_groups(groups, self.M))

    @property
    def passes(self) -> int:
        """Coding passes over the latent, whatever its size."""
        return len(self.groups) * (2 if self.context.checkerboard else 1)


class Pass(NamedTuple):
    """One coding pass: the channels of its group and the positions it codes."""

    channels: slice
    mask: Tensor  # (H, W) bool


class CodedPass(NamedTuple):
    """A pass with its integer residuals and their σ, (B, C, positions) each."""

    here: Pass
    residual: Tensor
    sigma: Tensor

    @property
    def bits(self) -> Tensor:
        """Estimated bits per image, (B,) float64."""
        return coded_bits(self.residual, self.sigma).sum((1, 2))


class Latent(NamedTuple):
    """What the entropy model knows of a batch of latents.

    Attributes:
        y_hat: quantised latent (B, M, H, W).
        bits_y, bits_z: estimated bits per image, (B,).
        passes: the coded passes in order (empty in training).
        z_symbols: hyper-latent symbols (B, N, h, w), from 0 (None in training).
    """

    y_hat: Tensor
    bits_y: Tensor
    bits_z: Tensor
    passes: tuple[CodedPass, ...] = ()
    z_symbols: Tensor | None = None

    def bits_per_position(self) -> Tensor:
        """Estimated bits of ŷ at every latent position, all channels together, (B, H, W)."""
        B, _, H, W = self.y_hat.shape
        total = self.y_hat.new_zeros(B, H, W, dtype=torch.float64)
        for coded in self.passes:
            total[:, coded.here.mask] += coded_bits(coded.residual, coded.sigma).sum(1)
        return total

    def bits_per_channel(self) -> Tensor:
        """Estimated bits of ŷ in every channel, all positions together, (B, M) float64."""
        total = self.y_hat.new_zeros(self.y_hat.shape[:2], dtype=torch.float64)
        for coded in self.passes:
            total[:, coded.here.channels] += coded_bits(coded.residual, coded.sigma).sum(2)
        return total


class Prior(NamedTuple):
    """What is known of y before its first symbol is decoded.

    Attributes:
        features: hyperprior features h_s(ẑ), (B, config.context.hyper, H, W).
        gain: what y was multiplied with for its quality, (B, M, 1, 1). The context networks work on
            y / gain, whose scale is the same at every quality.
    """

    features: Tensor
    gain: Tensor


Noise = Callable[[Tensor], Tensor]  # of the shape of its argument, uniform in [−½, ½)


def uniform_noise(like: Tensor) -> Tensor:
    """Noise that stands for rounding in training, from PyTorch's global generator."""
    return torch.empty_like(like).uniform_(-0.5, 0.5)


class NoisyBottleneck(EntropyBottleneck):
    """CompressAI's bottleneck, told values that have their noise already."""

    def quantize(self, inputs: Tensor, mode: str, means: Tensor | None = None) -> Tensor:
        return inputs if mode == "noise" else super().quantize(inputs, mode, means)


class HyperLatent(nn.Module):
    """CompressAI's factorised entropy bottleneck for z, coded with frozen integer tables.

    The tables belong to the checkpoint and are never recomputed: `freeze()` fills them once, when
    training ends. A symbol outside its table is clamped to the nearest end of it.
    """

    table: Tensor
    offset: Tensor
    length: Tensor

    def __init__(self, channels: int):
        super().__init__()
        self.bottleneck = NoisyBottleneck(channels, init_scale=4)  # about the range h_a starts with
        self.register_buffer("table", torch.zeros(channels, 0, dtype=torch.int32))
        self.register_buffer("offset", torch.zeros(channels, dtype=torch.int32))
        self.register_buffer("length", torch.zeros(channels, dtype=torch.int32))

    @property
    def medians(self) -> Tensor:
        """Quantisation offset of each channel, (1, N, 1, 1)."""
        return self.bottleneck.quantiles[:, 0, 1].view(1, -1, 1, 1)

    def freeze(self) -> None:
        """Turn the learned densities into integer tables: counts out of 65 536 per symbol."""
        bottleneck = copy.deepcopy(self.bottleneck).float()  # ours keeps its empty buffers
        bottleneck.update(force=True)
        counts = bottleneck.quantized_cdf.diff(dim=1).clamp_min(0)
        length = bottleneck.cdf_length - 2  # without the escape symbol at the end
        inside = torch.arange(counts.shape[1], device=counts.device) < length[:, None]
        self.table = (counts * inside).int()[:, : int(length.max())]
        self.offset, self.length = bottleneck.offset.int(), length.int()

    def noisy(
        self, z: Tensor, rate_weight: float, noise: Noise = uniform_noise
    ) -> tuple[Tensor, Tensor]:
        """Training: (z with uniform noise, its bits per image).

        Where rounding makes z constant, h_s would see nothing of it and never learn to use it;
        with noise a z of small range still says something. The gradient of the bits reaches z
        times `rate_weight`, and the densities in full: with less than 1 at first, z carries
        something before its rate presses it flat.
        """
        drawn = noise(z)
        weighted = torch.lerp(z.detach(), z, rate_weight)
        _, likelihood = self.bottleneck(weighted + drawn, training=True)
        return z + drawn, -likelihood.log2().sum((1, 2, 3))

    def symbols(self, z: Tensor) -> Tensor:
        """Integer symbols (B, N, h, w) from 0, clamped to the table."""
        if self.table.numel() == 0:
            raise RuntimeError("the hyper-latent has no tables yet: call freeze() after training")
        rounded = torch.round(z.double() - self.medians.double()).int()
        symbols = rounded - self.offset.view(1, -1, 1, 1)
        return torch.minimum(symbols.clamp_min(0), self.length.view(1, -1, 1, 1) - 1)

    def values(self, symbols: Tensor) -> Tensor:
        """ẑ = symbol + offset + median, in the dtype of the medians."""
        return (symbols + self.offset.view(1, -1, 1, 1)).to(self.medians) + self.medians

    def probabilities(self) -> np.ndarray:
        """(N, alphabet) float64, exact integer counts / 65 536; never 0 inside a table."""
        return self.table.double().cpu().numpy() / 65536

    def bits(self, symbols: Tensor) -> Tensor:
        """Estimated bits per image, (B,) float64."""
        p = torch.from_numpy(self.probabilities()).to(symbols.device)
        p = (p / p.sum(1, keepdim=True)).clamp_min(PROBABILITY_FLOOR)
        channel = torch.arange(p.shape[0], device=symbols.device).view(1, -1, 1, 1)
        return -p[channel, symbols.long()].log2().sum((1, 2, 3))


CodePass = Callable[[Pass, Gaussian], Tensor]  # returns ŷ of the group; only `mask` is used
# (pass, μ, σ at its positions) -> integer residuals there, all (B, C, positions)
ResidualSource = Callable[[Pass, Tensor, Tensor], Tensor]


class LaplacianEntropyModel(nn.Module):
    """Channel groups, each in two checkerboard passes with local and global context, or as many of
    these parts as the configuration has.

    For coding the networks run in float64 (`BlurCodec.train` sees to it) and their outputs are
    snapped to a grid of 1/16. How rarely rounding noise gets past that is derived and measured in
    `blurlib.evaluation.portability`.

    Attributes:
        rate_weight: what the encoder's rounding gives for a bit, see `quantise`; 0: it always takes
            the nearest integer.
    """

    def __init__(self, config: EntropyConfig):
        super().__init__()
        self.config = config
        self.rate_weight = 0.0
        self.hyper_latent = HyperLatent(config.N)
        starts = np.cumsum((0, *config.groups)).tolist()
        self.channels = [slice(a, b) for a, b in itertools.pairwise(starts)]
        self.groups = nn.ModuleList(
            GroupContext(c.start, c.stop - c.start, config.context) for c in self.channels
        )
        self.gaussian_bits = GaussianBits()
        self.scale_floor = LowerBound(0.0)

    def walk(self, prior: Prior, code: CodePass) -> Tensor:
        """Visit the passes in coding order: group 1 anchors, group 1 non-anchors, group 2 …

        Without a checkerboard a group is one pass over all positions.

        Args:
            code: called once per pass.

        Returns:
            ŷ (B, M, H, W).
        """
        features, gain = prior
        B, _, H, W = features.shape
        masks = pass_masks(H, W, self.config.context.checkerboard, features.device)
        y_hat = features.new_zeros(B, 0, H, W)
        for channels, size, group in zip(
            self.channels, self.config.groups, self.groups, strict=True
        ):
            own = gain[:, channels]
            known = group.known(features, y_hat / gain[:, : channels.start])
            y_group = features.new_zeros(B, size, H, W)
            for step, mask in enumerate(masks):
                gaussian = group.non_anchor(known, y_group / own) if step else group.anchor(known)
                decoded = code(Pass(channels, mask), gaussian.scaled(own))
                y_group = torch.where(mask, decoded, y_group)
            y_hat = torch.cat([y_hat, y_group], 1)
        return y_hat

    def train_latent(
        self, y: Tensor, bits_z: Tensor, prior: Prior, noise: Noise = uniform_noise
    ) -> Latent:
        """Mixed quantisation: noise for the rate, straight-through for contexts and decoder."""
        bits = []
        drawn = noise(y)

        def code(here: Pass, gaussian: Gaussian) -> Tensor:
            part = y[:, here.channels]
            residual = part - gaussian.mu
            noisy = residual + drawn[:, here.channels]
            cost = self.gaussian_bits(noisy, self.bounded_scale(gaussian.log2_sigma))
            bits.append((cost * here.mask).sum((1, 2, 3)))
            return part + (torch.round(residual) - residual).detach()

        y_hat = self.walk(prior, code)
        return Latent(y_hat, torch.stack(bits).sum(0), bits_z)

    def quantise(self, y: Tensor, z_symbols: Tensor, prior: Prior) -> Latent:
        """Real quantisation, exactly as `decode` will see it: ŷ = r + μ. Of the integer nearest to
        y − μ and its neighbour towards 0, r is the one with less of

            (y − μ − r)² + rate_weight · (ln 2)/6 · bits(r, σ)

        (ln 2)/6 is what a bit is worth where all quantisers have steps of 1: D = Δ²/12 and
        R = h − log₂ Δ give −dD/dR = (ln 2)/6 · Δ². Only the encoder decides so; a decoder reads any
        r. Rate–distortion optimised quantisation: Karczewicz et al. 2008 (VCEG-AH21).
        """

        def residual(here: Pass, mu: Tensor, sigma: Tensor) -> Tensor:
            exact = y[:, here.channels][..., here.mask] - mu
            nearest = exact.round().clamp(-MAX_SYMBOL, MAX_SYMBOL)
            if not self.rate_weight:
                return nearest
            smaller = nearest - nearest.sign()
            price = self.rate_weight * math.log(2) / 6
            saved = price * (coded_bits(nearest, sigma) - coded_bits(smaller, sigma))
            lost = (exact - smaller).square() - (exact - nearest).square()
            return torch.where(lost < saved, smaller, nearest)

        return self._coded(z_symbols, prior, residual)

    def decode(
        self, decoder: SymbolDecoder | BatchDecoder, z_symbols: Tensor, prior: Prior
    ) -> Latent:
        """The same walk with residuals read from one stream, or from one per image."""

        def residual(here: Pass, mu: Tensor, sigma: Tensor) -> Tensor:
            symbols = decoder.gaussian(sigma.double().cpu().numpy().ravel())
            return torch.from_numpy(symbols).to(mu).view(mu.shape)

        return self._coded(z_symbols, prior, residual)

    def _coded(self, z_symbols: Tensor, prior: Prior, residual: ResidualSource) -> Latent:
        """Walk with snapped parameters; `residual` gives the integers at the pass's positions."""
        passes: list[CodedPass] = []

        def code(here: Pass, gaussian: Gaussian) -> Tensor:
            y_hat = snap_mu(gaussian.mu)
            mu, sigma = y_hat[..., here.mask], snap_sigma(gaussian.log2_sigma)[..., here.mask]
            passes.append(CodedPass(here, residual(here, mu, sigma), sigma))
            y_hat[..., here.mask] = passes[-1].residual + mu
            return y_hat

        y_hat = self.walk(prior, code)
        bits_y = torch.stack([coded.bits for coded in passes]).sum(0)
        return Latent(y_hat, bits_y, self.hyper_latent.bits(z_symbols), tuple(passes), z_symbols)

    def encode_y(self, latent: Latent) -> bytes:
        """One range-coded stream with the passes of one image in order."""
        encoder = SymbolEncoder()
        for coded in latent.passes:
            encoder.gaussian(
                coded.residual.cpu().numpy().ravel(), coded.sigma.double().cpu().numpy().ravel()
            )
        return encoder.to_bytes()

    def encode_z(self, latent: Latent) -> bytes:
        """One range-coded stream with the hyper-latent of one image."""
        encoder = SymbolEncoder()
        symbols = latent.z_symbols[0].cpu().numpy()
        for channel, probabilities in zip(symbols, self.hyper_latent.probabilities(), strict=True):
            encoder.categorical(channel.ravel(), probabilities)
        return encoder.to_bytes()

    def decode_z(self, decoder: SymbolDecoder, height: int, width: int) -> Tensor:
        """Hyper-latent symbols (1, N, height, width)."""
        probabilities = self.hyper_latent.probabilities()
        symbols = np.stack([decoder.categorical(p, height * width) for p in probabilities])
        device = self.hyper_latent.table.device
        return torch.from_numpy(symbols).to(device).view(1, self.config.N, height, width)

    @torch.no_grad()
    def start_at(self, sigma: Tensor) -> None:
        """Before training: let every channel's σ start near `sigma`, (M,), for a gain of 1."""
        for channels, group in zip(self.channels, self.groups, strict=True):
            last = group.parameters_[-1]
            last.bias.zero_()
            last.bias[channels.stop - channels.start :] = sigma[channels].clamp_min(1e-3).log2()

    def bounded_scale(self, log2_sigma: Tensor) -> Tensor:
        """σ in the coder's range; at the lower bound the gradient still leads back inside."""
        log2_sigma = self.scale_floor(log2_sigma - LOG2_SIGMA_MIN) + LOG2_SIGMA_MIN
        return log2_sigma.clamp_max(LOG2_SIGMA_MAX).exp2()
