"""Latents of a frozen analysis transform: computed once, kept on disk, read by every variant."""

from __future__ import annotations

import hashlib
import itertools
import json
import os
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from blurlib.codec import BlurCodec
from blurlib.images import to_float
from blurlib.training.config import TrainConfig
from blurlib.training.data import find_photos, open_photos
from blurlib.training.draws import generator

BATCH = 8  # crops per pass of g_a


class Latents:
    """g_a's output for random crops of the training photos, float16 (crops, M, crop/16, crop/16).

    The file is named by all that decides its contents: weights, photos, crops and seed. A file that
    was not finished is never seen under that name.

    Args:
        folder: where the file is, or will be.
        codec_sha256: of the weights that g_a belongs to.
        config: data, held-out photos, crop and seed of the crops.
        crops: how many.

    Raises:
        ValueError: no training photos.
    """

    def __init__(self, folder: Path, codec_sha256: str, config: TrainConfig, crops: int):
        self.config, self.crops = config, crops
        self.entries = find_photos(config)
        decides = [codec_sha256, config.crop, config.seed, crops, names_digest(self.entries)]
        digest = hashlib.sha256(json.dumps(decides).encode()).hexdigest()[:16]
        self.path = Path(folder) / f"latents-{digest}.npy"

    def fill(self, codec: BlurCodec) -> Iterator[int]:
        """Write the file, if it is not there; yields how many crops are done."""
        if self.path.is_file():
            return
        self.path.parent.mkdir(parents=True, exist_ok=True)
        temporary = self.path.with_suffix(".tmp")  # what a killed process left is overwritten
        side = self.config.crop // 16
        shape = (self.crops, codec.config.entropy.M, side, side)
        try:
            stored = np.lib.format.open_memmap(temporary, "w+", np.float16, shape)
            for start, x in self._batches():
                part = slice(start, min(start + BATCH, self.crops))
                stored[part] = features(codec, x)[: part.stop - start].numpy()
                yield part.stop
            stored.flush()
            os.replace(temporary, self.path)
        finally:
            temporary.unlink(missing_ok=True)

    def _batches(self) -> Iterator[tuple[int, Tensor]]:
        photos = open_photos(self.config, self.entries, "cpu")
        starts = range(0, self.crops, BATCH)
        return zip(starts, photos.batches(0, range(BATCH)), strict=False)

    def open(self) -> np.ndarray:
        """The latents, read from disk where they are looked at.

        Raises:
            OSError: they were never computed.
        """
        return np.load(self.path, mmap_mode="r", allow_pickle=False)


@torch.inference_mode()
def features(codec: BlurCodec, crops: Tensor) -> Tensor:
    """g_a's output in float16 of crops, uint8 (B, 3, H, W); sides are multiples of 64."""
    return codec.g_a(to_float(crops)).half()


def batches(stored: np.ndarray, seed: int, batch: int) -> Iterator[Tensor]:
    """Endless random batches (batch, M, h, w) float32; step s follows from (seed, s) alone."""
    for step in itertools.count():
        index = torch.randint(len(stored), (batch,), generator=generator(seed, step, "latents"))
        yield torch.from_numpy(stored[index.numpy()]).float()


def names_digest(photos: list[Path]) -> str:
    """Of the photos by name: the same set in another folder is the same set."""
    names = "\n".join(f"{photo.name}/" for photo in photos)
    return hashlib.sha256(names.encode()).hexdigest()[:16]
