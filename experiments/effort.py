"""What the encoder's search is worth: bytes, distortion and seconds of every effort, real files.

Eight photos of Kodak at every quality; goes on where it stopped. `table` gives BD-rates over
effort 0, in the measure that the weights were trained for.

    python -m experiments.effort results/checks/effort-MODEL.csv MODEL
"""

import sys
import time
from pathlib import Path

import pandas as pd
import torch

from blurlib import datasets, images, metrics
from blurlib.codec import BlurCodec, zoo
from blurlib.evaluation.bd_rate import bd_rate
from blurlib.evaluation.measure import compare
from experiments.published import increasing
from experiments.record import one_thread, read_table, replace_rows

PHOTOS = (1, 4, 7, 10, 13, 16, 19, 22)  # of Kodak
EFFORTS = (0, 1, 3, 5, 7, 9)


def main(out: Path, model: str) -> None:
    codec, kodak = zoo.load(model), datasets.dataset("kodak")
    digest = zoo.sha256(model)[:16]
    for number in PHOTOS:
        path = kodak[number - 1]
        table = read_table(out)
        if len(table) and (table["model"] != digest).any():
            raise ValueError(f"{out}: has rows of other weights than {model}: move it away")
        if len(table) and (table["image"] == path.name).any():
            continue
        photo = images.read_image(path)
        rows = []
        with one_thread():
            for effort in EFFORTS:
                for quality in range(1, codec.config.levels + 1):
                    rows.append(
                        {"effort": effort, "quality": quality, **row(codec, photo, quality, effort)}
                    )
                    print(path.name, rows[-1], flush=True)
        run = {"model": digest, "image": path.name}
        replace_rows(out, rows, run, ["image", "effort", "quality"])


def row(codec: BlurCodec, photo: torch.Tensor, quality: float, effort: int) -> dict[str, float]:
    start = time.process_time()
    data = codec.compress(images.to_float(photo)[None], quality, effort=effort)
    seconds = time.process_time() - start
    decoded = images.to_uint8(codec.decompress(data).x_hat[0])
    found = compare(photo, data, decoded).rounded(psnr=5, ms_ssim=8, lpips=6)
    return {**found, "seconds": round(seconds, 2)}


def table(file: Path, distortion: str) -> pd.DataFrame:
    """By effort: mean BD-rate over effort 0 in per cent, of how many photos, and seconds a photo.

    distortion: of the weights, "ms-ssim" or "mse".
    """
    rows = read_table(file)
    column = "psnr"
    if distortion == "ms-ssim":
        column = "ms_ssim_db"
        rows[column] = rows["ms_ssim"].map(metrics.ms_ssim_db)
    found = []
    for (image, effort), own in rows.groupby(["image", "effort"]):
        base = rows[(rows["image"] == image) & (rows["effort"] == 0)]
        curves = [increasing(part[["bpp", column]].to_numpy()) for part in (base, own)]
        change = bd_rate(*curves).value if effort else 0.0
        found.append({"effort": effort, "bd_rate": change, "seconds": own["seconds"].mean()})
    by_effort = pd.DataFrame(found).groupby("effort")
    return by_effort.mean().assign(photos=by_effort.size())


if __name__ == "__main__":
    main(Path(sys.argv[1]), sys.argv[2])
