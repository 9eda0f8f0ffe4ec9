"""Photo to `.blur` and back."""

from blurlib.codec.model import BlurCodec, CodecConfig, CodecOutput

__all__ = ["BlurCodec", "CodecConfig", "CodecOutput"]
