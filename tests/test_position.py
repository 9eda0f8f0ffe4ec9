"""Positional encodings, against their formulas written out as loops and other code."""

import cmath
import itertools
import math
from collections.abc import Callable

import numpy as np
import pytest
import torch
from torchvision.models.swin_transformer import ShiftedWindowAttention

from blurlib.entropy.position import LaplacianPosition, PositionalEncoding
from experiments.entropy import positional


def loop(window: int, f: Callable[[int, int], float]) -> np.ndarray:
    """(window², window²) of f(dy, dx), from the query to the key."""
    result = np.empty((window**2, window**2))
    for query in np.ndindex(window, window):
        for key in np.ndindex(window, window):
            value = f(key[0] - query[0], key[1] - query[1])
            result[query[0] * window + query[1], key[0] * window + key[1]] = value
    return result


def numpy_bias(position: PositionalEncoding) -> np.ndarray:
    return position.double().bias().detach().numpy()


@pytest.mark.parametrize(
    ("window", "amplitude", "sigma"), [(1, 1.0, 1.5), (3, 2.5, 0.7), (4, -1, 3)]
)
def test_laplacian_is_the_formula(window, amplitude, sigma):
    def value(dy, dx):
        return amplitude * math.exp(-(abs(dx) + abs(dy)) / (2 * sigma**2))

    bias = numpy_bias(LaplacianPosition(window, amplitude, sigma))
    np.testing.assert_allclose(bias[0], loop(window, value), rtol=1e-6)


@pytest.mark.parametrize("sigma", [0.5, 1.5, 4.0])
def test_half_width_is_where_the_bias_has_halved(sigma):
    position = LaplacianPosition(2, 3.0, sigma).double()
    at_half_width = 3.0 * math.exp(-position.half_width.item() / (2 * sigma**2))
    assert at_half_width == pytest.approx(1.5, rel=1e-6)


def slopes(n: int) -> list[float]:
    """From the repository of ALiBi's paper, for n a power of 2 and not."""
    if math.log2(n).is_integer():
        first = 2 ** (-(2 ** -(math.log2(n) - 3)))
        return [first ** (i + 1) for i in range(n)]
    below = 2 ** math.floor(math.log2(n))
    return slopes(below) + slopes(2 * below)[0::2][: n - below]


@pytest.mark.parametrize(("window", "heads"), [(1, 1), (3, 2), (2, 3), (2, 6), (4, 8), (2, 12)])
def test_linear_is_alibi_at_every_offset(window, heads):
    bias = numpy_bias(positional.LinearPosition(window, heads))
    for found, slope in zip(bias, slopes(heads), strict=True):
        expected = loop(window, lambda dy, dx, m=slope: -m * (abs(dx) + abs(dy)))
        np.testing.assert_allclose(found, expected, rtol=1e-6)


@pytest.mark.parametrize("window", [1, 2, 3, 7])
def test_relative_is_torchvisions_swin(window):
    torch.manual_seed(0)
    theirs = ShiftedWindowAttention(8, [window, window], [0, 0], num_heads=2)
    ours = positional.TablePosition(window, 2, positional.relative_index(window))
    assert torch.equal(ours.index.flatten(), theirs.relative_position_index)
    with torch.no_grad():
        ours.table.copy_(theirs.relative_position_bias_table.T)
    assert torch.equal(ours.bias(), theirs.get_relative_position_bias()[0])


@pytest.mark.parametrize(("window", "radius"), [(1, 3), (2, 1), (4, 3), (5, 2), (8, 3), (6, 0)])
def test_diamond_is_the_loop(window, radius):
    reach = range(1 - window, window)
    inside = [(y, x) for y, x in itertools.product(reach, reach) if abs(y) + abs(x) <= radius]
    torch.manual_seed(0)
    position = positional.TablePosition(window, 3, positional.diamond_index(window, radius))
    table = position.table.detach().double().numpy()
    for h in range(3):

        def value(dy: int, dx: int, row=table[h]) -> float:
            return row[inside.index((dy, dx)) if (dy, dx) in inside else len(inside)]

        np.testing.assert_array_equal(numpy_bias(position)[h], loop(window, value))


def turned(x: np.ndarray, row: int, column: int, base: float = 100.0) -> np.ndarray:
    """x as complex numbers, each turned by the angle of its axis and frequency."""
    quarter = len(x) // 4
    result = []
    for axis, at in enumerate((row, column)):
        for i in range(quarter):
            real, imaginary = x[axis * 2 * quarter + 2 * i], x[axis * 2 * quarter + 2 * i + 1]
            z = complex(real, imaginary) * cmath.exp(1j * at * base ** (-i / quarter))
            result += [z.real, z.imag]
    return np.array(result)


@pytest.mark.parametrize("head_dim", [4, 8, 16])
def test_rotary_turns_pairs_of_channels_as_complex_numbers(head_dim):
    torch.manual_seed(0)
    x = torch.randn(2, 3, 9, head_dim, dtype=torch.float64)
    rotary = positional.RotaryPosition(3, head_dim).double()
    result = rotary.rotate(x)
    for w, h, token in np.ndindex(2, 3, 9):
        expected = turned(x[w, h, token].numpy(), token // 3, token % 3)
        np.testing.assert_allclose(result[w, h, token], expected, rtol=0, atol=1e-6)
    some = torch.arange(9) % 4 == 1
    assert torch.equal(rotary.rotate(x[:, :, some], some), result[:, :, some])


@pytest.mark.parametrize("head_dim", [0, 1, 2, 6])
def test_rotary_needs_two_pairs(head_dim):
    with pytest.raises(ValueError, match=f"per head are {head_dim}: rotary .* a multiple of 4"):
        positional.RotaryPosition(4, head_dim)
