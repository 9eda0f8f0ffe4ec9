"""Blur diffusion as a probabilistic model: forward process, posterior, and what a network predicts.

Two spaces meet here, and names tell them apart. x, z_t, eps and every network output are in *pixel*
space, x in [−1, 1]. u_x, u_t and u_eps (all u_*) are their orthonormal DCTs, in *frequency* space,
where blur is a product: q(u_t | u_x) = N(α_t u_x, σ_t² I). All are (B, 3, H, W).

Equations: Hoogeboom & Salimans 2022 (arXiv 2209.05557), sec. 4. Times s < t are (B,) or floats.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal, NamedTuple, get_args

from torch import Tensor

from blurlib.diffusion.dct import dct2, idct2
from blurlib.diffusion.schedule import BlurSchedule, as_time

Prediction = Literal["x", "eps", "v"]
Time = Tensor | float


class Transition(NamedTuple):
    """q(u_t | u_s) = N(alpha · u_s, variance), both (B, 1, H, W) over the frequencies, float64."""

    alpha: Tensor
    variance: Tensor


class Posterior(NamedTuple):
    """q(u_s | u_t, u_x) = N(mean, variance): mean (B, 3, H, W), variance (B, 1, H, W)."""

    mean: Tensor
    variance: Tensor


class Estimate(NamedTuple):
    """What a network output says about the clean picture and the noise, in frequency space."""

    u_x_hat: Tensor
    u_eps_hat: Tensor


class DiffusionLoss(NamedTuple):
    """per_sample: (B,), mean squared error of the network output; x_hat: (B, 3, H, W), pixels."""

    per_sample: Tensor
    x_hat: Tensor


@dataclass(frozen=True)
class BlurDiffusion:
    """A schedule and what the network predicts; the equations between pictures, noise and output.

    prediction: what the network is asked for, in pixel space:
        "x"    the clean picture;
        "eps"  the noise, as in the paper. With blur, x̂ = (u_t − σ_t ε̂)/α_t magnifies the errors of
               ε̂ by σ_t/α_t, which reaches thousands: x̂ is not fit for a perceptual loss;
        "v"    v = α_t ε − σ_t x, frequency by frequency; between the two, and well conditioned.

    Coefficients are computed in float64 and rounded once to the dtype of the pictures.
    Raises ValueError for any other prediction.
    """

    schedule: BlurSchedule
    prediction: Prediction = "x"

    def __post_init__(self) -> None:
        if self.prediction not in get_args(Prediction):
            raise ValueError(
                f"prediction must be one of {', '.join(get_args(Prediction))}, "
                f"got {self.prediction!r}"
            )

    def _alpha_sigma(self, t: Time, like: Tensor) -> tuple[Tensor, Tensor]:
        """α_t (B, 1, H, W) and σ_t (B, 1, 1, 1), in the dtype and on the device of `like`."""
        alpha = self.schedule.alpha(t, *like.shape[-2:])
        sigma = self.schedule.sigma(t).reshape(-1, 1, 1, 1)
        return alpha.to(like), sigma.to(like)

    # Forward process

    def q_sample(self, x: Tensor, t: Time, eps: Tensor) -> Tensor:
        """z_t = DCT⁻¹(α_t DCT(x)) + σ_t ε: the picture blurred, then covered with noise.

        x: pixels in [−1, 1]; eps: pixels, N(0, I); both (B, 3, H, W). Returns z_t: pixels.
        """
        alpha, sigma = self._alpha_sigma(t, x)
        return idct2(alpha * dct2(x)) + sigma * eps

    def transition(self, s: Time, t: Time, H: int, W: int) -> Transition:
        """q(u_t | u_s):  α_{t|s} = α_t / α_s,  σ²_{t|s} = σ_t² − α²_{t|s} σ_s².

        Raises ValueError where s > t.
        """
        backwards = as_time(s) - as_time(t)
        if (backwards > 0).any():
            raise ValueError(f"s must not be later than t, but s − t = {backwards.max():g}")
        alpha = self.schedule.alpha(t, H, W) / self.schedule.alpha(s, H, W)
        variance_s = self.schedule.sigma(s).reshape(-1, 1, 1, 1) ** 2
        variance_t = self.schedule.sigma(t).reshape(-1, 1, 1, 1) ** 2
        return Transition(alpha, variance_t - alpha**2 * variance_s)

    # Reverse process

    def posterior(self, u_t: Tensor, u_x_hat: Tensor, s: Time, t: Time) -> Posterior:
        """q(u_s | u_t, u_x), frequency by frequency:

        variance = (1/σ_s² + α²_{t|s}/σ²_{t|s})⁻¹              = σ_s² σ²_{t|s} / σ_t²
        mean = variance · [(α_{t|s}/σ²_{t|s}) u_t + (α_s/σ_s²) û_x]
             = (α_{t|s} σ_s²/σ_t²) u_t + (α_s σ²_{t|s}/σ_t²) û_x

        The right-hand forms follow from σ_t² = σ²_{t|s} + α²_{t|s} σ_s² and never divide by a
        vanishing σ²_{t|s}. u_t, u_x_hat: (B, 3, H, W), frequencies. Raises ValueError where s > t.
        """
        H, W = u_t.shape[-2:]
        alpha_ts, variance_ts = self.transition(s, t, H, W)
        variance_s = self.schedule.sigma(s).reshape(-1, 1, 1, 1) ** 2
        variance_t = self.schedule.sigma(t).reshape(-1, 1, 1, 1) ** 2
        of_u_t = alpha_ts * variance_s / variance_t
        of_u_x = self.schedule.alpha(s, H, W) * variance_ts / variance_t
        return Posterior(
            mean=of_u_t.to(u_t) * u_t + of_u_x.to(u_t) * u_x_hat,
            variance=(variance_s * variance_ts / variance_t).to(u_t),
        )

    def deterministic_step(self, estimate: Estimate, s: Time) -> Tensor:
        """u_s = α_s û_x + σ_s ε̂, (B, 3, H, W), frequencies."""
        alpha, sigma = self._alpha_sigma(s, estimate.u_x_hat)
        return alpha * estimate.u_x_hat + sigma * estimate.u_eps_hat

    # What the network predicts

    def target(self, x: Tensor, eps: Tensor, t: Time) -> Tensor:
        """What the network should output at time t: x, ε, or v = α_t ε − σ_t x. All in pixels."""
        if self.prediction == "x":
            return x
        if self.prediction == "eps":
            return eps
        alpha, sigma = self._alpha_sigma(t, x)
        return idct2(alpha * dct2(eps)) - sigma * x

    def estimate(self, u_t: Tensor, output: Tensor, t: Time) -> Estimate:
        """(û_x, û_ε) from a network output, such that u_t = α_t û_x + σ_t û_ε.

        "x":    û_ε = (u_t − α_t û_x)/σ_t
        "eps":  û_x = (u_t − σ_t û_ε)/α_t
        "v":    û_x = (α_t u_t − σ_t v̂)/(α_t² + σ_t²),  û_ε = (σ_t u_t + α_t v̂)/(α_t² + σ_t²);
                with blur α_t² + σ_t² is below 1, so it has to be divided by

        u_t: frequencies; output: pixels; both (B, 3, H, W). Costs one DCT.
        """
        alpha, sigma = self._alpha_sigma(t, u_t)
        u_output = dct2(output.to(u_t))
        if self.prediction == "x":
            return Estimate(u_output, (u_t - alpha * u_output) / sigma)
        if self.prediction == "eps":
            return Estimate((u_t - sigma * u_output) / alpha, u_output)
        power = alpha**2 + sigma**2
        return Estimate(
            (alpha * u_t - sigma * u_output) / power, (sigma * u_t + alpha * u_output) / power
        )

    def x_hat(self, z_t: Tensor, output: Tensor, t: Time) -> Tensor:
        """The clean picture that a network output stands for. z_t, output, result: pixels."""
        if self.prediction == "x":
            return output
        return idct2(self.estimate(dct2(z_t), output, t).u_x_hat)


def diffusion_loss(
    process: BlurDiffusion,
    predict: Callable[[Tensor, Tensor], Tensor],
    x: Tensor,
    t: Tensor,
    eps: Tensor,
) -> DiffusionLoss:
    """Mean squared error of the network output, one number per picture, and the x̂ it stands for.

    predict: (z_t, t) → output; x: (B, 3, H, W), pixels in [−1, 1]; t: (B,); eps: N(0, I) like x.
    """
    z_t = process.q_sample(x, t, eps)
    output = predict(z_t, t)
    error = (output - process.target(x, eps, t)).square().mean(dim=(1, 2, 3))
    return DiffusionLoss(error, process.x_hat(z_t, output, t))
