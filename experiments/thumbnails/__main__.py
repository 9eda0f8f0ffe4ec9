"""Pilot, then train, then measure; each goes on where it stopped.

python -m experiments.thumbnails pilot
python -m experiments.thumbnails train --seed 0 --seed 1      # an hour of one thread per run
python -m experiments.thumbnails train --seed 2 --seed 3      # beside it
python -m experiments.thumbnails measure
python -m experiments.thumbnails report
"""

import contextlib
from dataclasses import replace
from pathlib import Path
from typing import Annotated, Literal

import torch
import typer

from blurlib import cli, datasets
from blurlib.diffusion import Sampling
from blurlib.metrics import Lpips, lpips_file
from experiments.distances import features
from experiments.record import circumstances
from experiments.thumbnails import bank, verdict
from experiments.thumbnails.measure import Judge, Trial
from experiments.thumbnails.run import Plan, train

app = typer.Typer(add_completion=False, pretty_exceptions_enable=False)


@app.command()
def main(
    part: Annotated[Literal["pilot", "train", "measure", "report"], typer.Argument()],
    data: Annotated[str, typer.Option(help="Default: datasets/train of BLURLIB_HOME.")] = "",
    codec: Annotated[str, typer.Option(help="Codec of the coarse files.")] = "mse-small",
    runs: Annotated[Path, typer.Option(help="Folder of runs.")] = Path("runs/thumbnails"),
    out: Annotated[Path, typer.Option(help="Folder of results.")] = Path("results/thumbnails"),
    seed: Annotated[list[int] | None, typer.Option(help="Train only these seeds.")] = None,
    steps: Annotated[int, typer.Option(min=1, help="Of the short runs of a pilot.")] = 120,
) -> None:
    """Blur against isotropic diffusion: thumbnails from noise, given a coarse file."""
    if part == "report":
        tables = verdict.duels(out).T, verdict.decoders(out)
        return print(*(table.to_string() for table in tables), sep="\n\n")
    torch.set_num_threads(1)
    plan, at = Plan(), runs / "bank"
    made = bank.make(data or str(datasets.home() / "datasets" / "train"), codec, at)
    training, spectra = bank.Bank.open(at, "training"), bank.spectra_of(at)
    if part == "train":
        for run in (run for run in plan.runs() if not seed or run.seed in seed):
            lpips = _lpips("squeeze") if run.blur is None else None
            steps_done = train(run, plan, runs, training, spectra, lpips)
            _show(f"{run.name}: {n} of {plan.steps}" for n in steps_done)
        return
    out.mkdir(parents=True, exist_ok=True)

    def trial(plan: Plan, runs: Path, part: str, n: int) -> Trial:
        judge = Judge(bank.Bank.open(at, part, n), _lpips("alex"), features.alexnet())
        return Trial(plan, runs, judge, spectra, out)

    if part == "pilot":
        faster, way = replace(plan.training, warmup=20, ema=0.98), Sampling(16, spacing="uniform")
        few = {"steps": steps, "blurs": (0.0, 20.0), "seeds": (0, 1, 2), "samplings": (way,)}
        short = trial(replace(plan, training=faster, **few), runs / "pilot", "choosing", 256)
        about = circumstances(f"python -m experiments.thumbnails pilot --steps {steps}", 1)
        _show(short.pilot(plan, training, {**about, "bank": made}))
    else:
        _show(trial(plan, runs, "choosing", plan.choosing).choose())
        _show(trial(plan, runs, "reporting", plan.reporting).measure())


def _lpips(net: str) -> Lpips:
    return Lpips.load(net, datasets.cached_weights(lpips_file(net)))


def _show(progress) -> None:
    with cli.progress() as bar, contextlib.closing(progress):
        task = bar.add_task("", total=None)
        for doing in progress:
            bar.update(task, description=doing)


if __name__ == "__main__":
    cli.run(app)
