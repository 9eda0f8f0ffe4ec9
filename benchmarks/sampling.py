"""How is a denoiser best sampled: solver, steps, scale of the noise at the start?

LPIPS (AlexNet) of photos held out from training, beside that of the direct decoder, and how many of
the photos come nearer. Kodak is not looked at, so that the sampling may be chosen here.

    python benchmarks/sampling.py results/checks/sampling-isotropic-small.json PHOTOS DENOISER
"""

import json
import sys
from dataclasses import asdict
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import torch
from quantiser import chosen
from rich.progress import track
from torch import Tensor

from blurlib import checkpoints, images
from blurlib.codec import zoo
from blurlib.codec.model import CodecOutput
from blurlib.codec.synthesis import DiffusionDecoder
from blurlib.diffusion import Sampling
from blurlib.evaluation.results import new_results
from blurlib.metrics import Lpips, lpips_file

QUALITIES = (1.0, 3.0, 5.0, 6.0)
COUNT, SIDE = 16, 256  # of photos; the middle of each
SAMPLINGS = (
    *(Sampling(steps) for steps in (4, 8, 17)),
    *(
        Sampling(steps, solver="multistep", start_scale=scale)
        for scale in (0.3, 0.5, 0.8)
        for steps in (1, 2, 4, 8, 17)
    ),
)


def main(out: Path, data: str, denoiser: str) -> None:
    torch.set_num_threads(1)
    photos = torch.stack(
        [images.centre(images.read_image(path), SIDE, SIDE) for path in chosen(data, COUNT)]
    )
    x = images.to_float(photos)
    lpips = Lpips.load("alex", images.cached_weights(lpips_file("alex")))
    codec, decoder = zoo.load(checkpoints.CODEC), zoo.load_denoiser(denoiser)
    with torch.inference_mode():
        outputs = {quality: codec(x, quality) for quality in QUALITIES}
        direct = {q: distances(lpips, x, output.x_hat) for q, output in outputs.items()}
        rows = [
            {**asdict(how), **row}
            for how in track(SAMPLINGS, denoiser)
            for row in judged(decoder, how, outputs, x, direct, lpips)
        ]
    settings = {"qualities": QUALITIES, "photos": len(x), "side": SIDE}
    made = SimpleNamespace(name=checkpoints.CODEC, settings=settings)
    content = {
        **new_results("held-out photos", made, seed=0).header(),
        "checkpoint": zoo.sha256(denoiser),
        "command": f"python benchmarks/sampling.py {out.name} PHOTOS DENOISER",
        "direct": {f"{q:g}": round(float(own.mean()), 5) for q, own in direct.items()},
        "rows": rows,
    }
    images.atomic_write(out, (json.dumps(content, indent=1) + "\n").encode(), overwrite=True)


def judged(
    decoder: DiffusionDecoder, how: Sampling, outputs: dict[float, CodecOutput], x: Tensor,
    direct: dict[float, np.ndarray], lpips: Lpips,
) -> list[dict]:  # fmt: skip
    """A row per quality: the mean LPIPS, and how many photos are nearer than the direct ones."""
    rows = []
    for quality, output in outputs.items():
        own = distances(lpips, x, decoder.decode(output, how))
        nearer = int((own < direct[quality]).sum())
        rows.append({"quality": quality, "lpips": round(float(own.mean()), 5), "nearer": nearer})
    return rows


def distances(lpips: Lpips, x: Tensor, x_hat: Tensor) -> np.ndarray:
    """LPIPS of every picture, rounded to 8 bits as a file would hold it."""
    return lpips(x, images.to_float(images.to_uint8(x_hat))).numpy()


if __name__ == "__main__":
    main(Path(sys.argv[1]), *sys.argv[2:])
