"""How far training went, and what more of it would give."""

from typing import NamedTuple

import numpy as np
import pandas as pd
from scipy.optimize import curve_fit

EXPONENTS = (0.05, 2.0)  # between which a fit looks
WARM = 0.1  # part of the steps at the peak learning rate that is left out: no power law holds there


class Forecast(NamedTuple):
    """loss(n) = floor + scale · n^−exponent, and what it says.

    Attributes:
        now: fitted loss after the last step at the peak learning rate; tenfold: after ten times as
            many, outside of all that was seen.
        missed: relative error at the last step of the same law fitted to the first half: how far to
            trust it over a doubling.
    """

    floor: float
    scale: float
    exponent: float
    now: float
    tenfold: float
    missed: float

    @property
    def bounded(self) -> bool:
        """Whether the fit ended at a bound of its exponent: then it forecasts nothing."""
        return bool(np.isclose(self.exponent, EXPONENTS, rtol=0.01).any())

    def at(self, n: float) -> float:
        """The law after n steps."""
        return _law(n, self.floor, self.scale, self.exponent)


def forecast(log: pd.DataFrame) -> Forecast:
    """Fit a power law to a run's loss while its learning rate was at its peak.

    log: columns step, lr and loss, as in ``results/training``.

    Raises ValueError with fewer than 20 rows to fit.
    """
    steady = log[np.isclose(log["lr"], log["lr"].max())]
    steady = steady[steady["step"] > WARM * steady["step"].max()]
    if len(steady) < 20:
        raise ValueError(f"{len(steady)} rows at the peak learning rate: 20 are needed for a fit")
    end = steady["step"].iloc[-1]
    fitted = _fit(steady)
    halfway = _fit(steady[steady["step"] <= end / 2])
    now = _law(end, *fitted)
    return Forecast(*fitted, now, _law(10 * end, *fitted), _law(end, *halfway) / now - 1)


def _law(n, floor: float, scale: float, exponent: float):
    return floor + scale * n**-exponent


def _fit(log: pd.DataFrame) -> tuple[float, float, float]:
    step, loss = log["step"].to_numpy(float), log["loss"].to_numpy()
    start = (loss.min() / 2, loss[0] * step[0] ** 0.5, 0.5)
    bounds = ([0, 0, EXPONENTS[0]], [np.inf, np.inf, EXPONENTS[1]])
    fitted, _ = curve_fit(_law, step, loss, start, bounds=bounds, max_nfev=20_000)
    return tuple(map(float, fitted))
