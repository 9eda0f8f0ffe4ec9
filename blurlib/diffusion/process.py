"""Blur diffusion as a probabilistic model: forward process, posterior, and what a network predicts.

Two spaces meet here, and names tell them apart. x, z_t, eps and every network output are in *pixel*
space, x in [−1, 1]. u_x, u_t and u_eps (all u_*) are their orthonormal DCTs, in *frequency* space,
where blur is a product: q(u_t | u_x) = N(α_t u_x, σ_t² I). All are (B, 3, H, W).

Equations: Hoogeboom & Salimans 2022 (arXiv 2209.05557), sec. 4. Times s < t are (B,) or floats; a
loop that needs the coefficients of a time more than once hands in its `Marginal` instead.
"""

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Literal, NamedTuple, get_args

import torch
from torch import Tensor

from blurlib.diffusion.dct import dct2, idct2
from blurlib.diffusion.prior import Prior
from blurlib.diffusion.schedule import BlurSchedule

Prediction = Literal["x", "eps", "v", "residual"]
LossWeight = Literal["x", "eps", "v", "residual", "min-snr"]


class Marginal(NamedTuple):
    """q(u_t | u_x) = N(alpha · u_x, sigma² I): alpha (B, 1, H, W), sigma (B, 1, 1, 1), float64."""

    alpha: Tensor
    sigma: Tensor


Time = Tensor | float | Marginal


class Transition(NamedTuple):
    """q(u_t | u_s) = N(alpha · u_s, variance), both (B, 1, H, W) over the frequencies, float64."""

    alpha: Tensor
    variance: Tensor


class Posterior(NamedTuple):
    """q(u_s | u_t, u_x) = N(mean, variance): mean (B, 3, H, W), variance (B, 1, H, W)."""

    mean: Tensor
    variance: Tensor


class Estimate(NamedTuple):
    """u_x given u_t and the prior, if both were Gaussian: mean (B, 3, H, W), frequencies; left
    (B, 1, 1, 1), how far the picture still is from it: the standard deviation over all frequencies.
    """

    mean: Tensor
    left: Tensor


class Wiener(NamedTuple):
    """gain (B, 1, H, W); moved and left, (B, 1, 1, 1): `BlurDiffusion.estimate`, float64."""

    gain: Tensor
    moved: Tensor
    left: Tensor


class DiffusionLoss(NamedTuple):
    """per_sample: (B,), weighted mean squared error; x_hat: (B, 3, H, W), pixels."""

    per_sample: Tensor
    x_hat: Tensor


@dataclass(frozen=True)
class BlurDiffusion:
    """A schedule and what the network predicts; the equations between pictures, noise and output.

    prediction: what the network is asked for, in pixel space:
        "x"    the clean picture;
        "eps"  the noise, as in the paper. With blur, x̂ = (u_t − σ_t ε̂)/α_t magnifies the errors of
               ε̂ by σ_t/α_t, which reaches thousands: x̂ is not fit for a perceptual loss;
        "v"    v = α_t ε − σ_t x, frequency by frequency; between the two, and well conditioned;
        "residual"  (x − x̄)/left, x̄ and left of `estimate`: what the best linear estimate from z_t
               and the prior leaves, in units of its size. The network sees (x̄ − prior)/moved in
               the place of z_t. So what it reads and writes has variance 1 at all times and
               qualities, on average over pictures of the prior; and one that says 0 samples the
               prior, in the limit of many steps.
    prior: of the pictures at hand, for "residual"; `given` sets it.

    Coefficients are computed in float64 and rounded once to the dtype of the pictures.
    Raises ValueError for any other prediction.
    """

    schedule: BlurSchedule
    prediction: Prediction = "x"
    prior: Prior | None = field(default=None, compare=False, repr=False)

    def __post_init__(self) -> None:
        if self.prediction not in get_args(Prediction):
            raise ValueError(
                f"prediction must be one of {', '.join(get_args(Prediction))}, "
                f"got {self.prediction!r}"
            )

    def given(self, prior: Prior) -> "BlurDiffusion":
        """The same process for pictures of which the prior is known."""
        return replace(self, prior=prior)

    def marginal(self, t: Time, H: int, W: int) -> Marginal:
        """The coefficients of time t for pictures of H×W; a `Marginal` is returned as it is."""
        if isinstance(t, Marginal):
            return t
        return Marginal(self.schedule.alpha(t, H, W), self.schedule.sigma(t).reshape(-1, 1, 1, 1))

    def _alpha_sigma(self, t: Time, like: Tensor) -> tuple[Tensor, Tensor]:
        """α_t (B, 1, H, W) and σ_t (B, 1, 1, 1), in the dtype and on the device of `like`."""
        alpha, sigma = self.marginal(t, *like.shape[-2:])
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
        s, t = self.marginal(s, H, W), self.marginal(t, H, W)
        backwards = s.sigma - t.sigma
        if (backwards > 0).any():
            raise ValueError(f"s must not be later than t, but σ_s − σ_t = {backwards.max():g}")
        alpha = t.alpha / s.alpha
        return Transition(alpha, t.sigma**2 - (alpha * s.sigma) ** 2)

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
        s, t = self.marginal(s, H, W), self.marginal(t, H, W)
        alpha_ts, variance_ts = self.transition(s, t, H, W)
        of_u_t = alpha_ts * (s.sigma / t.sigma) ** 2
        of_u_x = s.alpha * variance_ts / t.sigma**2
        return Posterior(
            mean=(of_u_t.to(u_t) * u_t).addcmul_(of_u_x.to(u_t), u_x_hat),
            variance=(variance_ts * (s.sigma / t.sigma) ** 2).to(u_t),
        )

    def deterministic_step(self, u_t: Tensor, u_x_hat: Tensor, s: Time, t: Time) -> Tensor:
        """From t to s along the probability-flow ODE, û_x held constant; frequency by frequency

            d(u/σ) = û_x dρ,  ρ_t = α_t/σ_t     ⇒     u_s/σ_s = u_t/σ_t + (ρ_s − ρ_t) û_x
            u_s = (σ_s/σ_t) u_t + (α_s − α_t σ_s/σ_t) û_x  =  α_s û_x + σ_s û_ε   (DDIM)

        u_t and û_x: (B, 3, H, W), as is the result; all frequencies.
        """
        H, W = u_t.shape[-2:]
        s, t = self.marginal(s, H, W), self.marginal(t, H, W)
        shrink = s.sigma / t.sigma
        of_u_x = s.alpha - t.alpha * shrink
        return (shrink.to(u_t) * u_t).addcmul_(of_u_x.to(u_t), u_x_hat)

    # What the network sees and predicts

    def estimate(self, u_t: Tensor, t: Time) -> Estimate:
        """The Wiener filter: with the prior N(u_b, E), frequency by frequency,

        gain = α_t E/(α_t² E + σ_t²),   mean = u_b + gain · (u_t − α_t u_b),
        left² = mean of E − gain · α_t E.

        u_t: (B, 3, H, W), frequencies. Raises ValueError without a prior.
        """
        t = self.marginal(t, *u_t.shape[-2:])
        gain, _, left = self._wiener(t)
        u_b = self.prior.mean.to(u_t)
        mean = (u_t - t.alpha.to(u_t) * u_b).mul_(gain.to(u_t)).add_(u_b)
        return Estimate(mean, left.to(u_t))

    def _wiener(self, t: Marginal) -> Wiener:
        if self.prior is None:
            raise ValueError("'residual' needs to know the pictures' prior: process.given(prior)")
        E = self.prior.variance
        signal = t.alpha * E
        gain = signal / (signal * t.alpha).add_(t.sigma**2)
        moved = signal.mul_(gain).mean(dim=(1, 2, 3), keepdim=True)
        left = E.mean(dim=(1, 2, 3), keepdim=True) - moved
        return Wiener(gain, moved.sqrt(), left.sqrt())

    def network_input(self, u_t: Tensor, t: Time) -> Tensor:
        """What the network sees of u_t (frequencies), in pixels, (B, 3, H, W): z_t, or for
        "residual" what `estimate` adds to the prior's mean, over its standard deviation,
        moved² = mean of gain · α_t E."""
        if self.prediction != "residual":
            return idct2(u_t)
        t = self.marginal(t, *u_t.shape[-2:])
        gain, moved, _ = self._wiener(t)
        news = u_t - t.alpha.to(u_t) * self.prior.mean.to(u_t)
        return idct2(news.mul_((gain / moved).to(u_t)))

    def target(self, x: Tensor, eps: Tensor, t: Time) -> Tensor:
        """What the network should output at time t: x, ε, v = α_t ε − σ_t x, or (x − x̄)/left. All
        in pixels."""
        if self.prediction == "x":
            return x
        if self.prediction == "eps":
            return eps
        alpha, sigma = self._alpha_sigma(t, x)
        if self.prediction == "residual":
            known = self.estimate(alpha * dct2(x) + sigma * dct2(eps), t)
            return (x - idct2(known.mean)) / known.left
        return idct2(alpha * dct2(eps)) - sigma * x

    def u_x_hat(self, u_t: Tensor, output: Tensor, t: Time) -> Tensor:
        """The clean picture that a network output stands for, such that with the ε̂ it stands for
        u_t = α_t û_x + σ_t û_ε:

        "x":    û_x = DCT(output)
        "eps":  û_x = (u_t − σ_t û_ε)/α_t
        "v":    û_x = (α_t u_t − σ_t v̂)/(α_t² + σ_t²); with blur the denominator is below 1
        "residual":  û_x = mean + left · DCT(output), of `estimate`

        u_t: frequencies; output: pixels; both (B, 3, H, W), as is the result, frequencies in the
        dtype of u_t. Costs one DCT.
        """
        u_output = dct2(output.to(u_t))
        if self.prediction == "x":
            return u_output
        if self.prediction == "residual":
            known = self.estimate(u_t, t)
            return known.mean.addcmul_(known.left, u_output)
        alpha, sigma = self._alpha_sigma(t, u_t)
        if self.prediction == "eps":
            return (u_t - sigma * u_output) / alpha
        return (alpha * u_t - sigma * u_output) / (alpha**2 + sigma**2)

    def x_hat(self, z_t: Tensor, output: Tensor, t: Time) -> Tensor:
        """The clean picture that a network output stands for. z_t, output, result: pixels."""
        if self.prediction == "x":
            return output
        return idct2(self.u_x_hat(dct2(z_t), output, t))

    # What an error costs

    def loss_weight(
        self, weight: LossWeight, t: Time, H: int, W: int, gamma: float = 5.0
    ) -> Tensor:
        """(B, 1, H, W), float64: factors on the squared error of the network output, frequency by
        frequency, that make it the loss named by `weight`, whatever the network predicts.

        An error Δx of x̂ at frequency k, l weighs c · Δx², and Δoutput² = c_prediction · Δx², hence
        c_weight / c_prediction, with SNR_t = α_t²/σ_t² a vector over the frequencies and

            "x"        c = 1
            "eps"      c = SNR_t
            "v"        c = (α_t² + σ_t²)²/σ_t²              = SNR_t + 1 without blur
            "min-snr"  c = min(SNR_t, γ)                    (Hang et al. 2023, arXiv 2303.09556)
            "residual" c = 1/left², the same for all frequencies (`estimate`)

        Raises ValueError for any other weight and for γ ≤ 0.
        """
        if weight not in get_args(LossWeight):
            raise ValueError(
                f"weight must be one of {', '.join(get_args(LossWeight))}, got {weight!r}"
            )
        if not gamma > 0:
            raise ValueError(f"gamma must be above 0, got {gamma}")
        t = alpha, sigma = self.marginal(t, H, W)
        snr = (alpha / sigma) ** 2
        cost = {
            "x": torch.ones_like(snr),
            "eps": snr,
            "v": ((alpha**2 + sigma**2) / sigma) ** 2,
            "min-snr": snr.clamp(max=gamma),
        }
        if "residual" in (weight, self.prediction):
            cost["residual"] = self._wiener(t).left ** -2 * torch.ones_like(snr)
        return cost[weight] / cost[self.prediction]


def diffusion_loss(
    process: BlurDiffusion,
    predict: Callable[[Tensor, Tensor], Tensor],
    x: Tensor,
    t: Tensor,
    eps: Tensor,
    weight: LossWeight | None = None,
    gamma: float = 5.0,
) -> DiffusionLoss:
    """Weighted squared error of the network output, one number per picture, and its x̂.

    predict: (`network_input` at t, t) → output; x: (B, 3, H, W), pixels in [−1, 1]; t: (B,); eps:
        N(0, I) like x.
    weight, gamma: of `BlurDiffusion.loss_weight`; None weighs the errors of the output all alike,
        which is the weight named like the prediction.
    """
    H, W = x.shape[-2:]
    at = process.marginal(t, H, W)
    z_t = process.q_sample(x, at, eps)
    seen = process.network_input(dct2(z_t), at) if process.prediction == "residual" else z_t
    output = predict(seen, t).to(x)
    error = output - process.target(x, eps, at)
    if weight is not None and weight != process.prediction:
        error = process.loss_weight(weight, at, H, W, gamma).sqrt().to(x) * dct2(error)
    return DiffusionLoss(error.square().mean(dim=(1, 2, 3)), process.x_hat(z_t, output, at))
