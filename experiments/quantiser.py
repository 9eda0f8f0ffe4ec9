"""What does rounding that weighs the rate gain (`LaplacianEntropyModel.quantise`)?

Photos held out from training, as real files, with several weights: BD-rate over plain rounding,
photo by photo. Kodak is not looked at, so that the weight may be chosen here.

    python -m experiments.quantiser results/checks/quantiser.json [PHOTOS]
"""

import sys
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import torch
from rich.progress import track
from torch import Tensor

from blurlib import datasets, images, metrics
from blurlib.codec import BlurCodec, zoo
from blurlib.codec.objective import RATE_WEIGHTS
from blurlib.evaluation.bd_rate import bd_rate
from blurlib.evaluation.results import new_results
from blurlib.training.config import TrainConfig
from blurlib.training.data import find_photos
from experiments.record import write_json

MODELS = ("msssim-small", "mse-small")
WEIGHTS = (0.25, 0.5, 0.75, 1.0)
QUALITIES = (1.0, 2.25, 3.5, 4.75, 6.0)
COUNT, SIDE = 12, 256  # of photos; the middle of each


def main(out: Path, data: str) -> None:
    torch.set_num_threads(1)
    photos = [images.centre(images.read_image(path), SIDE, SIDE) for path in chosen(data, COUNT)]
    rows = []
    for model in MODELS:
        codec = zoo.load(model)
        shipped = codec.objective.rate_weight
        plain = [curve(codec, x, 0.0) for x in track(photos, f"{model}, plain")]
        for weight in WEIGHTS:
            rated = [curve(codec, x, weight) for x in track(photos, f"{model}, {weight:g}")]
            row = {"model": model, "weight": weight, "ships": weight == shipped}
            rows.append(row | dict(gains(plain, rated)))
            print(rows[-1], flush=True)
    settings = {"qualities": QUALITIES, "photos": len(photos), "side": SIDE}
    made = SimpleNamespace(name=MODELS, settings=settings)
    content = {
        **new_results("held-out photos", made, seed=0).header(),
        "checkpoint": {model: zoo.sha256(model) for model in MODELS},
        "command": f"python -m experiments.quantiser {out.name} PHOTOS",
        "rows": rows,
    }
    write_json(out, content)


def chosen(data: str, count: int) -> list[Path]:
    """So many of the held-out photos, evenly."""
    found = [Path(entry.path) for entry in find_photos(TrainConfig(data=data), held_out=True)]
    places = np.linspace(0, len(found) - 1, count).round().astype(int)
    return [found[i] for i in places]


def curve(codec: BlurCodec, photo: Tensor, weight: float) -> np.ndarray:
    """(qualities, 3): bits per pixel of the file, PSNR and MS-SSIM in dB."""
    RATE_WEIGHTS[codec.objective.distortion] = weight
    points = []
    for quality in QUALITIES:
        data = codec.compress(images.to_float(photo)[None], quality)
        x_hat = images.to_uint8(codec.decompress(data).x_hat[0])
        ms_ssim = metrics.ms_ssim_db(metrics.ms_ssim(x_hat, photo))
        rate = metrics.bpp(len(data), *photo.shape[-2:])
        points.append((rate, metrics.psnr(x_hat, photo), ms_ssim))
    return np.array(points)


def gains(plain: list[np.ndarray], rated: list[np.ndarray]) -> Iterator[tuple[str, float]]:
    """BD-rates in per cent, mean over the photos and its standard error; bytes at equal quality
    setting."""
    pairs = list(zip(plain, rated, strict=True))
    for column, name in ((1, "psnr"), (2, "ms_ssim")):
        of = [bd_rate(a[:, [0, column]], b[:, [0, column]]).value for a, b in pairs]
        yield name, float(np.mean(of))
        yield f"{name}_error", float(np.std(of, ddof=1) / len(of) ** 0.5)
    yield "bytes", 100 * float(np.mean([b[:, 0] / a[:, 0] - 1 for a, b in pairs]))


if __name__ == "__main__":
    main(Path(sys.argv[1]), *(sys.argv[2:] or [str(datasets.home() / "datasets" / "train")]))
