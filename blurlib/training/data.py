"""Training photos: from a folder, Vimeo-90k or tar shards to uint8 crops by (step, sample).

What `TrainConfig.data` may name:

- a folder of photos;
- a folder of Vimeo-90k: ``sequences/00001/0001/im1.png`` … ``im7.png`` and the clips to use in
  ``sep_trainlist.txt``; every frame of them is a photo;
- a folder of .tar shards as WebDataset writes them, or a pattern that matches shards: the photos in
  them, whatever else is beside them.

Shards are not streamed but indexed (the headers are read once) and their photos then read where
they lie. What step s crops thus follows from (seed, s, sample) alone: a resumed run and a run on
two machines see the photos that one uninterrupted process would have seen, which a shuffle buffer
cannot promise. The price: shards must be on mounted disks, and uncompressed.
"""

from __future__ import annotations

import glob
import io
import itertools
import os
import signal
import tarfile
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import NamedTuple, Protocol

import torch
from PIL import Image
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from blurlib.images import ImageError, decode_image, folder
from blurlib.training.config import TrainConfig
from blurlib.training.draws import Device, generator

PHOTO_SUFFIXES = (".png", ".jpg", ".jpeg", ".webp", ".avif", ".tif", ".tiff", ".bmp", ".ppm")
VIMEO_LIST = "sep_trainlist.txt"
VIMEO_FRAMES = 7
TRIES = 100  # draws in a row that may hit an unusable photo before a set is called unusable


class Entry(NamedTuple):
    """Where one photo is: a file, or `size` bytes from `offset` of a shard."""

    path: str
    member: str = ""
    offset: int = 0
    size: int = -1

    def __str__(self) -> str:
        return f"{self.path}/{self.member}" if self.member else self.path

    def read(self) -> bytes:
        with open(self.path, "rb") as file:
            file.seek(self.offset)
            return file.read(self.size)


class Skipped(NamedTuple):
    """A photo that is not used, and why."""

    entry: Entry
    reason: str


class Photos(Protocol):
    """A set of photos to crop.

    Attributes:
        skipped: what could not be used, as far as it is known.
    """

    skipped: list[Skipped]

    def __len__(self) -> int:
        """Number of photos; of a streamed set, before any is skipped."""

    def batches(self, first: int, samples: range) -> Iterator[Tensor]:
        """For the steps from `first` on without end: random crops, half of them mirrored, of the
        given samples of the global batch, uint8 (len(samples), 3, crop, crop) on the device."""


# Where photos are


def find_photos(config: TrainConfig, held_out: bool = False) -> list[Entry]:
    """The photos of `config.data` to train on, or those held out.

    Raises:
        ValueError: no place is given, or it has no photos, or none but those held out.
    """
    if not config.data:
        raise ValueError("data is empty: name a folder of training photos")
    groups = _groups(config.data)
    every = config.held_out or len(groups) + 1
    kept = (i for i in range(len(groups)) if (config.held_out > 0 and i % every == 0) == held_out)
    entries = [entry for i in kept for entry in groups[i]]
    if not entries and not held_out:
        raise ValueError(
            f"{config.data}: all it has is held out (every {every}th from the first); held_out 0 "
            "trains on all"
        )
    return entries


def _groups(data: str) -> Sequence[Sequence[Entry]]:
    """Photos that are held out together: the frames of a clip, else each alone."""
    path = Path(data)
    if (path / VIMEO_LIST).is_file():
        return _vimeo(path)
    shards = sorted(glob.glob(str(path / "*.tar") if path.is_dir() else data))
    if shards and all(shard.endswith(".tar") for shard in shards):
        with ThreadPoolExecutor() as pool:
            entries = [entry for found in pool.map(_shard, shards) for entry in found]
        if not entries:
            raise ValueError(f"{data}: no photos in {len(shards)} shards")
        return [[entry] for entry in entries]
    return [[Entry(str(photo))] for photo in folder(path)]


def _vimeo(path: Path) -> list[list[Entry]]:
    clips = sorted((path / VIMEO_LIST).read_text().split())
    if not clips:
        raise ValueError(f"{path / VIMEO_LIST}: names no clips")
    frames = [f"im{i}.png" for i in range(1, VIMEO_FRAMES + 1)]
    root = path / "sequences"
    return [[Entry(f"{root}{os.sep}{clip}{os.sep}{frame}") for frame in frames] for clip in clips]


def _shard(path: str) -> list[Entry]:
    """The photos of a shard, by reading its headers only."""
    try:
        with tarfile.open(path, "r:") as tar:
            return [
                Entry(path, member.name, member.offset_data, member.size)
                for member in tar
                if member.isfile() and member.name.lower().endswith(PHOTO_SUFFIXES)
            ]
    except tarfile.TarError as error:
        raise ValueError(f"{path}: not an uncompressed tar file ({error})") from None


# Reading them


def read_photo(entry: Entry, crop: int) -> Tensor | str:
    """A photo as uint8 (3, H, W), or why it cannot be trained on."""
    try:
        photo = decode_image(entry.read())
    except (ImageError, OSError) as error:
        return str(error).removeprefix("image data: ")
    if min(photo.shape[1:]) < crop:
        return f"{photo.shape[2]}×{photo.shape[1]} is smaller than the crop"
    if torch.equal(photo[0], photo[1]) and torch.equal(photo[1], photo[2]):
        return "grey"
    return photo


def open_photos(config: TrainConfig, entries: Sequence[Entry], device: Device) -> Photos:
    """In memory where `config.bank_gb` allows it, else from disk at every step."""
    if fits(entries, config.bank_gb * 1e9):
        return ImageBank(entries, config.crop, config.seed, device)
    return ImageStream(entries, config.crop, config.seed, device, config.workers)


def fits(entries: Iterable[Entry], limit: float) -> bool:
    """Whether the photos take at most `limit` bytes decoded: by their headers, once their files
    are known to be small enough."""
    files = (entry.size if entry.member else _file_size(entry.path) for entry in entries)
    return _sum_within(files, limit) and _sum_within(map(_decoded_size, entries), limit)


def _sum_within(sizes: Iterable[int], limit: float) -> bool:
    """Looks at no more of them than it has to."""
    return all(total <= limit for total in itertools.accumulate(sizes))


def _file_size(path: str) -> int:
    return os.path.getsize(path) if os.path.exists(path) else 0


def _decoded_size(entry: Entry) -> int:
    """0 for what will be skipped by name when it is read."""
    try:
        with Image.open(io.BytesIO(entry.read()) if entry.member else entry.path) as header:
            return 3 * header.width * header.height
    except (OSError, ValueError, SyntaxError, Image.DecompressionBombError):
        return 0


def random_crop(photo: Tensor, crop: int, own: torch.Generator) -> Tensor:
    """A square of a photo (3, H, W), half of the time mirrored."""
    top, left = (_draw(side - crop + 1, own) for side in photo.shape[1:])
    square = photo[:, top : top + crop, left : left + crop]
    return square.flip(-1) if _draw(2, own) else square


def _draw(n: int, own: torch.Generator) -> int:
    return int(torch.randint(n, (), generator=own))


class ImageBank:
    """`Photos`, all decoded into the memory of the training device.

    Raises:
        ValueError: nothing is left to train on.
    """

    def __init__(self, entries: Sequence[Entry], crop: int, seed: int, device: Device = "cpu"):
        self.crop, self.seed = crop, seed
        self.images: list[Tensor] = []
        self.skipped: list[Skipped] = []
        with ThreadPoolExecutor() as pool:
            read = pool.map(lambda entry: read_photo(entry, crop), entries)
            for entry, result in zip(entries, read, strict=True):
                if isinstance(result, Tensor):
                    self.images.append(result.to(device))
                else:
                    self.skipped.append(Skipped(entry, result))
        if not self.images:
            raise ValueError(
                f"none of the {len(entries)} files is a colour photo of at least {crop} px"
            )

    def __len__(self) -> int:
        return len(self.images)

    def batches(self, first: int, samples: range) -> Iterator[Tensor]:
        step = first
        while True:
            yield torch.stack([self._crop(step, i) for i in samples])
            step += 1

    def _crop(self, step: int, sample: int) -> Tensor:
        own = generator(self.seed, step, "crop", sample)
        return random_crop(self.images[_draw(len(self.images), own)], self.crop, own)


class ImageStream:
    """`Photos` read from disk for every crop, by worker processes that work ahead."""

    def __init__(
        self, entries: Sequence[Entry], crop: int, seed: int, device: Device, workers: int
    ):
        self.skipped: list[Skipped] = []
        self.device, self.workers = torch.device(device), workers
        self._crops = _Crops(entries, crop, seed)

    def __len__(self) -> int:
        return len(self._crops.entries)

    def batches(self, first: int, samples: range) -> Iterator[Tensor]:
        on_gpu = self.device.type == "cuda"
        loader = DataLoader(
            self._crops,
            batch_sampler=_Keys(first, samples),
            num_workers=self.workers,
            prefetch_factor=4 if self.workers else None,
            collate_fn=_collate,
            pin_memory=on_gpu,
            worker_init_fn=_outlive_sigterm,
        )
        known = {skipped.entry for skipped in self.skipped}
        for crops, skipped in loader:
            new = {s.entry: s for s in skipped if s.entry not in known}
            self.skipped += new.values()
            known |= new.keys()
            if crops is None:
                last = skipped[-1]
                raise ValueError(f"{TRIES} photos drawn in a row: {last.entry}: {last.reason}, …")
            yield crops.to(self.device, non_blocking=on_gpu)


def _outlive_sigterm(worker: int) -> None:
    """A signal to all processes of a run is for the training loop, which ends its readers."""
    signal.signal(signal.SIGTERM, signal.SIG_IGN)


class _Keys:
    """Endless batches of (step, sample)."""

    def __init__(self, first: int, samples: range):
        self.first, self.samples = first, samples

    def __iter__(self) -> Iterator[list[tuple[int, int]]]:
        step = self.first
        while True:
            yield [(step, i) for i in self.samples]
            step += 1


_Drawn = tuple[Tensor | None, list[Skipped]]


class _Crops(Dataset):
    """(step, sample) → its crop, and the photos that were drawn before it and cannot be used.

    No crop after `TRIES` of those: an exception in a worker would arrive as a page of text.
    """

    def __init__(self, entries: Sequence[Entry], crop: int, seed: int):
        self.entries, self.crop, self.seed = entries, crop, seed

    def __getitem__(self, key: tuple[int, int]) -> _Drawn:
        step, sample = key
        own = generator(self.seed, step, "crop", sample)
        skipped: list[Skipped] = []
        while len(skipped) < TRIES:
            entry = self.entries[_draw(len(self.entries), own)]
            photo = read_photo(entry, self.crop)
            if isinstance(photo, Tensor):
                return random_crop(photo, self.crop, own), skipped
            skipped.append(Skipped(entry, photo))
        return None, skipped


def _collate(items: list[_Drawn]) -> _Drawn:
    crops = [crop for crop, _ in items]
    skipped = [s for _, found in items for s in found]
    return None if any(crop is None for crop in crops) else torch.stack(crops), skipped
