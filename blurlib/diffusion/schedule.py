"""How much noise and how much blur at time t: the coefficients of blur diffusion, in float64."""

import math
from dataclasses import dataclass
from typing import Literal, NamedTuple, get_args

import torch
from torch import Tensor

Spacing = Literal["logsnr", "uniform"]


def as_time(t: Tensor | float) -> Tensor:
    """t as float64, refused outside [0, 1] (NaN included) by ValueError."""
    t = torch.as_tensor(t, dtype=torch.float64)
    outside = ~((t >= 0) & (t <= 1))
    if outside.any():
        raise ValueError(f"diffusion time t must lie in [0, 1], got {t[outside].flatten()[0]:g}")
    return t


class Marginal(NamedTuple):
    """q(u_t | u_x) = N(alpha · u_x, sigma² I): alpha (B, 1, H, W), sigma (B, 1, 1, 1), float64."""

    alpha: Tensor
    sigma: Tensor

    def like(self, x: Tensor) -> "Marginal":
        """The same in the dtype and on the device of x."""
        return Marginal(self.alpha.to(x), self.sigma.to(x))


@dataclass(frozen=True)
class BlurSchedule:
    """Noise and blur schedules of Hoogeboom & Salimans 2022 (arXiv 2209.05557, sec. 4).

    Attributes:
        sigma_blur_max: standard deviation of the blur at t = 1, in pixels. 0 is isotropic
            diffusion.
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
                f"sigma_blur_max must be 0 (no blur) or more, got {self.sigma_blur_max}"
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

    def time_of(self, logsnr: Tensor | float) -> Tensor:
        """The inverse of `logsnr`, in [0, 1]: t = (atan(e^{−logSNR/2}) − b₁) / b₀."""
        b1 = math.atan(math.exp(-self.logsnr_max / 2))
        b0 = math.atan(math.exp(-self.logsnr_min / 2)) - b1
        angle = torch.atan(torch.exp(-torch.as_tensor(logsnr, dtype=torch.float64) / 2))
        return ((angle - b1) / b0).clamp(0, 1)

    def times(self, steps: int, spacing: Spacing = "logsnr") -> tuple[float, ...]:
        """The times t_0 = 1 > t_1 > … > 0 at which a chain of `steps` evaluates the network.

        With i = 0 … steps−1:
            "logsnr"   logSNR(t_i) = logSNR(1) + i/steps · (logSNR(0) − logSNR(1));
            "uniform"  t_i = 1 − i/steps, which ends where a picture's detail is still below the
            noise and x̂ a mean without it.

        Raises ValueError for steps < 1 and for any other spacing.
        """
        if steps < 1:
            raise ValueError(f"sampling takes at least 1 step, got {steps}")
        t = self.spaced(torch.arange(steps, dtype=torch.float64) / steps, spacing)
        return (1.0, *t[1:].tolist())

    def spaced(self, r: Tensor, spacing: Spacing) -> Tensor:
        """The time after a part r of a chain, from 0 (t = 1) to 1 (t = 0), as in `times`: float64,
        of the shape of r. Raises ValueError for any other spacing."""
        if spacing not in get_args(Spacing):
            known = ", ".join(get_args(Spacing))
            raise ValueError(f"spacing must be one of {known}, got {spacing!r}")
        r = as_time(r)
        if spacing == "uniform":
            return 1 - r
        return self.time_of(self.logsnr_min + r * (self.logsnr_max - self.logsnr_min))

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
        """d_t = (1 − d_min) · exp(−λ τ_t) + d_min, τ_t = σ_B(t)² / 2, λ of `dct.frequencies`.

        Returns: (B, 1, H, W) over the DCT frequencies; B = 1 for a float. Exactly 1 without blur.
        """
        # e^{−λ_{k,l} τ} = e^{−π² τ k²/H²} · e^{−π² τ l²/W²}: H + W exponentials, not H · W.
        rate = torch.pi**2 * (self.blur_sigma(t) ** 2 / 2).reshape(-1, 1, 1, 1)
        k = torch.arange(H, dtype=torch.float64, device=rate.device)[:, None] / H
        l = torch.arange(W, dtype=torch.float64, device=rate.device) / W
        kept = torch.exp(-rate * k**2) * torch.exp(-rate * l**2)
        return kept.lerp_(kept.new_ones(()), self.d_min)

    def alpha(self, t: Tensor | float, H: int, W: int) -> Tensor:
        """α_t = a_t · d_t, (B, 1, H, W) over the DCT frequencies; B = 1 for a float."""
        return self.damping(t, H, W).mul_(self.a(t).reshape(-1, 1, 1, 1))

    def marginal(self, t: Tensor | float, H: int, W: int) -> Marginal:
        """α_t and σ_t of pictures of H×W."""
        return Marginal(self.alpha(t, H, W), self.sigma(t).reshape(-1, 1, 1, 1))
