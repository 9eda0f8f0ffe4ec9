"""`python -m experiments.distances kodak --codec msssim-small`: see `experiments.distances.run`."""

import contextlib
from pathlib import Path
from typing import Annotated, Literal

import joblib
import typer

from blurlib import checkpoints, cli
from blurlib.evaluation.results import results_file
from experiments.distances import run
from experiments.distances.features import NETWORKS, names

app = typer.Typer(add_completion=False, pretty_exceptions_enable=False)


@app.command()
def main(
    context: typer.Context,
    dataset: Annotated[str, typer.Argument(metavar="SET", help="As of `blurlib evaluate`.")],
    codec: Annotated[str, typer.Option(help="As of `blurlib evaluate`.")],
    network: Annotated[
        Literal["alexnet", "inception", "efficientnet"],
        typer.Option(help="Whose features; inception and efficientnet have to be installed."),
    ] = "alexnet",
    qualities: Annotated[
        str, typer.Option(help="Comma-separated; default: the codec's own range.")
    ] = "",
    decoder: Annotated[cli.Decoder, typer.Option(help="For our models.")] = "direct",
    denoiser: cli.Denoiser = checkpoints.DENOISER,
    steps: cli.Steps = None,
    solver: cli.Solver = None,
    spacing: cli.Spacing = None,
    start_scale: cli.StartScale = None,
    seed: Annotated[int, typer.Option(min=0, help="Noise of the diffusion decoder.")] = 0,
    memory: cli.Memory = 2048,
    effort: cli.Effort = 0,
    out: Annotated[Path, typer.Option(help="Folder of distances.")] = Path("results/distances"),
    jobs: Annotated[
        int | None, typer.Option(min=1, help="Processes, an image each. Default: one per CPU core.")
    ] = None,
) -> None:
    """Distances between the photos of a set and a codec's decodes; goes on where it stopped."""
    chosen = cli.selected(context)
    wanted = cli.numbers(qualities) if qualities else chosen.qualities
    command = f"python -m experiments.distances {Path(dataset).name} --codec {Path(codec).name}"
    command += f" --decoder {decoder} --network {network}"
    for name in ("denoiser", "qualities", "memory", "effort", *sorted(cli.CHAIN)):
        source = context.get_parameter_source(name)
        if source and source.name == "COMMANDLINE":
            value = context.params[name]
            value = Path(value).name if name == "denoiser" else value
            command += f" --{name.replace('_', '-')} {value}"
    made = run.measure(
        dataset, chosen, NETWORKS[network](), wanted, out, command, jobs or joblib.cpu_count()
    )
    with cli.progress() as bar, contextlib.closing(made):
        task = bar.add_task("", total=None)
        for at in made:
            bar.update(task, total=at.total, completed=at.done, description=at.doing)
    file = results_file(out, dataset, chosen.codec)
    found = run.rows(file, chosen.checkpoint, chosen.codec.settings)
    for name, patches in sorted({(row.network, row.patches) for row in found}):
        cli.say(f"{file}: {' and '.join(names(name))} are over {patches} patches")


if __name__ == "__main__":
    cli.run(app)
