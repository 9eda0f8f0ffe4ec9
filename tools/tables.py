"""Fill in the numbers: every block between markers is generated from results/measured.

    python tools/tables.py            write the blocks
    python tools/tables.py --check    name each file whose block is stale; exit code 1 if any

A block stands between `<!-- table: NAME -->` and `<!-- /table -->`, in the README, a page of the
book or a model card.
"""

import json
import re
import sys
from collections.abc import Callable
from pathlib import Path

from blurlib.codec import zoo
from blurlib.evaluation import results
from blurlib.evaluation.bd_rate import bd_rate

ROOT = Path(__file__).parents[1]
KODAK = Path("results/measured/kodak")
PLACES = ("README.md", "book/*.md", "blurlib/checkpoints/*.md")
BLOCK = re.compile(r"(<!-- table: (?P<name>[\w-]+) -->\n).*?(<!-- /table -->)", re.DOTALL)
RATES = (0.1, 0.8)


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
            try:
                points = [curve[["bpp", column]].to_numpy() for curve in curves]
                value = bd_rate(*points, rates=RATES)
                row.append(f"{value.value:+.1f} % ({value.low:.1f}–{value.high:.1f} dB)")
            except ValueError as error:
                row.append(f"n/a: {error}")
        rows.append(row)
    low, high = curves[1]["bpp"].min(), curves[1]["bpp"].max()
    return _markdown(["against", "MS-SSIM", "PSNR"], rows) + (
        f"\nOnly quality that both codecs reach counts. Ours spans {low:.3f} to {high:.3f} bpp, so "
        "nothing is said of rates outside that.\n"
    )


def round_trip(root: Path, model: str) -> str:
    """How many files a new process decodes to the same ŷ, and how close the estimate is."""
    rows = json.loads((root / KODAK / f"{model}-roundtrip.json").read_text())["rows"]
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


TABLES: dict[str, Callable[[Path], str]] = {
    "kodak-direct": lambda root: rate_distortion(root, "msssim-small-direct"),
    "kodak-direct-bd": lambda root: bd_rates(root, "msssim-small-direct"),
    "kodak-diffusion": lambda root: rate_distortion(root, "msssim-small-diffusion"),
    "laplacian": lambda root: laplacian(root, "msssim-small"),
    "kodak-roundtrip": lambda root: round_trip(root, "msssim-small"),
}


def fill(text: str, root: Path) -> str:
    """`text` with every block regenerated."""
    return BLOCK.sub(lambda m: f"{m[1]}\n{TABLES[m['name']](root)}\n{m[3]}", text)


def stale(root: Path, write: bool) -> list[Path]:
    """Files whose blocks differ from the results; rewritten if `write`."""
    found = []
    for pattern in PLACES:
        for path in sorted(root.glob(pattern)):
            text = path.read_text(encoding="utf-8")
            filled = fill(text, root)
            if filled != text:
                found.append(path)
                if write:
                    path.write_text(filled, encoding="utf-8")
    return found


def _markdown(head: list[str], rows: list[list[str]]) -> str:
    lines = [head, ["---"] * len(head), *rows]
    return "".join("| " + " | ".join(line) + " |\n" for line in lines)


if __name__ == "__main__":
    check = "--check" in sys.argv[1:]
    files = stale(ROOT, write=not check)
    print("\n".join(f"{'stale' if check else 'written'}: {path}" for path in files))
    sys.exit(1 if check and files else 0)
