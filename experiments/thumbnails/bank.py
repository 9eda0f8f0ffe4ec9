"""Thumbnails and what a coarse file holds of them, made once and shared by all runs.

A thumbnail is a square of a photo, shrunk to 64×64. Its file is that of the thumbnail shrunk once
more, to 32×32, at the lowest quality of the codec: with `mse-small` 114 bytes, 0.22 bpp. They leave
open 2 % of the variance of waves 32 to 64 pixels long, 9 % of 16 to 32, 31 % of 8 to 16, 75 % of 4
to 8, and everything shorter. What is open falls only from 0.7 to 0.2 per coefficient between the
mean and waves of 8 pixels: isotropic diffusion decides all that at once, and blur from coarse to
fine. That is the difference in question.
"""

import json
from pathlib import Path
from typing import NamedTuple

import numpy as np
import scipy.fft
import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor

from blurlib import images
from blurlib.codec import zoo
from blurlib.diffusion import dct2
from blurlib.files import atomic_write
from blurlib.training.config import TrainConfig
from blurlib.training.data import find_photos, read_photo
from blurlib.training.draws import generator

SIDE = 64
# Orthonormal: grey, red to blue, green to purple. Noise and blur are the same on any such axes, but
# photos are mostly grey, and a Wiener filter by axes knows that.
COLOURS = torch.from_numpy(scipy.fft.dct(np.eye(3), axis=0, norm="ortho"))
QUALITY = 1.0
HELD_OUT = 4  # every so many-th photo; of those every fifth chooses samplers, the others report
CROPS = {"training": 16, "choosing": 4, "reporting": 4}  # of a photo


class Bank(NamedTuple):
    """Thumbnails, uint8 (N, 3, 64, 64); the main decoder's finest features, float16 (N, C, 4, 4),
    with mean 0 and variance 1 per channel in training; its picture, enlarged, uint8."""

    pictures: np.ndarray
    features: np.ndarray
    direct: np.ndarray

    @classmethod
    def open(cls, folder: Path, part: str, n: int | None = None) -> "Bank":
        """The first n of "training", "choosing" or "reporting", left on disk until used."""
        names = (folder / f"{part}-{name}.npy" for name in cls._fields)
        return cls(*(np.load(name, mmap_mode="r")[:n] for name in names))

    def rows(self, which) -> tuple[Tensor, Tensor, Tensor]:
        """Pictures on the axes of colour, features, direct pictures, all float."""
        x, features, base = (torch.from_numpy(np.array(part[which])) for part in self)
        return on_axes(x), features.float(), on_axes(base)


def on_axes(pictures: Tensor) -> Tensor:
    """uint8 (B, 3, H, W) → float, from [−1, 1] turned to `COLOURS`."""
    return torch.einsum("dc,bchw->bdhw", COLOURS.float(), pictures / 127.5 - 1)


def off_axes(x: Tensor) -> Tensor:
    """Inverse of `on_axes`; float, in about [0, 1]."""
    return torch.einsum("dc,bdhw->bchw", COLOURS.float(), x) / 2 + 0.5


def spectra_of(folder: Path) -> Tensor:
    """(2, 3, 64, 64), float64: mean power over training thumbnails, by colour and frequency, of
    pictures, and E, of what the direct pictures lack."""
    return torch.from_numpy(np.load(folder / "spectra.npy"))


def make(data: str, codec: str, folder: Path) -> dict:
    """Write the bank, if it is not there, and return what bank.json says of it. Raises ValueError
    where there are no photos, none large enough, or the folder holds the bank of another codec."""
    record = folder / "bank.json"
    if record.is_file():
        about = json.loads(record.read_text())
        if about["codec_sha256"] != zoo.sha256(codec):
            raise ValueError(f"{folder}: is the bank of another codec; choose another folder")
        return about
    folder.mkdir(parents=True, exist_ok=True)
    network, config = zoo.load(codec), TrainConfig(data=data, held_out=HELD_OUT)
    apart = find_photos(config, held_out=True)
    choosing, reporting = apart[::5], [entry for i, entry in enumerate(apart) if i % 5]
    photos = {"training": find_photos(config), "choosing": choosing, "reporting": reporting}
    about = {"codec": Path(codec).name, "codec_sha256": zoo.sha256(codec), "quality": QUALITY}
    for part, entries in photos.items():
        pictures = _thumbnails(entries, CROPS[part])
        features, direct, power = _coded(network, pictures)
        if part == "training":
            centre, scale = (f(features, (0, 2, 3), keepdims=True) for f in (np.mean, np.std))
            np.save(folder / "spectra.npy", power)
        features = ((features - centre) / (scale + 1e-6)).astype(np.float16)
        for name, array in Bank(pictures, features, direct)._asdict().items():
            np.save(folder / f"{part}-{name}.npy", array)
        about[part] = len(pictures)
    sizes = [len(network.compress(x[None], QUALITY, effort=0)) for x in _shrunk(pictures[:32])]
    about["mean_bytes"] = float(np.mean(sizes))  # of the first 32 that report
    atomic_write(record, json.dumps(about, indent=1).encode())
    return about


def _thumbnails(entries: list, crops: int) -> np.ndarray:
    """Of each photo the largest square in the middle, then random ones from half its side up."""
    found = []
    for i, entry in enumerate(entries):
        if isinstance(photo := read_photo(entry, 2 * SIDE), Tensor):
            picture, own = images.to_pillow(photo), generator("thumbnail", i)
            for n in range(crops):
                part, left, top, mirrored = torch.rand(4, generator=own).tolist()
                part, left, top = (part, left, top) if n else (1.0, 0.5, 0.5)
                side = min(picture.size) * (1 + part) / 2
                x, y = left * (picture.width - side), top * (picture.height - side)
                box = (x, y, x + side, y + side)
                small = np.asarray(picture.resize((SIDE, SIDE), Image.Resampling.BICUBIC, box))
                found.append(small[:, :: -1 if mirrored < 0.5 else 1].transpose(2, 0, 1))
    if not found:
        raise ValueError(f"none of {len(entries)} photos is in colour and at least {2 * SIDE} px")
    return np.stack(found)


def _shrunk(pictures: np.ndarray) -> Tensor:
    return images.to_float(images.to_uint8(F.avg_pool2d(torch.from_numpy(pictures) / 255, 2)))


@torch.inference_mode()
def _coded(codec, pictures: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Features, direct pictures, and the two spectra."""
    features, direct, power = [], [], torch.zeros(2, 3, SIDE, SIDE, dtype=torch.float64)
    for some in np.array_split(pictures, -(-len(pictures) // 64)):
        x_hat, pyramid = codec(_shrunk(some), QUALITY).reconstruction
        stride = x_hat.shape[-1] // pyramid[0].shape[-1]  # beyond SIDE/2 pixels all is padding
        features.append(pyramid[0][..., : SIDE // 2 // stride, : SIDE // 2 // stride].numpy())
        small = x_hat[..., : SIDE // 2, : SIDE // 2].clamp(0, 1)
        base = images.to_uint8(F.interpolate(small, scale_factor=2, mode="bicubic"))
        direct.append(base.numpy())
        x, base = on_axes(torch.from_numpy(some)), on_axes(base)
        power += dct2(torch.stack([x, x - base])).double().square().sum(1)
    return np.concatenate(features), np.concatenate(direct), (power / len(pictures)).numpy()
