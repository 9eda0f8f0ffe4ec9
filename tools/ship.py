"""Ship the weights of a run: copy its model file into the package and record its SHA-256.

    python tools/ship.py runs/codec msssim-small

Then write the model card beside it, measure (`blurlib evaluate`), and run `make tables` and
tools/golden.py.
"""

import hashlib
import json
import sys
from pathlib import Path

from blurlib import images
from blurlib.codec import zoo


def main(run: Path, name: str) -> None:
    data = (run / "model.safetensors").read_bytes()
    path = zoo.CHECKPOINTS / f"{name}.safetensors"
    images.atomic_write(path, data, overwrite=True)
    shipped = sorted(zoo.CHECKPOINTS.glob("*.safetensors"))
    sums = {file.name: hashlib.sha256(file.read_bytes()).hexdigest() for file in shipped}
    text = json.dumps(sums, indent=1, sort_keys=True) + "\n"
    images.atomic_write(zoo.SHA256, text.encode(), overwrite=True)
    print(f"{path.name}: {len(data):,} bytes, {sums[path.name]}")


if __name__ == "__main__":
    main(Path(sys.argv[1]), sys.argv[2])
