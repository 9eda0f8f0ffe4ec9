"""Does blur help? `python -m experiments.diffusion`.

Isotropic diffusion, blur diffusions and a deterministic decoder are trained alike on one frozen
codec: the same network, photos, crops, qualities and number of steps. All decode the same files.

Each training is an ordinary run in a folder of its own. Which blur is best is decided on photos
held out from training; the set that is reported has no part in it. A folder of results holds

    about.json      command, commit, machine, versions, the codec and the plan
    runs.csv        a row per training run
    choice.csv      LPIPS of the candidates on the held-out photos
    reads.csv       what the networks make of the noisy picture (`reads`)
    decodes.csv     a row per file and way to decode it (`decodes.Decode`)
    distances.csv   Fréchet and kernel distance over the patches of the whole set
"""

from __future__ import annotations

import contextlib
import dataclasses
import json
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, field
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple, get_args

import pandas as pd
import torch
from torch import Tensor

from blurlib import datasets, images
from blurlib.codec import BlurCodec, zoo
from blurlib.diffusion import Sampling, Solver, Spacing, dct2
from blurlib.evaluation.processes import share
from blurlib.files import atomic_write
from blurlib.metrics import Lpips
from blurlib.training.config import TrainConfig
from blurlib.training.data import find_photos, read_photo
from blurlib.training.loop import train
from blurlib.training.run import RunFolder, read_log
from experiments.diffusion.decodes import (
    DIRECT,
    ONCE,
    SILENT,
    Bench,
    Contestant,
    Decode,
    Part,
    silenced,
    silent,
    text,
)
from experiments.distances.features import Features
from experiments.record import Progress, circumstances, one_thread, read_table, replace_rows

CROP = 256  # pixels: side of what is judged of a held-out photo
READ_AT = (1.0, 3.0, 5.0, 7.0)  # log-SNRs, between where noise hides all and where it hides nothing


@dataclass(frozen=True)
class Plan:
    """What is compared, and how much is spent on it.

    Attributes:
        training: of every run but for its blur, its seed and what "deterministic" changes.
        blurs: σ_B,max in pixels of the blur diffusions; isotropic diffusion is always there.
        seeds: of isotropic diffusion, the deterministic decoder and the best blur; the other blurs
            have the first alone.
        rhos: weights of LPIPS with which the best diffusion is trained on, each for `tuning` steps
            from learning rate `tuning_lr`.
        held_out: photos by which the best is chosen, at each of `qualities`, sampled as `choosing`.
        choosing: also the solver, spacing and seed of all chains that do not compare these.
        photos: set that is reported; every: only every so many-th of its photos.
        qualities: of the files.
        steps: of the chains of all seeds; steps_of_rest: of the other blurs and ρ, which are
            decoded at the first quality only.
        long: more steps, for the first seed of isotropic diffusion and of the best blur, at the
            first quality; their solvers are compared at `solver_steps` there, each with every
            spacing and with every one of `start_scales`, on every `solver_every`-th photo.
    """

    training: TrainConfig
    blurs: tuple[float, ...] = (1.0, 5.0, 10.0, 20.0)
    seeds: tuple[int, ...] = (0, 1, 2)
    rhos: tuple[float, ...] = (0.0, 0.3, 0.6, 0.9)
    tuning: int = 400
    tuning_lr: float = 2e-4
    held_out: int = 16
    choosing: Sampling = field(default_factory=Sampling)
    photos: str = "kodak"
    every: int = 1
    qualities: tuple[float, ...] = (2.0, 5.0)
    steps: tuple[int, ...] = (1, 2, 4, 8, 17)
    steps_of_rest: tuple[int, ...] = (1, 4, 17)
    long: tuple[int, ...] = (65,)
    solver_steps: tuple[int, ...] = (4, 8, 17)
    solver_every: int = 3
    start_scales: tuple[float, ...] = (0.25, 0.5, 0.8, 1.0)

    def __post_init__(self) -> None:
        for name in ("blurs", "seeds", "qualities", "steps"):
            values = getattr(self, name)
            if not values or len(set(values)) < len(values):
                raise ValueError(f"{name} is {values}: it must hold at least one, each once")
        if min(self.blurs) <= 0:
            raise ValueError(
                f"blurs holds {min(self.blurs):g}: each must be above 0 pixels, such as 20; "
                "isotropic diffusion, 0, is always there"
            )
        for name in ("tuning", "held_out", "every", "solver_every"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} is {getattr(self, name)}: it must be at least 1")
        for steps in (*self.steps, *self.steps_of_rest, *self.long, *self.solver_steps):
            Sampling(steps)  # refuses less than 1
        if self.training.stage != "denoiser" or self.training.steps < 1:
            raise ValueError("training must be of a denoiser, for a number of steps")

    @classmethod
    def small(cls, codec: str, data: str, **changes: Any) -> Plan:
        """Three to four hours of one CPU core. `changes` are fields of this class."""
        training = TrainConfig(
            stage="denoiser", codec=codec, data=data, prediction="residual", spacing="logsnr",
            logsnr_min=0.0, rho=0.4, lpips_t_max=1.0, batch=2, crop=128, steps=1500, lr=1e-3,
            decay=0.5, warmup=100, ema=0.998, checkpoint_every=300.0, threads=1, accelerator="cpu",
        )  # fmt: skip
        # Calmer than the default: on held-out photos, trial runs of both diffusions were nearer the
        # photo so than with ancestral steps from the whole noise.
        calm = Sampling(solver="multistep", start_scale=0.5)
        return cls(**{"training": training, "choosing": calm, **changes})

    @classmethod
    def paper(cls, codec: str, data: str, **changes: Any) -> Plan:
        """The paper's U-Net on a codec of the paper's size, everything measured: weeks of a GPU."""
        training = dataclasses.replace(
            TrainConfig.recipe("paper", codec=codec, data=data), stage="denoiser", steps=500_000,
            prediction="residual", spacing="logsnr", logsnr_min=0.0,
        )  # fmt: skip
        steps = (1, 2, 4, 8, 17, 65)
        everything = {
            "training": training, "tuning": 50_000, "tuning_lr": 5e-5, "held_out": 64,
            "qualities": (1.0, 3.0, 5.0), "steps": steps, "steps_of_rest": steps,
            "solver_steps": steps, "solver_every": 1,
        }  # fmt: skip
        return cls(**{**everything, **changes})

    # Runs

    def diffusion(self, sigma: float, seed: int) -> Run:
        """The diffusion decoder with blur of `sigma` pixels; 0 is isotropic."""
        name = f"blur-{sigma:g}-{seed}" if sigma else f"isotropic-{seed}"
        config = dataclasses.replace(self.training, sigma_blur_max=float(sigma), seed=seed)
        return Run(name, config)

    def deterministic(self, seed: int) -> Run:
        """One evaluation of the same network, from a start without noise."""
        once = {"unroll_steps": 1, "unroll_last": 1.0, "start_scale": 0.0}
        config = dataclasses.replace(self.training, sigma_blur_max=0.0, seed=seed, **once)
        return Run(f"deterministic-{seed}", config)

    def tuned(self, start: Run, rho: float, folder: Path) -> Run:
        """`start`, whose folder is in `folder`, trained on with another ρ."""
        config = dataclasses.replace(
            start.config, rho=rho, init=str(folder / start.name / "model.safetensors"),
            steps=self.tuning, lr=self.tuning_lr,
        )  # fmt: skip
        return Run(f"{start.name}-rho-{rho:g}", config)

    def candidates(self) -> list[Run]:
        """The first seed of every diffusion, isotropic first."""
        return [self.diffusion(sigma, self.seeds[0]) for sigma in (0.0, *self.blurs)]

    def first(self) -> list[Run]:
        """All that can be trained before the best blur is known."""
        rest = [
            run
            for seed in self.seeds
            for run in (self.deterministic(seed), self.diffusion(0.0, seed))
        ]
        return list(dict.fromkeys([*self.candidates(), *rest]))

    def second(self, blur: Run, best: Run, folder: Path) -> list[Run]:
        """What follows from the choice of the best blur and of the best of all diffusions."""
        seeds = [self.diffusion(blur.config.sigma_blur_max, seed) for seed in self.seeds[1:]]
        return [*seeds, *(self.tuned(best, rho, folder) for rho in self.rhos)]

    # Decodes

    def parts(self, blur: Run, best: Run, folder: Path) -> list[Part]:
        """Which run is decoded how, of which files."""
        diffusions = {
            self.diffusion(sigma, seed).name: sigma
            for sigma in (0.0, blur.config.sigma_blur_max)
            for seed in self.seeds
        }
        rest = [run.name for run in self.candidates() if run.name not in diffusions]
        rest += [self.tuned(best, rho, folder).name for rho in self.rhos]
        once = (DIRECT, *(self.deterministic(seed).name for seed in self.seeds))
        pair = (self.diffusion(0.0, self.seeds[0]).name, blur.name)
        residual = self.training.prediction == "residual"
        untrained = map(silent, dict.fromkeys(diffusions.values())) if residual else ()
        one = self.qualities[:1]
        return [
            Part(once, (ONCE,), self.qualities, self.every),
            Part((*diffusions, *untrained), self._chains(self.steps), self.qualities, self.every),
            Part(tuple(rest), self._chains(self.steps_of_rest), one, self.every),
            Part(pair, self._chains(self.long), one, self.every),
            Part(pair, self._solvers(), one, self.every * self.solver_every),
        ]

    def _chains(self, steps: Sequence[int]) -> tuple[Sampling, ...]:
        return tuple(dataclasses.replace(self.choosing, steps=n) for n in steps)

    def _solvers(self) -> tuple[Sampling, ...]:
        """Every solver with every spacing, and with every scale of the start."""
        how = [{"spacing": spacing} for spacing in get_args(Spacing)]
        how += [{"start_scale": scale} for scale in self.start_scales]
        samplings = [
            dataclasses.replace(self.choosing, steps=steps, solver=solver, **changes)
            for solver in get_args(Solver)
            for changes in how
            for steps in self.solver_steps
        ]
        return tuple(dict.fromkeys(samplings))

    def network_evaluations(self) -> int:
        """Of all chains on one photo that takes part in everything."""
        blur = self.diffusion(self.blurs[-1], self.seeds[0])
        return sum(
            sum(not run.startswith(SILENT) for run in part.runs)
            * len(part.qualities)
            * sum(sampling.steps for sampling in part.samplings)
            for part in self.parts(blur, blur, Path())
        )


class Run(NamedTuple):
    """A training run and the name of its folder."""

    name: str
    config: TrainConfig

    @property
    def decoder(self) -> str:
        """ "isotropic", "blur" or "deterministic"."""
        if not self.config.start_scale:
            return "deterministic"
        return "blur" if self.config.sigma_blur_max else "isotropic"


def compare(
    plan: Plan,
    out: Path,
    runs: Path,
    lpips: Lpips,
    features: Features,
    command: str = "python -m experiments.diffusion",
    jobs: int = 1,
) -> Iterator[Progress]:
    """Train what is missing, choose, measure what is missing, write `out`.

    `runs` gets a folder per codec, so that the runs of one codec are never taken for another's.
    A run, a judgement or a decode that is there already is not made again.

    Args:
        lpips: what chooses and measures: a network that nothing here was trained with.
        features: of the distances between sets.
        jobs: processes that train, and then decode, beside each other, with one thread each.

    Raises:
        ValueError: a run in `runs` was made with another configuration; the codec, photos or data
            cannot be used.
    """
    codec, judges = zoo.load(plan.training.codec), held_out_photos(plan)
    folder = Path(runs) / codec.model_id.hex()
    first = plan.first()
    total = len(first) + len(plan.seeds) - 1 + len(plan.rhos) + 3
    with one_thread():
        yield from _all_trained(first, folder, 0, total, jobs)
        yield Progress(len(first), total, "choosing the best blur on held-out photos")
        choice = _judged(plan, codec, folder, judges, lpips)
        blur, best = chosen(choice, plan.candidates()[1:]), chosen(choice, plan.candidates())
        second = plan.second(blur, best, folder)
        yield from _all_trained(second, folder, len(first) + 1, total, jobs)
        every_run = [*first, *second]
        bench = _bench(codec, every_run, folder, lpips, features, plan)
        paths, parts = datasets.dataset(plan.photos), plan.parts(blur, best, folder)
        for done in bench.measure(paths, parts, jobs):
            yield Progress(total - 2 + done, total, f"decoding {plan.photos}")
        errors = []
        read = [run for run in every_run if run.name in parts[1].runs]
        for n, run in enumerate(read):
            yield Progress(total - 1 + n / len(read), total, f"what {run.name} reads")
            errors += reads(_contestant(run, folder), codec, judges)  # on the CPU, as the codec is
        rows = bench.rows(paths, parts)
        shown = [path for i, path in enumerate(paths) if i % plan.every == 0]
        tables = {
            "runs.csv": [_record(run, folder, bench) for run in every_run],
            "choice.csv": choice,
            "reads.csv": errors,
            "distances.csv": bench.distances(shown, rows),
        }
    _write(out, tables, rows, _about(plan, bench, command, jobs))
    yield Progress(total, total, "done")


def _write(
    out: Path, tables: dict[str, Any], rows: Sequence[Decode], about: dict[str, Any]
) -> None:
    """The folder of results."""
    content = {
        name: pd.DataFrame(table).to_csv(index=False, lineterminator="\n")
        for name, table in tables.items()
    }
    content["decodes.csv"] = text(rows)
    content["about.json"] = json.dumps(about, indent=1, sort_keys=True, ensure_ascii=False) + "\n"
    out.mkdir(parents=True, exist_ok=True)
    for name, written in content.items():
        atomic_write(out / name, written.encode(), overwrite=True)


# ---------------------------------------------------------------- training


def _all_trained(
    runs: Sequence[Run], folder: Path, before: int, total: int, jobs: int
) -> Iterator[Progress]:
    """Train runs, `before` having been done; with several jobs progress is only of whole runs."""
    if jobs == 1:
        for n, run in enumerate(runs):
            yield from _trained(run, folder, before + n, total)
        return
    for n, (run, _) in enumerate(share(partial(_in_worker, folder), runs, jobs), 1):
        yield Progress(before + n, total, f"trained {run.name}")


def _in_worker(folder: Path, run: Run) -> None:
    for _ in _trained(run, folder, 0, 1):
        pass


def _trained(run: Run, folder: Path, n: int, total: int) -> Iterator[Progress]:
    """Train a run from where it stopped; nothing is left to do for a finished one."""
    place = RunFolder(folder / run.name)
    started = place.checkpoint.is_file()
    if started:
        place.check(run.config, resume=True)
        before = TrainConfig.recipe(str(place.path / "config.toml"))
        if before.steps != run.config.steps:
            raise ValueError(
                f"{place.path} was started for {before.steps} steps, not {run.config.steps}: ask "
                "for as many, or choose another folder of runs"
            )
    if not (place.path / "model.safetensors").is_file():
        with contextlib.closing(train(run.config, place.path, resume=started)) as steps:
            for step in steps:
                yield Progress(n + step.step / run.config.steps, total, f"training {run.name}")
    yield Progress(n + 1, total, f"trained {run.name}")


def _contestant(run: Run, folder: Path) -> Contestant:
    path = folder / run.name / "model.safetensors"
    return Contestant(run.name, _weights(path), zoo.load_denoiser(path))


def _weights(name: str | Path) -> str:
    return f"sha256:{zoo.sha256(name)[:8]}"


# ---------------------------------------------------------------- choosing


def held_out_photos(plan: Plan) -> list[tuple[str, Tensor]]:
    """Names and centres, uint8 (3, 256, 256), of photos that no run is trained on.

    Raises:
        ValueError: none of them is a colour photo that large.
    """
    crops = []
    for path in find_photos(plan.training, held_out=True):
        photo = read_photo(path, CROP)
        if isinstance(photo, Tensor) and len(crops) < plan.held_out:
            crops.append((path.name, images.centre(photo, CROP, CROP)))
    if not crops:
        raise ValueError(
            f"{plan.training.data}: none of the held-out photos is in colour and at least "
            f"{CROP} pixels wide and high: the best blur cannot be chosen"
        )
    return crops


def _judged(
    plan: Plan, codec: BlurCodec, folder: Path, photos: Sequence[tuple[str, Tensor]], lpips: Lpips
) -> pd.DataFrame:
    """choice.csv: LPIPS of every candidate on the held-out photos; judged once per weights."""
    file = folder / "choice.csv"
    candidates = [_contestant(run, folder) for run in plan.candidates()]
    wanted = {(name, quality) for name, _ in photos for quality in plan.qualities}
    asked = json.dumps([asdict(plan.choosing), plan.qualities])
    for candidate in candidates:
        key = {"run": candidate.run, "weights": candidate.weights, "sampling": asked}
        present = read_table(file)
        if len(present):
            own = present[(present[[*key]] == pd.Series(key)).all(axis=1)]
            if set(zip(own["photo"], own["quality"], strict=True)) == wanted:
                continue
        rows = [
            {"photo": name, "quality": quality, "lpips": round(value, 5)}
            for name, photo in photos
            for quality in plan.qualities
            for value in [_distance(plan, codec, candidate, photo, quality, lpips)]
        ]
        file.parent.mkdir(parents=True, exist_ok=True)
        replace_rows(file, rows, key, ["run", "photo", "quality"])
    table = read_table(file)
    current = {(candidate.run, candidate.weights) for candidate in candidates}
    kept = [key in current for key in zip(table["run"], table["weights"], strict=True)]
    table = table[pd.Series(kept) & (table["sampling"] == asked)]
    return table.drop(columns="sampling").reset_index(drop=True)


@torch.inference_mode()
def _distance(
    plan: Plan, codec: BlurCodec, candidate: Contestant, photo: Tensor, quality: float, lpips: Lpips
) -> float:
    x = images.to_float(photo)[None]
    picture = candidate.decoder.decode(codec(x, quality), plan.choosing)
    return lpips(x, picture).item()


@torch.inference_mode()
def reads(
    contestant: Contestant, codec: BlurCodec, photos: Sequence[tuple[str, Tensor]]
) -> list[dict[str, Any]]:
    """Mean squared error of a denoiser's output on photos, shown the noisy picture that belongs to
    them (own) and that of another photo (other), at several log-SNRs and the middle quality.

    A network that looks at the noisy picture is much worse with the wrong one. silent: the error of
    an output of 0. For "residual" it is 1 on average over the pictures of the prior.
    """
    x = images.to_float(torch.stack([photo for _, photo in photos]))
    output = codec(x, (1 + codec.config.levels) / 2)
    decoder = contestant.decoder
    process, n = decoder.given(output), len(x)
    rows = []
    for logsnr in READ_AT:
        t = process.schedule.time_of(logsnr).expand(n)
        eps = torch.randn(x.shape, generator=torch.Generator().manual_seed(0))
        z_t = process.q_sample(2 * x - 1, t, eps)
        seen = process.network_input(dct2(z_t), t) if process.prediction == "residual" else z_t
        target = process.target(2 * x - 1, eps, t)
        outputs = {
            "silent": torch.zeros_like(target),
            "own": decoder.predict(seen, t.to(x), output),
            "other": decoder.predict(seen.roll(1, dims=0), t.to(x), output),
        }
        errors = {name: (made - target).square().mean().item() for name, made in outputs.items()}
        rows.append({"run": contestant.run, "logsnr": logsnr, **errors})
    return rows


def chosen(choice: pd.DataFrame, among: Sequence[Run]) -> Run:
    """The run whose LPIPS is lowest in the mean over the held-out photos and qualities; the first
    of equals.

    Args:
        choice: columns run, photo, quality, lpips.

    Raises:
        ValueError: the runs were not judged by the same pictures.
    """
    table = choice.pivot(index=["photo", "quality"], columns="run", values="lpips")
    table = table.reindex(columns=[run.name for run in among])
    if table.isna().to_numpy().any():
        missing = table.columns[table.isna().any()][0]
        raise ValueError(f"{missing} was not judged on all held-out photos")
    best = table.mean().idxmin()
    return next(run for run in among if run.name == best)


# ---------------------------------------------------------------- measuring


def _bench(
    codec: BlurCodec, every_run: Sequence[Run], folder: Path, lpips: Lpips, features: Features,
    plan: Plan,
) -> Bench:  # fmt: skip
    on_gpu = plan.training.accelerator != "cpu" and torch.cuda.is_available()
    device = "cuda" if on_gpu else "cpu"
    contestants = {run.name: _contestant(run, folder) for run in every_run}
    for contestant in contestants.values():
        contestant.decoder.to(device)
    contestants[DIRECT] = Contestant(DIRECT, _weights(plan.training.codec), None)
    if plan.training.prediction == "residual":
        for run in plan.candidates():
            name = silent(run.config.sigma_blur_max)
            own = contestants[run.name]
            contestants[name] = Contestant(name, own.weights, silenced(own.decoder))
    work = folder / "decodes" / Path(plan.photos).name
    return Bench(codec, contestants, lpips, features, work, device)


def _record(run: Run, folder: Path, bench: Bench) -> dict[str, Any]:
    """A row of runs.csv. `seconds` is the wall time of all steps."""
    config, log = run.config, read_log(folder / run.name)
    return {
        "run": run.name,
        "decoder": run.decoder,
        "sigma_blur_max": config.sigma_blur_max,
        "rho": config.rho,
        "seed": config.seed,
        "init": Path(config.init).parent.name,
        "steps": config.steps,
        "batch": config.batch,
        "crop": config.crop,
        "lr": config.lr,
        "seconds": round(sum(step.seconds for step in log), 1),
        "weights": bench.contestants[run.name].weights,
    }


def _about(plan: Plan, bench: Bench, command: str, jobs: int) -> dict[str, Any]:
    """Where the results come from, without the names of anybody's folders."""
    training = asdict(plan.training)
    training |= {name: Path(training[name]).name for name in ("codec", "data")}
    about = circumstances(command, jobs)
    if bench.device == "cuda":
        about["device"] = torch.cuda.get_device_name()
    return about | {
        "codec": Path(plan.training.codec).name,
        "codec_sha256": zoo.sha256(plan.training.codec),
        "features": bench.features.name,
        "features_sha256": bench.features.sha256,
        "plan": {**asdict(plan), "photos": Path(plan.photos).name, "training": training},
    }
