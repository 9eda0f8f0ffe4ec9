"""Tables of results/checks: do files decode elsewhere, what does noise do, how fast is it."""

import json
from dataclasses import fields
from pathlib import Path

import numpy as np
import pandas as pd

from blurlib.codec import zoo
from blurlib.diffusion import Sampling
from tables_markdown import RAISED, markdown, power


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


def noise(root: Path) -> str:
    """What grey noise on the direct reconstruction does to the perceptual measures."""
    checks = _check(root, "perception")
    columns = ["lpips", "FD-AlexNet", "psnr"]
    rows = [[f"{r['level']}", *(f"{r[c]:.3f}" for c in columns)] for r in checks["noise"]]
    return markdown(["noise (levels)", "LPIPS", "FD-AlexNet", "PSNR (dB)"], rows)


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
        name = name or (
            f"PyTorch {row['torch'].partition('+')[0]}, constriction {row['constriction']}"
        )
        rows.append([f"new process, {name}", *_decodes(own, own)])
    golden = {row["golden"] for row in checks["elsewhere"]}
    errors = sum(row["golden_errors"] for row in checks["elsewhere"])
    head = ["setting", "decodes", "another ŷ", "checksum errors", "largest move, alone"]
    return markdown(head, rows) + (
        f"\nOtherwise PyTorch {checks['versions']['torch'].partition('+')[0]} and constriction "
        f"{checks['versions']['constriction']}. CUDA was "
        f"{'part of it' if checks['cuda'] else 'not run: there was no such device'}. The new "
        f"processes also decoded the {max(golden)} files of `tests/golden`, with {errors} errors.\n"
    )


def _decodes(frame: pd.DataFrame, alone: pd.DataFrame) -> list[str]:
    counts = [f"{frame[c].sum():,}" for c in ("decodes", "mismatches", "checksum_errors")]
    largest = alone["largest_delta"].max()
    return [*counts, power(largest) if largest else "0"]


def portability_noise(root: Path) -> str:
    """Failures under rounding noise, what the bound expects, and the bound for one photo."""
    checks = _check(root, "rounding-noise")
    rows = [
        [row["precision"], _power_of_two(row["ulps"]), f"{row['decodes']:,}",
         f"{row['failures']:,}", _short(row["expected"]), f"{row['unnoticed']}",
         f"{row['failures_without_noise']}"]
        for row in checks["noise"]
    ]  # fmt: skip
    head = ["precision", "noise (ulps)", "decodes", "failed", "expected by the bound", "unnoticed",
            "failed without noise, not counted"]  # fmt: skip
    double, single = (
        next(r for r in checks["noise"] if r["ulps"] == 1 and r["precision"] == precision)
        for precision in ("float64", "float32")
    )
    cost, codec = checks["time"], checks["codec"].removesuffix("-direct")
    one_in = float(f"{1 / double['bound_768x512']:.0e}")
    return markdown(head, rows) + (
        f"\nA photo of 768×512 rounds D = {double['decisions_768x512']:,} values. In float64 one "
        f"ulp moves them by {power(double['mean_delta'])} of a grid step on average and by "
        f"{power(double['largest_delta'])} at most; the nearest value of all these files is "
        f"{power(double['nearest_boundary'])} from its boundary. So at most one such photo in "
        f"{one_in / 1e6:,.0f} million fails. In float32 the same bound is "
        f"{_short(single['bound_768x512'])}. The bound takes positions as uniform: within 1/64 of "
        f"a boundary lie {double['near_over_uniform']:.2f} times as many values as that would "
        f"have.\n\nPrice, with `{codec}`: {cost['float64_s']:.2f} s to ŷ in "
        f"float64, {cost['float32_s']:.2f} s in float32, {cost['ratio']:.2f} times as long.\n"
    )


def _power_of_two(value: float) -> str:
    return f"2{str(int(np.log2(value))).translate(RAISED)}" if value > 1 else "1"


def _short(value: float) -> str:
    return power(value) if value < 0.01 else f"{value:.2g}" if value < 10 else f"{value:.0f}"


def decode_speed(root: Path) -> str:
    """Encoding and decoding a 768×512 photo beside CompressAI's models."""
    found = _check(root, "decode-speed")["found"]
    ours = next(iter(found.values()))["decode_s"]
    rows = [
        [name, f"{row['symbols']:,}", f"{row['passes']:,}",
         *(f"{row[f'{what}_s']:.2f}" for what in ("encode", "y_hat", "decode")),
         f"{row['decode_s'] / ours:.1f}"]
        for name, row in found.items()
    ]  # fmt: skip
    head = ["codec", "symbols", "passes", "encode (s)", "to ŷ (s)", "decode (s)",
            "decode, times ours"]  # fmt: skip
    return markdown(head, rows)


def diffusion_step(root: Path) -> str:
    """Where the time of a step of the reverse process goes."""
    content = _check(root, "diffusion-step")
    rows = [
        [f"{row['width']}×{row['height']}", row["solver"], f"{row['step_s']:.2f}",
         f"{row['network_s']:.2f}", f"{row['two_dcts_s']:.3f}",
         f"{100 * row['dcts_over_network']:.1f} %"]
        for row in content["steps"]
    ]  # fmt: skip
    head = ["picture", "solver", "step (s)", "network (s)", "two DCTs (s)", "DCTs over network"]
    of = content["tiles"]
    return markdown(head, rows) + (
        f"\nProcessor time, one thread. By itself, outside a chain, the network takes "
        f"{of['whole_s']:.1f} s for a picture of {of['width']}×{of['height']} as a whole, and "
        f"{of['tiles_s']:.1f} s on tiles of at most {of['side']} pixels a side, which it gets "
        f"where it may take {of['memory'] / 2**30:g} GiB.\n"
    )


def seams(root: Path) -> str:
    """What tiles do to the steps between neighbouring pixels."""
    content = _check(root, "seams")
    blended, abrupt = (content["seams"][name]["ratio"] for name in ("blended", "side by side"))
    return (
        f"A photo of {content['width']}×{content['height']} pixels at quality "
        f"{content['quality']:g}, decoded by `{content['codec'].removesuffix('-isotropic')}` with "
        f"the same noise whole and in blended tiles of {content['tile']}: the two differ by a PSNR "
        f"of {content['psnr between blended and whole']:.0f} dB. The mean step from a column (or "
        f"row) of pixels to the next changes by {100 * abs(blended - 1):.2f} % at most. Tiles put "
        f"side by side, to see that the measure finds seams, change it by "
        f"{100 * abs(abrupt - 1):.1f} %.\n"
    )


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
    return markdown(head, rows) + (
        f"\n{content['device']}: batch {of['batch']}, {of['crop']} px, {of['precision']}, "
        f"{len(speed)} rounds: medians, and lowest to highest round. Processor time is that of the "
        f"training process, without workers. Ours makes {_range(gain)} times as many images per "
        f"second as CompressAI's loop, which takes {_range(gain_cpu)} times our processor time. "
        f"Operators were running for this share of the time: {busy}.\n"
    )


def optimisers(root: Path) -> str:
    """What each optimiser teaches in the same processor time."""
    content = _check(root, "optimisers")
    rows = [
        [row["variant"], f"{row['lr']:g}", f"{row['steps']:,}", f"{row['seconds'] / 60:.1f}",
         f"{row['held_out']:.3f}"]
        for row in content["rows"]
    ]  # fmt: skip
    head = ["optimiser", "rate", "steps", "processor minutes", "held-out loss"]
    return markdown(head, rows) + f"\n{content['settings']['photos']} photos of 256×256.\n"


def grid(root: Path) -> str:
    """Steps across the lines of blocks, and errors at the sides, of every shipped codec."""
    named = ["lines of 16", "lines of 8", "outermost pixels"]
    rows = [
        [row["model"], f"{row['quality']:g}", *(f"{row[name]:.2f}" for name in named)]
        for row in _check(root, "grid")["rows"]
        if row["quality"]
    ]
    return markdown(["model", "quality", *named], rows)


def start(root: Path) -> str:
    """The lapped KLT beside the plain one, before any training."""
    rows = [
        ["lapped" if row["lapped"] else "plain", f"{row['step']:g}", f"{row['bpp']:.3f}",
         f"{row['psnr']:.2f} dB", f"{row['lines of 16']:.2f}", f"{row['lines of 8']:.2f}"]
        for row in _check(root, "start")["rows"]
    ]  # fmt: skip
    head = ["KLT", "step", "bpp", "PSNR", "grid of 16", "lines of 8 between"]
    return markdown(head, rows)


def sampling(root: Path, denoiser: str) -> str:
    """LPIPS and PSNR of a shipped denoiser on held-out photos, by how it is sampled."""
    content, shipped = _check(root, f"sampling-{denoiser}"), zoo.load_denoiser(denoiser).sampling
    of = content["settings"]
    noise = pd.DataFrame(content["noise"]).groupby("level")
    direct = noise.get_group(0)

    def cells(part: pd.DataFrame) -> list[str]:
        lpips = [f"{row.lpips:.4f} ({row.nearer})" for row in part.itertuples()]
        return [*lpips, f"{part['psnr'].mean() - direct['psnr'].mean():+.2f}"]

    rows = [["direct", "", "", *(f"{lpips:.4f}" for lpips in direct["lpips"]), "0"]]
    rows += [
        [f"direct + noise, {n} level{'s' * (n > 1)}", "", "", *cells(part)]
        for n, part in noise
        if n
    ]
    keys = [field.name for field in fields(Sampling)]
    for values, part in pd.DataFrame(content["rows"]).groupby(keys, sort=False):
        how = Sampling(**dict(zip(keys, values, strict=True)))
        name = how.solver + " (ships)" * (how == shipped)
        rows.append([name, f"{how.start_scale:g}", f"{how.steps}", *cells(part)])
    head = ["solver", "start", "steps", *(f"quality {q:g}" for q in of["qualities"]), "PSNR (dB)"]
    return markdown(head, rows) + (
        f"\nLPIPS of {of['photos']} photos of {of['side']}×{of['side']}; in brackets for how many "
        "of them it is lower than the direct picture's. PSNR: how much higher than the direct "
        "picture's, mean of the qualities.\n"
    )


def loss_balance(root: Path) -> str:
    """Whether denoisers read the noisy picture, by how much squared error is in their loss."""
    content = _check(root, "loss-balance")
    rows = [
        [f"{row['factor']:g}", f"{row['logsnr']:g}",
         *(f"{row[name]:.3f}" for name in ("silent", "own", "other"))]
        for row in content["rows"]
    ]  # fmt: skip
    head = ["part of the squared error", "log-SNR", "output of 0", "its noisy picture",
            "that of another photo"]  # fmt: skip
    of = content["settings"]
    return markdown(head, rows) + (
        f"\nSquared error of the output after {of['steps']:,} steps, on {of['photos']} held-out "
        "photos, one seed.\n"
    )


def _range(values: pd.Series) -> str:
    return f"{values.median():.2f} ({values.min():.2f}–{values.max():.2f})"


def _check(root: Path, name: str) -> dict:
    return json.loads((root / f"results/checks/{name}.json").read_text(encoding="utf-8"))


def promises(root: Path) -> str:
    """What the experiments of robustness tried, and what failed."""
    fuzz, matrix, kill, soak = (_check(root, n) for n in ("fuzz", "matrix", "kill", "soak"))
    tried, settings = sum(fuzz["counts"]["blur"].values()), matrix["rows"]
    decodes, wrong = (sum(row[k] for row in settings) for k in ("decodes", "other_symbols"))
    pythons = len({row["versions"]["python"] for row in settings})
    rows = [
        ["`fuzz`", f"{fuzz['cases']:,} damaged files, {tried:,} of them `.blur`",
         f"{len(fuzz['failures'])} failures"],
        ["`matrix`",
         f"{decodes:,} decodes in {len(settings)} settings under {pythons} versions of Python",
         f"{wrong} with other symbols"],
        ["`kill`",
         f"{kill['rounds']:,} rounds of compress, evaluate and train, killed at some time",
         f"{len(kill['wrong'])} with something lost or half-written"],
        ["`soak`", f"{soak['rounds']:,} pictures there and back in one process",
         f"{soak['changed']} changed; {soak['kb_per_1000_rounds']:+.0f} kB per 1,000"],
    ]  # fmt: skip
    return markdown(["experiment", "tried", "outcome"], rows)


def memory(root: Path) -> str:
    """Peak memory and processor time of the command, by megapixels and kind of work."""
    checks = _check(root, "memory")
    # Another checkout may have been measured beside this one.
    lines, own = ([r for r in checks[k] if r["code"] == "this"] for k in ("lines", "rows"))
    work = list(dict.fromkeys(line["work"] for line in lines))
    found = {(row["megapixels"], row["work"]): row for row in own}
    rows = []
    for pixels in sorted({row["megapixels"] for row in own} - {0}):
        cells = (found[pixels, kind] for kind in work)
        rows.append([f"{pixels:g}", *map(_memory_and_time, cells)])
    fits = [f"{fit['gb']:.2f} GB + {fit['mb_per_megapixel']:.0f} MB" for fit in lines]
    torch, codec = (found[0, name] for name in ("import torch", "import blurlib.codec"))
    return markdown(["megapixels", *work], [*rows, ["fit, + per megapixel", *fits]]) + (
        f"\nPeak memory of a process on one thread, and processor time. `import torch` alone takes "
        f"{_memory_and_time(torch)}, `import blurlib.codec` {_memory_and_time(codec)}.\n"
    )


def _memory_and_time(row: dict) -> str:
    if row["peak_gb"] is None:
        return "refused"
    return f"{row['peak_gb']:.2f} GB, {row['user_s'] + row['system_s']:.1f} s"
