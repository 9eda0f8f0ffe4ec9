"""How much of the squared error does a denoiser of residuals need beside LPIPS?

Isotropic diffusion, trained as by `python -m experiments.diffusion`, with a tenth of the squared
error in the loss and with all of it, at the same time, one thread each. Then, on photos held out
from training: the error of the network's output, shown the noisy picture of the photo and that of
another.

    python -m experiments.loss_balance results/checks/loss-balance.json PHOTOS
"""

import sys
import tempfile
from concurrent.futures import ProcessPoolExecutor
from functools import partial
from multiprocessing import get_context
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from unittest.mock import patch

import torch
from torch import Tensor

from blurlib import checkpoints
from blurlib.codec import zoo
from blurlib.evaluation.results import new_results
from blurlib.training import losses
from blurlib.training.loop import train
from experiments.diffusion.decodes import Contestant
from experiments.diffusion.run import Plan, held_out_photos, reads
from experiments.record import write_json

FACTORS, SEED = (0.1, 1.0), 0


def rows(data: str, factor: float) -> list[dict]:
    """What the denoiser reads of whose training `factor` times the squared error was a part."""
    torch.set_num_threads(1)
    plan, whole = Plan.small(checkpoints.PERCEPTUAL, data), losses.diffusion_loss

    def part(*of: Any) -> tuple[Tensor, Tensor]:  # no recipe asks for what was found to fail
        error, x_hat = whole(*of)
        return factor * error, x_hat

    patched = patch.object(losses, "diffusion_loss", part)
    with patched, tempfile.TemporaryDirectory() as folder:
        for _ in train(plan.diffusion(0.0, SEED).config, Path(folder)):
            pass
        denoiser = Contestant("", "", zoo.load_denoiser(Path(folder) / "model.safetensors"))
    found = reads(denoiser, zoo.load(checkpoints.PERCEPTUAL), held_out_photos(plan))
    return [{"factor": factor, **{k: v for k, v in row.items() if k != "run"}} for row in found]


def main(out: Path, data: str) -> None:
    with ProcessPoolExecutor(len(FACTORS), get_context("spawn")) as pool:
        found = [row for part in pool.map(partial(rows, data), FACTORS) for row in part]
    plan = Plan.small(checkpoints.PERCEPTUAL, data)
    settings = {"photos": plan.held_out, "steps": plan.training.steps, "rho": plan.training.rho}
    made = SimpleNamespace(name=checkpoints.PERCEPTUAL, settings=settings)
    content = {
        **new_results("held-out photos", made, seed=SEED).header(),
        "checkpoint": zoo.sha256(checkpoints.PERCEPTUAL),
        "command": f"python -m experiments.loss_balance {out.name} PHOTOS",
        "rows": found,
    }
    write_json(out, content)


if __name__ == "__main__":
    main(Path(sys.argv[1]), sys.argv[2])
