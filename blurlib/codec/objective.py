"""What the weights of a codec were trained for."""

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

import torch.nn.functional as F
from torch import Tensor

from blurlib.metrics import MS_SSIM_MIN_SIDE, ms_ssim_loss

LPIPS_WEIGHT = 2500.0  # beside 255² · MSE: at 0.15 and at 0.4 bpp about two thirds of D
FRAME = 16  # pixels mirrored for MS-SSIM: half a window, 5 pixels, at its first two scales

Distance = Callable[[Tensor, Tensor], Tensor]  # (x̂, x), photos in [0, 1] → (B,)


@dataclass(frozen=True)
class Objective:
    """R + λ·D, with R in bits per pixel and λ by quality.

    Attributes:
        distortion: D: "ms-ssim" (1 − MS-SSIM), "mse" (255² · MSE), "mse+lpips" (the same
            + 2500 · LPIPS), or "perceptual": what a denoiser makes of the codec's pictures, which a
            codec alone cannot compute.
        lmbda_min, lmbda_max: λ at the first and last quality level.
    """

    distortion: Literal["ms-ssim", "mse", "mse+lpips", "perceptual"]
    lmbda_min: float
    lmbda_max: float

    def lmbda(self, quality: Tensor, levels: int) -> Tensor:
        """λ(q) = λ_min^{1−t} · λ_max^t, t = (q − 1)/(levels − 1)."""
        ratio = self.lmbda_max / self.lmbda_min
        return self.lmbda_min * ratio ** ((quality - 1) / (levels - 1))

    def quality(self, lmbda: Tensor, levels: int) -> Tensor:
        """The quality that has this λ, or the nearest in [1, levels]."""
        part = (lmbda / self.lmbda_min).log() / math.log(self.lmbda_max / self.lmbda_min)
        return 1 + (levels - 1) * part.clamp(0, 1)

    def distance(self, x_hat: Tensor, x: Tensor, lpips: Distance | None = None) -> Tensor:
        """D of each photo, (B,), in [0, 1] both. For MS-SSIM, photos too small for its five scales
        are repeated, and all are mirrored at their sides, whose pixels its windows hardly see.

        Raises:
            ValueError: the distortion is "perceptual", or "mse+lpips" and no `lpips` is given.
        """
        if self.distortion == "mse":
            return _squared_error(x_hat, x)
        if self.distortion == "mse+lpips" and lpips:
            return _squared_error(x_hat, x) + LPIPS_WEIGHT * lpips(x_hat, x)
        if self.distortion == "ms-ssim":
            times = [-(-MS_SSIM_MIN_SIDE // side) for side in x.shape[-2:]]
            large = (photo.repeat(1, 1, *times) for photo in (x_hat, x))
            return ms_ssim_loss(*(F.pad(x, 4 * (FRAME,), "reflect") for x in large))
        raise ValueError(
            f"these weights were trained for the distortion '{self.distortion}', which the codec "
            "alone cannot compute"
        )


def _squared_error(x_hat: Tensor, x: Tensor) -> Tensor:
    return 255**2 * (x_hat - x).square().mean((1, 2, 3))
