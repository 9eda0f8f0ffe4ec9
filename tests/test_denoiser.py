"""The conditional U-Net: what it refuses, what it starts as, and what it looks at."""

from dataclasses import replace

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from blurlib.diffusion.denoiser import Denoiser, DenoiserConfig
from stand_ins import awake, inputs

TINY = DenoiserConfig(patch=2, widths=(8, 12, 16), blocks=1, cond_channels=(0, 5, 7))


@pytest.mark.parametrize(("H", "W"), [(8, 8), (16, 40), (24, 8)])
def test_an_untrained_network_returns_base(H, W):
    z_t, t, base, pyramid = inputs(TINY, H, W)
    assert torch.equal(Denoiser(TINY)(z_t, t, base, pyramid), base)
    without = Denoiser(replace(TINY, residual_to_base=False))
    assert torch.equal(without(z_t, t, base, pyramid), torch.zeros_like(base))


def test_a_gate_per_value_lets_the_noisy_picture_through():
    z_t, t, base, pyramid = inputs(TINY, 16, 40)
    config = replace(TINY, residual_to_base=False, gated=True)
    network = Denoiser(config)
    assert not network(z_t, t, base, pyramid).any()
    # Channels of the head: of the sum first, then of the gates, patch² for each colour.
    with torch.no_grad():
        network.head.bias[3 * TINY.patch**2 :].view(3, -1)[1] = -2.0
    wanted = torch.zeros_like(z_t)
    wanted[:, 1] = -2 * z_t[:, 1]
    torch.testing.assert_close(network(z_t, t, base, pyramid), wanted, rtol=0, atol=0)


@pytest.mark.parametrize("H", [8, 16])
@pytest.mark.parametrize(("W", "told"), [(8, 0), (40, 0), (40, 3)])
def test_every_input_and_parameter_reaches_the_output(H, W, told):
    z_t, t, base, pyramid = inputs(replace(TINY, error_levels=2, told=told), H, W)
    network = awake(replace(TINY, residual_to_base=False, error_levels=2, told=told))
    everything = [z_t, t, base, *pyramid, *network.parameters()]
    for tensor in everything:
        tensor.requires_grad_()
    output = network(z_t, t, base, pyramid)
    assert output.shape == (2, 3, H, W)
    for gradient in torch.autograd.grad(output.square().sum(), everything):
        assert gradient.abs().sum() > 0


def test_pictures_of_a_batch_do_not_mix():
    z_t, t, base, pyramid = inputs(TINY, 16, 16)
    network = awake(TINY)
    together = network(z_t, t, base, pyramid)
    alone = network(z_t[1:], t[1:], base[1:], [level[1:] for level in pyramid])
    torch.testing.assert_close(together[1:], alone, rtol=0, atol=1e-4)


def saved_for_backward(network, given):
    """Bytes that a training step keeps for the way back, and its gradients."""
    saved = {}

    def pack(tensor):
        saved[tensor.untyped_storage().data_ptr()] = tensor.untyped_storage().nbytes()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        loss = network(*given).square().sum()
    return sum(saved.values()), torch.autograd.grad(loss, list(network.parameters()))


def test_checkpointing_gives_the_same_gradients_for_less_memory():
    config = replace(TINY, blocks=2)
    network, given = awake(config), inputs(config, 64, 64)
    much, expected = saved_for_backward(network, given)
    network.checkpointing = True
    little, gradients = saved_for_backward(network, given)
    assert little < 0.4 * much
    torch.testing.assert_close(gradients, expected)


@pytest.mark.parametrize("residual_to_base", [True, False])
def test_mixed_precision_changes_little_and_keeps_the_dtype(residual_to_base):
    config = replace(TINY, residual_to_base=residual_to_base)
    network, given = awake(config), inputs(config, 32, 32)
    reference = network(*given)
    with torch.autocast("cpu", torch.bfloat16):
        output = network(*given)
    assert output.dtype == torch.float32
    assert not torch.equal(output, reference)
    difference = (output - reference).square().mean().sqrt()
    assert difference < 0.05 * reference.std()


def test_the_small_size_is_small():
    """Under 16,000 multiply-accumulates per pixel and 2.5 million weights."""
    config = DenoiserConfig.small()
    network = Denoiser(config)
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        network(*inputs(config, 64, 128, B=1))
    assert counter.get_total_flops() / 2 / (64 * 128) < 16_000
    assert sum(parameter.numel() for parameter in network.parameters()) < 2_500_000


def test_the_paper_size_is_the_same_class():
    config = DenoiserConfig.paper()
    assert config.widths == tuple(64 * i for i in range(1, 7))
    z_t, t, base, pyramid = inputs(config, 32, 64, B=1)
    assert [level.shape[-1] for level in pyramid] == [32, 16, 8, 4]  # as the main decoder has them
    assert awake(config)(z_t, t, base, pyramid).isfinite().all()


@pytest.mark.parametrize(
    ("change", "named"),
    [
        ({"patch": 0}, "patch .* 0"),
        ({"widths": ()}, r"widths .* \(\)"),
        ({"widths": (8, 0, 8)}, r"widths .* \(8, 0, 8\)"),
        ({"cond_channels": (1, 2, 3, 4)}, r"at most 3 .* \(1, 2, 3, 4\)"),
        ({"cond_channels": (-1,)}, r"cond_channels .* \(-1,\)"),
        ({"told": 7}, "told must be 0, or above 0 with error_levels .* 7"),
        ({"told": 7, "error_levels": 2, "cond_channels": ()}, "told .* 7"),
        ({"told": -1, "error_levels": 2}, "told .* -1"),
    ],
)
def test_configurations_that_cannot_be_are_refused(change, named):
    with pytest.raises(ValueError, match=named):
        replace(TINY, **change)


@pytest.mark.parametrize(("H", "W"), [(12, 8), (8, 20), (7, 7), (0, 8)])
def test_sizes_that_do_not_divide_are_refused(H, W):
    with pytest.raises(ValueError, match=f"multiples of 8, got {H}×{W}"):
        Denoiser(TINY)(*inputs(TINY, H, W))


def test_wrong_conditioning_is_refused():
    network = Denoiser(TINY)
    z_t, t, base, pyramid = inputs(TINY, 16, 16)
    for wrong in (pyramid[:1], pyramid[::-1], [*pyramid, pyramid[0]]):
        with pytest.raises(ValueError, match=r"\(2, 5, 4, 4\), \(2, 7, 2, 2\)"):
            network(z_t, t, base, wrong)
    with pytest.raises(ValueError, match=r"\(2, 3, 16, 16\)"):
        network(z_t, t, base[:1], pyramid)
