"""How far a reconstruction is from the photo: MSE, PSNR, MS-SSIM, LPIPS, and bits per pixel.

For measuring, images are ``(3, H, W)``: ``uint8`` (peak 255) or floats in [0, 1] (peak 1), computed
in float64. For training, `ms_ssim_loss` and `Lpips` take batches ``(B, 3, H, W)`` in [0, 1].
"""

import math
import os
import warnings

import torch
from pytorch_msssim import ms_ssim as _ms_ssim
from torch import Tensor, nn

MS_SSIM_MIN_SIDE = 161
"""Smallest side in pixels for five scales with an 11 × 11 window: (11 − 1)·2⁴ + 1."""
LPIPS_MIN_SIDE = 32
"""Smallest side in pixels that every LPIPS network's pooling survives."""


def lpips_file(net: str) -> str:
    """Name in a cache of weights of the complete LPIPS state dict, such as `Lpips.load` reads."""
    return f"lpips_{net}_v0.1_full.pth"


def _pair(x: Tensor, y: Tensor) -> tuple[Tensor, Tensor, float]:
    """Both in float64, and their peak; ValueError unless shape and dtype agree."""
    if x.shape != y.shape or x.dtype != y.dtype:
        raise ValueError(f"cannot compare {x.dtype} {[*x.shape]} with {y.dtype} {[*y.shape]}")
    if x.dtype != torch.uint8 and not x.is_floating_point():
        raise ValueError(f"expected uint8 or floats in [0, 1], got {x.dtype}")
    return x.double(), y.double(), 255.0 if x.dtype == torch.uint8 else 1.0


def bpp(n_bytes: int, height: int, width: int) -> float:
    """Bits per pixel of the original image, 8·n_bytes / (height·width); all bytes count."""
    return 8 * n_bytes / (height * width)


def mse(x: Tensor, y: Tensor) -> float:
    """Mean of (x − y)² over every value; in squared levels for ``uint8``."""
    x, y, _ = _pair(x, y)
    return (x - y).square().mean().item()


def psnr(x: Tensor, y: Tensor) -> float:
    """10·log₁₀(peak² / MSE) in dB, over all channels together; ``inf`` for equal images."""
    error, peak = mse(x, y), 255.0 if x.dtype == torch.uint8 else 1.0
    return 10 * math.log10(peak**2 / error) if error else math.inf


def ms_ssim(x: Tensor, y: Tensor) -> float:
    """Multi-scale structural similarity (Wang et al., 2003) of two images, mean over channels;
    ``nan`` ("not applicable") when a side is shorter than `MS_SSIM_MIN_SIDE`."""
    x, y, peak = _pair(x, y)
    if min(x.shape[-2:]) < MS_SSIM_MIN_SIDE:
        return math.nan
    # The package's own window is float32 and sums to 1 only to 1e-7, which E[x²] − μ² magnifies.
    taps = torch.exp(-torch.arange(-5, 6, dtype=torch.float64).square() / (2 * 1.5**2))
    window = (taps / taps.sum()).expand(x.shape[0], 1, 1, 11)
    return _ms_ssim(x[None], y[None], data_range=peak, win=window).item()


def ms_ssim_db(m: float) -> float:
    """−10·log₁₀(1 − m): spreads out the values near 1; ``inf`` at 1, ``nan`` stays ``nan``."""
    return math.inf if m >= 1 else -10 * math.log10(1 - m)


def lpips_distance(network: nn.Module, x: Tensor, y: Tensor) -> float:
    """Of two images, ``uint8`` ``(3, H, W)``, by a network such as `Lpips`; ``nan`` ("not
    applicable") when a side is shorter than `LPIPS_MIN_SIDE`."""
    if min(x.shape[-2:]) < LPIPS_MIN_SIDE:
        return math.nan
    with torch.inference_mode():
        return network(x[None].float() / 255, y[None].float() / 255).item()


def ms_ssim_loss(x_hat: Tensor, x: Tensor) -> Tensor:
    """1 − MS-SSIM per image: ``(B, 3, H, W)`` twice, in [0, 1] → ``(B,)``; differentiable.
    ValueError when a side is shorter than `MS_SSIM_MIN_SIDE`."""
    if min(x.shape[-2:]) < MS_SSIM_MIN_SIDE:
        raise ValueError(
            f"MS-SSIM needs sides of at least {MS_SSIM_MIN_SIDE} pixels, got {tuple(x.shape)}"
        )
    return 1 - _ms_ssim(x_hat, x, data_range=1.0, size_average=False)


def block_steps(x: Tensor) -> Tensor:
    """How much larger the steps between neighbouring pixels are across the lines of blocks: (B, 2),
    of every 16th line and of the lines of 8 between them, over those off the lines of 8 (which
    carry no gradient). A photo has about 1, coarse blocks more.

    x: (B, 3, H, W) in [0, 1], sides above 16; means over the lines of both directions.
    """
    found = []
    for picture in (x, x.mT):
        steps = picture.diff(dim=-1).abs().mean((1, 2))  # (B, W − 1)
        at = torch.arange(1, picture.shape[-1], device=x.device)  # of the pixel after the step
        elsewhere = steps[:, at % 8 != 0].mean(1).detach().clamp_min(1e-3)
        found += [steps[:, at % 16 == line].mean(1) / elsewhere for line in (0, 8)]
    return torch.stack(found, 1).unflatten(1, (2, 2)).mean(1)


class Lpips(nn.Module):
    """Learned perceptual distance (Zhang et al., 2018), version 0.1; 0 for equal images.

    ``forward``: ``(B, 3, H, W)`` twice, in [0, 1] → ``(B,)``, differentiable; sides of at least
    `LPIPS_MIN_SIDE`. Its weights are frozen. ``network(x, y, normalize=True)`` is any distance
    with the interface of ``lpips.LPIPS``; `Lpips.load` makes the real ones.
    """

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network.eval().requires_grad_(False)

    @classmethod
    def load(cls, net: str = "alex", path: str | os.PathLike | None = None) -> "Lpips":
        """``net``: 'alex' (to evaluate), 'squeeze' or 'vgg' (to train with).

        ``path`` is a complete state dict of ``lpips.LPIPS``, backbone included (`lpips_file`);
        without one, the ``lpips`` package brings its linear layers and torchvision downloads the
        backbone. ValueError for an unknown net or a file that holds something else, OSError when
        nothing can be read or fetched.
        """
        if net not in ("alex", "squeeze", "vgg"):
            raise ValueError(f"no LPIPS network {net!r}; there are alex, squeeze, vgg")
        import lpips  # takes seconds, with all of torchvision

        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # torchvision: the argument names lpips uses are old
            if path is not None:
                network = lpips.LPIPS(net=net, pretrained=False, pnet_rand=True, verbose=False)
            else:
                try:
                    return cls(lpips.LPIPS(net=net, verbose=False))
                except (OSError, RuntimeError) as error:  # RuntimeError: a download was cut short
                    raise OSError(
                        f"the {net} weights of LPIPS could not be fetched "
                        f"({type(error).__name__}); put {lpips_file(net)} into BLURLIB_HOME/weights"
                    ) from None
        try:
            network.load_state_dict(torch.load(path, map_location="cpu", weights_only=True))
        except OSError:
            raise
        except Exception:  # not a torch file, pickled code, other keys, other shapes
            raise ValueError(f"{path}: is not a complete LPIPS state dict for {net}") from None
        return cls(network)

    def train(self, mode: bool = True) -> "Lpips":
        """Stays in eval mode (dropout off) also as part of a module in training."""
        return super().train(False)

    def forward(self, x: Tensor, y: Tensor) -> Tensor:
        if min(x.shape[-2:]) < LPIPS_MIN_SIDE:
            raise ValueError(
                f"LPIPS needs sides of at least {LPIPS_MIN_SIDE} pixels, got {tuple(x.shape)}"
            )
        return self.network(x, y, normalize=True).flatten()
