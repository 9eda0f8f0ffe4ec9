"""What a step of the diffusion decoder costs: the network, the two DCTs, and the rest.

The shipped denoiser, one CPU thread; seconds of processor time, the better of two steps. Beside it
the same picture in the tiles it would get under a memory bound.

    python -m experiments.speed.diffusion_step results/checks/diffusion-step.json
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

from blurlib import checkpoints
from blurlib.codec import CodecOutput, zoo
from blurlib.codec.synthesis import DiffusionDecoder
from blurlib.diffusion import Sampling, Solver, Tiling, dct2, idct2, predict_tiled, sample
from experiments.record import circumstances, write_json

SIZES = [(512, 768), (2048, 3008)]  # 768×512 and 3000×2000, padded to multiples of 64
MEMORY, QUALITY = 3 * 2**29, 3.0


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


@torch.inference_mode()
def decoded(H: int, W: int) -> CodecOutput:
    """What the codec makes of noise: its files take as long as a photo's."""
    generator = torch.Generator().manual_seed(0)
    return zoo.load()(torch.rand(1, 3, H, W, generator=generator), QUALITY)


@torch.inference_mode()
def step(decoder: DiffusionDecoder, output: CodecOutput, solver: Solver) -> dict:
    """The parts of a step in the middle of a chain."""
    spent: list[float] = []

    def predict(z_t: Tensor, t: Tensor) -> Tensor:
        with counted(spent):
            return decoder.predict(z_t, t, output)

    base = output.reconstruction.x_hat
    chain = sample(decoder.given(output), predict, base.shape, Sampling(4, solver=solver))
    next(chain)
    steps = [seconds(lambda: next(chain), 1) for _ in range(2)]
    in_network = min(spent[1:])
    dcts = seconds(lambda: dct2(base)) + seconds(lambda: idct2(base))
    return {
        "width": base.shape[3],
        "height": base.shape[2],
        "solver": solver,
        "step_s": round(min(steps), 4),
        "network_s": round(in_network, 4),
        "two_dcts_s": round(dcts, 4),
        "dcts_over_network": round(dcts / in_network, 4),
    }


@torch.inference_mode()
def tiles(decoder: DiffusionDecoder, output: CodecOutput) -> dict:
    """The network on the whole picture, and in tiles as the memory bound asks for them."""
    network, (x_hat, pyramid) = decoder.denoiser, output.reconstruction
    H, W = x_hat.shape[2:]
    tiling = Tiling(memory=MEMORY)
    side = tiling.side(network.config, 1, H, W)
    inputs = (x_hat, torch.tensor([0.5]), x_hat, pyramid)
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
    decoder = zoo.load_denoiser()
    outputs = [decoded(*size) for size in SIZES]
    content = {
        **circumstances(f"python -m experiments.speed.diffusion_step {out.name}", 1),
        "denoiser": checkpoints.DENOISER,
        "steps": [step(decoder, o, solver) for o in outputs for solver in get_args(Solver)],
        "tiles": tiles(decoder, outputs[-1]),
    }
    write_json(out, content)
    print(json.dumps([content["steps"], content["tiles"]]))


if __name__ == "__main__":
    main(Path(sys.argv[1]))
