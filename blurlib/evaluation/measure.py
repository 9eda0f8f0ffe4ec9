"""Measuring: any codec on any set of images, into a results file.

The unit of work is one image with the qualities it lacks; several processes share the images. Only
the parent writes, after each image and atomically, so that a run killed at any time goes on where
it stopped. Features are kept beside the results until the whole set is there, because distances
between sets need all of them at once.
"""

import hashlib
import io
import json
import os
import shutil
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor, nn

from blurlib import images, metrics
from blurlib.evaluation import perception
from blurlib.evaluation.baselines import Codec
from blurlib.evaluation.perception import Features
from blurlib.evaluation.processes import WorkerError, share
from blurlib.evaluation.results import (
    Distance,
    Extra,
    Results,
    ResultsError,
    Row,
    new_results,
    read,
    results_file,
    write,
)

KODAK_PATCHES = 192
"""24 photos of 768 × 512 or 512 × 768, 6 patches on the grid and 2 on the shifted grid each."""


# ---------------------------------------------------------------- one image


@dataclass(frozen=True)
class Instruments:
    """The codec and what it is measured with; a worker process gets a copy of its own.

    Attributes:
        lpips: a distance on ``(1, 3, H, W)`` in [0, 1] such as `metrics.Lpips`; without one, and
            for images smaller than it takes, the column is ``nan``.
        features: a network for distances between sets; None for none.
        extra: (image, quality, file) → values worth keeping beside a row.
    """

    codec: Codec
    lpips: nn.Module | None = None
    features: Features | None = None
    extra: Extra | None = None


class Measured(NamedTuple):
    """An image at some qualities: its rows, and features ``(n, dim)`` if they were asked for."""

    rows: tuple[Row, ...]
    original: np.ndarray | None
    decoded: Mapping[float, np.ndarray]


def measure(instruments: Instruments, path: Path, qualities: Sequence[float]) -> Measured:
    """Encode, decode and compare one image at every quality.

    Whatever the codec raises becomes a ResultsError of one line that names the image; so does a
    decoded image of another size.
    """
    image = images.read_image(path)
    rows, features = [], {}
    for quality in qualities:
        try:
            row, decoded = _row(instruments, path.name, image, quality)
        except Exception as error:  # codecs are other people's libraries: they raise anything
            reason = " ".join(str(error).split()) or type(error).__name__
            raise ResultsError(
                f"{path}: {instruments.codec.name} at quality {quality:g}: {reason}"
            ) from error
        rows.append(row)
        if instruments.features is not None:
            features[quality] = _features(instruments.features, decoded)
    original = None if instruments.features is None else _features(instruments.features, image)
    return Measured(tuple(rows), original, features)


def _features(network: Features, image: Tensor) -> np.ndarray:
    # An array, because a tensor that travels between processes does so in shared memory.
    return network(perception.patches(image)).cpu().numpy()


def _row(instruments: Instruments, name: str, image: Tensor, quality: float) -> tuple[Row, Tensor]:
    codec, lpips, extra = instruments.codec, instruments.lpips, instruments.extra
    start = time.perf_counter()
    data = codec.encode(image, quality)
    encoded = time.perf_counter()
    decoded = codec.decode(data)
    done = time.perf_counter()
    if decoded.shape != image.shape:
        (height, width), (H, W) = decoded.shape[-2:], image.shape[-2:]
        raise ValueError(f"decodes to {width}×{height}, the image is {W}×{H}: cannot be compared")
    distance = float("nan") if lpips is None else metrics.lpips_distance(lpips, image, decoded)
    row = Row(
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
    return row, decoded


# ---------------------------------------------------------------- a set of images


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
) -> Iterator[Row]:
    """Measure ``codec`` on `images.dataset` into ``out_dir/<set>/<codec>.json``; yields each row.

    With ``features``, distances of the whole set join the file for each quality that all its images
    have. The features wait in ``out_dir/<set>/.features``, in a folder named by a digest of
    `Results.identity`; it may be deleted at any time, at the price of decoding again.

    ``jobs`` processes share the images, each computing with one thread; the codec and networks must
    be picklable. 1 works in this process, with PyTorch's own number of threads. More are started by
    "spawn", so a script that calls this needs an ``if __name__ == "__main__":``.

    The file is rewritten after each image. Rows it already has are kept and come first, if they
    agree in all that decides numbers: codec, settings, weights, seed, LPIPS network, library
    versions, protocol. Otherwise ResultsError says what differs, and ``overwrite`` starts afresh.
    Commit, number of jobs and machine may change on the way: the header then lists them all. Nor do
    qualities or ``features`` matter: what they add joins the rest.

    Raises:
        ImageError: no such set, no images in it, or one that cannot be read.
        ResultsError: as above; a codec fails on an image; an image is smaller than a patch; a
            worker process dies.
    """
    if jobs < 1:
        raise ValueError(f"jobs is {jobs}: at least one process has to do the work")
    paths = images.dataset(dataset)
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
    store = _FeatureStore.of(file, results, features) if features is not None else None
    if file.exists() and not overwrite:
        results = _resume(file, results, paths)
    elif store:
        store.clear()
    file.parent.mkdir(parents=True, exist_ok=True)
    work = _Work(paths, tuple(dict.fromkeys(qualities)), store)
    yield from work.present(results)
    instruments = Instruments(codec, lpips, features, extra)
    for path, measured in _share(work.missing(results), instruments, jobs):
        if store:
            store.save(path.name, measured)
        results = _joined(results, measured.rows, file)
        write(file, results, overwrite=True)
        yield from measured.rows
    for distance in work.distances(results, kodak=str(dataset) == "kodak"):
        results = replace(results, distances=(*results.distances, distance))
        write(file, results, overwrite=True)


def without_patches(paths: Sequence[Path]) -> list[Path]:
    """The images that have no patch, so that their set has no distances."""
    sides = ((path, min(images.read_image(path).shape[1:])) for path in paths)
    return [path for path, side in sides if side < perception.PATCH]


def _resume(file: Path, fresh: Results, paths: Sequence[Path]) -> Results:
    """What the file has, to be gone on with under the circumstances of ``fresh``."""
    present = read(file)
    old, new = present.identity(), fresh.identity()
    differing = [name for name in old if old[name] != new[name]]
    if differing:
        name = differing[0]
        raise ResultsError(
            f"{file}: was measured with another {', '.join(differing)} "
            f"({name}: {old[name]} there, {new[name]} here); move it away or overwrite it (--force)"
        )
    strangers = {row.image for row in present.rows} - {path.name for path in paths}
    if strangers:
        raise ResultsError(
            f"{file}: has rows of {min(strangers)}, which is not in the set; "
            "move it away or overwrite it (--force)"
        )
    return replace(
        present,
        device=_listed(present.device, fresh.device),
        commit=_listed(present.commit, fresh.commit),
    )


def _listed(old: str | None, new: str | None) -> str | None:
    parts = old.split("; ") if old else []
    return "; ".join([*parts, new]) if new and new not in parts else old


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
class _Work:
    """Which images at which qualities are wanted, and what of it is done."""

    paths: Sequence[Path]
    qualities: Sequence[float]
    store: "_FeatureStore | None"

    def missing(self, results: Results) -> list[tuple[Path, list[float]]]:
        """Each image that lacks something, with the qualities at which it does."""
        done = {(row.image, row.quality) for row in self.present(results)}
        lacking = ((p, [q for q in self.qualities if (p.name, q) not in done]) for p in self.paths)
        return [(path, qualities) for path, qualities in lacking if qualities]

    def present(self, results: Results) -> list[Row]:
        """The wanted rows that nothing is left to do for, in the order of the set."""
        rows = {(row.image, row.quality): row for row in results.rows}
        wanted = [(path.name, quality) for path in self.paths for quality in self.qualities]
        return [rows[key] for key in wanted if key in rows and self._has_features(results, *key)]

    def distances(self, results: Results, kodak: bool) -> Iterator[Distance]:
        """Those still to be computed, now that every image is there."""
        if self.store:
            names = [path.name for path in self.paths]
            for quality in self.qualities:
                if not self._has_distance(results, quality):
                    yield self.store.distance(names, quality, KODAK_PATCHES if kodak else None)

    def _has_features(self, results: Results, image: str, quality: float) -> bool:
        if self.store is None or self._has_distance(results, quality):
            return True
        return self.store.has(image, quality)

    def _has_distance(self, results: Results, quality: float) -> bool:
        network = self.store.network
        return (network.name, network.sha256, quality) in {
            (d.network, d.sha256, d.quality) for d in results.distances
        }


@dataclass(frozen=True)
class _FeatureStore:
    """Features on disk until all images are there: one file per image and quality."""

    folder: Path
    network: Features

    @classmethod
    def of(cls, file: Path, results: Results, network: Features) -> "_FeatureStore":
        """Beside the results file, for these results and this network only."""
        identity = json.dumps(results.identity(), sort_keys=True, ensure_ascii=False)
        digest = hashlib.sha256(identity.encode()).hexdigest()[:16]
        store = file.parent / ".features" / f"{file.stem}-{digest}"
        return cls(store / f"{network.name}-{network.sha256[:16]}", network)

    def clear(self) -> None:
        if self.folder.exists():
            shutil.rmtree(self.folder)

    def has(self, image: str, quality: float) -> bool:
        return self._path(image, quality).exists() and self._path(image).exists()

    def save(self, image: str, measured: Measured) -> None:
        everything = {self._path(image): measured.original}
        everything |= {self._path(image, quality): f for quality, f in measured.decoded.items()}
        for path, features in everything.items():
            path.parent.mkdir(parents=True, exist_ok=True)
            data = io.BytesIO()
            np.save(data, features)
            images.atomic_write(path, data.getvalue(), overwrite=True)
        # Not for version control, wherever the results are.
        images.atomic_write(self.folder.parents[1] / ".gitignore", b"*\n", overwrite=True)

    def distance(self, names: Sequence[str], quality: float, patches: int | None) -> Distance:
        """Over all images; ResultsError when they have not the expected number of patches."""
        reference = torch.cat([self._load(name) for name in names])
        decoded = torch.cat([self._load(name, quality) for name in names])
        found = perception.distances(reference, decoded)
        if patches is not None and found.patches != patches:
            raise ResultsError(f"{self.folder}: holds {found.patches} patches, not {patches}")
        return Distance(
            quality=quality,
            network=self.network.name,
            sha256=self.network.sha256,
            frechet=float(f"{found.frechet:.8g}"),
            kernel=float(f"{found.kernel:.8g}"),
            patches=found.patches,
        )

    def _path(self, image: str, quality: float | None = None) -> Path:
        group = "original" if quality is None else str(float(quality))
        return self.folder / group / f"{image}.npy"

    def _load(self, image: str, quality: float | None = None) -> Tensor:
        return torch.from_numpy(np.load(self._path(image, quality), allow_pickle=False))


# ---------------------------------------------------------------- processes


def _share(
    tasks: Sequence[tuple[Path, list[float]]], instruments: Instruments, jobs: int
) -> Iterator[tuple[Path, Measured]]:
    """Each image as it is done."""
    try:
        for (path, _), measured in share(partial(_measure_task, instruments), tasks, jobs):
            yield path, measured
    except WorkerError as error:
        raise ResultsError(f"{instruments.codec.name}: {error}") from None


def _measure_task(instruments: Instruments, task: tuple[Path, list[float]]) -> Measured:
    return measure(instruments, *task)
