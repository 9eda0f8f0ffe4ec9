"""Recipes, and the loop: it logs, resumes bit for bit, keeps its time box and survives bad data."""

import contextlib
import functools
import io
import itertools
import json
import math
import resource
import shutil
import signal
import statistics
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from unittest.mock import Mock

import pytest
import scipy.stats
import torch
from torch import Tensor

import stand_ins
from blurlib import images
from blurlib.codec import BlurCodec, CodecConfig, zoo
from blurlib.codec.synthesis import DiffusionDecoder
from blurlib.codec.transforms import Reconstruction
from blurlib.diffusion import BlurDiffusion, BlurSchedule, DenoiserConfig, Sampling
from blurlib.metrics import Lpips, block_steps
from blurlib.training import loop, losses, stages
from blurlib.training.config import RECIPES, TrainConfig, assigned
from blurlib.training.data import Photos, find_photos, open_photos, read_photo
from blurlib.training.draws import Draws, generator
from blurlib.training.losses import draw_quality, held_out_loss, random_view
from blurlib.training.optimisers import learning_rate
from blurlib.training.run import RunFolder, read_log


@pytest.fixture(scope="module")
def config(three_photos) -> TrainConfig:
    return TrainConfig(
        objective="mse", crop=64, batch=2, steps=6, lmbda_max=3.0, warmup=2, optimiser="muon",
        data=str(three_photos), held_out=0,
    )  # fmt: skip


@pytest.fixture(scope="module")
def of_denoiser(config, tiny_codec_path) -> TrainConfig:
    return replace(config, stage="denoiser", codec=str(tiny_codec_path), steps=3)


@pytest.fixture(autouse=True, scope="module")
def tiny_models() -> Iterator[None]:
    """`size = "small"` means a model that takes milliseconds, and no weights of LPIPS are read."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(CodecConfig, "small", lambda: stand_ins.CODEC)
        patch.setattr(DenoiserConfig, "small", lambda: stand_ins.DENOISER)
        patch.setattr(stages.Lpips, "load", lambda *_: Lpips(stand_ins.Distance()))
        yield


def run(config: TrainConfig, folder: Path, resume: bool = False) -> list[loop.Step]:
    return list(loop.train(config, folder, resume))


@pytest.fixture(scope="module")
def finished(config, tmp_path_factory) -> tuple[list[loop.Step], Path]:
    """Steps and folder of a whole run; do not change it."""
    folder = tmp_path_factory.mktemp("finished") / "run"
    return run(config, folder), folder


def timeless(steps: list[loop.Step]) -> list[loop.Step]:
    return [step._replace(seconds=0) for step in steps]


def checkpoint(folder: Path) -> dict:
    """Without the seconds."""
    state = torch.load(folder / "checkpoint.pt", weights_only=True)
    state["counters"][2] = 0
    return state


def interrupted(config: TrainConfig, folder: Path, after: int) -> list[loop.Step]:
    """The steps of a run that was closed after so many and then resumed."""
    with contextlib.closing(loop.train(config, folder)) as steps:
        first = list(itertools.islice(steps, after))
    assert checkpoint(folder)["counters"][0] == after
    assert not list(folder.glob("*.safetensors"))
    torch.manual_seed(12345)
    return first + run(config, folder, resume=True)


assert_same = functools.partial(torch.testing.assert_close, rtol=0, atol=0)


def opened(config: TrainConfig, paths: list[Path] | None = None) -> Photos:
    return open_photos(config, paths or find_photos(config), "cpu")


def first_batches(photos: Photos, first: int, samples: range, count: int) -> list[Tensor]:
    """Ends the processes that read: a failed test would wait for them for ever."""
    with contextlib.closing(photos.batches(first, samples)) as batches:
        return list(itertools.islice(batches, count))


def some(config: TrainConfig, count: int) -> Tensor:
    """Crops in [0, 1]."""
    return next(opened(config).batches(0, range(count))) / 255


# Recipes


def test_a_recipe_survives_toml(config, tmp_path):
    for some_config in (
        config,
        TrainConfig(),
        TrainConfig(stage="denoiser", codec="a", prediction="v", rho=0, max_minutes=0.5),
    ):
        assert TrainConfig.from_toml(some_config.to_toml()) == some_config
    (tmp_path / "mine.toml").write_text(config.to_toml())
    changed = TrainConfig.recipe(str(tmp_path / "mine.toml"), seed=9, batch=None)
    assert changed == replace(config, seed=9)  # None leaves the recipe's value


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("lr = ", "not valid TOML"),
        ("warm_up = 1", "unknown field 'warm_up' .* did you mean 'warmup'"),
        ("colour = 1", "unknown field 'colour' .* the fields are stage, size"),
        ("batch = 'four'", "batch is 'four': it must be a valid integer"),
        ("lr = nan", "lr is nan: it must be a finite number"),
        ("crop = 100", "crop is 100: it must be a multiple of 64"),
        ("objective = 'mse'\nlmbda_max = 0.1", "without lmbda_min and lmbda_max"),
        ("objective = 'mse+lpips'", "0.0003 and 0.006 are usual"),
        ("objective = ['mse']", r"objective is \['mse'\]: it must be"),
        ("lmbda_min = 3.0\nlmbda_max = 2.0", "lmbda_min is 3.0: it must be below lmbda_max, 2.0"),
        ("crop = 128", "MS-SSIM needs at least 161 px"),
        ("stage = 'denoiser'", "codec is empty"),
        ("stage = 'deterministic'", "'deterministic': it must be 'codec', 'denoiser' or 'joint'"),
        ("start_scale = -1.0", "start_scale is -1.0: it must be greater than or equal to 0"),
        ("start_scale = 0.0", "start_scale is 0: it needs unroll_steps above 0 and prediction 'x'"),
        ("unroll_steps = 1\nstart_scale = 0.0\nprediction = 'v'", "0 and prediction 'x' or 'resid"),
        ("stage = 'joint'\nprediction = 'residual'", "needs a finished codec"),
        ("unroll_steps = 17", "unroll_steps is 17: it must be less than or equal to 16"),
        ("stage = 'joint'\nunroll_steps = 2", "only stage 'denoiser' has"),
        ("told = true\nprediction = 'v'", "told is true with prediction 'v': it must be"),
        ("stage = 'joint'\nprediction = 'eps'", "lpips_t_max is 0.7: .* at most 0.11, or"),
    ],
)
def test_a_recipe_that_cannot_work_is_refused_in_one_line(text, message):
    with pytest.raises(ValueError, match=message) as refused:
        TrainConfig.from_toml(text)
    assert "\n" not in str(refused.value)


def test_fields_are_set_by_texts():
    texts = ["lr=1e-3", "batch = 8", "stage=denoiser", "codec=runs/a=b.safetensors",
             "checkpointing=true", "data='12'", "precision=32-true", "init="]  # fmt: skip
    assert assigned(texts) == {
        "lr": 1e-3, "batch": 8, "stage": "denoiser", "codec": "runs/a=b.safetensors",
        "checkpointing": True, "data": "12", "precision": "32-true", "init": "",
    }  # fmt: skip
    with pytest.raises(ValueError, match="'batch' sets nothing: give field=value"):
        assigned(["batch"])


def test_shipped_recipes_are_read_and_others_refused():
    for recipe in sorted(path.stem for path in RECIPES.glob("*.toml")):
        config = TrainConfig.recipe(recipe)
        assert config.precision == ("bf16-mixed" if recipe[:3] in ("gpu", "pap") else "32-true")
        assert config.accelerator == "auto"
    with pytest.raises(ValueError, match="objective is 'mse' without"):  # those are for MS-SSIM
        TrainConfig.recipe("cpu-small", objective="mse")
    with pytest.raises(ValueError, match=r"no recipe 'gone': shipped recipes are .*tiny"):
        TrainConfig.recipe("gone")


def test_the_learning_rate_warms_up_and_falls_to_one_percent():
    config = TrainConfig(lr=2.0, warmup=10)
    rates = [learning_rate(step, 100, config) for step in range(101)]
    assert rates[0] == pytest.approx(0.2)
    assert max(rates) == pytest.approx(2.0, rel=0.03)
    assert rates[10:] == sorted(rates[10:], reverse=True)
    assert rates[-1] == pytest.approx(0.02)
    assert learning_rate(3, 0, config) == pytest.approx(0.8)


# Losses of a codec


def test_the_loss_is_rate_plus_lambda_distortion(config, photo):
    """λ is geometric between the levels; quality spans them."""
    codec = BlurCodec(CodecConfig.small())
    x = torch.cat([photo(64, 64), photo(64, 64).flip(-1)])
    result = losses.rate_distortion(codec, x, config, Draws(0, 4, range(2), 2))
    again = Draws(0, 4, range(2), 2)
    q = draw_quality(again, 3)
    output = codec(x, q, noise=again.uniform)
    error = 255**2 * (output.x_hat - x).square().flatten(1).mean(1)
    rate = output.estimated_bits / 64**2
    ratio = 2 ** ((q - 1) / 2 * math.log2(3 / 1.5))
    middle = 2**0.5  # λ_mid / λ_min
    expected = ((rate + config.lmbda_min * ratio * error) * (middle / ratio).sqrt()).mean()
    torch.testing.assert_close(result.total, expected.to(result.total))
    torch.testing.assert_close(result.parts, {"bpp": rate.mean(), "distortion": error.mean()})
    drawn = draw_quality(Draws(0, 0, range(10_000), 10_000), 6)
    assert 1 <= drawn.min() < 1.01
    assert 5.99 < drawn.max() <= 6


def test_a_grid_raises_the_distortion_by_its_part(config, photo):
    x = photo(64, 64)
    blocks = torch.nn.functional.interpolate(torch.nn.functional.avg_pool2d(x, 16), scale_factor=16)
    plain = losses.distortion(blocks, x, config, None)
    weighed = losses.distortion(blocks, x, replace(config, grid=0.5), None)
    of_16, of_8 = (block_steps(blocks) - block_steps(x))[0]
    assert of_16 > 10
    assert of_8 < -0.1
    torch.testing.assert_close(weighed.total, plain.total * (1 + 0.5 * (of_16 - of_8)))
    same = losses.distortion(x, x, replace(config, grid=0.5), None).total
    torch.testing.assert_close(same, x.new_zeros(1))


def test_a_codec_trained_with_lpips_sees_it_in_random_views(config, photo):
    """D is 255² · MSE + 2500 · LPIPS; both pictures are seen in the same view of the step."""
    stage = stages.make(replace(config, objective="mse+lpips"))
    x, draws = photo(64, 64), Draws(0, 1, range(1), 1)
    parts = stage.loss(x, 0, draws).parts
    again = Draws(0, 1, range(1), 1)
    output = stage.trained_codec(x, draw_quality(again, 3), 1.0, again.uniform)
    view = random_view(again)
    squares = 255**2 * (output.x_hat - x).square().mean()
    perceived = stage.lpips(view(output.x_hat), view(x)).mean()
    torch.testing.assert_close(parts["distortion"], squares + 2500 * perceived)
    with pytest.raises(ValueError, match=r"'mse\+lpips', which the codec alone cannot"):
        stage.config.target.distance(x, x)


@pytest.mark.slow
def test_the_held_out_loss_is_that_of_real_files(config, tiny_codec, photo):
    """R + λ·D over √(λ/λ_mid), from the bytes of files and the pictures they decode to."""
    config = replace(config, lmbda_min=2e-4, lmbda_max=5e-3)
    photos = [photo(128, 192)[0], photo(192, 320)[0][..., 192:]]
    expected = []
    for x in photos:
        for part in losses.HELD_OUT_PARTS:
            data = tiny_codec.compress(x[None], 1 + 2 * part, effort=0)
            mse = (tiny_codec.decompress(data).x_hat - x).square().mean().item()
            weight = 2e-4 * 25**part
            bpp = 8 * (len(data) - 29) / x[0].numel()  # without the header
            assert 0.05 * bpp < weight * 255**2 * mse < 20 * bpp  # both parts count
            expected.append((bpp + weight * 255**2 * mse) / math.sqrt(weight / 1e-3))
    found = held_out_loss(tiny_codec, photos, config)
    assert found == pytest.approx(statistics.mean(expected), rel=0.01)
    assert held_out_loss(tiny_codec, photos, config) == found  # nothing is drawn


@pytest.fixture(scope="module")
def unusable(three_photos, tmp_path_factory, astronaut) -> dict[Path, str]:
    """Files, and why they cannot be trained on."""
    folder = tmp_path_factory.mktemp("unusable")
    small, broken, grey = (folder / f"{name}.png" for name in ("small", "broken", "grey"))
    images.write_image(small, astronaut[:, :63, :80])
    broken.write_bytes((three_photos / "0.png").read_bytes()[:500])
    images.write_image(grey, astronaut[:1, :80, :80].expand(3, -1, -1))
    return {small: "80×63 is smaller than the crop", broken: "truncated", grey: "grey"}


@pytest.mark.parametrize("gigabytes", [1.0, 0.0])
def test_photos_that_cannot_be_used_are_named(config, three_photos, unusable, tmp_path, gigabytes):
    """Of a set in memory, and of one that is read again for every crop, by two processes."""
    config = replace(config, bank_gb=gigabytes, workers=2)
    files = [*sorted(three_photos.iterdir()), *unusable]
    found, again = opened(config, files), opened(config, files)
    assert found.workers == (0 if gigabytes else 2)
    seen = first_batches(found, 0, range(4), 12)
    assert torch.equal(seen[-1], *first_batches(again, 11, range(4), 1))
    assert len(found.skipped) == 3
    assert all(reason in found.skipped[path] for path, reason in unusable.items())
    folder = RunFolder(tmp_path / "run")  # where every process names what it skipped
    folder.note_skipped(found, rank=1)
    assert "grey" in (folder.path / "skipped-1.txt").read_text()
    found.skipped.clear()
    for rank in (0, 2):
        folder.note_skipped(found, rank)
    assert {path.name for path in folder.path.iterdir()} == {"skipped.txt", "skipped-1.txt"}


def test_nothing_to_train_on_is_refused(config, unusable, tmp_path):
    with pytest.raises(ValueError, match="none of the 3 files is a colour photo of at least 64 px"):
        opened(config, [*unusable])
    with pytest.raises(ValueError, match="100 photos in a row are of no use, such as "):
        next(opened(replace(config, bank_gb=0.0, workers=0), [*unusable]).batches(0, range(1)))
    with pytest.raises(ValueError, match="data is empty"):
        run(replace(config, data=""), tmp_path / "run")
    with pytest.raises(ValueError, match=r"all it has is held out .*held_out 0"):
        find_photos(replace(config, held_out=1))


def test_crops_lie_inside_the_photos_and_half_are_mirrored(config, three_photos):
    batch = next(opened(config).batches(0, range(40)))
    assert (batch.shape, batch.dtype) == ((40, 3, 64, 64), torch.uint8)
    photos = map(images.read_image, three_photos.iterdir())
    windows = [photo.unfold(1, 64, 1).unfold(2, 64, 1) for photo in photos]

    def is_in(crop: Tensor) -> bool:
        return any((w == crop[:, None, None]).all(4).all(3).all(0).any() for w in windows)

    plain = sum(is_in(crop) for crop in batch)
    assert plain + sum(is_in(crop.flip(-1)) for crop in batch) == 40
    assert 8 < plain < 32


def test_a_crop_follows_from_seed_step_and_sample_alone(config):
    """Wherever it is read from."""
    first, second = first_batches(opened(config), 0, range(6), 2)
    assert not torch.equal(first, second)
    for changes in ({}, {"bank_gb": 0.0, "workers": 0}, {"bank_gb": 0.0, "workers": 2}):
        later = first_batches(opened(replace(config, **changes)), 1, range(3, 6), 2)
        assert [torch.equal(second[3:], crops) for crops in later] == [True, False]
    assert not torch.equal(first, next(opened(replace(config, seed=4)).batches(0, range(6))))


def test_vimeo_septuplets_are_found_and_held_out_whole(config, tmp_path, astronaut):
    clips = [f"00001/000{i}" for i in range(1, 5)]
    for clip in clips:
        folder = tmp_path / "sequences" / clip
        folder.mkdir(parents=True)
        for frame in range(1, 8):
            images.write_image(folder / f"im{frame}.png", astronaut[:, :64, frame : frame + 80])
    (tmp_path / "sep_trainlist.txt").write_text("\n".join(clips[:3]) + "\n\n")
    config = replace(config, data=str(tmp_path), held_out=3)
    training, held_out = find_photos(config), find_photos(config, held_out=True)
    assert (len(training), len(held_out)) == (14, 7)
    assert {photo.parent.name for photo in training} == {"0002", "0003"}
    assert {photo.parent.name for photo in held_out} == {"0001"}
    assert all(isinstance(read_photo(photo, 64), Tensor) for photo in training)


def test_a_sample_draws_the_same_in_whatever_batch_it_is():
    like = torch.empty(4, 3, 5, 5).to(memory_format=torch.channels_last)
    whole, part = Draws(1, 2, range(4), 4), Draws(1, 2, range(2, 4), 4)
    for draw in ("uniform", "normal", "uniform"):
        assert torch.equal(getattr(whole, draw)(like)[2:], getattr(part, draw)(like[2:]))
    for _ in range(2):
        assert torch.equal(whole.strata()[2:], part.strata())
    x = torch.rand(1, 3, 64, 80)
    assert torch.equal(random_view(whole)(x), random_view(part)(x))


def test_noise_has_the_distribution_it_says_and_other_keys_draw_other_numbers():
    like = torch.empty(2, 10_000)
    drawn = [Draws(*key, range(2), 2).uniform(like) for key in ((0, 0), (0, 1), (1, 0))]
    uniform, normal = torch.cat(drawn), Draws(0, 0, range(2), 2).normal(like)
    assert (torch.corrcoef(uniform) - torch.eye(6)).abs().max() < 0.05
    assert scipy.stats.kstest(uniform.flatten(), "uniform", (-0.5, 1)).pvalue > 0.01
    assert scipy.stats.kstest(normal.flatten(), "norm").pvalue > 0.01
    assert generator("a", 1).initial_seed() != generator("a1").initial_seed()


def test_strata_cover_the_interval_and_are_not_tied_to_each_other():
    """Quality and diffusion time are both drawn so: the same order would couple them."""
    pairs = []
    for step in range(200):
        draws = Draws(0, step, range(4), 4)
        pairs.append(torch.stack([draws.strata(), draws.strata()]))
        assert (pairs[-1] * 4).floor().sort(1).values.tolist() == [[0, 1, 2, 3]] * 2
    assert torch.corrcoef(torch.cat(pairs, 1))[0, 1].abs() < 0.1


def test_views_are_all_ways_to_look_at_a_picture():
    """Of a picture whose pixels say where they are: a view is a crop, mirrored, transposed, or its
    2×2 means."""
    place = torch.stack(torch.meshgrid(torch.arange(97.0), torch.arange(71.0), indexing="ij"))
    found = []
    for step in range(400):
        seen = random_view(Draws(0, step, range(2), 2))(place)
        transposed = bool(seen[0, 0, 0] == seen[0, -1, 0])
        rows, columns = seen.mT if transposed else seen
        halved = min(seen.shape[1:]) < 64
        assert rows.shape == ((45, 32) if halved else (90, 64))
        assert (rows == rows[:, :1]).all()
        assert (columns == columns[:1]).all()
        steps = rows[:, 0].diff(), columns[0].diff()
        for step in steps:
            assert step.unique().abs().tolist() == [2 if halved else 1]
        crop = int(rows.min()), int(columns.min())
        found.append((*crop, bool(steps[0][0] > 0), bool(steps[1][0] > 0), transposed, halved))
    top, left, *choices = map(set, zip(*found, strict=True))
    assert top == left == set(range(8))
    assert choices == [{True, False}] * 4


# The loop


@pytest.mark.slow
def test_a_run_logs_every_step_and_leaves_a_model_that_codes(config, finished, photo):
    steps, folder = finished
    assert [step.step for step in steps] == [1, 2, 3, 4, 5, 6]
    assert {step.steps for step in steps} == {6}
    assert all(math.isfinite(step.loss) and step.gradient > 0 for step in steps)
    assert steps[0].parts.keys() == {"bpp", "distortion"}
    assert loop.read_log(folder) == steps
    assert TrainConfig.recipe(str(folder / "config.toml")) == config
    codec = zoo.load(folder / "model.safetensors")
    data = codec.compress(photo(70, 70), 2, effort=0)
    assert torch.equal(codec.decompress(data).y_hat, codec(photo(70, 70), 2).y_hat)
    # Its weights are the averaged ones.
    state, name = checkpoint(folder), "g_a.layers.1.weight"
    assert not torch.equal(state["average"][name], state["model"][name])
    average = state["average"][name]
    torch.testing.assert_close(codec.state_dict()[name], average, rtol=1e-3, atol=1e-4)


@pytest.mark.slow
def test_a_run_that_is_made_longer_is_the_longer_run_bit_for_bit(config, tmp_path):
    """Where the short one had not begun to slow down: the optimisers go on, too."""
    longer, folder = replace(config, steps=4, decay=0.5, optimiser="adam"), tmp_path / "run"
    expected = run(longer, tmp_path / "longer")
    run(replace(longer, steps=2, decay=0.25), folder)
    rest = run(longer, folder, resume=True)
    assert timeless(rest) == timeless(expected[2:])
    assert [step.lr for step in rest] == [learning_rate(i, 4, longer) for i in range(2, 4)]
    assert_same(checkpoint(folder), checkpoint(tmp_path / "longer"))
    # A finished run that is resumed makes its model again.
    (folder / "model.safetensors").unlink()
    assert run(longer, folder, resume=True) == []
    model = "model.safetensors"
    assert (folder / model).read_bytes() == (tmp_path / "longer" / model).read_bytes()


def altered(monkeypatch, factor) -> None:
    """Every loss of a codec is multiplied by factor(its step, from 0)."""
    of = stages.CodecStage.loss

    def loss(self, x, step, *others):
        found = of(self, x, step, *others)
        return found._replace(total=found.total * factor(step))

    monkeypatch.setattr(stages.CodecStage, "loss", loss)


@pytest.mark.slow
def test_a_step_that_is_not_finite_changes_nothing(config, tmp_path, monkeypatch):
    """Seen in the checkpoints, which are written on the way."""
    altered(monkeypatch, lambda step: math.nan if step == 2 else 1)
    states, steps = [], []
    config = replace(config, steps=4, checkpoint_every=0.0, start="random")
    for step in loop.train(config, tmp_path / "run"):
        steps.append(step)
        states.append(checkpoint(tmp_path / "run"))
    assert [state["counters"][0] for state in states] == [1, 2, 3, 4]
    assert [math.isfinite(step.loss) for step in steps] == [True, True, False, True]
    for part in ("model", "average"):
        assert_same(states[2][part], states[1][part])
    before, after = ([o["state"] for o in states[i]["optimisers"]] for i in (1, 2))
    assert len(before) == 2  # Muon and Adam
    assert all(before)
    assert_same(after, before)
    assert [step.not_finite for step in steps] == [0, 0, 1, 1]
    assert not torch.equal(states[3]["model"]["gain.log_gain"], states[2]["model"]["gain.log_gain"])


@pytest.mark.slow
def test_not_finite_for_too_long_names_the_step_and_keeps_weights(config, tmp_path, monkeypatch):
    altered(monkeypatch, lambda step: math.inf if step >= 2 else 1)
    monkeypatch.setattr(loop, "PATIENCE", 5)
    config, folder = replace(config, steps=20, start="random"), tmp_path / "run"
    with pytest.raises(loop.NotFiniteError, match=r"step 3 and the 4 after it were not finite"):
        run(config, folder)
    log = loop.read_log(folder)
    assert (len(log), log[-1].not_finite) == (7, 5)
    assert all(value.isfinite().all() for value in checkpoint(folder)["model"].values())


@pytest.mark.slow
def test_a_full_disk_is_an_error_that_leaves_the_old_checkpoint(config, tmp_path):
    folder, config = tmp_path / "run", replace(config, steps=2, start="random")
    run(config, folder)
    before = (folder / "checkpoint.pt").read_bytes()
    longer = replace(config, steps=4)
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (len(before) // 2, limits[1]))
    try:
        with pytest.raises(OSError, match=r"cannot be written.*checkpoint.pt"):
            run(longer, folder, resume=True)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert (folder / "checkpoint.pt").read_bytes() == before
    assert not list(folder.glob(".*.tmp"))
    assert [step.step for step in run(longer, folder, resume=True)] == [3, 4]
    # Without a checkpoint nothing is gone on with, neither is the log.
    (folder / "checkpoint.pt").unlink()
    run(replace(config, steps=1), folder)
    assert [step.step for step in loop.read_log(folder)] == [1]


def ticking(seconds: float) -> SimpleNamespace:
    """A clock on which every look takes `seconds`."""
    looks = itertools.count(1)
    return SimpleNamespace(monotonic=lambda: seconds * next(looks))


@pytest.mark.slow
@pytest.mark.parametrize("after", [3, 7])
def test_the_time_box_fixes_the_number_of_steps_once(config, tmp_path, monkeypatch, after):
    """5 seconds at half a second each; an interruption does not change that."""
    monkeypatch.setattr(loop, "time", ticking(0.5))
    monkeypatch.setattr(loop, "MEASURED_STEPS", range(2, 6))
    config = replace(config, steps=0, batch=1, max_minutes=5 / 60, start="random")
    steps = interrupted(config, tmp_path / "run", after)
    assert [step.steps for step in steps] == [0] * 5 + [10] * 5
    with monkeypatch.context() as patch:
        patch.setattr(loop, "read_log", Mock(side_effect=OSError("full")))
        with pytest.raises(OSError, match="full"):
            run(config, tmp_path / "full")
    monkeypatch.setattr(TrainConfig, "slowdown", 5 / 3)  # the mean of all steps over those so far
    assert run(config, tmp_path / "full", resume=True)[-1].steps == 8
    assert steps[-1].lr < steps[6].lr < steps[2].lr


@pytest.mark.slow
def test_ctrl_c_waits_for_the_end_of_the_update_and_init_for_nothing(
    config, finished, tmp_path, monkeypatch
):
    weights = shutil.copy(finished[1] / "model.safetensors", tmp_path)
    config = replace(config, init=str(weights))
    expected = run(config, tmp_path / "whole")
    update, ctrl_c = loop._average, functools.partial(signal.raise_signal, signal.SIGINT)
    with monkeypatch.context() as patch:
        patch.setattr(loop, "_average", lambda *a: update(*a) or ctrl_c())
        with pytest.raises(KeyboardInterrupt):
            run(config, tmp_path / "run")
    assert checkpoint(tmp_path / "run")["counters"][0] == 1
    Path(weights).unlink()
    (first,) = loop.read_log(tmp_path / "run")
    assert timeless([first, *run(config, tmp_path / "run", resume=True)]) == timeless(expected)


@pytest.mark.slow
def test_a_folder_with_another_run_is_not_touched(config, finished, tmp_path):
    _, folder = finished
    before = {path: path.read_bytes() for path in folder.iterdir()}
    with pytest.raises(ValueError, match="already holds a run: resume it, or choose another"):
        run(config, folder)
    for change, message in (
        ({"lr": 0.5}, "was started with lr = 0.001, not 0.5: resume it with its own recipe"),
        ({"optimiser": "adam"}, "was started with optimiser = 'muon', not 'adam'"),
    ):
        with pytest.raises(ValueError, match=message) as refused:
            run(replace(config, **change), folder, resume=True)
        assert "\n" not in str(refused.value)
    assert {path: path.read_bytes() for path in folder.iterdir()} == before
    with pytest.raises(ValueError, match=r"has no checkpoint.pt to resume from"):
        run(config, tmp_path / "run", resume=True)


@pytest.mark.slow
def test_a_checkpoint_that_is_damaged_or_of_no_run_is_refused(config, finished, tmp_path):
    folder = tmp_path / "run"
    shutil.copytree(finished[1], folder)
    whole, foreign = (folder / "checkpoint.pt").read_bytes(), io.BytesIO()
    torch.save({"model": 1}, foreign)
    flipped = bytearray(whole)
    flipped[len(whole) // 2] ^= 1
    for data in (b"", whole[:-100], b"x" * 1000, bytes(flipped), foreign.getvalue()):
        (folder / "checkpoint.pt").write_bytes(data)
        with pytest.raises(ValueError, match=r"checkpoint.pt: is damaged, or of no run"):
            run(config, folder, resume=True)
    (folder / "log.jsonl").write_text('{"step": 1}\n')
    with pytest.raises(ValueError, match=r"log.jsonl: line 1 is not a step"):
        read_log(folder)


def test_log_lines_of_older_runs_are_read_and_cut_ones_left_out(tmp_path):
    line = {"step": 1, "steps": 9, "loss": 2.0, "parts": {"bpp": 1.0}, "gradient": 1.0}
    text = json.dumps(line | {"lr": 0.1, "seconds": 0.5})
    (tmp_path / "log.jsonl").write_text(text + "\n" + text[:20])
    assert [step.images for step in read_log(tmp_path)] == [0]


def test_two_runs_do_not_share_a_folder(config, tmp_path):
    steps = loop.train(config, tmp_path / "run")
    next(steps)
    with pytest.raises(OSError, match="run: another process is writing there"):
        next(loop.train(config, tmp_path / "run"))
    steps.close()
    next(loop.train(config, tmp_path / "run", resume=True))


def test_a_machine_that_is_not_the_recipes_is_refused(config, tmp_path, monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(ValueError, match="no GPU: use 'cpu' or 'auto'"):
        run(replace(config, accelerator="cuda"), tmp_path / "run")
    monkeypatch.setenv("WORLD_SIZE", "3")  # as torchrun and SLURM say it
    with pytest.raises(ValueError, match="3 processes were started, and the run is for 2 devices"):
        loop.launch(replace(config, devices=2, accelerator="cpu"))


@pytest.mark.parametrize("kind", ["codec", "denoiser"])
def test_in_bfloat16_the_losses_stay_in_float32(config, of_denoiser, kind):
    of = config if kind == "codec" else of_denoiser
    x, found, seen = some(of, 2), [], {}
    for precision in ("32-true", "bf16-mixed"):
        changed = replace(of, precision=precision, accelerator="cpu")
        torch.manual_seed(0)
        stage = stages.make(changed)
        module = stage.module
        codec = getattr(module, "g_a", None)
        parts = (codec.layers[1], codec, module.h_s) if codec else (module.time_mlp,)
        for part in parts:
            part.register_forward_hook(lambda part, _, y: seen.update({part: y.dtype}))
        stage.setup(loop.launch(changed))
        loss = stage.loss(x, 5000, Draws(0, 0, range(2), 2))
        assert {value.dtype for value in (loss.total, *loss.parts.values())} == {torch.float32}
        found.append(loss.total.item())
    reduced = [dtype == torch.bfloat16 for dtype in seen.values()]
    expected = [*[False] * 3, True, False, False] if kind == "codec" else [False, True]
    assert reduced == expected
    assert found[1] == pytest.approx(found[0], rel=0.002)
    assert found[1] != found[0] or kind == "denoiser"  # whose last layer is 0 at first


def test_the_average_of_the_weights_is_exponential():
    """Against the sum: Σ (1 − d) dⁿ⁻ⁱ wᵢ + dⁿ w₀; buffers are the last."""
    average, module = torch.nn.BatchNorm1d(2), torch.nn.BatchNorm1d(2)
    expected = 0.9**3 * average.weight.detach().clone()
    for i in range(1, 4):
        with torch.no_grad():
            module.weight.copy_(torch.tensor([1.0, -2.0]) * i)
            module.running_mean.fill_(i)
        expected += 0.1 * 0.9 ** (3 - i) * module.weight.detach()
        loop._average(average, module, 0.9)
    torch.testing.assert_close(average.weight.detach(), expected)
    assert torch.equal(average.running_mean, torch.full((2,), 3.0))


@pytest.fixture(scope="module")
def with_held_out(config, tmp_path_factory, astronaut) -> TrainConfig:
    """Of four photos 0 and 2 are held out; 2 is too small to judge by."""
    folder = tmp_path_factory.mktemp("with-held-out")
    for i, (height, width) in enumerate([(300, 270), (80, 90), (255, 300), (90, 80)]):
        images.write_image(folder / f"{i}.png", astronaut[:, 50 : 50 + height, 90 : 90 + width])
    return replace(config, data=str(folder), held_out=2, steps=2, lr=0.01)


@pytest.mark.slow
def test_every_checkpoint_has_the_held_out_loss_of_its_average(with_held_out, tmp_path, astronaut):
    often, once = tmp_path / "often", tmp_path / "once"
    steps = run(replace(with_held_out, checkpoint_every=0.0), often)
    assert all(math.isfinite(step.held_out) for step in steps)
    assert loop.read_log(often) == steps
    codec = BlurCodec(CodecConfig.small())
    codec.load_state_dict(checkpoint(often)["average"])
    codec.entropy.hyper_latent.freeze()
    top, left = 50 + (300 - 256) // 2, 90 + (270 - 256) // 2  # of the middle of photo 0
    x = astronaut[:, top : top + 256, left : left + 256]
    expected = held_out_loss(codec.eval(), [x.float() / 255], with_held_out)
    assert steps[-1].held_out == pytest.approx(expected, rel=1e-4)
    shown = images.read_image(often / "validation.png")
    assert shown.shape == (3, 256, 512)
    assert torch.equal(shown[:, :, :256], x)  # its reconstruction is beside it
    # The run is the same without.
    steps_once = run(replace(with_held_out, checkpoint_every=1e9), once)
    assert [step.held_out for step in steps_once] == [None, steps[-1].held_out]
    assert_same(checkpoint(once), checkpoint(often))


# The denoiser


@pytest.mark.parametrize("prediction", ["v", "residual"])
def test_a_denoiser_is_trained_on_its_codec(of_denoiser, tmp_path, tiny_codec, photo, prediction):
    told = prediction == "residual"
    config = replace(of_denoiser, prediction=prediction, spacing="logsnr", told=told)
    steps = run(config, tmp_path / "run")
    scale = 1 if prediction == "residual" else 5
    for step in steps:
        total = (1 - config.rho) * scale * step.parts["diffusion"]
        assert step.loss == pytest.approx(total + config.rho * step.parts["lpips"])
    decoder = zoo.load_denoiser(tmp_path / "run" / "model.safetensors")
    assert decoder.process.prediction == prediction
    assert decoder.denoiser.config.told == (7 if told else 0)
    assert prediction == "v" or (decoder.denoiser.error_spectra != 0).all()
    again = stages.make(replace(config, init=str(tmp_path / "run" / "model.safetensors")))
    for a, b in zip(again.module.parameters(), decoder.parameters(), strict=True):
        assert torch.equal(a, b)
    output = tiny_codec.decompress(tiny_codec.compress(photo(64, 64), 2))
    *_, last = decoder.sample(output, steps=2)
    assert torch.isfinite(last.x_hat).all()


@pytest.mark.parametrize("solver", ["ancestral", "deterministic", "multistep"])
def test_an_unrolled_chain_has_the_gradient_of_differences(of_denoiser, tiny_codec, photo, solver):
    """Through all evaluations, each computed again on the way back."""
    x, config = photo(64, 64), replace(of_denoiser, prediction="residual")
    with torch.no_grad():
        output = tiny_codec(x, 2.0)
    x_hat, pyramid = output.reconstruction
    own = Reconstruction(x_hat.double(), tuple(features.double() for features in pyramid))
    sizes = replace(stand_ins.DENOISER, residual_to_base=False, gated=True, error_levels=3, told=7)
    network = stand_ins.awake(sizes).double()
    network.checkpointing = True
    process = BlurDiffusion(BlurSchedule(sigma_blur_max=5.0, logsnr_min=0.0), "residual")
    decoder = DiffusionDecoder(network, process, bytes(4), Sampling(3, solver=solver))
    given, lpips = output._replace(reconstruction=own), Lpips(stand_ins.Distance()).double()

    def loss() -> Tensor:
        draws = Draws(0, 0, range(1), 1)
        of = losses.perceptual(decoder, given, x.double(), lpips, config, draws, unrolled=True)
        return of.total.sum()

    weight = network.fuse[2].weight
    (gradient,) = torch.autograd.grad(loss(), weight)
    direction, found = torch.randn(weight.shape, generator=generator("any")).double(), []
    with torch.no_grad():
        for step in (1e-5, -2e-5):
            weight += step * direction
            found.append(loss().item())
    numeric = (found[0] - found[1]) / 2e-5
    assert abs(numeric) > 1e-3
    assert (gradient * direction).sum().item() == pytest.approx(numeric, rel=1e-4)


@pytest.mark.slow
def test_the_last_part_of_a_run_unrolls_chains_and_resumes_bit_for_bit(of_denoiser, tmp_path):
    config = replace(of_denoiser, prediction="residual", told=True, steps=4)
    config = replace(config, unroll_steps=2, unroll_last=0.5)
    expected = run(config, tmp_path / "whole")
    assert [next(iter(step.parts)) for step in expected] == ["diffusion"] * 2 + ["mse"] * 2
    for step in expected:
        error, lpips = step.parts.values()
        assert step.loss == pytest.approx((1 - config.rho) * error + config.rho * lpips)
    assert timeless(interrupted(config, tmp_path / "cut", 3)) == timeless(expected)
    assert_same(checkpoint(tmp_path / "cut"), checkpoint(tmp_path / "whole"))
    assert zoo.load_denoiser(tmp_path / "cut" / "model.safetensors").sampling == Sampling(2)
    assert config.slowdown == 1.25  # for the time box: half of the steps take half as long again
    assert replace(config, unroll_last=1.0).slowdown == 1


@pytest.mark.slow
def test_a_deterministic_decoder_is_trained_without_noise(of_denoiser, tmp_path, tiny_codec, photo):
    once = {"unroll_steps": 1, "unroll_last": 1.0, "start_scale": 0.0}
    config = replace(of_denoiser, prediction="residual", told=True, rho=0.5, lr=1e-2, **once)
    config = replace(config, steps=20)
    seen = stages.make(config).loss(some(config, 2), 0, Draws(0, 0, range(2), 2))
    assert "mse" in seen.parts  # also while a time box does not know its number of steps yet
    steps = run(config, tmp_path / "run")
    for step in steps:
        assert step.loss == pytest.approx(0.5 * step.parts["mse"] + 0.5 * step.parts["lpips"])
    # At first it adds nothing, and is as far as the direct picture is.
    assert steps[0].parts["lpips"] == pytest.approx(1, rel=1e-3)
    assert steps[0].parts["mse"] == pytest.approx(1, rel=0.3)
    early, late = (sum(step.loss for step in part) for part in (steps[:4], steps[-4:]))
    assert late < 0.95 * early
    decoder = zoo.load_denoiser(tmp_path / "run" / "model.safetensors")
    assert decoder.sampling == Sampling(1, start_scale=0.0)
    with torch.no_grad():
        output = tiny_codec(photo(64, 64), 2.0)
        end = decoder.unrolled(output, lambda: torch.randn(1, 3, 64, 64))
    decoded = decoder.decode(tiny_codec.decompress(tiny_codec.compress(photo(64, 64), 2)))
    torch.testing.assert_close(decoded, ((end + 1) / 2).clamp(0, 1), rtol=0, atol=1e-3)


def test_a_denoiser_of_residuals_is_told_the_errors_of_its_codec(of_denoiser, tiny_codec):
    """Summed over the frequencies, the variance is the squared error at that quality."""
    stage, crops = stages.make(replace(of_denoiser, prediction="residual")), some(of_denoiser, 8)
    assert stage.start_crops() > 0
    stage.start(crops)
    decoder = stage._decoder(stage.module)
    for quality in (1.0, 2.0):
        with torch.no_grad():
            output = tiny_codec.eval()(crops, quality)._replace(psnr=None)
        error = 4 * (output.x_hat - crops).square().mean()
        assert decoder.variance(output).mean().item() == pytest.approx(error.item(), rel=0.1)


@pytest.mark.slow
def test_codec_and_denoiser_are_trained_together(config, tmp_path, photo):
    folder = tmp_path / "run"
    config = replace(config, stage="joint", prediction="eps", lpips_t_max=0.1, held_out=3)
    steps = run(config, folder)
    (held_out,) = map(images.read_image, find_photos(config, held_out=True))
    preview = images.read_image(folder / "validation.png")
    assert torch.equal(preview[..., :64], images.centre(held_out, 64, 64))
    assert steps[0].parts.keys() == {"bpp", "diffusion", "lpips"}
    assert all(math.isfinite(step.loss) for step in steps)
    codec = zoo.load(folder / "model.safetensors")
    decoder = zoo.load_denoiser(folder / "denoiser.safetensors")
    output = codec.decompress(codec.compress(photo(64, 64), 2))
    *_, last = decoder.sample(output, steps=2)  # refused unless it is this codec's
    assert torch.isfinite(last.x_hat).all()


def test_the_joint_loss_is_the_papers_and_reaches_codec_and_denoiser(config):
    """R + λ · [(1 − ρ) · 5 · diffusion + ρ · LPIPS], over √(λ/λ_mid), of one photo."""
    config = replace(config, stage="joint", rho=0.3, lpips_t_max=1.0, lmbda_min=0.5)
    stage = stages.make(config)
    result = stage.loss(some(config, 1), 5000, Draws(0, 0, range(1), 1))
    weight = config.target.lmbda(draw_quality(Draws(0, 0, range(1), 1), 3), 3).item()
    assert 0.5 < weight < 3
    bpp, diffusion, lpips = (result.parts[name] for name in ("bpp", "diffusion", "lpips"))
    expected = bpp + weight * (0.7 * 5 * diffusion + 0.3 * lpips)
    expected = expected / math.sqrt(weight / math.sqrt(0.5 * 3))
    assert result.total.item() == pytest.approx(expected.item(), rel=1e-5)
    assert min(bpp, diffusion, lpips) > 0.01
    result.total.backward()
    gradients = {name: p.grad for name, p in stage.module.named_parameters()}
    for name in ("codec.g_a.layers.1.weight", "codec.main_decoder.stem.weight"):
        assert gradients[name].abs().sum() > 0
    assert gradients["denoiser.head.weight"].abs().sum() > 0
    assert [name for name, gradient in gradients.items() if gradient is None] == []


@torch.no_grad()
@pytest.mark.parametrize("spacing", ["uniform", "logsnr"])
def test_the_recipe_says_at_which_times_a_denoiser_learns(config, tiny_codec, spacing):
    x, seen = some(config, 1), []
    config = replace(config, stage="joint", prediction="v", spacing=spacing, rho=0.0)
    stage = stages.make(config)
    decoder = stages._diffusion(stage.module.denoiser, config, bytes(4))
    stage.module.denoiser.register_forward_pre_hook(lambda _, given: seen.append(given[1]))
    draws = lambda: Draws(0, 1, range(1), 1)  # noqa: E731
    losses.perceptual(decoder, tiny_codec(x, 2.0), x, stage.lpips, config, draws())
    progress = {
        "uniform": lambda t: 1 - t,
        "logsnr": lambda t: (decoder.process.schedule.logsnr(t) + 10) / 20,  # from −10 to 10
    }
    torch.testing.assert_close(progress[spacing](seen[0]).to(x), draws().strata().to(x))


def test_lpips_counts_before_its_last_time_only(of_denoiser):
    x, parts = some(of_denoiser, 2), {}
    for last in (0.0, 0.5, 1.0):
        torch.manual_seed(0)
        stage = stages.make(replace(of_denoiser, lpips_t_max=last))
        parts[last] = stage.loss(x, 0, Draws(0, 0, range(2), 2)).parts["lpips"].item()
    assert 0 == parts[0.0] < parts[0.5] < parts[1.0]  # one time is drawn in each half


def test_a_denoiser_of_another_size_than_its_codec_is_refused(of_denoiser, monkeypatch):
    other = replace(stand_ins.DENOISER, cond_channels=(0, 16, 24))
    monkeypatch.setattr(DenoiserConfig, "small", lambda: other)
    with pytest.raises(ValueError, match=r"\(16, 16\) channels, .* 'small' is for \(16, 24\)"):
        stages.make(of_denoiser)


@pytest.mark.slow
def test_the_first_steps_of_the_paper_recipe(three_photos, tmp_path):
    paper = TrainConfig.recipe(
        "paper", data=str(three_photos), crop=64, batch=1, warmup=10, precision="32-true",
        accelerator="cpu", held_out=0,
    )  # fmt: skip
    assert (paper.size, paper.steps) == ("paper", 1_000_000)
    with contextlib.closing(loop.train(paper, tmp_path / "run")) as generator:
        steps = list(itertools.islice(generator, 10))
    assert steps[-1].not_finite == 0
    # Batches of one photo at a random rate vary; the same four before and after do not.
    torch.manual_seed(paper.seed)
    stage, found = stages.make(paper), []  # as the run started
    for weights in (stage.module.state_dict(), checkpoint(tmp_path / "run")["model"]):
        stage.module.load_state_dict(weights)
        with torch.no_grad():
            loss = stage.loss(some(paper, 4), 10, Draws(7, 0, range(4), 4))
        found.append(loss.total.item())
    assert found[1] < 0.8 * found[0]
