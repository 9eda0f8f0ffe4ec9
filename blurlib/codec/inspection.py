"""What a `.blur` file is made of: every byte, the bits of each pass, and the time it takes."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import NamedTuple

from blurlib.codec import zoo
from blurlib.codec.bitstream import BlurFile
from blurlib.codec.model import BlurCodec
from blurlib.entropy import CodePass


def describe(file: BlurFile, codec: BlurCodec | None = None) -> dict:
    """A report of plain values, ready for JSON.

    Args:
        codec: the model that made the file; by default the shipped one with its id. If there is
            none, the report is of the container alone and `passes` is None.
    """
    if codec is None and zoo.name_of(file.model_id):
        codec = zoo.load_by_id(file.model_id)
    total = len(file.to_bytes())
    return {
        "width": file.width,
        "height": file.height,
        "quality": file.quality,
        "seed": file.seed,
        "model": zoo.name_of(file.model_id) or file.model_id.hex(),
        "bytes": total,
        "bpp": 8 * total / (file.width * file.height),
        "layout": _layout(file),
        "passes": None if codec is None else _passes(file, codec),
    }


def _layout(file: BlurFile) -> list[dict]:
    """Offset and size of every field, in order, without gaps."""
    parts = [*file.header_fields(), ("hyper-latent stream", len(file.z_stream))]
    parts.append(("latent stream", len(file.y_stream)))
    rows, offset = [], 0
    for name, size in parts:
        rows.append({"field": name, "offset": offset, "bytes": size})
        offset += size
    return rows


def _passes(file: BlurFile, codec: BlurCodec) -> list[dict]:
    """Symbols and bits of every pass, by what the range coder was told of each symbol."""
    latent = codec.decode_latent(file)
    rows = []
    for i, coded in enumerate(latent.passes):
        channels = coded.here.channels
        rows.append(
            {
                "pass": i + 1,
                "channels": [channels.start, channels.stop - 1],
                "positions": _positions(codec, i),
                "symbols": coded.residual.numel(),
                "bits": round(coded.bits.item(), 1),
            }
        )
    return rows


def _positions(codec: BlurCodec, index: int) -> str:
    """What a pass codes of its group."""
    checkerboard = codec.config.entropy.context.checkerboard
    names = ("anchors", "non-anchors") if checkerboard else ("all",)
    return names[index % len(names)]


@contextmanager
def watched(codec: BlurCodec, watch: Callable[[CodePass], CodePass]) -> Iterator[None]:
    """Inside, every walk over the passes runs `watch(code)` in place of its `code`."""
    walk = codec.entropy.walk
    codec.entropy.walk = lambda prior, code: walk(prior, watch(code))
    try:
        yield
    finally:
        del codec.entropy.walk


class Span(NamedTuple):
    """One pass on the clock, in seconds: its networks until `ready`, its symbols until `end`."""

    name: str
    start: float
    ready: float
    end: float


def timeline(
    codec: BlurCodec, file: BlurFile, clock: Callable[[], float] = time.perf_counter
) -> list[Span]:
    """When each pass of a decode begins, knows its distributions, and has its symbols.

    The first is the hyper pass, which needs no network to know its distributions: they are tables.
    Its symbols and h_s count as one.
    """
    spans: list[Span] = []

    def watch(code: CodePass) -> CodePass:
        spans.append(Span("hyper", 0.0, 0.0, clock() - begin))

        def timed(here, gaussian):
            ready = clock() - begin
            decoded = code(here, gaussian)
            name = f"group {codec.entropy.channels.index(here.channels) + 1}"
            name += f", {_positions(codec, len(spans) - 1)}"
            spans.append(Span(name, spans[-1].end, ready, clock() - begin))
            return decoded

        return timed

    begin = clock()
    with watched(codec, watch):
        codec.decode_latent(file)
    return spans
