"""Every context that can be configured: passes, parameters, what a pass knows, coding.

What each pass knows is compared with CompressAI's latent codecs.
"""

import dataclasses
import itertools
import re

import pytest
import torch
from torch import Tensor, nn

from blurlib.entropy import (
    ContextConfig,
    EntropyConfig,
    Hyperprior,
    LaplacianEntropyModel,
    SymbolDecoder,
    even_groups,
)
from experiments.entropy.positional import ENCODINGS

M, HEIGHT, WIDTH = 20, 5, 8
UNEVEN = (1, 2, 3, 5, 9)
SIZES = ContextConfig(hyper=6, channel=5, local=7, attention=8, parameters=12, heads=2, window=4)
HYPER_ONLY = dataclasses.replace(SIZES, channel=0, local=0, attention=0)
CHANNEL = dataclasses.replace(SIZES, local=0, attention=0)
LOCAL = dataclasses.replace(SIZES, attention=0)


def config(groups: tuple[int, ...], context: ContextConfig) -> EntropyConfig:
    return EntropyConfig(M, 4, groups, context)


VARIANTS = {
    "hyperprior": config((M,), HYPER_ONLY),
    **{f"channel-{n}": config(even_groups(M, n), CHANNEL) for n in (1, 2, 5, 10)},
    "channel-uneven": config(UNEVEN, CHANNEL),
    **{f"local-{n}": config(even_groups(M, n), LOCAL) for n in (1, 2, 5, 10)},
    "local-uneven": config(UNEVEN, LOCAL),
    "local-without-channel": config(UNEVEN, dataclasses.replace(LOCAL, channel=0)),
    "global-without-local": config(UNEVEN, dataclasses.replace(SIZES, local=0)),
    "global-1": config((M,), SIZES),
    **{
        f"{position}-{keys}": config(
            UNEVEN, dataclasses.replace(SIZES, position=position, keys=keys)
        )
        for position in ENCODINGS
        for keys in ("anchors", "non-anchors")
    },
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
    parities = [{0}, {1}] if context.local or context.attention else [{0, 1}]
    result = []
    for end, size in zip(itertools.accumulate(variant.groups), variant.groups, strict=True):
        for parity in parities:
            where = torch.zeros(M, HEIGHT, WIDTH, dtype=torch.bool)
            for c in range(end - size, end):
                for row, column in itertools.product(range(HEIGHT), range(WIDTH)):
                    where[c, row, column] = (row + column) % 2 in parity
            result.append(where)
    return result


# What each pass knows


def parameters(model: LaplacianEntropyModel, prior: Hyperprior, y_hat: Tensor) -> list[Tensor]:
    """μ and log₂σ of each pass at its positions when ŷ is given, (2, C · positions)."""
    seen = []

    def code(here, gaussian):
        seen.append(torch.stack([p[..., here.mask].flatten() for p in gaussian]))
        return y_hat[:, here.channels]

    assert torch.equal(model.walk(prior, code), y_hat)
    return seen


@torch.no_grad()
@every_variant
def test_a_pass_depends_on_the_passes_before_it_that_its_contexts_reach(variant):
    model, (prior, y_hat), where = model_of(variant), prior_and_y(2), places(variant)
    before = parameters(model, prior, y_hat)
    per_group = variant.passes // len(variant.groups)
    for changed in range(variant.passes):
        after = parameters(model, prior, torch.where(where[changed], y_hat + 5, y_hat))
        for index in range(variant.passes):
            earlier_group = index // per_group > changed // per_group
            anchors_of_mine = index // per_group == changed // per_group and index > changed
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


# Coding and training


@torch.no_grad()
@every_variant
@pytest.mark.parametrize("size", [(1, 1), (HEIGHT, WIDTH)])
def test_every_variant_decodes_what_it_encodes(variant, size):
    model, (prior, y) = model_of(variant), prior_and_y(4)
    prior, y = (
        Hyperprior(prior.features[..., : size[0], : size[1]], prior.gain),
        y[..., : size[0], : size[1]],
    )
    z = torch.zeros(1, 4, 1, 1, dtype=torch.int32)
    latent = model.quantise(y, z, prior)
    assert (latent.y_hat - y).abs().max() <= 0.5
    decoded = model.decode(SymbolDecoder(model.encode_y(latent)), z, prior)
    assert torch.equal(decoded.y_hat, latent.y_hat)
    assert torch.equal(decoded.bits_y, latent.bits_y)
    for ours, theirs in zip(decoded.passes, latent.passes, strict=True):
        assert torch.equal(ours.residual, theirs.residual)
        assert torch.equal(ours.sigma, theirs.sigma)
    torch.testing.assert_close(latent.bits_per_position().sum((1, 2)), latent.bits_y)
    torch.testing.assert_close(latent.bits_per_channel().sum(1), latent.bits_y)


@torch.no_grad()
def test_bits_of_a_channel_are_those_of_its_symbols():
    model, (prior, y) = model_of(VARIANTS["laplacian-anchors"]), prior_and_y(6)
    latent = model.quantise(y, torch.zeros(1, 4, 1, 1, dtype=torch.int32), prior)
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
    latent = model.train_latent(y.requires_grad_(), torch.zeros(1, dtype=torch.float64), prior)
    (latent.bits_y.sum() + latent.y_hat.square().sum()).backward()
    for name, parameter in model.groups.named_parameters():
        assert torch.isfinite(parameter.grad).all(), name
        assert parameter.grad.any(), name


# CompressAI's codecs, with networks that write down what they are given


class Recorder(nn.Module):
    """A parameter network that keeps what it is given and predicts μ = 0 and σ = 0."""

    def __init__(self, group: int, seen: list[Tensor]):
        super().__init__()
        self.group, self.seen = group, seen

    def forward(self, given: Tensor) -> Tensor:
        self.seen.append(given[0] != 0)
        return given.new_zeros(1, 2 * self.group, *given.shape[-2:])


class Symbols(nn.Module):
    """A codec of symbols that codes nothing."""

    def __init__(self, network: nn.Module):
        super().__init__()
        self.network = network

    def _chunk(self, parameters: Tensor) -> tuple[Tensor, Tensor]:
        return parameters.chunk(2, 1)

    def forward(self, y: Tensor, parameters: Tensor) -> dict:
        self.network(parameters)
        return {"y_hat": y, "likelihoods": {"y": y}}


def compressai_codec(groups: tuple[int, ...], checkerboard: bool, seen: list[Tensor]) -> nn.Module:
    """Their channel groups, with their checkerboard or in one pass each, made of identities.

    What enters a parameter network is then ŷ itself, where and as far as it is known.
    """
    theirs = pytest.importorskip(
        "compressai.latent_codecs", reason="CompressAI, the reference, is not installed"
    )
    codecs: dict[str, nn.Module] = {}
    for k, group in enumerate(groups):
        network = Recorder(group, seen)
        codecs[f"y{k}"] = Symbols(network)
        if checkerboard:
            codecs[f"y{k}"] = theirs.CheckerboardLatentCodec(
                {"y": Symbols(nn.Identity())}, network, nn.Identity(), anchor_parity="even"
            )
    channel = {f"y{k}": nn.Identity() for k in range(1, len(groups))}
    return theirs.ChannelGroupsLatentCodec(codecs, channel, groups=list(groups))


def known_to_compressai(groups: tuple[int, ...], checkerboard: bool) -> list[Tensor]:
    """Per pass the (M, H, W) of symbols that are known."""
    seen: list[Tensor] = []
    codec = compressai_codec(groups, checkerboard, seen)
    side = torch.zeros(1, 0, HEIGHT, WIDTH)  # no hyperprior: ŷ is all that can be known
    codec(torch.full((1, M, HEIGHT, WIDTH), 3.0), side)
    known = []
    for i, given in enumerate(seen):
        k = i // 2 if checkerboard else i
        previous = sum(groups[:k])
        own, earlier = given.split([len(given) - previous, previous])  # they put their own first
        whole = torch.zeros(M, HEIGHT, WIDTH, dtype=torch.bool)
        whole[:previous] = earlier
        whole[previous : previous + len(own)] = own
        known.append(whole)
    return known


@pytest.mark.parametrize(
    "name", [n for n in VARIANTS if re.match("(channel|local)-(\\d|uneven)", n)]
)
def test_in_compressai_too_a_pass_knows_all_passes_before_it(name):
    """On these, as tested above, ours depend."""
    variant = VARIANTS[name]
    where = torch.stack(places(variant))
    before = where.cumsum(0) > where.long()
    known = known_to_compressai(variant.groups, variant.context.checkerboard)
    assert torch.equal(torch.stack(known), before)
