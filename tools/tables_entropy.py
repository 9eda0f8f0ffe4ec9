"""Tables of the ablation of the entropy model."""

from collections.abc import Callable
from pathlib import Path

from blurlib.codec import zoo
from experiments.entropy import report as entropy_report
from experiments.entropy.report import Ablation
from experiments.entropy.variants import HYPERPRIOR
from tables_markdown import markdown


def shown(root: Path, table: Callable[[Ablation], str]) -> str:
    """A table of the ablation; what its folder does not have yet is said to be missing."""
    found = entropy_report.read(root / "results/ablation/entropy")
    return table(found) or "The committed runs do not have this.\n"


def setup(found: Ablation) -> str:
    """What was trained and coded, in a sentence each."""
    of = found.setup
    counts = sorted({len(found.of(name)) for name in found.titles})
    seeds = " to ".join(map(str, counts)) + (" seed" if counts == [1] else " seeds")
    made = {key: _all([run[key] for run in found.runs]) for key in ("command", "commit", "device")}
    torch = _all([run["versions"]["torch"] for run in found.runs])
    model = zoo.name_of(bytes.fromhex(of["codec"][:8])) or f"the codec {of['codec'][:8]}"
    photos = found.kodak["image"].nunique()
    which = f"{photos} photos of Kodak" if photos < 24 else "the 24 photos of Kodak"
    return (
        f"{len(found.titles)} variants with {seeds} each, on the frozen transforms of {model}: "
        f"{of['steps']:,} steps of {of['batch']} latents, drawn from {of['crops']:,} crops of "
        f"{of['crop']}×{of['crop']} pixels. Coded: {which}, at the qualities "
        f"{', '.join(f'{q:g}' for q in of['qualities'])}.\n\n"
        f"Command: `{made['command']}`. Commit {made['commit']}; {made['device']}; PyTorch "
        f"{torch}.\n"
    )


def _all(values: list[str | None]) -> str:
    """Every different value, in order of appearance."""
    return ", ".join(dict.fromkeys(value or "unknown" for value in values))


def variants(found: Ablation) -> str:
    """What every variant saves and costs."""
    head = ["entropy model", "seeds", "passes", "weights", "over hyperprior", "the same in PSNR",
            "over local context", "training step (s)", "encode (s)", "decode (s)"]  # fmt: skip
    rows = [
        [row.title, f"{row.seeds}", f"{row.passes}", f"{row.parameters:,}",
         f"{row.over_hyperprior}", f"{row.over_hyperprior_psnr}", f"{row.over_local}",
         f"{row.step_s:.2f}", f"{row.encode_s:.2f}", f"{row.decode_s:.2f}"]
        for row in entropy_report.contributions(found).itertuples()
    ]  # fmt: skip
    return markdown(head, rows)


def verdicts(found: Ablation) -> str:
    """The sentences that follow from the numbers."""
    return "".join(f"- {line}\n" for line in entropy_report.verdicts(found))


def readings(found: Ablation) -> str:
    """Which of the two places of the keys needs fewer bits."""
    return "".join(f"{line}\n" for line in entropy_report.readings(found))


def positions(found: Ablation) -> str:
    """A_j, σ_j and half-width of the full variant."""
    rows = [
        [f"{group}", f"{row.amplitude}", f"{row.sigma}", f"{row.half_width}"]
        for group, row in entropy_report.learned(found).iterrows()
    ]
    return markdown(["group", "A_j", "σ_j", "half-width (latent positions)"], rows)


def zeroed(found: Ablation) -> str:
    """Real bytes of the full variant without its transformer."""
    rows = [
        [part, f"{quality:g}", f"{row.more}", f"{row.grown} of {row.files}"]
        for (part, quality), row in entropy_report.zeroing(found).iterrows()
    ]
    return markdown(["put to 0", "quality", "bytes", "files that grow"], rows)


def sizes(found: Ablation) -> str:
    """What the full variant saves at several sizes of the same photos."""
    rows = [
        [f"{size:g}", f"{row.photos}", f"{row.bpp:.3f}", f"{row.over_hyperprior}",
         f"{row.over_local}"]
        for size, row in entropy_report.sizes(found).iterrows()
    ]  # fmt: skip
    head = ["megapixels", "photos", "bpp", "bytes over hyperprior", "bytes over local context"]
    return markdown(head, rows)


def bits(found: Ablation) -> str:
    """Where the bits of the full variant go."""
    frame = entropy_report.bits(found)
    rows = [
        [f"{quality:g}", f"{row.sum() / 8e3:.1f}", *(f"{v:.1f} %" for v in 100 * (row / row.sum()))]
        for quality, row in frame.iterrows()
    ]
    alone = entropy_report.bits(found, HYPERPRIOR)
    shares = 100 * alone["z"] / alone.sum(axis=1) if len(alone) else []
    text = ", ".join(f"{share:.1f} %" for share in shares)
    return markdown(["quality", "kB", *frame.columns], rows) + (
        f"\nOf the hyperprior alone, z takes {text} at these qualities.\n" if text else ""
    )
