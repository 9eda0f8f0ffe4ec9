"""The encoder that searches: what it gains, that decoders do not notice, what it refuses."""

from dataclasses import replace

import pytest
import torch
import torch.nn.functional as F
from pytorch_msssim import ms_ssim

from blurlib.codec import Objective, model, search, zoo
from blurlib.codec.bitstream import BlurFile
from blurlib.codec.search import Searched
from blurlib.entropy.checkerboard import anchor_mask

MSE = Objective("mse", 0.02, 2.0)


@pytest.fixture(scope="module")
def codec(tiny_codec_path):
    codec = zoo.load(tiny_codec_path)
    codec.objective = MSE
    return codec


@pytest.fixture
def short(monkeypatch):
    """Searches of six iterations."""
    monkeypatch.setattr(model, "ITERATIONS", (0,) + 9 * (6,))
    return monkeypatch


def loss(codec, x: torch.Tensor, data: bytes) -> float:
    """R + λ·D of the real file."""
    output = codec.decompress(data)
    weight = codec.objective.lmbda(output.quality, codec.config.levels)
    d = 255**2 * (output.x_hat - x).square().mean()
    return 8 * len(data) / x[0, 0].numel() + (weight * d).item()


def test_the_objective_is_that_of_the_definitions(photo):
    quality = torch.tensor([1.0, 2.5, 4.0], dtype=torch.float64)
    expected = torch.tensor([0.02, 0.2, 2.0], dtype=torch.float64)  # geometric between the levels
    torch.testing.assert_close(MSE.lmbda(quality, 4), expected)
    x = photo(192, 200)
    x_hat = (x + 0.05 * torch.randn_like(x)).clamp(0, 1)
    error = ((x_hat - x) * 255).square().mean()
    torch.testing.assert_close(MSE.distance(x_hat, x), error[None])
    mirrored = [F.pad(of, (16, 16, 16, 16), "reflect") for of in (x_hat, x)]
    expected = 1 - ms_ssim(*mirrored, data_range=1.0, size_average=False)
    torch.testing.assert_close(Objective("ms-ssim", 1, 2).distance(x_hat, x), expected)
    # MS-SSIM of the photo alone hardly sees the first row.
    rows = torch.stack([x[0] + 0.2 * (torch.arange(192) == row)[:, None] for row in (0, 100)])
    first, inner = Objective("ms-ssim", 1, 2).distance(rows, x.expand_as(rows))
    assert first > 0.5 * inner
    with pytest.raises(ValueError, match="trained for the distortion 'perceptual'"):
        Objective("perceptual", 1, 2).distance(x, x)


def test_cold_annealing_rounds_to_the_nearest(codec):
    y, hyperprior = _latent(codec)
    entropy = codec.entropy
    cold = entropy.anneal(y, hyperprior, 1e-7, torch.Generator().manual_seed(0)).y_hat

    def code(here, gaussian):
        return gaussian.mu + (here.of(y) - gaussian.mu).round()

    torch.testing.assert_close(cold, entropy.walk(hyperprior, code), atol=1e-6, rtol=0)


@pytest.mark.slow
def test_hot_annealing_draws_the_neighbours_by_their_distance(codec):
    y, hyperprior = _latent(codec)
    drawn = torch.Generator().manual_seed(0)
    hot = torch.stack([codec.entropy.anneal(y, hyperprior, 0.5, drawn).y_hat for _ in range(60)])
    mu = []

    def code(here, gaussian):
        mu.append(gaussian.mu)
        return here.of(y)

    codec.entropy.walk(hyperprior, code)
    first = codec.entropy.channels[0]  # its anchors know nothing that was drawn
    anchors = anchor_mask(*y.shape[-2:])
    v, r = y[:, first][..., anchors] - mu[0], hot[:, :, first][..., anchors] - mu[0]
    up = r - v.floor()
    assert (up >= -1e-9).all()
    assert (up <= 1 + 1e-9).all()
    fraction, mean = (v - v.floor()).flatten(), up.mean(0).flatten()
    assert (mean[fraction < 0.2] < 0.5).all()
    assert (mean[fraction > 0.8] > 0.5).all()
    assert torch.corrcoef(torch.stack([fraction, mean]))[0, 1] > 0.9


def _latent(codec):
    torch.manual_seed(0)
    with torch.no_grad():
        x = torch.rand(1, 3, 64, 128)
        q = torch.tensor([2.0], dtype=torch.float64)
        gain = codec.gain(q)
        y = codec.g_a(x).double() * gain + torch.rand(1, 160, 4, 8)
        z_symbols = codec.entropy.hyper_latent.symbols(codec.h_a(y.float()))
        return y, codec.hyperprior(codec.entropy.hyper_latent.values(z_symbols), gain)


@pytest.mark.parametrize("distortion", ["mse", "ms-ssim"])
@pytest.mark.parametrize("size", [(1, 1), (50, 70)])
def test_a_searched_file_is_never_worse(tiny_codec_path, photo, short, size, distortion):
    codec = zoo.load(tiny_codec_path)
    codec.objective = replace(MSE, distortion=distortion)
    x = photo(*size)
    seen = []
    data = codec.compress(x, 2.5, seed=7, effort=5, observe=seen.append)
    assert [state.iteration for state in seen] == [1, 2, 3, 4, 5, 6]
    assert seen[0].iterations == 6
    output = codec.decompress(data)
    assert output.size == size
    assert BlurFile.from_bytes(data).seed == 7
    short.setattr(model, "search", lambda _, x, y, *others: [Searched(1, 1, 0.0, y + 5)])
    assert codec.compress(x, 2.5, effort=5) == codec.compress(x, 2.5)
    if distortion == "mse":
        assert loss(codec, x, data) <= loss(codec, x, codec.compress(x, 2.5)) + 1e-3


@pytest.mark.slow
def test_a_search_finds_better_files_and_the_same_again(codec, photo):
    """And leaves the codec as it was."""
    x, before = photo(64, 64), {k: v.clone() for k, v in codec.state_dict().items()}
    data = codec.compress(x, 2.5, effort=3)
    assert loss(codec, x, data) < 0.99 * loss(codec, x, codec.compress(x, 2.5))
    with torch.inference_mode():
        assert codec.compress(x, 2.5, effort=3) == data
    assert not codec.training
    for name, value in codec.state_dict().items():
        assert value.dtype == before[name].dtype
        assert torch.equal(value, before[name])
    assert all(parameter.grad is None for parameter in codec.parameters())


@pytest.mark.slow
def test_large_photos_are_searched_in_tiles(codec, photo, monkeypatch, short):
    monkeypatch.setattr(search, "TILE", 128)
    x = photo(150, 260)
    seen = []
    data = codec.compress(x, 2, effort=5, observe=seen.append)
    assert [state.iteration for state in seen] == list(range(1, 6 * 2 * 3 + 1))
    assert loss(codec, x, data) < loss(codec, x, codec.compress(x, 2))


@pytest.mark.parametrize("effort", [0, pytest.param(4, marks=pytest.mark.slow)])
def test_a_target_is_met_with_a_search_too(codec, photo, short, effort):
    x = photo(100, 130)
    target = 8 * len(codec.compress(x, 2)) / (100 * 130)
    data = codec.compress_to(x, target, effort=effort)
    assert 0.9 * target < 8 * len(data) / (100 * 130) <= target


@pytest.mark.parametrize("effort", [-1, 10, 2.5])
def test_an_effort_that_cannot_be_is_refused(codec, tiny_codec, photo, effort, monkeypatch):
    for compress in (codec.compress, codec.compress_to):
        with pytest.raises(ValueError, match="must be a whole number from 0 to 9"):
            compress(photo(64, 64), 2, effort=effort)
    assert tiny_codec.objective is None
    with pytest.raises(ValueError, match="these weights do not say for what"):
        tiny_codec.compress(photo(64, 64), 2, effort=2)
    monkeypatch.setattr(codec, "objective", Objective("mse+lpips", 0.0003, 0.006))
    for compress in (codec.compress, codec.compress_to):
        with pytest.raises(ValueError, match=r"effort is 2: .*'mse\+lpips'.*use effort 0"):
            compress(photo(64, 64), 2, effort=2)
