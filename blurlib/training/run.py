"""The folder of a run: what is in it, and how it survives kills and full disks.

config.toml, log.jsonl (one line per step), skipped.txt (photos that cannot be used; further
processes have a skipped-RANK.txt each), checkpoint.pt, validation.png and, at the end, the model
files. The command line adds curves.png.
"""

import dataclasses
import io
import json
import pickle
import zipfile
from pathlib import Path
from typing import Any, NamedTuple

import torch

from blurlib.files import atomic_write
from blurlib.training.config import TrainConfig
from blurlib.training.data import Photos

# Of the machine, or of where and how the run ends: these may change where a run is resumed.
MAY_CHANGE = (
    *("data", "bank_gb", "workers", "checkpoint_every", "steps", "decay"),
    *("checkpointing", "threads", "accelerator", "devices", "nodes", "strategy"),
)
STATE = {"model", "average", "optimisers", "counters", "not_finite"}  # of a checkpoint


class Step(NamedTuple):
    """One step of a run, as logged."""

    step: int  # from 1
    steps: int  # how many the run will have; 0: not yet known
    loss: float  # what is minimised,
    parts: dict[str, float]  # and what it is made of, by name
    gradient: float  # its norm before clipping
    lr: float
    seconds: float  # of wall time, reading photos included
    images: int = 0  # in this step, all processes together
    not_finite: int = 0  # steps so far that changed nothing because they were not finite
    held_out: float | None = None  # loss of the averaged weights, where a checkpoint was due


class RunFolder:
    """Reads and writes a run's folder. Everything but the log is replaced whole or not at all."""

    def __init__(self, path: Path):
        self.path = Path(path)
        self.checkpoint = self.path / "checkpoint.pt"
        self.log = self.path / "log.jsonl"

    def check(self, config: TrainConfig, resume: bool) -> None:
        """ValueError where `config` cannot start, or go on, here; changes nothing."""
        if not resume:
            if self.checkpoint.exists():
                raise ValueError(
                    f"{self.path} already holds a run: resume it, or choose another folder"
                )
            return
        if not self.checkpoint.is_file():
            raise ValueError(f"{self.path} has no checkpoint.pt to resume from")
        started = dataclasses.asdict(TrainConfig.recipe(str(self.path / "config.toml")))
        for name, now in dataclasses.asdict(config).items():
            if started[name] != now and name not in MAY_CHANGE:
                raise ValueError(
                    f"{self.path} was started with {name} = {started[name]!r}, not {now!r}: "
                    f"resume it with its own recipe (only {', '.join(MAY_CHANGE)} may change)"
                )

    def prepare(self, config: TrainConfig) -> None:
        """Write the configuration, and clear what a kill left half done: without a checkpoint
        nothing of a run is left to go on from, so that its log goes too."""
        self.path.mkdir(parents=True, exist_ok=True)
        for leftover in self.path.glob(".*.tmp"):
            leftover.unlink()
        self.write("config.toml", config.to_toml().encode())
        if not self.checkpoint.is_file():
            self.log.unlink(missing_ok=True)
        elif self.log.exists() and not self.log.read_bytes().endswith(b"\n"):
            with open(self.log, "a", encoding="utf-8") as file:
                file.write("\n")

    def write(self, name: str, data: bytes) -> None:
        atomic_write(self.path / name, data, overwrite=True)

    def save(self, state: dict[str, Any]) -> None:
        """Replace the checkpoint; on a full disk the old one stays (OSError)."""
        buffer = io.BytesIO()  # PyTorch's own writer does not raise an OSError there
        torch.save(state, buffer)
        atomic_write(self.checkpoint, buffer.getbuffer(), overwrite=True)

    def load(self) -> dict[str, Any]:
        """The state that `save` was given; ValueError where the file is not whole, or another's."""
        try:
            with zipfile.ZipFile(self.checkpoint) as archive:  # PyTorch does not look at its sums
                if damaged := archive.testzip():
                    raise zipfile.BadZipFile(damaged)
            state = torch.load(self.checkpoint, map_location="cpu", weights_only=True)
            if not (isinstance(state, dict) and STATE <= state.keys()):
                raise ValueError("it holds something else")
        except (zipfile.BadZipFile, ValueError, RuntimeError, pickle.PickleError) as error:
            raise ValueError(
                f"{self.checkpoint}: is damaged, or of no run: put back a copy of it, or start "
                "again in another folder"
            ) from error
        return state

    def note_skipped(self, photos: Photos, rank: int = 0) -> None:
        """Every process knows what it skipped itself; of rank 1 on, a list that is not empty has a
        file of its own."""
        lines = [f"{path}: {reason}\n" for path, reason in photos.skipped.items()]
        if lines or rank == 0:
            self.path.mkdir(parents=True, exist_ok=True)  # of a process on another machine
            name = f"skipped-{rank}.txt" if rank else "skipped.txt"
            self.write(name, "".join(lines).encode(errors="backslashreplace"))


def read_log(run: Path) -> list[Step]:
    """The steps of a run so far; where it was resumed, the later line of a step counts. A line that
    a kill cut short is left out."""
    steps: dict[int, Step] = {}
    path = Path(run) / "log.jsonl"
    with open(path, encoding="utf-8", errors="replace") as log:
        for number, line in enumerate(log, 1):
            try:
                step = Step(**json.loads(line))
            except json.JSONDecodeError:
                continue
            except (TypeError, RecursionError):
                raise ValueError(f"{path}: line {number} is not a step: delete that line") from None
            steps[step.step] = step
    return [steps[k] for k in sorted(steps)]
