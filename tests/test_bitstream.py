"""The `.blur` container: layout, and everything that is not one."""

import dataclasses
import random
import struct
import zlib

import pytest

from blurlib.codec.bitstream import BitstreamError, BlurFile, check_size

FILE = BlurFile(
    model_id=b"\x01\x02\x03\x04", width=640, height=333, quality=2.75, symbols_crc=0xDEADBEEF,
    z_stream=b"hyper-latent", y_stream=bytes(range(200)),
)  # fmt: skip
SEEDED = dataclasses.replace(FILE, seed=123_456_789)
MEASURED = dataclasses.replace(SEEDED, psnr=31.75)


def with_crc(data: bytes) -> bytes:
    """The same file with the CRC-32 that makes it look intact, computed from the documentation."""
    blank = data[:24] + bytes(4) + data[28:]
    return blank[:24] + struct.pack("<I", zlib.crc32(blank)) + blank[28:]


def test_the_layout_is_the_documented_one():
    data = SEEDED.to_bytes()
    assert data[:6] == b"BLUR\x01\x01"
    assert data[6:10] == SEEDED.model_id
    assert struct.unpack("<HHH", data[10:16]) == (640, 333, 704)
    assert struct.unpack("<III", data[16:28]) == (0xDEADBEEF, 12, zlib.crc32(
        data[:24] + bytes(4) + data[28:]))  # fmt: skip
    assert struct.unpack("<I", data[28:32]) == (123_456_789,)
    assert data[32:] == SEEDED.z_stream + SEEDED.y_stream
    assert FILE.to_bytes()[5] == 0
    measured = MEASURED.to_bytes()
    assert measured[5] == 3
    assert measured[28:33] == data[28:32] + bytes([127])
    for file, size in ((FILE, 28), (SEEDED, 32), (MEASURED, 33)):
        assert sum(n for _, n in file.header_fields()) == size
        assert len(file.to_bytes()) == size + len(file.z_stream) + len(file.y_stream)
    assert with_crc(data) == data


def test_empty_streams_and_extreme_fields_come_back():
    file = BlurFile(bytes(4), 1, 65535, 255.99609375, 0, b"", b"", seed=2**32 - 1)
    assert BlurFile.from_bytes(file.to_bytes()) == file
    file = dataclasses.replace(file, width=65535, height=1, quality=0.0, seed=0)
    assert BlurFile.from_bytes(file.to_bytes()) == file
    assert BlurFile.from_bytes(FILE.to_bytes()) == FILE
    for seed in (-1, 2**32):
        with pytest.raises(BitstreamError, match=f"seed is {seed}"):
            dataclasses.replace(FILE, seed=seed).to_bytes()
    for psnr in (0.25, 63.75):
        file = dataclasses.replace(FILE, psnr=psnr)
        assert BlurFile.from_bytes(file.to_bytes()) == file
    for psnr in (0.0, 64.0, 30.1, float("nan")):
        with pytest.raises(BitstreamError, match=f"psnr is {psnr}: .* from 0.25 to 63.75"):
            dataclasses.replace(FILE, psnr=psnr).to_bytes()


@pytest.mark.parametrize("file", [FILE, SEEDED, MEASURED])
def test_every_truncation_is_refused(file):
    data = file.to_bytes()
    for n in range(len(data)):
        expected = "not a .blur file" if n < 4 else "is cut"
        with pytest.raises(BitstreamError, match=expected):
            BlurFile.from_bytes(data[:n])
    for more in (b"\0", b"\xff", b"more"):
        with pytest.raises(BitstreamError, match="damaged"):
            BlurFile.from_bytes(data + more)


@pytest.mark.parametrize("file", [FILE, SEEDED, MEASURED])
def test_every_changed_byte_is_refused(file):
    data = file.to_bytes()
    rng = random.Random(0)
    for position in range(len(data)):
        for flip in rng.sample(range(1, 256), 3):
            damaged = bytearray(data)
            damaged[position] ^= flip
            expected = {4: "format version"}.get(position, "damaged")
            expected = "not a .blur file" if position < 4 else expected
            with pytest.raises(BitstreamError, match=expected):
                BlurFile.from_bytes(bytes(damaged))


def test_a_newer_version_asks_for_an_update_even_if_its_header_is_another():
    with pytest.raises(BitstreamError, match=r"format version 2.*update"):
        BlurFile.from_bytes(b"BLUR\x02whatever")
    for data in (b"", b"BLU", b"\x89PNG\r\n\x1a\n" + bytes(50), b"blur" * 20):
        with pytest.raises(BitstreamError, match=r"not a \.blur file"):
            BlurFile.from_bytes(data)


# Forged: contradictions under a CRC that is right


def forged(offset: int, field: str, value: int) -> bytes:
    data = bytearray(FILE.to_bytes())
    struct.pack_into(field, data, offset, value)
    return with_crc(bytes(data))


@pytest.mark.parametrize(
    ("offset", "field", "value"),
    [
        *((5, "<B", flags) for flags in (4, 128, 255)),
        *((20, "<I", n) for n in (213, 2**31, -1 % 2**32)),
    ],
)
def test_unknown_flags_and_streams_longer_than_the_file_are_refused(offset, field, value):
    with pytest.raises(BitstreamError, match="contradicts itself"):
        BlurFile.from_bytes(forged(offset, field, value))
    header = bytearray(FILE.to_bytes()[:28])
    for flags, rest in ((1, b""), (2, b""), (3, bytes(4)), (2, b"\0")):
        header[5], header[20:24] = flags, bytes(4)  # neither seed nor PSNR there, a PSNR of 0
        with pytest.raises(BitstreamError, match="contradicts itself"):
            BlurFile.from_bytes(with_crc(bytes(header) + rest))


@pytest.mark.parametrize("size", [(0, 333), (640, 0), (65535, 65535)])
def test_a_header_of_another_size_than_a_photo_can_have_is_refused(size):
    data = bytearray(FILE.to_bytes())
    struct.pack_into("<HH", data, 10, *size)
    with pytest.raises(BitstreamError, match=r"sides from 1 to 65535 .* at most 67 megapixels"):
        BlurFile.from_bytes(with_crc(bytes(data)))


def test_sizes_out_of_bounds_are_refused():
    for size in ((0, 1), (1, 0), (65536, 1), (1, 65536), (8192, 8193), (-1, -1)):
        with pytest.raises(BitstreamError, match="sides from 1 to 65535"):
            check_size(*size)
    for size in ((1, 1), (65535, 1), (8192, 8192), (1, 65535)):
        check_size(*size)
