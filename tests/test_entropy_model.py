"""The entropy model: causality of all ten passes, hyper-latent tables, coding."""

import dataclasses

import numpy as np
import pytest
import scipy.stats
import torch
from compressai.entropy_models import EntropyBottleneck

from blurlib.entropy import EntropyConfig, LaplacianEntropyModel, Prior, SymbolDecoder
from blurlib.entropy.channel_groups import even_groups
from blurlib.entropy.coder import MAX_SYMBOL, PROBABILITY_FLOOR, SIGMA_TABLE
from blurlib.entropy.model import HyperLatent

HEIGHT, WIDTH = 6, 9
PASSES = range(10)


@pytest.fixture(scope="module", params=["anchors", "non-anchors"])
def model(request, tiny_entropy) -> LaplacianEntropyModel:
    torch.manual_seed(2)
    context = dataclasses.replace(tiny_entropy.context, keys=request.param)
    model = LaplacianEntropyModel(dataclasses.replace(tiny_entropy, context=context)).double()
    with torch.no_grad():
        for group in model.groups:  # so that what is seen also moves μ and σ across grid points
            group.parameters_[-1].weight *= 30
            group.global_.position.amplitude.fill_(2.0)
    model.hyper_latent.freeze()
    return model


def prior_of(features: int, M: int, size: tuple[int, int]) -> Prior:
    gain = torch.empty(1, M, 1, 1, dtype=torch.float64).uniform_(0.5, 2)
    return Prior(torch.randn(1, features, *size, dtype=torch.float64), gain)


def prior_and_y(seed: int = 0):
    torch.manual_seed(seed)
    return prior_of(16, 160, (HEIGHT, WIDTH)), 4 * torch.randn(
        1, 160, HEIGHT, WIDTH, dtype=torch.float64
    )


def place(index: int) -> torch.Tensor:
    """(160, H, W) bool: the symbols of a pass, written down independently of the model."""
    bounds = [0, 16, 32, 64, 128, 160]
    where = torch.zeros(160, HEIGHT, WIDTH, dtype=torch.bool)
    for c in range(bounds[index // 2], bounds[index // 2 + 1]):
        for row in range(HEIGHT):
            for column in range(WIDTH):
                where[c, row, column] = (row + column) % 2 == index % 2
    return where


def parameters(model, prior, y_hat):
    """Raw μ and log₂σ of the ten passes when ŷ is given, (positions of the pass,) each."""
    seen = []

    def code(here, gaussian):
        seen.append(tuple(p[..., here.mask].flatten() for p in gaussian))
        return y_hat[:, here.channels]

    result = model.walk(prior, code)
    assert torch.equal(result, y_hat)
    return seen


# Causality


def test_the_ten_passes_cover_every_symbol_once_in_the_right_order(model):
    visited = []

    def code(here, gaussian):
        visited.append(here)
        return gaussian.mu

    model.walk(prior_and_y()[0], code)
    assert len(visited) == 10
    for index, here in enumerate(visited):
        mine = torch.zeros(160, HEIGHT, WIDTH, dtype=torch.bool)
        mine[here.channels] = here.mask
        assert torch.equal(mine, place(index))


@torch.no_grad()
@pytest.mark.parametrize("changed", PASSES)
def test_before_snapping_parameters_never_change_with_a_later_symbol(model, changed):
    prior, y_hat = prior_and_y()
    before = parameters(model, prior, y_hat)
    after = parameters(model, prior, torch.where(place(changed), y_hat + 5, y_hat))
    for index in PASSES:
        for old, new in zip(before[index], after[index], strict=True):
            if index <= changed:
                assert torch.equal(old, new)
            elif index // 2 > changed // 2 or changed % 2 == 0:
                assert (old != new).all()  # everything decoded later has this pass in its context


@pytest.mark.parametrize("index", PASSES)
def test_the_gradient_with_respect_to_later_symbols_is_exactly_0(model, index):
    prior, y_hat = prior_and_y(1)
    y_hat.requires_grad_()
    mu, log2_sigma = parameters(model, prior, y_hat)[index]
    loss = mu @ torch.randn_like(mu) + log2_sigma @ torch.randn_like(mu)
    (gradient,) = torch.autograd.grad(loss, y_hat, allow_unused=True)
    gradient = torch.zeros_like(y_hat) if gradient is None else gradient
    for other in PASSES:
        assert gradient[0][place(other)].any() == (other < index)


@torch.no_grad()
@pytest.mark.parametrize("changed", PASSES)
def test_after_snapping_mu_and_sigma_never_change_with_a_later_symbol(model, changed):
    prior, y = prior_and_y(2)
    z = torch.zeros(1, 8, 2, 3, dtype=torch.int32)
    before = model.quantise(y, z, prior)
    after = model.quantise(torch.where(place(changed), y + 5, y), z, prior)
    later_differs = []
    for index in PASSES:
        where = place(index)
        old, new = before.passes[index], after.passes[index]
        mus = [
            latent.y_hat[0][where] - latent.passes[index].residual.flatten()
            for latent in (before, after)
        ]
        same = torch.equal(old.sigma, new.sigma) and torch.equal(*mus)
        if index <= changed:
            assert same
            assert index == changed or torch.equal(old.residual, new.residual)
        else:
            later_differs.append(not same)
    assert all(later_differs)


# Quantisation and coding


@torch.no_grad()
def test_quantised_latents_lie_on_the_grid_and_near_y(model):
    prior, y = prior_and_y(3)
    latent = model.quantise(y, torch.zeros(1, 8, 2, 3, dtype=torch.int32), prior)
    assert (latent.y_hat * 16 == (latent.y_hat * 16).round()).all()
    assert (latent.y_hat - y).abs().max() <= 0.5
    for coded in latent.passes:
        assert torch.equal(coded.residual, coded.residual.round())
        assert np.isin(coded.sigma.numpy(), SIGMA_TABLE).all()


@torch.no_grad()
def test_rounding_that_weighs_the_rate_takes_the_cheaper_of_two_integers(model, monkeypatch):
    """Against SciPy: every residual is the argmin of e² + w · (ln 2)/6 · bits over the nearest
    integer and its neighbour towards 0; with some w both happen."""
    weight = 2.0
    monkeypatch.setattr(model, "rate_weight", weight)
    prior, y = prior_and_y(3)
    z = torch.zeros(1, 8, 2, 3, dtype=torch.int32)
    latent = model.quantise(y, z, prior)
    moved = []
    for here, residual, sigma in latent.passes:
        mu = latent.y_hat[:, here.channels][..., here.mask] - residual
        exact, r, sigma = (
            t.numpy() for t in (y[:, here.channels][..., here.mask] - mu, residual, sigma)
        )
        nearest = np.rint(exact)
        both = np.stack([nearest, nearest - np.sign(nearest)])
        mass = scipy.stats.norm.cdf((0.5 - np.abs(both)) / sigma)
        mass -= scipy.stats.norm.cdf((-0.5 - np.abs(both)) / sigma)
        bits = -np.log2(np.maximum(mass, PROBABILITY_FLOOR))
        cost = (exact - both) ** 2 + weight * np.log(2) / 6 * bits
        np.testing.assert_array_equal(r, np.where(cost[1] < cost[0], both[1], both[0]))
        moved.append((r != nearest)[nearest != 0])
    assert 0 < np.concatenate(moved, axis=None).mean() < 1
    decoded = model.decode(SymbolDecoder(model.encode_y(latent)), z, prior)
    assert torch.equal(decoded.y_hat, latent.y_hat)


@torch.no_grad()
def test_latents_out_of_range_are_clamped_and_still_decode(model):
    prior, y = prior_and_y(4)
    y = y * 1000
    z = torch.zeros(1, 8, 2, 3, dtype=torch.int32)
    latent = model.quantise(y, z, prior)
    assert max(coded.residual.abs().max() for coded in latent.passes) == MAX_SYMBOL
    decoded = model.decode(SymbolDecoder(model.encode_y(latent)), z, prior)
    assert torch.equal(decoded.y_hat, latent.y_hat)


@torch.no_grad()
@pytest.mark.parametrize("size", [(1, 1), (4, 4), (5, 13)])
def test_decode_repeats_quantise(model, size):
    torch.manual_seed(5)
    prior = prior_of(16, 160, size)
    y = 4 * torch.randn(1, 160, *size, dtype=torch.float64)
    z = torch.minimum(
        torch.randint(0, 30, (1, 8, 2, 5)).int(), model.hyper_latent.length.view(1, -1, 1, 1) - 1
    )
    latent = model.quantise(y, z, prior)
    z_symbols = model.decode_z(SymbolDecoder(model.encode_z(latent)), 2, 5)
    assert torch.equal(z_symbols, z)
    decoded = model.decode(SymbolDecoder(model.encode_y(latent)), z_symbols, prior)
    assert torch.equal(decoded.y_hat, latent.y_hat)
    assert torch.equal(decoded.bits_y, latent.bits_y)
    assert torch.equal(decoded.bits_z, latent.bits_z)
    for ours, theirs in zip(decoded.passes, latent.passes, strict=True):
        assert torch.equal(ours.residual, theirs.residual)
        assert torch.equal(ours.sigma, theirs.sigma)


@torch.no_grad()
def test_bits_of_a_batch_are_those_of_its_images(model):
    (first, y_first), (second, y_second) = prior_and_y(6), prior_and_y(7)
    prior = Prior(*(torch.cat(pair) for pair in zip(first, second, strict=True)))
    y = torch.cat([y_first, y_second])
    z = torch.randint(0, 3, (2, 8, 2, 3)).int()
    together = model.quantise(y, z, prior)
    for i in range(2):
        own = Prior(*(part[i : i + 1] for part in prior))
        alone = model.quantise(y[i : i + 1], z[i : i + 1], own)
        assert torch.equal(alone.y_hat[0], together.y_hat[i])
        torch.testing.assert_close(alone.bits_y[0], together.bits_y[i])
        torch.testing.assert_close(alone.bits_z[0], together.bits_z[i])


def test_other_groupings_work():
    config = EntropyConfig(M=12, N=4, groups=even_groups(12, 3))
    model = LaplacianEntropyModel(config).double()
    model.hyper_latent.freeze()
    prior = prior_of(128, 12, (4, 4))
    y = torch.randn(1, 12, 4, 4, dtype=torch.float64)
    latent = model.quantise(y, torch.zeros(1, 4, 1, 1, dtype=torch.int32), prior)
    assert len(latent.passes) == 6
    assert (latent.y_hat - y).abs().max() <= 0.5


# Training


def test_training_rounds_straight_through_and_every_parameter_learns(model):
    prior, y = prior_and_y(8)
    y.requires_grad_()
    model.zero_grad()
    latent = model.train_latent(y, torch.zeros(1, dtype=torch.float64), prior)
    assert (latent.y_hat - y).abs().max() <= 0.5
    (latent.bits_y.sum() + latent.y_hat.square().sum()).backward()
    assert torch.isfinite(y.grad).all()
    assert y.grad.abs().sum((0, 2, 3)).all()
    for name, parameter in model.groups.named_parameters():
        assert torch.isfinite(parameter.grad).all(), name
        assert parameter.grad.any(), name


@torch.no_grad()
def test_a_gain_scales_mu_and_sigma_of_its_channels(model):
    # Twice the gain on twice the latent: the context networks see the same, so μ and σ double.
    prior, y_hat = prior_and_y(10)
    doubled = Prior(prior.features, 2 * prior.gain)
    once, twice = parameters(model, prior, y_hat), parameters(model, doubled, 2 * y_hat)
    for (mu, log2_sigma), (mu_2, log2_sigma_2) in zip(once, twice, strict=True):
        torch.testing.assert_close(mu_2, 2 * mu)
        torch.testing.assert_close(log2_sigma_2, log2_sigma + 1)


def test_the_training_rate_is_close_to_the_rate_of_coding(model):
    # Noise instead of rounding: the two agree for σ well above a bin.
    prior, _ = prior_and_y(9)
    with torch.no_grad():
        wide = LaplacianEntropyModel(model.config).double()
        for group in wide.groups:
            group.parameters_[-1].bias[group.local.in_channels :] += 3
        y = 8 * torch.randn(1, 160, HEIGHT, WIDTH, dtype=torch.float64)
        wide.hyper_latent.freeze()
        trained = wide.train_latent(y, torch.zeros(1), prior).bits_y.item()
        coded = wide.quantise(y, torch.zeros(1, 8, 2, 3, dtype=torch.int32), prior).bits_y.item()
    assert trained == pytest.approx(coded, rel=0.01)


def test_below_the_smallest_scale_the_gradient_still_leads_back(model):
    log2_sigma = torch.tensor([-9.0, 0.0, 20.0], dtype=torch.float64, requires_grad=True)
    sigma = model.bounded_scale(log2_sigma)
    expected = torch.tensor([2 ** (-51 / 16), 1.0, 256.0], dtype=torch.float64)
    torch.testing.assert_close(sigma, expected)
    (-sigma.sum()).backward()  # wants larger σ: at the lower bound that must be possible
    assert (log2_sigma.grad[:2] < 0).all()


# Hyper-latent


@pytest.fixture(scope="module")
def hyper_latent() -> HyperLatent:
    """Densities of different widths and medians, frozen."""
    torch.manual_seed(4)
    hyper_latent = HyperLatent(6)
    quantiles = hyper_latent.bottleneck.quantiles
    with torch.no_grad():
        for parameter in hyper_latent.bottleneck.parameters():
            if parameter is not quantiles:
                parameter += 0.3 * torch.randn_like(parameter)
        hyper_latent.bottleneck._update_quantiles()
    hyper_latent.freeze()
    return hyper_latent


def test_tables_are_the_likelihoods_of_compressais_bottleneck(hyper_latent):
    bottleneck = hyper_latent.bottleneck
    for channel in range(6):
        n, offset = int(hyper_latent.length[channel]), int(hyper_latent.offset[channel])
        low, median, high = bottleneck.quantiles[channel, 0].tolist()
        assert median + offset <= low
        assert median + offset + n - 1 >= high
        values = torch.zeros(1, 6, 1, n)
        values[0, channel, 0] = median + offset + torch.arange(n)
        likelihood = bottleneck(values, training=False)[1][0, channel, 0].detach().numpy()
        ours = hyper_latent.probabilities()[channel]
        # Integer counts, at least 1 for each symbol: the largest give up what the tails take.
        np.testing.assert_allclose(ours[:n], likelihood, atol=(n + 2) / 65536)
        assert (ours[:n] > 0).all()
        assert not ours[n:].any()


def test_tables_are_the_differences_of_compressais_cdf(hyper_latent):
    theirs = EntropyBottleneck(6)
    theirs.load_state_dict(hyper_latent.bottleneck.state_dict())
    theirs.update(force=True)
    assert torch.equal(hyper_latent.offset, theirs.offset)
    for channel, n in enumerate(hyper_latent.length.tolist()):
        assert n == theirs.cdf_length[channel] - 2
        counts = theirs.quantized_cdf[channel, : n + 1].diff()
        assert torch.equal(hyper_latent.table[channel, :n], counts)


def test_symbols_and_values_quantise_as_compressai_does(hyper_latent):
    torch.manual_seed(0)
    medians = hyper_latent.medians.detach()
    z = medians + 3 * torch.randn(2, 6, 5, 7)
    symbols = hyper_latent.symbols(z)
    theirs = hyper_latent.bottleneck.quantize(z, "dequantize", medians)
    first = medians + hyper_latent.offset.view(1, -1, 1, 1)
    last = first + hyper_latent.length.view(1, -1, 1, 1) - 1
    inside = (theirs >= first - 1e-3) & (theirs <= last + 1e-3)
    assert inside.float().mean() > 0.5
    torch.testing.assert_close(
        hyper_latent.values(symbols), torch.minimum(torch.maximum(theirs, first), last)
    )


def test_symbols_outside_the_table_are_clamped_to_its_ends(hyper_latent):
    z = torch.tensor([-1e6, 1e6]).view(1, 1, 1, 2).expand(1, 6, 1, 2)
    symbols = hyper_latent.symbols(z)
    assert (symbols[..., 0] == 0).all()
    assert torch.equal(symbols[0, :, 0, 1], hyper_latent.length - 1)


def test_bits_are_the_entropy_of_the_normalised_table(hyper_latent):
    symbols = torch.zeros(2, 6, 1, 2, dtype=torch.int32)
    symbols[1] = 2
    p = hyper_latent.probabilities()
    p = p / p.sum(1, keepdims=True)
    expected = [-2 * np.log2(np.maximum(p[:, s], PROBABILITY_FLOOR)).sum() for s in (0, 2)]
    np.testing.assert_allclose(hyper_latent.bits(symbols).numpy(), expected)


def test_h_s_learns_from_the_values_whose_rate_is_paid(hyper_latent):
    z = torch.randn(2, 6, 3, 3, requires_grad=True)
    noise = torch.rand(z.shape) - 0.5
    z_hat, bits = hyper_latent.noisy(z, rate_weight=1.0, noise=lambda like: noise)
    torch.testing.assert_close(z_hat, z + noise)
    _, likelihood = hyper_latent.bottleneck(z + noise, training=True)
    torch.testing.assert_close(bits, -likelihood.log2().sum((1, 2, 3)))
    (gradient,) = torch.autograd.grad(z_hat.sum(), z)
    assert torch.equal(gradient, torch.ones_like(z))


def test_a_hyper_latent_that_rounds_to_a_constant_still_says_something_in_training(hyper_latent):
    z = hyper_latent.medians.detach() + 0.2 * torch.sign(torch.randn(400, 6, 8, 8))
    rounded = hyper_latent.symbols(z)
    assert (rounded == rounded[:1, :, :1, :1]).all()
    z_hat, _ = hyper_latent.noisy(z, rate_weight=1.0)
    pairs = torch.stack([z - hyper_latent.medians, z_hat - hyper_latent.medians]).flatten(1)
    heard = torch.corrcoef(pairs.detach())[0, 1].item()
    expected = 0.2 / np.sqrt(0.2**2 + 1 / 12)  # the noise's variance is 1/12
    assert heard == pytest.approx(expected, abs=0.02)


def test_tables_stay_when_the_density_moves(hyper_latent):
    before = hyper_latent.table.clone()
    with torch.no_grad():
        hyper_latent.bottleneck.biases[0].add_(1e-3)
    hyper_latent.eval().double()
    assert torch.equal(hyper_latent.table, before)
    hyper_latent.float()
    with torch.no_grad():
        hyper_latent.bottleneck.biases[0].sub_(1e-3)


def test_without_tables_coding_says_what_to_do():
    with pytest.raises(RuntimeError, match="no tables yet: call freeze"):
        HyperLatent(3).symbols(torch.zeros(1, 3, 1, 1))


def test_the_rate_weight_scales_the_gradient_at_z_and_leaves_the_densities_theirs(tiny_entropy):
    torch.manual_seed(0)
    hyper_latent = LaplacianEntropyModel(tiny_entropy).hyper_latent
    z = torch.randn(1, tiny_entropy.N, 3, 3)
    gradients = {}
    for weight in (1.0, 0.25, 0.0):
        torch.manual_seed(1)  # the same noise
        leaf = z.clone().requires_grad_()
        hyper_latent.zero_grad()
        hyper_latent.noisy(leaf, weight)[1].sum().backward()
        density = hyper_latent.bottleneck.matrices[0].grad
        gradients[weight] = (leaf.grad.clone(), density.clone())
    for weight in (0.25, 0.0):
        torch.testing.assert_close(gradients[weight][0], weight * gradients[1.0][0])
        torch.testing.assert_close(gradients[weight][1], gradients[1.0][1])
