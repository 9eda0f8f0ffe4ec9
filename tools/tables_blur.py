"""Tables and the figure of the comparison of diffusions."""

from collections.abc import Callable
from pathlib import Path

import numpy as np

from experiments import plots
from experiments.diffusion.verdict import Comparison
from experiments.record import Spread
from tables_markdown import markdown


def read(root: Path) -> Comparison | None:
    """What was measured; None before that."""
    folder = root / "results/ablation/diffusion"
    return Comparison.read(folder) if (folder / "about.json").is_file() else None


def shown(root: Path, table: Callable[[Comparison], str]) -> str:
    """A table of the comparison of diffusions; until that is made, what makes it."""
    found = read(root)
    if found is None:
        return "Not measured yet: `python -m experiments.diffusion` makes this.\n"
    return table(found)


def setup(found: Comparison) -> str:
    """How the decoders were trained, in a sentence."""
    plan, training = found.about["plan"], found.about["plan"]["training"]
    untuned = found.runs[found.runs["init"] == ""]
    usual = found.usual
    return (
        f"{len(untuned)} runs of {training['steps']:,} steps on {training['batch']} crops of "
        f"{training['crop']}×{training['crop']} pixels, learning rate {training['lr']:g}, "
        f"ρ = {training['rho']:g}, on the frozen codec `{found.about['codec']}`; they took "
        f"{untuned['seconds'].sum() / 3600:.1f} hours ({found.about['device']}). Chains are "
        f"sampled with solver {usual['solver']}, spacing {usual['spacing']} and "
        f"{usual['start_scale']:g} times the noise at the start unless a table says otherwise; "
        f"{found.decodes['image'].nunique()} photos, files of quality "
        f"{' and '.join(f'{q:g}' for q in plan['qualities'])}.\n"
    )


def decoders(found: Comparison) -> str:
    """What every decoder reaches, and how long it takes, at every number of steps."""
    distances = [c for c in found.table if c.startswith(("FD-", "FID"))]
    columns = {"lpips": 4, **dict.fromkeys(distances, 3), "psnr": 2}
    labels = {"direct": "direct", "deterministic": "deterministic", "isotropic": "isotropic"}
    labels["blur"] = f"blur, {found.blur:g} px"
    titles = {"lpips": "LPIPS", "psnr": "PSNR (dB)"}
    head = ["quality", "decoder", "steps", *(titles.get(c, c) for c in columns), "seconds"]
    rows = []
    for quality in found.qualities:
        for decoder, label in labels.items():
            for steps, group in found.group(decoder, quality).groupby("steps"):
                values = [f"{Spread.of(group[c], digits)}" for c, digits in columns.items()]
                seconds = f"{group['seconds'].mean():.2f}"
                rows.append([f"{quality:g}", label, f"{steps}", *values, seconds])
    patches = found.table["patches"].max()
    on_cpu = found.about["device"].startswith("cpu")
    clock = "CPU time of one thread" if on_cpu else "time on the GPU"
    return markdown(head, rows) + (
        f"\nMean ± standard deviation over seeds. The distances are over {patches:.0f} patches of "
        f"256 × 256 pixels. Seconds are {clock}: of the direct decoder all that a file takes, of "
        "the others what they take on top.\n"
    )


def duels(found: Comparison) -> str:
    """Blur against isotropic diffusion, step count by step count."""
    head = ["quality", "steps", f"blur, {found.blur:g} px", "isotropic", "difference",
            "seeds apart", "photos better with blur", "difference without a network"]  # fmt: skip
    rows = [
        [f"{d.quality:g}", f"{d.steps}", f"{d.blur}", f"{d.isotropic}", f"{d.difference:+.4f}",
         "one seed" if d.blur.seeds == 1 else "yes" if d.clear else "no",
         f"{d.photos} of {d.total}", "–" if np.isnan(d.silent) else f"{d.silent:+.4f}"]
        for d in found.duels()
    ]  # fmt: skip
    return markdown(head, rows)


def reading(found: Comparison) -> str:
    """Whether the networks look at the noisy picture."""
    rows = [
        [decoder, f"{logsnr:g}", f"{row.silent}", f"{row.own}", f"{row.other}"]
        for (decoder, logsnr), row in found.by_reading().iterrows()
    ]
    head = ["decoder", "log-SNR", "output of 0", "its noisy picture", "that of another photo"]
    return markdown(head, rows)


def sigma(found: Comparison) -> str:
    """LPIPS by the strength of the blur."""
    frame = found.by_sigma()
    head = ["$\\sigma_{B,\\max}$ (px)", "held-out photos", *map(_steps, frame.columns[1:])]
    rows = [[f"{sigma:g}", *(f"{v:.4f}" for v in row)] for sigma, row in frame.iterrows()]
    return markdown(head, rows)


def rho(found: Comparison) -> str:
    """LPIPS, PSNR and distance after training on with each ρ."""
    frame = found.by_rho()
    names = {"lpips": "LPIPS", "psnr": "PSNR"}
    digits = {"lpips": 4, "psnr": 2}
    head = ["ρ", *(f"{names.get(c, c)}, {_steps(n)}" for c, n in frame.columns)]
    rows = [
        [
            f"{rho:g}" + ("" if init else ", the start"),
            *(f"{v:.{digits.get(c, 3)}f}" for (c, _), v in row.items()),
        ]
        for (init, rho), row in frame.iterrows()
    ]
    tuning = found.about["plan"]["tuning"]
    return markdown(head, rows) + f"\n`{found.tuned}`, trained on for {tuning:,} steps each.\n"


def solvers(found: Comparison) -> str:
    """LPIPS by solver, spacing and the scale of the start."""
    frame = found.by_solver()
    head = ["decoder", "solver", "spacing", "start", *map(_steps, frame.columns)]
    rows = [
        [*names, f"{start:g}", *("–" if np.isnan(v) else f"{v:.4f}" for v in row)]
        for (*names, start), row in frame.iterrows()
    ]
    return markdown(head, rows)


def _steps(count: int) -> str:
    return f"{count} step{'s' * (count > 1)}"


def verdict(found: Comparison) -> str:
    """The best chain against the decoder without one."""
    head = ["quality", "measure", "direct", "deterministic", "best chain", "decoder", "steps",
            "seeds apart"]  # fmt: skip
    rows = [
        [f"{d.quality:g}", "LPIPS" if d.measure == "lpips" else d.measure,
         f"{d.direct:.{d.chain.digits}f}", f"{d.deterministic}", f"{d.chain}", d.decoder,
         f"{d.steps}", "one seed" if d.chain.seeds == 1 else "yes" if d.clear else "no"]
        for d in found.against_one_step()
    ]  # fmt: skip
    return markdown(head, rows)


def pictures(root: Path) -> str:
    """The figures of the comparison that have been made."""
    shown = {"blur-steps.svg": "LPIPS over the number of network evaluations, mean and standard "
             "deviation over seeds"}  # fmt: skip
    for path in sorted((root / "book/figures").glob("text-*.png")):
        name = path.stem.removeprefix("text-")
        shown[path.name] = f"A crop with text of `{name}`, by every decoder; its LPIPS and PSNR"
    files = {path.name for path in (root / "book/figures").glob("*.*")}
    figures = [
        f"```{{figure}} figures/{file}\n:alt: {text.replace('`', '')}\n\n{text}.\n```\n"
        for file, text in shown.items()
        if file in files
    ]
    return "\n".join(figures) or "Not drawn yet.\n"


def tracks(found: Comparison) -> dict[str, list[plots.Track]]:
    """LPIPS of every decoder over the number of steps, by quality."""
    labels = {"isotropic": "isotropic", "blur": f"blur, {found.blur:g} px"}
    labels |= {"deterministic": "deterministic", "direct": "direct"}
    panels = {}
    for quality in found.qualities:
        spreads = {label: found.over_steps(name, quality) for name, label in labels.items()}
        panels[f"quality {quality:g}"] = [
            plots.Track(label, [*by], [s.mean for s in by.values()], [s.std for s in by.values()])
            for label, by in spreads.items()
        ]
    return panels
