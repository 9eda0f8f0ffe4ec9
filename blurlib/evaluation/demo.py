"""The demonstration: one photo at equal bytes, by our two decoders, each with its codec, and by
three well-known codecs."""

import math
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

from torch import Tensor

from blurlib import images
from blurlib.checkpoints import CODEC, PERCEPTUAL
from blurlib.codec import zoo
from blurlib.evaluation.codecs import BASELINES, BlurlibCodec, match_bytes
from blurlib.evaluation.measure import Comparison, compare
from blurlib.files import atomic_write

NAMES = ("blurlib direct", "blurlib diffusion", *(b.name.upper() for b in BASELINES))


class Entry(NamedTuple):
    """One way to code the photo: its picture, its file's size and how close it is."""

    name: str
    image: Tensor
    found: Comparison

    @property
    def similarity(self) -> str:
        """MS-SSIM as text; n/a where the photo is too small for it."""
        return "n/a" if math.isnan(self.found.ms_ssim) else f"{self.found.ms_ssim:.4f}"

    def row(self) -> dict[str, str | int]:
        """A line of the demo's table."""
        size, bpp, psnr, *_ = self.found
        numbers = {"bpp": f"{bpp:.3f}", "PSNR": f"{psnr:.2f} dB", "MS-SSIM": self.similarity}
        return {"codec": self.name, "bytes": size, **numbers}


def outputs(out: Path) -> list[Path]:
    """Every file that `run` writes into a folder."""
    coded = ["photo.blur", "perceptual.blur", *(f"photo.{b.name}" for b in BASELINES)]
    return [*(out / name for name in coded), *(_picture(out, name) for name in NAMES)]


def run(image: Tensor, out: Path, quality: float, steps: int | None) -> Iterator[Entry]:
    """Code `image`, uint8 (3, H, W), in every way that can hold it, writing each file and its
    picture into `out`.

    steps: of the diffusion decoder; None is what suits its weights.
    """
    direct, diffusion = BlurlibCodec(CODEC, zoo.load()), zoo.load_denoiser()
    sampling = diffusion.sampling.but(steps=steps)
    perceptual = BlurlibCodec(PERCEPTUAL, zoo.load(PERCEPTUAL), diffusion, sampling=sampling)
    data = direct.encode(image, quality)
    size = len(data)
    out.mkdir(parents=True, exist_ok=True)
    atomic_write(out / "photo.blur", data, overwrite=True)
    yield _entry(NAMES[0], data, image, direct.decode(data), out)
    data = perceptual.encode_to(image, size)
    atomic_write(out / "perceptual.blur", data, overwrite=True)
    yield _entry(NAMES[1], data, image, perceptual.decode(data), out)
    for baseline in BASELINES:
        if max(image.shape) > baseline.longest:
            continue
        match = match_bytes(baseline, image, size)
        atomic_write(out / f"photo.{baseline.name}", match.data, overwrite=True)
        yield _entry(baseline.name.upper(), match.data, image, baseline.decode(match.data), out)


def panels(original: Tensor, entries: Sequence[Entry]) -> list[tuple]:
    """The same crop of the photo and of every entry: (title, caption, image) each."""
    height, width = (min(288, side) for side in original.shape[1:])
    shown = [("original", f"{original.numel():,} bytes", images.centre(original, height, width))]
    for entry in entries:
        quality = f"{entry.found.psnr:.1f} dB, MS-SSIM {entry.similarity}"
        crop = images.centre(entry.image, height, width)
        shown.append((entry.name, f"{entry.found.bytes:,} bytes, {quality}", crop))
    return shown


def _picture(out: Path, name: str) -> Path:
    return out / f"{name.lower().replace(' ', '-')}.png"


def _entry(name: str, data: bytes, image: Tensor, decoded: Tensor, out: Path) -> Entry:
    images.write_image(_picture(out, name), decoded, overwrite=True)
    return Entry(name, decoded, compare(image, data, decoded))
