"""Pictures too large for the network: it runs on overlapping tiles, and the results are blended.

Between two evaluations the DCT is that of the whole picture. Where that takes too much memory too,
overlapping regions are decoded one after another, from the same noise where they overlap.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise, product

import torch
from torch import Tensor

from blurlib.diffusion.denoiser import Denoiser, DenoiserConfig

# Per pixel of a picture: noise, state, estimates, their DCTs, the prior, a result (measured).
CHAIN_BYTES = 230
REGION = 1536  # side at most of what is decoded by itself, in pixels


@dataclass(frozen=True)
class Tiling:
    """How much memory a decode may take, and the tiles it falls back to.

    Attributes:
        memory: bytes for everything but weights, conditioning and Python itself, in float32 on a
            CPU.
        tile: side of the tiles at most, in pixels; None takes the whole picture where it fits into
            `memory`, and else the largest tiles that do. Where not even what a chain keeps of the
            whole does, the picture is decoded in regions, which need less.
        overlap: pixels that neighbours share, or more. A tile's outer quarter of it counts nothing,
            the next two quarters fade in: an output that depends on less than overlap/4 pixels
            around it is the same in tiles.

    Raises ValueError, naming the number, for memory or overlap < 1 and tile < 2 · overlap.
    """

    memory: int = 2 * 2**30
    tile: int | None = None
    overlap: int = 128

    def __post_init__(self) -> None:
        if self.memory < 1:
            raise ValueError(f"memory must be a positive number of bytes, got {self.memory}")
        if self.overlap < 1:
            raise ValueError(f"overlap must be at least 1 pixel, got {self.overlap}")
        if self.tile is not None and self.tile < 2 * self.overlap:
            least = 2 * self.overlap
            raise ValueError(f"tile must be at least twice the overlap, {least}, got {self.tile}")

    def regions(
        self, config: DenoiserConfig, B: int, H: int, W: int
    ) -> tuple[list["Span"], list["Span"]]:
        """Rows and columns of the regions of pictures (B, 3, H, W): one, the whole, where that and
        the smallest tiles fit into `memory`."""
        tile = self.tile or 2 * self.overlap
        needed = B * (CHAIN_BYTES * H * W + config.bytes_per_pixel * min(tile, H) * min(tile, W))
        side = max(REGION, 2 * self.overlap) if needed > self.memory else max(H, W)
        rows, columns = (spans(n, side, self.overlap, config.multiple) for n in (H, W))
        return rows, columns

    def side(self, config: DenoiserConfig, B: int, H: int, W: int) -> int:
        """Side of the tiles for pictures (B, 3, H, W): max(H, W) or more where they need none.

        Raises ValueError where tile or overlap are not multiples of `config.multiple`, and where
        not even tiles fit into `memory`; it says how much would do.
        """
        for name in ("tile", "overlap"):
            pixels = getattr(self, name)
            if pixels is not None and pixels % config.multiple:
                raise ValueError(
                    f"{name} must be a multiple of {config.multiple} for this denoiser, "
                    f"got {pixels}: {math.ceil(pixels / config.multiple) * config.multiple} works"
                )
        chain = B * CHAIN_BYTES * H * W
        each = B * config.bytes_per_pixel
        whole, smallest = max(H, W), 2 * self.overlap
        if self.tile is None and chain + each * H * W <= self.memory:
            return whole
        fitting = math.isqrt(max(0, self.memory - chain) // each)
        side = self.tile or max(fitting // config.multiple * config.multiple, smallest)
        needed = chain + each * min(side, H) * min(side, W)
        if needed > self.memory:
            raise ValueError(
                f"memory is {_mebi(self.memory)} MiB, and diffusion on {W}×{H} pixels takes "
                f"{_mebi(needed)} MiB even in tiles of {side}: allow that much"
                + (f", or tiles of {smallest}" if side > smallest else "")
            )
        return side


def _mebi(n: int) -> int:
    return math.ceil(n / 2**20)


@dataclass(frozen=True)
class Span:
    """Part of one axis: start to stop, and how much each pixel of it counts, (stop − start,)."""

    start: int
    stop: int
    weight: Tensor


def spans(n: int, tile: int, overlap: int, multiple: int) -> list[Span]:
    """The tiles of an axis of n pixels: evenly spread, no longer than needed, sharing `overlap` or
    more; their weights add up to 1 at every pixel. All four are multiples of `multiple`."""
    if n <= tile:
        return [Span(0, n, torch.ones(n))]
    count = math.ceil((n - overlap) / (tile - overlap))
    length = math.ceil((n + (count - 1) * overlap) / count / multiple) * multiple
    starts = [i * (n - length) // (count - 1) // multiple * multiple for i in range(count)]
    centres = [(left + length + right) / 2 for left, right in pairwise(starts)]
    # Tile i counts from its rise to the next tile's, so that the sum telescopes.
    rises = [torch.ones(n), *(_rise(n, centre, overlap) for centre in centres), torch.zeros(n)]
    return [
        Span(start, start + length, (rise - fall)[start : start + length])
        for start, (rise, fall) in zip(starts, pairwise(rises), strict=True)
    ]


def _rise(n: int, centre: float, overlap: int) -> Tensor:
    """(n,) pixels: sin² from 0 to 1 over half an overlap around `centre`."""
    p = (torch.arange(n) + 0.5 - centre) / overlap
    return torch.sin(torch.pi / 2 * (2 * p + 0.5).clamp(0, 1)) ** 2


def predict_tiled(
    denoiser: Denoiser,
    z_t: Tensor,
    t: Tensor,
    base: Tensor,
    pyramid: Sequence[Tensor],
    *,
    side: int,
    overlap: int,
) -> Tensor:
    """`denoiser(z_t, t, base, pyramid)`, (B, 3, H, W), in tiles of `side` px or less.

    Not exactly the same: near a cut the network sees zeros where the picture goes on. What it makes
    of that counts nothing within overlap/4 of the cut, and fades in from there over overlap/2.
    """
    H, W = z_t.shape[-2:]
    if max(H, W) <= side:
        return denoiser(z_t, t, base, pyramid)
    result = torch.zeros_like(z_t)
    multiple = denoiser.config.multiple
    rows, columns = (spans(n, side, overlap, multiple) for n in (H, W))
    for y, x in product(rows, columns):
        part, *inputs = (crop(a, y, x, W) for a in (z_t, base, *pyramid))
        output = denoiser(part, t, inputs[0], inputs[1:])
        weight = (y.weight[:, None] * x.weight).to(output)
        crop(result, y, x, W).addcmul_(output, weight)
    return result


def crop(x: Tensor, rows: Span, columns: Span, W: int) -> Tensor:
    """A tile of a map (B, C, H/stride, W/stride), as a view."""
    stride = W // x.shape[-1]
    down, across = (slice(a.start // stride, a.stop // stride) for a in (rows, columns))
    return x[..., down, across]
