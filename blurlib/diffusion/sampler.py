"""Samplers: from noise to a picture, one network evaluation a step, as generators.

    for state in ancestral(process, predict, (1, 3, H, W), steps=17, generator=generator):
        show(state.x_hat)

The chain ends at the last x̂ (`last_x_hat`), not at z_0, which still carries the noise σ_0.
"""

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from blurlib.diffusion.dct import idct2
from blurlib.diffusion.process import BlurDiffusion, Estimate

Predict = Callable[[Tensor, Tensor], Tensor]
Noise = Callable[[], Tensor]
Step = Callable[[Tensor, Estimate, float, float, Noise], Tensor]


@dataclass(frozen=True)
class SamplerState:
    """One step of a chain: step (from 0) of steps, at time t; z (B, 3, H, W) in pixels, what the
    network saw; u_x_hat (B, 3, H, W), its estimate of the clean picture, in DCT frequencies."""

    step: int
    steps: int
    t: float
    z: Tensor
    u_x_hat: Tensor

    @property
    def x_hat(self) -> Tensor:
        """The estimate of the clean picture in pixels; computed only where it is looked at."""
        return idct2(self.u_x_hat)


def ancestral(
    process: BlurDiffusion,
    predict: Predict,
    shape: Sequence[int],
    steps: int,
    generator: torch.Generator,
    *,
    noise_scale: float = 1.0,
    dtype: torch.dtype = torch.float32,
    device: torch.device | None = None,
) -> Iterator[SamplerState]:
    """u_s ~ N(mean, variance) of `BlurDiffusion.posterior`; t = 1, 1 − 1/steps, …, 1/steps.

    predict: (z_t (B, 3, H, W), t (B,)) → network output (B, 3, H, W), all in pixel space.
    shape: (B, 3, H, W). steps: network evaluations, at least 1.
    generator: all noise comes from it, so a seed repeats a decode; draws happen on its device, so
        a CPU generator gives the same noise to every device.
    noise_scale: u_1 = noise_scale · σ_1 · N(0, I); 0 starts from grey.
    dtype, device: of the chain; device defaults to the generator's.

    Yields a `SamplerState` per step, without gradients. Raises ValueError for steps < 1, a shape
    that is not 4-D and a negative noise_scale, before the first step.
    """

    def step(u_t: Tensor, estimate: Estimate, s: float, t: float, noise: Noise) -> Tensor:
        mean, variance = process.posterior(u_t, estimate.u_x_hat, s, t)
        return mean + variance.sqrt() * noise()

    _check(shape, steps, noise_scale)
    noise = _white_noise(shape, generator, dtype, device)
    return _chain(process, predict, steps, step, noise, noise_scale)


def deterministic(
    process: BlurDiffusion,
    predict: Predict,
    shape: Sequence[int],
    steps: int,
    generator: torch.Generator,
    *,
    noise_scale: float = 1.0,
    dtype: torch.dtype = torch.float32,
    device: torch.device | None = None,
) -> Iterator[SamplerState]:
    """u_s = α_s û_x + σ_s ε̂ (DDIM): noise only at the start. Otherwise as `ancestral`."""

    def step(u_t: Tensor, estimate: Estimate, s: float, t: float, noise: Noise) -> Tensor:
        return process.deterministic_step(estimate, s)

    _check(shape, steps, noise_scale)
    noise = _white_noise(shape, generator, dtype, device)
    return _chain(process, predict, steps, step, noise, noise_scale)


def last_x_hat(states: Iterator[SamplerState]) -> Tensor:
    """Runs a chain to its end and returns its result: the last x̂, (B, 3, H, W), pixels."""
    for state in states:
        last = state
    return last.x_hat


def _check(shape: Sequence[int], steps: int, noise_scale: float) -> None:
    if steps < 1:
        raise ValueError(f"sampling takes at least 1 step, got {steps}")
    if len(shape) != 4:
        raise ValueError(f"shape must be (batch, channels, height, width), got {tuple(shape)}")
    if not 0 <= noise_scale < math.inf:
        raise ValueError(f"noise_scale must be 0 or more, got {noise_scale}")


def _white_noise(
    shape: Sequence[int],
    generator: torch.Generator,
    dtype: torch.dtype,
    device: torch.device | None,
) -> Noise:
    """Draws N(0, I). The DCT is orthonormal, so the draw serves as frequencies as it is."""

    def draw() -> Tensor:
        noise = torch.randn(tuple(shape), generator=generator, dtype=dtype, device=generator.device)
        return noise.to(device or generator.device)

    return draw


@torch.no_grad()
def _chain(
    process: BlurDiffusion,
    predict: Predict,
    steps: int,
    step: Step,
    noise: Noise,
    noise_scale: float,
) -> Iterator[SamplerState]:
    """The loop of every sampler. The state stays in frequency space: two DCTs a step."""
    u_t = noise_scale * process.schedule.sigma(1.0).item() * noise()
    for i in range(steps):
        t, s = 1 - i / steps, 1 - (i + 1) / steps
        z_t = idct2(u_t)
        output = predict(z_t, u_t.new_full((u_t.shape[0],), t))
        estimate = process.estimate(u_t, output, t)
        yield SamplerState(i, steps, t, z_t, estimate.u_x_hat)
        if i + 1 < steps:
            u_t = step(u_t, estimate, s, t, noise)
