"""The runs that notebooks/06_training.ipynb reads: one that learns, and three that go wrong.

Each folder of results/training has the config.toml of a run. This trains it on the six embedded
photos and leaves its log beside it, numbers rounded to five digits, with what it was made with. The
runs differ in a line or two of their configuration; one thread, a few minutes each.

    python -m experiments.broken_runs                   all of them
    python -m experiments.broken_runs rate-collapse     one
"""

import json
import sys
import tempfile
from pathlib import Path
from types import SimpleNamespace

from blurlib import datasets, images
from blurlib.evaluation.results import new_results
from blurlib.files import atomic_write
from blurlib.training.config import TrainConfig
from blurlib.training.loop import NotFiniteError, train
from blurlib.training.run import Step, read_log
from experiments.record import ROOT

FOLDER = ROOT / "results" / "training"
DIGITS = 5


def run(name: str, photos: Path) -> None:
    config = TrainConfig.recipe(str(FOLDER / name / "config.toml"), data=str(photos))
    ended = ""
    with tempfile.TemporaryDirectory() as folder:
        try:
            for step in train(config, Path(folder)):
                print(f"\r{name}: step {step.step} of {step.steps}", end="", file=sys.stderr)
        except NotFiniteError as error:
            ended = str(error).replace(folder, "RUN")
        log = read_log(Path(folder))
    lines = [json.dumps(rounded(step)) + "\n" for step in log]
    atomic_write(FOLDER / name / "log.jsonl", "".join(lines).encode(), overwrite=True)
    header = new_results("embedded", SimpleNamespace(name=name, settings={"ended": ended})).header()
    header |= {"seed": config.seed, "command": f"python -m experiments.broken_runs {name}"}
    header = {k: v for k, v in header.items() if k not in ("checkpoint", "lpips", "protocol")}
    text = json.dumps(header, indent=1, sort_keys=True, ensure_ascii=False) + "\n"
    atomic_write(FOLDER / name / "made_with.json", text.encode(), overwrite=True)


def rounded(step: Step) -> dict:
    values = step._asdict() | {"parts": {k: short(v) for k, v in step.parts.items()}}
    return {k: short(v) if isinstance(v, float) else v for k, v in values.items()}


def short(value: float) -> float:
    return float(f"{value:.{DIGITS}g}")


def main(names: list[str]) -> None:
    with tempfile.TemporaryDirectory() as photos:
        for photo in datasets.embedded_names():
            images.write_image(Path(photos) / f"{photo}.png", datasets.embedded(photo))
        for name in names:
            run(name, Path(photos))


if __name__ == "__main__":
    main(sys.argv[1:] or sorted(path.parent.name for path in FOLDER.glob("*/config.toml")))
