"""Shared by all tests: photos that need no network, and a cache that is empty."""

import importlib
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F

from blurlib import datasets
from blurlib.codec import BlurCodec, CodecConfig, zoo
from blurlib.codec.transforms import TransformConfig
from blurlib.entropy import ContextConfig, EntropyConfig
from blurlib.entropy.hyper import START_SCALE, HyperLatent


@pytest.fixture(scope="session")
def astronaut() -> torch.Tensor:
    """A photo, uint8 (3, 512, 512); do not change it in place."""
    return datasets.embedded("astronaut")


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


@pytest.fixture(scope="session")
def tiny_entropy() -> EntropyConfig:
    """Uneven groups 16, 16, 32, 64, 32 and narrow networks; windows of 4."""
    context = ContextConfig(
        hyper=16, channel=8, local=8, attention=8, parameters=16, heads=2, window=4
    )
    return EntropyConfig(M=160, N=8, context=context)


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
def tiny_codec_path(tiny_entropy, tmp_path_factory) -> Path:
    """A model file: random weights, louder than at the start, so that real symbols are coded."""
    torch.manual_seed(1)
    transform = TransformConfig(widths=(16, 16), blocks=(1, 1))
    codec = BlurCodec(CodecConfig(tiny_entropy, transform, levels=3))
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
