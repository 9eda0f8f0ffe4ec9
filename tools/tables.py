"""Fill in the numbers: tables, figures and every block between markers come from results/.

    python tools/tables.py            write what is stale
    python tools/tables.py --check    name each file that is stale; exit code 1 if any

Each table is a file in results/tables and, where README, a page of the book or a model card wants
it, a block between `<!-- table: NAME -->` and `<!-- /table -->`. Figures are in book/figures.
"""

import hashlib
import json
import re
import sys
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pandas as pd

from blurlib import plotting
from blurlib.ablation import entropy_report
from blurlib.ablation.common import Spread
from blurlib.ablation.entropy_report import Ablation
from blurlib.ablation.verdict import Comparison, in_words
from blurlib.codec import zoo
from blurlib.evaluation import learning, published, report, results
from blurlib.evaluation.perception import names as names_of

ROOT = Path(__file__).parents[1]
KODAK = Path("results/measured/kodak")
BLUR = Path("results/ablation/diffusion")
PLACES = ("README.md", "book/*.md", "blurlib/checkpoints/*.md")
BLOCK = re.compile(r"(<!-- table: (?P<name>[\w-]+) -->\n).*?(<!-- /table -->)", re.DOTALL)
RATES = (0.1, 0.8)
PERCEPTION_RATES = (0.15, 0.3, 0.45)


def rate_distortion(root: Path, codec: str) -> str:
    """Mean over the set at each quality."""
    table = results.averages(results.read(root / KODAK / f"{codec}.json"))
    with_lpips = bool(table["lpips"].notna().all())
    head = ["quality", "bpp", "PSNR (dB)", "MS-SSIM", "MS-SSIM (dB)", *["LPIPS"] * with_lpips]
    rows = [
        [f"{quality:g}", f"{row.bpp:.3f}", f"{row.psnr:.2f}", f"{row.ms_ssim:.4f}",
         f"{row.ms_ssim_db:.2f}", *[f"{row.lpips:.3f}"] * with_lpips]
        for quality, row in table.iterrows()
    ]  # fmt: skip
    return _markdown(head, rows)


def bd_rates(root: Path, codec: str) -> str:
    """BD-rate against each baseline within 0.1 to 0.8 bpp."""
    rows = []
    for anchor in ("jpeg", "webp", "avif"):
        curves = [
            results.averages(results.read(root / KODAK / f"{name}.json"))
            for name in (anchor, codec)
        ]
        row = [anchor.upper().replace("WEBP", "WebP")]
        for column in ("ms_ssim_db", "psnr"):
            points = [curve[["bpp", column]].to_numpy() for curve in curves]
            row.append(f"{report.bd(*points, rates=RATES)}")
        rows.append(row)
    low, high = curves[1]["bpp"].min(), curves[1]["bpp"].max()
    return _markdown(["against", "MS-SSIM", "PSNR"], rows) + (
        f"\nOnly quality that both codecs reach counts. Ours spans {low:.3f} to {high:.3f} bpp, so "
        "nothing is said of rates outside that.\n"
    )


def nearer_photos(root: Path, direct: str, other: str) -> str:
    """On how many photos the other decoder has the lower LPIPS, at each quality that it decoded."""
    rows = []
    files = [results.read(root / KODAK / f"{name}.json") for name in (direct, other)]
    lpips = [pd.Series({(r.quality, r.image): r.lpips for r in file.rows}) for file in files]
    for quality, own in lpips[1].groupby(level=0):
        beside = lpips[0].reindex(own.index)
        rows.append(
            [f"{quality:g}", f"{beside.mean():.4f}", f"{own.mean():.4f}",
             f"{(own < beside).sum()} of {len(own)}"]
        )  # fmt: skip
    return _markdown(["quality", "LPIPS, direct", "LPIPS, diffusion", "photos nearer"], rows)


def round_trip(root: Path, model: str) -> str:
    """How many files a new process decodes to the same ŷ, and how close the estimate is."""
    rows = _check(root, f"roundtrip-{model}")["rows"]
    equal = sum(row["equal"] for row in rows)
    worst = max(abs(r["bytes"] - r["estimated_bytes"]) for r in rows)
    ratio = max(abs(r["bytes"] / r["estimated_bytes"] - 1) for r in rows)
    return (
        f"{equal} of {len(rows)} files decode to the same ŷ in a new process; a file differs from "
        f"its estimate by at most {worst:.0f} bytes ({100 * ratio:.2f} %).\n"
    )


def laplacian(root: Path, model: str) -> str:
    """A_j, σ_j and half-width that each channel group of a model has learned."""
    rows = []
    for j, group in enumerate(zoo.load(model).entropy.groups):
        position = group.global_.position
        values = (position.amplitude, position.sigma, position.half_width)
        rows.append([f"{j + 1}", *(f"{value.item():.2f}" for value in values)])
    return _markdown(["group", "A_j", "σ_j", "half-width (latent positions)"], rows)


def against_vtm(root: Path) -> str:
    """BD-rate of everything against the published VTM-9.1: measured here first, then published."""
    frame = report.against_vtm(root / "results")
    head = ["codec", "points", "trained for", "MS-SSIM", "PSNR", "its rates (bpp)"]
    rows = [
        [row.codec, row.origin, row.training or "–", f"{row.ms_ssim}", f"{row.psnr}",
         f"{row.bpp_low:.2f}–{row.bpp_high:.2f}"]
        for row in frame.itertuples()
    ]  # fmt: skip
    return _markdown(head, rows)


def against_vtm_methods(root: Path) -> str:
    """The same with Akima and PCHIP side by side, measured codecs only."""
    frame = report.against_vtm(root / "results")
    head = ["codec", *(f"{m} ({i})" for m in ("MS-SSIM", "PSNR") for i in ("Akima", "PCHIP"))]
    rows = [
        [row.codec, *(_percent(v) for span in (row.ms_ssim, row.psnr) for v in span[:2])]
        for row in frame[frame["origin"] == "measured"].itertuples()
    ]
    return _markdown(head, rows)


def headline(root: Path) -> str:
    """The paper's claim beside what was measured here and what published codecs reach."""
    frame = report.against_vtm(root / "results")
    ours = frame[(frame["origin"] == "measured") & (frame["training"] != "")]
    peers = [("ELIC", "mse"), ("bmshj2018-hyperprior", "ms-ssim"), ("cheng2020-anchor", "ms-ssim")]
    theirs = [
        row
        for row in frame[frame["origin"] == "published"].itertuples()
        if (row.codec, row.training) in peers
    ]
    rows = [["the paper", "as reported", "not known", f"{report.HEADLINE:+.0f} %"]]
    rows += [
        [row.codec, row.origin, row.training, f"{row.ms_ssim}"]
        for row in (*ours.itertuples(), *theirs)
    ]
    return _markdown(["codec", "points", "trained for", "MS-SSIM BD-rate over VTM"], rows)


def perception(root: Path) -> str:
    """LPIPS and Fréchet distances of every codec at equal rates, and the number of patches."""
    codecs = report.measured("kodak", root / "results")
    networks = sorted({d.network for codec in codecs for d in codec.results.distances})
    names = [names_of(network).frechet for network in networks]
    frame = report.at_rates(["lpips", *names], PERCEPTION_RATES, root / "results")
    head = ["codec", *(f"{_title(c)} at {bpp:g}" for c, bpp in frame.columns)]
    rows = [
        [codec, *("–" if np.isnan(v) else f"{v:.3f}" for v in values)]
        for codec, values in zip(frame.index, frame.to_numpy(), strict=True)
    ]
    patches = sorted({d.patches for codec in codecs for d in codec.results.distances})
    return _markdown(head, rows) + (
        f"\nAt {', '.join(f'{bpp:g}' for bpp in PERCEPTION_RATES)} bpp, between the measured "
        f"points linear in log rate; – where a codec does not reach the rate. The distances are "
        f"over {', '.join(map(str, patches))} patches.\n"
    )


def noise(root: Path) -> str:
    """What grey noise on the direct reconstruction does to the perceptual measures."""
    checks = _check(root, "perception")
    columns = ["lpips", "FD-AlexNet", "psnr"]
    rows = [[f"{r['level']}", *(f"{r[c]:.3f}" for c in columns)] for r in checks["noise"]]
    return _markdown(["noise (levels)", "LPIPS", "FD-AlexNet", "PSNR (dB)"], rows)


def portability(root: Path) -> str:
    """Decodes of the same files under every setting, each in every combination with the others."""
    checks = _check(root, "portability")
    frame = pd.DataFrame(checks["matrix"])
    names = {
        "device": "device {}", "threads": "threads: {}", "batch": "batch of {}",
        "channels_last": "channels-last: {}", "onednn": "oneDNN: {}",
        "deterministic": "deterministic algorithms: {}",
    }  # fmt: skip
    rows = []
    for setting, name in names.items():
        others = [other for other in names if other != setting]
        usual = (frame[others] == frame[others].iloc[0]).all(axis=1)
        for value, own in frame.groupby(setting):
            shown = {True: "on", False: "off"}[value] if isinstance(value, bool) else value
            rows.append([name.format(shown), *_decodes(own, own[usual[own.index]])])
    rows.append(["**all of these**", *_decodes(frame, frame)])
    for row in checks["elsewhere"]:
        own = pd.DataFrame([row])
        name = ", ".join(f"{k} {v}" for k, v in row["environment"].items())
        name = name or f"PyTorch {row['torch'].partition('+')[0]}"
        rows.append([f"new process, {name}", *_decodes(own, own)])
    golden = {row["golden"] for row in checks["elsewhere"]}
    errors = sum(row["golden_errors"] for row in checks["elsewhere"])
    head = ["setting", "decodes", "another ŷ", "checksum errors", "largest move, alone"]
    return _markdown(head, rows) + (
        f"\nOtherwise PyTorch {checks['versions']['torch'].partition('+')[0]}. CUDA was "
        f"{'part of it' if checks['cuda'] else 'not run: there was no such device'}. The new "
        f"processes also decoded the {max(golden)} files of `tests/golden`, with {errors} errors.\n"
    )


def _decodes(frame: pd.DataFrame, alone: pd.DataFrame) -> list[str]:
    counts = [f"{frame[c].sum():,}" for c in ("decodes", "mismatches", "checksum_errors")]
    largest = alone["largest_delta"].max()
    return [*counts, f"{largest:.1e}" if largest else "0"]


def portability_noise(root: Path) -> str:
    """Failures under rounding noise, what the bound expects, and the bound for one photo."""
    checks = _check(root, "rounding-noise")
    rows = [
        [row["precision"], f"2^{int(np.log2(row['ulps']))}" if row["ulps"] > 1 else "1",
         f"{row['decodes']:,}", f"{row['failures']:,}", _short(row["expected"]),
         f"{row['unnoticed']}", f"{row['failures_without_noise']}"]
        for row in checks["noise"]
    ]  # fmt: skip
    head = ["precision", "noise (ulps)", "decodes", "failed", "expected by the bound", "unnoticed",
            "failed without noise"]  # fmt: skip
    double, single = (
        next(r for r in checks["noise"] if r["ulps"] == 1 and r["precision"] == precision)
        for precision in ("float64", "float32")
    )
    cost = checks["time"]
    return _markdown(head, rows) + (
        f"\nA photo of 768×512 rounds D = {double['decisions_768x512']:,} values. In float64 one "
        f"ulp moves them by {double['mean_delta']:.1e} of a grid step on average and by "
        f"{double['largest_delta']:.1e} at most; the nearest value of all these files is "
        f"{double['nearest_boundary']:.1e} from its boundary. So at most one such photo in "
        f"{1 / double['bound_768x512']:.0e} fails. In float32 the same bound is "
        f"{_short(single['bound_768x512'])}. The bound takes positions as uniform: within 1/64 of "
        f"a boundary lie {double['near_over_uniform']:.2f} times as many values as that would "
        f"have.\n\nPrice: {cost['float64_s']:.2f} s to ŷ in float64, "
        f"{cost['float32_s']:.2f} s in float32, {cost['ratio']:.2f} times as long.\n"
    )


def decode_speed(root: Path) -> str:
    """Decoding a 768×512 photo beside CompressAI's raster-scan model."""
    checks = _check(root, "decode-speed")
    names = {
        "ours": checks["codec"],
        "mbt2018": f"mbt2018 ({checks['mbt2018']['weights']} weights)",
    }
    rows = [
        [name, f"{checks[key]['bytes']:,}", f"{checks[key]['symbols']:,}",
         f"{checks[key]['runs_of']['g_ep']:,}", f"{checks['seconds'][f'{key}_y_hat_s']:.2f}",
         f"{checks['seconds'][f'{key}_full_s']:.2f}"]
        for key, name in names.items()
    ]  # fmt: skip
    rows.append(["ratio", *[""] * 3, *(f"{checks[f'ratio_{k}']:.1f}" for k in ("y_hat", "full"))])
    head = ["codec", "bytes", "symbols", "runs of the parameter network", "to ŷ (s)",
            "to the picture (s)"]  # fmt: skip
    return _markdown(head, rows)


def _check(root: Path, name: str) -> dict:
    return json.loads((root / f"results/checks/{name}.json").read_text(encoding="utf-8"))


def _short(value: float) -> str:
    return f"{value:.1e}" if value < 0.01 else f"{value:.2g}" if value < 10 else f"{value:.0f}"


def against_published(root: Path) -> str:
    """JPEG and WebP as measured here against the same codecs as measured by others."""
    frame = report.against_published(root / "results")
    rows = [
        [row.codec, row.settings, f"{row.ms_ssim}", f"{row.psnr}"] for row in frame.itertuples()
    ]
    return _markdown(["codec", "measured here with", "MS-SSIM", "PSNR"], rows)


# The ablation of the entropy model


def ablation(root: Path, table: Callable[[Ablation], str]) -> str:
    """A table of the ablation; what its folder does not have yet is said to be missing."""
    found = entropy_report.read(root / "results/ablation/entropy")
    return table(found) or "The committed runs do not have this.\n"


def ablation_setup(found: Ablation) -> str:
    """What was trained and coded, in a sentence each."""
    setup, first = found.setup, found.runs[0]
    seeds = sorted({run["seed"] for run in found.runs})
    model = zoo.name_of(bytes.fromhex(setup["codec"][:8])) or f"the codec {setup['codec'][:8]}"
    photos = found.kodak["image"].nunique()
    which = f"{photos} photos of Kodak" if photos < 24 else "the 24 photos of Kodak"
    return (
        f"{len(found.titles)} variants with {len(seeds)} {'seed' if len(seeds) == 1 else 'seeds'} "
        f"each, on the frozen transforms of {model}: {setup['steps']:,} steps of {setup['batch']} "
        f"latents, drawn from {setup['crops']:,} crops of {setup['crop']}×{setup['crop']} pixels. "
        f"Coded: {which}, at the qualities {', '.join(f'{q:g}' for q in setup['qualities'])}.\n\n"
        f"Command: `{first['command']}`. Commit {first['commit'][:12]}; {first['device']}; "
        f"PyTorch {first['versions']['torch']}.\n"
    )


def ablation_variants(found: Ablation) -> str:
    """What every variant saves and costs."""
    head = ["entropy model", "seeds", "passes", "weights", "over hyperprior", "the same in PSNR",
            "over local context", "training step (s)", "encode (s)", "decode (s)"]  # fmt: skip
    rows = [
        [row.title, f"{row.seeds}", f"{row.passes}", f"{row.parameters:,}",
         f"{row.over_hyperprior}", f"{row.over_hyperprior_psnr}", f"{row.over_local}",
         f"{row.step_s:.2f}", f"{row.encode_s:.2f}", f"{row.decode_s:.2f}"]
        for row in entropy_report.contributions(found).itertuples()
    ]  # fmt: skip
    return _markdown(head, rows)


def ablation_verdicts(found: Ablation) -> str:
    """The sentences that follow from the numbers."""
    return "".join(f"- {line}\n" for line in entropy_report.verdicts(found))


def ablation_positions(found: Ablation) -> str:
    """A_j, σ_j and half-width of the full variant."""
    rows = [
        [f"{group}", f"{row.amplitude}", f"{row.sigma}", f"{row.half_width}"]
        for group, row in entropy_report.learned(found).iterrows()
    ]
    return _markdown(["group", "A_j", "σ_j", "half-width (latent positions)"], rows)


def ablation_zeroed(found: Ablation) -> str:
    """Real bytes of the full variant without its transformer."""
    rows = [
        [zeroed, f"{quality:g}", f"{row.more}", f"{row.grown} of {row.files}"]
        for (zeroed, quality), row in entropy_report.zeroing(found).iterrows()
    ]
    return _markdown(["put to 0", "quality", "bytes", "files that grow"], rows)


def ablation_sizes(found: Ablation) -> str:
    """What the full variant saves at several sizes of the same photos."""
    rows = [
        [f"{size:g}", f"{row.photos}", f"{row.bpp:.3f}", f"{row.over_hyperprior}",
         f"{row.over_local}"]
        for size, row in entropy_report.sizes(found).iterrows()
    ]  # fmt: skip
    head = ["megapixels", "photos", "bpp", "bytes over hyperprior", "bytes over local context"]
    return _markdown(head, rows)


def ablation_bits(found: Ablation) -> str:
    """Where the bits of the full variant go."""
    frame = entropy_report.bits(found)
    rows = [
        [f"{quality:g}", f"{row.sum() / 8e3:.1f}", *(f"{v:.1f} %" for v in 100 * (row / row.sum()))]
        for quality, row in frame.iterrows()
    ]
    return _markdown(["quality", "kB", *frame.columns], rows)


def training_speed(root: Path, machine: str) -> str:
    """Images per second of every way to train, beside our loop in the same round."""
    content = _check(root, f"training-speed-{machine}")
    frame = pd.DataFrame(content["rows"])
    names = list(dict.fromkeys(frame["loop"]))
    speed, cpu = (
        frame.pivot(index="round", columns="loop", values=column)[names]
        for column in ("images_per_second", "cpu_seconds_per_image")
    )
    beside, beside_cpu = speed.div(speed["blurlib"], axis=0), cpu.div(cpu["blurlib"], axis=0)
    rows = [
        [name, *(_range(table[name]) for table in (speed, beside, beside_cpu))] for name in names
    ]
    head = ["loop", "images/s", "images/s, times ours", "processor time per image, times ours"]
    of = content["settings"]
    busy = " and ".join(f"{100 * v:.0f} % in {k}" for k, v in content["busy"].items())
    gain, gain_cpu = 1 / beside["compressai"], beside_cpu["compressai"]
    return _markdown(head, rows) + (
        f"\n{content['device']}: batch {of['batch']}, {of['crop']} px, {of['precision']}, "
        f"{len(speed)} rounds: medians, and lowest to highest round. Processor time is that of the "
        f"training process, without workers. Ours makes {_range(gain)} times as many images per "
        f"second as CompressAI's loop, which takes {_range(gain_cpu)} times our processor time. "
        f"Operators were running for this share of the time: {busy}.\n"
    )


def _range(values: pd.Series) -> str:
    return f"{values.median():.2f} ({values.min():.2f}–{values.max():.2f})"


def every_average(root: Path) -> str:
    """CSV: every codec measured on any set, its averages at each quality."""
    frames = []
    for folder in sorted(path for path in (root / "results/measured").iterdir() if path.is_dir()):
        for codec in report.measured(folder.name, root / "results"):
            frame = codec.table.reset_index()
            frame.insert(0, "codec", codec.results.codec)
            frame.insert(0, "set", folder.name)
            frames.append(frame)
    return pd.concat(frames).to_csv(index=False, float_format="%.6g", lineterminator="\n")


def training_runs(root: Path) -> dict[str, pd.DataFrame]:
    """The logs of the codecs that ship, in short, by name."""
    files = sorted((root / "results/training").glob("*.csv"))
    logs = {path.stem: pd.read_csv(path) for path in files}
    return {name: log for name, log in logs.items() if "distortion" in log}


def trained(root: Path) -> str:
    """What the training of each codec took, and what its loss would be after ten times as much."""
    rows = []
    for name, log in training_runs(root).items():
        found = learning.forecast(log)
        rows.append(
            [name, f"{log['step'].iloc[-1]:,}", f"{log['seconds'].iloc[-1] / 3600:.1f}",
             f"{found.now:.3f}", f"{log['loss'].tail(5).mean():.3f}",
             f"{found.floor:.2f} + {found.scale:.2f} n^-{found.exponent:.2f}",
             _percent(100 * (found.tenfold / found.now - 1)), _percent(100 * found.missed)]
        )  # fmt: skip
    head = ["weights", "steps", "hours", "loss at the peak rate", "loss at the end", "law",
            "after ten times the steps", "law of the first half"]  # fmt: skip
    return _markdown(head, rows)


def training_panels(root: Path) -> list[plotting.Lines]:
    """Loss over steps, and the law that it follows up to ten times as many."""
    panels = []
    for name, log in training_runs(root).items():
        law, step = learning.forecast(log), log["step"].to_numpy()
        more = step[-1] * np.geomspace(1, 10, 20)[1:]
        fitted = [law.at(n) if n > learning.WARM * step[-1] else np.nan for n in (*step, *more)]
        curves = {"loss": [*log["loss"], *[np.nan] * len(more)], "power law": fitted}
        panels.append(
            plotting.Lines([*step.tolist(), *more.tolist()], curves, "steps", "loss", name, "log")
        )
    return panels


def blur(root: Path, table: Callable[[Comparison], str]) -> str:
    """A table of the comparison of diffusions; until that is made, what makes it."""
    if not (root / BLUR / "about.json").is_file():
        return "Not measured yet: `blurlib ablate diffusion` makes this.\n"
    return table(Comparison.read(root / BLUR))


def blur_setup(found: Comparison) -> str:
    """How the decoders were trained, in a sentence."""
    plan, training = found.about["plan"], found.about["plan"]["training"]
    untuned = found.runs[found.runs["init"] == ""]
    solver, spacing = found.usual
    return (
        f"{len(untuned)} runs of {training['steps']:,} steps on {training['batch']} crops of "
        f"{training['crop']}×{training['crop']} pixels, learning rate {training['lr']:g}, "
        f"ρ = {training['rho']:g}, on the frozen codec `{found.about['codec']}`; they took "
        f"{untuned['seconds'].sum() / 3600:.1f} hours ({found.about['device']}). Chains are "
        f"sampled with solver {solver} and spacing {spacing} unless a table says otherwise; "
        f"{found.decodes['image'].nunique()} photos, files of quality "
        f"{' and '.join(f'{q:g}' for q in plan['qualities'])}.\n"
    )


def blur_decoders(found: Comparison) -> str:
    """Every measure of every decoder at every number of steps."""
    distances = [c for c in found.table if c.startswith(("FD-", "KD-", "FID", "KID"))]
    columns = {"lpips": 4, **dict.fromkeys(distances, 3), "psnr": 2, "ms_ssim": 4, "seconds": 2}
    labels = {"direct": "direct", "deterministic": "deterministic", "isotropic": "isotropic"}
    labels["blur"] = f"blur, {found.blur:g} px"
    titles = {"lpips": "LPIPS", "psnr": "PSNR (dB)", "ms_ssim": "MS-SSIM", "seconds": "seconds"}
    head = ["quality", "decoder", "evaluations", *(titles.get(c, c) for c in columns)]
    rows = []
    for quality in found.qualities:
        for decoder, label in labels.items():
            for steps, group in found.group(decoder, quality).groupby("steps"):
                values = [f"{Spread.of(group[c], digits)}" for c, digits in columns.items()]
                rows.append([f"{quality:g}", label, f"{steps}", *values])
    patches = found.table["patches"].max()
    return _markdown(head, rows) + (
        f"\nMean ± standard deviation over seeds. The distances are over {patches:.0f} patches of "
        "256 × 256 pixels. Seconds are CPU time of one thread: of the direct decoder all that a "
        "file takes, of the others what they take on top.\n"
    )


def blur_duels(found: Comparison) -> str:
    """Blur against isotropic diffusion, step count by step count."""
    head = ["quality", "steps", f"blur, {found.blur:g} px", "isotropic", "difference",
            "seeds apart", "photos better with blur"]  # fmt: skip
    rows = [
        [f"{d.quality:g}", f"{d.steps}", f"{d.blur}", f"{d.isotropic}", f"{d.difference:+.4f}",
         "one seed" if d.blur.seeds == 1 else "yes" if d.clear else "no",
         f"{d.photos} of {d.total}"]
        for d in found.duels()
    ]  # fmt: skip
    return _markdown(head, rows)


def blur_sigma(found: Comparison) -> str:
    """LPIPS by the strength of the blur."""
    frame = found.by_sigma()
    head = ["σ_B,max (px)", "held-out photos", *(f"{steps} steps" for steps in frame.columns[1:])]
    rows = [[f"{sigma:g}", *(f"{v:.4f}" for v in row)] for sigma, row in frame.iterrows()]
    return _markdown(head, rows)


def blur_rho(found: Comparison) -> str:
    """LPIPS, PSNR and distance after training on with each ρ."""
    frame = found.by_rho()
    names = {"lpips": "LPIPS", "psnr": "PSNR"}
    digits = {"lpips": 4, "psnr": 2}
    head = ["ρ", *(f"{names.get(c, c)}, {steps} steps" for c, steps in frame.columns)]
    rows = [
        [f"{rho:g}", *(f"{v:.{digits.get(c, 3)}f}" for (c, _), v in row.items())]
        for rho, row in frame.iterrows()
    ]
    tuning = found.about["plan"]["tuning"]
    return _markdown(head, rows) + f"\n`{found.tuned}`, trained on for {tuning:,} steps each.\n"


def blur_solvers(found: Comparison) -> str:
    """LPIPS by solver and spacing."""
    frame = found.by_solver()
    head = ["decoder", "solver", "spacing", *(f"{steps} steps" for steps in frame.columns)]
    rows = [[*key, *(f"{v:.4f}" for v in row)] for key, row in frame.iterrows()]
    return _markdown(head, rows)


def blur_verdict(found: Comparison) -> str:
    """Whether blur helps, in words."""
    return in_words(found.duels()) + "\n"


def blur_pictures(root: Path) -> str:
    """The figures of the comparison that have been made."""
    names = {"blur-steps": "LPIPS over the number of network evaluations"}
    names |= {path.stem: "Text" for path in sorted((root / "book/figures").glob("text-*.png"))}
    files = {path.stem: path for path in (root / "book/figures").glob("*.*")}
    lines = [f"![{names[n]}](figures/{files[n].name})\n" for n in names if n in files]
    return "\n".join(lines) or "Not drawn yet.\n"


TABLES: dict[str, Callable[[Path], str]] = {
    "kodak-direct": lambda root: rate_distortion(root, "msssim-small-direct"),
    "kodak-direct-bd": lambda root: bd_rates(root, "msssim-small-direct"),
    "kodak-mse": lambda root: rate_distortion(root, "mse-small-direct"),
    "kodak-mse-bd": lambda root: bd_rates(root, "mse-small-direct"),
    "kodak-diffusion": lambda root: rate_distortion(root, "msssim-small-diffusion"),
    "kodak-nearer": lambda root: nearer_photos(
        root, "msssim-small-direct", "msssim-small-diffusion"
    ),
    "laplacian": lambda root: laplacian(root, "msssim-small"),
    "kodak-roundtrip": lambda root: round_trip(root, "msssim-small"),
    "against-vtm": against_vtm,
    "against-vtm-methods": against_vtm_methods,
    "headline": headline,
    "perception": perception,
    "noise": noise,
    "against-published": against_published,
    "trained": trained,
    "blur-setup": lambda root: blur(root, blur_setup),
    "blur-verdict": lambda root: blur(root, blur_verdict),
    "blur-duels": lambda root: blur(root, blur_duels),
    "blur-decoders": lambda root: blur(root, blur_decoders),
    "blur-sigma": lambda root: blur(root, blur_sigma),
    "blur-rho": lambda root: blur(root, blur_rho),
    "blur-solvers": lambda root: blur(root, blur_solvers),
    "ablation-entropy-setup": lambda root: ablation(root, ablation_setup),
    "ablation-entropy": lambda root: ablation(root, ablation_variants),
    "ablation-entropy-verdicts": lambda root: ablation(root, ablation_verdicts),
    "ablation-entropy-positions": lambda root: ablation(root, ablation_positions),
    "ablation-entropy-zeroed": lambda root: ablation(root, ablation_zeroed),
    "ablation-entropy-sizes": lambda root: ablation(root, ablation_sizes),
    "ablation-entropy-bits": lambda root: ablation(root, ablation_bits),
    "portability": portability,
    "portability-noise": portability_noise,
    "decode-speed": decode_speed,
    "training-speed-cpu": lambda root: training_speed(root, "cpu"),
}

# Column, axis title and the published curves drawn beside ours.
FIGURES: dict[str, tuple[str, str, Sequence[published.Entry]]] = {
    "rd-ms-ssim": ("ms_ssim_db", "MS-SSIM (dB)", report.BESIDE_MS_SSIM),
    "rd-psnr": ("psnr", "PSNR (dB)", report.BESIDE_PSNR),
    "rd-lpips": ("lpips", "LPIPS, AlexNet (lower is better)", ()),
    "rd-fd-alexnet": ("FD-AlexNet", "FD-AlexNet, 192 patches (lower is better)", ()),
}


class Figure(NamedTuple):
    """A figure's file, what is drawn in it, and how. The digest of the content stands in the file:
    the drawing itself differs between versions of matplotlib."""

    path: Path
    content: list
    draw: Callable[[], plotting.Figure]

    @property
    def digest(self) -> str:
        return hashlib.sha256(json.dumps(self.content).encode()).hexdigest()

    def is_stale(self) -> bool:
        return not self.path.is_file() or self.digest not in self.path.read_text(encoding="utf-8")

    def write(self) -> None:
        self.path.parent.mkdir(parents=True, exist_ok=True)
        self.path.write_text(plotting.to_svg(self.draw(), self.digest), encoding="utf-8")


def tables(root: Path) -> dict[Path, str]:
    """Every file of results/tables and its text."""
    folder = root / "results/tables"
    files = {folder / f"{name}.md": make(root) for name, make in TABLES.items()}
    return {**files, folder / "averages.csv": every_average(root)}


def figures(root: Path) -> Iterator[Figure]:
    """Every figure of the book that is drawn from results."""
    for name, (column, title, beside) in FIGURES.items():
        lines = report.lines(column, beside, root / "results")
        content = [[line.label, line.bpp.tolist(), line.quality.tolist()] for line in lines]
        curves = [plotting.Curve(*line) for line in lines]
        draw = partial(plotting.rate_distortion, curves, title)
        yield Figure(root / "book/figures" / f"{name}.svg", content, draw)
    panels = training_panels(root)
    content = [[panel.title, [*panel.x], panel.curves["loss"]] for panel in panels]
    yield Figure(root / "book/figures/training.svg", content, partial(plotting.lines, panels))
    if (root / BLUR / "about.json").is_file():
        panels = blur_tracks(Comparison.read(root / BLUR))
        draw = partial(plotting.over_steps, panels, "LPIPS, AlexNet (lower is better)")
        yield Figure(root / "book/figures/blur-steps.svg", [*panels.items()], draw)


def blur_tracks(found: Comparison) -> dict[str, list[plotting.Track]]:
    """LPIPS of every decoder over the number of steps, by quality."""
    labels = {"isotropic": "isotropic", "blur": f"blur, {found.blur:g} px"}
    labels |= {"deterministic": "deterministic", "direct": "direct"}
    panels = {}
    for quality in found.qualities:
        spreads = {label: found.over_steps(name, quality) for name, label in labels.items()}
        panels[f"quality {quality:g}"] = [
            plotting.Track(
                label, [*by], [s.mean for s in by.values()], [s.std for s in by.values()]
            )
            for label, by in spreads.items()
        ]
    return panels


def fill(text: str, root: Path) -> str:
    """`text` with every block regenerated."""
    makers = {**TABLES, "blur-pictures": blur_pictures}  # of what is not in results/
    return BLOCK.sub(lambda m: f"{m[1]}\n{makers[m['name']](root)}\n{m[3]}", text)


def stale(root: Path, write: bool) -> list[Path]:
    """Files that differ from what the results say; rewritten if `write`."""
    found = []
    for figure in figures(root):
        if figure.is_stale():
            found.append(figure.path)
            if write:
                figure.write()
    for path, text in tables(root).items():
        if not path.is_file() or path.read_text(encoding="utf-8") != text:
            found.append(path)
            if write:
                path.parent.mkdir(parents=True, exist_ok=True)
                path.write_text(text, encoding="utf-8")
    for pattern in PLACES:
        for path in sorted(root.glob(pattern)):
            text = path.read_text(encoding="utf-8")
            filled = fill(text, root)
            if filled != text:
                found.append(path)
                if write:
                    path.write_text(filled, encoding="utf-8")
    return found


def _title(column: str) -> str:
    return "LPIPS" if column == "lpips" else column


def _percent(value: float) -> str:
    return "n/a" if np.isnan(value) else f"{value:+.1f} %"


def _markdown(head: list[str], rows: list[list[str]]) -> str:
    """A table; nothing where it would have no rows."""
    lines = [head, ["---"] * len(head), *rows] if rows else []
    return "".join("| " + " | ".join(line) + " |\n" for line in lines)


if __name__ == "__main__":
    check = "--check" in sys.argv[1:]
    files = stale(ROOT, write=not check)
    print("\n".join(f"{'stale' if check else 'written'}: {path}" for path in files))
    sys.exit(1 if check and files else 0)
