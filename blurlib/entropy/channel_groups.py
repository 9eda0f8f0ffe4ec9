"""Channel groups of the latent: uneven as in the paper, or even for comparison."""

from __future__ import annotations

UNEVEN_HEAD = (16, 16, 32, 64)  # ELIC (He et al. 2022); the fifth group takes the other M - 128


def uneven_groups(M: int) -> tuple[int, ...]:
    """Groups (16, 16, 32, 64, M - 128).

    Early groups carry most of the bits, so they are small: what they decode helps all the rest.

    Raises:
        ValueError: M <= 128 leaves nothing for the fifth group.
    """
    if M <= sum(UNEVEN_HEAD):
        raise ValueError(
            f"M is {M}: the uneven groups 16, 16, 32, 64, M-128 need M > {sum(UNEVEN_HEAD)}"
        )
    return (*UNEVEN_HEAD, M - sum(UNEVEN_HEAD))


def even_groups(M: int, count: int) -> tuple[int, ...]:
    """`count` groups of M / count channels each; what is left over goes to the first, one each.

    Raises:
        ValueError: count is not from 1 to M.
    """
    if not 1 <= count <= M:
        raise ValueError(f"M is {M}: it cannot be cut into {count} even groups")
    size, larger = divmod(M, count)
    return (size + 1,) * larger + (size,) * (count - larger)


def check_groups(groups: tuple[int, ...], M: int) -> tuple[int, ...]:
    """Return `groups` unchanged if they are positive and sum to M, else raise ValueError."""
    if not groups or min(groups) < 1 or sum(groups) != M:
        raise ValueError(f"groups are {groups}: they must be positive and sum to M = {M}")
    return groups
