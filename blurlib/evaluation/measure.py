"""Measuring: any codec on any set of images, into a results file.

The unit of work is one image with the qualities it lacks; several processes share the images. Only
the parent writes, after each image and atomically, so that a run killed at any time goes on where
it stopped.
"""

import hashlib
import itertools
import math
import os
import time
from collections.abc import Generator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

from torch import Tensor, nn

from blurlib import datasets, images, metrics
from blurlib.evaluation import results as res
from blurlib.evaluation.codecs import Codec, Extra
from blurlib.evaluation.processes import share
from blurlib.evaluation.results import Results, ResultsError, Row
from blurlib.files import alone


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


def measure(
    codec: Codec,
    path: Path,
    qualities: Sequence[float],
    lpips: nn.Module | None = None,
    extra: Extra | None = None,
) -> list[Row]:
    """Encode, decode and compare one image at every quality. Whatever the codec raises becomes a
    ResultsError of one line that names the image; so does a decoded image of another size. Without
    ``lpips``, or for too small an image, that column is ``nan``."""
    image, content = images.read_image(path), _content(path)

    def measured(quality: float) -> Row:
        start = time.perf_counter()
        data = codec.encode(image, quality)
        encoded = time.perf_counter()
        decoded = codec.decode(data)
        done = time.perf_counter()
        return Row(
            image=path.name,
            quality=quality,
            **compare(image, data, decoded, lpips).rounded(psnr=5, ms_ssim=8, lpips=6),
            encode_s=round(encoded - start, 4),
            decode_s=round(done - encoded, 4),
            content=content,
            extra=extra(image, quality, data) if extra else {},
        )

    rows = []
    for quality in qualities:
        try:
            rows.append(measured(quality))
        except Exception as error:  # codecs are other people's libraries: they raise anything
            reason = " ".join(str(error).split()) or type(error).__name__
            what = f"{codec.name} at quality {quality:g}"
            raise ResultsError(f"{path}: {what}: {reason}") from error
    return rows


def _content(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()[:16]


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
    extra: Extra | None = None,
    jobs: int = 1,
    overwrite: bool = False,
) -> Generator[Row]:
    """Measure ``codec`` on `datasets.dataset` into ``out_dir/<set>/<codec>.json``; yields each row.

    ``jobs`` processes share the images, each computing with one thread; the codec and networks must
    be picklable. 1 works in this process, with PyTorch's own number of threads.

    The file is rewritten after each image. Rows it already has are kept and come first, if they
    agree in `Results.identity`: codec, settings, weights, seed, LPIPS network, library versions,
    protocol. Otherwise ResultsError says what differs, and ``overwrite`` starts afresh.

    Images too long for the codec are left out (`fitting`).

    Raises:
        ImageError: no such set, no images in it, or one that cannot be read.
        ResultsError: as above; a codec fails on an image.
        WorkerError: a worker process dies, or the codec cannot be sent to one.
        OSError: another process measures into the same file.
    """
    if jobs < 1:
        raise ValueError(f"jobs is {jobs}: at least one process has to do the work")
    paths = fitting(codec, datasets.dataset(dataset))
    qualities, names = [*dict.fromkeys(qualities)], [path.name for path in paths]
    file = res.results_file(out_dir, dataset, codec)
    results = res.new_results(
        dataset, codec, checkpoint=checkpoint, seed=seed,
        lpips=lpips_name if lpips is not None else None, jobs=jobs,
    )  # fmt: skip
    contents = {path: _content(path) for path in paths}
    with alone(file):
        if file.exists() and not overwrite:
            results = _resumed(file, results, contents)
        rows = {(row.image, row.quality): row for row in results.rows}
        yield from (rows[k] for k in itertools.product(names, qualities) if k in rows)
        missing = [[q for q in qualities if (name, q) not in rows] for name in names]
        tasks = [task for task in zip(paths, missing, strict=True) if task[1]]
        for _, measured in share(lambda task: measure(codec, *task, lpips, extra), tasks, jobs):
            results = replace(results, rows=(*results.rows, *measured))
            res.write(file, results, overwrite=True)
            yield from measured


def fitting(codec: Codec, paths: Sequence[Path]) -> list[Path]:
    """The images whose sides the codec can hold; ResultsError if there are none."""
    longest = getattr(codec, "longest", math.inf)
    if not (fit := [path for path in paths if max(images.header_size(path)) <= longest]):
        raise ResultsError(f"{paths[0]}: {codec.name} takes sides up to {longest} pixels")
    return fit


def _resumed(file: Path, fresh: Results, contents: Mapping[Path, str]) -> Results:
    """What the file has, to be gone on with under the circumstances of ``fresh``."""
    present = res.read(file)
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
