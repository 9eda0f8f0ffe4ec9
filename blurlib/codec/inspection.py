"""What a `.blur` file is made of: every byte, and the bits of each pass."""

from blurlib.codec import zoo
from blurlib.codec.bitstream import BlurFile
from blurlib.codec.model import BlurCodec


def describe(file: BlurFile, codec: BlurCodec | None = None, passes: bool = True) -> dict:
    """A report of plain values, ready for JSON. Without a `codec` the shipped one with the file's
    id counts; if there is none, the report is of the container alone and `passes` is None. With
    `passes` False nothing is decoded, and it is None too."""
    if passes and codec is None and zoo.name_of(file.model_id):
        codec = zoo.load_by_id(file.model_id)
    total = len(file.to_bytes())
    return {
        "width": file.width,
        "height": file.height,
        "quality": file.quality,
        "seed": file.seed,
        "psnr": file.psnr,
        "model": zoo.name_of(file.model_id) or file.model_id.hex(),
        "bytes": total,
        "bpp": 8 * total / (file.width * file.height),
        "layout": _layout(file),
        "passes": _passes(file, codec) if passes and codec else None,
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
        channels = [coded.here.channels.start, coded.here.channels.stop - 1]
        row = {"pass": i + 1, "channels": channels, "positions": positions(codec, i)}
        bits = round(coded.bits.item(), 1)
        rows.append({**row, "symbols": coded.residual.numel(), "bits": bits})
    return rows


def positions(codec: BlurCodec, index: int) -> str:
    """What pass number `index` codes of its group: "anchors", "non-anchors" or "all"."""
    both = "anchors", "non-anchors"
    return both[index % 2] if codec.config.entropy.context.checkerboard else "all"
