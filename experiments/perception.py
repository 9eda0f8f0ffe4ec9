"""Two checks of what a perceptual number is worth, on Kodak.

1. Few patches: FD-AlexNet between disjoint halves of the original photos, which have one
   distribution, and between the photos and their reconstructions, over the number of patches.
2. Noise: LPIPS, FD-AlexNet and PSNR of the direct reconstruction plus grey Gaussian noise, which
   the file says nothing about and which costs no byte.

    python -m experiments.perception results/checks/perception.json
"""

import sys
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from rich.progress import track
from torch import Tensor

from blurlib import checkpoints, datasets, images, metrics
from blurlib.codec import zoo
from blurlib.evaluation.codecs import select
from blurlib.evaluation.results import new_results
from experiments.distances import features
from experiments.record import write_json

MODEL, QUALITY = checkpoints.PERCEPTUAL, 2.0
LEVELS = (0, 1, 2, 3, 4, 6, 8, 12)  # standard deviation of the noise in 8-bit levels
COUNTS = (12, 24, 48, 96)


@torch.inference_mode()
def noisy(x_hat: Tensor, level: float) -> Tensor:
    """(1, 3, H, W) in [0, 1] plus the same noise in all channels, as an 8-bit image (3, H, W)."""
    generator = torch.Generator().manual_seed(0)
    noise = torch.randn(1, 1, *x_hat.shape[-2:], generator=generator)
    return images.to_uint8(x_hat + level / 255 * noise)[0]


def by_count(
    reference: Tensor, decoded: Tensor, counts: Sequence[int], draws: int = 10, seed: int = 0
) -> pd.DataFrame:
    """`features.distances` of the same two sets if only some of their patches were measured.

    One line per count: ``patches``, and mean and standard deviation over the draws: ``frechet``,
    ``frechet_std``, ``kernel``, ``kernel_std``. A draw takes the same rows of both sets, as having
    fewer images would. Two disjoint halves of one set show the bias alone: their distance should
    be 0. ValueError for a count below 2 or above the number of patches.
    """
    n = len(reference)
    if bad := [count for count in counts if not 2 <= count <= n]:
        raise ValueError(f"cannot draw {bad[0]} of {n} patches")
    generator = np.random.default_rng(seed)
    lines = []
    for count in counts:
        rows = (generator.choice(n, count, replace=False) for _ in range(draws))
        drawn = pd.DataFrame([features.distances(reference[row], decoded[row]) for row in rows])
        mean, std = drawn.mean(), drawn.std(ddof=0)
        lines.append((count, mean.frechet, std.frechet, mean.kernel, std.kernel))
    columns = ["patches", "frechet", "frechet_std", "kernel", "kernel_std"]
    return pd.DataFrame(lines, columns=columns)


def few_patches(originals: Tensor, decoded: Tensor) -> dict[str, list[dict]]:
    """`by_count` for two disjoint halves of the originals, and for the pairs.

    Halves are of photos, not of patches, because the patches of a photo overlap.
    """
    photos = len(originals) // 8  # 8 patches each
    order = np.random.default_rng(0).permutation(photos)
    rows = [np.ravel(8 * half[:, None] + np.arange(8)) for half in np.split(order, 2)]
    halves = by_count(originals[rows[0]], originals[rows[1]], COUNTS)
    pairs = by_count(originals, decoded, (*COUNTS, len(originals)))
    return {"halves": halves.to_dict("records"), "pairs": pairs.to_dict("records")}


def main(out: Path) -> None:
    codec = zoo.load(MODEL)
    network = features.alexnet()
    lpips = metrics.Lpips.load("alex", datasets.cached_weights(metrics.lpips_file("alex")))
    originals: list[Tensor] = []
    decoded: dict[int, list[Tensor]] = {level: [] for level in LEVELS}
    scores: dict[int, list[tuple[float, float]]] = {level: [] for level in LEVELS}
    for path in track(datasets.dataset("kodak"), "decoding"):
        photo = images.read_image(path)
        x = images.to_float(photo)[None]
        originals.append(network(features.patches(photo)))
        with torch.inference_mode():
            x_hat = codec(x, QUALITY).x_hat
            for level in LEVELS:
                picture = noisy(x_hat, level)
                distance = lpips(images.to_float(picture)[None], x).item()
                scores[level].append((distance, metrics.psnr(photo, picture)))
                decoded[level].append(network(features.patches(picture)))
    reference = torch.cat(originals)
    noise = []
    for level in LEVELS:
        distance = features.distances(reference, torch.cat(decoded[level]))
        mean_lpips, mean_psnr = np.mean(scores[level], axis=0)
        noise.append(
            {
                "level": level,
                "lpips": round(mean_lpips, 5),
                "psnr": round(mean_psnr, 4),
                "FD-AlexNet": round(distance.frechet, 4),
                "patches": distance.patches,
            }
        )
    chosen = select(MODEL)
    header = new_results("kodak", chosen.codec, checkpoint=chosen.checkpoint).header()
    few = few_patches(reference, torch.cat(decoded[0]))
    content = {**header, "quality": QUALITY, "noise": noise, "few_patches": few}
    write_json(out, content)
    for row in noise:
        print(row)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
