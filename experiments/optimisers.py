"""Which optimiser teaches the codec most in the same processor time?

Every variant trains `cpu-small` from the KLT start for the same processor time, with the cosine
over the last 40 % of its steps, and is judged by the loss on held-out photos, coded as in a file.

    pip install pytorch-optimizer
    python -m experiments.optimisers results/checks/optimisers.json PHOTOS [MINUTES]
"""

import contextlib
import copy
import itertools
import json
import math
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import partial
from pathlib import Path
from types import SimpleNamespace

import torch
from torch import nn

from blurlib import images
from blurlib.evaluation.results import new_results
from blurlib.training import stages
from blurlib.training.config import TrainConfig
from blurlib.training.data import find_photos, open_photos, read_photo
from blurlib.training.draws import Draws
from blurlib.training.optimisers import Muon, learning_rate, parameter_groups
from experiments.record import write_json

Make = Callable[[list[dict], list[dict]], list[torch.optim.Optimizer]]
PACED = 12  # steps that say how many fit into the time
PHOTOS, SIDE = 16, 256  # held out


def adam(muon: list[dict], others: list[dict]) -> list[torch.optim.Optimizer]:
    return [torch.optim.Adam(muon + others, fused=True)]


def muon(muon: list[dict], others: list[dict], **options) -> list[torch.optim.Optimizer]:
    return [Muon(muon, **options), torch.optim.Adam(others, fused=True)]


def soap(muon: list[dict], others: list[dict], **options) -> list[torch.optim.Optimizer]:
    from pytorch_optimizer import SOAP

    return [
        SOAP(muon, weight_decay=0.0, max_precondition_dim=1200, **options),
        torch.optim.Adam(others, fused=True),
    ]


VARIANTS: dict[str, tuple[Make, dict]] = {
    "Adam": (adam, {"lr": 1e-3}),
    "Adam, three times the rate": (adam, {"lr": 3e-3}),
    "Muon": (partial(muon, iterations=5), {"lr": 3e-3}),
    "Muon, half the rate": (partial(muon, iterations=5), {"lr": 1.5e-3}),
    "Muon, momentum 0.9": (partial(muon, iterations=5, momentum=0.9), {"lr": 3e-3}),
    "Muon, 3 iterations": (partial(muon, iterations=3), {"lr": 3e-3}),
    "Muon, batch 8": (partial(muon, iterations=5), {"lr": 3e-3, "batch": 8}),
    "SOAP": (soap, {"lr": 3e-3}),
    "SOAP, a third of the rate": (soap, {"lr": 1e-3}),
}


def main(out: Path, data: str, minutes: float, *names: str) -> None:
    torch.set_num_threads(1)
    base = replace(TrainConfig.recipe("cpu-small", data=data, threads=1), decay=0.4, warmup=50)
    settings = {"minutes": minutes, "photos": PHOTOS}
    rows = []
    if out.exists():
        before = json.loads(out.read_text(encoding="utf-8"))
        if before["settings"] != settings:
            raise ValueError(f"{out}: made with {before['settings']}: move it away, or do the same")
        rows = before["rows"]
    held_out = list(itertools.islice(_held_out(base), PHOTOS))
    for name in names or VARIANTS:
        if name in [row["variant"] for row in rows]:
            continue
        make, changes = VARIANTS[name]
        config = replace(base, **changes)
        seconds = _trained(config, make, PACED, [])["seconds"] / PACED
        row = _trained(config, make, max(1, int(60 * minutes / seconds)), held_out)
        rows.append({"variant": name, **changes, **row})
        print(rows[-1], flush=True)
        made = SimpleNamespace(name="cpu-small", settings=settings)
        header = new_results("held-out photos", made, seed=base.seed).header()
        command = f"python -m experiments.optimisers {out.name} PHOTOS {minutes:g}"
        content = {**header, "command": command, "rows": rows}
        write_json(out, content)


def _held_out(config: TrainConfig) -> Iterator[torch.Tensor]:
    for entry in find_photos(config, held_out=True):
        photo = read_photo(entry, SIDE)
        if isinstance(photo, torch.Tensor):
            yield images.centre(photo, SIDE, SIDE).float() / 255


def _trained(config: TrainConfig, make: Make, steps: int, held_out: list[torch.Tensor]) -> dict:
    """Steps, processor seconds and held-out loss of a run; the photos are read before the clock."""
    config = replace(config, steps=steps, z_warmup=max(1, steps // 2))
    torch.manual_seed(config.seed)
    photos = open_photos(config, find_photos(config), "cpu")
    stage = stages.make(config)
    stage.network = stage.module
    with contextlib.closing(photos.batches(0, range(8))) as batches:
        stage.start(torch.cat(list(itertools.islice(batches, 16))).float() / 255)
    stage.module.to(memory_format=torch.channels_last).train()
    optimisers = make(*parameter_groups(stage.module, stage.module, config))
    average = copy.deepcopy(stage.module).requires_grad_(False)
    start = time.process_time()
    crops = photos.batches(0, range(config.batch))
    for step, x in enumerate(itertools.islice(crops, steps)):
        x = x.float().div(255).contiguous(memory_format=torch.channels_last)
        loss = stage.loss(x, step, Draws(config.seed, step, range(config.batch), config.batch))
        _update(stage.module, optimisers, loss.total, learning_rate(step, steps, config), config)
        decay = min(0.95, step / (step + 10))
        torch._foreach_lerp_(list(average.parameters()), list(stage.module.parameters()), 1 - decay)
    seconds = time.process_time() - start
    found = stage.held_out(average, held_out) if held_out else math.nan
    return {"steps": steps, "seconds": round(seconds, 1), "held_out": found}


@torch.no_grad()
def _update(
    module: nn.Module,
    optimisers: list[torch.optim.Optimizer],
    loss: torch.Tensor,
    lr: float,
    config: TrainConfig,
) -> None:
    module.zero_grad(set_to_none=True)
    with torch.enable_grad():
        loss.backward()
    norm = nn.utils.clip_grad_norm_(module.parameters(), config.clip)
    for optimiser in optimisers:
        for group in optimiser.param_groups:
            group["lr"] = lr * group["scale"]
        if torch.isfinite(norm):
            optimiser.step()


if __name__ == "__main__":
    minutes = float(sys.argv[3]) if len(sys.argv) > 3 else 5.0
    main(Path(sys.argv[1]), sys.argv[2], minutes, *sys.argv[4:])
