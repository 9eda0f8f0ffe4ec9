"""Every context that can be configured: passes, parameters, what a pass knows, coding.

The hyper-latent is in `test_hyper.py`.
"""

import itertools
from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import Tensor

from blurlib.entropy import (
    ContextConfig,
    EntropyConfig,
    Hyperprior,
    LaplacianEntropyModel,
    SymbolDecoder,
    even_groups,
)
from blurlib.entropy.coder import MAX_SYMBOL, SIGMA_TABLE, uniform_noise
from experiments.entropy.positional import ENCODINGS

M, HEIGHT, WIDTH = 20, 5, 8
UNEVEN = (1, 2, 3, 5, 9)
SIZES = ContextConfig(hyper=6, channel=5, local=7, attention=8, parameters=12, heads=2, window=4)
HYPER_ONLY = replace(SIZES, channel=0, local=0, attention=0)
CHANNEL = replace(SIZES, local=0, attention=0)
LOCAL = replace(SIZES, attention=0)


def config(groups: tuple[int, ...], context: ContextConfig) -> EntropyConfig:
    return EntropyConfig(M, 4, groups, context)


VARIANTS = {
    "hyperprior": config((M,), HYPER_ONLY),
    **{f"channel-{n}": config(even_groups(M, n), CHANNEL) for n in (1, 2, 5, 10)},
    "channel-uneven": config(UNEVEN, CHANNEL),
    **{f"local-{n}": config(even_groups(M, n), LOCAL) for n in (1, 2, 5, 10)},
    "local-uneven": config(UNEVEN, LOCAL),
    "local-without-channel": config(UNEVEN, replace(LOCAL, channel=0)),
    "global-without-local": config(UNEVEN, replace(SIZES, local=0)),
    "global-1": config((M,), SIZES),
    **{f"{at}-anchors": config(UNEVEN, replace(SIZES, position=at)) for at in ENCODINGS},
    "laplacian-non-anchors": config(UNEVEN, replace(SIZES, keys="non-anchors")),
}
every_variant = pytest.mark.parametrize("variant", VARIANTS.values(), ids=VARIANTS.keys())


def model_of(variant: EntropyConfig) -> LaplacianEntropyModel:
    """In float64 and loud, so that what a pass sees also moves μ and σ across grid points."""
    torch.manual_seed(3)
    model = LaplacianEntropyModel(variant).double()
    with torch.no_grad():
        for name, parameter in model.groups.named_parameters():
            if name.endswith("parameters_.4.weight"):
                parameter *= 30
            if name.endswith("position.table"):
                parameter *= 50
    model.hyper_latent.freeze()
    return model


def prior_and_y(seed: int) -> tuple[Hyperprior, Tensor]:
    torch.manual_seed(seed)
    gain = torch.empty(1, M, 1, 1, dtype=torch.float64).uniform_(0.5, 2)
    prior = Hyperprior(torch.randn(1, 6, HEIGHT, WIDTH, dtype=torch.float64), gain)
    return prior, 4 * torch.randn(1, M, HEIGHT, WIDTH, dtype=torch.float64)


def places(variant: EntropyConfig) -> list[Tensor]:
    """(M, H, W) bool per pass, written down independently of the model."""
    context = variant.context
    usual = [{0}, {1}] if context.local or context.attention else [{0, 1}]
    result = []
    for end, size in zip(itertools.accumulate(variant.groups), variant.groups, strict=True):
        for parity in usual:
            where = torch.zeros(M, HEIGHT, WIDTH, dtype=torch.bool)
            for c in range(end - size, end):
                for row, column in itertools.product(range(HEIGHT), range(WIDTH)):
                    where[c, row, column] = (row + column) % 2 in parity
            result.append(where)
    return result


def parameters(model: LaplacianEntropyModel, prior: Hyperprior, y_hat: Tensor) -> list[Tensor]:
    """μ and log₂σ of each pass at its positions when ŷ is given, (2, C · positions)."""
    seen = []

    def code(here, gaussian):
        seen.append(torch.stack([p.flatten() for p in gaussian]))
        return here.of(y_hat)

    assert torch.equal(model.walk(prior, code), y_hat)
    return seen


@torch.no_grad()
@every_variant
def test_a_pass_depends_on_the_passes_before_it_that_its_contexts_reach(variant):
    model, (prior, y_hat), where = model_of(variant), prior_and_y(2), places(variant)
    before = parameters(model, prior, y_hat)
    assert variant.passes == len(where)
    group = [int(positions.any((1, 2)).nonzero()[0]) for positions in where]
    for changed in range(variant.passes):
        after = parameters(model, prior, torch.where(where[changed], y_hat + 5, y_hat))
        for index in range(variant.passes):
            earlier_group = group[index] > group[changed]
            anchors_of_mine = group[index] == group[changed] and index > changed
            depends = (earlier_group and variant.context.channel > 0) or anchors_of_mine
            differs = before[index] != after[index]
            if depends:
                assert differs.all()  # 5 × 8 positions: every one has a context within reach
            else:
                assert not differs.any()


@torch.no_grad()
def test_a_gain_scales_mu_and_sigma_of_its_channels():
    # Twice the gain on twice the latent: the context networks see the same, so μ and σ double.
    model, (prior, y_hat) = model_of(VARIANTS["laplacian-non-anchors"]), prior_and_y(10)
    doubled = Hyperprior(prior.features, 2 * prior.gain)
    once, twice = parameters(model, prior, y_hat), parameters(model, doubled, 2 * y_hat)
    for (mu, log2_sigma), (mu_2, log2_sigma_2) in zip(once, twice, strict=True):
        torch.testing.assert_close(mu_2, 2 * mu)
        torch.testing.assert_close(log2_sigma_2, log2_sigma + 1)


NO_Z = torch.zeros(1, 4, 1, 1, dtype=torch.int32)


@torch.no_grad()
@every_variant
@pytest.mark.parametrize(
    ("H", "W", "loudness"), [(1, 1, 1), (HEIGHT, WIDTH, 1), (HEIGHT, WIDTH, 1000)]
)
def test_every_variant_decodes_what_it_encodes(variant, H, W, loudness):
    """ŷ lies on the grid, near y or clamped where y is out of range."""
    model, (prior, y) = model_of(variant), prior_and_y(4)
    prior, y = prior._replace(features=prior.features[..., :H, :W]), loudness * y[..., :H, :W]
    latent = model.quantise(y, NO_Z, prior)
    assert torch.equal(latent.y_hat * 16, (latent.y_hat * 16).round())
    assert loudness > 1 or (latent.y_hat - y).abs().max() <= 0.5
    symbols = torch.cat([coded.residual.flatten() for coded in latent.passes])
    assert (symbols.abs().max() == MAX_SYMBOL) == (loudness > 1)
    decoded = model.decode(SymbolDecoder(model.encode_y(latent)), NO_Z, prior)
    assert torch.equal(decoded.y_hat, latent.y_hat)
    assert torch.equal(decoded.bits_y, latent.bits_y)
    for ours, theirs in zip(decoded.passes, latent.passes, strict=True):
        assert torch.equal(ours.residual, theirs.residual.round())
        assert torch.equal(ours.sigma, theirs.sigma)
        assert np.isin(ours.sigma, SIGMA_TABLE).all()
    torch.testing.assert_close(latent.bits_per_position().sum((1, 2)), latent.bits_y)
    torch.testing.assert_close(latent.bits_per_channel().sum(1), latent.bits_y)


@torch.no_grad()
def test_bits_of_a_channel_are_those_of_its_symbols():
    model, (prior, y) = model_of(VARIANTS["laplacian-anchors"]), prior_and_y(6)
    latent = model.quantise(y, NO_Z, prior)
    bits = torch.zeros(M, dtype=torch.float64)
    for coded in latent.passes:
        normal = torch.distributions.Normal(0.0, coded.sigma[0])
        mass = normal.cdf(coded.residual[0] + 0.5) - normal.cdf(coded.residual[0] - 0.5)
        for i, channel in enumerate(range(M)[coded.here.channels]):
            bits[channel] -= mass[i].clamp_min(2.0**-24).log2().sum()
    torch.testing.assert_close(latent.bits_per_channel()[0], bits, rtol=1e-6, atol=1e-6)


@every_variant
def test_every_parameter_of_every_variant_learns(variant):
    model, (prior, y) = model_of(variant), prior_and_y(5)
    bits_z = torch.zeros(1, dtype=torch.float64)
    latent = model.train_latent(y.requires_grad_(), bits_z, prior, uniform_noise)
    assert (latent.y_hat - y).abs().max() <= 0.5
    (straight_through,) = torch.autograd.grad(latent.y_hat.sum(), y, retain_graph=True)
    torch.testing.assert_close(straight_through, torch.ones_like(y))
    (latent.bits_y.sum() + latent.y_hat.square().sum()).backward()
    for name, parameter in model.groups.named_parameters():
        assert torch.isfinite(parameter.grad).all(), name
        assert parameter.grad.any(), name


@torch.no_grad()
def test_the_training_rate_is_close_to_the_rate_of_coding():
    """Noise instead of rounding: the two agree for σ well above a bin."""
    torch.manual_seed(9)
    model = LaplacianEntropyModel(VARIANTS["laplacian-anchors"]).double()
    for group in model.groups:
        group.parameters_[-1].bias[group.local.in_channels :] += 3
    prior = Hyperprior(torch.randn(1, 6, 20, 32).double(), torch.ones(1, M, 1, 1).double())
    y = 8 * torch.randn(1, M, 20, 32, dtype=torch.float64)
    model.hyper_latent.freeze()
    trained = model.train_latent(y, torch.zeros(1), prior, uniform_noise).bits_y.item()
    assert trained == pytest.approx(model.quantise(y, NO_Z, prior).bits_y.item(), rel=0.01)


def test_below_the_smallest_scale_the_gradient_still_leads_back():
    log2_sigma = torch.tensor([-9.0, 0.0, 20.0], dtype=torch.float64, requires_grad=True)
    sigma = model_of(VARIANTS["hyperprior"]).bounded_scale(log2_sigma)
    expected = torch.tensor([2 ** (-51 / 16), 1.0, 256.0], dtype=torch.float64)
    torch.testing.assert_close(sigma, expected)
    (-sigma.sum()).backward()  # wants larger σ: at the lower bound that must be possible
    assert (log2_sigma.grad[:2] < 0).all()
