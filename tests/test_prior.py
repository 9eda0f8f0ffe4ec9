"""The prior of a decoded picture, and the diffusion that starts from it."""

import math

import numpy as np
import pytest
import torch
from scipy.fft import idctn

from blurlib.diffusion.dct import dct2, idct2
from blurlib.diffusion.prior import BANDS, Prior, error_spectrum, error_variance
from blurlib.diffusion.process import BlurDiffusion
from blurlib.diffusion.sampler import Sampling, sample
from blurlib.diffusion.schedule import BlurSchedule

H, W = 12, 20
SCHEDULES = [BlurSchedule(), BlurSchedule(sigma_blur_max=0)]


def seeded(seed=0):
    return torch.Generator().manual_seed(seed)


def cycles(H, W):
    """Cycles per pixel of each frequency."""
    return np.hypot(np.arange(H)[:, None] / H, np.arange(W) / W) / 2


def power(f):
    """A smooth spectrum to find again."""
    return 0.01 / (0.05 + f)


def prior_of(H, W, mean=0.0):
    variance = torch.from_numpy(power(cycles(H, W)))[None, None]
    return Prior(torch.full((1, 3, H, W), mean, dtype=torch.float64), variance)


def test_the_spectrum_of_noise_of_known_spectrum_is_found_at_every_size():
    rng = np.random.default_rng(0)
    noise = rng.standard_normal((40, 3, 96, 64)) * np.sqrt(power(cycles(96, 64)))
    spectrum = error_spectrum(torch.from_numpy(idctn(noise, axes=(-2, -1), norm="ortho")))
    for size in ((96, 64), (40, 130)):
        found = error_variance(spectrum.expand(2, BANDS), torch.tensor([1.0]), *size)[0, 0].numpy()
        f = cycles(*size)
        known = f > 1 / 64  # of longer waves, those pictures had none
        np.testing.assert_allclose(found[known], power(f[known]), rtol=0.2)
        assert abs(np.log(found[known] / power(f[known])).mean()) < 0.02


def test_waves_longer_than_the_pictures_have_the_power_of_the_longest():
    spectrum = error_spectrum(torch.randn(200, 3, 8, 8, generator=seeded(), dtype=torch.float64))
    assert spectrum[16] == spectrum[7]  # 7: waves of 16 pixels; 17: the mean of the picture
    torch.testing.assert_close(spectrum, torch.zeros_like(spectrum), rtol=0, atol=0.2)


def test_between_qualities_the_variance_is_geometric():
    spectra = torch.tensor([[0.0] * BANDS, [-2.0] * BANDS, [-3.0] * BANDS])
    quality = torch.tensor([1, 1.5, 2, 2.5, 3], dtype=torch.float64)
    found = error_variance(spectra, quality, 5, 7)
    expected = torch.exp(torch.tensor([0, -1, -2, -2.5, -3], dtype=torch.float64))
    assert found.dtype == torch.float64
    torch.testing.assert_close(found, expected[:, None, None, None].expand(5, 1, 5, 7))


def test_an_error_of_nothing_is_refused():
    with pytest.raises(ValueError, match="the error is 0"):
        error_spectrum(torch.zeros(1, 3, 8, 8))


@pytest.mark.parametrize("schedule", SCHEDULES)
def test_the_estimate_is_the_mean_of_bayes_rule(schedule):
    """Precisions add: 1/variance = 1/E + α²/σ², at every frequency."""
    process = BlurDiffusion(schedule, "residual").given(prior_of(H, W, 0.4))
    u_t = torch.randn(1, 3, H, W, generator=seeded(), dtype=torch.float64)
    t = torch.tensor([0.15], dtype=torch.float64)
    alpha, sigma = schedule.alpha(t, H, W).numpy(), schedule.sigma(t).item()
    E = power(cycles(H, W))
    variance = 1 / (1 / E + alpha**2 / sigma**2)
    mean = variance * (0.4 / E + alpha / sigma**2 * u_t.numpy())
    found, residual_std = process.at(t, H, W).estimate(u_t)
    np.testing.assert_allclose(found.numpy(), mean, rtol=1e-10, atol=1e-12)
    assert residual_std.item() == pytest.approx(math.sqrt(variance.mean()), rel=1e-10)


@pytest.mark.parametrize("schedule", SCHEDULES)
@pytest.mark.parametrize("t", [0.02, 0.1, 0.5, 1.0])
def test_what_the_network_reads_and_writes_has_variance_one(schedule, t):
    """Over pictures of the prior, at every time."""
    process, n = BlurDiffusion(schedule, "residual").given(prior_of(H, W, -0.2)), 600
    noise, eps = torch.randn(2, n, 3, H, W, generator=seeded(), dtype=torch.float64)
    x = idct2(process.prior.mean + process.prior.variance.sqrt() * noise)
    seen = process.network_input(dct2(process.q_sample(x, t, eps)), t)
    for values in (seen, process.target(x, eps, t)):
        assert values.square().mean().item() == pytest.approx(1, abs=0.1)


def test_without_a_prior_nothing_is_estimated():
    with pytest.raises(ValueError, match=r"prior: process.given\(prior\)"):
        BlurDiffusion(SCHEDULES[0], "residual").network_input(torch.zeros(1, 3, H, W), 0.5)


def test_a_chain_starts_around_the_mean_of_the_prior():
    process = BlurDiffusion(SCHEDULES[0], "residual").given(prior_of(H, W, 0.4))
    how = Sampling(2, start_scale=1e-9)
    first = next(sample(process, lambda z, t: z, (1, 3, H, W), how, dtype=torch.float64))
    expected = process.schedule.alpha(1.0, H, W) * process.prior.mean
    torch.testing.assert_close(first.u_t, expected, rtol=1e-4, atol=1e-8)


def run(process, n, steps, solver="ancestral", predict=lambda z, t: torch.zeros_like(z), scale=1.0):
    how = Sampling(steps, 2, solver, start_scale=scale)
    size = (H, W) if process.prior is None else process.prior.mean.shape[-2:]
    *_, last = sample(process, predict, (n, 3, *size), how, dtype=torch.float64)
    return last.u_x_hat


@pytest.mark.slow
@pytest.mark.parametrize("schedule", SCHEDULES)
def test_a_network_that_says_nothing_samples_the_prior(schedule):
    """Mean and variance of every frequency, in many small steps."""
    process = BlurDiffusion(schedule, "residual").given(prior_of(4, 6, 0.4))
    u = run(process, 500, 300)
    torch.testing.assert_close(u.mean((0, 1)), torch.full((4, 6), 0.4).double(), rtol=0, atol=0.05)
    ratio = (u - 0.4).square().mean((0, 1)) / process.prior.variance[0, 0]
    assert ratio.mean().item() == pytest.approx(1, abs=0.06)
    assert 0.75 < ratio.min() < ratio.max() < 1.2


@pytest.mark.parametrize("solver", ["ancestral", "deterministic", "multistep"])
def test_the_chain_is_that_of_a_denoiser_of_x_that_is_a_wiener_filter(solver):
    prior, schedule = prior_of(H, W), SCHEDULES[0]

    def wiener(z_t, t):
        alpha, sigma = schedule.alpha(t[0].item(), H, W), schedule.sigma(t[0].item())
        return idct2(prior.variance * alpha / (alpha**2 * prior.variance + sigma**2) * dct2(z_t))

    torch.testing.assert_close(
        run(BlurDiffusion(schedule, "residual").given(prior), 2, 9, solver),
        run(BlurDiffusion(schedule), 2, 9, solver, wiener),
    )
