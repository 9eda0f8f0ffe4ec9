"""Every experiment can be started, and `python -m experiments.diffusion` tells what it takes."""

import pkgutil
from importlib import import_module

import pytest

import experiments
from experiments.diffusion.__main__ import app as diffusion


def test_diffusion_says_what_it_takes(run, tmp_path):
    code, out, _ = run("--data", tmp_path, "--steps", 7, "--dry-run", app=diffusion)
    assert code == 0
    assert "12 runs of 7 steps and 4 of" in out.replace("\n", " ")


@pytest.mark.parametrize(
    "name", [m.name for m in pkgutil.walk_packages(experiments.__path__, "experiments.")]
)
def test_every_experiment_can_be_started(name):
    if name.startswith("experiments.speed."):
        pytest.importorskip("compressai")
    import_module(name)
