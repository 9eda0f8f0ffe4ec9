"""The command line; the only file that imports typer and rich."""

import contextlib
import io
import json
import os
import sys
import time
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import IO, TYPE_CHECKING, Annotated, Any, Literal, NoReturn

import typer
from rich.console import Console
from rich.progress import MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn
from rich.table import Table

from blurlib import __version__, checkpoints, files

if TYPE_CHECKING:
    from blurlib.codec.bitstream import BlurFile
    from blurlib.codec.search import Searched
    from blurlib.evaluation.codecs import Selection
    from blurlib.plotting import Figure
    from blurlib.training.run import Step

# PyTorch takes seconds to import: commands import what they need, so that --help answers at once.

app = typer.Typer(
    help="Learned image compression with a Laplacian-guided entropy model and a blur-diffusion "
    "decoder (CVPR 2024, arXiv 2403.16258).",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)
console = Console(markup=False)  # for tables; their cells may have square brackets

# Older versions of typer take this class from click, newer ones from a copy of their own.
UsageError: type[typer.BadParameter] = typer.BadParameter.__mro__[1]

STDIO = Path("-")  # as IN standard input, as OUT standard output
Decoder = Literal["direct", "diffusion"]
CHAIN = {"steps", "solver", "spacing", "start_scale", "seed"}
OURS = {"decoder", "effort"}
TAKES = {"direct": OURS, "diffusion": OURS | CHAIN | {"denoiser", "memory"}}
"""What each decoder takes of the options that not all take."""
Model = Annotated[str, typer.Option(help="Shipped model, or a .safetensors file.")]
ModelOfFile = Annotated[
    str | None, typer.Option("--model", help="Default: the shipped model that made the file.")
]
Force = Annotated[bool, typer.Option("--force", help="Replace an output that exists.")]
Effort = Annotated[
    int,
    typer.Option(
        min=0,
        max=9,
        help="Of the encoder: 0 takes one pass, 1 to 9 search for a smaller or better file, which "
        "takes up to minutes.",
    ),
]
Denoiser = Annotated[str, typer.Option(help="Weights of the diffusion decoder.")]
# How the diffusion decoder is run; what is not given is what suits its weights.
Steps = Annotated[
    int | None,
    typer.Option(min=1, help="Of the diffusion decoder. Default, also below: the weights' own."),
]
Solver = Annotated[
    Literal["ancestral", "deterministic", "multistep"] | None,
    typer.Option(help="From one step of the diffusion to the next."),
]
Spacing = Annotated[
    Literal["logsnr", "uniform"] | None, typer.Option(help="The times at which its steps look.")
]
StartScale = Annotated[
    float | None, typer.Option(help="Of the noise it starts from; below 1 is calmer, such as 0.8.")
]
Seed = Annotated[
    int | None,
    typer.Option(
        min=0,
        max=2**32 - 1,
        help="Noise of the diffusion decoder. compress writes it into the file (4 bytes); the "
        "default of decompress is the file's, or 0.",
    ),
]
Memory = Annotated[
    int,
    typer.Option(
        min=1, help="MiB a decode may take beside the codec's; beyond, overlapping tiles."
    ),
]


def main() -> None:
    """The command `blurlib`."""
    os.environ["MPLBACKEND"] = "agg"  # figures go into files
    warnings.filterwarnings("ignore", module="PIL")  # what matters raises
    run(app)


def _show_version(wanted: bool) -> None:
    if wanted:
        print(f"blurlib {__version__}")
        raise typer.Exit


@app.callback()
def _before_the_command(
    version: Annotated[
        bool, typer.Option("--version", callback=_show_version, help="Show the version and exit.")
    ] = False,
) -> None: ...


def run(app: typer.Typer) -> NoReturn:
    """Run a command line; a wrong input is one line on stderr and exit code 2."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):  # a console need not know all letters
            stream.reconfigure(errors="backslashreplace")
    try:
        code = app(standalone_mode=False)
        print(end="", flush=True)  # there may be no stdout to flush
        if code == 130:  # what typer makes of Ctrl-C
            raise KeyboardInterrupt
    except UsageError as error:
        if not error.format_message():  # no command: the help has been printed
            sys.exit(2)
        _fail(f"{error.format_message()} (see --help)")
    except BrokenPipeError:  # as of `| head`: the reader has gone; rich ends in the same way
        sys.stdout = None  # which the interpreter would flush
        sys.exit(1)
    except (ValueError, OSError) as error:
        words = _one_line(error)
        try:
            print(end="", flush=True)
        except OSError as full:  # as of /dev/full
            words = f"stdout: {full.strerror}"
            sys.stdout = None  # which the interpreter would flush
        _fail(words)
    except (MemoryError, RuntimeError) as error:
        if not _is_out_of_memory(error):
            raise
        _fail(
            "out of memory: a smaller photo takes less, and training does with a smaller batch, "
            "crop or bank_gb, as by --set batch=2"
        )
    except KeyboardInterrupt:
        print("blurlib: interrupted", file=sys.stderr)
        sys.exit(130)
    sys.exit(code or 0)


def _is_out_of_memory(error: Exception) -> bool:
    """PyTorch says so in a RuntimeError, on a CPU in one that is no class of its own."""
    words = ("out of memory", "allocate memory", "enough memory")
    return isinstance(error, MemoryError) or any(word in str(error) for word in words)


def _one_line(error: Exception) -> str:
    if isinstance(error, OSError) and error.filename and error.strerror:
        return f"{error.filename}: {error.strerror}"
    return str(error)


def _fail(message: str) -> NoReturn:
    say(f"blurlib: {' '.join(line.strip() for line in message.splitlines())}", sys.stderr)
    sys.exit(2)


def say(text: str, file: IO[str] | None = None) -> None:
    """Print one line; what no console shows, such as an escape in the name of a file, by number."""
    shown = (c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)
    print("".join(shown), file=file)


@app.command(epilog="Example: blurlib compress photo.png photo.blur --quality 2.5")
def compress(
    source: Annotated[
        Path, typer.Argument(metavar="IN", help="Photo: PNG, JPEG, WebP, AVIF …; - is stdin.")
    ],
    target: Annotated[
        Path, typer.Argument(metavar="OUT", help="File to write: .blur; - is stdout.")
    ],
    model: Model = checkpoints.CODEC,
    quality: Annotated[
        float | None, typer.Option(help="1 (smallest) to 6 (best), any real number. Default 3.")
    ] = None,
    target_bpp: Annotated[
        float | None, typer.Option(help="Largest file within so many bits per pixel.")
    ] = None,
    seed: Seed = None,
    effort: Effort = 0,
    force: Force = False,
) -> None:
    """Compress a photo into a .blur file."""
    if None not in (quality, target_bpp):
        raise ValueError("--quality and --target-bpp exclude each other: give one of them")
    from blurlib import images
    from blurlib.codec import zoo

    if target != STDIO and target.suffix.lower() != ".blur":
        raise ValueError(f"{target}: the name of OUT must end in .blur, or be - for stdout")
    _check_output(target, force, source, files.check_writable)
    piped = source == STDIO
    x = (images.decode_image(_read(source), "stdin") if piped else images.read_image(source))[None]
    codec = zoo.load(model)
    with progress() as bar:
        task = bar.add_task("compressing", total=None)

        def observe(state: "Searched") -> None:
            bar.update(task, completed=state.iteration, total=state.iterations)

        if target_bpp is not None:
            data = codec.compress_to(x, target_bpp, seed, effort, observe)
        else:
            data = codec.compress(x, 3.0 if quality is None else quality, seed, effort, observe)
    bpp = 8 * len(data) / x[0, 0].numel()
    _write(target, data, force, f"{len(data):,} bytes, {bpp:.3f} bpp, {x.shape[3]}×{x.shape[2]}")


@app.command(epilog="Example: blurlib decompress photo.blur photo.png")
def decompress(
    context: typer.Context,
    source: Annotated[Path, typer.Argument(metavar="IN", help="File to read: .blur; - is stdin.")],
    target: Annotated[
        Path,
        typer.Argument(metavar="OUT", help="Picture: .png, .webp, .jpg …; - is stdout, as PNG."),
    ],
    decoder: Annotated[
        Decoder,
        typer.Option(
            help="direct: one pass, faithful. diffusion: realistic texture, for files of --model "
            f"{checkpoints.PERCEPTUAL}."
        ),
    ] = "direct",
    steps: Steps = None,
    solver: Solver = None,
    spacing: Spacing = None,
    start_scale: StartScale = None,
    seed: Seed = None,
    model: ModelOfFile = None,
    denoiser: Denoiser = checkpoints.DENOISER,
    memory: Memory = 2048,
    max_megapixels: Annotated[
        float, typer.Option(min=0, help="Refuse a larger picture; the format ends at 67.")
    ] = 68,
    force: Force = False,
) -> None:
    """Decode a .blur file into a picture."""
    from blurlib import images
    from blurlib.codec import zoo
    from blurlib.diffusion import Sampling, Tiling

    _check_output(target, force, source, images.check_output)
    asked: dict[str, Any] = {"steps": steps, "seed": seed, "solver": solver}
    asked |= {"spacing": spacing, "start_scale": start_scale}
    Sampling().but(**asked)  # what cannot be is refused before anything is read
    _refuse_ignored(context, decoder, TAKES[decoder])
    suffix, shown = (".png", "stdout") if target == STDIO else (target.suffix, str(target))
    file, tiling = _read_blur(source), Tiling(memory * 2**20)
    images.check_sides(suffix, file.height, file.width, shown)
    codec = zoo.load(model) if model else zoo.load_by_id(file.model_id)
    diffusion = zoo.load_denoiser(denoiser) if decoder == "diffusion" else None
    if diffusion:
        diffusion.check(file, tiling)
    output = codec.decompress(file, int(1e6 * min(68, max_megapixels)), diffusion is not None)
    x_hat = output.x_hat
    if diffusion:
        with progress() as bar:
            task = bar.add_task("diffusion", total=None)
            for state in diffusion.sample(output, **asked, tiling=tiling):
                bar.update(task, completed=state.step, total=state.steps)
            x_hat = state.x_hat
    data = images.encode_image(images.to_uint8(x_hat[0]), suffix, shown)
    _write(target, data, force, f"{file.width}×{file.height}, {decoder} decoder")


@app.command(epilog="Example: blurlib info photo.blur --json")
def info(
    source: Annotated[
        Path, typer.Argument(metavar="FILE", help="File to look into: .blur; - is stdin.")
    ],
    model: ModelOfFile = None,
    as_json: Annotated[bool, typer.Option("--json", help="As JSON.")] = False,
    passes: Annotated[
        bool, typer.Option(help="Decode the latent, to see the bits of each pass.")
    ] = True,
) -> None:
    """Say what every byte of a .blur file is for, and what each pass over the latent costs."""
    from blurlib.codec import inspection, zoo

    report = inspection.describe(_read_blur(source), zoo.load(model) if model else None, passes)
    if as_json:
        print(json.dumps(report, indent=2))
        return
    psnr = "" if report["psnr"] is None else f" (direct picture: {report['psnr']:g} dB)"
    say(
        f"{source}: {report['width']}×{report['height']}, quality {report['quality']:g}{psnr}, "
        f"{report['bytes']:,} bytes = {report['bpp']:.3f} bpp, model {report['model']}"
    )
    _print_table(report["layout"], "bytes")
    if passes and report["passes"] is None:
        say("The model is not shipped: name it with --model to see the passes.")
    elif passes:
        _print_table(report["passes"], "passes")


@app.command(epilog="Example: blurlib codecs, then blurlib evaluate kodak --codec avif")
def codecs() -> None:
    """List our models and what each is for, and other codecs and whether they can run here."""
    from blurlib.codec import zoo
    from blurlib.evaluation.codecs import available

    ours = []
    for name in zoo.names():
        _, _, text = (zoo.CHECKPOINTS / f"{name}.md").read_text(encoding="utf-8").partition("\n")
        ours.append({"model": name, "what it is": " ".join(text.partition(":")[0].split())})
    _print_table(ours, "blurlib's own")
    others = [{"codec": name, "here": why or "runs"} for name, why in available().items()]
    _print_table(others, "to compare with")


@app.command(epilog="Example: blurlib demo --photo cat --quality 3")
def demo(
    photo: Annotated[str, typer.Option(help="A photo of yours, or an embedded one.")] = "coffee",
    quality: Annotated[float, typer.Option(help="1 to 6.")] = 2.0,
    steps: Steps = None,
    out: Annotated[Path, typer.Option(help="Folder for what the demo makes.")] = Path("demo"),
    force: Force = False,
) -> None:
    """A photo through the codec and back, both ways, beside JPEG, WebP and AVIF."""
    from blurlib import datasets, images, plotting
    from blurlib.diffusion import Sampling
    from blurlib.evaluation import demo as demonstration

    Sampling().but(steps=steps)
    embedded = datasets.embedded_names()
    if photo not in embedded and not Path(photo).exists():
        names = ", ".join(embedded)
        raise ValueError(f"{photo}: no such file, and not one of the embedded photos {names}")
    path = datasets.embedded_path(photo) if photo in embedded else Path(photo)
    image = images.read_image(path)
    for target in (out / "comparison.png", *demonstration.outputs(out)):
        if target.exists() and (not force or target.samefile(path)):
            wish = "choose another --out" + ("" if force else ", or --force")
            raise ValueError(f"{target}: exists and is kept; {wish}")
    entries = []
    with progress() as bar:
        task = bar.add_task("demo", total=len(demonstration.NAMES))
        for entry in demonstration.run(image, out, quality, steps):
            entries.append(entry)
            bar.update(task, description=entry.name, advance=1)
    panels = [plotting.Panel(*panel) for panel in demonstration.panels(image, entries)]
    _save(plotting.comparison(panels), out / "comparison.png")
    _print_table([entry.row() for entry in entries], f"{path.name} at the bytes of blurlib")
    for rival in demonstration.BASELINES:
        if max(image.shape) > rival.longest:
            say(f"{rival.name.upper()}: n/a, its sides end at {rival.longest} pixels")
    say(f"Pictures: {out / 'comparison.png'} and the files beside it.")


@app.command(
    epilog="Example: blurlib train cpu-small --data photos/ --run runs/codec --set max_minutes=30 "
    "--set threads=1"
)
def train(
    recipe: Annotated[
        str,
        typer.Argument(
            help="tiny, cpu-small, cpu-denoiser, gpu-small, gpu-denoiser, paper, or a TOML file."
        ),
    ],
    run: Annotated[Path, typer.Option(help="Folder of the run.")],
    data: Annotated[str | None, typer.Option(help="Folder of photos or of Vimeo-90k.")] = None,
    init: Annotated[
        str | None, typer.Option(help="Weights to start with: of a codec, or of a denoiser.")
    ] = None,
    steps: Annotated[int | None, typer.Option(help="Length; overrides the time box.")] = None,
    changes: Annotated[
        list[str] | None,
        typer.Option(
            "--set",
            metavar="FIELD=VALUE",
            help="Change a field; repeatable. A wrong one lists all.",
        ),
    ] = None,
    resume: Annotated[bool, typer.Option("--resume", help="Go on with this run.")] = False,
) -> None:
    """Train a codec, a denoiser or both; always leaves a checkpoint to resume from."""
    from blurlib.training.config import TrainConfig, assigned
    from blurlib.training.loop import Terminated, is_first_process
    from blurlib.training.loop import train as steps_of

    fields = {"data": data, "init": init, "steps": steps, **assigned(changes or [])}
    config = TrainConfig.recipe(recipe, **fields)
    draw_at, held_out = time.monotonic() + config.checkpoint_every, None
    try:
        with progress() as bar:
            task = bar.add_task("reading photos", total=None)
            with contextlib.closing(steps_of(config, run, resume=resume)) as steps_taken:
                for step in steps_taken:
                    held_out = held_out if step.held_out is None else step.held_out
                    text, shown = _describe(step, held_out), is_first_process()
                    bar.update(task, description=text, visible=shown)
                    bar.update(task, total=step.steps or None, completed=step.step)
                    if time.monotonic() > draw_at:  # from time to time, and never for long
                        pause = max(config.checkpoint_every, 50 * _draw_curves(run))
                        draw_at = time.monotonic() + pause
    except Terminated as stopped:
        if is_first_process():
            print(f"blurlib: {stopped.message}; --resume goes on", file=sys.stderr)
        raise
    _draw_curves(run)
    if is_first_process():
        skipped = len((run / "skipped.txt").read_bytes().splitlines())
        if skipped:
            say(f"{skipped} photos skipped: see {run / 'skipped.txt'}")
        if held_out is not None:
            say(f"loss on held-out photos, coded: {held_out:.4f}")
        for model in sorted(run.glob("*.safetensors")):
            say(f"{model}: written")


def _describe(step: "Step", held_out: float | None) -> str:
    parts = "  ".join(f"{name} {value:.4f}" for name, value in step.parts.items())
    held = "" if held_out is None else f"  held out {held_out:.4f}"
    return f"{parts}{held}  {step.images / step.seconds:.1f} images/s"


def _draw_curves(run: Path) -> float:
    """curves.png of a run so far; returns the seconds it took."""
    from blurlib import plotting
    from blurlib.training.loop import is_first_process
    from blurlib.training.run import read_log

    start = time.monotonic()
    if is_first_process() and (run / "log.jsonl").is_file() and (steps := read_log(run)):
        _save(plotting.training_curves(steps), run / "curves.png")
    return time.monotonic() - start


@app.command(epilog="Example: blurlib evaluate kodak --codec avif")
def evaluate(
    context: typer.Context,
    dataset: Annotated[
        str,
        typer.Argument(help="kodak, clic2025-subset, embedded, other-worlds, text, a folder."),
    ],
    codec: Annotated[
        str, typer.Option(help="jpeg, webp, avif … (a wrong name lists all), or one of our models.")
    ],
    qualities: Annotated[
        str, typer.Option(help="Comma-separated; default: the codec's own range.")
    ] = "",
    decoder: Annotated[Decoder, typer.Option(help="For our models.")] = "direct",
    denoiser: Denoiser = checkpoints.DENOISER,
    steps: Steps = None,
    solver: Solver = None,
    spacing: Spacing = None,
    start_scale: StartScale = None,
    seed: Annotated[int, typer.Option(min=0, help="Noise of the diffusion decoder.")] = 0,
    memory: Memory = 2048,
    effort: Effort = 0,
    out: Annotated[Path, typer.Option(help="Folder of results.")] = Path("results/measured"),
    lpips: Annotated[
        Literal["alex", "vgg", "squeeze", "none"], typer.Option(help="Network of LPIPS.")
    ] = "alex",
    jobs: Annotated[
        int | None, typer.Option(min=1, help="Processes, an image each. Default: one per CPU core.")
    ] = None,
    force: Force = False,
) -> None:
    """Measure a codec on a set of images, into one results file; goes on where it stopped."""
    import joblib

    from blurlib import datasets
    from blurlib.evaluation import measure, results
    from blurlib.metrics import Lpips, lpips_file

    chosen = selected(context)
    everything = datasets.dataset(dataset)
    paths = measure.fitting(chosen.codec, everything)
    for path in sorted({*everything} - {*paths}):
        longest = getattr(chosen.codec, "longest", None)
        say(f"{path.name}: skipped: {codec} takes sides up to {longest} pixels")
    wanted = list(dict.fromkeys(numbers(qualities) if qualities else chosen.qualities))
    judge: Lpips | None = None
    if lpips != "none":
        try:
            judge = Lpips.load(lpips, datasets.cached_weights(lpips_file(lpips)))
        except OSError as error:
            raise ValueError(f"{_one_line(error)}; or say --lpips none") from None
    rows = measure.evaluate(
        dataset, chosen.codec, wanted, out, checkpoint=chosen.checkpoint, seed=chosen.seed,
        lpips=judge, lpips_name=lpips, extra=chosen.extra, jobs=jobs or joblib.cpu_count(),
        overwrite=force,
    )  # fmt: skip
    count = 0
    with progress() as bar, contextlib.closing(rows):
        task = bar.add_task(codec, total=len(paths) * len(wanted))
        for _ in rows:
            count += 1
            bar.advance(task)
    file = results.results_file(out, dataset, chosen.codec)
    say(f"{file}: {count} rows of {len(paths)} images")


def selected(context: typer.Context) -> "Selection":
    """The codec that the options of `evaluate` name; ValueError for one that it would ignore."""
    from blurlib.diffusion import Tiling
    from blurlib.evaluation.codecs import KNOWN, select

    asked = context.params
    codec, decoder = asked["codec"], asked["decoder"]
    if codec in (known.name for known in KNOWN):
        _refuse_ignored(context, codec, set())
    else:
        _refuse_ignored(context, decoder, TAKES[decoder])
    sampling = {name: asked[name] for name in CHAIN}
    tiling = Tiling(asked["memory"] * 2**20)
    return select(codec, decoder, asked["denoiser"], sampling, tiling, asked["effort"])


@app.command(epilog="Example: blurlib bdrate webp.json avif.json, as evaluate writes them")
def bdrate(
    anchor: Annotated[Path, typer.Argument(metavar="ANCHOR", help="Results file.")],
    test: Annotated[Path, typer.Argument(metavar="TEST", help="Results file.")],
    metric: Annotated[Literal["ms-ssim", "psnr"], typer.Option()] = "ms-ssim",
    method: Annotated[Literal["akima", "pchip"], typer.Option()] = "akima",
    rates: Annotated[
        tuple[float, float] | None, typer.Option(help="Only this interval of bpp: LOW HIGH.")
    ] = None,
) -> None:
    """BD-rate of TEST against ANCHOR, in per cent; negative means fewer bits."""
    from blurlib.evaluation import results
    from blurlib.evaluation.bd_rate import bd_rate

    column = "ms_ssim_db" if metric == "ms-ssim" else "psnr"
    both = results.read(anchor), results.read(test)
    results.check_comparable(*both)
    a, t = (results.averages(one)[["bpp", column]].to_numpy() for one in both)
    value = bd_rate(a, t, method, rates)
    over = f"over {value.low:.2f}–{value.high:.2f} dB"
    say(f"{value.value:+.2f} % ({metric}, {method}, {over})")


def numbers(text: str) -> list[float]:
    try:
        return [float(part) for part in text.split(",")]
    except ValueError:
        wanted = "give numbers with commas, as in 1,2.5"
        raise ValueError(f"--qualities is {text!r}: {wanted}") from None


def _refuse_ignored(context: typer.Context, chosen: str, takes: set[str]) -> None:
    """ValueError for an option on the command line that only other decoders look at."""
    for name in sorted(TAKES["diffusion"] - takes):
        source = context.get_parameter_source(name)
        if source and source.name == "COMMANDLINE":
            takers = " and ".join(decoder for decoder, taken in TAKES.items() if name in taken)
            what = f"our decoders {takers}" if name in OURS else f"--decoder {takers}"
            raise ValueError(f"--{name.replace('_', '-')} is for {what}, not {chosen}")


def _check_output(
    target: Path, force: bool, source: Path, check: Callable[[Path, bool], None]
) -> None:
    """Raise what is wrong with OUT before any long work."""
    if target == STDIO:
        if sys.stdout.isatty():
            raise ValueError("OUT is - and stdout a terminal: send it to a file or another command")
        return
    check(target, force)
    if target.exists() and source.exists() and target.samefile(source):
        raise ValueError(f"{target}: is IN, which is kept: choose another OUT")


def _read(source: Path) -> bytes:
    if source == STDIO:
        return files.read(sys.stdin.buffer, "stdin")
    with open(source, "rb") as file:
        return files.read(file, source)


def _write(target: Path, data: bytes, force: bool, what: str) -> None:
    """Write OUT, and say what was written; beside a picture or file on stdout, on stderr."""
    if target != STDIO:
        files.atomic_write(target, data, force)
        return say(f"{target}: {what}")
    try:
        sys.stdout.buffer.write(data)
        sys.stdout.flush()
    except OSError as error:  # of the class that its number has, such as BrokenPipeError
        raise OSError(error.errno, error.strerror, "stdout") from None
    say(f"{target}: {what}", sys.stderr)


def _save(figure: "Figure", target: Path) -> None:
    figure.savefig(buffer := io.BytesIO(), format="png")
    files.atomic_write(target, buffer.getvalue(), overwrite=True)


def _read_blur(path: Path) -> "BlurFile":
    from blurlib.codec.bitstream import BitstreamError, BlurFile

    data = _read(path)
    try:
        return BlurFile.from_bytes(data)
    except BitstreamError as error:
        raise BitstreamError(f"{'stdin' if path == STDIO else path}: {error}") from error


def progress() -> Progress:
    """A bar on stderr, where that is a terminal."""
    text, *others = Progress.get_default_columns()
    text = TextColumn("{task.description}", markup=False)  # which may have square brackets
    columns = text, *others, MofNCompleteColumn(), TimeElapsedColumn()
    hidden = not sys.stderr.isatty()
    return Progress(*columns, console=Console(stderr=True), transient=True, disable=hidden)


def _print_table(rows: list[dict], title: str) -> None:
    table = Table(title=title, title_justify="left")
    for name, value in rows[0].items():
        table.add_column(name, justify="left" if isinstance(value, str) else "right")
    for row in rows:
        table.add_row(*(f"{v:,}" if isinstance(v, int) else str(v) for v in row.values()))
    console.print(table)
