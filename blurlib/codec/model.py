"""`BlurCodec`: photo to bytes and back, at any quality."""

import math
import struct
import zlib
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from functools import cache
from numbers import Integral
from typing import Any, NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from blurlib.codec import transforms
from blurlib.codec.bitstream import MAX_PIXELS, BitstreamError, BlurFile, check_seed, check_size
from blurlib.codec.objective import Objective
from blurlib.codec.search import ITERATIONS, Searched, cost, search
from blurlib.entropy import coder
from blurlib.entropy.context import ContextConfig
from blurlib.entropy.model import EntropyConfig, Hyperprior, LaplacianEntropyModel, Latent, Watch
from blurlib.entropy.strips import give_back

Observe = Callable[[Searched], None]
STRIDE = 64  # pixels per hyper-latent position: inputs are padded to multiples of it
QUALITY_STEPS = 256  # quality is a multiple of 1/256, so that a file stores it exactly


class TooSmallError(ValueError):
    """Even the smallest file of a photo is larger than what it should fit into."""


@dataclass(frozen=True)
class CodecConfig:
    """Sizes of a codec, and nothing else: two codecs with equal configs can share weights.

    `levels` counts the quality levels, at least 2; quality is a real number in [1, levels].
    """

    entropy: EntropyConfig = field(default_factory=EntropyConfig)
    transform: transforms.TransformConfig = field(default_factory=transforms.TransformConfig)
    levels: int = 6

    def __post_init__(self):
        if self.levels < 2:
            raise ValueError(f"levels is {self.levels}: gains are interpolated between at least 2")

    @classmethod
    def small(cls) -> "CodecConfig":
        """What ships: M = 192, nothing convolves at full resolution."""
        return cls()

    @classmethod
    def paper(cls) -> "CodecConfig":
        """The paper's sizes: M = 256, four stride-2 stages."""
        return cls(
            EntropyConfig(M=256, N=192, context=ContextConfig(256, 128, 128, 128, 256, heads=8)),
            transforms.TransformConfig(patch=2, widths=(64, 128, 192, 256), blocks=(2, 2, 2, 2)),
        )

    @classmethod
    def from_dict(cls, data: dict) -> "CodecConfig":
        """Inverse of `dataclasses.asdict`."""
        entropy = {**data["entropy"], "context": ContextConfig(**data["entropy"]["context"])}
        transform = transforms.TransformConfig(**data["transform"])
        return cls(EntropyConfig(**entropy), transform, data["levels"])


class CodecOutput(NamedTuple):
    """One pass of a batch through the codec.

    Attributes:
        reconstruction: of the main decoder, at the padded size.
        latent: quantised latent and its estimated bits.
        quality: of each photo, (B,), float64.
        size: (H, W) of the photos.
        model_id: of the codec that made it.
        seed: of the diffusion decoder, where the file holds one.
        psnr: of each direct reconstruction, (B,), float64, dB, as a file stores it; or None where
            the file does not.
    """

    reconstruction: transforms.Reconstruction
    latent: Latent
    quality: Tensor
    size: tuple[int, int]
    model_id: bytes
    seed: int | None = None
    psnr: Tensor | None = None

    @property
    def x_hat(self) -> Tensor:
        """The direct reconstruction (B, 3, H, W), about [0, 1], not clamped."""
        return self.reconstruction.x_hat[..., : self.size[0], : self.size[1]]

    @property
    def y_hat(self) -> Tensor:
        return self.latent.y_hat

    @property
    def estimated_bits(self) -> Tensor:
        """Likelihood estimate per image, (B,): never a result, only ever a check."""
        return self.latent.bits_y + self.latent.bits_z


def snap_quality(quality: Tensor, levels: int) -> Tensor:
    """`quality` rounded to what a file stores (1/256).

    Raises:
        ValueError: outside [1, levels].
    """
    refused = quality[~((quality >= 1) & (quality <= levels))]  # NaN too
    if len(refused):
        raise ValueError(f"quality is {refused[0]:g}: it must be a number from 1 to {levels}")
    return torch.round(quality * QUALITY_STEPS) / QUALITY_STEPS


def snap_psnr(mse: Tensor) -> Tensor:
    """PSNR in dB of mean squared errors on [0, 1], as a file stores it (¼ dB), float64."""
    return torch.round(-40 * mse.double().log10()).clamp(1, 255) / 4


def pad(x: Tensor) -> Tensor:
    """Replicate the last row and column up to multiples of 64: any size from 1×1 up."""
    H, W = x.shape[-2:]
    return F.pad(x, (0, -W % STRIDE, 0, -H % STRIDE), mode="replicate")


class BlurCodec(nn.Module):
    """The codec up to the direct reconstruction; `DiffusionDecoder` continues from there.

    In training mode it quantises with noise, in eval mode by rounding. What a decoder must repeat
    exactly, h_s and the entropy model, codes in float64: `zoo.load` gives such a codec, `code_in`
    makes one. Then `forward` quantises as `decompress` will, bit for bit.
    """

    def __init__(self, config: CodecConfig | None = None):
        super().__init__()
        self.config = config or CodecConfig.small()
        self.model_id = bytes(4)  # `zoo.load` sets it; a model that was never saved has none
        self.objective: Objective | None = None  # of the weights; kept in their file
        self.coding_dtype = torch.float64
        M, N = self.config.entropy.M, self.config.entropy.N
        self.g_a = transforms.Analysis(self.config.transform, M)
        self.h_a = transforms.HyperAnalysis(M, N, self.config.transform.norm)
        self.h_s = transforms.HyperSynthesis(N, M, self.config.entropy.context.hyper)
        self.gain = transforms.Gain(self.config.levels, M, (0.0, 2.0))
        self.inverse_gain = transforms.Gain(self.config.levels, M, (0.0, -2.0))
        self.entropy = LaplacianEntropyModel(self.config.entropy)
        self.main_decoder = transforms.MainDecoder(self.config.transform, M)

    def _apply(self, *arguments: Any, **options: Any) -> "BlurCodec":
        super()._apply(*arguments, **options)
        if {p.dtype for p in self.parameters()} & {torch.float16, torch.bfloat16}:
            self.model_id = bytes(4)  # rounded weights are another model's, and were never saved
        return self

    def code_in(self, dtype: torch.dtype = torch.float64) -> "BlurCodec":
        """Move what the decoder must repeat exactly to `dtype`, and code in it.

        Files are portable in float64; in another dtype their coding can be studied.
        """
        self.coding_dtype = dtype
        for part in (self.h_s, self.entropy):
            part.to(dtype)
        return self

    def forward(
        self,
        x: Tensor,
        quality: Tensor | float,
        z_rate_weight: float = 1.0,
        noise: coder.Noise = coder.uniform_noise,
    ) -> CodecOutput:
        """Code and reconstruct.

        Args:
            x: photos (B, 3, H, W) in [0, 1], or uint8, any size.
            quality: one number, or one per photo (B,); in eval mode rounded to 1/256 as in a file.
            z_rate_weight: in training, how much of its rate's gradient reaches z, from 0 to 1.
            noise: in training, where the noise that stands for rounding comes from.

        Raises:
            ValueError: in eval mode, quality outside [1, `config.levels`].
        """
        q = torch.as_tensor(quality, dtype=torch.float64, device=x.device).expand(x.shape[0])
        if not self.training:
            q = snap_quality(q, self.config.levels)
        features = self.g_a(pad(x))
        with torch.autocast(x.device.type, enabled=False):  # 8 bits of mantissa are no symbols
            latent = self.latent_of(features, q, z_rate_weight, noise)
        size = (x.shape[-2], x.shape[-1])
        output = CodecOutput(self.reconstruct(latent.y_hat, q), latent, q, size, self.model_id)
        with torch.no_grad():
            mse = (output.x_hat - transforms.to_float(x)).square().mean((1, 2, 3))
        return output._replace(psnr=snap_psnr(mse))

    @torch.no_grad()
    def compress(
        self,
        x: Tensor,
        quality: float,
        seed: int | None = None,
        effort: int = 0,
        observe: Observe | None = None,
    ) -> bytes:
        """One photo to the bytes of a `.blur` file.

        Args:
            x: (1, 3, H, W), floats in [0, 1] or, at a quarter of their memory, uint8.
            quality: from 1 (smallest file) to `config.levels`, rounded to 1/256.
            seed: stored for the diffusion decoder, so that everybody's decode looks the same.
            effort: how hard the encoder tries: 0 rounds y to the nearest, as `forward` does; 1 to 9
                search for a better y, which takes up to minutes (`blurlib.codec.search`).
            observe: called after each iteration of a search.

        Raises:
            ValueError: quality, size, effort or x out of range, not one RGB photo, of another dtype
                or on another device than the weights, a search with weights that do not say what
                they were trained for, a codec in training mode or in another precision than
                `code_in` says, or a file that would decode to no picture.
        """
        self._check(x, seed, effort)
        return self._proven(self._encode(x, self.g_a(pad(x)), quality, seed, effort, observe), x)

    def _proven(self, data: bytes, x: Tensor) -> bytes:
        """`data`, with the PSNR of what it decodes to. That is something like x: a network may
        answer a picture of a kind that it has never seen with numbers that are no picture."""
        file = BlurFile.from_bytes(data)
        x_hat = self.decompress(file, pyramid=False).x_hat
        rows = zip(x_hat.split(STRIDE, -2), x.split(STRIDE, -2), strict=True)
        error = sum((a - transforms.to_float(b)).square().sum().item() for a, b in rows)
        if not error <= x.numel():  # NaN too; black for white is 1 a value
            raise ValueError(
                f"at quality {file.quality:g} these weights lose this photo "
                "(it would not decode to a picture): use another quality or other weights"
            )
        psnr = snap_psnr(torch.tensor(error / x.numel(), dtype=torch.float64))
        return replace(file, psnr=psnr.item()).to_bytes()

    def _encode(
        self,
        x: Tensor,
        features: Tensor,
        quality: float,
        seed: int | None,
        effort: int,
        observe: Observe | None = None,
    ) -> bytes:
        """A photo at one quality to a file, given g_a's output; `_proven` sets its PSNR."""
        q = torch.tensor([quality], dtype=torch.float64, device=features.device)
        q = snap_quality(q, self.config.levels)
        latent = self.latent_of(features, q)
        if effort:
            latent = self._searched(x, features, latent, q, ITERATIONS[effort], observe)
        H, W = x.shape[-2:]
        return BlurFile(
            self.model_id, W, H, q.item(), symbols_crc(latent, (H, W), q.item()),
            z_stream=self.entropy.encode_z(latent), y_stream=self.entropy.encode_y(latent),
            seed=seed, psnr=0.25,
        ).to_bytes()  # fmt: skip

    def _searched(
        self,
        x: Tensor,
        features: Tensor,
        latent: Latent,
        quality: Tensor,
        iterations: int,
        observe: Observe | None,
    ) -> Latent:
        """A better latent than `latent`, by search, or if none was found that one."""
        x = transforms.to_float(x)
        gain = self.gain(quality)
        z_hat = self.entropy.hyper_latent.values(latent.z_symbols)
        y = features * gain.to(features.dtype)
        for state in search(self, x, y, z_hat, quality.item(), iterations):
            if observe:
                observe(state)
        hyperprior = self.hyperprior(z_hat, gain)
        y = state.y.to(hyperprior.gain.dtype)
        found = self.entropy.quantise(y, latent.z_symbols, hyperprior)
        return min(latent, found, key=lambda latent: cost(self, x, latent, quality).item())

    @torch.no_grad()
    def compress_to(
        self,
        x: Tensor,
        target_bpp: float,
        seed: int | None = None,
        effort: int = 0,
        observe: Observe | None = None,
    ) -> bytes:
        """The largest file not over `target_bpp`, by quality: sizes grow with it.
        A search makes files smaller; a second one at a higher quality uses what it left.
        TooSmallError: even quality 1 takes more. ValueError: as `compress`.
        """
        self._check(x, seed, effort)
        features, pixels = self.g_a(pad(x)), x[0, 0].numel()
        budget = target_bpp * pixels / 8

        @cache
        def at(step: int) -> bytes:
            return self._encode(x, features, step / QUALITY_STEPS, seed, 0)

        def within(limit: float) -> bytes:
            """By regula falsi on the logarithm of the size, nearly linear in quality: six or seven
            files, where bisection makes eleven. It takes over where that is not enough."""
            low, high = QUALITY_STEPS, self.config.levels * QUALITY_STEPS
            if len(at(high)) <= limit:
                return at(high)
            tries = 0
            while high - low > 1 and len(at(low)) < limit:
                under, over = (math.log(len(at(step)) / limit) for step in (low, high))
                part = under / (under - over) if tries < 9 else 0.5
                step = min(max(low + int((high - low) * part), low + 1), high - 1)
                low, high = (step, high) if len(at(step)) <= limit else (low, step)
                tries += 1
            return at(low)

        smallest = at(QUALITY_STEPS)
        if not len(smallest) <= budget:
            raise TooSmallError(
                f"target is {target_bpp} bpp: this photo takes {8 * len(smallest) / pixels:.3f} "
                "bpp at quality 1"
            )
        best = fast = within(budget)
        for _ in range(2 if effort else 0):
            quality = BlurFile.from_bytes(fast).quality
            data = self._encode(x, features, quality, seed, effort, observe)
            if len(data) <= budget:
                best = data
            fast = within(budget * len(fast) / len(data))
        return self._proven(best, x)

    @torch.inference_mode()
    def decompress(
        self, data: bytes | BlurFile, max_pixels: int = MAX_PIXELS, pyramid: bool = True
    ) -> CodecOutput:
        """The bytes of a `.blur` file to the latent and the direct reconstruction. BitstreamError:
        not a .blur file, cut, damaged, of another model, of more than `max_pixels`, or decoded
        differently than encoded. Without `pyramid`, of which only decoders on top make use, it
        takes less memory."""
        file = data if isinstance(data, BlurFile) else BlurFile.from_bytes(data)
        if file.width * file.height > max_pixels:
            raise BitstreamError(
                f"the picture is {file.width}×{file.height}: more than the limit of {max_pixels:,} "
                "pixels"
            )
        latent = self.decode_latent(file)
        q = torch.tensor([file.quality], dtype=torch.float64, device=latent.y_hat.device)
        reconstruction = self.reconstruct(latent.y_hat, q, pyramid)
        size = (file.height, file.width)
        psnr = None if file.psnr is None else q.new_tensor([file.psnr])
        return CodecOutput(reconstruction, latent, q, size, self.model_id, file.seed, psnr)

    @torch.inference_mode()
    def decode_latent(self, file: BlurFile) -> Latent:
        """The entropy-coded part of `decompress` alone."""
        latent = self.decode_streams(file)
        if symbols_crc(latent, (file.height, file.width), file.quality) != file.symbols_crc:
            raise BitstreamError(
                "the file is intact but decodes to other symbols here than where it was made"
            )
        return latent

    @torch.inference_mode()
    def decode_streams(self, file: BlurFile, watch: Watch = lambda code: code) -> Latent:
        """What the streams of a file say, unchecked: perhaps other symbols than the encoder's.

        Args:
            watch: as in `LaplacianEntropyModel.decode`.

        Raises:
            BitstreamError: as `decompress`, but for the checksum.
            ValueError: the codec is not ready for coding, as in `compress`.
        """
        self._check_precision()
        if file.model_id != self.model_id:
            raise BitstreamError(
                f"the file was made by model {file.model_id.hex()}, this one is "
                f"{self.model_id.hex()}"
            )
        if not 1 <= file.quality <= self.config.levels:
            raise BitstreamError(f"quality {file.quality} is not one of this model")
        device = self.gain.log_gain.device
        q = torch.tensor([file.quality], dtype=torch.float64, device=device)
        size = -(-file.height // STRIDE), -(-file.width // STRIDE)
        symbols = self.config.entropy.M * size[0] * size[1] * (STRIDE // 16) ** 2
        if 8 * len(file.y_stream) + 64 < 0.95 * coder.LEAST_BITS * symbols:
            raise BitstreamError(
                f"{len(file.y_stream)} bytes are too few for {file.width}×{file.height} pixels"
            )
        try:
            z_symbols = self.entropy.decode_z(coder.SymbolDecoder(file.z_stream), *size)
            z_hat = self.entropy.hyper_latent.values(z_symbols)
            hyperprior = self.hyperprior(z_hat, self.gain(q))
            stream = coder.SymbolDecoder(file.y_stream)
            return self.entropy.decode(stream, z_symbols, hyperprior, watch)
        except coder.DecodingError as error:
            raise BitstreamError(f"the streams do not decode: {error}") from error

    def latent_of(
        self,
        features: Tensor,
        quality: Tensor,
        z_rate_weight: float = 1.0,
        noise: coder.Noise = coder.uniform_noise,
    ) -> Latent:
        """What the entropy model makes of g_a's output (B, M, H/16, W/16), H and W multiples of 64:
        `forward` without the transforms."""
        give_back(features)
        gain = self.gain(quality)
        y = features * gain.to(features.dtype)
        dtype = self.entropy.hyper_latent.median.dtype
        z = self.h_a(y).to(dtype)
        if self.training:
            y = y.to(dtype)
            z_hat, bits_z = self.entropy.hyper_latent.noisy(z, z_rate_weight, noise)
            return self.entropy.train_latent(y, bits_z, self.hyperprior(z_hat, gain), noise)
        z_symbols = self.entropy.hyper_latent.symbols(z)
        hyperprior = self.hyperprior(self.entropy.hyper_latent.values(z_symbols), gain)
        return self.entropy.quantise(y, z_symbols, hyperprior)

    def hyperprior(self, z_hat: Tensor, gain: Tensor) -> Hyperprior:
        """What ẑ (B, N, h, w) and the gains (B, M, 1, 1) say of y."""
        gain = gain.to(z_hat.dtype)
        return Hyperprior(self.h_s(z_hat, gain), gain)

    def reconstruct(
        self, y_hat: Tensor, quality: Tensor, pyramid: bool = True
    ) -> transforms.Reconstruction:
        """Main decoder on ŷ, with `quality` (B,)."""
        give_back(y_hat)
        return self.main_decoder(y_hat, self.inverse_gain(quality), pyramid)

    def _check(self, x: Tensor, seed: int | None, effort: int) -> None:
        self._check_precision()
        check_seed(seed)
        if not isinstance(x, Tensor):
            raise ValueError(f"x is a {type(x).__name__}: it must be a tensor, (1, 3, H, W)")
        if x.dim() != 4 or x.shape[:2] != (1, 3):
            raise ValueError(f"x has shape {tuple(x.shape)}: it must be one photo, (1, 3, H, W)")
        check_size(x.shape[-1], x.shape[-2])
        weight = self.main_decoder.stem.weight
        if x.dtype not in (weight.dtype, torch.uint8) or x.device != weight.device:
            wanted = f"{weight.dtype} on {weight.device}, as the codec, or uint8"
            raise ValueError(f"x is {x.dtype} on {x.device}: it must be {wanted}")
        low, high = (value.item() for value in torch.aminmax(x))
        if x.dtype != torch.uint8 and not (low >= 0 and high <= 1):  # NaN too
            wanted = "in [0, 1], as from images.to_float"
            raise ValueError(f"x is from {low:g} to {high:g}: it must be {wanted}")
        if not isinstance(effort, Integral) or effort not in range(len(ITERATIONS)):
            raise ValueError(
                f"effort is {effort!r}: it must be a whole number from 0 to {len(ITERATIONS) - 1}"
            )
        for_what = self.objective and self.objective.distortion
        if effort and for_what not in ("ms-ssim", "mse"):
            reason = f"were trained for {for_what!r}" if for_what else "do not say for what"
            raise ValueError(
                f"effort is {effort}: these weights {reason}, and an encoder searches by 'ms-ssim' "
                "or 'mse'; use effort 0"
            )

    def _check_precision(self) -> None:
        if self.training:
            raise ValueError("the codec is in training mode: call eval() before coding")
        parameters = (*self.h_s.parameters(), *self.entropy.parameters())
        if other := {p.dtype for p in parameters} - {self.coding_dtype}:
            raise ValueError(
                f"the entropy model is in {other.pop()}, and files are coded in "
                f"{self.coding_dtype}: call code_in({self.coding_dtype}) before coding"
            )


def symbols_crc(latent: Latent, size: tuple[int, int], quality: float) -> int:
    """CRC-32 of what was decoded: width, height and quality as in the header, hyper-latent symbols,
    then ŷ, a multiple of 1/16 everywhere."""
    head = struct.pack("<HHH", size[1], size[0], round(quality * QUALITY_STEPS))
    crc = zlib.crc32(latent.z_symbols.cpu().numpy().astype("<i4").tobytes(), zlib.crc32(head))
    for y_hat in latent.y_hat.flatten(0, 1):
        y = np.rint(y_hat.double().cpu().numpy() * coder.MU_STEPS).astype("<i4").tobytes()
        crc = zlib.crc32(y, crc)
    return crc
