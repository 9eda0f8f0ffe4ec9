"""The training loop: a generator that yields after every step and can always be resumed."""

from __future__ import annotations

import contextlib
import copy
import dataclasses
import itertools
import json
import math
import os
import signal
import statistics
import threading
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import torch
from lightning_fabric import Fabric
from lightning_fabric.plugins import MixedPrecision
from torch import Tensor, nn

from blurlib.images import centre, write_image
from blurlib.training import stages
from blurlib.training.config import TrainConfig
from blurlib.training.data import Entry, Photos, find_photos, open_photos, read_photo
from blurlib.training.draws import Draws
from blurlib.training.optimisers import make_optimisers
from blurlib.training.run import RunFolder, Step, read_log

MEASURED_STEPS = range(5, 25)  # these steps are timed to fix the length of a time-boxed run
PATIENCE = 20  # steps in a row that may be not finite
HELD_OUT, HELD_OUT_SIDE = 16, 256  # photos that a run is judged by, and pixels of each
PREVIEW_SIDE = 512  # pixels
START_BATCH = 8  # crops that are read at once for the start of a run


class NotFiniteError(ValueError):
    """Step after step was not finite: the run cannot go on."""


class Terminated(SystemExit):
    """The run was told to end (SIGTERM), and saved its checkpoint; exit code 143."""

    def __init__(self, step: int) -> None:
        super().__init__(128 + signal.SIGTERM)
        self.message = f"stopped after step {step}"


@dataclasses.dataclass
class _State:
    """Everything a checkpoint holds. Random numbers are not in it: they follow from the step."""

    stage: stages.Stage
    average: nn.Module
    optimisers: list[torch.optim.Optimizer]
    step: int = 0
    steps: int = 0
    seconds: float = 0.0
    not_finite: int = 0  # steps
    not_finite_in_a_row: int = 0
    updating: bool = False  # weights, average and counters do not belong together now

    def to_dict(self) -> dict[str, Any]:
        return {
            "model": self.stage.module.state_dict(),
            "average": self.average.state_dict(),
            "optimisers": [optimiser.state_dict() for optimiser in self.optimisers],
            "counters": [self.step, self.steps, self.seconds],
            "not_finite": [self.not_finite, self.not_finite_in_a_row],
        }

    def load(self, state: dict[str, Any]) -> None:
        self.stage.module.load_state_dict(state["model"])
        self.average.load_state_dict(state["average"])
        for optimiser, saved in zip(self.optimisers, state["optimisers"], strict=True):
            optimiser.load_state_dict(saved)
        self.step, self.steps, self.seconds = state["counters"]
        self.not_finite, self.not_finite_in_a_row = state.get("not_finite", [0, 0])


class _Termination:
    """For the time of a `with`, SIGTERM is noted instead of obeyed; a second one kills."""

    requested = False

    def __enter__(self) -> _Termination:
        if threading.current_thread() is threading.main_thread():
            self._before = signal.signal(signal.SIGTERM, self._note)
        return self

    def _note(self, *_) -> None:
        self.requested = True
        signal.signal(signal.SIGTERM, signal.SIG_DFL)

    def __exit__(self, *_) -> None:
        if hasattr(self, "_before"):
            signal.signal(signal.SIGTERM, self._before or signal.SIG_DFL)


def train(
    config: TrainConfig,
    run: Path,
    images: Sequence[Path] | None = None,
    resume: bool = False,
) -> Iterator[Step]:
    """Train in a folder of its own, which `blurlib.training.run` describes.

    A photo of a step draws its crop, λ and noise from (seed, step, number of the photo) alone, so a
    resumed run repeats what an uninterrupted one would have done. The checkpoint is also written
    when the generator is closed early, on an error, and at the end. On SIGTERM the step in hand is
    finished and saved.

    With several devices or machines every process runs this; only the first writes.

    Args:
        images: photos to train on; by default those of `config.data`.
        resume: go on from `run`'s checkpoint.

    Raises:
        ValueError: `run` holds another run, or nothing to resume; no photos; the number of
            processes is not what the configuration says.
        NotFiniteError: `PATIENCE` steps in a row were not finite.
        Terminated: after SIGTERM.
        OSError: the disk is full; the last checkpoint is whole.
    """
    folder = RunFolder(run)
    folder.check(config, resume)
    fabric = launch(config)
    if fabric.is_global_zero:
        folder.prepare(config)
    if config.threads:
        torch.set_num_threads(config.threads)
    entries = [Entry(str(path)) for path in images] if images else find_photos(config)
    photos = open_photos(config, entries, fabric.device)
    state = _start(config, fabric, None if resume else photos)
    if resume:
        state.load(folder.load())
        state.steps = config.steps or state.steps  # a run may be resumed to a new length
    yield from _Run(config, folder, fabric, photos, state, None if images else config).steps()


class _InputsAsTheyAre(MixedPrecision):
    """Autocast alone: Fabric would round the photos and their qualities to bfloat16 as well."""

    def convert_input(self, data: Any) -> Any:
        return data


def launch(config: TrainConfig) -> Fabric:
    """Fabric as configured, its processes started.

    Raises:
        ValueError: there is no GPU where one is asked for; a launcher such as torchrun started
            another number of processes.
    """
    on_gpu = config.accelerator != "cpu" and torch.cuda.is_available()
    if config.accelerator == "cuda" and not on_gpu:
        raise ValueError("accelerator is 'cuda', but PyTorch finds no GPU: use 'cpu' or 'auto'")
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
            f"{config.nodes} machines: say so with --devices and --nodes"
        )
    fabric.launch()
    return fabric


def is_first_process() -> bool:
    """Whether this process is the one that writes and reports."""
    from lightning_fabric.utilities.rank_zero import rank_zero_only

    return getattr(rank_zero_only, "rank", 0) in (0, None)


def learning_rate(step: int, steps: int, config: TrainConfig) -> float:
    """Linear warm-up, the peak, then a cosine down to 1 % of it over the last `config.decay` of the
    run. `steps` = 0: still warming up."""
    warm = min(1.0, (step + 1) / config.warmup)
    if not steps:
        return config.lr * warm
    start = steps * (1 - config.decay)
    progress = min(1.0, max(0.0, step - start) / (steps - start))
    return config.lr * warm * (0.01 + 0.99 * 0.5 * (1 + math.cos(math.pi * progress)))


def _start(config: TrainConfig, fabric: Fabric, photos: Photos | None) -> _State:
    """The state before the first step; `photos` only of a new run."""
    torch.manual_seed(config.seed)  # of the weights, the same in all processes
    stage = stages.make(config)
    if photos and (crops := stage.start_crops()):
        with contextlib.closing(photos.batches(0, range(START_BATCH))) as batches:
            some = torch.cat(list(itertools.islice(batches, crops // START_BATCH)))
        stage.start(some.float() / 255)
    stage.module.to(memory_format=torch.channels_last).train()
    average = fabric.to_device(copy.deepcopy(stage.module).requires_grad_(False))
    stage.setup(fabric)
    return _State(
        stage=stage,
        average=average,
        optimisers=make_optimisers(stage.module, stage.trained_codec, config),
        steps=config.steps,
    )


class _Run:
    """The parts of a run that is under way."""

    def __init__(
        self,
        config: TrainConfig,
        folder: RunFolder,
        fabric: Fabric,
        photos: Photos,
        state: _State,
        held_out: TrainConfig | None,
    ):
        self.config, self.folder, self.fabric = config, folder, fabric
        self.photos, self.state = photos, state
        first = fabric.global_rank * config.batch
        self.samples = range(first, first + config.batch)
        self.total = fabric.world_size * config.batch
        self.termination = _Termination()
        self.held_out = _held_out(held_out) if held_out and fabric.is_global_zero else []

    def steps(self) -> Iterator[Step]:
        """All steps, then the model files; leaves a checkpoint however it ends."""
        with self.termination:
            try:
                yield from self._logged_steps()
            finally:
                if not self.state.updating:  # else the last interval's checkpoint is the good one
                    self._save()
        if self.fabric.is_global_zero:
            average = copy.deepcopy(self.state.average).cpu()  # tables are computed where all can
            for name, data in self.state.stage.files(average).items():
                self.folder.write(name, data)

    def _logged_steps(self) -> Iterator[Step]:
        state, saved = self.state, time.monotonic()
        crops = self.photos.batches(state.step, self.samples)
        to = self.folder.log if self.fabric.is_global_zero else os.devnull
        # Readers are ended here: at the exit of Python they would be waited for, and not told.
        with contextlib.closing(crops), open(to, "a") as log:
            self.folder.note_skipped(self.photos, self.fabric.global_rank)
            while not state.steps or state.step < state.steps:
                step, stop = self._step(crops)
                due = time.monotonic() - saved > self.config.checkpoint_every
                if due or step.step == step.steps:
                    step = step._replace(held_out=self._held_out_loss())
                log.write(json.dumps(step._asdict()) + "\n")
                log.flush()
                if state.not_finite_in_a_row >= PATIENCE:
                    self._give_up()
                if stop:
                    raise Terminated(step.step)
                if due:
                    self._save()
                    saved = time.monotonic()
                yield step

    def _step(self, crops: Iterator[Tensor]) -> tuple[Step, bool]:
        """Read, forward, backward, update; and whether any process was told to end.

        A step that is not finite changes nothing. All processes see the same means, so they agree.
        """
        state, start = self.state, time.monotonic()
        x = next(crops).float().div(255).contiguous(memory_format=torch.channels_last)
        lr = learning_rate(state.step, state.steps, self.config)
        groups = [group for optimiser in state.optimisers for group in optimiser.param_groups]
        for group in groups:
            group["lr"] = lr * group["scale"]
        draws = Draws(self.config.seed, state.step, self.samples, self.total, self.fabric.device)
        loss = state.stage.loss(x, state.step, draws)
        for optimiser in state.optimisers:
            optimiser.zero_grad(set_to_none=True)
        self.fabric.backward(loss.total)
        trained = [p for group in groups for p in group["params"]]
        gradient = nn.utils.clip_grad_norm_(trained, self.config.clip)
        stop = torch.full((), float(self.termination.requested), device=x.device)
        numbers = [loss.total, gradient, stop, *loss.parts.values()]
        means = self.fabric.all_reduce(torch.stack([n.detach().float() for n in numbers]))
        total, norm, stop, *parts = means.tolist()  # the one time a GPU is waited for
        state.updating = True
        finite = math.isfinite(total) and math.isfinite(norm)
        if finite:
            self._update()
        state.not_finite += not finite
        state.not_finite_in_a_row = 0 if finite else state.not_finite_in_a_row + 1
        seconds = time.monotonic() - start
        state.step += 1
        state.seconds += seconds
        state.updating = False
        if state.step == MEASURED_STEPS.stop and not state.steps:
            state.steps = state.step + self._steps_left()
        step = Step(
            state.step, state.steps, total, dict(zip(loss.parts, parts, strict=True)), norm, lr,
            seconds, self.total, state.not_finite,
        )  # fmt: skip
        return step, stop > 0

    def _update(self) -> None:
        state = self.state
        for optimiser in state.optimisers:
            optimiser.step()
        decay = min(self.config.ema, state.step / (state.step + 10))
        _average(state.average, state.stage.module, decay)

    def _steps_left(self) -> int:
        """How many steps still fit into the time box, at the speed in the log (of resumed runs
        too)."""
        left = 0
        if self.fabric.is_global_zero:
            log = read_log(self.folder.path)
            pace = statistics.mean(s.seconds for s in log if s.step in MEASURED_STEPS)
            left = max(1, int((self.config.max_minutes * 60 - self.state.seconds) / pace))
        return self.fabric.broadcast(left)

    def _save(self) -> None:
        self.folder.note_skipped(self.photos, self.fabric.global_rank)
        if not self.fabric.is_global_zero:
            return
        self.folder.save(self.state.to_dict())
        if self.held_out:
            photo = self.held_out[0]
            x = photo[None].to(self.fabric.device).float() / 255
            with torch.no_grad():
                x_hat = self.state.stage.preview(self.state.average, x)[0]
            if torch.isfinite(x_hat).all():
                x_hat = x_hat.clamp(0, 1).mul(255).round().byte().cpu()
                both = torch.cat([photo, x_hat], dim=2)
                write_image(self.folder.path / "validation.png", both, overwrite=True)

    def _held_out_loss(self) -> float | None:
        side, device = HELD_OUT_SIDE, self.fabric.device
        large = [photo for photo in self.held_out if min(photo.shape[1:]) >= side]
        if not large:
            return None
        photos = [centre(photo, side, side).to(device) / 255 for photo in large]
        return self.state.stage.held_out(copy.deepcopy(self.state.average), photos)

    def _give_up(self) -> None:
        first = self.state.step - self.state.not_finite_in_a_row + 1
        if self.fabric.is_global_zero:
            note = f"# Not finite from step {first} on; every step repeats from (seed, step).\n"
            # The length is part of it, also where it was measured: the learning rate follows it.
            config = dataclasses.replace(self.config, steps=self.state.steps)
            self.folder.write("not_finite.toml", (note + config.to_toml()).encode())
        raise NotFiniteError(
            f"step {first} and the {self.state.step - first} after it were not finite; "
            f"{self.folder.path / 'not_finite.toml'} repeats the run, and the checkpoint beside it "
            "holds the last finite weights. A smaller lr or clip may help"
        )


def _held_out(config: TrainConfig) -> list[Tensor]:
    """The middle of the first usable held-out photos, uint8; sides are multiples of 64."""
    read = (read_photo(entry, 64) for entry in find_photos(config, held_out=True))
    usable = itertools.islice((p for p in read if isinstance(p, Tensor)), HELD_OUT)
    return [
        centre(p, *(min(side // 64 * 64, PREVIEW_SIDE) for side in p.shape[1:])) for p in usable
    ]


@torch.no_grad()
def _average(average: nn.Module, module: nn.Module, decay: float) -> None:
    """Exponential moving average of the weights; buffers are copied."""
    ours, theirs = list(average.parameters()), list(module.parameters())
    torch._foreach_lerp_(ours, theirs, 1 - decay)
    for a, b in zip(average.buffers(), module.buffers(), strict=True):
        a.copy_(b)
