"""The DCT against scipy's, and the blur it diagonalises against scipy's Gaussian filter."""

import numpy as np
import pytest
import torch
from scipy.fft import dctn
from scipy.ndimage import gaussian_filter

from blurlib.diffusion.dct import _dense, dct2, frequencies, idct2


def pixels(H, W, dtype=torch.float64):
    return torch.randn(2, 3, H, W, generator=torch.Generator().manual_seed(0), dtype=dtype)


@pytest.mark.parametrize(("H", "W"), [(1, 1), (1, 7), (5, 3), (8, 8), (17, 32), (33, 20)])
def test_equals_scipy(H, W):
    x = pixels(H, W)
    reference = dctn(x.numpy(), axes=(-2, -1), norm="ortho")
    np.testing.assert_allclose(dct2(x).numpy(), reference, rtol=0, atol=1e-10)
    torch.testing.assert_close(idct2(dct2(x)), x, rtol=0, atol=1e-12)
    # The matrices of accelerators do the same.
    torch.testing.assert_close(_dense(x, inverse=False), dct2(x), rtol=0, atol=1e-12)
    torch.testing.assert_close(_dense(dct2(x), inverse=True), x, rtol=0, atol=1e-12)


@pytest.mark.parametrize(
    ("dtype", "tolerance"), [(torch.float32, 1e-4), (torch.float16, 0.1), (torch.bfloat16, 0.5)]
)
def test_keeps_dtype(dtype, tolerance):
    x = pixels(33, 20)
    u = dct2(x.to(dtype))
    assert u.dtype == dtype
    torch.testing.assert_close(u.double(), dct2(x), rtol=0, atol=tolerance)


def test_autocast_does_not_lower_the_precision():
    x = pixels(33, 20, torch.float32)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        u = dct2(x)
    assert torch.equal(u, dct2(x))


def test_gradients():
    x = pixels(3, 4).requires_grad_()
    for transform in (dct2, idct2):
        assert torch.autograd.gradcheck(transform, x)
        assert torch.autograd.gradgradcheck(transform, x)


def test_inference_mode_leaves_nothing_behind_that_cannot_train(monkeypatch):
    monkeypatch.setattr("blurlib.diffusion.dct._fast", _dense)
    n = 29  # a size no other test uses, so that the basis is made here
    with torch.inference_mode():
        dct2(torch.randn(n, n))
    x = torch.randn(n, n, requires_grad=True)
    dct2(x).square().sum().backward()
    torch.testing.assert_close(x.grad, 2 * x.detach(), rtol=0, atol=1e-4)


def test_frequencies_are_those_of_a_gaussian_blur_with_reflecting_edges():
    x, sigma = pixels(40, 64), 3.0
    blurred = idct2(torch.exp(-frequencies(40, 64) * sigma**2 / 2) * dct2(x))
    reference = gaussian_filter(x.numpy(), (0, 0, sigma, sigma), mode="reflect", truncate=10)
    np.testing.assert_allclose(blurred.numpy(), reference, rtol=0, atol=1e-8)


def test_refusals():
    with pytest.raises(ValueError, match="int64"):
        dct2(torch.ones(4, 4, dtype=torch.int64))
    with pytest.raises(ValueError, match=r"\(4,\)"):
        dct2(torch.ones(4))
    with pytest.raises(ValueError, match=r"\(3, 0\)"):
        idct2(torch.ones(3, 0))
