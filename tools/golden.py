"""Write tests/golden: files that every later version must decode to the same symbols.

Run it when weights are added, never to make a failing test pass.
"""

from pathlib import Path

from blurlib import checkpoints, datasets, images
from blurlib.codec import zoo
from blurlib.files import atomic_write

GOLDEN = Path(__file__).parents[1] / "tests" / "golden"
MS_SSIM, MSE = checkpoints.CODEC, "mse-small"
# name: model, photo, rows, columns, quality, seed
CASES = {
    "coffee-96x128-q2": (
        checkpoints.PERCEPTUAL,
        "coffee",
        slice(100, 196),
        slice(200, 328),
        2.0,
        None,
    ),
    "cat-77x51-q4.5": (MS_SSIM, "cat", slice(60, 137), slice(150, 201), 4.5, 7),
    "flower-1x1-q1": (MS_SSIM, "flower", slice(200, 201), slice(300, 301), 1.0, None),
    "china-130x64-q6": (MS_SSIM, "china", slice(150, 280), slice(200, 264), 6.0, 2**32 - 1),
    "mse-rocket-90x100-q3.5": (MSE, "rocket", slice(150, 240), slice(250, 350), 3.5, None),
}


def main() -> None:
    GOLDEN.mkdir(exist_ok=True)
    for name, (model, photo, rows, columns, quality, seed) in CASES.items():
        codec = zoo.load(model)
        x = images.to_float(datasets.embedded(photo)[:, rows, columns])[None]
        data = codec.compress(x, quality, seed)
        direct = images.to_uint8(codec.decompress(data).x_hat[0])
        atomic_write(GOLDEN / f"{name}.blur", data, overwrite=True)
        images.write_image(GOLDEN / f"{name}.png", direct, overwrite=True)


if __name__ == "__main__":
    main()
