"""What the comparison of thumbnails says, from its files alone, and what it can say at all."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pandas as pd
import scipy.optimize
import scipy.stats

from experiments.record import Spread, read_table

ALPHA, POWER = 0.05, 0.8
MEASURES = ("lpips", "kernel")  # smaller is better; the first decides, the second supports
SAMPLER = ["solver", "spacing", "steps"]


class Difference(NamedTuple):
    """Blur minus isotropic diffusion, paired by seed: below 0, blur is better. p: of the paired
    t-test, two-sided; low, high: confidence 1 − α; detectable: as below, with this spread."""

    difference: float
    low: float
    high: float
    p: float
    detectable: float


def detectable(std: float, n: int, alpha: float = ALPHA, power: float = POWER) -> float:
    """The true mean of n paired differences, of standard deviation `std`, that a two-sided t-test
    at level α finds with probability `power`: that of |z + √n·mean/std| > limit · s, z normal, s²
    chi-squared over its n − 1 degrees of freedom. (A test by signs or permutations of 4 pairs never
    goes below p = 1/8.)"""
    limit = scipy.stats.t.ppf(1 - alpha / 2, n - 1)
    s = np.sqrt(scipy.stats.chi2.ppf((np.arange(10_000) + 0.5) / 10_000, n - 1) / (n - 1))

    def lacking(shift: float) -> float:
        found = scipy.stats.norm.sf(limit * s - shift) + scipy.stats.norm.cdf(-limit * s - shift)
        return found.mean() - power

    return std / np.sqrt(n) * scipy.optimize.brentq(lacking, 0, 1e4)


def paired(blur: Sequence[float], isotropic: Sequence[float], alpha: float = ALPHA) -> Difference:
    """Of runs that share their seeds, in order."""
    apart = np.asarray(blur, float) - np.asarray(isotropic, float)
    test = scipy.stats.ttest_1samp(apart, 0.0)
    least = detectable(apart.std(ddof=1), len(apart), alpha)
    values = apart.mean(), *test.confidence_interval(1 - alpha), test.pvalue, least
    return Difference(*map(float, values))


def best(choice: pd.DataFrame, decoder: str, measure: str) -> dict:
    """The sampler of a process that is best by a measure on the thumbnails that choose."""
    table = choice[choice["decoder"] == decoder].reset_index()
    return table.loc[table[measure].idxmin(), SAMPLER].to_dict()


def duels(folder: Path) -> pd.DataFrame:
    """A row per blur and measure, each process with its own best sampler; α is shared out among
    the blurs."""
    choice, table = (read_table(folder / f"{name}.csv") for name in ("choice", "measures"))
    blurs, rows = sorted({*choice["decoder"]} - {"isotropic"}), []
    for blur, measure in itertools.product(blurs, MEASURES):
        row, columns = {"process": blur, "measure": measure}, []
        for side, name in (("blur", blur), ("isotropic", "isotropic")):
            way = best(choice, name, measure)
            runs = matching(table, {"decoder": name, "features": "own", **way})
            columns.append(runs.set_index("seed")[measure].rename(side))
            row |= {f"{side} sampler": " ".join(map(str, way.values()))}
        seeds = pd.concat(columns, axis=1).dropna()
        row |= {"seeds": len(seeds), **{side: str(Spread.of(seeds[side])) for side in seeds}}
        rows.append(row | paired(seeds["blur"], seeds["isotropic"], ALPHA / len(blurs))._asdict())
    return pd.DataFrame(rows)


def decoders(folder: Path) -> pd.DataFrame:
    """A row per decoder, features and sampler: mean and spread over the seeds."""
    groups = read_table(folder / "measures.csv").groupby(["decoder", "features", *SAMPLER])
    digits = {"lpips": 4, "kernel": 3, "psnr": 2, "diversity": 4}
    found = {m: groups[m].agg(lambda v, n=n: str(Spread.of(v, n))) for m, n in digits.items()}
    return pd.DataFrame(found).reset_index()


def matching(table: pd.DataFrame, key: dict) -> pd.DataFrame:
    """The rows of a table, or of an empty one, that have these values."""
    return table[(table[[*key]] == pd.Series(key)).all(axis=1)] if len(table) else table
