"""Real codecs to be compared with, behind one small interface: JPEG, WebP and AVIF by Pillow."""

import io
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, NamedTuple, Protocol

from PIL import features
from torch import Tensor

from blurlib import images


class Codec(Protocol):
    """What is measured: an image to the bytes of a whole file, and back.

    ``name`` names the results file; ``settings`` is everything else a reader needs to get the same
    bytes again, as JSON values. Images are ``uint8`` ``(3, H, W)``.
    """

    @property
    def name(self) -> str: ...

    @property
    def settings(self) -> Mapping[str, Any]: ...

    def encode(self, image: Tensor, quality: float) -> bytes: ...

    def decode(self, data: bytes) -> Tensor: ...


@dataclass(frozen=True)
class PillowCodec:
    """A format of Pillow with fixed options; ``quality`` is the format's own integer scale."""

    name: str
    feature: str  # the library behind it, by its name in PIL.features
    options: Mapping[str, Any] = field(default_factory=dict)
    qualities: range = range(101)

    @property
    def settings(self) -> Mapping[str, Any]:
        return {**self.options, "library": f"{self.feature} {features.version(self.feature)}"}

    def encode(self, image: Tensor, quality: float) -> bytes:
        if quality not in self.qualities:
            low, high = self.qualities[0], self.qualities[-1]
            raise ValueError(f"{self.name}: quality is an integer in {low}..{high}, got {quality}")
        buffer = io.BytesIO()
        images.to_pillow(image).save(
            buffer, format=self.name.upper(), quality=int(quality), **self.options
        )
        return buffer.getvalue()

    def decode(self, data: bytes) -> Tensor:
        return images.decode_image(data)


JPEG = PillowCodec(
    "jpeg", "libjpeg_turbo", {"subsampling": "4:2:0", "optimize": True}, qualities=range(1, 101)
)
WEBP = PillowCodec("webp", "webp", {"method": 6})
# One thread, because the number of threads may change AVIF's bytes.
AVIF = PillowCodec("avif", "avif", {"speed": 6, "subsampling": "4:2:0", "max_threads": 1})

BASELINES = (JPEG, WEBP, AVIF)


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
