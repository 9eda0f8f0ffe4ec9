"""Checkerboard parity and convolution, against CompressAI's."""

import pytest
import torch
from torch import nn

from blurlib.entropy.checkerboard import CheckerboardConv2d, anchor_mask

pytest.importorskip("compressai", reason="CompressAI, the reference, is not installed")
from compressai.latent_codecs import CheckerboardLatentCodec
from compressai.layers import CheckerboardMaskedConv2d


@pytest.mark.parametrize("size", [(4, 6), (5, 6), (1, 2), (7, 8)])
def test_anchors_are_those_of_compressai(size):
    theirs = CheckerboardLatentCodec(
        latent_codec={"y": nn.Identity()},
        entropy_parameters=nn.Identity(),
        context_prediction=nn.Identity(),
        anchor_parity="even",
    )
    anchors_only = torch.zeros(1, 1, *size)
    theirs._copy(anchors_only, torch.ones(1, 1, *size), "anchor")
    assert torch.equal(anchor_mask(*size), anchors_only[0, 0].bool())


@pytest.mark.parametrize("kernel_size", [3, 5, 7])
def test_convolution_is_that_of_compressai(kernel_size):
    torch.manual_seed(0)
    ours = CheckerboardConv2d(3, 4, kernel_size)
    theirs = CheckerboardMaskedConv2d(3, 4, kernel_size, padding=kernel_size // 2)
    theirs.load_state_dict(ours.state_dict(), strict=False)
    x = torch.randn(2, 3, 7, 10)
    assert torch.equal(ours.mask.expand_as(theirs.mask), theirs.mask)
    torch.testing.assert_close(ours(x), theirs(x))
    for part in (x.double(), x[..., :9].double(), x[..., :1, :2].double()):
        part = part * anchor_mask(*part.shape[-2:])
        with torch.no_grad():
            torch.testing.assert_close(ours.double()(part), theirs.double()(part))


def test_at_anchors_an_anchor_only_input_gives_exactly_the_bias():
    torch.manual_seed(0)
    conv = CheckerboardConv2d(3, 4)
    anchors = anchor_mask(6, 9)
    y = conv(torch.randn(2, 3, 6, 9) * anchors)
    assert torch.equal(y[..., anchors], conv.bias[None, :, None].expand(2, 4, int(anchors.sum())))
    assert (y[..., ~anchors] != conv.bias[None, :, None]).all()


@pytest.mark.parametrize("kernel_size", [-1, 1, 2, 4])
def test_other_kernels_are_refused(kernel_size):
    with pytest.raises(ValueError, match=f"kernel_size is {kernel_size}"):
        CheckerboardConv2d(1, 1, kernel_size)
