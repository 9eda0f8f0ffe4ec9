"""Training photos: from a folder of photos or of Vimeo-90k to uint8 crops by (step, sample).

Vimeo-90k is ``sequences/00001/0001/im1.png`` … ``im7.png`` and the clips to use in
``sep_trainlist.txt``; every frame of them is a photo. Hidden files, whose names begin with a dot,
do not count.

What step s crops follows from (seed, s, sample) alone: a resumed run and a run on two machines see
the photos that one uninterrupted process would have seen.
"""

import functools
import itertools
import math
import signal
from collections.abc import Callable, Generator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from blurlib.datasets import folder
from blurlib.images import ImageError, decode_image, header_size
from blurlib.training.config import TrainConfig
from blurlib.training.draws import Device, generator

VIMEO_LIST = "sep_trainlist.txt"
VIMEO_FRAMES = 7
TRIES = 100  # draws in a row that may hit an unusable photo before a set is called unusable


_Drawn = tuple[Tensor | None, dict[Path, str]]  # a crop, and what `Photos.skipped` is to know


def find_photos(config: TrainConfig, held_out: bool = False) -> list[Path]:
    """The photos of `config.data` to train on, or those held out. ValueError: no place is given, or
    it has no photos, or none but those held out."""
    if not config.data:
        raise ValueError("data is empty: name a folder of training photos")
    path, every = Path(config.data), config.held_out
    vimeo = (path / VIMEO_LIST).is_file()
    groups = _clips(path) if vimeo else [[photo] for photo in folder(path)]
    kept = [g for i, g in enumerate(groups) if (every > 0 and i % every == 0) == held_out]
    if not kept and not held_out:
        all_out = f"all it has is held out (every {every}th from the first)"
        raise ValueError(f"{path}: {all_out}; held_out 0 trains on all")
    return [photo for group in kept for photo in group]


def _clips(vimeo: Path) -> list[list[Path]]:
    """The frames of each clip, which are held out together."""
    clips = sorted((vimeo / VIMEO_LIST).read_text(encoding="utf-8").split())
    if not clips:
        raise ValueError(f"{vimeo / VIMEO_LIST}: names no clips")
    frames = [f"im{i}.png" for i in range(1, VIMEO_FRAMES + 1)]
    return [[vimeo / "sequences" / clip / frame for frame in frames] for clip in clips]


def read_photo(path: Path, crop: int) -> Tensor | str:
    """A photo as uint8 (3, H, W), or why it cannot be trained on."""
    try:
        photo = decode_image(path.read_bytes())
    except (ImageError, OSError) as error:
        return str(error).removeprefix("image data: ")
    if min(photo.shape[1:]) < crop:
        return f"{photo.shape[2]}×{photo.shape[1]} is smaller than the crop"
    if torch.equal(photo[0], photo[1]) and torch.equal(photo[1], photo[2]):
        return "grey"
    return photo


def open_photos(config: TrainConfig, paths: Sequence[Path], device: Device) -> "Photos":
    """In the memory of the device where `config.bank_gb` allows it, else read from disk for every
    crop, by `config.workers` processes that work ahead. ValueError: nothing can be trained on."""
    read = functools.partial(read_photo, crop=config.crop)
    # By their headers, and of no more of them than has to be looked at.
    sizes = itertools.accumulate(3 * math.prod(header_size(path)) for path in paths)
    if not all(total <= config.bank_gb * 1e9 for total in sizes):
        return Photos(_Crops(paths, read, config), device, config.workers, {})
    images, skipped = [], {}
    with ThreadPoolExecutor() as pool:
        for path, result in zip(paths, pool.map(read, paths), strict=True):
            if isinstance(result, Tensor):
                images.append(result.to(device))
            else:
                skipped[path] = result
    if not images:
        wanted = f"a colour photo of at least {config.crop} px"
        raise ValueError(f"none of the {len(paths)} files is {wanted}")
    return Photos(_Crops(images, lambda image: image, config), device, 0, skipped)


class Photos:
    """A set of photos to crop; `skipped` is what cannot be used, and why, as far as it is known."""

    def __init__(self, crops: "_Crops", device: Device, workers: int, skipped: dict[Path, str]):
        self.crops, self.device, self.workers = crops, torch.device(device), workers
        self.skipped = skipped

    def batches(self, first: int, samples: range) -> Generator[Tensor]:
        """For the steps from `first` on without end: random crops, half of them mirrored, of the
        given samples of the global batch, uint8 (len(samples), 3, crop, crop) on the device.
        ValueError: `TRIES` photos in a row could not be used.
        """
        loader = DataLoader(
            self.crops,
            batch_sampler=([(step, i) for i in samples] for step in itertools.count(first)),
            num_workers=self.workers,
            prefetch_factor=4 if self.workers else None,
            collate_fn=_collate,
            pin_memory=self.workers > 0 and self.device.type == "cuda",
            worker_init_fn=_outlive_sigterm,
        )
        for crops, skipped in loader:
            self.skipped |= skipped
            if crops is None:
                path, reason = skipped.popitem()
                raise ValueError(f"{TRIES} photos in a row are of no use, such as {path}: {reason}")
            yield crops.to(self.device, non_blocking=True)


class _Crops(Dataset):
    """(step, sample) → its crop, and the photos that were drawn before it and cannot be used; no
    crop after `TRIES` of those: an exception in a worker would arrive as a page of text."""

    def __init__(self, photos: Sequence, read: Callable[[Any], Tensor | str], config: TrainConfig):
        self.photos, self.read, self.crop, self.seed = photos, read, config.crop, config.seed

    def __getitem__(self, key: tuple[int, int]) -> _Drawn:
        step, sample = key
        own = generator(self.seed, step, "crop", sample)
        skipped: dict[Path, str] = {}
        for _ in range(TRIES):
            drawn = self.photos[_draw(len(self.photos), own)]
            photo = self.read(drawn)
            if isinstance(photo, Tensor):
                return random_crop(photo, self.crop, own), skipped
            skipped[drawn] = photo
        return None, skipped


def random_crop(photo: Tensor, crop: int, own: torch.Generator) -> Tensor:
    """A square of a photo (3, H, W), half of the time mirrored."""
    top, left = (_draw(side - crop + 1, own) for side in photo.shape[1:])
    square = photo[:, top : top + crop, left : left + crop]
    return square.flip(-1) if _draw(2, own) else square


def _draw(n: int, own: torch.Generator) -> int:
    return int(torch.randint(n, (), generator=own))


def _collate(items: list[_Drawn]) -> _Drawn:
    crops = [crop for crop, _ in items if crop is not None]
    skipped = {path: reason for _, found in items for path, reason in found.items()}
    return torch.stack(crops) if len(crops) == len(items) else None, skipped


def _outlive_sigterm(worker: int) -> None:
    """A signal to all processes of a run is for the training loop, which ends its readers."""
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
