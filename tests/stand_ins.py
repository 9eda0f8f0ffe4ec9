"""What more than one file of tests uses in the place of a large network."""

import torch
from torch import nn

from blurlib.codec import CodecConfig
from blurlib.codec.transforms import TransformConfig
from blurlib.diffusion import Denoiser, DenoiserConfig
from blurlib.entropy import ContextConfig, EntropyConfig

TRANSFORM = TransformConfig(widths=(16, 16), blocks=(1, 1))
# Uneven groups 16, 16, 32, 64, 32 and narrow networks; windows of 4.
ENTROPY = EntropyConfig(
    M=160,
    N=8,
    context=ContextConfig(
        hyper=16, channel=8, local=8, attention=8, parameters=16, heads=2, window=4
    ),
)
CODEC = CodecConfig(ENTROPY, TRANSFORM, levels=3)
DENOISER = DenoiserConfig(patch=4, widths=(8, 8, 8), blocks=1, cond_channels=(0, 16, 16))


class Distance(nn.Module):
    """Stands in for LPIPS: a mean absolute difference with its interface."""

    def __init__(self):
        super().__init__()
        self.weight = nn.Parameter(torch.ones(()))

    def forward(self, x, y, normalize=False):
        return self.weight * (x - y).abs().mean((1, 2, 3), keepdim=True)


class Colours(nn.Module):
    """Stands in for AlexNet: the mean of each channel."""

    def forward(self, x):
        return x.float().mean((2, 3))


def awake(config: DenoiserConfig) -> Denoiser:
    """A network whose zero-initialised layers have been given weights, as training would."""
    torch.manual_seed(0)
    network = Denoiser(config)
    for parameter in network.parameters():
        if not parameter.any():
            nn.init.normal_(parameter, std=0.1)
    return network


def inputs(config: DenoiserConfig, H: int, W: int, B: int = 2):
    """(z_t, t, base, pyramid) of random numbers for pictures of H×W."""
    generator = torch.Generator().manual_seed(0)

    def randn(channels, stride):
        return torch.randn(B, channels, H // stride, W // stride, generator=generator)

    pyramid = [randn(n, config.patch * 2**i) for i, maps in enumerate(config.maps) for n in maps]
    t = torch.rand(B, generator=generator)
    return randn(config.image_channels, 1), t, randn(config.image_channels, 1), pyramid
