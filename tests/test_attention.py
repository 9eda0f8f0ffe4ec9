"""Masked window attention, against PyTorch's attention between all positions."""

import math

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from blurlib.entropy.attention import TransformerBlock, WindowAttention
from blurlib.entropy.checkerboard import anchor_mask
from blurlib.entropy.position import LaplacianPosition, PositionalEncoding
from experiments.entropy.positional import ENCODINGS


def reference(layer: WindowAttention, x: Tensor, admissible: Tensor, position) -> Tensor:
    """The same attention without windows: of all positions, those of other windows masked."""
    B, H, W, C = x.shape
    at = torch.cartesian_prod(torch.arange(H), torch.arange(W))
    window = (at + layer.shift) // layer.window
    seen = (window[:, None] == window).all(2) & admissible.flatten()
    distance = (at[:, None] - at).abs().sum(2)
    bias = position.amplitude * torch.exp(-distance / (2 * position.sigma.double() ** 2))
    q, k, v = layer.qkv(x).view(B, H * W, 3, layer.heads, -1).permute(2, 0, 3, 1, 4)
    mask = bias.masked_fill(~seen, -math.inf)
    found = F.scaled_dot_product_attention(q, k, v, mask).nan_to_num(0)  # 0: without any key
    return layer.out(found.transpose(1, 2).reshape(B, H, W, C))


def layer_and_position(window: int, shift: int) -> tuple[WindowAttention, LaplacianPosition]:
    torch.manual_seed(3)
    layer = WindowAttention(6, 2, window, shift).double()
    return layer, LaplacianPosition(window, amplitude=2.0, sigma=0.9).double()


@pytest.mark.parametrize("shape", [(8, 8), (5, 11), (1, 1)])
@pytest.mark.parametrize(("window", "shift"), [(4, 0), (4, 2), (3, 1)])
@pytest.mark.parametrize("keys", ["all", "anchors", "non-anchors", "some"])
def test_attention_is_pytorchs_with_the_other_windows_masked(shape, window, shift, keys):
    layer, position = layer_and_position(window, shift)
    x = torch.randn(2, *shape, 6, dtype=torch.float64)
    admissible = {
        "all": torch.ones(shape, dtype=torch.bool),
        "anchors": anchor_mask(*shape),
        "non-anchors": ~anchor_mask(*shape),
        "some": torch.rand(shape) < 0.1,
    }[keys]
    expected = reference(layer, x, admissible, position)
    for wanted in (None, ~admissible, torch.rand(shape) < 0.3):
        found = layer(x, admissible, position, wanted)
        where = slice(None) if wanted is None else wanted
        torch.testing.assert_close(found[:, where], expected[:, where], rtol=1e-10, atol=1e-12)


@torch.no_grad()
@pytest.mark.parametrize("encoding", ENCODINGS)
def test_an_encoding_has_its_say(encoding):
    """What it adds or turns is compared with formulas in `test_position.py`."""
    torch.manual_seed(4)
    layer = WindowAttention(8, 2, 4, 2)
    x, admissible = torch.randn(2, 5, 11, 8), anchor_mask(5, 11)
    plain = layer(x, admissible, PositionalEncoding(4))
    same = torch.equal(layer(x, admissible, ENCODINGS[encoding](4, 2, 4)), plain)
    assert same == (encoding == "none")


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


def test_a_block_is_two_residual_branches():
    torch.manual_seed(0)
    block = TransformerBlock(6, 2, 4, 2).double()
    position = LaplacianPosition(4).double()
    x = torch.randn(1, 5, 6, 6, dtype=torch.float64)
    admissible = anchor_mask(5, 6)
    attended = x + reference(block.attention, block.norm_attention(x), admissible, position)
    expected = attended + block.mlp(attended)
    torch.testing.assert_close(block(x, admissible, position), expected)
    some = block(x, admissible, position, ~admissible)[:, ~admissible]
    torch.testing.assert_close(some, expected[:, ~admissible])
