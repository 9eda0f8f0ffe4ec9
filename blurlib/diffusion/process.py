"""Blur diffusion as a probabilistic model: forward process, posterior, and what a network predicts.

Two spaces meet here, and names tell them apart. x, z_t, eps and every network output are in *pixel*
space, x in [−1, 1]. u_x, u_t and u_eps (all u_*) are their orthonormal DCTs, in *frequency* space,
where blur is a product: q(u_t | u_x) = N(α_t u_x, σ_t² I). All are (B, 3, H, W).

Equations: Hoogeboom & Salimans 2022 (arXiv 2209.05557), sec. 4. Times s < t are (B,) or floats; a
loop that needs the coefficients of a time more than once hands in its `Marginal` instead.
"""

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Literal, NamedTuple

from torch import Tensor

from blurlib.diffusion.dct import dct2, idct2
from blurlib.diffusion.prediction import PREDICTIONS, Prediction
from blurlib.diffusion.prior import Prior
from blurlib.diffusion.schedule import BlurSchedule, Marginal

Time = Tensor | float | Marginal


class Transition(NamedTuple):
    """q(u_t | u_s) = N(alpha · u_s, variance), both (B, 1, H, W) over the frequencies, float64."""

    alpha: Tensor
    variance: Tensor


class Posterior(NamedTuple):
    """q(u_s | u_t, u_x) = N(mean, variance): mean (B, 3, H, W), variance (B, 1, H, W)."""

    mean: Tensor
    variance: Tensor


@dataclass(frozen=True)
class BlurDiffusion:
    """A schedule and what the network predicts; the equations between pictures, noise and output.

    Attributes:
        prediction: what the network is asked for: "x", "eps", "v" or "residual", whose equations
            are those of the classes in `blurlib.diffusion.prediction`.
        prior: of the pictures at hand, for "residual"; `given` sets it.

    Coefficients are computed in float64 and rounded once to the dtype of the pictures.
    Raises ValueError for any other prediction.
    """

    schedule: BlurSchedule
    prediction: Literal["x", "eps", "v", "residual"] = "x"
    prior: Prior | None = field(default=None, compare=False, repr=False)

    def __post_init__(self) -> None:
        if self.prediction not in PREDICTIONS:
            known = ", ".join(PREDICTIONS)
            raise ValueError(f"prediction must be one of {known}, got {self.prediction!r}")

    @property
    def needs_prior(self) -> bool:
        """Whether the prediction is relative to the prior of each picture."""
        return PREDICTIONS[self.prediction].needs_prior

    def given(self, prior: Prior) -> "BlurDiffusion":
        """The same process for pictures of which the prior is known."""
        return replace(self, prior=prior)

    def marginal(self, t: Time, H: int, W: int) -> Marginal:
        """The coefficients of time t for pictures of H×W; a `Marginal` is returned as it is."""
        return t if isinstance(t, Marginal) else self.schedule.marginal(t, H, W)

    # Forward process

    def q_sample(self, x: Tensor, t: Time, eps: Tensor) -> Tensor:
        """z_t = DCT⁻¹(α_t DCT(x)) + σ_t ε: the picture blurred, then covered with noise, in pixels.
        eps: N(0, I), of the shape of x."""
        alpha, sigma = self.marginal(t, *x.shape[-2:]).like(x)
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

            variance = (1/σ_s² + α²_{t|s}/σ²_{t|s})⁻¹ = σ_s² σ²_{t|s} / σ_t²
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

    def at(self, t: Time, H: int, W: int) -> Prediction:
        """The prediction at time t, in frequencies: what the methods below do in pixels.

        Raises ValueError for "residual" without a prior, and so do they.
        """
        return PREDICTIONS[self.prediction](self.marginal(t, H, W), self.prior)

    def network_input(self, u_t: Tensor, t: Time) -> Tensor:
        """What the network sees of u_t (frequencies), in pixels: z_t, or what "residual" says."""
        return idct2(self.at(t, *u_t.shape[-2:]).input(u_t))

    def target(self, x: Tensor, eps: Tensor, t: Time) -> Tensor:
        """What the network should output at time t. All in pixels."""
        return idct2(self.at(t, *x.shape[-2:]).target(dct2(x), dct2(eps)))

    def u_x_hat(self, u_t: Tensor, output: Tensor, t: Time) -> Tensor:
        """The clean picture that a network output stands for. u_t: frequencies; output: pixels;
        both (B, 3, H, W), as is the result, frequencies in the dtype of u_t. Costs one DCT."""
        return self.at(t, *u_t.shape[-2:]).u_x(u_t, dct2(output.to(u_t)))

    def x_hat(self, z_t: Tensor, output: Tensor, t: Time) -> Tensor:
        """The clean picture that a network output stands for. z_t, output, result: pixels."""
        return idct2(self.u_x_hat(dct2(z_t), output, t))


def diffusion_loss(
    process: BlurDiffusion,
    predict: Callable[[Tensor, Tensor], Tensor],
    x: Tensor,
    t: Tensor,
    eps: Tensor,
) -> tuple[Tensor, Tensor]:
    """Mean squared error of the network output, (B,), and its x̂, (B, 3, H, W), pixels.

    Args:
        predict: (`network_input` at t, t) → output.
        x: (B, 3, H, W), pixels in [−1, 1]; t: (B,); eps: N(0, I) like x.
    """
    H, W = x.shape[-2:]
    at = process.at(t, H, W)
    alpha, sigma = at.t.like(x)
    u_x, u_eps = dct2(x), dct2(eps)
    u_t = alpha * u_x + sigma * u_eps
    u_output = dct2(predict(idct2(at.input(u_t)), t).to(x))
    error = u_output - at.target(u_x, u_eps)
    return error.square().mean(dim=(1, 2, 3)), idct2(at.u_x(u_t, u_output))
