"""Images: reading, writing, the pictures inside installed wheels, Kodak, CLIC, any folder.

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

import importlib.util
import io
import os
import secrets
import warnings
from collections.abc import Callable
from pathlib import Path

import numpy as np
import platformdirs
import pooch
import torch
from PIL import Image, ImageCms, ImageOps
from torch import Tensor

MAX_PIXELS = 2**26
"""Largest image read, in pixels (8192 × 8192): below the size at which Pillow suspects a bomb."""

# Pillow opens far more, some of it by running other programs (EPS): only these are wanted.
_READABLE = ("PNG", "JPEG", "WEBP", "AVIF", "TIFF", "BMP", "GIF", "PPM", "JPEG2000")

_SAVE_OPTIONS = {
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

_KODAK_URL = "https://r0k.us/graphics/kodak/kodak/"
_KODAK_SHA256 = {
    "kodim01.png": "a56e27cbf5f843c048b6af1d6e090760e9c92fadba88b7dee0205918a37523bd",
    "kodim02.png": "4f4b74a79237e311d72cad958237b5f7088d8bce1c82305ebefe1a70e3022dfd",
    "kodim03.png": "e25ca1ff2f0c0cb5fdfd5f9b0a0bb21ac4c3de3c84a67f35b09a85d3306249db",
    "kodim04.png": "e3b946107c5d3441c022f678d0c3caf1e224d81b1604ba840a4f88e562de61aa",
    "kodim05.png": "10349e963c5c813d327852f82c1795fa4148d69fedffc4c589bee458e3ac3d53",
    "kodim06.png": "363510303b715d4cbc384e1ce227e466b613a09e1b71ae985882bf8e7fbd9b18",
    "kodim07.png": "b77d3f006f42414bb242222e0482e750c0fb9e5ee8d4bed2f6f11c5605fe54a4",
    "kodim08.png": "ba23983c76b4832ee0e8af0592664756841a16779acd69f792e268fb6d13d6e7",
    "kodim09.png": "6a4361c2fc194feb4edaa9f9a4a0620fb9943e460ac7fdf037fb0f6dd6607a7d",
    "kodim10.png": "9dfb70f5867c29ff9ed6313683f19b3d867849e40fbc0c4c54a4a89df341cf23",
    "kodim11.png": "7936814b58b5387fce2e4e2488b4ec830dadd95fa9520f358ddb30990b50f2b6",
    "kodim12.png": "d78c37c2f04f23761ed2367dd77e2db584ddd4c3950833fecf89f199a8126980",
    "kodim13.png": "bc34a3ce58dea09dce1704c997171602de90cb34d0c8503a988b77f473d39b08",
    "kodim14.png": "55a94550ff18f3246c4074fd32b77b0c74447c26b6ad274d564d999c0450ba6e",
    "kodim15.png": "7538cbb80cb9103606c48b806eae57d56c885c7f90b9b3be70a41160f9cbb683",
    "kodim16.png": "a89c7268ccd4718ba424a99fc4643c572cf692ca6eae887185ceb4e9f11d2e54",
    "kodim17.png": "37afcc89fbdcb76d9518e04b2fc011027e2f4cd14b3b2f83cefd721641a47c5b",
    "kodim18.png": "1a9258c365988961d87a0598725b609139c303ad48a5aad6c503c3b1a87849aa",
    "kodim19.png": "b7450b264b1b0a411390d8931b112c27905a992520fc90569dc4b920aa32bbdc",
    "kodim20.png": "3b46c71e3b92a563820ba32936be8330c586c41f938efd94be938386aae4328a",
    "kodim21.png": "ac958597c82073f6bb65129c68f72b651db5b9efd82e11547d07350214bc268b",
    "kodim22.png": "1cee58eb1f2d9c7ebb254d208a03c783ce6cf2c4d8c2cf45e235dd23b4ce1b29",
    "kodim23.png": "e3111a2fd4da24af15d6459ef9eacfe54106b38e27b4a21821b75c3f5d2d5baf",
    "kodim24.png": "1071c68372cc5a01435c2c225a5cf7d4bb803846ec08bb6b3d6721b156d7cb96",
}

_CLIC = "clic2025-subset"
_CLIC_SHA256 = {
    "100f17892cf7bb12beb12479641fcc4c.png": (
        "bf6434e040a17ac238ba072766d25369d38fb5a8a5378530f8191c35d4142ef7"
    ),
    "11f2b039b293758398b1a7a8afa64bb2.png": (
        "814f8f52ae8a0d1a4e704dc8d0c4c30604beae2ceb478a7516e8dd0ac4a222c9"
    ),
    "2c1f84548ef99faec2b4f9bf12227c83.png": (
        "f56acfb691d528bed106fdc62754df4ce4a600bdab80478a7c70d4fc1926c4ac"
    ),
    "60430844748882ff66b9a5598ef06dd6.png": (
        "3f14ec46d7e5b41f1792aac72f7eae58863e3d13330baf220bd0925f057fe772"
    ),
    "8bb119b8ca17492392e1e3ea4b811b32.png": (
        "0da74d8b94ff3c89f3578296ea87305ce1623d890f0c5cb8e54b907428675f15"
    ),
    "aed95e005df28e790519eefb6eb1e565.png": (
        "818b1471d0ba515833ed6a6c4537aef3ea0134c1447e3f10368bacb605fc9b9c"
    ),
    "afe3676bbfcf7183d697ff7b5d5bd45b.png": (
        "71207b7aacd1c73d26ed151475b9272fd03b224e23615a1d1700eb0291c838f9"
    ),
    "d1a9be98d1936065967adac50a6fb750.png": (
        "680003ddef09a61e8604c6f681e27482892f6f1edf3f86c62a03c22e200c534a"
    ),
}

# Set -> name -> (package, file inside it).
_EMBEDDED = {
    "embedded": {
        "astronaut": ("skimage", "data/astronaut.png"),
        "cat": ("skimage", "data/chelsea.png"),
        "coffee": ("skimage", "data/coffee.png"),
        "rocket": ("skimage", "data/rocket.jpg"),
        "china": ("sklearn", "datasets/images/china.jpg"),
        "flower": ("sklearn", "datasets/images/flower.jpg"),
    },
    "other-worlds": {
        "retina": ("skimage", "data/retina.jpg"),
        "histology": ("skimage", "data/ihc.png"),
        "sky": ("skimage", "data/hubble_deep_field.jpg"),
        "texture": ("skimage", "data/gravel.png"),
        "page": ("skimage", "data/page.png"),
    },
    "text": {
        "page": ("skimage", "data/page.png"),
        "text": ("skimage", "data/text.png"),
    },
}


class ImageError(ValueError):
    """An image that cannot be read or written as asked; one line says why."""


# ---------------------------------------------------------------- tensors


def centre(image: Tensor, height: int, width: int) -> Tensor:
    """The middle `height` × `width` pixels of an image (…, H, W) that is at least as large."""
    top, left = (image.shape[-2] - height) // 2, (image.shape[-1] - width) // 2
    return image[..., top : top + height, left : left + width]


def to_float(image: Tensor) -> Tensor:
    """``uint8`` in 0..255 → ``float32`` in [0, 1], any shape."""
    return image.to(torch.float32) / 255


def to_uint8(x: Tensor) -> Tensor:
    """Floats in [0, 1], any shape → ``uint8``: clamped, then rounded to the nearest level.

    Raises ValueError on NaN, which has no nearest level.
    """
    if torch.isnan(x).any():
        raise ValueError("the image contains NaN and cannot become 8-bit")
    return x.clamp(0, 1).mul(255).round().to(torch.uint8)


# ---------------------------------------------------------------- reading


def read_image(path: str | os.PathLike) -> Tensor:
    """Read an image file as ``uint8`` RGB ``(3, H, W)``; the module's table says what is converted.

    Raises ImageError, one line that names the file and the reason.
    """
    path = Path(path)
    return _decode(_read_bytes(path), path)


def decode_image(data: bytes) -> Tensor:
    """Like `read_image`, for the bytes of an image file."""
    return _decode(data, "image data")


def _read_bytes(path: Path) -> bytes:
    if path.is_dir():
        raise ImageError(f"{path}: is a folder, not an image")
    try:
        data = path.read_bytes()
    except FileNotFoundError:
        raise ImageError(f"{path}: no such file") from None
    except OSError as error:
        raise ImageError(f"{path}: cannot be read ({error.strerror})") from None
    if not data:
        raise ImageError(f"{path}: the file is empty (0 bytes)")
    return data


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
    _check_size_and_frames(picture)
    picture.load()
    rgb = np.array(_to_srgb(picture))
    return torch.from_numpy(rgb).permute(2, 0, 1).contiguous()


def _check_size_and_frames(picture: Image.Image) -> None:
    width, height = picture.size
    if width * height > MAX_PIXELS:
        raise ImageError(f"{width} × {height} is more than the limit of {MAX_PIXELS} pixels")
    frames = getattr(picture, "n_frames", 1)
    # Phones append previews and depth maps to the main photo and call the whole MPO.
    if frames > 1 and picture.format != "MPO":
        raise ImageError(
            f"has {frames} frames ({picture.format}); export the one you want as a still image"
        )


def _to_srgb(picture: Image.Image) -> Image.Image:
    """Any decoded picture → mode RGB in sRGB, upright; ImageError where that would be a guess."""
    profile = picture.info.get("icc_profile")
    tags = getattr(picture, "tag_v2", {})
    picture_format = picture.format
    try:
        picture = ImageOps.exif_transpose(picture)
    except SyntaxError:
        pass  # EXIF that cannot be parsed says nothing about the pixels
    if picture.mode.startswith("I"):
        picture = _grey16_to_8(picture, picture_format, tags)
    if picture.has_transparency_data:
        picture = _drop_opaque_alpha(picture)
    if picture.mode in ("1", "P"):
        picture = picture.convert("RGB" if picture.mode == "P" else "L")
    if picture.mode not in ("L", "RGB", "CMYK", "YCbCr"):
        raise ImageError(f"pixels of type {picture.mode!r} are not supported; save it as 8-bit RGB")
    return _apply_profile(picture, profile).convert("RGB")


def _grey16_to_8(picture: Image.Image, picture_format: str | None, tags) -> Image.Image:
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
    if picture.getchannel("A").getextrema()[0] < 255:
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
        return ImageCms.profileToProfile(picture, profile, srgb, outputMode="RGB")
    except (OSError, ImageCms.PyCMSError):
        return picture  # a broken profile says nothing; image viewers ignore it too


# ---------------------------------------------------------------- writing


def write_image(path: str | os.PathLike, image: Tensor, overwrite: bool = False) -> None:
    """Write ``image``, ``uint8`` ``(3, H, W)``, in the format of the suffix; all or nothing.

    PNG, WebP, TIFF, BMP and PPM are lossless; JPEG and AVIF are written at quality 95, 4:4:4.
    Raises ImageError for an unknown suffix or a picture the format cannot hold, FileExistsError
    when ``path`` exists and ``overwrite`` is False, other OSErrors when it cannot be written.
    """
    path = Path(path)
    check_output(path, overwrite)
    atomic_write(path, _encode(image, path), overwrite)


def _encode(image: Tensor, path: Path) -> bytes:
    options = _SAVE_OPTIONS[path.suffix.lower()]
    buffer = io.BytesIO()
    try:
        to_pillow(image).save(buffer, **options)
    except (OSError, ValueError) as error:  # e.g. WebP ends at 16383 pixels a side
        raise ImageError(f"{path}: cannot be written as {options['format']} ({error})") from None
    return buffer.getvalue()


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


def check_writable(path: str | os.PathLike, overwrite: bool = False) -> None:
    """Raise the OSError that `atomic_write` would raise for this target, if any."""
    path = Path(path)
    if not path.parent.is_dir():
        raise FileNotFoundError(f"{path}: the folder {path.parent} does not exist")
    if path.is_dir():
        raise IsADirectoryError(f"{path}: is a folder; name a file in it")
    if path.exists() and not path.is_file():
        raise OSError(f"{path}: is a device or pipe, not a file to replace")
    if path.exists() and not overwrite:
        raise FileExistsError(f"{path}: exists and is kept; overwrite it only on request (--force)")


def atomic_write(path: str | os.PathLike, data: bytes, overwrite: bool = False) -> None:
    """Write ``data`` to a temporary file beside ``path``, then rename it: whole or not at all.

    Raises FileExistsError when ``path`` exists and ``overwrite`` is False, other OSErrors when
    the folder is missing or not writable.
    """
    path = Path(path)
    check_writable(path, overwrite)
    temporary = path.with_name(f".{secrets.token_hex(8)}.tmp")
    try:
        with open(temporary, "xb") as file:  # not tempfile: the result keeps the usual permissions
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
    except OSError as error:
        temporary.unlink(missing_ok=True)
        raise OSError(error.errno, f"cannot be written: {error.strerror}", str(path)) from None
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise


# ---------------------------------------------------------------- sets of images


def home() -> Path:
    """The cache: ``$BLURLIB_HOME``, or the platform's user cache; holds datasets/ and weights/.

    It may be read-only: what is there is used, what is missing then cannot be fetched.
    """
    chosen = os.environ.get("BLURLIB_HOME")
    return Path(chosen).expanduser() if chosen else Path(platformdirs.user_cache_dir("blurlib"))


def cached_weights(file_name: str) -> Path | None:
    """A file of ``home()/weights`` if it is there; None means: download it the usual way."""
    path = home() / "weights" / file_name
    return path if path.is_file() else None


def embedded_names(dataset: str = "embedded") -> list[str]:
    """Names of the pictures that scikit-image and scikit-learn ship inside their wheels.

    ``embedded`` is six photos. ``other-worlds`` is what codecs are not trained on: a retina,
    histology, the sky, a texture and a page of text; the last two are grey, the page is 384 × 191.
    ``text`` is that page and handwriting, both grey.
    """
    return list(_EMBEDDED[dataset])


def embedded_path(name: str) -> Path:
    """The file of an embedded picture, on this machine; ImageError names the choices."""
    known = {name: source for pictures in _EMBEDDED.values() for name, source in pictures.items()}
    if name not in known:
        raise ImageError(f"no embedded photo {name!r}; there are {', '.join(known)}")
    package, file = known[name]
    spec = importlib.util.find_spec(package)  # finds without importing, which takes seconds
    if spec is None or spec.origin is None:
        raise ImageError(f"the photo {name!r} is part of {package}, which is not installed")
    return Path(spec.origin).parent / file


def embedded(name: str) -> Tensor:
    """An embedded picture as ``uint8`` RGB ``(3, H, W)``; needs no network."""
    return read_image(embedded_path(name))


def kodak() -> list[Path]:
    """The 24 Kodak photos, each checked by its SHA-256; those not yet in `home` are fetched.

    Raises ImageError naming a file that has another hash, or that is missing and cannot be fetched.
    """
    folder = home() / "datasets" / "kodak"
    shop = pooch.create(folder, _KODAK_URL, registry=_KODAK_SHA256)
    return [_checked_fetch(shop, folder / name) for name in _KODAK_SHA256]


def _checked_fetch(shop: pooch.Pooch, path: Path) -> Path:
    # pooch would replace a file that differs, but it may be someone's own work.
    if _is_original(path, shop.registry[path.name], "Kodak"):
        return path
    try:
        return Path(shop.fetch(path.name))
    except (OSError, ValueError) as error:
        raise ImageError(
            f"{path}: missing, and could not be fetched from {shop.base_url} "
            f"({type(error).__name__}); put the file there or set BLURLIB_HOME"
        ) from None


def clic2025_subset() -> list[Path]:
    """8 photos of the CLIC 2025 validation set, each checked by its SHA-256: a subset.

    Its numbers do not compare with published ones of the whole set. Raises ImageError naming a file
    that is missing, since there is no address to fetch it from, or that has another hash.
    """
    paths = [home() / "datasets" / _CLIC / name for name in _CLIC_SHA256]
    for path in paths:
        if not _is_original(path, _CLIC_SHA256[path.name], "CLIC"):
            raise ImageError(
                f"{path}: missing, and there is no known address to fetch it from; put this photo "
                "of the CLIC 2025 validation set there or set BLURLIB_HOME"
            )
    return paths


def _is_original(path: Path, sha256: str, owner: str) -> bool:
    """Whether the file is there; ImageError when it is, but with another hash."""
    if not path.exists():
        return False
    if pooch.file_hash(path) != sha256:
        raise ImageError(
            f"{path}: is not the {owner} original (SHA-256 differs); delete or move it"
        )
    return True


def folder(path: str | os.PathLike) -> list[Path]:
    """The image files of a folder (by suffix, sorted by name); ImageError if there are none."""
    path = Path(path)
    if not path.is_dir():
        raise ImageError(f"{path}: no such folder")
    suffixes = (*_SAVE_OPTIONS, ".gif", ".pgm", ".jp2")
    files = [p for p in path.iterdir() if p.suffix.lower() in suffixes and p.is_file()]
    if not files:
        raise ImageError(f"{path}: no images in this folder (looked for {' '.join(suffixes)})")
    return sorted(files)


def dataset(name: str | os.PathLike) -> list[Path]:
    """Image files of a set: one of those below, a folder, or a name in home()/datasets.

    ``kodak``, ``clic2025-subset``, ``embedded``, ``other-worlds``, ``text``. ImageError when it is
    none.
    """
    own: dict[str, Callable[[], list[Path]]] = {
        "kodak": kodak,
        _CLIC: clic2025_subset,
        **{s: lambda s=s: [embedded_path(photo) for photo in embedded_names(s)] for s in _EMBEDDED},
    }
    if str(name) in own:
        return own[str(name)]()
    cached = home() / "datasets" / name
    if not Path(name).is_dir() and not cached.is_dir():
        raise ImageError(f"{name}: no such folder, and not one of the sets {', '.join(own)}")
    return folder(name if Path(name).is_dir() else cached)
