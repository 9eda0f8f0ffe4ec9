"""Training in real processes: two that equal one, and runs that are killed and go on."""

import contextlib
import dataclasses
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from blurlib.codec import CodecConfig, zoo
from blurlib.training import loop
from blurlib.training.config import TrainConfig
from blurlib.training.run import Step, read_log
from stand_ins import CODEC

ROOT = Path(__file__).parents[1]
PATIENCE = 600  # seconds, for machines that are busy with something else
CONFIG = TrainConfig(
    objective="mse", crop=64, batch=4, steps=12, lmbda_max=3.0, lr=5e-3, optimiser="muon", warmup=2,
    bank_gb=0.1, threads=1, accelerator="cpu", checkpoint_every=1000.0,
)  # fmt: skip

# `size = "small"` means a model that takes milliseconds; a step can be slowed down.
PROGRAM = f"""
import os, sys, time

sys.modules["torchmetrics"] = None  # which Lightning would import, for seconds, and not need
sys.path.insert(0, {str(ROOT / "tests")!r})
from blurlib import cli
from blurlib.codec import CodecConfig
from blurlib.training import stages
from stand_ins import CODEC

CodecConfig.small = lambda: CODEC
pause = float(os.environ["PAUSE"])
loss = stages.CodecStage.loss

def slow(*arguments):
    time.sleep(pause)
    return loss(*arguments)

stages.CodecStage.loss = slow
cli.main()
"""


class Trainer:
    """Starts `blurlib train` in processes of its own."""

    def __init__(self, folder: Path, photos: Path):
        self.folder, self.photos = folder, photos
        self.processes: list[subprocess.Popen] = []
        self.program = folder / "program.py"
        self.program.write_text(PROGRAM)

    def start(self, name: str, config: TrainConfig, pause=0.0, launcher=()) -> subprocess.Popen:
        recipe = self.folder / f"{name}.toml"
        recipe.write_text(dataclasses.replace(config, data=str(self.photos)).to_toml())
        environment = {k: v for k, v in os.environ.items() if k not in ("RANK", "WORLD_SIZE")}
        environment |= {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1", "PAUSE": str(pause)}
        command = [*launcher, self.program, "train", recipe, "--run", self.run(name)]
        process = subprocess.Popen(
            [sys.executable, *map(str, command)],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            env=environment,
            start_new_session=True,
        )
        self.processes.append(process)
        return process

    def close(self) -> None:
        """End what a failed test left running."""
        for process in self.processes:
            if process.poll() is None:
                os.killpg(process.pid, signal.SIGKILL)
                process.wait()

    def finish(self, name: str, config: TrainConfig, launcher=()) -> list[Step]:
        process = self.start(name, config, launcher=launcher)
        _, errors = process.communicate(timeout=PATIENCE)
        assert process.returncode == 0, errors
        return [step._replace(seconds=0) for step in read_log(self.run(name))]

    def run(self, name: str) -> Path:
        return self.folder / name

    def wait_for_step(self, name: str, step: int) -> None:
        log = self.run(name) / "log.jsonl"
        deadline = time.monotonic() + PATIENCE
        while not log.exists() or len(log.read_text().splitlines()) < step:
            assert time.monotonic() < deadline
            time.sleep(0.01)


@pytest.fixture
def trainer(tmp_path, three_photos) -> Iterator[Trainer]:
    with contextlib.closing(Trainer(tmp_path, three_photos)) as trainer:
        yield trainer


def here(config: TrainConfig, folder: Path, resume: bool = False) -> list[Step]:
    """The log of a run that this process ends."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(CodecConfig, "small", lambda: CODEC)
        list(loop.train(config, folder, resume))
    return [step._replace(seconds=0) for step in read_log(folder)]


@pytest.fixture(scope="module")
def whole(tmp_path_factory, three_photos) -> tuple[list[Step], Path]:
    """The log and the folder of a run that nothing disturbed."""
    folder = tmp_path_factory.mktemp("whole")
    return here(dataclasses.replace(CONFIG, data=str(three_photos)), folder), folder


def position(run: Path) -> int:
    return torch.load(run / "checkpoint.pt", weights_only=True)["counters"][0]


@pytest.mark.slow
def test_two_processes_give_the_curve_of_one_with_the_doubled_batch(trainer, whole):
    one, one_folder = whole
    torchrun = ("-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2", "--")
    config = dataclasses.replace(CONFIG, batch=2, devices=2)
    two = trainer.finish("two", config, launcher=torchrun)
    assert len(one) == len(two) == CONFIG.steps
    for a, b in zip(one, two, strict=True):
        assert (a.images, b.images) == (4, 4)
        assert b.loss == pytest.approx(a.loss, rel=1e-4)
        assert b.gradient == pytest.approx(a.gradient, rel=1e-3)
        assert b.parts == pytest.approx(a.parts, rel=1e-4)
    ours, theirs = (zoo.load(run / "model.safetensors") for run in (one_folder, trainer.run("two")))
    for a, b in zip(ours.parameters(), theirs.parameters(), strict=True):
        torch.testing.assert_close(a, b, rtol=2e-3, atol=2e-4)
    start = torch.linspace(0, 2, 3)[:, None]  # of the gains; these Adam has, and the next is Muon's
    assert (ours.gain.log_gain - start).abs().mean() > 5e-3
    assert ours.g_a.layers[2][0].project.weight.square().mean().sqrt() > 5e-4  # 0 at the start


@pytest.mark.slow
@pytest.mark.parametrize(("kind", "streamed"), [(signal.SIGKILL, False), (signal.SIGTERM, True)])
def test_a_killed_run_ends_as_an_uninterrupted_one_bit_for_bit(trainer, whole, kind, streamed):
    config = dataclasses.replace(CONFIG, checkpoint_every=0.0)
    if streamed:  # with processes that read photos, and are told to end too
        config = dataclasses.replace(config, bank_gb=0.0, workers=2)
    expected, expected_folder = whole
    process = trainer.start("cut", config, pause=0.3)
    trainer.wait_for_step("cut", 4)
    time.sleep(0.15)  # now it is inside a step
    os.killpg(process.pid, kind)
    _, errors = process.communicate(timeout=PATIENCE)
    cut, logged = trainer.run("cut"), len(read_log(trainer.run("cut")))
    assert 4 <= logged < config.steps
    assert not (cut / "model.safetensors").exists()
    if kind == signal.SIGTERM:
        assert process.returncode == 143, errors
        assert f"stopped after step {logged}" in errors
        assert position(cut) == logged
    else:
        assert process.returncode == -signal.SIGKILL
        assert logged - position(cut) in (0, 1)  # at most one interval, here one step
    config = dataclasses.replace(config, data=str(trainer.photos))
    assert here(config, cut, resume=True) == expected
    model = "model.safetensors"
    assert (cut / model).read_bytes() == (expected_folder / model).read_bytes()


@pytest.mark.slow
def test_sigterm_stops_two_processes_at_the_same_step(trainer):
    config = dataclasses.replace(CONFIG, batch=2, devices=2, steps=500)
    process = trainer.start("run", config, pause=0.1)
    trainer.wait_for_step("run", 3)
    process.send_signal(signal.SIGTERM)
    _, errors = process.communicate(timeout=PATIENCE)
    assert process.returncode == 143, errors
    log = read_log(trainer.run("run"))
    assert position(trainer.run("run")) == len(log)
    assert {step.images for step in log} == {4}
    assert "Traceback" not in errors  # of the other process, too
