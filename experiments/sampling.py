"""How is a denoiser best sampled: solver, steps, scale of the noise at the start?

LPIPS (AlexNet) and PSNR of photos held out from training, and how many of them come nearer (LPIPS),
beside the direct decoder's picture, plain and with noise that knows nothing. Kodak is not looked
at, so that the sampling may be chosen here.

    python -m experiments.sampling results/checks/sampling-isotropic-small.json PHOTOS DENOISER
"""

import sys
from dataclasses import asdict
from pathlib import Path
from types import SimpleNamespace
from typing import NamedTuple

import numpy as np
import torch
from rich.progress import track
from torch import Tensor

from blurlib import checkpoints, datasets, images, metrics
from blurlib.codec import zoo
from blurlib.diffusion import Sampling
from blurlib.evaluation.results import new_results
from blurlib.metrics import Lpips, lpips_file
from blurlib.training.config import TrainConfig
from blurlib.training.data import find_photos
from experiments.perception import noisy
from experiments.record import write_json

QUALITIES = (1.0, 3.0, 5.0, 6.0)
COUNT, SIDE = 16, 256  # of photos; the middle of each
LEVELS = (0, 1, 2)  # of noise on the direct picture: standard deviation in 8-bit levels
SAMPLINGS = (
    *(Sampling(steps) for steps in (2, 4, 8)),
    *(
        Sampling(steps, solver=solver, start_scale=scale)
        for solver in ("deterministic", "multistep")
        for scale in (0.5, 0.8)
        for steps in (1, 2, 3, 4, 8)
        if solver == "multistep" or steps > 1  # a single step is the same with both
    ),
)


def main(out: Path, data: str, denoiser: str) -> None:
    torch.set_num_threads(1)
    photos = torch.stack(
        [images.centre(images.read_image(path), SIDE, SIDE) for path in chosen(data, COUNT)]
    )
    lpips = Lpips.load("alex", datasets.cached_weights(lpips_file("alex")))
    codec, decoder = zoo.load(checkpoints.PERCEPTUAL), zoo.load_denoiser(denoiser)
    with torch.inference_mode():
        outputs = {q: codec(images.to_float(photos), q) for q in QUALITIES}
        direct = {q: judged(lpips, photos, output.x_hat) for q, output in outputs.items()}
        noise = [
            {"level": level, "quality": q, **compared(judged(lpips, photos, made), direct[q])}
            for level in LEVELS
            for q, output in outputs.items()
            for made in [torch.stack([noisy(x[None], level) for x in output.x_hat]) / 255]
        ]
        rows = [
            {**asdict(how), "quality": q, **compared(made, direct[q])}
            for how in track(SAMPLINGS, denoiser)
            for q, output in outputs.items()
            for made in [judged(lpips, photos, decoder.decode(output, how))]
        ]
    settings = {"qualities": QUALITIES, "photos": len(photos), "side": SIDE}
    codec_of = SimpleNamespace(name=checkpoints.PERCEPTUAL, settings=settings)
    content = {
        **new_results("held-out photos", codec_of, seed=0).header(),
        "checkpoint": zoo.sha256(denoiser),
        "command": f"python -m experiments.sampling {out.name} PHOTOS DENOISER",
        "noise": noise,
        "rows": rows,
    }
    write_json(out, content)


def chosen(data: str, count: int) -> list[Path]:
    """So many of the held-out photos, evenly."""
    found = find_photos(TrainConfig(data=data), held_out=True)
    places = np.linspace(0, len(found) - 1, count).round().astype(int)
    return [found[i] for i in places]


class Judged(NamedTuple):
    """LPIPS and PSNR of every picture, rounded to 8 bits as a file would hold it."""

    lpips: np.ndarray
    psnr: np.ndarray


def judged(lpips: Lpips, photos: Tensor, x_hat: Tensor) -> Judged:
    made = images.to_uint8(x_hat)
    return Judged(
        lpips(images.to_float(photos), images.to_float(made)).numpy(),
        np.array([metrics.psnr(*pair) for pair in zip(photos, made, strict=True)]),
    )


def compared(made: Judged, direct: Judged) -> dict:
    """The means, and how many photos are nearer than the direct ones."""
    return {
        "lpips": round(float(made.lpips.mean()), 5),
        "psnr": round(float(made.psnr.mean()), 3),
        "nearer": int((made.lpips < direct.lpips).sum()),
    }


if __name__ == "__main__":
    main(Path(sys.argv[1]), *sys.argv[2:])
