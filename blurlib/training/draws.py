"""Random numbers keyed by what they are for: seed, step and sample.

A sample of the global batch draws the same numbers whichever process it is computed in and whatever
was computed before it. So two processes repeat one with the doubled batch, and a resumed run an
uninterrupted one, without a generator's state being stored.
"""

import hashlib
from collections.abc import Callable

import torch
from torch import Tensor

Device = torch.device | str


def generator(*key: int | str, device: Device = "cpu") -> torch.Generator:
    """A generator of its own for every key; keys that differ in one part share nothing."""
    digest = hashlib.blake2b(repr(key).encode(), digest_size=8).digest()
    return torch.Generator(device).manual_seed(int.from_bytes(digest, "little"))


class Draws:
    """What one step draws, apart from its crops.

    Args:
        samples: this process's part of the global batch; total: size of the global batch.
        device: where noise is drawn: no copies, but a CPU and a GPU draw different noise.
    """

    def __init__(self, seed: int, step: int, samples: range, total: int, device: Device = "cpu"):
        self.samples, self.total, self.device = samples, total, device
        self._shared = generator(seed, step, "strata")
        self._own = [generator(seed, step, "noise", i, device=device) for i in samples]

    def strata(self) -> Tensor:
        """(B,) float64 in [0, 1): over the global batch, one number in each of `total` equal
        parts, the parts in an order of their own at every call."""
        part = torch.randperm(self.total, generator=self._shared)
        within = torch.rand(self.total, dtype=torch.float64, generator=self._shared)
        drawn = (part + within) / self.total
        return drawn[self.samples.start : self.samples.stop].to(self.device)

    def shared(self, n: int) -> int:
        """From 0 to n − 1, the same for the global batch."""
        return int(torch.randint(n, (), generator=self._shared))

    def uniform(self, like: Tensor) -> Tensor:
        """Uniform in [−½, ½), of the shape of `like` (B, …)."""
        return self._drawn(like, lambda row, own: row.uniform_(-0.5, 0.5, generator=own))

    def normal(self, like: Tensor) -> Tensor:
        """N(0, I), of the shape of `like` (B, …)."""
        return self._drawn(like, lambda row, own: row.normal_(generator=own))

    def _drawn(self, like: Tensor, draw: Callable[[Tensor, torch.Generator], Tensor]) -> Tensor:
        # Contiguous: otherwise the order of the numbers would depend on the memory format.
        out = torch.empty_like(like, memory_format=torch.contiguous_format)
        for row, own in zip(out, self._own, strict=True):
            draw(row, own)
        return out
