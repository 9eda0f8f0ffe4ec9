"""From symbols to bytes and back, and what it costs."""

import math

import numpy as np
import pytest
import scipy.stats
import torch

from blurlib.entropy import DecodingError, SymbolDecoder, SymbolEncoder, coder
from blurlib.entropy.coder import MAX_SYMBOL, SIGMA_TABLE


def encoded(residual, sigma) -> bytes:
    encoder = SymbolEncoder()
    encoder.gaussian(np.asarray(residual), np.asarray(sigma, dtype=np.float64))
    return encoder.to_bytes()


def random_gaussians(n: int, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    sigma = rng.choice(SIGMA_TABLE, n)
    residual = np.rint(rng.normal(0, sigma)).clip(-MAX_SYMBOL, MAX_SYMBOL)
    return residual.astype(np.int64), sigma


def test_the_sigma_table_is_powers_of_2_to_1_16():
    k = np.arange(-51, 129)
    # Its entries are multiples of 2^-20: within half a step, 2^-21, which is 4e-6 of the smallest.
    np.testing.assert_allclose(SIGMA_TABLE, 2.0 ** (k / 16), rtol=1e-12, atol=2**-21)
    assert (np.diff(SIGMA_TABLE) > 0).all()
    assert SIGMA_TABLE[-1] == 256
    assert (SIGMA_TABLE * 2**20 == np.rint(SIGMA_TABLE * 2**20)).all()


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_snap_sigma_takes_the_nearest_of_the_grid(dtype):
    log2_sigma = torch.linspace(-6, 12, 997, dtype=dtype)
    nearest = np.abs(log2_sigma.numpy()[:, None] - np.log2(SIGMA_TABLE)[None]).argmin(1)
    found = coder.sigma_at(coder.snap_sigma(log2_sigma))
    assert torch.equal(found, torch.from_numpy(SIGMA_TABLE[nearest]))


def test_snap_mu_takes_the_nearest_sixteenth():
    mu = torch.linspace(-3, 3, 1001, dtype=torch.float64)
    snapped = coder.snap_mu(mu)
    assert (snapped * 16 == (snapped * 16).round()).all()
    assert ((snapped - mu).abs() <= 1 / 32).all()
    assert not torch.signbit(snapped[snapped == 0]).any()  # never −0


@pytest.mark.parametrize("n", [0, 1, 2, 1000, 20_001])
def test_gaussian_symbols_come_back(n):
    residual, sigma = random_gaussians(n)
    assert np.array_equal(SymbolDecoder(encoded(residual, sigma)).gaussian(sigma), residual)


@pytest.mark.parametrize("sigma", [SIGMA_TABLE[0], 1.0, SIGMA_TABLE[-1]])
def test_the_most_improbable_symbols_come_back(sigma):
    residual = np.array([MAX_SYMBOL, -MAX_SYMBOL, 0, 1, -1, MAX_SYMBOL] * 5)
    sigmas = np.full(len(residual), sigma)
    assert np.array_equal(SymbolDecoder(encoded(residual, sigmas)).gaussian(sigmas), residual)


def test_categorical_symbols_come_back_even_those_of_probability_0():
    rng = np.random.default_rng(0)
    p = np.append(rng.dirichlet(np.full(8, 0.3)), 0.0)
    symbols = rng.choice(9, p=p, size=5000)
    symbols[::500] = 8
    encoder = SymbolEncoder()
    encoder.categorical(symbols, p)
    assert np.array_equal(SymbolDecoder(encoder.to_bytes()).categorical(p, 5000), symbols)


def test_trailing_zero_bytes_are_not_stored():
    lengths = set()
    for seed in range(300):
        residual, sigma = random_gaussians(50, seed)
        data = encoded(residual, sigma)
        lengths.add(len(data) % 4)
        assert not data.endswith(b"\0")
        assert np.array_equal(SymbolDecoder(data).gaussian(sigma), residual)
        assert np.array_equal(SymbolDecoder(data + b"\0" * 9).gaussian(sigma), residual)
    assert len(lengths) > 1
    assert encoded([], []) == b""


def test_the_stream_has_the_size_of_the_entropy():
    residual, sigma = random_gaussians(50_000)
    upper, lower = (scipy.stats.norm.logcdf(-(np.abs(residual) + s) / sigma) for s in (-0.5, 0.5))
    bits = -(upper + np.log1p(-np.exp(lower - upper))).sum() / math.log(2)
    assert len(encoded(residual, sigma)) == pytest.approx(bits / 8, rel=0.01, abs=64)


def test_bits_are_those_of_scipys_normal_distribution():
    residual = torch.arange(-12, 13).double()
    for sigma in (0.3, 1.0, 5.0, 200.0):
        p = np.diff(scipy.stats.norm.cdf(np.arange(-12.5, 13), scale=sigma))
        expected = -np.log2(np.maximum(p, 2.0**-24))
        ours = coder.coded_bits(residual, torch.full_like(residual, sigma)).numpy()
        np.testing.assert_allclose(ours, expected, rtol=1e-7, atol=1e-9)
        learned = coder.gaussian_bits(residual, torch.full_like(residual, sigma)).numpy()
        likely = p > 2.0**-24
        np.testing.assert_allclose(learned[likely], -np.log2(p[likely]), rtol=1e-6, atol=1e-9)


def test_the_gradient_of_the_bits_pulls_an_outlier_in():
    residual = torch.tensor([8.0, -8.0, 1000.0, 0.0], requires_grad=True)
    sigma = torch.ones(4, requires_grad=True)
    bits = coder.gaussian_bits(residual, sigma)
    bits.sum().backward()
    assert residual.grad[0] > 0 > residual.grad[1]
    assert residual.grad[2] > 0.01
    assert (sigma.grad[:3] < 0).all()
    assert sigma.grad[3] > 0
    assert torch.isfinite(residual.grad).all()
    assert bits[2] > bits[0] > 24


def test_hostile_bytes_give_symbols_or_an_error_but_never_crash():
    rng = np.random.default_rng(7)
    residual, sigma = random_gaussians(300)
    p = np.append(rng.dirichlet(np.ones(11)), 0)
    good = encoded(residual, sigma)
    streams = [b"", b"\xff" * 400, b"\0" * 400, *(good[:n] for n in range(0, len(good), 7))]
    streams += [rng.bytes(int(rng.integers(0, 500))) for _ in range(300)]
    for _ in range(100):
        damaged = bytearray(good)
        damaged[rng.integers(len(good))] ^= int(rng.integers(1, 256))
        streams.append(bytes(damaged))
    outcomes = {"symbols": 0, "refused": 0}
    for data in streams:
        decoder = SymbolDecoder(data)
        try:
            residual, symbols = decoder.gaussian(sigma), decoder.categorical(p, 300)
        except DecodingError:
            outcomes["refused"] += 1
        else:
            outcomes["symbols"] += 1
            assert residual.shape == symbols.shape == (300,)
            assert np.abs(residual).max() <= MAX_SYMBOL
            assert 0 <= symbols.min()
            assert symbols.max() < 12
    assert min(outcomes.values()) > 20
