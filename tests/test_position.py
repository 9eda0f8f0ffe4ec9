"""The Laplacian positional encoding, against the formula written out in NumPy."""

import math

import numpy as np
import pytest
import torch

from blurlib.entropy.position import LaplacianPosition, window_offsets


@pytest.mark.parametrize(
    ("window", "amplitude", "sigma"), [(1, 1.0, 1.5), (3, 2.5, 0.7), (4, -1, 3)]
)
def test_bias_is_the_formula(window, amplitude, sigma):
    expected = np.empty((window**2, window**2))
    for query in np.ndindex(window, window):
        for key in np.ndindex(window, window):
            dy, dx = key[0] - query[0], key[1] - query[1]
            f = amplitude * math.exp(-(abs(dx) + abs(dy)) / (2 * sigma**2))
            expected[query[0] * window + query[1], key[0] * window + key[1]] = f
    position = LaplacianPosition(window, amplitude, sigma).double()
    np.testing.assert_allclose(position().detach().numpy(), expected, rtol=1e-6)


def test_offsets_point_from_the_query_to_the_key():
    offsets = window_offsets(3)
    assert offsets.shape == (9, 9, 2)
    assert offsets[0, 5].tolist() == [1, 2]  # from (0, 0) to (1, 2)
    assert torch.equal(offsets, -offsets.transpose(0, 1))


@pytest.mark.parametrize("sigma", [0.5, 1.5, 4.0])
def test_half_width_is_where_the_bias_has_halved(sigma):
    position = LaplacianPosition(2, 3.0, sigma).double()
    at_half_width = 3.0 * math.exp(-position.half_width.item() / (2 * sigma**2))
    assert at_half_width == pytest.approx(1.5, rel=1e-6)


def test_amplitude_and_sigma_learn_and_sigma_stays_positive():
    position = LaplacianPosition(4)
    optimiser = torch.optim.SGD(position.parameters(), lr=5.0)
    before = position.amplitude.item(), position.sigma.item()
    position().square().mean().backward()
    assert all(p.grad.abs() > 0 for p in position.parameters())
    optimiser.step()
    assert position.amplitude.item() != before[0]
    assert position.sigma.item() != before[1]
    with torch.no_grad():
        position.log_sigma -= 20
    assert position.sigma > 0
    assert torch.isfinite(position()).all()
