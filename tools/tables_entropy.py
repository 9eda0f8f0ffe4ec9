"""Tables of the ablation of the entropy model."""

from collections.abc import Callable
from pathlib import Path

import numpy as np

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
    commits = _all([run["commit"] and run["commit"][:7] for run in found.runs])
    devices = _all([run["device"] for run in found.runs])
    torch = _all([run["versions"]["torch"] for run in found.runs])
    model = zoo.name_of(bytes.fromhex(of["codec"][:8])) or f"the codec {of['codec'][:8]}"
    photos = found.kodak["image"].nunique()
    which = f"{photos} photos of Kodak" if photos < 24 else "the 24 photos of Kodak"
    return (
        f"{len(found.titles)} variants with {seeds} each, on the frozen transforms of {model}: "
        f"{of['steps']:,} steps of {of['batch']} latents, drawn from {of['crops']:,} crops of "
        f"{of['crop']}×{of['crop']} pixels. Coded: {which}, at the qualities "
        f"{', '.join(f'{q:g}' for q in of['qualities'])}.\n\n"
        f"Commit {commits}; {devices}; PyTorch {torch}.\n"
    )


def _all(values: list[str | None]) -> str:
    """Every different value, in order of appearance."""
    return ", ".join(dict.fromkeys(value or "unknown" for value in values))


def variants(found: Ablation) -> str:
    """What every variant saves and costs."""
    frame = entropy_report.contributions(found)
    rows = [
        [row.title, f"{row.passes}", f"{row.parameters:,}", f"{row.over_hyperprior}",
         f"{row.over_local}", f"{row.step_s:.2f}", f"{row.decode_s:.2f}"]
        for row in frame.itertuples()
    ]  # fmt: skip
    head = ["entropy model", "passes", "weights", "over hyperprior", "over local context",
            "training step (s)", "decode (s)"]  # fmt: skip
    means = [[spread.mean for spread in frame[f"over_hyperprior{end}"]] for end in ("", "_psnr")]
    apart = np.nanmax(np.abs(np.subtract(*means)))
    return markdown(head, rows) + (
        f"\nBD-rates over the hyperprior in PSNR are within {apart:.1f} points of these.\n"
    )


def pairs(found: Ablation) -> str:
    """Which of two models that differ in one part needs fewer bits."""
    rows = [[*words, f"{spread}", end] for *words, spread, end in entropy_report.pairs(found)]
    return markdown(["of", "over", "BD-rate", "verdict"], rows)


def verdicts(found: Ablation) -> str:
    """The sentences that follow from the numbers."""
    return "".join(f"- {line}\n" for line in entropy_report.verdicts(found))


def readings(found: Ablation) -> str:
    """Which of the two places of the keys needs fewer bits."""
    rows = [row for row in entropy_report.pairs(found) if row[0].startswith("keys")]
    return "".join(
        f"BD-rate of {first} over {second}: {spread} ({end}).\n"
        for first, second, spread, end in rows
    )


def positions(found: Ablation) -> str:
    """A_j, σ_j and half-width of the full variant."""
    rows = [
        [f"{group}", f"{row.amplitude}", f"{row.sigma}", f"{row.half_width}"]
        for group, row in entropy_report.learned(found).iterrows()
    ]
    return markdown(["group", "$A_j$", "$\\sigma_j$", "half-width (latent positions)"], rows)


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
