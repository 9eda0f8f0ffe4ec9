"""From symbols to bytes and back: snapped Gaussians and a range coder.

The coder is `constriction`'s (Bamler 2022): memory-safe on hostile bytes, one model per symbol.
Two things make its bytes portable. Every number the coder sees lies on a coarse grid, so that
rounding noise of 1e-15 in the networks almost never reaches it; and the grid is made of dyadic
rationals, so that it is the same on every machine.
"""

import math
from collections.abc import Callable
from typing import Any

import constriction
import numpy as np
import torch
from torch import Tensor

MAX_SYMBOL = 1023  # residuals are clamped to ±1023; a wider support costs a few bytes per photo
MU_STEPS = 16  # μ lies on multiples of 1/16
SIGMA_STEPS = 16  # σ lies on 2^(k/16)
LOG2_SIGMA_MIN, LOG2_SIGMA_MAX = -51 / 16, 8.0  # σ from 0.11 to 256
PROBABILITY_FLOOR = 2.0**-24  # what the range coder gives the rarest symbol
LEAST_BITS = -math.log2(1 - 2 * MAX_SYMBOL * PROBABILITY_FLOOR)  # of the likeliest: 1.8e-4

# Rounded to multiples of 2^-20: whatever the platform's pow() returns in the last bit is gone.
SIGMA_TABLE = np.round(
    np.exp2(np.arange(LOG2_SIGMA_MIN * SIGMA_STEPS, LOG2_SIGMA_MAX * SIGMA_STEPS + 1) / SIGMA_STEPS)
    * 2**20
) / 2**20  # fmt: skip

_GAUSSIAN = constriction.stream.model.QuantizedGaussian(-MAX_SYMBOL, MAX_SYMBOL)


def _categorical(probabilities: np.ndarray) -> Any:
    return constriction.stream.model.Categorical(probabilities, perfect=False)


class DecodingError(ValueError):
    """The bytes do not belong to the model that tries to decode them."""


def snap_mu(mu: Tensor) -> Tensor:
    """μ rounded to multiples of 1/16; never −0, so that ŷ is the same to the last bit."""
    return torch.round(mu * MU_STEPS) / MU_STEPS + 0.0


def snap_sigma(log2_sigma: Tensor) -> Tensor:
    """σ from log₂ σ, rounded to the grid 2^(k/16) and clamped to [0.11, 256], as its index in
    `SIGMA_TABLE`, uint8."""
    k = torch.round(log2_sigma.clamp(LOG2_SIGMA_MIN, LOG2_SIGMA_MAX) * SIGMA_STEPS)
    return (k - LOG2_SIGMA_MIN * SIGMA_STEPS).to(torch.uint8)


def sigma_at(index: Tensor) -> Tensor:
    """σ, float64, from its index in `SIGMA_TABLE`."""
    return torch.from_numpy(SIGMA_TABLE).to(index.device)[index.int()]


Noise = Callable[[Tensor], Tensor]  # of the shape of its argument, uniform in [−½, ½)


def uniform_noise(like: Tensor) -> Tensor:
    """Noise that stands for rounding in training, from PyTorch's global generator."""
    return torch.empty_like(like).uniform_(-0.5, 0.5)


class LowerBound(torch.autograd.Function):
    """max(x, bound), with a gradient below the bound too where it leads back above."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, bound: float) -> Tensor:
        ctx.save_for_backward(x)
        ctx.bound = bound
        return x.clamp_min(bound)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None]:
        (x,) = ctx.saved_tensors
        # Descent goes against the gradient: a negative one raises x.
        return gradient * ((x >= ctx.bound) | (gradient < 0)), None


def bin_mass(residual: Tensor, sigma: Tensor) -> Tensor:
    """Φ((r + ½)/σ) − Φ((r − ½)/σ), evaluated in the tail, where the difference keeps its digits."""
    r, scale = residual.abs(), sigma * math.sqrt(2)
    return 0.5 * (torch.erfc((r - 0.5) / scale) - torch.erfc((r + 0.5) / scale))


def gaussian_bits(residual: Tensor, sigma: Tensor) -> Tensor:
    """Information content of residuals under zero-mean Gaussians of unit bins.

        bits(r, σ) = −log₂ [ Φ(−a) − Φ(−b) ],    a = (|r| − ½)/σ, b = (|r| + ½)/σ

    Computed as log Φ(−a) + log(1 − Φ(−b)/Φ(−a)): the difference of the two Φ alone is 0 in float32
    from 13 σ on. The coder spends at most 24 bits, so what lies above is 24 + 24·ln(bits/24): an
    outlier keeps a gradient and does not drown all others.
    """
    r = residual.abs()
    log_a = torch.special.log_ndtr((0.5 - r) / sigma)
    log_b = torch.special.log_ndtr((-0.5 - r) / sigma)
    bits = -(log_a + torch.log(-torch.expm1(log_b - log_a))) / math.log(2)
    most = -math.log2(PROBABILITY_FLOOR)
    return torch.where(bits > most, most * (1 + (bits / most).log()), bits)


def coded_bits(residual: Tensor, sigma: Tensor) -> Tensor:
    """Bits the range coder spends on integer residuals with snapped σ, in the precision of σ. The
    symbols at both ends have the mass of everything beyond."""
    r = residual.abs().to(sigma)
    mass = bin_mass(r, sigma)
    if (end := r == MAX_SYMBOL).any():
        mass = torch.where(end, 0.5 * torch.erfc((r - 0.5) / (sigma * math.sqrt(2))), mass)
    return -torch.log2(mass.clamp_min(PROBABILITY_FLOOR))


class SymbolEncoder:
    """Appends symbols to one range-coded stream."""

    def __init__(self):
        self._coder = constriction.stream.queue.RangeEncoder()

    def gaussian(self, residual: np.ndarray, sigma: np.ndarray) -> None:
        """Append integer residuals (n,) in ±MAX_SYMBOL, each under N(0, σ) with σ (n,) float64."""
        self._coder.encode(residual.astype(np.int32), _GAUSSIAN, np.zeros_like(sigma), sigma)

    def categorical(self, symbols: np.ndarray, probabilities: np.ndarray) -> None:
        """Append symbols (n,) >= 0, all under the same `probabilities` (alphabet,) float64."""
        self._coder.encode(symbols.astype(np.int32), _categorical(probabilities))

    def to_bytes(self) -> bytes:
        """The stream; zero bytes at the end of its last word are implied."""
        words = self._coder.get_compressed().astype("<u4").tobytes()
        return words[:-4] + words[-4:].rstrip(b"\0")


class SymbolDecoder:
    """Reads symbols back in the order they were appended; DecodingError where the bytes are
    impossible under the model, or too few for what came out of them: past their end a range decoder
    goes on for ever. Symbols may take `spare_bits` more than the data has."""

    def __init__(self, data: bytes, spare_bits: float = 64):  # the coder's state is two words
        self._bits = 8.0 * len(data) + spare_bits  # left
        words = np.frombuffer(data + b"\0" * (-len(data) % 4), dtype="<u4")
        self._coder = constriction.stream.queue.RangeDecoder(words.astype(np.uint32))

    def gaussian(self, sigma: np.ndarray) -> np.ndarray:
        """Integer residuals (n,) under N(0, σ)."""
        if sigma.size == 0:
            return np.zeros(0, np.int32)
        residual = self._decode(_GAUSSIAN, np.zeros_like(sigma), sigma)
        # float32 is near enough, and takes a fifth of the time.
        symbols = torch.from_numpy(residual), torch.from_numpy(sigma).float()
        self._spend(coded_bits(*symbols).sum(dtype=torch.float64).item())
        return residual

    def categorical(self, probabilities: np.ndarray, count: int) -> np.ndarray:
        """Symbols (count,), all under the same `probabilities` (alphabet,)."""
        symbols = self._decode(_categorical(probabilities), count)
        self._spend(-np.log2(probabilities[symbols].clip(PROBABILITY_FLOOR)).sum())
        return symbols

    def _spend(self, bits: float) -> None:
        self._bits -= 0.95 * bits  # as estimated
        if self._bits < 0:
            raise DecodingError("the compressed data ends before the picture does")

    def _decode(self, model: Any, *arguments: Any) -> np.ndarray:
        try:
            return self._coder.decode(model, *arguments)
        except AssertionError as error:  # constriction's word for invalid data
            raise DecodingError("the compressed data is invalid for this model") from error
