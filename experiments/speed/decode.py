"""Ten passes against one pass per position: decoding a 768×512 photo, beside CompressAI's mbt2018.

mbt2018 has a raster-scan context: its parameter network runs once for each of the 48×32 positions.
Both models have M = 192 channels, so both decode 294,912 symbols. Seconds are of processor time on
one thread, medians of runs that take turns.

Where mbt2018's trained weights cannot be had, random ones take their place. Its time depends on the
number of positions and symbols, hardly on their values; still it gets real work: its latent is
scaled to standard deviation σ and coded with this σ, for which a Gaussian would have the bits of
our file. The latent has longer tails, so its file is larger.

    python -m experiments.speed.decode results/checks/decode-speed.json
"""

import statistics
import sys
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from compressai.models import JointAutoregressiveHierarchicalPriors
from compressai.zoo import mbt2018 as zoo_mbt2018
from torch import Tensor, nn

from blurlib import checkpoints, datasets, images
from blurlib.codec import BlurCodec, zoo
from blurlib.codec.bitstream import BlurFile
from blurlib.entropy.coder import coded_bits
from blurlib.evaluation.codecs import select
from blurlib.evaluation.results import new_results
from experiments.record import write_json

MODEL, QUALITY, SEED, RUNS = checkpoints.CODEC, 3.0, 0, 3
M = 192  # of mbt2018 at qualities 1 to 4


def sigma_of(bits: float) -> float:
    """σ of the integers under a Gaussian with that many bits per symbol."""
    symbols = torch.arange(-200, 201)

    def entropy(sigma: float) -> float:
        cost = coded_bits(symbols, torch.tensor(sigma))
        return (cost * 2**-cost).sum().item()

    sigmas = np.geomspace(0.15, 20, 400)
    return float(np.interp(bits, [entropy(sigma) for sigma in sigmas], sigmas))


@torch.no_grad()
def random_mbt2018(x: Tensor, sigma: float) -> nn.Module:
    """Random weights, with every channel of y on `x` of mean 0 and standard deviation `sigma`."""
    torch.manual_seed(SEED)
    model = JointAutoregressiveHierarchicalPriors(192, M).eval()
    last, parameters = model.g_a[-1], model.entropy_parameters[-1]
    y = model.g_a(x)
    scale = sigma / y.std((0, 2, 3))
    last.weight *= scale[:, None, None, None]
    last.bias.copy_((last.bias - y.mean((0, 2, 3))) * scale)
    parameters.weight.zero_()  # its runs cost the same
    parameters.bias.zero_()
    parameters.bias[:M] = sigma  # the first half are the scales
    model.update()
    return model


def mbt2018(x: Tensor, bits: float) -> tuple[str, nn.Module]:
    try:
        return "trained, quality 3", zoo_mbt2018(3, pretrained=True).eval()
    except (OSError, RuntimeError):  # no network
        return "random", random_mbt2018(x, sigma_of(bits))


def calls(module: nn.Module, work: Callable[[], object]) -> int:
    """How often `work` runs a module."""
    count = []
    handle = module.register_forward_hook(lambda *_: count.append(1))
    work()
    handle.remove()
    return len(count)


def passes(codec: BlurCodec, file: BlurFile) -> dict[str, int]:
    """Runs of h_s and of the parameter networks, all groups together, in one decode."""
    count = {"h_s": calls(codec.h_s, lambda: codec.decode_latent(file)), "g_ep": 0}
    for group in codec.entropy.groups:
        count["g_ep"] += calls(group.parameters_, lambda: codec.decode_latent(file))
    return count


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
    x = images.to_float(images.read_image(datasets.kodak()[4]))[None]
    assert x.shape[-2:] == (512, 768)
    codec = zoo.load(MODEL)
    data = codec.compress(x, QUALITY)
    file = BlurFile.from_bytes(data)
    symbols = codec.decode_latent(file).y_hat.numel()
    weights, peer = mbt2018(x, 8 * len(data) / symbols)
    theirs = peer.compress(x)
    synthesis = peer.g_s

    def entropy_only() -> None:
        peer.g_s = nn.Identity()
        peer.decompress(**theirs)
        peer.g_s = synthesis

    seconds = medians(
        {
            "ours_y_hat_s": lambda: codec.decode_latent(file),
            "mbt2018_y_hat_s": entropy_only,
            "ours_full_s": lambda: codec.decompress(file),
            "mbt2018_full_s": lambda: peer.decompress(**theirs),
        }
    )
    chosen = select(MODEL)
    header = new_results("kodak", chosen.codec, checkpoint=chosen.checkpoint, seed=SEED).header()
    content = {
        **header,
        "command": f"python -m experiments.speed.decode {out.name}",
        "runs": RUNS,
        "image": datasets.kodak()[4].name,
        "quality": QUALITY,
        "ours": {"bytes": len(data), "symbols": symbols, "runs_of": passes(codec, file)},
        "mbt2018": {
            "weights": weights,
            "bytes": sum(len(part) for strings in theirs["strings"] for part in strings),
            "symbols": peer.M * (512 // 16) * (768 // 16),
            "runs_of": {
                "h_s": calls(peer.h_s, entropy_only),
                "g_ep": calls(peer.entropy_parameters, entropy_only),
            },
        },
        "seconds": seconds,
        "ratio_y_hat": seconds["mbt2018_y_hat_s"] / seconds["ours_y_hat_s"],
        "ratio_full": seconds["mbt2018_full_s"] / seconds["ours_full_s"],
    }
    write_json(out, content)
    print(out.read_text())


if __name__ == "__main__":
    main(Path(sys.argv[1]))
