"""Do the same `.blur` bytes decode to the same ŷ, whatever computes it?

Every file under every setting of device, threads, batch, memory format, oneDNN and deterministic
algorithms; then in new processes with older instruction sets, and with other interpreters, which
may have another PyTorch. These also decode the files of tests/golden.

    python -m experiments.portability results/checks/portability.json [--python PATH]...
"""

import argparse
import contextlib
import hashlib
import itertools
import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Sequence
from importlib.metadata import version
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from blurlib import checkpoints, datasets, images
from blurlib.codec import BlurCodec, zoo
from blurlib.codec.bitstream import BlurFile
from blurlib.codec.model import symbols_crc
from blurlib.evaluation.codecs import select
from blurlib.evaluation.results import new_results
from experiments.portability.bound import decided
from experiments.record import ROOT, write_json

MODEL, SEED = checkpoints.CODEC, 0
GOLDEN = ROOT / "tests" / "golden"
SIZES = [(64, 64), (77, 51), (64, 128), (192, 256)]  # rows, columns
BATCH = 8  # files of each size
INSTRUCTIONS = [
    {"ATEN_CPU_CAPABILITY": "default", "MKL_ENABLE_INSTRUCTIONS": "SSE4_2"},
    {"ATEN_CPU_CAPABILITY": "avx2", "MKL_ENABLE_INSTRUCTIONS": "AVX2"},
]


def photos(
    seed: int, levels: int, sizes: Sequence[tuple[int, int]] = SIZES
) -> dict[str, tuple[Tensor, float]]:
    """`BATCH` photos of each size, (1, 3, H, W): random places in the embedded ones, and for each a
    random quality."""
    rng = np.random.default_rng(seed)
    found = {}
    for rows, columns in sizes:
        for i in range(BATCH):
            photo = datasets.embedded(rng.choice(datasets.embedded_names()))
            top = rng.integers(photo.shape[1] - rows + 1)
            left = rng.integers(photo.shape[2] - columns + 1)
            x = images.to_float(photo[:, top : top + rows, left : left + columns])[None]
            found[f"{rows}x{columns}-{i}"] = x, rng.uniform(1, levels)
    return found


def encode(
    codec: BlurCodec, seed: int, sizes: Sequence[tuple[int, int]] = SIZES
) -> dict[str, BlurFile]:
    """The files of `photos`."""
    chosen = photos(seed, codec.config.levels, sizes)
    return {n: BlurFile.from_bytes(codec.compress(x, q)) for n, (x, q) in chosen.items()}


class Decoded(NamedTuple):
    """One file's ŷ as a digest, whether the checksum agreed, and what was rounded, (D,)."""

    y_hat: str
    checksum: bool
    u: Tensor


def decode(codec: BlurCodec, files: Sequence[BlurFile]) -> list[Decoded]:
    """A batch of files of one size."""
    latent, u = decided(codec, files)
    out = []
    for i, file in enumerate(files):
        own = latent._replace(y_hat=latent.y_hat[i, None], z_symbols=latent.z_symbols[i, None])
        digest = hashlib.sha256(own.y_hat.double().cpu().numpy().tobytes()).hexdigest()
        crc = symbols_crc(own, (file.height, file.width), file.quality)
        out.append(Decoded(digest, crc == file.symbols_crc, u[i].cpu()))
    return out


def batches(files: dict[str, BlurFile], size: int) -> Iterator[list[BlurFile]]:
    everything = list(files.values())  # of equal size in every run of BATCH
    for start in range(0, len(everything), size):
        yield everything[start : start + size]


def compare(reference: Sequence[Decoded], got: Sequence[Decoded]) -> dict:
    """How many of the files decode to something else, and how far decisions moved in the others."""
    pairs = list(zip(reference, got, strict=True))
    moved = torch.cat(
        [(a.u - b.u).abs() for a, b in pairs if a.y_hat == b.y_hat] or [torch.tensor([torch.inf])]
    )
    return {
        "decodes": len(got),
        "mismatches": sum(a.y_hat != b.y_hat for a, b in pairs),
        "checksum_errors": sum(not b.checksum for b in got),
        "mean_delta": moved.mean().item(),
        "largest_delta": moved.max().item(),
    }


class Setting(NamedTuple):
    device: str
    threads: int
    batch: int
    channels_last: bool
    onednn: bool
    deterministic: bool


@contextlib.contextmanager
def under(setting: Setting, codec: BlurCodec) -> Iterator[None]:
    threads = torch.get_num_threads()
    torch.set_num_threads(setting.threads)
    torch.use_deterministic_algorithms(setting.deterministic)
    codec.to(setting.device, memory_format=layout(setting.channels_last))
    try:
        with torch.backends.mkldnn.flags(enabled=setting.onednn):
            yield
    finally:
        torch.set_num_threads(threads)
        torch.use_deterministic_algorithms(False)
        codec.to("cpu", memory_format=layout(False))


def layout(channels_last: bool) -> torch.memory_format:
    return torch.channels_last if channels_last else torch.contiguous_format


def matrix(codec: BlurCodec, files: dict[str, BlurFile], reference: list[Decoded]) -> list[dict]:
    devices = ["cpu", "cuda"] if torch.cuda.is_available() else ["cpu"]
    many = max(4, os.cpu_count() or 1)
    both = (False, True)
    rows = []
    for values in itertools.product(devices, (1, many), (1, BATCH), both, both, both):
        setting = Setting(*values)
        with under(setting, codec):
            got = [d for batch in batches(files, setting.batch) for d in decode(codec, batch)]
        rows.append({**setting._asdict(), **compare(reference, got)})
        print(rows[-1], flush=True)
    return rows


def worker(folder: Path) -> None:
    """A new process: decodes every file of a folder and of tests/golden; JSON on stdout."""
    models: dict[bytes, BlurCodec] = {}
    answer: dict = {name: version(name) for name in ("torch", "constriction")} | {"files": {}}
    decisions = {}
    for path in [*sorted(folder.glob("*.blur")), *sorted(GOLDEN.glob("*.blur"))]:
        file = BlurFile.from_bytes(path.read_bytes())
        if file.model_id not in models:
            models[file.model_id] = zoo.load_by_id(file.model_id)
        (decoded,) = decode(models[file.model_id], [file])
        answer["files"][path.name] = decoded[:2]
        decisions[path.name] = decoded.u.numpy()
    np.savez(folder / "decisions.npz", **decisions)
    json.dump(answer, sys.stdout)


def elsewhere(
    files: dict[str, BlurFile], reference: list[Decoded], interpreters: Sequence[str]
) -> list[dict]:
    """The same in new processes: with other instruction sets, and with other interpreters."""
    runs = [(sys.executable, variables) for variables in INSTRUCTIONS]
    runs += [(python, {}) for python in interpreters]
    rows = []
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        for label, file in files.items():
            (folder / f"{label}.blur").write_bytes(file.to_bytes())
        for python, variables in runs:
            command = [python, "-W", "ignore", "-m", "experiments.portability", "--decode", name]
            run = subprocess.run(
                command,
                env={**os.environ, **variables},
                cwd=ROOT,
                stdout=subprocess.PIPE,
                check=True,
            )
            answer = json.loads(run.stdout.splitlines()[-1])
            decisions = np.load(folder / "decisions.npz")
            got = [
                Decoded(*answer["files"][f"{n}.blur"], torch.from_numpy(decisions[f"{n}.blur"]))
                for n in files
            ]
            golden = [
                ok for n, (_, ok) in answer["files"].items() if n[: -len(".blur")] not in files
            ]
            rows.append(
                {
                    "torch": answer["torch"],
                    "constriction": answer["constriction"],
                    "environment": variables,
                    **compare(reference, got),
                    "golden": len(golden),
                    "golden_errors": golden.count(False),
                }
            )
            print(rows[-1], flush=True)
    return rows


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("out", type=Path, nargs="?")
    parser.add_argument("--python", action="append", default=[], help="another interpreter")
    parser.add_argument("--decode", type=Path, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.decode:
        worker(arguments.decode)
        return
    if not arguments.out:
        parser.error("name the file to write")
    codec = zoo.load(MODEL)
    codec.to(memory_format=layout(False))
    files = encode(codec, SEED)
    reference = [d for batch in batches(files, 1) for d in decode(codec, batch)]
    chosen = select(MODEL)
    content = {
        **new_results("embedded", chosen.codec, checkpoint=chosen.checkpoint, seed=SEED).header(),
        "command": f"python -m experiments.portability {arguments.out.name}"
        + " --python PATH" * len(arguments.python),
        "cuda": torch.cuda.is_available(),
        "files": {"sizes": SIZES, "each": BATCH},
        "matrix": matrix(codec, files, reference),
        "elsewhere": elsewhere(files, reference, arguments.python),
    }
    write_json(arguments.out, content)


if __name__ == "__main__":
    main()
