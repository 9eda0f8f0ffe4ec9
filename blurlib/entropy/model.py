"""The entropy model: hyper-latent, then the passes over the latent (ten in the full model).

Training, evaluation, encoding and decoding all take the same walk over the passes; they differ
only in where a pass gets its values from.
"""

import itertools
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor, nn

from blurlib.entropy import coder
from blurlib.entropy.channel_groups import check_count, check_groups, uneven_groups
from blurlib.entropy.checkerboard import pass_masks
from blurlib.entropy.context import ContextConfig, Gaussian, GroupContext
from blurlib.entropy.hyper import HyperLatent
from blurlib.entropy.strips import give_back, in_strips


@dataclass(frozen=True)
class EntropyConfig:
    """Sizes of the entropy model.

    Attributes:
        M: channels of the latent y; N: channels of the hyper-latent z.
        groups: channels per group; by default the uneven groups 16, 16, 32, 64, M − 128.
            One group of all M is no channel context at all.
        context: which contexts there are, and their sizes.

    Raises:
        ValueError: what cannot work; the message names the field and what it may be.
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

    def of(self, y: Tensor) -> Tensor:
        """What it codes of a map of all channels: (B, M, H, W) to (B, C, positions)."""
        return y[:, self.channels][..., self.mask]


class CodedPass(NamedTuple):
    """A pass with its residuals, int16, and the indices of their σ, (B, C, positions) each."""

    here: Pass
    residual: Tensor
    sigma_index: Tensor

    @property
    def sigma(self) -> Tensor:
        """(B, C, positions), float64."""
        return coder.sigma_at(self.sigma_index)

    @property
    def bits(self) -> Tensor:
        """Estimated bits per image, (B,) float64."""
        return coder.coded_bits(self.residual, self.sigma).sum((1, 2))


class Latent(NamedTuple):
    """What the entropy model knows of a batch of latents.

    Attributes:
        y_hat: quantised latent (B, M, H, W).
        bits_z: estimated bits of ẑ per image, (B,).
        passes: the coded passes in order (empty in training).
        z_symbols: hyper-latent symbols (B, N, h, w), from 0 (empty in training).
        relaxed: estimated bits of ŷ in training, where no pass is coded.
    """

    y_hat: Tensor
    bits_z: Tensor
    passes: tuple[CodedPass, ...] = ()
    z_symbols: Tensor = torch.empty(0)
    relaxed: Tensor | None = None

    @property
    def bits_y(self) -> Tensor:
        """Estimated bits of ŷ per image, (B,), added up at every look: a decoder needs none."""
        if self.relaxed is not None:
            return self.relaxed
        return torch.stack([coded.bits for coded in self.passes]).sum(0)

    def bits_per_position(self) -> Tensor:
        """Estimated bits of ŷ at every latent position, all channels together, (B, H, W)."""
        B, _, H, W = self.y_hat.shape
        total = self.y_hat.new_zeros(B, H, W, dtype=torch.float64)
        for coded in self.passes:
            total[:, coded.here.mask] += coder.coded_bits(coded.residual, coded.sigma).sum(1)
        return total

    def bits_per_channel(self) -> Tensor:
        """Estimated bits of ŷ in every channel, all positions together, (B, M) float64."""
        total = self.y_hat.new_zeros(self.y_hat.shape[:2], dtype=torch.float64)
        for coded in self.passes:
            total[:, coded.here.channels] += coder.coded_bits(coded.residual, coded.sigma).sum(2)
        return total

    def log2_sigma(self) -> Tensor:
        """log₂ σ at every latent position, the mean over the channels of each group, float32,
        (B, groups, H, W); of no groups in training."""
        B, _, H, W = self.y_hat.shape
        starts = sorted({coded.here.channels.start for coded in self.passes})
        index = self.y_hat.new_zeros(B, len(starts), H, W, dtype=torch.float32)
        for coded in self.passes:
            group = index[:, starts.index(coded.here.channels.start)]
            group[:, coded.here.mask] = coded.sigma_index.float().mean(1)
        return index / coder.SIGMA_STEPS + coder.LOG2_SIGMA_MIN


class Hyperprior(NamedTuple):
    """What is known of y before its first symbol is decoded.

    Attributes:
        features: h_s(ẑ), (B, config.context.hyper, H, W).
        gain: what y was multiplied with for its quality, (B, M, 1, 1). The context networks work on
            y / gain, whose scale is the same at every quality.
    """

    features: Tensor
    gain: Tensor


PassCoder = Callable[[Pass, Gaussian], Tensor]  # returns ŷ of the pass, (B, C, positions)
Watch = Callable[[PassCoder], PassCoder]  # may look at, or change, what a pass is given and returns
# (pass, y − μ) -> what the rate is of, and what contexts and decoder get
Relax = Callable[[Pass, Tensor], tuple[Tensor, Tensor]]
# (pass, μ, σ) -> integer residuals, all (B, C, positions)
ResidualSource = Callable[[Pass, Tensor, Tensor], Tensor]


class LaplacianEntropyModel(nn.Module):
    """Channel groups, each in two checkerboard passes with local and global context, or as many of
    these parts as the configuration has.

    For coding the networks run in float64 (`BlurCodec.code_in`) and their outputs are snapped to a
    grid of 1/16, which rounding noise rarely gets past (`experiments.portability.bound`).
    """

    groups: Sequence[GroupContext]

    def __init__(self, config: EntropyConfig):
        super().__init__()
        self.config = config
        self.hyper_latent = HyperLatent(config.N)
        starts = np.cumsum((0, *config.groups)).tolist()
        self.channels = [slice(a, b) for a, b in itertools.pairwise(starts)]
        groups = (GroupContext(c.start, c.stop - c.start, config.context) for c in self.channels)
        self.groups = nn.ModuleList(groups)  # type: ignore[assignment]

    def walk(self, hyperprior: Hyperprior, code: PassCoder) -> Tensor:
        """ŷ (B, M, H, W), by `code` of one pass after the other: group 1 anchors, group 1
        non-anchors, group 2 … Without a checkerboard a group is one pass over all positions.
        """
        features, gain = hyperprior
        B, _, H, W = features.shape
        y_hat = features.new_zeros(B, 0, H, W)
        parts = zip(self.channels, self.config.groups, self.groups, strict=True)
        for channels, size, group in parts:
            own = gain[:, channels]
            known = group.known(features, y_hat / gain[:, : channels.start])
            y_group = features.new_zeros(B, size, H, W)
            decoded: tuple[Tensor, Tensor] | None = None
            for mask in pass_masks(H, W, self.config.context.checkerboard, features.device):
                gaussian = group.gaussian(known, mask, decoded).scaled(own.squeeze(-1))
                y_group = y_group.masked_scatter(mask, code(Pass(channels, mask), gaussian))
                decoded = y_group / own, mask
                give_back(features)
            y_hat = torch.cat([y_hat, y_group], 1)
        return y_hat

    def train_latent(
        self, y: Tensor, bits_z: Tensor, hyperprior: Hyperprior, noise: coder.Noise
    ) -> Latent:
        """Mixed quantisation: noise for the rate, straight-through for contexts and decoder."""
        drawn = noise(y)

        def relax(here: Pass, residual: Tensor) -> tuple[Tensor, Tensor]:
            rounded = residual + (torch.round(residual) - residual).detach()
            return residual + here.of(drawn), rounded

        y_hat, bits_y = self._relaxed(y, hyperprior, relax)
        return Latent(y_hat, bits_z, relaxed=bits_y)

    def anneal(
        self, y: Tensor, hyperprior: Hyperprior, temperature: float, drawn: torch.Generator
    ) -> Latent:
        """For an encoder that searches y by gradient: every residual v = y − μ lies between ⌊v⌋ and
        ⌈v⌉, drawn by a Gumbel softmax (stochastic Gumbel annealing),

            r = ⌊v⌋ + sigmoid(logit(v − ⌊v⌋)/τ + L),  L ~ Logistic(0, 1)

        so that r is uniform for v half-way, and the nearest integer for τ → 0. Yang, Bamler, Mandt
        2020 (arXiv 2006.04240) sharpen the draw with τ too, and use artanh for the logit: the
        gradient is then noisier, and the same search finds less. With z given, bits_z is 0.
        """
        logistic = torch.empty_like(y).uniform_(1e-6, 1 - 1e-6, generator=drawn).logit()

        def relax(here: Pass, residual: Tensor) -> tuple[Tensor, Tensor]:
            low = residual.detach().floor()
            above = (residual - low).clamp(1e-3, 1 - 1e-3)
            soft = low + (above.logit() / temperature + here.of(logistic)).sigmoid()
            return soft, soft

        y_hat, bits_y = self._relaxed(y, hyperprior, relax)
        return Latent(y_hat, torch.zeros_like(bits_y), relaxed=bits_y)

    def _relaxed(self, y: Tensor, hyperprior: Hyperprior, relax: Relax) -> tuple[Tensor, Tensor]:
        """ŷ and its bits per image where quantisation is replaced by something with a gradient."""
        bits = []

        def code(here: Pass, gaussian: Gaussian) -> Tensor:
            priced, kept = relax(here, here.of(y) - gaussian.mu)
            cost = coder.gaussian_bits(priced, self.bounded_scale(gaussian.log2_sigma))
            bits.append(cost.sum((1, 2)))
            return kept + gaussian.mu

        return self.walk(hyperprior, code), torch.stack(bits).sum(0)

    def quantise(self, y: Tensor, z_symbols: Tensor, hyperprior: Hyperprior) -> Latent:
        """Real quantisation, exactly as `decode` will see it: ŷ = μ + round(y − μ)."""

        def residual(here: Pass, mu: Tensor, sigma: Tensor) -> Tensor:
            return in_strips(nearest, here.of(y), mu, width=8)

        def nearest(y: Tensor, mu: Tensor) -> Tensor:
            return (y.to(mu) - mu).round().clamp(-coder.MAX_SYMBOL, coder.MAX_SYMBOL)

        return self._coded(z_symbols, hyperprior, residual)

    def decode(
        self,
        decoder: coder.SymbolDecoder,
        z_symbols: Tensor,
        hyperprior: Hyperprior,
        watch: Watch = lambda code: code,
    ) -> Latent:
        """The same walk with residuals read from a stream; those of a batch, image after image.
        `watch` is called when the walk begins, and what it returns codes every pass.
        """

        def residual(here: Pass, mu: Tensor, sigma: Tensor) -> Tensor:
            symbols = decoder.gaussian(sigma.double().cpu().numpy().ravel())
            return torch.from_numpy(symbols).to(mu).view(mu.shape)

        return self._coded(z_symbols, hyperprior, residual, watch)

    def _coded(
        self,
        z_symbols: Tensor,
        hyperprior: Hyperprior,
        residual: ResidualSource,
        watch: Watch = lambda code: code,
    ) -> Latent:
        """Walk with snapped parameters; `residual` gives the integers at the pass's positions."""
        passes: list[CodedPass] = []

        def code(here: Pass, gaussian: Gaussian) -> Tensor:
            mu, index = coder.snap_mu(gaussian.mu), coder.snap_sigma(gaussian.log2_sigma)
            r = residual(here, mu, coder.sigma_at(index))
            passes.append(CodedPass(here, r.short(), index))
            return r + mu

        y_hat = self.walk(hyperprior, watch(code))
        return Latent(y_hat, self.hyper_latent.bits(z_symbols), tuple(passes), z_symbols)

    def encode_y(self, latent: Latent) -> bytes:
        """One range-coded stream with the passes of one image in order."""
        encoder = coder.SymbolEncoder()
        for coded in latent.passes:
            residual, sigma = coded.residual.cpu(), coded.sigma.double().cpu()
            encoder.gaussian(residual.numpy().ravel(), sigma.numpy().ravel())
        return encoder.to_bytes()

    def encode_z(self, latent: Latent) -> bytes:
        """One range-coded stream with the hyper-latent of one image."""
        encoder = coder.SymbolEncoder()
        symbols = latent.z_symbols[0].cpu().numpy()
        for channel, probabilities in zip(symbols, self.hyper_latent.probabilities(), strict=True):
            encoder.categorical(channel.ravel(), probabilities)
        return encoder.to_bytes()

    def decode_z(self, decoder: coder.SymbolDecoder, height: int, width: int) -> Tensor:
        """Hyper-latent symbols (1, N, height, width)."""
        probabilities = self.hyper_latent.probabilities()
        symbols = np.stack([decoder.categorical(p, height * width) for p in probabilities])
        device = self.hyper_latent.table.device
        return torch.from_numpy(symbols).to(device).view(1, self.config.N, height, width)

    @torch.no_grad()
    def start_at(self, sigma: Tensor) -> None:
        """Before training: let every channel's σ start near `sigma`, (M,), for a gain of 1."""
        for channels, group in zip(self.channels, self.groups, strict=True):
            *_, bias = group.parameters_.parameters()
            bias.zero_()
            bias[channels.stop - channels.start :] = sigma[channels].clamp_min(1e-3).log2()

    def bounded_scale(self, log2_sigma: Tensor) -> Tensor:
        """σ in the coder's range; at the lower bound the gradient still leads back inside."""
        low, high = coder.LOG2_SIGMA_MIN, coder.LOG2_SIGMA_MAX
        return coder.LowerBound.apply(log2_sigma, low).clamp_max(high).exp2()
