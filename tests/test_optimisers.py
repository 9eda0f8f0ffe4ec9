"""Muon: its orthogonal updates, which weights it takes, and that it goes on where it stopped."""

import copy
import io

import pytest
import torch
from torch import Tensor, nn

import stand_ins
from blurlib.codec import BlurCodec
from blurlib.diffusion import Denoiser
from blurlib.training import optimisers
from blurlib.training.config import TrainConfig
from blurlib.training.optimisers import Muon, make_optimisers, matrices, orthogonal

SHAPES = [(24, 60), (60, 24), (32, 32)]


def randoms(shapes: list[tuple[int, ...]], count: int, seed: int = 0) -> list[list[Tensor]]:
    drawn = torch.Generator().manual_seed(seed)
    return [[torch.randn(shape, generator=drawn) for shape in shapes] for _ in range(count)]


def steps(optimiser: torch.optim.Optimizer, weights: list[Tensor], gradients: list) -> None:
    """One step for each list of gradients, one for each weight."""
    for step in gradients:
        for weight, gradient in zip(weights, step, strict=True):
            weight.grad = gradient.clone()
        optimiser.step()


@pytest.mark.parametrize("shape", [*SHAPES, (1, 20), (20, 1)])
@pytest.mark.parametrize("size", [1e-3, 1e4])
def test_an_update_has_the_singular_vectors_of_its_matrix_and_values_near_1(shape, size):
    """Against the SVD: U S Vᵀ becomes U S' Vᵀ. Directions that a matrix does not have stay out."""
    drawn = torch.Generator().manual_seed(0)
    count = (min(shape) + 1) // 2
    values = size * torch.linspace(1, 0.05, count, dtype=torch.float64)
    u, v = (
        torch.linalg.qr(torch.randn(side, count, generator=drawn, dtype=torch.float64)).Q
        for side in shape
    )
    found = orthogonal(u * values @ v.T, 5)
    inner = u.T @ found @ v
    assert ((inner.diag() > 0.65) & (inner.diag() < 1.25)).all()
    torch.testing.assert_close(inner, torch.diag(inner.diag()), rtol=0, atol=1e-9)
    torch.testing.assert_close(u @ inner @ v.T, found, rtol=0, atol=1e-9)  # and nothing besides
    assert not orthogonal(torch.zeros(shape), 5).any()


@pytest.mark.parametrize("momentum", [0.0, 0.95])
def test_weights_move_as_with_torchs_muon(momentum):
    theirs = getattr(torch.optim, "Muon", None)
    if theirs is None:
        pytest.skip("this PyTorch has no Muon, the reference")
    (start,), gradients = randoms(SHAPES, 1), randoms(SHAPES, 6, seed=1)
    ours, others = ([weight.clone() for weight in start] for _ in range(2))
    steps(Muon(ours, lr=0.1, momentum=momentum, iterations=5), ours, gradients)
    reference = theirs(
        others, lr=0.1, momentum=momentum, nesterov=True, weight_decay=0,
        adjust_lr_fn="match_rms_adamw",
    )  # fmt: skip
    steps(reference, others, gradients)
    for before, a, b in zip(start, ours, others, strict=True):
        moved = (b - before).norm()
        assert moved > 0.1
        assert (a - b).norm() < 0.02 * moved  # they iterate in bfloat16, with 8 bits of mantissa


def test_two_steps_of_a_convolution_are_the_formula_for_its_flattened_matrix():
    weight, gradients = torch.zeros(3, 4, 2, 2), randoms([(3, 4, 2, 2)], 2)
    still = torch.ones(2, 3)  # has no gradient
    groups = [{"params": [weight, still], "lr": 0.5}]
    steps(Muon(groups, lr=9.0, momentum=0.9, iterations=5), [weight], gradients)
    (first,), (second,) = gradients
    expected = torch.zeros(3, 16)
    for ahead in (1.9 * first, second + 0.9 * (0.9 * first + second)):
        expected -= 0.5 * 0.2 * 4 * orthogonal(ahead.view(3, 16), 5)
    torch.testing.assert_close(weight.view(3, 16), expected)
    assert still.eq(1).all()


@pytest.mark.parametrize("memory_format", [torch.contiguous_format, torch.channels_last])
def test_a_saved_optimiser_goes_on_bit_for_bit(memory_format):
    """Whatever the memory format, which it keeps and which does not change the update."""
    shapes = [(6, 5, 3, 3), (30, 7, 1, 1)]
    (plain,), gradients = randoms(shapes, 1), randoms(shapes, 6, seed=1)
    weights = [weight.to(memory_format=memory_format, copy=True) for weight in plain]
    steps(Muon(plain, momentum=0.8), plain, gradients)
    gradients = [[g.to(memory_format=memory_format) for g in step] for step in gradients]
    whole = copy.deepcopy(weights)
    steps(Muon(whole, momentum=0.8), whole, gradients)
    first = Muon(weights, momentum=0.8)
    steps(first, weights, gradients[:3])
    assert first.state[weights[0]]["momentum"].is_contiguous(memory_format=memory_format)
    buffer = io.BytesIO()
    torch.save([first.state_dict(), weights], buffer)
    buffer.seek(0)
    state, weights = torch.load(buffer, weights_only=True)
    second = Muon(weights)
    second.load_state_dict(state)
    steps(second, weights, gradients[3:])
    for a, b, c in zip(weights, whole, plain, strict=True):
        assert torch.equal(a, b)
        assert a.is_contiguous(memory_format=memory_format)
        torch.testing.assert_close(a, c, rtol=0, atol=1e-6)


@pytest.fixture
def codec() -> BlurCodec:
    return BlurCodec(stand_ins.CODEC)


def ids(parameters) -> list[int]:
    return [id(parameter) for parameter in parameters]


def taken(optimiser: torch.optim.Optimizer) -> list[int]:
    return ids(p for group in optimiser.param_groups for p in group["params"])


def test_of_a_codec_it_takes_nothing_that_works_on_each_channel_alone(codec):
    found = ids(matrices(codec))
    names = {name for name, p in codec.named_parameters() if id(p) in found}
    for part in ("spatial", "norm", "gain", "density", "bias", "position"):
        assert not [name for name in names if part in name], part
    left = {n for n, p in codec.named_parameters() if p.dim() in (2, 4)} - names
    assert {name.split(".")[-2] for name in left} <= {"spatial", "gain", "inverse_gain"}


@pytest.mark.parametrize("kind", ["codec", "denoiser", "pair"])
def test_muon_has_the_matrices_and_adam_the_rest_each_once(codec, kind):
    denoiser = Denoiser(stand_ins.DENOISER)
    module = {"codec": codec, "denoiser": denoiser, "pair": nn.ModuleList([codec, denoiser])}[kind]
    of = None if kind == "denoiser" else codec
    muon, adam = make_optimisers(module, of, TrainConfig(optimiser="muon", momentum=0.9))
    assert (type(muon), type(adam)) == (Muon, torch.optim.Adam)
    assert {group["momentum"] for group in muon.param_groups} == {0.9}
    assert set(taken(muon)) == set(ids(matrices(module)))
    assert sorted(taken(muon) + taken(adam)) == sorted(ids(module.parameters()))
    (alone,) = make_optimisers(module, of, TrainConfig(optimiser="adam"))
    assert type(alone) is torch.optim.Adam
    assert sorted(taken(alone)) == sorted(ids(module.parameters()))


def test_transforms_and_their_blocks_learn_at_their_part_of_the_rate(codec):
    config = TrainConfig(lr_transforms=0.25, lr_blocks=0.5)
    of_both = optimisers.parameter_groups(codec, codec, config)
    groups = [group for groups in of_both for group in groups]
    scales = {id(p): group["scale"] for group in groups for p in group["params"]}
    inside = {"spatial", "norm", "expand", "project"}  # of a gated block
    for name, parameter in codec.named_parameters():
        expected = 1.0
        if name.startswith(("g_a.", "main_decoder.")):
            expected = 0.5 if name.split(".")[-2] in inside else 0.25
        assert scales[id(parameter)] == expected, name
