"""From the main decoder's reconstruction to a more realistic one: by diffusion, or in one step."""

from collections.abc import Callable, Iterator
from contextlib import nullcontext
from functools import partial
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from blurlib.codec.bitstream import BlurFile
from blurlib.codec.model import STRIDE, CodecOutput
from blurlib.diffusion import BlurDiffusion, Denoiser, Prior, SamplerState, Sampling, Tiling
from blurlib.diffusion.dct import dct2
from blurlib.diffusion.prior import error_variance
from blurlib.diffusion.sampler import last_x_hat, sample
from blurlib.diffusion.tiling import predict_tiled


class Synthesis(NamedTuple):
    """One step of the reverse process.

    Attributes:
        step, steps: this step, from 1, of how many.
        x_hat: the current estimate of the photo (B, 3, H, W) in [0, 1].
    """

    step: int
    steps: int
    x_hat: Tensor


class _OnTop(nn.Module):
    """A U-Net that goes on from the pictures of one codec, `codec_id`, and of no other."""

    def __init__(self, denoiser: Denoiser, codec_id: bytes):
        super().__init__()
        self.denoiser, self.codec_id = denoiser, codec_id

    def check(self, file: BlurFile, tiling: Tiling) -> None:
        """ValueError, before anything is decoded, where `file` is of another codec or its photo
        would not fit into the memory."""
        padded = (-(-side // STRIDE) * STRIDE for side in (file.height, file.width))
        self._side(file.model_id, tiling, 1, *padded)

    def _side(self, model_id: bytes, tiling: Tiling, B: int, H: int, W: int) -> int:
        """Side of the tiles for a batch of padded pictures of the codec `model_id`."""
        if model_id != self.codec_id:
            raise ValueError(
                f"this denoiser was trained for codec {self.codec_id.hex()}, and the picture is "
                f"from {model_id.hex()}: use the denoiser of that codec"
            )
        return tiling.side(self.denoiser.config, B, H, W)

    def variance(self, output: CodecOutput) -> Tensor:
        """How wrong reconstructions of this quality usually are, (B, 1, H, W): of `Prior`."""
        size = output.reconstruction.x_hat.shape[-2:]
        return error_variance(self.denoiser.error_spectra, output.quality, *size)


class DiffusionDecoder(_OnTop):
    """A denoiser, its diffusion process, and the id of the codec it belongs to.

    The denoiser sees the noisy picture (or what it adds to what is known), the direct
    reconstruction and the main decoder's pyramid. `sampling` is how these weights are sampled where
    nothing else is asked for; it ships with them. Raises ValueError for a process of residuals and
    a denoiser that does not know the usual errors.
    """

    def __init__(
        self,
        denoiser: Denoiser,
        process: BlurDiffusion,
        codec_id: bytes,
        sampling: Sampling | None = None,
    ):
        super().__init__(denoiser, codec_id)
        if process.needs_prior and not denoiser.config.error_levels:
            raise ValueError("prediction is 'residual' and error_levels is 0: it must be above")
        self.process, self.sampling = process, sampling or Sampling()

    def given(self, output: CodecOutput) -> BlurDiffusion:
        """The process for these photos: with their prior, where the prediction needs one."""
        if not self.process.needs_prior:
            return self.process
        base = 2 * output.reconstruction.x_hat - 1
        return self.process.given(Prior(dct2(base), self.variance(output)))

    def predict(self, z_t: Tensor, t: Tensor, output: CodecOutput) -> Tensor:
        """Output of the denoiser, in pixels; z_t (`BlurDiffusion.network_input`) of the size of
        `output.reconstruction.x_hat`, t (B,)."""
        x_hat, pyramid = output.reconstruction
        return self.denoiser(z_t, t, 2 * x_hat - 1, pyramid)

    def sample(
        self,
        output: CodecOutput,
        *,
        tiling: Tiling | None = None,
        autocast: torch.dtype | None = None,
        **changes: Any,
    ) -> Iterator[Synthesis]:
        """The reverse process, one network evaluation per step; the last `x_hat` is the result.

        Args:
            output: of `BlurCodec.decompress` (or `forward`).
            tiling: the memory a decode may take, and its tiles beyond it; None is `Tiling()`.
            autocast: precision of the network's layers, such as torch.bfloat16. The process and its
                DCTs stay in float32, their coefficients in float64.
            changes: fields of `Sampling`, such as `steps` and `seed`. What is not given, or None,
                is as `sampling` says, and the seed as the file says, where it holds one.

        Raises:
            ValueError: no such `Sampling`, `output` is of another codec than this decoder is for,
                or the decode would not fit into the memory.
        """
        how = self.sampling.but(seed=output.seed).but(**changes)
        chain = self._chain(output, how, tiling or Tiling(), autocast)
        return (Synthesis(s.step + 1, s.steps, _cropped(s.x_hat, output.size)) for s in chain)

    def decode(
        self, output: CodecOutput, sampling: Sampling | None = None, tiling: Tiling | None = None
    ) -> Tensor:
        """The last picture of `sample`, (B, 3, H, W) in [0, 1]; ValueError as there. `sampling`
        counts as it is, its seed too; None is what `sample` takes for None."""
        sampling = sampling or self.sampling.but(seed=output.seed)
        chain = self._chain(output, sampling, tiling or Tiling())
        return _cropped(last_x_hat(chain), output.size)

    def _chain(
        self,
        output: CodecOutput,
        how: Sampling,
        tiling: Tiling,
        autocast: torch.dtype | None = None,
    ) -> Iterator[SamplerState]:
        """The states, of padded pictures; refuses at once what `sample` refuses."""
        x_hat, pyramid = output.reconstruction
        B, _, *padded = x_hat.shape
        side = self._side(output.model_id, tiling, B, *padded)
        base = 2 * x_hat - 1

        def predict(z_t: Tensor, t: Tensor) -> Tensor:
            with torch.autocast(z_t.device.type, autocast) if autocast else nullcontext():
                return predict_tiled(
                    self.denoiser, z_t, t, base, pyramid, side=side, overlap=tiling.overlap
                )

        return sample(self.given(output), predict, x_hat.shape, how, device=x_hat.device)


def _cropped(x_hat: Tensor, size: tuple[int, int]) -> Tensor:
    """A padded picture in [−1, 1] as (B, 3, *size) in [0, 1]."""
    H, W = size
    return ((x_hat[..., :H, :W] + 1) / 2).clamp(0, 1)


class Correction(NamedTuple):
    """x_hat: (B, 3, H, W), pixels in [−1, 1]; unit: (B, 1, 1, 1), the size of the usual error of
    the direct reconstruction, in which the network speaks, or 1 where it does not know that."""

    x_hat: Tensor
    unit: Tensor


class DeterministicDecoder(_OnTop):
    """The same U-Net without noise and without time: what a diffusion decoder has to beat.

    It sees the direct reconstruction where a denoiser sees the noisy picture, and t = 0. What it
    computes is added to the direct reconstruction: as it is, or, where the denoiser knows the usual
    errors, times their size, as "residual" does at t = 1.
    """

    @torch.no_grad()
    def decode(self, output: CodecOutput, tiling: Tiling | None = None) -> Tensor:
        """One network evaluation: the picture, (B, 3, H, W) in [0, 1]. ValueError: `output` is of
        another codec, or the picture would not fit into the memory."""
        tiling = tiling or Tiling()
        B, _, *padded = output.reconstruction.x_hat.shape
        side = self._side(output.model_id, tiling, B, *padded)
        tiled = partial(predict_tiled, self.denoiser, side=side, overlap=tiling.overlap)
        return _cropped(self.predict(output, tiled).x_hat, output.size)

    def predict(
        self, output: CodecOutput, network: Callable[..., Tensor] | None = None
    ) -> Correction:
        """What it makes of the reconstruction; `network` may stand for the denoiser."""
        x_hat, pyramid = output.reconstruction
        base = 2 * x_hat - 1
        result = (network or self.denoiser)(base, base.new_zeros(len(base)), base, pyramid)
        if not self.denoiser.config.error_levels:
            return Correction(result, base.new_ones(len(base), 1, 1, 1))
        unit = self.variance(output).mean(dim=(1, 2, 3), keepdim=True).sqrt().to(base)
        return Correction(base + unit * result, unit)
