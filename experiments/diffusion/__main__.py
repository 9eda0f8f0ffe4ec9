"""`python -m experiments.diffusion`: see `experiments.diffusion.run`."""

import contextlib
from dataclasses import replace
from pathlib import Path
from typing import Annotated, Literal

import typer

from blurlib import checkpoints, cli, datasets
from blurlib.metrics import Lpips, lpips_file
from experiments.diffusion import run as diffusion
from experiments.distances import features

app = typer.Typer(add_completion=False, pretty_exceptions_enable=False)


@app.command()
def main(
    data: Annotated[
        Path | None, typer.Option(help="Training photos. Default: datasets/train of BLURLIB_HOME.")
    ] = None,
    codec: Annotated[
        str, typer.Option(help="Codec whose files all decode.")
    ] = checkpoints.PERCEPTUAL,
    scale: Annotated[
        Literal["small", "paper"],
        typer.Option(
            help="small: hours of a CPU core. paper: its U-Net and codec, weeks of a GPU."
        ),
    ] = "small",
    steps: Annotated[
        int | None, typer.Option(min=1, help="Of every training. Default: of the scale.")
    ] = None,
    photos: Annotated[str, typer.Option(help="Set that is reported.")] = "kodak",
    every: Annotated[int, typer.Option(min=1, help="Only every so many-th of its photos.")] = 1,
    out: Annotated[Path, typer.Option(help="Folder of results.")] = Path(
        "results/ablation/diffusion"
    ),
    runs: Annotated[Path, typer.Option(help="Folder of training runs.")] = Path(
        "runs/ablation-diffusion"
    ),
    jobs: Annotated[
        int, typer.Option(min=1, help="Runs, then decodes, side by side, one thread each.")
    ] = 1,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Say what would be trained and decoded, and stop.")
    ] = False,
) -> None:
    """Blur against isotropic diffusion and a deterministic decoder; goes on where it stopped."""
    make = diffusion.Plan.small if scale == "small" else diffusion.Plan.paper
    place = str(data or datasets.home() / "datasets" / "train")
    plan = make(codec, place, photos=photos, every=every)
    if steps is not None:
        plan = replace(plan, training=replace(plan.training, steps=steps))
    if dry_run:
        cli.console.print(_what_a_plan_takes(plan))
        return
    features.require_patches(datasets.dataset(photos))
    command = (
        f"python -m experiments.diffusion --data PHOTOS --codec {Path(codec).name} --scale {scale}"
    )
    command += f" --steps {plan.training.steps} --photos {photos} --every {every}"
    lpips = Lpips.load("alex", datasets.cached_weights(lpips_file("alex")))
    progress = diffusion.compare(plan, out, runs, lpips, features.alexnet(), command, jobs)
    with cli.progress() as bar, contextlib.closing(progress):
        task = bar.add_task("reading", total=None)
        for at in progress:
            bar.update(task, total=100 * at.total, completed=100 * at.done, description=at.doing)
    cli.say(f"{out}: written; the runs are in {runs}")


def _what_a_plan_takes(plan) -> str:
    first = plan.first()
    runs = len(first) + len(plan.seeds) - 1
    return (
        f"{runs} runs of {plan.training.steps:,} steps and {len(plan.rhos)} of {plan.tuning:,} "
        f"steps with another ρ, each of {plan.training.batch} × {plan.training.crop}² pixels; "
        f"then up to {plan.network_evaluations():,} network evaluations for each photo of "
        f"{plan.photos}"
    )


if __name__ == "__main__":
    cli.run(app)
