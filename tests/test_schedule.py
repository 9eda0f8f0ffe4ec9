"""The schedules against their definitions and limits."""

import math

import numpy as np
import pytest
import torch

from blurlib.diffusion.schedule import BlurSchedule

T = torch.linspace(0, 1, 21, dtype=torch.float64)


def test_logsnr_is_the_cut_cosine_schedule():
    schedule = BlurSchedule(logsnr_min=-8, logsnr_max=12)
    logsnr = schedule.logsnr(T)
    assert logsnr[0].item() == pytest.approx(12)
    assert logsnr[-1].item() == pytest.approx(-8)
    a, sigma = schedule.a(T), schedule.sigma(T)
    torch.testing.assert_close(a**2 + sigma**2, torch.ones_like(T))
    torch.testing.assert_close(torch.log(a**2 / sigma**2), logsnr)
    # a = cos φ, σ = sin φ with an angle φ that grows linearly: the cosine schedule.
    angle = torch.atan2(schedule.sigma(T), schedule.a(T))
    torch.testing.assert_close(angle.diff(), angle.diff().mean().expand(20), rtol=1e-9, atol=0)


@pytest.mark.parametrize("blur_max", [0, 20])
@pytest.mark.parametrize("t", [0.0, 0.3, 1.0])
def test_damping_against_numpy_at_every_frequency(t, blur_max):
    H, W, schedule = 5, 8, BlurSchedule(sigma_blur_max=blur_max)
    k, l = np.mgrid[:H, :W]
    tau = (blur_max * math.sin(math.pi * t / 2) ** 2) ** 2 / 2
    reference = 0.999 * np.exp(-(math.pi**2) * (k**2 / H**2 + l**2 / W**2) * tau) + 0.001
    np.testing.assert_allclose(schedule.damping(t, H, W)[0, 0], reference, rtol=1e-12)
    alpha = schedule.alpha(torch.tensor([t, 0.9]), H, W)
    assert alpha.shape == (2, 1, H, W)
    np.testing.assert_allclose(alpha[0, 0], reference * schedule.a(t).item(), rtol=1e-6)


@pytest.mark.parametrize("steps", [1, 2, 4, 8, 17, 65])
@pytest.mark.parametrize("spacing", ["logsnr", "uniform"])
def test_times_fall_from_one_in_equal_steps(spacing, steps):
    schedule = BlurSchedule(logsnr_min=-8, logsnr_max=12)
    times = schedule.times(steps, spacing)
    assert len(times) == steps
    assert times[0] == 1
    end = torch.tensor([*times, 0.0], dtype=torch.float64)
    equal = schedule.logsnr(end) if spacing == "logsnr" else end
    span = 20 if spacing == "logsnr" else -1
    torch.testing.assert_close(equal.diff(), torch.full_like(end[1:], span / steps))


def test_time_of_inverts_logsnr():
    schedule = BlurSchedule()
    torch.testing.assert_close(schedule.time_of(schedule.logsnr(T)), T, rtol=0, atol=1e-12)
    assert schedule.time_of(-1e3) == 1  # beyond the schedule: its end


def test_coefficients_are_float64_whatever_the_time():
    for t in (0.5, torch.tensor([0.5]), torch.tensor([0.5], dtype=torch.float16)):
        assert BlurSchedule().alpha(t, 2, 2).dtype == torch.float64
        assert BlurSchedule().sigma(t).item() == pytest.approx(math.sqrt(0.5))


@pytest.mark.parametrize(
    ("parameters", "named"),
    [
        ({"sigma_blur_max": -1}, "-1"),
        ({"sigma_blur_max": math.nan}, "nan"),
        ({"d_min": 0}, "0"),
        ({"d_min": 1.5}, "1.5"),
        ({"logsnr_min": 3, "logsnr_max": 3}, "3 and 3"),
        ({"logsnr_max": math.inf}, "inf"),
    ],
)
def test_parameters_out_of_range_are_refused(parameters, named):
    with pytest.raises(ValueError, match=named):
        BlurSchedule(**parameters)


@pytest.mark.parametrize("t", [-0.1, 1.01, math.nan, torch.tensor([0.5, 2.0])])
def test_times_out_of_range_are_refused(t):
    with pytest.raises(ValueError, match=r"must lie in \[0, 1\]"):
        BlurSchedule().logsnr(t)
    with pytest.raises(ValueError, match="at least 1 step, got 0"):
        BlurSchedule().times(0)
    with pytest.raises(ValueError, match="logsnr, uniform, got 'karras'"):
        BlurSchedule().times(4, "karras")
