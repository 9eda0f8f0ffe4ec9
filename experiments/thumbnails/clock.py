"""The time of a process: what a chain decides per unit of it is the same, whatever the process.

E_k is what is unknown of frequency k (its variance, given the condition), and ρ_k = α_k/σ. The best
linear estimate from u_t leaves m_k = E_k/(1 + E_k ρ_k²). A step of a chain moves u/σ by û_x dρ
(`BlurDiffusion.deterministic_step`), so that an error of û_x costs what it moves the chain by:

    loss = ∫ Σ_k ω_k (û_x − u_x)_k² dρ_k,    ω_k = 1/|k|, in half-waves per picture; 1 for the mean

Without ω, and without blur, this is the loss of v on the cosine schedule. There are as many more
frequencies to an octave as it is finer; with ω the octaves count about alike. In the linear case

    decided(t) = ∫ Σ_k ω_k m_k dρ_k = Σ_k ω_k √E_k · atan(√E_k ρ_k(t))

of it lies behind a chain that has come down to t. It grows with the mutual information
½ Σ_k log(1 + E_k ρ_k²), but levels off where that only adds precision that nobody sees: in equal
steps of nats, 15 of 16 would lie above log-SNR 2.9 and half of them above 7, where noise has 4 grey
levels, with blur and without.
"""

from dataclasses import dataclass, field, fields

import numpy as np
import torch
from torch import Tensor

from blurlib.diffusion import BlurSchedule

GRID = 2001  # times of the plain schedule; `Clocked` is linear in between


@dataclass(frozen=True)
class Clocked(BlurSchedule):
    """A `BlurSchedule` whose time t is the part of all decisions that still lies ahead: times that
    are uniform in training, and steps with spacing "uniform", decide equally much.

    σ_B,max keeps its meaning: at equal log-SNR, the blur is that of the plain schedule.

    Attributes:
        unknown: E, (C, H, W), of pixels in [−1, 1].
    """

    unknown: Tensor = field(default_factory=lambda: torch.ones(1, 8, 8), compare=False, repr=False)

    def __post_init__(self) -> None:
        super().__post_init__()
        times = np.linspace(0, 1, GRID)
        done = decided(self.rho(torch.from_numpy(times)), self.unknown).numpy()
        object.__setattr__(self, "_table", ((done[0] - done) / (done[0] - done[-1]), times))

    def rho(self, plain: Tensor) -> Tensor:
        """ρ = α/σ at times of the plain schedule: (B,) → (B, 1, H, W)."""
        schedule = BlurSchedule(*(getattr(self, part.name) for part in fields(BlurSchedule)))
        rows = (schedule.marginal(t, *self.unknown.shape[1:]) for t in plain)
        return torch.cat([alpha / sigma for alpha, sigma in rows])

    def plain_time(self, t: Tensor | float) -> Tensor:
        return _between(t, *self._table)

    def logsnr(self, t: Tensor | float) -> Tensor:
        return super().logsnr(self.plain_time(t))

    def blur_sigma(self, t: Tensor | float) -> Tensor:
        return super().blur_sigma(self.plain_time(t))

    def time_of(self, logsnr: Tensor | float) -> Tensor:
        return _between(super().time_of(logsnr), *self._table[::-1])

    def weights(self, n: int) -> Tensor:
        """(n, 1, H, W): factors on squared errors of û_x at t in [i/n, (i + 1)/n), i = 0 … n − 1.

        Their mean over i is ω_k (ρ_k(0) − ρ_k(1)) over decided(0) − decided(1), the same for every
        process up to what is left of a picture at t = 1. The best linear estimate has loss 1.
        """
        rho = self.rho(self.plain_time(torch.arange(n + 1, dtype=torch.float64) / n))
        start, end = decided(rho[[0, -1]], self.unknown)
        return n * per_octave(*self.unknown.shape[1:]) * (rho[:-1] - rho[1:]) / (start - end)


def decided(rho: Tensor, unknown: Tensor) -> Tensor:
    """Σ_k ω_k √E_k · atan(√E_k ρ_k): ρ (B, 1, H, W), E (C, H, W) → (B,)."""
    size = unknown.sqrt()
    return (per_octave(*unknown.shape[1:]) * size * torch.atan(size * rho)).sum((1, 2, 3))


def per_octave(H: int, W: int) -> Tensor:
    """ω, (H, W), float64."""
    k, l = (torch.arange(n, dtype=torch.float64) for n in (H, W))
    return 1 / torch.hypot(k[:, None], l).clamp(min=1)


def _between(x: Tensor | float, known: np.ndarray, values: np.ndarray) -> Tensor:
    return torch.as_tensor(np.interp(np.asarray(x, np.float64), known, values))
