"""Rate–distortion points published by others, and VVenC's: `read()`, then ``.curve(...)``.

The points are data of the repository (``results/published``, described in its README), not of the
installed package. They are never averaged with, nor written beside, what was measured here.
"""

import difflib
import json
import os
from collections.abc import Collection
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, NamedTuple, get_args

import numpy as np
import pandas as pd

from blurlib.evaluation.results import ResultsError
from blurlib.metrics import ms_ssim_db
from experiments.record import ROOT

FOLDER = ROOT / "results" / "published"
"""Where a checkout of the repository has them."""

Metric = Literal["psnr", "ms_ssim_db", "ms_ssim", "lpips", "dists", "fid", "kid"]
Variant = Literal["none", "mse", "ms-ssim", "perceptual"]
"""Training objective; ``none`` for a classical codec."""

Caution = Literal["relabelled", "mean-of-db", "inconsistent", "tiny-sample"]
"""Why a point is kept out of a curve; the README of the folder says what each means."""

_NUMBERS = ("bpp", "value")
_WORDS = ("codec", "variant", "dataset", "metric")
_ORIGIN = ("source", "source_commit", "kind", "caution", "note")
_INCREASING = ("psnr", "ms_ssim_db")


class Entry(NamedTuple):
    """One curve's name: a codec and what it was trained for."""

    codec: str
    variant: str


@dataclass(frozen=True, eq=False)
class Published:
    """Every point, one per row: ``codec, variant, dataset, metric, bpp, value, source,
    source_commit, kind, caution, note``. VVenC's rows are means over the images of a QP."""

    points: pd.DataFrame
    folder: Path

    def curve(
        self,
        codec: str,
        metric: Metric,
        dataset: str = "kodak",
        variant: Variant | None = None,
        accept: Collection[Caution] = (),
    ) -> np.ndarray:
        """The curve ``(n, 2)``: bits per pixel and value, in order of rate.

        ``psnr`` and ``ms_ssim_db`` are in dB; a linear MS-SSIM m, averaged over the images by its
        source, becomes −10·log₁₀(1 − m). Of these two, points that are no better than a cheaper
        one are dropped, as BD-rate requires; other metrics keep all. ``variant`` is needed where
        the codec was trained for several objectives. Points that carry a caution are left out
        unless it is named in ``accept``.

        Raises ValueError for what is not there, saying what is, and for cautioned points only.
        """
        rows = self._rows(codec, metric, dataset)
        variants = sorted(set(rows["variant"]))
        if variant is None and len(variants) > 1:
            raise ValueError(f"{codec} has several variants, name one: {_list(variants)}")
        if variant is not None and variant not in variants:
            raise ValueError(
                f"{codec} has no {metric} on {dataset} for variant {variant!r}; "
                f"there is {_list(variants)}"
            )
        rows = rows[rows["variant"] == (variant or variants[0])]
        admitted = _admitted(rows, accept)
        if admitted.empty:
            raise ValueError(
                f"every {metric} of {codec} on {dataset} carries a caution "
                f"({_list(sorted(set(rows['caution'])))}); where the note in {self.folder} does "
                "not forbid your use, pass it as accept="
            )
        curve = _in_unit(admitted, metric).sort_values(list(_NUMBERS)).to_numpy()
        return increasing(curve) if metric in _INCREASING else curve

    def codecs(
        self, metric: Metric, dataset: str = "kodak", accept: Collection[Caution] = ()
    ) -> tuple[Entry, ...]:
        """What `curve` can draw of this metric and data set, in alphabetical order.

        Raises ValueError for a metric or data set that is not there.
        """
        here = self._on(dataset)
        rows = _admitted(here[here["metric"].isin(_names(metric))], accept)
        names = set(zip(rows["codec"], rows["variant"], strict=True))
        return tuple(Entry(*name) for name in sorted(names))

    def _on(self, dataset: str) -> pd.DataFrame:
        rows = self.points[self.points["dataset"] == dataset]
        if rows.empty:
            there = sorted(set(self.points["dataset"]))
            raise ValueError(f"no published points on {dataset!r}; there are {_list(there)}")
        return rows

    def _rows(self, codec: str, metric: Metric, dataset: str) -> pd.DataFrame:
        """Every row of the curve's variants, cautioned ones too; ValueError when there is none."""
        names = _names(metric)
        here = self._on(dataset)
        found = here[here["codec"] == codec]
        if found.empty:
            raise ValueError(
                f"no published codec {codec!r} on {dataset}; {_nearest(codec, set(here['codec']))}"
            )
        rows = found[found["metric"].isin(names)]
        if rows.empty:
            has = sorted(set(found["metric"]))
            raise ValueError(f"{codec} has no {metric} on {dataset}; it has {_list(has)}")
        return rows


def read(folder: str | os.PathLike | None = None) -> Published:
    """Read ``points.csv`` and ``vvenc_kodak.json`` of ``folder`` (default `FOLDER`).

    Raises FileNotFoundError when they are not there, which is so where only the package is
    installed, and ResultsError when they are not what they should be.
    """
    folder = FOLDER if folder is None else Path(folder)
    for name in ("points.csv", "vvenc_kodak.json"):
        if not (folder / name).is_file():
            raise FileNotFoundError(
                f"no published points: {folder / name} is missing; pass the folder "
                "results/published of a checkout of blurlib's repository"
            )
    frames = [_read_points(folder / "points.csv"), _read_vvenc(folder / "vvenc_kodak.json")]
    return Published(pd.concat(frames, ignore_index=True), folder)


def _read_points(path: Path) -> pd.DataFrame:
    try:
        points = pd.read_csv(path, dtype=str, keep_default_na=False)
        points = points.astype(dict.fromkeys(_NUMBERS, float))
    except (KeyError, ValueError) as error:
        raise ResultsError(f"{path}: is not a table of published points ({error})") from None
    if missing := [c for c in (*_WORDS, *_ORIGIN) if c not in points]:
        raise ResultsError(f"{path}: has no column {_list(missing)}")
    if unknown := sorted(set(points["caution"]) - {"", *get_args(Caution)}):
        raise ResultsError(f"{path}: unknown caution {_list(unknown)}")
    return points


def _read_vvenc(path: Path) -> pd.DataFrame:
    """The per-image rows, averaged per QP."""
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
        rows = pd.DataFrame(content["rows"])
        by_qp = rows.groupby("qp")[["bpp", "psnr", "ms_ssim", "lpips"]]
        sizes = by_qp.size()
        table = by_qp.mean().rename(columns={"psnr": "psnr_rgb"})
        origin = {name: content[name] for name in ("codec", "dataset")} | {
            "source": path.name,
            "source_commit": content["version"],
            "kind": content["kind"],
            "note": f"{content['settings']}; {content['metrics']}",
        }
    except (KeyError, TypeError, ValueError) as error:
        raise ResultsError(f"{path}: is not a file of VVenC's rows ({error!r})") from None
    if sizes.nunique() != 1:
        raise ResultsError(f"{path}: lacks images at some QPs")
    points = table.melt(id_vars="bpp", var_name="metric")
    return points.assign(variant="none", caution="", **origin)


def _names(metric: Metric) -> tuple[str, ...]:
    """What the table calls ``metric``."""
    if metric not in get_args(Metric):
        raise ValueError(f"no published metric {metric!r}; there are {_list(get_args(Metric))}")
    if metric == "ms_ssim_db":
        return "ms_ssim_db", "ms_ssim"
    return ("psnr_rgb",) if metric == "psnr" else (metric,)


def _admitted(rows: pd.DataFrame, accept: Collection[Caution]) -> pd.DataFrame:
    if not {*accept} <= {*get_args(Caution)}:
        raise ValueError(f"accept takes cautions of {_list(get_args(Caution))}, got {accept!r}")
    return rows[rows["caution"].isin({"", *accept})]


def _in_unit(rows: pd.DataFrame, metric: Metric) -> pd.DataFrame:
    """Rates and values of one curve; in dB, the source's own dB where it has any."""
    if metric == "ms_ssim_db":
        own = rows[rows["metric"] == "ms_ssim_db"]
        rows = rows.assign(value=rows["value"].map(ms_ssim_db)) if own.empty else own
    return rows[list(_NUMBERS)]


def _nearest(name: str, known: Collection[str]) -> str:
    by_lower = {each.lower(): each for each in known}
    near = difflib.get_close_matches(name.lower(), by_lower, n=4, cutoff=0.5)
    if near:
        return f"near matches: {_list([by_lower[each] for each in near])}"
    return f"there are {_list(sorted(known))}"


def _list(names: Collection[str]) -> str:
    return ", ".join(names)


def increasing(curve: np.ndarray) -> np.ndarray:
    """The points (rate, quality) in order of rate, without those that a cheaper one equals or
    beats: what `bd_rate` needs of a measured curve."""
    curve = curve[np.lexsort(curve.T[::-1])]
    best = np.maximum.accumulate(np.concatenate([[-np.inf], curve[:-1, 1]]))
    curve = curve[curve[:, 1] > best]
    last_of_rate = np.append(curve[1:, 0] > curve[:-1, 0], True)
    return curve[last_of_rate]
