"""Blur diffusion (Hoogeboom & Salimans 2022, arXiv 2209.05557), given a decoded picture."""

from blurlib.diffusion.dct import dct2, dct_matrix, frequencies, idct2
from blurlib.diffusion.denoiser import Denoiser, DenoiserConfig
from blurlib.diffusion.prior import BANDS, Prior, error_spectrum, error_variance
from blurlib.diffusion.process import (
    BlurDiffusion,
    DiffusionLoss,
    LossWeight,
    Marginal,
    diffusion_loss,
)
from blurlib.diffusion.sampler import SamplerState, Sampling, Solver, last_x_hat, sample
from blurlib.diffusion.schedule import BlurSchedule, Spacing
from blurlib.diffusion.spectrum import Bands, radial_bands
from blurlib.diffusion.tiling import Tiling, predict_tiled

__all__ = [
    "BANDS",
    "Bands",
    "BlurDiffusion",
    "BlurSchedule",
    "Denoiser",
    "DenoiserConfig",
    "DiffusionLoss",
    "LossWeight",
    "Marginal",
    "Prior",
    "SamplerState",
    "Sampling",
    "Solver",
    "Spacing",
    "Tiling",
    "dct2",
    "dct_matrix",
    "diffusion_loss",
    "error_spectrum",
    "error_variance",
    "frequencies",
    "idct2",
    "last_x_hat",
    "predict_tiled",
    "radial_bands",
    "sample",
]
