"""Pictures: read, converted, written.

Everywhere in blurlib an image at rest is a ``uint8`` tensor ``(3, H, W)``, RGB, in sRGB; a network
sees ``float32`` in [0, 1] (`to_float`, `to_uint8`).

What happens to the photos people really have:

=====================  ===========================================================================
grey, bilevel          the grey value in all three channels
palette                its colours
16-bit grey            rounded to 8 bits, v / 257
16-bit colour          its high byte (Pillow decodes nothing else), at most one level from rounding
CMYK                   through its ICC profile; without one, Pillow's plain conversion
ICC profile            converted to sRGB; a broken profile, or one for other channels, is ignored
EXIF orientation       applied; EXIF that cannot be parsed is ignored
opaque alpha           dropped
transparent pixels     refused: there is no right background
several frames         refused (a phone's MPO is its main photo)
32-bit, float, LAB     refused
=====================  ===========================================================================
"""

import contextlib
import io
import os
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image, ImageCms, ImageOps
from torch import Tensor

from blurlib.files import atomic_write, check_writable

MAX_PIXELS = 2**26
"""Largest image read, in pixels (8192 × 8192): below the size at which Pillow suspects a bomb."""

# Pillow opens far more, some of it by running other programs (EPS): only these are wanted.
_READABLE = ("PNG", "JPEG", "WEBP", "AVIF", "TIFF", "BMP", "GIF", "PPM", "JPEG2000")

_SAVE_OPTIONS: dict[str, dict[str, Any]] = {
    ".png": {"format": "PNG"},
    ".webp": {"format": "WEBP", "lossless": True},
    ".tif": {"format": "TIFF", "compression": "tiff_lzw"},
    ".tiff": {"format": "TIFF", "compression": "tiff_lzw"},
    ".bmp": {"format": "BMP"},
    ".ppm": {"format": "PPM"},
    ".jpg": {"format": "JPEG", "quality": 95, "subsampling": "4:4:4"},
    ".jpeg": {"format": "JPEG", "quality": 95, "subsampling": "4:4:4"},
    ".avif": {"format": "AVIF", "quality": 95, "subsampling": "4:4:4"},
}

READ_SUFFIXES = (*_SAVE_OPTIONS, ".gif", ".pgm", ".jp2")
"""Of the files that a folder of images is searched for."""


class ImageError(ValueError):
    """An image that cannot be read or written as asked; one line says why."""


def centre(image: Tensor, height: int, width: int) -> Tensor:
    """The middle `height` × `width` pixels of an image (…, H, W) that is at least as large."""
    top, left = (image.shape[-2] - height) // 2, (image.shape[-1] - width) // 2
    return image[..., top : top + height, left : left + width]


def to_float(image: Tensor) -> Tensor:
    """``uint8`` in 0..255 → ``float32`` in [0, 1], any shape."""
    return image.to(torch.float32) / 255


def to_uint8(x: Tensor) -> Tensor:
    """Floats in [0, 1], any shape → ``uint8``: clamped, then rounded to the nearest level. NaN,
    which has none, is a ValueError."""
    if torch.isnan(x).any():
        raise ValueError("the image contains NaN and cannot become 8-bit")
    return x.clamp(0, 1).mul(255).round().to(torch.uint8)


def read_image(path: str | os.PathLike) -> Tensor:
    """Read an image file as ``uint8`` RGB ``(3, H, W)``, converted as in the module's table.
    ImageError names the file and the reason."""
    path = Path(path)
    if path.is_dir():
        raise ImageError(f"{path}: is a folder, not an image")
    try:
        data = path.read_bytes()
    except OSError as error:
        raise ImageError(f"{path}: cannot be read ({error.strerror})") from None
    if not data:
        raise ImageError(f"{path}: the file is empty (0 bytes)")
    return _decode(data, path)


def decode_image(data: bytes) -> Tensor:
    """Like `read_image`, for the bytes of an image file."""
    return _decode(data, "image data")


def _decode(data: bytes, name: Path | str) -> Tensor:
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # what matters raises; the rest is noise to a user
            with Image.open(io.BytesIO(data), formats=_READABLE) as picture:
                return from_pillow(picture)
    except ImageError as error:
        raise ImageError(f"{name}: {error}") from None
    except Image.DecompressionBombError:
        raise ImageError(f"{name}: has more than {MAX_PIXELS} pixels, the limit") from None
    except Image.UnidentifiedImageError:
        readable = ", ".join(_READABLE)
        raise ImageError(f"{name}: is not an image of a known format ({readable})") from None
    except Exception as error:
        # Damaged files raise nearly every exception type in Pillow; all mean the same to the user.
        reason = " ".join(str(error).split()) or type(error).__name__
        raise ImageError(f"{name}: is damaged or truncated ({reason})") from None


def from_pillow(picture: Image.Image) -> Tensor:
    """A Pillow image as ``uint8`` RGB ``(3, H, W)``, converted like a file; ImageError where that
    would be a guess."""
    width, height = picture.size
    if width * height > MAX_PIXELS:
        raise ImageError(f"{width} × {height} is more than the limit of {MAX_PIXELS} pixels")
    frames = getattr(picture, "n_frames", 1)
    # Phones append previews and depth maps to the main photo and call the whole MPO.
    if frames > 1 and picture.format != "MPO":
        raise ImageError(
            f"has {frames} frames ({picture.format}); export the one you want as a still image"
        )
    picture.load()
    return torch.from_numpy(np.array(_to_srgb(picture))).permute(2, 0, 1).contiguous()


def _to_srgb(picture: Image.Image) -> Image.Image:
    """Any decoded picture → mode RGB in sRGB, upright; ImageError where that would be a guess."""
    profile, tags = picture.info.get("icc_profile"), getattr(picture, "tag_v2", {})
    picture_format = picture.format
    with contextlib.suppress(SyntaxError):  # EXIF that cannot be parsed says nothing
        picture = ImageOps.exif_transpose(picture)
    if picture.mode.startswith("I"):
        picture = _grey16_to_8(picture, picture_format, tags)
    if picture.has_transparency_data:
        picture = _drop_opaque_alpha(picture)
    if picture.mode in ("1", "P"):
        picture = picture.convert("RGB" if picture.mode == "P" else "L")
    if picture.mode not in ("L", "RGB", "CMYK", "YCbCr"):
        raise ImageError(f"pixels of type {picture.mode!r} are not supported; save it as 8-bit RGB")
    return _apply_profile(picture, profile).convert("RGB")


def _grey16_to_8(picture: Image.Image, picture_format: str | None, tags: Any) -> Image.Image:
    """16-bit grey → 8-bit, v / 257 rounded; 65535 is white."""
    # In TIFF Pillow leaves 12-bit samples and white-is-zero unscaled in the same mode.
    plain_tiff = picture.mode != "I" and tags.get(258) == (16,) and tags.get(262) == 1
    is_16_bit = plain_tiff or picture_format in ("PNG", "PPM", "JPEG2000")
    if not is_16_bit:
        raise ImageError(
            f"integer pixels of type {picture.mode!r} ({picture_format}) have no agreed white; "
            "save it as 8-bit or 16-bit PNG"
        )
    if "transparency" in picture.info:
        raise ImageError("16-bit grey with a transparent level is not supported; flatten it first")
    levels = np.asarray(picture).astype(np.uint32)
    return Image.fromarray(((levels + 128) // 257).astype(np.uint8))


def _drop_opaque_alpha(picture: Image.Image) -> Image.Image:
    grey = picture.mode in ("L", "LA", "La")
    picture = picture.convert("RGBA")
    if np.asarray(picture.getchannel("A")).min() < 255:
        raise ImageError("has transparent pixels; flatten it on a background of your choice first")
    return picture.convert("L" if grey else "RGB")


def _apply_profile(picture: Image.Image, icc: bytes | None) -> Image.Image:
    space = {"L": "GRAY", "RGB": "RGB", "CMYK": "CMYK"}.get(picture.mode)
    if not icc or space is None:
        return picture
    try:
        profile = ImageCms.ImageCmsProfile(io.BytesIO(icc))
        described = ImageCms.getProfileDescription(profile)
        # A round trip from sRGB to sRGB would move some values by one level.
        if profile.profile.xcolor_space.strip() != space or "sRGB" in described:
            return picture
        srgb = ImageCms.createProfile("sRGB")
        return ImageCms.profileToProfile(picture, profile, srgb, outputMode="RGB") or picture
    except (OSError, ImageCms.PyCMSError):
        return picture  # a broken profile says nothing; image viewers ignore it too


def write_image(path: str | os.PathLike, image: Tensor, overwrite: bool = False) -> None:
    """Write ``image``, ``uint8`` ``(3, H, W)``, in the format of the suffix; all or nothing.

    PNG, WebP, TIFF, BMP and PPM are lossless; JPEG and AVIF are written at quality 95, 4:4:4.
    Raises ImageError for an unknown suffix or a picture the format cannot hold, FileExistsError
    when ``path`` exists and ``overwrite`` is False, other OSErrors when it cannot be written.
    """
    path = Path(path)
    check_output(path, overwrite)
    options, buffer = _SAVE_OPTIONS[path.suffix.lower()], io.BytesIO()
    try:
        to_pillow(image).save(buffer, **options)
    except (OSError, ValueError) as error:  # e.g. WebP ends at 16383 pixels a side
        raise ImageError(f"{path}: cannot be written as {options['format']} ({error})") from None
    atomic_write(path, buffer.getvalue(), overwrite)


def to_pillow(image: Tensor) -> Image.Image:
    """``uint8`` ``(3, H, W)`` → a Pillow image of mode RGB; ValueError for anything else."""
    if image.dtype != torch.uint8 or image.ndim != 3 or image.shape[0] != 3:
        raise ValueError(f"expected uint8 (3, H, W), got {image.dtype} {tuple(image.shape)}")
    return Image.fromarray(image.permute(1, 2, 0).cpu().contiguous().numpy())


def check_output(path: str | os.PathLike, overwrite: bool = False) -> None:
    """Raise what `write_image` would raise about ``path``; call it before any long work."""
    path = Path(path)
    if path.suffix.lower() not in _SAVE_OPTIONS:
        known = " ".join(_SAVE_OPTIONS)
        raise ImageError(f"{path}: unknown image suffix {path.suffix!r}; these work: {known}")
    check_writable(path, overwrite)
