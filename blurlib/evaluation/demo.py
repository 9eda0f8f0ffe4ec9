"""The demonstration: one photo, our two decoders and three well-known codecs at equal bytes."""

import math
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

from torch import Tensor

from blurlib import checkpoints, images
from blurlib.codec import zoo
from blurlib.evaluation.codecs import BASELINES, BlurlibCodec, match_bytes
from blurlib.evaluation.measure import compare
from blurlib.files import atomic_write

NAMES = ("blurlib direct", "blurlib diffusion", *(b.name.upper() for b in BASELINES))


class Entry(NamedTuple):
    """One way to code the photo: its file's size, its picture, and how close that is."""

    name: str
    bytes: int
    image: Tensor
    bpp: float
    psnr: float
    ms_ssim: float

    @property
    def similarity(self) -> str:
        """MS-SSIM as text; n/a where the photo is too small for it."""
        return "n/a" if math.isnan(self.ms_ssim) else f"{self.ms_ssim:.4f}"

    def row(self) -> dict[str, str | int]:
        """A line of the demo's table."""
        return {
            "codec": self.name,
            "bytes": self.bytes,
            "bpp": f"{self.bpp:.3f}",
            "PSNR": f"{self.psnr:.2f} dB",
            "MS-SSIM": self.similarity,
        }


def outputs(out: Path) -> list[Path]:
    """Every file that `run` writes into a folder."""
    coded = [out / "photo.blur", *(out / f"photo.{baseline.name}" for baseline in BASELINES)]
    return [*coded, *(_picture(out, name) for name in NAMES)]


def run(image: Tensor, out: Path, quality: float, steps: int | None) -> Iterator[Entry]:
    """Code `image`, uint8 (3, H, W), in every way, writing each file and its picture into `out`.

    steps: of the diffusion decoder; None is what suits its weights.
    """
    codec, diffusion = zoo.load(), zoo.load_denoiser()
    direct = BlurlibCodec(checkpoints.CODEC, codec)
    how = diffusion.sampling.but(steps=steps)
    perceptual = BlurlibCodec(checkpoints.CODEC, codec, diffusion, sampling=how)
    data = direct.encode(image, quality)
    atomic_write(out / "photo.blur", data, overwrite=True)
    for name, ours in zip(NAMES, (direct, perceptual), strict=False):
        yield _entry(name, data, image, ours.decode(data), out)
    for baseline in BASELINES:
        match = match_bytes(baseline, image, len(data))
        atomic_write(out / f"photo.{baseline.name}", match.data, overwrite=True)
        yield _entry(baseline.name.upper(), match.data, image, baseline.decode(match.data), out)


def panels(original: Tensor, entries: Sequence[Entry], size: int = 288) -> list[tuple]:
    """The same crop of the photo and of every entry: (title, caption, image) each."""
    height, width = original.shape[1:]
    top, left = max(0, (height - size) // 2), max(0, (width - size) // 2)

    def crop(image: Tensor) -> Tensor:
        return image[:, top : top + size, left : left + size]

    shown = [("original", f"{height * width * 3:,} bytes", crop(original))]
    for entry in entries:
        caption = f"{entry.bytes:,} bytes, {entry.psnr:.1f} dB, MS-SSIM {entry.similarity}"
        shown.append((entry.name, caption, crop(entry.image)))
    return shown


def _picture(out: Path, name: str) -> Path:
    return out / f"{name.lower().replace(' ', '-')}.png"


def _entry(name: str, data: bytes, image: Tensor, decoded: Tensor, out: Path) -> Entry:
    images.write_image(_picture(out, name), decoded, overwrite=True)
    found = compare(image, data, decoded)
    return Entry(name, found.bytes, decoded, found.bpp, found.psnr, found.ms_ssim)
