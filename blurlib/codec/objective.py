"""What the weights of a codec were trained for."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from torch import Tensor

from blurlib.metrics import MS_SSIM_MIN_SIDE, MsSsimLoss

# What rounding gives for a bit, see `LaplacianEntropyModel.quantise`, else 0. A squared error of y
# stands for one of the photo, so that a codec for MS-SSIM gains little: experiments/quantiser.py
# compares.
RATE_WEIGHTS = {"mse": 0.5}


@dataclass(frozen=True)
class Objective:
    """R + λ·D, with R in bits per pixel and λ by quality.

    Attributes:
        distortion: D: "ms-ssim" (1 − MS-SSIM), "mse" (255² · MSE), or "perceptual": what a
            denoiser makes of the codec's pictures, which a codec alone cannot compute.
        lmbda_min, lmbda_max: λ at the first and last quality level.
    """

    distortion: Literal["ms-ssim", "mse", "perceptual"]
    lmbda_min: float
    lmbda_max: float

    def lmbda(self, quality: Tensor, levels: int) -> Tensor:
        """λ(q) = λ_min^{1−t} · λ_max^t, t = (q − 1)/(levels − 1)."""
        ratio = self.lmbda_max / self.lmbda_min
        return self.lmbda_min * ratio ** ((quality - 1) / (levels - 1))

    def distance(self, x_hat: Tensor, x: Tensor) -> Tensor:
        """D of each photo, (B,). For MS-SSIM, photos that are too small for its five scales are
        laid side by side with themselves.

        Raises:
            ValueError: the distortion is "perceptual".
        """
        if self.distortion == "mse":
            return 255**2 * (x_hat - x).square().mean((1, 2, 3))
        if self.distortion == "ms-ssim":
            times = [-(-MS_SSIM_MIN_SIDE // side) for side in x.shape[-2:]]
            return MsSsimLoss()(*(photo.repeat(1, 1, *times) for photo in (x_hat, x)))
        raise ValueError(
            "these weights were trained for what a denoiser makes of their pictures, which the "
            "codec alone cannot compute"
        )

    @property
    def rate_weight(self) -> float:
        """What rounding gives for a bit where it weighs the rate."""
        return RATE_WEIGHTS.get(self.distortion, 0.0)
