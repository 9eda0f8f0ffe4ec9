"""What `experiments.perception` says of distances over few patches."""

import pytest
import torch

from blurlib.evaluation import perception
from experiments.perception import by_count


def gaussian(n: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(n, 8, generator=torch.Generator().manual_seed(seed)).double()


def test_few_samples_make_the_frechet_distance_too_large():
    x, y = gaussian(400), gaussian(400, seed=1)
    table = by_count(x, y, [10, 40, 160, 400])
    assert table["patches"].tolist() == [10, 40, 160, 400]
    assert table["frechet"].is_monotonic_decreasing
    assert table["frechet"][0] > 10 * table["frechet"][3]
    assert table["kernel"].abs().max() < table["kernel_std"].max()
    whole = perception.distances(x, y)
    assert table["frechet"][3] == pytest.approx(whole.frechet, rel=1e-9)
    assert table["kernel"][3] == pytest.approx(whole.kernel, rel=1e-9)


def test_draws_keep_pairs_and_are_alike_at_every_call():
    x = gaussian(50)
    table = by_count(x, x + 1, [12, 30], draws=3)
    assert table.equals(by_count(x, x + 1, [12, 30], draws=3))
    assert table["frechet"].tolist() == pytest.approx([8, 8])  # a shift, in any common subset
    for count in (1, 51):
        with pytest.raises(ValueError, match=f"cannot draw {count} of 50"):
            by_count(x, x, [5, count])
