"""The same files, decoded by many decoders: each photo is coded once per quality, then decoded by
all, so that nothing but the decoder differs between two rows."""

from __future__ import annotations

import csv
import hashlib
import io
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple, get_type_hints

import numpy as np
import torch
from torch import Tensor, nn

from blurlib import images
from blurlib.codec import BlurCodec, CodecOutput
from blurlib.codec.synthesis import DiffusionDecoder
from blurlib.codec.transforms import Reconstruction
from blurlib.diffusion import Denoiser, Sampling
from blurlib.evaluation.codecs import BlurlibCodec
from blurlib.evaluation.measure import compare
from blurlib.evaluation.processes import share
from blurlib.files import atomic_write
from blurlib.metrics import Lpips
from experiments.distances.features import Features, distances, patches
from experiments.distances.features import names as names_of

DIRECT = "direct"
"""The run that stands for the codec's own decoder."""

SILENT = "silent"
"""What the names of chains without a network begin with."""


def silent(sigma: float) -> str:
    """The run that stands for the chain of a process with `sigma` pixels of blur and no network."""
    return f"{SILENT}-{sigma:g}"


ONCE = Sampling(steps=1, start_scale=0.0)
"""How a decoder without a chain is run."""


class Contestant(NamedTuple):
    """A decoder on top of the codec's, None being the direct one, and the hash of its weights."""

    run: str
    weights: str
    decoder: DiffusionDecoder | None


class Decode(NamedTuple):
    """A row of decodes.csv: one file, decoded in one way.

    Attributes:
        run, weights: of the `Contestant`.
        solver, spacing, start_scale, steps: of the `Sampling`; where there is no chain, no solver
            and spacing, and a start_scale of 0.
        seconds: of CPU time (of wall time on a GPU); of the direct decoder all that it takes to
            decode the file, of the others what they take on top.
    """

    run: str
    weights: str
    solver: str
    spacing: str
    start_scale: float
    steps: int
    image: str
    quality: float
    bytes: int
    bpp: float
    psnr: float
    ms_ssim: float
    lpips: float
    seconds: float

    @property
    def way(self) -> tuple:
        """What decoded it, without the file."""
        return self[:6]


@dataclass(frozen=True)
class Part:
    """Decodes that belong together: which runs, in which ways, of which files.

    Attributes:
        every: only every so many-th photo of the set, from the first.
    """

    runs: tuple[str, ...]
    samplings: tuple[Sampling, ...]
    qualities: tuple[float, ...]
    every: int = 1


@dataclass(frozen=True)
class Bench:
    """Everything that takes part, and a folder for what is already measured.

    Attributes:
        codec: in eval mode; it stays on the CPU, the contestants may be elsewhere.
        work: of each photo, by its content, and quality a CSV of rows, and the features of the
            decoded pictures.
    """

    codec: BlurCodec
    contestants: Mapping[str, Contestant]
    lpips: Lpips
    features: Features
    work: Path
    device: str = "cpu"

    def measure(
        self, paths: Sequence[Path], parts: Sequence[Part], jobs: int = 1
    ) -> Iterator[float]:
        """Measure what is missing, files beside each other in `jobs` processes; after each photo
        and quality, which part of all is done."""
        qualities = sorted({quality for part in parts for quality in part.qualities})
        files = [
            (path, quality, tuple(_ways(parts, i, quality)))
            for i, path in enumerate(paths)
            for quality in qualities
        ]
        for n, _ in enumerate(share(self._measure, files, jobs), 1):
            yield n / len(files)

    def rows(self, paths: Sequence[Path], parts: Sequence[Part]) -> list[Decode]:
        """What `measure` has measured of these, in the order of the parts, photos and qualities."""
        found = []
        for i, path in enumerate(paths):
            for quality in sorted({quality for part in parts for quality in part.qualities}):
                present = self._read(path, quality)
                found += [present[self._way(*way)] for way in _ways(parts, i, quality)]
        return found

    def distances(self, paths: Sequence[Path], rows: Sequence[Decode]) -> list[dict[str, Any]]:
        """Fréchet and kernel distance of every way and quality that has all photos."""
        names = [path.name for path in paths]
        features = {
            (path.name, quality): np.load(self._file(path, quality, ".npz"))
            for path in paths
            for quality in {row.quality for row in rows}
        }
        lines = []
        for way, quality in dict.fromkeys((row.way, row.quality) for row in rows):
            stores = [features[name, quality] for name in names]
            if all(_key(way) in store for store in stores):
                original, decoded = (
                    torch.from_numpy(np.concatenate([store[key] for store in stores]))
                    for key in ("original", _key(way))
                )
                lines.append(self._distance(way, quality, original, decoded))
        return lines

    def _distance(self, way: tuple, quality: float, original: Tensor, decoded: Tensor) -> dict:
        found, names = distances(original, decoded), names_of(self.features.name)
        values = {names.frechet: found.frechet, names.kernel: found.kernel}
        return {
            **dict(zip(Decode._fields, way, strict=False)),
            "quality": quality,
            "patches": found.patches,
            **{name: float(f"{value:.6g}") for name, value in values.items()},
        }

    def _measure(self, file: tuple[Path, float, tuple]) -> None:
        """One photo at one quality, in all the ways that are missing."""
        path, quality, ways = file
        present = self._read(path, quality)
        missing = [way for way in ways if self._way(*way) not in present]
        if not missing:
            return
        image = images.read_image(path)
        data = self.codec.compress(images.to_float(image)[None], quality, effort=0)
        now = time.process_time if self.device == "cpu" else time.perf_counter
        start = now()
        output = self.codec.decompress(data)
        direct = now() - start
        output = _moved(output, self.device)
        features = self._features(path, quality)
        features.setdefault("original", self._look(image))
        for run, sampling in missing:
            decoder = self.contestants[run].decoder
            codec = BlurlibCodec("", self.codec, decoder, sampling=sampling)
            start = now()
            picture = images.to_uint8(codec.picture(output)[0].cpu())
            seconds = now() - start if decoder else direct
            way = self._way(run, sampling)
            present[way] = self._row(way, path, quality, data, image, picture, seconds)
            features[_key(way)] = self._look(picture)
        self._write(path, quality, present, features)

    def _row(
        self, way: tuple, path: Path, quality: float, data: bytes,
        image: Tensor, picture: Tensor, seconds: float,
    ) -> Decode:  # fmt: skip
        found = compare(image, data, picture, self.lpips)
        return Decode(
            *way,
            image=path.name,
            quality=quality,
            **found.rounded(psnr=4, ms_ssim=6, lpips=5),
            seconds=round(seconds, 3),
        )

    def _look(self, picture: Tensor) -> np.ndarray:
        return self.features(patches(picture)).numpy()

    def _way(self, run: str, sampling: Sampling) -> tuple:
        contestant = self.contestants[run]
        if not (contestant.decoder and sampling.start_scale):
            return (run, contestant.weights, "", "", 0.0, 1 if contestant.decoder else 0)
        how = (sampling.solver, sampling.spacing, sampling.start_scale, sampling.steps)
        return (run, contestant.weights, *how)

    # What is measured of one photo and quality

    def _file(self, path: Path, quality: float, suffix: str) -> Path:
        content = hashlib.sha256(path.read_bytes() + self.features.sha256.encode()).hexdigest()
        return self.work / f"{path.stem}-{content[:12]}-q{quality:g}{suffix}"

    def _read(self, path: Path, quality: float) -> dict[tuple, Decode]:
        """The rows there are by what decoded them."""
        file = self._file(path, quality, ".csv")
        if not file.is_file():
            return {}
        rows = read(file.read_text(encoding="utf-8"))
        return {row.way: row for row in rows}

    def _features(self, path: Path, quality: float) -> dict[str, np.ndarray]:
        file = self._file(path, quality, ".npz")
        return dict(np.load(file)) if file.is_file() else {}

    def _write(self, path: Path, quality: float, rows: Mapping, features: Mapping) -> None:
        self.work.mkdir(parents=True, exist_ok=True)
        data = io.BytesIO()
        np.savez(data, **features)
        # The rows last: a row stands for its features too.
        for suffix, content in ((".npz", data.getvalue()), (".csv", text(rows.values()).encode())):
            atomic_write(self._file(path, quality, suffix), content, overwrite=True)


def _ways(parts: Sequence[Part], photo: int, quality: float) -> list[tuple[str, Sampling]]:
    """The runs and their samplings for the photo of this number, each once."""
    ways = [
        (run, sampling)
        for part in parts
        if quality in part.qualities and photo % part.every == 0
        for run in part.runs
        for sampling in part.samplings
    ]
    return list(dict.fromkeys(ways))


def _key(way: tuple) -> str:
    return "|".join(map(str, way))


def _moved(output: CodecOutput, device: str) -> CodecOutput:
    x_hat, pyramid = output.reconstruction
    moved = Reconstruction(x_hat.to(device), tuple(features.to(device) for features in pyramid))
    return output._replace(reconstruction=moved)


def text(rows) -> str:
    """Rows as CSV."""
    file = io.StringIO()
    writer = csv.writer(file, lineterminator="\n")
    writer.writerow(Decode._fields)
    writer.writerows(rows)
    return file.getvalue()


def read(content: str) -> list[Decode]:
    """Inverse of `text`."""
    kinds = get_type_hints(Decode).values()
    rows = list(csv.reader(io.StringIO(content)))[1:]
    return [Decode(*(kind(value) for kind, value in zip(kinds, row, strict=True))) for row in rows]


class Silent(nn.Module):
    """In the place of a denoiser of residuals, one that says nothing: its chain draws noise with
    the spectrum of the codec's usual errors. What two processes differ by here is no learning."""

    def __init__(self, denoiser: Denoiser):
        super().__init__()
        self.config = denoiser.config
        self.register_buffer("error_spectra", denoiser.error_spectra)

    def forward(self, z_t: Tensor, *_: Any) -> Tensor:
        return torch.zeros_like(z_t)


def silenced(decoder: DiffusionDecoder) -> DiffusionDecoder:
    """The process of a decoder of residuals, with a network that says nothing."""
    network = Silent(decoder.denoiser)
    return DiffusionDecoder(network, decoder.process, decoder.codec_id, decoder.sampling).eval()
