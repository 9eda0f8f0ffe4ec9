"""A start for training: the transforms begin as the Karhunen–Loève transform of photo blocks.

From random weights a codec has to discover first what every transform codec is built on: that the
pixels of a block are correlated, and in which basis they are not. That basis is the KLT, the
eigenvectors of the blocks' covariance. Both transforms contain it exactly: with the residual blocks
adding nothing and each convolution set to eigenvectors, g_a is a linear transform with orthonormal
rows, and the main decoder its transpose. Training then starts from a working transform codec.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from blurlib.codec.model import BlurCodec
from blurlib.codec.transforms import GatedBlock

SCALE = 2.0  # y per unit of an orthonormal coefficient of a photo in [0, 1]


class Stage(NamedTuple):
    """One scale: orthonormal rows (kept, 4 · previously kept), by falling variance."""

    basis: Tensor
    variance: Tensor


@torch.no_grad()
def start_from_klt(codec: BlurCodec, photos: Tensor) -> None:
    """Set the transforms of `codec` to the KLT of the photos, and its σ to their deviations.

    Channels beyond the rank of a scale (in `paper` the finest scale has more channels than a block
    has pixels) keep their random weights and start unheard.

    Args:
        photos: (B, 3, H, W) in [0, 1], sides multiples of 16; some 100 crops are enough.
    """
    stages = fit(photos, codec.config.transform.patch, codec.config.transform.widths)
    _set_analysis(codec.g_a, stages)
    _set_decoder(codec.main_decoder, stages)
    for transform in (codec.g_a, codec.main_decoder):
        for module in transform.modules():
            if isinstance(module, GatedBlock):
                nn.init.zeros_(module.project.weight)
                nn.init.zeros_(module.project.bias)
    deviation = stages[-1].variance.clamp_min(0).sqrt()
    silent = max(0, codec.config.entropy.M - len(deviation))
    codec.entropy.start_at(SCALE * F.pad(deviation, (0, silent)))


def fit(photos: Tensor, patch: int, widths: tuple[int, ...]) -> list[Stage]:
    """The KLT scale by scale: blocks of `patch`, then 2×2 of what the scale before has kept."""
    features, stages = photos - 0.5, []
    for i, width in enumerate(widths):
        blocks = F.pixel_unshuffle(features, patch if i == 0 else 2)
        vectors = blocks.permute(1, 0, 2, 3).flatten(1).double()
        # About 0 rather than about the mean: the transforms start without a bias.
        variance, basis = torch.linalg.eigh(vectors @ vectors.T / vectors.shape[1])
        kept = min(width, len(basis))
        stage = Stage(basis.flip(1).T[:kept].to(photos), variance.flip(0)[:kept].to(photos))
        features = torch.einsum("oc,bchw->bohw", stage.basis, blocks)
        stages.append(stage)
    return stages


def _set_analysis(g_a: nn.Module, stages: list[Stage]) -> None:
    stem, *down, last = (layer for layer in g_a.layers if isinstance(layer, nn.Conv2d))
    kept = len(stages[0].basis)
    stem.weight[:kept] = 0
    stem.weight[:kept, :, 1, 1] = stages[0].basis
    _no_bias(stem)
    for layer, stage, before in zip(down, stages[1:], stages, strict=False):
        kept, known = len(stage.basis), len(before.basis)
        layer.weight[:kept] = 0
        layer.weight[:kept, :known, 1:3, 1:3] = stage.basis.view(kept, known, 2, 2)
        _no_bias(layer)
    _set_identity(last, len(stages[-1].basis), SCALE)


def _set_decoder(decoder: nn.Module, stages: list[Stage]) -> None:
    _set_identity(decoder.stem, len(stages[-1].basis), 1 / SCALE)
    for up, stage, below in zip(decoder.up, stages[:0:-1], stages[-2::-1], strict=True):
        layer, known = up[0], 4 * len(below.basis)  # PixelShuffle takes groups of four channels
        layer.weight[:known] = 0
        layer.weight[:known, : len(stage.basis), 1, 1] = stage.basis.T
        _no_bias(layer)
    head = decoder.head[0]
    nn.init.zeros_(head.weight)
    head.weight[:, : len(stages[0].basis), 1, 1] = stages[0].basis.T
    _no_bias(head)


def _set_identity(layer: nn.Conv2d, channels: int, scale: float) -> None:
    """A 1×1 convolution as `scale` times the identity on the first channels, 0 elsewhere."""
    nn.init.zeros_(layer.weight)
    index = torch.arange(min(channels, *layer.weight.shape[:2]))
    layer.weight[index, index, 0, 0] = scale
    _no_bias(layer)


def _no_bias(layer: nn.Conv2d) -> None:
    nn.init.zeros_(layer.bias)
