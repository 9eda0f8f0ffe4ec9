"""kill −9 at random times: what is left of files, and do runs go on?

Children of this process run the command line, so that a round does not wait for Python to start.
Half of the kills come at any time, half in the next moment in which a file is being written.
"""

import importlib
import os
import shutil
import signal
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image

from blurlib import cli, datasets, images
from blurlib.evaluation import results
from blurlib.training.run import RunFolder
from experiments.record import circumstances, write_json

# What the commands import when they need it: here once, and not in every child.
LATE = "codec.zoo", "evaluation.measure", "evaluation.codecs", "training.loop", "plotting"
WRITING = 0.003  # seconds: about how long a small file is being written


class Compress:
    """A command that is killed again and again, in a folder of its own."""

    name, before = "compress", b"an earlier file"

    def __init__(self, folder: Path, photos: Path):
        self.folder, self.photos = folder / self.name, photos
        self.target = self.folder / "photo.blur"
        self.counts = dict.fromkeys(["rounds", "killed", "killed while writing", "ended"], 0)
        self.renew()
        start = time.monotonic()
        self.wait(self.start())
        self.seconds = time.monotonic() - start
        self.expected = self.result()  # of a run that nothing disturbed
        self.renew()

    def renew(self) -> None:
        """Everything from the start."""
        shutil.rmtree(self.folder, ignore_errors=True)
        self.folder.mkdir()
        self.before = None if self.before else Compress.before
        if self.before:
            self.target.write_bytes(self.before)

    def command(self) -> list[Any]:
        return ["compress", self.photos / "0.png", self.target, "--force"]

    def result(self) -> Any:
        """What the command leaves: the same each time."""
        return self.target.read_bytes()

    def check(self) -> None:
        """ValueError or OSError where a file is neither the earlier one nor whole."""
        found = self.result() if self.target.exists() else None
        if found not in (self.before, self.expected):
            raise ValueError(f"{self.target.name} is neither the earlier file nor the new one")

    def start(self) -> int:
        """A child that runs the command; returns its process id."""
        if child := os.fork():
            return child
        code = 70
        try:
            log = os.open(self.folder.with_suffix(".log"), os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
            os.dup2(log, 1)
            os.dup2(log, 2)
            torch.set_num_threads(1)  # PyTorch's pool of threads, which a fork breaks, is made anew
            sys.argv = ["blurlib", *map(str, self.command())]
            cli.run(cli.app)
        except SystemExit as end:
            code = end.code or 0
        finally:
            os._exit(code)

    def wait(self, child: int) -> bool:
        """Whether the command ended by itself; ValueError where it failed."""
        code = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
        if code not in (0, -signal.SIGKILL):
            raise ValueError(f"exit code {code}: {self.folder.with_suffix('.log').read_text()}")
        return code == 0

    def is_writing(self) -> bool:
        return any(True for _ in self.folder.rglob(".*.tmp"))

    def round(self, rng: np.random.Generator) -> None:
        """Start, kill, check."""
        for leftover in self.folder.rglob(".*.tmp"):
            leftover.unlink()
        child, aimed = self.start(), rng.random() < 0.5
        at, how = time.monotonic() + rng.uniform(0, self.seconds), os.WEXITED | os.WNOWAIT
        while not os.waitid(os.P_PID, child, how | os.WNOHANG):  # it runs
            if time.monotonic() > at and (not aimed or self.is_writing()):
                time.sleep(aimed * rng.uniform(0, WRITING))
                break
            time.sleep(0.0005)
        os.kill(child, signal.SIGKILL)  # one that has ended waits for us: its id is no other's
        ended = self.wait(child)
        self.counts["rounds"] += 1
        self.counts["ended" if ended else "killed"] += 1
        self.counts["killed while writing"] += not ended and self.is_writing()
        self.check()
        if ended and self.result() != self.expected:
            raise ValueError("the end differs from that of a run that nothing disturbed")
        if ended or self.name == "compress":
            self.renew()


class Train(Compress):
    """The next round resumes the run, until it ends."""

    name = "train"

    def command(self) -> list[Any]:
        run = self.folder / "run"
        settings = "held_out=0", "start=random", "checkpoint_every=0", "warmup=2"
        options = [part for setting in settings for part in ("--set", setting)]
        options += ["--resume"] if RunFolder(run).checkpoint.exists() else []
        return ["train", "tiny", "--run", run, "--data", self.photos, "--steps", 3, *options]

    def result(self) -> bytes:
        return (self.folder / "run" / "model.safetensors").read_bytes()

    def check(self) -> None:
        run = RunFolder(self.folder / "run")
        if run.checkpoint.exists():
            run.load()
        for picture in run.path.glob("[!.]*.png"):
            Image.open(picture).load()
        if any(run.path.glob("model.safetensors")) and self.result() != self.expected:
            raise ValueError("the model differs from that of a run that nothing disturbed")


class Evaluate(Compress):
    """The next round goes on with the results file, until all rows are there."""

    name = "evaluate"

    def command(self) -> list[Any]:
        quick = ["--lpips", "none", "--jobs", 1, "--out", self.folder]
        return ["evaluate", self.photos, "--codec", "jpeg", "--qualities", "20,50", *quick]

    def result(self) -> list[tuple]:
        found = results.read(self.folder / self.photos.name / "jpeg.json")
        return [(r.image, r.quality, r.bytes, r.psnr, r.ms_ssim, r.content) for r in found.rows]

    def check(self) -> None:
        if (self.folder / self.photos.name / "jpeg.json").exists():
            rows = self.result()
            if len(rows) % 2 or not set(rows) <= set(self.expected):
                raise ValueError("there are rows of half an image, or other rows")


def kill(out: Path, rounds: int = 500, seed: int = 0) -> None:
    """kill -9 at random times: files, and runs that go on; half of the rounds are of compress."""
    for name in LATE:
        importlib.import_module(f"blurlib.{name}")
    torch.set_num_threads(1)
    rng, wrong = np.random.default_rng(seed), []
    with tempfile.TemporaryDirectory() as name:
        photos = Path(name) / "photos"
        photos.mkdir()
        for i, photo in enumerate(datasets.embedded_names()[:3]):
            images.write_image(photos / f"{i}.png", datasets.embedded(photo)[:, :192, :192])
        trials = [kind(Path(name), photos) for kind in (Compress, Evaluate, Train)]
        for n in range(rounds):
            trial = trials[(0, 1, 0, 2)[n % 4]]
            try:
                trial.round(rng)
            except (ValueError, OSError) as error:
                wrong.append(f"round {n}, {trial.name}: {error}")
                trial.renew()
            if n % 50 == 49 or n == rounds - 1:
                command = f"python -m experiments.robustness kill {out.name} --rounds {rounds}"
                record = circumstances(command, 1) | {"seed": seed, "rounds": n + 1}
                commands = {trial.name: trial.counts for trial in trials}
                write_json(out, record | {"commands": commands, "wrong": wrong})
                print(f"{n + 1} of {rounds}: {len(wrong)} wrong", flush=True)
