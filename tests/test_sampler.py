"""Samplers: what a perfect predictor must give, repeatability, spectra and orders known before."""

import math
from itertools import pairwise

import pytest
import torch
from diffusers import DPMSolverMultistepScheduler

from blurlib.diffusion.dct import dct2, frequencies, idct2
from blurlib.diffusion.process import BlurDiffusion
from blurlib.diffusion.sampler import Sampling, sample
from blurlib.diffusion.schedule import BlurSchedule

SOLVERS = ["ancestral", "deterministic", "multistep"]
SHAPE = (2, 3, 6, 5)
H, W = SHAPE[-2:]


def seeded(seed=0):
    return torch.Generator().manual_seed(seed)


def chain(schedule, predict, shape, steps, **how):
    """The states of a chain that predicts x, in float64."""
    process = BlurDiffusion(schedule)
    return sample(process, predict, shape, Sampling(steps, **how), dtype=torch.float64)


@pytest.mark.parametrize("solver", SOLVERS)
@pytest.mark.parametrize("prediction", ["x", "eps", "v"])
@pytest.mark.parametrize("spacing", ["logsnr", "uniform"])
@pytest.mark.parametrize("steps", [1, 2, 17])
def test_a_perfect_predictor_gives_the_picture(solver, prediction, spacing, steps):
    process = BlurDiffusion(BlurSchedule(sigma_blur_max=2), prediction)
    x = torch.randn(SHAPE, generator=seeded(1), dtype=torch.float64)

    def predict(z_t, t):
        alpha, sigma = process.schedule.alpha(t, H, W), process.schedule.sigma(t)
        eps = (z_t - idct2(alpha * dct2(x))) / sigma[:, None, None, None]
        return process.target(x, eps, t)

    how = Sampling(steps, solver=solver, spacing=spacing)
    states = list(sample(process, predict, SHAPE, how, dtype=torch.float64))
    assert [state.step for state in states] == list(range(steps))
    assert tuple(state.t for state in states) == process.schedule.times(steps, spacing)
    for state in states:
        torch.testing.assert_close(state.x_hat, x, rtol=0, atol=1e-7)


def test_ancestral_states_follow_the_forward_process():
    """With the true x the chain's z_t is distributed as q(z_t | x), at every step."""
    process = BlurDiffusion(BlurSchedule(sigma_blur_max=2))
    x = torch.randn(1, 3, 4, 4, generator=seeded(1))
    shape = (20_000, 3, 4, 4)
    for state in sample(process, lambda z, t: x.expand(shape), shape, Sampling(4)):
        if state.t < 1:  # at t = 1 the chain starts without the trace of x that q leaves
            u_t, alpha = dct2(state.z), process.schedule.alpha(state.t, 4, 4).float()
            sigma = process.schedule.sigma(state.t).item()
            mean, tolerance = u_t.mean(0, keepdim=True), 5 * sigma / 20_000**0.5
            torch.testing.assert_close(mean, alpha * dct2(x), rtol=0, atol=tolerance)
            torch.testing.assert_close(u_t.std(0), torch.full((3, 4, 4), sigma), rtol=0.03, atol=0)


@pytest.mark.parametrize("solver", SOLVERS)
def test_the_network_runs_once_a_step_without_gradients(solver):
    seen = []
    weight = torch.ones((), requires_grad=True)

    def predict(z_t, t):
        seen.append(t)
        assert t.shape == (2,)
        assert t.dtype == z_t.dtype == torch.float32
        return weight * z_t

    states = sample(BlurDiffusion(BlurSchedule()), predict, SHAPE, Sampling(5, solver=solver))
    assert seen == []
    for count, state in enumerate(states, start=1):
        assert len(seen) == count
        assert not state.x_hat.requires_grad
        assert torch.is_grad_enabled()
    assert count == 5


def test_start_scale_only_scales_the_start():
    process = BlurDiffusion(BlurSchedule())

    def first_z(start_scale):
        how = Sampling(2, start_scale=start_scale)
        return next(sample(process, lambda z, t: z, SHAPE, how)).z

    torch.testing.assert_close(first_z(0.8), 0.8 * first_z(1.0))
    assert first_z(1.0).std().item() == pytest.approx(1, abs=0.2)


@pytest.mark.parametrize(
    ("change", "named"),
    [
        *(
            ({"steps": wrong}, "steps must be a whole number from 1 to 10000")
            for wrong in (0, 10**9, 1.5, "4")
        ),
        *(({"seed": wrong}, "seed must be a whole number from 0") for wrong in (-1, 2**64, 1.5)),
        ({"start_scale": -1}, r"start_scale must be 0 or more, such as 0\.8, got -1"),
        ({"start_scale": math.nan}, "got nan"),
        ({"solver": "heun"}, "ancestral, deterministic, multistep, got 'heun'"),
        ({"spacing": "karras"}, "logsnr, uniform, got 'karras'"),
    ],
)
def test_a_sampling_that_cannot_be_is_refused(change, named):
    with pytest.raises(ValueError, match=named):
        Sampling(**change)


def test_a_shape_that_is_none_of_pictures_is_refused_before_the_first_step():
    with pytest.raises(ValueError, match=r"\(6, 5\)"):
        sample(BlurDiffusion(BlurSchedule()), lambda z, t: z, (6, 5), Sampling(2))


@pytest.mark.parametrize("steps", [2, 3, 8])
def test_isotropic_multistep_equals_diffusers_dpm_solver(steps):
    """DPM-Solver++(2M), its mid-point variant, at our times, with a network that is not linear."""
    schedule = BlurSchedule(sigma_blur_max=0)
    times = torch.tensor(schedule.times(steps), dtype=torch.float64)
    scheduler = DPMSolverMultistepScheduler(prediction_type="sample", lower_order_final=False)
    scheduler.num_inference_steps, scheduler.timesteps = steps, torch.arange(steps)
    ratio = schedule.sigma(times) / schedule.a(times)
    scheduler.sigmas = torch.cat([ratio, ratio.new_zeros(1)])

    def predict(z, t):
        return (3 * z).tanh() + t[:, None, None, None]

    states = list(chain(schedule, predict, SHAPE, steps, solver="multistep"))
    z = states[0].z
    for i, state in enumerate(states):
        torch.testing.assert_close(state.z, z, rtol=0, atol=1e-6)  # diffusers: float32
        z = scheduler.step(predict(z, times[i].expand(2)), i, z).prev_sample


# Gaussian pictures, u_x ~ N(0, S), S falling with frequency: E[u_x | u_t] = α S/(α² S + σ²) u_t.

S = 1 / (1 + 2 * frequencies(H, W))
SCHEDULES = [BlurSchedule(0.0), BlurSchedule(2.0)]


def power(schedule, t):
    """Variance of u_t."""
    return schedule.alpha(t, H, W) ** 2 * S + schedule.sigma(t) ** 2


def knows_the_spectrum(schedule, S=S):
    def predict(z_t, t):
        alpha, sigma = schedule.alpha(t[0].item(), H, W), schedule.sigma(t[0].item())
        return idct2(alpha * S / (alpha**2 * S + sigma**2) * dct2(z_t))

    return predict


@pytest.mark.parametrize("schedule", SCHEDULES)
@pytest.mark.parametrize(("solver", "order"), [("deterministic", 1), ("multistep", 2)])
@pytest.mark.parametrize("spacing", ["logsnr", pytest.param("uniform", marks=pytest.mark.slow)])
def test_errors_fall_at_the_order_of_the_solver(schedule, solver, order, spacing):
    """The flow takes u_1 to u_1 · sqrt(Var u_t / Var u_1); compared three quarters of the way."""

    def error(steps):
        how = {"solver": solver, "spacing": spacing}
        predict = knows_the_spectrum(schedule)
        states = list(chain(schedule, predict, SHAPE, steps, **how))
        state = states[3 * steps // 4]
        exact = dct2(states[0].z) * (power(schedule, state.t) / power(schedule, 1.0)).sqrt()
        return (dct2(state.z) - exact).square().mean().sqrt().item()

    errors = [error(steps) for steps in (64, 128, 256)]
    slopes = [math.log2(a / b) for a, b in pairwise(errors)]
    assert slopes[-1] == pytest.approx(order, abs=0.15), slopes
    assert slopes[0] == pytest.approx(order, abs=0.3), slopes
