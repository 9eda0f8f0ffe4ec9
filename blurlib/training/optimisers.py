"""Muon and Adam, and which parameters each takes at what part of the learning rate."""

import math
from collections.abc import Iterable, Iterator

import torch
from torch import Tensor, nn

from blurlib.codec import BlurCodec
from blurlib.codec.transforms import GatedBlock
from blurlib.training.config import TrainConfig

# Coefficients of the iteration X ← a·X + (b·A + c·A²)·X, A = XXᵀ, which takes singular values from
# (0, 1] to about 1 (Jordan 2024, kellerjordan.github.io/posts/muon).
NEWTON_SCHULZ = (3.4445, -4.7750, 2.0315)


class Muon(torch.optim.Optimizer):
    """Muon (Jordan et al. 2024), with the scale of Liu et al. 2025 (arXiv 2502.16982):

        B ← μ B + G
        W ← W − lr · 0.2 · √max(m, n) · NS(G + μ B)

    NS takes the singular values of an (m, n) matrix near 1 by Newton–Schulz iterations, so that
    every direction learns alike; √max(m, n) gives the update the root mean square of Adam's. The
    weight of a convolution (out, in, h, w) is the matrix (out, in·h·w).

    `params` are weights of at least two dimensions, or groups of them; `momentum` is μ. Of the
    `iterations` of Newton–Schulz 5 are usual; 3 taught these networks as much in less time.
    `precision` is that of Newton–Schulz, which bears bfloat16.
    """

    def __init__(
        self,
        params: Iterable,
        lr: float = 1e-3,
        momentum: float = 0.95,
        iterations: int = 3,
        precision: torch.dtype = torch.float32,
    ):
        super().__init__(params, {"lr": lr, "momentum": momentum, "iterations": iterations})
        self.precision = precision

    @torch.no_grad()
    def step(self) -> None:  # type: ignore[override]
        for group in self.param_groups:
            for weight in group["params"]:
                if weight.grad is None:
                    continue
                state = self.state[weight]
                if not state:
                    state["momentum"] = torch.zeros_like(weight)
                momentum = state["momentum"].mul_(group["momentum"]).add_(weight.grad)
                ahead = weight.grad.add(momentum, alpha=group["momentum"]).flatten(1)
                update = orthogonal(ahead.to(self.precision), group["iterations"])
                size = 0.2 * math.sqrt(max(update.shape))
                weight.sub_(update.view(weight.shape), alpha=group["lr"] * size)


def orthogonal(matrix: Tensor, iterations: int) -> Tensor:
    """U·Vᵀ of matrix = U·S·Vᵀ, roughly: singular values above 0.02 of the norm (0.002 with
    5 iterations) end between about 0.7 and 1.2, smaller ones grow 3.4 times per iteration."""
    a, b, c = NEWTON_SCHULZ
    tall = matrix.shape[0] > matrix.shape[1]
    x = matrix.T if tall else matrix
    x = x / (x.norm() + 1e-7)
    for _ in range(iterations):
        gram = x @ x.T
        x = torch.addmm(x, torch.addmm(gram, gram, gram, beta=b, alpha=c), x, beta=a)
    return x.T if tall else x


def matrices(module: nn.Module) -> Iterator[Tensor]:
    """The weights that Muon takes: of linear layers and of convolutions that mix channels."""
    for part in module.modules():
        if isinstance(part, nn.Linear) or (isinstance(part, nn.Conv2d) and part.groups == 1):
            yield part.weight


def parameter_groups(
    module: nn.Module, codec: BlurCodec | None, config: TrainConfig
) -> tuple[list[dict], list[dict]]:
    """All parameters of `module`: those that Muon takes, and the others. Each group has `params`
    and a `scale`, its part of the learning rate: the convolutions of g_a and the main decoder of
    `codec` have `lr_transforms`, the blocks between them `lr_blocks`.
    """
    transforms = [codec.g_a, codec.main_decoder] if codec else []
    scales = {id(p): config.lr_transforms for part in transforms for p in part.parameters()}
    blocks = (b for part in transforms for b in part.modules() if isinstance(b, GatedBlock))
    scales |= {id(p): config.lr_blocks for block in blocks for p in block.parameters()}
    of_muon = {id(weight) for weight in matrices(module)}
    groups: tuple[dict[float, list], dict[float, list]] = ({}, {})
    for parameter in module.parameters():
        group = groups[id(parameter) not in of_muon]
        group.setdefault(scales.get(id(parameter), 1.0), []).append(parameter)
    muon, others = (
        [{"params": params, "scale": scale} for scale, params in group.items()] for group in groups
    )
    return muon, others


def make_optimisers(
    module: nn.Module, codec: BlurCodec | None, config: TrainConfig
) -> list[torch.optim.Optimizer]:
    """As `config.optimiser` says: Muon for the matrices and Adam for the rest, or Adam for all."""
    muon, others = parameter_groups(module, codec, config)
    if config.optimiser == "adam":
        return [torch.optim.Adam(muon + others, fused=True)]
    precision = torch.bfloat16 if config.precision == "bf16-mixed" else torch.float32
    first = Muon(muon, momentum=config.momentum, precision=precision)
    return [first, torch.optim.Adam(others, fused=True)]


def learning_rate(step: int, steps: int, config: TrainConfig) -> float:
    """Linear warm-up, the peak, then a cosine down to 1 % of it over the last `config.decay` of the
    run. `steps` = 0: still warming up."""
    warm = min(1.0, (step + 1) / config.warmup)
    if not steps:
        return config.lr * warm
    start = steps * (1 - config.decay)
    progress = min(1.0, max(0.0, step - start) / (steps - start))
    return config.lr * warm * (0.01 + 0.99 * 0.5 * (1 + math.cos(math.pi * progress)))
