"""When a decode is where: each pass, its networks, and the range coder."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import NamedTuple

from blurlib.codec import BlurCodec
from blurlib.codec.bitstream import BlurFile
from blurlib.codec.inspection import positions
from blurlib.entropy import PassCoder


class PassTime(NamedTuple):
    """One pass of a decode, in seconds: its networks until `ready`, its symbols until `end`."""

    name: str
    start: float
    ready: float
    end: float


def timeline(
    codec: BlurCodec, file: BlurFile, clock: Callable[[], float] = time.perf_counter
) -> list[PassTime]:
    """When each pass of a decode begins, knows its distributions, and has its symbols.

    The first is the hyper pass, which needs no network to know its distributions: they are tables.
    Its symbols and h_s count as one.
    """
    spans: list[PassTime] = []

    def watch(code: PassCoder) -> PassCoder:
        spans.append(PassTime("hyper", 0.0, 0.0, clock() - begin))

        def timed(here, gaussian):
            ready = clock() - begin
            decoded = code(here, gaussian)
            name = f"group {codec.entropy.channels.index(here.channels) + 1}"
            name += f", {positions(codec, len(spans) - 1)}"
            spans.append(PassTime(name, spans[-1].end, ready, clock() - begin))
            return decoded

        return timed

    begin = clock()
    codec.decode_streams(file, watch)
    return spans
