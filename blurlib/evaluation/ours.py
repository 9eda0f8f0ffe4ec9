"""Our codec behind the interface of the baselines."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from blurlib import images
from blurlib.codec import BlurCodec
from blurlib.codec.synthesis import DiffusionDecoder


@dataclass(frozen=True)
class BlurlibCodec:
    """`BlurCodec` with its direct decoder, or with a diffusion decoder on top.

    Attributes:
        model: name of the codec's weights, for the name of the results file.
        codec: in eval mode.
        diffusion, steps, seed: the perceptual decoder and how it is run; None is the direct one.
        denoiser_sha256: of the perceptual decoder's weights.
    """

    model: str
    codec: BlurCodec
    diffusion: DiffusionDecoder | None = None
    denoiser_sha256: str = ""
    steps: int = 17
    seed: int = 0

    @property
    def name(self) -> str:
        return f"{self.model}-{'diffusion' if self.diffusion else 'direct'}"

    @property
    def settings(self) -> Mapping[str, Any]:
        if self.diffusion is None:
            return {"decoder": "direct", "objective": self.codec.objective}
        how = {"steps": self.steps, "seed": self.seed, "denoiser": self.denoiser_sha256}
        return {"decoder": "diffusion", **how}

    def encode(self, image: Tensor, quality: float) -> bytes:
        return self.codec.compress(images.to_float(image)[None], quality)

    def decode(self, data: bytes) -> Tensor:
        output = self.codec.decompress(data)
        x_hat = output.x_hat
        if self.diffusion is not None:
            for state in self.diffusion.sample(output, self.steps, self.seed):
                x_hat = state.x_hat
        return images.to_uint8(x_hat[0])

    def extra(self, image: Tensor, quality: float, data: bytes) -> dict[str, float]:
        """The likelihood estimate in bytes, to be held against the real ones."""
        with torch.inference_mode():
            estimate = self.codec(images.to_float(image)[None], quality).estimated_bits
        return {"estimated_bytes": round(estimate.item() / 8, 2)}
