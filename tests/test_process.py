"""Forward process, posterior and predictions, against Gaussians worked out numerically."""

import numpy as np
import pytest
import torch
from diffusers import DDIMScheduler
from scipy.fft import dctn

from blurlib.diffusion.dct import dct2, idct2
from blurlib.diffusion.prior import Prior
from blurlib.diffusion.process import BlurDiffusion, diffusion_loss
from blurlib.diffusion.schedule import BlurSchedule

H, W = 6, 5
BLUR, ISOTROPIC = BlurSchedule(), BlurSchedule(sigma_blur_max=0)
PREDICTIONS = ["x", "eps", "v"]


def randn(*shape, seed=0):
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


@pytest.mark.parametrize("schedule", [BLUR, ISOTROPIC])
def test_transitions_compose(schedule):
    """q(u_s | u_x), then q(u_t | u_s), is q(u_t | u_x); and r → s → t is r → t."""
    process = BlurDiffusion(schedule)
    r, s, t = torch.rand(3, 50, dtype=torch.float64).sort(dim=0).values
    alpha_ts, variance_ts = process.transition(s, t, H, W)
    assert (variance_ts > 0).all()

    squares = ((schedule.sigma(time) ** 2)[:, None, None, None] for time in (s, t))
    of_s, of_t = (square.expand_as(alpha_ts) for square in squares)
    torch.testing.assert_close(alpha_ts * schedule.alpha(s, H, W), schedule.alpha(t, H, W))
    torch.testing.assert_close(alpha_ts**2 * of_s + variance_ts, of_t)
    alpha_sr, variance_sr = process.transition(r, s, H, W)
    alpha_tr, variance_tr = process.transition(r, t, H, W)
    torch.testing.assert_close(alpha_ts * alpha_sr, alpha_tr)
    torch.testing.assert_close(alpha_ts**2 * variance_sr + variance_ts, variance_tr)


def process_of(schedule, prediction):
    """A process that can be asked for `prediction`, with a prior where that needs one."""
    process = BlurDiffusion(schedule, prediction)
    if prediction == "residual":
        variance = torch.linspace(0.5, 0.01, H * W, dtype=torch.float64).reshape(1, 1, H, W)
        process = process.given(Prior(0.3 * randn(1, 3, H, W, seed=9), variance))
    return process


# No blur: diffusers' scheduler, stepped from the same t to the same s.

STEPS = 20


def times_of(index):
    return (index + 1) / STEPS


@pytest.mark.parametrize("prediction", PREDICTIONS)
@pytest.mark.parametrize("jump", [1, 5])
def test_isotropic_deterministic_step_equals_diffusers_ddim(prediction, jump):
    names = {"x": "sample", "eps": "epsilon", "v": "v_prediction"}
    scheduler = DDIMScheduler(STEPS, prediction_type=names[prediction], clip_sample=False)
    scheduler.alphas_cumprod = ISOTROPIC.a(times_of(torch.arange(STEPS))) ** 2
    scheduler.set_timesteps(STEPS // jump)
    process, index = BlurDiffusion(ISOTROPIC, prediction), 12
    z_t, output = randn(2, 3, H, W), randn(2, 3, H, W, seed=1)
    reference = scheduler.step(output, index, z_t, eta=0.0)
    s, t = times_of(index - jump), times_of(index)
    u_x_hat = process.u_x_hat(dct2(z_t), output, t)
    u_s = process.deterministic_step(dct2(z_t), u_x_hat, s, t)
    torch.testing.assert_close(idct2(u_s), reference.prev_sample, rtol=0, atol=1e-6)
    x_hat = process.x_hat(z_t, output, times_of(index))
    torch.testing.assert_close(x_hat, reference.pred_original_sample, rtol=0, atol=1e-6)


# What the network predicts


@pytest.mark.parametrize("schedule", [BLUR, ISOTROPIC])
@pytest.mark.parametrize("prediction", [*PREDICTIONS, "residual"])
def test_the_right_output_gives_back_picture_and_noise(schedule, prediction):
    process = process_of(schedule, prediction)
    x, eps = randn(4, 3, H, W), randn(4, 3, H, W, seed=1)
    t = torch.tensor([0.0, 0.1, 0.5, 1.0], dtype=torch.float64)
    z_t = process.q_sample(x, t, eps)
    output = process.target(x, eps, t)
    u_x_hat = process.u_x_hat(dct2(z_t), output, t)
    torch.testing.assert_close(idct2(u_x_hat), x, rtol=0, atol=1e-8)
    torch.testing.assert_close(process.x_hat(z_t, output, t), x, rtol=0, atol=1e-8)


@pytest.mark.parametrize("schedule", [BLUR, ISOTROPIC])
@pytest.mark.parametrize("prediction", PREDICTIONS)
def test_closed_forms_to_ten_digits(schedule, prediction):
    """z_t, û_x and the deterministic step, written out with scipy's DCT and numpy."""
    process, s, t = BlurDiffusion(schedule, prediction), 0.15, 0.2
    x, eps, output = (randn(1, 3, H, W, seed=seed) for seed in range(3))
    alpha_s, alpha = (schedule.alpha(time, H, W).numpy() for time in (s, t))
    sigma_s, sigma = (schedule.sigma(time).item() for time in (s, t))

    def dct(x):
        return dctn(x.numpy(), axes=(-2, -1), norm="ortho")

    u_t = alpha * dct(x) + sigma * dct(eps)
    np.testing.assert_allclose(dct(process.q_sample(x, t, eps)), u_t, rtol=0, atol=1e-10)
    u_out = dct(output)
    # The pair (û_x, û_ε) solves u_t = α û_x + σ û_ε and the definition of the output.
    equation = {"x": (1, 0), "eps": (0, 1), "v": (-sigma, alpha)}[prediction]
    of_x, of_eps = (np.broadcast_to(c, alpha.shape) for c in equation)
    matrix = np.stack([np.stack([alpha, sigma + 0 * alpha], -1), np.stack([of_x, of_eps], -1)], -2)
    pair = np.linalg.solve(matrix, np.stack([u_t, u_out], -1)[..., None])[..., 0]
    u_x_hat = process.u_x_hat(torch.from_numpy(u_t), output, t)
    np.testing.assert_allclose(u_x_hat.numpy(), pair[..., 0], rtol=1e-10, atol=1e-10)
    u_s = process.deterministic_step(torch.from_numpy(u_t), u_x_hat, s, t)
    reference = alpha_s * pair[..., 0] + sigma_s * pair[..., 1]
    np.testing.assert_allclose(u_s.numpy(), reference, rtol=1e-10, atol=1e-10)
    # Bayes with precisions, the form the equations are published in.
    step = alpha / alpha_s
    noise = sigma**2 - step**2 * sigma_s**2
    variance = 1 / (1 / sigma_s**2 + step**2 / noise)
    mean = variance * (step / noise * u_t + alpha_s / sigma_s**2 * pair[..., 0])
    posterior = process.posterior(torch.from_numpy(u_t), u_x_hat, s, t)
    np.testing.assert_allclose(posterior.mean.numpy(), mean, rtol=1e-10, atol=1e-10)
    np.testing.assert_allclose(posterior.variance.numpy(), variance, rtol=1e-10)


def test_float32_pictures_keep_their_dtype():
    process = BlurDiffusion(BLUR, "v")
    x = randn(2, 3, H, W).float()
    z_t = process.q_sample(x, torch.tensor([0.2, 0.9]), x)
    u_x_hat = process.u_x_hat(dct2(z_t), x.bfloat16(), 0.5)
    step = process.deterministic_step(x, x, 0.1, 0.2)
    results = [z_t, process.target(x, x, 0.3), u_x_hat, step, *process.posterior(x, x, 0.1, 0.2)]
    assert {result.dtype for result in results} == {torch.float32}


@pytest.mark.parametrize("schedule", [BlurSchedule(sigma_blur_max=2), ISOTROPIC])
@pytest.mark.parametrize("prediction", [*PREDICTIONS, "residual"])
def test_the_loss_is_the_squared_error_of_the_output(schedule, prediction):
    """From the errors of x̂, ε̂ and v̂ themselves, of a network whose x̂ is known."""
    process = process_of(schedule, prediction)
    x, eps, x_hat = randn(3, 3, H, W), randn(3, 3, H, W, seed=1), randn(3, 3, H, W, seed=2)
    t = torch.tensor([0.1, 0.4, 0.9], dtype=torch.float64)
    alpha, sigma = schedule.alpha(t, H, W), schedule.sigma(t)[:, None, None, None]
    d_x = dct2(x_hat - x)
    d_eps = -alpha * d_x / sigma  # z_t is what it is

    def predict(seen, t):
        return process.target(x_hat, eps + idct2(d_eps), t)

    loss, found = diffusion_loss(process, predict, x, t, eps)
    torch.testing.assert_close(found, x_hat)
    if prediction == "residual":  # in units of what the Wiener filter leaves
        left = 1 / (1 / process.prior.variance + (alpha / sigma) ** 2)
        error = d_x / left.mean((1, 2, 3), keepdim=True).sqrt()
    else:
        error = {"x": d_x, "eps": d_eps, "v": alpha * d_eps - sigma * d_x}[prediction]
    torch.testing.assert_close(loss, error.square().mean((1, 2, 3)))


def test_what_there_is_not_is_refused():
    with pytest.raises(ValueError, match=r"σ_s − σ_t = 0\.5"):
        BlurDiffusion(BLUR).transition(torch.tensor([0.1, 0.75]), 0.25, H, W)
    with pytest.raises(ValueError, match="x, eps, v, residual, got 'noise'"):
        BlurDiffusion(BLUR, "noise")
