"""Channel groups of the latent: uneven as in the paper, or even for comparison."""

UNEVEN_HEAD = (16, 16, 32, 64)  # ELIC (He et al. 2022); the fifth group takes the other M - 128


def check_count(name: str, value: int, least: int) -> None:
    """ValueError unless `value` is a whole number of at least `least`; it names the field."""
    if not isinstance(value, int) or isinstance(value, bool) or value < least:
        raise ValueError(f"{name} is {value!r}: it must be a whole number of at least {least}")


def uneven_groups(M: int) -> tuple[int, ...]:
    """Groups (16, 16, 32, 64, M - 128): early ones carry most of the bits, so they are small, and
    what they decode helps all the rest. ValueError unless M is a whole number above 128."""
    if not isinstance(M, int) or M <= sum(UNEVEN_HEAD):
        raise ValueError(
            f"M is {M!r}: the uneven groups 16, 16, 32, 64, M-128 need M > {sum(UNEVEN_HEAD)}, a "
            "whole number"
        )
    return (*UNEVEN_HEAD, M - sum(UNEVEN_HEAD))


def even_groups(M: int, count: int) -> tuple[int, ...]:
    """`count` groups of M / count channels each; what is left over goes to the first, one each.
    ValueError unless count is from 1 to M."""
    if not isinstance(count, int) or not 1 <= count <= M:
        raise ValueError(f"count is {count!r}: there can be 1 to M = {M} even groups")
    size, larger = divmod(M, count)
    return (size + 1,) * larger + (size,) * (count - larger)


def check_groups(groups: tuple[int, ...], M: int) -> tuple[int, ...]:
    """`groups` as a tuple if they are positive whole numbers and sum to M, else ValueError."""
    whole = isinstance(groups, (tuple, list)) and all(type(n) is int and n > 0 for n in groups)
    if not whole or sum(groups) != M:
        raise ValueError(
            f"groups are {groups}: they must be positive whole numbers that sum to M = {M}"
        )
    return tuple(groups)
