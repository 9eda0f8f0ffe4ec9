"""Thumbnails from noise: equal times and weights for all processes, resumable runs, the power."""

import itertools
from dataclasses import replace

import numpy as np
import pytest
import scipy.stats
import torch

from blurlib.diffusion import BlurSchedule, DenoiserConfig, Sampling, idct2
from blurlib.metrics import Lpips
from experiments.distances.features import Features
from experiments.record import read_table
from experiments.thumbnails import measure, run, verdict
from experiments.thumbnails.bank import Bank
from experiments.thumbnails.clock import Clocked
from stand_ins import Colours, Distance

pytestmark = pytest.mark.slow
WAVES = torch.from_numpy(np.hypot(*np.ogrid[:64, :64]).clip(1))
UNKNOWN = torch.tensor([1.0, 0.3, 0.1])[:, None, None] / (
    1 + (WAVES / 12) ** 3
)  # flat for coarse waves, then falling, as given ŷ
SPECTRA = torch.stack([UNKNOWN + 400 / (1 + WAVES) ** 2, UNKNOWN])
TINY = DenoiserConfig(4, (8, 8, 8), 1, (0, 0, 4), residual_to_base=False, gated=True)
HOW = (Sampling(1), Sampling(2, spacing="uniform"))
PLAN = run.Plan((0.0, 20.0), (0, 1), steps=4, batch=2, network=TINY, samplings=HOW)
DRAW = np.random.default_rng(0)
PICTURES, DIRECT = DRAW.integers(0, 256, (2, 5, 3, 64, 64), np.uint8)
BANK = Bank(PICTURES, DRAW.normal(size=(5, 4, 4, 4)).astype(np.float16), DIRECT)


@pytest.mark.parametrize("sigma", [0.0, 20.0])
def test_every_step_decides_as_much_by_direct_summation(sigma):
    plain, clocked = BlurSchedule(sigma), Clocked(sigma, unknown=UNKNOWN)
    edges = plain.time_of(clocked.logsnr(torch.tensor([*clocked.times(4, "uniform"), 0.0])))
    found = []
    for late, early in itertools.pairwise(edges.tolist()):
        times = torch.linspace(late, early, 401, dtype=torch.float64)
        rho = torch.cat([m.alpha / m.sigma for m in (plain.marginal(t, 64, 64) for t in times)])
        left = UNKNOWN / (1 + UNKNOWN * rho**2) / WAVES
        found.append(((left[1:] + left[:-1]) / 2 * rho.diff(dim=0)).sum())
    assert torch.stack(found) / sum(found) == pytest.approx(torch.full((4,), 1 / 4), rel=3e-3)
    t = clocked.time_of(3.0)  # at equal log-SNR the blur is that of the papers
    assert clocked.logsnr(t).item() == pytest.approx(3, abs=1e-3)
    assert torch.allclose(clocked.blur_sigma(t), plain.blur_sigma(plain.time_of(3.0)), rtol=1e-3)


def test_all_processes_weigh_errors_alike_and_the_best_linear_estimate_has_loss_1():
    flat, blurred = (Clocked(sigma, unknown=UNKNOWN).weights(500).mean(0) for sigma in (0.0, 20.0))
    assert torch.allclose(flat, blurred, rtol=2e-3)
    own = torch.Generator().manual_seed(0)
    x = idct2(UNKNOWN.sqrt() * torch.randn(256, 3, 64, 64, generator=own))
    for sigma in (0.0, 20.0):  # a silent network is the Wiener filter of the first spectrum
        loss = run.diffusion_loss(sigma, torch.stack([UNKNOWN, UNKNOWN]))
        found = loss(lambda z, *_: torch.zeros_like(z), x.float(), None, None, own)
        assert found.item() == pytest.approx(1, rel=0.03)


def test_a_resumed_run_repeats_an_uninterrupted_one_and_no_other_is_resumed(tmp_path):
    one, found = run.Run(20.0, 1), []
    for stops in ([4], [1, 2, 1]):
        for n in stops:
            steps = run.train(one, PLAN, tmp_path / str(stops), BANK, SPECTRA)
            assert len(list(itertools.islice(steps, n))) == n
            steps.close()
        found.append(run.trained(one, PLAN, tmp_path / str(stops)).state_dict())
    assert all(torch.equal(found[0][name], found[1][name]) for name in found[0])
    with pytest.raises(ValueError, match="other settings"):
        next(run.train(one, replace(PLAN, batch=3), tmp_path / "[4]", BANK, SPECTRA))


@pytest.mark.parametrize(("n", "alpha"), [(4, 0.05), (4, 0.025), (8, 0.05)])
def test_the_smallest_difference_is_found_four_times_in_five(n, alpha):
    size = (40_000, n)
    drawn = np.random.default_rng(0).normal(verdict.detectable(0.3, n, alpha), 0.3, size)
    found = scipy.stats.ttest_1samp(drawn, 0, axis=1).pvalue < alpha
    assert found.mean() == pytest.approx(0.8, abs=0.01)


def test_a_whole_comparison_once(tmp_path):
    lpips = Lpips(Distance())
    judge = measure.Judge(BANK, lpips, Features("Colours", "0" * 64, Colours()))
    trial = measure.Trial(PLAN, tmp_path, judge, SPECTRA, tmp_path)
    for one in PLAN.runs():
        assert [*run.train(one, PLAN, tmp_path, BANK, SPECTRA, lpips)] == [1, 2, 3, 4]
    assert [*trial.choose(), *trial.measure()]
    assert not [*trial.choose(), *trial.measure()]
    table, choice = (read_table(tmp_path / f"{name}.csv") for name in ("measures", "choice"))
    assert {*table["decoder"]} >= {"deterministic", "direct + 0 levels", "no network, blur-20"}
    for row in verdict.duels(tmp_path).itertuples():
        ways = {n: verdict.best(choice, n, row.measure) for n in ("blur-20", "isotropic")}
        keys = ({"decoder": n, "features": "own", **way} for n, way in ways.items())
        test = scipy.stats.ttest_rel(*(verdict.matching(table, k)[row.measure] for k in keys))
        assert (row.seeds, row.p) == (2, pytest.approx(test.pvalue))
    short = replace(trial, plan=replace(PLAN, steps=1), runs=tmp_path / "pilot")
    assert [*short.pilot(PLAN, BANK, {"commit": "c"})]
    assert "smallest" in (tmp_path / "setup.json").read_text()
