"""From the main decoder's reconstruction to a more realistic one, by diffusion."""

import itertools
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import cached_property, partial
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from blurlib import checkpoints
from blurlib.codec.bitstream import BlurFile
from blurlib.codec.model import STRIDE, CodecOutput
from blurlib.codec.transforms import Reconstruction
from blurlib.diffusion import BlurDiffusion, Denoiser, Prior, SamplerState, Sampling, Tiling
from blurlib.diffusion.dct import dct2
from blurlib.diffusion.prior import error_variance
from blurlib.diffusion.sampler import last_x_hat, sample
from blurlib.diffusion.tiling import Span, crop, predict_tiled


@dataclass(frozen=True)
class Synthesis:
    """One step of the reverse process: step, from 1, of steps, those of all regions together."""

    step: int
    steps: int
    picture: Callable[[], Tensor] = field(repr=False)

    @cached_property
    def x_hat(self) -> Tensor:
        """The current estimate of the photo (B, 3, H, W) in [0, 1], made where it is looked at."""
        return self.picture()


class DiffusionDecoder(nn.Module):
    """A denoiser, its diffusion process, and the id of the only codec whose pictures it refines.

    Under `torch.autocast` the denoiser's layers run in its precision; the process and its DCTs stay
    in float32, their coefficients in float64.

    The denoiser sees the noisy picture (or what it adds to what is known), the direct
    reconstruction and the main decoder's pyramid. `sampling` is how these weights are sampled where
    nothing else is asked for; it ships with them. One step from a `start_scale` of 0 is what a
    chain has to beat: a deterministic decoder, in which the network sees no noise, and only t = 1.
    Raises ValueError for a process of residuals and a denoiser that does not know the usual errors.
    """

    def __init__(
        self,
        denoiser: Denoiser,
        process: BlurDiffusion,
        codec_id: bytes,
        sampling: Sampling | None = None,
    ):
        super().__init__()
        if process.needs_prior and not denoiser.config.error_levels:
            raise ValueError("prediction is 'residual' and error_levels is 0: it must be above")
        self.denoiser, self.process, self.codec_id = denoiser, process, codec_id
        self.sampling = sampling or Sampling()

    def check(self, file: BlurFile, tiling: Tiling) -> None:
        """ValueError, before anything is decoded, where `file` is of another codec or its photo
        would not fit into the memory."""
        padded = (-(-side // STRIDE) * STRIDE for side in (file.height, file.width))
        self._side(file.model_id, tiling, 1, *padded)

    def variance(self, output: CodecOutput) -> Tensor:
        """How wrong these reconstructions are, (B, 1, H, W): of `Prior`. As usual at their quality;
        where their PSNR is known, to denoisers that were trained to be told it, scaled so that the
        mean over the frequencies is the squared error on [−1, 1] that it stands for."""
        size = output.reconstruction.x_hat.shape[-2:]
        variance = error_variance(self.denoiser.error_spectra, output.quality, *size)
        if output.psnr is not None and self.denoiser.config.told:
            error = 4 * 10 ** (-output.psnr.to(variance.device) / 10)
            variance *= (error / variance.mean((1, 2, 3))).view(-1, 1, 1, 1)
        return variance

    def conditions(self, output: CodecOutput) -> tuple[Tensor, ...]:
        """The maps that the denoiser is given: the main decoder's pyramid and, where it is told
        more, at H/16 and all about 1 in size, the entropy model's log₂ σ by groups of channels, the
        quality, and the PSNR of the direct reconstruction: the usual one where it is not known."""
        x_hat, pyramid = output.reconstruction
        if not self.denoiser.config.told:
            return pyramid
        psnr, spectra = output.psnr, self.denoiser.error_spectra
        if psnr is None:
            usual = error_variance(spectra, output.quality, STRIDE, STRIDE).mean((1, 2, 3))
            psnr = 10 * (4 / usual).log10()
        log2_sigma = output.latent.log2_sigma().to(x_hat)
        of_photo = 2 * (output.quality - 1) / (len(spectra) - 1) - 1, psnr / 10 - 3
        flat = [a.to(log2_sigma).view(-1, 1, 1, 1).expand_as(log2_sigma[:, :1]) for a in of_photo]
        return (*pyramid, torch.cat([(log2_sigma + 1) / 2, *flat], 1))

    def given(self, output: CodecOutput) -> BlurDiffusion:
        """The process for these photos: with their prior, where the prediction needs one."""
        if not self.process.needs_prior:
            return self.process
        base = 2 * output.reconstruction.x_hat - 1
        return self.process.given(Prior(dct2(base), self.variance(output)))

    def predict(self, z_t: Tensor, t: Tensor, output: CodecOutput) -> Tensor:
        """Output of the denoiser, in pixels; z_t (`BlurDiffusion.network_input`) of the size of
        `output.reconstruction.x_hat`, t (B,)."""
        base = 2 * output.reconstruction.x_hat - 1
        return self.denoiser(z_t, t, base, self.conditions(output))

    def sample(
        self,
        output: CodecOutput,
        sampling: Sampling | None = None,
        tiling: Tiling | None = None,
        **changes: Any,
    ) -> Iterator[Synthesis]:
        """The reverse process, one network evaluation per step; the last `x_hat` is the result.

        Args:
            output: of `BlurCodec.decompress` (or `forward`).
            sampling: how; None is that of these weights, with the file's seed, where it holds one.
            tiling: the memory a decode may take, and its tiles beyond it; None is `Tiling()`.
            changes: fields of `Sampling` to differ, such as `steps` and `seed`, unless None.

        Raises:
            ValueError: no such `Sampling`, `output` is of another codec than this decoder is for,
                or the decode would not fit into the memory.
        """
        how = (sampling or self.sampling.but(seed=output.seed)).but(**changes)
        tiling, x_hat = tiling or Tiling(), output.reconstruction.x_hat
        B, _, *padded = x_hat.shape
        side = self._side(output.model_id, tiling, B, *padded)
        rows, columns = tiling.regions(self.denoiser.config, B, *padded)
        output = output._replace(reconstruction=Reconstruction(x_hat, self.conditions(output)))
        chain = partial(self._chain, how=how, side=side, overlap=tiling.overlap)
        if len(rows) == len(columns) == 1:
            return map(
                lambda s: Synthesis(s.step + 1, s.steps, lambda: _cropped(s.x_hat, output.size)),
                chain(output),
            )
        return self._by_regions(output, list(itertools.product(rows, columns)), chain, how.seed)

    def decode(self, output: CodecOutput, *how: Any, **changes: Any) -> Tensor:
        """The last picture of `sample`, which takes the same, (B, 3, H, W) in [0, 1]."""
        return last_x_hat(self.sample(output, *how, **changes))

    def unrolled(self, output: CodecOutput, noise: Callable[[], Tensor]) -> Tensor:
        """The end of the chain of `sampling` from the given draws, (B, 3, H, W) in [−1, 1], for
        training: gradients go back through all its evaluations."""
        base, maps = 2 * output.reconstruction.x_hat - 1, self.conditions(output)
        predict, process = partial(self.denoiser, base=base, pyramid=maps), self.given(output)
        chain = sample(process, predict, base.shape, self.sampling, noise=noise, gradients=True)
        return last_x_hat(chain)

    def _side(self, model_id: bytes, tiling: Tiling, B: int, H: int, W: int) -> int:
        """Side of the tiles for what is decoded at once, a region, of padded pictures of the codec
        `model_id`."""
        if model_id != self.codec_id:
            raise ValueError(
                f"this denoiser was trained for codec {self.codec_id.hex()}, and the picture is "
                f"from {model_id.hex()}: the denoisers that ship are for files of the model "
                f"{checkpoints.PERCEPTUAL}"
            )
        rows, columns = tiling.regions(self.denoiser.config, B, H, W)
        return tiling.side(self.denoiser.config, B, rows[0].stop, columns[0].stop)

    @torch.no_grad()
    def _by_regions(
        self,
        output: CodecOutput,
        regions: Sequence[tuple[Span, Span]],
        chain: Callable[..., Iterator[SamplerState]],
        seed: int,
    ) -> Iterator[Synthesis]:
        """One region after another; those to come show the direct reconstruction. `x_hat` is the
        same tensor at every step."""
        x_hat, pyramid = output.reconstruction
        H, W = output.size
        result, steps = x_hat.clamp(0, 1), itertools.count(1)
        for y, x in regions:
            cut = partial(crop, rows=y, columns=x, W=x_hat.shape[-1])
            before, size = cut(x_hat), (y.stop - y.start, x.stop - x.start)
            part = Reconstruction(before, tuple(map(cut, pyramid)))
            noise = _noise(x_hat, y, x, seed)
            for state in chain(output._replace(reconstruction=part, size=size), noise=noise):
                if state.step == state.steps - 1:
                    weight = (y.weight[:, None] * x.weight).to(before)
                    change = _cropped(state.x_hat, size).sub_(before.clamp(0, 1))
                    cut(result).addcmul_(change, weight)
                total = state.steps * len(regions)
                yield Synthesis(next(steps), total, lambda: result[..., :H, :W])

    def _chain(
        self,
        output: CodecOutput,
        how: Sampling,
        side: int,
        overlap: int,
        noise: Callable[[], Tensor] | None = None,
    ) -> Iterator[SamplerState]:
        """The states, of padded pictures."""
        x_hat, pyramid = output.reconstruction
        base = 2 * x_hat - 1

        def predict(z_t: Tensor, t: Tensor) -> Tensor:
            return predict_tiled(self.denoiser, z_t, t, base, pyramid, side=side, overlap=overlap)

        process = self.given(output)
        return sample(process, predict, x_hat.shape, how, device=x_hat.device, noise=noise)


def _noise(whole: Tensor, rows: Span, columns: Span, seed: int) -> Callable[[], Tensor]:
    """Draws of a region: pixels that regions share have the same noise. It comes in bands of 64
    rows, so that a region need not draw the whole picture's."""
    draws = itertools.count()
    first = rows.start // STRIDE

    def noise() -> Tensor:
        draw, bands = next(draws), []
        for band in range(first, -(-rows.stop // STRIDE)):
            own = np.random.SeedSequence([seed, draw, band]).generate_state(1, np.uint64)[0]
            generator = torch.Generator().manual_seed(int(own))
            drawn = torch.randn(*whole.shape[:2], STRIDE, whole.shape[-1], generator=generator)
            bands.append(drawn[..., columns.start : columns.stop])
        start = rows.start - first * STRIDE
        pixels = torch.cat(bands, -2)[..., start : start + rows.stop - rows.start, :]
        return dct2(pixels.to(whole))

    return noise


def _cropped(x_hat: Tensor, size: tuple[int, int]) -> Tensor:
    """A padded picture in [−1, 1] as (B, 3, *size) in [0, 1]."""
    H, W = size
    return ((x_hat[..., :H, :W] + 1) / 2).clamp(0, 1)
