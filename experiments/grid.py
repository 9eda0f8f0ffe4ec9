"""Does a codec leave a grid? Steps between neighbouring pixels across the lines of its blocks, over
those elsewhere; a photo has 1.

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


def main(out: Path, *models: str) -> None:
    photos = [images.read_image(datasets.dataset("kodak")[i - 1]) for i in PHOTOS]
    rows = [{"model": "the photos", "quality": None, **ratios(photos)}]
    for model in models:
        codec = zoo.load(model)
        for quality in QUALITIES:
            files = (codec.compress(images.to_float(photo)[None], quality) for photo in photos)
            decoded = [images.to_uint8(codec.decompress(data).x_hat[0]) for data in files]
            rows.append({"model": model, "quality": quality, **ratios(decoded)})
            print(rows[-1], flush=True)
    made = SimpleNamespace(name=models, settings={"photos": PHOTOS})
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


if __name__ == "__main__":
    main(Path(sys.argv[1]), *sys.argv[2:])
