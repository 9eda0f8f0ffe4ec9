"""Tables of rate and quality: what was measured here, and beside it what others published."""

import json
from pathlib import Path

import numpy as np
import pandas as pd

from blurlib.evaluation import results
from experiments import plots, report
from experiments.distances.features import names as names_of
from tables_markdown import markdown, percent

KODAK = Path("results/measured/kodak")
RATES = (0.1, 0.8)
PERCEPTION_RATES = (0.15, 0.3, 0.45)
WITH = "\N{WORD JOINER}"  # no new line here
SPANS = ["MS-SSIM", "from–to (dB)", "PSNR", "from–to (dB)"]
CURVES = {"ms_ssim_db": "MS-SSIM (dB)", "psnr": "PSNR (dB)", "lpips": "LPIPS"}


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
    return markdown(head, rows)


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
            row += span(report.bd(*points, rates=RATES))
        rows.append(row)
    low, high = curves[1]["bpp"].min(), curves[1]["bpp"].max()
    return markdown(["against", *SPANS], rows) + (
        f"\nOnly quality that both codecs reach counts. Ours spans {low:.3f} to {high:.3f} bpp, so "
        "nothing is said of rates outside that.\n"
    )


def span(found: report.Span) -> list[str]:
    """A BD-rate, and the interval of quality it is the mean over; or why there is none."""
    return [percent(found.akima), found.reason or f"{found.low:.1f}–{WITH}{found.high:.1f}"]


def nearer_photos(root: Path, direct: str, other: str) -> str:
    """On how many photos the other decoder has the lower LPIPS, at each quality that it decoded."""
    rows = []
    files = [results.read(root / KODAK / f"{name}.json") for name in (direct, other)]
    lpips = [pd.Series({(r.quality, r.image): r.lpips for r in file.rows}) for file in files]
    for quality, own in lpips[1].groupby(level=0):
        beside = lpips[0].reindex(own.index)
        rows.append(
            [f"{quality:g}", f"{beside.mean():.4f}", f"{own.mean():.4f}",
             f"{(own < beside).sum()} of {len(own)}"]
        )  # fmt: skip
    head = ["quality", "LPIPS, direct", "LPIPS, diffusion", "photos where it is lower"]
    return markdown(head, rows)


def against_vtm(root: Path) -> str:
    """BD-rate of everything against the published VTM-9.1: measured here first, then published."""
    frame = report.against_vtm(root / "results")
    head = ["codec", "points", "trained for", *SPANS, "rates (bpp)"]
    rows = [
        [row.codec, row.origin, row.training or "–", *span(row.ms_ssim), *span(row.psnr),
         f"{row.bpp_low:.2f}–{WITH}{row.bpp_high:.2f}"]
        for row in frame.itertuples()
    ]  # fmt: skip
    return markdown(head, rows)


def against_vtm_methods(root: Path) -> str:
    """The same with Akima and PCHIP side by side, measured codecs only."""
    frame = report.against_vtm(root / "results")
    head = ["codec", *(f"{m} ({i})" for m in ("MS-SSIM", "PSNR") for i in ("Akima", "PCHIP"))]
    rows = [
        [row.codec, *(percent(v) for found in (row.ms_ssim, row.psnr) for v in found[:2])]
        for row in frame[frame["origin"] == "measured"].itertuples()
    ]
    return markdown(head, rows)


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
    rows = [["the paper", "as reported", "not known", f"{report.HEADLINE:+.0f} %", "not known"]]
    rows += [
        [row.codec, row.origin, row.training, *span(row.ms_ssim)]
        for row in (*ours.itertuples(), *theirs)
    ]
    head = ["codec", "points", "trained for", "MS-SSIM BD-rate over VTM", SPANS[1]]
    return markdown(head, rows)


def against_published(root: Path) -> str:
    """JPEG and WebP as measured here against the same codecs as measured by others."""
    frame = report.against_published(root / "results")
    rows = [
        [row.codec, row.settings, *span(row.ms_ssim), *span(row.psnr)] for row in frame.itertuples()
    ]
    return markdown(["codec", "measured here with", *SPANS], rows)


def perception(root: Path) -> str:
    """LPIPS and Fréchet distances of every codec at equal rates, and the number of patches; of
    EfficientNet, with 1,280 features, the kernel distance."""
    codecs = report.measured("kodak", root / "results")
    networks = sorted({d.network for codec in codecs for d in codec.distances})
    names = [names_of(network)[network == "EfficientNet"] for network in networks]
    frame = report.at_rates(["lpips", *names], PERCEPTION_RATES, root / "results")
    head = ["codec", *(f"{_title(c)} at {bpp:g}" for c, bpp in frame.columns)]
    rows = [
        [codec, *("–" if np.isnan(v) else f"{v:.3f}" for v in values)]
        for codec, values in zip(frame.index, frame.to_numpy(), strict=True)
    ]
    patches = sorted({d.patches for codec in codecs for d in codec.distances})
    return markdown(head, rows) + (
        f"\nAt {', '.join(f'{bpp:g}' for bpp in PERCEPTION_RATES)} bpp, between the measured "
        f"points linear in log rate; – where a codec does not reach the rate, or was not "
        f"measured. The distances are over {', '.join(map(str, patches))} patches.\n"
    )


def _title(column: str) -> str:
    return "LPIPS" if column == "lpips" else column


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


def curves(root: Path) -> str:
    """A script for the pages: the rate–distortion curves measured on Kodak, by measure, and
    the colour of each."""
    found = {}
    for column, label in CURVES.items():
        lines = report.lines(column, folder=root / "results")
        points = {line.label: [*zip(line.bpp, line.quality, strict=True)] for line in lines}
        rounded = {
            name: [[round(float(value), 4) for value in point] for point in curve]
            for name, curve in points.items()
        }
        colours = {name: plots.CODEC_COLOURS.get(name, plots.PALE_INK) for name in points}
        found[column] = {"label": label, "codecs": rounded, "colours": colours}
    return f"// Made by tools/tables.py.\nconst CURVES = {json.dumps(found)};\n"
