"""Training the decoders of thumbnails, and running them."""

from __future__ import annotations

import copy
import io
import itertools
import json
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from functools import lru_cache
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from blurlib import images
from blurlib.diffusion import BlurDiffusion, BlurSchedule, Denoiser, DenoiserConfig, Prior, Sampling
from blurlib.diffusion.dct import dct2, idct2
from blurlib.diffusion.sampler import last_x_hat, sample
from blurlib.files import atomic_write
from blurlib.metrics import Lpips
from blurlib.training.config import TrainConfig
from blurlib.training.draws import generator
from blurlib.training.optimisers import learning_rate, make_optimisers
from experiments.thumbnails.bank import SIDE, Bank, off_axes
from experiments.thumbnails.clock import Clocked

AT_ONCE = 64  # thumbnails sampled or measured together
BINS = 1000  # of time, each with its weights
SAVED_EVERY = 400  # steps: about five minutes
NETWORK = DenoiserConfig(4, (64, 112, 160), 2, (0, 0, 128), residual_to_base=False, gated=True)
TRAINING = TrainConfig(optimiser="muon", lr=4e-3, warmup=100, decay=0.6, ema=0.998)
COURSE = "optimiser", "lr", "warmup", "decay", "ema", "momentum", "clip"  # what counts of it


@dataclass(frozen=True)
class Plan:
    """What is compared, and how much is spent on it.

    Attributes:
        blurs: σ_B,max in pixels on the papers' schedule, log-SNR 10 to −10. It is not scaled by
            the side: a thumbnail has, per pixel, the spectrum of a photo and its noise, so that
            in pixels blur meets each wave at the log-SNR at which it does in 256×256. As a part of
            the side, 20 would be 5, and blur come later than noise. With 20, waves of 64 pixels
            keep 15 % of their amplitude at t = 1, waves of 43 keep 1 % and shorter ones nothing.
        steps, batch: of every training; 4,700 · 64 = 300,800 pictures.
        training: learning rate and its course, averaging and optimiser.
        samplings: among which each process has its best by each measure.
        choosing, reporting: thumbnails, of held-out photos, that choose and that report.
        draws: samples of each thumbnail that reports.
    """

    blurs: tuple[float, ...] = (0.0, 10.0, 20.0)
    seeds: tuple[int, ...] = (0, 1, 2, 3)
    steps: int = 4700
    batch: int = 64
    training: TrainConfig = TRAINING
    network: DenoiserConfig = NETWORK
    samplings: tuple[Sampling, ...] = tuple(
        Sampling(steps=steps, solver=solver, spacing=spacing)
        for solver, spacing in itertools.product(("ancestral", "multistep"), ("uniform", "logsnr"))
        for steps in (16, 32)
    )
    choosing: int = 512
    reporting: int = 2144
    draws: int = 2

    def runs(self) -> list[Run]:
        """Seed by seed, so that what is there at any time compares; the control comes last."""
        diffusions = [Run(blur, seed) for seed in self.seeds for blur in self.blurs]
        return [*diffusions, Run(None, self.seeds[0])]


class Run(NamedTuple):
    """A network to train: σ_B,max of its process, or None for the deterministic decoder."""

    blur: float | None
    seed: int

    @property
    def decoder(self) -> str:
        if self.blur is None:
            return "deterministic"
        return f"blur-{self.blur:g}" if self.blur else "isotropic"

    @property
    def name(self) -> str:
        return f"{self.decoder}-{self.seed}"


@lru_cache(maxsize=8)  # its clock takes a second
def process_of(blur: float, spectra: Tensor) -> BlurDiffusion:
    """Of whole pictures. A network that says 0 is the Wiener filter of photos, whatever the
    process; what it says counts in units of what that leaves (`prediction.Residual`)."""
    whole, unknown = spectra
    schedule = Clocked(sigma_blur_max=blur, unknown=unknown)
    return BlurDiffusion(schedule, "residual", Prior(0 * whole[None], whole[None]))


def train(
    run: Run, plan: Plan, runs: Path, bank: Bank, spectra: Tensor, lpips: Lpips | None = None
) -> Iterator[int]:
    """Train in a folder of `runs`, from its checkpoint if there is one; yields the steps done.

    All draws follow from (seed, step): runs of one seed start from the same weights and see the
    same pictures, noise and parts of time, whatever their process; a resumed run repeats an
    uninterrupted one. `lpips` trains the deterministic decoder. Raises ValueError where the folder
    holds another run.
    """
    torch.manual_seed(run.seed)
    network = Denoiser(plan.network).to(memory_format=torch.channels_last)
    average = copy.deepcopy(network).requires_grad_(False)
    optimisers = make_optimisers(network, None, plan.training)
    parts = {"network": network, "average": average, "muon": optimisers[0], "adam": optimisers[1]}
    folder, step, seconds = runs / run.name, 0, 0.0
    if state := _checkpoint(run, plan, runs):
        step, seconds = state["step"], state["seconds"]
        for name, part in parts.items():
            part.load_state_dict(state[name])
    folder.mkdir(parents=True, exist_ok=True)
    loss_of = deterministic_loss(lpips) if run.blur is None else diffusion_loss(run.blur, spectra)

    def save() -> None:
        content = {name: part.state_dict() for name, part in parts.items()}
        content |= {"run": _identity(run, plan), "step": step, "seconds": seconds}
        torch.save(content, data := io.BytesIO())
        atomic_write(folder / "checkpoint.pt", data.getbuffer(), overwrite=True)

    try:
        while step < plan.steps:
            start = time.process_time()
            own = generator(run.seed, step, "thumbnails")
            which = torch.randint(len(bank.pictures), (plan.batch,), generator=own)
            loss = loss_of(network, *bank.rows(which.numpy()), own)
            network.zero_grad(set_to_none=True)
            loss.backward()
            norm = nn.utils.clip_grad_norm_(network.parameters(), plan.training.clip)
            for optimiser in optimisers:
                for group in optimiser.param_groups:
                    group["lr"] = group["scale"] * learning_rate(step, plan.steps, plan.training)
                optimiser.step()
            decay = min(plan.training.ema, step / (step + 10))
            with torch.no_grad():
                torch._foreach_lerp_([*average.parameters()], [*network.parameters()], 1 - decay)
            step += 1
            seconds += time.process_time() - start
            row = {"step": step, "loss": loss.item(), "norm": norm.item(), "seconds": seconds}
            with open(folder / "log.jsonl", "a", encoding="utf-8") as log:
                log.write(json.dumps(row) + "\n")
            if step % SAVED_EVERY == 0:
                save()
            yield step
    except GeneratorExit:  # between two steps; within one, weights and optimisers may not agree
        save()
        raise
    save()


def _identity(run: Run, plan: Plan) -> str:
    """What decides the weights."""
    course = [getattr(plan.training, name) for name in COURSE]
    return repr((run, plan.steps, plan.batch, course, plan.network))


def _checkpoint(run: Run, plan: Plan, runs: Path) -> dict[str, Any] | None:
    file = runs / run.name / "checkpoint.pt"
    state = torch.load(file, weights_only=True) if file.is_file() else None
    if state and state["run"] != _identity(run, plan):
        raise ValueError(f"{file}: was trained with other settings; choose another folder of runs")
    return state


def trained(run: Run, plan: Plan, runs: Path) -> Denoiser:
    """The averaged weights. Raises ValueError where the run is not finished, or another."""
    state = _checkpoint(run, plan, runs) or {"step": 0}
    if state["step"] < plan.steps:
        done = f"{state['step']} of {plan.steps} steps"
        raise ValueError(f"{runs / run.name}: {done} are done; train it first")
    network = Denoiser(plan.network)
    network.load_state_dict(state["average"])
    return network.to(memory_format=torch.channels_last).eval()


def diffusion_loss(blur: float, spectra: Tensor) -> Callable[..., Tensor]:
    """Mean over pictures of Σ_k weight_k (û_x − u_x)_k², over colours too; the best linear estimate
    has 1. The network sees the direct picture and the features, and makes the whole picture."""
    process = process_of(blur, spectra)
    weights = process.schedule.weights(BINS).float()

    def loss(network, x, features, base, own) -> Tensor:
        n = len(x)
        t = (torch.randperm(n, generator=own) + torch.rand(n, generator=own).double()) / n
        at = process.at(t, SIDE, SIDE)
        alpha, sigma = at.t.like(x)
        u_x = dct2(x)
        u_t = alpha * u_x + sigma * torch.randn(x.shape, generator=own)
        output = network(idct2(at.input(u_t)), t.float(), base, [features])
        error = at.u_x(u_t, dct2(output)) - u_x
        return (weights[(t * BINS).long()] * error.square()).sum((1, 2, 3)).mean()

    return loss


def deterministic_loss(lpips: Lpips) -> Callable[..., Tensor]:
    """MSE and LPIPS, half and half, each in units of the direct picture's."""

    def loss(network, x, features, base, own) -> Tensor:
        x_hat, nearer = _answer(network, features, base), (base - x).square().mean()
        mse = (x_hat - x).square().mean() / nearer
        x, x_hat, base = map(off_axes, (x, x_hat, base))
        return (mse + lpips(x_hat, x).mean() / lpips(base, x).mean()) / 2

    return loss


def _answer(network: nn.Module, features: Tensor, base: Tensor) -> Tensor:
    """The deterministic decoder: pictures without noise and time."""
    return network(torch.zeros_like(base), base.new_zeros(len(base)), base, [features])


@torch.inference_mode()
def decoded(
    run: Run, network: nn.Module, features: Tensor, base: Tensor, spectra: Tensor, how: Sampling
) -> Tensor:
    """Pictures, uint8; the noise of a thumbnail is that of its place and `how.seed`."""
    found = []
    for i, some in enumerate(zip(features.split(AT_ONCE), base.split(AT_ONCE), strict=True)):
        if run.blur is None:
            x_hat = _answer(network, *some)
        else:
            own = replace(how, seed=1000 * how.seed + i)
            predict = lambda z_t, t, some=some: network(z_t, t, some[1], [some[0]])  # noqa: E731
            chain = sample(process_of(run.blur, spectra), predict, some[1].shape, own)
            x_hat = last_x_hat(chain)
        found.append(images.to_uint8(off_axes(x_hat)))
    return torch.cat(found)


def silent(blur: float, base: Tensor, spectra: Tensor, how: Sampling) -> Tensor:
    """Direct pictures to which the chain of a process whose network says nothing has
    added noise with the spectrum of what is unknown."""
    prior = Prior(dct2(base), spectra[1].expand(len(base), -1, -1, -1))
    process = BlurDiffusion(BlurSchedule(blur), "residual").given(prior)
    return last_x_hat(sample(process, lambda z, _: torch.zeros_like(z), base.shape, how))
