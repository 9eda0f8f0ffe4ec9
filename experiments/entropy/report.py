"""What an ablation of the entropy model found, as data frames and sentences.

Reads a folder that `experiments.entropy.run` has filled, complete or not: a variant that is not
there is left out, and so are sentences about it.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pandas as pd

from blurlib import metrics
from blurlib.evaluation.bd_rate import bd_rate
from experiments import report
from experiments.entropy.variants import FULL, HYPERPRIOR, LOCAL
from experiments.published import increasing
from experiments.record import Spread, read_table

FOLDER = report.FOLDER / "ablation" / "entropy"
"""The committed results."""


class Ablation(NamedTuple):
    """A folder of results, read.

    Attributes:
        setup: what all runs have in common; runs: their records, from the fewest contexts to all.
        kodak, zeroed, resolution: the rows of the three tables.
    """

    setup: dict[str, Any]
    runs: list[dict[str, Any]]
    kodak: pd.DataFrame
    zeroed: pd.DataFrame
    resolution: pd.DataFrame

    @property
    def titles(self) -> dict[str, str]:
        """Title of every variant that there is, in order."""
        return {run["variant"]: run["title"] for run in self.runs}

    def of(self, variant: str) -> list[dict[str, Any]]:
        """The records of a variant, by seed."""
        return [run for run in self.runs if run["variant"] == variant]


def read(folder: Path = FOLDER) -> Ablation:
    """Read a folder; only runs that are finished count.

    Raises:
        ValueError: there are none.
    """
    folder = Path(folder)
    runs = [json.loads(path.read_text()) for path in sorted(folder.glob("runs/*.json"))]
    if not runs:
        raise ValueError(
            f"{folder}: holds no finished runs; make them with python -m experiments.entropy"
        )
    runs.sort(key=lambda run: (*_contexts(run), run["variant"], run["seed"]))
    finished = {(run["variant"], run["seed"]) for run in runs}
    tables = [read_table(folder / f"{n}.csv") for n in ("kodak", "zeroed", "resolution")]
    tables = [_finished(table, finished) for table in tables]
    return Ablation(json.loads((folder / "setup.json").read_text()), runs, *tables)


def _contexts(run: dict[str, Any]) -> tuple[int, ...]:
    """Fewest contexts first, the full model last."""
    context = run["config"]["context"]
    return (
        run["variant"] == FULL,
        sum(context[part] > 0 for part in ("channel", "local", "attention")),
        run["passes"] if context["attention"] == 0 else 0,
    )


def _finished(table: pd.DataFrame, runs: set[tuple[str, int]]) -> pd.DataFrame:
    kept = [key in runs for key in zip(table["variant"], table["seed"])] if len(table) else []  # noqa: B905
    return table[kept].reset_index(drop=True) if len(table) else table


# ---------------------------------------------------------------- BD-rates


def curve(rows: pd.DataFrame, column: str) -> np.ndarray:
    """(qualities, 2): mean bpp and mean quality in dB of one run."""
    means = rows.groupby("quality")[["bpp", "psnr", "ms_ssim"]].mean()
    means["ms_ssim_db"] = means["ms_ssim"].map(metrics.ms_ssim_db)
    return increasing(means[["bpp", column]].to_numpy())


def against(ablation: Ablation, variant: str, anchor: str, column: str = "ms_ssim_db") -> Spread:
    """BD-rate of a variant over another, of the same seed, over the seeds that both have."""
    values = by_seed(ablation, variant, anchor, column) if variant != anchor else {}
    return _over_seeds(values)


def _over_seeds(values: dict[int, float]) -> Spread:
    return Spread.of(list(values.values()), 1, percent=True)


def by_seed(
    ablation: Ablation, variant: str, anchor: str, column: str = "ms_ssim_db"
) -> dict[int, float]:
    """The BD-rates that `against` is the mean of, by seed."""
    rows = ablation.kodak
    tests, anchors = (
        {seed: curve(part, column) for seed, part in rows[rows["variant"] == name].groupby("seed")}
        for name in (variant, anchor)
    )
    shared = tests.keys() & anchors.keys()
    return {seed: bd_rate(anchors[seed], tests[seed]).value for seed in sorted(shared)}


def contributions(ablation: Ablation) -> pd.DataFrame:
    """A row per variant: what it is, what it saves, and what it costs.

    Columns: title, seeds, passes, parameters, over_hyperprior and over_local (`Spread` of BD-rates
    in MS-SSIM), over_hyperprior_psnr, step_s (CPU seconds of a training step), encode_s, decode_s
    (CPU seconds of a photo).
    """
    rows = []
    for variant, title in ablation.titles.items():
        runs = ablation.of(variant)
        photos = ablation.kodak[ablation.kodak["variant"] == variant]
        training = [run["training"] for run in runs]
        rows.append(
            {
                "variant": variant,
                "title": title,
                "seeds": len(runs),
                "passes": runs[0]["passes"],
                "parameters": training[0]["parameters"],
                "over_hyperprior": against(ablation, variant, HYPERPRIOR),
                "over_hyperprior_psnr": against(ablation, variant, HYPERPRIOR, "psnr"),
                "over_local": against(ablation, variant, LOCAL),
                "step_s": np.mean([t["cpu_seconds"] / t["steps"] for t in training]),
                "encode_s": photos["encode_s"].mean(),
                "decode_s": photos["decode_s"].mean(),
            }
        )
    return pd.DataFrame(rows).set_index("variant")


# ---------------------------------------------------------------- the transformer


def learned(ablation: Ablation, variant: str = FULL) -> pd.DataFrame:
    """A_j, σ_j and half-width: `Spread` over seeds. Index: group.

    Columns: amplitude, sigma, half_width.
    """
    rows = pd.DataFrame([row for run in ablation.of(variant) for row in run["positions"]])
    if rows.empty:
        return rows
    found = {
        group: {name: Spread.of(values, 2) for name, values in part.drop(columns="group").items()}
        for group, part in rows.groupby("group")
    }
    return pd.DataFrame.from_dict(found, orient="index").rename_axis("group")


def zeroing(ablation: Ablation) -> pd.DataFrame:
    """How many per cent more bytes the full variant takes without its transformer.

    Index: zeroed ("transformer" or "attention"), quality. Columns: more (`Spread` of the bytes of
    all photos), files, grown (how many files are larger).
    """
    if ablation.zeroed.empty:
        return pd.DataFrame()
    keys = ["variant", "seed", "image", "quality"]
    joined = ablation.zeroed.merge(ablation.kodak, on=keys, suffixes=("", "_full"))
    rows = []
    for (zeroed, quality), part in joined.groupby(["zeroed", "quality"], sort=False):
        sums = part.groupby("seed")[["bytes", "bytes_full"]].sum()
        more = Spread.of(100 * (sums["bytes"] / sums["bytes_full"] - 1), 1, percent=True)
        grown = int((part["bytes"] > part["bytes_full"]).sum())
        rows.append((zeroed, quality, more, len(part), grown))
    frame = pd.DataFrame(rows, columns=["zeroed", "quality", "more", "files", "grown"])
    return frame.set_index(["zeroed", "quality"])


def sizes(ablation: Ablation) -> pd.DataFrame:
    """How many per cent fewer bytes the full model takes at each size of the same photos.

    Index: megapixels. Columns: photos, bpp (of the full model), over_hyperprior, over_local: mean
    over the two qualities, `Spread` over seeds.
    """
    table = ablation.resolution
    if table.empty or FULL not in set(table["variant"]):
        return pd.DataFrame()
    rows = []
    for size, part in table.groupby("megapixels"):
        full = part[part["variant"] == FULL]
        pixels = (full["width"] * full["height"]).sum()
        changes = {
            anchor: Spread.of(_changes(part, anchor), 1, percent=True)
            for anchor in (HYPERPRIOR, LOCAL)
        }
        rows.append(
            (size, full["image"].nunique(), 8 * full["bytes"].sum() / pixels, *changes.values())
        )
    columns = ["megapixels", "photos", "bpp", "over_hyperprior", "over_local"]
    return pd.DataFrame(rows, columns=columns).set_index("megapixels")


def _changes(part: pd.DataFrame, anchor: str) -> pd.Series:
    """Bytes of the full model over those of the anchor in per cent, geometric mean over qualities,
    by seed."""
    sums = part.groupby(["variant", "seed", "quality"])["bytes"].sum().unstack("variant")
    if anchor not in sums:
        return pd.Series(dtype=float)
    logs = np.log(sums[FULL] / sums[anchor]).dropna().groupby("seed").mean()
    return 100 * (np.exp(logs) - 1)


def bits(ablation: Ablation, variant: str = FULL) -> pd.DataFrame:
    """Bits of a photo by quality: z, then every channel group; means over photos and seeds."""
    rows = [
        {"quality": row["quality"], "z": row["z"]}
        | {f"group {j + 1}": bits for j, bits in enumerate(row["groups"])}
        for run in ablation.of(variant)
        for row in run["bits"]
    ]
    return pd.DataFrame(rows).groupby("quality").mean() if rows else pd.DataFrame()


# ---------------------------------------------------------------- in words


def pairs(ablation: Ablation) -> list[tuple[str, str, Spread, str]]:
    """What is compared, with what, its BD-rate, and the verdict; only of variants that are there.
    Each pair differs in one part."""
    words = {
        ("uneven", "even-5"): ("uneven groups", "five even groups"),
        (LOCAL, "uneven"): ("uneven groups with local context", "uneven groups alone"),
        (FULL, LOCAL): ("all contexts", "all but the transformer"),
        (FULL, f"{FULL}-non-anchors"): ("keys at the anchors", "keys at the non-anchors"),
    }
    words |= {(FULL, other): ("Laplacian", _encoding(other)) for other in sorted(_others(ablation))}
    found = {names: against(ablation, *names) for names in words}
    return [(*words[n], spread, _verdict(spread)) for n, spread in found.items() if spread.seeds]


def verdicts(ablation: Ablation) -> list[str]:
    """What else the numbers say, one sentence each; only of variants that are there."""
    found = [*_whole(ablation), *_rank(ablation), *_half_widths(ablation), *_zeroed(ablation)]
    for anchor, words in ((HYPERPRIOR, "the hyperprior alone"), (LOCAL, "local context")):
        found += _by_size(ablation, anchor, words)
    return found


def _whole(ablation: Ablation) -> list[str]:
    found = by_seed(ablation, FULL, HYPERPRIOR)
    if not found:
        return []
    full = _over_seeds(found)
    values = ", ".join(f"{value:+.1f}" for value in found.values())
    return [
        f"After {ablation.setup['steps']:,} steps, all contexts together change the rate by "
        f"{full} over the hyperprior alone ({values} by seed)."
    ]


def _others(ablation: Ablation) -> set[str]:
    """The variants with another encoding than the full one."""
    full = {name for name in ablation.titles if name.startswith(FULL)}
    return full - {FULL, f"{FULL}-non-anchors"}


def _rank(ablation: Ablation) -> list[str]:
    """The Laplacian's place among all encodings."""
    found = {name: against(ablation, name, LOCAL) for name in (FULL, *_others(ablation))}
    found = {name: spread for name, spread in found.items() if spread.seeds}
    if FULL not in found or len(found) < 2:
        return []
    ranks = sorted(found, key=lambda name: found[name].mean)
    return [
        f"Of {len(found)} ways to tell attention about positions, one of them none at all, the "
        f"best is “{_encoding(ranks[0])}” ({found[ranks[0]]} over local context without a "
        f"transformer); the Laplacian is number {ranks.index(FULL) + 1} ({found[FULL]})."
    ]


def _half_widths(ablation: Ablation) -> list[str]:
    """Whether early groups look further than late ones, as the paper says."""
    rows = [pd.DataFrame(run["positions"]).set_index("group") for run in ablation.of(FULL)]
    if not rows:
        return []
    widths = pd.DataFrame([row["half_width"] for row in rows])
    first, last = widths.columns[0], widths.columns[-1]
    difference = Spread.of(widths[first] - widths[last], 2)
    early, late = (Spread.of(widths[group], 2) for group in (first, last))
    says = "wider than" if difference.mean > 0 else "narrower than"
    return [
        f"The Laplacian of group {first} is {says} that of group {last}: half-widths of {early} "
        f"and {late} positions{_doubt(difference)}."
    ]


def _zeroed(ablation: Ablation) -> list[str]:
    frame = zeroing(ablation)
    if frame.empty:
        return []
    rows = frame.loc["transformer"]
    more = [spread.mean for spread in rows["more"]]
    return [
        f"With the output of its transformer put to 0, the full model needs {min(more):.1f} to "
        f"{max(more):.1f} % more bytes; {rows['grown'].sum()} of {rows['files'].sum()} files grow."
    ]


def _by_size(ablation: Ablation, anchor: str, words: str) -> list[str]:
    """Whether what the full model saves over another depends on the size of the photo."""
    table = ablation.resolution
    if not {FULL, anchor} <= set(table.get("variant", ())):
        return []
    changes = {size: _changes(part, anchor) for size, part in table.groupby("megapixels")}
    small, large = min(changes), max(changes)
    difference = Spread.of(changes[large] - changes[small], 1)
    says = "more" if difference.mean < 0 else "less"
    ends = [f"{Spread.of(changes[s], 1, percent=True)} at {s:g} megapixels" for s in (small, large)]
    return [
        f"Over {words} all contexts save {says} on large photos than on small ones: "
        f"{' and '.join(ends)}{_doubt(difference)}."
    ]


def _encoding(name: str) -> str:
    return "laplacian" if name == FULL else name.removeprefix(f"{FULL}-")


def _verdict(difference: Spread) -> str:
    if difference.seeds == 1:
        return "one seed: this may be chance"
    if not difference.certain():
        return "within the spread"
    return "fewer bits" if difference.mean < 0 else "more bits"


def _doubt(difference: Spread) -> str:
    if difference.seeds == 1:
        return " (one seed: this may be chance)"
    return "" if difference.certain() else " (within the spread over seeds: this may be chance)"
