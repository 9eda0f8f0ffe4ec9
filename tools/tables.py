"""Fill in the numbers: tables, figures and every block between markers come from results/.

    python tools/tables.py            write what is stale
    python tools/tables.py --check    name each file that is stale; exit code 1 if any

Each table is a file in results/tables and, where README, a page of the book or a model card wants
it, a block between `<!-- table: NAME -->` and `<!-- /table -->`. Figures are in book/figures.
"""

import hashlib
import json
import re
import sys
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pandas as pd

from blurlib import plotting
from blurlib.codec import zoo
from blurlib.evaluation import published, report, results
from blurlib.evaluation.perception import names as names_of

ROOT = Path(__file__).parents[1]
KODAK = Path("results/measured/kodak")
PLACES = ("README.md", "book/*.md", "blurlib/checkpoints/*.md")
BLOCK = re.compile(r"(<!-- table: (?P<name>[\w-]+) -->\n).*?(<!-- /table -->)", re.DOTALL)
RATES = (0.1, 0.8)
PERCEPTION_RATES = (0.15, 0.3, 0.45)


def rate_distortion(root: Path, codec: str) -> str:
    """Mean over the set at each quality."""
    table = results.averages(results.read(root / KODAK / f"{codec}.json"))
    with_lpips = bool(table["lpips"].notna().all())
    head = ["quality", "bpp", "PSNR (dB)", "MS-SSIM", "MS-SSIM (dB)", *["LPIPS"] * with_lpips]
    rows = [
        [f"{quality:g}", f"{row.bpp:.3f}", f"{row.psnr:.2f}", f"{row.ms_ssim:.4f}",
         f"{row.ms_ssim_db:.2f}", *[f"{row.lpips:.3f}"] * with_lpips]
        for quality, row in table.iterrows()
    ]  # fmt: skip
    return _markdown(head, rows)


def bd_rates(root: Path, codec: str) -> str:
    """BD-rate against each baseline within 0.1 to 0.8 bpp."""
    rows = []
    for anchor in ("jpeg", "webp", "avif"):
        curves = [
            results.averages(results.read(root / KODAK / f"{name}.json"))
            for name in (anchor, codec)
        ]
        row = [anchor.upper().replace("WEBP", "WebP")]
        for column in ("ms_ssim_db", "psnr"):
            points = [curve[["bpp", column]].to_numpy() for curve in curves]
            row.append(f"{report.bd(*points, rates=RATES)}")
        rows.append(row)
    low, high = curves[1]["bpp"].min(), curves[1]["bpp"].max()
    return _markdown(["against", "MS-SSIM", "PSNR"], rows) + (
        f"\nOnly quality that both codecs reach counts. Ours spans {low:.3f} to {high:.3f} bpp, so "
        "nothing is said of rates outside that.\n"
    )


def round_trip(root: Path, model: str) -> str:
    """How many files a new process decodes to the same ŷ, and how close the estimate is."""
    rows = json.loads((root / f"results/checks/roundtrip-{model}.json").read_text())["rows"]
    equal = sum(row["equal"] for row in rows)
    worst = max(abs(r["bytes"] - r["estimated_bytes"]) for r in rows)
    ratio = max(abs(r["bytes"] / r["estimated_bytes"] - 1) for r in rows)
    return (
        f"{equal} of {len(rows)} files decode to the same ŷ in a new process; a file differs from "
        f"its estimate by at most {worst:.0f} bytes ({100 * ratio:.2f} %).\n"
    )


def laplacian(root: Path, model: str) -> str:
    """A_j, σ_j and half-width that each channel group of a model has learned."""
    rows = []
    for j, group in enumerate(zoo.load(model).entropy.groups):
        position = group.global_.position
        values = (position.amplitude, position.sigma, position.half_width)
        rows.append([f"{j + 1}", *(f"{value.item():.2f}" for value in values)])
    return _markdown(["group", "A_j", "σ_j", "half-width (latent positions)"], rows)


def against_vtm(root: Path) -> str:
    """BD-rate of everything against the published VTM-9.1: measured here first, then published."""
    frame = report.against_vtm(root / "results")
    head = ["codec", "points", "trained for", "MS-SSIM", "PSNR", "its rates (bpp)"]
    rows = [
        [row.codec, row.origin, row.training or "–", f"{row.ms_ssim}", f"{row.psnr}",
         f"{row.bpp_low:.2f}–{row.bpp_high:.2f}"]
        for row in frame.itertuples()
    ]  # fmt: skip
    return _markdown(head, rows)


def against_vtm_methods(root: Path) -> str:
    """The same with Akima and PCHIP side by side, measured codecs only."""
    frame = report.against_vtm(root / "results")
    head = ["codec", *(f"{m} ({i})" for m in ("MS-SSIM", "PSNR") for i in ("Akima", "PCHIP"))]
    rows = [
        [row.codec, *(_percent(v) for span in (row.ms_ssim, row.psnr) for v in span[:2])]
        for row in frame[frame["origin"] == "measured"].itertuples()
    ]
    return _markdown(head, rows)


def headline(root: Path) -> str:
    """The paper's claim beside what was measured here and what published codecs reach."""
    frame = report.against_vtm(root / "results")
    ours = frame[(frame["origin"] == "measured") & (frame["training"] != "")]
    peers = [("ELIC", "mse"), ("bmshj2018-hyperprior", "ms-ssim"), ("cheng2020-anchor", "ms-ssim")]
    theirs = [
        row
        for row in frame[frame["origin"] == "published"].itertuples()
        if (row.codec, row.training) in peers
    ]
    rows = [["the paper", "as reported", "not known", f"{report.HEADLINE:+.0f} %"]]
    rows += [
        [row.codec, row.origin, row.training, f"{row.ms_ssim}"]
        for row in (*ours.itertuples(), *theirs)
    ]
    return _markdown(["codec", "points", "trained for", "MS-SSIM BD-rate over VTM"], rows)


def perception(root: Path) -> str:
    """LPIPS and Fréchet distances of every codec at equal rates, and the number of patches."""
    codecs = report.measured("kodak", root / "results")
    networks = sorted({d.network for codec in codecs for d in codec.results.distances})
    names = [names_of(network).frechet for network in networks]
    frame = report.at_rates(["lpips", *names], PERCEPTION_RATES, root / "results")
    head = ["codec", *(f"{_title(c)} at {bpp:g}" for c, bpp in frame.columns)]
    rows = [
        [codec, *("–" if np.isnan(v) else f"{v:.3f}" for v in values)]
        for codec, values in zip(frame.index, frame.to_numpy(), strict=True)
    ]
    patches = sorted({d.patches for codec in codecs for d in codec.results.distances})
    return _markdown(head, rows) + (
        f"\nAt {', '.join(f'{bpp:g}' for bpp in PERCEPTION_RATES)} bpp, between the measured "
        f"points linear in log rate; – where a codec does not reach the rate. The distances are "
        f"over {', '.join(map(str, patches))} patches.\n"
    )


def noise(root: Path) -> str:
    """What grey noise on the direct reconstruction does to the perceptual measures."""
    checks = json.loads((root / "results/checks/perception.json").read_text())
    columns = ["lpips", "FD-AlexNet", "psnr"]
    rows = [[f"{r['level']}", *(f"{r[c]:.3f}" for c in columns)] for r in checks["noise"]]
    return _markdown(["noise (levels)", "LPIPS", "FD-AlexNet", "PSNR (dB)"], rows)


def portability(root: Path) -> str:
    """Decodes of the same files under every setting, each in every combination with the others."""
    checks = _check(root, "portability")
    frame = pd.DataFrame(checks["matrix"])
    names = {
        "device": "device {}", "threads": "threads: {}", "batch": "batch of {}",
        "channels_last": "channels-last: {}", "onednn": "oneDNN: {}",
        "deterministic": "deterministic algorithms: {}",
    }  # fmt: skip
    rows = []
    for setting, name in names.items():
        others = [other for other in names if other != setting]
        usual = (frame[others] == frame[others].iloc[0]).all(axis=1)
        for value, own in frame.groupby(setting):
            shown = {True: "on", False: "off"}[value] if isinstance(value, bool) else value
            rows.append([name.format(shown), *_decodes(own, own[usual[own.index]])])
    rows.append(["**all of these**", *_decodes(frame, frame)])
    for row in checks["elsewhere"]:
        own = pd.DataFrame([row])
        name = ", ".join(f"{k} {v}" for k, v in row["environment"].items())
        name = name or f"PyTorch {row['torch'].partition('+')[0]}"
        rows.append([f"new process, {name}", *_decodes(own, own)])
    golden = {row["golden"] for row in checks["elsewhere"]}
    errors = sum(row["golden_errors"] for row in checks["elsewhere"])
    head = ["setting", "decodes", "another ŷ", "checksum errors", "largest move, alone"]
    return _markdown(head, rows) + (
        f"\nOtherwise PyTorch {checks['versions']['torch'].partition('+')[0]}. CUDA was "
        f"{'part of it' if checks['cuda'] else 'not run: there was no such device'}. The new "
        f"processes also decoded the {max(golden)} files of `tests/golden`, with {errors} errors.\n"
    )


def _decodes(frame: pd.DataFrame, alone: pd.DataFrame) -> list[str]:
    counts = [f"{frame[c].sum():,}" for c in ("decodes", "mismatches", "checksum_errors")]
    largest = alone["largest_delta"].max()
    return [*counts, f"{largest:.1e}" if largest else "0"]


def portability_noise(root: Path) -> str:
    """Failures under rounding noise, what the bound expects, and the bound for one photo."""
    checks = _check(root, "rounding-noise")
    rows = [
        [row["precision"], f"2^{int(np.log2(row['ulps']))}" if row["ulps"] > 1 else "1",
         f"{row['decodes']:,}", f"{row['failures']:,}", _short(row["expected"]),
         f"{row['unnoticed']}", f"{row['failures_without_noise']}"]
        for row in checks["noise"]
    ]  # fmt: skip
    head = ["precision", "noise (ulps)", "decodes", "failed", "expected by the bound", "unnoticed",
            "failed without noise"]  # fmt: skip
    double, single = (
        next(r for r in checks["noise"] if r["ulps"] == 1 and r["precision"] == precision)
        for precision in ("float64", "float32")
    )
    cost = checks["time"]
    return _markdown(head, rows) + (
        f"\nA photo of 768×512 rounds D = {double['decisions_768x512']:,} values. In float64 one "
        f"ulp moves them by {double['mean_delta']:.1e} of a grid step on average and by "
        f"{double['largest_delta']:.1e} at most; the nearest value of all these files is "
        f"{double['nearest_boundary']:.1e} from its boundary. So at most one such photo in "
        f"{1 / double['bound_768x512']:.0e} fails. In float32 the same bound is "
        f"{_short(single['bound_768x512'])}. The bound takes positions as uniform: within 1/64 of "
        f"a boundary lie {double['near_over_uniform']:.2f} times as many values as that would "
        f"have.\n\nPrice: {cost['float64_s']:.2f} s to ŷ in float64, "
        f"{cost['float32_s']:.2f} s in float32, {cost['ratio']:.2f} times as long.\n"
    )


def decode_speed(root: Path) -> str:
    """Decoding a 768×512 photo beside CompressAI's raster-scan model."""
    checks = _check(root, "decode-speed")
    names = {
        "ours": checks["codec"],
        "mbt2018": f"mbt2018 ({checks['mbt2018']['weights']} weights)",
    }
    rows = [
        [name, f"{checks[key]['bytes']:,}", f"{checks[key]['symbols']:,}",
         f"{checks[key]['runs_of']['g_ep']:,}", f"{checks['seconds'][f'{key}_y_hat_s']:.2f}",
         f"{checks['seconds'][f'{key}_full_s']:.2f}"]
        for key, name in names.items()
    ]  # fmt: skip
    rows.append(["ratio", *[""] * 3, *(f"{checks[f'ratio_{k}']:.1f}" for k in ("y_hat", "full"))])
    head = ["codec", "bytes", "symbols", "runs of the parameter network", "to ŷ (s)",
            "to the picture (s)"]  # fmt: skip
    return _markdown(head, rows)


def _check(root: Path, name: str) -> dict:
    return json.loads((root / f"results/checks/{name}.json").read_text())


def _short(value: float) -> str:
    return f"{value:.1e}" if value < 0.01 else f"{value:.2g}" if value < 10 else f"{value:.0f}"


def against_published(root: Path) -> str:
    """JPEG and WebP as measured here against the same codecs as measured by others."""
    frame = report.against_published(root / "results")
    rows = [
        [row.codec, row.settings, f"{row.ms_ssim}", f"{row.psnr}"] for row in frame.itertuples()
    ]
    return _markdown(["codec", "measured here with", "MS-SSIM", "PSNR"], rows)


def every_average(root: Path) -> str:
    """CSV: every codec measured on any set, its averages at each quality."""
    frames = []
    for folder in sorted(path for path in (root / "results/measured").iterdir() if path.is_dir()):
        for codec in report.measured(folder.name, root / "results"):
            frame = codec.table.reset_index()
            frame.insert(0, "codec", codec.results.codec)
            frame.insert(0, "set", folder.name)
            frames.append(frame)
    return pd.concat(frames).to_csv(index=False, float_format="%.6g", lineterminator="\n")


TABLES: dict[str, Callable[[Path], str]] = {
    "kodak-direct": lambda root: rate_distortion(root, "msssim-small-direct"),
    "kodak-direct-bd": lambda root: bd_rates(root, "msssim-small-direct"),
    "kodak-diffusion": lambda root: rate_distortion(root, "msssim-small-diffusion"),
    "laplacian": lambda root: laplacian(root, "msssim-small"),
    "kodak-roundtrip": lambda root: round_trip(root, "msssim-small"),
    "against-vtm": against_vtm,
    "against-vtm-methods": against_vtm_methods,
    "headline": headline,
    "perception": perception,
    "noise": noise,
    "against-published": against_published,
    "portability": portability,
    "portability-noise": portability_noise,
    "decode-speed": decode_speed,
}

# Column, axis title and the published curves drawn beside ours.
FIGURES: dict[str, tuple[str, str, Sequence[published.Entry]]] = {
    "rd-ms-ssim": ("ms_ssim_db", "MS-SSIM (dB)", report.BESIDE_MS_SSIM),
    "rd-psnr": ("psnr", "PSNR (dB)", report.BESIDE_PSNR),
    "rd-lpips": ("lpips", "LPIPS, AlexNet (lower is better)", ()),
    "rd-fd-alexnet": ("FD-AlexNet", "FD-AlexNet, 192 patches (lower is better)", ()),
}


class Figure(NamedTuple):
    """A figure's file, what is drawn in it, and the digest of that, which stands in the file:
    the drawing itself differs between versions of matplotlib."""

    path: Path
    lines: list[report.Line]
    title: str

    @property
    def digest(self) -> str:
        content = [[line.label, line.bpp.tolist(), line.quality.tolist()] for line in self.lines]
        return hashlib.sha256(json.dumps(content).encode()).hexdigest()

    def is_stale(self) -> bool:
        return not self.path.is_file() or self.digest not in self.path.read_text(encoding="utf-8")

    def write(self) -> None:
        figure = plotting.rate_distortion(
            [plotting.Curve(*line) for line in self.lines], self.title
        )
        self.path.parent.mkdir(parents=True, exist_ok=True)
        self.path.write_text(plotting.to_svg(figure, self.digest), encoding="utf-8")


def tables(root: Path) -> dict[Path, str]:
    """Every file of results/tables and its text."""
    folder = root / "results/tables"
    files = {folder / f"{name}.md": make(root) for name, make in TABLES.items()}
    return {**files, folder / "averages.csv": every_average(root)}


def figures(root: Path) -> Iterator[Figure]:
    """Every figure of the book that is drawn from results."""
    for name, (column, title, beside) in FIGURES.items():
        lines = report.lines(column, beside, root / "results")
        yield Figure(root / "book/figures" / f"{name}.svg", lines, title)


def fill(text: str, root: Path) -> str:
    """`text` with every block regenerated."""
    return BLOCK.sub(lambda m: f"{m[1]}\n{TABLES[m['name']](root)}\n{m[3]}", text)


def stale(root: Path, write: bool) -> list[Path]:
    """Files that differ from what the results say; rewritten if `write`."""
    found = []
    for figure in figures(root):
        if figure.is_stale():
            found.append(figure.path)
            if write:
                figure.write()
    for path, text in tables(root).items():
        if not path.is_file() or path.read_text(encoding="utf-8") != text:
            found.append(path)
            if write:
                path.parent.mkdir(parents=True, exist_ok=True)
                path.write_text(text, encoding="utf-8")
    for pattern in PLACES:
        for path in sorted(root.glob(pattern)):
            text = path.read_text(encoding="utf-8")
            filled = fill(text, root)
            if filled != text:
                found.append(path)
                if write:
                    path.write_text(filled, encoding="utf-8")
    return found


def _title(column: str) -> str:
    return "LPIPS" if column == "lpips" else column


def _percent(value: float) -> str:
    return "n/a" if np.isnan(value) else f"{value:+.1f} %"


def _markdown(head: list[str], rows: list[list[str]]) -> str:
    lines = [head, ["---"] * len(head), *rows]
    return "".join("| " + " | ".join(line) + " |\n" for line in lines)


if __name__ == "__main__":
    check = "--check" in sys.argv[1:]
    files = stale(ROOT, write=not check)
    print("\n".join(f"{'stale' if check else 'written'}: {path}" for path in files))
    sys.exit(1 if check and files else 0)
