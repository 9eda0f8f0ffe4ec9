"""Would another machine decode the same? Rounding noise, and what it takes to change a symbol.

Two machines add the same numbers in another order. Before they are rounded to their grids, μ and
log₂ σ of a symbol then differ a little. Let u be such a value in grid steps (16 μ or 16 log₂ σ),
and u + δ the same on the other machine, all earlier symbols being equal:

- they round to different integers only if a boundary k + ½ lies between them;
- if the position of u between two boundaries is uniform, the chance of that is |δ| (for |δ| < 1);
- a file decodes wrongly if any of its decisions does, so by the union bound

      P(a photo fails) ≤ Σᵢ |δᵢ| = D · mean |δ|,      D = 2 · M · (H/16) · (W/16) decisions.

`Sensitivity` has what is to be measured: Σ |δ| under noise, the largest |δ|, and how close to a
boundary the values come. The last two need no assumption on positions: a file whose decisions all
keep a larger distance than the largest |δ| decodes under all noise that moves them no further.
`failure_bound` is the sum.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from blurlib.codec.bitstream import BlurFile
from blurlib.codec.model import STRIDE, BlurCodec
from blurlib.entropy import DecodingError, Latent, PassCoder, SymbolDecoder
from blurlib.entropy.coder import LOG2_SIGMA_MAX, LOG2_SIGMA_MIN, MU_STEPS, SIGMA_STEPS
from blurlib.entropy.position import PositionalEncoding


@contextmanager
def rounding_noise(
    codec: BlurCodec, generator: torch.Generator, ulps: float = 1.0
) -> Iterator[None]:
    """Inside, every layer that decoding repeats is off by ± `ulps` units in the last place.

    That is every output of the gain, of h_s and of the context networks, queries, keys, and what is
    added to logits; the sign is random for each value. What a block of layers returns is
    moved once more, so that residual sums and attention, which are no layers, are not exact either.
    """

    def move(output: Tensor) -> Tensor:
        size = output.abs()
        unit = torch.nextafter(size, torch.full_like(size, torch.inf)) - size
        signs = torch.randint(2, output.shape, generator=generator, device=output.device)
        return output + (2 * signs - 1) * (ulps * unit)

    def moving(made: Callable[..., Tensor]) -> Callable[..., Tensor]:
        return lambda *of: move(made(*of))

    layers = [codec.gain, *codec.h_s.modules(), *codec.entropy.groups.modules()]
    handles = [
        layer.register_forward_hook(lambda _module, _inputs, output: move(output))
        for layer in layers
    ]
    positions = [layer for layer in layers if isinstance(layer, PositionalEncoding)]
    for position in positions:  # modules, but neither is their forward
        position.bias, position.rotate = moving(position.bias), moving(position.rotate)
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()
        for position in positions:
            del position.bias, position.rotate


@torch.inference_mode()
def decided(codec: BlurCodec, files: Sequence[BlurFile]) -> tuple[Latent, Tensor]:
    """Files of one size as a batch, unchecked, and everything that was rounded on the way, (B, D),
    in grid steps.

    Of each pass first 16 μ, then 16 log₂ σ, clamped as the coder does it: at an end of its range it
    is an integer, as far from a boundary as can be.
    """
    seen: list[Tensor] = []

    def watch(code: PassCoder) -> PassCoder:
        def record(here, gaussian):
            mu, log2_sigma = (part.flatten(1) for part in gaussian)
            log2_sigma = log2_sigma.clamp(LOG2_SIGMA_MIN, LOG2_SIGMA_MAX)
            seen.append(torch.cat([mu * MU_STEPS, log2_sigma * SIGMA_STEPS], 1).double())
            return code(here, gaussian)

        return record

    entropy, device = codec.entropy, codec.gain.log_gain.device
    size = -(-files[0].height // STRIDE), -(-files[0].width // STRIDE)
    z_symbols = torch.cat([entropy.decode_z(SymbolDecoder(f.z_stream), *size) for f in files])
    quality = torch.tensor([f.quality for f in files], dtype=torch.float64, device=device)
    hyperprior = codec.hyperprior(entropy.hyper_latent.values(z_symbols), codec.gain(quality))
    streams = BatchDecoder([file.y_stream for file in files])
    latent = entropy.decode(streams, z_symbols, hyperprior, watch)
    return latent, torch.cat(seen, 1)


class BatchDecoder(SymbolDecoder):
    """The streams of several images, read side by side.

    A stream that becomes impossible under its model says 0 from there on: whoever reads on must
    compare a checksum, and then knows which image it was.
    """

    def __init__(self, streams: Sequence[bytes]):
        self._decoders: list[SymbolDecoder | None] = [
            SymbolDecoder(stream, spare_bits=math.inf) for stream in streams
        ]

    def gaussian(self, sigma: np.ndarray) -> np.ndarray:
        """Integer residuals (images · n,) under N(0, σ), image after image."""
        parts = np.split(sigma, len(self._decoders))
        return np.concatenate([self._read(image, part) for image, part in enumerate(parts)])

    def _read(self, image: int, sigma: np.ndarray) -> np.ndarray:
        decoder = self._decoders[image]
        if decoder is not None:
            try:
                return decoder.gaussian(sigma)
            except DecodingError:
                self._decoders[image] = None
        return np.zeros(sigma.size, np.int32)


def margin(u: Tensor) -> Tensor:
    """Distance to the nearest boundary between two grid points: from 0 (on it) to ½."""
    return (u - u.floor() - 0.5).abs()


class Sensitivity(NamedTuple):
    """What rounding errors do to the decisions of one photo.

    Attributes:
        decisions: D, how many values are rounded.
        total, largest: Σ |δ| and max |δ|, in grid steps.
        nearest: the smallest distance of a decision to its boundary.
        near: how many decisions are within 1/64 of one; D/32 if positions are uniform.
    """

    decisions: int
    total: float
    largest: float
    nearest: float
    near: int

    @classmethod
    def between(cls, u: Tensor, other: Tensor) -> Sensitivity:
        """Of one photo, decoded without and with errors: (D,) each."""
        delta, distance = (u - other).abs(), margin(u)
        return cls(
            len(u), delta.sum().item(), delta.max().item(),
            distance.min().item(), int((distance < 1 / 64).sum()),
        )  # fmt: skip


def failure_bound(sensitivities: Sequence[Sensitivity], decisions: int) -> float:
    """P(a photo of D `decisions` fails) ≤ D · mean |δ|, with the mean over all of these."""
    total = sum(s.total for s in sensitivities)
    return decisions * total / sum(s.decisions for s in sensitivities)
