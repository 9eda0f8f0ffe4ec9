"""What do rounding errors do to decoding, in float64 and in float32?

1. Every layer's output is moved by 1 unit in the last place at random; then by more, to see whether
   failures come as often as the bound in `experiments.portability.bound` says.
2. What float64 costs: entropy decoding of a 768×512 photo in both precisions, by turns.

    python -m experiments.portability.noise results/checks/rounding-noise.json
"""

import math
import statistics
import sys
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

import torch

from blurlib import checkpoints, datasets, images
from blurlib.codec import BlurCodec, zoo
from blurlib.codec.bitstream import BlurFile
from blurlib.evaluation.codecs import select
from blurlib.evaluation.results import new_results
from experiments.portability.__main__ import BATCH, batches, decode, encode
from experiments.portability.bound import Sensitivity, failure_bound, rounding_noise
from experiments.record import write_json

MODEL, SEED = checkpoints.CODEC, 0
SIZES = [(64, 64), (77, 51), (64, 128), (128, 96)]  # rows, columns
ROUNDS = 32  # of new files, at 1 ulp
LOUDER = {2**27: 8, 2**30: 8, 2**33: 8}  # ulps: rounds


def noise(codec: BlurCodec, dtype: torch.dtype, louder: dict[int, int]) -> Iterator[dict]:
    """Failures under noise, and how many the bound predicts.

    Every decode is of a file of its own, written in the same precision: what is close to a boundary
    in one file stays close to it under all noise, so more noise on the same file tells little. A
    file may fail without noise too: the encoder and a batch of 8 add in different orders. Such
    files are counted apart, and are no part of what is compared with the bound.
    """
    codec.code_in(dtype)
    generator = torch.Generator().manual_seed(SEED)
    spread: list[Sensitivity] = []  # at 1 ulp
    for ulps, rounds in {1: ROUNDS, **louder}.items():
        decodes = failures = without_noise = unnoticed = 0
        for seed in range(rounds):
            files = encode(codec, seed, SIZES)
            quiet = [d for batch in batches(files, BATCH) for d in decode(codec, batch)]
            with rounding_noise(codec, generator, ulps):
                noisy = [d for batch in batches(files, BATCH) for d in decode(codec, batch)]
            for before, after in zip(quiet, noisy, strict=True):
                if not before.checksum:
                    without_noise += 1
                    continue
                wrong = after.y_hat != before.y_hat
                decodes += 1
                failures += wrong
                unnoticed += wrong and after.checksum
                if ulps == 1 and not wrong:
                    spread.append(Sensitivity.between(before.u, after.u))
        # |δ| grows with the noise; several decisions on the edge are still one failure.
        chance = statistics.mean(1 - math.exp(-ulps * s.total) for s in spread)
        row = {
            "precision": str(dtype).removeprefix("torch."),
            "ulps": ulps,
            "decodes": decodes,
            "failures": failures,
            "expected": decodes * chance,
            "unnoticed": unnoticed,
            "failures_without_noise": without_noise,
        }
        if ulps == 1:
            row |= summary(codec, spread)
        print(row, flush=True)
        yield row
    codec.code_in()


def summary(codec: BlurCodec, spread: Sequence[Sensitivity]) -> dict:
    """The bound of a 768×512 photo, and what it is made of."""
    kodak = 2 * codec.config.entropy.M * (512 // 16) * (768 // 16)
    decisions = sum(s.decisions for s in spread)
    return {
        "mean_delta": sum(s.total for s in spread) / decisions,
        "largest_delta": max(s.largest for s in spread),
        "nearest_boundary": min(s.nearest for s in spread),
        "near_over_uniform": 32 * sum(s.near for s in spread) / decisions,
        "decisions_768x512": kodak,
        "bound_768x512": failure_bound(spread, kodak),
    }


def cost(codec: BlurCodec, runs: int = 5) -> dict:
    """Seconds of processor time, one thread: median over runs that take turns."""
    x = images.to_float(images.read_image(datasets.dataset("kodak")[0]))[None]
    precisions = (torch.float64, torch.float32)
    files = [BlurFile.from_bytes(codec.code_in(p).compress(x, 3)) for p in precisions]
    taken: list[list[float]] = [[], []]
    torch.set_num_threads(1)
    for _ in range(runs + 1):
        for dtype, file, seconds in zip(precisions, files, taken, strict=True):
            codec.code_in(dtype)
            start = time.process_time()
            codec.decode_streams(file)  # unchecked: in float32 the checksum may be wrong
            seconds.append(time.process_time() - start)
    codec.code_in()
    double, single = (statistics.median(seconds[1:]) for seconds in taken)  # after a warm-up
    return {"float64_s": double, "float32_s": single, "ratio": double / single, "runs": runs}


def main(out: Path) -> None:
    codec = zoo.load(MODEL)
    chosen = select(MODEL)
    header = new_results("embedded", chosen.codec, checkpoint=chosen.checkpoint, seed=SEED).header()
    content = {
        **header,
        "command": f"python -m experiments.portability.noise {out.name}",
        "files": {"sizes": SIZES, "each": BATCH},
        "noise": [*noise(codec, torch.float64, LOUDER), *noise(codec, torch.float32, {})],
        "time": cost(codec),
    }
    write_json(out, content)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
