"""What a step of the diffusion decoder costs: the network, the two DCTs, and the rest.

Random weights of the shipped size, one CPU thread; seconds of processor time, the better of two
steps. Beside it the same picture in the tiles it would get under a memory bound.

    python benchmarks/diffusion_step.py
"""

import time
from collections.abc import Callable
from contextlib import contextmanager

import torch
from torch import Tensor

from blurlib.diffusion import (
    BlurDiffusion,
    BlurSchedule,
    Denoiser,
    DenoiserConfig,
    Tiling,
    dct2,
    idct2,
    predict_tiled,
    sample,
)
from blurlib.diffusion.dct import _dense

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
def counted(total: list[float]):
    """Adds the processor time of its block."""
    start = time.process_time()
    yield
    total[0] += time.process_time() - start


def conditioning(config: DenoiserConfig, H: int, W: int) -> tuple[Tensor, list[Tensor]]:
    scales = [(c, config.patch * 2**i) for i, c in enumerate(config.cond_channels) if c]
    return torch.rand(1, 3, H, W), [torch.rand(1, c, H // s, W // s) for c, s in scales]


@torch.inference_mode()
def step(H: int, W: int, solver: str) -> None:
    """Prints the split of the second step of two, the only one with a transition to it."""
    config = DenoiserConfig.small()
    network = Denoiser(config).eval().to(memory_format=torch.channels_last)
    base, pyramid = conditioning(config, H, W)
    spent = [0.0]

    def predict(z_t: Tensor, t: Tensor) -> Tensor:
        with counted(spent):
            return network(z_t, t, base, pyramid)

    generator = torch.Generator().manual_seed(0)
    chain = sample(BlurDiffusion(BlurSchedule()), predict, base.shape, 3, generator, solver=solver)
    next(chain)
    spent[0] = 0.0
    whole = seconds(lambda: next(chain))
    in_network = spent[0] / 2
    dcts = seconds(lambda: dct2(base)) + seconds(lambda: idct2(base))
    print(
        f"{W}×{H} {solver:13} step {whole:6.2f} s: network {in_network:6.2f} s, "
        f"two DCTs {dcts:5.3f} s ({dcts / in_network:.1%} of the network), "
        f"rest {max(0.0, whole - in_network - dcts):5.2f} s"
    )


@torch.inference_mode()
def tiles(H: int, W: int) -> None:
    config = DenoiserConfig.small()
    network = Denoiser(config).eval().to(memory_format=torch.channels_last)
    base, pyramid = conditioning(config, H, W)
    tiling = Tiling(memory=MEMORY)
    side, t = tiling.side(config, 1, H, W), torch.tensor([0.5])
    inputs = (base, t, base, pyramid)
    whole = seconds(lambda: network(*inputs), 1)
    parts = seconds(lambda: predict_tiled(network, *inputs, side=side, overlap=tiling.overlap), 1)
    print(f"{W}×{H} network: whole {whole:.2f} s, in tiles of {side} or less {parts:.2f} s")


def main() -> None:
    torch.set_num_threads(1)
    for H, W in SIZES:
        x = torch.rand(1, 3, H, W)
        fast, dense = seconds(lambda x=x: dct2(x)), seconds(lambda x=x: _dense(x, False), 1)
        print(f"{W}×{H} one DCT: {fast:.3f} s, by matrix products {dense:.3f} s")
        step(H, W, "ancestral")
        step(H, W, "multistep")
    tiles(*SIZES[-1])


if __name__ == "__main__":
    main()
