"""Blur diffusion (Hoogeboom & Salimans 2022, arXiv 2209.05557), given a decoded picture."""

from blurlib.diffusion.dct import dct2, frequencies, idct2
from blurlib.diffusion.denoiser import Denoiser, DenoiserConfig
from blurlib.diffusion.prior import Prior, error_spectrum
from blurlib.diffusion.process import BlurDiffusion, diffusion_loss
from blurlib.diffusion.sampler import SamplerState, Sampling, Solver, last_x_hat, sample
from blurlib.diffusion.schedule import BlurSchedule, Spacing
from blurlib.diffusion.tiling import Tiling, predict_tiled

__all__ = [
    "BlurDiffusion", "BlurSchedule", "Denoiser", "DenoiserConfig", "Prior", "SamplerState",
    "Sampling", "Solver", "Spacing", "Tiling", "dct2", "diffusion_loss", "error_spectrum",
    "frequencies", "idct2", "last_x_hat", "predict_tiled", "sample",
]  # fmt: skip
