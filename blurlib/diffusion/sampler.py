"""The reverse process: from noise to a picture, one network evaluation a step, as a generator.

    for state in sample(process, predict, (1, 3, H, W), Sampling(steps=17, seed=1)):
        show(state.x_hat)

The chain ends at the last x̂ (`last_x_hat`), not at z_0, which still carries the noise σ_0.
"""

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from numbers import Integral
from typing import Any, Literal, get_args

import torch
from torch import Tensor

from blurlib.diffusion.dct import idct2
from blurlib.diffusion.process import BlurDiffusion
from blurlib.diffusion.schedule import BlurSchedule, Marginal, Spacing

Predict = Callable[[Tensor, Tensor], Tensor]
Solver = Literal["ancestral", "deterministic", "multistep"]
MAX_STEPS = 10_000  # hours for a photo; beyond lie only typing errors


@dataclass(frozen=True)
class Sampling:
    """How a chain is run.

    Attributes:
        steps: network evaluations, from 1 to `MAX_STEPS`.
        seed: of all noise, from 0; the same seed repeats a decode on the same machine.
        solver: how to get from t to s < t, given û_x:
            "ancestral": u_s ~ N(mean, variance) of `BlurDiffusion.posterior`, fresh noise a step;
            "deterministic": `BlurDiffusion.deterministic_step`, DDIM, of order 1;
            "multistep": the same with û_x extrapolated from the last two, of order 2; on Gaussian
            pictures, at 17 steps, 9–37 % of its error.
        spacing: of the times, `BlurSchedule.times`.
        start_scale: 0 or more; u_1 = start_scale · σ_1 · N(0, I), about α_1 times the prior's mean
            if there is one. Below 1 the result is calmer: CDC (Yang & Mandt 2023, arXiv 2209.06950)
            uses 0.8. 0 is for weights that were trained so.

    Raises ValueError, naming what is wrong and what would work.
    """

    steps: int = 17
    seed: int = 0
    solver: Solver = "ancestral"
    spacing: Spacing = "logsnr"
    start_scale: float = 1.0

    def __post_init__(self) -> None:
        for name, last in (("steps", MAX_STEPS), ("seed", 2**64 - 1)):
            first, value = int(name == "steps"), getattr(self, name)
            if not isinstance(value, Integral) or not first <= int(value) <= last:
                wanted = f"a whole number from {first} to {last}"
                raise ValueError(f"{name} must be {wanted}, got {value!r}")
        if not 0 <= self.start_scale < math.inf:
            raise ValueError(f"start_scale must be 0 or more, such as 0.8, got {self.start_scale}")
        for name, kind in (("solver", Solver), ("spacing", Spacing)):
            if getattr(self, name) not in get_args(kind):
                wanted, got = ", ".join(get_args(kind)), getattr(self, name)
                raise ValueError(f"{name} must be one of {wanted}, got {got!r}")

    def but(self, **given: Any) -> "Sampling":
        """The same, except for what is given; None leaves a field as it is."""
        return replace(self, **{name: v for name, v in given.items() if v is not None})


@dataclass(frozen=True)
class SamplerState:
    """One step of a chain: step (from 0) of steps, at time t; u_t (B, 3, H, W), where the chain is,
    and u_x_hat (B, 3, H, W), the estimate of the clean picture, both in DCT frequencies. Their
    pixels are computed only where they are looked at."""

    step: int
    steps: int
    t: float
    u_t: Tensor
    u_x_hat: Tensor

    @property
    def z(self) -> Tensor:
        """The noisy picture, in pixels."""
        return idct2(self.u_t)

    @property
    def x_hat(self) -> Tensor:
        """The estimate of the clean picture, in pixels."""
        return idct2(self.u_x_hat)


def sample(
    process: BlurDiffusion,
    predict: Predict,
    shape: Sequence[int],
    sampling: Sampling,
    *,
    dtype: torch.dtype = torch.float32,
    device: torch.device | str = "cpu",
    noise: Callable[[], Tensor] | None = None,
    gradients: bool = False,
) -> Iterator[SamplerState]:
    """From noise at t = 1 to a picture, in `steps` network evaluations and two DCTs each.

    Args:
        predict: (`process.network_input`, which is z_t unless a prior is used, (B, 3, H, W); t
            (B,)) → network output (B, 3, H, W), all in pixel space.
        shape: (B, 3, H, W).
        dtype, device: of the chain. Noise is drawn on the CPU, the same for every device, and the
            coefficients are in float64.
        noise: draws N(0, I) of this shape, frequencies; the default goes by the seed.
        gradients: whether they flow back through the chain, which keeps all its evaluations.

    Yields a `SamplerState` per step. ValueError, before the first, for a shape that is not 4-D.
    """
    if len(shape) != 4:
        raise ValueError(f"shape must be (batch, channels, height, width), got {tuple(shape)}")
    generator = torch.Generator().manual_seed(sampling.seed)

    def drawn() -> Tensor:
        """N(0, I). The DCT is orthonormal, so the draw serves as frequencies as it is."""
        return torch.randn(tuple(shape), generator=generator, dtype=dtype).to(device)

    chain = _chain if gradients else torch.no_grad()(_chain)
    return chain(process, predict, sampling, noise or drawn)


def last_x_hat(states: Iterator[Any]) -> Tensor:
    """Runs a chain to its end, keeping no step, and returns its result: the last x̂."""
    for state in states:
        last = state
    return last.x_hat


def _chain(
    process: BlurDiffusion, predict: Predict, sampling: Sampling, noise: Callable[[], Tensor]
) -> Iterator[SamplerState]:
    """The loop of every solver. The state stays in frequency space: two DCTs a step."""
    u_t = sampling.start_scale * process.schedule.sigma(1.0).item() * noise()
    H, W = u_t.shape[-2:]
    times = process.schedule.times(sampling.steps, sampling.spacing)

    def marginal(t: float) -> Marginal:
        return process.marginal(torch.tensor(t, dtype=torch.float64, device=u_t.device), H, W)

    before, here = None, marginal(times[0])
    if process.prior is not None:
        u_t.addcmul_(here.alpha.to(u_t), process.prior.mean.to(u_t))
    for i, (t, s) in enumerate(zip(times, (*times[1:], None), strict=True)):
        output = predict(process.network_input(u_t, here), u_t.new_full((len(u_t),), t))
        u_x_hat = process.u_x_hat(u_t, output, here)
        yield SamplerState(i, len(times), t, u_t, u_x_hat)
        if s is None:
            return
        there = marginal(s)
        if sampling.solver == "ancestral":
            mean, variance = process.posterior(u_t, u_x_hat, there, here)
            u_t = mean.addcmul_(variance.sqrt(), noise())
        else:
            aim = u_x_hat
            if sampling.solver == "multistep" and before is not None:
                aim = _extrapolated(process.schedule, before, (t, u_x_hat), s)
            u_t = process.deterministic_step(u_t, aim, there, here)
            before = t, u_x_hat
        here = there


def _extrapolated(
    schedule: BlurSchedule, before: tuple[float, Tensor], now: tuple[float, Tensor], s: float
) -> Tensor:
    """The û_x that makes one deterministic step from t to s of order 2, from û_x at p > t > s.

    Exactly, at every frequency, u_s/σ_s = u_t/σ_t + ∫ û_x dρ from ρ_t to ρ_s, with ρ = α/σ. Let û_x
    be linear in the half log-SNR before blur, ℓ = log(a/σ), which all frequencies share:

        û_x(ℓ) = û_x(t) + (ℓ − ℓ_t)/(ℓ_t − ℓ_p) · (û_x(t) − û_x(p))

    Its mean over the step, to the order of the rule, is its value half-way in ℓ:

        û_x = û_x(t) + r/2 · (û_x(t) − û_x(p)),    r = (ℓ_s − ℓ_t)/(ℓ_t − ℓ_p)

    Without blur this is DPM-Solver++(2M) (Lu et al. 2022, arXiv 2211.01095). With blur, each
    frequency has a log-SNR of its own, but DPM-Solver's log(α_k,l/σ) in the place of ℓ is less
    accurate: it hardly moves while a frequency is all but gone, then leaps, and r overshoots.
    """
    (p, u_x_hat_p), (t, u_x_hat) = before, now
    l_p, l_t, l_s = (schedule.logsnr(time).item() / 2 for time in (p, t, s))
    r = (l_s - l_t) / (l_t - l_p)
    return torch.lerp(u_x_hat, u_x_hat_p, -r / 2)
