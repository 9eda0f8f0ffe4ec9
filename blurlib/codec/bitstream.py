"""The `.blur` container: a fixed header, the hyper-latent's stream, the latent's stream.

All numbers are little-endian.

    offset  size  field
    0       4     magic "BLUR"
    4       1     format version
    5       1     flags: bit 0 set where a seed follows the header, bit 1 where a PSNR does
    6       4     model id: first 4 bytes of the SHA-256 of the codec's weights
    10      2     width in pixels, 1 … 65535
    12      2     height in pixels, 1 … 65535
    14      2     quality in steps of 1/256
    16      4     CRC-32 of width, height, quality and the decoded symbols
    20      4     length of the hyper-latent's stream in bytes
    24      4     CRC-32 of the whole file without this field
    28      4     seed of the diffusion decoder, only with flag bit 0
    …       1     PSNR of the direct reconstruction in ¼ dB, 1 … 255, only with bit 1
    …             hyper-latent's stream, then the latent's stream up to the end
"""

import struct
import zlib
from dataclasses import dataclass
from numbers import Integral

MAGIC = b"BLUR"
VERSION = 1
MAX_PIXELS = 2**26  # 8192 × 8192: bounds the memory that a hostile header can ask for
_HEADER = struct.Struct("<4sBB4sHHHIII")
_FIELDS = [
    ("magic", 4), ("format version", 1), ("flags", 1), ("model id", 4), ("width", 2), ("height", 2),
    ("quality", 2), ("CRC-32 of the symbols", 4), ("length of the hyper-latent stream", 4),
    ("CRC-32 of the file", 4),
]  # fmt: skip
_SEED = struct.Struct("<I")
_CRC_AT = 24
_HAS_SEED, _HAS_PSNR = 1, 2


class BitstreamError(ValueError):
    """The bytes are not a `.blur` file that this version can decode; the message says why."""


def check_seed(seed: int | None) -> None:
    """BitstreamError unless it fits into a file."""
    if not (seed is None or (isinstance(seed, Integral) and 0 <= seed < 2**32)):
        raise BitstreamError(f"seed is {seed}: it must be a whole number from 0 to {2**32 - 1}")


@dataclass(frozen=True)
class BlurFile:
    """A parsed `.blur` file: the fields of its header, with quality as a multiple of 1/256, and the
    range-coded streams of the hyper-latent z and the latent y.

    psnr: of the direct reconstruction, in dB, a multiple of ¼ from 0.25 to 63.75.
    """

    model_id: bytes
    width: int
    height: int
    quality: float
    symbols_crc: int
    z_stream: bytes
    y_stream: bytes
    seed: int | None = None
    psnr: float | None = None

    def header_fields(self) -> list[tuple[str, int]]:
        """(name, size in bytes) of everything that is not a stream, in order."""
        seed = [] if self.seed is None else [("seed", _SEED.size)]
        return _FIELDS + seed + ([] if self.psnr is None else [("PSNR", 1)])

    def to_bytes(self) -> bytes:
        """The file; BitstreamError where the photo is too large for it, the seed not 32 bits, or
        the PSNR not on its grid."""
        check_size(self.width, self.height)
        check_seed(self.seed)
        if self.psnr is not None and 4 * self.psnr not in range(1, 256):
            raise BitstreamError(
                f"psnr is {self.psnr}: it must be a multiple of 0.25 from 0.25 to 63.75"
            )
        seed = b"" if self.seed is None else _SEED.pack(self.seed)
        psnr = b"" if self.psnr is None else bytes([int(4 * self.psnr)])
        flags = (_HAS_SEED if seed else 0) | (_HAS_PSNR if psnr else 0)

        def header(crc: int) -> bytes:
            return _HEADER.pack(
                MAGIC, VERSION, flags, self.model_id, self.width, self.height,
                round(self.quality * 256), self.symbols_crc, len(self.z_stream), crc,
            )  # fmt: skip

        payload = seed + psnr + self.z_stream + self.y_stream
        return header(_crc(header(0) + payload)) + payload

    @classmethod
    def from_bytes(cls, data: bytes) -> "BlurFile":
        """Parse untrusted bytes; every length is checked before it is used. BitstreamError: not a
        .blur file, of a newer version, cut or damaged."""
        if not isinstance(data, (bytes, bytearray, memoryview)):
            wanted = "the bytes of a .blur file, as from Path.read_bytes"
            raise BitstreamError(f"data is a {type(data).__name__}: it must be {wanted}")
        if (data := bytes(data))[: len(MAGIC)] != MAGIC:
            raise BitstreamError("not a .blur file: it does not start with BLUR")
        if len(data) > 4 and data[4] != VERSION:
            raise BitstreamError(
                f"format version {data[4]}: this blurlib reads version {VERSION}; update blurlib"
            )
        if len(data) < _HEADER.size:
            raise BitstreamError(f"the file is cut: {len(data)} bytes, a header is {_HEADER.size}")
        fields = _HEADER.unpack_from(data)
        _, _, flags, model_id, width, height, quality, symbols_crc, z_length, crc = fields
        if _crc(data) != crc:
            raise BitstreamError("the file is cut or damaged: its CRC-32 does not match")
        psnr_at = _HEADER.size + (_SEED.size if flags & _HAS_SEED else 0)
        start = psnr_at + (1 if flags & _HAS_PSNR else 0)
        if flags & ~(_HAS_SEED | _HAS_PSNR) or start + z_length > len(data):
            raise BitstreamError("the header contradicts itself: unknown flags or lengths")
        if flags & _HAS_PSNR and not data[psnr_at]:
            raise BitstreamError("the header contradicts itself: a PSNR of 0, which is none")
        check_size(width, height)
        return cls(
            model_id, width, height, quality / 256, symbols_crc,
            z_stream=data[start : start + z_length],
            y_stream=data[start + z_length :],
            seed=_SEED.unpack_from(data, _HEADER.size)[0] if flags & _HAS_SEED else None,
            psnr=data[psnr_at] / 4 if flags & _HAS_PSNR else None,
        )  # fmt: skip


def check_size(width: int, height: int) -> None:
    """Raise BitstreamError for a photo that the format does not hold."""
    if not (1 <= width <= 65535 and 1 <= height <= 65535 and width * height <= MAX_PIXELS):
        raise BitstreamError(
            f"the photo is {width}×{height}: a .blur file holds sides from 1 to 65535 px and at "
            f"most {MAX_PIXELS / 1e6:.0f} megapixels"
        )


def _crc(data: bytes) -> int:
    """CRC-32 of a file with its CRC field read as zero."""
    return zlib.crc32(data[_CRC_AT + 4 :], zlib.crc32(b"\0\0\0\0", zlib.crc32(data[:_CRC_AT])))
