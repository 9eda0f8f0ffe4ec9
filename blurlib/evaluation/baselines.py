"""Real codecs to be compared with, behind one small interface.

JPEG, JPEG 2000, WebP and AVIF by Pillow, JPEG XL by imagecodecs, HEIC by pillow-heif.
Every codec here takes images from 1 × 1 pixel up and is small and picklable, so that it can be sent
to other processes. All use one thread where their number could change the bytes.
"""

import importlib
import io
from collections.abc import Mapping
from dataclasses import dataclass, field
from importlib import metadata
from types import ModuleType
from typing import Any, NamedTuple, Protocol

import numpy as np
import PIL
import torch
from PIL import features
from torch import Tensor

from blurlib import images


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


class Baseline(Codec, Protocol):
    """A codec that is not ours and may be missing."""

    def prepare(self) -> None:
        """MissingCodecError, with what would help, where this codec cannot run."""


def check_quality(name: str, quality: float, scale: range) -> int:
    """``quality`` as an integer; ValueError, naming the scale, where it is not one of ``scale``."""
    if quality not in scale:
        raise ValueError(f"{name}: quality is an integer in {scale[0]}..{scale[-1]}, got {quality}")
    return int(quality)


# ---------------------------------------------------------------- Pillow

DEFAULT = "-default"
"""Ends the name of a format with Pillow's own options."""


@dataclass(frozen=True)
class PillowCodec:
    """A format of Pillow with fixed options; ``quality`` is the format's own integer scale."""

    name: str
    feature: str  # the library behind it, by its name in PIL.features
    options: Mapping[str, Any] = field(default_factory=dict)
    qualities: range = range(101)

    @property
    def settings(self) -> Mapping[str, Any]:
        return {**self.options, **_pillow_versions(self.feature)}

    def prepare(self) -> None:
        _check_pillow(self.name, self.feature)

    def encode(self, image: Tensor, quality: float) -> bytes:
        quality = check_quality(self.name, quality, self.qualities)
        file_format = self.name.removesuffix(DEFAULT).upper()
        return _save(image, file_format, {"quality": quality, **self.options})

    def decode(self, data: bytes) -> Tensor:
        return images.decode_image(data)


@dataclass(frozen=True)
class Jpeg2000Codec:
    """JPEG 2000 by OpenJPEG: 9/7 wavelet and colour transform; a bare codestream, without boxes.

    ``quality`` is the target in bits per pixel, a real number in (0, 24]. OpenJPEG's other
    target, a PSNR, took about half as many bytes again on Kodak photos at equal mean PSNR.
    """

    name: str = "jpeg2000"
    options: Mapping[str, Any] = field(
        default_factory=lambda: {
            "irreversible": True,
            "mct": 1,
            "no_jp2": True,
            "quality_mode": "rates",
        }
    )

    @property
    def settings(self) -> Mapping[str, Any]:
        scale = {"quality": "target in bits per pixel"}
        return {**self.options, **scale, **_pillow_versions("jpg_2000")}

    def prepare(self) -> None:
        _check_pillow(self.name, "jpg_2000")

    def encode(self, image: Tensor, quality: float) -> bytes:
        if not 0 < quality <= 24:
            raise ValueError(
                f"{self.name}: quality is a target in bits per pixel, above 0 and at most 24, "
                f"got {quality}"
            )
        ratio = 24 / quality  # of the raw size
        return _save(image, "JPEG2000", {"quality_layers": [ratio], **self.options})

    def decode(self, data: bytes) -> Tensor:
        return images.decode_image(data)


def _save(image: Tensor, file_format: str, options: Mapping[str, Any]) -> bytes:
    buffer = io.BytesIO()
    images.to_pillow(image).save(buffer, format=file_format, **options)
    return buffer.getvalue()


def _check_pillow(name: str, feature: str) -> None:
    if not features.check(feature):
        raise MissingCodecError(
            f"{name}: this Pillow was built without {feature}: pip install --upgrade pillow"
        )


def _pillow_versions(feature: str) -> dict[str, str]:
    # Pillow's wheels contain the encoder behind a format, which its library alone may not name.
    return {
        "library": f"{feature} {features.version(feature)}",
        "package": f"pillow {PIL.__version__}",
    }


# ---------------------------------------------------------------- other packages


@dataclass(frozen=True)
class JpegXlCodec:
    """JPEG XL by libjxl, lossy (VarDCT), effort 7; a bare codestream.

    ``quality`` is libjxl's integer scale 0..99, which stands for a Butteraugli distance: 90 is
    distance 1. Below 5 (distance above 20) libjxl codes differently, and files need not grow.
    """

    name: str = "jpegxl"
    effort: int = 7
    qualities: range = range(100)

    @property
    def settings(self) -> Mapping[str, Any]:
        imagecodecs = self._package()
        return {
            "quality": "libjxl's scale 0..99, 90 is distance 1",
            "effort": self.effort,
            "threads": 1,
            "library": imagecodecs.jpegxl_version(),
            "package": f"imagecodecs {imagecodecs.__version__}",
        }

    def prepare(self) -> None:
        if not self._package().JPEGXL.available:
            raise MissingCodecError(
                f"{self.name}: this imagecodecs was built without libjxl: "
                "pip install --upgrade imagecodecs"
            )

    def _package(self) -> ModuleType:
        return _import("imagecodecs", self.name)

    def encode(self, image: Tensor, quality: float) -> bytes:
        level = check_quality(self.name, quality, self.qualities)
        pixels = image.permute(1, 2, 0).contiguous().numpy()
        options = {"effort": self.effort, "lossless": False, "usecontainer": False}
        return self._package().jpegxl_encode(pixels, level=level, numthreads=1, **options)

    def decode(self, data: bytes) -> Tensor:
        pixels = self._package().jpegxl_decode(data, numthreads=1)
        return torch.from_numpy(pixels).permute(2, 0, 1).contiguous()


@dataclass(frozen=True)
class HeicCodec:
    """HEIC (HEVC still image) by libheif and x265, 8 bits, 4:2:0.

    ``quality`` is libheif's integer scale 0..100. Preset and tuning are libheif's own defaults.
    """

    name: str = "heic"
    chroma: int = 420
    options: Mapping[str, str] = field(
        default_factory=lambda: {
            "preset": "slow",
            "tune": "ssim",
            # One thread; x265 codes other bytes with a pool of them (wavefronts) than without.
            "x265:pools": "none",
            "x265:frame-threads": "1",
        }
    )
    qualities: range = range(101)

    @property
    def settings(self) -> Mapping[str, Any]:
        info = self._package().libheif_info()
        return {
            **self.options,
            "chroma": self.chroma,
            "encoder": info["HEIF"],
            "library": f"libheif {info['libheif']}",
            "package": f"pillow-heif {metadata.version('pillow-heif')}",
        }

    def prepare(self) -> None:
        if "x265" not in self._package().libheif_info()["HEIF"]:
            raise MissingCodecError(
                f"{self.name}: this pillow-heif was built without x265: install its wheel, "
                "pip install --force-reinstall pillow-heif"
            )

    def _package(self) -> ModuleType:
        return _import("pillow_heif", self.name)

    def encode(self, image: Tensor, quality: float) -> bytes:
        quality = check_quality(self.name, quality, self.qualities)
        height, width = image.shape[-2:]
        pixels = image.permute(1, 2, 0).contiguous().numpy().tobytes()
        picture = self._package().from_bytes(mode="RGB", size=(width, height), data=pixels)
        buffer = io.BytesIO()
        # pillow-heif writes into the options it is given.
        picture.save(buffer, quality=quality, chroma=self.chroma, enc_params=dict(self.options))
        return buffer.getvalue()

    def decode(self, data: bytes) -> Tensor:
        picture = self._package().open_heif(io.BytesIO(data))
        return torch.from_numpy(np.array(picture)).permute(2, 0, 1).contiguous()


def _import(package: str, name: str) -> ModuleType:
    """Imported when first needed: the packages are optional, and slow to import."""
    try:
        return importlib.import_module(package)
    except ImportError as error:
        raise MissingCodecError(
            f"{name}: needs the package {package} ({error}): pip install 'blurlib[baselines]'"
        ) from error


JPEG = PillowCodec(
    "jpeg", "libjpeg_turbo", {"subsampling": "4:2:0", "optimize": True}, qualities=range(1, 101)
)
WEBP = PillowCodec("webp", "webp", {"method": 6})
# What Pillow writes unasked, as CompressAI measured it: to compare with what others published.
JPEG_DEFAULT = PillowCodec("jpeg" + DEFAULT, "libjpeg_turbo", qualities=range(1, 101))
WEBP_DEFAULT = PillowCodec("webp" + DEFAULT, "webp")
# One thread, because the number of threads may change AVIF's bytes.
AVIF = PillowCodec("avif", "avif", {"speed": 6, "subsampling": "4:2:0", "max_threads": 1})
JPEG_2000 = Jpeg2000Codec()
JPEG_XL = JpegXlCodec()
HEIC = HeicCodec()

BASELINES = (JPEG, WEBP, AVIF)
"""Those that need nothing but Pillow and have a scale to search (`match_bytes`)."""


# ---------------------------------------------------------------- equal bytes


class Match(NamedTuple):
    """A file found by `match_bytes`; ``fits`` says whether it is within the target."""

    quality: int
    data: bytes
    fits: bool


def match_bytes(codec: PillowCodec, image: Tensor, target_bytes: int) -> Match:
    """The largest file of at most ``target_bytes``; if none is so small, the smallest file.

    Bisection over the integer qualities: at most eight encodings for a scale of 101. Sizes grow
    with quality but for steps of a few bytes, and the answer is the best of the files tried.
    """
    tried: list[Match] = []
    low, high = codec.qualities[0], codec.qualities[-1]
    while low <= high:
        quality = (low + high) // 2
        data = codec.encode(image, quality)
        tried.append(Match(quality, data, len(data) <= target_bytes))
        low, high = (quality + 1, high) if tried[-1].fits else (low, quality - 1)
    fitting = [match for match in tried if match.fits]
    if fitting:
        return max(fitting, key=lambda match: (len(match.data), match.quality))
    return min(tried, key=lambda match: len(match.data))
