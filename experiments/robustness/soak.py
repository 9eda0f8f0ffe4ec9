"""Many pictures through the codec in one process: does memory grow, does anything change?"""

import hashlib
import resource
from pathlib import Path

import numpy as np
import torch
from PIL import Image

import blurlib
from blurlib import datasets, images
from experiments.record import circumstances, write_json

MODELS = "msssim-small", "mse-small"
MODES = "RGB", "L", "P", "CMYK", "YCbCr", "1", "RGBA"
POOL = 50  # different pictures: the warm-up has each once, later rounds repeat them


def draw(rng: np.random.Generator) -> tuple[Image.Image, float, str]:
    """A crop of an embedded photo, 1 to 160 pixels a side, in some mode; quality and model."""
    photo = datasets.embedded(rng.choice(datasets.embedded_names()))
    rows, columns = rng.integers(1, 161, size=2)
    top, left = rng.integers(photo.shape[1] - rows + 1), rng.integers(photo.shape[2] - columns + 1)
    image = images.to_pillow(photo[:, top : top + rows, left : left + columns])
    return image.convert(rng.choice(MODES)), rng.uniform(1, 6), rng.choice(MODELS)


def there_and_back(image: Image.Image, quality: float, model: str) -> str:
    """The digest of the file and of the picture that it decodes to."""
    data = blurlib.compress(image, quality, model=model)
    back = blurlib.decompress(data)
    if back.size != image.size:
        raise ValueError(f"{image.size} came back as {back.size}")
    return hashlib.sha256(data + back.tobytes()).hexdigest()


def resident() -> float:
    """Memory of this process in MB, as Linux counts it."""
    pages = int(Path("/proc/self/statm").read_text(encoding="utf-8").split()[1])
    return pages * resource.getpagesize() / 1e6


def soak(out: Path, rounds: int = 10_000, seed: int = 0) -> None:
    """Many pictures through one process: memory, and whether anything changes."""
    torch.set_num_threads(1)
    rng = np.random.default_rng(seed)
    pictures = [draw(rng) for _ in range(POOL)]
    first, memory, changed = [there_and_back(*picture) for picture in pictures], [resident()], 0
    quarters = {round(rounds * k / 4): k for k in (1, 2, 3, 4)}
    for n in range(1, rounds + 1):
        i = rng.integers(POOL)
        changed += there_and_back(*pictures[i]) != first[i]
        memory.append(resident())
        if n in quarters:
            late = memory[n // 4 :]  # what the allocator takes at the start is no leak
            slope = np.polyfit(np.arange(len(late)), late, 1)[0]
            command = f"python -m experiments.robustness soak {out.name} --rounds {rounds}"
            about = circumstances(command, 1) | {"seed": seed, "pictures": POOL, "rounds": n}
            known = {k: round(memory[k], 1) for k in (0, *quarters) if k <= n}
            growth = {"resident_mb": known, "kb_per_1000_rounds": round(1e6 * slope, 1)}
            write_json(out, about | {"changed": changed, **growth, "largest_mb": max(memory)})
            print(f"{n} of {rounds}: {memory[n]:.1f} MB, {changed} changed", flush=True)
