"""Blur diffusion (Hoogeboom & Salimans 2022, arXiv 2209.05557), given a decoded picture."""

from blurlib.diffusion.dct import dct2, dct_matrix, frequencies, idct2
from blurlib.diffusion.denoiser import Denoiser, DenoiserConfig
from blurlib.diffusion.process import BlurDiffusion, DiffusionLoss, Estimate, diffusion_loss
from blurlib.diffusion.sampler import SamplerState, ancestral, deterministic, last_x_hat
from blurlib.diffusion.schedule import BlurSchedule

__all__ = [
    "BlurDiffusion",
    "BlurSchedule",
    "Denoiser",
    "DenoiserConfig",
    "DiffusionLoss",
    "Estimate",
    "SamplerState",
    "ancestral",
    "dct2",
    "dct_matrix",
    "deterministic",
    "diffusion_loss",
    "frequencies",
    "idct2",
    "last_x_hat",
]
