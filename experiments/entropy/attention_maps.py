"""What attention is told to look at, and what the predictions of a trained model depend on.

The first is the positional encoding as a map over offsets. The second is the effective receptive
field (Luo et al. 2016): gradients of what is predicted with respect to what it is predicted from.
"""

from __future__ import annotations

import copy
from typing import Literal, get_args

import torch
from torch import Tensor

from blurlib.codec import BlurCodec
from blurlib.codec.model import pad
from blurlib.entropy import Hyperprior
from blurlib.entropy.context import Gaussian
from blurlib.entropy.model import Pass
from blurlib.entropy.position import PositionalEncoding, window_offsets

Through = Literal["everything", "attention"]


@torch.no_grad()
def bias_by_offset(position: PositionalEncoding) -> Tensor:
    """The bias of every offset (dy, dx) of a key from its query: (1 or heads, 2w − 1, 2w − 1).

    The middle is the query itself. Offsets are all that a bias may depend on, so any query shows
    it; rotary encodings have none.
    """
    bias = position.bias()
    window = round(bias.shape[-1] ** 0.5)
    down, right = (window_offsets(window) + window - 1).unbind(-1)
    found = bias.new_zeros(len(bias), 2 * window - 1, 2 * window - 1)
    found[:, down, right] = bias
    return found


def receptive_fields(
    codec: BlurCodec,
    x: Tensor,
    quality: float,
    through: Through = "everything",
    positions: int = 16,
    radius: int = 12,
    seed: int = 0,
) -> Tensor:
    """How strongly predictions depend on the anchors of their own group, by offset.

        field[j, dy, dx]² = mean over positions p of ‖∂(μ_p, log₂ σ_p) / ∂ŷ_{p + (dy, dx)}‖²

    p are random non-anchors; μ, log₂ σ and ŷ are all channels of group j; the norm is Frobenius's,
    estimated with one random sign per output. Computed in float32.

    Args:
        codec: in eval mode.
        x: one photo (1, 3, H, W) in [0, 1].
        through: every path, or attention alone: what arrives in the values of its keys, with the
            local context held fixed.
        positions: how many random non-anchors; radius: largest |dy| and |dx|, in latent positions.

    Returns:
        (groups, 2·radius + 1, 2·radius + 1) float64, the middle is p.

    Raises:
        ValueError: a group has no checkerboard, so that nothing depends on anchors; an unknown
            `through`; "attention" where keys are at the non-anchors, which know of anchors from the
            local context alone.
    """
    if through not in get_args(Through):
        raise ValueError(
            f"through is {through!r}: it must be one of {', '.join(get_args(Through))}"
        )
    context = codec.config.entropy.context
    if not context.checkerboard:
        wrong = "no local or global context"
        raise ValueError(f"this entropy model has {wrong}: there is no field of anchors to show")
    if through == "attention" and context.keys == "non-anchors":
        raise ValueError(
            "through is 'attention' and the keys are at non-anchors: all that they know of anchors "
            "comes through the local context; choose 'everything'"
        )
    with torch.no_grad():
        q = torch.tensor([quality], dtype=torch.float64)
        latent = codec.latent_of(codec.g_a(pad(x)), q)
        z_hat = codec.entropy.hyper_latent.values(latent.z_symbols)
        features, gain = (part.float() for part in codec.hyperprior(z_hat, codec.gain(q)))
    entropy = copy.deepcopy(codec.entropy).float()
    if through == "attention":
        for local in (group.local for group in entropy.groups if group.local):
            local.register_forward_hook(lambda _, __, output: output.detach())
    probe = _Probe(latent.y_hat.float(), positions, radius, seed)
    entropy.walk(Hyperprior(features.expand(positions, -1, -1, -1), gain), probe.code)
    return torch.stack(probe.fields)


class _Probe:
    """Takes the walk over the passes and keeps a field per group; one copy of ŷ per position."""

    def __init__(self, y_hat: Tensor, positions: int, radius: int, seed: int):
        own = torch.Generator().manual_seed(seed)
        self.y_hat = y_hat.expand(positions, -1, -1, -1)
        H, W = y_hat.shape[-2:]
        self.rows = torch.randint(H, (positions,), generator=own)
        columns = torch.randint((W + 1) // 2, (positions,), generator=own)
        self.columns = (2 * columns + 1 - self.rows % 2).clamp_max(W - 1 - (W + self.rows) % 2)
        self.copies = torch.arange(positions)
        self.radius, self.own = radius, own
        self.fields: list[Tensor] = []
        self.anchors = y_hat

    def code(self, here: Pass, gaussian: Gaussian) -> Tensor:
        values = here.of(self.y_hat)
        if here.mask[0, 0]:
            self.anchors = values.clone().requires_grad_()
            return self.anchors
        index = here.mask.flatten().cumsum(0).view_as(here.mask) - 1  # of a position, in the pass
        predicted = torch.cat(gaussian, 1)[self.copies, :, index[self.rows, self.columns]]
        signs = torch.randint(2, predicted.shape, generator=self.own) * 2 - 1
        total = (predicted * signs).sum()
        (gradient,) = torch.autograd.grad(total, self.anchors, materialize_grads=True)
        squares = gradient.new_zeros(len(gradient), *here.mask.shape, dtype=torch.float64)
        squares[:, ~here.mask] = gradient.double().square().sum(1)
        self.fields.append(self._centred(squares))
        return values

    def _centred(self, squares: Tensor) -> Tensor:
        """Root of the mean over positions (P, H, W), each with its position in the middle; offsets
        outside the map do not count."""
        r = self.radius
        padded = torch.nn.functional.pad(squares, (r, r, r, r), value=torch.nan)
        span = 2 * r + 1
        moved = [
            padded[p, row : row + span, column : column + span]
            for p, row, column in zip(
                self.copies.tolist(), self.rows.tolist(), self.columns.tolist(), strict=True
            )
        ]
        return torch.stack(moved).nanmean(0).nan_to_num().sqrt()


def mean_distance(field: Tensor) -> Tensor:
    """Mean |dy| + |dx| under the weights of a map (…, 2r + 1, 2r + 1), in latent positions."""
    axis = torch.arange(field.shape[-1]) - field.shape[-1] // 2
    distance = axis.abs()[:, None] + axis.abs()
    return (field * distance).sum((-2, -1)) / field.sum((-2, -1))
