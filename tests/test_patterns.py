"""No pattern is lost, however unlike a photo: stripes, checkers, dithers, noise, single pixels."""

import itertools

import pytest
import torch

from blurlib import metrics
from blurlib.codec import zoo

SIDE, FLAT, ALIKE = 128, 30.0, 0.1  # pixels; dB of a flat picture at least; dB that do not count
FALLS = {("mse-small", "dither"): 0.2}  # dB that a picture gets worse with more quality, at most
# Weights for MS-SSIM draw the finest waves with too little regard for where they are.
MODELS = {"msssim-small": 1.5, "mse-small": ALIKE}


def patterns() -> dict[str, torch.Tensor]:
    """Name → (3, SIDE, SIDE) in [0, 1]."""
    y, x = torch.meshgrid(torch.arange(SIDE), torch.arange(SIDE), indexing="ij")
    drawn = torch.Generator().manual_seed(0)
    noise = torch.rand(3, SIDE, SIDE, generator=drawn)
    grey = {"hot pixel": (y == 50) & (x == 50), "black": y < 0, "white": y >= 0}
    for period in (1, 2, 3, 4, 8, 16):
        grey[f"stripes of {period}"] = x // period % 2
        grey[f"diagonals of {period}"] = (x + y) // period % 2
        grey[f"checkers of {period}"] = (y // period + x // period) % 2
    for angle in (0.1, 0.5, 1.2):
        at = y * torch.tensor(angle).sin() + x * torch.tensor(angle).cos()
        grey[f"waves at {angle}"] = (at * 2.5).sin() / 2 + 0.5
    grey["dither"] = (7 * y + 3 * x) % 16 < 8
    grey["text"] = (noise[0, ::2, ::2] > 0.7).repeat_interleave(2, 0).repeat_interleave(2, 1)
    found = {name: value.float().expand(3, SIDE, SIDE) for name, value in grey.items()}
    found |= {"noise": noise, "bits": (noise > 0.5).float()}
    checkers = found["checkers of 1"][0]
    found["red and blue"] = torch.stack([checkers, torch.zeros_like(checkers), 1 - checkers])
    return found


def check(model, name, x, pictures):
    """More quality is a better picture, and none is worse than one of the mean colour."""
    found = [metrics.psnr(x, picture.clamp(0, 1)) for picture in pictures]
    flat = metrics.psnr(x, x.mean((1, 2), keepdim=True).expand_as(x))
    assert found[0] > min(flat, FLAT) - MODELS[model], (name, found)
    for low, high in itertools.pairwise(found):
        assert high > min(low, FLAT) - FALLS.get((model, name), ALIKE), (name, found)


@pytest.mark.slow
@pytest.mark.parametrize("model", MODELS)
@torch.inference_mode()
def test_no_pattern_is_lost(model):
    """`forward` makes what a decoder does (`test_codec`); what a search finds is in real files."""
    codec, x = zoo.load(model), torch.stack([*patterns().values()])
    made = torch.stack([codec(x, quality).x_hat for quality in (1.0, 3.0, 6.0)], 1)
    for name, picture, pictures in zip(patterns(), x, made, strict=True):
        check(model, name, picture, pictures)
    for name in ("checkers of 1", "stripes of 3", "noise", "text"):
        x = patterns()[name]
        files = [codec.compress(x[None], quality, effort=1) for quality in (1.0, 6.0)]
        check(model, name, x, [codec.decompress(data).x_hat[0] for data in files])
