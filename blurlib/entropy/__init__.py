"""The Laplacian-guided entropy model and its range coding."""

from blurlib.entropy.channel_groups import even_groups, uneven_groups
from blurlib.entropy.coder import DecodingError, SymbolDecoder, SymbolEncoder
from blurlib.entropy.context import ContextConfig
from blurlib.entropy.model import (
    EntropyConfig,
    Hyperprior,
    LaplacianEntropyModel,
    Latent,
    Noise,
    PassCoder,
    Watch,
    uniform_noise,
)

__all__ = [
    "ContextConfig", "DecodingError", "EntropyConfig", "Hyperprior", "LaplacianEntropyModel",
    "Latent", "Noise", "PassCoder", "SymbolDecoder", "SymbolEncoder", "Watch", "even_groups",
    "uneven_groups", "uniform_noise",
]  # fmt: skip
