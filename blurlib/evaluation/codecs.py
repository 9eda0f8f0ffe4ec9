"""Codecs that can be measured: JPEG, JPEG 2000, WebP, AVIF, JPEG XL, HEIC, and blurlib's own.

Every codec takes images from 1 × 1 pixel up, and can be pickled to travel to other processes. All
use one thread where their number could change the bytes.
"""

import importlib
import io
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from importlib import metadata
from pathlib import Path
from types import ModuleType
from typing import Any, ClassVar, NamedTuple, Protocol

import numpy as np
import PIL
import torch
from PIL import features
from torch import Tensor

from blurlib import images
from blurlib.codec import BlurCodec, CodecOutput, zoo
from blurlib.codec.bitstream import BlurFile
from blurlib.codec.model import TooSmallError
from blurlib.codec.synthesis import DiffusionDecoder
from blurlib.diffusion import Sampling, Tiling

Extra = Callable[[Tensor, float, bytes], Mapping[str, Any]]
"""(image, quality, file) → values worth keeping beside a row."""


class MissingCodecError(ValueError):
    """A codec that cannot run on this machine; one line names it and what to install or do."""


class Codec(Protocol):
    """What is measured: an image to the bytes of a whole file, and back.

    ``name`` names the results file; ``settings`` is everything else a reader needs to get the same
    bytes again, as JSON values. Images are ``uint8`` ``(3, H, W)``. More quality is a larger file.
    """

    @property
    def name(self) -> str: ...

    @property
    def settings(self) -> Mapping[str, Any]: ...

    def encode(self, image: Tensor, quality: float) -> bytes: ...

    def decode(self, data: bytes) -> Tensor: ...


@dataclass(frozen=True)
class Baseline(ABC):
    """A codec that is not ours, with fixed options.

    Attributes:
        library: what encodes, inside the Python package.
        qualities: the usual ones, about 0.1 to 1.5 bpp on photographs.
        scale: all that its integer quality can be.
        longest: side that it can hold, in pixels.
    """

    name: str
    library: str
    qualities: Sequence[float]
    options: Mapping[str, Any] = field(default_factory=dict)
    scale: range = range(101)
    longest: int = 65500  # JPEG's, and nearly that of a .blur file
    package: ClassVar[str] = "pillow"

    @abstractmethod
    def has_library(self) -> bool: ...

    @abstractmethod
    def encode(self, image: Tensor, quality: float) -> bytes: ...

    def prepare(self) -> None:
        """MissingCodecError, with what would help, where this codec cannot run."""
        if not self.has_library():
            missing = f"this {self.package} was built without {self.library}"
            raise MissingCodecError(f"{self.name}: {missing}: pip install --upgrade {self.package}")

    def _checked(self, quality: float) -> int:
        if quality not in self.scale:
            scale = f"{self.scale[0]}..{self.scale[-1]}"
            raise ValueError(f"{self.name}: quality is an integer in {scale}, got {quality}")
        return int(quality)

    def _module(self) -> ModuleType:
        """Imported when first needed: the packages are optional, and slow to import."""
        try:
            return importlib.import_module(self.package.replace("-", "_"))
        except ImportError as error:
            raise MissingCodecError(
                f"{self.name}: needs the package {self.package} ({error}): "
                "pip install 'blurlib[baselines]'"
            ) from error


@dataclass(frozen=True)
class PillowCodec(Baseline):
    """A format of Pillow; ``library`` is by its name in PIL.features."""

    @property
    def settings(self) -> Mapping[str, Any]:
        # Pillow's wheels contain the encoder behind a format, which its library may not name.
        library = f"{self.library} {features.version(self.library)}"
        return {**self.options, "library": library, "package": f"pillow {PIL.__version__}"}

    def has_library(self) -> bool:
        return bool(features.check(self.library))

    def encode(self, image: Tensor, quality: float) -> bytes:
        return self._save(image, quality=self._checked(quality))

    def decode(self, data: bytes) -> Tensor:
        return images.decode_image(data)

    def _save(self, image: Tensor, **options: Any) -> bytes:
        buffer = io.BytesIO()
        file_format = self.name.partition("-")[0].upper()
        images.to_pillow(image).save(buffer, format=file_format, **self.options, **options)
        return buffer.getvalue()


@dataclass(frozen=True)
class Jpeg2000Codec(PillowCodec):
    """JPEG 2000 by OpenJPEG: 9/7 wavelet and colour transform; a bare codestream, without boxes.

    ``quality`` is the target in bits per pixel, in (0, 24]. OpenJPEG's other target, a PSNR, took
    about half as many bytes again on Kodak photos at equal mean PSNR.
    """

    @property
    def settings(self) -> Mapping[str, Any]:
        return {**super().settings, "quality": "target in bits per pixel"}

    def encode(self, image: Tensor, quality: float) -> bytes:
        if not 0 < quality <= 24:
            raise ValueError(
                f"{self.name}: quality is a target in bits per pixel, above 0 and at most 24, "
                f"got {quality}"
            )
        return self._save(image, quality_layers=[24 / quality])  # the ratio to the raw size


@dataclass(frozen=True)
class JpegXlCodec(Baseline):
    """JPEG XL by libjxl through imagecodecs, lossy (VarDCT); a bare codestream.

    ``quality`` is libjxl's integer scale 0..99, which stands for a Butteraugli distance: 90 is
    distance 1. Below 5 (distance above 20) libjxl codes differently, and files need not grow.
    """

    package = "imagecodecs"

    @property
    def settings(self) -> Mapping[str, Any]:
        imagecodecs = self._module()
        return {
            **self.options,
            "quality": "libjxl's scale 0..99, 90 is distance 1",
            "threads": 1,
            "library": imagecodecs.jpegxl_version(),
            "package": f"imagecodecs {imagecodecs.__version__}",
        }

    def has_library(self) -> bool:
        return self._module().JPEGXL.available

    def encode(self, image: Tensor, quality: float) -> bytes:
        pixels, level = image.permute(1, 2, 0).contiguous().numpy(), self._checked(quality)
        options = {**self.options, "lossless": False, "usecontainer": False, "numthreads": 1}
        return self._module().jpegxl_encode(pixels, level=level, **options)

    def decode(self, data: bytes) -> Tensor:
        pixels = self._module().jpegxl_decode(data, numthreads=1)
        return torch.from_numpy(pixels).permute(2, 0, 1).contiguous()


@dataclass(frozen=True)
class HeicCodec(Baseline):
    """HEIC (HEVC still image) by libheif and x265 through pillow-heif, 8 bits, 4:2:0.

    ``quality`` is libheif's integer scale 0..100. Preset and tuning are libheif's own defaults.
    """

    package = "pillow-heif"

    @property
    def settings(self) -> Mapping[str, Any]:
        info = self._module().libheif_info()
        return {
            **self.options,
            "chroma": 420,
            "encoder": info["HEIF"],
            "library": f"libheif {info['libheif']}",
            "package": f"pillow-heif {metadata.version('pillow-heif')}",
        }

    def has_library(self) -> bool:
        return self.library in self._module().libheif_info()["HEIF"]

    def encode(self, image: Tensor, quality: float) -> bytes:
        picture, buffer = self._module().from_pillow(images.to_pillow(image)), io.BytesIO()
        own = dict(self.options)  # which pillow-heif writes into
        picture.save(buffer, quality=self._checked(quality), chroma=420, enc_params=own)
        return buffer.getvalue()

    def decode(self, data: bytes) -> Tensor:
        picture = self._module().open_heif(io.BytesIO(data))
        return torch.from_numpy(np.array(picture)).permute(2, 0, 1).contiguous()


JPEG = PillowCodec(
    "jpeg", "libjpeg_turbo", (5, 8, 12, 18, 26, 36, 48, 60, 70, 80, 88),
    {"subsampling": "4:2:0", "optimize": True}, range(1, 101),
)  # fmt: skip
JPEG_2000 = Jpeg2000Codec(
    "jpeg2000", "jpg_2000", (0.1, 0.15, 0.2, 0.3, 0.4, 0.5, 0.65, 0.8, 1.0, 1.25, 1.5),
    {"irreversible": True, "mct": 1, "no_jp2": True, "quality_mode": "rates"},
)  # fmt: skip
WEBP = PillowCodec(
    "webp", "webp", (0, 3, 8, 15, 25, 35, 45, 60, 72, 80, 88), {"method": 6}, longest=16383
)
# One thread each: AVIF's bytes may depend on how many there are, and x265 codes other bytes with a
# pool of them (wavefronts) than without.
AVIF = PillowCodec(
    "avif", "avif", (5, 12, 20, 28, 36, 44, 52, 60, 68, 76, 82),
    {"speed": 6, "subsampling": "4:2:0", "max_threads": 1}, longest=32768,
)  # fmt: skip
JPEG_XL = JpegXlCodec(
    "jpegxl", "libjxl", (5, 10, 15, 20, 30, 42, 55, 65, 74, 80, 84), {"effort": 7}, range(100)
)
HEIC = HeicCodec(
    "heic", "x265", (8, 13, 18, 23, 28, 33, 38, 42, 46, 50, 53),
    {"preset": "slow", "tune": "ssim", "x265:pools": "none", "x265:frame-threads": "1"},
)  # fmt: skip

KNOWN = (
    *(JPEG, JPEG_2000, WEBP, AVIF, JPEG_XL, HEIC),
    # What Pillow writes unasked, as CompressAI measured it: to compare with what others published.
    replace(JPEG, name="jpeg-default", options={}),
    replace(WEBP, name="webp-default", options={}),
)
"""Every codec that is not ours."""

BASELINES = (JPEG, WEBP, AVIF)
"""Those that need nothing but Pillow and have a scale to search (`match_bytes`)."""


class Match(NamedTuple):
    """A file found by `match_bytes`, and whether it is within the target."""

    quality: int
    data: bytes
    fits: bool


def match_bytes(codec: Baseline, image: Tensor, target_bytes: int) -> Match:
    """The largest file of at most ``target_bytes``; if none is so small, the smallest file.

    By bisection, and the best of the files tried: sizes may step back by a few bytes.
    """
    tried: list[Match] = []
    low, high = codec.scale[0], codec.scale[-1]
    while low <= high:
        quality = (low + high) // 2
        data = codec.encode(image, quality)
        tried.append(Match(quality, data, len(data) <= target_bytes))
        low, high = (quality + 1, high) if tried[-1].fits else (low, quality - 1)
    if fitting := [match for match in tried if match.fits]:
        return max(fitting, key=lambda match: (len(match.data), match.quality))
    return min(tried, key=lambda match: len(match.data))


@dataclass(frozen=True)
class BlurlibCodec:
    """`BlurCodec` as a `Codec`, with its direct decoder or with diffusion on top.

    Attributes:
        model: name of the codec's weights, for the name of the results file.
        codec: in eval mode.
        on_top, on_top_sha256: the decoder that goes on from the direct one, if any; its weights'.
        sampling: how that is run; None is what suits its weights.
        tiling: the memory that `on_top` may take.
        effort: of the encoder.
    """

    model: str
    codec: BlurCodec
    on_top: DiffusionDecoder | None = None
    on_top_sha256: str = ""
    sampling: Sampling | None = None
    tiling: Tiling = field(default_factory=Tiling)
    effort: int = 0

    def __post_init__(self):
        if self.sampling is None and self.on_top:
            object.__setattr__(self, "sampling", self.on_top.sampling)

    @property
    def name(self) -> str:
        """Isotropic diffusion, one step without noise and a search have names of their own."""
        decoder, effort = "direct", f"-effort{self.effort}" if self.effort else ""
        if self.on_top and self.sampling:
            decoder = "diffusion" if self.on_top.process.schedule.sigma_blur_max else "isotropic"
            if (self.sampling.steps, self.sampling.start_scale) == (1, 0):
                decoder = "deterministic"
        return f"{self.model}-{decoder}{effort}"

    @property
    def settings(self) -> Mapping[str, Any]:
        how: dict[str, Any] = {"decoder": "direct", "effort": self.effort}
        if self.on_top is None or self.sampling is None:
            objective = self.codec.objective
            return {**how, "objective": objective and objective.distortion}
        how["decoder"] = "diffusion"
        weights = {"denoiser": self.on_top_sha256, "memory": self.tiling.memory}
        return {**how, **weights, **asdict(self.sampling)}

    def encode(self, image: Tensor, quality: float) -> bytes:
        return self.codec.compress(images.to_float(image)[None], quality, effort=self.effort)

    def encode_to(self, image: Tensor, target_bytes: int) -> bytes:
        """The largest file of at most ``target_bytes``; if none is so small, the smallest."""
        x = images.to_float(image)[None]
        try:
            rate = 8 * (target_bytes + 0.5) / image[0].numel()  # half: it is rounded
            return self.codec.compress_to(x, rate, effort=self.effort)
        except TooSmallError:
            return self.codec.compress(x, 1.0, effort=self.effort)

    def decode(self, data: bytes) -> Tensor:
        return images.to_uint8(self.picture(self.codec.decompress(data))[0])

    def picture(self, output: CodecOutput) -> Tensor:
        """(B, 3, H, W), about [0, 1], of what the codec decoded."""
        if self.on_top is None:
            return output.x_hat
        return self.on_top.decode(output, self.sampling, self.tiling)

    def extra(self, image: Tensor, quality: float, data: bytes) -> dict[str, float]:
        """The likelihood estimate in bytes, to be held against the real ones."""
        latent = self.codec.decode_latent(BlurFile.from_bytes(data))
        return {"estimated_bytes": round((latent.bits_y + latent.bits_z).item() / 8, 2)}


class Selection(NamedTuple):
    """A codec, its usual qualities, and what goes with them into a results file."""

    codec: Codec
    qualities: Sequence[float]
    checkpoint: str | None = None
    seed: int | None = None
    extra: Extra | None = None


def available() -> dict[str, str | None]:
    """Every codec of `KNOWN` → None, or why it cannot run here and what would help."""
    reasons: dict[str, str | None] = {codec.name: None for codec in KNOWN}
    for codec in KNOWN:
        try:
            codec.prepare()
        except MissingCodecError as error:
            reasons[codec.name] = str(error)
    return reasons


def select(
    name: str,
    decoder: str = "direct",
    denoiser: str = "",
    sampling: Mapping[str, Any] | None = None,
    tiling: Tiling | None = None,
    effort: int = 0,
) -> Selection:
    """A baseline by its name, or one of our models by name or file.

    Args:
        decoder: of our models: "direct" or "diffusion".
        denoiser: weights of the latter, by name or file.
        sampling: fields of `Sampling` to differ from those that suit these weights.
        tiling, effort: as of `BlurlibCodec`.

    Raises:
        MissingCodecError: a baseline that cannot run here; the message says what to install.
        ValueError: neither, or no such decoder: the message lists what there is. Or the denoiser
            is for another codec.
    """
    baselines = {baseline.name: baseline for baseline in KNOWN}
    if name in baselines:
        baselines[name].prepare()
        return Selection(baselines[name], baselines[name].qualities)
    try:
        codec = zoo.load(name)
    except zoo.WeightsError as error:
        known = ", ".join(baselines)
        raise ValueError(f"no codec {name!r}: there are {known}; or {error}") from error
    ours = BlurlibCodec(Path(name).stem, codec, tiling=tiling or Tiling(), effort=effort)
    if decoder not in ("direct", "diffusion"):
        raise ValueError(f"no decoder {decoder!r}: there are direct and diffusion")
    if decoder == "diffusion":
        on_top = zoo.load_denoiser(denoiser)
        if on_top.codec_id != codec.model_id:
            raise ValueError(
                f"{denoiser} was trained for codec {on_top.codec_id.hex()}, and {name} is "
                f"{codec.model_id.hex()}: name the denoiser of that codec"
            )
        how = on_top.sampling.but(**sampling or {})
        ours = replace(ours, on_top=on_top, on_top_sha256=zoo.sha256(denoiser), sampling=how)
    seed = ours.sampling.seed if ours.sampling else None
    qualities = [float(level) for level in range(1, codec.config.levels + 1)]
    return Selection(ours, qualities, zoo.sha256(name), seed, ours.extra)
