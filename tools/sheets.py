"""Comparison sheets: the same crop of a Kodak photo, by every codec at the bytes of ours.

    python tools/sheets.py            write book/figures/sheet-*.png

Which photos, crops and rate are fixed here, before looking at any result.
"""

import math
from pathlib import Path
from typing import NamedTuple

from rich.progress import track
from torch import Tensor

from blurlib import checkpoints, datasets, images, metrics, plotting
from blurlib.evaluation.codecs import (
    AVIF,
    HEIC,
    JPEG,
    JPEG_2000,
    JPEG_XL,
    WEBP,
    match_bytes,
    select,
)
from experiments import report

FIGURES = Path(__file__).parents[1] / "book" / "figures"
QUALITY, SIDE = 2.0, 256


class Sheet(NamedTuple):
    """A Kodak photo by its number, and the top left corner of the crop."""

    number: int
    top: int
    left: int


SHEETS = (Sheet(15, 60, 250), Sheet(8, 180, 200), Sheet(23, 60, 120))


def others(photo: Tensor, size: int) -> dict[str, bytes]:
    """The file of every baseline, at most `size` bytes if it can be so small."""
    files = {b.name: match_bytes(b, photo, size).data for b in (AVIF, HEIC, JPEG_XL, WEBP, JPEG)}
    H, W = photo.shape[1:]
    return {**files, JPEG_2000.name: JPEG_2000.encode(photo, metrics.bpp(size, H, W))}


def sheet(which: Sheet) -> list[plotting.Panel]:
    """The crop of the original, of our two decoders, and of the baselines at our bytes."""
    photo = images.read_image(datasets.dataset("kodak")[which.number - 1])
    direct = select(checkpoints.CODEC).codec
    diffusion = select(checkpoints.PERCEPTUAL, "diffusion", checkpoints.DENOISER).codec
    data = direct.encode(photo, QUALITY)
    its_data = diffusion.encode_to(photo, len(data))
    baselines = {c.name: c for c in (AVIF, HEIC, JPEG_XL, JPEG_2000, WEBP, JPEG)}
    files = others(photo, len(data))
    decoded = [
        (f"{checkpoints.CODEC}, direct", data, direct.decode(data)),
        (f"{checkpoints.PERCEPTUAL}, diffusion", its_data, diffusion.decode(its_data)),
        *((report.label(n), files[n], c.decode(files[n])) for n, c in baselines.items()),
    ]
    shown = [("original", "", photo)]
    shown += [(label, _caption(photo, file, picture), picture) for label, file, picture in decoded]
    rows, columns = (slice(corner, corner + SIDE) for corner in (which.top, which.left))
    return [
        plotting.Panel(label, text, picture[:, rows, columns]) for label, text, picture in shown
    ]


def _caption(photo: Tensor, file: bytes, picture: Tensor) -> str:
    psnr, similarity = metrics.psnr(photo, picture), metrics.ms_ssim(photo, picture)
    score = "n/a" if math.isnan(similarity) else f"{similarity:.3f}"
    return f"{len(file):,} B, {psnr:.1f} dB, {score}"


if __name__ == "__main__":
    FIGURES.mkdir(parents=True, exist_ok=True)
    for which in track(SHEETS, "sheets"):
        figure = plotting.comparison(sheet(which), dots=1)
        figure.savefig(FIGURES / f"sheet-kodim{which.number:02d}.png")
