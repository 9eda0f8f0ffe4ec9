"""Samplers: what a perfect predictor must give, repeatability, and a spectrum known in advance."""

import pytest
import torch

from blurlib.diffusion.dct import dct2, frequencies, idct2
from blurlib.diffusion.process import BlurDiffusion
from blurlib.diffusion.sampler import ancestral, deterministic, last_x_hat
from blurlib.diffusion.schedule import BlurSchedule

SAMPLERS = [ancestral, deterministic]
SHAPE = (2, 3, 6, 5)


def seeded(seed=0):
    return torch.Generator().manual_seed(seed)


@pytest.mark.parametrize("sampler", SAMPLERS)
@pytest.mark.parametrize("prediction", ["x", "eps", "v"])
@pytest.mark.parametrize("steps", [1, 2, 17])
def test_a_perfect_predictor_gives_the_picture(sampler, prediction, steps):
    process = BlurDiffusion(BlurSchedule(sigma_blur_max=2), prediction)
    x = torch.randn(SHAPE, generator=seeded(1), dtype=torch.float64)

    def predict(z_t, t):
        alpha, sigma = process.schedule.alpha(t, 6, 5), process.schedule.sigma(t)
        eps = (z_t - idct2(alpha * dct2(x))) / sigma[:, None, None, None]
        return process.target(x, eps, t)

    states = list(sampler(process, predict, SHAPE, steps, seeded(), dtype=torch.float64))
    assert [state.step for state in states] == list(range(steps))
    assert [state.t for state in states] == pytest.approx([1 - i / steps for i in range(steps)])
    for state in states:
        torch.testing.assert_close(state.x_hat, x, rtol=0, atol=1e-7)


def test_ancestral_states_follow_the_forward_process():
    """With the true x the chain's z_t is distributed as q(z_t | x), at every step."""
    process = BlurDiffusion(BlurSchedule(sigma_blur_max=2))
    x = torch.randn(1, 3, 4, 4, generator=seeded(1))
    shape = (20_000, 3, 4, 4)
    for state in ancestral(process, lambda z, t: x.expand(shape), shape, 4, seeded()):
        if state.t < 1:  # at t = 1 the chain starts without the trace of x that q leaves
            u_t, alpha = dct2(state.z), process.schedule.alpha(state.t, 4, 4).float()
            sigma = process.schedule.sigma(state.t).item()
            torch.testing.assert_close(
                u_t.mean(0, keepdim=True), alpha * dct2(x), rtol=0, atol=5 * sigma / 20_000**0.5
            )
            torch.testing.assert_close(u_t.std(0), torch.full((3, 4, 4), sigma), rtol=0.03, atol=0)


@pytest.mark.parametrize("sampler", SAMPLERS)
def test_a_seed_repeats_a_decode(sampler):
    process = BlurDiffusion(BlurSchedule())

    def decode(seed):
        return last_x_hat(sampler(process, lambda z, t: z.tanh(), SHAPE, 3, seeded(seed)))

    assert torch.equal(decode(0), decode(0))
    assert not torch.equal(decode(0), decode(1))


@pytest.mark.parametrize("sampler", SAMPLERS)
def test_the_network_runs_once_a_step_without_gradients(sampler):
    seen = []
    weight = torch.ones((), requires_grad=True)

    def predict(z_t, t):
        seen.append(t)
        assert t.shape == (2,)
        assert t.dtype == z_t.dtype == torch.float32
        return weight * z_t

    states = sampler(BlurDiffusion(BlurSchedule()), predict, SHAPE, 5, seeded())
    assert seen == []
    for count, state in enumerate(states, start=1):
        assert len(seen) == count
        assert not state.x_hat.requires_grad
        assert torch.is_grad_enabled()
    assert count == 5


def test_noise_scale_only_scales_the_start():
    process = BlurDiffusion(BlurSchedule())

    def first_z(noise_scale):
        return next(
            deterministic(process, lambda z, t: z, SHAPE, 2, seeded(), noise_scale=noise_scale)
        ).z

    assert (first_z(0.0) == 0).all()
    torch.testing.assert_close(first_z(0.5), 0.5 * first_z(1.0))
    assert first_z(1.0).std().item() == pytest.approx(1, abs=0.2)


@pytest.mark.parametrize("sampler", SAMPLERS)
def test_refusals_come_before_the_first_step(sampler):
    process = BlurDiffusion(BlurSchedule())
    with pytest.raises(ValueError, match="at least 1 step, got 0"):
        sampler(process, lambda z, t: z, SHAPE, 0, seeded())
    with pytest.raises(ValueError, match=r"\(6, 5\)"):
        sampler(process, lambda z, t: z, (6, 5), 1, seeded())
    with pytest.raises(ValueError, match=r"noise_scale .* -1"):
        sampler(process, lambda z, t: z, SHAPE, 1, seeded(), noise_scale=-1)


@pytest.mark.slow
@pytest.mark.parametrize("sampler", SAMPLERS)
@pytest.mark.parametrize("sigma_blur_max", [0.0, 2.0])
def test_gaussian_pictures_come_out_with_their_spectrum(sampler, sigma_blur_max):
    """u_x ~ N(0, S), S falling with frequency: E[u_x | u_t] = α S/(α² S + σ²) u_t is known."""
    process = BlurDiffusion(BlurSchedule(sigma_blur_max))
    shape = (1024, 3, 6, 5)
    S = 1 / (1 + 2 * frequencies(6, 5))

    def predict(z_t, t):
        alpha = process.schedule.alpha(t[0].item(), 6, 5)
        gain = alpha * S / (alpha**2 * S + process.schedule.sigma(t[0].item()) ** 2)
        return idct2(gain * dct2(z_t))

    x_hat = last_x_hat(sampler(process, predict, shape, 500, seeded(), dtype=torch.float64))
    spectrum = dct2(x_hat).square().mean(dim=(0, 1))
    torch.testing.assert_close(spectrum, S, rtol=0.12, atol=0)
