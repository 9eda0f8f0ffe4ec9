"""Does a photo that is decoded in tiles show where they meet?

The middle 2000×1333 pixels of a large photo as one file, decoded by diffusion three times with the
same noise: whole; in blended tiles, as shipped; and in tiles that hardly overlap, put side by side,
to see that the measure finds seams where there are some. The measure is the mean absolute step from
each column of pixels to the next, and from row to row, over that of the picture decoded whole: a
seam is a column or row where it is far from 1.

    python -m experiments.seams results/checks/seams.json book/figures/seams.png
"""

import json
import sys
from pathlib import Path
from typing import NamedTuple
from unittest.mock import patch

import torch
from torch import Tensor

from blurlib import checkpoints, datasets, images, metrics, plotting
from blurlib.codec import zoo
from blurlib.diffusion import Tiling, tiling
from blurlib.evaluation.codecs import BlurlibCodec
from blurlib.evaluation.results import new_results
from experiments.record import write_json

WIDTH, HEIGHT, QUALITY, STEPS = 2000, 1333, 3.0, 4
MEMORY = 16 * 2**30  # the network on the whole photo is what tiles are compared with
TILE, CROP = 512, 256  # pixels; the figure shows a crop


class Seam(NamedTuple):
    """The column or row (axis "x" or "y") whose step differs most, from `at` to the next, by
    `ratio` over that of the picture decoded whole."""

    axis: str
    at: int
    ratio: float


def main(out: Path, figure: Path) -> None:
    codec = zoo.load(checkpoints.PERCEPTUAL)
    denoiser = zoo.load_denoiser(checkpoints.DENOISER)
    photo = large_photo()
    how = denoiser.sampling.but(steps=STEPS)
    sha256, memory = zoo.sha256(checkpoints.DENOISER), Tiling(memory=MEMORY)
    ours = BlurlibCodec(checkpoints.DENOISER, codec, denoiser, sha256, how, memory)
    data = ours.encode(photo, QUALITY)
    output = codec.decompress(data)

    def decoded(**tiles: int) -> Tensor:
        *_, last = denoiser.sample(output, steps=STEPS, tiling=Tiling(memory=MEMORY, **tiles))
        return images.to_uint8(last.x_hat[0])

    whole, blended = decoded(), decoded(tile=TILE)
    with patch.object(tiling, "_rise", side_by_side):
        abrupt = decoded(tile=TILE, overlap=denoiser.denoiser.config.multiple)
    seams = {"blended": worst(blended, whole), "side by side": worst(abrupt, whole)}
    made = new_results("clic2025-subset", ours, checkpoint=zoo.sha256(checkpoints.DENOISER), seed=0)
    content = {
        **made.header(),
        "command": f"python -m experiments.seams {out.name} {figure.name}",
        **{"width": WIDTH, "height": HEIGHT, "quality": QUALITY, "tile": TILE},
        "psnr between blended and whole": round(metrics.psnr(blended, whole), 2),
        "seams": {name: seam._asdict() for name, seam in seams.items()},
    }
    write_json(out, content)
    print(json.dumps(content["seams"]), content["psnr between blended and whole"])
    pictures = {"original": photo, "whole": whole, "blended": blended, "side by side": abrupt}
    draw(pictures, seams, figure)


def large_photo() -> Tensor:
    """The middle of the first photo that is large enough."""
    for path in datasets.dataset("clic2025-subset"):
        photo = images.read_image(path)
        if photo.shape[1] >= HEIGHT and photo.shape[2] >= WIDTH:
            return images.centre(photo, HEIGHT, WIDTH)
    raise ValueError(f"no photo of the set has {WIDTH}×{HEIGHT} pixels")


def side_by_side(n: int, centre: float, overlap: int) -> Tensor:
    """In the place of the tiles' fade: a cut."""
    return (torch.arange(n) >= centre).float()


def worst(tiled: Tensor, whole: Tensor) -> Seam:
    """Where the steps of a picture in tiles differ most from those of the whole one."""
    found = []
    for axis, across, along in (("x", 2, 1), ("y", 1, 2)):
        ours, theirs = (x.float().diff(dim=across).abs().mean((0, along)) for x in (tiled, whole))
        ratio = ours / theirs
        at = int((ratio - 1).abs().argmax())
        found.append(Seam(axis, at, round(ratio[at].item(), 4)))
    return max(found, key=lambda seam: abs(seam.ratio - 1))


def draw(pictures: dict[str, Tensor], seams: dict[str, Seam], figure: Path) -> None:
    """The crop around the worst seam of the tiles put side by side."""
    seam = seams["side by side"]
    height, width = pictures["whole"].shape[1:]
    middle = {"x": (height // 2, seam.at), "y": (seam.at, width // 2)}[seam.axis]
    top, left = (
        min(max(0, at - CROP // 2), n - CROP) for at, n in zip(middle, (height, width), strict=True)
    )
    panels = [
        plotting.Panel(name, caption(seams.get(name)), x[:, top : top + CROP, left : left + CROP])
        for name, x in pictures.items()
    ]
    plotting.comparison(panels, columns=2, dots=1).savefig(figure)


def caption(seam: Seam | None) -> str:
    if seam is None:
        return ""
    return f"largest change of a step {100 * (seam.ratio - 1):+.1f} %".replace("-", "−")


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]))
