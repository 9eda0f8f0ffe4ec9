"""Channel groups: the paper's sizes, and what is refused."""

import pytest

from blurlib.entropy import EntropyConfig, even_groups, uneven_groups


@pytest.mark.parametrize(
    ("M", "groups"),
    [(192, (16, 16, 32, 64, 64)), (256, (16, 16, 32, 64, 128)), (129, (16, 16, 32, 64, 1))],
)
def test_uneven_groups_are_the_papers(M, groups):
    assert uneven_groups(M) == groups
    assert sum(groups) == M


@pytest.mark.parametrize("M", [10, 192, 320])
def test_even_groups_cover_the_channels_and_differ_by_one_at_most(M):
    for count in range(1, 11):
        groups = even_groups(M, count)
        assert len(groups) == count
        assert sum(groups) == M
        assert max(groups) - min(groups) == (1 if M % count else 0)
        assert list(groups) == sorted(groups, reverse=True)


def test_groups_that_cannot_be_are_refused():
    for groups in (None, 0, [], (4, 5), (11,), (12, -2), (0, 10), (5.0, 5.0), 10, "55"):
        with pytest.raises(ValueError, match=r"groups are .* whole numbers that sum to M = 10"):
            EntropyConfig(M=10, groups=groups)
    for count in (11, 0, -1, 2.5):
        with pytest.raises(ValueError, match=f"count is {count}: there can be 1 to M = 10 "):
            even_groups(10, count)
    for M in (0, 128, 200.5):
        with pytest.raises(ValueError, match=f"M is {M}.*need M > 128"):
            uneven_groups(M)


def test_the_entropy_model_takes_any_groups_and_defaults_to_the_papers():
    assert EntropyConfig(M=192).groups == uneven_groups(192)
    assert EntropyConfig(M=20, groups=[5, 15]).groups == (5, 15)
    for context in (None, {"window": 0}):
        with pytest.raises(ValueError, match=r"context is .* must be a ContextConfig"):
            EntropyConfig(M=192, context=context)
    for field, value in (("N", 0), ("M", "192"), ("M", 192.0), ("N", True)):
        with pytest.raises(ValueError, match=f"{field} is {value!r}: .*a whole number"):
            EntropyConfig(**{field: value})
