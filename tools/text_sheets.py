"""Text, decoded in every way: the original, the direct decoder, and what the comparison of
`python -m experiments.diffusion` has trained, side by side.

    python tools/text_sheets.py runs/ablation-diffusion [CODEC]      write book/figures/text-*.png

Which crops, quality and number of steps are fixed here, before looking at any result. The runs,
the best blur and, if it was a shipped one, the codec are those of results/ablation/diffusion.
"""

import sys
from pathlib import Path
from typing import NamedTuple

from rich.progress import track
from torch import Tensor

from blurlib import datasets, images, metrics, plotting
from blurlib.codec import zoo
from blurlib.datasets import cached_weights
from blurlib.diffusion import Sampling
from blurlib.evaluation.codecs import BlurlibCodec
from blurlib.metrics import Lpips, lpips_file
from experiments.diffusion.verdict import Comparison

ROOT = Path(__file__).parents[1]
FIGURES = ROOT / "book" / "figures"
QUALITY, STEPS, SIDE = 2.0, 17, 192


class Sheet(NamedTuple):
    """A Kodak photo by its number or an embedded one by its name, and the top left of the crop."""

    photo: int | str
    top: int
    left: int

    @property
    def name(self) -> str:
        return self.photo if isinstance(self.photo, str) else f"kodim{self.photo:02d}"

    def read(self) -> Tensor:
        if isinstance(self.photo, str):
            return datasets.embedded(self.photo)
        return images.read_image(datasets.dataset("kodak")[self.photo - 1])


SHEETS = (
    Sheet(8, 236, 576),
    Sheet(10, 0, 130),
    Sheet(14, 320, 490),
    Sheet("page", 0, 0),
    Sheet("text", 0, 40),
)


def decoders(runs: Path, codec_name: str = "") -> dict[str, BlurlibCodec]:
    """By title: the direct decoder and the first seeds of the three that are compared."""
    found = Comparison.read(ROOT / "results/ablation/diffusion")
    codec = zoo.load(codec_name or found.about["codec"])
    folder = runs / codec.model_id.hex()
    seed = found.about["plan"]["seeds"][0]
    chain = Sampling(STEPS, **found.usual)
    trained = {
        "deterministic": ("deterministic", None),  # as its weights say
        "isotropic": ("isotropic", chain),
        f"blur, {found.blur:g} px": (f"blur-{found.blur:g}", chain),
    }
    ours = {"direct": BlurlibCodec("", codec)}
    for title, (run, sampling) in trained.items():
        on_top = zoo.load_denoiser(folder / f"{run}-{seed}" / "model.safetensors")
        ours[title] = BlurlibCodec("", codec, on_top, sampling=sampling)
    return ours


def sheet(which: Sheet, ours: dict[str, BlurlibCodec], lpips: Lpips) -> list[plotting.Panel]:
    """The crop of the original and of every decoder's picture of the same file, and how far they
    are apart."""
    photo = which.read()
    data = ours["direct"].encode(photo, QUALITY)
    crop = (
        slice(None), slice(which.top, which.top + SIDE), slice(which.left, which.left + SIDE)
    )  # fmt: skip
    panels = [
        plotting.Panel(f"original, {which.name}", f"file of {len(data):,} bytes", photo[crop])
    ]
    for title, codec in ours.items():
        picture = codec.decode(data)[crop]
        distance = metrics.lpips_distance(lpips, photo[crop], picture)
        caption = f"LPIPS {distance:.3f}, {metrics.psnr(photo[crop], picture):.1f} dB"
        panels.append(plotting.Panel(title, caption, picture))
    return panels


def draw(which: Sheet, panels: list[plotting.Panel]) -> None:
    plotting.comparison(panels, dots=1).savefig(FIGURES / f"text-{which.name}.png")


def main(runs: Path, codec: str = "") -> None:
    lpips = Lpips.load("alex", cached_weights(lpips_file("alex")))
    ours = decoders(runs, codec)
    FIGURES.mkdir(parents=True, exist_ok=True)
    for which in track(SHEETS, "sheets"):
        draw(which, sheet(which, ours, lpips))


if __name__ == "__main__":
    main(Path(sys.argv[1]), *sys.argv[2:])
