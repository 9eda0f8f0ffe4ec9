"""Measuring: any codec on any set of images, into a results file.

The unit of work is one image with the qualities it lacks; several processes share the images. Only
the parent writes, after each image and atomically, so that a run killed at any time goes on where
it stopped. Features are kept beside the results until the whole set is there, because distances
between sets need all of them at once.
"""

import hashlib
import io
import json
import math
import os
import shutil
import time
from collections.abc import Generator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor, nn

from blurlib import datasets, images, metrics
from blurlib.evaluation import perception
from blurlib.evaluation.codecs import Codec, Extra
from blurlib.evaluation.perception import Features
from blurlib.evaluation.processes import share
from blurlib.evaluation.results import (
    Distance,
    Results,
    ResultsError,
    Row,
    new_results,
    read,
    results_file,
    write,
)
from blurlib.files import alone, atomic_write


class Comparison(NamedTuple):
    """What a file costs and how near its picture is; ``nan`` is "not applicable"."""

    bytes: int
    bpp: float
    psnr: float
    ms_ssim: float
    lpips: float

    def rounded(self, psnr: int, ms_ssim: int, lpips: int) -> dict[str, Any]:
        """Columns of a row, with so many digits after the point."""
        digits = {"bpp": 6, "psnr": psnr, "ms_ssim": ms_ssim, "lpips": lpips}
        return {k: round(v, digits[k]) if k in digits else v for k, v in self._asdict().items()}


def compare(
    image: Tensor, data: bytes, decoded: Tensor, lpips: nn.Module | None = None
) -> Comparison:
    """An image with what its file decodes to, both ``uint8`` ``(3, H, W)``, by ``lpips`` such as
    `metrics.Lpips` too. ValueError when the sizes differ.
    """
    if decoded.shape != image.shape:
        (height, width), (H, W) = decoded.shape[-2:], image.shape[-2:]
        raise ValueError(f"decodes to {width}×{height}, the image is {W}×{H}: cannot be compared")
    return Comparison(
        bytes=len(data),
        bpp=metrics.bpp(len(data), *image.shape[-2:]),
        psnr=metrics.psnr(image, decoded),
        ms_ssim=metrics.ms_ssim(image, decoded),
        lpips=math.nan if lpips is None else metrics.lpips_distance(lpips, image, decoded),
    )


@dataclass(frozen=True)
class Instruments:
    """The codec and what it is measured with; a worker process gets a copy of its own.

    Attributes:
        lpips: see `compare`; without one, or for too small an image, the column is ``nan``.
        features: a network for distances between sets.
    """

    codec: Codec
    lpips: nn.Module | None = None
    features: Features | None = None
    extra: Extra | None = None


class Measured(NamedTuple):
    """An image at some qualities: its rows, and features ``(n, dim)``, if asked for, of the
    "original" and of what was decoded at each quality, by `_key`."""

    rows: tuple[Row, ...]
    features: Mapping[str, np.ndarray]


def measure(instruments: Instruments, path: Path, qualities: Sequence[float]) -> Measured:
    """Encode, decode and compare one image at every quality. Whatever the codec raises becomes a
    ResultsError of one line that names the image; so does a decoded image of another size."""
    image, content = images.read_image(path), _content(path)
    network = instruments.features
    rows, features = [], {} if network is None else {"original": _features(network, image)}
    for quality in qualities:
        try:
            row, decoded = _row(instruments, path.name, image, quality)
        except Exception as error:  # codecs are other people's libraries: they raise anything
            reason = " ".join(str(error).split()) or type(error).__name__
            what = f"{instruments.codec.name} at quality {quality:g}"
            raise ResultsError(f"{path}: {what}: {reason}") from error
        rows.append(replace(row, content=content))
        if network is not None:
            features[_key(quality)] = _features(network, decoded)
    return Measured(tuple(rows), features)


def _row(instruments: Instruments, name: str, image: Tensor, quality: float) -> tuple[Row, Tensor]:
    codec, extra = instruments.codec, instruments.extra
    start = time.perf_counter()
    data = codec.encode(image, quality)
    encoded = time.perf_counter()
    decoded = codec.decode(data)
    done = time.perf_counter()
    found = compare(image, data, decoded, instruments.lpips)
    row = Row(
        image=name,
        quality=quality,
        **found.rounded(psnr=5, ms_ssim=8, lpips=6),
        encode_s=round(encoded - start, 4),
        decode_s=round(done - encoded, 4),
        extra=extra(image, quality, data) if extra else {},
    )
    return row, decoded


def _content(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()[:16]


def _features(network: Features, image: Tensor) -> np.ndarray:
    return network(perception.patches(image)).cpu().numpy()


def _key(quality: float) -> str:
    return str(float(quality))


def evaluate(
    dataset: str | os.PathLike,
    codec: Codec,
    qualities: Sequence[float],
    out_dir: str | os.PathLike,
    *,
    checkpoint: str | None = None,
    seed: int | None = None,
    lpips: nn.Module | None = None,
    lpips_name: str = "alex",
    features: Features | None = None,
    extra: Extra | None = None,
    jobs: int = 1,
    overwrite: bool = False,
) -> Generator[Row]:
    """Measure ``codec`` on `datasets.dataset` into ``out_dir/<set>/<codec>.json``; yields each row.

    With ``features``, distances of the whole set join the file for each quality that all its images
    have. The features wait in ``out_dir/<set>/.features``, which may be deleted at any time, at the
    price of decoding again.

    ``jobs`` processes share the images, each computing with one thread; the codec and networks must
    be picklable. 1 works in this process, with PyTorch's own number of threads.

    The file is rewritten after each image. Rows it already has are kept and come first, if they
    agree in `Results.identity`: codec, settings, weights, seed, LPIPS network, library versions,
    protocol. Otherwise ResultsError says what differs, and ``overwrite`` starts afresh.

    Images too long for the codec are left out (`fitting`).

    Raises:
        ImageError: no such set, no images in it, or one that cannot be read.
        ResultsError: as above; a codec fails on an image; an image is smaller than a patch.
        WorkerError: a worker process dies, or the codec cannot be sent to one.
        OSError: another process measures into the same file.
    """
    if jobs < 1:
        raise ValueError(f"jobs is {jobs}: at least one process has to do the work")
    paths = fitting(codec, datasets.dataset(dataset))
    qualities = list(dict.fromkeys(qualities))
    file = results_file(out_dir, dataset, codec)
    if features is not None and (small := without_patches(paths)):
        raise ResultsError(
            f"{small[0]}: has a side below {perception.PATCH} pixels, so that this set has no "
            "set-level distances; measure it without them (--features none)"
        )
    results = new_results(
        dataset, codec, checkpoint=checkpoint, seed=seed,
        lpips=lpips_name if lpips is not None else None, jobs=jobs,
    )  # fmt: skip
    store = None if features is None else _Store.beside(file, results, features)
    contents = {path: _content(path) for path in paths}
    with alone(file):
        if file.exists() and not overwrite:
            results = _resumed(file, results, contents)
        elif store:
            shutil.rmtree(store.folder, ignore_errors=True)
        rows = {(row.image, row.quality): row for row in results.rows}
        missing: dict[Path, list[float]] = {path: [] for path in paths}
        for path in paths:
            stored = store.read(contents[path]) if store else {}
            for quality in qualities:
                needed = store and not store.has_distance(results, quality)
                if (path.name, quality) in rows and (not needed or _key(quality) in stored):
                    yield rows[path.name, quality]
                else:
                    missing[path].append(quality)
        tasks = [task for task in missing.items() if task[1]]
        work = partial(_measure_task, Instruments(codec, lpips, features, extra))
        for (path, _), measured in share(work, tasks, jobs):
            if store:
                store.add(contents[path], measured.features)
            results = _joined(results, measured.rows, file)
            write(file, results, overwrite=True)
            yield from measured.rows
        for quality in qualities:
            if store and not store.has_distance(results, quality):
                distance = store.distance([contents[path] for path in paths], quality)
                results = replace(results, distances=(*results.distances, distance))
                write(file, results, overwrite=True)


def _measure_task(instruments: Instruments, task: tuple[Path, Sequence[float]]) -> Measured:
    return measure(instruments, *task)


def fitting(codec: Codec, paths: Sequence[Path]) -> list[Path]:
    """The images whose sides the codec can hold; ResultsError if there are none."""
    longest = getattr(codec, "longest", math.inf)
    if not (fit := [path for path in paths if images.longest_side(path) <= longest]):
        raise ResultsError(f"{paths[0]}: {codec.name} takes sides up to {longest} pixels")
    return fit


def without_patches(paths: Sequence[Path]) -> list[Path]:
    """The images that have no patch, so that their set has no distances."""
    sides = ((path, min(images.read_image(path).shape[1:])) for path in paths)
    return [path for path, side in sides if side < perception.PATCH]


def _resumed(file: Path, fresh: Results, contents: Mapping[Path, str]) -> Results:
    """What the file has, to be gone on with under the circumstances of ``fresh``."""
    present = read(file)
    old, new = present.identity(), fresh.identity()
    differing = [name for name in old if old[name] != new[name]]
    named = {path.name: content for path, content in contents.items()}
    strangers = {row.image for row in present.rows} - named.keys()
    others = {row.image for row in present.rows if row.content not in ("", named.get(row.image))}
    if differing:
        there, here = (of[differing[0]] for of in (old, new))
        reason = f"was measured with another {', '.join(differing)} "
        reason += f"({differing[0]}: {there} there, {here} here)"
    elif strangers:
        reason = f"has rows of {min(strangers)}, which is not in the set"
    elif others:
        reason = f"has rows of another {min(others)} than that of this set"
    else:
        commit = _listed(present.commit or "", fresh.commit or "") or None
        return replace(present, device=_listed(present.device, fresh.device), commit=commit)
    raise ResultsError(f"{file}: {reason}; move it away or overwrite it (--force)")


def _listed(old: str, new: str) -> str:
    return "; ".join(dict.fromkeys(part for part in (*old.split("; "), new) if part))


def _joined(results: Results, rows: Sequence[Row], file: Path) -> Results:
    """With the rows that are new; those decoded again, for their features, must be the same."""
    present = {(row.image, row.quality): row for row in results.rows}
    new = [row for row in rows if (row.image, row.quality) not in present]
    for row in rows:
        old = present.get((row.image, row.quality), row)
        if old.bytes != row.bytes:
            raise ResultsError(
                f"{file}: {row.image} at quality {row.quality:g} has {old.bytes} bytes there and "
                f"{row.bytes} now; overwrite it (--force)"
            )
    grown = {row.quality for row in new}  # their distances were over fewer images
    distances = tuple(d for d in results.distances if d.quality not in grown)
    return replace(results, rows=(*results.rows, *new), distances=distances)


@dataclass(frozen=True)
class _Store:
    """Features on disk until all images are there: one file per image, named by its content."""

    folder: Path
    network: Features

    @classmethod
    def beside(cls, file: Path, results: Results, network: Features) -> "_Store":
        """For these results and this network only."""
        identity = json.dumps(results.identity(), sort_keys=True, ensure_ascii=False)
        digest = hashlib.sha256(identity.encode(errors="backslashreplace")).hexdigest()[:16]
        store = file.parent / ".features" / f"{file.stem}-{digest}"
        return cls(store / f"{network.name}-{network.sha256[:16]}", network)

    def read(self, content: str) -> dict[str, np.ndarray]:
        file = self.folder / f"{content}.npz"
        if not file.exists():
            return {}
        with np.load(file) as stored:
            return dict(stored)

    def add(self, content: str, features: Mapping[str, np.ndarray]) -> None:
        self.folder.mkdir(parents=True, exist_ok=True)
        data = io.BytesIO()
        np.savez(data, **{**self.read(content), **features})
        atomic_write(self.folder / f"{content}.npz", data.getvalue(), overwrite=True)
        # Not for version control, wherever the results are.
        atomic_write(self.folder.parents[1] / ".gitignore", b"*\n", overwrite=True)

    def has_distance(self, results: Results, quality: float) -> bool:
        wanted = (self.network.name, self.network.sha256, quality)
        return wanted in {(d.network, d.sha256, d.quality) for d in results.distances}

    def distance(self, contents: Sequence[str], quality: float) -> Distance:
        """Over all images."""
        stored = [self.read(content) for content in contents]
        sets = (np.concatenate([s[key] for s in stored]) for key in ("original", _key(quality)))
        *both, patches = perception.distances(*map(torch.from_numpy, sets))
        frechet, kernel = (float(f"{value:.8g}") for value in both)
        network = self.network
        return Distance(quality, network.name, network.sha256, frechet, kernel, patches)
