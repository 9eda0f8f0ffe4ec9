"""Measuring distances of a codec's decodes: one file per set and codec, one row per quality.

A file is a list of runs. Each has where its rows come from, as a results file has, and its rows.
"""

import hashlib
import json
from collections.abc import Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch

from blurlib import datasets, images
from blurlib.evaluation.codecs import Codec, Selection
from blurlib.evaluation.measure import fitting
from blurlib.evaluation.processes import share
from blurlib.evaluation.results import ResultsError, new_results, results_file
from blurlib.files import alone
from experiments.distances import features
from experiments.distances.features import Features
from experiments.record import Progress, write_json

CIRCUMSTANCES = "command", "commit", "device", "rows"
"""What may differ between two runs of the same numbers."""


class Row(NamedTuple):
    """How far the patches of all decoded images are from the originals', at one quality.

    Attributes:
        network, sha256: what the features come from, and the hash of its weights.
        frechet, kernel: distances of the features (`features.names`), MMD² the latter.
        patches: how many of 256 × 256 pixels.
    """

    network: str
    sha256: str
    quality: float
    frechet: float
    kernel: float
    patches: int


def measure(
    dataset: str, chosen: Selection, network: Features, qualities: Sequence[float], out: Path,
    command: str = "", jobs: int = 1,
) -> Iterator[Progress]:  # fmt: skip
    """Encode and decode all images of a set, and write the distances after each quality.

    A quality that the file has, by the same network, codec, images and library versions, is not
    measured again. ResultsError: the file cannot be read. ValueError: an image without a patch.
    """
    paths = fitting(chosen.codec, datasets.dataset(dataset))
    features.require_patches(paths)
    how = {"checkpoint": chosen.checkpoint, "seed": chosen.seed}
    run = new_results(dataset, chosen.codec, **how, jobs=jobs).header()
    contents = hashlib.sha256(b"".join(path.read_bytes() for path in paths)).hexdigest()
    run |= {"command": command, "images": contents, "rows": []}
    del run["lpips"]
    file = results_file(out, dataset, chosen.codec)
    with alone(file):
        runs = read(file)
        for old in runs:  # those of before do not name their images
            if _identity({"images": contents, **old}) == _identity(run):
                run = old
        present = {row.quality for row in run["rows"] if row.sha256 == network.sha256}
        missing = [quality for quality in dict.fromkeys(qualities) if quality not in present]
        original = None
        for n, quality in enumerate(missing):
            yield Progress(n, len(missing), f"{chosen.codec.name} at quality {quality:g}")
            if original is None:
                original = _features(chosen.codec, network, None, paths, jobs)
            decoded = _features(chosen.codec, network, quality, paths, jobs)
            *both, patches = features.distances(original, decoded)
            frechet, kernel = (float(f"{value:.8g}") for value in both)
            row = Row(network.name, network.sha256, quality, frechet, kernel, patches)
            runs = _with(runs, run, row)
            written = [{**old, "rows": [row._asdict() for row in old["rows"]]} for old in runs]
            write_json(file, {"runs": written})
    yield Progress(len(missing), len(missing), "done")


def read(file: Path) -> list[dict[str, Any]]:
    """The runs of a file; none where there is no file. ResultsError where it cannot be read."""
    try:
        runs = json.loads(file.read_text(encoding="utf-8"))["runs"] if file.exists() else []
        return [{**run, "rows": [Row(**row) for row in run["rows"]]} for run in runs]
    except (ValueError, KeyError, TypeError) as error:
        raise ResultsError(f"{file}: holds no distances ({error!r}); move it away") from None


def rows(file: Path, checkpoint: str | None, settings: Mapping[str, Any]) -> list[Row]:
    """What a file has of these weights and settings; what was measured of others is left out."""
    how = {"checkpoint": checkpoint, "settings": settings}
    same = [run for run in read(file) if {name: run.get(name) for name in how} == how]
    return [row for run in same for row in run["rows"]]


def _identity(run: Mapping[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in run.items() if name not in CIRCUMSTANCES}


def _with(runs: list[dict], run: dict, row: Row) -> list[dict]:
    """The row joins the run, and takes the place of one that another run has of the same."""
    others = [old for old in runs if old is not run]
    for old in (*others, run):
        old["rows"] = [kept for kept in old["rows"] if kept[:3] != row[:3]]
    run["rows"] = sorted([*run["rows"], row])
    return [*(old for old in others if old["rows"]), run]


def _features(
    codec: Codec, network: Features, quality: float | None, paths: Sequence[Path], jobs: int
) -> torch.Tensor:
    """(patches, dim) of all originals, or of all images decoded at a quality."""
    found = dict(share(partial(_look, codec, network, quality), paths, jobs))
    return torch.from_numpy(np.concatenate([found[path] for path in paths]))


def _look(codec: Codec, network: Features, quality: float | None, path: Path) -> np.ndarray:
    image = images.read_image(path)
    decoded = image if quality is None else codec.decode(codec.encode(image, quality))
    return network(features.patches(decoded)).numpy()
