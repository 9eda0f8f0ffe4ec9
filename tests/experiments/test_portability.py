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


# A batch of files


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


def test_a_photo_takes_ten_passes_and_the_hyper_pass(own_codec, files):
    runs = {"h_s": 0, "g_ep": 0}

    def count(name):
        def hook(*_):
            runs[name] += 1

        return hook

    own_codec.h_s.register_forward_hook(count("h_s"))
    for group in own_codec.entropy.groups:
        group.parameters_.register_forward_hook(count("g_ep"))
    own_codec.decompress(files[0])
    assert runs == {"h_s": 1, "g_ep": 10}


# Noise


@pytest.mark.parametrize("ulps", [1, 2**20])
def test_noise_moves_a_layer_by_so_many_units_in_the_last_place(own_codec, ulps):
    layer = own_codec.entropy.groups[0].parameters_[-1]
    features = torch.randn(2, layer.in_channels, 3, 5, dtype=torch.float64)
    generator = torch.Generator().manual_seed(0)
    exact = layer(features).detach().numpy()
    with portability.rounding_noise(own_codec, generator, ulps):
        moved = layer(features).detach().numpy()
    steps = (moved - exact) / np.spacing(np.abs(exact))
    assert (np.abs(steps) == ulps).all()
    assert 0.4 < (steps > 0).mean() < 0.6
    np.testing.assert_array_equal(layer(features).detach().numpy(), exact)


def test_noise_moves_what_positions_add_to_logits(own_codec):
    position = own_codec.entropy.groups[1].global_.position
    exact = position.bias().detach().numpy()
    with portability.rounding_noise(own_codec, torch.Generator().manual_seed(0)):
        moved = position.bias().detach().numpy()
    assert (np.abs(moved - exact) == np.spacing(np.abs(exact))).all()
    np.testing.assert_array_equal(position.bias().detach().numpy(), exact)


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


# The checksum


@torch.no_grad()
@pytest.mark.parametrize(
    "name",
    ["h_s.layers.6.bias", "entropy.groups.0.parameters_.4.bias", "entropy.groups.4.channel.2.bias"],
)
def test_one_changed_weight_is_caught(own_codec, files, name):
    weight = own_codec.get_parameter(name)
    before = weight[0].item()
    weight[0] += 1.0
    for file in files:
        with pytest.raises(BitstreamError, match=r"other symbols|do not decode"):
            own_codec.decode_latent(file)
    weight[0] = before
    own_codec.decode_latent(files[1])


@pytest.mark.parametrize("index", range(10))
def test_one_parameter_moved_by_a_grid_step_is_caught(own_codec, files, index):
    """In any pass, the last too: there nothing after it would show that something went wrong."""
    count = iter(range(10))

    def watch(code):
        def move(here, gaussian):
            if next(count) == index:
                row, column = here.mask.nonzero()[0]
                gaussian.mu[0, 0, row, column] += 1 / 16
            return code(here, gaussian)

        return move

    assert symbols_crc(own_codec.decode_streams(files[2], watch)) != files[2].symbols_crc


# What is rounded, and the bound


def test_decisions_are_what_becomes_mu_and_sigma(tiny_codec, files):
    latent, seen = portability.decided(tiny_codec, files)
    sizes = [2 * coded.residual[0].numel() for coded in latent.passes]
    for u, coded in zip(seen.split(sizes, 1), latent.passes, strict=True):
        mu, log2_sigma = (u.round() / 16).chunk(2, 1)
        y_hat = latent.y_hat[:, coded.here.channels][..., coded.here.mask]
        assert torch.equal(mu, (y_hat - coded.residual).flatten(1))
        torch.testing.assert_close(log2_sigma.exp2(), coded.sigma.flatten(1), rtol=1e-5, atol=0)
        assert log2_sigma.min() >= LOG2_SIGMA_MIN


def test_the_margin_is_the_distance_to_the_next_half():
    u = torch.tensor([0.0, 0.5, -0.5, 1.25, -3.6, 7.499])
    expected = [0.5, 0.0, 0.0, 0.25, 0.1, 0.001]
    torch.testing.assert_close(portability.margin(u), torch.tensor(expected), atol=1e-6, rtol=0)


def test_decisions_flip_as_often_as_the_bound_says_and_never_beyond_the_margin():
    rng = torch.Generator().manual_seed(0)
    u = 100 * torch.rand(2_000_000, generator=rng, dtype=torch.float64)
    other = u + 0.01 * torch.randn(u.shape, generator=rng, dtype=torch.float64)
    flipped = u.round() != other.round()
    measured = Sensitivity.between(u, other)
    assert flipped.sum().item() == pytest.approx(measured.total, rel=0.03)
    assert not flipped[portability.margin(u) > measured.largest].any()
    assert measured.near == pytest.approx(len(u) / 32, rel=0.03)
    assert measured.nearest < 1e-5
    bound = portability.failure_bound([measured, measured], decisions=5)
    assert bound == pytest.approx(5 * 0.01 * np.sqrt(2 / np.pi), rel=0.01)


# What was measured


def test_the_committed_decodes_had_no_mismatch():
    checks = json.loads((CHECKS / "portability.json").read_text())
    rows = checks["matrix"] + checks["elsewhere"]
    assert sum(row["decodes"] for row in rows) >= 1000
    for row in rows:
        assert row["mismatches"] == row["checksum_errors"] == 0
    for row in checks["elsewhere"]:
        assert row["golden_errors"] == 0
        assert row["golden"] == len(list(GOLDEN.glob("*.blur")))
    oldest = re.search(r'"torch>=([\d.]+)', (ROOT / "pyproject.toml").read_text())[1]
    assert any(row["torch"].startswith(f"{oldest}.") for row in checks["elsewhere"])
    settings = [
        {k: row[k] for k in ("threads", "batch", "channels_last", "onednn")} for row in rows[:32]
    ]
    assert all(len({s[k] for s in settings}) == 2 for k in settings[0])


def test_the_committed_noise_spares_float64_and_the_checksum_misses_nothing():
    rows = json.loads((CHECKS / "rounding-noise.json").read_text())["noise"]
    at_1_ulp = {row["precision"]: row for row in rows if row["ulps"] == 1}
    assert at_1_ulp["float64"]["decodes"] >= 1000
    assert all(r["decodes"] + r["failures_without_noise"] >= 1000 for r in at_1_ulp.values())
    assert at_1_ulp["float64"]["failures"] == 0
    assert at_1_ulp["float32"]["failures"] > 0
    assert all(row["unnoticed"] == 0 for row in rows)
    double = at_1_ulp["float64"]
    assert double["bound_768x512"] < 1e-6
    assert double["largest_delta"] < double["nearest_boundary"] / 100
    for row in rows:  # the bound is one, and not an empty one
        assert row["failures"] <= row["expected"] + 4 * np.sqrt(row["expected"]) + 1
        assert row["failures"] >= 0.3 * row["expected"] - 4 * np.sqrt(row["expected"])


def test_the_committed_decode_takes_ten_passes_and_a_tenth_of_the_time():
    checks = json.loads((CHECKS / "decode-speed.json").read_text())
    assert checks["ours"]["runs_of"] == {"h_s": 1, "g_ep": 10}
    assert checks["mbt2018"]["runs_of"] == {"h_s": 1, "g_ep": 48 * 32}
    assert checks["ours"]["symbols"] == checks["mbt2018"]["symbols"]
    assert checks["ratio_y_hat"] >= 10
