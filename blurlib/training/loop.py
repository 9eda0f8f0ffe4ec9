"""The training loop: a generator that yields after every step and can always be resumed."""

import contextlib
import copy
import itertools
import json
import math
import os
import signal
import statistics
import threading
import time
from collections.abc import Generator, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from lightning_fabric import Fabric
from lightning_fabric.plugins import MixedPrecision
from lightning_fabric.utilities.rank_zero import rank_zero_only
from torch import Tensor, nn

from blurlib.files import alone
from blurlib.images import centre, to_float, to_uint8, write_image
from blurlib.training import stages
from blurlib.training.config import TrainConfig
from blurlib.training.data import find_photos, open_photos, read_photo
from blurlib.training.draws import Draws
from blurlib.training.optimisers import learning_rate, make_optimisers
from blurlib.training.run import RunFolder, Step, read_log

MEASURED_STEPS = range(5, 25)  # these steps are timed to fix the length of a time-boxed run
PATIENCE = 20  # steps in a row that may be not finite
HELD_OUT, HELD_OUT_SIDE = 16, 256  # photos that a run is judged by, and pixels of each
PREVIEW_SIDE = 512  # pixels
START_BATCH = 8  # crops that are read at once for the start of a run


class NotFiniteError(ValueError):
    """Step after step was not finite: the run cannot go on."""


class Terminated(SystemExit):
    """The run was told to end (SIGTERM), and saved its checkpoint. Exit code 143, but 0 of other
    processes than the first, which Fabric kills, saving or not, when one of them ends otherwise."""

    def __init__(self, step: int, first: bool = True) -> None:
        super().__init__(128 + signal.SIGTERM if first else 0)
        self.message = f"stopped after step {step}"


def train(config: TrainConfig, run: Path, resume: bool = False) -> Generator[Step]:
    """Train in a folder of its own, which `blurlib.training.run` describes.

    A photo of a step draws its crop, λ and noise from (seed, step, number of the photo) alone, so a
    resumed run repeats an uninterrupted one. The checkpoint is also written when the generator is
    closed early, on an error, and at the end. On SIGTERM or Ctrl-C the step in hand is finished and
    saved. With several devices or machines every process runs this; only the first writes, but for
    the list of what each has skipped.

    Raises:
        ValueError: `run` holds another run, or nothing to resume; no photos; the number of
            processes is not what the configuration says.
        NotFiniteError: `PATIENCE` steps in a row were not finite.
        Terminated: after SIGTERM.
        OSError: the disk is full, and the last checkpoint is whole; or another process trains here.
    """
    folder = RunFolder(run)
    folder.check(config, resume)
    fabric = launch(config)
    with alone(folder.path) if fabric.is_global_zero else contextlib.nullcontext():
        if fabric.is_global_zero:
            folder.prepare(config)
        if config.threads:
            torch.set_num_threads(config.threads)
        yield from _Run(config, folder, fabric, resume).steps_taken()


class _InputsAsTheyAre(MixedPrecision):
    """Autocast alone: Fabric would round the photos and their qualities to bfloat16 as well."""

    def convert_input(self, data: Any) -> Any:
        return data


def launch(config: TrainConfig) -> Fabric:
    """Fabric as configured, its processes started. ValueError: there is no GPU where one is asked
    for, or too few, or a launcher such as torchrun started another number of processes."""
    on_gpu = config.accelerator != "cpu" and torch.cuda.is_available()
    if config.accelerator == "cuda" and not on_gpu:
        raise ValueError("accelerator is 'cuda', but PyTorch finds no GPU: use 'cpu' or 'auto'")
    if on_gpu and config.devices > (found := torch.cuda.device_count()):
        raise ValueError(f"devices is {config.devices}: this machine has {found} GPUs")
    mixed = _InputsAsTheyAre("bf16-mixed", "cuda" if on_gpu else "cpu")
    fabric = Fabric(
        accelerator="cuda" if on_gpu else "cpu",  # Apple's GPUs have no float64
        strategy=config.strategy,
        devices=config.devices,
        num_nodes=config.nodes,
        plugins=mixed if config.precision == "bf16-mixed" else None,
    )
    started = int(os.environ.get("WORLD_SIZE", fabric.world_size))
    if started != config.devices * config.nodes:
        raise ValueError(
            f"{started} processes were started, and the run is for {config.devices} devices on "
            f"{config.nodes} machines: set the fields devices and nodes"
        )
    fabric.launch()
    return fabric


def is_first_process() -> bool:
    """Whether this process is the one that writes and reports."""
    return getattr(rank_zero_only, "rank", 0) in (0, None)


@contextlib.contextmanager
def _noted(number: int) -> Iterator[threading.Event]:
    """Meanwhile a signal sets the event and does nothing else; a second one acts as ever."""
    requested, before = threading.Event(), signal.getsignal(number) or signal.SIG_DFL

    def note(*_: Any) -> None:
        requested.set()
        signal.signal(number, before)

    if threading.current_thread() is not threading.main_thread():  # which alone gets signals
        yield requested
        return
    signal.signal(number, note)
    try:
        yield requested
    finally:
        signal.signal(number, before)


class _Run:
    """A run that is under way."""

    def __init__(self, config: TrainConfig, folder: RunFolder, fabric: Fabric, resume: bool):
        self.config, self.folder, self.fabric = config, folder, fabric
        first = fabric.global_rank * config.batch
        self.samples = range(first, first + config.batch)
        self.total = fabric.world_size * config.batch
        self.photos = open_photos(config, find_photos(config), fabric.device)
        self.held_out = _held_out(config) if fabric.is_global_zero else []
        torch.manual_seed(config.seed)  # of the weights, the same in all processes
        self.stage = stage = stages.make(replace(config, init="") if resume else config)
        if not resume and (crops := stage.start_crops()):
            with contextlib.closing(self.photos.batches(0, range(START_BATCH))) as batches:
                some = torch.cat(list(itertools.islice(batches, crops // START_BATCH)))
            stage.start(some.float() / 255)
        stage.module.to(memory_format=torch.channels_last).train()
        self.average = fabric.to_device(copy.deepcopy(stage.module).requires_grad_(False))
        stage.setup(fabric)
        self.optimisers = make_optimisers(stage.module, stage.trained_codec, config)
        self.step, self.steps, self.seconds = 0, config.steps, 0.0
        self.not_finite = self.not_finite_in_a_row = 0  # steps
        self.updating = False  # weights, average and counters do not belong together now
        if resume:
            self._load(folder.load())

    def steps_taken(self) -> Iterator[Step]:
        """All steps, then the model files; leaves a checkpoint however it ends."""
        with _noted(signal.SIGTERM) as terminated:
            try:
                yield from self._logged_steps(terminated)
            finally:
                if not self.updating:  # else the last interval's checkpoint is the good one
                    self._save()
        if self.fabric.is_global_zero:
            average = copy.deepcopy(self.average).cpu()  # tables are computed where all can
            for name, data in self.stage.files(average).items():
                self.folder.write(name, data)

    def _logged_steps(self, terminated: threading.Event) -> Iterator[Step]:
        saved = time.monotonic()
        crops = self.photos.batches(self.step, self.samples)
        to = self.folder.log if self.fabric.is_global_zero else os.devnull
        # Readers are ended here: at the exit of Python they would be waited for, and not told.
        with contextlib.closing(crops), open(to, "a", encoding="utf-8") as log:
            self.folder.note_skipped(self.photos, self.fabric.global_rank)
            while not self.steps or self.step < self.steps:
                with _noted(signal.SIGINT) as interrupted:
                    step, stop = self._step(crops, terminated)
                due = time.monotonic() - saved > self.config.checkpoint_every
                if due or step.step == step.steps:
                    step = step._replace(held_out=self._held_out_loss())
                log.write(json.dumps(step._asdict()) + "\n")
                log.flush()
                if self.not_finite_in_a_row >= PATIENCE:
                    self._give_up()
                first = self.fabric.is_global_zero
                if interrupted.is_set() and first:
                    raise KeyboardInterrupt
                if stop or interrupted.is_set():
                    raise Terminated(step.step, first)
                if due:
                    self._save()
                    saved = time.monotonic()
                yield step

    def _step(self, crops: Iterator[Tensor], terminated: threading.Event) -> tuple[Step, bool]:
        """Read, forward, backward, update; and whether any process was told to end.

        A step that is not finite changes nothing. All processes see the same means, so they agree.
        """
        config, start = self.config, time.monotonic()
        x = next(crops).float().div(255).contiguous(memory_format=torch.channels_last)
        lr = learning_rate(self.step, self.steps, config)
        groups = [group for optimiser in self.optimisers for group in optimiser.param_groups]
        for group in groups:
            group["lr"] = lr * group["scale"]
        draws = Draws(config.seed, self.step, self.samples, self.total, self.fabric.device)
        loss = self.stage.loss(x, self.step, draws, self.steps)
        for optimiser in self.optimisers:
            optimiser.zero_grad(set_to_none=True)
        self.fabric.backward(loss.total)
        trained = [p for group in groups for p in group["params"]]
        gradient = nn.utils.clip_grad_norm_(trained, config.clip)
        stop = torch.full((), float(terminated.is_set()), device=x.device)
        numbers = [loss.total, gradient, stop, *loss.parts.values()]
        means = self.fabric.all_reduce(torch.stack([n.detach().float() for n in numbers]))
        # Here a GPU is waited for.
        total, norm, stopping, *parts = means.tolist()  # type: ignore[union-attr]
        self.updating = True
        finite = math.isfinite(total) and math.isfinite(norm)
        if finite:
            for optimiser in self.optimisers:
                optimiser.step()
            _average(self.average, self.stage.module, min(config.ema, self.step / (self.step + 10)))
        self.not_finite += not finite
        self.not_finite_in_a_row = 0 if finite else self.not_finite_in_a_row + 1
        seconds = time.monotonic() - start
        self.step += 1
        self.seconds += seconds
        self.updating = False
        if self.step >= MEASURED_STEPS.stop and not self.steps:
            self.steps = self.step + self._steps_left()
        step = Step(
            self.step, self.steps, total, dict(zip(loss.parts, parts, strict=True)), norm, lr,
            seconds, self.total, self.not_finite,
        )  # fmt: skip
        return step, stopping > 0

    def _steps_left(self) -> int:
        """How many steps still fit into the time box, at the speed in the log (of resumed runs
        too)."""
        left = 0
        if self.fabric.is_global_zero:
            log = read_log(self.folder.path)
            pace = statistics.mean(s.seconds for s in log if s.step in MEASURED_STEPS)
            pace *= self.config.slowdown
            left = max(1, int((self.config.max_minutes * 60 - self.seconds) / pace))
        return self.fabric.broadcast(left)

    def _save(self) -> None:
        self.folder.note_skipped(self.photos, self.fabric.global_rank)
        if not self.fabric.is_global_zero:
            return
        state = {
            "model": self.stage.module.state_dict(),
            "average": self.average.state_dict(),
            "optimisers": [optimiser.state_dict() for optimiser in self.optimisers],
            "counters": [self.step, self.steps, self.seconds],
            "not_finite": [self.not_finite, self.not_finite_in_a_row],
        }
        self.folder.save(state)
        for photo in self.held_out[:1]:
            x = photo[None].to(self.fabric.device).float() / 255
            with torch.no_grad():
                x_hat = self.stage.preview(self.average, x)[0]
            if torch.isfinite(x_hat).all():
                both = torch.cat([photo, to_uint8(x_hat).cpu()], dim=2)
                write_image(self.folder.path / "validation.png", both, overwrite=True)

    def _load(self, state: dict[str, Any]) -> None:
        self.stage.module.load_state_dict(state["model"])
        self.average.load_state_dict(state["average"])
        for optimiser, saved in zip(self.optimisers, state["optimisers"], strict=True):
            optimiser.load_state_dict(saved)
        self.step, steps, self.seconds = state["counters"]
        self.steps = self.config.steps or steps  # a run may be resumed to a new length
        self.not_finite, self.not_finite_in_a_row = state["not_finite"]

    def _held_out_loss(self) -> float | None:
        side, device = HELD_OUT_SIDE, self.fabric.device
        large = [photo for photo in self.held_out if min(photo.shape[1:]) >= side]
        photos = [to_float(centre(photo, side, side).to(device)) for photo in large]
        return self.stage.held_out(copy.deepcopy(self.average), photos) if photos else None

    def _give_up(self) -> None:
        first = self.step - self.not_finite_in_a_row + 1
        raise NotFiniteError(
            f"step {first} and the {self.step - first} after it were not finite; "
            f"{self.folder.checkpoint} holds the last finite weights. A smaller lr or clip may help"
        )


def _held_out(config: TrainConfig) -> list[Tensor]:
    """The middle of the first usable held-out photos, uint8; sides are multiples of 64."""
    read = (read_photo(entry, 64) for entry in find_photos(config, held_out=True))
    usable = itertools.islice((p for p in read if isinstance(p, Tensor)), HELD_OUT)
    return [centre(p, *(min(s // 64 * 64, PREVIEW_SIDE) for s in p.shape[1:])) for p in usable]


@torch.no_grad()
def _average(average: nn.Module, module: nn.Module, decay: float) -> None:
    """Exponential moving average of the weights; buffers are copied."""
    ours, theirs = tuple(average.parameters()), tuple(module.parameters())
    torch._foreach_lerp_(ours, theirs, 1 - decay)
    for a, b in zip(average.buffers(), module.buffers(), strict=True):
        a.copy_(b)
