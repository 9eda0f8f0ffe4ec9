"""The ablation of the entropy model: latents, variants, real bytes, going on, reports."""

import dataclasses
import json
import shutil
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import scipy.stats
import torch

from blurlib import datasets, images
from blurlib.codec import zoo
from blurlib.entropy.checkerboard import anchor_mask
from blurlib.training.data import open_photos
from experiments.entropy import report
from experiments.entropy import run as ablation
from experiments.entropy.latents import Latents
from experiments.entropy.variants import FULL, HYPERPRIOR, LOCAL, variants
from experiments.record import Spread

STEPS = 8
SECONDS = ["encode_s", "decode_s"]


@pytest.fixture(scope="module")
def photos(tmp_path_factory, astronaut) -> Path:
    """Folders train (held out: the first), coded (two photos) and large (0.1 and 0.3 Mpx)."""
    root = tmp_path_factory.mktemp("photos")
    coffee = datasets.embedded("coffee")
    for name, parts in {
        "train": [astronaut, coffee, astronaut.flip(1), coffee.flip(2)],
        "coded": [astronaut[:, :192, 100:350], coffee[:, 100:300, :170]],
        "large": [coffee[:, :, :590]],
    }.items():
        (root / name).mkdir()
        for i, part in enumerate(parts):
            images.write_image(root / name / f"{i}.png", part.contiguous())
    return root


@pytest.fixture(scope="module")
def setup(photos, tiny_codec_path) -> ablation.Setup:
    return ablation.Setup(
        codec=str(tiny_codec_path), data=str(photos / "train"), steps=STEPS, crops=24, crop=192,
        batch=2, lr=5e-3, warmup=5, kodak=str(photos / "coded"), large=str(photos / "large"),
    )  # fmt: skip


@pytest.fixture(scope="module")
def cache(tmp_path_factory) -> Path:
    return tmp_path_factory.mktemp("cache")


@pytest.fixture(scope="module")
def finished(setup, cache, tmp_path_factory) -> Path:
    """Results of two variants, seed 0."""
    out = tmp_path_factory.mktemp("results") / "entropy"
    *_, last = ablation.ablate(setup, out, cache, [HYPERPRIOR, FULL], seeds=1)
    assert last[:2] == (2, 2)
    return out


@pytest.fixture(scope="module")
def trained(finished, cache):
    """The codec of variant "full", seed 0."""
    (model,) = cache.glob(f"models-*/{FULL}-0.safetensors")
    return zoo.load(model)


def test_cached_latents_are_what_the_analysis_transform_says(setup, tiny_codec, tmp_path):
    latents = Latents(tmp_path, "abc", setup.training(0), crops=10)
    assert [path.name for path in latents.entries] == ["1.png", "2.png", "3.png"]
    assert list(latents.fill(tiny_codec)) == [8, 10]
    stored = latents.open()
    assert stored.shape == (10, 160, 12, 12)
    crops = next(open_photos(setup.training(0), latents.entries, "cpu").batches(0, range(8)))
    with torch.inference_mode():
        for i in range(8):
            y = tiny_codec.g_a(crops[i : i + 1].float() / 255)[0].numpy()
            np.testing.assert_allclose(stored[i], y, rtol=2**-10, atol=2**-13)
    assert list(latents.fill(tiny_codec)) == []


@pytest.mark.slow
def test_training_learns_and_counts_its_steps(setup, finished, cache, tiny_codec):
    record = json.loads((finished / "runs" / f"{FULL}-0.json").read_text())["training"]
    assert (record["steps"], record["batch"], record["skipped_steps"]) == (STEPS, 2, 0)
    stored = np.load(next(cache.glob("latents-*.npy")), mmap_mode="r")
    codec = ablation.new_codec(tiny_codec, variants(tiny_codec.config.entropy)[HYPERPRIOR], 0)
    quick = dataclasses.replace(setup, steps=25, lr=0.05)
    bpp = list(ablation.train(codec, stored, quick.training(0)))
    assert len(bpp) == 25
    assert np.mean(bpp[-5:]) < 0.9 * np.mean(bpp[:5])


@pytest.mark.slow
def test_rows_are_real_files_and_their_bits_add_up(finished, trained, photos):
    ablated = report.read(finished)
    rows = ablated.kodak
    assert len(rows) == 2 * 2 * 4  # variants, photos, qualities
    assert sorted(rows["quality"].unique()) == [1, 1.75, 2.25, 3]
    for row in rows[rows["variant"] == FULL].itertuples():
        x = images.to_float(images.read_image(photos / "coded" / row.image))[None]
        assert row.bytes == len(trained.compress(x, row.quality))
        assert row.bpp == pytest.approx(8 * row.bytes / x[0, 0].numel(), abs=1e-6)
    assert (rows[SECONDS] > 0).to_numpy().all()
    for run in ablated.runs:
        mine = rows[rows["variant"] == run["variant"]]
        for bits in run["bits"]:
            size = mine[mine["quality"] == bits["quality"]]["bytes"].mean()
            assert sum(bits["groups"]) == pytest.approx(sum(bits["channels"]), abs=10)
            total = bits["z"] + sum(bits["groups"])
            assert total == pytest.approx(8 * (size - 28), rel=0.02, abs=64)
            assert len(bits["groups"]) == len(run["config"]["groups"])
            assert len(bits["channels"]) == 160


@pytest.mark.slow
def test_zeroing_changes_bytes_and_is_undone(finished, trained, photos):
    x = images.to_float(images.read_image(photos / "coded" / "0.png"))[None]
    before = trained.compress(x, 3.0)
    zeroed = report.read(finished).zeroed
    assert set(zeroed["variant"]) == {FULL}
    assert len(zeroed) == 2 * 2 * 4  # ways, photos, qualities
    first = zeroed[(zeroed["zeroed"] == "transformer") & (zeroed["image"] == "0.png")]
    with ablation.without(trained, "transformer"):
        group = trained.entropy.groups[0]
        tokens = torch.randn(1, 16, 6, 6, dtype=torch.float64)
        seen, local = anchor_mask(6, 6), torch.randn(1, 8, 6, 6).double()
        assert not group.global_(tokens, seen, local, tokens).any()
        assert trained.compress(x, 3.0) != before
        assert first["bytes"].tolist() == [len(trained.compress(x, q)) for q in first["quality"]]
    assert trained.compress(x, 3.0) == before


@pytest.mark.slow
def test_what_is_there_is_not_done_again(setup, finished, cache, monkeypatch):
    monkeypatch.setattr(ablation, "_run", None)  # nothing may run
    before = {path: path.read_bytes() for path in finished.rglob("*") if path.is_file()}
    steps = list(ablation.ablate(setup, finished, cache, [HYPERPRIOR, FULL], seeds=1))
    assert [step[:2] for step in steps] == [(2, 2)]
    assert {path: path.read_bytes() for path in finished.rglob("*") if path.is_file()} == before


@pytest.mark.slow
def test_a_stopped_ablation_goes_on_and_gives_the_same_rows(setup, finished, tmp_path):
    out, cache = tmp_path / "out", tmp_path / "cache"
    stopped = ablation.ablate(setup, out, cache, [HYPERPRIOR, FULL], seeds=1)
    for step in stopped:
        if step.done > 1.1:
            stopped.close()  # as Ctrl-C does, in the training of the second run
    assert [path.name for path in (out / "runs").iterdir()] == [f"{HYPERPRIOR}-0.json"]
    *_, last = ablation.ablate(setup, out, cache, [HYPERPRIOR, FULL], seeds=1)
    assert last.done == 2
    for name in ("kodak", "zeroed", "resolution"):
        ours, theirs = (pd.read_csv(f / f"{name}.csv") for f in (out, finished))
        drop = [column for column in SECONDS if column in ours]
        pd.testing.assert_frame_equal(ours.drop(columns=drop), theirs.drop(columns=drop))


@pytest.mark.slow
def test_a_folder_of_another_setup_is_refused(setup, finished, cache):
    other = dataclasses.replace(setup, steps=STEPS + 1)
    with pytest.raises(ValueError, match=r"another steps \(8 there, 9 here\).*another --out"):
        list(ablation.ablate(other, finished, cache, [HYPERPRIOR]))


@pytest.fixture
def made_up(finished, tmp_path) -> Path:
    """Two seeds; "full" has 0.8 and 0.7 times the bytes of "hyperprior" at the same quality."""
    shutil.copytree(finished, tmp_path / "entropy")
    rows = []
    for seed, factor in ((0, 0.8), (1, 0.7)):
        for quality in (1, 2, 3, 4):
            base = {"seed": seed, "image": "a.png", "quality": quality, "psnr": 25.0 + quality}
            base |= {"ms_ssim": 1 - 0.1**quality, "encode_s": 1.0, "decode_s": 2.0}
            for name, times in ((HYPERPRIOR, 1.0), (FULL, factor)):
                size = 10_000 * 2**quality * times
                rows.append({"variant": name, **base, "bytes": size, "bpp": size / 1e4})
    pd.DataFrame(rows).to_csv(tmp_path / "entropy" / "kodak.csv", index=False)
    for name in (HYPERPRIOR, FULL):
        first = tmp_path / "entropy" / "runs" / f"{name}-0.json"
        second = json.loads(first.read_text()) | {"seed": 1}
        first.with_name(f"{name}-1.json").write_text(json.dumps(second))
    return tmp_path / "entropy"


@pytest.mark.slow
def test_bd_rate_of_known_curves(made_up):
    ablated = report.read(made_up)
    for column in ("ms_ssim_db", "psnr"):
        spread = report.against(ablated, FULL, HYPERPRIOR, column)
        assert spread.mean == pytest.approx(-25, abs=1e-6)
        assert spread.std == pytest.approx(np.sqrt(50), abs=1e-6)
    assert str(spread) == "-25.0 ± 7.1 %"
    assert report.against(ablated, FULL, LOCAL).seeds == 0
    table = report.contributions(ablated)
    assert list(table.index) == [HYPERPRIOR, FULL]
    assert str(table.loc[HYPERPRIOR, "over_hyperprior"]) == "–"
    assert (table["decode_s"] == 2).all()


def test_a_mean_is_certain_by_the_t_test():
    """Against SciPy's own test."""
    generator = np.random.default_rng(0)
    found = []
    for seeds in (2, 3, 3, 3, 5, 5, 10):
        values = generator.normal(1, 0.5, seeds)
        expected = scipy.stats.ttest_1samp(values, 0).pvalue < 0.05
        assert Spread.of(values).certain() == expected
        found.append(expected)
    assert {True, False} == {bool(x) for x in found}
