"""What is trained: the codec, a denoiser on a frozen codec, or both."""

import dataclasses
import hashlib
import sys
from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import Any, Generic, TypeVar

import torch
from lightning_fabric import Fabric
from torch import Tensor, nn

from blurlib.codec import BlurCodec, CodecConfig, CodecOutput, zoo
from blurlib.codec.synthesis import DiffusionDecoder
from blurlib.datasets import cached_weights
from blurlib.diffusion import BlurDiffusion, BlurSchedule, Denoiser, DenoiserConfig, Sampling
from blurlib.diffusion.prior import error_spectrum
from blurlib.metrics import Lpips, lpips_file
from blurlib.training.config import TrainConfig
from blurlib.training.draws import Draws
from blurlib.training.klt import start_from_klt
from blurlib.training.losses import Loss, draw_quality, held_out_loss, perceptual, rate_distortion

KLT_CROPS, ERROR_CROPS = 128, 48  # of training photos, for the start of a run
PREVIEW_STEPS = 8  # of the diffusion decoder, for a look at it
Trained = TypeVar("Trained", bound=nn.Module)


class Stage(ABC, Generic[Trained]):
    """A module, its loss and its files.

    Attributes:
        module: all that is trained; trained_codec: the codec in it, if there is one.
        network: the module as Fabric wraps it for precision and processes.
    """

    module: Trained
    trained_codec: BlurCodec | None = None
    network: Any

    def __init__(self, config: TrainConfig):
        self.config = config

    def start_crops(self) -> int:
        """How many crops `start` wants before the first step; 0 for no start."""
        of_klt = self.trained_codec is not None and self.config.start == "klt"
        return KLT_CROPS if of_klt and not self.config.init else 0

    def start(self, photos: Tensor) -> None:
        """What is taken from training photos (N, 3, H, W) in [0, 1] instead of being learned."""
        if self.trained_codec is not None:
            start_from_klt(self.trained_codec, photos.cpu())

    def setup(self, fabric: Fabric) -> None:
        """Move to the device, and let Fabric wrap the networks."""
        self.network = fabric.setup_module(self.module)

    @abstractmethod
    def loss(self, x: Tensor, step: int, draws: Draws, steps: int = 0) -> Loss:
        """Loss of photos (B, 3, H, W) in [0, 1] at a step, from 0, of `steps`, or 0 where that is
        not known yet; means over the batch."""

    @abstractmethod
    def preview(self, average: Trained, x: Tensor) -> Tensor:
        """What the averaged weights make of a photo (1, 3, H, W), H and W multiples of 64."""

    def held_out(self, average: Trained, photos: Sequence[Tensor]) -> float | None:
        """Loss of the averaged weights on photos (3, H, W) in [0, 1] as if they were coded; None
        where a stage has no such loss. `average` may be changed."""
        return None

    @abstractmethod
    def files(self, average: Trained) -> dict[str, bytes]:
        """The model files for the averaged weights, by name; `average` may be changed."""


def make(config: TrainConfig) -> Stage:
    """The stage that `config` names."""
    if config.stage == "codec":
        return CodecStage(config)
    return JointStage(config) if config.stage == "joint" else DenoiserStage(config)


class CodecStage(Stage[BlurCodec]):
    """R + λ·D over all qualities at once."""

    def __init__(self, config: TrainConfig):
        super().__init__(config)
        self.module = self.network = self.trained_codec = _new_codec(config)
        self.lpips = _load_lpips() if config.objective == "mse+lpips" else None

    def setup(self, fabric: Fabric) -> None:
        super().setup(fabric)
        if self.lpips:
            self.lpips.to(fabric.device)

    def loss(self, x: Tensor, step: int, draws: Draws, steps: int = 0) -> Loss:
        z_weight = _z_weight(step, self.config)
        return rate_distortion(self.network, x, self.config, draws, z_weight, lpips=self.lpips)

    def preview(self, average: BlurCodec, x: Tensor) -> Tensor:
        return average(x, _middle(average)).x_hat

    def held_out(self, average: BlurCodec, photos: Sequence[Tensor]) -> float:
        average.entropy.hyper_latent.freeze()
        return held_out_loss(average.eval(), photos, self.config, self.lpips)

    def files(self, average: BlurCodec) -> dict[str, bytes]:
        return {"model.safetensors": zoo.codec_bytes(average)}


class DenoiserStage(Stage[Denoiser]):
    """(1 − ρ) · diffusion + ρ · LPIPS, scaled as in `losses`, on what a frozen codec decodes at all
    its qualities."""

    def __init__(self, config: TrainConfig):
        super().__init__(config)
        # float64 is for coding; here nothing has to be repeated exactly.
        self.codec = zoo.load(config.codec).float().requires_grad_(False)
        self.module = self.network = _new_denoiser(config, self.codec.config)
        wanted = tuple(channels for channels in self.module.config.cond_channels if channels)
        widths = self.codec.config.transform.widths
        if wanted != widths:
            raise ValueError(
                f"codec is {config.codec}, with features of {widths} channels, and a denoiser of "
                f"size '{config.size}' is for {wanted}: choose another size or codec"
            )
        self.lpips = _load_lpips()

    def start_crops(self) -> int:
        return ERROR_CROPS if self.config.prediction == "residual" else 0

    @torch.no_grad()
    def start(self, photos: Tensor) -> None:
        """The spectrum of the codec's error at each quality."""
        codec = self.codec.to(photos.device)
        for i in range(codec.config.levels):
            error = [2 * (codec(x, i + 1.0).x_hat - x) for x in photos.split(8)]
            self.module.error_spectra[i] = error_spectrum(torch.cat(error))

    def setup(self, fabric: Fabric) -> None:
        super().setup(fabric)
        for frozen in (self.codec, self.lpips):
            frozen.to(fabric.device)

    def loss(self, x: Tensor, step: int, draws: Draws, steps: int = 0) -> Loss:
        with torch.no_grad():
            output = self.codec(x, draw_quality(draws, self.codec.config.levels))
        decoder, config = self._decoder(self.network), self.config
        begins = (1 - config.unroll_last) * (steps or sys.maxsize)
        unrolled = config.unroll_steps > 0 and step >= begins
        return perceptual(decoder, output, x, self.lpips, config, draws, unrolled).mean()

    def preview(self, average: Denoiser, x: Tensor) -> Tensor:
        return _preview(self._decoder(average), self.codec(x, _middle(self.codec)))

    def files(self, average: Denoiser) -> dict[str, bytes]:
        return {"model.safetensors": zoo.decoder_bytes(self._decoder(average))}

    def _decoder(self, denoiser: Denoiser) -> DiffusionDecoder:
        return _diffusion(denoiser, self.config, self.codec.model_id)


class CodecAndDenoiser(nn.Module):
    """What a joint stage trains."""

    def __init__(self, codec: BlurCodec, denoiser: Denoiser):
        super().__init__()
        self.codec, self.denoiser = codec, denoiser


class JointStage(Stage[CodecAndDenoiser]):
    """R + λ·[(1 − ρ) · 5 · diffusion + ρ · LPIPS], codec and denoiser at once: the paper's.

    The direct decoder's picture is trained as what the denoiser starts from, and as nothing else.
    """

    def __init__(self, config: TrainConfig):
        super().__init__(config)
        self.trained_codec = _new_codec(config)
        self.module = CodecAndDenoiser(self.trained_codec, _new_denoiser(config))
        self.network = self.trained_codec, self.module.denoiser
        self.lpips = _load_lpips()

    def setup(self, fabric: Fabric) -> None:
        self.network = tuple(map(fabric.setup_module, self.network))
        self.lpips.to(fabric.device)

    def loss(self, x: Tensor, step: int, draws: Draws, steps: int = 0) -> Loss:
        (codec, denoiser), config = self.network, self.config
        decoder = _diffusion(denoiser, config, bytes(4))

        def distance(output: CodecOutput) -> Loss:
            return perceptual(decoder, output, x, self.lpips, config, draws)

        return rate_distortion(codec, x, config, draws, _z_weight(step, config), distance)

    def preview(self, average: CodecAndDenoiser, x: Tensor) -> Tensor:
        output = average.codec(x, _middle(average.codec))
        return _preview(_diffusion(average.denoiser, self.config, output.model_id), output)

    def files(self, average: CodecAndDenoiser) -> dict[str, bytes]:
        codec = zoo.codec_bytes(average.codec)
        model_id = hashlib.sha256(codec).digest()[:4]
        decoder = _diffusion(average.denoiser, self.config, model_id)
        return {"model.safetensors": codec, "denoiser.safetensors": zoo.decoder_bytes(decoder)}


def _new_codec(config: TrainConfig) -> BlurCodec:
    codec = BlurCodec(CodecConfig.small() if config.size == "small" else CodecConfig.paper())
    codec.objective = config.target
    if config.init:
        zoo.initialise(codec, config.init)
    return codec


def _new_denoiser(config: TrainConfig, of: CodecConfig | None = None) -> Denoiser:
    """of: its codec, if that is finished: only then the errors are known, for "residual"."""
    sizes = DenoiserConfig.small() if config.size == "small" else DenoiserConfig.paper()
    denoiser = Denoiser(
        dataclasses.replace(
            sizes,
            residual_to_base=config.prediction == "x",
            gated=config.prediction == "residual",
            error_levels=of.levels if of and config.prediction == "residual" else 0,
            told=len(of.entropy.groups) + 2 if of and config.told else 0,
        ),
        checkpointing=config.checkpointing,
    )
    if config.init and config.stage != "joint":  # there, `init` is the codec's
        zoo.initialise_denoiser(denoiser, config.init)
    return denoiser


def _diffusion(denoiser: Denoiser, config: TrainConfig, codec_id: bytes) -> DiffusionDecoder:
    schedule = BlurSchedule(config.sigma_blur_max, logsnr_min=config.logsnr_min)
    how = Sampling(config.unroll_steps or Sampling.steps, start_scale=config.start_scale)
    return DiffusionDecoder(denoiser, BlurDiffusion(schedule, config.prediction), codec_id, how)


def _load_lpips() -> Lpips:
    # Trained with SqueezeNet, so that AlexNet can measure what it never saw.
    return Lpips.load("squeeze", cached_weights(lpips_file("squeeze")))


def _preview(decoder: DiffusionDecoder, output: CodecOutput) -> Tensor:
    steps = min(PREVIEW_STEPS, decoder.sampling.steps)
    return decoder.decode(output, decoder.sampling.but(steps=steps))


def _z_weight(step: int, config: TrainConfig) -> float:
    return min(1.0, step / config.z_warmup)


def _middle(codec: BlurCodec) -> float:
    return (1 + codec.config.levels) / 2
