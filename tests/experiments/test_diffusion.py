"""The comparison of diffusions with networks that take milliseconds: what is trained, chosen,
measured and said."""

import dataclasses
import itertools
import json
import math
import shutil
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from torch import nn

from blurlib import datasets, images
from blurlib.codec import zoo
from blurlib.diffusion import BlurDiffusion, BlurSchedule, DenoiserConfig, Sampling
from blurlib.evaluation.perception import Features
from blurlib.metrics import Lpips
from blurlib.training import stages
from blurlib.training.config import TrainConfig
from experiments.diffusion import decodes, verdict
from experiments.diffusion import run as diffusion
from experiments.diffusion.run import Plan, chosen, compare
from stand_ins import Distance


class Colours(nn.Module):
    """Stands in for AlexNet: the mean of each channel."""

    def forward(self, x):
        return x.float().mean((2, 3))


LPIPS = Lpips(Distance())
FEATURES = Features("Colours", "0" * 64, Colours())


@pytest.fixture(autouse=True)
def small(monkeypatch):
    """`size = "small"` is a network of milliseconds, and no weights of LPIPS are read."""
    config = DenoiserConfig(patch=4, widths=(8, 8, 8), blocks=1, cond_channels=(0, 16, 16))
    monkeypatch.setattr(DenoiserConfig, "small", lambda: config)
    monkeypatch.setattr(stages.Lpips, "load", lambda *_: LPIPS)


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


# The runner


def test_every_decoder_decodes_the_same_files_with_equal_training(folder):
    plan, place = folder
    runs = pd.read_csv(place / "out" / "runs.csv", keep_default_na=False)
    untuned = runs[runs["init"] == ""]
    assert set(zip(untuned["decoder"], untuned["seed"], strict=True)) == {
        *itertools.product(("deterministic", "isotropic"), (0, 1)),
        ("blur", 0),
        ("blur", 1),
    }
    assert (untuned["decoder"] == "blur").sum() == len(plan.blurs) + len(plan.seeds) - 1
    assert untuned[["steps", "batch", "crop", "lr", "rho"]].drop_duplicates().shape[0] == 1
    assert runs["weights"].nunique() == len(runs)
    tuned = runs[runs["init"] != ""]
    assert tuned[["rho", "steps"]].to_numpy().tolist() == [[0.5, 1]]
    rows = pd.DataFrame(decodes.read((place / "out" / "decodes.csv").read_text()))
    assert rows.groupby(["image", "quality"])["bytes"].nunique().eq(1).all()
    usual = rows[(rows["spacing"] == "logsnr") & (rows["solver"] == "ancestral")]
    usual = usual[usual["start_scale"] == 1]
    for name in untuned[untuned["decoder"] == "isotropic"]["run"]:
        mine = usual[(usual["run"] == name) & usual["steps"].isin(plan.steps)]
        assert len(mine) == 2 * 2 * len(plan.steps)
    distances = pd.read_csv(place / "out" / "distances.csv", keep_default_na=False)
    assert (distances["patches"] == 2).all()  # a patch of each photo of 256 × 256
    assert "FD-Colours" in distances
    # Solvers other than the usual one see every second photo only, so that they have none.
    assert set(distances["solver"]) == {"", "ancestral"}
    assert set(distances["spacing"]) == {"", "logsnr"}
    assert set(distances["start_scale"]) == {0, 1}


def test_results_say_where_they_come_from_and_name_no_folder(folder):
    plan, place = folder
    text = (place / "out" / "about.json").read_text()
    about = json.loads(text)
    assert about["codec_sha256"] == zoo.sha256(plan.training.codec)
    assert {"command", "commit", "device", "versions"} <= about.keys()
    assert str(place.parent) not in text
    assert "/" not in json.dumps(about["plan"])
    for photos in (plan.photos, plan.training.data):  # nothing is written beside them
        assert all(path.suffix == ".png" for path in Path(photos).iterdir())


def test_chains_without_a_network_are_noise_that_depends_on_the_process_alone(folder):
    plan, place = folder
    rows = pd.DataFrame(decodes.read((place / "out" / "decodes.csv").read_text()))
    silent = rows[rows["run"].str.startswith("silent")]
    best = verdict.Comparison.read(place / "out").blur
    assert set(silent["run"]) == {"silent-0", f"silent-{best:g}"}
    assert set(silent["steps"]) == set(plan.steps)
    direct = rows[rows["run"] == "direct"].set_index(["image", "quality"])["psnr"]
    two = silent[silent["steps"] == 2].set_index(["image", "quality"])["psnr"]
    assert (two < direct.reindex(two.index)).all()
    table = verdict.Comparison.read(place / "out").table
    assert set(table[table["run"].str.startswith("silent")]["decoder"]) == {"silent"}


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


def test_the_reported_photos_have_no_part_in_the_choice(folder, tmp_path, monkeypatch):
    """They cannot even be read: all is chosen, and trained on from there, by then."""
    plan, place = folder
    again = shutil.ignore_patterns("choice.csv", "decodes", "*-rho-*")
    shutil.copytree(place / "runs", tmp_path / "runs", ignore=again)

    def unreadable(*_):
        raise FileNotFoundError("the set to report")

    monkeypatch.setattr(datasets, "dataset", unreadable)
    monkeypatch.setattr(datasets, "kodak", unreadable)
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


def test_another_plan_for_the_same_runs_is_refused(folder):
    plan, place = folder
    for changes, word in (({"lr": 1.0}, "lr"), ({"steps": 9}, "2 steps, not 9")):
        other = dataclasses.replace(plan, training=dataclasses.replace(plan.training, **changes))
        with pytest.raises(ValueError, match=word):
            run(other, place)


def test_held_out_photos_that_cannot_be_judged_are_an_error(plan, tmp_path, astronaut):
    for i in range(3):
        images.write_image(tmp_path / f"{i}.png", astronaut[:, :100, :100])
    training = dataclasses.replace(plan.training, data=str(tmp_path))
    with pytest.raises(ValueError, match=r"none of the held-out photos .* 256 pixels"):
        diffusion.held_out_photos(dataclasses.replace(plan, training=training))


@pytest.mark.parametrize(
    ("changes", "word"),
    [
        ({"blurs": (5.0, -1.0)}, "blurs holds -1: .* such as 20"),
        ({"blurs": (0.0,)}, "isotropic diffusion, 0, is always there"),
        ({"blurs": ()}, r"blurs is \(\)"),
        ({"seeds": (1, 1)}, "each once"),
        ({"steps": (1, 0)}, "at least 1 step, got 0"),
        ({"every": 0}, "every is 0"),
    ],
)
def test_plans_that_cannot_be_are_refused(plan, changes, word):
    with pytest.raises(ValueError, match=word):
        dataclasses.replace(plan, **changes)


@pytest.mark.parametrize("make", [Plan.small, Plan.paper])
def test_the_shipped_plans_compare_what_was_promised(make):
    plan = make("codec.safetensors", "photos")
    assert [run.config.sigma_blur_max for run in plan.candidates()] == [0, 1, 5, 10, 20]
    assert plan.rhos == (0, 0.3, 0.6, 0.9)
    assert {1, 2, 4, 8, 17, 65} == {*plan.steps, *plan.long}
    assert len(plan.seeds) == 3
    assert (plan.training.prediction, plan.training.spacing) == ("residual", "logsnr")
    blur = plan.candidates()[2]
    names = [run.name for run in (*plan.first(), *plan.second(blur, blur, Path()))]
    assert len(names) == len(set(names)) == 3 + 3 + 4 + 2 + 4


def test_a_network_that_reads_the_noisy_picture_misses_its_own(tiny_codec, astronaut):
    """One that returns what it is shown, and one that says nothing."""

    class Echo:
        process = BlurDiffusion(BlurSchedule(0.0), "x")

        def given(self, output):
            return self.process

        def predict(self, shown, t, output):
            return shown * self.factor

    photos = [(f"{i}", astronaut[:, 90 * i : 90 * i + 256, :256]) for i in range(3)]
    decoder = Echo()
    for factor in (1.0, 0.0):
        decoder.factor = factor
        rows = diffusion.reads(decodes.Contestant("echo", "", decoder), tiny_codec, photos)
        assert [row["logsnr"] for row in rows] == list(diffusion.READ_AT)
        last = rows[-1]
        if factor:
            assert last["own"] < 0.01 < 0.1 < min(last["other"], last["silent"])
        else:
            assert last["own"] == last["other"] == last["silent"] > 0.1


# What it says


@pytest.fixture
def told(folder, tmp_path) -> "verdict.Comparison":
    """The comparison with other LPIPS: isotropic 0.5 and 0.52 by seed, the best blur 0.4 and 0.42
    at one step, 0.51 and 0.53 else; without a network, 0.57 with blur; all others 0.6."""
    _, place = folder
    out = tmp_path / "out"
    out.mkdir()
    for path in (place / "out").iterdir():
        (out / path.name).write_bytes(path.read_bytes())
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


def test_the_best_chain_is_held_against_the_decoder_without_one(told):
    _, _, best, distance = told.against_one_step()
    assert (best.quality, best.measure, distance.measure) == (3, "lpips", "FD-Colours")
    assert (best.decoder, best.steps, best.clear) == ("blur", 1, True)
    assert (str(best.deterministic), str(best.chain)) == ("0.6000 ± 0.0000", "0.4100 ± 0.0141")
    assert best.direct == pytest.approx(0.6)
    seeds = told.table["decoder"] == "deterministic"
    told.table.loc[seeds, "lpips"] = [0.30 + 0.2 * seed for seed in told.table[seeds]["seed"]]
    worse = told.against_one_step()[2]
    assert (worse.deterministic.mean, worse.clear) == (pytest.approx(0.4), False)


def test_tables_by_blur_rho_and_solver_hold_all_that_was_measured(told):
    sigma = told.by_sigma()
    assert list(sigma.index) == [0, 2, 10]
    assert list(sigma.columns) == ["held out", 2]
    judged = told.choice.groupby("run")["lpips"].mean()
    assert sigma.loc[0, "held out"] == pytest.approx(judged["isotropic-0"])
    start = told.about["plan"]["training"]["rho"]
    reading = told.by_reading()
    assert list(reading.index) == list(itertools.product(("blur", "isotropic"), diffusion.READ_AT))
    assert {spread.seeds for spread in reading["own"]} == {2}
    own = told.reads[told.reads["run"].str.startswith("isotropic")].groupby("logsnr")["own"].mean()
    assert reading.loc[("isotropic", 3.0), "own"].mean == pytest.approx(own[3.0])
    assert list(told.by_rho().index) == [("", start), (told.tuned, 0.5)]
    solvers = told.by_solver()
    assert len(solvers) == 2 * 3 * (2 + 1)  # two spacings, and another start with one of them
    # Only the first photo was decoded with all solvers, so only it may count.
    assert solvers.loc[("isotropic", "ancestral", "logsnr", 1.0), 2] == pytest.approx(0.45)


# Its tables and sheets


def cells(table: str) -> dict[tuple[str, ...], list[str]]:
    """Rows of a Markdown table by their first two cells."""
    table = table.replace("\N{NO-BREAK SPACE}", " ")
    lines = [line for line in table.splitlines() if line.startswith("| ")][2:]
    split = [[cell.strip() for cell in line.strip("|").split("|")] for line in lines]
    rows = {tuple(row[:2]): row[2:] for row in split}
    assert len(rows) == len(split)
    return rows


def test_the_tables_say_what_was_measured(told, tool):
    tables = tool("tables_blur")
    duels = cells(tables.duels(told))
    assert duels["3", "1"] == [
        "0.4100 ± 0.0141", "0.5100 ± 0.0141", "-0.1000", "yes", "2 of 2", "-0.0300",
    ]  # fmt: skip
    assert duels["1", "3"][3:] == ["one seed", "0 of 2", "–"]
    blurs = cells(tables.sigma(told))
    held_out = told.choice.groupby("run")["lpips"].mean()
    assert blurs["0", f"{held_out['isotropic-0']:.4f}"] == ["0.5000"]
    rows = told.decodes[told.decodes["run"] == "direct"]
    psnr = rows[rows["quality"] == 3]["psnr"].mean()
    lines = [line for line in tables.decoders(told).splitlines() if line.startswith("| 3 | direct")]
    assert len(lines) == 1
    assert [cell.strip() for cell in lines[0].split("|")][3:5] == ["0", "0.6000"]
    assert f"| {psnr:.2f} |" in lines[0]
    reads = told.reads[told.reads["run"].str.startswith("isotropic") & (told.reads["logsnr"] == 5)]
    means = [f"{reads[name].mean():.3f}" for name in ("silent", "own", "other")]
    shown = cells(tables.reading(told))["isotropic", "5"]
    assert [cell.split(" ±")[0] for cell in shown] == means
    assert cells(tables.verdict(told))["3", "LPIPS"] == [
        "0.6000", "0.6000 ± 0.0000", "0.4100 ± 0.0141", "blur", "1", "yes",
    ]  # fmt: skip
    assert len(tables.rho(told).splitlines()) == 2 + 2 + 2  # of two ρ, and who was trained on
    assert len(tables.solvers(told).splitlines()) == 2 + len(told.by_solver())


def test_sheets_of_text_show_one_file_by_every_decoder(folder, places, tool, tmp_path, monkeypatch):
    plan, place = folder
    sheets = tool("text_sheets")
    shutil.copytree(place / "out", tmp_path / "results/ablation/diffusion")
    monkeypatch.setattr(sheets, "ROOT", tmp_path)
    ours = sheets.decoders(place / "runs", places[0])
    best = verdict.Comparison.read(place / "out").blur
    assert [*ours] == ["direct", "deterministic", "isotropic", f"blur, {best:g} px"]
    where = sheets.Sheet("text", 10, 40)
    panels = sheets.sheet(where, ours, LPIPS)
    assert len(panels) == 5
    photo = datasets.embedded("text")
    codec = zoo.load(places[0])
    data = codec.compress(photo[None] / 255, sheets.QUALITY)
    output = codec.decompress(data)
    run = place / "runs" / codec.model_id.hex() / "isotropic-0" / "model.safetensors"
    how = dataclasses.replace(plan.choosing, steps=sheets.STEPS)
    chain = zoo.load_denoiser(run).decode(output, how)
    expected = {0: photo, 1: 255 * output.x_hat[0].clamp(0, 1), 3: 255 * chain[0]}
    crop = (slice(None), slice(10, 10 + sheets.SIDE), slice(40, 40 + sheets.SIDE))
    for i, picture in expected.items():
        assert (panels[i].image - picture[crop]).abs().max() <= 0.51
    assert f"{len(data):,} bytes" in panels[0].caption
    for panel in panels[1:]:
        error = (panel.image.double() - photo[crop]).square().mean().item()
        assert panel.caption.endswith(f", {10 * math.log10(255**2 / error):.1f} dB")
