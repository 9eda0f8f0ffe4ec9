"""What the comparison of `experiments.diffusion.run` says, from its CSV files alone."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import pandas as pd

from experiments.diffusion import decodes
from experiments.diffusion.decodes import DIRECT, SILENT, silent
from experiments.record import Spread

CHAIN = ("solver", "spacing", "start_scale", "steps")


class Duel(NamedTuple):
    """Blur against isotropic diffusion at one number of steps.

    Attributes:
        difference: of mean LPIPS, blur minus isotropic: below 0, blur is better.
        silent: the same of chains without a network, nan where there are none.
        clear: whether every seed of the better one is better than every seed of the other; never
            with a single seed.
        photos: of how many the mean over the seeds is better with blur; total: how many there are.
    """

    quality: float
    steps: int
    blur: Spread
    isotropic: Spread
    difference: float
    silent: float
    clear: bool
    photos: int
    total: int


class OneStep(NamedTuple):
    """The best of all chains against the deterministic decoder, by one measure.

    Attributes:
        measure: the column, "lpips" or a distance between sets; smaller is better.
        decoder, steps: the chain with the lowest mean.
        direct: of the codec's own decoder.
        clear: whether every seed of the better one is better than every seed of the other.
    """

    quality: float
    measure: str
    deterministic: Spread
    chain: Spread
    decoder: str
    steps: int
    direct: float
    clear: bool


@dataclass(frozen=True)
class Comparison:
    """A folder of results, read.

    Attributes:
        table: a row per run, way and quality: means over the photos (`lpips`, `psnr`, `ms_ssim`,
            `bpp`, `seconds`), how many `photos`, what is known of the run, and distances where they
            were measured.
        decodes: a row per decode.
        blur: σ_B,max of the best blur in pixels; tuned: the run that was trained on with each ρ.
    """

    table: pd.DataFrame
    decodes: pd.DataFrame
    choice: pd.DataFrame
    reads: pd.DataFrame
    runs: pd.DataFrame
    about: dict[str, Any]
    blur: float
    tuned: str

    @classmethod
    def read(cls, folder: Path) -> Comparison:
        """Of what `python -m experiments.diffusion` wrote."""
        runs, choice, reads, distances = (
            pd.read_csv(folder / f"{name}.csv", keep_default_na=False)
            for name in ("runs", "choice", "reads", "distances")
        )
        rows = decodes.read((folder / "decodes.csv").read_text(encoding="utf-8"))
        frame = pd.DataFrame(rows).drop(columns="weights")
        keys = ["run", *CHAIN, "quality"]
        means = frame.groupby(keys)[["bpp", "psnr", "ms_ssim", "lpips", "seconds"]].mean()
        means["photos"] = frame.groupby(keys)["image"].count()
        table = means.reset_index().merge(distances.drop(columns="weights"), "left", on=keys)
        kept = ["run", "decoder", "sigma_blur_max", "rho", "seed", "init"]
        table = table.merge(runs[kept], "left", on="run")
        untrained = table["run"].str.partition("-")[0].where(table["run"].str.startswith(SILENT))
        table["decoder"] = table["decoder"].fillna(untrained).fillna(DIRECT)
        table["init"] = table["init"].fillna("")
        about = json.loads((folder / "about.json").read_text(encoding="utf-8"))
        judged = choice.groupby("run")["lpips"].mean()
        sigmas = runs.set_index("run")["sigma_blur_max"]
        best = judged[sigmas[judged.index] > 0].idxmin()
        blur, tuned = float(sigmas[best]), str(judged.idxmin())
        return cls(table, frame, choice, reads, runs, about, blur, tuned)

    @property
    def qualities(self) -> list[float]:
        return sorted(self.table["quality"].unique())

    @property
    def usual(self) -> dict[str, Any]:
        """Solver, spacing and start_scale of every chain but those that compare them."""
        choosing = self.about["plan"]["choosing"]
        return {name: choosing[name] for name in CHAIN if name != "steps"}

    def _usual(self, rows: pd.DataFrame) -> pd.DataFrame:
        return rows[(rows[[*self.usual]] == pd.Series(self.usual)).all(axis=1)]

    def group(self, decoder: str, quality: float) -> pd.DataFrame:
        """The rows of all seeds of a decoder, of "blur" the best, sampled as usual."""
        table = self.table[(self.table["quality"] == quality) & (self.table["init"] == "")]
        table = table[table["decoder"] == decoder]
        if decoder == "blur":
            table = table[table["sigma_blur_max"] == self.blur]
        return self._usual(table) if decoder in ("blur", "isotropic") else table

    def over_steps(self, decoder: str, quality: float, column: str = "lpips") -> dict[int, Spread]:
        """A column by the number of steps, over all seeds."""
        by_steps = self.group(decoder, quality).groupby("steps")[column]
        return {int(steps): Spread.of(values) for steps, values in by_steps}

    def duels(self) -> list[Duel]:
        """Blur against isotropic at every quality and number of steps that both have."""
        found = []
        for quality in self.qualities:
            groups = [self.group(decoder, quality) for decoder in ("blur", "isotropic")]
            for steps in sorted(set(groups[0]["steps"]) & set(groups[1]["steps"])):
                found.append(self._duel(quality, int(steps), *groups))
        return found

    def _duel(
        self, quality: float, steps: int, blur: pd.DataFrame, isotropic: pd.DataFrame
    ) -> Duel:
        pair = [group[group["steps"] == steps] for group in (blur, isotropic)]
        ours, theirs = (rows["lpips"] for rows in pair)
        same = (self.decodes["quality"] == quality) & (self.decodes["steps"] == steps)
        every = self._usual(self.decodes[same])
        a, b = (
            every[every["run"].isin(rows["run"])].groupby("image")["lpips"].mean() for rows in pair
        )
        return Duel(
            quality, steps, Spread.of(ours), Spread.of(theirs),
            difference=float(ours.mean() - theirs.mean()),
            silent=self._silent(self.blur, quality, steps) - self._silent(0, quality, steps),
            clear=_apart(ours, theirs),
            photos=int((a < b).sum()), total=len(a),
        )  # fmt: skip

    def against_one_step(self) -> list[OneStep]:
        """Whether a chain beats the decoder without one, at every quality by every measure."""
        distances = [name for name in self.table.columns if name.startswith(("FD-", "FID"))]
        return [
            self._against_one_step(quality, measure)
            for quality in self.qualities
            for measure in ("lpips", *distances)
        ]

    def _against_one_step(self, quality: float, measure: str) -> OneStep:
        once = self.group("deterministic", quality)[measure]
        chains = pd.concat([self.group(decoder, quality) for decoder in ("blur", "isotropic")])
        by_chain = chains.groupby(["decoder", "steps"])[measure]
        decoder, steps = by_chain.mean().idxmin()
        best, digits = by_chain.get_group((decoder, steps)), 4 if measure == "lpips" else 3
        return OneStep(
            quality, measure, Spread.of(once, digits), Spread.of(best, digits), decoder, int(steps),
            direct=float(self.group(DIRECT, quality)[measure].mean()), clear=_apart(best, once),
        )  # fmt: skip

    def _silent(self, sigma: float, quality: float, steps: int) -> float:
        """LPIPS of a chain without a network; nan if there is none."""
        table = self._usual(self.table)
        table = table[(table["quality"] == quality) & (table["steps"] == steps)]
        return float(table[table["run"] == silent(sigma)]["lpips"].mean())

    def by_reading(self) -> pd.DataFrame:
        """What the squared error of the network's output becomes with the noisy picture of another
        photo, by decoder and log-SNR: own and other, `Spread` over the seeds; silent, that of 0."""
        table = self.reads.merge(self.runs[["run", "decoder"]], on="run")
        found = {
            key: {name: Spread.of(part[name], 3) for name in ("silent", "own", "other")}
            for key, part in table.groupby(["decoder", "logsnr"])
        }
        return pd.DataFrame.from_dict(found, orient="index")

    def by_sigma(self) -> pd.DataFrame:
        """Every blur's first seed at the first quality: LPIPS by σ_B,max and steps, and what the
        held-out photos said of it."""
        first = self.runs["seed"].iloc[0]
        table = self._usual(self.table)
        table = table[
            (table["quality"] == self.about["plan"]["qualities"][0])
            & table["decoder"].isin(["isotropic", "blur"])
            & (table["seed"] == first)
            & (table["init"] == "")
            & table["steps"].isin(self.about["plan"]["steps_of_rest"])
        ]
        wide = table.pivot(index="sigma_blur_max", columns="steps", values="lpips")
        judged = self.choice.merge(self.runs[["run", "sigma_blur_max"]], on="run")
        wide.insert(0, "held out", judged.groupby("sigma_blur_max")["lpips"].mean())
        return wide

    def by_rho(self) -> pd.DataFrame:
        """The run with the lowest LPIPS and, from it, the runs trained on with each ρ: LPIPS, PSNR
        and distances by (init, ρ) and steps; no init is the start itself."""
        quality, steps = (self.about["plan"][name] for name in ("qualities", "steps_of_rest"))
        table = self._usual(self.table)
        table = table[(table["init"] == self.tuned) | (table["run"] == self.tuned)]
        table = table[(table["quality"] == quality[0]) & table["steps"].isin(steps)]
        names = [name for name in table.columns if name.startswith(("FD-", "FID"))]
        columns = ["lpips", "psnr", *names]
        return table.pivot(index=["init", "rho"], columns="steps", values=columns)

    def by_solver(self) -> pd.DataFrame:
        """LPIPS of the first seeds by decoder, solver, spacing and start_scale, over steps, on the
        photos that all of these were measured on."""
        counts = self.decodes.groupby("image")["solver"].nunique()
        common = self.decodes[self.decodes["image"].isin(counts[counts == counts.max()].index)]
        first = self.runs["seed"].iloc[0]
        pair = self.runs[
            (self.runs["seed"] == first)
            & (self.runs["init"] == "")
            & self.runs["sigma_blur_max"].isin([0.0, self.blur])
            & (self.runs["decoder"] != "deterministic")
        ]
        rows = common.merge(pair[["run", "decoder"]], on="run")
        rows = rows[
            rows["steps"].isin(self.about["plan"]["solver_steps"])
            & (rows["quality"] == self.about["plan"]["qualities"][0])
        ]
        return rows.pivot_table(
            index=["decoder", "solver", "spacing", "start_scale"], columns="steps", values="lpips"
        )


def _apart(a: pd.Series, b: pd.Series) -> bool:
    """Whether every seed of one is better than every seed of the other; never with a single one."""
    return min(len(a), len(b)) > 1 and bool(a.max() < b.min() or b.max() < a.min())
