"""blurlib: a learned image codec with a Laplacian-guided entropy model and blur diffusion.

    from blurlib import images
    from blurlib.codec import zoo

    codec = zoo.load("msssim-small")
    x = images.to_float(images.read_image("photo.png"))[None]   # (1, 3, H, W) in [0, 1]
    data = codec.compress(x, quality=3)                          # the bytes of a .blur file
    x_hat = codec.decompress(data).x_hat                         # the direct reconstruction

The book explains every part.
"""

import warnings
from importlib.metadata import version

__version__ = version("blurlib")

# CompressAI imports code that torch warns about; a reader of ours can do nothing about it.
warnings.filterwarnings("ignore", message=".*torch.jit.script.* is deprecated", module="torch")
