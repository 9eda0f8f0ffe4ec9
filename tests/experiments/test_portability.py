"""Rounding errors: what they may do, what they may not, and the checksum that tells."""

import json
import re
from pathlib import Path

import numpy as np
import pytest
import torch

from blurlib.codec import zoo
from blurlib.codec.bitstream import BitstreamError, BlurFile
from blurlib.codec.model import symbols_crc
from blurlib.entropy import DecodingError, SymbolDecoder, SymbolEncoder
from blurlib.entropy.coder import LOG2_SIGMA_MIN, MAX_SYMBOL, SIGMA_TABLE
from experiments.portability import bound as portability
from experiments.portability.bound import Sensitivity

ROOT = Path(__file__).parents[2]
CHECKS, GOLDEN = ROOT / "results" / "checks", ROOT / "tests" / "golden"


@pytest.fixture(scope="module")
def files(tiny_codec, photo) -> list[BlurFile]:
    """Three photos of one latent size at three qualities."""
    sizes = [(64, 128), (50, 70), (33, 128)]
    return [
        BlurFile.from_bytes(tiny_codec.compress(photo(*size), quality))
        for size, quality in zip(sizes, (1, 2.25, 3), strict=True)
    ]


@pytest.fixture
def own_codec(tiny_codec_path):
    """A codec that a test may change."""
    return zoo.load(tiny_codec_path)


def test_a_batch_of_files_decodes_as_each_alone(tiny_codec, files):
    together, _ = portability.decided(tiny_codec, files)
    for i, file in enumerate(files):
        alone = tiny_codec.decode_latent(file)
        assert torch.equal(alone.y_hat[0], together.y_hat[i])
        assert torch.equal(alone.z_symbols[0], together.z_symbols[i])


def test_an_impossible_stream_harms_only_itself():
    rng = np.random.default_rng(5)
    sigma = rng.choice(SIGMA_TABLE, 4000)
    residuals = [np.rint(rng.normal(0, sigma)).clip(-MAX_SYMBOL, MAX_SYMBOL) for _ in range(3)]
    streams = []
    for residual in residuals:
        encoder = SymbolEncoder()
        encoder.gaussian(residual, sigma)
        streams.append(encoder.to_bytes())
    streams[1] = b"\xff" * len(streams[1])  # the largest number there is: beyond every model
    with pytest.raises(DecodingError):
        SymbolDecoder(streams[1]).gaussian(sigma)
    decoder = portability.BatchDecoder(streams)
    halves = [decoder.gaussian(np.tile(half, 3)).reshape(3, -1) for half in np.split(sigma, 2)]
    first, impossible, third = np.concatenate(halves, 1)
    assert np.array_equal(first, residuals[0])
    assert np.array_equal(third, residuals[2])
    assert not impossible[2000:].any()


@pytest.mark.parametrize("ulps", [1, 2**20])
def test_noise_moves_a_layer_by_so_many_units_in_the_last_place(own_codec, ulps):
    layer = own_codec.entropy.groups[0].parameters_[-1]
    position = own_codec.entropy.groups[1].global_.position  # what is added to logits, too
    features = torch.randn(2, layer.in_channels, 3, 5, dtype=torch.float64)

    def results():
        return [x.detach().numpy() for x in (layer(features), position.bias())]

    exact = results()
    with portability.rounding_noise(own_codec, torch.Generator().manual_seed(0), ulps):
        moved = results()
    for before, noisy, after in zip(exact, moved, results(), strict=True):
        steps = (noisy - before) / np.spacing(np.abs(before))
        assert (np.abs(steps) == ulps).all()
        assert 0.3 < (steps > 0).mean() < 0.7
        np.testing.assert_array_equal(after, before)


def test_noise_of_1_ulp_changes_no_symbol_and_loud_noise_is_caught(own_codec, files):
    generator = torch.Generator().manual_seed(0)
    before = [own_codec.decode_latent(file).y_hat for file in files]
    with portability.rounding_noise(own_codec, generator):
        for file, y_hat in zip(files, before, strict=True):
            assert torch.equal(own_codec.decode_latent(file).y_hat, y_hat)
    with portability.rounding_noise(own_codec, generator, ulps=2**45):
        for file in files:
            with pytest.raises(BitstreamError, match=r"other symbols|do not decode"):
                own_codec.decode_latent(file)


@pytest.mark.parametrize("index", range(10))
def test_one_parameter_moved_by_a_grid_step_is_caught(own_codec, files, index):
    """In any pass, the last too: there nothing after it would show that something went wrong."""
    count = iter(range(10))

    def watch(code):
        def move(here, gaussian):
            if next(count) == index:
                gaussian.mu[0, 0, 0] += 1 / 16
            return code(here, gaussian)

        return move

    file, latent = files[2], own_codec.decode_streams(files[2], watch)
    assert symbols_crc(latent, (file.height, file.width), file.quality) != file.symbols_crc


def test_decisions_are_what_becomes_mu_and_sigma(tiny_codec, files):
    latent, seen = portability.decided(tiny_codec, files)
    sizes = [2 * coded.residual[0].numel() for coded in latent.passes]
    for u, coded in zip(seen.split(sizes, 1), latent.passes, strict=True):
        mu, log2_sigma = (u.round() / 16).chunk(2, 1)
        y_hat = latent.y_hat[:, coded.here.channels][..., coded.here.mask]
        assert torch.equal(mu, (y_hat - coded.residual).flatten(1))
        torch.testing.assert_close(log2_sigma.exp2(), coded.sigma.flatten(1), rtol=1e-5, atol=0)
        assert log2_sigma.min() >= LOG2_SIGMA_MIN


def test_decisions_flip_as_often_as_the_bound_says_and_never_beyond_the_margin():
    rng = torch.Generator().manual_seed(0)
    u = 100 * torch.rand(2_000_000, generator=rng, dtype=torch.float64)
    other = u + 0.01 * torch.randn(u.shape, generator=rng, dtype=torch.float64)
    flipped = u.round() != other.round()
    few = torch.tensor([0.0, 0.5, -0.5, 1.25, -3.6, 7.499])
    expected = torch.tensor([0.5, 0.0, 0.0, 0.25, 0.1, 0.001])  # to the next half
    torch.testing.assert_close(portability.margin(few), expected, atol=1e-6, rtol=0)
    measured = Sensitivity.between(u, other)
    assert flipped.sum().item() == pytest.approx(measured.total, rel=0.03)
    assert not flipped[portability.margin(u) > measured.largest].any()
    assert measured.near == pytest.approx(len(u) / 32, rel=0.03)
    assert measured.nearest < 1e-5
    bound = portability.failure_bound([measured, measured], decisions=5)
    assert bound == pytest.approx(5 * 0.01 * np.sqrt(2 / np.pi), rel=0.01)


def test_the_committed_decodes_had_no_mismatch():
    """Of every golden file, and with the oldest PyTorch that is allowed."""
    checks = json.loads((CHECKS / "portability.json").read_text())
    rows = checks["matrix"] + checks["elsewhere"]
    assert sum(row["decodes"] for row in rows) >= 1000
    assert not any(row["mismatches"] or row["checksum_errors"] for row in rows)
    for row in checks["elsewhere"]:
        assert (row["golden"], row["golden_errors"]) == (len(list(GOLDEN.glob("*.blur"))), 0)
    oldest = re.search(r'"torch>=([\d.]+)', (ROOT / "pyproject.toml").read_text())[1]
    assert any(row["torch"].startswith(f"{oldest}.") for row in checks["elsewhere"])
