"""Masked window attention, against a loop over queries and keys."""

import cmath
import math

import pytest
import torch
from torch import Tensor

from blurlib.entropy.attention import TransformerBlock, WindowAttention, merge, partition
from blurlib.entropy.checkerboard import anchor_mask
from blurlib.entropy.position import (
    ENCODINGS,
    LaplacianPosition,
    PositionalEncoding,
    positional_encoding,
)

SHAPES = [(8, 8), (5, 11), (2, 3), (1, 1), (9, 4)]


def naive_bias(
    encoding: str, position: PositionalEncoding, window: int, head: int, dy: int, dx: int
):
    """What an encoding with two heads adds for a key (dy, dx) from its query, written out."""
    if encoding == "laplacian":
        return position.amplitude * math.exp(
            -(abs(dy) + abs(dx)) / (2 * position.sigma.item() ** 2)
        )
    if encoding == "linear":
        return -(2.0 ** (-4 * (head + 1))) * (abs(dy) + abs(dx))
    if encoding == "relative":
        return position.table[head, (window - 1 - dy) * (2 * window - 1) + (window - 1 - dx)]
    if encoding == "diamond":
        reach = range(1 - window, window)
        inside = [(y, x) for y in reach for x in reach if abs(y) + abs(x) <= 3]
        return position.table[head, inside.index((dy, dx)) if (dy, dx) in inside else len(inside)]
    return 0


def naive_turn(encoding: str, x: Tensor, at: tuple[int, int]) -> Tensor:
    """A query or key of 4 channels as rotary positions turn it, by its place in the whole map."""
    if encoding != "rotary":
        return x
    turned = [complex(*x[2 * i : 2 * i + 2].tolist()) * cmath.exp(1j * at[i]) for i in range(2)]
    return torch.tensor([part for z in turned for part in (z.real, z.imag)], dtype=x.dtype)


def reference(
    layer: WindowAttention, x: Tensor, admissible: Tensor, position, encoding: str = "laplacian"
) -> Tensor:
    """The same attention, one query at a time: its window, its keys, one softmax per head."""
    _, H, W, C = x.shape
    d = C // layer.heads
    q, k, v = layer.qkv(x).split(C, dim=-1)

    def window(row: int, column: int) -> tuple[int, int]:
        return (row + layer.shift) // layer.window, (column + layer.shift) // layer.window

    result = torch.zeros_like(x)
    for b, row, column in ((b, r, c) for b in range(len(x)) for r in range(H) for c in range(W)):
        keys = [
            (r, c)
            for r in range(H)
            for c in range(W)
            if admissible[r, c] and window(r, c) == window(row, column)
        ]
        for head in range(layer.heads) if keys else ():
            part = slice(head * d, (head + 1) * d)
            query = naive_turn(encoding, q[b, row, column, part], (row, column))
            logits = torch.stack([
                query @ naive_turn(encoding, k[b, r, c, part], (r, c)) / math.sqrt(d)
                + naive_bias(encoding, position, layer.window, head, r - row, c - column)
                for r, c in keys
            ])  # fmt: skip
            values = torch.stack([v[b, r, c, part] for r, c in keys])
            result[b, row, column, part] = logits.softmax(0) @ values
    return layer.out(result)


def layer_and_position(window: int, shift: int) -> tuple[WindowAttention, LaplacianPosition]:
    torch.manual_seed(3)
    layer = WindowAttention(6, 2, window, shift).double()
    return layer, LaplacianPosition(window, amplitude=2.0, sigma=0.9).double()


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("shift", [0, 2])
@pytest.mark.parametrize("keys", ["all", "anchors", "non-anchors", "some"])
def test_attention_is_the_loop_over_queries(shape, shift, keys):
    layer, position = layer_and_position(4, shift)
    x = torch.randn(2, *shape, 6, dtype=torch.float64)
    admissible = {
        "all": torch.ones(shape, dtype=torch.bool),
        "anchors": anchor_mask(*shape),
        "non-anchors": ~anchor_mask(*shape),
        "some": torch.rand(shape) < 0.1,
    }[keys]
    expected = reference(layer, x, admissible, position)
    torch.testing.assert_close(layer(x, admissible, position), expected, rtol=1e-10, atol=1e-12)


@torch.no_grad()
@pytest.mark.parametrize("shape", [(5, 11), (2, 3), (1, 1)])
@pytest.mark.parametrize("shift", [0, 2])
@pytest.mark.parametrize("encoding", ENCODINGS)
def test_every_encoding_is_the_loop_over_queries(shape, shift, encoding):
    # Rotary by the place in the map, not in the window: only differences may count.
    torch.manual_seed(4)
    layer = WindowAttention(8, 2, 4, shift).double()
    position = positional_encoding(encoding, 4, 2, 4).double()
    for parameter in position.parameters():
        parameter.normal_()
    x = torch.randn(2, *shape, 8, dtype=torch.float64)
    admissible = anchor_mask(*shape)
    expected = reference(layer, x, admissible, position, encoding)
    tolerance = 1e-6 if encoding == "rotary" else 1e-12  # its cosines are float32 numbers
    torch.testing.assert_close(
        layer(x, admissible, position), expected, rtol=tolerance, atol=tolerance
    )


def test_odd_windows_work():
    layer, position = layer_and_position(3, 1)
    x = torch.randn(1, 7, 5, 6, dtype=torch.float64)
    admissible = anchor_mask(7, 5)
    expected = reference(layer, x, admissible, position)
    torch.testing.assert_close(layer(x, admissible, position), expected, rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize("shift", [0, 2])
def test_without_an_admissible_key_the_output_is_0_and_gradients_are_finite(shift):
    layer, position = layer_and_position(4, shift)
    x = torch.randn(1, 6, 9, 6, dtype=torch.float64, requires_grad=True)
    admissible = torch.zeros(6, 9, dtype=torch.bool)
    admissible[0, 0] = True
    rows, columns = torch.meshgrid(torch.arange(6), torch.arange(9), indexing="ij")
    sees_it = ((rows + shift) // 4 == shift // 4) & ((columns + shift) // 4 == shift // 4)
    y = layer(x, admissible, position)
    assert not y[:, ~sees_it].any()
    assert y[:, sees_it].all()
    y.square().sum().backward()
    for gradient in (x.grad, *(p.grad for p in layer.parameters())):
        assert torch.isfinite(gradient).all()


def test_with_no_key_at_all_everything_is_0_and_gradients_are_finite():
    layer, position = layer_and_position(4, 2)
    x = torch.randn(2, 5, 5, 6, dtype=torch.float64, requires_grad=True)
    y = layer(x, torch.zeros(5, 5, dtype=torch.bool), position)
    assert not y.any()
    y.sum().backward()
    assert not x.grad.any()
    for parameter in (*layer.parameters(), *position.parameters()):
        assert parameter.grad is not None
        assert torch.isfinite(parameter.grad).all()


def test_the_bias_changes_the_result_and_learns():
    layer, position = layer_and_position(4, 0)
    x = torch.randn(1, 8, 8, 6, dtype=torch.float64)
    layer(x, anchor_mask(8, 8), position).square().sum().backward()
    assert position.amplitude.grad.abs() > 0
    assert position.log_sigma.grad.abs() > 0


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize(("window", "shift"), [(4, 0), (4, 2), (3, 1), (1, 0)])
def test_merge_undoes_partition(shape, window, shift):
    x = torch.randn(2, *shape, 3)
    windows = partition(x, window, shift)
    assert windows.shape[1:] == (window**2, 3)
    assert torch.equal(merge(windows, window, shift, (2, *shape)), x)


def test_a_block_is_two_residual_branches():
    torch.manual_seed(0)
    block = TransformerBlock(6, 2, 4, 2).double()
    position = LaplacianPosition(4).double()
    x = torch.randn(1, 5, 6, 6, dtype=torch.float64)
    admissible = anchor_mask(5, 6)
    attended = x + reference(block.attention, block.norm_attention(x), admissible, position)
    expected = attended + block.mlp(attended)
    torch.testing.assert_close(block(x, admissible, position), expected)


def test_impossible_sizes_are_refused():
    with pytest.raises(ValueError, match="window is 0"):
        WindowAttention(4, 2, 0, 0)
    with pytest.raises(ValueError, match="dim is 5: it must be a multiple of heads = 2"):
        WindowAttention(5, 2, 4, 0)
