"""The hyper-latent: its densities against CompressAI's, SciPy and their formula; its tables."""

import copy

import numpy as np
import pytest
import scipy.optimize
import scipy.special
import torch

from blurlib.entropy.coder import PROBABILITY_FLOOR, uniform_noise
from blurlib.entropy.hyper import COUNTS, TAIL, FactorizedDensity, HyperLatent
from conftest import make_logistic

CHANNELS = 6


def changed(density: FactorizedDensity) -> FactorizedDensity:
    """With another shape in every channel; at the start all are logistic."""
    torch.manual_seed(4)
    with torch.no_grad():
        for parameter in density.parameters():
            parameter += 0.3 * torch.randn_like(parameter)
    return density


@pytest.fixture(scope="module")
def density() -> FactorizedDensity:
    return changed(FactorizedDensity(CHANNELS))


def logits(density: FactorizedDensity, channel: int, z) -> np.ndarray:
    """f_5(… f_1(z)) of the docstring, one channel and one layer after the other, in float64."""
    h = np.atleast_1d(np.asarray(z, dtype=np.float64))[None]
    for k in range(5):
        matrix, bias = (
            parameters[k][channel].detach().numpy().astype(np.float64)
            for parameters in (density.matrices, density.biases)
        )
        h = np.log1p(np.exp(matrix)) @ h + bias
        if k < 4:
            factor = density.factors[k][channel].detach().numpy().astype(np.float64)
            h = h + np.tanh(factor) * np.tanh(h)
    return h[0]


def expected_bits(density: FactorizedDensity, channel: int, z) -> np.ndarray:
    """−log₂ of σ(b) − σ(a) = σ(b) σ(−a) (1 − e^(a − b)), where a and b are logits."""
    a, b = logits(density, channel, z - 0.5), logits(density, channel, z + 0.5)
    factors = scipy.special.log_expit(b), scipy.special.log_expit(-a), np.log(-np.expm1(a - b))
    return -sum(factors) / np.log(2)


def compressais(density: FactorizedDensity):
    """Their bottleneck, with our parameters."""
    models = pytest.importorskip(
        "compressai.entropy_models", reason="CompressAI, the reference, is not installed"
    )
    theirs = models.EntropyBottleneck(len(density.biases[0]))
    theirs.load_state_dict({**theirs.state_dict(), **density.state_dict()})  # refuses other names
    return theirs


@torch.no_grad()
def test_likelihoods_are_those_of_compressais_bottleneck(density):
    theirs = compressais(density).double()  # their difference has an error of 1e-7 in float32
    integers = torch.randint(-40, 40, (2, CHANNELS, 5, 7)).double()
    for fraction in (0.0, 0.25, 0.7):
        theirs.quantiles[:, 0, 1] = fraction  # they round z to whole numbers from there
        z, likelihood = theirs(integers + fraction, training=False)
        torch.testing.assert_close(z, integers + fraction)
        assert likelihood.max() > 0.03  # not all of them are in the tails
        # 1e-9 is their floor.
        for ours, tolerance in ((copy.deepcopy(density).double(), 1e-9), (density, 3e-7)):
            bits = ours.bits(z.to(ours.biases[0]))
            torch.testing.assert_close(
                torch.exp2(-bits).double(), likelihood, rtol=0, atol=tolerance
            )


@torch.no_grad()
@pytest.mark.parametrize("probability", [TAIL, 0.1, 0.5, 0.9, 1 - TAIL])
def test_quantiles_are_those_that_scipy_finds(density, probability):
    wanted = scipy.special.logit(probability)
    found = copy.deepcopy(density).double().quantile(probability)
    for channel in range(CHANNELS):
        root = scipy.optimize.brentq(
            lambda z, channel=channel: logits(density, channel, z)[0] - wanted, -1e4, 1e4
        )
        assert found[channel].item() == pytest.approx(root, abs=1e-8)


@pytest.mark.parametrize("size", [30.0, 1e2, 1e3, 1e4])
@pytest.mark.parametrize("sign", [-1, 1])
def test_far_in_the_tails_bits_are_right_and_lead_back(density, size, sign):
    """There σ(b) − σ(a) is 0 in float32, and their floor of 1e-9 has no gradient."""
    z = torch.full((1, CHANNELS, 1, 3), sign * size) + torch.tensor([-0.3, 0.0, 0.4])
    z.requires_grad_()
    density.zero_grad()
    bits = density.bits(z)
    for channel in range(CHANNELS):
        values = z[0, channel, 0].detach().numpy().astype(np.float64)
        expected = expected_bits(density, channel, values)
        np.testing.assert_allclose(bits[0, channel, 0].detach(), expected, rtol=1e-4)
    bits.sum().backward()
    assert (sign * z.grad > 0).all()
    for name, parameter in density.named_parameters():
        assert torch.isfinite(parameter.grad).all(), name


@pytest.fixture(scope="module")
def hyper_latent() -> HyperLatent:
    """Densities of different widths and medians, frozen."""
    hyper_latent = HyperLatent(CHANNELS)
    changed(hyper_latent.density)
    hyper_latent.freeze()
    return hyper_latent


def test_tables_are_the_probabilities_of_their_bins(hyper_latent):
    """Rounded to counts, and at least 1."""
    for channel, n in enumerate(hyper_latent.length.tolist()):
        symbols = np.arange(n) + hyper_latent.offset[channel].item()
        values = symbols + hyper_latent.median[channel].item()
        p = np.exp2(-expected_bits(hyper_latent.density, channel, values))
        counts = hyper_latent.table[channel].numpy()
        assert (counts[:n] >= 1).all()
        assert not counts[n:].any()
        rare = COUNTS * p < 1
        assert (counts[:n][rare] == 1).all()
        np.testing.assert_allclose(counts[:n][~rare], COUNTS * p[~rare], rtol=0, atol=0.5 + 1e-6)
        np.testing.assert_array_equal(hyper_latent.probabilities()[channel], counts / COUNTS)


def test_tables_reach_from_one_tail_to_the_other_and_no_further(hyper_latent):
    for channel, n in enumerate(hyper_latent.length.tolist()):
        median, offset = hyper_latent.median[channel].item(), hyper_latent.offset[channel].item()
        below, above = median + offset, median + offset + n - 1
        outside = scipy.special.expit(
            [logits(hyper_latent.density, channel, z)[0] for z in (below, below + 1)]
            + [-logits(hyper_latent.density, channel, z)[0] for z in (above, above - 1)]
        )
        assert (outside[[0, 2]] <= TAIL).all()
        assert (outside[[1, 3]] > TAIL).all()
        assert logits(hyper_latent.density, channel, median)[0] == pytest.approx(0, abs=1e-5)
        assert offset < 0 < offset + n - 1


def test_a_channel_that_is_narrower_than_a_bin_keeps_the_symbol_of_its_median():
    hyper_latent = HyperLatent(2)
    make_logistic(hyper_latent, torch.tensor([0.3, -5.0]), torch.tensor([1e-3, 1e-3]))
    hyper_latent.freeze()
    torch.testing.assert_close(hyper_latent.median, torch.tensor([0.3, -5.0]))
    for table, offset in zip(hyper_latent.table, hyper_latent.offset, strict=True):
        assert table[-offset] == COUNTS
        assert table.sum() - COUNTS == len(table) - 1
    assert (
        hyper_latent.symbols(hyper_latent.medians) == -hyper_latent.offset.view(1, 2, 1, 1)
    ).all()


def test_symbols_and_values_quantise_as_compressai_does(hyper_latent):
    torch.manual_seed(0)
    medians = hyper_latent.medians
    z = medians + 3 * torch.randn(2, CHANNELS, 5, 7)
    symbols = hyper_latent.symbols(z)
    theirs = compressais(hyper_latent.density).quantize(z, "dequantize", medians)
    first = medians + hyper_latent.offset.view(1, -1, 1, 1)
    last = first + hyper_latent.length.view(1, -1, 1, 1) - 1
    inside = (theirs >= first - 1e-3) & (theirs <= last + 1e-3)
    assert inside.float().mean() > 0.5
    torch.testing.assert_close(
        hyper_latent.values(symbols), torch.minimum(torch.maximum(theirs, first), last)
    )


def test_bits_are_the_entropy_of_the_normalised_table(hyper_latent):
    symbols = torch.zeros(2, CHANNELS, 1, 2, dtype=torch.int32)
    symbols[1] = 2
    p = hyper_latent.probabilities()
    p = p / p.sum(1, keepdims=True)
    expected = [-2 * np.log2(np.maximum(p[:, s], PROBABILITY_FLOOR)).sum() for s in (0, 2)]
    np.testing.assert_allclose(hyper_latent.bits(symbols).numpy(), expected)


def test_h_s_learns_from_the_values_whose_rate_is_paid(hyper_latent):
    z = torch.randn(2, CHANNELS, 3, 3, requires_grad=True)
    noise = torch.rand(z.shape) - 0.5
    z_hat, bits = hyper_latent.noisy(z, rate_weight=1.0, noise=lambda like: noise)
    torch.testing.assert_close(z_hat, z + noise)
    noisy = (z + noise).detach().numpy().astype(np.float64)
    expected = sum(
        expected_bits(hyper_latent.density, channel, noisy[:, channel].ravel())
        .reshape(2, -1)
        .sum(1)
        for channel in range(CHANNELS)
    )
    np.testing.assert_allclose(bits.detach(), expected, rtol=1e-5)
    (gradient,) = torch.autograd.grad(z_hat.sum(), z)
    assert torch.equal(gradient, torch.ones_like(z))


def test_without_tables_coding_says_what_to_do():
    with pytest.raises(RuntimeError, match="no tables yet: call freeze"):
        HyperLatent(3).symbols(torch.zeros(1, 3, 1, 1))


def test_the_rate_weight_scales_the_gradient_at_z_and_leaves_the_densities_theirs():
    torch.manual_seed(0)
    hyper_latent, z = HyperLatent(CHANNELS), torch.randn(1, CHANNELS, 3, 3)
    gradients = {}
    for weight in (1.0, 0.25, 0.0):
        torch.manual_seed(1)  # the same noise
        leaf = z.clone().requires_grad_()
        hyper_latent.zero_grad()
        hyper_latent.noisy(leaf, weight, uniform_noise)[1].sum().backward()
        matrix = hyper_latent.density.matrices[0].grad
        gradients[weight] = (leaf.grad.clone(), matrix.clone())
    for weight in (0.25, 0.0):
        torch.testing.assert_close(gradients[weight][0], weight * gradients[1.0][0])
        torch.testing.assert_close(gradients[weight][1], gradients[1.0][1])
