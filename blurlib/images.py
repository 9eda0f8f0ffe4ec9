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
stated otherwise       by a PNG (cICP, gAMA, cHRM) or AVIF (nclx): refused, unless nearly sRGB's
EXIF orientation       applied; EXIF that cannot be parsed is ignored
opaque alpha           dropped
transparent pixels     refused: there is no right background
several frames         refused (a phone's MPO is its main photo)
32-bit, float, LAB     refused
=====================  ===========================================================================
"""

import contextlib
import io
import math
import os
import re
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import ExifTags, Image, ImageChops, ImageCms
from torch import Tensor

from blurlib import files

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

_LONGEST = {".webp": 16383, ".jpg": 65500, ".jpeg": 65500, ".avif": 32768}

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
    return image / 255


def to_uint8(x: Tensor) -> Tensor:
    """Floats in [0, 1], any shape → ``uint8``: clamped, then rounded to the nearest level. NaN,
    which has none, is a ValueError."""
    if torch.isnan(x).any():
        raise ValueError("the image contains NaN and cannot become 8-bit")
    return x.clamp(0, 1).mul_(255).round_().to(torch.uint8)


def read_image(path: str | os.PathLike) -> Tensor:
    """Read an image file as ``uint8`` RGB ``(3, H, W)``, converted as in the module's table.
    ImageError names the file and the reason."""
    path = Path(path)
    if path.is_dir():
        raise ImageError(f"{path}: is a folder, not an image")
    try:
        with open(path, "rb") as file:
            data = files.read(file, path)
    except OSError as error:
        raise ImageError(f"{path}: cannot be read ({error.strerror})") from None
    return decode_image(data, str(path))


def header_size(path: str | os.PathLike) -> tuple[int, int]:
    """Width and height by the header of an image file; 0, 0 where `read_image` will say what is
    wrong."""
    try:
        with Image.open(path, formats=_READABLE) as picture:
            return picture.size
    except Exception:
        return 0, 0


def decode_image(data: bytes, name: str = "image data") -> Tensor:
    """Like `read_image`, for the bytes of an image file; ``name`` is for messages."""
    if not data:
        raise ImageError(f"{name}: is empty (0 bytes)")
    try:
        with Image.open(io.BytesIO(data), formats=_READABLE) as picture:
            return from_pillow(picture)
    except ImageError as error:
        raise ImageError(f"{name}: {error}") from None
    except Image.DecompressionBombError:
        raise ImageError(f"{name}: has more than {MAX_PIXELS} pixels, the limit") from None
    except Image.UnidentifiedImageError:
        readable = ", ".join(_READABLE)
        raise ImageError(f"{name}: is not an image of a known format ({readable})") from None
    except MemoryError:
        raise
    except Exception as error:
        # Damaged files raise nearly every exception type in Pillow; all mean the same to the user.
        reason = " ".join(str(error).split()) or type(error).__name__
        raise ImageError(f"{name}: is damaged or truncated ({reason})") from None


def from_pillow(picture: Image.Image) -> Tensor:
    """A Pillow image as ``uint8`` RGB ``(3, H, W)``, converted like a file; ImageError where that
    would be a guess. One loaded from a stream no longer knows what the stream stated beside ICC."""
    width, height = picture.size
    if width * height > MAX_PIXELS:
        raise ImageError(f"{width} × {height} is more than the limit of {MAX_PIXELS} pixels")
    frames = getattr(picture, "n_frames", 1)
    # Phones append previews and depth maps to the main photo and call the whole MPO.
    if frames > 1 and picture.format != "MPO":
        raise ImageError(
            f"has {frames} frames ({picture.format}); export the one you want as a still image"
        )
    profile = _profile(picture)  # of an open file: loading closes it
    picture.load()
    return torch.from_numpy(np.array(_to_srgb(picture, profile))).permute(2, 0, 1).contiguous()


_UPRIGHT = dict(enumerate(map(Image.Transpose, (0, 3, 1, 5, 4, 6, 2)), 2))  # by orientation


def _to_srgb(picture: Image.Image, profile: bytes | None) -> Image.Image:
    """Any decoded picture → mode RGB in sRGB, upright; ImageError where that would be a guess."""
    picture_format, tags = picture.format, getattr(picture, "tag_v2", {})
    turn = None
    with contextlib.suppress(Exception):  # EXIF that cannot be parsed says nothing
        turn = _UPRIGHT.get(picture.getexif().get(ExifTags.Base.Orientation, 1))
    picture = picture if turn is None else picture.transpose(turn)
    if picture.mode.startswith("I"):
        picture = _grey16_to_8(picture, picture_format, tags)
    if picture.has_transparency_data:
        picture = _drop_opaque_alpha(picture)
    if picture.mode in ("1", "P", "YCbCr"):
        picture = picture.convert("L" if picture.mode == "1" else "RGB")
    if picture.mode not in ("L", "RGB", "CMYK"):
        raise ImageError(f"pixels of type {picture.mode!r} are not supported; save it as 8-bit RGB")
    return (_apply_profile(picture, profile) if profile else picture).convert("RGB")


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


# What Pillow leaves unread. The first of an AVIF file is that of its main picture.
_STATED = {
    "PNG": re.compile(rb"\0\0\0\x04cICP(.)(.)", re.S),
    "AVIF": re.compile(rb"colrnclx\0(.)\0(.)", re.S),
    "JPEG2000": re.compile(rb"(....)colr\x02..", re.S),  # length of the box; a profile follows
}
_XY = (0.3127, 0.329, 0.64, 0.33, 0.3, 0.6, 0.15, 0.06)  # of sRGB's white, red, green and blue
# By their codes in ITU-T H.273. Viewers take the curves of television for sRGB's, and so do we.
_SRGB_PRIMARIES, _SRGB_CURVES = (1, 2), (1, 2, 6, 13, 14, 15)
_HDR = {16: "PQ", 18: "HLG"}


def _profile(picture: Image.Image) -> bytes | None:
    """The ICC profile of a picture; None stands for sRGB. ImageError where its file states other
    colours without a profile."""
    info, stated = picture.info, None
    icc = info.get("icc_profile")
    if pattern := _STATED.get(picture.format or ""):
        head = _head(picture).partition(b"IDAT")[0]
        stated = pattern.search(head)
    if stated and picture.format == "JPEG2000":
        return head[stated.end() :][: int.from_bytes(stated[1], "big") - 11]
    colours = ""
    if stated and not (icc and picture.format == "AVIF"):
        primaries, curve = stated[1][0], stated[2][0]
        if primaries not in _SRGB_PRIMARIES or curve not in _SRGB_CURVES:
            colours = f"curve {_HDR.get(curve, curve)} and primaries {primaries} of ITU-T H.273"
        icc = None
    elif not icc and "srgb" not in info:
        gamma, xy = info.get("gamma") or 1 / 2.2, info.get("chromaticity", _XY)
        # libpng's tolerances: what is so near was meant to be sRGB.
        near = abs(2.2 * gamma - 1) < 0.05 and np.allclose(xy, _XY, rtol=0, atol=0.01)
        colours = "" if near else f"gamma {gamma:g} and primaries {xy}"
    if colours:
        raise ImageError(f"its colours, {colours}, are not supported; export it as sRGB")
    return icc


def _head(picture: Any) -> bytes:
    """The first MiB of its file, unless that was a stream which loading has closed."""
    with contextlib.suppress(OSError), open(picture.filename, "rb") as file:
        return file.read(2**20)
    if not picture.tile:
        return b""
    at = picture.fp.tell()
    picture.fp.seek(0)
    head = picture.fp.read(2**20)
    picture.fp.seek(at)
    return head


_PROBE = Image.fromarray(np.indices((18, 18, 18), np.uint8).reshape(3, -1, 18).T * np.uint8(15))


def _apply_profile(picture: Image.Image, icc: bytes) -> Image.Image:
    try:
        profile = ImageCms.ImageCmsProfile(io.BytesIO(icc))
        space = profile.profile.xcolor_space.strip()
        if space == "RGB" and picture.mode == "L":
            picture = picture.convert("RGB")
        if space != {"L": "GRAY"}.get(picture.mode, picture.mode):
            return picture
        srgb = ImageCms.createProfile("sRGB")
        to_srgb = ImageCms.buildTransform(profile, srgb, picture.mode, "RGB")
        probe = _PROBE.convert(picture.mode)
        change = ImageChops.difference(to_srgb.apply(probe), probe.convert("RGB"))
        # A profile of sRGB, or as good as that, would move some values by a level for nothing.
        return picture if np.asarray(change).max() <= 2 else to_srgb.apply(picture)
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
    files.atomic_write(path, encode_image(image, path.suffix, str(path)), overwrite)


def encode_image(image: Tensor, suffix: str, name: str = "image data") -> bytes:
    """The bytes that `write_image` writes; ``name`` is for messages."""
    options, buffer = _SAVE_OPTIONS[suffix.lower()], io.BytesIO()
    picture = to_pillow(image)
    check_sides(suffix, picture.height, picture.width, name)
    try:
        picture.save(buffer, **options)
    except (OSError, ValueError) as error:
        raise ImageError(f"{name}: cannot be written as {options['format']} ({error})") from None
    return buffer.getvalue()


def check_sides(suffix: str, height: int, width: int, name: str = "image data") -> None:
    """ImageError where a format, by its suffix, does not hold pictures of this size."""
    longest = _LONGEST.get(suffix.lower(), math.inf)
    if max(height, width) > longest:
        wrong = f"{suffix} holds sides up to {longest} pixels, and this has {width}×{height}"
        raise ImageError(f"{name}: {wrong}; .png works")


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
    files.check_writable(path, overwrite)
