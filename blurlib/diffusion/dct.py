"""Orthonormal discrete cosine transform over the last two axes, for any height and width.

Blurring with reflecting edges is diagonal in this basis, and because the basis is orthonormal,
white Gaussian noise is the same white Gaussian noise in pixels and in frequencies.
"""

from functools import lru_cache

import torch
from torch import Tensor


def dct_matrix(n: int) -> Tensor:
    """Orthonormal DCT-II basis C, one row per frequency, so that C C^T = I.

    C[k, i] = sqrt((1 + [k > 0]) / n) · cos(π k (2i + 1) / (2n)),   k, i = 0 … n−1

    Returns: (n, n) in float64, on the CPU. Raises ValueError if n < 1.
    """
    if n < 1:
        raise ValueError(f"a DCT needs at least 1 sample per axis, got n = {n}")
    k = torch.arange(n, dtype=torch.float64)[:, None]
    i = torch.arange(n, dtype=torch.float64)[None, :]
    basis = torch.cos(torch.pi * k * (2 * i + 1) / (2 * n)) * (2 / n) ** 0.5
    basis[0] /= 2**0.5
    return basis


@lru_cache(maxsize=32)
def _basis(n: int, dtype: torch.dtype, device: torch.device) -> Tensor:
    # A tensor made in inference mode could never take part in a backward pass, and this one is
    # kept for whoever asks next.
    with torch.inference_mode(False):
        return dct_matrix(n).to(device=device, dtype=dtype)


def _bases(x: Tensor) -> tuple[Tensor, Tensor]:
    if x.ndim < 2 or not x.is_floating_point():
        raise ValueError(
            f"a DCT takes floating-point pixels (…, H, W), got {x.dtype} of shape {tuple(x.shape)}"
        )
    H, W = x.shape[-2:]
    return _basis(H, x.dtype, x.device), _basis(W, x.dtype, x.device)


def dct2(x: Tensor) -> Tensor:
    """DCT-II, u = C_H x C_W^T, orthonormal: `scipy.fft.dctn(x, axes=(-2, -1), norm="ortho")`.

    x: (…, H, W), any floating dtype, pixels. Returns u: same shape, dtype and device, frequencies
    (k along H, l along W). Differentiable. Autocast does not lower its precision.
    """
    basis_h, basis_w = _bases(x)
    with torch.autocast(x.device.type, enabled=False):
        return basis_h @ x @ basis_w.T


def idct2(u: Tensor) -> Tensor:
    """Inverse of `dct2` (DCT-III): x = C_H^T u C_W.

    u: (…, H, W), any floating dtype, frequencies. Returns x: same shape, dtype and device, pixels.
    """
    basis_h, basis_w = _bases(u)
    with torch.autocast(u.device.type, enabled=False):
        return basis_h.T @ u @ basis_w


def frequencies(H: int, W: int) -> Tensor:
    """Eigenvalues of the negative Laplacian with reflecting edges, in pixel⁻².

    λ_{k,l} = π² (k² / H² + l² / W²)      (Hoogeboom & Salimans 2022, arXiv 2209.05557)

    Returns: (H, W) in float64, on the CPU.
    """
    k = torch.arange(H, dtype=torch.float64)[:, None]
    l = torch.arange(W, dtype=torch.float64)[None, :]
    return torch.pi**2 * (k**2 / H**2 + l**2 / W**2)
