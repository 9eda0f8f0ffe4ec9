"""`python -m experiments.entropy` and `python -m experiments.diffusion`, as people type them."""

import pkgutil
from importlib import import_module

import pytest

import experiments
from conftest import one_line_error
from experiments.diffusion.__main__ import app as diffusion
from experiments.entropy.__main__ import app as entropy


@pytest.mark.parametrize(
    ("app", "arguments", "words"),
    [
        (diffusion, ["--steps", 0], ["--steps"]),
        (diffusion, ["--scale", "huge"], ["huge"]),
        (diffusion, ["--photos", "text"], ["page.png", "no patch of 256"]),
        (diffusion, ["--photos", "nowhere"], ["nowhere", "kodak"]),
        (entropy, ["--variants", "swin"], ["no variant 'swin': there are hyperprior"]),
    ],
)
def test_what_is_wrong_is_one_line_and_nothing_is_trained(run, tmp_path, app, arguments, words):
    folder = "--runs" if app is diffusion else "--cache"
    result = run(*arguments, "--data", tmp_path, folder, tmp_path / "runs", app=app)
    one_line_error(result, *words)
    assert not (tmp_path / "runs").exists()


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
