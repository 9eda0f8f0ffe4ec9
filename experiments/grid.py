"""Does a codec leave a grid, or spoil the sides? Steps between neighbouring pixels across the lines
of its blocks, over those elsewhere (a photo has 1), and the mean absolute error of the outermost
pixels over that of all.

    python -m experiments.grid results/checks/grid.json MODEL …
"""

import sys
from pathlib import Path
from types import SimpleNamespace

import torch

from blurlib import datasets, images
from blurlib.codec import zoo
from blurlib.evaluation.results import new_results
from blurlib.metrics import block_steps
from experiments.record import write_json

PHOTOS = (2, 4, 20, 23)  # of Kodak: with large flat areas
QUALITIES = (1.0, 2.0, 3.0)
RIM = 8  # pixels cut off first: the scans have dark lines at their sides


def main(out: Path, *models: str) -> None:
    paths = [datasets.dataset("kodak")[i - 1] for i in PHOTOS]
    photos = [images.read_image(path)[:, RIM:-RIM, RIM:-RIM] for path in paths]
    rows = [{"model": "the photos", "quality": None, **ratios(photos)}]
    for model in models:
        codec = zoo.load(model)
        for quality in QUALITIES:
            files = (codec.compress(images.to_float(photo)[None], quality) for photo in photos)
            decoded = [images.to_uint8(codec.decompress(data).x_hat[0]) for data in files]
            found = {**ratios(decoded), "outermost pixels": outermost(photos, decoded)}
            rows.append({"model": Path(model).stem, "quality": quality, **found})
            print(rows[-1], flush=True)
    made = SimpleNamespace(name=models, settings={"photos": PHOTOS, "rim": RIM})
    content = {
        **new_results("kodak", made, seed=0).header(),
        "checkpoint": {model: zoo.sha256(model) for model in models},
        "command": f"python -m experiments.grid {out.name} {' '.join(models)}",
        "rows": rows,
    }
    write_json(out, content)


def ratios(photos: list[torch.Tensor]) -> dict[str, float]:
    """Means of `block_steps` over the photos."""
    found = torch.stack([block_steps(photo[None].double() / 255)[0] for photo in photos]).mean(0)
    return {f"lines of {side}": round(found[i].item(), 4) for i, side in enumerate((16, 8))}


def outermost(photos: list[torch.Tensor], decoded: list[torch.Tensor]) -> float:
    """Mean absolute error of the pixels at the four sides, over that of all; mean over photos."""
    found = []
    for photo, picture in zip(photos, decoded, strict=True):
        error = (picture.double() - photo).abs().mean(0)
        sides = torch.cat([error[0], error[-1], error[:, 0], error[:, -1]])
        found.append(sides.mean() / error.mean())
    return round(torch.stack(found).mean().item(), 4)


if __name__ == "__main__":
    main(Path(sys.argv[1]), *sys.argv[2:])
