"""The codec for people who have a Pillow image or an array: bytes there, a picture back."""

from functools import cache
from typing import IO, Any

import numpy as np
import torch
from numpy.typing import ArrayLike
from PIL import Image, ImageFile

from blurlib import checkpoints, images
from blurlib.codec import BlurCodec, zoo
from blurlib.codec.bitstream import MAGIC, BlurFile

_load, _load_denoiser = cache(zoo.load), cache(zoo.load_denoiser)


def compress(
    image: Image.Image | ArrayLike,
    quality: float | None = None,
    *,
    target_bpp: float | None = None,
    model: str = checkpoints.CODEC,
    seed: int | None = None,
    effort: int = 0,
) -> bytes:
    """A picture to the bytes of a `.blur` file.

    Args:
        image: a Pillow image, converted as by `images.read_image`, what that gives, or 8-bit RGB,
            (H, W, 3).
        quality: from 1 (smallest file) to 6, any real number; default 3.
        target_bpp: instead of `quality`: the largest file within so many bits per pixel.
        model: shipped codec, or a .safetensors file.
        seed, effort: as in `BlurCodec.compress`.

    Raises:
        ValueError: not a picture, or an argument out of range; the message says what would work.
    """
    if None not in (quality, target_bpp):
        raise ValueError("quality and target_bpp exclude each other: give one of them")
    x = _pixels(image)[None]
    codec = _codec(model)
    if target_bpp is not None:
        return codec.compress_to(x, target_bpp, seed, effort)
    return codec.compress(x, 3.0 if quality is None else quality, seed, effort)


def decompress(
    data: bytes,
    *,
    decoder: str = "direct",
    model: str | None = None,
    denoiser: str | None = None,
    **sampling: Any,
) -> Image.Image:
    """The bytes of a `.blur` file to a Pillow image of mode RGB.

    Args:
        decoder: "direct": one pass, faithful; "diffusion": several steps, with realistic texture.
        model: default: the shipped codec that made the file.
        denoiser: weights of the diffusion decoder; default: `checkpoints.DENOISER`, for files of
            the model `checkpoints.PERCEPTUAL`.
        sampling: `steps`, `seed`, … as in `DiffusionDecoder.sample`; default: what suits them.

    Raises:
        ValueError: not a .blur file, damaged, or of weights that are not at hand.
    """
    if decoder not in ("direct", "diffusion"):
        raise ValueError(f"decoder is {decoder!r}: it must be 'direct' or 'diffusion'")
    given = sorted([*sampling, *(["denoiser"] if denoiser else [])])
    if given and decoder == "direct":
        raise ValueError(f"{given[0]} is for decoder 'diffusion', not for 'direct'")
    file = BlurFile.from_bytes(data)
    name = model or zoo.name_of(file.model_id)
    codec = _codec(name) if name else zoo.load_by_id(file.model_id)  # says what is missing
    output = codec.decompress(file, pyramid=decoder == "diffusion")
    x_hat = output.x_hat
    if decoder == "diffusion":
        chosen = _load_denoiser(denoiser or checkpoints.DENOISER)
        x_hat = chosen.decode(output, **sampling)
    return images.to_pillow(images.to_uint8(x_hat[0]))


def _codec(name: str) -> BlurCodec:
    return (_load if name in zoo.names() else zoo.load)(name)  # a file can change


def _pixels(image: Image.Image | torch.Tensor | ArrayLike) -> torch.Tensor:
    """uint8 (3, H, W)."""
    if isinstance(image, Image.Image):
        return images.from_pillow(image)
    array = np.asarray(image.movedim(0, -1) if isinstance(image, torch.Tensor) else image)
    if array.dtype != np.uint8 or array.ndim != 3 or array.shape[2] != 3:
        wanted = "must be a Pillow image, 8-bit RGB, (H, W, 3), or what `read_image` gives"
        raise ValueError(f"{type(image).__name__} {array.dtype} {array.shape}: it {wanted}")
    return torch.from_numpy(array.copy()).permute(2, 0, 1)


class BlurImageFile(ImageFile.ImageFile):
    """A `.blur` file as Pillow opens it: its size from the header, its pixels when asked for."""

    format = "BLUR"
    format_description = "blurlib learned image codec"
    _data: bytes | None = None  # of a picture that is not decoded yet

    def _open(self) -> None:
        assert self.fp is not None
        data = self.fp.read()
        try:
            file = BlurFile.from_bytes(data)
        except ValueError as error:
            raise SyntaxError(str(error)) from error  # Pillow's word for: not of this format
        self._mode, self._size = "RGB", (file.width, file.height)
        self._data = data

    def load(self) -> Any:
        if self._data is not None:
            self.im = decompress(self._data).im
            self._data = None
            if self._exclusive_fp and self.fp:  # Pillow has opened it, and closes what it decodes
                self.fp.close()
        return Image.Image.load(self)


def _save(image: Image.Image, file: IO[bytes], name: str | bytes) -> None:
    known = ("quality", "target_bpp", "model", "seed", "effort")
    options = {key: image.encoderinfo[key] for key in known if key in image.encoderinfo}
    file.write(compress(image, **options))


def register_pillow() -> None:
    """Let Pillow open `.blur` files, and save them: ``image.save("x.blur", quality=3)``."""
    Image.register_open(BlurImageFile.format, BlurImageFile, lambda start: start.startswith(MAGIC))
    Image.register_save(BlurImageFile.format, _save)
    Image.register_extension(BlurImageFile.format, ".blur")
