"""Shared by all tests: photos that need no network, and a cache that is empty."""

import importlib
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F

import stand_ins
from blurlib import cli, datasets, images
from blurlib.codec import BlurCodec, zoo
from blurlib.entropy.hyper import START_SCALE, HyperLatent


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """The longest files go first: at the end the other process would wait for them."""
    places = {"test_training_processes.py": 0, "test_variants.py": 1}
    items.sort(key=lambda item: places.get(item.path.name, 2))


@pytest.fixture(scope="session")
def astronaut() -> torch.Tensor:
    """A photo, uint8 (3, 512, 512); do not change it in place."""
    return datasets.embedded("astronaut")


@pytest.fixture(scope="session")
def three_photos(astronaut, tmp_path_factory) -> Path:
    """A folder of three small photos."""
    folder = tmp_path_factory.mktemp("photos")
    for i in range(3):
        image = astronaut[:, 50 * i : 50 * i + 70, 90 * i : 90 * i + 80 + i]
        images.write_image(folder / f"{i}.png", image)
    return folder


@pytest.fixture
def run(capsys, monkeypatch):
    """Run a command in this process: (exit code, stdout, stderr)."""

    def call(*arguments, app=cli.app):
        monkeypatch.setattr(sys, "argv", ["blurlib", *map(str, arguments)])
        code = 0
        try:
            cli.run(app)
        except SystemExit as end:
            code = end.code or 0
        return code, *capsys.readouterr()

    return call


def one_line_error(result, *words):
    """A command ended with exit code 2 and one line that has these words."""
    code, _, err = result
    assert code == 2
    assert err.startswith("blurlib: ")
    assert err.count("\n") == 1
    for word in words:
        assert word in err


@pytest.fixture(scope="module")
def tool():
    """A module of tools/ by name, which finds its siblings as when it is run."""
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(Path(__file__).parents[1] / "tools")
        yield importlib.import_module


@pytest.fixture
def empty_home(tmp_path, monkeypatch):
    """BLURLIB_HOME set to a new folder."""
    home = tmp_path / "home"
    home.mkdir()
    monkeypatch.setenv("BLURLIB_HOME", str(home))
    return home


@torch.no_grad()
def make_logistic(hyper_latent: HyperLatent, median: torch.Tensor, scale: torch.Tensor) -> None:
    """Set the density of each channel to the logistic c(z) = sigmoid((z − median) / scale)."""
    density = hyper_latent.density
    for parameter in (*density.biases, *density.factors):
        parameter.zero_()
    slope = F.softplus(density.matrices[0]) * START_SCALE / scale.view(-1, 1, 1)
    density.matrices[0].copy_(slope + torch.log(-torch.expm1(-slope)))  # softplus⁻¹
    density.biases[0].copy_(-slope * median.view(-1, 1, 1))


@pytest.fixture(scope="session")
def tiny_codec_path(tmp_path_factory) -> Path:
    """A model file: random weights, louder than at the start, so that real symbols are coded."""
    torch.manual_seed(1)
    codec = BlurCodec(stand_ins.CODEC)
    with torch.no_grad():
        codec.g_a.layers[-1].weight *= 8
        codec.h_a.layers[-1].weight *= 40
        for group in codec.entropy.groups:
            group.parameters_[-1].weight *= 4
            group.parameters_[-1].bias[group.local.in_channels :] += 2  # log₂ σ
    # Medians, and tables of many lengths.
    make_logistic(
        codec.entropy.hyper_latent, torch.linspace(-0.7, 0.9, 8), torch.linspace(0.2, 0.6, 8)
    )
    path = tmp_path_factory.mktemp("models") / "tiny.safetensors"
    path.write_bytes(zoo.codec_bytes(codec))
    return path


@pytest.fixture(scope="session")
def tiny_codec(tiny_codec_path) -> BlurCodec:
    """The same, ready for coding; tests must not change it."""
    return zoo.load(tiny_codec_path)


@pytest.fixture(scope="session")
def photo(astronaut) -> Callable[[int, int], torch.Tensor]:
    """photo(height, width): the top left of the astronaut, (1, 3, height, width) in [0, 1]."""
    return lambda height, width: astronaut[None, :, :height, :width].float() / 255
