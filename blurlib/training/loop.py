"""The training loop: a generator that yields after every step and can always be resumed."""

from __future__ import annotations

import copy
import dataclasses
import json
import math
import os
import statistics
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import torch
from torch import nn

from blurlib.images import folder
from blurlib.training.config import TrainConfig
from blurlib.training.data import ImageBank
from blurlib.training.stages import CodecStage, DenoiserStage, Stage

MEASURED_STEPS = range(5, 25)  # these steps are timed to fix the length of a time-boxed run


class Step(NamedTuple):
    """One step of a run, as logged.

    Attributes:
        step, steps: this step, from 1, and how many the run will have (0: not yet known).
        loss: the quantity that is minimised.
        parts: what it is made of, by name.
        gradient: norm of the gradient before clipping.
        lr: learning rate; seconds: wall time of the step.
    """

    step: int
    steps: int
    loss: float
    parts: dict[str, float]
    gradient: float
    lr: float
    seconds: float


@dataclass
class _State:
    """Everything a checkpoint holds."""

    stage: Stage
    average: nn.Module
    optimiser: torch.optim.Optimizer
    aux_optimiser: torch.optim.Optimizer | None
    step: int = 0
    steps: int = 0
    seconds: float = 0.0
    updating: bool = False  # weights, average and counters do not belong together now

    def save(self, path: Path) -> None:
        """Atomically: a full disk or a kill leaves the previous checkpoint."""
        temporary = path.with_suffix(".partial")
        aux = self.aux_optimiser.state_dict() if self.aux_optimiser else None
        state = {
            "model": self.stage.module.state_dict(),
            "average": self.average.state_dict(),
            "optimiser": self.optimiser.state_dict(),
            "aux": aux,
            "counters": [self.step, self.steps, self.seconds],
        }
        torch.save(state, temporary)
        os.replace(temporary, path)

    def load(self, path: Path) -> None:
        state = torch.load(path, map_location="cpu", weights_only=True)
        self.stage.module.load_state_dict(state["model"])
        self.average.load_state_dict(state["average"])
        self.optimiser.load_state_dict(state["optimiser"])
        if self.aux_optimiser:
            self.aux_optimiser.load_state_dict(state["aux"])
        self.step, self.steps, self.seconds = state["counters"]


def train(
    config: TrainConfig,
    run: Path,
    images: Sequence[Path] | None = None,
    resume: bool = False,
) -> Iterator[Step]:
    """Train in a folder of its own: config.toml, log.jsonl, checkpoint.pt, model.safetensors.

    Every step draws its crops, λ and noise from (seed, step) alone, so a resumed run repeats what
    an uninterrupted one would have done. The checkpoint is also written when the generator is
    closed early, on an error, and at the end.

    Args:
        images: photos to train on; by default those of the folder `config.data`.
        resume: go on from `run`'s checkpoint.

    Raises:
        ValueError: `run` holds another run, or nothing to resume.
    """
    checkpoint = Path(run) / "checkpoint.pt"
    _prepare_folder(Path(run), config, checkpoint, resume)
    if config.threads:
        torch.set_num_threads(config.threads)
    torch.manual_seed(config.seed)
    bank = ImageBank(images or training_photos(config), config.crop)
    state = _start(config)
    if resume:
        state.load(checkpoint)
        state.steps = config.steps or state.steps  # a run may be resumed to a new length
    _note_skipped(Path(run), bank)
    try:
        yield from _steps(config, bank, state, Path(run), checkpoint)
    finally:
        if not state.updating:  # else the checkpoint of the last interval is the good one
            state.save(checkpoint)
    export(state.stage, state.average, Path(run) / "model.safetensors")


def training_photos(config: TrainConfig) -> list[Path]:
    """The photos of `config.data` without those held out.

    Raises:
        ValueError: no folder is given, or it has no photos.
    """
    if not config.data:
        raise ValueError("data is empty: name a folder of training photos")
    paths = folder(config.data)
    return [p for i, p in enumerate(paths) if not config.held_out or i % config.held_out]


def export(stage: Stage, average: nn.Module, path: Path) -> None:
    """Write the averaged weights as the model file that `zoo` reads."""
    temporary = path.with_suffix(".partial")
    temporary.write_bytes(stage.file(copy.deepcopy(average)))
    os.replace(temporary, path)


def learning_rate(step: int, steps: int, config: TrainConfig) -> float:
    """Linear warm-up, the peak, then a cosine down to 1 % of it over the last `config.decay` of the
    run. `steps` = 0: still warming up."""
    warm = min(1.0, (step + 1) / config.warmup)
    if not steps:
        return config.lr * warm
    start = steps * (1 - config.decay)
    progress = min(1.0, max(0.0, step - start) / (steps - start))
    return config.lr * warm * (0.01 + 0.99 * 0.5 * (1 + math.cos(math.pi * progress)))


def _start(config: TrainConfig) -> _State:
    stage: Stage = CodecStage(config) if config.stage == "codec" else DenoiserStage(config)
    stage.module.to(memory_format=torch.channels_last).train()
    aux = list(stage.aux_parameters())
    main = [p for p in stage.module.parameters() if all(p is not a for a in aux)]
    return _State(
        stage=stage,
        average=copy.deepcopy(stage.module).requires_grad_(False),
        optimiser=torch.optim.Adam(main, lr=config.lr),
        aux_optimiser=torch.optim.Adam(aux, lr=1e-2) if aux else None,
        steps=config.steps,
    )


def _steps(
    config: TrainConfig, bank: ImageBank, state: _State, run: Path, checkpoint: Path
) -> Iterator[Step]:
    saved = time.monotonic()
    _end_line(run / "log.jsonl")
    with open(run / "log.jsonl", "a") as log:
        while not state.steps or state.step < state.steps:
            start = time.monotonic()
            result = _one_step(config, bank, state)
            seconds = time.monotonic() - start
            state.step += 1
            state.seconds += seconds
            state.updating = False
            if not state.steps and state.step == MEASURED_STEPS.stop:
                state.steps = state.step + _steps_left(config, state, run)
            loss, parts, gradient, lr = result
            step = Step(state.step, state.steps, loss, parts, gradient, lr, seconds)
            log.write(json.dumps(step._asdict()) + "\n")
            log.flush()
            if time.monotonic() - saved > config.checkpoint_every:
                state.save(checkpoint)
                saved = time.monotonic()
            yield step


def _steps_left(config: TrainConfig, state: _State, run: Path) -> int:
    """How many steps still fit into the time box, at the speed in the log (resumed runs too)."""
    pace = statistics.mean(s.seconds for s in read_log(run) if s.step in MEASURED_STEPS)
    return max(1, int((config.max_minutes * 60 - state.seconds) / pace))


def _one_step(config: TrainConfig, bank: ImageBank, state: _State):
    """Forward, backward, update. A step whose gradient is not finite changes nothing."""
    torch.manual_seed(config.seed * 1_000_003 + state.step)  # λ and noise
    x = bank.batch(config.batch, torch.default_generator)
    lr = learning_rate(state.step, state.steps, config)
    for group in state.optimiser.param_groups:
        group["lr"] = lr
    loss, parts = state.stage.loss(x.contiguous(memory_format=torch.channels_last), state.step)
    state.optimiser.zero_grad(set_to_none=True)
    loss.backward()
    gradient = nn.utils.clip_grad_norm_(state.optimiser.param_groups[0]["params"], config.clip)
    state.updating = True
    if torch.isfinite(gradient):
        state.optimiser.step()
        _step_aux(state)
        _average(state.average, state.stage.module, min(config.ema, state.step / (state.step + 10)))
    return loss.item(), parts, gradient.item(), lr


def _step_aux(state: _State) -> None:
    if state.aux_optimiser:
        state.aux_optimiser.zero_grad(set_to_none=True)
        state.stage.aux_loss().backward()
        state.aux_optimiser.step()


@torch.no_grad()
def _average(average: nn.Module, module: nn.Module, decay: float) -> None:
    """Exponential moving average of the weights; buffers are copied."""
    ours, theirs = list(average.parameters()), list(module.parameters())
    torch._foreach_lerp_(ours, theirs, 1 - decay)
    for a, b in zip(average.buffers(), module.buffers(), strict=True):
        a.copy_(b)


def _prepare_folder(run: Path, config: TrainConfig, checkpoint: Path, resume: bool) -> None:
    if resume and not checkpoint.is_file():
        raise ValueError(f"{run} has no checkpoint.pt to resume from")
    if not resume and checkpoint.exists():
        raise ValueError(f"{run} already holds a run: resume it, or choose another folder")
    if resume:
        started = TrainConfig.recipe(str(run / "config.toml"))
        for field in dataclasses.fields(config):
            if field.name in ("data", "checkpoint_every", "threads", "steps"):
                continue  # of the machine, or a new length for the run
            before, now = getattr(started, field.name), getattr(config, field.name)
            if before != now:
                raise ValueError(
                    f"{run} was started with {field.name} = {before!r}, not {now!r}: resume it "
                    "with its own recipe (only data, threads, checkpoint_every, steps may change)"
                )
    run.mkdir(parents=True, exist_ok=True)
    (run / "config.toml").write_text(config.to_toml())


def _note_skipped(run: Path, bank: ImageBank) -> None:
    lines = [f"{skipped.path}: {skipped.reason}" for skipped in bank.skipped]
    (run / "skipped.txt").write_text("".join(line + "\n" for line in lines))


def _end_line(log: Path) -> None:
    """End a last line that a kill may have cut short."""
    if log.exists() and not log.read_bytes().endswith(b"\n"):
        with open(log, "a") as file:
            file.write("\n")


def read_log(run: Path) -> list[Step]:
    """The steps of a run so far; where it was resumed, the later line of a step counts.

    A line that a kill cut short is left out.
    """
    steps: dict[int, Step] = {}
    for line in (Path(run) / "log.jsonl").read_text().splitlines():
        try:
            step = Step(**json.loads(line))
        except json.JSONDecodeError:
            continue
        steps[step.step] = step
    return [steps[k] for k in sorted(steps)]
