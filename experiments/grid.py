"""Does a codec leave a grid? Steps between neighbouring pixels across the lines of its blocks, over
those elsewhere; a photo has 1.

    python -m experiments.grid results/checks/grid.json MODEL …
"""

import sys
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import torch

from blurlib import datasets, images
from blurlib.codec import zoo
from blurlib.evaluation.results import new_results
from experiments.record import write_json

PHOTOS = (2, 4, 20, 23)  # of Kodak: with large flat areas
QUALITIES = (1.0, 2.0, 3.0)


def main(out: Path, *models: str) -> None:
    photos = [images.read_image(datasets.kodak()[i - 1]) for i in PHOTOS]
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
    """Mean over photos and both directions of the steps across every 16th line, and across the
    lines of 8 between them, over those off the lines of 8."""
    found = {"lines of 16": [], "lines of 8": []}
    for photo in photos:
        for picture in (photo.double(), photo.double().mT):
            steps = picture.diff(dim=-1).abs().mean((0, 1)).numpy()
            at = np.arange(1, picture.shape[-1])  # of the pixel after the step
            elsewhere = steps[at % 8 != 0].mean()
            found["lines of 16"].append(steps[at % 16 == 0].mean() / elsewhere)
            found["lines of 8"].append(steps[at % 16 == 8].mean() / elsewhere)
    return {name: round(float(np.mean(values)), 4) for name, values in found.items()}


if __name__ == "__main__":
    main(Path(sys.argv[1]), *sys.argv[2:])
