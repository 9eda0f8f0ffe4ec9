"""Training photos: decoded once into memory, cropped on demand."""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor

from blurlib.images import ImageError, read_image


class Skipped(NamedTuple):
    """A file that is not used, and why."""

    path: Path
    reason: str


class ImageBank:
    """All photos of a folder as uint8 tensors (3, H, W).

    Args:
        paths: image files.
        crop: side of the square crops; smaller photos are skipped.

    Attributes:
        skipped: what could not be used.

    Raises:
        ValueError: nothing is left to train on.
    """

    def __init__(self, paths: Sequence[Path], crop: int):
        self.crop = crop
        self.images: list[Tensor] = []
        self.skipped: list[Skipped] = []
        with ThreadPoolExecutor() as pool:
            for path, result in zip(paths, pool.map(self._read, paths), strict=True):
                if isinstance(result, Tensor):
                    self.images.append(result)
                else:
                    self.skipped.append(Skipped(path, result))
        if not self.images:
            raise ValueError(f"none of the {len(paths)} files is a photo of at least {crop} px")

    def _read(self, path: Path) -> Tensor | str:
        try:
            image = read_image(path)
        except (ImageError, OSError) as error:
            return str(error)
        if min(image.shape[1:]) < self.crop:
            return f"{image.shape[2]}×{image.shape[1]} is smaller than the crop"
        return image

    def batch(self, count: int, generator: torch.Generator) -> Tensor:
        """Random crops, half of them mirrored: (count, 3, crop, crop) float32 in [0, 1]."""
        return torch.stack([self._crop(generator) for _ in range(count)]).float() / 255

    def _crop(self, generator: torch.Generator) -> Tensor:
        def draw(n: int) -> int:
            return int(torch.randint(n, (), generator=generator))

        image = self.images[draw(len(self.images))]
        top, left = (draw(side - self.crop + 1) for side in image.shape[1:])
        crop = image[:, top : top + self.crop, left : left + self.crop]
        return crop.flip(-1) if draw(2) else crop
