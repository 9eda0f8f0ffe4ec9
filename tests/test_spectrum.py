"""Bands of frequencies against stripes of known wavelength, and against energy by Parseval."""

import pytest
import torch

from blurlib.diffusion.dct import dct2
from experiments.diffusion.spectrum import radial_bands


@pytest.mark.parametrize("wavelength", [2.5, 3, 5, 12, 30])
@pytest.mark.parametrize("axis", ["H", "W"])
def test_stripes_are_found_in_the_band_of_their_wavelength(wavelength, axis):
    stripes = torch.cos(2 * torch.pi * torch.arange(120, dtype=torch.float64) / wavelength)
    x = stripes.expand(90, 120) if axis == "W" else stripes.expand(90, 120).T
    bands = radial_bands(*x.shape)
    power = bands.mean(dct2(x).square()) * bands.index.flatten().bincount()
    found = power.argmax()
    assert power[found] > 0.9 * power.sum()
    edges = torch.tensor([2.0, 4, 8, 16, 32])
    octave = torch.bucketize(torch.tensor(float(wavelength)), edges, right=True)
    assert len(bands.frequency) - found == octave  # counted from the finest


@pytest.mark.parametrize("size", [(1, 1), (1, 7), (16, 16), (24, 33)])
@pytest.mark.parametrize("per_octave", [1, 3])
def test_bands_part_all_frequencies_from_coarse_to_fine(size, per_octave):
    bands = radial_bands(*size, per_octave)
    count = bands.index.flatten().bincount()
    assert count.min() > 0
    assert count.sum() == size[0] * size[1]
    assert count[0] == 1
    assert bands.index[0, 0] == bands.frequency[0] == 0
    assert (bands.frequency.diff() > 0).all()
    for axis in (0, 1):
        assert torch.equal(bands.index, bands.index.sort(dim=axis).values)
    values = torch.randn(2, 3, *size)
    expected = [values[..., bands.index == band].mean(-1) for band in range(len(count))]
    torch.testing.assert_close(bands.mean(values), torch.stack(expected, -1), rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("arguments", [(0, 4), (4, 0), (4, 4, 0)])
def test_nothing_has_no_bands(arguments):
    with pytest.raises(ValueError, match="at least 1, got"):
        radial_bands(*arguments)
