"""What is trained: the codec, or a denoiser on a frozen codec."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable
from typing import Protocol

import torch
from torch import Tensor, nn

from blurlib.codec import BlurCodec, CodecConfig, zoo
from blurlib.codec.synthesis import DiffusionDecoder
from blurlib.diffusion import BlurDiffusion, BlurSchedule, Denoiser, DenoiserConfig
from blurlib.images import cached_weights
from blurlib.metrics import Lpips, lpips_file
from blurlib.training.config import TrainConfig
from blurlib.training.losses import draw_quality, perceptual_diffusion, rate_distortion


class Stage(Protocol):
    """A module and its loss."""

    module: nn.Module

    def loss(self, x: Tensor, step: int) -> tuple[Tensor, dict[str, float]]:
        """Loss of photos (B, 3, H, W) in [0, 1] at a step, from 0; and its parts by name."""

    def aux_parameters(self) -> Iterable[nn.Parameter]:
        """Parameters with a loss and an optimiser of their own."""

    def aux_loss(self) -> Tensor:
        """Their loss."""

    def file(self, average: nn.Module) -> bytes:
        """The model file for the averaged weights."""


class CodecStage:
    """R + λ·D over all qualities at once."""

    def __init__(self, config: TrainConfig):
        size = CodecConfig.small() if config.size == "small" else CodecConfig.paper()
        self.config = config
        self.module = BlurCodec(size)

    def loss(self, x: Tensor, step: int) -> tuple[Tensor, dict[str, float]]:
        weight = min(1.0, step / self.config.z_warmup)
        result = rate_distortion(self.module, x, self.config, weight)
        return result.loss, {"bpp": result.bpp.item(), "distortion": result.distortion.item()}

    def aux_parameters(self) -> Iterable[nn.Parameter]:
        """The bottleneck's quantiles: where its tables will end."""
        return [self.module.entropy.hyper_latent.bottleneck.quantiles]

    def aux_loss(self) -> Tensor:
        return self.module.entropy.hyper_latent.bottleneck.loss()

    def file(self, average: nn.Module) -> bytes:
        return zoo.codec_bytes(average)


class DenoiserStage:
    """(1 − ρ) · 5 · diffusion + ρ · LPIPS on what a frozen codec decodes at all its qualities."""

    def __init__(self, config: TrainConfig):
        self.config = config
        self.codec = zoo.load(config.codec).requires_grad_(False)
        self.codec.entropy.float()  # float64 is for coding; here nothing has to be repeated exactly
        self.codec.h_s.float()
        sizes = DenoiserConfig.small() if config.size == "small" else DenoiserConfig.paper()
        sizes = dataclasses.replace(sizes, residual_to_base=config.prediction == "x")
        schedule = BlurSchedule(sigma_blur_max=config.sigma_blur_max)
        self.module = Denoiser(sizes)
        self.process = BlurDiffusion(schedule, config.prediction)
        # Trained with SqueezeNet, so that AlexNet can measure what it never saw.
        self.lpips = Lpips.load("squeeze", cached_weights(lpips_file("squeeze")))

    def loss(self, x: Tensor, step: int) -> tuple[Tensor, dict[str, float]]:
        with torch.no_grad():
            quality = draw_quality(len(x), self.codec.config.levels, x.device)
            output = self.codec(x, quality)
        result = perceptual_diffusion(
            self._decoder(self.module), output, x, self.lpips, self.config
        )
        return result.loss, {"diffusion": result.diffusion.item(), "lpips": result.lpips.item()}

    def aux_parameters(self) -> Iterable[nn.Parameter]:
        return []

    def aux_loss(self) -> Tensor:
        raise NotImplementedError("the denoiser has no auxiliary loss")

    def file(self, average: nn.Module) -> bytes:
        return zoo.denoiser_bytes(self._decoder(average))

    def _decoder(self, denoiser: nn.Module) -> DiffusionDecoder:
        return DiffusionDecoder(denoiser, self.process, self.codec.model_id)
