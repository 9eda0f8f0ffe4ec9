"""What a run will take, from a few of its own steps."""

import contextlib
import dataclasses
import itertools
import statistics
import sys
import tempfile
from pathlib import Path
from typing import NamedTuple

import torch

from blurlib.training import stages
from blurlib.training.config import TrainConfig
from blurlib.training.data import find_photos
from blurlib.training.loop import train

WARM_UP, MEASURED = 3, 5  # steps


class Estimate(NamedTuple):
    """Of one run."""

    parameters: int  # that are trained
    photos: int
    skipped: int  # of them, as far as seen
    memory: int  # bytes at the peak: of the GPU, or of this process; 0 where Python cannot tell
    device: str
    steps: int
    seconds: float  # of a step, on average
    images: int  # in a step

    @property
    def hours(self) -> float:
        return self.steps * self.seconds / 3600


def estimate(config: TrainConfig) -> Estimate:
    """Train for a few steps in a folder that is then deleted. ValueError: it cannot start."""
    short = dataclasses.replace(
        config, steps=WARM_UP + MEASURED + 1, checkpoint_every=1e9,
        unroll_last=0.25,  # the last step of those taken, for its memory; the median is of the rest
    )  # fmt: skip
    with tempfile.TemporaryDirectory() as folder:
        with contextlib.closing(train(short, Path(folder))) as steps:
            taken = list(itertools.islice(steps, WARM_UP + MEASURED))
        skipped = len((Path(folder) / "skipped.txt").read_text().splitlines())
    seconds = config.slowdown * statistics.median(step.seconds for step in taken[WARM_UP:])
    on_gpu = config.accelerator != "cpu" and torch.cuda.is_available()
    return Estimate(
        parameters=sum(p.numel() for p in stages.make(config).module.parameters()),
        photos=len(find_photos(config)),
        skipped=skipped,
        memory=torch.cuda.max_memory_allocated() if on_gpu else _peak_of_process(),
        device=torch.cuda.get_device_name() if on_gpu else "CPU",
        steps=config.steps or max(1, int(config.max_minutes * 60 / seconds)),
        seconds=seconds,
        images=taken[0].images,
    )


def _peak_of_process() -> int:
    try:
        import resource
    except ImportError:  # Windows
        return 0
    unit = 1 if sys.platform == "darwin" else 1024
    return unit * resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
