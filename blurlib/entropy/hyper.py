"""The hyper-latent: a learned density for each channel of z, coded with frozen integer tables."""

import itertools
import math

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from blurlib.entropy.coder import PROBABILITY_FLOOR, Noise

WIDTHS = (1, 3, 3, 3, 3, 1)  # of the layers of a density
START_SCALE = 4.0  # of the logistic densities at the start: about the range h_a starts with
TAIL = 1e-6  # probability outside a table at each end
COUNTS = 65536  # that a table's probabilities are made of
LARGEST = 2.0**20  # |z| that a table may reach


class FactorizedDensity(nn.Module):
    """A density of its own for each channel, by its cumulative c, any monotone function:

        c(z) = sigmoid(f_5 ∘ … ∘ f_1 (z)),    P(bin around z) = c(z + ½) − c(z − ½)
        f_k(h) = g_k(softplus(H_k) h + b_k),  g_k(h) = h + tanh(a_k) ⊙ tanh(h),  g_5(h) = h

    Positive matrices and |tanh(a)| < 1 keep every f_k rising. Ballé et al. 2018 (arXiv 1802.01436),
    appendix 6.1.
    """

    def __init__(self, channels: int):
        super().__init__()
        scale = START_SCALE ** (1 / (len(WIDTHS) - 1))
        self.matrices, self.biases, self.factors = (nn.ParameterList() for _ in range(3))
        for before, after in itertools.pairwise(WIDTHS):
            start = math.log(math.expm1(1 / scale / after))
            self.matrices.append(torch.full((channels, after, before), start))
            self.biases.append(torch.rand(channels, after, 1) - 0.5)
        for width in WIDTHS[1:-1]:
            self.factors.append(torch.zeros(channels, width, 1))

    def logits(self, z: Tensor) -> Tensor:
        """sigmoid⁻¹ c(z) of values (channels, n), which rises with z."""
        h = z[:, None]
        for k, (matrix, bias) in enumerate(zip(self.matrices, self.biases, strict=True)):
            h = F.softplus(matrix) @ h + bias
            if k < len(self.factors):
                h = h + self.factors[k].tanh() * h.tanh()
        return h[:, 0]

    def bits(self, z: Tensor) -> Tensor:
        """−log₂ P of the bins of width 1 around values (B, channels, h, w), in the same shape."""
        values = z.transpose(0, 1).flatten(1)
        low, high = self.logits(values - 0.5), self.logits(values + 0.5)
        # Both in the lower tail, where the difference keeps its digits: 1 − σ(a) = σ(−a).
        upper = (low + high > 0).detach()
        low, high = torch.where(upper, -high, low), torch.where(upper, -low, high)
        log_high = F.logsigmoid(high)
        log_p = log_high + torch.log(-torch.expm1(F.logsigmoid(low) - log_high))
        return (-log_p / math.log(2)).view(z.transpose(0, 1).shape).transpose(0, 1)

    @torch.no_grad()
    def quantile(self, probability: float) -> Tensor:
        """c⁻¹, by bisection: (channels,), within ±2²⁰."""
        wanted = math.log(probability) - math.log1p(-probability)
        low = torch.full_like(self.biases[0][:, :1, 0], -LARGEST)
        high = -low
        for _ in range(60):
            middle = (low + high) / 2
            below = self.logits(middle) < wanted
            low, high = torch.where(below, middle, low), torch.where(below, high, middle)
        return ((low + high) / 2)[:, 0]


class HyperLatent(nn.Module):
    """z, rounded to whole numbers from the median of its channel and coded with integer tables.

    The tables belong to the checkpoint and are never recomputed: `freeze()` fills them once, when
    training ends. A symbol outside its table is clamped to the nearest end of it.
    """

    table: Tensor
    offset: Tensor
    length: Tensor
    median: Tensor

    def __init__(self, channels: int):
        super().__init__()
        self.density = FactorizedDensity(channels)
        self.register_buffer("table", torch.zeros(channels, 0, dtype=torch.int32))
        self.register_buffer("offset", torch.zeros(channels, dtype=torch.int32))
        self.register_buffer("length", torch.zeros(channels, dtype=torch.int32))
        self.register_buffer("median", torch.zeros(channels))

    @property
    def medians(self) -> Tensor:
        """Quantisation offset of each channel, (1, N, 1, 1)."""
        return self.median.view(1, -1, 1, 1)

    @torch.no_grad()
    def freeze(self) -> None:
        """Turn the learned densities into integer tables: counts out of 65 536, at least 1 for each
        symbol from one tail to the other."""
        density = FactorizedDensity(len(self.median)).to(self.median.device, torch.float64)
        density.load_state_dict(self.density.state_dict())
        # As a file stores it, in whatever dtype the codec works now.
        self.median = density.quantile(0.5).float().to(self.median)
        median = self.median.double()
        first = (density.quantile(TAIL) - median).floor().clamp_max(0)
        last = (density.quantile(1 - TAIL) - median).ceil().clamp_min(0)
        self.offset, self.length = first.int(), (last - first + 1).int()
        symbols = torch.arange(int(self.length.max()), device=median.device)
        values = (median + first)[:, None] + symbols
        p = torch.exp2(-density.bits(values[None, :, None])[0, :, 0])
        counts = (p * COUNTS).round().clamp_min(1)
        self.table = (counts * (symbols < self.length[:, None])).int()

    def check_tables(self) -> None:
        """ValueError for tables that `freeze` does not make."""
        channels, longest = self.table.shape
        inside = torch.arange(longest) < self.length[:, None]
        if not (
            channels == len(self.length)
            and longest == self.length.max()
            and torch.equal(self.table > 0, inside)
            and self.table.max() <= COUNTS
            and ((self.offset <= 0) & (self.offset + self.length > 0)).all()
        ):
            raise ValueError("tables of the hyper-latent that cannot be")

    def noisy(self, z: Tensor, rate_weight: float, noise: Noise) -> tuple[Tensor, Tensor]:
        """Training: (z with uniform noise, its bits per image).

        Where rounding makes z constant, h_s would see nothing of it and never learn to use it;
        with noise a z of small range still says something. The gradient of the bits reaches z
        times `rate_weight`, and the densities in full: with less than 1 at first, z carries
        something before its rate presses it flat.
        """
        drawn = noise(z)
        weighted = torch.lerp(z.detach(), z, rate_weight)
        return z + drawn, self.density.bits(weighted + drawn).sum((1, 2, 3))

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
        return self.table.double().cpu().numpy() / COUNTS

    def bits(self, symbols: Tensor) -> Tensor:
        """Estimated bits per image, (B,) float64."""
        p = torch.from_numpy(self.probabilities()).to(symbols.device)
        p = (p / p.sum(1, keepdim=True)).clamp_min(PROBABILITY_FLOOR)
        channel = torch.arange(p.shape[0], device=symbols.device).view(1, -1, 1, 1)
        return -p[channel, symbols.long()].log2().sum((1, 2, 3))
