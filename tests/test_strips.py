"""Layers on strips of a map are the layers on the map."""

import pytest
import torch
from torch import nn

from blurlib.entropy import strips
from blurlib.entropy.strips import in_strips

LAYERS = {
    "5×5": (nn.Conv2d(3, 4, 5, padding=2), {"halo": 2}),
    "halves": (nn.Conv2d(3, 4, 4, stride=2, padding=1), {"halo": 1, "stride": 2}),
    "doubles": (nn.Sequential(nn.Conv2d(3, 4, 3, padding=1), nn.PixelShuffle(2)), {"halo": 1}),
    "aligned": (nn.Conv2d(3, 4, 3, padding=1), {"halo": 6, "align": 6}),
}


@pytest.mark.parametrize("size", [(70, 10), (10, 70), (72, 72)])
@pytest.mark.parametrize("name", LAYERS)
def test_strips_are_bounded_and_put_together(monkeypatch, name, size):
    layer, how = LAYERS[name]
    monkeypatch.setattr(strips, "VALUES", 400)
    x, seen = torch.rand(2, 3, *size), []

    def counted(x, none):
        assert none is None
        seen.append(x.shape[-2:])
        return layer(x)

    with torch.no_grad():
        for form in (torch.contiguous_format, torch.channels_last):
            result = in_strips(counted, x.to(memory_format=form), None, width=4, **how)
            torch.testing.assert_close(result, layer(x), rtol=0, atol=1e-6)
    assert len(seen) > 2
    assert max(rows * columns for rows, columns in seen) < size[0] * size[1]
    seen.clear()
    in_strips(counted, x, None, width=4, **how)
    assert seen == [x.shape[-2:]]  # with gradients, at once
