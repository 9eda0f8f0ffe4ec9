"""The forecast of a training run."""

import numpy as np
import pandas as pd
import pytest

from blurlib.evaluation.learning import forecast


def log(floor: float, scale: float, exponent: float, noise: float = 0.0) -> pd.DataFrame:
    """A run of 10,000 steps that follows the law until its learning rate falls."""
    step = np.arange(50, 10_001, 50)
    loss = floor + scale * step**-exponent
    loss += noise * np.random.default_rng(0).standard_normal(len(step))
    loss[step > 8000] -= 0.2  # the drop that a falling rate brings is not the law's
    lr = np.where(step > 8000, 1e-4, 1e-3)
    return pd.DataFrame({"step": step, "lr": lr, "loss": loss})


@pytest.mark.parametrize("law", [(1.0, 13.0, 0.44), (0.3, 5.0, 0.2)])
def test_a_power_law_is_found_and_continued(law):
    floor, scale, exponent = law
    found = forecast(log(*law))
    assert (found.floor, found.exponent) == pytest.approx((floor, exponent), rel=1e-2)
    assert found.now == pytest.approx(floor + scale * 8000**-exponent, rel=1e-4)
    assert found.tenfold == pytest.approx(floor + scale * 80_000**-exponent, rel=1e-3)
    assert abs(found.missed) < 1e-3
    assert not found.bounded


def test_a_loss_that_falls_with_the_logarithm_of_the_steps_has_no_forecast():
    """n^−c with c → 0: the fit ends where it may look no further."""
    found = forecast(log(0.0, 0.0, 1.0).assign(loss=lambda f: 3 - 0.05 * np.log(f["step"])))
    assert found.bounded


def test_noise_moves_the_forecast_little_and_the_miss_shows_it():
    exact, noisy = forecast(log(1.0, 13.0, 0.44)), forecast(log(1.0, 13.0, 0.44, noise=0.02))
    assert noisy.tenfold == pytest.approx(exact.tenfold, rel=0.05)
    assert 0 < abs(noisy.missed) < 0.05


def test_too_short_a_log_is_refused():
    with pytest.raises(ValueError, match="12 rows at the peak learning rate"):
        forecast(log(1.0, 13.0, 0.44).head(12).assign(step=range(100, 112)))
