"""Encoding and decoding a 768×512 photo, beside CompressAI's models.

- mbt2018-mean: a hyperprior and no context, one pass over the latent.
- ELIC: uneven channel groups and a checkerboard, as here, ten passes.
- mbt2018: a raster-scan context: its parameter network runs once for each of the 48×32 positions.

Seconds are of processor time on one thread, medians of runs that take turns.

Theirs have random weights: for ELIC none were published, and the time depends on the number of
positions and symbols, hardly on their values. Still they get real work: a latent is scaled to
standard deviation σ and coded with this σ, for which a Gaussian would have the bits of our file.
The latent has longer tails, so the file is larger.

    python -m experiments.speed.decode results/checks/decode-speed.json
"""

import statistics
import sys
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from compressai.models import (
    Elic2022Official,
    JointAutoregressiveHierarchicalPriors,
    MeanScaleHyperprior,
)
from torch import Tensor, nn

from blurlib import checkpoints, datasets, images
from blurlib.codec import BlurCodec, zoo
from blurlib.codec.bitstream import BlurFile
from blurlib.entropy.coder import coded_bits
from blurlib.evaluation.codecs import select
from blurlib.evaluation.results import new_results
from experiments.record import write_json

MODEL, QUALITY, SEED, RUNS = checkpoints.CODEC, 3.0, 0, 3
PEERS: dict[str, Callable[[], nn.Module]] = {
    "mbt2018-mean": lambda: MeanScaleHyperprior(128, 192),  # qualities 1 to 4
    "ELIC": Elic2022Official,
    "mbt2018": lambda: JointAutoregressiveHierarchicalPriors(192, 192),  # qualities 1 to 4
}


def sigma_of(bits: float) -> float:
    """σ of the integers under a Gaussian with that many bits per symbol."""
    symbols = torch.arange(-200, 201)

    def entropy(sigma: float) -> float:
        cost = coded_bits(symbols, torch.tensor(sigma))
        return (cost * 2**-cost).sum().item()

    sigmas = np.geomspace(0.15, 20, 400)
    return float(np.interp(bits, [entropy(sigma) for sigma in sigmas], sigmas))


def parameter_networks(peer: nn.Module) -> list[nn.Sequential]:
    """Those whose last layer gives the scales, then the means, of a pass."""
    if isinstance(peer, JointAutoregressiveHierarchicalPriors):
        return [peer.entropy_parameters]
    if isinstance(peer, MeanScaleHyperprior):
        return [peer.h_s]
    groups = peer.latent_codec["y"].latent_codec
    return [groups[f"y{k}"].entropy_parameters for k in range(len(peer.groups))]


@torch.no_grad()
def at_work(make: Callable[[], nn.Module], x: Tensor, sigma: float) -> nn.Module:
    """Random weights, with every channel of y on `x` of mean 0 and standard deviation `sigma`."""
    torch.manual_seed(SEED)
    peer = make().eval()
    y = peer.g_a(x)
    scale, shift = sigma / y.std((0, 2, 3)), -y.mean((0, 2, 3))
    analysis = peer.g_a
    peer.g_a = nn.Sequential(analysis, _Affine(scale, shift))
    for network in parameter_networks(peer):
        last = network[-1]
        last.weight.zero_()  # its runs cost the same
        last.bias.zero_()
        last.bias[: len(last.bias) // 2] = sigma
    peer.update()
    return peer


class _Affine(nn.Module):
    def __init__(self, scale: Tensor, shift: Tensor):
        super().__init__()
        self.scale, self.shift = scale[:, None, None], shift[:, None, None]

    def forward(self, y: Tensor) -> Tensor:
        return (y + self.shift) * self.scale


def calls(module: nn.Module, work: Callable[[], object]) -> int:
    """How often `work` runs a module."""
    count = []
    handle = module.register_forward_hook(lambda *_: count.append(1))
    work()
    handle.remove()
    return len(count)


def passes(codec: BlurCodec, file: BlurFile) -> int:
    """Runs of the parameter networks, all groups together, in one decode."""
    return sum(
        calls(group.parameters_, lambda: codec.decode_latent(file))
        for group in codec.entropy.groups
    )


def medians(work: dict[str, Callable[[], object]]) -> dict[str, float]:
    """Processor time of each, the runs taking turns, after one to warm up."""
    taken: dict[str, list[float]] = {name: [] for name in work}
    for _ in range(RUNS + 1):
        for name, run in work.items():
            start = time.process_time()
            run()
            taken[name].append(time.process_time() - start)
    return {name: statistics.median(seconds[1:]) for name, seconds in taken.items()}


@torch.inference_mode()
def main(out: Path) -> None:
    torch.set_num_threads(1)
    path = datasets.dataset("kodak")[4]
    x = images.to_float(images.read_image(path))[None]
    assert x.shape[-2:] == (512, 768)
    codec, chosen = zoo.load(MODEL), select(MODEL)
    data = codec.compress(x, QUALITY)
    file = BlurFile.from_bytes(data)
    symbols = codec.decode_latent(file).y_hat.numel()
    ours = {"bytes": len(data), "symbols": symbols, "passes": passes(codec, file)}
    found = {chosen.codec.name: ours}
    work: dict[str, Callable[[], object]] = {
        f"{chosen.codec.name} encode": lambda: codec.compress(x, QUALITY),
        f"{chosen.codec.name} y_hat": lambda: codec.decode_latent(file),
        f"{chosen.codec.name} decode": lambda: codec.decompress(file, pyramid=False),
    }
    for name, make in PEERS.items():
        own, found[name] = beside(at_work(make, x, sigma_of(8 * len(data) / symbols)), x)
        work |= {f"{name} {what}": run for what, run in own.items()}
    for run, seconds in medians(work).items():
        name, _, what = run.rpartition(" ")
        found[name][f"{what}_s"] = round(seconds, 3)
    header = new_results("kodak", chosen.codec, checkpoint=chosen.checkpoint, seed=SEED).header()
    command = f"python -m experiments.speed.decode {out.name}"
    about = {"command": command, "runs": RUNS, "image": path.name, "quality": QUALITY}
    write_json(out, {**header, **about, "found": found})
    print(out.read_text(encoding="utf-8"))


def beside(peer: nn.Module, x: Tensor) -> tuple[dict[str, Callable[[], object]], dict[str, float]]:
    """What to time of a model of CompressAI, and what it codes."""
    coded, synthesis = peer.compress(x), peer.g_s

    def entropy_only() -> None:
        peer.g_s = nn.Identity()
        peer.decompress(**coded)
        peer.g_s = synthesis

    strings = [part for strings in coded["strings"] for part in strings]
    work = {
        "encode": lambda: peer.compress(x),
        "y_hat": entropy_only,
        "decode": lambda: peer.decompress(**coded),
    }
    return work, {
        "bytes": sum(map(len, strings)),
        "symbols": peer.g_a(x).numel(),
        "passes": sum(calls(network, entropy_only) for network in parameter_networks(peer)),
    }


if __name__ == "__main__":
    main(Path(sys.argv[1]))
