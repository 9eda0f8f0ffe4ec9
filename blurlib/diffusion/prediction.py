"""What a network may be asked for, one class each: what it sees, what it says, what that means.

All of it is in frequency space, (B, 3, H, W), at one time t, where u_t = α_t u_x + σ_t u_ε. The DCT
is orthonormal, so squared errors are the same as in pixels.
"""

from dataclasses import dataclass
from functools import cached_property
from typing import ClassVar

from torch import Tensor

from blurlib.diffusion.prior import Prior
from blurlib.diffusion.schedule import Marginal


@dataclass(frozen=True)
class Prediction:
    """What a network says at one time t, given its `Marginal` and, if needed, the pictures' prior.

    This base is "x": the clean picture. Its methods are between tensors (B, 3, H, W).
    Raises ValueError without a prior where one is needed.
    """

    needs_prior: ClassVar[bool] = False

    t: Marginal
    prior: Prior | None = None

    def __post_init__(self) -> None:
        if self.needs_prior and self.prior is None:
            raise ValueError("'residual' needs to know the pictures' prior: process.given(prior)")

    def input(self, u_t: Tensor) -> Tensor:
        """What the network sees."""
        return u_t

    def target(self, u_x: Tensor, u_eps: Tensor) -> Tensor:
        """What the network should say."""
        return u_x

    def u_x(self, u_t: Tensor, output: Tensor) -> Tensor:
        """The clean picture û_x that an output stands for, such that with the û_ε it stands for
        u_t = α_t û_x + σ_t û_ε."""
        return output


class Eps(Prediction):
    """The noise, as in the paper.

    With blur, û_x = (u_t − σ_t û_ε)/α_t magnifies the errors of û_ε by σ_t/α_t, which reaches
    thousands: û_x is not fit for a perceptual loss.
    """

    def target(self, u_x: Tensor, u_eps: Tensor) -> Tensor:
        return u_eps

    def u_x(self, u_t: Tensor, output: Tensor) -> Tensor:
        alpha, sigma = self.t.like(u_t)
        return (u_t - sigma * output) / alpha


class V(Prediction):
    """v = α_t ε − σ_t x, frequency by frequency; between the two, and well conditioned.

    û_x = (α_t u_t − σ_t v̂)/(α_t² + σ_t²); 1 = α_t² + σ_t² without blur.
    """

    def target(self, u_x: Tensor, u_eps: Tensor) -> Tensor:
        alpha, sigma = self.t.like(u_x)
        return alpha * u_eps - sigma * u_x

    def u_x(self, u_t: Tensor, output: Tensor) -> Tensor:
        alpha, sigma = self.t.like(u_t)
        return (alpha * u_t - sigma * output) / (alpha**2 + sigma**2)


class Residual(Prediction):
    """What the best linear estimate from u_t and the prior N(u_b, E) leaves of the picture, in
    units of its size. The Wiener filter is, frequency by frequency,

        gain = α_t E/(α_t² E + σ_t²),    ū_x = u_b + gain · (u_t − α_t u_b)

    and the network sees what it adds to the prior's mean, and says what is still missing:

        input  = (ū_x − u_b)/input_std,      input_std²    = mean of gain · α_t E
        target = (u_x − ū_x)/residual_std,   residual_std² = mean of E − gain · α_t E

    So both have variance 1 at all times and qualities, on average over pictures of the prior; and a
    network that says 0 samples the prior, in the limit of many steps.
    """

    needs_prior = True
    prior: Prior

    def input(self, u_t: Tensor) -> Tensor:
        gain, input_std, _ = self._wiener
        return self._news(u_t).mul_((gain / input_std).to(u_t))

    def target(self, u_x: Tensor, u_eps: Tensor) -> Tensor:
        alpha, sigma = self.t.like(u_x)
        mean, residual_std = self.estimate(alpha * u_x + sigma * u_eps)
        return (u_x - mean) / residual_std

    def u_x(self, u_t: Tensor, output: Tensor) -> Tensor:
        mean, residual_std = self.estimate(u_t)
        return mean.addcmul_(residual_std, output)

    def estimate(self, u_t: Tensor) -> tuple[Tensor, Tensor]:
        """ū_x, and residual_std (B, 1, 1, 1)."""
        gain, _, residual_std = self._wiener
        mean = self._news(u_t).mul_(gain.to(u_t)).add_(self.prior.mean.to(u_t))
        return mean, residual_std.to(u_t)

    def _news(self, u_t: Tensor) -> Tensor:
        return u_t - self.t.alpha.to(u_t) * self.prior.mean.to(u_t)

    @cached_property
    def _wiener(self) -> tuple[Tensor, Tensor, Tensor]:
        """gain (B, 1, H, W), input_std and residual_std (B, 1, 1, 1), float64."""
        (alpha, sigma), E = self.t, self.prior.variance
        signal = alpha * E
        gain = signal / (signal * alpha).add_(sigma**2)
        explained = signal.mul_(gain).mean(dim=(1, 2, 3), keepdim=True)
        left = E.mean(dim=(1, 2, 3), keepdim=True) - explained
        return gain, explained.sqrt(), left.sqrt()


PREDICTIONS = {"x": Prediction, "eps": Eps, "v": V, "residual": Residual}
