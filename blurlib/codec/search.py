"""An encoder that searches: y by stochastic Gumbel annealing against the weights' own objective.

What the decoder reads stays as it is; the encoder alone takes longer. Yang, Bamler and Mandt 2020
(arXiv 2006.04240).
"""

import copy
import itertools
from collections.abc import Iterator
from typing import TYPE_CHECKING, NamedTuple

import torch
from torch import Tensor

from blurlib.entropy.model import Latent

if TYPE_CHECKING:
    from blurlib.codec.model import BlurCodec

# Of `effort` 0 to 9; 0 does not search.
ITERATIONS = (0, 5, 10, 20, 40, 60, 100, 150, 200, 300)
HOT, COLD = 1.0, 0.1  # temperature at the first and the last iteration
RATES = 0.05, 0.005  # of Adam at the first and the last iteration, in units of y
TILE = 768  # pixels: what is searched at once. The comparison at the end takes the whole photo
ALIGNED = 128  # pixels: windows of the context stay whole


class Searched(NamedTuple):
    """One iteration."""

    iteration: int  # from 1
    iterations: int  # for the whole photo
    loss: float  # R + λ·D of the part in hand, as drawn
    y: Tensor  # (1, M, H/16, W/16), to be quantised; the same tensor at every iteration


@torch.inference_mode(False)
def search(
    codec: "BlurCodec", x: Tensor, y: Tensor, z_hat: Tensor, quality: float, iterations: int
) -> Iterator[Searched]:
    """Lower R + λ·D of a photo by moving y, tile after tile, and yield every iteration.

    Each symbol is drawn between the integers below and above it (`LaplacianEntropyModel.anneal`).
    At first the draw explores; with falling temperature it becomes a choice.

    Args:
        x: (1, 3, H, W) in [0, 1].
        y: g_a's output times the gain, of the padded photo; where the search starts.
        z_hat: the hyper-latent, which stays.
        iterations: for each tile of at most `TILE` pixels a side, at least 1.
    """
    x, y, z_hat = x.clone(), y.clone(), z_hat.float().clone()  # as normal tensors
    tiles = list(itertools.product(*(_parts(16 * side) for side in y.shape[-2:])))
    network = copy.deepcopy(codec).float().requires_grad_(False)  # ours to keep
    done = itertools.count(1)
    for rows, columns in tiles:
        part = y[..., _at(rows, 16), _at(columns, 16)]
        tile = x[..., rows, columns], part, z_hat[..., _at(rows, 64), _at(columns, 64)]
        for loss, found in _tile(network, *tile, quality, iterations):
            part.copy_(found)
            yield Searched(next(done), len(tiles) * iterations, loss, y)


def _at(pixels: slice, stride: int) -> slice:
    return slice(pixels.start // stride, pixels.stop // stride)


def _parts(side: int) -> list[slice]:
    """Cuts a side, a multiple of 64, into parts of about the same size."""
    count = -(-side // TILE)
    step = -(-side // (count * ALIGNED)) * ALIGNED
    return [slice(start, min(start + step, side)) for start in range(0, side, step)]


def cost(codec: "BlurCodec", x: Tensor, latent: Latent, quality: Tensor) -> Tensor:
    """R + λ·D of a photo x, (1, 3, H, W), by the objective of the codec, (1,). R without ẑ, which
    a search keeps."""
    objective = codec.objective
    assert objective, "the codec refuses to search without one"
    x_hat = codec.reconstruct(latent.y_hat, quality, pyramid=False).x_hat
    x_hat = x_hat[..., : x.shape[-2], : x.shape[-1]]
    lmbda = objective.lmbda(quality, codec.config.levels).to(x)
    return latent.bits_y / x[0, 0].numel() + lmbda * objective.distance(x_hat, x)


@torch.enable_grad()
def _tile(
    codec: "BlurCodec", x: Tensor, y: Tensor, z_hat: Tensor, quality: float, iterations: int
) -> Iterator[tuple[float, Tensor]]:
    """`search` for one tile: its loss and y after each iteration."""
    q = torch.tensor([quality], dtype=torch.float64, device=x.device)
    with torch.no_grad():
        hyperprior = codec.hyperprior(z_hat, codec.gain(q))
    y = y.detach().clone().requires_grad_()
    optimiser = torch.optim.Adam([y], lr=RATES[0])
    cosine = torch.optim.lr_scheduler.CosineAnnealingLR(optimiser, iterations, RATES[1])
    drawn = torch.Generator(x.device).manual_seed(0)  # the same file every time
    for i in range(iterations):
        temperature = HOT * (COLD / HOT) ** (i / max(1, iterations - 1))
        latent = codec.entropy.anneal(y, hyperprior, temperature, drawn)
        loss = cost(codec, x, latent, q).mean()
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        cosine.step()
        yield loss.item(), y.detach()
