"""Results: one JSON file per (data set, codec), one row per image and quality.

A file carries everything a number needs to be believed and measured again: settings, hash of the
weights, commit, device, library versions, seed and the version of the measuring protocol. It is
written with one row per line, in order, so that two versions of it can be compared by eye.
"""

import json
import math
import os
import platform
import subprocess
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field, fields, replace
from importlib import metadata
from pathlib import Path
from typing import Any

import pandas as pd
import torch
from torch import Tensor, nn

from blurlib import images, metrics
from blurlib.evaluation.baselines import Codec

PROTOCOL = 1
"""Version of the measuring protocol; grows when a number would come out differently."""

_VERSIONS_OF = ("blurlib", "torch", "numpy", "pillow", "pytorch-msssim", "lpips")

Extra = Callable[[Tensor, float, bytes], Mapping[str, Any]]
"""(image, quality, file) → values worth keeping beside a row, such as a rate estimate."""


class ResultsError(ValueError):
    """A results file that cannot be used; one line names the file and what would help."""


@dataclass(frozen=True)
class Row:
    """One image at one quality. ``nan`` is "not applicable"; ``extra`` never enters a table."""

    image: str
    quality: float
    bytes: int
    bpp: float
    psnr: float
    ms_ssim: float
    lpips: float
    encode_s: float
    decode_s: float
    extra: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Results:
    """A results file: how the rows were measured, and the rows."""

    dataset: str
    codec: str
    settings: Mapping[str, Any]
    checkpoint: str | None  # hash of the weights; None for a codec without
    commit: str | None  # of blurlib; None outside a git checkout
    device: str
    versions: Mapping[str, str]
    seed: int | None
    protocol: int = PROTOCOL
    rows: tuple[Row, ...] = ()

    def header(self) -> dict[str, Any]:
        """Everything but the rows, as JSON values."""
        return {f.name: getattr(self, f.name) for f in fields(self) if f.name != "rows"}


# ---------------------------------------------------------------- files


def write(path: str | os.PathLike, results: Results, overwrite: bool = False) -> None:
    """Write ``results``, rows sorted by image and quality; the same results, the same bytes.

    Raises FileExistsError when ``path`` exists and ``overwrite`` is False.
    """
    header = json.dumps(results.header(), indent=1, sort_keys=True, ensure_ascii=False)
    ordered = sorted(results.rows, key=lambda row: (row.image, row.quality))
    rows = ",\n".join("  " + _row_to_json(row) for row in ordered)
    text = f'{header[:-2]},\n "rows": [\n{rows}\n ]\n}}\n'
    images.atomic_write(path, text.encode(), overwrite)


def read(path: str | os.PathLike) -> Results:
    """Read a results file; ResultsError when it is not one, or is of another protocol."""
    path = Path(path)
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (UnicodeDecodeError, json.JSONDecodeError) as error:
        raise ResultsError(f"{path}: is not JSON ({error}); measure it again") from None
    if not isinstance(content, dict) or "protocol" not in content:
        raise ResultsError(f"{path}: is not a results file of blurlib")
    if content["protocol"] != PROTOCOL:
        raise ResultsError(
            f"{path}: measured by protocol {content['protocol']}, this blurlib reads {PROTOCOL}; "
            "measure it again"
        )
    try:
        rows = tuple(_row_from_json(row) for row in content.pop("rows"))
        results = Results(**content, rows=rows)
    except (KeyError, TypeError, ValueError) as error:
        raise ResultsError(
            f"{path}: a field is missing, unknown or of the wrong type ({error}); measure it again"
        ) from None
    if len({(row.image, row.quality) for row in rows}) < len(rows):
        raise ResultsError(f"{path}: an image has two rows of the same quality; measure it again")
    return results


# JSON knows neither nan ("not applicable": null) nor inf (the PSNR of equal images).
_NULLABLE = ("ms_ssim", "lpips")


def _row_to_json(row: Row) -> str:
    values = vars(row) | {name: None for name in _NULLABLE if math.isnan(getattr(row, name))}
    if row.psnr == math.inf:
        values["psnr"] = "inf"
    if row.quality == int(row.quality):
        values["quality"] = int(row.quality)
    return json.dumps(values | {"extra": dict(row.extra)}, ensure_ascii=False, allow_nan=False)


def _row_from_json(values: dict[str, Any]) -> Row:
    not_applicable = {name: math.nan for name in _NULLABLE if values[name] is None}
    numbers = {
        f.name: f.type(values[f.name])
        for f in fields(Row)
        if f.type in (int, float) and f.name not in not_applicable
    }
    return Row(**{**values, **numbers, **not_applicable})


# ---------------------------------------------------------------- measuring


def measure(
    codec: Codec,
    paths: Iterable[Path],
    qualities: Iterable[float],
    lpips: nn.Module | None = None,
    extra: Extra | None = None,
) -> Iterator[Row]:
    """Encode and decode every image at every quality and yield its row, image by image.

    ``lpips`` is a distance on ``(1, 3, H, W)`` in [0, 1] such as `metrics.Lpips`; without one, and
    for images smaller than it takes, the column is ``nan``.
    """
    qualities = list(qualities)
    for path in paths:
        image = images.read_image(path)
        for quality in qualities:
            yield _measure_one(codec, path.name, image, quality, lpips, extra)


def _measure_one(
    codec: Codec,
    name: str,
    image: Tensor,
    quality: float,
    lpips: nn.Module | None,
    extra: Extra | None,
) -> Row:
    start = time.perf_counter()
    data = codec.encode(image, quality)
    encoded = time.perf_counter()
    decoded = codec.decode(data)
    done = time.perf_counter()
    distance = math.nan
    if lpips is not None and min(image.shape[-2:]) >= metrics.LPIPS_MIN_SIDE:
        with torch.inference_mode():
            pair = images.to_float(image)[None], images.to_float(decoded)[None]
            distance = lpips(*pair).item()
    return Row(
        image=name,
        quality=quality,
        bytes=len(data),
        bpp=round(metrics.bpp(len(data), *image.shape[-2:]), 6),
        psnr=round(metrics.psnr(image, decoded), 5),
        ms_ssim=round(metrics.ms_ssim(image, decoded), 8),
        lpips=round(distance, 6),
        encode_s=round(encoded - start, 4),
        decode_s=round(done - encoded, 4),
        extra=extra(image, quality, data) if extra else {},
    )


def evaluate(
    dataset: str | os.PathLike,
    codec: Codec,
    qualities: Sequence[float],
    out_dir: str | os.PathLike,
    *,
    checkpoint: str | None = None,
    seed: int | None = None,
    lpips: nn.Module | None = None,
    extra: Extra | None = None,
    overwrite: bool = False,
) -> Iterator[Row]:
    """Measure ``codec`` on `images.dataset` into ``out_dir/<set>/<codec>.json``; yields each row.

    The file is rewritten after each image. Rows it already has are kept and yielded, not measured
    again, if they were measured in the same way (same header); otherwise ResultsError says what
    differs, and ``overwrite`` starts afresh.
    """
    paths = images.dataset(dataset)
    qualities = list(dict.fromkeys(qualities))
    results = new_results(dataset, codec, checkpoint=checkpoint, seed=seed)
    file = results_file(out_dir, dataset, codec)
    if file.exists() and not overwrite:
        results = _resume(file, results)
        if lpips is not None and any(math.isnan(row.lpips) for row in results.rows):
            raise ResultsError(f"{file}: has rows without LPIPS; overwrite it to measure them")
    file.parent.mkdir(parents=True, exist_ok=True)
    for path in paths:
        present = [r for r in results.rows if r.image == path.name and r.quality in qualities]
        yield from present
        missing = [q for q in qualities if q not in {row.quality for row in present}]
        rows = tuple(measure(codec, [path], missing, lpips, extra))
        if rows:
            results = replace(results, rows=results.rows + rows)
            write(file, results, overwrite=True)
        yield from rows


def results_file(out_dir: str | os.PathLike, dataset: str | os.PathLike, codec: Codec) -> Path:
    """Where `evaluate` keeps its rows: ``out_dir/<set>/<codec>.json``."""
    return Path(out_dir) / Path(dataset).resolve().name / f"{codec.name}.json"


def new_results(
    dataset: str | os.PathLike,
    codec: Codec,
    *,
    checkpoint: str | None = None,
    seed: int | None = None,
) -> Results:
    """Results without rows, for measuring here and now."""
    return Results(
        dataset=Path(dataset).resolve().name,
        codec=codec.name,
        settings=dict(codec.settings),
        checkpoint=checkpoint,
        commit=_commit(),
        device=f"cpu {platform.machine()}, {torch.get_num_threads()} threads",
        versions={"python": platform.python_version()}
        | {package: metadata.version(package) for package in _VERSIONS_OF},
        seed=seed,
    )


def _resume(file: Path, fresh: Results) -> Results:
    present = read(file)
    old, new = present.header(), fresh.header()
    differing = [name for name in old if old[name] != new[name]]
    if differing:
        name = differing[0]
        raise ResultsError(
            f"{file}: was measured with another {', '.join(differing)} "
            f"({name}: {old[name]} there, {new[name]} here); move it away or overwrite it"
        )
    return present


def _commit() -> str | None:
    """Commit of the checkout this package runs from, with ``+changes`` if its code differs."""
    package = Path(__file__).parents[1]

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


# ---------------------------------------------------------------- tables


def averages(results: Results) -> pd.DataFrame:
    """One line per quality: the mean over the images of every column, in order of quality.

    PSNR and MS-SSIM are measured per image, then averaged; ``ms_ssim_db`` = −10·log₁₀(1 − m) is of
    that mean. A column that is not applicable to one of the images is ``nan``. ``images`` counts
    them. Raises ResultsError when the qualities were not measured on the same images.
    """
    if not results.rows:
        raise ResultsError(f"the results of {results.codec} on {results.dataset} have no rows")
    table = pd.DataFrame([asdict(row) for row in results.rows]).drop(columns="extra")
    by_quality = table.groupby("quality")
    counts = by_quality["image"].count()
    if counts.nunique() > 1 or counts.iloc[0] != table["image"].nunique():
        raise ResultsError(
            f"the results of {results.codec} on {results.dataset} lack images at some qualities "
            f"(between {counts.min()} and {counts.max()} images); finish measuring"
        )
    numbers = table.drop(columns="image")
    means = numbers.groupby("quality").agg(lambda column: column.mean(skipna=False))
    means["ms_ssim_db"] = means["ms_ssim"].map(metrics.ms_ssim_db)
    means["images"] = counts
    return means
