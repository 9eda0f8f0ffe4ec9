"""The learned codecs of CompressAI's zoo, with real bytes.

Weights are downloaded at first use into ``BLURLIB_HOME/weights/compressai``, each checked by the
hash in its name; files put there by hand are used as they are.
"""

import functools
import itertools
import math
import struct
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from blurlib import images
from blurlib.evaluation.baselines import MissingCodecError, check_quality

LEVELS = {
    "bmshj2018-factorized": 8,
    "bmshj2018-hyperprior": 8,
    "mbt2018-mean": 8,
    "mbt2018": 8,
    "cheng2020-anchor": 6,
    "cheng2020-attn": 6,
}
"""How many qualities the zoo has of each architecture."""

METRICS = ("mse", "ms-ssim")

_MULTIPLE = 64  # the zoo's models take sides that are multiples of it
_HEADER = struct.Struct(">HHB")  # H, W, quality
_LENGTH = struct.Struct(">I")  # of a string


def pretrained(architecture: str, metric: str, quality: int, download: bool = True) -> nn.Module:
    """A model of the zoo with its weights, ready for coding; the last few stay in memory.

    Raises:
        MissingCodecError: the weights are not there and cannot be (``download`` False: may not be)
            downloaded; the message says what to put where.
    """
    from compressai.zoo.image import model_urls

    url = model_urls[architecture][metric][quality]
    file = _weights_folder() / Path(url).name
    if not file.is_file():
        advice = f"put {url} into {file.parent}"
        name = f"compressai-{architecture}-{metric}"
        if not download:
            raise MissingCodecError(
                f"{name}: its weights are not downloaded yet: evaluate with it, or {advice}"
            )
        try:
            file.parent.mkdir(parents=True, exist_ok=True)
            digest = file.name.split(".")[0].split("-")[-1]
            torch.hub.download_url_to_file(url, str(file), digest, progress=False)
        except (OSError, RuntimeError) as error:  # the network; another hash
            reason = " ".join(str(error).split()) or type(error).__name__
            raise MissingCodecError(
                f"{name}: the weights of quality {quality} cannot be had ({reason}): {advice}"
            ) from error
    return _load(architecture, file)


def _weights_folder() -> Path:
    return images.home() / "weights" / "compressai"


@functools.lru_cache(maxsize=8)  # an image is coded at all qualities in turn
def _load(architecture: str, file: Path) -> nn.Module:
    from compressai.zoo import load_state_dict
    from compressai.zoo.image import model_architectures

    try:
        weights = load_state_dict(torch.load(file, map_location="cpu", weights_only=True))
        model = model_architectures[architecture].from_state_dict(weights).eval()
    except Exception as error:  # a damaged file raises nearly anything
        raise MissingCodecError(
            f"{file}: is not the zoo's weights ({type(error).__name__}); delete it"
        ) from error
    model.update()
    return model


@dataclass(frozen=True)
class CompressaiCodec:
    """A model of the zoo; ``quality`` is its integer level, 1..8, or 1..6 for cheng2020.

    A file is H and W (2 bytes each), the level (1), the length of every string (4 each) and the
    strings. As CompressAI does when it evaluates, the image is padded with black on
    all sides to multiples of 64. Takes images from 1 × 1 to 65535 × 65535 pixels.

    Attributes:
        load: (architecture, metric, quality) → a model of CompressAI in eval mode, its tables
            updated; a function at the top of a module, so that the codec can be pickled.
    """

    architecture: str
    metric: str
    load: Callable[..., nn.Module] = pretrained

    @property
    def name(self) -> str:
        return f"compressai-{self.architecture}-{self.metric}"

    @property
    def qualities(self) -> range:
        return range(1, LEVELS[self.architecture] + 1)

    @property
    def settings(self) -> Mapping[str, Any]:
        from compressai.zoo.image import model_urls

        urls = model_urls[self.architecture][self.metric]
        return {
            "weights": [Path(urls[quality]).name for quality in self.qualities],
            "library": f"compressai {metadata.version('compressai')}",
            "package": f"torch {torch.__version__}",
        }

    def prepare(self, download: bool = True) -> None:
        """See `Baseline`. One level stands for all where they may be downloaded."""
        for quality in self.qualities[:1] if download else self.qualities:
            self.load(self.architecture, self.metric, quality, download=download)

    @torch.inference_mode()
    def encode(self, image: Tensor, quality: float) -> bytes:
        quality = check_quality(self.name, quality, self.qualities)
        height, width = image.shape[-2:]
        if not (height and width) or max(height, width) > 0xFFFF:
            raise ValueError(f"{self.name}: {width} × {height} is not in 1..65535 pixels a side")
        model = self.load(self.architecture, self.metric, quality)
        padding, shape = _geometry(model, height, width)
        if model.entropy_bottleneck.channels * math.prod(shape) < 2:
            raise ValueError(f"{self.name}: CompressAI's coder crashes on fewer than 2 symbols")
        batches = model.compress(F.pad(images.to_float(image)[None], padding))["strings"]
        strings = [batch[0] for batch in batches]
        lengths = b"".join(_LENGTH.pack(len(string)) for string in strings)
        return _HEADER.pack(height, width, quality) + lengths + b"".join(strings)

    @torch.inference_mode()
    def decode(self, data: bytes) -> Tensor:
        height, width, quality = _HEADER.unpack(data[: _HEADER.size].ljust(_HEADER.size, b"\0"))
        check_quality(self.name, quality, self.qualities)
        model = self.load(self.architecture, self.metric, quality)
        padding, shape = _geometry(model, height, width)
        count = 2 if hasattr(model, "gaussian_conditional") else 1  # y and z, or only y
        strings = [[string] for string in self._strings(data[_HEADER.size :], count)]
        x_hat = model.decompress(strings, shape)["x_hat"]
        return images.to_uint8(F.pad(x_hat, [-side for side in padding])[0])

    def _strings(self, data: bytes, count: int) -> list[bytes]:
        strings = data[count * _LENGTH.size :]
        lengths = [n for (n,) in _LENGTH.iter_unpack(data[: count * _LENGTH.size].ljust(count * 4))]
        # CompressAI's coder reads past the end of a string that is too short.
        if sum(lengths) != len(strings):
            raise ValueError(f"{self.name}: the file is truncated or damaged")
        ends = list(itertools.accumulate(lengths))
        return [strings[end - n : end] for n, end in zip(lengths, ends, strict=True)]


def _geometry(model: nn.Module, height: int, width: int) -> tuple[Sequence[int], torch.Size]:
    """Padding (left, right, top, bottom), and the size of what the entropy bottleneck codes."""
    from compressai.ops import compute_padding

    left, right, top, bottom = padding = compute_padding(height, width, min_div=_MULTIPLE)[0]
    factor = model.downsampling_factor
    return padding, torch.Size(
        [(height + top + bottom) // factor, (width + left + right) // factor]
    )


ZOO = tuple(CompressaiCodec(architecture, metric) for architecture in LEVELS for metric in METRICS)
