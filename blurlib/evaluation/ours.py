"""Our codec behind the interface of the baselines."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

from torch import Tensor

from blurlib import images
from blurlib.codec import BlurCodec, CodecOutput
from blurlib.codec.bitstream import BlurFile
from blurlib.codec.synthesis import DeterministicDecoder, DiffusionDecoder
from blurlib.diffusion import Sampling, Tiling


@dataclass(frozen=True)
class BlurlibCodec:
    """`BlurCodec` with its direct decoder, or with another one on top.

    Attributes:
        model: name of the codec's weights, for the name of the results file.
        codec: in eval mode.
        on_top: the decoder that goes on from the direct one; None is the direct one alone.
        on_top_sha256: of its weights.
        sampling: how it is run, if it is a diffusion decoder; None is what suits its weights.
        tiling: the memory it may take.
        effort: of the encoder.
    """

    model: str
    codec: BlurCodec
    on_top: DiffusionDecoder | DeterministicDecoder | None = None
    on_top_sha256: str = ""
    sampling: Sampling | None = None
    tiling: Tiling = field(default_factory=Tiling)
    effort: int = 1

    def __post_init__(self):
        if self.sampling is None and isinstance(self.on_top, DiffusionDecoder):
            object.__setattr__(self, "sampling", self.on_top.sampling)

    @property
    def decoder(self) -> str:
        """ "direct", "deterministic" or "diffusion"."""
        if self.on_top is None:
            return "direct"
        return "diffusion" if isinstance(self.on_top, DiffusionDecoder) else "deterministic"

    @property
    def name(self) -> str:
        """Isotropic diffusion goes by a name of its own, to stand beside that with blur; so does
        an effort other than the usual one."""
        isotropic = self.decoder == "diffusion" and not self.on_top.process.schedule.sigma_blur_max
        effort = "" if self.effort == 1 else f"-effort{self.effort}"
        return f"{self.model}-{'isotropic' if isotropic else self.decoder}{effort}"

    @property
    def settings(self) -> Mapping[str, Any]:
        how = {"decoder": self.decoder, "effort": self.effort}
        if self.on_top is None:
            objective = self.codec.objective
            return {**how, "objective": objective and objective.distortion}
        sampling = asdict(self.sampling) if self.decoder == "diffusion" else {}
        weights = {"denoiser": self.on_top_sha256, "memory": self.tiling.memory}
        return {**how, **weights, **sampling}

    def encode(self, image: Tensor, quality: float) -> bytes:
        return self.codec.compress(images.to_float(image)[None], quality, effort=self.effort)

    def decode(self, data: bytes) -> Tensor:
        output = self.codec.decompress(data)
        return images.to_uint8(self.picture(output)[0])

    def picture(self, output: CodecOutput) -> Tensor:
        """(B, 3, H, W), about [0, 1], of what the codec decoded."""
        if self.on_top is None:
            return output.x_hat
        if isinstance(self.on_top, DiffusionDecoder):
            return self.on_top.decode(output, self.sampling, self.tiling)
        return self.on_top.decode(output, self.tiling)

    def extra(self, image: Tensor, quality: float, data: bytes) -> dict[str, float]:
        """The likelihood estimate in bytes, to be held against the real ones."""
        latent = self.codec.decode_latent(BlurFile.from_bytes(data))
        return {"estimated_bytes": round((latent.bits_y + latent.bits_z).item() / 8, 2)}
