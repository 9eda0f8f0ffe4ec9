"""Recipes, and the loop: it logs, resumes bit for bit, keeps its time box and survives bad data."""

import contextlib
import dataclasses
import itertools
import json
import math
import resource
import statistics
import tarfile
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

from blurlib import images
from blurlib.codec import BlurCodec, CodecConfig, zoo
from blurlib.codec.synthesis import DiffusionDecoder
from blurlib.codec.transforms import TransformConfig
from blurlib.diffusion import DenoiserConfig
from blurlib.metrics import Lpips
from blurlib.training import loop, losses, stages
from blurlib.training.config import RECIPES, TrainConfig
from blurlib.training.data import (
    Entry,
    ImageBank,
    ImageStream,
    find_photos,
    open_photos,
    read_photo,
)
from blurlib.training.draws import Draws, generator
from blurlib.training.losses import (
    HELD_OUT_PARTS,
    draw_quality,
    held_out_loss,
    random_view,
    rate_distortion,
    rate_perception,
)
from blurlib.training.run import RunFolder
from stand_ins import Distance

CONFIG = TrainConfig(
    objective="mse", crop=64, batch=2, steps=6, lmbda_max=3.0, warmup=2, optimiser="muon"
)


@pytest.fixture(scope="module")
def photos(astronaut, tmp_path_factory) -> list[Path]:
    """Three small photos."""
    folder = tmp_path_factory.mktemp("photos")
    for i in range(3):
        image = astronaut[:, 50 * i : 50 * i + 70, 90 * i : 90 * i + 80 + i]
        images.write_image(folder / f"{i}.png", image)
    return sorted(folder.iterdir())


@pytest.fixture(autouse=True)
def tiny_models(monkeypatch, tiny_entropy):
    """`size = "small"` means a model that takes milliseconds, and no weights of LPIPS are read."""
    transform = TransformConfig(widths=(16, 16), blocks=(1, 1))
    codec = CodecConfig(tiny_entropy, transform, levels=3)
    denoiser = DenoiserConfig(patch=4, widths=(8, 8, 8), blocks=1, cond_channels=(0, 16, 16))
    monkeypatch.setattr(CodecConfig, "small", lambda: codec)
    monkeypatch.setattr(DenoiserConfig, "small", lambda: denoiser)
    monkeypatch.setattr(stages.Lpips, "load", lambda *_: Lpips(Distance()))


def run(config: TrainConfig, folder: Path, photos, **kwargs) -> list[loop.Step]:
    return list(loop.train(config, folder, photos, **kwargs))


def checkpoint(folder: Path) -> dict:
    return torch.load(folder / "checkpoint.pt", weights_only=True)


def assert_same(a, b) -> None:
    """Equal nested states, tensors bit for bit."""
    if isinstance(a, torch.Tensor):
        assert torch.equal(a, b)
    elif isinstance(a, dict):
        assert a.keys() == b.keys()
        for key in a:
            assert_same(a[key], b[key])
    elif isinstance(a, list | tuple):
        assert len(a) == len(b)
        for x, y in zip(a, b, strict=True):
            assert_same(x, y)
    else:
        assert a == b


# Recipes


@pytest.mark.parametrize(
    "config",
    [
        TrainConfig(),
        CONFIG,
        TrainConfig(stage="denoiser", codec="a", prediction="v", rho=0, max_minutes=0.5),
    ],
)
def test_config_survives_toml(config):
    assert TrainConfig.from_toml(config.to_toml()) == config


def test_overrides_win_and_none_leaves_the_recipe():
    config = TrainConfig.from_toml("lr = 0.5\nbatch = 7\n", lr=0.25, batch=None, seed=3)
    assert (config.lr, config.batch, config.seed) == (0.25, 7, 3)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("lr = ", "not valid TOML"),
        ("\0", "not valid TOML"),
        ("learning_rate = 1", "unknown field 'learning_rate'"),
        ("[codec]\nM = 3", "codec is"),
        ("stage = 'both'", "stage is 'both': it must be one of"),
        ("size = 'huge'", "size is 'huge'"),
        ("objective = 'psnr'", "objective is 'psnr'"),
        ("objective = 'mse'\nlmbda_max = 0.1", "without lmbda_min and lmbda_max"),
        ("prediction = 'y'", "prediction is 'y'"),
        ("lmbda_min = 3.0\nlmbda_max = 2.0", "rising order"),
        ("lmbda_min = 0.0", "positive"),
        ("crop = 100", "crop is 100"),
        ("crop = 0", "crop is 0"),
        ("crop = 128", "MS-SSIM needs at least 161 px"),
        ("batch = 0", "batch must be >= 1"),
        ("steps = -1", "steps >= 0"),
        ("max_minutes = 0.0", "max_minutes > 0"),
        ("rho = 1.5", "rho is 1.5"),
        ("stage = 'denoiser'", "codec is empty"),
        ("stage = 'deterministic'", "codec is empty"),
        ("stage = 'deterministic'\ncodec = 'a'\nprediction = 'v'", "predicts 'x'"),
        ("stage = 'joint'\nprediction = 'residual'", "needs a finished codec"),
        ("loss_weight = 'snr'", "loss_weight is 'snr': it must be one of .*'min-snr'"),
        (
            "stage = 'deterministic'\ncodec = 'a'\nloss_weight = 'eps'",
            "loss_weight is 'eps': a deterministic decoder has no times",
        ),
        ("stage = 'joint'\nprediction = 'eps'", "lpips_t_max is 0.7: .* at most 0.11, or"),
        ("spacing = 'even'", "spacing is 'even'"),
        ("sigma_blur_max = -1.0", "sigma_blur_max is -1.0: .* 0 .* such as 20"),
        ("batch = 'four'", "batch"),
        ("lr = '1e-3'", "lr"),
        ("crop = 256.0", "crop"),
        ("warmup = 0", "warmup"),
        ("lr = -1.0", "lr"),
        ("lr = nan", "lr"),
        ("max_minutes = nan", "max_minutes"),
        ("max_minutes = inf", "max_minutes"),
        ("lmbda_max = inf", "lmbda_max"),
        ("ema = 1.5", "ema"),
        ("clip = 0.0", "clip"),
        ("optimiser = 'sgd'", "optimiser is 'sgd': it must be one of .*'adam', 'muon'"),
        ("momentum = 1.0", "momentum is 1.0: .* below 1"),
        ("momentum = -0.1", "momentum is -0.1"),
        ("lr_blocks = 0.0", "lr_blocks is 0.0"),
        ("lr_transforms = 2.0", "lr_transforms is 2.0"),
        ("threads = -1", "threads"),
    ],
)
def test_a_recipe_that_cannot_work_is_refused(text, message):
    with pytest.raises(ValueError, match=message):
        TrainConfig.from_toml(text)


def test_an_unknown_recipe_is_refused():
    with pytest.raises(ValueError, match="no recipe 'gone'"):
        TrainConfig.recipe("gone")


def test_a_recipe_can_be_a_file(tmp_path):
    (tmp_path / "mine.toml").write_text(CONFIG.to_toml())
    assert TrainConfig.recipe(str(tmp_path / "mine.toml"), seed=9) == dataclasses.replace(
        CONFIG, seed=9
    )


def test_the_learning_rate_warms_up_and_falls_to_one_percent():
    config = TrainConfig(lr=2.0, warmup=10)
    rates = [loop.learning_rate(step, 100, config) for step in range(101)]
    assert rates[0] == pytest.approx(0.2)
    assert max(rates) == pytest.approx(2.0, rel=0.03)
    assert rates[10:] == sorted(rates[10:], reverse=True)
    assert rates[-1] == pytest.approx(0.02)
    assert loop.learning_rate(3, 0, config) == pytest.approx(0.8)


# Losses


def test_lambda_is_geometric_between_the_levels():
    config = TrainConfig(lmbda_min=2.0, lmbda_max=50.0)
    q = torch.tensor([1.0, 3.5, 6.0], dtype=torch.float64)
    expected = torch.tensor([2.0, 10.0, 50.0], dtype=torch.float64)
    torch.testing.assert_close(config.target.lmbda(q, 6), expected)


def test_qualities_are_drawn_over_the_whole_range():
    q = draw_quality(Draws(0, 0, range(10_000), 10_000), 6)
    assert 1 <= q.min() < 1.01
    assert 5.99 < q.max() <= 6
    assert q.mean().item() == pytest.approx(3.5, abs=0.05)


def test_the_loss_is_rate_plus_lambda_distortion(tiny_entropy, photo):
    codec = BlurCodec(CodecConfig.small())
    x = torch.cat([photo(64, 64), photo(64, 64).flip(-1)])
    result = rate_distortion(codec, x, CONFIG, Draws(0, 4, range(2), 2))
    again = Draws(0, 4, range(2), 2)
    q = draw_quality(again, 3)
    output = codec(x, q, noise=again.uniform)
    error = 255**2 * (output.x_hat - x).square().flatten(1).mean(1)
    rate = output.estimated_bits / 64**2
    ratio = 2 ** ((q - 1) / 2 * math.log2(3 / 1.5))
    middle = 2**0.5  # λ_mid / λ_min
    expected = ((rate + CONFIG.lmbda_min * ratio * error) * (middle / ratio).sqrt()).mean()
    torch.testing.assert_close(result.loss, expected.to(result.loss))
    torch.testing.assert_close(result.bpp, rate.mean())
    torch.testing.assert_close(result.distortion, error.mean())


# Data


def entries(paths) -> list[Entry]:
    return [Entry(str(path)) for path in paths]


@pytest.fixture
def unusable(photos, tmp_path, astronaut) -> list[Path]:
    """Too small, broken, grey."""
    small, broken, grey = (tmp_path / f"{name}.png" for name in ("small", "broken", "grey"))
    images.write_image(small, astronaut[:, :63, :80])
    broken.write_bytes(photos[0].read_bytes()[:500])
    images.write_image(grey, astronaut[:1, :80, :80].expand(3, -1, -1))
    return [small, broken, grey]


REASONS = ["80×63 is smaller than the crop", "truncated", "grey"]


def test_photos_that_cannot_be_used_are_counted_and_named(photos, unusable, tmp_path):
    bank = ImageBank(entries([photos[0], *unusable, photos[1]]), crop=64, seed=0)
    assert len(bank) == 2
    assert [skipped.entry.path for skipped in bank.skipped] == [str(path) for path in unusable]
    for skipped, reason in zip(bank.skipped, REASONS, strict=True):
        assert reason in skipped.reason
    run(dataclasses.replace(CONFIG, steps=1), tmp_path / "run", [*photos, *unusable])
    lines = (tmp_path / "run" / "skipped.txt").read_text().splitlines()
    assert [line.split(":")[0] for line in lines] == [str(path) for path in unusable]


def test_every_process_names_what_it_skipped(photos, unusable, tmp_path):
    bank = ImageBank(entries([*photos, unusable[2]]), crop=64, seed=0)
    folder = RunFolder(tmp_path / "run")
    folder.note_skipped(bank, rank=1)
    assert [path.name for path in folder.path.iterdir()] == ["skipped-1.txt"]
    assert "grey" in (folder.path / "skipped-1.txt").read_text()
    bank.skipped.clear()
    for rank in (0, 2):
        folder.note_skipped(bank, rank)
    assert {path.name for path in folder.path.iterdir()} == {"skipped.txt", "skipped-1.txt"}


def test_nothing_to_train_on_is_refused(tmp_path):
    (tmp_path / "x.png").write_bytes(b"")
    with pytest.raises(ValueError, match="none of the 1 files is a colour photo of at least 64 px"):
        ImageBank(entries([tmp_path / "x.png"]), crop=64, seed=0)


def test_no_data_is_refused_by_name(tmp_path):
    with pytest.raises(ValueError, match="data"):
        run(CONFIG, tmp_path / "run", None)


def test_crops_lie_inside_the_photos_and_half_are_mirrored(photos):
    bank = ImageBank(entries(photos), crop=64, seed=0)
    batch = next(bank.batches(0, range(40)))
    assert batch.shape == (40, 3, 64, 64)
    assert batch.dtype == torch.uint8

    def is_in(crop: torch.Tensor) -> bool:
        return any(
            torch.equal(window, crop)
            for image in bank.images
            for rows in image.unfold(1, 64, 1).unbind(1)
            for window in rows.unfold(1, 64, 1).unbind(1)
        )

    plain = sum(is_in(crop) for crop in batch)
    mirrored = sum(is_in(crop.flip(-1)) for crop in batch)
    assert plain + mirrored == 40
    assert 8 < plain < 32


def test_a_crop_follows_from_seed_step_and_sample_alone(photos):
    bank = ImageBank(entries(photos), crop=64, seed=3)
    steps = bank.batches(0, range(6))
    first, second = next(steps), next(steps)
    assert not torch.equal(first, second)
    assert torch.equal(second, next(bank.batches(1, range(6))))
    assert torch.equal(second[3:], next(bank.batches(1, range(3, 6))))
    other = ImageBank(entries(photos), crop=64, seed=4)
    assert not torch.equal(first, next(other.batches(0, range(6))))


@pytest.mark.parametrize("workers", [0, 2])
def test_a_streamed_set_gives_the_crops_of_the_bank(photos, workers):
    bank = ImageBank(entries(photos), crop=64, seed=0)
    stream = ImageStream(entries(photos), 64, 0, "cpu", workers)
    wanted, got = bank.batches(5, range(1, 3)), stream.batches(5, range(1, 3))
    for _ in range(6):
        assert torch.equal(next(wanted), next(got))


@pytest.mark.parametrize("workers", [0, 2])
def test_a_stream_draws_again_and_names_what_it_skipped(photos, unusable, workers):
    stream = ImageStream(entries([*photos, *unusable]), 64, 0, "cpu", workers)
    batches = stream.batches(0, range(4))
    seen = [next(batches) for _ in range(12)]
    again = ImageStream(entries([*photos, *unusable]), 64, 0, "cpu", 0).batches(11, range(4))
    assert torch.equal(seen[-1], next(again))
    reasons = {skipped.entry.path: skipped.reason for skipped in stream.skipped}
    assert len(stream.skipped) == 3
    for path, reason in zip(unusable, REASONS, strict=True):
        assert reason in reasons[str(path)]


def test_a_stream_of_nothing_usable_ends(unusable):
    stream = ImageStream(entries(unusable), 64, 0, "cpu", 0)
    with pytest.raises(ValueError, match="100 photos drawn in a row"):
        next(stream.batches(0, range(1)))


def test_a_set_is_decoded_into_memory_if_it_fits(photos):
    decoded = sum(images.read_image(path).numel() for path in photos)
    for slack, kind in ((0, ImageBank), (-1, ImageStream)):
        config = dataclasses.replace(CONFIG, bank_gb=(decoded + slack) / 1e9)
        assert type(open_photos(config, entries(photos), "cpu")) is kind


def test_vimeo_septuplets_are_found_and_held_out_whole(tmp_path, astronaut):
    clips = [f"00001/000{i}" for i in range(1, 5)]
    for clip in clips:
        folder = tmp_path / "sequences" / clip
        folder.mkdir(parents=True)
        for frame in range(1, 8):
            images.write_image(folder / f"im{frame}.png", astronaut[:, :64, frame : frame + 80])
    (tmp_path / "sep_trainlist.txt").write_text("\n".join(clips[:3]) + "\n\n")
    config = dataclasses.replace(CONFIG, data=str(tmp_path), held_out=3)
    training, held_out = find_photos(config), find_photos(config, held_out=True)
    assert len(training) == 14
    assert len(held_out) == 7
    assert {Path(e.path).parent.name for e in training} == {"0002", "0003"}
    assert {Path(e.path).parent.name for e in held_out} == {"0001"}
    assert all(isinstance(read_photo(entry, 64), torch.Tensor) for entry in training)


def test_shards_are_read_in_place(photos, tmp_path):
    for i, path in enumerate(photos):
        with tarfile.open(tmp_path / f"set-{i:04}.tar", "w") as shard:
            for name in (f"{i}.cls", f"{i}.PNG"):
                shard.add(path, name)
    (tmp_path / "notes.txt").write_text("beside")
    for data in (tmp_path, tmp_path / "set-*.tar"):
        config = dataclasses.replace(CONFIG, data=str(data), held_out=0)
        found = find_photos(config)
        assert [entry.member for entry in found] == ["0.PNG", "1.PNG", "2.PNG"]
        for entry, path in zip(found, photos, strict=True):
            assert torch.equal(read_photo(entry, 64), images.read_image(path))
    (tmp_path / "set-0009.tar").write_bytes(b"not a tar" * 100)
    with pytest.raises(ValueError, match=r"set-0009.tar: not an uncompressed tar file"):
        find_photos(config)


# Random numbers


def test_a_sample_draws_the_same_in_whatever_batch_it_is():
    like = torch.empty(4, 3, 5, 5).to(memory_format=torch.channels_last)
    whole, part = Draws(1, 2, range(4), 4), Draws(1, 2, range(2, 4), 4)
    for draw in ("uniform", "normal", "uniform"):
        assert torch.equal(getattr(whole, draw)(like)[2:], getattr(part, draw)(like[2:]))
    for _ in range(2):
        assert torch.equal(whole.strata()[2:], part.strata())


def test_other_keys_draw_other_numbers():
    like = torch.empty(2, 1000)
    drawn = [Draws(*key, range(2), 2).uniform(like) for key in ((0, 0), (0, 1), (1, 0))]
    rows = torch.cat([*drawn, Draws(0, 0, range(2), 2).normal(like)])
    correlation = torch.corrcoef(rows[:6])
    assert (correlation - torch.eye(6)).abs().max() < 0.15
    assert generator("a", 1).initial_seed() != generator("a1").initial_seed()


def test_noise_has_the_distribution_it_says():
    draws = Draws(0, 0, range(4), 4)
    uniform, normal = draws.uniform(torch.empty(4, 5000)), draws.normal(torch.empty(4, 5000))
    assert uniform.min() >= -0.5
    assert uniform.max() < 0.5
    assert uniform.mean().abs() < 0.01
    assert uniform.var().item() == pytest.approx(1 / 12, rel=0.03)
    assert normal.mean().abs() < 0.03
    assert normal.var().item() == pytest.approx(1, rel=0.03)


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


def test_a_view_is_the_same_for_all_processes():
    x = torch.rand(1, 3, 64, 80)
    whole, part = Draws(3, 4, range(4), 4), Draws(3, 4, range(2, 4), 4)
    assert torch.equal(random_view(whole)(x), random_view(part)(x))


# The loop


def test_a_run_logs_every_step_and_leaves_a_model_that_codes(photos, tmp_path, photo):
    steps = run(CONFIG, tmp_path / "run", photos)
    assert [step.step for step in steps] == [1, 2, 3, 4, 5, 6]
    assert {step.steps for step in steps} == {6}
    for step in steps:
        assert math.isfinite(step.loss)
        assert step.gradient > 0
        assert step.parts.keys() == {"bpp", "distortion"}
    assert loop.read_log(tmp_path / "run") == steps
    assert TrainConfig.recipe(str(tmp_path / "run" / "config.toml")) == CONFIG
    codec = zoo.load(tmp_path / "run" / "model.safetensors")
    data = codec.compress(photo(70, 70), 2, effort=0)
    assert torch.equal(codec.decompress(data).y_hat, codec(photo(70, 70), 2).y_hat)


@pytest.mark.parametrize(("optimiser", "lr"), [("muon", 2e-2), ("adam", 3e-3)])
def test_the_model_learns(photos, tmp_path, optimiser, lr):
    config = dataclasses.replace(
        CONFIG, steps=30, start="random", optimiser=optimiser, lr=lr, lr_transforms=1.0,
        lr_blocks=1.0,
    )  # fmt: skip
    steps = run(config, tmp_path / "run", photos)
    first, last = (
        statistics.mean(step.parts["distortion"] for step in part)
        for part in (steps[:5], steps[-5:])
    )
    assert last < 0.5 * first


@pytest.mark.parametrize("optimiser", ["muon", "adam"])
def test_an_interrupted_run_ends_as_an_uninterrupted_one_bit_for_bit(photos, tmp_path, optimiser):
    config = dataclasses.replace(CONFIG, optimiser=optimiser)
    whole, cut = tmp_path / "whole", tmp_path / "cut"
    expected = run(config, whole, photos)
    generator = loop.train(config, cut, photos)
    first = [next(generator) for _ in range(3)]
    generator.close()
    assert checkpoint(cut)["counters"][0] == 3
    assert not (cut / "model.safetensors").exists()
    torch.manual_seed(12345)
    rest = run(config, cut, photos, resume=True)
    for ours, theirs in zip(first + rest, expected, strict=True):
        assert ours._replace(seconds=0) == theirs._replace(seconds=0)
    a, b = checkpoint(cut), checkpoint(whole)
    a["counters"][2] = b["counters"][2] = 0  # seconds
    assert len(a["optimisers"]) == (2 if optimiser == "muon" else 1)
    assert_same(a, b)
    assert (cut / "model.safetensors").read_bytes() == (whole / "model.safetensors").read_bytes()
    steps = [step._replace(seconds=0) for step in loop.read_log(cut)]
    assert steps == [step._replace(seconds=0) for step in expected]


def test_a_checkpoint_is_left_when_a_step_fails(photos, tmp_path, monkeypatch):
    loss = stages.CodecStage.loss
    calls = []

    def fails_at_the_third(self, x, step, draws):
        calls.append(x)
        if len(calls) == 3:
            raise KeyboardInterrupt
        return loss(self, x, step, draws)

    monkeypatch.setattr(stages.CodecStage, "loss", fails_at_the_third)
    with pytest.raises(KeyboardInterrupt):
        run(CONFIG, tmp_path / "run", photos)
    assert checkpoint(tmp_path / "run")["counters"][0] == 2


def test_checkpoints_are_written_on_the_way(photos, tmp_path):
    config = dataclasses.replace(CONFIG, checkpoint_every=0.0)
    generator = loop.train(config, tmp_path / "run", photos)
    for step in (1, 2):
        next(generator)
        assert checkpoint(tmp_path / "run")["counters"][0] == step
    generator.close()


def test_resuming_a_finished_run_exports_the_same_model_again(photos, tmp_path):
    folder = tmp_path / "run"
    config = dataclasses.replace(CONFIG, steps=2)
    run(config, folder, photos)
    data = (folder / "model.safetensors").read_bytes()
    (folder / "model.safetensors").unlink()
    assert run(config, folder, photos, resume=True) == []
    assert (folder / "model.safetensors").read_bytes() == data


def test_a_step_that_is_not_finite_changes_nothing(photos, tmp_path, monkeypatch):
    loss = stages.CodecStage.loss
    calls = []

    def not_finite_at_the_third(self, x, step, draws):
        calls.append(x)
        result = loss(self, x, step, draws)
        return result._replace(total=result.total * (math.nan if len(calls) == 3 else 1))

    monkeypatch.setattr(stages.CodecStage, "loss", not_finite_at_the_third)
    states, steps = [], []
    config = dataclasses.replace(CONFIG, checkpoint_every=0.0)
    for step in loop.train(config, tmp_path / "run", photos):
        steps.append(step)
        states.append(checkpoint(tmp_path / "run"))
    assert [math.isfinite(step.loss) for step in steps] == [True, True, False, True, True, True]
    for part in ("model", "average"):
        assert_same(states[2][part], states[1][part])
    before, after = ([o["state"] for o in states[i]["optimisers"]] for i in (1, 2))
    assert len(before) == 2  # Muon and Adam
    assert all(before)
    assert_same(after, before)
    assert [step.not_finite for step in steps] == [0, 0, 1, 1, 1, 1]
    assert not torch.equal(states[3]["model"]["gain.log_gain"], states[2]["model"]["gain.log_gain"])
    assert len(loop.read_log(tmp_path / "run")) == 6


@pytest.mark.parametrize("length", [{"steps": 100}, {"steps": 0, "max_minutes": 60.0}])
def test_not_finite_for_too_long_names_the_step_and_keeps_the_configuration(
    photos, tmp_path, monkeypatch, length
):
    loss = stages.CodecStage.loss
    at = []

    def not_finite_from_the_third(self, x, step, draws):
        at.append(step)
        result = loss(self, x, step, draws)
        return result._replace(total=result.total * (math.inf if step >= 2 else 1))

    monkeypatch.setattr(stages.CodecStage, "loss", not_finite_from_the_third)
    monkeypatch.setattr(loop, "MEASURED_STEPS", range(1, 3))
    config = dataclasses.replace(CONFIG, **length)
    folder = tmp_path / "run"
    with pytest.raises(loop.NotFiniteError, match=r"step 3 and the 19 after it were not finite"):
        run(config, folder, photos)
    assert len(at) == 22
    log = loop.read_log(folder)
    kept = TrainConfig.recipe(str(folder / "not_finite.toml"))
    assert kept == dataclasses.replace(config, steps=log[-1].steps)  # measured, if it was not given
    assert kept.steps > 22
    assert log[-1].not_finite == 20
    assert all(value.isfinite().all() for value in checkpoint(folder)["model"].values())
    # That configuration repeats it.
    with pytest.raises(loop.NotFiniteError, match="step 3 "):
        run(TrainConfig.recipe(str(folder / "not_finite.toml")), tmp_path / "again", photos)
    again = loop.read_log(tmp_path / "again")
    assert [step.loss for step in again[:2]] == [step.loss for step in log[:2]]


def test_a_full_disk_is_an_error_that_leaves_the_old_checkpoint(photos, tmp_path):
    folder = tmp_path / "run"
    config = dataclasses.replace(CONFIG, steps=2)
    run(config, folder, photos)
    before = (folder / "checkpoint.pt").read_bytes()
    longer = dataclasses.replace(config, steps=4)
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (len(before) // 2, limits[1]))
    try:
        with pytest.raises(OSError, match=r"cannot be written.*checkpoint.pt"):
            run(longer, folder, photos, resume=True)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert (folder / "checkpoint.pt").read_bytes() == before
    assert not list(folder.glob(".*.tmp"))
    assert [step.step for step in run(longer, folder, photos, resume=True)] == [3, 4]


def test_the_log_of_a_run_that_left_no_checkpoint_is_not_gone_on_with(photos, tmp_path):
    folder = tmp_path / "run"
    run(dataclasses.replace(CONFIG, steps=2), folder, photos)
    (folder / "checkpoint.pt").unlink()  # killed before the first was written
    run(dataclasses.replace(CONFIG, steps=1), folder, photos)
    assert [step.step for step in loop.read_log(folder)] == [1]


def test_a_checkpoint_of_the_first_format_is_resumed(photos, tmp_path):
    folder = tmp_path / "run"
    run(dataclasses.replace(CONFIG, steps=2), folder, photos)
    state = checkpoint(folder)
    del state["not_finite"]
    torch.save(state, folder / "checkpoint.pt")
    steps = run(dataclasses.replace(CONFIG, steps=3), folder, photos, resume=True)
    assert [step.step for step in steps] == [3]


def test_a_held_out_photo_is_shown_beside_its_reconstruction(tmp_path, astronaut):
    data = tmp_path / "photos"
    data.mkdir()
    for i in range(3):
        images.write_image(data / f"{i}.png", astronaut[:, 100 * i : 100 * i + 100, :170])
    config = dataclasses.replace(CONFIG, data=str(data), steps=1)
    run(config, tmp_path / "run", None)
    shown = images.read_image(tmp_path / "run" / "validation.png")
    assert shown.shape == (3, 64, 256)
    assert torch.equal(shown[:, :, :128], astronaut[:, 18:82, 21:149])  # photo 0 is held out


def test_in_bfloat16_the_likelihoods_stay_in_float32(photos, tmp_path, monkeypatch):
    seen = []
    rate = stages.rate_distortion

    def noted(codec, *arguments):
        hooks = [
            codec.g_a.register_forward_hook(lambda *a: seen.append(("g_a", a[2].dtype))),
            codec.h_s.register_forward_hook(lambda *a: seen.append(("h_s", a[2].dtype))),
        ]
        result = rate(codec, *arguments)
        for hook in hooks:
            hook.remove()
        seen.append(("bpp", result.bpp.dtype))
        return result

    monkeypatch.setattr(stages, "rate_distortion", noted)
    config = dataclasses.replace(CONFIG, steps=2, accelerator="cpu")
    full = run(config, tmp_path / "full", photos)
    mixed = run(dataclasses.replace(config, precision="bf16-mixed"), tmp_path / "mixed", photos)
    for name, dtype in seen[:6]:
        assert dtype == torch.float32, name
    assert dict(seen[6:]) == {"g_a": torch.bfloat16, "h_s": torch.float32, "bpp": torch.float32}
    for a, b in zip(full, mixed, strict=True):
        assert a.loss != b.loss
        assert b.loss == pytest.approx(a.loss, rel=0.02)


def ticking(seconds: float) -> SimpleNamespace:
    """A clock on which every look takes `seconds`."""
    now = [0.0]

    def monotonic() -> float:
        now[0] += seconds
        return now[0]

    return SimpleNamespace(monotonic=monotonic)


def test_the_time_box_fixes_the_number_of_steps_once(photos, tmp_path, monkeypatch):
    monkeypatch.setattr(loop, "time", ticking(0.5))
    config = dataclasses.replace(CONFIG, steps=0, batch=1, max_minutes=16 / 60)
    steps = run(config, tmp_path / "run", photos)
    # 16 seconds at half a second each.
    assert len(steps) == 32
    assert [step.steps for step in steps] == [0] * 24 + [32] * 8
    assert steps[-1].lr < steps[25].lr < steps[2].lr


@pytest.mark.parametrize("interrupted", [15, 28])
def test_an_interruption_does_not_change_the_number_of_steps(
    photos, tmp_path, monkeypatch, interrupted
):
    monkeypatch.setattr(loop, "time", ticking(0.5))
    config = dataclasses.replace(CONFIG, steps=0, batch=1, max_minutes=16 / 60)
    generator = loop.train(config, tmp_path / "run", photos)
    for _ in range(interrupted):
        next(generator)
    generator.close()
    assert run(config, tmp_path / "run", photos, resume=True)[-1].steps == 32


def test_a_folder_with_a_run_is_not_overwritten(photos, tmp_path):
    folder = tmp_path / "run"
    run(dataclasses.replace(CONFIG, steps=1), folder, photos)
    before = {path: path.read_bytes() for path in folder.iterdir()}
    with pytest.raises(ValueError, match="already holds a run: resume it, or choose another"):
        run(CONFIG, folder, photos)
    assert {path: path.read_bytes() for path in folder.iterdir()} == before


def test_resuming_nothing_is_refused(photos, tmp_path):
    with pytest.raises(ValueError, match=r"has no checkpoint.pt to resume from"):
        run(CONFIG, tmp_path / "run", photos, resume=True)


def test_a_gpu_that_is_not_there_is_refused(photos, tmp_path, monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(ValueError, match="no GPU: use 'cpu' or 'auto'"):
        run(dataclasses.replace(CONFIG, steps=1, accelerator="cuda"), tmp_path / "run", photos)


def test_a_folder_of_which_all_is_held_out_is_refused(tmp_path, astronaut):
    folder = tmp_path / "photos"
    folder.mkdir()
    images.write_image(folder / "only.png", astronaut[:, :80, :80])
    config = dataclasses.replace(CONFIG, data=str(folder), held_out=100)
    with pytest.raises(ValueError, match=r"all it has is held out .*held_out 0"):
        find_photos(config)
    assert len(find_photos(config, held_out=True)) == 1
    assert len(find_photos(dataclasses.replace(config, held_out=0))) == 1


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"lr": 0.5}, "was started with lr = 0.001, not 0.5: resume it with its own recipe"),
        ({"optimiser": "adam"}, "was started with optimiser = 'muon', not 'adam'"),
        ({"momentum": 0.5}, "was started with momentum = 0.95, not 0.5"),
    ],
)
def test_resuming_with_another_configuration_is_refused(photos, tmp_path, change, message):
    folder = tmp_path / "run"
    config = dataclasses.replace(CONFIG, steps=1)
    run(config, folder, photos)
    before = {path: path.read_bytes() for path in folder.iterdir()}
    with pytest.raises(ValueError, match=message) as refused:
        run(dataclasses.replace(config, **change), folder, photos, resume=True)
    assert "\n" not in str(refused.value)
    assert {path: path.read_bytes() for path in folder.iterdir()} == before


def test_a_resumed_run_may_end_later_and_fall_sooner(photos, tmp_path):
    folder = tmp_path / "run"
    short = dataclasses.replace(CONFIG, steps=2, decay=0.5)
    run(short, folder, photos)
    longer = dataclasses.replace(short, steps=5, decay=1.0)
    steps = run(longer, folder, photos, resume=True)
    assert [step.step for step in steps] == [3, 4, 5]
    assert [step.lr for step in steps] == [loop.learning_rate(i, 5, longer) for i in (2, 3, 4)]


def test_a_run_that_is_made_longer_is_the_longer_run_bit_for_bit(photos, tmp_path):
    """Where the short one had not begun to slow down: the optimisers go on, too."""
    longer = dataclasses.replace(CONFIG, steps=8, decay=0.5)
    expected = run(longer, tmp_path / "longer", photos)
    run(dataclasses.replace(longer, steps=4, decay=0.25), tmp_path / "run", photos)
    rest = run(longer, tmp_path / "run", photos, resume=True)
    for ours, theirs in zip(rest, expected[4:], strict=True):
        assert ours._replace(seconds=0) == theirs._replace(seconds=0)
    a, b = checkpoint(tmp_path / "run"), checkpoint(tmp_path / "longer")
    a["counters"][2] = b["counters"][2] = 0  # seconds
    assert_same(a, b)


# Held-out photos


@pytest.fixture
def folder_of_photos(tmp_path, astronaut) -> Path:
    """Four photos, of which `held_out=2` holds out 0 and 2; 2 is too small to judge by."""
    folder = tmp_path / "photos"
    folder.mkdir()
    for i, (height, width) in enumerate([(300, 270), (80, 90), (255, 300), (90, 80)]):
        images.write_image(folder / f"{i}.png", astronaut[:, 50 : 50 + height, 90 : 90 + width])
    return folder


def test_the_held_out_loss_is_that_of_real_files(tiny_codec, photo):
    """R + λ·D over √(λ/λ_mid), from the bytes of files and the pictures they decode to."""
    config = dataclasses.replace(CONFIG, lmbda_min=2e-4, lmbda_max=5e-3)
    photos = [photo(128, 192)[0], photo(192, 320)[0][..., 192:]]
    losses = []
    for x in photos:
        for part in HELD_OUT_PARTS:
            data = tiny_codec.compress(x[None], 1 + 2 * part, effort=0)
            mse = (tiny_codec.decompress(data).x_hat - x).square().mean().item()
            weight = 2e-4 * 25**part
            bpp = 8 * (len(data) - 28) / x[0].numel()  # without the header
            assert 0.05 * bpp < weight * 255**2 * mse < 20 * bpp  # both parts count
            losses.append((bpp + weight * 255**2 * mse) / math.sqrt(weight / 1e-3))
    found = held_out_loss(tiny_codec, photos, config)
    assert found == pytest.approx(statistics.mean(losses), rel=0.01)
    assert held_out_loss(tiny_codec, photos, config) == found  # nothing is drawn


def test_a_run_ends_with_the_loss_of_its_average_on_held_out_photos(
    folder_of_photos, tmp_path, astronaut
):
    config = dataclasses.replace(CONFIG, data=str(folder_of_photos), held_out=2, steps=2, lr=0.01)
    folder = tmp_path / "run"
    steps = run(config, folder, None)
    assert steps[0].held_out is None
    assert loop.read_log(folder) == steps
    codec = BlurCodec(CodecConfig.small())
    codec.load_state_dict(checkpoint(folder)["average"])
    codec.entropy.hyper_latent.freeze()
    top, left = 50 + (300 - 256) // 2, 90 + (270 - 256) // 2  # of the middle of photo 0
    x = astronaut[:, top : top + 256, left : left + 256].float() / 255
    expected = held_out_loss(codec.eval(), [x], config)
    assert steps[1].held_out == pytest.approx(expected, rel=1e-4)


def test_every_checkpoint_has_its_held_out_loss_and_the_run_is_the_same(folder_of_photos, tmp_path):
    config = dataclasses.replace(CONFIG, data=str(folder_of_photos), held_out=2, steps=3)
    often = run(dataclasses.replace(config, checkpoint_every=0.0), tmp_path / "often", None)
    once = run(dataclasses.replace(config, checkpoint_every=1e9), tmp_path / "once", None)
    assert all(math.isfinite(step.held_out) for step in often)
    assert [step.held_out for step in once] == [None, None, often[-1].held_out]
    a, b = checkpoint(tmp_path / "often"), checkpoint(tmp_path / "once")
    a["counters"][2] = b["counters"][2] = 0  # seconds
    assert_same(a, b)


def test_without_held_out_photos_of_256_pixels_there_is_no_such_loss(
    photos, folder_of_photos, tmp_path
):
    (folder_of_photos / "0.png").unlink()
    config = dataclasses.replace(CONFIG, data=str(folder_of_photos), steps=1)
    for name, held_out in (("small", 3), ("none", 0)):
        (step,) = run(dataclasses.replace(config, held_out=held_out), tmp_path / name, None)
        assert step.held_out is None
    (step,) = run(config, tmp_path / "named", photos)
    assert step.held_out is None


@pytest.mark.parametrize("kind", ["denoiser", "deterministic", "joint"])
def test_only_a_codec_has_a_held_out_loss(folder_of_photos, tmp_path, tiny_codec_path, kind):
    config = dataclasses.replace(
        CONFIG, data=str(folder_of_photos), held_out=2, steps=1, stage=kind,
        codec="" if kind == "joint" else str(tiny_codec_path),
    )  # fmt: skip
    (step,) = run(config, tmp_path / "run", None)
    assert step.held_out is None


# The denoiser


@pytest.mark.parametrize("prediction", ["x", "v", "residual"])
def test_a_denoiser_is_trained_on_its_frozen_codec(
    photos, tmp_path, tiny_codec_path, tiny_codec, photo, prediction
):
    config = dataclasses.replace(
        CONFIG,
        stage="denoiser",
        codec=str(tiny_codec_path),
        prediction=prediction,
        spacing="logsnr",
        steps=3,
    )
    steps = run(config, tmp_path / "run", photos)
    assert steps[0].parts.keys() == {"diffusion", "lpips"}
    assert all(math.isfinite(step.loss) for step in steps)
    decoder = zoo.load_denoiser(tmp_path / "run" / "model.safetensors")
    assert decoder.process.prediction == prediction
    scale = {"residual": 1}.get(prediction, 5)
    for step in steps:
        total = (1 - config.rho) * scale * step.parts["diffusion"]
        assert step.loss == pytest.approx(total + config.rho * step.parts["lpips"])
    if prediction == "residual":
        assert (decoder.denoiser.error_spectra != 0).all()
    output = tiny_codec.decompress(tiny_codec.compress(photo(64, 64), 2))
    *_, last = decoder.sample(output, steps=2)
    assert torch.isfinite(last.x_hat).all()


@pytest.mark.parametrize("prediction", ["x", "residual"])
def test_a_deterministic_decoder_is_trained_without_noise(
    photos, tmp_path, monkeypatch, tiny_codec_path, tiny_codec, photo, prediction
):
    monkeypatch.setattr(Draws, "normal", lambda *_: pytest.fail("noise was drawn"))
    config = dataclasses.replace(
        CONFIG, stage="deterministic", codec=str(tiny_codec_path), rho=0.5, steps=60, lr=3e-3,
        prediction=prediction,
    )  # fmt: skip
    steps = run(config, tmp_path / "run", photos)
    scale = 5 if prediction == "x" else 1
    for step in steps:
        total = 0.5 * scale * step.parts["mse"] + 0.5 * step.parts["lpips"]
        assert step.loss == pytest.approx(total)
    if prediction == "residual":  # at first it adds nothing, and is as far as the direct picture is
        assert steps[0].parts["lpips"] == pytest.approx(1, rel=1e-3)
        assert steps[0].parts["mse"] == pytest.approx(1, rel=0.3)
    decoder = zoo.load_deterministic(tmp_path / "run" / "model.safetensors")
    x = photo(64, 64)
    output = tiny_codec.decompress(tiny_codec.compress(x, 2))
    assert decoder.decode(output).shape == x.shape
    early, late = (sum(step.loss for step in part) for part in (steps[:10], steps[-10:]))
    assert late < 0.95 * early


def test_times_are_spaced_as_the_steps_of_a_chain_are(monkeypatch, photos, tiny_codec_path):
    """One in each equal part of the log-SNR."""
    seen, original = [], losses.diffusion_loss

    def spy(process, predict, x, t, *rest):
        seen.append(process.schedule.logsnr(t))
        return original(process, predict, x, t, *rest)

    monkeypatch.setattr(losses, "diffusion_loss", spy)
    config = dataclasses.replace(
        CONFIG, stage="denoiser", codec=str(tiny_codec_path), spacing="logsnr"
    )
    stage = stages.make(config)
    x = next(ImageBank(entries(photos), 64, 0).batches(0, range(8))) / 255
    stage.loss(x, 0, Draws(0, 0, range(8), 8))
    part = ((seen[0] + 10) / 20 * 8).floor()  # log-SNR goes from −10 to 10
    assert part.sort().values.tolist() == list(range(8))


def test_a_denoiser_of_residuals_is_told_the_errors_of_its_codec(
    photos, tmp_path, tiny_codec_path, tiny_codec
):
    """Summed over the frequencies, the variance is the squared error at that quality."""
    config = dataclasses.replace(
        CONFIG, stage="denoiser", codec=str(tiny_codec_path), prediction="residual"
    )
    stage = stages.make(config)
    crops = next(ImageBank(entries(photos), 64, 0).batches(0, range(8))) / 255
    assert stage.start_crops() > 0
    stage.start(crops)
    decoder = stage._decoder(stage.module)
    for quality in (1.0, 2.0):
        with torch.no_grad():
            output = tiny_codec.eval()(crops, quality)
        error = 4 * (output.x_hat - crops).square().mean()
        expected = decoder.variance(output).mean()
        assert expected.item() == pytest.approx(error.item(), rel=0.1)


@pytest.mark.parametrize("stage", ["denoiser", "deterministic"])
def test_a_run_starts_with_the_weights_of_another_of_its_kind(
    photos, tmp_path, tiny_codec_path, stage
):
    config = dataclasses.replace(CONFIG, stage=stage, codec=str(tiny_codec_path), steps=2)
    run(config, tmp_path / "run", photos)
    model = tmp_path / "run" / "model.safetensors"
    again = stages.make(dataclasses.replace(config, init=str(model), rho=0.9))
    load = zoo.load_denoiser if stage == "denoiser" else zoo.load_deterministic
    for a, b in zip(again.module.parameters(), load(model).parameters(), strict=True):
        assert torch.equal(a, b)
    other = {"denoiser": "deterministic", "deterministic": "denoiser"}[stage]
    with pytest.raises(zoo.WeightsError, match="is needed here"):
        stages.make(dataclasses.replace(config, stage=other, init=str(model)))


@pytest.mark.parametrize("prediction", ["x", "eps"])
def test_codec_and_denoiser_are_trained_together(photos, tmp_path, photo, prediction):
    config = dataclasses.replace(
        CONFIG, stage="joint", prediction=prediction, steps=4, lpips_t_max=0.1
    )
    folder = tmp_path / "run"
    steps = run(config, folder, photos)
    assert steps[0].parts.keys() == {"bpp", "diffusion", "lpips"}
    assert all(math.isfinite(step.loss) for step in steps)
    codec = zoo.load(folder / "model.safetensors")
    decoder = zoo.load_denoiser(folder / "denoiser.safetensors")
    output = codec.decompress(codec.compress(photo(64, 64), 2))
    *_, last = decoder.sample(output, steps=2)  # refused unless it is this codec's
    assert torch.isfinite(last.x_hat).all()


def test_the_joint_loss_reaches_codec_and_denoiser(photos):
    config = dataclasses.replace(CONFIG, stage="joint", rho=0.3, lpips_t_max=1.0)
    stage = stages.make(config)
    x = next(ImageBank(entries(photos), 64, 0).batches(0, range(2))) / 255
    result = stage.loss(x, 5000, Draws(0, 0, range(2), 2))
    result.total.backward()
    gradients = {name: p.grad for name, p in stage.module.named_parameters()}
    for name in ("codec.g_a.layers.1.weight", "codec.main_decoder.stem.weight"):
        assert gradients[name].abs().sum() > 0
    assert gradients["denoiser.head.weight"].abs().sum() > 0
    assert [name for name, gradient in gradients.items() if gradient is None] == []


def test_the_joint_loss_is_the_papers(photos):
    """R + λ · [(1 − ρ) · 5 · diffusion + ρ · LPIPS], over √(λ/λ_mid), of one photo."""
    x = next(ImageBank(entries(photos), 64, 0).batches(0, range(1))) / 255
    config = dataclasses.replace(CONFIG, stage="joint", rho=0.3, lpips_t_max=1.0, lmbda_min=0.5)
    stage = stages.make(config)
    decoder = DiffusionDecoder(stage.denoiser, stage.process, bytes(4))

    def draws():
        return Draws(0, 0, range(1), 1)

    result = rate_perception(stage.codec, decoder, x, stage.lpips, config, draws())
    weight = config.target.lmbda(draw_quality(draws(), 3), 3).item()
    assert 0.5 < weight < 3
    expected = 0.7 * 5 * result.diffusion + 0.3 * result.lpips
    expected = (result.bpp + weight * expected) / math.sqrt(weight / math.sqrt(0.5 * 3))
    assert result.loss.item() == pytest.approx(expected.item(), rel=1e-5)
    assert min(result.bpp, result.diffusion, result.lpips) > 0.01


@torch.no_grad()
def test_the_recipe_says_which_errors_weigh_the_same(photos, tiny_codec):
    """Without blur Δx̂ = −σ_t Δv̂: where v is predicted, the loss of x̂ is σ_t² times that of v."""
    x = next(ImageBank(entries(photos), 64, 0).batches(0, range(1))) / 255
    config = dataclasses.replace(CONFIG, stage="joint", prediction="v", sigma_blur_max=0.0, rho=0.0)
    stage = stages.make(config)
    decoder = DiffusionDecoder(stage.denoiser, stage.process, bytes(4))
    output = tiny_codec(x, 2.0)

    def diffusion(loss_weight):
        weighted = dataclasses.replace(config, loss_weight=loss_weight)
        draws = Draws(0, 1, range(1), 1)
        loss = losses.perceptual_diffusion(decoder, output, x, stage.lpips, weighted, draws)
        return loss.diffusion

    schedule = stage.process.schedule
    sigma = schedule.sigma(schedule.spaced(Draws(0, 1, range(1), 1).strata(), "uniform")).item()
    assert 0.1 < sigma < 0.99
    assert diffusion("").item() == diffusion("v").item()
    assert diffusion("x").item() == pytest.approx(sigma**2 * diffusion("v").item(), rel=1e-4)


@pytest.mark.parametrize("prediction", ["x", "residual"])
def test_lpips_counts_before_its_last_time_only(photos, tmp_path, tiny_codec_path, prediction):
    config = dataclasses.replace(
        CONFIG, stage="denoiser", codec=str(tiny_codec_path), prediction=prediction, steps=3
    )
    parts = {}
    for last in (0.0, 0.5, 1.0):
        steps = run(dataclasses.replace(config, lpips_t_max=last), tmp_path / f"{last}", photos)
        parts[last] = steps[0].parts["lpips"]
    assert 0 == parts[0.0] < parts[0.5] < parts[1.0]  # one time is drawn in each half


def test_a_denoiser_of_another_size_than_its_codec_is_refused(tiny_codec_path, monkeypatch):
    other = DenoiserConfig(patch=4, widths=(8, 8, 8), blocks=1, cond_channels=(0, 16, 24))
    monkeypatch.setattr(DenoiserConfig, "small", lambda: other)
    config = dataclasses.replace(CONFIG, stage="denoiser", codec=str(tiny_codec_path))
    with pytest.raises(ValueError, match=r"\(16, 16\) channels, .* 'small' is for \(16, 24\)"):
        stages.make(config)


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


def test_the_file_of_a_run_holds_the_averaged_weights(photos, tmp_path):
    """With all weight on the present the average is the model itself, else it lags behind."""
    for ema in (0.0, 0.9):
        config = dataclasses.replace(CONFIG, ema=ema, lr=1e-2)
        run(config, tmp_path / f"{ema}", photos)
    last, lagging = (checkpoint(tmp_path / f"{ema}") for ema in (0.0, 0.9))
    assert_same(last["model"], lagging["model"])
    for state, equal in ((last, True), (lagging, False)):
        assert (state["average"].keys()) == state["model"].keys()
        name = "g_a.layers.1.weight"
        assert torch.equal(state["average"][name], state["model"][name]) == equal
    written = zoo.load(tmp_path / "0.9" / "model.safetensors").state_dict()[name]
    torch.testing.assert_close(written, lagging["average"][name], rtol=1e-3, atol=1e-4)


def test_a_denoiser_is_trained_in_bfloat16(photos, tmp_path, tiny_codec_path):
    config = dataclasses.replace(
        CONFIG,
        stage="denoiser",
        codec=str(tiny_codec_path),
        prediction="residual",
        steps=2,
        optimiser="adam",
    )
    full = run(config, tmp_path / "full", photos)
    mixed = run(dataclasses.replace(config, precision="bf16-mixed"), tmp_path / "mixed", photos)
    for a, b in zip(full[1:], mixed[1:], strict=True):  # at first the last layer is 0
        assert a.loss != b.loss
        assert b.loss == pytest.approx(a.loss, rel=0.02)


@pytest.mark.slow
@pytest.mark.parametrize("changes", [{}, {"stage": "codec", "objective": "mse"}])
def test_the_first_steps_of_the_paper_recipe(photos, tmp_path, changes):
    paper = TrainConfig.recipe(
        "paper", **changes, crop=64, batch=1, warmup=20, precision="32-true", accelerator="cpu"
    )
    assert paper.size == "paper"
    assert paper.steps == 1_000_000
    with contextlib.closing(loop.train(paper, tmp_path / "run", photos)) as generator:
        steps = list(itertools.islice(generator, 50))
    assert all(math.isfinite(step.loss) for step in steps)
    assert steps[-1].not_finite == 0
    # Batches of one photo at a random rate vary; the same four before and after do not.
    x = next(ImageBank(entries(photos), 64, 0).batches(0, range(4))) / 255
    torch.manual_seed(paper.seed)
    stage = stages.make(paper)  # as the run started
    losses = []
    for weights in (stage.module.state_dict(), checkpoint(tmp_path / "run")["model"]):
        stage.module.load_state_dict(weights)
        with torch.no_grad():
            losses.append(stage.loss(x, 50, Draws(7, 0, range(4), 4)).total.item())
    assert losses[1] < 0.8 * losses[0]


@pytest.mark.parametrize("recipe", sorted(path.stem for path in RECIPES.glob("*.toml")))
def test_shipped_recipes_are_read(recipe):
    config = TrainConfig.recipe(recipe)
    assert config.precision == ("bf16-mixed" if recipe[:3] in ("gpu", "pap") else "32-true")
    assert config.accelerator == "auto"


def test_log_lines_are_json(photos, tmp_path):
    run(dataclasses.replace(CONFIG, steps=2), tmp_path / "run", photos)
    for line in (tmp_path / "run" / "log.jsonl").read_text().splitlines():
        assert json.loads(line)["steps"] == 2
