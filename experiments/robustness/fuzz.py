"""Damaged files against whatever reads files.

Each case is a file with one to three mutations, drawn from (seed, number of the case) alone. It may
be refused in one line (ValueError or OSError), or read; a `.blur` file may only give the picture of
a file that it was made of. Children do the work, so that one that crashes, or that the system ends
for its time, costs one case.
"""

import contextlib
import io
import itertools
import json
import os
import resource
import select
import signal
import struct
import tempfile
import time
import traceback
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from functools import cached_property
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from PIL import Image, ImageCms

from blurlib import datasets, images
from blurlib.codec import BlurCodec, CodecConfig, zoo
from blurlib.codec.bitstream import BitstreamError, BlurFile
from blurlib.codec.transforms import TransformConfig
from blurlib.entropy import ContextConfig, EntropyConfig
from blurlib.evaluation import results
from blurlib.evaluation.codecs import KNOWN
from experiments.record import circumstances, write_json
from experiments.robustness.mutate import mutated

MODELS = "msssim-small", "mse-small"
ENTROPY = EntropyConfig(16, 4, (8, 8), ContextConfig(8, 8, 8, 8, 8, heads=1))
TINY = CodecConfig(ENTROPY, TransformConfig(widths=(8, 8), blocks=(1, 1)), levels=2)
BLOCK = 500  # cases between two writes of the record
GOOD = "refused", "read"  # all other outcomes are failures
# What a case may take: processor time, and memory beside that in use. An honest file of the size
# that it claims takes as much.
SECONDS, SECONDS_PER_MEGAPIXEL = 20.0, 20.0
MEMORY, MEMORY_PER_PIXEL = 2**30, 64
SILENCE = 900  # seconds without a word after which a child is ended
STATM = Path("/proc/self/statm")  # where there is none, memory has no limit


class WrongPictureError(Exception):
    """What was read is no picture, or not the one of the file."""


class Case(NamedTuple):
    """`outcome` is empty before it is known; `words` say why, for a failure."""

    number: int
    target: str
    mutations: str
    outcome: str = ""
    words: str = ""
    seconds: float = 0.0


class Subjects:
    """The files to damage, and what reads them."""

    def __init__(self, folder: Path):
        self.path = folder / "case"
        self.readers: dict[str, Callable[[bytes], None]] = {
            name: getattr(self, name) for name in ("blur", "picture", "results", "weights")
        }

    @cached_property
    def files(self) -> dict[str, list[bytes]]:
        return {
            "blur": list(self.pictures),
            "picture": _encoded(images.to_pillow(datasets.embedded("coffee")[:, :30, :48])),
            "results": [_results()],
            "weights": [zoo.codec_bytes(BlurCodec(TINY)) for _ in range(2)],
        }

    @cached_property
    def codecs(self) -> dict[bytes, BlurCodec]:
        return {codec.model_id: codec for codec in map(zoo.load, MODELS)}

    @cached_property
    def pictures(self) -> dict[bytes, torch.Tensor]:
        """Small `.blur` files, by both codecs, and the picture of each."""
        found, sizes = {}, [(16, 16), (40, 64), (64, 130)]
        for codec, (i, (rows, columns)) in itertools.product(
            self.codecs.values(), enumerate(sizes)
        ):
            x = datasets.embedded("cat")[None, :, 90 : 90 + rows, 130 : 130 + columns]
            data = codec.compress(x, 1.5 + 2 * i, seed=7 if i else None)
            found[data] = codec.decompress(data).x_hat
        return found

    def blur(self, data: bytes) -> None:
        file = BlurFile.from_bytes(data)
        if (codec := self.codecs.get(file.model_id)) is None:
            raise BitstreamError(f"there is no model {file.model_id.hex()}")
        x_hat = codec.decompress(file, pyramid=False).x_hat
        if not any(torch.equal(x_hat, picture) for picture in self.pictures.values()):
            raise WrongPictureError

    def picture(self, data: bytes) -> None:
        image = images.decode_image(data)
        if image.dtype != torch.uint8 or image.shape[0] != 3 or image[0].numel() > 2**26:
            raise WrongPictureError

    def results(self, data: bytes) -> None:
        self.path.write_bytes(data)
        results.averages(results.read(self.path))

    def weights(self, data: bytes) -> None:
        self.path.write_bytes(data)
        zoo.load(self.path)

    def case(self, seed: int, number: int) -> tuple[Case, bytes]:
        """By its number alone: what was done, and the file."""
        rng = np.random.default_rng([seed, number])
        target = list(self.readers)[number % len(self.readers)]
        files = self.files[target]
        data, done = mutated(files[rng.integers(len(files))], files, rng)
        return Case(number, target, done), data


def _encoded(photo: Image.Image) -> list[bytes]:
    """A photo in every format that is read, and in its rarer kinds."""
    exif = Image.Exif()
    exif[0x0112] = 6  # turned
    extra = {"exif": exif, "icc_profile": ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB"))}
    extra["icc_profile"] = extra["icc_profile"].tobytes()
    deep = Image.fromarray(np.asarray(photo.convert("L")).astype(np.uint16) * 257)
    kinds = [
        (photo, "PNG", extra), (photo.quantize(9), "PNG", {}), (photo.convert("1"), "PNG", {}),
        (photo.convert("RGBA"), "PNG", {}), (deep, "PNG", {}), (deep, "TIFF", {}),
        (photo, "JPEG", {"progressive": True, **extra}), (photo.convert("CMYK"), "JPEG", {}),
        (photo, "WEBP", extra), (photo, "WEBP", {"lossless": True}), (photo, "JPEG2000", {}),
        *((photo, "TIFF", {"compression": c}) for c in ("raw", "tiff_lzw", "jpeg", "packbits")),
        *((photo, kind, {}) for kind in ("JPEG", "AVIF", "BMP", "GIF", "PPM")),
    ]  # fmt: skip
    found = []
    for picture, kind, options in kinds:
        picture.save(buffer := io.BytesIO(), kind, **options)
        found.append(buffer.getvalue())
    return found


def _results() -> bytes:
    row = results.Row("0.png", 2.5, 900, 0.4, 30.5, 0.97, 0.2, 0.1, 0.1, "0123456789abcdef")
    rows = tuple(replace(row, image=f"{i}.png", quality=q) for i in range(3) for q in (1, 2.5))
    with tempfile.TemporaryDirectory() as folder:
        found = replace(results.new_results("set", KNOWN[0]), rows=rows)
        results.write(path := Path(folder) / "r.json", found)
        return path.read_bytes()


def claimed(target: str, data: bytes) -> int:
    """Pixels that a file claims to have."""
    with contextlib.suppress(Exception):
        if target == "blur":
            width, height = struct.unpack_from("<HH", data, 10)
            return width * height
        with Image.open(io.BytesIO(data)) as picture:
            return picture.width * picture.height
    return 0


def outcome(read: Callable[[bytes], None], data: bytes) -> tuple[str, str]:
    """What a case comes to, and in words why."""
    try:
        read(data)
    except WrongPictureError:
        return "wrong picture", ""
    except Exception as error:
        at, text = traceback.extract_tb(error.__traceback__)[-1], str(error)
        words = f"{Path(at.filename).name}:{at.lineno}: {type(error).__name__}: {text}"[:300]
        ran_out = isinstance(error, RuntimeError) and "memory" in text  # PyTorch
        if ran_out or isinstance(error, MemoryError) or "MemoryError" in text:
            return "memory", words
        if not isinstance(error, (ValueError, OSError)):
            return "other exception", words
        return ("refused", "") if len(text.splitlines()) == 1 else ("several lines", words)
    return "read", ""


def _child(subjects: Subjects, seed: int, numbers: Sequence[int], out: int) -> None:
    """Work through the cases; one line on `out` when a case begins, and one when it is done."""

    def tell(case: Case) -> None:
        os.write(out, json.dumps(case).encode() + b"\n")

    subjects.path = subjects.path.with_name(str(os.getpid()))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    for number in numbers:
        case, data = subjects.case(seed, number)
        tell(case)
        start, pixels = time.process_time(), claimed(case.target, data)
        end = int(start + SECONDS + SECONDS_PER_MEGAPIXEL * pixels / 1e6) + 1
        resource.setrlimit(resource.RLIMIT_CPU, (end, resource.RLIM_INFINITY))
        if STATM.exists():
            pages = int(STATM.read_text(encoding="utf-8").split()[0])
            size = pages * resource.getpagesize() + MEMORY
            size += MEMORY_PER_PIXEL * min(pixels, images.MAX_PIXELS)
            resource.setrlimit(resource.RLIMIT_AS, (size, resource.RLIM_INFINITY))
        came, words = outcome(subjects.readers[case.target], data)
        seconds = round(time.process_time() - start, 3)
        tell(case._replace(outcome=came, words=words, seconds=seconds))


def _started(*arguments: Any) -> tuple[int, int]:
    """A child, by its process id, and the end of its pipe."""
    end, start = os.pipe()
    if child := os.fork():
        os.close(start)
        return child, end
    try:
        os.dup2(os.open(os.devnull, os.O_WRONLY), 2)  # C libraries complain there
        _child(*arguments, start)
    finally:
        os._exit(0)


def cases_done(subjects: Subjects, seed: int, numbers: Sequence[int]) -> Iterator[Case]:
    """All cases, in order; those that end their child too."""
    while numbers:
        child, pipe = _started(subjects, seed, numbers)
        begun, rest, silent = None, b"", False
        with open(pipe, "rb", buffering=0) as stream:
            while not (silent := not select.select([stream], [], [], SILENCE)[0]):
                if not (part := stream.read(65536)):
                    break
                *lines, rest = (rest + part).split(b"\n")
                for case in (Case(*json.loads(line)) for line in lines):
                    begun = None if case.outcome else case
                    if case.outcome:
                        yield case
                        numbers = numbers[1:]
            if silent:
                os.kill(child, signal.SIGKILL)
        code = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
        if begun:
            hangs = silent or code == -signal.SIGXCPU
            yield begun._replace(outcome="hang" if hangs else "crash", words=f"exit code {code}")
            numbers = numbers[1:]
        elif numbers:
            raise RuntimeError(f"case {numbers[0]} cannot be made")


def fuzz(out: Path, cases: int = 100_000, seed: int = 0, jobs: int = 1) -> None:
    """Damaged files against whatever reads files; the record OUT goes on where it stopped."""
    torch.set_num_threads(1)
    about = circumstances(f"python -m experiments.robustness fuzz {out.name} --seed {seed}", jobs)
    record = about | {"seed": seed, "cases": 0, "counts": {}, "slowest_s": {}, "failures": []}
    if out.exists():
        before = json.loads(out.read_text(encoding="utf-8"))
        if other := [k for k in ("seed", "commit", "versions") if before[k] != record[k]]:
            raise ValueError(f"{out}: was begun with another {other[0]}: move it away")
        record = before
    with tempfile.TemporaryDirectory() as folder:
        subjects = Subjects(Path(folder))
        record["files"] = {target: len(files) for target, files in subjects.files.items()}
        while (start := record["cases"]) < cases:
            block = range(start, min(start + BLOCK, cases))
            parts = [cases_done(subjects, seed, block[i::jobs]) for i in range(jobs)]
            for case in filter(None, itertools.chain(*itertools.zip_longest(*parts))):
                counts = record["counts"].setdefault(case.target, {})
                counts[case.outcome] = counts.get(case.outcome, 0) + 1
                slowest = max(record["slowest_s"].get(case.target, 0), case.seconds)
                record["slowest_s"][case.target] = slowest
                if case.outcome not in GOOD:
                    record["failures"].append(case._asdict())
            write_json(out, record | {"cases": block.stop})
            record["cases"] = block.stop
            print(f"{block.stop} of {cases}, {len(record['failures'])} failures", flush=True)
