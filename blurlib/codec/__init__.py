"""Photo to `.blur` and back."""

from blurlib.codec.model import BlurCodec, CodecConfig, CodecOutput
from blurlib.codec.objective import Objective

__all__ = ["BlurCodec", "CodecConfig", "CodecOutput", "Objective"]
