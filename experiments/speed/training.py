"""`blurlib train` beside the training loop that CompressAI gives as an example.

Both train the same network on the same photos with the same loss, crop and batch, in turns of a few
steps from a new start; the order turns round from one round to the next, so that whatever else the
machine does falls on all alike. Images per second are those of whole steps: reading, forward,
backward, update, log.

CompressAI's loop is that of `examples/train.py` in https://github.com/InterDigitalInc/CompressAI,
which its wheel does not carry, written down again with the same parts: their `ImageFolder` with
torchvision's `RandomCrop` and `ToTensor`, a `DataLoader` with workers, Adam, gradients clipped to
norm 1, a line of losses every ten steps. Their second optimiser, for the quantiles of their entropy
bottleneck, has nothing to do here.

The other rows are our loop with one thing changed: what was tried to make it faster, and what Muon
costs.

    python -m experiments.speed.training results/checks/training-speed-cpu.json
    python -m experiments.speed.training results/checks/training-speed-h100.json --device cuda \\
        --batch 32 --precision bf16-mixed --steps 100 --workers 12 --data photos/
"""

import argparse
import contextlib
import dataclasses
import functools
import itertools
import json
import os
import platform
import sys
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from types import SimpleNamespace
from unittest import mock

import torch
from compressai.datasets import ImageFolder
from rich.progress import track
from torch.autograd import DeviceType
from torch.profiler import ProfilerActivity, profile
from torch.utils.data import DataLoader
from torchvision import transforms

from blurlib import datasets, images
from blurlib.codec import BlurCodec, CodecConfig
from blurlib.evaluation.results import new_results
from blurlib.files import atomic_write
from blurlib.training import loop, stages
from blurlib.training.config import TrainConfig
from blurlib.training.losses import balanced

WARM_UP = 3  # steps before the clock
OURS, THEIRS = "blurlib", "compressai"


# The two loops


def ours(config: TrainConfig) -> Iterator[None]:
    """What `blurlib train` does, in a folder that is then deleted."""
    with tempfile.TemporaryDirectory() as folder:
        with contextlib.closing(loop.train(config, Path(folder))) as steps:
            for _ in steps:
                yield


def theirs(config: TrainConfig) -> Iterator[None]:
    """CompressAI's example, on our network and loss."""
    torch.manual_seed(config.seed)
    torch.set_num_threads(config.threads)
    device = torch.device("cuda" if config.accelerator == "cuda" else "cpu")
    crop = transforms.Compose([transforms.RandomCrop(config.crop), transforms.ToTensor()])
    loader = DataLoader(
        ImageFolder(Path(config.data).parent, split="train", transform=crop),
        batch_size=config.batch,
        num_workers=config.workers,
        shuffle=True,
        pin_memory=device.type == "cuda",
    )
    net = BlurCodec(CodecConfig.small()).to(device).train()
    optimizer = torch.optim.Adam(net.parameters(), lr=config.lr)
    for i, x in enumerate(itertools.chain.from_iterable(itertools.repeat(loader))):
        x = x.to(device)
        optimizer.zero_grad()
        with torch.autocast(device.type, torch.bfloat16, enabled=config.precision != "32-true"):
            loss = rate_distortion(net, x, config)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(net.parameters(), config.clip)
        optimizer.step()
        if i % 10 == 0:
            print(f"{i}: loss {loss.item():.3f}", file=sys.stderr)
        yield


def rate_distortion(net: BlurCodec, x: torch.Tensor, config: TrainConfig) -> torch.Tensor:
    """The loss of `blurlib.training.losses`, with draws from PyTorch's own generator."""
    levels = net.config.levels
    quality = 1 + (levels - 1) * torch.rand(len(x), dtype=torch.float64, device=x.device)
    output = net(x, quality)
    bpp = output.estimated_bits / x[0, 0].numel()
    d = config.target.distance(output.x_hat, x)
    return balanced(bpp, d, quality, levels, config)


# What was tried to make ours faster: a change of the configuration, or of a part of PyTorch


def compiled_transforms(stage, fabric, setup=stages.CodecStage.setup):
    stage.module.g_a.compile()
    stage.module.main_decoder.compile()
    setup(stage, fabric)


def adam(**options) -> contextlib.AbstractContextManager:
    made = functools.partial(adam_with, torch.optim.Adam, options)
    return mock.patch.object(torch.optim, "Adam", made)


def adam_with(kind: type, options: dict, parameters: Iterable, **others):
    return kind(parameters, **others | {"fused": None} | options)


class Variant:
    """One way to train: a loop, configuration that differs, and what is replaced meanwhile."""

    def __init__(self, run=ours, patch: Callable = contextlib.nullcontext, **config):
        self.run, self.patch, self.config = run, patch, config


VARIANTS = {
    OURS: Variant(),
    THEIRS: Variant(theirs),
    "compressai, no workers": Variant(theirs, workers=0),
    "without channels_last": Variant(
        patch=lambda: mock.patch.object(torch, "channels_last", torch.contiguous_format)
    ),
    "Adam, one parameter at a time": Variant(patch=lambda: adam(foreach=False)),
    "Adam, foreach": Variant(patch=lambda: adam(foreach=True)),
    "Muon": Variant(optimiser="muon"),
    "bfloat16": Variant(precision="bf16-mixed"),
    "Muon, bfloat16": Variant(optimiser="muon", precision="bf16-mixed"),
    "transforms compiled": Variant(
        patch=lambda: mock.patch.object(stages.CodecStage, "setup", compiled_transforms)
    ),
    "photos read at every step": Variant(bank_gb=0.0, workers=0),
    "photos read by workers": Variant(bank_gb=0.0),
}


# Measuring


def speed(name: str, config: TrainConfig, steps: int) -> dict[str, float]:
    """Images per second, and processor time of this process (that of workers is not counted)."""
    with started(name, config, WARM_UP + steps) as taken:
        cpu = time.process_time()
        seconds = advance(taken, steps)
        cpu = time.process_time() - cpu
    images_seen = steps * config.batch
    return {
        "images_per_second": round(images_seen / seconds, 4),
        "cpu_seconds_per_image": round(cpu / images_seen, 4),
    }


def busy(name: str, config: TrainConfig, steps: int) -> float:
    """Share of the time in which the device computes; on a CPU, in which PyTorch's operators run,
    the profiler's own time included."""
    on_gpu = config.accelerator == "cuda"
    activity = ProfilerActivity.CUDA if on_gpu else ProfilerActivity.CPU
    with started(name, config, WARM_UP + steps) as taken, profile(activities=[activity]) as seen:
        wall = advance(taken, steps)
    return busy_seconds(seen.events(), DeviceType.CUDA if on_gpu else DeviceType.CPU) / wall


@contextlib.contextmanager
def started(name: str, config: TrainConfig, steps: int) -> Iterator[Iterator[None]]:
    """The loop of that name with its first steps taken, and at least `steps` in all."""
    variant = VARIANTS[name]
    config = dataclasses.replace(config, steps=steps + 1, **variant.config)
    with variant.patch(), contextlib.closing(variant.run(config)) as taken:
        advance(taken, WARM_UP)
        yield taken


def advance(steps: Iterator[None], count: int) -> float:
    """Take `count` steps to their end; seconds."""
    synchronise = torch.cuda.synchronize if torch.cuda.is_available() else lambda: None
    synchronise()
    start = time.perf_counter()
    for _ in itertools.islice(steps, count):
        pass
    synchronise()
    return time.perf_counter() - start


def busy_seconds(events: Iterable, device: DeviceType) -> float:
    """Time in which at least one kernel (on a CPU: operator) was running."""
    # Annotations such as "Optimizer.step" span the gaps between kernels that are looked for.
    spans = sorted(
        (event.time_range.start, event.time_range.end)
        for event in events
        if event.device_type == device and not event.is_user_annotation
    )
    covered, until = 0.0, float("-inf")
    for start, end in spans:
        covered += max(0.0, end - max(start, until))
        until = max(until, end)
    return covered / 1e6


# All of them, in turns


def main(options: argparse.Namespace) -> None:
    with tempfile.TemporaryDirectory() as folder:
        photos = link_photos(Path(folder), options)
        config = configuration(folder, options)
        header = describe(config, photos, options)
        header["busy"] = {
            name: round(busy(name, config, options.steps), 4)
            for name in (OURS, THEIRS)
            if name in options.only
        }
        rows = []
        for number in track(range(options.rounds), "rounds"):
            for name in options.only[:: 1 if number % 2 == 0 else -1]:
                measured = speed(name, config, options.steps)
                rows.append({"round": number, "loop": name} | measured)
                print(json.dumps(rows[-1]), file=sys.stderr)
            write(options.out, header, rows)


def write(out: Path, header: dict, rows: list[dict]) -> None:
    lines = ",\n".join("  " + json.dumps(row) for row in rows)
    text = json.dumps(header, indent=1, sort_keys=True)[:-2] + f',\n "rows": [\n{lines}\n ]\n}}\n'
    atomic_write(out, text.encode(), overwrite=True)


def link_photos(folder: Path, options: argparse.Namespace) -> int:
    """The photos in folder/photos, and in folder/train as their ImageFolder wants them: there by
    many names, so that their loader has one long epoch, at whose end it would end its workers."""
    photos, train = folder / "photos", folder / "train"
    photos.mkdir()
    train.mkdir()
    if options.data:
        for path in datasets.folder(options.data):
            (photos / path.name).symlink_to(path.resolve())
    else:
        for name in datasets.embedded_names():
            images.write_image(photos / f"{name}.png", datasets.embedded(name))
    paths = sorted(photos.iterdir())
    needed = options.batch * (WARM_UP + options.steps + 2 + 4 * options.workers)
    for i in range(-(-needed // len(paths))):
        for path in paths:
            (train / f"{i}-{path.name}").symlink_to(path.resolve())
    return len(paths)


def configuration(folder: str, options: argparse.Namespace) -> TrainConfig:
    return TrainConfig(
        objective="mse", lmbda_min=0.001, lmbda_max=0.05, data=str(Path(folder) / "photos"),
        held_out=0, batch=options.batch, crop=options.crop, workers=options.workers,
        threads=options.threads, accelerator=options.device, precision=options.precision,
        optimiser="adam", checkpoint_every=600.0,
    )  # fmt: skip


def describe(config: TrainConfig, photos: int, options: argparse.Namespace) -> dict:
    settings = {
        "photos": photos, "batch": config.batch, "crop": config.crop, "steps": options.steps,
        "workers": config.workers, "threads": config.threads, "precision": config.precision,
    }  # fmt: skip
    name = Path(options.data).name if options.data else "embedded"
    header = new_results(name, SimpleNamespace(name="training-speed", settings=settings)).header()
    unused = ("checkpoint", "lpips", "protocol")
    header = {key: value for key, value in header.items() if key not in unused}
    header["command"] = (
        f"python -m experiments.speed.training {options.out.name} --device {options.device} "
        f"--rounds {options.rounds} --steps {options.steps}"
    )
    return header | {"seed": config.seed, "device": device_name(options), "load": os.getloadavg()}


def device_name(options: argparse.Namespace) -> str:
    if options.device == "cuda":
        return torch.cuda.get_device_name()
    file = Path("/proc/cpuinfo")
    info = file.read_text(encoding="utf-8") if file.exists() else ""
    model = next((s.split(":")[1].strip() for s in info.splitlines() if "model name" in s), "")
    return f"cpu {model or platform.machine()}, {options.threads} of {os.cpu_count()} threads"


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser()
    parser.add_argument("out", type=Path)
    parser.add_argument("--data", default="", help="folder of photos; default: the embedded ones")
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu")
    parser.add_argument("--precision", default="32-true")
    parser.add_argument("--only", nargs="+", choices=VARIANTS, default=list(VARIANTS))
    for name, value in {"batch": 2, "crop": 256, "steps": 6, "rounds": 4}.items():
        parser.add_argument(f"--{name}", type=int, default=value)
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--threads", type=int, default=1)
    return parser.parse_args()


if __name__ == "__main__":
    main(arguments())
