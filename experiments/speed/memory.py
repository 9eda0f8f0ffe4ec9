"""What the command takes for photos from 0.4 to 64 megapixels: peak memory and processor time.

One embedded photo, enlarged; each command is a process of its own, on one thread. With another
checkout the same is asked of it in turn, so that seconds compare.

    python -m experiments.speed.memory results/checks/memory.json [--against CHECKOUT]
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
from PIL import Image

from blurlib import checkpoints, datasets, images
from experiments.record import ROOT, circumstances, write_json

OTHERS_UP_TO = 25  # megapixels; it is the new code whose memory is asked for beyond
SIZES = {"0.4": (768, 512), "6": (3000, 2000), "24": (6000, 4000), "64": (9798, 6532)}
PHOTO = "coffee"
COMMAND = [sys.executable, "-c", "from blurlib.cli import main; main()"]
# A process inherits the peak of the one that started it: this small one starts the command.
STARTER = """
import json, os, sys
child = os.posix_spawn(sys.argv[1], sys.argv[1:], os.environ)
_, status, used = os.wait4(child, 0)
json.dump([status, used.ru_maxrss, used.ru_utime, used.ru_stime], sys.stdout)
"""


def run(checkout: Path, command: list[str]) -> dict:
    """Peak memory in GB, None where the command fails, and seconds of processor time."""
    paths = {"PYTHONPATH": str(checkout), "OMP_NUM_THREADS": "1"}
    starter = [sys.executable, "-IS", "-c", STARTER, *command]
    start = time.perf_counter()
    out = subprocess.run(
        starter, env=os.environ | paths, cwd=checkout, check=True, stdout=subprocess.PIPE
    ).stdout
    wall = time.perf_counter() - start
    status, peak, user, system = json.loads(out[out.rindex(b"[") :])
    if status:
        return {"peak_gb": None}  # refused, or out of memory
    peak *= 1 if sys.platform == "darwin" else 1024
    numbers = {"peak_gb": peak / 1e9, "user_s": user, "system_s": system, "wall_s": wall}
    return {name: round(value, 3) for name, value in numbers.items()}


def measured(sizes: list[str], decoders: list[str], checkouts: dict[str, Path]) -> list[dict]:
    rows = []

    def add(work: str, pixels: float, command: list[str], kept: bool = True) -> None:
        for name, checkout in checkouts.items():
            if name != "this" and pixels > OTHERS_UP_TO:
                continue
            where = [part.replace("CODE", name) for part in command]
            row = {"code": name, "work": work, "megapixels": pixels} | run(checkout, where)
            print(row, file=sys.stderr, flush=True)
            if kept:
                rows.append(row)

    add("import torch", 0, [sys.executable, "-c", "import torch"])
    add("import blurlib.codec", 0, [sys.executable, "-c", "import blurlib.codec"])
    with tempfile.TemporaryDirectory() as folder:
        photo, coded, back = (f"{folder}/{name}" for name in ("in.ppm", "CODE.blur", "CODE.ppm"))
        picture = images.to_pillow(datasets.embedded(PHOTO))
        for name in sizes:
            width, height = SIZES[name]
            picture.resize((width, height), Image.Resampling.BICUBIC).save(photo)
            pixels = round(width * height / 1e6, 2)
            compress = [*COMMAND, "compress", photo, coded, "--force"]
            add("compress", pixels, compress)
            for decoder in decoders:
                if decoder == "diffusion":  # which is for the files of another codec
                    of_it = [*compress, "--model", checkpoints.PERCEPTUAL]
                    add("compress for diffusion", pixels, of_it, kept=False)
                how = ["--decoder", decoder, "--force"]
                add(decoder, pixels, [*COMMAND, "decompress", coded, back, *how])
    return rows


def slopes(rows: list[dict]) -> list[dict]:
    """Peak memory as a line over megapixels, per kind of work."""
    kinds = dict.fromkeys((row["code"], row["work"]) for row in rows if row["megapixels"])
    found = []
    for code, work in kinds:
        own = [r for r in rows if (r["code"], r["work"]) == (code, work) and r["peak_gb"]]
        if len(own) > 1:
            x, y = ([row[key] for row in own] for key in ("megapixels", "peak_gb"))
            slope, start = np.polyfit(x, y, 1)
            line = {"gb": round(start, 3), "mb_per_megapixel": round(1000 * slope, 1)}
            found.append({"code": code, "work": work} | line)
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("out", type=Path)
    parser.add_argument("--against", type=Path, help="another checkout")
    parser.add_argument("--sizes", nargs="+", choices=SIZES, default=list(SIZES))
    parser.add_argument(
        "--decoders", nargs="+", choices=["direct", "diffusion"], default=["direct", "diffusion"]
    )
    options = parser.parse_args()
    checkouts = {"this": ROOT} | ({"other": options.against} if options.against else {})
    rows = measured(options.sizes, options.decoders, checkouts)
    command = f"python -m experiments.speed.memory {options.out}"
    command += " --against CHECKOUT" * ("other" in checkouts)
    content = circumstances(command, 1) | {"model": checkpoints.CODEC, "photo": PHOTO}
    write_json(options.out, content | {"lines": slopes(rows), "rows": rows})


if __name__ == "__main__":
    main()
