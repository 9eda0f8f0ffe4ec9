"""How much noise and how much blur at time t: the coefficients of blur diffusion, in float64."""

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from blurlib.diffusion.dct import frequencies


def as_time(t: Tensor | float) -> Tensor:
    """t as float64, refused outside [0, 1] (NaN included) by ValueError."""
    t = torch.as_tensor(t, dtype=torch.float64)
    outside = ~((t >= 0) & (t <= 1))
    if outside.any():
        raise ValueError(f"diffusion time t must lie in [0, 1], got {t[outside].flatten()[0]:g}")
    return t


@dataclass(frozen=True)
class BlurSchedule:
    """Noise and blur schedules of Hoogeboom & Salimans 2022 (arXiv 2209.05557, sec. 4).

    sigma_blur_max: standard deviation of the blur at t = 1, in pixels. 0 is isotropic diffusion.
    d_min: what is left of the highest frequencies when fully blurred, in (0, 1].
    logsnr_min, logsnr_max: log a_t²/σ_t² at t = 1 and at t = 0.

    Everywhere t is (B,) or a float, in [0, 1]; 0 is the clean picture. Coefficients are float64 on
    the device of t. Raises ValueError, naming the number, for a parameter or a time out of range.
    """

    sigma_blur_max: float = 20.0
    d_min: float = 0.001
    logsnr_min: float = -10.0
    logsnr_max: float = 10.0

    def __post_init__(self) -> None:
        if not 0 <= self.sigma_blur_max < math.inf:
            raise ValueError(
                f"sigma_blur_max must be 0 (no blur) or more pixels, got {self.sigma_blur_max}"
            )
        if not 0 < self.d_min <= 1:
            raise ValueError(f"d_min must lie in (0, 1], got {self.d_min}")
        if not -math.inf < self.logsnr_min < self.logsnr_max < math.inf:
            raise ValueError(
                "logsnr_min must be less than logsnr_max and both finite, "
                f"got {self.logsnr_min} and {self.logsnr_max}"
            )

    def logsnr(self, t: Tensor | float) -> Tensor:
        """logSNR(t) = −2 log tan(b₀ t + b₁), of the shape of t: cosine, cut at both ends."""
        b1 = math.atan(math.exp(-self.logsnr_max / 2))
        b0 = math.atan(math.exp(-self.logsnr_min / 2)) - b1
        return -2 * torch.log(torch.tan(b0 * as_time(t) + b1))

    def a(self, t: Tensor | float) -> Tensor:
        """a_t = sqrt(sigmoid(logSNR(t))), of the shape of t: the signal's scale before blur."""
        return torch.sigmoid(self.logsnr(t)).sqrt()

    def sigma(self, t: Tensor | float) -> Tensor:
        """σ_t = sqrt(sigmoid(−logSNR(t))), of the shape of t: the noise, the same everywhere."""
        return torch.sigmoid(-self.logsnr(t)).sqrt()

    def blur_sigma(self, t: Tensor | float) -> Tensor:
        """σ_B(t) = σ_B,max · sin²(π t / 2), of the shape of t, in pixels."""
        return self.sigma_blur_max * torch.sin(torch.pi * as_time(t) / 2) ** 2

    def damping(self, t: Tensor | float, H: int, W: int) -> Tensor:
        """d_t = (1 − d_min) · exp(−λ τ_t) + d_min with τ_t = σ_B(t)² / 2.

        Returns: (B, 1, H, W) over the DCT frequencies; B = 1 for a float. Exactly 1 without blur.
        """
        tau = (self.blur_sigma(t) ** 2 / 2).reshape(-1, 1, 1, 1)
        kept = torch.exp(-frequencies(H, W).to(tau.device) * tau)
        return kept + self.d_min * (1 - kept)

    def alpha(self, t: Tensor | float, H: int, W: int) -> Tensor:
        """α_t = a_t · d_t, (B, 1, H, W) over the DCT frequencies; B = 1 for a float."""
        return self.a(t).reshape(-1, 1, 1, 1) * self.damping(t, H, W)
