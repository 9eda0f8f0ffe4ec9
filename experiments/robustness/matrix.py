"""The same files decoded, and the same photos encoded, under other instructions, threads, batches.

The record holds the files themselves. Run by another interpreter it gets that one's rows too.
`experiments.portability` asks how far numbers move; this asks only whether anything comes out
differently.
"""

import base64
import itertools
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import torch

from blurlib.codec import BlurCodec, zoo
from blurlib.codec.bitstream import BlurFile
from blurlib.codec.model import pad
from blurlib.evaluation.results import versions
from experiments.portability.__main__ import INSTRUCTIONS, batches, decode, encode, photos
from experiments.record import ROOT, circumstances, write_json

MODELS = "msssim-small", "mse-small"
SIZES = [(77, 51), (64, 128)]
SEED = 0
THREADS, BATCHES = (1, 2, 4, 8), (1, 8)
# More threads than cores: one that waits must not spin.
WAIT = {"OMP_WAIT_POLICY": "PASSIVE", "GOMP_SPINCOUNT": "0"}
AVX512 = {"ATEN_CPU_CAPABILITY": "avx512", "MKL_ENABLE_INSTRUCTIONS": "AVX512"}


def reference() -> dict[str, dict[str, list[str]]]:
    """Per model, every file in base64 and the digest of what it decodes to."""
    found = {}
    for model in MODELS:
        codec = zoo.load(model)
        files = encode(codec, SEED, SIZES)
        digests = [d.y_hat for one in batches(files, 1) for d in decode(codec, one)]
        data = [base64.b64encode(file.to_bytes()).decode() for file in files.values()]
        found[model] = {"files": data, "y_hat": digests}
    return found


@torch.inference_mode()
def encoded(codec: BlurCodec, batch: int) -> list[bytes]:
    """The photos, with the analysis of so many at once."""
    chosen, data = list(photos(SEED, codec.config.levels, SIZES).values()), []
    for start in range(0, len(chosen), batch):
        part = chosen[start : start + batch]
        features = codec.g_a(pad(torch.cat([x for x, _ in part])))
        rows = zip(part, features.split(1), strict=True)
        data += [
            codec._proven(codec._encode(x, one, q, seed=None, effort=0), x) for (x, q), one in rows
        ]
    return data


def worker(models: dict[str, dict[str, list[str]]]) -> list[dict[str, Any]]:
    """Every number of threads and size of batch, in this process."""
    rows, codecs = [], {model: zoo.load(model) for model in models}
    for threads, batch in itertools.product(THREADS, BATCHES):
        torch.set_num_threads(threads)
        decodes, encodes = [], []
        for model, known in models.items():
            expected = [base64.b64decode(data) for data in known["files"]]
            files = {str(i): BlurFile.from_bytes(data) for i, data in enumerate(expected)}
            got = [d for one in batches(files, batch) for d in decode(codecs[model], one)]
            decodes += zip(got, known["y_hat"], strict=True)
            encodes += zip(encoded(codecs[model], batch), expected, strict=True)
        row = {"threads": threads, "batch": batch, "decodes": len(decodes)}
        row["other_symbols"] = sum(d.y_hat != y_hat for d, y_hat in decodes)
        row["checksum_errors"] = sum(not d.checksum for d, _ in decodes)
        row |= {"encodes": len(encodes), "other_bytes": sum(a != b for a, b in encodes)}
        rows.append(row)
    return rows


def matrix(out: Path) -> None:
    """Other instructions, threads, batches; OUT gets the rows of this interpreter."""
    torch.set_num_threads(1)
    record = json.loads(out.read_text(encoding="utf-8")) if out.exists() else {}
    if not record:
        record = circumstances(f"PYTHON -m experiments.robustness matrix {out.name}", 1)
        record |= {"sizes": SIZES, "models": reference(), "rows": []}
        write_json(out, record)
    here = versions()
    record["rows"] = [row for row in record["rows"] if row["versions"] != here]
    for variables in [*INSTRUCTIONS, AVX512]:
        command = [sys.executable, "-W", "ignore", "-m", __name__, str(out.resolve())]
        environment = os.environ | WAIT | variables
        run = subprocess.run(command, env=environment, cwd=ROOT, stdout=subprocess.PIPE, check=True)
        capability, rows = json.loads(run.stdout.splitlines()[-1])
        asked = variables["ATEN_CPU_CAPABILITY"]
        if capability.lower() == asked:  # else this machine has not got it
            record["rows"] += [{"versions": here, "instructions": asked, **row} for row in rows]
            write_json(out, record)
        print(f"{asked}: {len(rows)} rows with {capability}", flush=True)


if __name__ == "__main__":
    found = worker(json.loads(Path(sys.argv[1]).read_text(encoding="utf-8"))["models"])
    json.dump([torch.backends.cpu.get_cpu_capability(), found], sys.stdout)
