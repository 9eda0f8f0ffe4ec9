"""The comparison of diffusions with networks that take milliseconds: what is trained, chosen,
measured and said."""

import dataclasses
import itertools
import math
import shutil

import numpy as np
import pandas as pd
import pytest

from blurlib import datasets, images, metrics
from blurlib.diffusion import DenoiserConfig, Sampling
from blurlib.metrics import Lpips
from blurlib.training import stages
from blurlib.training.config import TrainConfig
from experiments.diffusion import decodes, verdict
from experiments.diffusion import run as diffusion
from experiments.diffusion.run import Plan, chosen, compare
from experiments.distances.features import Features
from stand_ins import DENOISER, Colours, Distance

LPIPS = Lpips(Distance())
FEATURES = Features("Colours", "0" * 64, Colours())


@pytest.fixture(autouse=True)
def small(monkeypatch):
    """`size = "small"` is a network of milliseconds, and no weights of LPIPS are read."""
    monkeypatch.setattr(DenoiserConfig, "small", lambda: DENOISER)
    monkeypatch.setattr(stages.Lpips, "load", lambda *_: LPIPS)
    monkeypatch.setattr(metrics, "ms_ssim", lambda x, y: 0.5)
    monkeypatch.setattr(stages, "ERROR_CROPS", 8)


@pytest.fixture(scope="module")
def places(astronaut, tiny_codec_path, tmp_path_factory):
    """Training photos, of which 0 and 2 are held out, and two photos to report."""
    data, set_ = tmp_path_factory.mktemp("data"), tmp_path_factory.mktemp("set")
    for i in range(4):
        crop = astronaut[:, 40 * i : 40 * i + 260, 60 * i : 60 * i + 260]
        images.write_image(data / f"train-{i}.png", crop)
    for i in range(2):
        images.write_image(set_ / f"{i}.png", astronaut[:, 100 * i : 100 * i + 256, 200:456])
    return str(tiny_codec_path), str(data), str(set_)


@pytest.fixture
def plan(places) -> Plan:
    codec, data, photos = places
    training = TrainConfig(
        stage="denoiser", codec=codec, data=data, held_out=2, crop=64, batch=1, steps=2, warmup=1,
        accelerator="cpu", prediction="residual", spacing="logsnr", logsnr_min=0.0,
    )  # fmt: skip
    return Plan(
        training, blurs=(2.0, 10.0), seeds=(0, 1), rhos=(0.5,), tuning=1, held_out=2,
        choosing=Sampling(2), photos=photos, qualities=(1.0, 3.0), steps=(1, 2), steps_of_rest=(2,),
        long=(3,), solver_steps=(2,), solver_every=2,
        start_scales=(0.5, 1.0),
    )  # fmt: skip


def run(plan, tmp_path) -> list:
    return list(compare(plan, tmp_path / "out", tmp_path / "runs", LPIPS, FEATURES))


@pytest.fixture(scope="module")
def folder(places, tmp_path_factory):
    """A whole comparison: (plan, folder with out/ and runs/)."""
    with pytest.MonkeyPatch.context() as patch:
        small.__wrapped__(patch)
        made = plan.__wrapped__(places)
        place = tmp_path_factory.mktemp("comparison")
        last = run(made, place)[-1]
        assert last.done == last.total
    return made, place


def everything(out) -> dict[str, str]:
    """The results, without the seconds that decoding and training took."""
    content = {path.name: path.read_text() for path in out.iterdir()}
    rows = decodes.read(content["decodes.csv"])
    content["decodes.csv"] = decodes.text([row._replace(seconds=0) for row in rows])
    content["runs.csv"] = pd.read_csv(out / "runs.csv").drop(columns="seconds").to_csv()
    return content


@pytest.mark.slow
def test_every_decoder_decodes_the_same_files_with_equal_training(folder):
    plan, place = folder
    runs = pd.read_csv(place / "out" / "runs.csv", keep_default_na=False)
    untuned, tuned = runs[runs["init"] == ""], runs[runs["init"] != ""]
    for decoder in ("deterministic", "isotropic", "blur"):
        assert set(untuned[untuned["decoder"] == decoder]["seed"]) == set(plan.seeds)
    assert untuned[["steps", "batch", "crop", "lr", "rho"]].drop_duplicates().shape[0] == 1
    assert runs["weights"].nunique() == len(runs)
    assert tuned[["rho", "steps"]].to_numpy().tolist() == [[0.5, 1]]
    rows = pd.DataFrame(decodes.read((place / "out" / "decodes.csv").read_text()))
    assert rows.groupby(["image", "quality"])["bytes"].nunique().eq(1).all()
    usual = rows[(rows["spacing"] == "logsnr") & (rows["solver"] == "ancestral")]
    usual = usual[(usual["start_scale"] == 1) & usual["steps"].isin(plan.steps)]
    for name in untuned[untuned["decoder"] == "isotropic"]["run"]:
        assert (usual["run"] == name).sum() == 2 * 2 * len(plan.steps)
    distances = pd.read_csv(place / "out" / "distances.csv", keep_default_na=False)
    assert (distances["patches"] == 2).all()  # a patch of each photo of 256 × 256
    # Solvers other than the usual one see every second photo only, so that they have none.
    assert set(distances["solver"]) == {"", "ancestral"}


@pytest.mark.slow
def test_the_same_again_trains_and_decodes_nothing(folder, monkeypatch):
    plan, place = folder
    before = everything(place / "out")

    def never(*_, **__):
        raise AssertionError("done already")

    monkeypatch.setattr(diffusion, "train", never)
    monkeypatch.setattr(diffusion, "_distance", never)
    monkeypatch.setattr(decodes.BlurlibCodec, "picture", never)
    run(plan, place)
    assert everything(place / "out") == before


@pytest.mark.slow
def test_a_comparison_that_was_cut_off_ends_the_same(folder, tmp_path):
    plan, place = folder
    for doing in ("training isotropic-0", "training blur-10-0", "decoding"):
        progress = compare(plan, tmp_path / "out", tmp_path / "runs", LPIPS, FEATURES)
        assert any(at.doing.startswith(doing) for at in progress)  # then it is left alone
        progress.close()
        assert not (tmp_path / "out").exists()
    run(plan, tmp_path)
    assert everything(tmp_path / "out") == everything(place / "out")


@pytest.mark.slow
def test_the_reported_photos_have_no_part_in_the_choice(folder, tmp_path, monkeypatch):
    """They cannot even be read: all is chosen, and trained on from there, by then."""
    plan, place = folder
    again = shutil.ignore_patterns("choice.csv", "decodes", "*-rho-*")
    shutil.copytree(place / "runs", tmp_path / "runs", ignore=again)

    def unreadable(*_):
        raise FileNotFoundError("the set to report")

    monkeypatch.setattr(datasets, "dataset", unreadable)
    with pytest.raises(FileNotFoundError, match="the set to report"):
        run(plan, tmp_path)
    (runs,) = (tmp_path / "runs").iterdir()
    choice = pd.read_csv(runs / "choice.csv")
    assert set(choice["photo"]) == {"train-0.png", "train-2.png"}
    assert len(list(runs.glob("*/model.safetensors"))) == 4 + 3 + 1
    tuned = TrainConfig.recipe(str(next(runs.glob("*-rho-*/config.toml"))))
    assert (tuned.rho, tuned.steps, tuned.lr) == (0.5, plan.tuning, plan.tuning_lr)
    assert tuned.init.startswith(str(runs))


@pytest.mark.parametrize("best", ["blur-2-0", "blur-10-0"])
def test_the_choice_is_the_lowest_mean_over_photos_and_qualities(plan, best):
    other = {"blur-2-0": "blur-10-0", "blur-10-0": "blur-2-0"}[best]
    values = {best: [0.1, 0.5, 0.1, 0.5], other: [0.4, 0.2, 0.4, 0.3], "isotropic-0": [0] * 4}
    files = list(itertools.product(("a.png", "b.png"), (1.0, 3.0)))
    choice = pd.DataFrame(
        [
            {"run": run, "photo": photo, "quality": quality, "lpips": value}
            for run, column in values.items()
            for (photo, quality), value in zip(files, column, strict=True)
        ]
    )
    candidates = plan.candidates()
    assert [run.name for run in candidates] == ["isotropic-0", "blur-2-0", "blur-10-0"]
    assert chosen(choice, candidates[1:]).name == best
    assert chosen(choice, candidates).name == "isotropic-0"
    with pytest.raises(ValueError, match=f"{best} was not judged on all"):
        chosen(choice.drop(index=0), candidates)


@pytest.mark.slow
def test_another_plan_for_the_same_runs_is_refused(folder):
    plan, place = folder
    for changes, word in (({"lr": 1.0}, "lr"), ({"steps": 9}, "2 steps, not 9")):
        other = dataclasses.replace(plan, training=dataclasses.replace(plan.training, **changes))
        with pytest.raises(ValueError, match=word):
            run(other, place)


@pytest.fixture
def told(folder, tmp_path) -> "verdict.Comparison":
    """The comparison with other LPIPS: isotropic 0.5 and 0.52 by seed, the best blur 0.4 and 0.42
    at one step, 0.51 and 0.53 else; without a network, 0.57 with blur; all others 0.6."""
    out = shutil.copytree(folder[1] / "out", tmp_path / "out")
    best = verdict.Comparison.read(out).blur
    rows = []
    for row in decodes.read((out / "decodes.csv").read_text()):
        value = 0.6
        if row.run.startswith("isotropic"):
            value = 0.5 + 0.02 * int(row.run[-1])
        elif row.run in (f"blur-{best:g}-0", f"blur-{best:g}-1"):
            value = (0.4 if row.steps == 1 else 0.51) + 0.02 * int(row.run[-1])
        elif row.run == f"silent-{best:g}":
            value = 0.57
        # Photos differ, by the same for all.
        rows.append(row._replace(lpips=value + (0.05 if row.image == "1.png" else -0.05)))
    (out / "decodes.csv").write_text(decodes.text(rows))
    return verdict.Comparison.read(out)


@pytest.mark.slow
def test_duels_are_won_by_all_seeds_or_not_clear(told):
    duels = {(duel.quality, duel.steps): duel for duel in told.duels()}
    assert set(duels) == {(1.0, 1), (1.0, 2), (1.0, 3), (3.0, 1), (3.0, 2)}
    won, open_, single = duels[3.0, 1], duels[3.0, 2], duels[1.0, 3]
    assert (won.clear, won.photos, won.total) == (True, 2, 2)
    assert math.isclose(won.difference, -0.1, abs_tol=1e-9)
    assert math.isclose(won.blur.std, 0.02 / math.sqrt(2), rel_tol=1e-6)
    assert (open_.clear, open_.photos) == (False, 0)
    assert math.isclose(open_.difference, 0.01, abs_tol=1e-9)
    assert (single.clear, single.blur.seeds) == (False, 1)
    assert math.isclose(won.silent, -0.03, abs_tol=1e-9)
    assert math.isnan(single.silent)
    assert np.isnan(single.blur.std)
    assert (str(won.blur), str(single.blur)) == ("0.4100 ± 0.0141", "0.5100")
