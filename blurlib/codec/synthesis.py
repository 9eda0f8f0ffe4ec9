"""Blur-dissipated synthesis: from the main decoder's reconstruction to the perceptual one."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import nullcontext
from typing import NamedTuple

import torch
from torch import Tensor, nn

from blurlib.codec.model import CodecOutput
from blurlib.codec.transforms import Reconstruction
from blurlib.diffusion import (
    BlurDiffusion,
    Denoiser,
    Solver,
    Spacing,
    Tiling,
    predict_tiled,
    sample,
)


class Synthesis(NamedTuple):
    """One step of the reverse process.

    Attributes:
        step, steps: this step, from 1, of how many.
        x_hat: the current estimate of the photo (B, 3, H, W) in [0, 1].
    """

    step: int
    steps: int
    x_hat: Tensor


class DiffusionDecoder(nn.Module):
    """A denoiser, its diffusion process, and the id of the codec it belongs to.

    The denoiser sees the noisy picture, the direct reconstruction and the main decoder's pyramid;
    the process decides what noise and blur mean.
    """

    def __init__(self, denoiser: Denoiser, process: BlurDiffusion, codec_id: bytes):
        super().__init__()
        self.denoiser, self.process, self.codec_id = denoiser, process, codec_id

    def predict(self, z_t: Tensor, t: Tensor, given: Reconstruction) -> Tensor:
        """Output of the denoiser, in pixels of [−1, 1]; z_t as `given.x_hat`, t (B,)."""
        return self.denoiser(z_t, t, 2 * given.x_hat - 1, given.pyramid)

    def sample(
        self,
        output: CodecOutput,
        steps: int = 17,
        seed: int = 0,
        *,
        solver: Solver = "ancestral",
        spacing: Spacing = "logsnr",
        start_scale: float = 1.0,
        tiling: Tiling | None = None,
        autocast: torch.dtype | None = None,
    ) -> Iterator[Synthesis]:
        """The reverse process, one network evaluation per step; the last `x_hat` is the result.

        Args:
            output: of `BlurCodec.decompress` (or `forward`).
            steps: at least 1.
            seed: of all noise; the same seed repeats the decode on the same machine.
            solver, spacing, start_scale: of `blurlib.diffusion.sample`.
            tiling: the memory a decode may take, and its tiles beyond it; None is `Tiling()`.
            autocast: precision of the network's layers, such as torch.bfloat16. The process and its
                DCTs stay in float32, their coefficients in float64.

        Raises:
            ValueError: steps < 1, start_scale ≤ 0, an unknown solver or spacing, `output` is of
                another codec than this decoder is for, or the decode would not fit into the memory.
        """
        if output.model_id != self.codec_id:
            raise ValueError(
                f"this denoiser was trained for codec {self.codec_id.hex()}, and the picture is "
                f"from {output.model_id.hex()}: use the denoiser of that codec"
            )
        tiling = tiling or Tiling()
        x_hat, pyramid = output.reconstruction
        B, _, *padded = x_hat.shape
        side = tiling.side(self.denoiser.config, B, *padded)
        base = 2 * x_hat - 1

        def predict(z_t: Tensor, t: Tensor) -> Tensor:
            with torch.autocast(z_t.device.type, autocast) if autocast else nullcontext():
                return predict_tiled(
                    self.denoiser, z_t, t, base, pyramid, side=side, overlap=tiling.overlap
                )

        chain = sample(
            self.process,
            predict,
            x_hat.shape,
            steps,
            torch.Generator().manual_seed(seed),  # CPU: the same noise for every device
            solver=solver,
            spacing=spacing,
            start_scale=start_scale,
            device=x_hat.device,
        )
        H, W = output.size
        return (
            Synthesis(s.step + 1, s.steps, ((s.x_hat[..., :H, :W] + 1) / 2).clamp(0, 1))
            for s in chain
        )
