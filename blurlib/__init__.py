"""blurlib: a learned image codec with a Laplacian-guided entropy model and blur diffusion.

    import blurlib
    from PIL import Image

    data = blurlib.compress(Image.open("photo.png"), quality=3)   # the bytes of a .blur file
    picture = blurlib.decompress(data)                            # a Pillow image

    blurlib.register_pillow()                                     # or as a format of Pillow
    Image.open("photo.png").save("photo.blur", quality=3)

`blurlib.load` gives the codec itself, for tensors. The book explains every part.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

__version__ = "0.1.0"
__all__ = ["compress", "decompress", "load", "read_image", "register_pillow"]

# Imported at first use: PyTorch takes seconds.
_HOMES = {
    "compress": "blurlib.pillow",
    "decompress": "blurlib.pillow",
    "load": "blurlib.codec.zoo",
    "read_image": "blurlib.images",
    "register_pillow": "blurlib.pillow",
}

if TYPE_CHECKING:
    from blurlib.codec.zoo import load
    from blurlib.images import read_image
    from blurlib.pillow import compress, decompress, register_pillow


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module 'blurlib' has no attribute {name!r}")
    return getattr(import_module(_HOMES[name]), name)


def __dir__() -> list[str]:
    return sorted([*globals(), *__all__])
