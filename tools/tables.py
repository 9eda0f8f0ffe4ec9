"""Fill in the numbers: tables, figures and every block between markers come from results/.

    python tools/tables.py            write what is stale
    python tools/tables.py --check    name each file that is stale; exit code 1 if any

Each table is a file in results/tables and, where README, a page of the book or a model card wants
it, a block between `<!-- table: NAME -->` and `<!-- /table -->`. A single number stands between
`<!-- cell: NAME / ROW / COLUMN -->` and `<!-- /cell -->`; ROW is the first cell of its row, or as
many as it takes, with " / " between them. Figures are in book/figures.
"""

import hashlib
import json
import re
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import NamedTuple

import pandas as pd

import tables_blur as blur
import tables_checks as checks
import tables_entropy as entropy
import tables_measured as measured
import tables_tradeoffs as tradeoffs
import tables_training as training
from blurlib import plotting
from experiments import plots, published, report
from tables_markdown import minus

ROOT = Path(__file__).parents[1]
PLACES = ("README.md", "book/*.md", "blurlib/checkpoints/*.md")
BLOCK = re.compile(r"(<!-- table: (?P<name>[\w-]+) -->\n).*?(<!-- /table -->)", re.DOTALL)
CELL = re.compile(r"(<!-- cell: (?P<path>.+?) -->).*?(<!-- /cell -->)")

# All but "trained", which is made of the same runs as a figure.
TABLES: dict[str, Callable[[Path], str]] = {
    "kodak-direct": lambda root: measured.rate_distortion(root, "msssim-small-direct"),
    "kodak-direct-bd": lambda root: measured.bd_rates(root, "msssim-small-direct"),
    "kodak-mse": lambda root: measured.rate_distortion(root, "mse-small-direct"),
    "kodak-mse-bd": lambda root: measured.bd_rates(root, "mse-small-direct"),
    "kodak-first": lambda root: measured.rate_distortion(root, "msssim-first-direct"),
    "kodak-first-bd": lambda root: measured.bd_rates(root, "msssim-first-direct"),
    "kodak-first-roundtrip": lambda root: checks.round_trip(root, "msssim-first"),
    "laplacian-first": lambda _: training.laplacian("msssim-first"),
    "kodak-diffusion": lambda root: measured.rate_distortion(root, "msssim-first-diffusion"),
    "kodak-nearer": lambda root: measured.nearer_photos(
        root, "msssim-first-direct", "msssim-first-diffusion"
    ),
    "kodak-isotropic": lambda root: measured.rate_distortion(root, "msssim-first-isotropic"),
    "kodak-nearer-isotropic": lambda root: measured.nearer_photos(
        root, "msssim-first-direct", "msssim-first-isotropic"
    ),
    "laplacian": lambda _: training.laplacian("msssim-small"),
    "kodak-roundtrip": lambda root: checks.round_trip(root, "msssim-small"),
    "against-vtm": measured.against_vtm,
    "against-vtm-methods": measured.against_vtm_methods,
    "headline": measured.headline,
    "perception": measured.perception,
    "noise": checks.noise,
    "against-published": measured.against_published,
    "blur-setup": lambda root: blur.shown(root, blur.setup),
    "blur-verdict": lambda root: blur.shown(root, blur.verdict),
    "blur-duels": lambda root: blur.shown(root, blur.duels),
    "blur-decoders": lambda root: blur.shown(root, blur.decoders),
    "blur-reads": lambda root: blur.shown(root, blur.reading),
    "blur-sigma": lambda root: blur.shown(root, blur.sigma),
    "blur-rho": lambda root: blur.shown(root, blur.rho),
    "blur-solvers": lambda root: blur.shown(root, blur.solvers),
    "ablation-entropy-setup": lambda root: entropy.shown(root, entropy.setup),
    "ablation-entropy": lambda root: entropy.shown(root, entropy.variants),
    "ablation-entropy-pairs": lambda root: entropy.shown(root, entropy.pairs),
    "ablation-entropy-verdicts": lambda root: entropy.shown(root, entropy.verdicts),
    "ablation-entropy-readings": lambda root: entropy.shown(root, entropy.readings),
    "ablation-entropy-positions": lambda root: entropy.shown(root, entropy.positions),
    "ablation-entropy-zeroed": lambda root: entropy.shown(root, entropy.zeroed),
    "ablation-entropy-sizes": lambda root: entropy.shown(root, entropy.sizes),
    "ablation-entropy-bits": lambda root: entropy.shown(root, entropy.bits),
    "portability": checks.portability,
    "promises": checks.promises,
    "memory": checks.memory,
    "portability-noise": checks.portability_noise,
    "decode-speed": checks.decode_speed,
    "diffusion-step": checks.diffusion_step,
    "seams": checks.seams,
    "sampling-isotropic": lambda root: checks.sampling(root, "isotropic-small"),
    "sampling-blur": lambda root: checks.sampling(root, "blur-small"),
    "optimisers": checks.optimisers,
    "grid": checks.grid,
    "start": checks.start,
    "unfinished-perceptual": training.perceptual,
    "loss-balance": checks.loss_balance,
    "training-speed-cpu": lambda root: checks.training_speed(root, "cpu"),
}

# Column, axis title and the published curves drawn beside ours.
FIGURES: dict[str, tuple[str, str, Sequence[published.Entry]]] = {
    "rd-ms-ssim": ("ms_ssim_db", "MS-SSIM (dB)", report.BESIDE_MS_SSIM),
    "rd-psnr": ("psnr", "PSNR (dB)", report.BESIDE_PSNR),
    "rd-lpips": ("lpips", "LPIPS, AlexNet (lower is better)", ()),
    "rd-fd-alexnet": ("FD-AlexNet", "FD-AlexNet, 192 patches (lower is better)", ()),
}


class Figure(NamedTuple):
    """A figure's file, what is drawn in it, and how. The digest of the content stands in the file:
    the drawing itself differs between versions of matplotlib."""

    path: Path
    content: list
    draw: Callable[[], plotting.Figure]

    @property
    def digest(self) -> str:
        return hashlib.sha256(json.dumps(self.content).encode()).hexdigest()

    def is_stale(self) -> bool:
        return not self.path.is_file() or self.digest not in self.path.read_text(encoding="utf-8")

    def write(self) -> None:
        self.path.parent.mkdir(parents=True, exist_ok=True)
        self.path.write_text(plots.to_svg(self.draw(), self.digest), encoding="utf-8")


def stale(root: Path, write: bool) -> list[Path]:
    """Files that differ from what the results say; rewritten if `write`."""
    found = []
    runs = training.runs(root)
    for figure in figures(root, runs):
        if figure.is_stale():
            found.append(figure.path)
            if write:
                figure.write()
    for path, text in texts(root, runs).items():
        if not path.is_file() or path.read_text(encoding="utf-8") != text:
            found.append(path)
            if write:
                path.parent.mkdir(parents=True, exist_ok=True)
                path.write_text(text, encoding="utf-8")
    return found


def figures(root: Path, runs: Mapping[str, pd.DataFrame]) -> Iterator[Figure]:
    """Every figure of the book that is drawn from results."""
    for name, (column, title, beside) in FIGURES.items():
        lines = report.lines(column, beside, root / "results")
        content = [[line.label, line.bpp.tolist(), line.quality.tolist()] for line in lines]
        curves = [plots.Curve(*line) for line in lines]
        draw = partial(plots.rate_distortion, curves, title)
        yield Figure(root / "book/figures" / f"{name}.svg", content, draw)
    content = [[name, [*log["step"]], [*log["loss"]]] for name, log in runs.items()]
    yield Figure(root / "book/figures/training.svg", content, partial(training.draw, runs))
    pair = tradeoffs.contexts(root), tradeoffs.sampling(root)
    yield Figure(root / "book/figures/tradeoffs.svg", [*pair], partial(tradeoffs.draw, *pair))
    if (found := blur.read(root)) is not None:
        panels = blur.tracks(found)
        draw = partial(plots.over_steps, panels, "LPIPS, AlexNet (lower is better)")
        yield Figure(root / "book/figures/blur-steps.svg", [*panels.items()], draw)


def texts(root: Path, runs: Mapping[str, pd.DataFrame]) -> dict[Path, str]:
    """Every file of results/tables, and every page with its blocks filled in."""
    tables = {name: minus(make(root)) for name, make in TABLES.items()}
    tables["trained"] = minus(training.trained(root, runs))
    folder = root / "results/tables"
    files = {folder / f"{name}.md": text for name, text in tables.items()}
    files[folder / "averages.csv"] = measured.every_average(root)
    files[root / "book/_static/front/curves.js"] = measured.curves(root)
    blocks = {**tables, "blur-pictures": blur.pictures(root)}  # which figures there are
    for pattern in PLACES:
        for path in sorted(root.glob(pattern)):
            files[path] = fill(path.read_text(encoding="utf-8"), blocks)
    return files


def fill(text: str, blocks: Mapping[str, str]) -> str:
    """`text` with what is between markers replaced by the block, or the cell, of that name."""
    text = BLOCK.sub(lambda m: f"{m[1]}\n{blocks[m['name']]}\n{m[3]}", text)
    return CELL.sub(lambda m: f"{m[1]}{cell(m['path'], blocks)}{m[3]}", text)


def cell(path: str, blocks: Mapping[str, str]) -> str:
    """The cell of a table: "NAME / ROW / COLUMN"; ROW is without "(ships)".

    Raises:
        KeyError: there is no such cell, or more than one.
    """
    name, *row, column = path.split(" / ")
    lines = [line for line in blocks[name].splitlines() if line.startswith("|")]
    head, _, *rows = [line.replace(" (ships)", "").strip("| ").split(" | ") for line in lines]
    same = [cells for cells in rows if cells[: len(row)] == row]
    if len(same) != 1 or column not in head:
        raise KeyError(f"{path}: {len(same)} rows; the columns are {', '.join(head)}")
    return same[0][head.index(column)]


if __name__ == "__main__":
    check = "--check" in sys.argv[1:]
    files = stale(ROOT, write=not check)
    print("\n".join(f"{'stale' if check else 'written'}: {path}" for path in files))
    sys.exit(1 if check and files else 0)
