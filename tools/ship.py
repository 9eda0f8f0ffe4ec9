"""Ship the weights of a run: copy its model file into the package, record its SHA-256, and keep the
run's recipe and its log (in short) in results/training. What follows is how a denoiser is to be
sampled where nothing else is asked for.

    python tools/ship.py runs/codec msssim-small
    python tools/ship.py runs/blur blur-small solver=multistep steps=8 start_scale=0.5

Then write the model card beside it, measure (`blurlib evaluate`), and run `make tables` and
tools/golden.py.
"""

import dataclasses
import hashlib
import json
import sys
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pandas as pd

from blurlib.codec import zoo
from blurlib.files import atomic_write
from blurlib.training.config import TrainConfig
from blurlib.training.run import Step, read_log

TRAINING = Path(__file__).parents[1] / "results" / "training"
STRETCHES = 200  # rows of the kept log


def main(run: Path, name: str, *sampling: str) -> None:
    data = model(run / "model.safetensors", dict(part.split("=") for part in sampling))
    path = zoo.CHECKPOINTS / f"{name}.safetensors"
    atomic_write(path, data, overwrite=True)
    shipped = sorted(zoo.CHECKPOINTS.glob("*.safetensors"))
    sums = {file.name: hashlib.sha256(file.read_bytes()).hexdigest() for file in shipped}
    text = json.dumps(sums, indent=1, sort_keys=True) + "\n"
    atomic_write(zoo.SHA256, text.encode(), overwrite=True)
    keep(run, TRAINING, name)
    print(f"{path.name}: {len(data):,} bytes, {sums[path.name]}")


def model(path: Path, sampling: dict[str, str]) -> bytes:
    """The model file, of a denoiser with its `Sampling`, whose fields are given as text."""
    if not sampling:
        return path.read_bytes()
    decoder = zoo.load_denoiser(path)
    kinds = {name: type(value) for name, value in dataclasses.asdict(decoder.sampling).items()}
    given = {name: kinds[name](value) for name, value in sampling.items()}
    decoder.sampling = decoder.sampling.but(**given)
    return zoo.decoder_bytes(decoder)


def keep(run: Path, folder: Path, name: str, last: int | None = None) -> None:
    """The recipe, without the paths of its machine, and the log up to the step `last` in stretches
    of steps."""
    folder.mkdir(parents=True, exist_ok=True)
    config = TrainConfig.recipe(str(run / "config.toml"))
    steps = read_log(run)[:last]
    config = dataclasses.replace(
        config,
        data="photos",
        steps=steps[-1].steps,
        codec=shipped_name(config.codec),
        init=shipped_name(config.init),
    )
    atomic_write(folder / f"{name}.toml", config.to_toml().encode(), overwrite=True)
    log = shortened(steps).to_csv(index=False, float_format="%.6g", lineterminator="\n")
    atomic_write(folder / f"{name}.csv", log.encode(), overwrite=True)


def shipped_name(model: str) -> str:
    """The name under which a model file ships, or where it does not, that of its file."""
    if not model:
        return model
    return zoo.name_of(bytes.fromhex(zoo.sha256(model)[:8])) or Path(model).name


def shortened(steps: Sequence[Step]) -> pd.DataFrame:
    """At most `STRETCHES` rows: the last step of a stretch, the seconds of stepping until then, the
    learning rate there, and the means of the loss, its parts and, where there are any, of the
    losses on held-out photos over the stretch."""
    frame = pd.DataFrame(
        [
            {"step": s.step, "seconds": s.seconds, "lr": s.lr, "loss": s.loss, **s.parts,
             "held_out": np.nan if s.held_out is None else s.held_out}
            for s in steps
        ]
    ).dropna(axis="columns", how="all")  # fmt: skip
    frame["seconds"] = frame["seconds"].cumsum()
    parts = np.array_split(np.arange(len(frame)), min(STRETCHES, len(frame)))
    ends = frame.loc[[part[-1] for part in parts], ["step", "seconds", "lr"]].reset_index(drop=True)
    means = [frame.drop(columns=ends.columns).iloc[part].mean() for part in parts]
    return ends.join(pd.DataFrame(means))


if __name__ == "__main__":
    main(Path(sys.argv[1]), *sys.argv[2:])
