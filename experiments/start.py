"""What a codec is before training: bits, PSNR and grid of the lapped KLT and of the plain one.

All channels of y in steps of one size; bits are the empirical entropy of each channel, PSNR is of
the mean squared error, and the grid as in `experiments.grid`.

    python -m experiments.start results/checks/start.json PHOTOS
"""

import sys
from pathlib import Path
from types import SimpleNamespace

import torch

from blurlib import datasets, images
from blurlib.codec import BlurCodec
from blurlib.evaluation.results import new_results
from blurlib.training.config import TrainConfig
from blurlib.training.data import find_photos, open_photos
from blurlib.training.klt import start_from_klt
from experiments.grid import PHOTOS, ratios
from experiments.record import write_json

STEPS = (3.0, 1.5, 0.7, 0.25)  # of the quantiser
CROPS, CROP = 128, 256


def main(out: Path, folder: str) -> None:
    config = TrainConfig(data=folder, crop=CROP)
    bank = open_photos(config, find_photos(config), "cpu")
    crops = next(bank.batches(0, range(CROPS))).float() / 255
    kodak = datasets.dataset("kodak")
    photos = [images.read_image(kodak[i - 1]) for i in PHOTOS]
    rows = []
    for lapped in (False, True):
        codec = BlurCodec().eval()
        start_from_klt(codec, crops, lapped)
        for step in STEPS:
            rows.append({"lapped": lapped, "step": step, **measure(codec, photos, step)})
            print(rows[-1], flush=True)
    made = SimpleNamespace(name="start", settings={"photos": PHOTOS, "crops": CROPS, "crop": CROP})
    content = {
        **new_results("kodak", made, seed=config.seed).header(),
        "command": f"python -m experiments.start {out.name} PHOTOS",
        "rows": rows,
    }
    write_json(out, content)


@torch.inference_mode()
def measure(codec: BlurCodec, photos: list[torch.Tensor], step: float) -> dict[str, float]:
    bits, errors, decoded = 0.0, [], []
    for photo in photos:
        x = images.to_float(photo)[None]
        symbols = codec.g_a(x).div(step).round()
        x_hat = codec.main_decoder(symbols * step).x_hat.clamp(0, 1)
        bits += sum(entropy(channel) for channel in symbols[0])
        errors.append((x_hat - x).square().mean())
        decoded.append(images.to_uint8(x_hat[0]))
    pixels = sum(photo[0].numel() for photo in photos)
    psnr = -10 * torch.stack(errors).mean().log10().item()
    return {"bpp": round(bits / pixels, 4), "psnr": round(psnr, 3), **ratios(decoded)}


def entropy(symbols: torch.Tensor) -> float:
    """Bits that an ideal coder needs which knows how often each value comes."""
    counts = torch.unique(symbols, return_counts=True)[1].double()
    return -(counts * (counts / counts.sum()).log2()).sum().item()


if __name__ == "__main__":
    main(Path(sys.argv[1]), sys.argv[2])
