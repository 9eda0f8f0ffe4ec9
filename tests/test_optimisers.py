"""Muon: its orthogonal updates, which weights it takes, and that it goes on where it stopped."""

import copy
import io

import pytest
import torch
from torch import Tensor, nn

from blurlib.codec import BlurCodec, CodecConfig
from blurlib.codec.transforms import TransformConfig
from blurlib.diffusion import Denoiser, DenoiserConfig
from blurlib.training.config import TrainConfig
from blurlib.training.optimisers import (
    Muon,
    make_optimisers,
    matrices,
    orthogonal,
    parameter_groups,
)

SHAPES = [(24, 60), (60, 24), (32, 32), (1, 20), (20, 1)]


def with_singular_values(values: Tensor, shape: tuple[int, int], seed: int = 0) -> Tensor:
    """A matrix in float64 with these singular values and random singular vectors."""
    drawn = torch.Generator().manual_seed(seed)
    u, v = (
        torch.linalg.qr(torch.randn(side, len(values), generator=drawn, dtype=torch.float64)).Q
        for side in shape
    )
    return u * values @ v.T


def steps(optimiser: torch.optim.Optimizer, weights: list[Tensor], gradients: list) -> None:
    """One step for each list of gradients, one for each weight."""
    for step in gradients:
        for weight, gradient in zip(weights, step, strict=True):
            weight.grad = gradient.clone()
        optimiser.step()


def randoms(shapes: list[tuple[int, ...]], count: int, seed: int = 0) -> list[list[Tensor]]:
    drawn = torch.Generator().manual_seed(seed)
    return [[torch.randn(shape, generator=drawn) for shape in shapes] for _ in range(count)]


# Orthogonal


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("size", [1e-3, 1.0, 1e4])
def test_an_update_has_the_singular_vectors_of_its_matrix_and_values_near_1(shape, size):
    """Against the SVD: U S Vᵀ becomes U S' Vᵀ, with S' the same polynomial of every value."""
    values = size * torch.linspace(1, 0.05, min(shape), dtype=torch.float64)
    matrix = with_singular_values(values, shape)
    found = orthogonal(matrix, 5)
    u, _, vh = torch.linalg.svd(matrix, full_matrices=False)
    inner = u.T @ found @ vh.T
    assert ((inner.diag() > 0.65) & (inner.diag() < 1.25)).all()
    torch.testing.assert_close(inner, torch.diag(inner.diag()), rtol=0, atol=1e-9)
    torch.testing.assert_close(u @ inner @ vh, found, rtol=0, atol=1e-9)  # and nothing besides


def test_the_update_of_a_tall_matrix_is_that_of_the_wide_one_turned():
    matrix = torch.randn(40, 12, dtype=torch.float64)
    torch.testing.assert_close(orthogonal(matrix.T, 5), orthogonal(matrix, 5).T)


def test_directions_that_a_matrix_does_not_have_stay_out():
    values = torch.tensor([3.0, 2.0, 1.0], dtype=torch.float64)
    found = torch.linalg.svdvals(orthogonal(with_singular_values(values, (20, 30)), 5))
    assert ((found[:3] > 0.65) & (found[:3] < 1.25)).all()
    assert found[3:].max() < 1e-9
    assert not orthogonal(torch.zeros(4, 6), 5).any()


# Steps


@pytest.mark.parametrize("momentum", [0.0, 0.95])
def test_weights_move_as_with_torchs_muon(momentum):
    theirs = getattr(torch.optim, "Muon", None)
    if theirs is None:
        pytest.skip("this PyTorch has no Muon, the reference")
    shapes = SHAPES[:3]
    (start,), gradients = randoms(shapes, 1), randoms(shapes, 6, seed=1)
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


def test_one_step_is_its_formula():
    weight, gradients = torch.zeros(3, 4, 2, 2), randoms([(3, 4, 2, 2)], 2)
    steps(Muon([weight], lr=0.5, momentum=0.9, iterations=5), [weight], gradients)
    (first,), (second,) = gradients
    expected = torch.zeros(3, 16)
    for ahead in (1.9 * first, second + 0.9 * (0.9 * first + second)):
        expected -= 0.5 * 0.2 * 4 * orthogonal(ahead.view(3, 16), 5)
    torch.testing.assert_close(weight.view(3, 16), expected)


def test_the_update_is_about_as_large_as_adams():
    """Whatever the shape: its root mean square is about 0.2 of the learning rate."""
    shapes = [(16, 200), (200, 16), (64, 64), (48, 8, 5, 5)]
    (weights,), gradients = randoms(shapes, 1), randoms(shapes, 1, seed=1)
    before = [weight.clone() for weight in weights]
    steps(Muon(weights, lr=0.01), weights, gradients)
    for weight, start in zip(weights, before, strict=True):
        rms = (weight - start).square().mean().sqrt()
        assert 0.65 * 0.002 < rms.item() < 1.25 * 0.002


def test_a_convolution_is_its_flattened_matrix():
    gradients = randoms([(6, 5, 3, 3)], 4)
    convolution, linear = torch.ones(6, 5, 3, 3), torch.ones(6, 45)
    steps(Muon([convolution]), [convolution], gradients)
    flat = [[gradient.view(6, 45) for gradient in step] for step in gradients]
    steps(Muon([linear]), [linear], flat)
    assert torch.equal(convolution.view(6, 45), linear)


def test_the_memory_format_does_not_change_the_update():
    shape = (6, 5, 3, 3)
    (start,), gradients = randoms([shape], 1), randoms([shape], 4, seed=1)
    plain = start[0].clone()
    last = start[0].to(memory_format=torch.channels_last, copy=True)
    steps(Muon([plain]), [plain], gradients)
    optimiser = Muon([last])
    turned = [[g.to(memory_format=torch.channels_last) for g in step] for step in gradients]
    steps(optimiser, [last], turned)
    assert last.is_contiguous(memory_format=torch.channels_last)
    assert optimiser.state[last]["momentum"].is_contiguous(memory_format=torch.channels_last)
    torch.testing.assert_close(last, plain, rtol=0, atol=1e-6)


def test_groups_have_learning_rates_of_their_own_and_what_has_no_gradient_stays():
    (weights,), gradients = randoms([(4, 6)] * 3, 1), randoms([(4, 6)], 1, seed=1)
    same = weights[0].clone()
    weights = [same.clone() for _ in range(3)]
    groups = [{"params": weights[:1], "lr": 0.1}, {"params": weights[1:], "lr": 0.2}]
    optimiser = Muon(groups)
    for weight in weights[:2]:
        weight.grad = gradients[0][0]
    optimiser.step()
    torch.testing.assert_close(weights[1] - same, 2 * (weights[0] - same))
    assert torch.equal(weights[2], same)
    assert weights[2] not in optimiser.state


@pytest.mark.parametrize("memory_format", [torch.contiguous_format, torch.channels_last])
def test_a_saved_optimiser_goes_on_bit_for_bit(memory_format):
    shapes = [(6, 5, 3, 3), (30, 7, 1, 1)]
    (start,), gradients = randoms(shapes, 1), randoms(shapes, 6, seed=1)
    weights = [weight.to(memory_format=memory_format, copy=True) for weight in start]
    gradients = [[g.to(memory_format=memory_format) for g in step] for step in gradients]
    whole = copy.deepcopy(weights)
    steps(Muon(whole, momentum=0.8), whole, gradients)
    first = Muon(weights, momentum=0.8)
    steps(first, weights, gradients[:3])
    buffer = io.BytesIO()
    torch.save([first.state_dict(), weights], buffer)
    buffer.seek(0)
    state, weights = torch.load(buffer, weights_only=True)
    second = Muon(weights)
    second.load_state_dict(state)
    steps(second, weights, gradients[3:])
    for a, b in zip(weights, whole, strict=True):
        assert torch.equal(a, b)


# What it takes


def test_it_takes_linear_layers_and_convolutions_that_mix_channels():
    module = nn.Sequential(
        nn.Conv2d(4, 6, 3),
        nn.LayerNorm(6),
        nn.Sequential(nn.Conv2d(6, 6, 5, groups=6), nn.Conv2d(6, 2, 1), nn.BatchNorm2d(2)),
        nn.Linear(2, 3),
    )
    found = {id(weight) for weight in matrices(module)}
    names = {name for name, p in module.named_parameters() if id(p) in found}
    assert names == {"0.weight", "2.1.weight", "3.weight"}


@pytest.fixture
def codec(tiny_entropy) -> BlurCodec:
    return BlurCodec(CodecConfig(tiny_entropy, TransformConfig(widths=(16, 16), blocks=(1, 1))))


def test_of_a_codec_it_takes_nothing_that_works_on_each_channel_alone(codec):
    found = [id(weight) for weight in matrices(codec)]
    assert len(found) == len(set(found))
    taken = {name for name, p in codec.named_parameters() if id(p) in found}
    parameters = dict(codec.named_parameters())
    assert all(parameters[name].dim() in (2, 4) for name in taken)
    assert all(name.endswith("weight") for name in taken)
    for part in ("spatial", "norm", "gain", "density", "bias", "position"):
        assert not [name for name in taken if part in name], part
    for part in ("g_a", "h_a", "h_s", "entropy.groups.4", "main_decoder.up", "main_decoder.head"):
        assert [name for name in taken if name.startswith(part)], part
    left = {name for name in parameters.keys() - taken if parameters[name].dim() in (2, 4)}
    assert {name.rpartition(".")[0].rpartition(".")[2] for name in left} <= {
        "spatial", "gain", "inverse_gain",
    }  # fmt: skip


def ids(parameters) -> list[int]:
    return [id(parameter) for parameter in parameters]


def taken(optimiser: torch.optim.Optimizer) -> list[int]:
    return ids(p for group in optimiser.param_groups for p in group["params"])


@pytest.mark.parametrize("kind", ["codec", "denoiser", "pair"])
def test_muon_has_the_matrices_and_adam_the_rest_each_once(codec, kind):
    sizes = DenoiserConfig(patch=4, widths=(8, 8, 8), blocks=1, cond_channels=(0, 16, 16))
    denoiser = Denoiser(sizes)
    module = {"codec": codec, "denoiser": denoiser, "pair": nn.ModuleList([codec, denoiser])}[kind]
    config = TrainConfig(optimiser="muon", momentum=0.9)
    of = None if kind == "denoiser" else codec
    muon, adam = make_optimisers(module, of, config)
    assert (type(muon), type(adam)) == (Muon, torch.optim.Adam)
    assert {group["momentum"] for group in muon.param_groups} == {0.9}
    assert set(taken(muon)) == set(ids(matrices(module)))
    assert sorted(taken(muon) + taken(adam)) == sorted(ids(module.parameters()))


def test_adam_can_have_all_of_it(codec):
    (adam,) = make_optimisers(codec, codec, TrainConfig(optimiser="adam"))
    assert type(adam) is torch.optim.Adam
    assert sorted(taken(adam)) == sorted(ids(codec.parameters()))


def test_transforms_and_their_blocks_learn_at_their_part_of_the_rate(codec):
    config = TrainConfig(lr_transforms=0.25, lr_blocks=0.5)
    groups = [group for groups in parameter_groups(codec, codec, config) for group in groups]
    scales = {id(p): group["scale"] for group in groups for p in group["params"]}
    inside = {"spatial", "norm", "expand", "project"}  # of a gated block
    for name, parameter in codec.named_parameters():
        expected = 1.0
        if name.startswith(("g_a.", "main_decoder.")):
            expected = 0.5 if name.split(".")[-2] in inside else 0.25
        assert scales[id(parameter)] == expected, name
