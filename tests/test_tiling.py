"""Tiles: that nobody sees them, and that they keep to the memory they are given."""

import json
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from blurlib.diffusion import DenoiserConfig, Tiling, predict_tiled, tiling
from stand_ins import awake, inputs

# Sees 24 pixels around it: 2 · (2 + 2) at full and 4 · (2 + 2) at half resolution of its patches.
LOCAL = DenoiserConfig(patch=2, widths=(8, 8), blocks=1, cond_channels=(0, 3))
WIDE = replace(LOCAL, widths=(8, 8, 8, 8), blocks=2, cond_channels=(0, 3, 5))


@pytest.mark.parametrize(("H", "W"), [(64, 64), (248, 164), (128, 500)])
def test_a_local_network_is_the_same_in_tiles(H, W):
    """It sees 24 pixels, and the outer 128/4 = 32 of an overlap count nothing."""
    network, given = awake(LOCAL).requires_grad_(False), inputs(LOCAL, H, W)
    tiled = predict_tiled(network, *given, side=256, overlap=128)
    torch.testing.assert_close(tiled, network(*given), rtol=0, atol=1e-5)


def test_no_seams(astronaut, monkeypatch):
    """A network that sees further than the overlap: tiles differ, but nowhere in a line.

    The steps between neighbouring columns, averaged over a column, are those of the untiled picture
    to 1 % everywhere, borders included. Where tiles are put side by side unblended they are not.
    """
    network, x = awake(WIDE).requires_grad_(False), astronaut[None, :, :256].float() / 127.5 - 1
    z_t, t, _, pyramid = inputs(WIDE, 256, 512)
    given = (x + 0.3 * z_t[:1], t[:1], x, [level[:1] for level in pyramid])
    untiled = network(*given)

    def steps_across(x):
        return x.diff(dim=-1).abs().mean((0, 1, 2))

    def worst_column():
        tiled = predict_tiled(network, *given, side=192, overlap=64)
        assert not torch.equal(tiled, untiled)
        return (steps_across(tiled) / steps_across(untiled) - 1).abs().max()

    assert worst_column() < 0.01
    monkeypatch.setattr(tiling, "_rise", lambda n, at, _: (torch.arange(n) >= at + 31).float())
    assert worst_column() > 0.05


def test_tiles_are_as_large_as_the_memory_allows():
    config = DenoiserConfig.small()
    need = tiling.CHAIN_BYTES + config.bytes_per_pixel
    assert Tiling(memory=need * 1024 * 768).side(config, 1, 1024, 768) >= 1024
    side = Tiling(memory=need * 1024 * 768 - 1).side(config, 1, 1024, 768)
    assert 512 <= side < 1024
    assert side % config.multiple == 0
    assert Tiling(memory=need * 1024 * 768).side(config, 2, 768, 512) >= 768
    assert Tiling(tile=256).side(config, 1, 1024, 768) == 256


def test_the_refusal_names_a_memory_that_works():
    config = DenoiserConfig.small()
    with pytest.raises(ValueError, match=r"memory is 500 MiB.* 3008×2048 pixels") as refusal:
        Tiling(memory=500 * 2**20).side(config, 1, 2048, 3008)
    works = int(str(refusal.value).split("takes ")[1].split(" MiB")[0])
    assert Tiling(memory=works * 2**20).side(config, 1, 2048, 3008) == 256
    with pytest.raises(ValueError, match=f"takes {works} MiB"):
        Tiling(memory=(works - 1) * 2**20).side(config, 1, 2048, 3008)
    with pytest.raises(ValueError, match="or tiles of 256"):
        Tiling(memory=works * 2**20, tile=1024).side(config, 1, 2048, 3008)


@pytest.mark.parametrize(
    ("settings", "named"),
    [
        ({"memory": 0}, "memory .* 0"),
        ({"overlap": 0}, "overlap .* 0"),
        ({"tile": 128}, "twice the overlap, 256, got 128"),
        ({"tile": 264}, "tile must be a multiple of 16 .* 264: 272 works"),
        ({"overlap": 100}, "overlap must be a multiple of 16 .* 100: 112 works"),
    ],
)
def test_tiles_that_cannot_be_are_refused(settings, named):
    with pytest.raises(ValueError, match=named):
        Tiling(**settings).side(DenoiserConfig.small(), 1, 2048, 3008)


MEASURE = """
import json, resource, sys
import torch
from blurlib.diffusion import *
from blurlib.diffusion.prior import error_variance
from stand_ins import inputs

def peak():
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024

def decode(H, W, tiling, solver):
    _, _, base, pyramid = inputs(config, H, W, B=1)
    side = tiling.side(config, 1, H, W)
    before = peak()
    process = BlurDiffusion(BlurSchedule(), prediction)
    if prediction == "residual":
        quality = torch.ones(1, dtype=torch.float64)
        variance = error_variance(torch.full((2, 18), -6.0), quality, H, W)
        process = process.given(Prior(dct2(base), variance))
    chain = sample(
        process,
        lambda z, t: predict_tiled(net, z, t, base, pyramid, side=side, overlap=tiling.overlap),
        base.shape, Sampling(3, solver=solver),
    )
    for state in chain:
        x = ((state.x_hat + 1) / 2).clamp(0, 1)
    return side, peak() - before

(H, W, memory), (solver, prediction) = map(int, sys.argv[1:4]), sys.argv[4:]
config = DenoiserConfig.small()
net = Denoiser(config).eval().to(memory_format=torch.channels_last)
decode(64, 64, Tiling(), solver)
print(json.dumps(decode(H, W, Tiling(memory=memory), solver)))
"""


@pytest.mark.slow
@pytest.mark.parametrize(
    ("H", "W", "mebibytes", "solver", "prediction", "tiled"),
    [(896, 1344, 615, "multistep", "x", False), (1024, 1344, 332, "ancestral", "residual", True)],
)
def test_the_memory_bound_holds(H, W, mebibytes, solver, prediction, tiled):
    """Peak resident memory of a process, less what it held before the decode."""
    arguments = [H, W, mebibytes * 2**20, solver, prediction]
    command = [sys.executable, "-c", MEASURE, *map(str, arguments)]
    side, used = json.loads(subprocess.check_output(command, cwd=Path(__file__).parent))
    assert used <= mebibytes * 2**20
    assert (side < max(H, W)) == tiled
