"""What experiments share: one thread, CPU seconds, where results came from, tables on disk, and
means over seeds."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
import scipy.stats
import torch

from blurlib.evaluation import results
from blurlib.files import atomic_write

ROOT = Path(__file__).resolve().parents[1]
"""The checkout."""


class Progress(NamedTuple):
    """How far an experiment is.

    Attributes:
        done, total: in runs; `done` counts the part of the run that is under way.
        doing: what is being done, in words.
    """

    done: float
    total: int
    doing: str


@contextmanager
def one_thread() -> Iterator[None]:
    """PyTorch computes with one thread inside, so that seconds of different runs compare."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)


class CpuClock:
    """Seconds of CPU time since it was made: other work on the machine hardly changes them."""

    def __init__(self):
        self._start = time.process_time()

    def seconds(self) -> float:
        return time.process_time() - self._start


def circumstances(command: str, jobs: int) -> dict[str, Any]:
    """Where a record comes from: command, commit, device and library versions."""
    return {
        "command": command,
        "commit": results.commit(),
        "device": results.device(jobs, 1),
        "versions": results.versions(),
    }


def write_json(path: Path, content: dict[str, Any]) -> None:
    """Write a record for people and programs to read, in place of an older one."""
    atomic_write(path, (json.dumps(content, indent=1) + "\n").encode(), overwrite=True)


def choose(wanted: Sequence[str], known: Sequence[str]) -> list[str]:
    """The known names that are wanted, in the order of `known`; nothing wanted is all.

    Raises:
        ValueError: a name that is not known, with those that are.
    """
    if unknown := [name for name in wanted if name not in known]:
        raise ValueError(f"no variant {unknown[0]!r}: there are {', '.join(known)}")
    return [name for name in known if name in wanted or not wanted]


def read_table(path: Path) -> pd.DataFrame:
    """A CSV as written by `replace_rows`; empty if there is none yet."""
    return pd.read_csv(path, float_precision="round_trip") if path.is_file() else pd.DataFrame()


def replace_rows(path: Path, rows: Sequence[dict], run: dict[str, Any], order: list[str]) -> None:
    """Put the rows of a run into a CSV, in place of those it has of the same run.

    Args:
        run: the columns, and their values, that tell this run from the others.
        order: columns to sort by.
    """
    old = read_table(path)
    if len(old):
        same = pd.concat([old[name] == value for name, value in run.items()], axis=1).all(axis=1)
        old = old[~same]
    new = pd.DataFrame([{**run, **row} for row in rows])
    table = pd.concat([old, new]) if len(old) else new
    text = table.sort_values(order).to_csv(index=False, lineterminator="\n")
    atomic_write(path, text.encode(), overwrite=True)


class Spread(NamedTuple):
    """Mean and standard deviation over seeds, with n − 1; nan where there are too few.

    Attributes:
        digits: after the point, when it is written.
        percent: it is a change in per cent, and written with its sign.
    """

    mean: float
    std: float
    seeds: int
    digits: int = 4
    percent: bool = False

    @classmethod
    def of(
        cls, values: Sequence[float] | pd.Series, digits: int = 4, percent: bool = False
    ) -> Spread:
        """Of one number per seed; what is nan counts for neither mean nor deviation."""
        values = pd.Series(values, dtype=float).dropna()
        return cls(float(values.mean()), float(values.std()), len(values), digits, percent)

    def certain(self) -> bool:
        """Whether the mean is further from 0 than seeds explain: |mean| > t · std/√n, with the
        97.5 % quantile of Student's t at n − 1 degrees of freedom (4.3 for three seeds)."""
        t = scipy.stats.t.ppf(0.975, self.seeds - 1)
        return bool(abs(self.mean) > t * self.std / np.sqrt(self.seeds))

    def __str__(self) -> str:
        if np.isnan(self.mean):
            return "–"
        sign, unit = ("+", " %") if self.percent else ("", "")
        spread = "" if np.isnan(self.std) else f" ± {self.std:.{self.digits}f}"
        mean = round(self.mean, self.digits) + 0.0  # never −0
        return f"{mean:{sign}.{self.digits}f}{spread}{unit}"
