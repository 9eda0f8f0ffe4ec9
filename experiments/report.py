"""What the results say, as data frames: rate–distortion, BD-rates, perception at equal rate.

Reads a checkout's ``results/``: ``measured/<set>/<codec>.json`` (made by `blurlib evaluate`),
``distances/`` (by `experiments.distances`) and ``published/``. A row says whether it was measured
or published; they never share one unlabelled.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pandas as pd

from blurlib.evaluation import results
from blurlib.evaluation.bd_rate import bd_rate
from experiments import published
from experiments.distances import features
from experiments.distances import run as distances
from experiments.published import increasing
from experiments.record import ROOT

FOLDER = ROOT / "results"

ANCHOR = "VTM-9.1"
"""CompressAI's run of the reference encoder on Kodak."""

HEADLINE = -25.0
"""What the paper reports: BD-rate over VTM in MS-SSIM, in per cent."""

LABELS = {
    "jpeg": "JPEG",
    "jpeg2000": "JPEG 2000",
    "webp": "WebP",
    "avif": "AVIF",
    "heic": "HEIC",
    "jpegxl": "JPEG XL",
}

BESIDE = (
    published.Entry("WebP", "none"),
    published.Entry("BPG-444", "none"),
    published.Entry("HM", "none"),
    published.Entry("AV1", "none"),
    published.Entry("bmshj2018-hyperprior", "mse"),
    published.Entry("bmshj2018-hyperprior", "ms-ssim"),
    published.Entry("mbt2018-mean", "mse"),
    published.Entry("mbt2018-mean", "ms-ssim"),
    published.Entry("cheng2020-anchor", "mse"),
    published.Entry("cheng2020-anchor", "ms-ssim"),
    published.Entry("ELIC", "mse"),
    published.Entry("MLIC++", "mse"),
    published.Entry("DCAE", "mse"),
    published.Entry("MS-ILLM", "perceptual"),
)
"""The published codecs that stand beside what was measured here."""

BESIDE_MS_SSIM = (
    published.Entry("VTM-9.1", "none"),
    published.Entry("bmshj2018-hyperprior", "ms-ssim"),
    published.Entry("cheng2020-anchor", "ms-ssim"),
)
BESIDE_PSNR = (
    published.Entry("VTM-9.1", "none"),
    published.Entry("mbt2018-mean", "mse"),
    published.Entry("ELIC", "mse"),
)
"""The few of them that are drawn."""

# MS-SSIM of an MSE-trained model in a file that calls it MS-SSIM-trained: stored as what it is.
ACCEPTED = ("relabelled",)


class Line(NamedTuple):
    """One curve of a figure; the fields of `plots.Curve`."""

    label: str
    bpp: np.ndarray
    quality: np.ndarray
    published: bool = False
    ours: bool = False


class Span(NamedTuple):
    """A BD-rate in per cent and the interval of quality in dB it is the mean over; or why none."""

    akima: float
    pchip: float
    low: float
    high: float
    reason: str = ""

    def __str__(self) -> str:
        if self.reason:
            return f"n/a ({self.reason})"
        return f"{self.akima:+.1f} % ({self.low:.1f}–{self.high:.1f} dB)"


@dataclass(frozen=True)
class Measured:
    """One results file, read: its averages per quality in order of rate, and beside them the
    distances of the whole set under the names of their metrics (FD-AlexNet, KD-AlexNet …)."""

    label: str
    results: results.Results
    table: pd.DataFrame
    distances: list[distances.Row]

    @property
    def training(self) -> str:
        """What the codec was trained for; empty for a classical one."""
        if self.results.checkpoint is None:
            return ""
        if self.results.settings.get("decoder") == "diffusion":
            return "perceptual"
        return self.results.settings.get("objective") or "not known"

    def curve(self, column: str) -> np.ndarray:
        """(n, 2): bits per pixel and the column."""
        return self.table[["bpp", column]].to_numpy()


def label(codec: str) -> str:
    """The name a reader knows: of a classical codec, or of our weights and decoder."""
    if codec in LABELS:
        return LABELS[codec]
    for decoder in ("direct", "deterministic", "diffusion", "isotropic"):
        if codec.endswith(f"-{decoder}"):
            return f"{codec.removesuffix(f'-{decoder}')}, {decoder}"
    return codec


def measured(dataset: str = "kodak", folder: Path = FOLDER) -> list[Measured]:
    """Every codec measured on a set: the classical ones in the order of `LABELS`, then ours.

    Raises ResultsError when there are none.
    """
    place = folder / "measured" / dataset
    files = {path.stem: path for path in place.glob("*.json")}
    if not files:
        raise results.ResultsError(f"{place}: holds no results; measure a codec on {dataset} first")
    order = [*(name for name in LABELS if name in files), *sorted(files.keys() - LABELS.keys())]
    found = []
    for name in order:
        content = results.read(files[name])
        table = results.averages(content).sort_values("bpp")
        file = folder / "distances" / dataset / f"{name}.json"
        rows = distances.rows(file, content.checkpoint, content.settings)
        beside = defaultdict(dict)
        for row in rows:
            frechet, kernel = features.names(row.network)
            beside[frechet][row.quality], beside[kernel][row.quality] = row.frechet, row.kernel
        table = table.join(pd.DataFrame(beside))
        found.append(Measured(label(name), content, table, rows))
    return found


def lines(column: str, beside: Iterable[published.Entry] = (), folder: Path = FOLDER) -> list[Line]:
    """Every codec measured on Kodak that has the column, then published ones beside them."""
    found = [
        Line(codec.label, *codec.curve(column).T, ours=bool(codec.training))
        for codec in measured("kodak", folder)
        if column in codec.table
    ]
    points = published.read(folder / "published")
    for codec, variant in beside:
        curve = points.curve(codec, column, variant=variant, accept=ACCEPTED)
        label = codec if variant == "none" else f"{codec} ({variant})"
        found.append(Line(label, *curve.T, published=True))
    return found


def bd(anchor: np.ndarray, test: np.ndarray, rates: tuple[float, float] | None = None) -> Span:
    """BD-rate with both interpolations; where there is none, why."""
    try:
        values = [bd_rate(anchor, test, method, rates) for method in ("akima", "pchip")]
    except ValueError as error:
        reason = "no shared quality" if "share no quality" in str(error) else str(error)
        return Span(np.nan, np.nan, np.nan, np.nan, reason)
    return Span(values[0].value, values[1].value, values[0].low, values[0].high)


def against_vtm(folder: Path = FOLDER) -> pd.DataFrame:
    """BD-rate of every codec against `ANCHOR` on Kodak: measured here, then published.

    Columns: codec, origin ("measured" or "published"), training, ms_ssim, psnr (each a `Span`),
    bpp_low, bpp_high (the rates its own curve spans).
    """
    points = published.read(folder / "published")
    anchors = {column: points.curve(ANCHOR, column) for column in ("ms_ssim_db", "psnr")}
    rows = []
    for codec in measured("kodak", folder):
        spans = [bd(anchors[c], increasing(codec.curve(c))) for c in ("ms_ssim_db", "psnr")]
        bpp = codec.table["bpp"]
        rows.append((codec.label, "measured", codec.training, *spans, bpp.min(), bpp.max()))
    for entry in BESIDE:
        rows.append(_published_row(points, entry, anchors))
    columns = ["codec", "origin", "training", "ms_ssim", "psnr", "bpp_low", "bpp_high"]
    return pd.DataFrame(rows, columns=columns)


def _published_row(points: published.Published, entry: published.Entry, anchors):
    spans, bpp = [], []
    for column in ("ms_ssim_db", "psnr"):
        try:
            curve = points.curve(entry.codec, column, variant=entry.variant, accept=ACCEPTED)
        except ValueError:
            spans.append(Span(np.nan, np.nan, np.nan, np.nan, "not published"))
            continue
        bpp += list(curve[:, 0])
        spans.append(bd(anchors[column], curve))
    training = "" if entry.variant == "none" else entry.variant
    return entry.codec, "published", training, *spans, min(bpp), max(bpp)


def against_published(folder: Path = FOLDER) -> pd.DataFrame:
    """JPEG and WebP measured here, with our settings and with those that others used, against the
    published curves of the same codecs. Columns: codec, settings, ms_ssim, psnr."""
    points = published.read(folder / "published")
    files = [
        ("JPEG", "optimised tables", "measured/kodak/jpeg"),
        ("JPEG", "Pillow's default", "checks/kodak/jpeg-default"),
        ("WebP", "method 6", "measured/kodak/webp"),
        ("WebP", "method 4", "checks/kodak/webp-default"),
    ]
    rows = []
    for name, settings, file in files:
        table = results.averages(results.read(folder / f"{file}.json"))
        spans = [
            bd(points.curve(name, column), increasing(table[["bpp", column]].to_numpy()))
            for column in ("ms_ssim_db", "psnr")
        ]
        rows.append((name, settings, *spans))
    return pd.DataFrame(rows, columns=["codec", "settings", "ms_ssim", "psnr"])


def at_rate(table: pd.DataFrame, column: str, bpp: float) -> float:
    """A column at a rate between two measured ones, linear in log rate; nan outside the curve, and
    where the column was not measured."""
    rates = table["bpp"].to_numpy()
    if column not in table or not rates[0] <= bpp <= rates[-1]:
        return np.nan
    return float(np.interp(np.log(bpp), np.log(rates), table[column].to_numpy()))


def at_rates(columns: Iterable[str], rates: Iterable[float], folder: Path = FOLDER) -> pd.DataFrame:
    """Each column at each rate for every codec measured on Kodak: index codec, columns (column,
    rate). nan where a codec does not reach the rate or lacks the column."""
    keys = [(column, rate) for column in columns for rate in rates]
    codecs = measured("kodak", folder)
    rows = [[at_rate(codec.table, *key) for key in keys] for codec in codecs]
    index = pd.Index([codec.label for codec in codecs], name="codec")
    return pd.DataFrame(rows, index, pd.MultiIndex.from_tuples(keys, names=["measure", "bpp"]))
