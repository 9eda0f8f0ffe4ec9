"""Bands of frequencies against stripes of known wavelength."""

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
