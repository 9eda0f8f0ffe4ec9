"""Results: one JSON file per (data set, codec), one row per image and quality.

A file carries what a number needs to be measured again: settings, hash of the weights, commit,
device, library versions, seed and version of the protocol. It has one row per line, in order, so
that two versions can be compared by eye. `blurlib.evaluation.measure` fills it.
"""

import json
import math
import os
import platform
import subprocess
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields
from importlib import metadata
from pathlib import Path
from typing import Any

import pandas as pd
import torch

from blurlib import metrics
from blurlib.evaluation.codecs import Codec
from blurlib.files import atomic_write

PROTOCOL = 2
"""Version of the measuring protocol; grows when a number would come out differently."""

_VERSIONS_OF = ("blurlib", "torch", "numpy", "pillow", "constriction", "pytorch-msssim", "lpips")


class ResultsError(ValueError):
    """A results file that cannot be used or made; one line names the file and what would help."""


@dataclass(frozen=True)
class Row:
    """One image at one quality. ``nan`` is "not applicable"; ``content``, the start of the file's
    SHA-256, is "" where it was not kept; ``extra`` never enters a table. ValueError: a value that
    no measurement has."""

    image: str
    quality: float
    bytes: int
    bpp: float
    psnr: float
    ms_ssim: float
    lpips: float
    encode_s: float
    decode_s: float
    content: str = ""
    extra: Mapping[str, Any] = field(default_factory=dict)

    def __post_init__(self):
        for name in ("quality", "bytes", "bpp", "lpips", "encode_s", "decode_s"):
            if not (math.isnan(value := getattr(self, name)) or 0 <= value < math.inf):
                raise ValueError(f"{name} is {value}")
        if math.isnan(self.bpp + self.psnr) or self.ms_ssim > 1:
            raise ValueError(f"bpp {self.bpp}, psnr {self.psnr}, ms_ssim {self.ms_ssim}")


@dataclass(frozen=True)
class Results:
    """A results file: how the rows were measured, and the rows.

    A run that went on under another ``device`` or ``commit`` lists them all, separated by "; ".
    Everything else in the header decides the numbers (`identity`).
    """

    dataset: str
    codec: str
    settings: Mapping[str, Any]
    checkpoint: str | None  # hash of the weights; None for a codec without
    lpips: str | None  # the network of the column; None: not measured
    commit: str | None  # of blurlib; None outside a git checkout
    device: str  # with the number of processes: encode_s and decode_s are under that load
    versions: Mapping[str, str]
    seed: int | None
    protocol: int = PROTOCOL
    rows: tuple[Row, ...] = ()

    def header(self) -> dict[str, Any]:
        """Everything but the rows, as JSON values."""
        return {f.name: getattr(self, f.name) for f in fields(self) if f.name != "rows"}

    def identity(self) -> dict[str, Any]:
        """The part of the header that decides the numbers, in which all rows of a file agree: all
        but ``device`` and ``commit``."""
        return {k: v for k, v in self.header().items() if k not in ("device", "commit")}


def write(path: str | os.PathLike, results: Results, overwrite: bool = False) -> None:
    """Write ``results``, rows sorted by image and quality; the same results, the same bytes.
    FileExistsError when ``path`` exists and ``overwrite`` is False."""
    header = json.dumps(results.header(), indent=1, sort_keys=True, ensure_ascii=False)
    rows = sorted(results.rows, key=lambda row: (row.image, row.quality))
    lines = ",\n".join("  " + _to_json(row) for row in rows)
    lines = f"[\n{lines}\n ]" if lines else "[]"
    text = f'{header[:-2]},\n "rows": {lines}\n}}\n'
    # The escape of a name that is not UTF-8, a lone surrogate, is JSON's own.
    atomic_write(path, text.encode(errors="backslashreplace"), overwrite)


def read(path: str | os.PathLike) -> Results:
    """Read a results file; ResultsError when it is not one, or is of another protocol."""
    path = Path(path)
    again = "measure it again: move it away, or overwrite it (--force)"
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (UnicodeDecodeError, json.JSONDecodeError, RecursionError) as error:
        raise ResultsError(f"{path}: is not JSON ({error}); {again}") from None
    if not isinstance(content, dict) or "protocol" not in content:
        raise ResultsError(f"{path}: is not a results file of blurlib")
    if (protocol := content["protocol"]) != PROTOCOL:
        reads = f"this blurlib reads {PROTOCOL}"
        raise ResultsError(f"{path}: measured by protocol {protocol}, {reads}; {again}")
    try:
        rows = tuple(_row(values) for values in content.pop("rows"))
        results = Results(**content, rows=rows)
    except (AttributeError, KeyError, TypeError, ValueError, OverflowError) as error:
        wrong = f"a field is missing, unknown, or not of its type and range ({error})"
        raise ResultsError(f"{path}: {wrong}; {again}") from None
    if len({(row.image, row.quality) for row in rows}) < len(rows):
        raise ResultsError(f"{path}: an image has two rows of the same quality; {again}")
    return results


# JSON knows neither nan ("not applicable": null) nor inf (the PSNR of equal images).
_NULLABLE = ("ms_ssim", "lpips")


def _to_json(row: Row) -> str:
    values = asdict(row)
    values |= {name: None for name in _NULLABLE if math.isnan(values[name])}
    if row.psnr == math.inf:
        values["psnr"] = "inf"
    if row.quality == int(row.quality):
        values["quality"] = int(row.quality)
    if not row.content:
        del values["content"]
    return json.dumps(values, ensure_ascii=False, allow_nan=False)


def _row(values: dict[str, Any]) -> Row:
    values = {k: math.nan if v is None and k in _NULLABLE else v for k, v in values.items()}
    for f in fields(Row):
        if f.type is str and not isinstance(values.get(f.name, ""), str):
            raise TypeError(f"{f.name} is no text")
    numbers = {f.name: f.type(values[f.name]) for f in fields(Row) if f.type in (int, float)}
    return Row(**{**values, **numbers})


def check_comparable(one: Results, other: Results) -> None:
    """ResultsError where two files are not of the same images."""
    if one.dataset != other.dataset:
        raise ResultsError(
            f"{one.codec} was measured on {one.dataset} and {other.codec} on {other.dataset}: "
            "compare codecs on one set"
        )
    a, b = ({row.image: row.content for row in results.rows} for results in (one, other))
    if odd := sorted(a.keys() ^ b.keys()):
        raise ResultsError(f"{odd[0]} was measured with one of {one.codec}, {other.codec} only")
    if odd := sorted(name for name in a if a[name] and b[name] and a[name] != b[name]):
        raise ResultsError(f"{odd[0]} of {one.codec} is another image than that of {other.codec}")


def results_file(out_dir: str | os.PathLike, dataset: str | os.PathLike, codec: Codec) -> Path:
    """Where measuring keeps its rows: ``out_dir/<set>/<codec>.json``."""
    return Path(out_dir) / Path(dataset).resolve().name / f"{codec.name}.json"


def new_results(
    dataset: str | os.PathLike,
    codec: Codec,
    *,
    checkpoint: str | None = None,
    seed: int | None = None,
    lpips: str | None = None,
    jobs: int = 1,
) -> Results:
    """Results without rows, for measuring here and now in ``jobs`` processes."""
    return Results(
        dataset=Path(dataset).resolve().name,
        codec=codec.name,
        settings=json.loads(json.dumps(dict(codec.settings))),  # as a file gives them back
        checkpoint=checkpoint,
        lpips=lpips,
        commit=commit(),
        device=device(jobs, torch.get_num_threads() if jobs == 1 else 1),
        versions=versions(),
        seed=seed,
    )


def device(jobs: int, threads: int) -> str:
    """The processor, and how many processes of how many threads share it."""
    load = [f"{n} {what}{'s' * (n != 1)}" for n, what in ((jobs, "job"), (threads, "thread"))]
    return f"cpu {platform.machine()}, {' × '.join(load)}"


def versions() -> dict[str, str]:
    """Of Python and of the libraries that a number may depend on."""
    return {"python": platform.python_version()} | {
        package: metadata.version(package) for package in _VERSIONS_OF
    }


def commit() -> str | None:
    """Commit of the checkout this package runs from, with ``+changes`` if its code differs."""
    package = Path(__file__).resolve().parents[1]

    def git(*arguments: str) -> str:
        command = ["git", "-C", str(package), *arguments]
        return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()

    try:
        if Path(git("rev-parse", "--show-toplevel")) != package.parent:
            return None  # installed inside somebody else's checkout
        commit = git("rev-parse", "HEAD")
        return commit + ("+changes" if git("status", "--porcelain", "--", str(package)) else "")
    except (OSError, subprocess.CalledProcessError):
        return None


def averages(results: Results) -> pd.DataFrame:
    """One line per quality: the mean over the images of every column, in order of quality.

    ``ms_ssim_db`` = −10·log₁₀(1 − m) is of the mean MS-SSIM. A column that is not applicable to one
    of the images is ``nan``. ``images`` counts them. Raises ResultsError when the qualities were
    not measured on the same images.
    """
    if not results.rows:
        raise ResultsError(f"the results of {results.codec} on {results.dataset} have no rows")
    table = pd.DataFrame(map(vars, results.rows)).drop(columns=["content", "extra"])
    counts = table.groupby("quality")["image"].count()
    if counts.nunique() > 1 or counts.iloc[0] != table["image"].nunique():
        raise ResultsError(
            f"the results of {results.codec} on {results.dataset} lack images at some qualities "
            f"(between {counts.min()} and {counts.max()} images); finish measuring"
        )
    by_quality = table.drop(columns="image").groupby("quality")
    means = by_quality.mean().where(by_quality.count().eq(counts, axis=0))
    means["ms_ssim_db"] = means["ms_ssim"].map(metrics.ms_ssim_db)
    means["images"] = counts
    return means
