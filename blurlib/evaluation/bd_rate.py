"""BD-rate: how many per cent more bits the test codec needs for the same quality, on average.

G. Bjøntegaard, VCEG-M33 (2001), with Akima or PCHIP instead of the cubic fit: C. Herglotz et al.,
arXiv 2202.12565. The interpolation is the ``bjontegaard`` package's.
"""

from dataclasses import dataclass, field
from typing import Literal

import bjontegaard
import numpy as np
from numpy.typing import ArrayLike
from scipy.interpolate import PPoly

Method = Literal["akima", "pchip"]


@dataclass(frozen=True)
class BdRate:
    """A BD-rate and what it was averaged over.

    Attributes:
        value: in per cent; negative: the test codec needs fewer bits than the anchor.
        low, high: the interval of quality averaged over, in the unit of the input.
        f_anchor, f_test: log₁₀ of the rate over quality; their knots ``x`` are the points.
    """

    value: float
    low: float
    high: float
    f_anchor: PPoly = field(compare=False, repr=False)
    f_test: PPoly = field(compare=False, repr=False)


def bd_rate(
    anchor: ArrayLike,
    test: ArrayLike,
    method: Method = "akima",
    rates: tuple[float, float] | None = None,
) -> BdRate:
    """Average rate difference of two curves, each ``(n, 2)``: (bits per pixel, quality), n ≥ 4.

    Quality grows with rate and should be in dB (PSNR, or MS-SSIM in dB). With each curve as
    log₁₀ r = f(D) over quality D, and [D₀, D₁] the qualities that both reach,

        value = 100·(10^m − 1),   m = 1/(D₁ − D₀) · ∫_{D₀}^{D₁} (f_test − f_anchor) dD.

    ``rates = (r₀, r₁)`` restricts both to that interval of rate: all points still shape f, and each
    curve is cut where f crosses log₁₀ r₀ and log₁₀ r₁ (or ends where its own points end). [D₀, D₁]
    is then what both reach between the cuts.

    Raises ValueError for fewer than four points, values that are not finite or rates that are not
    positive, a quality that does not grow with rate, and curves that share no quality.
    """
    if method not in ("akima", "pchip"):
        raise ValueError(f"no BD-rate method {method!r}; there are akima and pchip")
    rate_a, quality_a = _checked(anchor, "anchor")
    rate_t, quality_t = _checked(test, "test")
    span_a, span_t = (quality_a[0], quality_a[-1]), (quality_t[0], quality_t[-1])
    _refuse_apart(span_a, span_t, "")
    curves = rate_a, quality_a, rate_t, quality_t
    how = {"require_matching_points": False, "interpolators": True, "min_overlap": 0}
    _, f_a, f_t = bjontegaard.bd_rate(*curves, method=method, **how)
    if rates is not None:
        span_a = _cut(f_a, rate_a, quality_a, rates, "anchor")
        span_t = _cut(f_t, rate_t, quality_t, rates, "test")
        _refuse_apart(span_a, span_t, f" within {rates[0]}–{rates[1]} bpp")
    low, high = max(span_a[0], span_t[0]), min(span_a[1], span_t[1])
    mean = (f_t.integrate(low, high) - f_a.integrate(low, high)) / (high - low)
    value = 100 * (10**mean - 1)
    return BdRate(float(value), float(low), float(high), f_a, f_t)


def _checked(points: ArrayLike, name: str) -> tuple[np.ndarray, np.ndarray]:
    """Rates and qualities in order of rate."""
    curve = np.asarray(points, dtype=float)
    if curve.ndim != 2 or curve.shape[1] != 2:
        raise ValueError(f"{name}: expected points (rate, quality), got shape {curve.shape}")
    if len(curve) < 4:
        raise ValueError(f"{name}: BD-rate needs at least 4 points, got {len(curve)}")
    if not np.isfinite(curve).all() or (curve[:, 0] <= 0).any():
        raise ValueError(f"{name}: rates must be positive, and rates and qualities finite")
    rate, quality = curve[np.argsort(curve[:, 0])].T
    for i in range(1, len(rate)):
        if rate[i] == rate[i - 1] or quality[i] <= quality[i - 1]:
            raise ValueError(
                f"{name}: quality must grow with rate, but goes from {quality[i - 1]:.6g} "
                f"at {rate[i - 1]:.6g} to {quality[i]:.6g} at {rate[i]:.6g}"
            )
    return rate, quality


def _cut(
    f: PPoly, rate: np.ndarray, quality: np.ndarray, rates: tuple[float, float], name: str
) -> tuple[float, float]:
    """The curve's span of quality while its rate is inside ``rates``."""
    low, high = rates
    if not 0 < low < high:
        raise ValueError(f"the interval of rates must be 0 < low < high, got {low}, {high}")
    if rate[-1] <= low or rate[0] >= high:
        raise ValueError(f"{name}: no part of the curve lies within {low}–{high} bpp")
    start = quality[0] if rate[0] >= low else f.solve(np.log10(low), extrapolate=False)[0]
    end = quality[-1] if rate[-1] <= high else f.solve(np.log10(high), extrapolate=False)[-1]
    return start, end


def _refuse_apart(a: tuple[float, float], t: tuple[float, float], where: str) -> None:
    if max(a[0], t[0]) >= min(a[1], t[1]):
        raise ValueError(
            f"the curves share no quality{where}: the anchor spans {a[0]:.6g}–{a[1]:.6g}, "
            f"the test {t[0]:.6g}–{t[1]:.6g}"
        )
