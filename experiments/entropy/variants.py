"""The entropy models that are compared: configurations of the same parts, nothing else."""

from __future__ import annotations

from dataclasses import replace
from typing import NamedTuple

from blurlib.entropy import EntropyConfig, even_groups
from experiments.entropy.positional import ENCODINGS

HYPERPRIOR, LOCAL, FULL = "hyperprior", "uneven-local", "full"

_ENCODING_TITLES = {
    "none": "no encoding",
    "relative": "learned relative encoding (Swin)",
    "diamond": "diamond encoding (Entroformer)",
    "linear": "linear encoding (ALiBi)",
    "rotary": "rotary encoding (RoPE)",
}


class Variant(NamedTuple):
    """An entropy model with a name and a title for tables."""

    name: str
    title: str
    config: EntropyConfig


def variants(default: EntropyConfig) -> dict[str, Variant]:
    """Every variant by name, from the fewest contexts to all of them.

    One even group is the hyperprior alone, so it is not there twice.

    Args:
        default: the sizes of all parts; which parts there are is decided here.
    """
    every = replace(default.context, position="laplacian", keys="anchors")
    local = replace(every, attention=0)
    channel = replace(local, local=0)

    def uneven(context) -> EntropyConfig:
        return replace(default, groups=(), context=context)

    def even(count: int, context) -> EntropyConfig:
        return replace(default, groups=even_groups(default.M, count), context=context)

    found = [
        Variant(HYPERPRIOR, "hyperprior only", even(1, replace(channel, channel=0))),
        *(
            Variant(f"even-{count}", f"{count} even channel groups", even(count, channel))
            for count in (2, 5, 10)
        ),
        Variant("uneven", "uneven channel groups", uneven(channel)),
        Variant(LOCAL, "uneven groups, local context", uneven(local)),
        *(
            Variant(
                f"{FULL}-{position}",
                f"all contexts, {_ENCODING_TITLES[position]}",
                uneven(replace(every, position=position)),
            )
            for position in ENCODINGS
            if position != "laplacian"
        ),
        Variant(
            f"{FULL}-non-anchors",
            "all contexts, Laplacian, keys at non-anchors",
            uneven(replace(every, keys="non-anchors")),
        ),
        Variant(FULL, "all contexts, Laplacian encoding (what ships)", uneven(every)),
    ]
    return {variant.name: variant for variant in found}
