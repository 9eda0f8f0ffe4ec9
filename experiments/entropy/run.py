"""What each part of the entropy model contributes: `python -m experiments.entropy`.

The transforms of a trained codec are frozen and their latents computed once. Every variant then
trains its own h_a, h_s and contexts on the same latents in the same order, for the same number of
steps, and codes Kodak into real files. A folder of results holds

    setup.json        what all runs in it have in common
    kodak.csv         a row per photo, quality, variant and seed
    zeroed.csv        the full variant coded again without what its transformer says
    resolution.csv    the same photos at several sizes, for three of the variants
    runs/NAME-SEED.json   what a run has learned, its bits per channel, its training; written last
"""

from __future__ import annotations

import hashlib
import itertools
import json
import math
from collections.abc import Generator, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import asdict, dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any, Literal, NamedTuple

import numpy as np
import torch
from PIL import Image
from torch import Tensor, nn

from blurlib import datasets, images
from blurlib.codec import BlurCodec, CodecConfig, zoo
from blurlib.codec.bitstream import BlurFile
from blurlib.entropy import Latent
from blurlib.entropy.position import LaplacianPosition
from blurlib.evaluation.codecs import BlurlibCodec
from blurlib.evaluation.measure import measure
from blurlib.evaluation.processes import share
from blurlib.files import atomic_write
from blurlib.training.config import TrainConfig
from blurlib.training.data import find_photos
from blurlib.training.draws import Draws
from blurlib.training.losses import balanced, draw_quality
from blurlib.training.optimisers import learning_rate, make_optimisers
from experiments.entropy.attention_maps import bias_by_offset
from experiments.entropy.latents import Latents, batches, names_digest
from experiments.entropy.positional import TablePosition
from experiments.entropy.variants import FULL, HYPERPRIOR, LOCAL, Variant, variants
from experiments.record import (
    CpuClock,
    Progress,
    choose,
    circumstances,
    one_thread,
    replace_rows,
)

MEGAPIXELS = (0.1, 0.3, 0.9, 2.6)
AT_EVERY_SIZE = (HYPERPRIOR, LOCAL, FULL)
TIMED_STEPS = 4  # to turn minutes into steps; the first is not counted
SLOW_STEPS = 20  # the last 1 / SLOW_STEPS of a training is what its final loss is the mean of


@dataclass(frozen=True)
class Setup:
    """What all runs of one folder have in common.

    Attributes:
        codec: shipped name or file of the codec whose transforms are frozen.
        data: folder of training photos; those held out in training are left out here too.
        steps: of every run; 0 means from `minutes`.
        minutes: CPU time that the slowest variant is to train for.
        crops, crop: how many latents there are to train on, and the side of each in pixels.
        batch, lr, optimiser, warmup, z_warmup: as in `TrainConfig`; z_warmup 0 is half of the
            steps.
        kodak: set that is coded at each of `qualities` (none: four over the codec's range).
        large: set of large photos that is coded at `MEGAPIXELS`; empty: not done.
    """

    codec: str = "msssim-small"
    data: str = ""
    steps: int = 0
    minutes: float = 5.0
    crops: int = 4096
    crop: int = 256
    batch: int = 4
    lr: float = 3e-3
    optimiser: Literal["adam", "muon"] = "muon"
    warmup: int = 50
    z_warmup: int = 0
    kodak: str = "kodak"
    qualities: tuple[float, ...] = ()
    large: str = "clic2025-subset"

    def __post_init__(self):
        if self.steps < 0:
            raise ValueError(f"steps is {self.steps}: it must be at least 0")
        if not 0 < self.minutes < math.inf:
            raise ValueError(f"minutes is {self.minutes}: it must be above 0, such as 5")
        if self.qualities and len(set(self.qualities)) < max(4, len(self.qualities)):
            given = ", ".join(f"{quality:g}" for quality in self.qualities)
            raise ValueError(f"qualities are {given}: a BD-rate takes at least 4, each once")
        if self.crops < self.batch:
            raise ValueError(f"crops is {self.crops}: there must be at least a batch, {self.batch}")
        self.training(0)

    def training(self, seed: int) -> TrainConfig:
        """The same as a configuration of training; it refuses what cannot work."""
        return TrainConfig(
            data=self.data, crop=self.crop, batch=self.batch, steps=self.steps, lr=self.lr,
            optimiser=self.optimiser, warmup=self.warmup,
            z_warmup=self.z_warmup or max(1, self.steps // 2), seed=seed, bank_gb=0.0, workers=0,
        )  # fmt: skip

    def command(self) -> str:
        """The command that makes these runs again."""
        codec = Path(self.codec).name
        parts = [
            f"python -m experiments.entropy --codec {codec} --data PHOTOS --steps {self.steps}"
        ]
        parts += [f"--batch {self.batch} --crops {self.crops}"]
        parts += [f"--qualities {','.join(f'{q:g}' for q in self.qualities)}"]
        parts += [f"--photos {Path(self.kodak).name} --large {Path(self.large).name or 'none'}"]
        return " ".join(parts)


class Run(NamedTuple):
    """A finished run: its record, and the rows of the three tables."""

    record: dict[str, Any]
    kodak: list[dict]
    zeroed: list[dict]
    resolution: list[dict]


@dataclass(frozen=True)
class Bench:
    """Everything that a run needs, in any process.

    Attributes:
        variants: all there are, by name.
        latents: file of the frozen transform's output; models: folder for what was trained.
        jobs: processes that work beside each other.
        origin: `circumstances` of the ablation, for the records.
    """

    setup: Setup
    variants: dict[str, Variant]
    latents: Path
    models: Path
    jobs: int
    origin: dict[str, Any]


Task = tuple[str, int]  # variant, seed


def ablate(
    setup: Setup,
    out: Path,
    cache: Path,
    names: Sequence[str] = (),
    seeds: int = 3,
    jobs: int = 1,
) -> Iterator[Progress]:
    """Train, code and record every chosen variant with seeds 0 … seeds − 1: seed 0 of all first.

    What a folder has already is kept, so an ablation that was stopped goes on where it was; models
    that were trained but not coded yet are in `cache`. Every process computes with one thread.

    Args:
        out: folder of results, see above; cache: folder of latents and models, which may be lost.
        names: variants; none are all.

    Raises:
        ValueError: an unknown variant; a folder of another setup; no photos; settings that cannot
            work. What a run raises, too: the variant is named.
        OSError: something cannot be read or written.
    """
    if seeds < 1 or jobs < 1:
        raise ValueError("seeds and jobs must be at least 1")
    out, cache = Path(out), Path(cache)
    codec = zoo.load(setup.codec)
    known = variants(codec.config.entropy)
    chosen = choose(names, list(known))
    setup = _with_qualities(setup, codec)
    _photos(setup)
    latents = Latents(cache, zoo.sha256(setup.codec), setup.training(0), setup.crops)
    for done in latents.fill(codec):
        yield Progress(0.0, len(chosen) * seeds, f"latents {done} of {setup.crops}")
    setup = _agreed(setup, out, latents, [known[name] for name in chosen], codec)
    digest = hashlib.sha256((out / "setup.json").read_bytes()).hexdigest()[:12]
    origin = circumstances(setup.command(), jobs)  # now: the checkout may change on the way
    bench = Bench(setup, known, latents.path, cache / f"models-{digest}", jobs, origin)
    tasks = [(name, seed) for seed in range(seeds) for name in chosen]
    missing = [task for task in tasks if not record_file(out, *task).is_file()]
    done, total = len(tasks) - len(missing), len(tasks)
    yield Progress(done, total, "already there")
    for task, run in _runs(bench, missing, done, total):
        if isinstance(run, Progress):
            yield run
            continue
        _write(out, *task, run)
        done += 1
        yield Progress(done, total, f"{task[0]}, seed {task[1]}: done")


def record_file(out: Path, name: str, seed: int) -> Path:
    """The record of a run; where it is, the run is finished."""
    return Path(out) / "runs" / f"{name}-{seed}.json"


def _runs(
    bench: Bench, tasks: list[Task], done: int, total: int
) -> Iterator[tuple[Task, Run | Progress]]:
    """Each finished run; with one job also how far the run in hand is."""
    if bench.jobs > 1:
        yield from share(partial(_in_worker, bench), tasks, bench.jobs)
        return
    for number, task in enumerate(tasks):
        steps = _run(bench, *task)
        try:
            while True:
                part, doing = next(steps)
                yield task, Progress(done + number + part, total, f"{task[0]}, {doing}")
        except StopIteration as finished:
            yield task, finished.value


def _in_worker(bench: Bench, task: Task) -> Run:
    steps = _run(bench, *task)
    try:
        while True:
            next(steps)
    except StopIteration as finished:
        return finished.value


# ---------------------------------------------------------------- the setup


def _with_qualities(setup: Setup, codec: BlurCodec) -> Setup:
    """Four qualities over the codec's range where none are given, on quarters."""
    levels = codec.config.levels
    if wrong := [q for q in setup.qualities if not 1 <= q <= levels]:
        raise ValueError(f"qualities has {wrong[0]:g}: they are from 1 to {levels}")
    if setup.qualities:
        return setup
    four = np.linspace(1, codec.config.levels, 4)
    return replace(setup, qualities=tuple((np.round(4 * four) / 4).tolist()))


def _photos(setup: Setup) -> tuple[list[Path], list[Path]]:
    """The photos that are coded: at their own size, and at several."""
    return datasets.dataset(setup.kodak), datasets.dataset(setup.large) if setup.large else []


def _agreed(
    setup: Setup, out: Path, latents: Latents, chosen: list[Variant], codec: BlurCodec
) -> Setup:
    """The setup with its steps, as it stands in the folder or now does.

    Raises:
        ValueError: the folder was begun with another one.
    """
    file = out / "setup.json"
    before = json.loads(file.read_text()) if file.is_file() else {}
    steps = setup.steps or before.get("steps") or _steps_within(setup, latents, chosen, codec)
    setup = replace(setup, steps=steps)
    # The number and not "default": models trained with another default must not be taken for it.
    setup = replace(setup, z_warmup=setup.training(0).z_warmup)
    now = {
        "codec": zoo.sha256(setup.codec),
        "photos": names_digest(find_photos(setup.training(0))),
        **{k: v for k, v in asdict(setup).items() if k not in ("codec", "data", "minutes")},
        "kodak": Path(setup.kodak).name,
        "large": Path(setup.large).name,
        "qualities": list(setup.qualities),
    }
    if differing := [key for key in now if before and before.get(key) != now[key]]:
        key = differing[0]
        raise ValueError(
            f"{file}: begun with another {key} ({before.get(key)} there, {now[key]} here); choose "
            "another --out, or remove the folder"
        )
    file.parent.mkdir(parents=True, exist_ok=True)
    atomic_write(file, (json.dumps(now, indent=1) + "\n").encode(), overwrite=True)
    return setup


def _steps_within(setup: Setup, latents: Latents, chosen: list[Variant], codec: BlurCodec) -> int:
    """How many steps the slowest of the variants takes within `minutes`: all are timed."""
    config = replace(setup, steps=TIMED_STEPS).training(0)

    def seconds(variant: Variant) -> float:
        steps = train(new_codec(codec, variant, 0), latents.open(), config)
        clock = CpuClock()
        ends = [clock.seconds() for _ in steps]
        return (ends[-1] - ends[0]) / (len(ends) - 1)

    with one_thread():
        return max(1, int(60 * setup.minutes / max(map(seconds, chosen))))


# ---------------------------------------------------------------- one run


def _run(bench: Bench, name: str, seed: int) -> Generator[tuple[float, str], None, Run]:
    """Train, unless that was done before, and code; yields (part that is done, what is done)."""
    with one_thread(), _named(name):
        codec, training = yield from _trained(bench, bench.variants[name], seed)
        paths, large = _photos(bench.setup)
        kodak, bits = [], _Bits()
        for number, path in enumerate(paths):
            kodak += _coded(codec, path, bench.setup.qualities, bits)
            yield 0.6 + 0.3 * (number + 1) / len(paths), f"seed {seed}: {path.stem}"
        zeroed = list(_zeroed(codec, paths, bench.setup.qualities)) if name == FULL else []
        yield 0.95, f"seed {seed}: sizes"
        sizes = list(_sizes(codec, large, bench.setup)) if name in AT_EVERY_SIZE else []
        record = {
            "variant": name,
            "seed": seed,
            "title": bench.variants[name].title,
            "config": asdict(codec.config.entropy),
            "passes": codec.config.entropy.passes,
            "training": training,
            "positions": positions(codec),
            "bits": bits.means(codec.config.entropy.groups),
            **bench.origin,
        }
        return Run(record, kodak, zeroed, sizes)


@contextmanager
def _named(name: str) -> Iterator[None]:
    """Errors that say which variant it was."""
    try:
        yield
    except ValueError as error:
        raise ValueError(f"{name}: {error}") from error


def new_codec(frozen: BlurCodec, variant: Variant, seed: int) -> BlurCodec:
    """A codec with the transforms and gains of `frozen` and a new entropy model."""
    torch.manual_seed(seed)
    config = CodecConfig(variant.config, frozen.config.transform, frozen.config.levels)
    codec = BlurCodec(config)
    for part in ("g_a", "main_decoder", "gain", "inverse_gain"):
        getattr(codec, part).load_state_dict(getattr(frozen, part).state_dict())
        getattr(codec, part).requires_grad_(False)
    return codec


def _trained(
    bench: Bench, variant: Variant, seed: int
) -> Generator[tuple[float, str], None, tuple[BlurCodec, dict]]:
    """The trained codec, ready for coding, and how it was trained; kept in `bench.models`."""
    model = bench.models / f"{variant.name}-{seed}.safetensors"
    record = model.with_suffix(".json")
    if not record.is_file():
        codec = new_codec(zoo.load(bench.setup.codec), variant, seed)
        config, clock = bench.setup.training(seed), CpuClock()
        losses = []
        for bpp in train(codec, np.load(bench.latents, mmap_mode="r"), config):
            losses.append(bpp)
            part = 0.6 * len(losses) / config.steps
            yield part, f"seed {seed}: step {len(losses)}, {bpp:.3f} bpp"
        last = losses[-max(1, len(losses) // SLOW_STEPS) :]
        learned = [p for p in (codec.h_a, codec.h_s, codec.entropy) for p in p.parameters()]
        training = {
            "steps": config.steps,
            "batch": config.batch,
            "cpu_seconds": round(clock.seconds(), 2),
            "estimated_bpp": round(float(np.nanmean(last)), 5),
            "skipped_steps": int(np.isnan(losses).sum()),
            "parameters": sum(p.numel() for p in learned),
        }
        bench.models.mkdir(parents=True, exist_ok=True)
        atomic_write(model, zoo.codec_bytes(codec.eval()), overwrite=True)
        atomic_write(record, json.dumps(training).encode(), overwrite=True)
    return zoo.load(model), json.loads(record.read_text())


def train(codec: BlurCodec, stored: np.ndarray, config: TrainConfig) -> Iterator[float]:
    """Train h_a, h_s and the entropy model of `codec` on latents; yields the mean bpp of each step.

    The loss is the rate alone, with the weight it has at each quality in the training of a codec:
    distortion is the business of the transforms, which are frozen. A step that is not finite
    changes nothing; its bpp is nan.

    Args:
        stored: g_a's output, (crops, M, h, w).
    """
    codec.train()
    codec.entropy.start_at(torch.from_numpy(stored[:64].astype(np.float32)).std((0, 2, 3)))
    parts = nn.ModuleList([codec.h_a, codec.h_s, codec.entropy])
    optimisers, learned = make_optimisers(parts, None, config), list(parts.parameters())
    drawn = batches(stored, config.seed, config.batch)
    for step, y in enumerate(itertools.islice(drawn, config.steps)):
        for group in (group for optimiser in optimisers for group in optimiser.param_groups):
            group["lr"] = learning_rate(step, config.steps, config)
        loss, bpp = _rate(codec, y, config, step)
        parts.zero_grad(set_to_none=True)
        loss.backward()
        norm = nn.utils.clip_grad_norm_(learned, config.clip)
        finite = math.isfinite(loss.item()) and math.isfinite(norm.item())
        for optimiser in optimisers if finite else ():
            optimiser.step()
        yield bpp if finite else math.nan


def _rate(codec: BlurCodec, y: Tensor, config: TrainConfig, step: int) -> tuple[Tensor, float]:
    """Loss of one batch of latents (B, M, h, w), and its mean bits per pixel."""
    levels = codec.config.levels
    draws = Draws(config.seed, step, range(config.batch), config.batch)
    quality = draw_quality(draws, levels)
    weight = min(1.0, step / config.z_warmup)
    latent = codec.latent_of(y, quality, weight, draws.uniform)
    bpp = (latent.bits_y + latent.bits_z) / (256 * y[0, 0].numel())
    loss = balanced(bpp, torch.zeros_like(bpp), quality, levels, config)
    return loss, bpp.mean().item()


# ---------------------------------------------------------------- what is measured of a codec


@dataclass
class Observed:
    """A codec for measuring that keeps the CPU seconds and the latent of its last file."""

    codec: BlurCodec
    encode_s: float = 0.0
    decode_s: float = 0.0
    latent: Latent | None = None

    name = "ablation"

    @property
    def settings(self) -> dict:
        return {}

    def encode(self, image: Tensor, quality: float) -> bytes:
        clock = CpuClock()
        data = BlurlibCodec(self.name, self.codec, effort=0).encode(image, quality)
        self.encode_s = clock.seconds()
        return data

    def decode(self, data: bytes) -> Tensor:
        clock = CpuClock()
        output = self.codec.decompress(data)
        x_hat = images.to_uint8(output.x_hat[0])
        self.decode_s, self.latent = clock.seconds(), output.latent
        return x_hat

    def extra(self, image: Tensor, quality: float, data: bytes) -> dict:
        assert self.latent is not None  # of the decode just before
        return {
            "encode_s": round(self.encode_s, 4),
            "decode_s": round(self.decode_s, 4),
            "channels": self.latent.bits_per_channel()[0],
            "z": 8 * len(BlurFile.from_bytes(data).z_stream),
        }


class _Bits:
    """Sums over photos: bits of the hyper-latent and of every channel, for each quality."""

    def __init__(self):
        self.photos: dict[float, list[tuple[float, Tensor]]] = {}

    def add(self, quality: float, z: float, channels: Tensor) -> None:
        self.photos.setdefault(quality, []).append((z, channels))

    def means(self, groups: Sequence[int]) -> list[dict]:
        """Per quality, means over the photos: bits of z, of each group and of each channel."""
        rows = []
        for quality, photos in sorted(self.photos.items()):
            channels = torch.stack([channels for _, channels in photos]).mean(0)
            rows.append(
                {
                    "quality": quality,
                    "z": round(float(np.mean([z for z, _ in photos])), 1),
                    "groups": [round(g.sum().item(), 1) for g in channels.split(list(groups))],
                    "channels": [round(bits, 1) for bits in channels.tolist()],
                }
            )
        return rows


def _coded(codec: BlurCodec, path: Path, qualities: Sequence[float], bits: _Bits) -> list[dict]:
    """Rows of one photo: real bytes there and back. Seconds are of the CPU."""
    observed = Observed(codec)
    rows = []
    for row in measure(observed, path, qualities, extra=observed.extra):
        bits.add(row.quality, row.extra["z"], row.extra["channels"])
        kept = {k: getattr(row, k) for k in "image quality bytes bpp psnr ms_ssim".split()}
        rows.append({**kept, **{k: row.extra[k] for k in ("encode_s", "decode_s")}})
    return rows


def _zeroed(codec: BlurCodec, paths: Sequence[Path], qualities: Sequence[float]) -> Iterator[dict]:
    """Bytes where the transformer's output, or only that of its attention, is put to 0."""
    for zeroed in ("transformer", "attention"):
        with without(codec, zeroed):
            for path in paths:
                x = images.to_float(images.read_image(path))[None]
                for quality in qualities:
                    size = len(codec.compress(x, quality, effort=0))
                    row = {"zeroed": zeroed, "image": path.name, "quality": quality}
                    yield {**row, "bytes": size}


@contextmanager
def without(codec: BlurCodec, zeroed: str) -> Iterator[None]:
    """Inside, a part of every group's global context says 0: "transformer" or "attention".

    "attention" keeps the tokens and the layers that work on each position alone.
    """
    parts = [group.global_ for group in codec.entropy.groups]
    if zeroed == "attention":
        parts = [block.attention for part in parts for block in part.blocks]
    with ExitStack() as stack:
        for part in parts:
            hook = part.register_forward_hook(lambda _, __, output: torch.zeros_like(output))
            stack.callback(hook.remove)
        yield


def _sizes(codec: BlurCodec, paths: Sequence[Path], setup: Setup) -> Iterator[dict]:
    """Bytes of the photos at every size that all of them have, at the two middle qualities."""
    photos = [images.read_image(path) for path in paths]
    smallest = min((photo[0].numel() for photo in photos), default=0)
    middle = sorted(setup.qualities)[len(setup.qualities) // 2 - 1 :][:2]
    for path, photo in zip(paths, photos, strict=True):
        for size in MEGAPIXELS:
            if 1e6 * size > smallest:
                continue
            x = images.to_float(scaled(photo, size))[None]
            for quality in middle:
                row = {"image": path.name, "megapixels": size, "quality": quality}
                bytes_ = len(codec.compress(x, quality, effort=0))
                yield {**row, "height": x.shape[-2], "width": x.shape[-1], "bytes": bytes_}


def scaled(photo: Tensor, megapixels: float) -> Tensor:
    """A photo, uint8 (3, H, W), made smaller by Pillow's Lanczos filter to about that size."""
    factor = math.sqrt(1e6 * megapixels / photo[0].numel())
    height, width = (max(1, round(side * factor)) for side in photo.shape[1:])
    small = images.to_pillow(photo).resize((width, height), Image.Resampling.LANCZOS)
    return torch.from_numpy(np.array(small)).permute(2, 0, 1).contiguous()


def positions(codec: BlurCodec) -> list[dict]:
    """What the encoding of each group has learned; empty if there is nothing to learn.

    Of the Laplacian A_j, σ_j and half-width, which the heads share; of a table its bias by offset,
    mean over the heads.
    """
    rows = []
    for j, group in enumerate(codec.entropy.groups):
        position = getattr(group.global_, "position", None)
        if isinstance(position, LaplacianPosition):
            names = ("amplitude", "sigma", "half_width")
            values = {name: round(getattr(position, name).item(), 4) for name in names}
            rows.append({"group": j + 1, **values})
        elif isinstance(position, TablePosition):
            bias = bias_by_offset(position).mean(0).double()
            rows.append({"group": j + 1, "bias": bias.mul(1e4).round().div(1e4).tolist()})
    return rows


# ---------------------------------------------------------------- writing


def _write(out: Path, name: str, seed: int, run: Run) -> None:
    """The rows, then the record: a run without its record is done again."""
    (out / "runs").mkdir(parents=True, exist_ok=True)
    which = {"variant": name, "seed": seed}
    tables = [("kodak", run.kodak, []), ("zeroed", run.zeroed, ["zeroed"])]
    tables += [("resolution", run.resolution, ["megapixels"])]
    for table, rows, more in tables:
        if rows:
            order = ["variant", "seed", *more, "image", "quality"]
            replace_rows(out / f"{table}.csv", rows, which, order)
    lines = [
        f" {json.dumps(k)}: {json.dumps(v, ensure_ascii=False)}" for k, v in run.record.items()
    ]
    text = "{\n" + ",\n".join(lines) + "\n}\n"
    atomic_write(record_file(out, name, seed), text.encode(), overwrite=True)
