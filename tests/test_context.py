"""What a non-anchor may see, and does see, before a symbol is decoded."""

import math

import pytest
import torch
from torch import Tensor

from blurlib.entropy import ContextConfig
from blurlib.entropy.checkerboard import anchor_mask
from blurlib.entropy.context import GroupContext

GROUP, HYPER, WINDOW = 3, 4, 4
HEIGHT, WIDTH = 11, 9
Position = tuple[int, int]


def context(keys: str) -> GroupContext:
    """A small group in float64 whose positional encoding is far from its start."""
    torch.manual_seed(5)
    config = ContextConfig(HYPER, 5, 6, 6, 10, heads=2, window=WINDOW, keys=keys)
    group = GroupContext(0, GROUP, config).double()
    with torch.no_grad():
        group.global_.position.amplitude.fill_(2.0)
        group.global_.position.log_sigma.fill_(0.1)
    return group


def anchors_seen(query: Position, keys: str) -> set[Position]:
    """Which anchors reach a non-anchor, followed by hand through the layers.

    Layer by layer: `at[p]` is the set of anchors that the features at position p depend on.
    """
    positions = [(r, c) for r in range(HEIGHT) for c in range(WIDTH)]
    anchors = {p for p in positions if sum(p) % 2 == 0}
    local = {
        p: {a for a in anchors if max(abs(a[0] - p[0]), abs(a[1] - p[1])) <= 2 and p not in anchors}
        for p in positions
    }
    at = {p: {p} if p in anchors else local[p] for p in positions}
    for shift in (0, WINDOW // 2):
        window = {p: ((p[0] + shift) // WINDOW, (p[1] + shift) // WINDOW) for p in positions}
        at = {
            p: at[p].union(
                *(at[k] for k in positions if (k in anchors) == (keys == "anchors")
                  and window[k] == window[p])
            )
            for p in positions
        }  # fmt: skip
    return local[query] | at[query]


def influence(output: Tensor, source: Tensor, query: Position) -> set[Position]:
    """Positions of `source` on which a random mixture of the outputs at `query` depends."""
    at_query = output[0, :, query[0], query[1]]
    weights = torch.randn(len(at_query), dtype=torch.float64)
    (gradient,) = torch.autograd.grad(at_query @ weights, source, retain_graph=True)
    return {tuple(p) for p in gradient[0].abs().sum(0).nonzero().tolist()}


def maps(group: GroupContext, known: tuple[Tensor, ...], y: Tensor, seen: Tensor) -> list[Tensor]:
    """μ and log₂σ of a pass at every position, (1, GROUP, HEIGHT, WIDTH) each."""
    gaussian = group.gaussian(known, torch.ones(HEIGHT, WIDTH, dtype=torch.bool), (y, seen))
    return [parameter.unflatten(-1, (HEIGHT, WIDTH)) for parameter in gaussian]


def inputs() -> tuple[Tensor, Tensor]:
    torch.manual_seed(6)
    draw = [torch.randn(1, c, HEIGHT, WIDTH, dtype=torch.float64) for c in (HYPER, GROUP)]
    return tuple(x.requires_grad_() for x in draw)


QUERIES = [(0, 1), (3, 4), (4, 5), (10, 7), (7, 0), (5, 8)]


@pytest.mark.parametrize("keys", ["anchors", "non-anchors"])
def test_a_non_anchor_sees_every_admissible_anchor_and_no_other(keys):
    group = context(keys)
    hyper, y = inputs()
    anchors = anchor_mask(HEIGHT, WIDTH)
    y_anchor = torch.where(anchors, y, 0)
    mu, log2_sigma = maps(group, group.known(hyper, y[:, :0]), y_anchor, anchors)
    for query in QUERIES:
        expected = anchors_seen(query, keys)
        assert influence(mu, y, query) == expected
        assert influence(log2_sigma, y, query) == expected
        beyond_convolution = {p for p in expected if math.dist(p, query) > 2 * math.sqrt(2)}
        assert beyond_convolution


@pytest.mark.parametrize(
    ("field", "value", "message"),
    [
        ("window", 1, "window is 1: it must be a whole number of at least 2"),
        ("window", 7.5, "window is 7.5: .*a whole number"),
        ("hyper", 0, "hyper is 0: it must be a whole number of at least 1"),
        ("channel", -1, "channel is -1: it must be a whole number of at least 0"),
        ("heads", 3, r"attention is 64: it must be 0 or a multiple of 3 \(heads\)"),
        ("keys", "all", "keys is 'all': it must be 'anchors' or 'non-anchors'"),
        (
            "position", "sine",
            "position is 'sine': it must be one of 'laplacian', 'none'",
        ),
    ],
)  # fmt: skip
def test_what_cannot_work_is_refused_by_field_and_allowed_values(field, value, message):
    with pytest.raises(ValueError, match=message):
        ContextConfig(**{field: value})


def test_combinations_that_cannot_work_are_refused():
    with pytest.raises(ValueError, match=r"keys is 'non-anchors' and local is 0: .* make keys"):
        ContextConfig(local=0, keys="non-anchors")
    # Without a transformer its fields do not matter.
    assert not ContextConfig(local=0, attention=0, heads=3, keys="non-anchors").checkerboard
