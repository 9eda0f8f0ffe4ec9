"""Is what a new process decodes from the file alone what the encoder meant?

For every image of a set at every quality: `forward(x).y_hat` here, `decompress(file).y_hat` in a
new process that sees nothing but the files; and real bytes beside the likelihood estimate.

    python -m experiments.portability.roundtrip kodak results/checks/roundtrip-MODEL.json MODEL
"""

import hashlib
import json
import subprocess
import sys
import tempfile
from pathlib import Path

import torch
from rich.progress import track

from blurlib import datasets, images
from blurlib.codec import zoo
from blurlib.evaluation.codecs import select
from blurlib.evaluation.results import new_results
from experiments.record import write_json


def digest(y_hat: torch.Tensor) -> str:
    return hashlib.sha256(y_hat.numpy().tobytes()).hexdigest()


def decode(folder: Path, model: str) -> None:
    """The new process: the digest of ŷ of every file in a folder, as JSON on stdout."""
    codec = zoo.load(model)
    files = sorted(folder.glob("*.blur"))
    json.dump({f.name: digest(codec.decompress(f.read_bytes()).y_hat) for f in files}, sys.stdout)


@torch.inference_mode()
def encode(dataset: str, folder: Path, model: str) -> dict[str, dict]:
    """Write every file; return name -> what is known of it here."""
    codec = zoo.load(model)
    rows = {}
    for path in track(datasets.dataset(dataset), "encoding"):
        x = images.to_float(images.read_image(path))[None]
        for quality in range(1, codec.config.levels + 1):
            data = codec.compress(x, quality)
            output = codec(x, quality)
            name = f"{path.stem}-{quality:g}.blur"
            (folder / name).write_bytes(data)
            estimate = output.estimated_bits.item() / 8
            rows[name] = {
                "image": path.name,
                "quality": quality,
                "bytes": len(data),
                "estimated_bytes": round(estimate, 1),
                "within_1_percent_and_64": abs(len(data) - estimate) <= 0.01 * estimate + 64,
                "y_hat": digest(output.y_hat),
            }
    return rows


def main(dataset: str, out: Path, model: str) -> None:
    with tempfile.TemporaryDirectory() as folder:
        rows = encode(dataset, Path(folder), model)
        command = [sys.executable, "-m", __spec__.name, "--decode", folder, model]
        decoded = json.loads(subprocess.run(command, capture_output=True, check=True).stdout)
    for name, row in rows.items():
        row["equal"] = decoded[name] == row.pop("y_hat")
    chosen = select(model)
    header = new_results(dataset, chosen.codec, checkpoint=chosen.checkpoint).header()
    again = f"python -m experiments.portability.roundtrip {dataset} {out.name} {model}"
    write_json(out, {**header, "command": again, "rows": [*rows.values()]})
    count = len(rows)
    equal = sum(row["equal"] for row in rows.values())
    close = sum(row["within_1_percent_and_64"] for row in rows.values())
    print(f"{equal} of {count} decode to the same ŷ; {close} of {count} within 1 % + 64 bytes")


if __name__ == "__main__":
    if sys.argv[1] == "--decode":
        decode(Path(sys.argv[2]), sys.argv[3])
    else:
        main(sys.argv[1], Path(sys.argv[2]), sys.argv[3])
