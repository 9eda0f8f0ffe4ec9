"""Keep what a run that goes on has won so far: averaged weights, recipe and log, in training/.

    python tools/keep.py runs/codec msssim-small

`blurlib train --init training/msssim-small.safetensors` starts another run with them, and --model
takes them like shipped weights. They replace those that were kept before.
"""

import sys
from pathlib import Path

import ship
from blurlib.files import atomic_write
from blurlib.training import stages
from blurlib.training.config import TrainConfig
from blurlib.training.run import RunFolder

FOLDER = Path(__file__).parents[1] / "training"


def main(run: Path, name: str) -> None:
    stage = stages.make(TrainConfig.recipe(str(run / "config.toml"), init=""))
    state = RunFolder(run).load()
    stage.module.load_state_dict(state["average"])
    (data,) = stage.files(stage.module).values()
    atomic_write(FOLDER / f"{name}.safetensors", data, overwrite=True)
    step, steps, _ = state["counters"]
    ship.keep(run, FOLDER, name, step)
    print(f"{name}: step {step} of {steps}, {len(data):,} bytes")


if __name__ == "__main__":
    main(Path(sys.argv[1]), sys.argv[2])
