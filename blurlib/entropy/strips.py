"""Maps too large for one go: layers run on one strip after another, with the same results.

What a layer needs on its way is many times its input. Strips bound that, whatever the picture.
"""

import ctypes
import sys
from collections.abc import Callable

import torch
from torch import Tensor

VALUES = 2**23  # of a strip in the widest map on the way


def in_strips(
    layer: Callable[..., Tensor],
    first: Tensor,
    *others: Tensor | None,
    width: int,
    halo: int = 0,
    stride: int = 1,
    align: int = 1,
) -> Tensor:
    """`layer(first, *others)`; with gradients, or where the maps are small, at once.

    Args:
        first, others: maps of one size (…, H, W).
        width: numbers per position in the widest map that the layer makes on its way.
        halo: results depend on nothing that is farther away.
        stride: pixels of the maps that are one position, if the result is smaller; H and W are
            multiples of it.
        align: strips start at multiples of it, and so does a halo, a multiple of it.
    """
    H, W = (side // stride for side in first.shape[-2:])
    if torch.is_grad_enabled() or H * W * width <= VALUES:
        return layer(first, *others)
    dim, length, across = (-1, W, H) if W > H else (-2, H, W)
    step = max(VALUES // (width * across), 4 * halo, 1)
    step = -(-step // align) * align
    whole = None
    for start in range(0, length, step):
        stop = min(start + step, length)
        low, high = max(0, start - halo), min(length, stop + halo)
        cut = (dim, low * stride, (high - low) * stride)
        part = layer(*(x if x is None else x.narrow(*cut) for x in (first, *others)))
        scale = part.shape[dim] // (high - low)
        kept = part.narrow(dim, (start - low) * scale, (stop - start) * scale)
        if whole is None:
            shape = list(part.shape)
            shape[dim] = length * scale
            last = part.ndim == 4 and part.stride(1) == 1
            form = torch.channels_last if last else torch.contiguous_format
            whole = torch.empty(shape, dtype=part.dtype, device=part.device, memory_format=form)
        whole.narrow(dim, start * scale, (stop - start) * scale).copy_(kept)
    assert whole is not None
    return whole


def give_back(large: Tensor) -> None:
    """After work on a large map: what glibc keeps of freed memory, more than is in use, goes back
    to the system."""
    if large.numel() > VALUES and not torch.is_grad_enabled() and sys.platform == "linux":
        getattr(ctypes.CDLL(None), "malloc_trim", lambda _: None)(0)
