"""Bytes that are nearly a file: random damage, and the checksums set right again."""

import contextlib
import json
import re
import struct
import zlib
from collections.abc import Sequence

from numpy.random import Generator

from blurlib.codec.bitstream import MAGIC

PNG = b"\x89PNG\r\n\x1a\n"
VALUE = re.compile(rb'-?\d+(\.\d+)?([eE][-+]?\d+)?|"[^"]*"|null|true|false')
ODD = [b"null", b"-1", b"0", b"1e999", b"NaN", b"1e308", b"9" * 40, b'""', b"[]", b"{}", b"true",
       b'"\\ud800"', b"-Infinity", b"2147483648", b"65536", b"[" * 3000]  # fmt: skip
EXTREMES = [0, 1, 2, 127, 128, 255, 256, 32767, 32768, 65535, 65536, 2**31 - 1, 2**31, 2**32 - 1]


def flip(data: bytearray, others: Sequence[bytes], rng: Generator) -> bytes:
    """Up to eight bits."""
    for at in rng.integers(len(data), size=rng.integers(1, 9)):
        data[at] ^= 1 << rng.integers(8)
    return data


def run(data: bytearray, others: Sequence[bytes], rng: Generator) -> bytes:
    """A run of bytes becomes 0, 255 or random."""
    at, n = rng.integers(len(data)), rng.integers(1, 65)
    new = [bytes(n), b"\xff" * n, rng.bytes(n)][rng.integers(3)]
    data[at : at + n] = new[: len(data) - at]
    return data


def cut(data: bytearray, others: Sequence[bytes], rng: Generator) -> bytes:
    """The end is missing, or a part of the middle, or a part is there twice."""
    a, b = sorted(rng.integers(len(data) + 1, size=2))
    return [data[:a], data[:a] + data[b:], data[:b] + data[a:]][rng.integers(3)]


def splice(data: bytearray, others: Sequence[bytes], rng: Generator) -> bytes:
    """The head of this file and the tail of another."""
    other = others[rng.integers(len(others))]
    return data[: rng.integers(len(data) + 1)] + other[rng.integers(len(other) + 1) :]


def field(data: bytearray, others: Sequence[bytes], rng: Generator) -> bytes:
    """A number of 1, 2 or 4 bytes becomes an extreme one, mostly near the start: sizes, lengths."""
    size = (1, 2, 4)[rng.integers(3)]
    at = rng.integers(min(len(data), 64 if rng.random() < 0.7 else len(data)))
    value = EXTREMES[rng.integers(len(EXTREMES))] % 2 ** (8 * size)
    data[at : at + size] = value.to_bytes(size, ("little", "big")[rng.integers(2)])
    return data


def token(data: bytearray, others: Sequence[bytes], rng: Generator) -> bytes:
    """A value of a JSON text becomes another. Not JSON: as `flip`."""
    places = list(VALUE.finditer(data[:65536])) if _has_json(data) else []
    if not places:
        return flip(data, others, rng)
    data[slice(*places[rng.integers(len(places))].span())] = ODD[rng.integers(len(ODD))]
    return data


MUTATIONS = [flip, run, cut, splice, field, token]


def mutated(data: bytes, others: Sequence[bytes], rng: Generator) -> tuple[bytes, str]:
    """One to three mutations in turn, the checksums set right in half of the cases; and what was
    done, in words."""
    # Nearly all else that is done to a JSON text makes it no JSON.
    kinds = [token] if _has_json(data) and rng.random() < 0.5 else MUTATIONS
    done = []
    for which in rng.integers(len(kinds), size=rng.integers(1, 4)):
        if data:
            data = bytes(kinds[which](bytearray(data), others, rng))
            done.append(kinds[which].__name__)
    if rng.random() < 0.5 and (right := repaired(data)) != data:
        return right, " ".join([*done, "repaired"])
    return data, " ".join(done)


def _has_json(data: bytes) -> bool:
    """At the start, as results have it, or after a length of eight bytes, as weights do."""
    return b"{" in (data[:1], data[8:9])


def repaired(data: bytes) -> bytes:
    """With the checksums, or the length of the header, that make the file look intact."""
    if data.startswith(MAGIC) and len(data) >= 28:
        blank = data[:24] + bytes(4) + data[28:]
        return blank[:24] + struct.pack("<I", zlib.crc32(blank)) + blank[28:]
    if data.startswith(PNG):
        out, at = bytearray(data), len(PNG)
        while (end := at + 8 + int.from_bytes(out[at : at + 4], "big")) + 4 <= len(out):
            out[end : end + 4] = struct.pack(">I", zlib.crc32(out[at + 4 : end]))
            at = end + 4
        return bytes(out)
    if data[8:9] == b"{":  # weights: the length of a JSON text and of the spaces behind it
        text = data[8:65536].decode("latin-1")
        with contextlib.suppress(ValueError, RecursionError):
            end = json.JSONDecoder().raw_decode(text)[1]
            return struct.pack("<Q", len(text) - len(text[end:].lstrip(" "))) + data[8:]
    return data
