"""`python -m experiments.entropy`: see `experiments.entropy.run`."""

import contextlib
from pathlib import Path
from typing import Annotated

import typer

from blurlib import checkpoints, cli, datasets
from experiments.entropy import run as entropy

app = typer.Typer(add_completion=False, pretty_exceptions_enable=False)


@app.command()
def main(
    codec: Annotated[str, typer.Option(help="Its transforms are frozen.")] = checkpoints.CODEC,
    data: Annotated[
        Path | None, typer.Option(help="Training photos. Default: datasets/train of BLURLIB_HOME.")
    ] = None,
    out: Annotated[Path, typer.Option(help="Folder of results.")] = Path(
        "results/ablation/entropy"
    ),
    cache: Annotated[Path, typer.Option(help="Folder of latents and models.")] = Path(
        "runs/ablation"
    ),
    variants: Annotated[
        str, typer.Option(help="Comma-separated; a wrong name lists all. Default: all.")
    ] = "",
    seeds: Annotated[int, typer.Option(min=1, help="Seeds 0, 1, …, seed 0 of all first.")] = 3,
    steps: Annotated[int, typer.Option(min=0, help="Of every run; 0: from --minutes.")] = 0,
    minutes: Annotated[float, typer.Option(help="CPU time of the slowest training.")] = 5.0,
    batch: Annotated[int, typer.Option(min=1, help="Latents per step.")] = 4,
    crops: Annotated[int, typer.Option(min=1, help="Latents to train on.")] = 4096,
    qualities: Annotated[str, typer.Option(help="To code; default: four over the range.")] = "",
    photos: Annotated[str, typer.Option(help="Set that is coded.")] = "kodak",
    large: Annotated[
        str, typer.Option(help="Large photos, coded at several sizes; none: leave that out.")
    ] = "clic2025-subset",
    jobs: Annotated[int, typer.Option(min=1, help="Runs side by side, one thread each.")] = 1,
) -> None:
    """What groups, contexts and encodings of the entropy model contribute; goes on where it
    stopped."""
    setup = entropy.Setup(
        codec=codec, data=str(data or datasets.home() / "datasets" / "train"), steps=steps,
        minutes=minutes, batch=batch, crops=crops, kodak=photos,
        qualities=tuple(cli.numbers(qualities)) if qualities else (),
        large="" if large == "none" else large,
    )  # fmt: skip
    names = [name.strip() for name in variants.split(",") if name.strip()]
    runs = entropy.ablate(setup, out, cache, names, seeds, jobs)
    with cli.progress() as bar, contextlib.closing(runs):
        task = bar.add_task("reading", total=None)
        for at in runs:
            bar.update(task, total=100 * at.total, completed=100 * at.done, description=at.doing)
    cli.say(f"{out}: {at.total} runs")


if __name__ == "__main__":
    cli.run(app)
