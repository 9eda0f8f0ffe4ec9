"""What a step of the diffusion decoder costs: the network, the two DCTs, and the rest.

Random weights of the shipped size, one CPU thread; seconds of processor time, the better of two
steps. Beside it the same picture in the tiles it would get under a memory bound.

    python benchmarks/diffusion_step.py results/checks/diffusion-step.json
"""

import json
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import get_args

import torch
from torch import Tensor

from blurlib import images
from blurlib.ablation.common import circumstances
from blurlib.diffusion import (
    BlurDiffusion,
    BlurSchedule,
    Denoiser,
    DenoiserConfig,
    Solver,
    Tiling,
    dct2,
    idct2,
    predict_tiled,
    sample,
)

SIZES = [(512, 768), (2048, 3008)]  # 768×512 and 3000×2000, padded to multiples of 64
MEMORY = 3 * 2**29


def seconds(work: Callable[[], object], runs: int = 2) -> float:
    """Processor time of the fastest run."""
    taken = []
    for _ in range(runs):
        start = time.process_time()
        work()
        taken.append(time.process_time() - start)
    return min(taken)


@contextmanager
def counted(spent: list[float]) -> Iterator[None]:
    """Appends the processor time of its block."""
    start = time.process_time()
    yield
    spent.append(time.process_time() - start)


def new_network() -> Denoiser:
    return Denoiser(DenoiserConfig.small()).eval().to(memory_format=torch.channels_last)


def conditioning(config: DenoiserConfig, H: int, W: int) -> tuple[Tensor, list[Tensor]]:
    scales = [(c, config.patch * 2**i) for i, c in enumerate(config.cond_channels) if c]
    return torch.rand(1, 3, H, W), [torch.rand(1, c, H // s, W // s) for c, s in scales]


@torch.inference_mode()
def step(H: int, W: int, solver: Solver) -> dict:
    """The parts of a step in the middle of a chain."""
    network = new_network()
    base, pyramid = conditioning(network.config, H, W)
    spent: list[float] = []

    def predict(z_t: Tensor, t: Tensor) -> Tensor:
        with counted(spent):
            return network(z_t, t, base, pyramid)

    generator = torch.Generator().manual_seed(0)
    chain = sample(BlurDiffusion(BlurSchedule()), predict, base.shape, 4, generator, solver=solver)
    next(chain)
    steps = [seconds(lambda: next(chain), 1) for _ in range(2)]
    in_network = min(spent[1:])
    dcts = seconds(lambda: dct2(base)) + seconds(lambda: idct2(base))
    return {
        "width": W,
        "height": H,
        "solver": solver,
        "step_s": round(min(steps), 4),
        "network_s": round(in_network, 4),
        "two_dcts_s": round(dcts, 4),
        "dcts_over_network": round(dcts / in_network, 4),
    }


@torch.inference_mode()
def tiles(H: int, W: int) -> dict:
    """The network on the whole picture, and in tiles as the memory bound asks for them."""
    network = new_network()
    base, pyramid = conditioning(network.config, H, W)
    tiling = Tiling(memory=MEMORY)
    side, t = tiling.side(network.config, 1, H, W), torch.tensor([0.5])
    inputs = (base, t, base, pyramid)
    whole = seconds(lambda: network(*inputs), 1)
    parts = seconds(lambda: predict_tiled(network, *inputs, side=side, overlap=tiling.overlap), 1)
    return {
        "width": W,
        "height": H,
        "memory": MEMORY,
        "side": side,
        "whole_s": round(whole, 3),
        "tiles_s": round(parts, 3),
    }


def main(out: Path) -> None:
    torch.set_num_threads(1)
    content = {
        **circumstances(f"python benchmarks/diffusion_step.py {out.name}", 1),
        "steps": [step(*size, solver) for size in SIZES for solver in get_args(Solver)],
        "tiles": tiles(*SIZES[-1]),
    }
    images.atomic_write(out, (json.dumps(content, indent=1) + "\n").encode(), overwrite=True)
    print(json.dumps([content["steps"], content["tiles"]]))


if __name__ == "__main__":
    main(Path(sys.argv[1]))
