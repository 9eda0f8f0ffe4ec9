"""Sets of pictures: those inside installed wheels, Kodak, part of CLIC, any folder.

What is downloaded or put there by hand lies in a cache, `home`.
"""

import importlib.util
import os
from pathlib import Path

import platformdirs
import pooch
from torch import Tensor

from blurlib.images import READ_SUFFIXES, ImageError, read_image

# Picture -> its file inside an installed package.
_EMBEDDED = {
    "astronaut": "skimage/data/astronaut.png",
    "cat": "skimage/data/chelsea.png",
    "coffee": "skimage/data/coffee.png",
    "rocket": "skimage/data/rocket.jpg",
    "china": "sklearn/datasets/images/china.jpg",
    "flower": "sklearn/datasets/images/flower.jpg",
    "retina": "skimage/data/retina.jpg",
    "histology": "skimage/data/ihc.png",
    "sky": "skimage/data/hubble_deep_field.jpg",
    "texture": "skimage/data/gravel.png",
    "page": "skimage/data/page.png",
    "text": "skimage/data/text.png",
}
_EMBEDDED_SETS = {
    "embedded": ("astronaut", "cat", "coffee", "rocket", "china", "flower"),
    "other-worlds": ("retina", "histology", "sky", "texture", "page"),
    "text": ("page", "text"),
}

_ORIGINALS = "kodak", "clic2025-subset"
_KODAK_URL = "https://r0k.us/graphics/kodak/"  # of the folder kodak/


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


def embedded_names(name: str = "embedded") -> list[str]:
    """Names of the pictures that scikit-image and scikit-learn ship inside their wheels.

    ``embedded`` is six photos; ``other-worlds`` what codecs are not trained on, its texture and its
    page of text (384 × 191) grey; ``text`` that page and handwriting, both grey.
    """
    return list(_EMBEDDED_SETS[name])


def embedded_path(name: str) -> Path:
    """The file of an embedded picture, on this machine; ImageError names the choices."""
    if name not in _EMBEDDED:
        raise ImageError(f"no embedded photo {name!r}; there are {', '.join(_EMBEDDED)}")
    package, _, file = _EMBEDDED[name].partition("/")
    spec = importlib.util.find_spec(package)  # finds without importing, which takes seconds
    if spec is None or spec.origin is None:
        raise ImageError(f"the photo {name!r} is part of {package}, which is not installed")
    return Path(spec.origin).parent / file


def embedded(name: str) -> Tensor:
    """An embedded picture as ``uint8`` RGB ``(3, H, W)``; needs no network."""
    return read_image(embedded_path(name))


def _original(shop: pooch.Pooch, file: str) -> Path:
    path = shop.abspath / file
    if path.exists():
        # pooch would replace a file that differs, but it may be someone's own work.
        if pooch.file_hash(path) != shop.registry[file]:
            raise ImageError(f"{path}: is not the original (SHA-256 differs); delete or move it")
        return path
    if not file.startswith("kodak/"):
        raise ImageError(
            f"{path}: missing, and there is no known address to fetch it from; put this photo "
            "of the CLIC 2025 validation set there or set BLURLIB_HOME"
        )
    try:
        return Path(shop.fetch(file))
    except (OSError, ValueError) as error:
        raise ImageError(
            f"{path}: missing, and could not be fetched from {shop.get_url(file)} "
            f"({type(error).__name__}); put the file there or set BLURLIB_HOME"
        ) from None


def folder(path: str | os.PathLike) -> list[Path]:
    """The image files of a folder (by suffix, sorted by name) without the hidden ones, of which a
    Mac leaves one beside each file; ImageError if there are none."""
    path = Path(path)
    if not path.is_dir():
        raise ImageError(f"{path}: no such folder")
    shown = [p for p in path.iterdir() if not p.name.startswith(".")]
    files = [p for p in shown if p.suffix.lower() in READ_SUFFIXES and p.is_file()]
    if not files:
        raise ImageError(f"{path}: no images in this folder (looked for {' '.join(READ_SUFFIXES)})")
    return sorted(files)


def dataset(name: str | os.PathLike) -> list[Path]:
    """Image files of a set: one of those below, a folder, or a name in home()/datasets.

    ``embedded``, ``other-worlds``, ``text`` (`embedded_names`); ``kodak``: 24 photos, each checked
    by its SHA-256, those not yet in `home` fetched; ``clic2025-subset``: 8 photos of the CLIC 2025
    validation set, so checked, whose numbers do not compare with published ones of the whole set.

    Raises ImageError when it is none, or where a picture is missing, changed, or not to be fetched.
    """
    if str(name) in _EMBEDDED_SETS:
        return [embedded_path(picture) for picture in embedded_names(str(name))]
    if str(name) in _ORIGINALS:
        shop = pooch.create(home() / "datasets", _KODAK_URL)
        shop.load_registry(Path(__file__).with_name("datasets.txt"))
        return [_original(shop, file) for file in shop.registry if file.startswith(f"{name}/")]
    for place in (Path(name), home() / "datasets" / name):
        if place.is_dir():
            return folder(place)
    sets = ", ".join([*_ORIGINALS, *_EMBEDDED_SETS])
    raise ImageError(f"{name}: no such folder, and not one of the sets {sets}")
