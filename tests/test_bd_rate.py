import numpy as np
import pytest
from scipy.integrate import trapezoid
from scipy.interpolate import Akima1DInterpolator, PchipInterpolator

from blurlib.evaluation.bd_rate import bd_rate

RATE = np.array([0.08, 0.15, 0.3, 0.55, 0.9, 1.4])
QUALITY = np.array([9.0, 11.2, 13.9, 16.0, 17.8, 19.5])
ANCHOR = np.column_stack([RATE, QUALITY])
TEST = np.column_stack([[0.05, 0.12, 0.2, 0.41, 0.7], [8.1, 10.9, 12.9, 15.7, 17.9]])
INTERPOLATOR = {"akima": Akima1DInterpolator, "pchip": PchipInterpolator}


def integrated(anchor, test, low, high, method):
    """The definition, with the trapezoidal rule on a fine grid."""
    grid = np.linspace(low, high, 20_001)
    f_a, f_t = (INTERPOLATOR[method](c[:, 1], np.log10(c[:, 0]))(grid) for c in (anchor, test))
    return 100 * (10 ** (trapezoid(f_t - f_a, grid) / (high - low)) - 1)


def quality_at(curve, rate, method):
    grid = np.linspace(curve[0, 1], curve[-1, 1], 200_001)
    f = INTERPOLATOR[method](curve[:, 1], np.log10(curve[:, 0]))(grid)
    return grid[np.argmin(np.abs(f - np.log10(rate)))]


@pytest.mark.parametrize("method", ["akima", "pchip"])
@pytest.mark.parametrize("factor", [0.5, 1.0, 1.3])
def test_a_constant_factor_in_rate_is_found_exactly(method, factor):
    shifted = ANCHOR * (factor, 1)
    result = bd_rate(ANCHOR, shifted, method)
    assert result.value == pytest.approx(100 * (factor - 1), abs=1e-9)
    assert (result.low, result.high) == (9.0, 19.5)
    within = bd_rate(ANCHOR, shifted, method, rates=(0.1, 0.8))
    assert within.value == pytest.approx(100 * (factor - 1), abs=1e-9)


@pytest.mark.parametrize("method", ["akima", "pchip"])
def test_agrees_with_numerical_integration(method):
    result = bd_rate(ANCHOR, TEST, method)
    assert (result.low, result.high) == (9.0, 17.9)
    assert result.value == pytest.approx(integrated(ANCHOR, TEST, 9.0, 17.9, method), abs=1e-5)


@pytest.mark.parametrize("method", ["akima", "pchip"])
def test_an_interval_of_rates_cuts_both_curves(method):
    low = max(quality_at(c, 0.1, method) for c in (ANCHOR, TEST))
    high = min(quality_at(c, 0.6, method) for c in (ANCHOR, TEST))
    result = bd_rate(ANCHOR, TEST, method, rates=(0.1, 0.6))
    assert (result.low, result.high) == pytest.approx((low, high), abs=1e-4)
    expected = integrated(ANCHOR, TEST, result.low, result.high, method)
    assert result.value == pytest.approx(expected, abs=1e-5)


def test_neither_a_wide_interval_nor_the_order_of_points_changes_anything():
    assert bd_rate(ANCHOR, TEST, rates=(0.001, 100)) == bd_rate(ANCHOR, TEST)
    assert bd_rate(ANCHOR[::-1], TEST[[3, 0, 4, 1, 2]]) == bd_rate(ANCHOR, TEST)


def changed(row, column, value):
    points = ANCHOR.copy()
    points[row, column] = value
    return points


@pytest.mark.parametrize(
    ("test", "message"),
    [
        (ANCHOR[:3], "test: BD-rate needs at least 4 points, got 3"),
        (changed(2, 1, np.nan), "test: .*finite"),
        (changed(2, 0, np.inf), "test: .*finite"),
        (changed(2, 0, 0), "test: .*positive"),
        (changed(2, 1, 11.2), "test: quality must grow with rate"),
        (changed(2, 0, 0.15), "test: quality must grow with rate"),
        (ANCHOR + np.array([0, 20]), "share no quality: the anchor spans 9–19.5, the test 29–39.5"),
        (RATE, "test: expected points"),
    ],
)
def test_refusals(test, message):
    with pytest.raises(ValueError, match=message):
        bd_rate(ANCHOR, test)


def test_refused_intervals_and_methods():
    with pytest.raises(ValueError, match="akima and pchip"):
        bd_rate(ANCHOR, TEST, "cubic")
    with pytest.raises(ValueError, match="0 < low < high"):
        bd_rate(ANCHOR, TEST, rates=(0.8, 0.1))
    with pytest.raises(ValueError, match="test: no part of the curve lies within 1–2 bpp"):
        bd_rate(ANCHOR, TEST, rates=(1, 2))
    with pytest.raises(ValueError, match=r"share no quality within 0\.1–0\.2 bpp"):
        bd_rate(ANCHOR, ANCHOR + np.array([0, 6]), rates=(0.1, 0.2))
