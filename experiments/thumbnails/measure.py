"""What a pilot says of the power; how each process is sampled; and the measures of all decoders.

setup.json      the plan, and the smallest differences that its seeds detect, before the runs
choice.csv      each process, its first seed, by sampler, on the thumbnails that choose
measures.csv    each run and control, on the thumbnails that report
"""

from __future__ import annotations

import itertools
import json
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from functools import cached_property
from pathlib import Path

import pandas as pd
import torch
from torch import Tensor

from blurlib import images
from blurlib.diffusion import Sampling
from blurlib.metrics import Lpips
from experiments.distances.features import Features, distances
from experiments.record import read_table, replace_rows, write_json
from experiments.thumbnails import verdict
from experiments.thumbnails.bank import Bank, off_axes
from experiments.thumbnails.run import AT_ONCE, COURSE, Plan, Run, decoded, silent, train, trained
from experiments.thumbnails.verdict import MEASURES, SAMPLER, matching

NOISES = 4, 8, 16  # grey levels on the direct picture


@dataclass(frozen=True)
class Judge:
    """Thumbnails, and what compares pictures with them."""

    bank: Bank
    lpips: Lpips
    features: Features

    @cached_property
    def originals(self) -> Tensor:
        return torch.from_numpy(self.bank.pictures.copy())

    @cached_property
    def _own(self) -> Tensor:
        return self.features(self.originals)

    def __call__(self, *sets: Tensor) -> dict[str, float]:
        """Means over the thumbnails and sets, uint8: LPIPS, PSNR and kernel distance;
        diversity: LPIPS between the first two sets, 0 for a single one."""
        rows = []
        for pictures in sets:
            kernel = distances(self._own, self.features(pictures)).kernel
            mse = (pictures.float() - self.originals.float()).square().mean((1, 2, 3))
            psnr = 10 * (255**2 / mse.clamp(min=1e-3)).log10().mean().item()
            lpips = self._between(pictures, self.originals)
            rows.append({"lpips": lpips, "kernel": kernel, "psnr": psnr})
        found = {**pd.DataFrame(rows).mean(), "diversity": self._between(sets[0], sets[:2][-1])}
        return {name: float(f"{value:.6g}") for name, value in found.items()}

    @torch.inference_mode()
    def _between(self, a: Tensor, b: Tensor) -> float:
        pairs = zip(a.split(AT_ONCE), b.split(AT_ONCE), strict=True)
        return torch.cat([self.lpips(x / 255, y / 255) for x, y in pairs]).mean().item()


def sampler(how: Sampling) -> dict:
    return {name: getattr(how, name) for name in SAMPLER}


@dataclass(frozen=True)
class Trial:
    """Runs of a plan in the folder `runs`, and thumbnails that judge them."""

    plan: Plan
    runs: Path
    judge: Judge
    spectra: Tensor
    out: Path

    def choose(self) -> Iterator[str]:
        """choice.csv."""
        for run in (Run(blur, self.plan.seeds[0]) for blur in self.plan.blurs):
            for way in map(sampler, self.plan.samplings):
                key = {"decoder": run.decoder, **way}
                yield from self._row("choice", key, lambda run=run, way=way: self.draw(run, way))

    def measure(self) -> Iterator[str]:
        """measures.csv: every run with the samplers that are its process's best by some measure,
        those of the first seed also with what is known of another thumbnail; and the controls."""
        once, choice = sampler(Sampling(1)), read_table(self.out / "choice.csv")
        for run in self.plan.runs():
            ways, draws = [once], 1
            if run.blur is not None:
                ways = [verdict.best(choice, run.decoder, name) for name in MEASURES]
                draws = self.plan.draws
            seen = ("own", "another's") if run.seed == self.plan.seeds[0] else ("own",)
            for way, features in itertools.product(ways, seen):
                key = {"decoder": run.decoder, "seed": run.seed, "features": features, **way}
                of = (run, way, draws, features)
                yield from self._row("measures", key, lambda of=of: self.draw(*of))
        base = self.judge.bank.rows(slice(None))[2]
        noise = torch.randn(base.shape, generator=torch.Generator().manual_seed(0))
        controls = {f"direct + {n} levels": base + n / 127.5 * noise for n in (0, *NOISES)}
        for blur in self.plan.blurs:
            name = f"no network, {Run(blur, 0).decoder}"
            controls[name] = silent(blur, base, self.spectra, Sampling(32))
        for name, x in controls.items():
            key = {"decoder": name, "seed": 0, "features": "own", **once}
            yield from self._row("measures", key, lambda x=x: [images.to_uint8(off_axes(x))])

    def _row(self, table: str, key: dict, make) -> Iterator[str]:
        """The sets of pictures that `make` makes, judged, unless the row is there."""
        file = self.out / f"{table}.csv"
        if matching(read_table(file), key).empty:
            yield " ".join(map(str, key.values()))
            replace_rows(file, [self.judge(*make())], key, [*key])

    def draw(self, run: Run, way: dict, draws: int = 1, features: str = "own") -> list[Tensor]:
        """Samples of all thumbnails, as often as `draws`."""
        network, seen = trained(run, self.plan, self.runs), self.judge.bank.rows(slice(None))[1:]
        if features == "another's":
            seen = [part.roll(len(part) // 2, 0) for part in seen]
        hows = (Sampling(**way, seed=seed) for seed in range(draws))
        return [decoded(run, network, *seen, self.spectra, how) for how in hows]

    def pilot(self, wanted: Plan, bank: Bank, about: dict) -> Iterator[str]:
        """setup.json of the plan that is `wanted`, from the short runs of this one: what a step
        takes, and the smallest difference between two processes that the seeds detect."""
        rows = []
        for run in self.plan.runs()[:-1]:
            for step in train(run, self.plan, self.runs, bank, self.spectra):
                yield f"{run.name}: {step} of {self.plan.steps}"
            log = (self.runs / run.name / "log.jsonl").read_text().splitlines()
            pictures = self.draw(run, sampler(self.plan.samplings[0]))[0]
            seconds = json.loads(log[-1])["seconds"] / self.plan.steps
            key = {"decoder": run.decoder, "seed": run.seed, "cpu_seconds_per_step": seconds}
            rows.append(key | self.judge(pictures))
            direct = torch.from_numpy(self.judge.bank.direct.copy())
            sheet = torch.stack([a[:12] for a in (self.judge.originals, direct, pictures)])
            sheet = sheet.permute(2, 0, 3, 1, 4).flatten(3).flatten(1, 2)
            images.write_image(self.runs / f"{run.name}.png", sheet, overwrite=True)
        write_json(self.out / "setup.json", about | self.setup(wanted, rows))

    def setup(self, wanted: Plan, rows: list[dict]) -> dict:
        """What the rows of a pilot with this plan say of the one that is `wanted`."""
        alpha = verdict.ALPHA / sum(blur > 0 for blur in wanted.blurs)
        by_decoder, power = pd.DataFrame(rows).groupby("decoder"), {}
        for name in MEASURES:
            # Of the difference between two runs, had pairing no effect.
            std = (2 * by_decoder[name].var().mean()) ** 0.5
            least = verdict.detectable(std, len(wanted.seeds), alpha)
            mean = by_decoder[name].mean().mean()
            power[name] = {"mean": mean, "std_of_difference": std, "smallest": least}
        plan, course = asdict(wanted), {name: getattr(wanted.training, name) for name in COURSE}
        ran = {"steps": self.plan.steps, "widths": self.plan.network.widths, "runs": rows}
        found = {"alpha": alpha, "power": verdict.POWER, "differences": power, "pilot": ran}
        return {"plan": plan | {"training": course}, **found}
